//! A document as a tree, and places in it.
//!
//! Protobuf's JSON form may write a field in `snake_case` or `camelCase` and an enum by name or number; what reads a field
//! here takes either.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// The most values of a document, after its aliases are resolved: far more than any config dump has, and what a document
/// that multiplies itself by aliases ends at.
const MAX_VALUES: usize = 1_000_000;

/// A value of a document.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// Reads a [`Node`] within a budget of values that documents share.
pub(super) struct Reading<'a>(&'a Cell<usize>);

impl Reading<'_> {
    /// A budget for one file.
    pub(super) fn budget() -> Cell<usize> {
        Cell::new(MAX_VALUES)
    }

    pub(super) fn within(budget: &Cell<usize>) -> Reading<'_> {
        Reading(budget)
    }
}

impl<'de> DeserializeSeed<'de> for Reading<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        let left = self.0.get().checked_sub(1);
        self.0.set(left.ok_or_else(|| D::Error::custom(format_args!("more than {MAX_VALUES} values")))?);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reading<'_> {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value as f64))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value as f64))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Number(value))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Reading(self.0))? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = members.next_key_seed(Reading(self.0))? {
            let key = match key {
                Node::Text(key) => key,
                Node::Number(key) => key.to_string(),
                Node::Bool(key) => key.to_string(),
                Node::Null => "null".to_owned(),
                Node::List(_) | Node::Map(_) => return Err(A::Error::custom("a key that is no text")),
            };
            map.push((key, members.next_value_seed(Reading(self.0))?));
        }
        Ok(Node::Map(map))
    }

    // A YAML tag, `!name value`: Envoy has none.
    fn visit_enum<A: serde::de::EnumAccess<'de>>(self, _: A) -> Result<Node, A::Error> {
        Err(A::Error::custom("YAML tags are not understood"))
    }
}

impl Node {
    /// Whether a text, as a key or a value, holds these words.
    pub(super) fn mentions(&self, words: &str) -> bool {
        self.any_text(&|text| text.contains(words))
    }

    /// Whether a text, as a key or a value, holds the name of a header, which is in lower case here and in any case there.
    pub(super) fn mentions_header(&self, name: &str) -> bool {
        self.any_text(&|text| text.to_ascii_lowercase().contains(name))
    }

    fn any_text(&self, is: &impl Fn(&str) -> bool) -> bool {
        match self {
            Node::Text(text) => is(text),
            Node::List(items) => items.iter().any(|item| item.any_text(is)),
            Node::Map(members) => members.iter().any(|(key, value)| is(key) || value.any_text(is)),
            Node::Null | Node::Bool(_) | Node::Number(_) => false,
        }
    }
}

/// A value and where it stands: `static_resources.listeners[0].name`.
#[derive(Debug, Clone)]
pub(super) struct At<'a> {
    node: &'a Node,
    path: String,
}

impl<'a> At<'a> {
    pub(super) fn new(node: &'a Node, path: impl Into<String>) -> Self {
        Self { node, path: path.into() }
    }

    pub(super) fn node(&self) -> &'a Node {
        self.node
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Where a field stands, or would stand.
    pub(super) fn path_of(&self, field: &str) -> String {
        // The name of a document is no part of the path.
        let root = self.path.is_empty() || self.path.ends_with(' ');
        if root { format!("{}{field}", self.path) } else { format!("{}.{field}", self.path) }
    }

    fn child(&self, key: &str, node: &'a Node) -> At<'a> {
        // Keys of maps, such as the names of filters, hold dots.
        let path = if key.contains('.') { format!("{}[\"{key}\"]", self.path) } else { self.path_of(key) };
        At { node, path }
    }

    /// A field that is there and not null.
    pub(super) fn get(&self, field: &str) -> Option<At<'a>> {
        let Node::Map(members) = self.node else { return None };
        let (key, node) = members.iter().find(|(key, node)| is_field(key, field) && *node != Node::Null)?;
        Some(self.child(key, node))
    }

