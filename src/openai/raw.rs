//! A JSON object whose members are kept as the text they came as.
//!
//! What the router acts on is read member by member, each with an error that names it; what it only passes on keeps
//! its exact form (big integers, number spelling, key order) and is never parsed twice.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::raw_walk;
use crate::json;

/// An ordered JSON object with unparsed members, which may lie in the text that it was read from. Of a repeated key the
/// last value counts, as in JavaScript.
#[derive(Debug, Clone, Default)]
pub struct Members<'a> {
    members: Vec<(Cow<'a, str>, Cow<'a, RawValue>)>,
}

/// An object that has its members to itself.
pub type RawObject = Members<'static>;

/// A member whose value has another type than its reader wants.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{param}: {reason}")]
pub struct InvalidMember {
    /// The member's name.
    pub param: String,
    /// What was wrong, without the value itself.
    pub reason: String,
}

impl<'a> Members<'a> {
    /// An object that was checked before; `None` when it is none, or when a name in it is no text.
    #[must_use]
    pub fn of_raw(raw: &'a RawValue) -> Option<Self> {
        let members = raw_walk::members(raw)?;
        let members = members.into_iter().map(|(name, value)| (name, Cow::Borrowed(value))).collect();
        let mut object = Self { members };
        object.keep_last_of_repeated();
        Some(object)
    }

    /// A list of objects that was checked before; `None` when it is none, see [`Self::of_raw`].
    #[must_use]
    pub fn list_of_raw(raw: &'a RawValue) -> Option<Vec<Self>> {
        raw_walk::items(raw)?.into_iter().map(Self::of_raw).collect()
    }

    /// Reads the object that a JSON text is.
    ///
    /// # Errors
    /// Those of `serde_json`.
    pub fn parse(text: &'a [u8]) -> Result<Self, serde_json::Error> {
        struct Borrowed<'a>(Members<'a>);

        impl<'de> Deserialize<'de> for Borrowed<'de> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct InText;

                impl<'de> Visitor<'de> for InText {
                    type Value = Members<'de>;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                        #[derive(Deserialize)]
                        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

                        let mut members = Vec::with_capacity(16);
                        while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                            members.push((name, Cow::Borrowed(value)));
                        }
                        let mut object = Members { members };
                        object.keep_last_of_repeated();
                        Ok(object)
                    }
                }

                deserializer.deserialize_map(InText).map(Self)
            }
        }

        json::from_slice::<Borrowed<'a>>(text).map(|Borrowed(object)| object)
    }

    /// The same with its members to itself.
    #[must_use]
    pub fn into_owned(self) -> RawObject {
        let own = |(name, value): (Cow<'a, str>, Cow<'a, RawValue>)| {
            (Cow::Owned(name.into_owned()), Cow::Owned(value.into_owned()))
        };
        Members { members: self.members.into_iter().map(own).collect() }
    }

    /// The member's raw value; `None` when it is absent or null (CONTRACT §4: explicit nulls mean absent).
    #[must_use]
    pub fn raw(&self, key: &str) -> Option<&RawValue> {
        let value = self.members.iter().find(|(name, _)| name == key).map(|(_, value)| &**value)?;
        (value.get() != "null").then_some(value)
    }

    /// Whether the member is there at all, null included.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        self.members.iter().any(|(name, _)| name == key)
    }

    /// Reads a member as `T`; absent and null are `None`.
    ///
    /// # Errors
    /// [`InvalidMember`] naming the member when its value does not fit `T`.
    pub fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, InvalidMember> {
        self.raw(key).map(|value| read_raw(key, value)).transpose()
    }

    /// The member as text; `None` when it is absent or not a string.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<String> {
        self.raw(key).and_then(|value| serde_json::from_str(value.get()).ok())
    }

    /// Puts a member first if it is new, or replaces it where it stands.
    pub fn set_first(&mut self, key: impl Into<Cow<'a, str>>, value: Box<RawValue>) {
        self.put(key.into(), value, |members, member| members.insert(0, member));
    }

    /// Appends a member whose key is known to be new; unlike [`Members::set`], at a cost that does not grow.
    pub fn push(&mut self, key: impl Into<Cow<'a, str>>, value: Box<RawValue>) {
        self.members.push((key.into(), Cow::Owned(value)));
    }

    /// Appends a member, or replaces it where it stands.
    pub fn set(&mut self, key: impl Into<Cow<'a, str>>, value: Box<RawValue>) {
        self.put(key.into(), value, Vec::push);
    }

    fn put(
        &mut self,
        key: Cow<'a, str>,
        value: Box<RawValue>,
        add: impl FnOnce(&mut Vec<(Cow<'a, str>, Cow<'a, RawValue>)>, (Cow<'a, str>, Cow<'a, RawValue>)),
    ) {
        match self.members.iter_mut().find(|(name, _)| *name == key) {
            Some((_, old)) => *old = Cow::Owned(value),
            None => add(&mut self.members, (key, Cow::Owned(value))),
        }
    }

    /// How many bytes it is as JSON, if no name of a member needs an escape.
    #[must_use]
    pub fn json_bytes(&self) -> usize {
        // Quotes, a colon and a comma with each member, and two braces.
        self.iter().map(|(key, value)| key.len() + value.get().len() + 4).sum::<usize>() + 2
    }

    /// The members in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.members.iter().map(|(key, value)| (&**key, &**value))
    }
}

