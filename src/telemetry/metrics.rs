//! Counters in the Prometheus text format. Label sets are closed: no ids, no models, nothing a client chooses.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::store::StoreFigures;
use crate::store::ResponseStore;
use crate::translate::Lossy;
use crate::translate::Outcome;

/// What stands before every metric's name.
const PREFIX: &str = "responses_router";

/// All counters, and the registry that prints them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    translation_lossy: Family<What, Counter>,
    usage_missing: Counter<u64, AtomicU64>,
    stream_terminal: Family<Terminal, Counter>,
    store_failures: Family<Operation, Counter>,
    heartbeats: Counter<u64, AtomicU64>,
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
struct Operation {
    operation: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix(PREFIX),
            translation_lossy: Family::default(),
            usage_missing: Counter::default(),
            stream_terminal: Family::default(),
            store_failures: Family::default(),
            heartbeats: Counter::default(),
        };
        let registry = &mut metrics.registry;
        registry.register(
            "translation_lossy",
            "Parts of requests that were skipped, by kind",
            metrics.translation_lossy.clone(),
        );
        registry.register("usage_missing", "Answers without token counts", metrics.usage_missing.clone());
        registry.register("stream_terminal", "Ends of streams, by outcome", metrics.stream_terminal.clone());
        registry.register("store_failures", "Failed store operations", metrics.store_failures.clone());
        registry.register("heartbeat", "Heartbeats sent on silent streams", metrics.heartbeats.clone());
        metrics
    }
}

impl Metrics {
    /// Counts what a translation left out.
    pub fn translated(&self, lossy: &Lossy) {
        for skipped in lossy.iter() {
            self.translation_lossy.get_or_create(&What { what: skipped.what }).inc();
        }
    }

    /// Counts an answer without token counts.
    pub fn usage_missing(&self) {
        self.usage_missing.inc();
    }

    /// Counts the end of a stream.
    pub fn stream_ended(&self, outcome: &Outcome) {
        self.stream_terminal.get_or_create(&Terminal { outcome: outcome.as_str() }).inc();
    }

    /// Counts a failed store operation.
    pub fn store_failed(&self, operation: &'static str) {
        self.store_failures.get_or_create(&Operation { operation }).inc();
    }

    /// Counts a heartbeat.
    pub fn heartbeat(&self) {
        self.heartbeats.inc();
    }

    /// Prints from now on what this store tells of itself as well.
    pub fn register_store(&mut self, store: Arc<dyn ResponseStore>) {
        self.registry.register_collector(Box::new(StoreFigures(store)));
    }

    /// All metrics in the Prometheus text format.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
