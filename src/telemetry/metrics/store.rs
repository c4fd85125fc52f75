//! What the store's operations count, whatever the backend.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::exchanges::zeros;

/// Upper bounds in seconds: from memory's microseconds to the deadline of a failover.
const SECONDS: [f64; 14] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// The operations, as `Keeping` names them.
const OPERATIONS: [&str; 4] = ["get", "history", "put", "delete"];

/// The metrics of the store's operations.
#[derive(Debug)]
pub struct StoreOperations {
    failures: Family<Operation, Counter>,
    operations: Family<Result, Counter>,
    durations: Family<Place, Histogram, fn() -> Histogram>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Result {
    backend: &'static str,
    op: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Place {
    backend: &'static str,
    op: &'static str,
}

impl StoreOperations {
    /// Registers the metrics.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            failures: zeros(OPERATIONS.map(|operation| Operation { operation })),
            operations: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(SECONDS)),
        };
        registry.register("store_failures", "Failed store operations", metrics.failures.clone());
        registry.register("store_operations", "Store operations, by result", metrics.operations.clone());
        registry.register(
            "store_operation_duration_seconds",
            "How long store operations took",
            metrics.durations.clone(),
        );
        metrics
    }

    /// Counts an operation that took so long; `failed` is the failure's word.
    pub fn done(&self, backend: &'static str, op: &'static str, failed: Option<&'static str>, took: Duration) {
        self.operations.get_or_create(&Result { backend, op, result: failed.unwrap_or("ok") }).inc();
        self.durations.get_or_create(&Place { backend, op }).observe(took.as_secs_f64());
        if failed.is_some() {
            self.failures.get_or_create(&Operation { operation: op }).inc();
        }
    }
}
