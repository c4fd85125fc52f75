//! What exchanges count: derived from their facts when they have ended, but for what is seen as it happens.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::telemetry::facts::Facts;

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

    /// How many of them Envoy sends, too.
    const OF_ENVOY: usize = 6;

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

/// The metrics of exchanges.
#[derive(Debug)]
pub struct Exchanges {
    live: Gauge,
    requests: Family<Request, Counter>,
    stream_terminal: Family<Terminal, Counter>,
    translation_lossy: Family<What, Counter>,
    usage_missing: Counter,
    heartbeats: Counter<u64, AtomicU64>,
    /// One counter per phase, found without a search: these count every message.
    received: [Counter; Phase::OF_ENVOY],
    sent: [Counter; Phase::ALL.len()],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    route: &'static str,
    outcome: &'static str,
    /// 0 when no status was sent.
    code: u32,
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
struct Message {
    direction: &'static str,
    phase: &'static str,
}

impl Exchanges {
    /// Registers the metrics.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let messages = Family::<Message, Counter>::default();
        let counter =
            |direction, phase: Phase| messages.get_or_create_owned(&Message { direction, phase: phase.as_str() });
        let metrics = Self {
            live: Gauge::default(),
            requests: Family::default(),
            stream_terminal: Family::default(),
            translation_lossy: Family::default(),
            usage_missing: Counter::default(),
            heartbeats: Counter::default(),
            received: std::array::from_fn(|phase| counter("in", Phase::ALL[phase])),
            sent: Phase::ALL.map(|phase| counter("out", phase)),
        };
        registry.register("exchanges_live", "Exchanges going on", metrics.live.clone());
        registry.register("requests", "Exchanges that ended", metrics.requests.clone());
        registry.register("stream_terminal", "Ends of streams, by outcome", metrics.stream_terminal.clone());
        registry.register(
            "translation_lossy",
            "Parts of requests that were skipped, by kind",
            metrics.translation_lossy.clone(),
        );
        registry.register("usage_missing", "Answers without token counts", metrics.usage_missing.clone());
        registry.register("heartbeat", "Heartbeats sent on silent streams", metrics.heartbeats.clone());
        registry.register("ext_proc_messages", "ext_proc messages, by direction and phase", messages);
        metrics
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
        let outcome = facts.ending.map_or("unknown", |ending| ending.as_str());
        let code = facts.status.map_or(0, u32::from);
        let request = Request { route: facts.route, outcome, code, stream: facts.stream };
        self.requests.get_or_create(&request).inc();
        if facts.first_event.is_some() {
            self.stream_terminal.get_or_create(&Terminal { outcome }).inc();
        }
        for skipped in facts.lossy.iter() {
            self.translation_lossy.get_or_create(&What { what: skipped.what }).inc();
        }
        if facts.usage_missing {
            self.usage_missing.inc();
        }
    }
}
