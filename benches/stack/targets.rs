//! The targets of the project, each a ratio to the floor of the same run or a bound, beside what was measured. Nothing is
//! asserted: a missed target is a line in the table.

use serde::Serialize;

use crate::figures::{Rounds, rounded};
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
    /// Where the median of endlessly many starts, or of rounds where there was one start, would be, at 95%; `None` for what is
    /// no median of enough of them.
    pub(crate) interval: Option<[f64; 2]>,
    pub(crate) reached: Option<bool>,
}

impl Target {
    fn new(work: &'static str, measure: &'static str, at_most: f64, measured: Option<f64>) -> Self {
        let measured = measured.map(rounded);
        let reached = measured.map(|measured| measured <= at_most);
        Self { work, measure, at_most, measured, interval: None, reached }
    }

    /// Of rounds in this many parts, each of which begins with a new start of all processes.
    fn of_rounds(work: &'static str, measure: &'static str, at_most: f64, rounds: Option<(&Rounds, usize)>) -> Self {
        // What is the same for all rounds of a start does not become surer with their number.
        let interval = rounds.and_then(|(rounds, starts)| match starts {
            0 | 1 => rounds.interval(),
            starts => rounds.medians_of(starts).interval(),
        });
        let measured = rounds.and_then(|(rounds, _)| rounds.median());
        Self { interval: interval.map(|interval| interval.map(rounded)), ..Self::new(work, measure, at_most, measured) }
    }
}

const WHOLE: &str = "Envoy + router + Redis, ratio to the floor";
const ROUTER: &str = "router alone, ratio to the floor's processor";

/// The targets against a run.
pub(crate) fn of(report: &Report) -> Vec<Target> {
    let case = |name: &str| report.cases.iter().find(|case| case.name == name);
    let row = |name: &str, kind| case(name)?.row(kind);
    let starts = |name: &str| case(name).map_or(1, |case| case.starts);
    let whole = |name, kind| row(name, kind).map(|row| (&row.whole_ratio, starts(name)));
    let router = |name, kind| row(name, kind).map(|row| (&row.router_ratio, starts(name)));
    let memory = |value: fn(&MemoryResult) -> f64| report.memory.iter().find(|row| row.row == Kind::Memory).map(value);
    let chain = case("chain-latency");
    let events = |kind| row("paced", kind).map(|row| &row.event_p50_us);
    let later =
        events(Kind::Memory).zip(events(Kind::Noop)).map(|(row, floor)| row.each_with(floor, |row, floor| row - floor));
    vec![
        Target::of_rounds("JSON, memory", WHOLE, 1.15, whole("json", Kind::Memory)),
        Target::of_rounds("JSON, memory", ROUTER, 1.6, router("json", Kind::Memory)),
        Target::of_rounds("JSON, one Redis, stored", WHOLE, 1.35, whole("json", Kind::Redis)),
        Target::of_rounds("JSON, one Redis, stored", ROUTER, 2.0, router("json", Kind::Redis)),
        Target::of_rounds("JSON, cluster, stored", WHOLE, 1.45, whole("json", Kind::Cluster)),
        Target::of_rounds("JSON, cluster, stored", ROUTER, 2.2, router("json", Kind::Cluster)),
        Target::of_rounds("SSE, 100 chunks, cluster, stored", WHOLE, 1.25, whole("sse", Kind::Cluster)),
        Target::of_rounds("SSE, 100 chunks, cluster, stored", ROUTER, 1.8, router("sse", Kind::Cluster)),
        Target::of_rounds("chain, cluster", WHOLE, 2.0, whole("chain", Kind::Cluster)),
        Target::new(
            "chain, cluster",
            "latency's growth over the floor's, µs per turn",
            20.0,
            chain.and_then(|case| over_floor(case, Kind::Cluster, |row| row.growth_us_per_turn)),
        ),
        Target::of_rounds(
            "events, paced, memory",
            "p50 over the floor's, µs",
            60.0,
            later.as_ref().map(|later| (later, 1)),
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
