//! The core by itself: translation, the stream machine, records, without sockets and without Envoy.
//!
//! ```text
//! make bench-core                     times, by criterion
//! make bench-instructions             instructions, by valgrind: repeatable on a busy machine
//! ```

#![allow(clippy::panic, reason = "with inputs that are wrong there is nothing to measure")]

mod cases;

use std::process::ExitCode;

use criterion::Criterion;

/// The router's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["--list-cases", ..] => {
            cases::all().iter().for_each(|case| println!("{}", case.name));
            ExitCode::SUCCESS
        }
        ["--run", name, times, ..] => run(name, times),
        _ => {
            let mut criterion = Criterion::default().configure_from_args();
            for case in cases::all() {
                criterion.bench_function(&case.name, |bencher| bencher.iter(&case.work));
            }
            criterion.final_summary();
            ExitCode::SUCCESS
        }
    }
}

/// Does the work of one case so many times, for a counter of instructions.
fn run(name: &str, times: &str) -> ExitCode {
    let (Some(case), Ok(times)) = (cases::all().into_iter().find(|case| case.name == name), times.parse::<u32>())
    else {
        eprintln!("bench: --run CASE TIMES, with a case of --list-cases");
        return ExitCode::from(64);
    };
    (0..times).for_each(|_| (case.work)());
    ExitCode::SUCCESS
}