/// Reads one raw value, naming `param` when it does not fit.
///
/// # Errors
/// [`InvalidMember`] with what was expected; the value itself is never quoted.
pub fn read_raw<T: DeserializeOwned>(param: impl fmt::Display, value: &RawValue) -> Result<T, InvalidMember> {
    serde_json::from_str(value.get()).map_err(|error| {
        let reason = error.to_string();
        // serde_json quotes the value before "expected", and appends the position inside the member; the first may be
        // the client's secret, the second tells it nothing.
        let reason = reason.rsplit_once(" at line ").map_or(reason.as_str(), |(reason, _)| reason);
        let reason = match (reason.rsplit_once("expected "), error.classify()) {
            (Some((_, expected)), _) => format!("expected {expected}"),
            // Such a reason is about characters, and quotes none.
            (None, Category::Syntax) => reason.to_owned(),
            (None, _) => "invalid value".to_owned(),
        };
        InvalidMember { param: param.to_string(), reason }
    })
}

impl<'de> Deserialize<'de> for Members<'static> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Own;

        impl<'de> Visitor<'de> for Own {
            type Value = RawObject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawObject, A::Error> {
                let mut object = RawObject::default();
                while let Some((key, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    object.push(key, value);
                }
                object.keep_last_of_repeated();
                Ok(object)
            }
        }

        deserializer.deserialize_map(Own)
    }
}

impl Members<'_> {
    fn keep_last_of_repeated(&mut self) {
        // Most objects are small, and hashing costs more than looking then.
        let is_repeated = |(index, (key, _)): (usize, &(Cow<'_, str>, _))| {
            self.members.iter().take(index).any(|(earlier, _)| earlier == key)
        };
        if self.members.len() <= 32 && !self.members.iter().enumerate().any(is_repeated) {
            return;
        }
        let mut seen = std::collections::HashSet::new();
        // Linear in the number of members: an object with a million keys must not cost a million squared.
        let keep: Vec<bool> = self.members.iter().rev().map(|(key, _)| seen.insert(&**key)).collect();
        if keep.iter().all(|keep| *keep) {
            return;
        }
        let mut keep = keep.into_iter().rev();
        self.members.retain(|_| keep.next().unwrap_or(true));
    }
}

impl Serialize for Members<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.members.len()))?;
        for (key, value) in &self.members {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> RawObject {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn members_keep_their_exact_form_and_order() {
        let text = r#"{"b":1.50,"a":123456789012345678901234567890,"c":{"z":null,"y":[1, 2]}}"#;
        assert_eq!(serde_json::to_string(&object(text)).unwrap(), text);
    }

    #[test]
    fn null_means_absent_and_the_last_of_a_repeated_key_counts() {
        let object = object(r#"{"a":1,"b":null,"a":2}"#);
        assert_eq!(object.read::<u8>("a").unwrap(), Some(2));
        assert_eq!(object.read::<u8>("b").unwrap(), None);
        assert!(object.contains("b"));
        assert_eq!(object.iter().count(), 2);
    }

    #[test]
    fn a_wrong_value_is_never_quoted() {
        for text in [r#"{"a":"sk-123 at line 1"}"#, r#"{"a":"sk-123 expected sk-123"}"#, r#"{"a":"sk-123"}"#] {
            let error = object(text).read::<u8>("a").unwrap_err();
            assert_eq!(error.reason, "expected u8", "{text}");
        }
    }

    #[test]
    fn wrong_type_names_the_member() {
        let error = object(r#"{"a":"x"}"#).read::<u8>("a").unwrap_err();
        assert_eq!(error.param, "a");
        assert_eq!(error.reason, "expected u8");
    }
}
