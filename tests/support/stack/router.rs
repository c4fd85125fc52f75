//! The real binary, with a config file of the test's.

use std::io::Write;
use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value, json};

use super::process::Process;

/// A running router.
pub(crate) struct Router {
    /// Where Envoy reaches it.
    pub(crate) address: SocketAddr,
    pub(crate) process: Process,
}

impl Router {
    /// Starts a router with these settings, merged into those that let it run beside others.
    pub(crate) async fn start(settings: &Value) -> Self {
        let mut config = json!({"server": {"listen": "127.0.0.1:0", "admin_listen": "", "drain_seconds": 5}});
        merge(&mut config, settings);
        // JSON is YAML.
        let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        file.write_all(config.to_string().as_bytes()).unwrap();
        let process = Process::start(
            "the router",
            Command::new(env!("CARGO_BIN_EXE_responses-router")).arg("--config").arg(file.path()),
        );
        let address = process.log_line("listening on", |line| listening_on(line)).await;
        Self { address, process }
    }
}

/// The address in `… listening on 127.0.0.1:1234 …`.
fn listening_on(line: &str) -> Option<SocketAddr> {
    let (before, rest) = line.split_once("listening on ")?;
    if before.ends_with("admin ") {
        return None;
    }
    rest.split_whitespace().next()?.parse().ok()
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
