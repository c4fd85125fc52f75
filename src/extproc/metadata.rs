//! Dynamic metadata on the wire: a `google.protobuf.Struct` whose one field, the namespace, is a Struct of values.
//!
//! Written by hand rather than by way of prost's maps of strings, which cost as much as the rest of a message. The tags
//! are those of google/protobuf/struct.proto.

use bytes::Bytes;

use crate::telemetry::facts::Facts;
use crate::telemetry::metadata::{Keys, Value, entries};

/// Struct.fields, and the key of an entry of this map.
const FIELDS: u8 = 0x0a;
const KEY: u8 = 0x0a;
/// The value of an entry of the map.
const VALUE: u8 = 0x12;
/// Value.number_value, a double.
const NUMBER: u8 = 0x11;
const TEXT: u8 = 0x1a;
const FLAG: u8 = 0x20;
const STRUCT: u8 = 0x2a;

/// What is known of an exchange under these keys, in this namespace; empty if that is nothing.
///
/// Lengths stand before what they measure, so each is computed, and nothing is written twice.
pub(super) fn encode(namespace: &str, keys: Keys, facts: &Facts) -> Bytes {
    let mut length = 0;
    entries(facts, keys, |key, value| length += delimited_len(entry_len(key.as_str(), value_len(value))));
    if length == 0 {
        return Bytes::new();
    }
    let mut out = Vec::with_capacity(delimited_len(entry_len(namespace, delimited_len(length))));
    entry(&mut out, namespace, delimited_len(length));
    begin(&mut out, STRUCT, length);
    entries(facts, keys, |key, value| {
        entry(&mut out, key.as_str(), value_len(value));
        match value {
            Value::Text(text) => delimited(&mut out, TEXT, text.as_bytes()),
            Value::Number(number) => {
                out.push(NUMBER);
                out.extend_from_slice(&number.to_le_bytes());
            }
            Value::Flag(flag) => out.extend_from_slice(&[FLAG, u8::from(flag)]),
        }
    });
    out.into()
}

fn value_len(value: Value<'_>) -> usize {
    match value {
        Value::Text(text) => delimited_len(text.len()),
        Value::Number(_) => 1 + size_of::<f64>(),
        Value::Flag(_) => 2,
    }
}

/// What an entry of a Struct's map contains, without its own tag and length.
fn entry_len(key: &str, value_len: usize) -> usize {
    delimited_len(key.len()) + delimited_len(value_len)
}

/// An entry of a Struct's map, but for its value of so many bytes, which the caller writes.
fn entry(out: &mut Vec<u8>, key: &str, value_len: usize) {
    begin(out, FIELDS, entry_len(key, value_len));
    delimited(out, KEY, key.as_bytes());
    begin(out, VALUE, value_len);
}

fn delimited(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    begin(out, tag, bytes.len());
    out.extend_from_slice(bytes);
}

fn begin(out: &mut Vec<u8>, tag: u8, length: usize) {
    out.push(tag);
    // Fails for want of room alone, and a Vec grows.
    let _ = prost::encode_length_delimiter(length, out);
}

