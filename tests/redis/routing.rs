//! Keys of a cluster are found wherever they are: on their way to another master, and on nodes that are new.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use responses_router::config::Redis;
use responses_router::store::history;

use super::{LIMITS, chain, figure, open, read, turn};
use crate::support::redis::{Cluster, Server, cli, try_until};

/// Half of the keys of a slot have gone to another master, the slot has not.
#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_slot_on_its_way_to_another_master_are_found_and_written() {
    let cluster = Cluster::start();
    // A hash tag: all keys are in one slot.
    let config = Redis { key_prefix: "{moving}:".to_owned(), ..cluster.config() };
    let store = open(&config).await;
    let durable = open(&Redis { min_replica_acks: 1, ..config.clone() }).await;
    let records = chain(&store, 40, 500).await;
    let key = |id: &dyn std::fmt::Display| format!("{}response:{id}", config.key_prefix);

    let masters = cluster.masters();
    let holds = |master: &usize| cluster.nodes[*master].cli(&["EXISTS", &key(&records[0].id)]).trim() == "1";
    let from = masters.iter().copied().find(holds).unwrap();
    let to = masters.iter().copied().find(|master| *master != from).unwrap();
    let (source, target) = (&cluster.nodes[from], &cluster.nodes[to]);
    let slot = source.cli(&["CLUSTER", "KEYSLOT", &key(&records[0].id)]).trim().to_owned();
    target.cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &cluster.id(from)]);
    source.cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &cluster.id(to)]);
    let port = target.port.to_string();
    for record in records.iter().step_by(2) {
        let moved = source.cli(&["MIGRATE", "127.0.0.1", &port, &key(&record.id), "0", "5000"]);
        assert_eq!(moved.trim(), "OK");
    }

    let parent = &records[39].id;
    let chains = join_all((0..50).map(|_| history(&*store, parent, LIMITS))).await;
    for loaded in chains {
        assert_eq!(loaded.unwrap().records, records);
    }
    for store in [&store, &durable] {
        let new: Vec<_> = (0..20).map(|_| turn(&[], 500)).collect();
        for written in join_all(new.iter().map(|record| store.put(Arc::clone(record)))).await {
            written.unwrap();
        }
        for record in &new {
            assert_eq!(read(store, &record.id).await.unwrap().as_ref(), Some(record));
            assert_eq!(target.cli(&["GET", &key(&record.id)]).trim().split(' ').next(), Some("MOVED"));
        }
        // Repeated writes of a record that stayed, and of one that went.
        store.put(Arc::clone(&records[0])).await.unwrap();
        store.put(Arc::clone(&records[1])).await.unwrap();
        assert!(store.delete(&new[0].id).await.unwrap());
        assert_eq!(read(store, &new[0].id).await.unwrap(), None);
    }
    assert!(target.calls("asking") > 50, "nothing was asked for: {}", target.calls("asking"));
    assert!(figure(&store, "redis_redirections", "ask") > 50 && figure(&store, "redis_retries", "ask") > 50);
    assert_eq!((figure(&store, "redis_redirections", "moved"), figure(&store, "redis_masters", "")), (0, 3));
    let changes = figure(&store, "redis_topology_changes", "");

    for record in records.iter().skip(1).step_by(2) {
        source.cli(&["MIGRATE", "127.0.0.1", &port, &key(&record.id), "0", "5000"]);
    }
    for node in [target, source] {
        assert_eq!(node.cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &cluster.id(to)]).trim(), "OK");
    }
    assert_eq!(history(&*store, parent, LIMITS).await.unwrap().records, records);
    assert!(figure(&store, "redis_topology_changes", "") > changes);
    assert!(figure(&store, "redis_slot_map_refreshes", "learnt") > 0);
}

/// Well below the time after which the slots are learnt again without cause.
const SOON: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_made_while_the_router_runs_is_used_as_soon_as_it_is_there() {
    let node = Cluster::start_node();
    node.wait_until_it_answers();
    node.cli(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]);
    let cluster_addresses = vec![format!("127.0.0.1:{}", node.port).parse().unwrap()];
    let store = open(&Redis { cluster_mode: true, cluster_addresses, ..node.config() }).await;
    let not_ready = store.ready().await.unwrap_err();
    assert!(not_ready.to_string().contains("no node tells who owns the slots"), "{not_ready}");

    // Half of the slots have an owner while those who make a cluster still talk of it.
    assert_eq!(node.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "8191"]).trim(), "OK");
    within(SOON, "ready", async || store.ready().await.is_ok()).await;
    assert_eq!(node.cli(&["CLUSTER", "ADDSLOTSRANGE", "8192", "16383"]).trim(), "OK");
    let records: Vec<_> = (0..20).map(|_| turn(&[], 500)).collect();
    within(SOON, "written", async || {
        join_all(records.iter().map(|record| store.put(Arc::clone(record)))).await.into_iter().all(|put| put.is_ok())
    })
    .await;
    for record in &records {
        assert_eq!(read(&store, &record.id).await.unwrap().as_ref(), Some(record));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_no_cluster_is_never_a_ready_one() {
    let server = Server::start(&[]);
    let cluster_addresses = vec![format!("127.0.0.1:{}", server.port).parse().unwrap()];
    let store = open(&Redis { cluster_mode: true, cluster_addresses, ..server.config() }).await;
    for _ in 0..2 {
        let not_ready = store.ready().await.unwrap_err();
        assert!(not_ready.to_string().contains("no node tells who owns the slots"), "{not_ready}");
        assert!(store.put(turn(&[], 500)).await.is_err());
    }
}

async fn within(longest: Duration, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < longest, "not {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// All nodes that the config names are gone, one after the other; the cluster goes on with others.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "make test-failover"]
async fn failover_to_nodes_that_the_config_does_not_know_is_followed() {
    let mut cluster = Cluster::start();
    let masters = cluster.masters();
    let seed = masters[0];
    let all = cluster.config();
    let config = Redis { cluster_addresses: vec![all.cluster_addresses[seed].clone()], ..all };
    let store = open(&config).await;
    let records = chain(&store, 30, 500).await;

    let old_replica = cluster.replica_of(seed);
    let new = Cluster::start_node();
    new.wait_until_it_answers();
    let node = |port| format!("127.0.0.1:{port}");
    let (added, known, follows) = (node(new.port), node(cluster.nodes[seed].port), cluster.id(seed));
    let add = ["--cluster", "add-node", &added, &known, "--cluster-slave", "--cluster-master-id", &follows];
    let told = cli(new.port, &add);
    assert!(told.contains("New node added correctly"), "{told}");
    new.wait_until("replication", "master_link_status", "up");
    // Masters that do not know it yet do not vote for it, and after five seconds it gives up.
    let takes_over = || {
        assert_eq!(new.cli(&["CLUSTER", "FAILOVER"]).trim(), "OK");
        try_until(Duration::from_secs(6), || new.info("replication", "role").as_deref() == Some("master"))
    };
    assert!(try_until(Duration::from_secs(40), takes_over), "{}", new.cli(&["CLUSTER", "NODES"]));
    cluster.nodes[seed].kill();
    cluster.nodes[old_replica].kill();

    // Without their connections all must be learnt anew, and not from the config.
    for node in cluster.nodes.iter().chain([&new]) {
        node.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    }
    let loaded = history(&*store, &records[29].id, LIMITS).await.unwrap();
    assert_eq!(loaded.records, records);
    for written in join_all((0..30).map(|_| store.put(turn(&[], 500)))).await {
        written.unwrap();
    }
    assert!(new.calls("set") > 0, "nothing went to the new node");
}
