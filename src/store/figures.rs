//! What a store counts of itself, for whoever prints it: a store knows no metrics library.
//!
//! What can be seen from outside, operations and their latency, is counted by the store's callers.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Tally(AtomicU64);

impl Tally {
    /// One more.
    pub fn one(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, more: u64) {
        // Nothing is decided by it, so nothing has to be ordered with it.
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// So many more: bytes of a buffer, or things that were counted.
    pub fn add_all(&self, more: usize) {
        self.add(u64::try_from(more).unwrap_or(u64::MAX));
    }

    /// How many until now.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a figure changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FigureKind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A figure with its name and help as Prometheus has them, without prefix and `_total`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// How it changes.
    pub kind: FigureKind,
    /// Its values, each with the label that sets it apart from the others. Labels and their values are a closed set.
    pub samples: Vec<(Option<(&'static str, &'static str)>, u64)>,
}

impl Figure {
    /// A counter of one value.
    #[must_use]
    pub fn counter(name: &'static str, help: &'static str, tally: &Tally) -> Self {
        Self { name, help, kind: FigureKind::Counter, samples: vec![(None, tally.value())] }
    }

    /// Counters of one name, told apart by a label.
    #[must_use]
    pub fn counters<'a>(
        name: &'static str,
        help: &'static str,
        label: &'static str,
        tallies: impl IntoIterator<Item = (&'static str, &'a Tally)>,
    ) -> Self {
        let samples = tallies.into_iter().map(|(value, tally)| (Some((label, value)), tally.value())).collect();
        Self { name, help, kind: FigureKind::Counter, samples }
    }

    /// A gauge of one value.
    #[must_use]
    pub fn gauge(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, kind: FigureKind::Gauge, samples: vec![(None, value)] }
    }

    /// Gauges of one name, told apart by a label.
    #[must_use]
    pub fn gauges(
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: impl IntoIterator<Item = (&'static str, u64)>,
    ) -> Self {
        let samples = values.into_iter().map(|(value, number)| (Some((label, value)), number)).collect();
        Self { name, help, kind: FigureKind::Gauge, samples }
    }
}

// What more than one store tells has one name and one help.

/// Bytes of documents that were written.
pub(super) fn bytes_written(tally: &Tally) -> Figure {
    Figure::counter("store_bytes_written", "Bytes of records that the store wrote", tally)
}

/// Records in a store that knows.
pub(super) fn items(items: u64) -> Figure {
    Figure::gauge("store_items", "Records in the store of this router", items)
}

/// Bytes in a store that knows.
pub(super) fn bytes(bytes: u64) -> Figure {
    Figure::gauge("store_bytes", "Bytes of the records in the store of this router, bookkeeping included", bytes)
}

/// Records that went without being asked to.
pub(super) fn evictions<'a>(by_cause: impl IntoIterator<Item = (&'static str, &'a Tally)>) -> Figure {
    Figure::counters("store_evictions", "Records removed by the store itself, by cause", "cause", by_cause)
}

/// Writes that were refused because the store is full, or the record larger than all of it.
pub(super) fn refused_for_space(tally: &Tally) -> Figure {
    Figure::counter("store_refused_for_space", "Records refused because the store has no room for them", tally)
}
