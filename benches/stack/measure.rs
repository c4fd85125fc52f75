//! The cases, and how the rows take turns under one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use tokio::task::JoinSet;

use crate::Failure;
use crate::client::{self, Answer, Load, PACED_BETWEEN, PACED_CHUNKS, PACED_STREAMS, PACED_THINKING, Seen};
use crate::mock::Mock;
use crate::results::{CaseResult, RowResult};
use crate::rows::Row;

/// The length of the text of a turn.
pub(crate) const TURN_BYTES: usize = 500;

/// One kind of work, for every row.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) title: String,
    pub(crate) work: Work,
    pub(crate) rounds: usize,
    /// Over how many starts of all processes the rounds are spread: for its whole life a process pays more or less for
    /// where it lies in memory.
    pub(crate) starts: usize,
    /// What the cost is given for a thousand of.
    pub(crate) unit: &'static str,
}

/// What a row does in a round.
#[derive(Debug, Clone)]
pub(crate) enum Work {
    /// Equal requests.
    Load(Load),
    /// Equal requests, each the turn at this depth of one conversation.
    TurnAt { depth: usize, load: Load },
    /// Streams, the delay of whose events is measured, beside requests that go on and on until the streams have ended.
    Beside { streams: Load, others: Load },
    /// Conversations of so many turns.
    Conversations { count: usize, at_a_time: usize, turns: usize },
}

impl Case {
    /// Small JSON answers.
    pub(crate) fn json(requests: usize, rounds: usize) -> Self {
        let work = Work::Load(Load::new(Answer::Json, requests, 16));
        let title = format!("JSON, stored, 2 KB up, 1.1 KB down, 16 at a time, {rounds} rounds of {requests}");
        Self { name: "json", title, work, rounds, starts: 1, unit: "requests" }
    }

    /// Streams as fast as they go.
    pub(crate) fn stream(name: &'static str, chunks: usize, streams: usize, rounds: usize) -> Self {
        let work = Work::Load(Load::new(Answer::Stream { chunks, pace: None }, streams, 8));
        let title =
            format!("SSE, stored, {chunks} chunks at full speed, 8 streams at a time, {rounds} rounds of {streams}");
        Self { name, title, work, rounds, starts: 1, unit: "streams" }
    }

    /// Streams at a model's pace, each with a beat of its own: with a comment before the first token, or with nothing.
    pub(crate) fn paced(name: &'static str, comment: bool, rounds: usize) -> Self {
        Self::at_a_pace(name, comment, false, rounds)
    }

    /// The same of a model server that makes the next token of all its streams in one step.
    pub(crate) fn paced_in_step(name: &'static str, rounds: usize) -> Self {
        Self::at_a_pace(name, true, true, rounds)
    }

    fn at_a_pace(name: &'static str, comment: bool, in_step: bool, rounds: usize) -> Self {
        let work = Work::Load(Load::at_a_pace(comment, in_step));
        let opening = if comment { "a comment" } else { "headers only" };
        let step = if in_step { "in step" } else { "each with a beat of its own" };
        let title = format!(
            "SSE, paced: {opening} at once, the first of {PACED_CHUNKS} tokens after {PACED_THINKING:?}, then one each \
             {PACED_BETWEEN:?}; {PACED_STREAMS} streams, {step}, {rounds} rounds"
        );
        Self { name, title, work, rounds, starts: 1, unit: "streams" }
    }

    /// Conversations, several at a time for the CPU and one at a time for the latency.
    pub(crate) fn chain(name: &'static str, turns: usize, count: usize, at_a_time: usize, rounds: usize) -> Self {
        let title = format!(
            "Chains of {turns} turns, JSON, stored, 0.5 KB up, 0.7 KB down, {at_a_time} at a time, {rounds} rounds of {count}"
        );
        Self { name, title, work: Work::Conversations { count, at_a_time, turns }, rounds, starts: 1, unit: "turns" }
    }

