//! The `response_api` block: what is offered and where responses are kept. Its names are the guide's.

use std::num::NonZeroU64;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::keys::{Encryption, ReasoningEncryption};
use super::redis::Redis;
use super::{checked, shown};
use crate::openai::dialect::DialectName;
use crate::translate::settings::UnsupportedTools;

/// The `response_api` block.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping of the response_api settings")]
pub struct ResponseApi {
    /// Whether the Responses API is offered at all. Default: true.
    pub enabled: bool,
    /// How clients are spoken to: `openai`, `open_responses` or `semantic_router`. Default: openai.
    pub dialect: DialectName,
    /// Where responses are kept. Default: memory.
    pub store_backend: StoreBackend,
    /// `ttl_seconds`: how long a response is kept after its last use. Whole seconds, 1 to 100 years. Default: 86400, a
    /// day.
    #[serde(deserialize_with = "checked::seconds", serialize_with = "shown::seconds")]
    pub ttl_seconds: Duration,
    /// The most responses in the memory store, at least 1; the least recently used go first. Default: 10000.
    #[serde(deserialize_with = "checked::at_least_one")]
    pub max_responses: NonZeroU64,
    /// The most bytes in the memory store, at least 1; the least recently used go first. Default: 268435456, 256 MiB.
    #[serde(deserialize_with = "checked::at_least_one")]
    pub max_memory_bytes: u64,
    /// What becomes of a request whose response cannot be stored. Default: fail.
    pub on_store_error: OnStoreError,
    /// `store_deadline_ms`: the longest that one store operation may take. Whole milliseconds, at least 1. Default:
    /// 5000.
    #[serde(deserialize_with = "checked::milliseconds", serialize_with = "shown::milliseconds")]
    pub store_deadline_ms: Duration,
    /// What becomes of tools that only their provider could run. Default: skip.
    pub unsupported_tools: UnsupportedTools,
    /// What stands before `/v1/responses` in the path, such as `/openai`: empty, or it begins and does not end with a
    /// slash. Default: empty.
    #[serde(deserialize_with = "checked::url_prefix")]
    pub path_prefix: String,
    /// The keys that seal reasoning for clients that carry it.
    pub reasoning_encryption: ReasoningEncryption,
    /// The keys that seal responses where they are kept.
    pub encryption: Encryption,
    /// The disk store's file; used when `store_backend` is `disk`, checked always.
    pub disk: Disk,
    /// How to reach Redis; used when `store_backend` is `redis`, checked always.
    pub redis: Redis,
}

impl Default for ResponseApi {
    fn default() -> Self {
        ResponseApi {
            enabled: true,
            dialect: DialectName::default(),
            store_backend: StoreBackend::default(),
            ttl_seconds: Duration::from_secs(24 * 60 * 60),
            max_responses: const { NonZeroU64::new(10_000).unwrap() },
            max_memory_bytes: 256 * 1024 * 1024,
            on_store_error: OnStoreError::default(),
            store_deadline_ms: Duration::from_secs(5),
            unsupported_tools: UnsupportedTools::default(),
            path_prefix: String::new(),
            reasoning_encryption: ReasoningEncryption::default(),
            encryption: Encryption::default(),
            disk: Disk::default(),
            redis: Redis::default(),
        }
    }
}

/// Where responses are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", expecting = "memory, disk or redis")]
pub enum StoreBackend {
    /// In this process, until it ends.
    #[default]
    Memory,
    /// In one file of this machine.
    Disk,
    /// In Redis, shared by all replicas.
    Redis,
}

impl StoreBackend {
    /// Its name in the config.
    pub fn as_str(self) -> &'static str {
        match self {
            StoreBackend::Memory => "memory",
            StoreBackend::Disk => "disk",
            StoreBackend::Redis => "redis",
        }
    }
}

/// What becomes of a request whose response cannot be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", expecting = "fail or degrade")]
pub enum OnStoreError {
    /// It fails: 503, or response.failed in a stream. The client is never told of a response that is not there.
    #[default]
    Fail,
    /// It is answered with `"store": false`.
    Degrade,
}
