//! The results, as tables for people and as JSON for scripts.

use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::Args;
use crate::figures::Rounds;
use crate::machine::Machine;
use crate::results::{CaseResult, Growth, MemoryResult, RowResult};
use crate::rows::Kind;
use crate::targets::Target;

/// All of a run.
#[derive(Serialize)]
pub(crate) struct Report<'a> {
    pub(crate) machine: Machine,
    pub(crate) args: &'a Args,
    pub(crate) memory: Vec<MemoryResult>,
    pub(crate) cases: Vec<CaseResult>,
    pub(crate) growth: Vec<Growth>,
    /// How many times the throughput of the fastest row with a processor client and backend reach by themselves.
    pub(crate) headroom: Vec<Headroom>,
    pub(crate) targets: Vec<Target>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Headroom {
    case: &'static str,
    times: f64,
}

impl<'a> Report<'a> {
    pub(crate) fn new(machine: Machine, args: &'a Args) -> Self {
        let (memory, cases, growth) = (Vec::new(), Vec::new(), Vec::new());
        Self { machine, args, memory, cases, growth, headroom: Vec::new(), targets: Vec::new() }
    }

    /// Derives what is derived.
    pub(crate) fn finish(&mut self) {
        self.headroom = self.cases.iter().filter_map(headroom).collect();
        if !self.cases.is_empty() || !self.memory.is_empty() {
            self.targets = crate::targets::of(self);
        }
    }
}

/// `None` for a case at a given pace, and where there is nothing to compare.
fn headroom(case: &CaseResult) -> Option<Headroom> {
    let direct = case.row(Kind::Direct)?;
    if direct.event_p50_us.median().is_some() {
        return None;
    }
    let others = case.rows.iter().filter(|row| row.row.has_processor()).filter_map(|row| row.per_second.median());
    let times = direct.per_second.median()? / others.reduce(f64::max)?;
    Some(Headroom { case: case.name, times: crate::figures::rounded(times) })
}

/// A number with so many digits behind the point, or a dash.
fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

fn median(rounds: &Rounds, digits: usize) -> String {
    number(rounds.median(), digits)
}

/// Two of a kind, or a dash for both.
fn pair(one: &Rounds, other: &Rounds, digits: usize) -> String {
    if one.median().is_none() { "-".to_owned() } else { format!("{} / {}", median(one, digits), median(other, digits)) }
}

fn mib(kib: u64) -> String {
    if kib == 0 { "-".to_owned() } else { format!("{:.1}", kib as f64 / 1024.0) }
}

/// Columns as wide as what is in them: the first to the left, the others to the right.
fn table(f: &mut fmt::Formatter<'_>, head: &[&str], rows: &[Vec<String>]) -> fmt::Result {
    let head: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
    let all = || std::iter::once(&head).chain(rows);
    let width = |column: usize| all().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..head.len()).map(|column| width(column).unwrap_or(0)).collect();
    for row in all() {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            match column {
                0 => write!(line, "{cell:<width$}")?,
                _ => write!(line, "  {cell:>width$}")?,
            }
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        writeln!(
            f,
            "{} cores, {}, Linux {}; load average before the run {:?}\nrouter {} {}, Envoy {} with 1 worker, Redis {}",
            machine.cores,
            machine.cpu,
            machine.kernel,
            machine.load_average,
            machine.router,
            machine.commit.unwrap_or("of no commit"),
            machine.envoy,
            machine.redis,
        )?;
        for case in &self.cases {
            writeln!(f, "\n{case}")?;
        }
        memory_table(f, &self.memory)?;
        for growth in &self.growth {
            growth_table(f, growth)?;
        }
        for Headroom { case, times } in &self.headroom {
            writeln!(
                f,
                "{case}: client and backend alone are {times:.1} times as fast as the fastest row with a processor."
            )?;
        }
        targets_table(f, &self.targets)
    }
}

impl fmt::Display for CaseResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}\nCPU in seconds per 1000 {}, × is the ratio to the floor, memory in MiB",
            self.title, self.unit
        )?;
        table(f, &[&[""][..], &CELLS].concat(), &self.rows.iter().map(cells).collect::<Vec<_>>())?;
        let turns: Vec<_> = self.rows.iter().filter(|row| !row.turn_p50_us.is_empty()).map(turn_cells).collect();
        if turns.is_empty() {
            return Ok(());
        }
        writeln!(f, "\nThe same by turn, p50 in µs, and what the line through all turns rises by")?;
        table(f, &["", "turn 1", "turn 10", "turn 25", "turn 50", "µs per turn"], &turns)
    }
}

