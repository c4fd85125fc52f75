//! What exchanges count: derived from their facts when they have ended, but for what is seen as it happens.

use std::hash::Hash;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::gen_ai::GenAi;
use crate::telemetry::facts::{BODY_REFUSED, CHAIN_MISSING, CODES, Ending, Facts, UpstreamError};

/// A kind of ext_proc message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The request line and headers.
    RequestHeaders,
    /// A piece of the request body.
    RequestBody,
    /// The request trailers.
    RequestTrailers,
    /// The status line and headers.
    ResponseHeaders,
    /// A piece of the response body.
    ResponseBody,
    /// The response trailers.
    ResponseTrailers,
    /// An answer of ours in one message.
    Immediate,
    /// A part of a streamed answer of ours.
    StreamedImmediate,
}

impl Phase {
    const ALL: [Self; 8] = [
        Self::RequestHeaders,
        Self::RequestBody,
        Self::RequestTrailers,
        Self::ResponseHeaders,
        Self::ResponseBody,
        Self::ResponseTrailers,
        Self::Immediate,
        Self::StreamedImmediate,
    ];

    /// How many of them Envoy sends, too: the first ones.
    const OF_ENVOY: usize = 6;

    const FROM_ENVOY: [Self; Self::OF_ENVOY] = [
        Self::RequestHeaders,
        Self::RequestBody,
        Self::RequestTrailers,
        Self::ResponseHeaders,
        Self::ResponseBody,
        Self::ResponseTrailers,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::RequestHeaders => "request_headers",
            Self::RequestBody => "request_body",
            Self::RequestTrailers => "request_trailers",
            Self::ResponseHeaders => "response_headers",
            Self::ResponseBody => "response_body",
            Self::ResponseTrailers => "response_trailers",
            Self::Immediate => "immediate",
            Self::StreamedImmediate => "streamed_immediate",
        }
    }
}

/// Upper bounds in seconds of whole exchanges, and of what comes first of a stream.
const SECONDS: [f64; 18] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];

/// Upper bounds in seconds of the time from token to token.
const TOKEN_SECONDS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5];

/// Upper bounds in seconds of the waits for the store in one exchange.
const STORE_SECONDS: [f64; 11] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Upper bounds in turns.
const TURNS: [f64; 11] = [0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0];

/// Upper bounds in bytes.
const BYTES: [f64; 10] =
    [1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0, 67_108_864.0, 268_435_456.0];

/// The types of tokens.
const TOKENS: [&str; 4] = ["input", "output", "cached", "reasoning"];

/// The types of tools that clients are known to send; all others are `other`.
const TOOL_TYPES: [&str; 12] = [
    "apply_patch",
    "code_interpreter",
    "computer",
    "computer_use_preview",
    "file_search",
    "image_generation",
    "local_shell",
    "mcp",
    "shell",
    "tool_search",
    "web_search",
    "web_search_preview",
];

