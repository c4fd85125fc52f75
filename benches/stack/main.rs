//! What an exchange costs through a real Envoy, beside no Envoy, an Envoy alone and a processor that does nothing.
//!
//! ```text
//! make bench
//! make bench BENCH_FLAGS='--only json --rounds 9'
//! make bench-growth
//! ```
//!
//! One program: it starts a chat backend and a load client in itself, and as processes what the rows need, each row with
//! its own (`noop_processor`, `responses-router`, an Envoy with one worker, Redis). The rows of a case take turns, round
//! by round, so that whatever else the machine does meets all of them; the tables have the medians of the rounds, ratios
//! are taken within a round. Trust the CPU and its ratio to the floor: time and throughput are what the machine, the
//! client and the backend left over. docs/performance.md says what every row and column is.
//!
//! Nothing is asserted about speed. A lost or wrong answer ends the run with exit code 1.

mod answers;
mod client;
mod conversation;
mod figures;
mod growth;
mod live;
mod machine;
mod measure;
mod mock;
mod processes;
mod redis;
mod report;
mod results;
mod rows;
mod targets;

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser as _, ValueEnum};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::machine::Machine;
use crate::measure::{Case, Measurement};
use crate::mock::Mock;
use crate::processes::RunDirectory;
use crate::report::Report;
use crate::rows::{Kind, Row};

/// Why a run ended early, for people.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Name {
    /// Resident memory, idle and with live streams
    Memory,
    /// JSON answers
    Json,
    /// Streams of 100 chunks at full speed
    Sse,
    /// Streams of 1000 chunks at full speed
    SseLong,
    /// Streams at a model's pace: how late events are
    Paced,
    /// Conversations: CPU, and latency by turn
    Chain,
    /// Growth with the depth of the conversation
    History,
    /// Growth with the size of the request
    Bodies,
    /// How late events are beside requests of growing size
    Beside,
    /// Growth with the number of live streams
    Streams,
    /// Growth with the number of routers that share a cluster
    Routers,
}

/// Measures responses-router beside no Envoy, an Envoy alone and a processor that does nothing.
#[derive(Debug, clap::Parser, Serialize)]
struct Args {
    /// What to measure
    #[arg(long, value_delimiter = ',', default_value = "memory,json,sse,sse-long,paced,chain")]
    only: Vec<Name>,
    /// The ways through the stack; ratios need noop. Growth takes noop, memory and cluster of them
    #[arg(long, value_delimiter = ',', default_value = "direct,envoy,noop,memory,disk,redis,cluster")]
    rows: Vec<Kind>,
    /// How often each row takes its turn; half as often in chain, six times in json and sse, where a turn is over in a tenth of a second. Many short turns meet the same machine, few long ones do not
    #[arg(long, default_value_t = 24)]
    rounds: usize,
    /// Over how many starts of all processes the rounds are spread, but for those of paced, memory and growth: for its whole life
    /// a process pays more or less for where it lies in memory
    #[arg(long, default_value_t = 6)]
    starts: usize,
    /// Requests to each row after a start, before anything is measured. By default a little more than the memory store keeps:
    /// until it and the caches of the others are full, each request takes memory that the process has not used before
    #[arg(long, default_value_t = 12_000)]
    fill: usize,
    /// Requests per row and round of json; four times as many of routers
    #[arg(long, default_value_t = 500)]
    requests: usize,
    /// Streams per row and round of sse; of sse-long a quarter
    #[arg(long, default_value_t = 160)]
    streams: usize,
    /// Conversations per row and round of chain
    #[arg(long, default_value_t = 8)]
    conversations: usize,
    /// Turns of a conversation of chain
    #[arg(long, default_value_t = 50)]
    turns: usize,
    /// Live streams of memory, and the most of streams; a process needs more than twice as many file descriptors
    #[arg(long, default_value_t = 5000)]
    live: usize,
    /// Worker threads of the processors, as many as each Envoy has workers
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Also write the JSON into this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Cargo says so to every benchmark
    #[arg(long, hide = true)]
    #[serde(skip)]
    bench: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.map_err(Failure::from).and_then(|runtime| runtime.block_on(until_stopped(&args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let causes = std::iter::successors(failure.source(), |cause| cause.source());
            eprintln!("bench: {failure}{}", causes.map(|cause| format!(": {cause}")).collect::<String>());
            ExitCode::FAILURE
        }
    }
}

/// A stop from outside must not leave the processes behind: they end with what holds them.
async fn until_stopped(args: &Args) -> Result<(), Failure> {
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        ran = run(args) => ran,
        _ = terminated.recv() => Err("stopped by SIGTERM".into()),
        interrupted = tokio::signal::ctrl_c() => Err(interrupted.map_or_else(Failure::from, |()| "interrupted".into())),
    }
}

