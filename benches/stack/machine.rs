//! On what it was measured, and what.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use responses_router::build_info::BuildInfo;
use serde::Serialize;

use crate::processes::{envoy_program, router_program};

/// What a figure cannot be read without.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    /// Seconds since the epoch.
    pub(crate) began: u64,
    pub(crate) cores: usize,
    pub(crate) cpu: String,
    pub(crate) kernel: String,
    pub(crate) memory_kib: u64,
    /// Of the last one, five and fifteen minutes before the run.
    pub(crate) load_average: Vec<f64>,
    pub(crate) commit: Option<&'static str>,
    pub(crate) rustc: &'static str,
    pub(crate) router: String,
    pub(crate) envoy: String,
    pub(crate) redis: String,
}

impl Machine {
    pub(crate) fn look() -> Self {
        let built = BuildInfo::of_this_program();
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let (cpus, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        let after = |text: &str, name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
            value.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        Self {
            began: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: after(&cpus, "model name"),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_kib: after(&memory, "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0),
            load_average: read("/proc/loadavg").split(' ').take(3).filter_map(|load| load.parse().ok()).collect(),
            commit: built.commit,
            rustc: built.rustc,
            router: version(router_program()),
            envoy: version(&envoy_program()),
            redis: version(Path::new("redis-server")),
        }
    }
}

/// The version in what a program tells of itself: the first word with two dots between digits.
fn version(program: &Path) -> String {
    let told = Command::new(program).arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    let told = String::from_utf8_lossy(&told).into_owned();
    let mut words = told.split(|letter: char| !letter.is_ascii_digit() && letter != '.');
    words.find(|word| word.split('.').filter(|part| !part.is_empty()).count() == 3).unwrap_or("unknown").to_owned()
}
