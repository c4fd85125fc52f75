//! Patterns of model names: literal text in which each `*` stands for any text, an empty one included.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::{Serialize, Serializer};

/// The longest pattern, in bytes; no model name is so long.
const MAX_PATTERN_BYTES: usize = 256;

/// A pattern that is compared with a whole model name, case and all. `*` is its only wildcard.
#[derive(Clone, PartialEq, Eq)]
pub struct ModelGlob {
    /// The literal texts between the wildcards: one more than there are of those.
    literals: Vec<Box<str>>,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGlob {
    /// It would match no model.
    #[error("must be a model name, in which `*` stands for any text")]
    Empty,
    /// It is no model name.
    #[error("must be at most {MAX_PATTERN_BYTES} bytes long")]
    TooLong,
    /// It has wildcards that this pattern language does not know, and that no model name has either.
    #[error("`{0}` has no meaning in a pattern, `*` is the only wildcard")]
    Wildcard(char),
}

impl FromStr for ModelGlob {
    type Err = InvalidGlob;

    fn from_str(text: &str) -> Result<Self, InvalidGlob> {
        if text.is_empty() {
            return Err(InvalidGlob::Empty);
        }
        if text.len() > MAX_PATTERN_BYTES {
            return Err(InvalidGlob::TooLong);
        }
        if let Some(other) = text.chars().find(|c| matches!(c, '?' | '[' | ']' | '{' | '}' | '\\') || c.is_control()) {
            return Err(InvalidGlob::Wildcard(other));
        }
        Ok(Self { literals: text.split('*').map(Box::from).collect() })
    }
}

impl ModelGlob {
    /// Whether the pattern is the whole of a model name. One walk along the name, whose length a client chooses.
    #[must_use]
    pub fn matches(&self, model: &str) -> bool {
        let Some((first, others)) = self.literals.split_first() else { return false };
        let Some((last, between)) = others.split_last() else { return model == &**first };
        let Some(mut rest) = model.strip_prefix(&**first).and_then(|rest| rest.strip_suffix(&**last)) else {
            return false;
        };
        // The leftmost place of each is as good as any other.
        for literal in between {
            let Some((_, after)) = rest.split_once(&**literal) else { return false };
            rest = after;
        }
        true
    }
}

impl fmt::Display for ModelGlob {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(&self.literals.join("*"))
    }
}

impl fmt::Debug for ModelGlob {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Serialize for ModelGlob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ModelGlob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pattern;

        // Read by a visitor, so that an error has the place of the text.
        impl Visitor<'_> for Pattern {
            type Value = ModelGlob;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a pattern of model names")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ModelGlob, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Pattern)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, model: &str) -> bool {
        pattern.parse::<ModelGlob>().unwrap().matches(model)
    }

    #[test]
    fn a_pattern_is_compared_with_the_whole_name() {
        assert!(matches("qwen3", "qwen3"));
        assert!(!matches("qwen3", "qwen3-8b"));
        assert!(!matches("qwen*", "Qwen3"));
        assert!(matches("*", "") && matches("*", "anything"));
        assert!(matches("qwen*", "qwen") && matches("qwen*", "qwen3-8b"));
        assert!(matches("*/qwen*-8b", "org/qwen3-8b"));
        assert!(!matches("*/qwen*-8b", "org/qwen3-32b"));
        assert!(matches("a*b*a", "aba") && matches("a*b*a", "a-b-b-a"));
    }

    #[test]
    fn the_ends_of_a_pattern_do_not_overlap() {
        assert!(!matches("ab*ba", "aba"));
        assert!(matches("ab*ba", "abba"));
        assert!(!matches("a*b*b", "ab"));
    }

    #[test]
    fn wildcards_of_other_languages_are_refused() {
        for pattern in ["", "qwen?", "[a]", "{a,b}", "a\\b", "a\nb"] {
            assert!(pattern.parse::<ModelGlob>().is_err(), "{pattern:?}");
        }
        assert!("a".repeat(257).parse::<ModelGlob>().is_err());
    }
}
