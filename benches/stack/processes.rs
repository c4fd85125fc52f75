//! The processes that are measured: started on free ports, looked at through /proc, ended with the run.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::Failure;

/// How long a process may take until it listens.
const START: Duration = Duration::from_secs(30);

/// Where a run's files are: logs, configs, the disk store, Redis' directories. Removed after a run that went well.
pub(crate) struct RunDirectory(PathBuf);

impl RunDirectory {
    pub(crate) fn new() -> Result<Self, Failure> {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-stack-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A name that no other process of the run has.
    fn name(kind: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        format!("{kind}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn remove(self) -> Result<(), Failure> {
        Ok(fs::remove_dir_all(self.0)?)
    }
}

/// Addresses on this machine that nobody listens on; each a different one.
pub(crate) fn free_addresses<const N: usize>() -> Result<[SocketAddr; N], Failure> {
    let listeners: Vec<_> = (0..N).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<_, _>>()?;
    let addresses = listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
    addresses.try_into().map_err(|_| "not as many addresses as asked for".into())
}

/// A process that ends when this is dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    used: Used,
}

impl Process {
    /// Starts it; `kind` names its log.
    pub(crate) fn start(directory: &RunDirectory, kind: &str, command: &mut Command) -> Result<Self, Failure> {
        let name = RunDirectory::name(kind);
        let log = directory.file(&format!("{name}.log"));
        let output = File::create(&log)?;
        let errors = output.try_clone()?;
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
        let child = child.map_err(|error| format!("{name}: {}: {error}", command.get_program().display()))?;
        eprintln!("bench: {name} is process {}", child.id());
        Ok(Self { name, child, log, used: Used::default() })
    }

    /// Waits until the process listens.
    pub(crate) async fn listening(mut self, address: SocketAddr) -> Result<Self, Failure> {
        let began = Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("{} ended with {status}; see {}", self.name, self.log.display()).into());
            }
            if began.elapsed() > START {
                return Err(format!("{} does not listen; see {}", self.name, self.log.display()).into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(self)
    }

    /// Processor time that all of its threads have used.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        self.used.by(&self.child.id().to_string())
    }

    /// Resident memory in KiB.
    pub(crate) fn resident_kib(&self) -> Result<u64, Failure> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        kib.ok_or_else(|| "/proc/<pid>/status has no VmRSS".into())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It holds nothing that a kill could harm.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What each thread of a process has used, in nanoseconds, those that have ended included.
///
/// The scheduler tells it of the threads that are there. The process' own sum (`utime` and `stime`) has all that ever were, but
/// comes in ticks of 10 ms, half of what a round may take. So what a thread had used when it was seen last counts on.
#[derive(Debug, Default)]
pub(crate) struct Used(Mutex<HashMap<OsString, u64>>);

impl Used {
    /// Looks at the threads of a process, by its id or `self`; what all have used.
    pub(crate) fn by(&self, process: &str) -> Result<Duration, Failure> {
        let mut threads = self.0.lock().map_err(|_| "a panic while processes were looked at")?;
        for thread in fs::read_dir(format!("/proc/{process}/task"))? {
            let thread = thread?;
            // A thread may end while it is looked at.
            let Ok(text) = fs::read_to_string(thread.path().join("schedstat")) else { continue };
            let used = text.split(' ').next().and_then(|used| used.parse::<u64>().ok());
            threads.insert(thread.file_name(), used.ok_or("/proc/<pid>/task/<tid>/schedstat is not as expected")?);
        }
        Ok(Duration::from_nanos(threads.values().sum()))
    }
}

/// Where a router keeps responses.
#[derive(Debug, Clone)]
pub(crate) enum Store {
    Memory,
    Disk,
    Redis(SocketAddr),
    Cluster(Vec<SocketAddr>),
}

impl Store {
    /// The block `response_api` of the router's config.
    fn config(&self, disk: &Path) -> String {
        match self {
            Self::Memory => "{store_backend: memory}".to_owned(),
            Self::Disk => format!("{{store_backend: disk, disk: {{path: \"{}\"}}}}", disk.display()),
            Self::Redis(address) => format!("{{store_backend: redis, redis: {{address: \"{address}\"}}}}"),
            Self::Cluster(nodes) => {
                let nodes: Vec<_> = nodes.iter().map(|node| format!("\"{node}\"")).collect();
                let nodes = nodes.join(", ");
                format!("{{store_backend: redis, redis: {{cluster_mode: true, cluster_addresses: [{nodes}]}}}}")
            }
        }
    }
}

/// The processor that changes nothing, with so many threads.
pub(crate) async fn start_noop(
    directory: &RunDirectory,
    address: SocketAddr,
    threads: usize,
) -> Result<Process, Failure> {
    let program = router_program().with_file_name("examples").join("noop_processor");
    let mut command = Command::new(program);
    command.arg(address.to_string()).arg(threads.to_string());
    Process::start(directory, "noop", &mut command)?.listening(address).await
}

/// The router as its defaults have it, with this store and nothing in the log but warnings.
pub(crate) async fn start_router(
    directory: &RunDirectory,
    address: SocketAddr,
    store: &Store,
    threads: usize,
) -> Result<Process, Failure> {
    let [admin] = free_addresses()?;
    let name = RunDirectory::name("config");
    let config = directory.file(&format!("{name}.yaml"));
    let text = format!(
        "server: {{listen: \"{address}\", admin_listen: \"{admin}\", threads: {threads}}}\n\
         response_api: {}\n\
         telemetry: {{log_level: warn}}\n",
        store.config(&directory.file(&format!("{name}.redb"))),
    );
    fs::write(&config, text)?;
    let mut command = Command::new(router_program());
    command.arg("--config").arg(&config);
    Process::start(directory, "router", &mut command)?.listening(address).await
}

/// An Envoy with one worker, in front of the upstream and the processor.
pub(crate) async fn start_envoy(
    directory: &RunDirectory,
    listen: SocketAddr,
    upstream: SocketAddr,
    processor: SocketAddr,
) -> Result<Process, Failure> {
    let [admin] = free_addresses()?;
    let rendered = Command::new(venv().join("bin/python"))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/envoy_config.py"))
        .args(["--listen", &listen.to_string()])
        .args(["--admin", &admin.to_string()])
        .args(["--upstream", &upstream.to_string()])
        .args(["--router", &processor.to_string()])
        .output()?;
    if !rendered.status.success() {
        return Err(String::from_utf8_lossy(&rendered.stderr).into_owned().into());
    }
    let config = directory.file(&format!("{}.yaml", RunDirectory::name("envoy-config")));
    fs::write(&config, rendered.stdout)?;
    let mut command = Command::new(envoy_program());
    command.arg("-c").arg(&config).args(["--concurrency", "1", "--disable-hot-restart", "-l", "warn"]);
    Process::start(directory, "envoy", &mut command)?.listening(listen).await
}

fn venv() -> PathBuf {
    std::env::var_os("RESPONSES_ROUTER_VENV").unwrap_or_else(|| ".venv".into()).into()
}

pub(crate) fn envoy_program() -> PathBuf {
    venv().join("bin/envoy")
}

pub(crate) fn router_program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_responses-router"))
}
