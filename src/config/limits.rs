//! The `limits` and `stream` blocks: what bounds an exchange, and its heartbeat.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{checked, shown};
use crate::translate::settings::Settings;

/// The `limits` block. Each is at least 1.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping of the limits")]
pub struct Limits {
    /// The most bytes of a request's body, before and after decoding; beyond, 413. Default: 33554432, 32 MiB.
    #[serde(deserialize_with = "checked::at_least_one")]
    pub max_request_bytes: usize,
    /// The most bytes of an upstream's answer, and of the text gathered from its stream. Default: 67108864, 64 MiB.
    #[serde(deserialize_with = "checked::at_least_one")]
    pub max_answer_bytes: usize,
    /// The most bytes of one SSE frame of the upstream. Default: 8388608, 8 MiB.
    #[serde(deserialize_with = "checked::at_least_one")]
    pub max_sse_frame_bytes: usize,
    /// The most turns of a conversation that are loaded; beyond, 400. Default: 1000.
    #[serde(deserialize_with = "checked::at_least_one")]
    pub max_chain_depth: usize,
    /// The most bytes of history that are loaded; beyond, 400. Default: 67108864, 64 MiB.
    #[serde(deserialize_with = "checked::at_least_one")]
    pub max_history_bytes: usize,
    /// `request_body_seconds`: how long a client may take to send its body. Whole seconds. Default: 60.
    #[serde(deserialize_with = "checked::seconds", serialize_with = "shown::seconds")]
    pub request_body_seconds: Duration,
    /// `exchange_seconds`: how long an exchange may take from end to end. Whole seconds. Default: 3600.
    #[serde(deserialize_with = "checked::seconds", serialize_with = "shown::seconds")]
    pub exchange_seconds: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let settings = Settings::default();
        Limits {
            max_request_bytes: 32 * 1024 * 1024,
            max_answer_bytes: settings.max_answer_bytes,
            max_sse_frame_bytes: settings.max_sse_frame_bytes,
            max_chain_depth: 1000,
            max_history_bytes: 64 * 1024 * 1024,
            request_body_seconds: Duration::from_secs(60),
            exchange_seconds: Duration::from_secs(60 * 60),
        }
    }
}

/// The `stream` block.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping of the stream settings")]
pub struct Stream {
    /// `heartbeat_seconds`: after so much silence a stream repeats `response.in_progress`. Whole seconds; 0 is off,
    /// which is `None`. Default: 15.
    #[serde(deserialize_with = "checked::seconds_or_off", serialize_with = "shown::seconds_or_off")]
    pub heartbeat_seconds: Option<Duration>,
}

impl Default for Stream {
    fn default() -> Self {
        Stream { heartbeat_seconds: Some(Duration::from_secs(15)) }
    }
}
