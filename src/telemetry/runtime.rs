//! What the runtime tells of itself when it is asked: a count that keeps growing is a leak.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::runtime::Handle;

/// Reads the runtime in which the metrics are printed.
#[derive(Debug)]
pub(super) struct RuntimeMetrics;

impl Collector for RuntimeMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        // Outside of a runtime there is nothing to tell.
        let Ok(runtime) = Handle::try_current() else { return Ok(()) };
        let alive = ConstGauge::new(i64::try_from(runtime.metrics().num_alive_tasks()).unwrap_or(i64::MAX));
        let help = "Tasks of the runtime that have not ended: each exchange and each connection is one or two";
        alive.encode(encoder.encode_descriptor("alive_tasks", help, None, alive.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use crate::telemetry::metrics::Metrics;

    #[tokio::test]
    async fn tasks_are_counted_until_they_end() {
        let metrics = Metrics::default();
        let tasks = tokio_util::task::TaskTracker::new();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let task = tasks.spawn(ended);
        assert!(metrics.text().contains("\nresponses_router_alive_tasks 1\n"), "{}", metrics.text());
        end.send(()).unwrap();
        task.await.unwrap().unwrap();
        assert!(metrics.text().contains("\nresponses_router_alive_tasks 0\n"), "{}", metrics.text());
    }
}
