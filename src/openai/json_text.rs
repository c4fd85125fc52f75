//! Text in the form in which it came.
//!
//! Most text of a request and of its history goes up as it is. Kept as a JSON string it is neither unescaped nor escaped
//! again, and both cost more than all else that is done with it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::de::{Error as _, Unexpected};
use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::json;

/// A JSON string, quotes and escapes included, that is known to be text: no escape in it stands for half a character. A
/// copy shares it.
#[derive(Clone)]
pub struct JsonText(Arc<str>);

impl JsonText {
    /// The text as JSON.
    #[must_use]
    pub fn of(text: &str) -> Self {
        // A text always serialises.
        json::to_string(text, text.len() + "\"\"".len()).map_or_else(|_| Self::default(), Self::from)
    }

    /// The text that a JSON value is; `None` when it is no string, or none that can be decoded.
    #[must_use]
    pub fn of_raw(raw: &RawValue) -> Option<Self> {
        Self::is_text(raw).then(|| Self(raw.get().into()))
    }

    /// Whether a JSON value is a string that can be decoded.
    #[must_use]
    pub fn is_text(raw: &RawValue) -> bool {
        let Some(inner) = inner(raw) else { return false };
        // Only escapes by number can be wrong.
        let by_number = memchr::memmem::find(inner.as_bytes(), b"\\u").is_some();
        !by_number || serde_json::from_str::<Cow<'_, str>>(raw.get()).is_ok()
    }

    /// Whether there is no text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner().is_empty()
    }

    /// Its length as JSON, quotes and escapes included.
    #[must_use]
    pub fn json_bytes(&self) -> usize {
        self.0.len()
    }

    /// The text itself.
    #[must_use]
    pub fn decode(&self) -> String {
        // What was checked when it was made decodes.
        serde_json::from_str(&self.0).unwrap_or_default()
    }

    /// The texts with a separator between each two.
    #[must_use]
    pub fn join(mut texts: Vec<Self>, separator: &str) -> Self {
        if texts.len() <= 1 {
            return texts.pop().unwrap_or_default();
        }
        let separator = Self::of(separator);
        let texts: Vec<&str> = texts.iter().map(Self::inner).collect();
        // Strings without their quotes, one behind the other, are the inside of a string.
        Self::from(format!("\"{}\"", texts.join(separator.inner())))
    }

    fn inner(&self) -> &str {
        unquoted(&self.0).unwrap_or_default()
    }

    fn from(json: String) -> Self {
        Self(json.into())
    }
}

/// What stands between the quotes of a JSON string.
fn inner(raw: &RawValue) -> Option<&str> {
    unquoted(raw.get())
}

fn unquoted(json: &str) -> Option<&str> {
    json.strip_prefix('"')?.strip_suffix('"')
}

impl Default for JsonText {
    /// No text.
    fn default() -> Self {
        Self("\"\"".into())
    }
}

impl PartialEq for JsonText {
    /// Whether the texts are the same, however they are escaped.
    fn eq(&self, other: &Self) -> bool {
        let (one, two) = (&*self.0, &*other.0);
        let is_escaped = |text: &str| memchr::memchr(b'\\', text.as_bytes()).is_some();
        one == two || ((is_escaped(one) || is_escaped(two)) && self.decode() == other.decode())
    }
}

impl fmt::Debug for JsonText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for JsonText {
    /// As a [`RawValue`], which it was or could have been.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut raw = serializer.serialize_struct(json::RAW, 1)?;
        raw.serialize_field(json::RAW, &*self.0)?;
        raw.end()
    }
}

impl<'de> Deserialize<'de> for JsonText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        Self::of_raw(raw).ok_or_else(|| match inner(raw) {
            Some(_) => D::Error::custom("lone surrogate in a string"),
            None => D::Error::invalid_type(Unexpected::Other("value"), &"a string"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[test]
    fn a_string_keeps_its_form_and_reads_as_its_text() {
        let text = JsonText::of_raw(&raw(r#""caf\u00e9 \/""#)).unwrap();
        assert_eq!(serde_json::to_string(&text).unwrap(), r#""caf\u00e9 \/""#);
        assert_eq!(text.decode(), "café /");
        assert_eq!(text, JsonText::of("café /"));
        assert_ne!(text, JsonText::of("cafe /"));
    }

    #[test]
    fn what_is_no_text_is_refused() {
        for json in ["5", "null", "[]", r#"{"a":"b"}"#, r#""\ud800""#, r#""a\udc00b""#] {
            assert!(JsonText::of_raw(&raw(json)).is_none(), "{json}");
            assert!(serde_json::from_str::<JsonText>(json).is_err(), "{json}");
        }
        // A pair of surrogates is one character, and an escaped backslash is none.
        for json in [r#""\ud83d\ude00""#, r#""\\ud800""#] {
            assert!(JsonText::of_raw(&raw(json)).is_some(), "{json}");
        }
    }

    #[test]
    fn joining_is_that_of_the_texts() {
        let text = |text| JsonText::of(text);
        assert_eq!(JsonText::join(vec![], "\n"), text(""));
        assert_eq!(JsonText::join(vec![text("a\"")], "\n"), text("a\""));
        let joined = JsonText::join(vec![text("a\\"), text(""), text("é")], "\n\n");
        assert_eq!(joined.decode(), "a\\\n\n\n\né");
        assert!(JsonText::default().is_empty() && !joined.is_empty());
    }
}
