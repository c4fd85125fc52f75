//! The cases, and how a row is measured under one.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::client::{self, Answer, Api, Load, Seen};
use crate::mock::Mock;
use crate::processes::Process;
use crate::report::{CaseResult, MemoryResult, RowResult};

/// One way through the stack.
pub(crate) struct Row<'a> {
    pub(crate) name: &'static str,
    pub(crate) api: Api,
    /// Where the client sends its requests.
    pub(crate) target: SocketAddr,
    pub(crate) envoy: &'a Process,
    pub(crate) processor: Option<&'a Process>,
}

/// One kind of load, for every row.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) title: String,
    load: Load,
    rounds: usize,
    /// What the cost is divided by.
    unit: &'static str,
    units_per_request: usize,
}

impl Case {
    /// Small JSON answers.
    pub(crate) fn json(requests: usize, rounds: usize) -> Self {
        let load = Load { answer: Answer::Json, requests, concurrency: 16 };
        let title = format!("JSON, 2 KB up, 1.1 KB down, 16 at a time, {rounds} rounds of {requests} requests");
        Self { name: "json", title, load, rounds, unit: "request", units_per_request: 1 }
    }

    /// Streams as fast as they go.
    pub(crate) fn stream(requests: usize, rounds: usize) -> Self {
        let chunks = 100;
        let load = Load { answer: Answer::Stream { chunks, pace: None }, requests, concurrency: 8 };
        let title = format!("SSE, {chunks} chunks at full speed, 8 at a time, {rounds} rounds of {requests} streams");
        Self { name: "sse", title, load, rounds, unit: "chunk", units_per_request: chunks }
    }

    /// Streams at a model's pace.
    pub(crate) fn paced(rounds: usize) -> Self {
        let (chunks, pace, streams) = (50, Duration::from_millis(20), 8);
        let load =
            Load { answer: Answer::Stream { chunks, pace: Some(pace) }, requests: streams, concurrency: streams };
        let title = format!("SSE, {chunks} chunks, {pace:?} apart, {streams} streams, {rounds} rounds");
        Self { name: "paced", title, load, rounds, unit: "chunk", units_per_request: chunks }
    }
}

/// Measures a case: the rows in turn, as often as it has rounds.
pub(crate) async fn case(mock: &Mock, rows: &[Row<'_>], case: Case) -> Result<CaseResult, Failure> {
    let warm_up = Load { requests: (case.load.requests / 10).max(case.load.concurrency), ..case.load };
    for row in rows {
        client::run(row.target, row.api, warm_up).await?;
    }
    let mut results: Vec<_> = rows.iter().map(|row| RowResult::new(row.name, row.processor.is_some())).collect();
    let units = case.load.requests * case.units_per_request;
    for _ in 0..case.rounds {
        for (row, result) in rows.iter().zip(&mut results) {
            let (requests, before) = (mock.requests(), cpu(row)?);
            let seen = client::run(row.target, row.api, case.load).await?;
            let after = cpu(row)?;
            if mock.requests() - requests != case.load.requests {
                return Err(format!("{}: the backend saw another number of requests than were sent", row.name).into());
            }
            let per_unit =
                |before: Duration, after: Duration| (after.saturating_sub(before)).as_secs_f64() * 1e6 / units as f64;
            result.envoy_us.push(per_unit(before.0, after.0));
            result.processor_us.push(per_unit(before.1, after.1));
            result.per_second.push(units as f64 / seen.elapsed.as_secs_f64());
            note_times(result, seen);
        }
    }
    Ok(CaseResult::new(case.name, case.title, case.unit, results))
}

/// Envoy's processor time, and the processor's.
fn cpu(row: &Row<'_>) -> Result<(Duration, Duration), Failure> {
    Ok((row.envoy.cpu()?, row.processor.map_or(Ok(Duration::ZERO), Process::cpu)?))
}

fn note_times(result: &mut RowResult, mut seen: Seen) {
    for (times, p50, p99) in [
        (&mut seen.latencies, &mut result.p50_ms, &mut result.p99_ms),
        (&mut seen.delays, &mut result.delay_p50_ms, &mut result.delay_p99_ms),
    ] {
        times.sort_unstable();
        let at = |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1)));
        p50.extend(at(50).map(|nanoseconds| *nanoseconds as f64 / 1e6));
        p99.extend(at(99).map(|nanoseconds| *nanoseconds as f64 / 1e6));
    }
}

/// Memory of the processors that have done nothing yet, with `live` streams, and once these are over.
pub(crate) async fn memory(mock: &Mock, rows: &[Row<'_>], live: usize) -> Result<Vec<MemoryResult>, Failure> {
    let mut results = Vec::new();
    for row in rows {
        let Some(processor) = row.processor else { continue };
        eprintln!("bench: memory of {} with {live} streams", processor.name());
        let (idle, envoy_idle) = (processor.resident_kib()?, row.envoy.resident_kib()?);
        let answer = Answer::Stream { chunks: 40, pace: Some(Duration::from_millis(100)) };
        let load = Load { answer, requests: live, concurrency: live };
        let streams = client::run(row.target, row.api, load);
        let (_, sampled) = tokio::try_join!(streams, sample(mock, row, processor, live))?;
        let (processor_live, envoy_live) = sampled;
        tokio::time::sleep(Duration::from_secs(1)).await;
        results.push(MemoryResult {
            name: row.name,
            idle_kib: idle,
            live_kib: processor_live,
            after_kib: processor.resident_kib()?,
            envoy_idle_kib: envoy_idle,
            envoy_live_kib: envoy_live,
        });
    }
    Ok(results)
}

/// The memory of processor and Envoy while all the streams are live and half through.
async fn sample(mock: &Mock, row: &Row<'_>, processor: &Process, live: usize) -> Result<(u64, u64), Failure> {
    let began = Instant::now();
    while mock.live_streams() < live {
        if began.elapsed() > Duration::from_secs(30) {
            return Err(format!("only {} of {live} streams are live", mock.live_streams()).into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let sampled = (processor.resident_kib()?, row.envoy.resident_kib()?);
    if mock.live_streams() < live {
        return Err("streams ended before their memory was looked at".into());
    }
    Ok(sampled)
}
