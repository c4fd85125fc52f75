//! Identifiers: the response id, and the item and call ids that are derived from it.
//!
//! Pure: randomness comes in through [`IdSource`]. Every id that the router makes names its response, so that a
//! reference to an item costs one read of the store and needs no index (CONTRACT §3).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest accepted response id in bytes, prefix included. Ours have 37.
pub const MAX_RESPONSE_ID_BYTES: usize = 96;

const RESPONSE_PREFIX: &str = "resp_";

/// Which bytes an id may have behind its prefix: letters, digits, `_` and `-`. Looked up, since a chain's list has many ids.
const LEGAL: [bool; 256] = {
    let mut legal = [false; 256];
    let mut byte = 0_u8;
    while byte < u8::MAX {
        legal[byte as usize] = byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        byte += 1;
    }
    legal
};

/// The id of a response: `resp_` and 1 to 91 letters, digits, `_` or `-`.
///
/// Ids of our own making carry 32 lower-case hex digits (128 random bits, of which choosing a place in a Redis Cluster takes
/// a few). Others are accepted within this alphabet because records written by the Go semantic-router are read too; nothing
/// that could shape a store key (`{`, `*`, `:`, white space, `/`) gets through.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResponseId(Arc<str>);

/// A text that is not a response id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a response id")]
pub struct InvalidId;

impl ResponseId {
    /// Reads an id that came from outside.
    ///
    /// # Errors
    /// [`InvalidId`] when the prefix, the alphabet or the length is wrong.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let digits = text.strip_prefix(RESPONSE_PREFIX).ok_or(InvalidId)?;
        let is_legal = |byte: u8| LEGAL[usize::from(byte)];
        if digits.is_empty() || text.len() > MAX_RESPONSE_ID_BYTES || !digits.bytes().all(is_legal) {
            return Err(InvalidId);
        }
        Ok(Self(text.into()))
    }

    /// The id that carries these 128 bits as 32 lower-case hex digits.
    #[must_use]
    pub fn from_bits(bits: u128) -> Self {
        // Not by `format!`, which takes several times as long: of the ids of a cluster several are drawn.
        let digit = |value: u8| char::from(if value < 10 { b'0' + value } else { b'a' - 10 + value });
        let mut text = String::with_capacity(RESPONSE_PREFIX.len() + 32);
        text.push_str(RESPONSE_PREFIX);
        text.extend(bits.to_be_bytes().iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]));
        Self(text.into())
    }

    /// The whole id, as it stands on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id under which this turn's instructions are listed where they are listed as an item.
    #[must_use]
    pub fn instructions(&self) -> String {
        let digits = self.0.strip_prefix(RESPONSE_PREFIX).unwrap_or(&self.0);
        format!("{}_{digits}_instructions", ItemPrefix::Message.as_str())
    }

    /// The response that an item's id names, if it is one of our making: a prefix, the response's digits, an ordinal.
    #[must_use]
    pub fn of_item(item_id: &str) -> Option<Self> {
        let (prefix, rest) = item_id.split_once('_')?;
        let (digits, ordinal) = rest.rsplit_once('_')?;
        let is_ours = prefix.bytes().all(|byte| byte.is_ascii_lowercase())
            && !ordinal.is_empty()
            && ordinal.bytes().all(|byte| byte.is_ascii_digit());
        if !is_ours || digits.len() > MAX_RESPONSE_ID_BYTES {
            return None;
        }
        Self::parse(&format!("{RESPONSE_PREFIX}{digits}")).ok()
    }

    /// The id of the item at `ordinal` of this turn. Input items are counted first, then output items.
    #[must_use]
    pub fn item(&self, prefix: ItemPrefix, ordinal: usize) -> String {
        let digits = self.0.strip_prefix(RESPONSE_PREFIX).unwrap_or(&self.0);
        [prefix.as_str(), "_", digits, "_", &ordinal.to_string()].concat()
    }
}

impl fmt::Display for ResponseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ResponseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for ResponseId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ResponseId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = ResponseId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ResponseId, E> {
                ResponseId::parse(text).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}

/// What kind of item an id names, by its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemPrefix {
    /// `msg_`: a message, of any role.
    Message,
    /// `rs_`: a reasoning item.
    Reasoning,
    /// `fc_`: a function call.
    FunctionCall,
    /// `fco_`: the output of a function call.
    FunctionCallOutput,
    /// `ctc_`: a call of a custom tool.
    CustomToolCall,
    /// `ctco_`: the output of a custom tool.
    CustomToolCallOutput,
    /// `tsc_`: a search for tools.
    ToolSearchCall,
    /// `tso_`: the tools that a search found.
    ToolSearchOutput,
    /// `call_`: a call id that the upstream failed to give.
    Call,
    /// `item_`: an input item of a type that this router does not know.
    Other,
}

impl ItemPrefix {
    /// The prefix without its underscore.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Message => "msg",
            Self::Reasoning => "rs",
            Self::FunctionCall => "fc",
            Self::FunctionCallOutput => "fco",
            Self::CustomToolCall => "ctc",
            Self::CustomToolCallOutput => "ctco",
            Self::ToolSearchCall => "tsc",
            Self::ToolSearchOutput => "tso",
            Self::Call => "call",
            Self::Other => "item",
        }
    }
}

/// Where new response ids come from: the operating system in production, a counter in tests.
pub trait IdSource: Send + Sync {
    /// A response id that was never handed out before.
    fn response_id(&self) -> ResponseId;
}

/// Ids that count up from one: repeatable, for tests only.
#[derive(Debug, Default)]
pub struct CountingIds(AtomicU64);

impl IdSource for CountingIds {
    fn response_id(&self) -> ResponseId {
        ResponseId::from_bits(u128::from(self.0.fetch_add(1, Ordering::Relaxed)) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_shape_a_store_key_are_refused() {
        for text in [
            "",
            "resp_",
            "resp",
            "msg_1",
            "resp_a b",
            "resp_a{b}",
            "resp_*",
            "resp_../x",
            "resp_a\r\nb",
            "resp_%2f",
            "resp_a:b",
            "resp_é",
            "RESP_abc",
        ] {
            assert_eq!(ResponseId::parse(text), Err(InvalidId), "{text:?}");
        }
        assert_eq!(ResponseId::parse(&format!("resp_{}", "a".repeat(92))), Err(InvalidId));
        assert!(ResponseId::parse("resp_0123456789abcdef01234567").is_ok());
    }

    #[test]
    fn item_ids_name_their_response() {
        let id = ResponseId::from_bits(1);
        assert_eq!(id.as_str(), "resp_00000000000000000000000000000001");
        assert_eq!(id.item(ItemPrefix::Message, 3), "msg_00000000000000000000000000000001_3");
    }

    #[test]
    fn the_response_of_an_item_is_read_off_the_items_id() {
        for id in [ResponseId::from_bits(7), ResponseId::parse("resp_of_another-router").unwrap()] {
            for prefix in [ItemPrefix::Message, ItemPrefix::Reasoning, ItemPrefix::FunctionCall] {
                assert_eq!(ResponseId::of_item(&id.item(prefix, 12)), Some(id.clone()));
            }
        }
        for foreign in ["", "_", "msg_", "msg_1", "msg__1", "msg_a_", "msg_a_b", "MSG_a_1", "m{g_a_1", "msg_a:b_1"] {
            assert_eq!(ResponseId::of_item(foreign), None, "{foreign}");
        }
        assert_eq!(ResponseId::of_item(&format!("msg_{}_1", "a".repeat(92))), None);
    }
}
