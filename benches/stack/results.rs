//! What was measured of a case, row by row, in the form in which it is written as JSON.

use serde::Serialize;

use crate::client::Seen;
use crate::figures::{self, Rounds, percentile};
use crate::rows::{Cpu, Kind, Resident};

/// One kind of work, done by every row.
#[derive(Debug, Serialize)]
pub(crate) struct CaseResult {
    pub(crate) name: &'static str,
    pub(crate) title: String,
    /// What the CPU is given for a thousand of.
    pub(crate) unit: &'static str,
    /// Over how many starts of all processes the rounds are spread, in equal parts.
    pub(crate) starts: usize,
    pub(crate) rows: Vec<RowResult>,
}

/// What one row took. Without a number where the row has no such thing.
#[derive(Debug, Serialize)]
pub(crate) struct RowResult {
    pub(crate) row: Kind,
    pub(crate) title: &'static str,
    pub(crate) cpu_s_per_1000: Spent,
    /// To the floor's of the same round: Envoy, router and Redis to its Envoy and processor; the router alone to its
    /// processor alone.
    pub(crate) whole_ratio: Rounds,
    pub(crate) router_ratio: Rounds,
    pub(crate) per_second: Rounds,
    pub(crate) p50_ms: Rounds,
    pub(crate) p99_ms: Rounds,
    /// From the backend's sending of a stamped chunk to its arrival.
    pub(crate) event_p50_us: Rounds,
    pub(crate) event_p99_us: Rounds,
    pub(crate) first_event_ms: Rounds,
    /// The part of the paced streams whose first event came before the backend sent its first token.
    pub(crate) began_before_first_token: Rounds,
    /// After the last round of the last start.
    pub(crate) resident_kib: Option<Resident>,
    /// Median latency of the first, second, … turn over all conversations of all rounds, and how much the line through them
    /// rises per turn.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) turn_p50_us: Vec<f64>,
    pub(crate) growth_us_per_turn: Option<f64>,
}

/// Processor time in seconds for a thousand units.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Spent {
    pub(crate) envoy: Rounds,
    pub(crate) router: Rounds,
    pub(crate) redis: Rounds,
    pub(crate) whole: Rounds,
    /// This program: client and backend. In no sum.
    pub(crate) client_and_backend: Rounds,
}

impl RowResult {
    pub(crate) fn new(row: Kind) -> Self {
        Self {
            row,
            title: row.title(),
            cpu_s_per_1000: Spent::default(),
            whole_ratio: Rounds::default(),
            router_ratio: Rounds::default(),
            per_second: Rounds::default(),
            p50_ms: Rounds::default(),
            p99_ms: Rounds::default(),
            event_p50_us: Rounds::default(),
            event_p99_us: Rounds::default(),
            first_event_ms: Rounds::default(),
            began_before_first_token: Rounds::default(),
            resident_kib: None,
            turn_p50_us: Vec::new(),
            growth_us_per_turn: None,
        }
    }

    /// Notes a round in which so many units took this processor time.
    pub(crate) fn note_cpu(&mut self, cpu: Cpu, units: usize) {
        let per_1000 = |time: std::time::Duration| time.as_secs_f64() * 1000.0 / units as f64;
        let spent = &mut self.cpu_s_per_1000;
        if self.row != Kind::Direct {
            spent.envoy.push(per_1000(cpu.envoy));
            spent.whole.push(per_1000(cpu.envoy + cpu.processor + cpu.redis));
        }
        if self.row.has_processor() {
            spent.router.push(per_1000(cpu.processor));
        }
        if self.row.has_redis() {
            spent.redis.push(per_1000(cpu.redis));
        }
        spent.client_and_backend.push(per_1000(cpu.harness));
    }

    /// Notes the times of a round.
    pub(crate) fn note_times(&mut self, mut seen: Seen, units: usize) {
        self.per_second.push(units as f64 / seen.elapsed.as_secs_f64());
        let mut delays: Vec<u64> = seen.delays.iter().map(|delay| delay.took).collect();
        for times in [&mut seen.latencies, &mut delays, &mut seen.first_events] {
            times.sort_unstable();
        }
        let at = |times: &[u64], percent, unit: f64| percentile(times, percent).map(|time| time as f64 / unit);
        self.p50_ms.extend(at(&seen.latencies, 50, 1e6));
        self.p99_ms.extend(at(&seen.latencies, 99, 1e6));
        self.event_p50_us.extend(at(&delays, 50, 1e3));
        self.event_p99_us.extend(at(&delays, 99, 1e3));
        self.first_event_ms.extend(at(&seen.first_events, 50, 1e6));
        if !delays.is_empty() && !seen.first_events.is_empty() {
            self.began_before_first_token.push(seen.began_before_first_token as f64 / seen.first_events.len() as f64);
        }
    }

    /// Notes the latencies in nanoseconds of the first, second, … turn.
    pub(crate) fn note_turns(&mut self, turns: &[Vec<f64>]) {
        let medians: Option<Vec<f64>> = turns.iter().map(|times| Some(figures::median(times)? / 1e3)).collect();
        let medians = medians.unwrap_or_default();
        self.growth_us_per_turn = figures::slope(&medians).map(figures::rounded);
        self.turn_p50_us = medians.into_iter().map(figures::rounded).collect();
    }
}

impl CaseResult {
    /// The rows, with their ratios to the floor.
    pub(crate) fn new(name: &'static str, title: String, unit: &'static str, mut rows: Vec<RowResult>) -> Self {
        if let Some(floor) = rows.iter().position(|row| row.row == Kind::Noop) {
            let ratio = |one: &Rounds, floor: &Rounds| one.each_with(floor, |one, floor| one / floor);
            let ratios: Vec<_> = rows
                .iter()
                .map(|row| {
                    let (spent, floor) = (&row.cpu_s_per_1000, &rows[floor].cpu_s_per_1000);
                    (ratio(&spent.whole, &floor.whole), ratio(&spent.router, &floor.router))
                })
                .collect();
            for (row, (whole, router)) in rows.iter_mut().zip(ratios) {
                (row.whole_ratio, row.router_ratio) = (whole, router);
            }
        }
        Self { name, title, unit, starts: 1, rows }
    }

    pub(crate) fn row(&self, kind: Kind) -> Option<&RowResult> {
        self.rows.iter().find(|row| row.row == kind)
    }
}

/// The memory of a processor that had done nothing yet, and then held live streams.
#[derive(Debug, Serialize)]
pub(crate) struct MemoryResult {
    pub(crate) row: Kind,
    pub(crate) title: &'static str,
    /// All of them ended with a right answer.
    pub(crate) live_streams: usize,
    /// What each had said when its memory was looked at.
    pub(crate) text_bytes: usize,
    pub(crate) idle_kib: Resident,
    pub(crate) live_kib: Resident,
    pub(crate) after_kib: Resident,
    /// Of the router, and of this its text once.
    pub(crate) kib_per_stream: f64,
    pub(crate) kib_per_stream_without_text: f64,
}

/// A case at growing sizes.
#[derive(Debug, Serialize)]
pub(crate) struct Growth {
    pub(crate) name: &'static str,
    /// What grows.
    pub(crate) along: &'static str,
    pub(crate) points: Vec<Point>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Point {
    pub(crate) at: usize,
    pub(crate) case: CaseResult,
}
