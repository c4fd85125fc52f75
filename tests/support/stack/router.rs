//! The real binary, with a config file of the test's.

use std::net::SocketAddr;
use std::process::Command;

use responses_router::config::Listen;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::http::{Connection, request};
use super::process::Process;
use super::wait::eventually;

/// A running router.
pub(crate) struct Router {
    /// Where Envoy reaches it.
    pub(crate) listen: Listen,
    pub(crate) process: Process,
    /// Holds the config file, and the unix socket, if it listens on one.
    folder: TempDir,
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
        // JSON is YAML.
        std::fs::write(folder.path().join(CONFIG), config.to_string()).unwrap();
        let process = run(&folder);
        let listen = process.log_line("listening on", listening_on).await;
        Self { listen, process, folder }
    }

    /// Kills it, as nothing but `kill -9` does: without a word to anyone.
    pub(crate) async fn kill(&self) {
        self.process.signal("KILL");
        self.process.exited().await;
    }

    /// Starts it again with the same settings and at the same place, after it has ended. It needs a unix socket: a port
    /// may have gone to someone else meanwhile.
    pub(crate) async fn restart(&mut self) {
        assert!(matches!(self.listen, Listen::Unix(_)), "{}", self.listen);
        self.process.exited().await;
        self.process = run(&self.folder);
        self.process.log_line("listening on", listening_on).await;
    }

    /// A page of the admin listener.
    pub(crate) async fn told(&self, path: &str) -> String {
        let reply = Connection::http1(self.admin().await).await.send(request("GET", path)).await;
        String::from_utf8(reply.bytes().await.to_vec()).unwrap()
    }

    /// The sum of a metric over its labels; `None` when there is none of this name.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let metrics = self.told("/metrics").await;
        let values = metrics.lines().filter_map(|line| {
            let (series, value) = line.split_once(' ').filter(|_| !line.starts_with('#'))?;
            let series = series.split_once('{').map_or(series, |(series, _)| series);
            (series == name).then(|| value.parse::<f64>().unwrap())
        });
        values.reduce(|sum, value| sum + value)
    }

    /// Where its admin listener is; the settings must have one.
    pub(crate) async fn admin(&self) -> SocketAddr {
        let address = |line: &str| line.split_once("admin listening on ").map(|(_, rest)| address_of(rest).to_owned());
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

const CONFIG: &str = "config.yaml";

fn run(folder: &TempDir) -> Process {
    let config = folder.path().join(CONFIG);
    Process::start("the router", Command::new(env!("CARGO_BIN_EXE_responses-router")).arg("--config").arg(config))
}

/// The address in `… listening on 127.0.0.1:1234`.
fn listening_on(line: &str) -> Option<Listen> {
    let (before, address) = line.split_once("listening on ")?;
    if before.ends_with("admin ") {
        return None;
    }
    address_of(address).parse().ok()
}

/// An address at the end of a line of the log, in text or in JSON.
fn address_of(rest: &str) -> &str {
    rest.split(['"', ' ']).next().unwrap_or_default()
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
