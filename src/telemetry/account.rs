//! The account of one exchange: it gathers the facts, and reports them once, whatever the end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::facts::Facts;
use super::log_line;
use super::metadata::Keys;
use super::metrics::{Metrics, Phase};
use super::traces::{self, Kind, Trace, TraceContext, Traces, Value};
use crate::id::ResponseId;
use crate::store::FromStore;

/// What reports need: where they go, and what they may say. Shared by all exchanges.
#[derive(Debug, Default)]
pub struct Reporter {
    /// Counts and measures.
    pub metrics: Arc<Metrics>,
    /// Whether the log shows ids whole.
    pub full_ids: bool,
    /// Where spans go.
    pub traces: Traces,
    /// Where Envoy files what it is told as dynamic metadata, and what that is; `None` when it is told nothing.
    pub metadata: Option<(String, Keys)>,
}

/// A handle of the account of one exchange; clones are of the same account.
///
/// The report is made when the last handle goes, so also when Envoy resets the stream and the exchange is dropped at
/// whatever await it is. A handle must therefore not outlive its exchange, in a task of its own, say.
#[derive(Debug, Clone)]
pub struct Account(Arc<Open>);

#[derive(Debug)]
struct Open {
    began: Instant,
    facts: Mutex<Facts>,
    reporter: Arc<Reporter>,
    /// The trace that Envoy's call belongs to.
    heard: Option<TraceContext>,
    trace: Mutex<Option<Trace>>,
}

impl Account {
    /// Opens the account of an exchange that begins now. `heard` is the trace that Envoy's call belongs to.
    #[must_use]
    pub fn open(reporter: Arc<Reporter>, heard: Option<TraceContext>) -> Self {
        reporter.metrics.exchanges.begun();
        let (facts, trace) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Open { began: Instant::now(), facts, reporter, heard, trace }))
    }

    /// Decides whether the exchange is traced: as part of the trace that Envoy's call belongs to, or else of the one that
    /// came with the request, or else of a new one.
    pub fn trace(&self, with_request: impl FnOnce() -> Option<TraceContext>) {
        let heard = || self.0.heard.clone().or_else(with_request);
        if let Some(trace) = self.0.reporter.traces.begin(self.0.began, heard) {
            *self.0.trace.lock().unwrap_or_else(PoisonError::into_inner) = Some(trace);
        }
    }

    /// Notes a step that began then and ends now, for the trace.
    pub fn step(&self, name: &'static str, began: Instant, failed: bool) {
        self.add_step(name, Kind::Internal, began, failed, Vec::new);
    }

    fn add_step(
        &self,
        name: &'static str,
        kind: Kind,
        began: Instant,
        failed: bool,
        attributes: impl FnOnce() -> Vec<(&'static str, Value)>,
    ) {
        if let Some(trace) = &mut *self.0.trace.lock().unwrap_or_else(PoisonError::into_inner) {
            trace.step(name, kind, (began, Instant::now()), attributes(), failed);
        }
    }

    /// Notes facts.
    pub fn note(&self, entry: impl FnOnce(&mut Facts)) {
        entry(&mut self.0.facts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Notes facts that need the time since the beginning.
    pub fn note_now(&self, entry: impl FnOnce(&mut Facts, Duration)) {
        let elapsed = self.0.began.elapsed();
        self.note(|facts| entry(facts, elapsed));
    }

    /// Notes that events are ready, how many there were until now, and whether content has come with them.
    pub fn events(&self, until_now: u64, content: bool) {
        self.note_now(|facts, elapsed| {
            facts.events = until_now;
            facts.first_event.get_or_insert(elapsed);
            if content {
                facts.first_token.get_or_insert(elapsed);
                facts.last_token = Some(elapsed);
            }
        });
    }

    /// Notes a repeated `in_progress`.
    pub fn heartbeat(&self) {
        self.0.reporter.metrics.exchanges.heartbeat();
        self.note(|facts| facts.heartbeats = facts.heartbeats.saturating_add(1));
    }

    /// Notes that the last that the client needs has been handed to Envoy.
    pub fn told(&self) {
        self.note(|facts| facts.told = true);
    }

    /// Does work of the store, a step of the exchange, and notes how long the exchange waited for it.
    pub async fn storing<T, E: FromStore>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let began = Instant::now();
        let result = work.await;
        let took = began.elapsed();
        self.note(|facts| facts.store_time = facts.store_time.saturating_add(took));
        let failure = result.as_ref().err().and_then(E::store_error);
        let attributes = || failure.map(|failure| ("error.type", failure.class().into())).into_iter().collect();
        self.add_step(name, Kind::Client, began, failure.is_some(), attributes);
        result
    }

    /// Counts a message from Envoy.
    pub fn received(&self, phase: Phase) {
        self.0.reporter.metrics.exchanges.received(phase);
    }

    /// Counts a message to Envoy.
    pub fn sent(&self, phase: Phase) {
        self.0.reporter.metrics.exchanges.sent(phase);
    }

    /// An id as the log may show it.
    #[must_use]
    pub fn shown<'a>(&self, id: &'a ResponseId) -> &'a str {
        log_line::shown(id, self.0.reporter.full_ids)
    }

    /// What Envoy is told, made by `encode` of the namespace, its keys and the facts until now; `None` when it knows all, or is told
    /// nothing.
    pub fn metadata<T>(&self, encode: impl FnOnce(&str, Keys, &Facts) -> T) -> Option<T> {
        let (namespace, keys) = self.0.reporter.metadata.as_ref()?;
        let mut facts = self.0.facts.lock().unwrap_or_else(PoisonError::into_inner);
        if facts.told {
            return None;
        }
        let encoded = encode(namespace, *keys, &facts);
        facts.introduced = true;
        Some(encoded)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let facts = self.facts.get_mut().unwrap_or_else(PoisonError::into_inner);
        facts.close(self.began.elapsed(), std::thread::panicking());
        self.reporter.metrics.exchanges.ended(facts);
        log_line::write(facts, self.reporter.full_ids);
        if let Some(trace) = self.trace.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            traces::exchange::end(trace, facts);
        }
    }
}
