//! Keys: those that seal reasoning for clients that carry it (`response_api.reasoning_encryption`), those that seal
//! records at rest (`response_api.encryption`), and the one of `tenancy.authorization`. Each stands in the config, or in a
//! file that is read with it.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::{checked, shown};
use crate::sealing::{IdentityKey, SealingKey, SealingKeyError};

/// The `reasoning_encryption` block.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping of the reasoning_encryption settings")]
pub struct ReasoningEncryption {
    /// The first seals, all open. Each has an `id` and either `key` (base64 of 32 bytes) or `file` (one that holds
    /// that). Default: none, which leaves `reasoning.encrypted_content` out.
    #[serde(deserialize_with = "keys", serialize_with = "shown::keys")]
    pub keys: Vec<SealingKey>,
}

/// The `encryption` block.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping of the encryption settings")]
pub struct Encryption {
    /// As in [`ReasoningEncryption`], for the records that the disk store and Redis keep. Default: none, which keeps them
    /// as they are.
    #[serde(deserialize_with = "keys", serialize_with = "shown::keys")]
    pub keys: Vec<SealingKey>,
    /// Whether records that are not encrypted are errors instead of being read. Default: false.
    pub required: bool,
}

/// Whether two keys have one id, so that one of them could never open.
pub(super) fn repeat_an_id(keys: &[SealingKey]) -> bool {
    let repeated = |(index, key): (usize, &SealingKey)| keys.iter().skip(index + 1).any(|other| other.id() == key.id());
    keys.iter().enumerate().any(repeated)
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

/// The same without an id.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a mapping: `key` or `file`")]
struct WrittenNameless {
    #[serde(default)]
    key: Option<String>,
    #[serde(default, deserialize_with = "checked::file_unless_blank")]
    file: Option<PathBuf>,
}

/// A key that was read.
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
        Ok(Self(SealingKey::new(&id, &text(key, file)?)?))
    }
}

/// The text of a key, read from its file if need be: so `--check` knows whether it is there.
fn text(key: Option<String>, file: Option<PathBuf>) -> Result<String, KeyError> {
    match (key, file) {
        (Some(key), None) => Ok(key),
        (None, Some(file)) => Ok(fs::read_to_string(file)?),
        (None, None) | (Some(_), Some(_)) => Err(KeyError::NotOne),
    }
}

/// The key of `tenancy.authorization`; null is none.
pub(super) fn identity_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IdentityKey>, D::Error> {
    struct Key;

    impl<'de> Visitor<'de> for Key {
        type Value = Option<IdentityKey>;

        fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
            formatter.write_str("a mapping: `key` or `file`")
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Self::Value, A::Error> {
            let WrittenNameless { key, file } = WrittenNameless::deserialize(MapAccessDeserializer::new(members))?;
            let text = text(key, file).map_err(A::Error::custom)?;
            IdentityKey::new(&text).map(Some).map_err(A::Error::custom)
        }

        // A text is the key itself, one level too high: it is not repeated.
        fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
            Err(E::custom("must be a mapping: `key` or `file`"))
        }
    }

    deserializer.deserialize_any(Key)
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
