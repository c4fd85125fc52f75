//! What Envoy is told of an exchange as dynamic metadata: its access log can print it, its rate limits can count it.

use std::str::FromStr;
use std::time::Duration;

use super::facts::{Facts, Stored, UpstreamError};

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

/// Declares the keys with their spelling.
macro_rules! keys {
    ($($(#[doc = $doc:literal])+ $name:ident = $spelt:literal,)+) => {
        /// What can be told of an exchange.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Key {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Key {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// As Envoy and the config have it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $spelt,)+
                }
            }
        }
    };
}

keys! {
    /// Which operation of the API it was.
    Route = "route",
    /// The response's id, whole.
    ResponseId = "response_id",
    /// The id of the turn before.
    PreviousResponseId = "previous_response_id",
    /// Whose it is: the first eight digits of the digest of the tenant's name.
    Tenant = "tenant",
    /// The model, as the client wrote it.
    Model = "model",
    /// What of the request was skipped.
    Lossy = "lossy",
    /// Whether a stream was asked for.
    Stream = "stream",
    /// How many turns came before.
    ChainLength = "chain_length",
    /// How it ended; nothing while it goes on.
    Outcome = "outcome",
    /// What became of the record.
    Stored = "stored",
    /// What became of the record, if there was a response to store and it is not stored as it should be.
    NotStored = "not_stored",
    /// Why the response is incomplete.
    Reason = "reason",
    /// The code of the error that the client got.
    ErrorCode = "error_code",
    /// The kind of the upstream's error.
    UpstreamError = "upstream_error",
    /// Tokens of the prompt.
    InputTokens = "input_tokens",
    /// Tokens of the answer.
    OutputTokens = "output_tokens",
    /// Those of the prompt that the upstream had cached.
    CachedTokens = "cached_tokens",
    /// Those of the answer that were spent on reasoning.
    ReasoningTokens = "reasoning_tokens",
    /// Prompt and answer together.
    TotalTokens = "total_tokens",
    /// Milliseconds to the first content of a stream.
    TtftMs = "ttft_ms",
    /// Milliseconds waited for the store.
    StoreMs = "store_ms",
}

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let key = Self::ALL.iter().copied().find(|key| key.as_str() == text);
        key.ok_or_else(|| {
            let all: Vec<_> = Self::ALL.iter().map(|key| key.as_str()).collect();
            format!("must be one of {}", all.join(", "))
        })
    }
}

/// Which keys Envoy is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys(u32);

impl Keys {
    /// Those without which an access log does not tell what happened. Each costs Envoy about a hundredth of what a small
    /// exchange with a processor costs it (`docs/performance.md`), so what fewer need, or what its own log knows, is left to
    /// those who ask for it.
    pub const USUAL: &[Key] = &[
        Key::ResponseId,
        Key::Tenant,
        Key::Lossy,
        Key::ChainLength,
        Key::Outcome,
        Key::NotStored,
        Key::Reason,
        Key::ErrorCode,
        Key::UpstreamError,
        Key::InputTokens,
        Key::OutputTokens,
        Key::TtftMs,
    ];

    /// These.
    #[must_use]
    pub fn of(keys: &[Key]) -> Self {
        Self(keys.iter().fold(0, |all, key| all | 1 << *key as u32))
    }

    fn has(self, key: Key) -> bool {
        self.0 & (1 << key as u32) != 0
    }
}

/// Tells `put` each of these keys that Envoy was not told yet, and its value. What does not apply, or is not known yet, has
/// no key; Envoy keeps what it was told before.
///
/// A message with metadata costs Envoy as much as another key, so with the request goes what a filter behind the router may
/// decide by, and what the log would lack if a stream broke off. All else goes with the last message.
pub fn entries(facts: &Facts, keys: Keys, mut put: impl FnMut(Key, Value<'_>)) {
    let begins = !facts.introduced;
    if begins {
        request(facts, keys, &mut put);
    }
    if (begins && facts.stream) || (facts.ending.is_some() && !facts.stream) {
        response(facts, keys, &mut put);
    }
    let Some(ending) = facts.ending else { return };
    text(keys, &mut put, Key::Outcome, Some(ending.as_str()));
    let stored = Some(facts.stored).filter(|stored| *stored != Stored::NotAsked);
    text(keys, &mut put, Key::Stored, stored.map(Stored::as_str));
    let not_stored = stored.filter(|stored| !matches!(stored, Stored::Stored | Stored::Due));
    text(keys, &mut put, Key::NotStored, not_stored.map(Stored::as_str));
    text(keys, &mut put, Key::Reason, facts.reason);
    text(keys, &mut put, Key::ErrorCode, facts.error_code);
    text(keys, &mut put, Key::UpstreamError, facts.upstream_error.map(UpstreamError::as_str));
    if let Some(usage) = facts.usage {
        number(keys, &mut put, Key::InputTokens, Some(whole(usage.input_tokens)));
        number(keys, &mut put, Key::OutputTokens, Some(whole(usage.output_tokens)));
        number(keys, &mut put, Key::CachedTokens, Some(whole(usage.input_tokens_details.cached_tokens)));
        number(keys, &mut put, Key::ReasoningTokens, Some(whole(usage.output_tokens_details.reasoning_tokens)));
        number(keys, &mut put, Key::TotalTokens, Some(whole(usage.total_tokens)));
    }
    number(keys, &mut put, Key::TtftMs, facts.first_token.map(milliseconds));
    number(keys, &mut put, Key::StoreMs, (!facts.store_time.is_zero()).then(|| milliseconds(facts.store_time)));
}

/// What was asked, and by whom.
fn request(facts: &Facts, keys: Keys, put: &mut impl FnMut(Key, Value<'_>)) {
    text(keys, put, Key::Route, Some(facts.route));
    let parent = facts.previous_response_id.as_ref();
    text(keys, put, Key::PreviousResponseId, parent.map(|id| id.as_str()));
    text(keys, put, Key::Tenant, facts.tenant.map(|tenant| tenant.short()).as_deref());
    text(keys, put, Key::Model, facts.model.as_deref());
    if facts.route == "create" && keys.has(Key::Stream) {
        put(Key::Stream, Value::Flag(facts.stream));
    }
}

/// What is known of the response when its request was admitted, and does not change any more.
fn response(facts: &Facts, keys: Keys, put: &mut impl FnMut(Key, Value<'_>)) {
    text(keys, put, Key::ResponseId, facts.response_id.as_ref().map(|id| id.as_str()));
    text(keys, put, Key::Lossy, facts.lossy.header().as_deref());
    number(keys, put, Key::ChainLength, facts.chain.map(|chain| whole(chain.length as u64)));
}

fn text(keys: Keys, put: &mut impl FnMut(Key, Value<'_>), key: Key, value: Option<&str>) {
    if let Some(value) = value.filter(|_| keys.has(key)) {
        put(key, Value::Text(value));
    }
}

fn number(keys: Keys, put: &mut impl FnMut(Key, Value<'_>), key: Key, value: Option<f64>) {
    if let Some(value) = value.filter(|_| keys.has(key)) {
        put(key, Value::Number(value));
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
