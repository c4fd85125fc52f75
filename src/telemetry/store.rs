//! What a store tells of itself, at every scrape.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;

use crate::store::{FigureKind, ResponseStore};

/// Prints the figures of a store.
pub(super) struct StoreFigures(pub(super) Arc<dyn ResponseStore>);

impl fmt::Debug for StoreFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StoreFigures").field(&self.0.name()).finish()
    }
}

impl Collector for StoreFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for figure in self.0.figures() {
            let kind = match figure.kind {
                FigureKind::Counter => MetricType::Counter,
                FigureKind::Gauge => MetricType::Gauge,
            };
            let mut metric = encoder.encode_descriptor(figure.name, figure.help, None, kind)?;
            for (label, value) in &figure.samples {
                match label {
                    Some(label) => encode_value(&mut metric.encode_family(&[*label])?, figure.kind, *value)?,
                    None => encode_value(&mut metric, figure.kind, *value)?,
                }
            }
        }
        Ok(())
    }
}

fn encode_value(metric: &mut MetricEncoder<'_>, kind: FigureKind, value: u64) -> fmt::Result {
    match kind {
        FigureKind::Counter => metric.encode_counter::<[(&str, &str); 0], _, u64>(&value, None),
        FigureKind::Gauge => metric.encode_gauge(&value),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::time::Duration;

    use super::*;
    use crate::store::{MemoryBounds, MemoryStore};
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn counters_and_gauges_are_printed_with_their_labels() {
        let bounds = MemoryBounds { max_entries: NonZeroU64::MIN, max_bytes: 1 << 20, ttl: Duration::from_secs(60) };
        let mut metrics = Metrics::default();
        metrics.register_store(Arc::new(MemoryStore::new(bounds)));
        let text = metrics.text();
        for line in [
            "# TYPE responses_router_store_items gauge",
            "responses_router_store_items 0",
            "# TYPE responses_router_store_evictions counter",
            "responses_router_store_evictions_total{cause=\"expired\"} 0",
            "responses_router_store_bytes_written_total 0",
        ] {
            assert!(text.lines().any(|printed| printed == line), "{line} is missing:\n{text}");
        }
    }
}
