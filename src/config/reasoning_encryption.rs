//! The `response_api.reasoning_encryption` block: the keys that seal reasoning for clients that carry it.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::Deserializer;

use super::checked;
use crate::sealing::{SealingKey, SealingKeyError};

/// The `reasoning_encryption` block.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping of the reasoning_encryption settings")]
pub struct ReasoningEncryption {
    /// The first seals, all open. Each has an `id` and either `key` (base64 of 32 bytes) or `file` (one that holds
    /// that). Default: none, which leaves `reasoning.encrypted_content` out.
    #[serde(deserialize_with = "keys")]
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
#[derive(Deserialize)]
#[serde(try_from = "Written")]
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

fn keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SealingKey>, D::Error> {
    let keys = Option::<Vec<Read>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(keys.into_iter().map(|Read(key)| key).collect())
}
