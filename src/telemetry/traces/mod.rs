//! Spans of exchanges, for operators who trace (`telemetry.otlp`).
//!
//! A span is made when its exchange is over, of the facts that the exchange has gathered by then, and of nothing else: what
//! a prompt or an answer says is not among them. That is why no `tracing` subscriber feeds this, which would export
//! whatever anybody logs.
//!
//! The exchange's own span continues the trace that Envoy tells: a traceparent in the metadata of the ext_proc call, which
//! an Envoy that traces sets, or else the one that came with the client's request. Its sampling decision holds. Without any
//! a trace begins here, for `sample_ratio` of the exchanges.

#![cfg_attr(not(feature = "otlp"), expect(dead_code, reason = "nobody exports what is made here"))]

mod context;
pub(super) mod exchange;
#[cfg(feature = "otlp")]
mod export;
mod span;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::context::TraceContext;
use self::span::Span;
pub(crate) use self::span::{Kind, Value};
use crate::config::Otlp;

/// The most exchanges whose spans wait for their export: some 2 KB each.
const QUEUED_EXCHANGES: usize = 2048;

/// How long the end of the process waits for the last export.
const FLUSH: Duration = Duration::from_secs(5);

/// Which exchanges are traced, and where their spans go. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Arc<Exporting>>);

#[derive(Debug)]
struct Exporting {
    sample_ratio: f64,
    queue: mpsc::Sender<Vec<Span>>,
    counters: SpanCounters,
    stop: CancellationToken,
    exporter: Mutex<Option<JoinHandle<()>>>,
}

/// Why a span did not reach the collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    QueueFull,
    ExportFailed,
    Rejected,
}

impl Why {
    const ALL: [Self; 3] = [Self::QueueFull, Self::ExportFailed, Self::Rejected];

    fn label(self) -> Reason {
        let reason = match self {
            Self::QueueFull => "queue_full",
            Self::ExportFailed => "export_failed",
            Self::Rejected => "rejected",
        };
        Reason { reason }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// What became of spans.
#[derive(Debug, Clone, Default)]
pub struct SpanCounters {
    exported: Counter,
    dropped: Family<Reason, Counter>,
}

impl SpanCounters {
    /// Counters that this registry prints from now on.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let counters = Self::default();
        for why in Why::ALL {
            drop(counters.dropped.get_or_create(&why.label()));
        }
        registry.register("otlp_spans_exported", "Spans that the collector took", counters.exported.clone());
        registry.register(
            "otlp_spans_dropped",
            "Spans that did not reach the collector, by reason",
            counters.dropped.clone(),
        );
        counters
    }

    fn exported(&self, spans: u64) {
        self.exported.inc_by(spans);
    }

    fn dropped(&self, why: Why, spans: u64) {
        self.dropped.get_or_create(&why.label()).inc_by(spans);
    }
}

impl Traces {
    /// Starts to export, if there is an endpoint. It connects when there is something to export, and tries on.
    ///
    /// # Errors
    /// When the endpoint's TLS cannot be set up.
    pub fn start(otlp: &Otlp, counters: SpanCounters) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let (queue, queued) = mpsc::channel(QUEUED_EXCHANGES);
        let stop = CancellationToken::new();
        #[cfg(feature = "otlp")]
        let exporter =
            export::Exporter::new(otlp, counters.clone(), stop.clone())?.map(|exporter| exporter.run(queued));
        #[cfg(not(feature = "otlp"))]
        let exporter = {
            drop(queued);
            None::<std::future::Ready<()>>
        };
        let Some(exporter) = exporter else { return Ok(Self(None)) };
        let exporter = Mutex::new(Some(tokio_util::task::TaskTracker::new().spawn(exporter)));
        let exporting = Exporting { sample_ratio: otlp.sample_ratio, queue, counters, stop, exporter };
        Ok(Self(Some(Arc::new(exporting))))
    }

    /// Whether an exchange is traced, and where it belongs. `heard` is what Envoy or the client told; it is asked only while
    /// traces are exported at all. `began_at` is when the exchange began, a moment ago.
    #[must_use]
    pub(super) fn begin(&self, began_at: Instant, heard: impl FnOnce() -> Option<TraceContext>) -> Option<Trace> {
        let exporting = self.0.as_ref()?;
        let (trace_id, parent, state) = match heard() {
            Some(context) if context.sampled => (context.trace_id, Some(context.span_id), context.state),
            Some(_) => return None,
            // A ratio of 1 is always more.
            None if rand::random::<f64>() < exporting.sample_ratio => {
                (rand::random::<u128>().max(1), None, String::new())
            }
            None => return None,
        };
        let began = SystemTime::now() - began_at.elapsed();
        let traces = Arc::clone(exporting);
        Some(Trace { traces, trace_id, parent, state, id: new_id(), began, began_at, spans: Vec::new() })
    }

    /// Exports what is queued, for a few seconds at most. Exchanges that end later are not traced any more.
    pub async fn close(&self) {
        let Some(exporting) = &self.0 else { return };
        exporting.stop.cancel();
        let exporter = exporting.exporter.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(exporter) = exporter
            && tokio::time::timeout(FLUSH, exporter).await.is_err()
        {
            tracing::warn!("the last traces were not exported in time");
        }
    }
}

fn new_id() -> u64 {
    rand::random::<u64>().max(1)
}

/// An exchange that is traced.
#[derive(Debug)]
pub struct Trace {
    traces: Arc<Exporting>,
    trace_id: u128,
    parent: Option<u64>,
    state: String,
    id: u64,
    began: SystemTime,
    began_at: Instant,
    spans: Vec<Span>,
}

impl Trace {
    /// Adds a step of the exchange, a child of its span.
    pub(crate) fn step(
        &mut self,
        name: &'static str,
        kind: Kind,
        (began, ended): (Instant, Instant),
        attributes: Vec<(&'static str, Value)>,
        failed: bool,
    ) {
        let span = Span {
            trace_id: self.trace_id,
            id: new_id(),
            parent: Some(self.id),
            parent_is_remote: false,
            state: self.state.clone(),
            name: name.to_owned(),
            kind,
            began: self.time(began),
            ended: self.time(ended),
            attributes,
            events: Vec::new(),
            failed,
        };
        self.spans.push(span);
    }

    /// Ends the exchange's span, and hands all over. `events` are moments of it, counted from its beginning. Never waits: while the queue is full, spans are dropped.
    pub(crate) fn end(
        mut self,
        name: String,
        attributes: Vec<(&'static str, Value)>,
        events: &[(&'static str, Duration)],
        failed: bool,
    ) {
        let events = events.iter().map(|(name, after)| (*name, self.began + *after)).collect();
        let span = Span {
            trace_id: self.trace_id,
            id: self.id,
            parent: self.parent,
            parent_is_remote: self.parent.is_some(),
            name,
            // Envoy asks, we answer: tools that draw services from spans want it so.
            kind: Kind::Server,
            began: self.began,
            ended: self.time(Instant::now()),
            attributes,
            events,
            failed,
            state: self.state,
        };
        self.spans.push(span);
        if let Err(error) = self.traces.queue.try_send(self.spans) {
            let spans = error.into_inner().len();
            self.traces.counters.dropped(Why::QueueFull, u64::try_from(spans).unwrap_or(u64::MAX));
        }
    }

    /// A moment of the exchange as the clock on the wall showed it, had nobody set it meanwhile.
    fn time(&self, at: Instant) -> SystemTime {
        self.began + at.saturating_duration_since(self.began_at)
    }
}