async fn run(args: &Args) -> Result<(), Failure> {
    let machine = Machine::look();
    if machine.load_average.first().is_some_and(|load| *load > 1.0) {
        eprintln!("bench: the machine is busy ({:?}); its times are worth little", machine.load_average);
    }
    let directory = RunDirectory::new()?;
    let mock = Mock::start().await?;
    let mut report = Report::new(machine, args);
    let wanted = |name| args.only.contains(&name);
    if wanted(Name::Memory) {
        for kind in args.rows.iter().filter(|kind| kind.has_processor()) {
            // New processes: what is idle must not have worked yet.
            let row = Row::start(&directory, *kind, mock.address(), args.threads, 1).await?;
            report.memory.push(live::memory(&mock, &row, args.live).await?);
        }
    }
    cases(&directory, &mock, args, &mut report).await?;
    growth(&directory, &mock, args, &mut report).await?;
    report.finish();
    directory.remove()?;
    println!("{report}");
    println!("{}", serde_json::to_string(&report)?);
    if let Some(file) = &args.json {
        serde_json::to_writer_pretty(File::create(file)?, &report)?;
    }
    Ok(())
}

async fn cases(directory: &RunDirectory, mock: &Mock, args: &Args, report: &mut Report<'_>) -> Result<(), Failure> {
    let (rounds, turns, conversations) = (args.rounds, args.turns, args.conversations);
    let (paced_rounds, few) = (rounds.min(12), rounds.min(3));
    let starts = args.starts.clamp(1, rounds.max(1));
    // Each start has as many.
    let spread = |rounds: usize| rounds.div_ceil(starts) * starts;
    let (chain_rounds, rounds) = (spread(rounds.div_ceil(2)), spread(rounds));
    let cases = [
        (Name::Json, Case::json(args.requests, 6 * rounds).over(starts)),
        (Name::Sse, Case::stream("sse", 100, args.streams, 6 * rounds).over(starts)),
        (Name::SseLong, Case::stream("sse-long", 1000, args.streams.div_ceil(4), rounds).over(starts)),
        (Name::Paced, Case::paced("paced", true, paced_rounds)),
        (Name::Paced, Case::paced_in_step("paced-in-step", few)),
        (Name::Paced, Case::paced("paced-silent", false, few)),
        (Name::Chain, Case::chain("chain", turns, conversations, conversations.min(8), chain_rounds).over(starts)),
        (Name::Chain, Case::chain("chain-latency", turns, conversations.div_ceil(2), 1, chain_rounds).over(starts)),
    ];
    let wanted = cases.into_iter().filter(|(name, _)| args.only.contains(name));
    let mut measurements: Vec<_> = wanted.map(|(_, case)| Measurement::of(case)).collect();
    for _ in 0..measurements.iter().map(Measurement::starts).max().unwrap_or(0) {
        let rows = start(directory, mock, args, &args.rows).await?;
        measure::fill(&rows, args.fill).await?;
        for measurement in &mut measurements {
            measurement.go_on(mock, &rows).await?;
        }
    }
    report.cases.extend(measurements.into_iter().map(Measurement::end));
    Ok(())
}

async fn growth(directory: &RunDirectory, mock: &Mock, args: &Args, report: &mut Report<'_>) -> Result<(), Failure> {
    let wanted = |name| args.only.contains(&name);
    let kinds: Vec<_> =
        [Kind::Noop, Kind::Memory, Kind::Cluster].into_iter().filter(|kind| args.rows.contains(kind)).collect();
    let rounds = args.rounds.min(3);
    if [Name::History, Name::Bodies, Name::Beside].into_iter().any(wanted) {
        let rows = start(directory, mock, args, &kinds).await?;
        if wanted(Name::History) {
            report.growth.push(growth::history(mock, &rows, rounds).await?);
        }
        if wanted(Name::Bodies) {
            report.growth.push(growth::bodies(mock, &rows, rounds).await?);
        }
        if wanted(Name::Beside) {
            report.growth.push(growth::beside(mock, &rows, rounds).await?);
        }
    }
    if wanted(Name::Streams) {
        report.growth.push(growth::streams(mock, directory, &kinds, args.live, args.threads).await?);
    }
    if wanted(Name::Routers) {
        report.growth.extend(growth::routers(mock, directory, 4 * args.requests, rounds, args.threads).await?);
    }
    Ok(())
}

/// A row of each kind, with one router where there are any.
async fn start(directory: &RunDirectory, mock: &Mock, args: &Args, kinds: &[Kind]) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for kind in kinds {
        rows.push(Row::start(directory, *kind, mock.address(), args.threads, 1).await?);
    }
    Ok(rows)
}
