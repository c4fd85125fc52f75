//! Counters and histograms in the Prometheus text format. Label sets are closed: no ids, no models that the operator did
//! not name, nothing else that a client chooses.
//!
//! Each part registers its own: [`exchanges`] what is derived from the facts of an exchange, [`store`] the operations of
//! the store; what only a store knows, it tells itself at every scrape.

pub mod exchanges;
pub mod store;

use std::sync::Arc;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::runtime::RuntimeMetrics;
use super::store::StoreFigures;
use super::traces::SpanCounters;
use crate::store::ResponseStore;

pub use exchanges::{Exchanges, Phase};
pub use store::StoreOperations;

/// What stands before the name of every metric of our own.
const PREFIX: &str = "responses_router";

/// All metrics, and the registry that prints them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// What is derived from exchanges.
    pub exchanges: Exchanges,
    /// The operations of the store.
    pub store: StoreOperations,
    /// What becomes of spans.
    pub spans: SpanCounters,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let ours = registry.sub_registry_with_prefix(PREFIX);
        let exchanges = Exchanges::register(ours);
        let store = StoreOperations::register(ours);
        ours.register_collector(Box::new(RuntimeMetrics));
        let spans = SpanCounters::register(ours);
        Self { registry, exchanges, store, spans }
    }
}

impl Metrics {
    /// Prints from now on what this store tells of itself as well.
    pub fn register_store(&mut self, store: Arc<dyn ResponseStore>) {
        self.registry.sub_registry_with_prefix(PREFIX).register_collector(Box::new(StoreFigures(store)));
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