    /// The same, its rounds spread evenly over so many starts.
    pub(crate) fn over(self, starts: usize) -> Self {
        Self { starts, ..self }
    }
}

impl Work {
    /// How many requests it is.
    fn units(&self) -> usize {
        match self {
            Self::Load(load) | Self::TurnAt { load, .. } | Self::Beside { streams: load, .. } => load.requests,
            Self::Conversations { count, turns, .. } => count * turns,
        }
    }

    /// A little of the same.
    fn warm_up(&self) -> Self {
        match self {
            Self::Load(load) => {
                Self::Load(Load { requests: (load.requests / 10).max(load.concurrency), ..load.clone() })
            }
            Self::TurnAt { depth, load } => {
                Self::TurnAt { depth: *depth, load: Load { requests: load.concurrency, ..load.clone() } }
            }
            Self::Beside { streams, .. } => Self::Load(streams.clone()),
            Self::Conversations { at_a_time, turns, .. } => {
                Self::Conversations { count: *at_a_time, at_a_time: *at_a_time, turns: (*turns).min(10) }
            }
        }
    }

    /// What has to be there before the measurement, of this row alone: the conversation that is continued.
    async fn prepared(&self, row: &Row) -> Result<Self, Failure> {
        let Self::TurnAt { depth, load } = self else { return Ok(self.clone()) };
        let turns = depth.saturating_sub(1);
        let (_, past) = client::converse(&row.targets, row.kind.api(), turns, TURN_BYTES).await?;
        Ok(Self::Load(Load { past: Arc::new(past), ..load.clone() }))
    }

    /// Does it; the latencies of the first, second, … turn are apart where there are turns.
    async fn run(&self, row: &Row) -> Result<(Seen, Vec<Vec<f64>>), Failure> {
        match self {
            Self::Load(load) | Self::TurnAt { load, .. } => {
                Ok((client::run(&row.targets, row.kind.api(), load).await?, Vec::new()))
            }
            Self::Beside { streams, others } => Ok((beside(row, streams, others).await?, Vec::new())),
            Self::Conversations { count, at_a_time, turns } => conversations(row, *count, *at_a_time, *turns).await,
        }
    }
}

/// What is seen of the streams; the last of the others is waited for.
async fn beside(row: &Row, streams: &Load, others: &Load) -> Result<Seen, Failure> {
    let over = AtomicBool::new(false);
    let streams = async {
        let seen = client::run(&row.targets, row.kind.api(), streams).await;
        over.store(true, Ordering::Relaxed);
        seen
    };
    let others = async {
        let mut requests = 0;
        while !over.load(Ordering::Relaxed) {
            requests += client::run(&row.targets, row.kind.api(), others).await?.latencies.len();
        }
        Ok::<_, Failure>(requests)
    };
    let (seen, beside) = tokio::try_join!(streams, others)?;
    Ok(Seen { beside, ..seen })
}

async fn conversations(
    row: &Row,
    count: usize,
    at_a_time: usize,
    turns: usize,
) -> Result<(Seen, Vec<Vec<f64>>), Failure> {
    let begun = Arc::new(AtomicUsize::new(0));
    let (mut workers, began) = (JoinSet::new(), Instant::now());
    for _ in 0..at_a_time {
        let (begun, targets, api) = (Arc::clone(&begun), row.targets.clone(), row.kind.api());
        workers.spawn(async move {
            let mut latencies = Vec::new();
            while begun.fetch_add(1, Ordering::Relaxed) < count {
                latencies.push(client::converse(&targets, api, turns, TURN_BYTES).await?.0);
            }
            Ok::<_, Failure>(latencies)
        });
    }
    let (mut seen, mut by_turn) = (Seen::default(), vec![Vec::new(); turns]);
    while let Some(worker) = workers.join_next().await {
        for conversation in worker?? {
            for (times, time) in by_turn.iter_mut().zip(&conversation) {
                times.push(*time as f64);
            }
            seen.latencies.extend(conversation);
        }
    }
    seen.elapsed = began.elapsed();
    Ok((seen, by_turn))
}

