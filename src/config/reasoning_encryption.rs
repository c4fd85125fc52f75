//! The `response_api.reasoning_encryption` block: the keys that seal reasoning for clients that carry it.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::{checked, shown};
use crate::sealing::{SealingKey, SealingKeyError};

/// The `reasoning_encryption` block.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping of the reasoning_encryption settings")]
pub struct ReasoningEncryption {
    /// The first seals, all open. Each has an `id` and either `key` (base64 of 32 bytes) or `file` (one that holds
    /// that). Default: none, which leaves `reasoning.encrypted_content` out.
    #[serde(deserialize_with = "keys", serialize_with = "shown::keys")]
    pub keys: Vec<SealingKey>,
}

impl ReasoningEncryption {
    /// Whether two keys have one id, so that one of them could never open.
    pub(super) fn repeats_an_id(&self) -> bool {
        self.keys
            .iter()
            .enumerate()
            .any(|(index, key)| self.keys.iter().skip(index + 1).any(|other| other.id() == key.id()))
    }
}

/// A key as it is written. No `Debug`: it would show the key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a key: `id`, and `key` or `file`")]
struct Written {
    id: String,
    #[serde(default)]
    key: Option<String>,
    #[serde(default, deserialize_with = "checked::file_unless_blank")]
    file: Option<PathBuf>,
}

/// A key that was read, from its file if need be: so `--check` knows whether it is there.
struct Read(SealingKey);

#[derive(Debug, thiserror::Error)]
enum KeyError {
    #[error("a key needs either `key` or `file`")]
    NotOne,
    #[error("the file of a key cannot be read: {0}")]
    File(#[from] io::Error),
    #[error(transparent)]
    Key(#[from] SealingKeyError),
}

impl TryFrom<Written> for Read {
    type Error = KeyError;

    fn try_from(Written { id, key, file }: Written) -> Result<Self, KeyError> {
        let key = match (key, file) {
            (Some(key), None) => key,
            (None, Some(file)) => fs::read_to_string(file)?,
            (None, None) | (Some(_), Some(_)) => return Err(KeyError::NotOne),
        };
        Ok(Self(SealingKey::new(&id, &key)?))
    }
}

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Key;

        impl<'de> Visitor<'de> for Key {
            type Value = Read;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a key: `id`, and `key` or `file`")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Read, A::Error> {
                Written::deserialize(MapAccessDeserializer::new(members))?.try_into().map_err(A::Error::custom)
            }

            // A text is the key itself, one level too high: it is not repeated.
            fn visit_str<E: Error>(self, _: &str) -> Result<Read, E> {
                Err(E::custom("must be a mapping: `id`, and `key` or `file`"))
            }
        }

        deserializer.deserialize_any(Key)
    }
}

fn keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SealingKey>, D::Error> {
    struct Keys;

    impl<'de> Visitor<'de> for Keys {
        type Value = Vec<SealingKey>;

        fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
            formatter.write_str("a list of keys")
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut written: A) -> Result<Self::Value, A::Error> {
            let mut keys = Vec::new();
            while let Some(Read(key)) = written.next_element()? {
                keys.push(key);
            }
            Ok(keys)
        }

        // A text is a key without its id: it is not repeated.
        fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
            Err(E::custom("must be a list of keys"))
        }
    }

    deserializer.deserialize_any(Keys)
}
