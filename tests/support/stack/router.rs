//! The real binary, with a config file of the test's.

use std::net::SocketAddr;
use std::process::Command;

use responses_router::config::Listen;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::process::Process;
use super::wait::eventually;

/// A running router.
pub(crate) struct Router {
    /// Where Envoy reaches it.
    pub(crate) listen: Listen,
    pub(crate) process: Process,
    /// Holds the unix socket, if it listens on one.
    _folder: TempDir,
}

impl Router {
    /// Starts a router with these settings, merged into those that let it run beside others.
    pub(crate) async fn start(settings: &Value, unix_socket: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listen = if unix_socket {
            format!("unix:{}", folder.path().join("router.sock").display())
        } else {
            "127.0.0.1:0".to_owned()
        };
        let mut config = json!({"server": {"listen": listen, "admin_listen": "", "drain_seconds": 5}});
        merge(&mut config, settings);
        let file = folder.path().join("config.yaml");
        // JSON is YAML.
        std::fs::write(&file, config.to_string()).unwrap();
        let process = Process::start(
            "the router",
            Command::new(env!("CARGO_BIN_EXE_responses-router")).arg("--config").arg(&file),
        );
        let listen = process.log_line("listening on", listening_on).await;
        Self { listen, process, _folder: folder }
    }

    /// Where its admin listener is; the settings must have one.
    pub(crate) async fn admin(&self) -> SocketAddr {
        let address = |line: &str| line.split_once("admin listening on ").map(|(_, address)| address.trim().to_owned());
        self.process.log_line("admin listening on", address).await.parse().unwrap()
    }

    /// Waits until it takes no more connections on its port.
    pub(crate) async fn refuses_connections(&self) {
        let Listen::Tcp(address) = self.listen else { panic!("{} is no port", self.listen) };
        eventually("the router takes no more connections", async || {
            TcpStream::connect(address).await.is_err().then_some(())
        })
        .await;
    }
}

/// The address in `… listening on 127.0.0.1:1234`.
fn listening_on(line: &str) -> Option<Listen> {
    let (before, address) = line.split_once("listening on ")?;
    if before.ends_with("admin ") {
        return None;
    }
    address.trim_end().parse().ok()
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.as_str()).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (into, from) => *into = from.clone(),
    }
}
