//! Input items as the store keeps them and `input_items` lists them.

use serde::ser::SerializeMap as _;
use serde_json::value::RawValue;

use super::item::{Item, Part, Role};
use super::json_text::JsonText;
use super::raw::RawObject;
use crate::json;

/// The object as it is stored and listed: with an id, its type spelt out, a status where the reference has one, and
/// message content as parts. Everything else stays as it came.
///
/// # Errors
/// Never in practice: what was parsed serialises again.
pub fn normalise(object: &RawObject, item: &Item, id: &str) -> Result<Box<RawValue>, serde_json::Error> {
    let (kind, has_status) = match item {
        Item::Message { .. } => (Some("message"), true),
        Item::Call(_) | Item::CallOutput { .. } => (None, true),
        Item::Reference { .. } => (Some("item_reference"), false),
        Item::Reasoning { .. } | Item::AdditionalTools | Item::AgentMessage { .. } | Item::Unknown { .. } => {
            (None, false)
        }
    };
    let content = match item {
        // Text that is no list of parts.
        Item::Message { role, content } if !object.raw("content").is_some_and(|raw| raw.get().starts_with('[')) => {
            match &**content {
                [Part::Text(text)] => Some([TextPart::of(*role, text)]),
                _ => None,
            }
        }
        _ => None,
    };
    // What is added is names, but for the text, which may not be in the object.
    let text = content.as_ref().map_or(0, |[part]| part.text().json_bytes());
    let capacity = object.json_bytes() + text + id.len() + 160;
    json::to_raw(&Normalised { object, id, kind, has_status, content }, capacity)
}

/// A text as a content part.
#[derive(serde::Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum TextPart<'a> {
    InputText { text: &'a JsonText },
    OutputText { annotations: [(); 0], logprobs: [(); 0], text: &'a JsonText },
}

impl<'a> TextPart<'a> {
    fn of(role: Role, text: &'a JsonText) -> Self {
        match role {
            Role::Assistant => Self::OutputText { annotations: [], logprobs: [], text },
            Role::User | Role::System | Role::Developer => Self::InputText { text },
        }
    }

    fn text(&self) -> &'a JsonText {
        match self {
            Self::InputText { text } | Self::OutputText { text, .. } => text,
        }
    }
}

/// An item's object with what a stored one has: in the place of a member that is there, otherwise id and type at the
/// beginning and the status at the end.
struct Normalised<'a> {
    object: &'a RawObject,
    id: &'a str,
    kind: Option<&'static str>,
    has_status: bool,
    content: Option<[TextPart<'a>; 1]>,
}

impl serde::Serialize for Normalised<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.object.contains("id") {
            map.serialize_entry("id", self.id)?;
        }
        if let Some(kind) = self.kind.filter(|_| !self.object.contains("type")) {
            map.serialize_entry("type", kind)?;
        }
        for (key, value) in self.object.iter() {
            match (key, self.kind, &self.content) {
                ("id", ..) => map.serialize_entry(key, self.id)?,
                ("type", Some(kind), _) => map.serialize_entry(key, kind)?,
                ("content", _, Some(content)) => map.serialize_entry(key, content)?,
                ("status", ..) if self.has_status && !JsonText::is_text(value) => {
                    map.serialize_entry(key, COMPLETED)?
                }
                _ => map.serialize_entry(key, value)?,
            }
        }
        if self.has_status && !self.object.contains("status") {
            map.serialize_entry("status", COMPLETED)?;
        }
        map.end()
    }
}

/// The status of an item that says none.
const COMPLETED: &str = "completed";

#[cfg(test)]
mod tests {
    use super::super::item::{message_from_text, parse};
    use super::*;

    #[test]
    fn text_is_stored_in_the_form_in_which_it_came() {
        let text = RawValue::from_string(r#""caf\u00e9 \/""#.to_owned()).unwrap();
        let (object, item) = message_from_text(JsonText::of_raw(&text).unwrap()).unwrap();
        assert_eq!(item, Item::Message { role: Role::User, content: vec![Part::Text(JsonText::of("café /"))] });
        let stored = normalise(&object, &item, "msg_1").unwrap();
        assert!(stored.get().contains(r#"[{"type":"input_text","text":"caf\u00e9 \/"}]"#), "{stored}");
    }

    #[test]
    fn what_an_item_lacks_is_put_where_it_belongs_and_the_rest_stays_where_it_stands() {
        let stored = |text: &str| {
            let object: RawObject = serde_json::from_str(text).unwrap();
            let item = parse(&object, &"input[0]").unwrap();
            normalise(&object, &item, "msg_1").unwrap().get().to_owned()
        };
        for (given, wanted) in [
            (
                r#"{"role":"assistant","content":"hi","x":1.50}"#,
                r#"{"id":"msg_1","type":"message","role":"assistant","content":[{"type":"output_text","annotations":[],"logprobs":[],"text":"hi"}],"x":1.50,"status":"completed"}"#,
            ),
            (
                r#"{"status":"incomplete","role":"user","id":null,"type":null,"content":""}"#,
                r#"{"status":"incomplete","role":"user","id":"msg_1","type":"message","content":[{"type":"input_text","text":""}]}"#,
            ),
            (
                r#"{"role":"user","content":[{"type":"text","text":"hi"}],"status":null}"#,
                r#"{"id":"msg_1","type":"message","role":"user","content":[{"type":"text","text":"hi"}],"status":"completed"}"#,
            ),
            (
                r#"{"role":"assistant","content":null}"#,
                r#"{"id":"msg_1","type":"message","role":"assistant","content":null,"status":"completed"}"#,
            ),
            (
                r#"{"type":"function_call_output","call_id":"c","output":"ok"}"#,
                r#"{"id":"msg_1","type":"function_call_output","call_id":"c","output":"ok","status":"completed"}"#,
            ),
            (r#"{"type":"reasoning","summary":[]}"#, r#"{"id":"msg_1","type":"reasoning","summary":[]}"#),
        ] {
            assert_eq!(stored(given), wanted, "{given}");
        }
    }
}
