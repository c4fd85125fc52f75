//! A real Envoy with the repository's own configuration, on ports that it finds itself.

use std::net::SocketAddr;
use std::process::Command;

use responses_router::config::Listen;
use serde_json::Value;

use super::http::{Connection, request};
use super::process::{Process, venv_program};
use super::wait::eventually;

const TEMPLATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/envoy/envoy.yaml");

/// A running Envoy.
pub(crate) struct Envoy {
    /// Where it serves the API.
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
    pub(crate) process: Process,
}

impl Envoy {
    /// Starts an Envoy in front of these, its configuration edited, and waits until it serves.
    pub(crate) async fn start(upstream: SocketAddr, router: &Listen, edit: impl FnOnce(&mut Value)) -> Self {
        let mut configuration = serde_yaml::from_str(&configuration(upstream, router)).unwrap();
        edit(&mut configuration);
        let process = Process::start(
            "Envoy",
            Command::new(venv_program("envoy")).args(["--config-yaml", &configuration.to_string()]).args([
                "--concurrency",
                "2",
                "--disable-hot-restart",
                // The access log is written at once, for those who read it.
                "--file-flush-interval-msec",
                "50",
            ]),
        );
        let admin = process
            .log_line("admin address", |line| line.split_once("admin address: ").map(|(_, address)| address.to_owned()))
            .await;
        let admin: SocketAddr = admin.trim().parse().unwrap();
        let address = eventually("Envoy serves", async || {
            ask(admin, "/ready").await.starts_with("LIVE").then_some(())?;
            let listeners: Value = serde_json::from_str(&ask(admin, "/listeners?format=json").await).unwrap();
            let port = listeners.pointer("/listener_statuses/0/local_address/socket_address/port_value")?.as_u64()?;
            Some(SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap())))
        })
        .await;
        Self { address, admin, process }
    }

    /// Begins a drain: no new connections, and those that there are close after what they carry.
    pub(crate) async fn drain(&self) {
        post_to(self.admin, "/drain_listeners?graceful").await;
    }

    /// All that it was configured with, as its admin page shows it.
    pub(crate) async fn config_dump(&self) -> String {
        ask(self.admin, "/config_dump").await
    }

    /// All it counts, as Prometheus gets it.
    pub(crate) async fn prometheus(&self) -> String {
        ask(self.admin, "/stats/prometheus").await
    }

    /// The value of a counter or gauge; 0 when Envoy has none of this name.
    pub(crate) async fn stat(&self, name: &str) -> u64 {
        let stats = ask(self.admin, "/stats").await;
        let value = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.map_or(0, |value| value.parse().unwrap())
    }
}

async fn post_to(admin: SocketAddr, path: &str) {
    let reply = Connection::http1(admin).await.send(request("POST", path)).await;
    assert_eq!(reply.status, 200, "{path}");
}

async fn ask(admin: SocketAddr, path: &str) -> String {
    let reply = Connection::http1(admin).await.send(request("GET", path)).await;
    String::from_utf8(reply.bytes().await.to_vec()).unwrap()
}

/// The template with other addresses, made as `make run-envoy` makes it: only the values on marked lines change.
fn configuration(upstream: SocketAddr, router: &Listen) -> String {
    let port = |address: &SocketAddr| {
        format!("{{socket_address: {{address: \"{}\", port_value: {}}}}}", address.ip(), address.port())
    };
    let (router, router_type) = match router {
        Listen::Tcp(address) => (port(address), "STRICT_DNS"),
        Listen::Unix(path) => (format!("{{pipe: {{path: \"{}\"}}}}", path.display()), "STATIC"),
    };
    // Envoy takes free ports and tells which.
    let free = port(&SocketAddr::from(([127, 0, 0, 1], 0)));
    let mut template = std::fs::read_to_string(TEMPLATE).unwrap();
    for (mark, value) in [
        ("LISTEN", &*free),
        ("ADMIN", &*free),
        ("UPSTREAM", &*port(&upstream)),
        ("ROUTER", &*router),
        ("ROUTER_TYPE", router_type),
    ] {
        let marked = template.lines().find(|line| line.ends_with(&format!("  # @{mark}"))).unwrap().to_owned();
        let (key, _) = marked.split_once(": ").unwrap();
        template = template.replace(&marked, &format!("{key}: {value}"));
    }
    template
}
