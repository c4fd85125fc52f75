//! The `response_api.disk` block.

use std::num::NonZeroU64;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{checked, shown};

/// Where the disk store is, and its bounds.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping of the disk settings")]
pub struct Disk {
    /// The file; relative to the working directory. Its directory has to be there. Default: `responses.redb`.
    #[serde(deserialize_with = "checked::file")]
    pub path: PathBuf,
    /// The most bytes of records; beyond, none are taken until others are deleted or expire. Free pages of the file come
    /// on top. 0 is as many as the disk holds. Default: 0.
    #[serde(deserialize_with = "checked::number_or_off", serialize_with = "shown::number_or_off")]
    pub max_bytes: Option<NonZeroU64>,
    /// The most bytes of the file that are kept in memory, at least 1. Default: 67108864, 64 MiB.
    #[serde(deserialize_with = "checked::at_least_one")]
    pub cache_bytes: usize,
}

impl Default for Disk {
    fn default() -> Self {
        Disk { path: "responses.redb".into(), max_bytes: None, cache_bytes: 64 * 1024 * 1024 }
    }
}
