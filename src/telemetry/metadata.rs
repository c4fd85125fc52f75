//! What Envoy is told of an exchange as dynamic metadata: its access log can print it, its rate limits can count it.

use std::time::Duration;

use super::facts::{Ending, Facts, Stored, UpstreamError};

/// A value of the metadata.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// Text.
    Text(&'a str),
    /// A number; all that `google.protobuf.Value` has is a double.
    Number(f64),
    /// True or false.
    Flag(bool),
}

/// Tells `put` each key that Envoy was not told yet, and its value. What does not apply, or is not known yet, has no key;
/// Envoy keeps what it was told before, so what an admitted request settles is said once.
pub fn entries(facts: &Facts, mut put: impl FnMut(&'static str, Value<'_>)) {
    if !facts.introduced {
        introduction(facts, &mut put);
    }
    let mut text = |key, value: Option<&str>| {
        if let Some(value) = value {
            put(key, Value::Text(value));
        }
    };
    // While it goes on, it has no other word, and this is what stays if it never says one: the client is gone.
    text("outcome", Some(facts.ending.map_or("in_progress", Ending::as_str)));
    text("stored", (facts.stored != Stored::NotAsked).then(|| facts.stored.as_str()));
    text("reason", facts.reason);
    text("error_code", facts.error_code);
    text("upstream_error", facts.upstream_error.map(UpstreamError::as_str));
    let mut number = |key, value: Option<f64>| {
        if let Some(value) = value {
            put(key, Value::Number(value));
        }
    };
    if let Some(usage) = facts.usage {
        number("input_tokens", Some(whole(usage.input_tokens)));
        number("output_tokens", Some(whole(usage.output_tokens)));
        number("cached_tokens", Some(whole(usage.input_tokens_details.cached_tokens)));
        number("reasoning_tokens", Some(whole(usage.output_tokens_details.reasoning_tokens)));
        number("total_tokens", Some(whole(usage.total_tokens)));
    }
    number("ttft_ms", facts.first_token.map(milliseconds));
    number("store_ms", (!facts.store_time.is_zero()).then(|| milliseconds(facts.store_time)));
}

/// What does not change any more once a request was admitted.
fn introduction(facts: &Facts, mut put: impl FnMut(&'static str, Value<'_>)) {
    let mut text = |key, value: Option<&str>| {
        if let Some(value) = value {
            put(key, Value::Text(value));
        }
    };
    text("route", Some(facts.route));
    text("response_id", facts.response_id.as_ref().map(|id| id.as_str()));
    text("previous_response_id", facts.previous_response_id.as_ref().map(|id| id.as_str()));
    text("tenant", facts.tenant.map(|tenant| tenant.short()).as_deref());
    text("model", facts.model.as_deref());
    text("lossy", facts.lossy.header().as_deref());
    if facts.route == "create" {
        put("stream", Value::Flag(facts.stream));
    }
    if let Some(chain) = facts.chain {
        put("chain_length", Value::Number(whole(chain.length as u64)));
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53, and no count of ours comes near")]
fn whole(number: u64) -> f64 {
    number as f64
}

/// In thousandths of a second, to the microsecond.
pub(super) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