/// The metrics of exchanges.
#[derive(Debug)]
pub struct Exchanges {
    live: Gauge,
    requests: Family<Request, Counter>,
    duration: Family<Asked, Histogram, fn() -> Histogram>,
    first_event: Histogram,
    per_token: Histogram,
    /// Counters of every exchange are found without a search.
    tokens: [Counter; TOKENS.len()],
    errors: Family<Code, Counter>,
    upstream_errors: Family<Class, Counter>,
    stream_terminal: Family<Terminal, Counter>,
    stream_events: Counter,
    heartbeats: Counter,
    translation_lossy: Family<What, Counter>,
    unsupported_tool: Family<Type, Counter>,
    usage_missing: Counter,
    store_time: Histogram,
    chain_length: Histogram,
    chain_bytes: Histogram,
    chain_missing: Family<Reason, Counter>,
    body_refused: Family<Reason, Counter>,
    /// One counter per phase, found without a search: these count every message.
    received: [Counter; Phase::OF_ENVOY],
    sent: [Counter; Phase::ALL.len()],
    gen_ai: GenAi,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    route: &'static str,
    outcome: &'static str,
    /// 0 when no status was sent.
    code: u16,
    stream: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    route: &'static str,
    stream: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct What {
    what: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Terminal {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Type {
    r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Class {
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Message {
    direction: &'static str,
    phase: &'static str,
}

impl Exchanges {
    /// Registers the metrics, those of closed sets at zero, so that the first rise of each is seen.
    pub(super) fn register(registry: &mut Registry, gen_ai: GenAi) -> Self {
        let messages = Family::<Message, Counter>::default();
        let counter =
            |direction, phase: Phase| messages.get_or_create_owned(&Message { direction, phase: phase.as_str() });
        let tokens = Family::<Type, Counter>::default();
        let metrics = Self {
            live: Gauge::default(),
            requests: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            first_event: Histogram::new(SECONDS),
            per_token: Histogram::new(TOKEN_SECONDS),
            tokens: TOKENS.map(|r#type| tokens.get_or_create_owned(&Type { r#type })),
            errors: zeros(CODES.map(|code| Code { code })),
            upstream_errors: zeros(UpstreamError::ALL.map(|class| Class { class: class.as_str() })),
            stream_terminal: zeros(Ending::OF_STREAMS.map(|ending| Terminal { outcome: ending.as_str() })),
            stream_events: Counter::default(),
            heartbeats: Counter::default(),
            translation_lossy: Family::default(),
            unsupported_tool: zeros([Type { r#type: "other" }]),
            usage_missing: Counter::default(),
            store_time: Histogram::new(STORE_SECONDS),
            chain_length: Histogram::new(TURNS),
            chain_bytes: Histogram::new(BYTES),
            chain_missing: zeros(CHAIN_MISSING.map(|reason| Reason { reason })),
            body_refused: zeros(BODY_REFUSED.map(|reason| Reason { reason })),
            received: Phase::FROM_ENVOY.map(|phase| counter("in", phase)),
            sent: Phase::ALL.map(|phase| counter("out", phase)),
            gen_ai,
        };
        metrics.print_in(registry);
        registry.register("tokens", "Tokens that upstreams reported, by type", tokens);
        registry.register("ext_proc_messages", "ext_proc messages, by direction and phase", messages);
        metrics
    }

    fn print_in(&self, registry: &mut Registry) {
        registry.register("exchanges_live", "Exchanges going on", self.live.clone());
        registry.register("requests", "Exchanges that ended", self.requests.clone());
        registry.register("request_duration_seconds", "How long exchanges took", self.duration.clone());
        registry.register(
            "time_to_first_event_seconds",
            "Time to the first event of a stream",
            self.first_event.clone(),
        );
        registry.register(
            "time_per_output_token_seconds",
            "Time between two tokens of a stream, on average over its output tokens",
            self.per_token.clone(),
        );
        registry.register("errors", "Errors that clients were told, by code", self.errors.clone());
        registry.register("upstream_errors", "What upstreams did wrong, by class", self.upstream_errors.clone());
        registry.register("stream_terminal", "Ends of streams, by outcome", self.stream_terminal.clone());
        registry.register("stream_events", "Events of streams", self.stream_events.clone());
        registry.register("heartbeat", "Heartbeats sent on silent streams", self.heartbeats.clone());
        registry.register(
            "translation_lossy",
            "Parts of requests that were skipped, by kind",
            self.translation_lossy.clone(),
        );
        registry.register("unsupported_tool", "Tools that were skipped, by type", self.unsupported_tool.clone());
        registry.register("usage_missing", "Answers without token counts", self.usage_missing.clone());
        registry.register("exchange_store_seconds", "Waits for the store in one exchange", self.store_time.clone());
        registry.register("chain_length", "Turns before the one that continues them", self.chain_length.clone());
        registry.register("chain_bytes", "Bytes of histories", self.chain_bytes.clone());
        registry.register("chain_missing", "Histories that are not there, by reason", self.chain_missing.clone());
        registry.register("body_refused", "Request bodies that were not used, by reason", self.body_refused.clone());
    }

    /// Counts an exchange that begins.
    pub(crate) fn begun(&self) {
        self.live.inc();
    }

    /// Counts a message from Envoy.
    pub(crate) fn received(&self, phase: Phase) {
        if let Some(counter) = self.received.get(phase as usize) {
            counter.inc();
        }
    }

    /// Counts a message to Envoy.
    pub(crate) fn sent(&self, phase: Phase) {
        if let Some(counter) = self.sent.get(phase as usize) {
            counter.inc();
        }
    }

    /// Counts a heartbeat.
    pub(crate) fn heartbeat(&self) {
        self.heartbeats.inc();
    }

    /// Counts all that is known of an exchange that has ended.
    pub(crate) fn ended(&self, facts: &Facts) {
        self.live.dec();
        let (route, stream) = (facts.route, facts.stream);
        let outcome = facts.ending.map_or("unknown", Ending::as_str);
        let code = facts.status.unwrap_or_default();
        self.requests.get_or_create(&Request { route, outcome, code, stream }).inc();
        self.duration.get_or_create(&Asked { route, stream }).observe(facts.duration.as_secs_f64());
        if let Some(code) = facts.error_code {
            self.errors.get_or_create(&Code { code }).inc();
        }
        if let Some(class) = facts.upstream_error {
            self.upstream_errors.get_or_create(&Class { class: class.as_str() }).inc();
        }
        if let Some(time) = facts.first_event {
            self.first_event.observe(time.as_secs_f64());
            self.stream_terminal.get_or_create(&Terminal { outcome }).inc();
            self.stream_events.inc_by(facts.events);
        }
        if let Some(time) = facts.time_per_output_token() {
            self.per_token.observe(time.as_secs_f64());
        }
        self.tokens(facts);
        self.request(facts);
        self.gen_ai.ended(facts);
    }

    /// What the upstream reported; nothing is added when it reported nothing.
    fn tokens(&self, facts: &Facts) {
        if facts.usage_missing {
            self.usage_missing.inc();
        }
        let Some(usage) = facts.usage else { return };
        let counts = [
            usage.input_tokens,
            usage.output_tokens,
            usage.input_tokens_details.cached_tokens,
            usage.output_tokens_details.reasoning_tokens,
        ];
        for (counter, count) in self.tokens.iter().zip(counts) {
            counter.inc_by(count);
        }
    }

    /// What the request was like, and its history.
    fn request(&self, facts: &Facts) {
        for skipped in facts.lossy.iter() {
            self.translation_lossy.get_or_create(&What { what: skipped.what }).inc();
            if skipped.what == "tool_type" {
                self.unsupported_tool.get_or_create(&Type { r#type: tool_type(&skipped.detail) }).inc();
            }
        }
        if !facts.store_time.is_zero() {
            self.store_time.observe(facts.store_time.as_secs_f64());
        }
        #[expect(clippy::cast_precision_loss, reason = "a histogram counts in floating point")]
        if let Some(chain) = facts.chain {
            self.chain_length.observe(chain.length as f64);
            self.chain_bytes.observe(chain.bytes as f64);
        }
        if let Some(reason) = facts.chain_missing {
            self.chain_missing.get_or_create(&Reason { reason }).inc();
        }
        if let Some(reason) = facts.body_refused {
            self.body_refused.get_or_create(&Reason { reason }).inc();
        }
    }
}

/// A family whose counters are there before they count.
pub(super) fn zeros<L: Clone + Eq + Hash>(labels: impl IntoIterator<Item = L>) -> Family<L, Counter> {
    let family = Family::<L, Counter>::default();
    for labels in labels {
        drop(family.get_or_create(&labels));
    }
    family
}

/// The type of a tool, if it is known, with or without a date behind it as in `web_search_2025_08_26`.
fn tool_type(named: &str) -> &'static str {
    let is = |known: &str| named.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with("_20"));
    TOOL_TYPES.into_iter().find(|known| is(known)).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_tools_are_a_closed_set() {
        assert_eq!(tool_type("web_search"), "web_search");
        assert_eq!(tool_type("web_search_preview_2025_03_11"), "web_search_preview");
        assert_eq!(tool_type("computer_use_preview"), "computer_use_preview");
        assert_eq!(tool_type("web_searching"), "other");
        assert_eq!(tool_type(""), "other");
    }
}
