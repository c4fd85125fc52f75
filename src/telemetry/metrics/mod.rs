//! Counters and histograms in the Prometheus text format. Label sets are closed: no ids, no models that the operator did
//! not name, nothing else that a client chooses.
//!
//! Each part registers its own: [`exchanges`] what is derived from the facts of an exchange, [`gen_ai`] the same under the
//! names of Envoy AI Gateway, [`store`] the operations of the store; what only a store knows, it tells itself at every scrape.

pub mod exchanges;
mod gen_ai;
pub mod store;

use std::sync::Arc;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use self::gen_ai::GenAi;
use super::runtime::RuntimeMetrics;
use super::store::StoreFigures;
use super::traces::SpanCounters;
use crate::build_info::BuildInfo;
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
        Self::new::<&str>(&[])
    }
}

impl Metrics {
    /// All metrics at zero. Those that know models tell these apart by name.
    #[must_use]
    pub fn new<M: AsRef<str>>(models: &[M]) -> Self {
        let mut registry = Registry::default();
        let gen_ai = GenAi::register(&mut registry, models);
        let ours = registry.sub_registry_with_prefix(PREFIX);
        let exchanges = Exchanges::register(ours, gen_ai);
        let store = StoreOperations::register(ours);
        ours.register_collector(Box::new(RuntimeMetrics));
        let spans = SpanCounters::register(ours);
        Self { registry, exchanges, store, spans }
    }

    /// Prints from now on what this program is, and the hash of its config: routers that differ in it are told apart.
    pub fn register_identity(&mut self, config: &str) {
        let build = BuildInfo::of_this_program();
        let ours = self.registry.sub_registry_with_prefix(PREFIX);
        let commit = build.commit.unwrap_or("unknown");
        ours.register("build", "The program", Info::new(vec![("version", build.version), ("commit", commit)]));
        let hash = ring::digest::digest(&ring::digest::SHA256, config.as_bytes());
        let hash: String = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        ours.register("config", "The config, secrets left out, as a hash", Info::new(vec![("hash", hash)]));
    }

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
