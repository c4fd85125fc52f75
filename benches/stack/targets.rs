//! The targets of the project, each a ratio to the floor of the same run or a bound, beside what was measured. Nothing is
//! asserted: a missed target is a line in the table.

use serde::Serialize;

use crate::figures::rounded;
use crate::report::Report;
use crate::results::{CaseResult, MemoryResult, RowResult};
use crate::rows::Kind;

/// One line of the table.
#[derive(Debug, Serialize)]
pub(crate) struct Target {
    pub(crate) work: &'static str,
    pub(crate) measure: &'static str,
    pub(crate) at_most: f64,
    /// `None` when this run did not have the case and rows for it.
    pub(crate) measured: Option<f64>,
    pub(crate) reached: Option<bool>,
}

impl Target {
    fn new(work: &'static str, measure: &'static str, at_most: f64, measured: Option<f64>) -> Self {
        let measured = measured.map(rounded);
        Self { work, measure, at_most, measured, reached: measured.map(|measured| measured <= at_most) }
    }
}

const WHOLE: &str = "Envoy + router + Redis, ratio to the floor";
const ROUTER: &str = "router alone, ratio to the floor's processor";

/// The targets against a run.
pub(crate) fn of(report: &Report) -> Vec<Target> {
    let row = |case: &str, kind| report.cases.iter().find(|found| found.name == case)?.row(kind);
    let whole = |case, kind| row(case, kind).and_then(|row| row.whole_ratio.median());
    let router = |case, kind| row(case, kind).and_then(|row| row.router_ratio.median());
    let memory = |value: fn(&MemoryResult) -> f64| report.memory.iter().find(|row| row.row == Kind::Memory).map(value);
    let chain = report.cases.iter().find(|case| case.name == "chain-latency");
    let paced = report.cases.iter().find(|case| case.name == "paced");
    vec![
        Target::new("JSON, memory", WHOLE, 1.15, whole("json", Kind::Memory)),
        Target::new("JSON, memory", ROUTER, 1.6, router("json", Kind::Memory)),
        Target::new("JSON, one Redis, stored", WHOLE, 1.35, whole("json", Kind::Redis)),
        Target::new("JSON, one Redis, stored", ROUTER, 2.0, router("json", Kind::Redis)),
        Target::new("JSON, cluster, stored", WHOLE, 1.45, whole("json", Kind::Cluster)),
        Target::new("JSON, cluster, stored", ROUTER, 2.2, router("json", Kind::Cluster)),
        Target::new("SSE, 100 chunks, cluster, stored", WHOLE, 1.25, whole("sse", Kind::Cluster)),
        Target::new("SSE, 100 chunks, cluster, stored", ROUTER, 1.8, router("sse", Kind::Cluster)),
        Target::new("chain, cluster", WHOLE, 2.0, whole("chain", Kind::Cluster)),
        Target::new(
            "chain, cluster",
            "latency's growth over the floor's, µs per turn",
            20.0,
            chain.and_then(|case| over_floor(case, Kind::Cluster, |row| row.growth_us_per_turn)),
        ),
        Target::new(
            "events, paced, memory",
            "p50 over the floor's, µs",
            60.0,
            paced.and_then(|case| over_floor(case, Kind::Memory, |row| row.event_p50_us.median())),
        ),
        Target::new(
            "events, paced, memory",
            "streams whose first event came after the first token left",
            0.0,
            row("paced", Kind::Memory).and_then(|row| Some(1.0 - row.began_before_first_token.median()?)),
        ),
        Target::new("memory, idle", "MiB", 30.0, memory(|row| row.idle_kib.processor as f64 / 1024.0)),
        Target::new(
            "memory, live streams",
            "KiB per stream besides its text",
            40.0,
            memory(|row| row.kib_per_stream_without_text),
        ),
        Target::new(
            "memory, live streams",
            "streams short of 5,000 without an error",
            0.0,
            memory(|row| 5000usize.saturating_sub(row.live_streams) as f64),
        ),
    ]
}

fn over_floor(case: &CaseResult, kind: Kind, value: impl Fn(&RowResult) -> Option<f64>) -> Option<f64> {
    Some(value(case.row(kind)?)? - value(case.row(Kind::Noop)?)?)
}
