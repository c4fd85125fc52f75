//! Whether two JSON texts say the same, however they are written, without a value being made of either.
//!
//! Clients read arguments and schemas and write them again. A text of a few megabytes may become a value of a gigabyte,
//! and may be compared with thousands of others: so it is walked to a digest, once, and only if it differs from another.

use std::cell::OnceCell;
use std::fmt;
use std::hash::{BuildHasher as _, Hash, Hasher as _};

use foldhash::quality::FixedState;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// A JSON text that others are compared with.
#[derive(Debug)]
pub struct JsonMeaning<T> {
    text: T,
    /// `None` if the text is no JSON.
    digest: OnceCell<Option<u64>>,
}

impl<T: AsRef<str>> JsonMeaning<T> {
    /// Reads nothing yet.
    #[must_use]
    pub fn of(text: T) -> Self {
        Self { text, digest: OnceCell::new() }
    }

    /// The text as it came.
    #[must_use]
    pub fn into_text(self) -> T {
        self.text
    }

    /// Whether the other says the same: white space, escapes, the order of members and how a number is written do not
    /// matter. A number is what JavaScript reads, whose clients write 1.0 as 1. Of a key that repeats the last member
    /// counts. Texts that are no JSON, or deeper than 127 levels, say the same only if they are the same.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.text.as_ref() == other.text.as_ref() || self.digest().is_some_and(|digest| other.digest() == Some(digest))
    }

    fn digest(&self) -> Option<u64> {
        *self.digest.get_or_init(|| digest(self.text.as_ref()))
    }
}

fn digest(text: &str) -> Option<u64> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let digest = Digest.deserialize(&mut reader).ok()?;
    reader.end().ok().map(|()| digest)
}

/// The digest of the value that comes next. What kind it is goes into it first.
struct Digest;

fn hash(of: impl Hash) -> u64 {
    FixedState::default().hash_one(of)
}

impl<'de> DeserializeSeed<'de> for Digest {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Digest {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<u64, E> {
        Ok(hash('n'))
    }

    fn visit_bool<E>(self, value: bool) -> Result<u64, E> {
        Ok(hash(('b', value)))
    }

    #[expect(clippy::cast_precision_loss, reason = "JavaScript loses it too")]
    fn visit_u64<E: Error>(self, value: u64) -> Result<u64, E> {
        self.visit_f64(value as f64)
    }

    #[expect(clippy::cast_precision_loss, reason = "JavaScript loses it too")]
    fn visit_i64<E: Error>(self, value: i64) -> Result<u64, E> {
        self.visit_f64(value as f64)
    }

    fn visit_f64<E>(self, value: f64) -> Result<u64, E> {
        // Zero has two signs.
        Ok(hash(('f', if value == 0.0 { 0 } else { value.to_bits() })))
    }

    fn visit_str<E>(self, value: &str) -> Result<u64, E> {
        Ok(hash(('s', value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<u64, A::Error> {
        let mut all = FixedState::default().build_hasher();
        'l'.hash(&mut all);
        while let Some(item) = items.next_element_seed(Digest)? {
            item.hash(&mut all);
        }
        Ok(all.finish())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<u64, A::Error> {
        let mut all = Vec::new();
        while let Some(key) = members.next_key_seed(Digest)? {
            all.push((key, members.next_value_seed(Digest)?));
        }
        // Of a key that repeats the last member counts; the sort keeps them in order.
        all.sort_by_key(|(key, _)| *key);
        let last_of_each = all.chunk_by(|(one, _), (other, _)| one == other).filter_map(<[_]>::last);
        Ok(hash(('m', last_of_each.collect::<Vec<_>>())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_same(one: &str, other: &str) -> bool {
        JsonMeaning::of(one).is_same(&JsonMeaning::of(other))
    }

    #[test]
    fn texts_that_say_the_same_are_the_same_however_they_are_written() {
        for (one, other) in [
            (r#"{"a":1,"b":[true,null]}"#, " { \"b\" : [ true , null ] ,\n \"a\" : 1.0 } "),
            (r#"{"a":1e2}"#, r#"{"a":100}"#),
            (r#"{"a":-0.0}"#, r#"{"a":0}"#),
            // As JavaScript writes it.
            (r#"{"a":12345678901234567890}"#, r#"{"a":12345678901234567000}"#),
            (r#"{"a":"é"}"#, r#"{"a":"\u00e9"}"#),
            ("{\"\\u0061\":\"\"}", r#"{"a":""}"#),
            // Where readers that round carelessly differ.
            (r#"{"a":0.9141777631706690743}"#, r#"{"a":0.9141777631706691}"#),
            (r#"{"a":1,"b":0,"a":2}"#, r#"{"b":0,"a":2}"#),
            ("no JSON", "no JSON"),
        ] {
            assert!(is_same(one, other) && is_same(other, one), "{one} {other}");
        }
    }

    #[test]
    fn texts_that_say_something_else_differ() {
        let texts = [
            "{}",
            "[]",
            "null",
            "0",
            "false",
            "true",
            r#""""#,
            r#""0""#,
            r#"{"a":1}"#,
            r#"{"a":2}"#,
            r#"{"a":"1"}"#,
            r#"{"b":1}"#,
            r#"{"a":1,"b":2}"#,
            r#"{"a":2,"b":0,"a":1}"#,
            r#"{"a":2,"b":1}"#,
            r#"{"a":{"b":1}}"#,
            r#"{"a":[1]}"#,
            r#"{"a":null}"#,
            "[1,2]",
            "[2,1]",
            "[[1],2]",
            "[1,[2]]",
            r#"["a","b"]"#,
            r#"["ab"]"#,
            "1.5",
            "-1.5",
            "{",
            "{} {}",
            "1e999",
        ];
        for (index, one) in texts.iter().enumerate() {
            for other in &texts[index + 1..] {
                assert!(!is_same(one, other), "{one} {other}");
            }
        }
    }

    #[test]
    fn a_text_too_deep_to_walk_is_the_same_as_itself_only() {
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(is_same(&deep(127), &format!(" {}", deep(127))));
        assert!(is_same(&deep(100_000), &deep(100_000)));
        assert!(!is_same(&deep(100_000), &format!(" {}", deep(100_000))));
    }

    #[test]
    fn a_text_is_walked_once_for_all_others() {
        let known = JsonMeaning::of(r#"{"a":1}"#);
        assert!(known.digest.get().is_none(), "nothing was compared yet");
        assert!(known.is_same(&JsonMeaning::of(r#"{"a":1}"#)));
        assert!(known.digest.get().is_none(), "the texts are the same");
        assert!(known.is_same(&JsonMeaning::of(r#"{"a": 1}"#)));
        assert!(known.digest.get().is_some());
    }
}
