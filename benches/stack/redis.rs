//! Redis as real processes, without persistence: one server, or a cluster of three masters with a replica each.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::processes::{Process, RunDirectory};

/// How long a cluster may take until each node sees it whole.
const FORMED: Duration = Duration::from_secs(60);

/// Nodes of a cluster speak to each other on this much higher a port.
const BUS_OFFSET: u16 = 10_000;

/// One server.
pub(crate) async fn start_one(directory: &RunDirectory) -> Result<(Process, SocketAddr), Failure> {
    start_server(directory, free_port()?, &[]).await
}

/// Three masters with a replica each, every slot served.
pub(crate) async fn start_cluster(directory: &RunDirectory) -> Result<(Vec<Process>, Vec<SocketAddr>), Failure> {
    let (mut processes, mut nodes) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        let port = free_port()?;
        let file = directory.file(&format!("nodes-{port}.conf"));
        // One of an earlier start on this port would know the nodes of that time.
        if file.exists() {
            std::fs::remove_file(&file)?;
        }
        let file = file.display().to_string();
        let settings = ["--cluster-enabled", "yes", "--cluster-config-file", &file, "--repl-diskless-sync-delay", "0"];
        let (process, node) = start_server(directory, port, &settings).await?;
        processes.push(process);
        nodes.push(node);
    }
    let addresses: Vec<_> = nodes.iter().map(ToString::to_string).collect();
    let mut create = vec!["--cluster", "create"];
    create.extend(addresses.iter().map(String::as_str));
    create.extend(["--cluster-replicas", "1", "--cluster-yes"]);
    let told = Command::new("redis-cli").args(create).output()?;
    if !told.status.success() {
        return Err(format!("redis-cli --cluster create: {}", String::from_utf8_lossy(&told.stdout)).into());
    }
    let began = Instant::now();
    for node in &nodes {
        while !is_whole(*node)? {
            if began.elapsed() > FORMED {
                return Err(format!("{node} sees no whole cluster").into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok((processes, nodes))
}

async fn start_server(
    directory: &RunDirectory,
    port: u16,
    settings: &[&str],
) -> Result<(Process, SocketAddr), Failure> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command.arg("--dir").arg(directory.file("")).args(settings);
    Ok((Process::start(directory, "redis", &mut command)?.listening(address).await?, address))
}

/// Whether a node sees all slots served, and has what its master has if it is a replica.
fn is_whole(node: SocketAddr) -> Result<bool, Failure> {
    let ask = |command: [&str; 2]| {
        let output = Command::new("redis-cli").args(["-p", &node.port().to_string()]).args(command).output()?;
        Ok::<_, Failure>(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (info, replication) = (ask(["CLUSTER", "INFO"])?, ask(["INFO", "replication"])?);
    let sees_all = ["cluster_state:ok", "cluster_slots_ok:16384", "cluster_known_nodes:6"];
    Ok(sees_all.iter().all(|part| info.contains(part))
        && (replication.contains("role:master") && replication.contains("state=online")
            || replication.contains("master_link_status:up")))
}

/// A port that is free, as is the one that a cluster's node also needs.
fn free_port() -> Result<u16, Failure> {
    for _ in 0..1000 {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        // Below what the system gives out by itself, so that no connection takes the bus port in the meantime.
        let port = port % 10_000 + 20_000;
        let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if is_free(port) && is_free(port + BUS_OFFSET) {
            return Ok(port);
        }
    }
    Err("no port is free for Redis".into())
}
