//! What an exchange costs through a real Envoy, beside an Envoy alone and beside a processor that does nothing.
//!
//! ```text
//! make bench
//! make bench BENCH_FLAGS='--only json --rounds 9'
//! ```
//!
//! One program: it starts a chat backend and a load client in itself, and as processes `noop_processor`,
//! `responses-router` and an Envoy with one worker in front of each. The rows of a case take turns, round by round, so
//! that whatever else the machine does meets all of them; the table has the medians of the rounds. Trust the CPU and
//! its ratio to the noop row: time and throughput are what the machine, the client and the backend left over.
//!
//! Nothing is asserted about speed. A lost or wrong answer ends the run with exit code 1.

mod client;
mod measure;
mod mock;
mod processes;
mod report;

use std::process::ExitCode;

use clap::Parser as _;

use crate::measure::{Case, Row};
use crate::mock::Mock;
use crate::processes::RunDirectory;

/// Why a run ended early, for people.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measures Envoy alone, with a processor that does nothing, and with responses-router.
#[derive(Debug, clap::Parser)]
struct Args {
    /// The cases to run, by name
    #[arg(long, value_delimiter = ',', default_value = "memory,json,sse,paced")]
    only: Vec<String>,
    /// How often each row takes its turn
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Requests per row and round of the case json
    #[arg(long, default_value_t = 2000)]
    requests: usize,
    /// Streams per row and round of the case sse
    #[arg(long, default_value_t = 120)]
    streams: usize,
    /// Live streams of the case memory
    #[arg(long, default_value_t = 200)]
    live: usize,
    /// Worker threads of both processors
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Cargo says so to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.map_err(Failure::from).and_then(|runtime| runtime.block_on(run(&args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let causes = std::iter::successors(failure.source(), |cause| cause.source());
            eprintln!("bench: {failure}{}", causes.map(|cause| format!(": {cause}")).collect::<String>());
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<(), Failure> {
    let directory = RunDirectory::new()?;
    let mock = Mock::start().await?;
    let [noop, router, before_noop, before_router] = processes::free_addresses()?;
    let noop_processor = processes::start_noop(&directory, noop, args.threads).await?;
    let router_processor = processes::start_router(&directory, router, args.threads).await?;
    let noop_envoy = processes::start_envoy(&directory, "envoy-noop", before_noop, mock.address(), noop).await?;
    let router_envoy =
        processes::start_envoy(&directory, "envoy-router", before_router, mock.address(), router).await?;
    for process in [&noop_processor, &router_processor, &noop_envoy, &router_envoy] {
        eprintln!("bench: {} is process {}", process.name(), process.id());
    }

    let rows = [
        Row { name: "Envoy alone", api: client::Api::Chat, target: before_noop, envoy: &noop_envoy, processor: None },
        Row {
            name: "noop processor",
            api: client::Api::Untranslated,
            target: before_noop,
            envoy: &noop_envoy,
            processor: Some(&noop_processor),
        },
        Row {
            name: "responses-router",
            api: client::Api::Responses,
            target: before_router,
            envoy: &router_envoy,
            processor: Some(&router_processor),
        },
    ];
    let mut report = report::Report::new(args.threads);
    // Memory first: what is idle must not have worked yet.
    if args.only.iter().any(|name| name == "memory") {
        report.memory = measure::memory(&mock, &rows, args.live).await?;
        report.live_streams = args.live;
    }
    let cases = [
        Case::json(args.requests, args.rounds),
        Case::stream(args.streams, args.rounds),
        Case::paced(args.rounds.min(3)),
    ];
    for case in cases.into_iter().filter(|case| args.only.iter().any(|name| name == case.name)) {
        eprintln!("bench: {}", case.title);
        report.cases.push(measure::case(&mock, &rows, case).await?);
    }
    print!("{report}");
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}