/// Brings the stores, and what is kept in memory beside them, to their bounds.
pub(crate) async fn fill(rows: &[Row], requests: usize) -> Result<(), Failure> {
    for row in rows.iter().filter(|row| row.kind.has_processor()) {
        let load = Work::Load(Load::new(Answer::Json, requests, 16));
        load.run(row).await.map_err(|error| in_row(row, &error))?;
    }
    Ok(())
}

/// Measures a case under rows that are there.
pub(crate) async fn case(mock: &Mock, rows: &[Row], case: Case) -> Result<CaseResult, Failure> {
    let mut measurement = Measurement::of(case);
    measurement.go_on(mock, rows).await?;
    Ok(measurement.end())
}

/// A case while it is measured.
pub(crate) struct Measurement {
    case: Case,
    /// How many starts it has seen.
    started: usize,
    rows: Vec<(RowResult, Vec<Vec<f64>>)>,
}

impl Measurement {
    pub(crate) fn of(case: Case) -> Self {
        Self { case, started: 0, rows: Vec::new() }
    }

    /// How many starts it takes.
    pub(crate) fn starts(&self) -> usize {
        self.case.starts
    }

    /// The rounds of one start, in which the rows take turns. None when there were all.
    pub(crate) async fn go_on(&mut self, mock: &Mock, rows: &[Row]) -> Result<(), Failure> {
        let case = &self.case;
        if self.started == case.starts {
            return Ok(());
        }
        if self.started == 0 {
            eprintln!("bench: {}", case.title);
            self.rows = rows.iter().map(|row| (RowResult::new(row.kind), Vec::new())).collect();
        }
        self.started += 1;
        let mut works = Vec::new();
        for row in rows {
            let in_row = |error: Failure| in_row(row, &error);
            case.work.warm_up().prepared(row).await.map_err(in_row)?.run(row).await.map_err(in_row)?;
            works.push(case.work.prepared(row).await.map_err(in_row)?);
        }
        let units = case.work.units();
        for round in 0..case.rounds / case.starts {
            let mut turns: Vec<_> = rows.iter().zip(&works).zip(&mut self.rows).collect();
            // So that none always follows the same one, whose writes to a disk as an example may go on for a while.
            if round % 2 == 1 {
                turns.reverse();
            }
            for ((row, work), (result, turns)) in turns {
                // The caches are full of what the row before it left there.
                work.warm_up().run(row).await.map_err(|error| in_row(row, &error))?;
                let (requests, before) = (mock.requests(), row.cpu()?);
                let (seen, by_turn) = work.run(row).await.map_err(|error| in_row(row, &error))?;
                let spent = row.cpu()?.since(before);
                if mock.requests() - requests != units + seen.beside {
                    return Err(in_row(row, &"the backend saw another number of requests than were sent".into()));
                }
                result.note_cpu(spent, units);
                result.note_times(seen, units);
                turns.resize(by_turn.len(), Vec::new());
                for (all, new) in turns.iter_mut().zip(by_turn) {
                    all.extend(new);
                }
            }
        }
        for (row, (result, _)) in rows.iter().zip(&mut self.rows) {
            result.resident_kib = Some(row.resident()?);
        }
        Ok(())
    }

    /// What was measured.
    pub(crate) fn end(self) -> CaseResult {
        let rows = self.rows.into_iter().map(|(mut result, turns)| {
            result.note_turns(&turns);
            result
        });
        let Case { name, title, unit, starts, .. } = self.case;
        CaseResult { starts, ..CaseResult::new(name, title, unit, rows.collect()) }
    }
}

fn in_row(row: &Row, error: &Failure) -> Failure {
    format!("{}: {error}", row.kind.title()).into()
}