const CELLS: [&str; 15] = [
    "Envoy",
    "router",
    "Redis",
    "whole",
    "whole ×",
    "router ×",
    "per s",
    "p50 ms",
    "p99 ms",
    "event p50/p99 µs",
    "first event ms",
    "RSS Envoy",
    "router",
    "Redis",
    "client+mock CPU",
];

fn cells(row: &RowResult) -> Vec<String> {
    let spent = &row.cpu_s_per_1000;
    let resident = row.resident_kib.map_or((0, 0, 0), |kib| (kib.envoy, kib.processor, kib.redis));
    vec![
        row.title.to_owned(),
        median(&spent.envoy, 3),
        median(&spent.router, 3),
        median(&spent.redis, 3),
        median(&spent.whole, 3),
        median(&row.whole_ratio, 2),
        median(&row.router_ratio, 2),
        median(&row.per_second, 0),
        median(&row.p50_ms, 2),
        median(&row.p99_ms, 2),
        pair(&row.event_p50_us, &row.event_p99_us, 0),
        median(&row.first_event_ms, 1),
        mib(resident.0),
        mib(resident.1),
        mib(resident.2),
        median(&spent.client_and_backend, 3),
    ]
}

fn turn_cells(row: &RowResult) -> Vec<String> {
    let at = |turn: usize| number(row.turn_p50_us.get(turn - 1).copied(), 0);
    vec![row.title.to_owned(), at(1), at(10), at(25), at(50), number(row.growth_us_per_turn, 1)]
}

fn memory_table(f: &mut fmt::Formatter<'_>, memory: &[MemoryResult]) -> fmt::Result {
    let Some(first) = memory.first() else { return Ok(()) };
    writeln!(
        f,
        "\nResident memory in MiB: idle, with {} live streams of {} bytes of text each, and after them",
        first.live_streams, first.text_bytes
    )?;
    let rows: Vec<_> = memory
        .iter()
        .map(|row| {
            vec![
                row.title.to_owned(),
                mib(row.idle_kib.processor),
                mib(row.live_kib.processor),
                mib(row.after_kib.processor),
                format!("{:.1}", row.kib_per_stream),
                format!("{:.1}", row.kib_per_stream_without_text),
                mib(row.idle_kib.envoy),
                mib(row.live_kib.envoy),
            ]
        })
        .collect();
    let head = ["", "idle", "live", "after", "KiB a stream", "without text", "Envoy idle", "Envoy live"];
    table(f, &head, &rows)
}

fn growth_table(f: &mut fmt::Formatter<'_>, growth: &Growth) -> fmt::Result {
    let Some(first) = growth.points.first() else { return Ok(()) };
    writeln!(f, "\n{} along {}; CPU in seconds per 1000 {}", growth.name, growth.along, first.case.unit)?;
    let rows: Vec<_> = growth
        .points
        .iter()
        .flat_map(|point| {
            point.case.rows.iter().map(|row| [&[point.at.to_string()][..], &cells(row)].concat()).collect::<Vec<_>>()
        })
        .collect();
    table(f, &[&[growth.along, ""][..], &CELLS].concat(), &rows)
}

fn targets_table(f: &mut fmt::Formatter<'_>, targets: &[Target]) -> fmt::Result {
    if targets.is_empty() {
        return Ok(());
    }
    writeln!(f)?;
    let rows: Vec<_> = targets
        .iter()
        .map(|target| {
            let reached = match target.reached {
                Some(true) => "reached",
                Some(false) => "not reached",
                None => "not measured",
            };
            let at_most = format!("≤ {}", target.at_most);
            vec![
                target.work.to_owned(),
                target.measure.to_owned(),
                at_most,
                number(target.measured, 2),
                target.interval.map_or_else(String::new, |[from, to]| format!("{from:.2} to {to:.2}")),
                reached.to_owned(),
            ]
        })
        .collect();
    table(f, &["target", "", "", "measured", "95%", ""], &rows)
}
