//! Programs that tests start, and that never outlive them.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use super::wait::eventually;

/// Lines of its log that a failed test shows.
const TAIL_LINES: usize = 60;

/// A running program and all that it has printed.
pub(crate) struct Process {
    name: &'static str,
    pid: u32,
    child: Mutex<Child>,
    guardian: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts a program.
    pub(crate) fn start(name: &'static str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let log = Arc::new(Mutex::new(Vec::new()));
        keep_lines(child.stdout.take().unwrap(), Arc::clone(&log));
        keep_lines(child.stderr.take().unwrap(), Arc::clone(&log));
        Self { name, pid: child.id(), guardian: guard(child.id()), child: Mutex::new(child), log }
    }

    /// What `find` finds in a line of its log, now or later.
    pub(crate) async fn log_line<T>(&self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        eventually(&format!("{what} in the log of {}", self.name), async || {
            // Asked first, so that the last words of a program that has ended are still read.
            let ended = self.exit_status();
            let found = self.log.lock().unwrap().iter().find_map(|line| find(line));
            assert!(found.is_some() || ended.is_none(), "{} ended: {ended:?}\n{}", self.name, self.log_tail());
            found
        })
        .await
    }

    /// All that it has printed until now.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The end of what it has printed.
    pub(crate) fn log_tail(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log[log.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// Sends a signal, `TERM` or `KILL`.
    pub(crate) fn signal(&self, signal: &str) {
        // Not reaped yet, so the id cannot have gone to another process.
        assert!(self.exit_status().is_none(), "{} has ended", self.name);
        let sent = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", signal, &self.pid.to_string()]).status();
        assert!(sent.unwrap().success(), "cannot signal {}", self.name);
    }

    /// Waits for its end.
    pub(crate) async fn exited(&self) -> ExitStatus {
        eventually(&format!("the end of {}", self.name), async || self.exit_status()).await
    }

    /// Its resident memory, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// How many files, sockets included, it has open.
    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid)).unwrap().count()
    }

    /// Lines that it has printed so far and that hold this.
    pub(crate) fn lines_with(&self, text: &str) -> Vec<String> {
        let log = self.log.lock().unwrap();
        log.iter().filter(|line| line.contains(text)).cloned().collect()
    }

    fn exit_status(&self) -> Option<ExitStatus> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        for process in [child, &mut self.guardian] {
            // Fails only for a process that has ended.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A shell that kills the process when ours is gone, however it ends: nothing is dropped then, statics never are.
///
/// It waits for the end of its standard input, whose other end this process alone holds. It has a process group of its
/// own, since a Ctrl-C must not end it before it has done its work.
fn guard(pid: u32) -> Child {
    let mut guardian = Command::new("sh");
    guardian.args(["-c", "read _; kill -s KILL \"$0\"", &pid.to_string()]).process_group(0);
    guardian.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn keep_lines(output: impl Read + Send + 'static, log: Arc<Mutex<Vec<String>>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            log.lock().unwrap_or_else(PoisonError::into_inner).push(String::from_utf8_lossy(&line).into_owned());
        }
    });
}

/// A program of the virtual environment that the Makefile prepares.
///
/// # Panics
/// When it is not there, with the command that puts it there.
pub(crate) fn venv_program(name: &str) -> PathBuf {
    prepared(venv("RESPONSES_ROUTER_VENV", ".venv").join("bin").join(name), "make test")
}

/// The same, of the environment that holds the clients.
pub(crate) fn clients_python() -> PathBuf {
    let venv = venv("RESPONSES_ROUTER_CLIENTS_VENV", ".venv-clients");
    prepared(venv.join("bin/python"), "make test-clients")
}

/// A file of the clients' Node packages, by its path in `node_modules`.
pub(crate) fn node_module(path: &str) -> PathBuf {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/node/node_modules");
    prepared(modules.join(path), "make test-clients")
}

fn venv(variable: &str, own: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(own), PathBuf::from)
}

fn prepared(program: PathBuf, target: &str) -> PathBuf {
    assert!(program.exists(), "{} is missing; `{target}` prepares it", program.display());
    program
}
