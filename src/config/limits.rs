//! The `limits` and `stream` blocks: what bounds an exchange, and its heartbeat.

use std::num::NonZeroU64;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{checked, shown};
use crate::openai::json_bounds::JsonBounds;
use crate::translate::settings::{RequestBounds, Settings};

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
    /// The most events of an upstream's stream. Default: 1000000.
    #[serde(deserialize_with = "checked::at_least_one")]
    pub max_stream_events: usize,
    /// The most bytes of one tool call's arguments. Default: 8388608, 8 MiB.
    #[serde(deserialize_with = "checked::at_least_one")]
    pub max_argument_bytes: usize,
    /// The most objects and lists within each other in a request's body; beyond, 400. At most 128. Default: 128.
    #[serde(deserialize_with = "checked::json_depth")]
    pub max_json_depth: usize,
    /// The most values in a request's body, at all depths together; beyond, 400. Default: 500000.
    #[serde(deserialize_with = "checked::at_least_one")]
    pub max_json_values: usize,
    /// The most items of `input`; beyond, 400. Default: 16384.
    #[serde(deserialize_with = "checked::at_least_one")]
    pub max_input_items: usize,
    /// The most tools, those within namespaces and within input items included; beyond, 400. Default: 1024.
    #[serde(deserialize_with = "checked::at_least_one")]
    pub max_tools: usize,
    /// The most pairs of `metadata`; beyond, 400. Default: 16.
    #[serde(deserialize_with = "checked::at_least_one")]
    pub max_metadata_pairs: usize,
    /// The most characters of a key of `metadata`; beyond, 400. Default: 64.
    #[serde(deserialize_with = "checked::at_least_one")]
    pub max_metadata_key_chars: usize,
    /// The most characters of a value of `metadata`; beyond, 400. Default: 512.
    #[serde(deserialize_with = "checked::at_least_one")]
    pub max_metadata_value_chars: usize,
    /// The most exchanges that live at once; a further one is a 503. Default: 10000.
    #[serde(deserialize_with = "checked::at_least_one")]
    pub max_live_exchanges: usize,
    /// The most bytes that all exchanges hold together of requests and answers; while there are more, requests are a
    /// 503. At least `max_request_bytes`. Default: 536870912, 512 MiB.
    #[serde(deserialize_with = "checked::at_least_one")]
    pub max_buffered_bytes: usize,
    /// The most turns of a conversation that are loaded; beyond, 400. Default: 1000.
    #[serde(deserialize_with = "checked::at_least_one")]
    pub max_chain_depth: usize,
    /// The most bytes of history that are loaded; beyond, 400. Default: 67108864, 64 MiB.
    #[serde(deserialize_with = "checked::at_least_one")]
    pub max_history_bytes: usize,
    /// `request_body_seconds`: how long a client may take to send its body. Whole seconds. Default: 60.
    #[serde(deserialize_with = "checked::seconds", serialize_with = "shown::seconds")]
    pub request_body_seconds: Duration,
    /// The bytes of a body that must come each second on average, 10 seconds after its beginning; slower, 408. 0 is off,
    /// which is `None`. Default: 1024.
    #[serde(deserialize_with = "checked::number_or_off", serialize_with = "shown::number_or_off")]
    pub request_body_bytes_per_second: Option<NonZeroU64>,
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
            max_stream_events: settings.max_stream_events,
            max_argument_bytes: settings.max_argument_bytes,
            max_json_depth: settings.request.json.max_depth,
            max_json_values: settings.request.json.max_values,
            max_input_items: settings.request.max_input_items,
            max_tools: settings.request.max_tools,
            max_metadata_pairs: settings.request.max_metadata_pairs,
            max_metadata_key_chars: settings.request.max_metadata_key_chars,
            max_metadata_value_chars: settings.request.max_metadata_value_chars,
            max_live_exchanges: 10_000,
            max_buffered_bytes: 512 * 1024 * 1024,
            max_chain_depth: 1000,
            max_history_bytes: 64 * 1024 * 1024,
            request_body_seconds: Duration::from_secs(60),
            request_body_bytes_per_second: NonZeroU64::new(1024),
            exchange_seconds: Duration::from_secs(60 * 60),
        }
    }
}

impl Limits {
    /// What bounds a request beside its bytes.
    pub(super) fn request(&self) -> RequestBounds {
        RequestBounds {
            json: JsonBounds { max_depth: self.max_json_depth, max_values: self.max_json_values },
            max_input_items: self.max_input_items,
            max_tools: self.max_tools,
            max_metadata_pairs: self.max_metadata_pairs,
            max_metadata_key_chars: self.max_metadata_key_chars,
            max_metadata_value_chars: self.max_metadata_value_chars,
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
