//! 50 conversations through the whole path while the nodes of a cluster die, hang, and hand their slots over:
//! `make test-failover`.
//!
//! Whatever happens, a turn gets its right answer or the contract's 503, and what was acknowledged is there afterwards.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::load::{Load, Options};
use crate::support::redis::{Cluster, NODE_TIMEOUT};
use crate::support::stack::client::Ended;
use crate::support::stack::{Hold, Stack, StackOptions};

/// A stack over this cluster with these settings of `redis` beside its addresses, and the conversations on it.
async fn start(cluster: &Cluster, redis: Value) -> (Hold, Load) {
    let mut settings = cluster.settings();
    if let (Value::Object(own), Value::Object(more)) = (&mut settings["response_api"]["redis"], redis) {
        own.extend(more);
    }
    let stack = Stack::start(StackOptions { settings, ..StackOptions::default() }).await;
    let load = Load::start(
        &stack,
        Options {
            conversations: 50,
            turns: 12,
            pace: Duration::from_millis(400),
            latent: NODE_TIMEOUT.saturating_mul(2),
            tolerated: Ended::is_store_unavailable,
        },
    );
    let load = load.await;
    (stack, load)
}

/// Settings by which no failover can lose what was acknowledged, as long as there is a replica: without them a master may
/// die between its answer and what it tells its replica.
fn durable() -> Value {
    json!({"min_replica_acks": 1})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-failover"]
async fn failover_after_a_killed_master_loses_nothing() {
    let mut cluster = Cluster::start();
    let (_stack, load) = start(&cluster, durable()).await;
    for victim in cluster.masters() {
        let killed = Instant::now();
        cluster.nodes[victim].kill();
        let recovery = load.recovered(killed).await;
        eprintln!("master {victim} killed (node timeout {NODE_TIMEOUT:?}): {recovery}");
        cluster.nodes[victim].restart();
        cluster.wait_until_whole();
    }
    load.finish("each master killed", || cluster.wait_until_whole()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-failover"]
async fn failover_ten_times_in_one_run_loses_nothing() {
    let mut cluster = Cluster::start();
    let (_stack, load) = start(&cluster, durable()).await;
    let began = Instant::now();
    for round in 0..10 {
        let masters = cluster.masters();
        let victim = masters[round % masters.len()];
        cluster.kill_master(victim);
        cluster.nodes[victim].restart();
        cluster.wait_until_whole();
    }
    let killed = began.elapsed();
    let recovery = load.recovered(began).await;
    eprintln!("ten masters killed and brought back within {killed:.1?}: {recovery}");
    load.finish("ten masters killed", || cluster.wait_until_whole()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-failover"]
async fn failover_after_a_hung_master_loses_nothing() {
    let cluster = Cluster::start();
    let (_stack, load) = start(&cluster, durable()).await;
    let victim = cluster.masters()[0];
    let paused = Instant::now();
    cluster.nodes[victim].pause();
    let recovery = load.recovered(paused).await;
    eprintln!("master {victim} hangs: {recovery}");
    cluster.nodes[victim].resume();
    let recovery = load.recovered(Instant::now()).await;
    eprintln!("and goes on as a replica: {recovery}");
    load.finish("a master hung", || cluster.wait_until_whole()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-failover"]
async fn failover_on_command_loses_nothing() {
    let cluster = Cluster::start();
    let (_stack, load) = start(&cluster, json!({})).await;
    let masters = cluster.masters();
    for replica in (0..cluster.nodes.len()).filter(|node| !masters.contains(node)) {
        let asked = Instant::now();
        assert_eq!(cluster.nodes[replica].cli(&["CLUSTER", "FAILOVER"]).trim(), "OK");
        let recovery = load.recovered(asked).await;
        eprintln!("CLUSTER FAILOVER to {replica}: {recovery}");
        cluster.wait_until_whole();
    }
    load.finish("three failovers on command", || cluster.wait_until_whole()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-failover"]
async fn failover_of_slots_in_use_to_other_masters_loses_nothing() {
    let cluster = Cluster::start();
    let (_stack, load) = start(&cluster, json!({})).await;
    let masters = cluster.masters();
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        let began = Instant::now();
        cluster.move_slots(masters[from], masters[to], 1500).await;
        let moved = began.elapsed();
        eprintln!("1500 slots moved in {moved:.1?}: {}", load.recovered(began).await);
    }
    load.finish("4500 slots moved", || cluster.wait_until_whole()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-failover"]
async fn failover_of_the_whole_cluster_loses_nothing() {
    let mut cluster = Cluster::start();
    let (_stack, load) = start(&cluster, durable()).await;
    for node in &mut cluster.nodes {
        node.kill();
    }
    let gone = Instant::now();
    load.until_refused(3).await;
    eprintln!("all six are gone: requests are refused after {:.1?}", gone.elapsed());
    for node in &mut cluster.nodes {
        node.restart();
    }
    let recovery = load.recovered(Instant::now()).await;
    eprintln!("all six are back: {recovery}");
    load.finish("all six gone and back", || cluster.wait_until_whole()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-failover"]
async fn failover_to_a_replica_that_lagged_loses_nothing_that_replicas_had_to_acknowledge() {
    let mut cluster = Cluster::start();
    let (_stack, load) = start(&cluster, json!({"min_replica_acks": 1, "on_missing_acks": "fail"})).await;
    let victim = cluster.masters()[0];
    let replica = cluster.replica_of(victim);
    cluster.nodes[replica].pause();
    tokio::time::sleep(NODE_TIMEOUT / 2).await;
    cluster.nodes[victim].kill();
    cluster.nodes[replica].resume();
    // Without a replica nothing is acknowledged, so nothing could be lost by going on like this.
    cluster.wait_until_master(replica);
    cluster.nodes[victim].restart();
    let recovery = load.recovered(Instant::now()).await;
    eprintln!("the replica of {victim} lagged and took over, and has a replica again: {recovery}");
    load.finish("a lagging replica took over", || cluster.wait_until_whole()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-failover"]
async fn failover_of_each_node_in_turn_loses_nothing() {
    let mut cluster = Cluster::start();
    let (_stack, load) = start(&cluster, durable()).await;
    let began = Instant::now();
    for node in 0..cluster.nodes.len() {
        if cluster.masters().contains(&node) {
            cluster.kill_master(node);
        } else {
            cluster.nodes[node].kill();
        }
        cluster.nodes[node].restart();
        cluster.wait_until_whole();
    }
    let restarted = began.elapsed();
    let recovery = load.recovered(began).await;
    eprintln!("all six restarted in turn within {restarted:.1?}: {recovery}");
    load.finish("rolling restart", || cluster.wait_until_whole()).await;
}