    /// A field of a field, and so on.
    pub(super) fn at(&self, fields: &[&str]) -> Option<At<'a>> {
        fields.iter().try_fold(self.clone(), |at, field| at.get(field))
    }

    /// The elements of a list; of anything else none.
    pub(super) fn items(&self) -> impl Iterator<Item = At<'a>> + use<'a> {
        let items: &[Node] = if let Node::List(items) = self.node { items } else { &[] };
        let path = self.path.clone();
        items.iter().enumerate().map(move |(index, node)| At { node, path: format!("{path}[{index}]") })
    }

    /// The elements of a list in a field.
    pub(super) fn list(&self, field: &str) -> Vec<At<'a>> {
        self.get(field).map(|list| list.items().collect()).unwrap_or_default()
    }

    /// The members of a map.
    pub(super) fn members(&self) -> impl Iterator<Item = (&'a str, At<'a>)> {
        let members: &[(String, Node)] = if let Node::Map(members) = self.node { members } else { &[] };
        members.iter().map(|(key, node)| (key.as_str(), self.child(key, node)))
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        if let Node::Text(text) = self.node { Some(text) } else { None }
    }

    /// The text of a field.
    pub(super) fn text_of(&self, field: &str) -> Option<&'a str> {
        self.get(field)?.text()
    }

    /// Whether Envoy reads a field as true.
    pub(super) fn is_true(&self, field: &str) -> bool {
        // Protobuf takes these as texts, in YAML and in JSON, with quotes and without. `on` is a boolean of Envoy's YAML alone
        // and without quotes alone: any other one, like every other word, Envoy refuses, and so needs no care here.
        const TRUE: [&str; 6] = ["true", "yes", "on", "t", "y", "1"];
        self.get(field).is_some_and(|value| match value.node {
            Node::Bool(value) => *value,
            Node::Text(text) => TRUE.iter().any(|word| text.eq_ignore_ascii_case(word)),
            _ => false,
        })
    }

    /// A number, which protobuf may write as a text.
    pub(super) fn number(&self) -> Option<f64> {
        match self.node {
            Node::Number(number) => Some(*number),
            Node::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// A duration in seconds: `0.5s`, or `{seconds: 1, nanos: 5}`.
    pub(super) fn seconds(&self) -> Option<f64> {
        match self.node {
            Node::Text(text) => text.trim().strip_suffix('s')?.parse().ok(),
            Node::Map(_) => {
                let part = |field| self.get(field).and_then(|part| part.number()).unwrap_or(0.0);
                Some(part("seconds") + part("nanos") / 1e9)
            }
            _ => None,
        }
    }

    /// An enum's value by its name: `names` are in the order of their numbers.
    pub(super) fn word(&self, names: &[&'static str]) -> Option<&'static str> {
        match self.node {
            Node::Text(text) => names.iter().find(|name| *name == text).copied(),
            Node::Number(number) if *number >= 0.0 => names.get(*number as usize).copied(),
            _ => None,
        }
    }

    /// The message's type, without the host before it: `envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor`.
    pub(super) fn kind(&self) -> Option<&'a str> {
        self.text_of("@type").map(|kind| kind.rsplit('/').next().unwrap_or(kind))
    }

    /// The message in a `typed_config` and its type. One without a schema (`TypedStruct`) names it inside.
    pub(super) fn typed(&self) -> Option<(&'a str, At<'a>)> {
        let kind = self.kind()?;
        if !kind.ends_with(".TypedStruct") {
            return Some((kind, self.clone()));
        }
        let inner = self.text_of("type_url")?;
        Some((inner.rsplit('/').next().unwrap_or(inner), self.get("value")?))
    }
}

/// Whether a key is this field, in either spelling.
fn is_field(key: &str, field: &str) -> bool {
    fn letters(text: &str) -> impl Iterator<Item = u8> {
        text.bytes().filter(|byte| *byte != b'_').map(|byte| byte.to_ascii_lowercase())
    }
    key == field || letters(key).eq(letters(field))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Node {
        let budget = Reading::budget();
        Reading::within(&budget).deserialize(&mut serde_json::Deserializer::from_str(json)).unwrap()
    }

    #[test]
    fn fields_are_found_in_either_spelling_and_have_a_path() {
        let node = read(r#"{"httpFilters": [{"name": "a.b"}], "typed_per_filter_config": {"x.y": {"@type": "t/k"}}}"#);
        let root = At::new(&node, "");
        assert_eq!(root.list("http_filters")[0].get("name").unwrap().path(), "httpFilters[0].name");
        let (key, value) = root.get("typedPerFilterConfig").unwrap().members().next().unwrap();
        assert_eq!((key, value.path(), value.kind()), ("x.y", "typed_per_filter_config[\"x.y\"]", Some("k")));
        assert!(root.get("http").is_none());
    }

    #[test]
    fn booleans_may_be_words() {
        let node = read(
            r#"{"a": [true, "yes", "On", "TRUE", "y", "1"], "b": [false, "no", "Off", "false", "n", "0", 1, "", null]}"#,
        );
        let is_true = |value: &Node| At::new(&Node::Map(vec![("c".to_owned(), value.clone())]), "").is_true("c");
        let read = |field| At::new(&node, "").list(field).iter().map(|at| is_true(at.node())).collect::<Vec<_>>();
        assert_eq!((read("a"), read("b")), (vec![true; 6], vec![false; 9]));
    }

    #[test]
    fn durations_and_enums_have_two_forms() {
        let node = read(r#"{"a": "1.5s", "b": {"seconds": "2"}, "c": 4, "d": "SKIP", "e": "x"}"#);
        let at = |field| At::new(&node, "").get(field).unwrap();
        assert_eq!((at("a").seconds(), at("b").seconds(), at("e").seconds()), (Some(1.5), Some(2.0), None));
        let names = ["DEFAULT", "SEND", "SKIP"];
        assert_eq!((at("c").word(&names), at("d").word(&names), at("e").word(&names)), (None, Some("SKIP"), None));
    }
}
