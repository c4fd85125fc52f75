//! A stored document as it is read: its members, of which what nobody asks for is passed on and never parsed.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use super::StoreError;
use crate::id::ResponseId;
use crate::json;

/// A stored document, and its members in their order, repeated ones included.
pub(super) struct Document<'a> {
    text: &'a str,
    members: Vec<(Key<'a>, &'a RawValue)>,
}

/// The name of a member.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Document<'a> {
    /// Reads a document.
    pub(super) fn parse(text: &'a str) -> Result<Self, StoreError> {
        let Parsed(members) = serde_json::from_str(text).map_err(|error| unreadable("document", &error))?;
        Ok(Self { text, members })
    }

    /// The name of the member at a place.
    pub(super) fn key(&self, index: usize) -> Option<&str> {
        self.members.get(index).map(|(key, _)| &*key.0)
    }

    /// Where the member is that counts, the last of its name.
    pub(super) fn last(&self, key: &str) -> Option<usize> {
        self.members.iter().rposition(|(name, _)| name.0 == key)
    }

    /// Reads a member; absent and null are `None`.
    pub(super) fn read<T: Deserialize<'a>>(&self, key: &str) -> Result<Option<T>, StoreError> {
        let Some(value) = self.raw(key) else { return Ok(None) };
        serde_json::from_str(value.get()).map_err(|error| unreadable(key, &error))
    }

    /// The value of a member.
    pub(super) fn raw(&self, key: &str) -> Option<&'a RawValue> {
        self.last(key).and_then(|index| self.members.get(index)).map(|(_, value)| *value)
    }

    /// The parent by `previous_response_id`, which the Go semantic-router leaves empty when there is none.
    pub(super) fn previous(&self) -> Result<Option<ResponseId>, StoreError> {
        let previous: Option<String> = self.read("previous_response_id")?;
        let id = previous.as_deref().filter(|id| !id.is_empty()).map(ResponseId::parse).transpose();
        id.map_err(|_| corrupt("its previous_response_id is not a response id"))
    }

    /// The members before the one at a place, as one compact object. They are not read again, and not written again where
    /// they stand as they have to, as in every document that a router wrote.
    pub(super) fn before(&self, index: usize) -> Result<Box<RawValue>, StoreError> {
        let kept = self.members.iter().take(index);
        // Whitespace and escaped names would take more: by its length alone the text is known to have neither.
        let compact = kept.map(|(key, value)| "\"\":,".len() + key.0.len() + value.get().len()).sum::<usize>();
        match (self.members.get(index.wrapping_sub(1)), self.text.get(..compact)) {
            (Some((_, last)), Some(members))
                if members.as_bytes().as_ptr_range().end == last.get().as_bytes().as_ptr_range().end =>
            {
                let mut object = String::with_capacity(members.len() + 1);
                object.push_str(members);
                object.push('}');
                json::written(object).map_err(|error| unreadable("document", &error))
            }
            _ => self.join(|member| member < index),
        }
    }

    /// The members that `keep` picks by their place, as one compact object. They are not read again.
    pub(super) fn join(&self, keep: impl Fn(usize) -> bool) -> Result<Box<RawValue>, StoreError> {
        let kept = self.members.iter().enumerate().filter(|(index, _)| keep(*index)).map(|(_, member)| member);
        to_raw_value(&Joined(kept)).map_err(|error| unreadable("document", &error))
    }
}

/// Members as an object.
struct Joined<I>(I);

impl<'a, I: Iterator<Item = &'a (Key<'a>, &'a RawValue)> + Clone> Serialize for Joined<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.clone().map(|(key, value)| (&key.0, value)))
    }
}

/// The members of a document.
struct Parsed<'a>(Vec<(Key<'a>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Parsed<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Parsed<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parsed<'de>, A::Error> {
                let mut members = Vec::with_capacity(48);
                while let Some(member) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    members.push(member);
                }
                Ok(Parsed(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// What is stored cannot be used, for this reason, which quotes nothing of it.
pub(super) fn corrupt(reason: impl Into<String>) -> StoreError {
    StoreError::Corrupt(reason.into())
}

/// The same of a part that is not what it has to be. Without the parser's own words, which quote the value.
pub(super) fn unreadable(what: &str, error: &serde_json::Error) -> StoreError {
    corrupt(format!("{what}: {:?} error at line {} column {}", error.classify(), error.line(), error.column()))
}
