//! The processes that are measured: started on free ports, looked at through /proc, ended with the run.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Failure;

/// How long a process may take until it listens.
const START: Duration = Duration::from_secs(30);

/// Where the processes' files are: logs and configs.
pub(crate) struct RunDirectory(PathBuf);

impl RunDirectory {
    pub(crate) fn new() -> Result<Self, Failure> {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-stack");
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
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
}

impl Process {
    fn start(directory: &RunDirectory, name: &str, command: &mut Command) -> Result<Self, Failure> {
        let log = directory.file(&format!("{name}.log"));
        let output = File::create(&log)?;
        let errors = output.try_clone()?;
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
        let child = child.map_err(|error| format!("{name}: {}: {error}", command.get_program().display()))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Waits until the process listens.
    async fn listening(mut self, address: SocketAddr) -> Result<Self, Failure> {
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

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Processor time that all of its threads have used.
    ///
    /// From the scheduler, in nanoseconds; `utime` and `stime` have the same source but come in ticks of 10 ms.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        let mut nanoseconds = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.id()))? {
            let text = fs::read_to_string(thread?.path().join("schedstat"))?;
            let used = text.split(' ').next().and_then(|used| used.parse::<u64>().ok());
            nanoseconds += used.ok_or("/proc/<pid>/task/<tid>/schedstat is not as expected")?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Resident memory in KiB.
    pub(crate) fn resident_kib(&self) -> Result<u64, Failure> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
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

/// The processor that changes nothing.
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

/// The router, with responses in memory.
pub(crate) async fn start_router(
    directory: &RunDirectory,
    address: SocketAddr,
    threads: usize,
) -> Result<Process, Failure> {
    let [admin] = free_addresses()?;
    let config = directory.file("router.yaml");
    let text = format!(
        "server: {{listen: \"{address}\", admin_listen: \"{admin}\", threads: {threads}}}\n\
         response_api: {{store_backend: memory}}\n\
         telemetry: {{log_level: warn}}\n"
    );
    fs::write(&config, text)?;
    let mut command = Command::new(router_program());
    command.arg("--config").arg(&config);
    Process::start(directory, "router", &mut command)?.listening(address).await
}

/// An Envoy with one worker, in front of the upstream and the processor.
pub(crate) async fn start_envoy(
    directory: &RunDirectory,
    name: &str,
    listen: SocketAddr,
    upstream: SocketAddr,
    processor: SocketAddr,
) -> Result<Process, Failure> {
    let venv = PathBuf::from(std::env::var_os("RESPONSES_ROUTER_VENV").unwrap_or_else(|| ".venv".into()));
    let [admin] = free_addresses()?;
    let rendered = Command::new(venv.join("bin/python"))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/envoy_config.py"))
        .args(["--listen", &listen.to_string()])
        .args(["--admin", &admin.to_string()])
        .args(["--upstream", &upstream.to_string()])
        .args(["--router", &processor.to_string()])
        .output()?;
    if !rendered.status.success() {
        return Err(String::from_utf8_lossy(&rendered.stderr).into_owned().into());
    }
    let config = directory.file(&format!("{name}.yaml"));
    fs::write(&config, rendered.stdout)?;
    let mut command = Command::new(venv.join("bin/envoy"));
    command.arg("-c").arg(&config).args(["--concurrency", "1", "--disable-hot-restart", "-l", "warn"]);
    Process::start(directory, name, &mut command)?.listening(listen).await
}

fn router_program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_responses-router"))
}