/// The length of a field of so many bytes, its tag and its own length included.
fn delimited_len(length: usize) -> usize {
    1 + prost::length_delimiter_len(length) + length
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::extproc::pb::{Kind, Struct};
    use crate::id::ResponseId;
    use crate::openai::responses::Usage;
    use crate::telemetry::facts::{Chain, Ending, Stored};
    use crate::telemetry::metadata::Key;

    fn all() -> Keys {
        Keys::of(Key::ALL)
    }

    fn usual() -> Keys {
        Keys::of(Keys::USUAL)
    }

    /// The keys that Envoy is told.
    fn told(facts: &Facts, keys: Keys) -> Vec<String> {
        let Some(namespace) = Struct::decode(encode("ours", keys, facts)).unwrap().fields.remove("ours") else {
            return Vec::new();
        };
        let Some(Kind::StructValue(Struct { fields })) = namespace.kind else { panic!("a struct") };
        let mut told: Vec<String> = fields.into_keys().collect();
        told.sort();
        told
    }

    #[test]
    fn what_is_written_is_a_struct_of_the_namespace() {
        let facts = Facts {
            route: "create",
            ending: Some(Ending::Completed),
            model: Some("ü".repeat(100)),
            usage: Some(Usage { input_tokens: 300, ..Usage::default() }),
            ..Facts::default()
        };
        let mut told = Struct::decode(encode("ours", all(), &facts)).unwrap().fields;
        let Some(Kind::StructValue(Struct { fields })) = told.remove("ours").unwrap().kind else { panic!("a struct") };
        assert!(told.is_empty());
        let kind = |key: &str| fields.get(key).and_then(|value| value.kind.clone());
        assert_eq!(kind("route"), Some(Kind::StringValue("create".to_owned())));
        assert_eq!(kind("outcome"), Some(Kind::StringValue("completed".to_owned())));
        assert_eq!(kind("model"), Some(Kind::StringValue("ü".repeat(100))));
        assert_eq!(kind("stream"), Some(Kind::BoolValue(false)));
        assert_eq!(kind("input_tokens"), Some(Kind::NumberValue(300.0)));
        assert_eq!(kind("ttft_ms"), None);
    }

    #[test]
    fn what_was_asked_goes_with_the_request_and_the_response_with_the_end_or_when_its_stream_begins() {
        let mut facts = Facts { route: "create", model: Some("m".to_owned()), ..Facts::default() };
        facts.response_id = Some(ResponseId::from_bits(1));
        facts.previous_response_id = Some(ResponseId::from_bits(2));
        facts.chain = Some(Chain { length: 1, bytes: 1 });
        assert_eq!(told(&facts, all()), ["model", "previous_response_id", "route", "stream"]);
        assert_eq!(encode("ours", usual(), &facts), Bytes::new());
        let stream = Facts { stream: true, ..facts.clone() };
        let both = ["chain_length", "model", "previous_response_id", "response_id", "route", "stream"];
        assert_eq!(told(&stream, all()), both);
        assert_eq!(told(&stream, usual()), ["chain_length", "response_id"]);

        for (mut facts, late) in [(facts, true), (stream, false)] {
            facts.introduced = true;
            assert_eq!(encode("ours", all(), &facts), Bytes::new());
            facts.ending = Some(Ending::Completed);
            facts.usage = Some(Usage::default());
            let with_response = |keys: &[&'static str]| {
                let response: &[_] = if late { &["response_id", "chain_length"] } else { &[] };
                let mut keys = [response, keys].concat();
                keys.sort_unstable();
                keys
            };
            let counts =
                ["cached_tokens", "input_tokens", "outcome", "output_tokens", "reasoning_tokens", "total_tokens"];
            assert_eq!(told(&facts, all()), with_response(&counts));
            assert_eq!(told(&facts, usual()), with_response(&["input_tokens", "outcome", "output_tokens"]));
            assert_eq!(told(&facts, Keys::of(&[Key::TotalTokens])), ["total_tokens"]);
        }
    }

    #[test]
    fn a_refusal_tells_all_at_once() {
        let mut facts = Facts { route: "create", model: Some("m".to_owned()), ..Facts::default() };
        facts.ending = Some(Ending::Refused);
        facts.response_id = Some(ResponseId::from_bits(1));
        for stream in [false, true] {
            let facts = Facts { stream, ..facts.clone() };
            assert_eq!(told(&facts, all()), ["model", "outcome", "response_id", "route", "stream"]);
            assert_eq!(told(&facts, usual()), ["outcome", "response_id"]);
        }
    }

    #[test]
    fn by_default_only_a_record_that_is_not_stored_as_it_should_be_is_told_of() {
        let of = |stored| Facts { stored, ending: Some(Ending::Completed), ..Facts::default() };
        for (stored, tells) in [
            (Stored::NotAsked, vec![]),
            // Of what failed before there was a response.
            (Stored::Due, vec![Key::Stored]),
            (Stored::Stored, vec![Key::Stored]),
            (Stored::Degraded, vec![Key::NotStored, Key::Stored]),
            (Stored::InBackground, vec![Key::NotStored, Key::Stored]),
        ] {
            let tells: Vec<_> = tells.into_iter().map(Key::as_str).collect();
            assert_eq!(told(&of(stored), Keys::of(&[Key::Stored, Key::NotStored])), tells);
        }
        assert_eq!(told(&of(Stored::Stored), usual()), ["outcome"]);
        assert_eq!(told(&of(Stored::Refused), usual()), ["not_stored", "outcome"]);
    }
}
