//! The results, as a table for people and as JSON for scripts.

use std::fmt;

use serde::{Serialize, Serializer};

/// The name of the row that the others are compared with.
const FLOOR: &str = "noop processor";

/// All of a run.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) cases: Vec<CaseResult>,
    pub(crate) memory: Vec<MemoryResult>,
    pub(crate) live_streams: usize,
    processor_threads: usize,
}

impl Report {
    pub(crate) fn new(processor_threads: usize) -> Self {
        Self { cases: Vec::new(), memory: Vec::new(), live_streams: 0, processor_threads }
    }
}

#[derive(Serialize)]
pub(crate) struct CaseResult {
    name: &'static str,
    #[serde(skip)]
    title: String,
    unit: &'static str,
    rows: Vec<RowResult>,
}

/// One value per round; [`Rounds::median`] is what is shown.
#[derive(Default)]
pub(crate) struct Rounds(Vec<f64>);

impl Rounds {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn extend(&mut self, value: Option<f64>) {
        self.0.extend(value);
    }

    fn median(&self) -> Option<f64> {
        let mut values = self.0.clone();
        values.sort_unstable_by(f64::total_cmp);
        let upper = values.get(values.len() / 2)?;
        let lower = values.get((values.len() - 1) / 2)?;
        Some((upper + lower) / 2.0)
    }

    /// Round by round, so that a busy round does not meet a quiet one.
    fn each_with(&self, other: &Self, join: impl Fn(f64, f64) -> f64) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(one, other)| join(*one, *other)).collect())
    }
}

impl Serialize for Rounds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.median().map(|median| (median * 1000.0).round() / 1000.0).serialize(serializer)
    }
}

#[derive(Serialize)]
pub(crate) struct RowResult {
    name: &'static str,
    #[serde(skip)]
    has_processor: bool,
    pub(crate) envoy_us: Rounds,
    pub(crate) processor_us: Rounds,
    /// Envoy and processor, and processor alone, to the same of the floor.
    whole_ratio: Rounds,
    processor_ratio: Rounds,
    pub(crate) per_second: Rounds,
    pub(crate) p50_ms: Rounds,
    pub(crate) p99_ms: Rounds,
    pub(crate) delay_p50_ms: Rounds,
    pub(crate) delay_p99_ms: Rounds,
}

impl RowResult {
    pub(crate) fn new(name: &'static str, has_processor: bool) -> Self {
        Self {
            name,
            has_processor,
            envoy_us: Rounds::default(),
            processor_us: Rounds::default(),
            whole_ratio: Rounds::default(),
            processor_ratio: Rounds::default(),
            per_second: Rounds::default(),
            p50_ms: Rounds::default(),
            p99_ms: Rounds::default(),
            delay_p50_ms: Rounds::default(),
            delay_p99_ms: Rounds::default(),
        }
    }

    fn whole_us(&self) -> Rounds {
        self.envoy_us.each_with(&self.processor_us, |envoy, processor| envoy + processor)
    }
}

impl CaseResult {
    /// The rows, with their ratios to the floor.
    pub(crate) fn new(name: &'static str, title: String, unit: &'static str, mut rows: Vec<RowResult>) -> Self {
        if let Some(floor) = rows.iter().position(|row| row.name == FLOOR) {
            let ratios: Vec<_> = rows
                .iter()
                .map(|row| {
                    let whole = row.whole_us().each_with(&rows[floor].whole_us(), |row, floor| row / floor);
                    (whole, row.processor_us.each_with(&rows[floor].processor_us, |row, floor| row / floor))
                })
                .collect();
            for (row, (whole, processor)) in rows.iter_mut().zip(ratios) {
                row.whole_ratio = whole;
                row.processor_ratio = if row.has_processor { processor } else { Rounds::default() };
            }
        }
        Self { name, title, unit, rows }
    }
}

#[derive(Serialize)]
pub(crate) struct MemoryResult {
    pub(crate) name: &'static str,
    pub(crate) idle_kib: u64,
    pub(crate) live_kib: u64,
    pub(crate) after_kib: u64,
    pub(crate) envoy_idle_kib: u64,
    pub(crate) envoy_live_kib: u64,
}

/// A median with so many digits behind the point, or a dash.
fn cell(rounds: &Rounds, digits: usize) -> String {
    rounds.median().map_or_else(|| "-".to_owned(), |median| format!("{median:.digits$}"))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Envoy with 1 worker, processors with {} thread(s).", self.processor_threads)?;
        for case in &self.cases {
            writeln!(f, "\n{case}")?;
        }
        if !self.memory.is_empty() {
            writeln!(f, "\nResident memory in MiB, idle, with {} live streams, and after them", self.live_streams)?;
            writeln!(
                f,
                "{:<18}{:>9}{:>9}{:>9}{:>16}{:>13}{:>13}",
                "", "idle", "live", "after", "KiB per stream", "Envoy idle", "Envoy live"
            )?;
            for row in &self.memory {
                let mib = |kib: u64| kib as f64 / 1024.0;
                let per_stream = row.live_kib.saturating_sub(row.idle_kib) as f64 / self.live_streams as f64;
                writeln!(
                    f,
                    "{:<18}{:>9.1}{:>9.1}{:>9.1}{per_stream:>16.1}{:>13.1}{:>13.1}",
                    row.name,
                    mib(row.idle_kib),
                    mib(row.live_kib),
                    mib(row.after_kib),
                    mib(row.envoy_idle_kib),
                    mib(row.envoy_live_kib),
                )?;
            }
        }
        writeln!(f)
    }
}

impl fmt::Display for CaseResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}; CPU µs per {}, ratios to the {FLOOR}", self.title, self.unit)?;
        write!(
            f,
            "{:<18}{:>9}{:>11}{:>9}{:>9}{:>11}{:>11}{:>9}{:>9}{:>17}",
            "",
            "Envoy",
            "processor",
            "whole",
            "ratio",
            "processor",
            format!("{}s/s", self.unit),
            "p50 ms",
            "p99 ms",
            "added ms p50/p99",
        )?;
        for row in &self.rows {
            write!(
                f,
                "\n{:<18}{:>9}{:>11}{:>9}{:>9}{:>11}{:>11}{:>9}{:>9}{:>17}",
                row.name,
                cell(&row.envoy_us, 1),
                if row.has_processor { cell(&row.processor_us, 1) } else { "-".to_owned() },
                cell(&row.whole_us(), 1),
                cell(&row.whole_ratio, 2),
                cell(&row.processor_ratio, 2),
                cell(&row.per_second, 0),
                cell(&row.p50_ms, 2),
                cell(&row.p99_ms, 2),
                format!("{} / {}", cell(&row.delay_p50_ms, 2), cell(&row.delay_p99_ms, 2)),
            )?;
        }
        Ok(())
    }
}
