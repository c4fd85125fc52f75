//! A cluster of six under load while its nodes die, hang and hand slots over: `make test-failover`.
//!
//! Chains grow one turn after the other, as conversations do. What was acknowledged is compared byte for byte each time
//! it is read, and all of it once more at the end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use responses_router::config::{OnMissingAcks, Redis};
use responses_router::id::ResponseId;
use responses_router::store::{HistoryError, Record, ResponseStore, history};
use tokio::task::JoinSet;

use super::{LIMITS, open, read, turn};
use crate::support::redis::{Cluster, NODE_TIMEOUT, cli, try_until};

const CHAINS: usize = 30;
const TURNS_PER_CHAIN: usize = 12;
const PACE: Duration = Duration::from_millis(50);
const SLOW: Duration = Duration::from_secs(1);

/// How long a failover may take from the death of a master to the last error: what the cluster needs to notice and to
/// elect, and a machine as busy as a test's.
const LONGEST_RECOVERY: Duration = Duration::from_secs(25);

#[derive(Default)]
struct Seen {
    acknowledged: Mutex<HashMap<ResponseId, Arc<Record>>>,
    operations: AtomicU64,
    errors: Mutex<Vec<(Instant, String)>>,
    /// Operations that took longer than [`SLOW`]: when they ended, and the longest.
    slow: Mutex<(Option<Instant>, Duration)>,
    /// The last success of each chain.
    progress: Mutex<[Option<Instant>; CHAINS]>,
    /// Wrong or missing: never to happen.
    wrong: Mutex<Vec<String>>,
    stop: AtomicBool,
}

struct Load {
    store: Arc<dyn ResponseStore>,
    seen: Arc<Seen>,
    writers: JoinSet<()>,
}

impl Load {
    async fn start(config: &Redis) -> Self {
        let (store, seen) = (open(config).await, Arc::new(Seen::default()));
        let mut writers = JoinSet::new();
        for chain in 0..CHAINS {
            writers.spawn(converse(chain, Arc::clone(&store), Arc::clone(&seen)));
        }
        let load = Self { store, seen, writers };
        tokio::time::sleep(Duration::from_secs(2)).await;
        load
    }

    /// Waits until every chain goes on, without error or delay for a while; says how long after `since` the last of
    /// these was, and how slow the slowest operation.
    async fn recovered(&self, since: Instant) -> String {
        const CALM: Duration = Duration::from_millis(1500);
        *self.seen.slow.lock().unwrap() = (None, Duration::ZERO);
        let errors = self.seen.errors.lock().unwrap().len();
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let (slow, slowest) = *self.seen.slow.lock().unwrap();
            let failed = self.seen.errors.lock().unwrap().last().map(|(at, _)| *at);
            let last = slow.max(failed).map_or(since, |last| last.max(since));
            let went_on = self.seen.progress.lock().unwrap().iter().all(|at| at.is_some_and(|at| at > last));
            if last.elapsed() > CALM + 2 * NODE_TIMEOUT && went_on {
                let recovery = last - since;
                assert!(recovery < LONGEST_RECOVERY, "{recovery:?}");
                let errors = self.seen.errors.lock().unwrap().len() - errors;
                return format!("all succeed after {recovery:.1?}, {errors} errors, slowest success {slowest:.1?}");
            }
            assert!(since.elapsed() < 2 * LONGEST_RECOVERY, "no recovery: {}", self.summary());
        }
    }

    fn summary(&self) -> String {
        let errors = self.seen.errors.lock().unwrap();
        let mut kinds: HashMap<&str, usize> = HashMap::new();
        for (_, error) in errors.iter() {
            *kinds.entry(error).or_default() += 1;
        }
        format!(
            "{} operations, {} acknowledged, {} errors {kinds:?}",
            self.seen.operations.load(Ordering::Relaxed),
            self.seen.acknowledged.lock().unwrap().len(),
            errors.len(),
        )
    }

    /// Ends the load and reads all that was acknowledged.
    async fn finish(mut self, what: &str, cluster: &Cluster) {
        self.seen.stop.store(true, Ordering::Relaxed);
        while let Some(writer) = self.writers.join_next().await {
            writer.unwrap();
        }
        cluster.wait_until_whole();
        let acknowledged: Vec<_> = self.seen.acknowledged.lock().unwrap().values().cloned().collect();
        let mut lost = 0;
        for record in &acknowledged {
            let found = loop {
                match read(&self.store, &record.id).await {
                    Ok(found) => break found,
                    Err(error) => assert!(error.is_transient(), "{error}"),
                }
                tokio::time::sleep(PACE).await;
            };
            lost += u32::from(found.as_ref() != Some(record));
        }
        eprintln!("{what}: {}, lost={lost}", self.summary());
        assert_eq!(lost, 0);
        assert_eq!(*self.seen.wrong.lock().unwrap(), Vec::<String>::new());
    }
}

impl Seen {
    fn succeeded(&self, chain: usize, asked: Instant) {
        let now = Instant::now();
        self.operations.fetch_add(1, Ordering::Relaxed);
        self.progress.lock().unwrap()[chain] = Some(now);
        if now - asked > SLOW {
            let mut slow = self.slow.lock().unwrap();
            *slow = (Some(now), slow.1.max(now - asked));
        }
    }
}

async fn converse(chain: usize, store: Arc<dyn ResponseStore>, seen: Arc<Seen>) {
    let mut turns: Vec<Arc<Record>> = Vec::new();
    while !seen.stop.load(Ordering::Relaxed) {
        tokio::time::sleep(PACE.mul_f64(rand::random_range(0.5..1.5))).await;
        if turns.len() == TURNS_PER_CHAIN {
            turns.clear();
        }
        let mut ids = Vec::new();
        if let Some(parent) = turns.last() {
            let asked = Instant::now();
            match history(&*store, &parent.id, LIMITS).await {
                Ok(history) if history.records == turns => ids = history.ancestors_of_child(),
                Ok(_) => seen.wrong.lock().unwrap().push("another history".to_owned()),
                Err(HistoryError::Store(error)) if error.is_transient() => {
                    seen.errors.lock().unwrap().push((Instant::now(), error.to_string()));
                    continue;
                }
                Err(error) => {
                    seen.wrong.lock().unwrap().push(error.to_string());
                    turns.clear();
                    continue;
                }
            }
            seen.succeeded(chain, asked);
        }
        let record = turn(&ids, 500);
        loop {
            let asked = Instant::now();
            match store.put(Arc::clone(&record)).await {
                Ok(()) => {
                    seen.succeeded(chain, asked);
                    break;
                }
                Err(error) if error.is_transient() => {
                    seen.errors.lock().unwrap().push((Instant::now(), error.to_string()));
                }
                Err(error) => {
                    seen.wrong.lock().unwrap().push(error.to_string());
                }
            }
            tokio::time::sleep(PACE).await;
        }
        seen.acknowledged.lock().unwrap().insert(record.id.clone(), Arc::clone(&record));
        turns.push(record);
    }
}

fn durable(cluster: &Cluster) -> Redis {
    Redis { min_replica_acks: 1, ..cluster.config() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-failover"]
async fn failover_after_a_killed_master_loses_nothing() {
    let mut cluster = Cluster::start();
    let load = Load::start(&durable(&cluster)).await;
    for round in 0..3 {
        let victim = cluster.masters()[round % 3];
        let killed = Instant::now();
        cluster.nodes[victim].kill();
        let recovery = load.recovered(killed).await;
        eprintln!("master {victim} killed (node timeout {NODE_TIMEOUT:?}): {recovery}");
        cluster.nodes[victim].restart();
        cluster.wait_until_whole();
    }
    load.finish("three masters killed", &cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-failover"]
async fn failover_after_a_hung_master_loses_nothing() {
    let cluster = Cluster::start();
    let load = Load::start(&durable(&cluster)).await;
    let victim = cluster.masters()[0];
    let paused = Instant::now();
    cluster.nodes[victim].pause();
    let recovery = load.recovered(paused).await;
    eprintln!("master {victim} hangs: {recovery}");
    cluster.nodes[victim].resume();
    let recovery = load.recovered(Instant::now()).await;
    eprintln!("and goes on as a replica: {recovery}");
    load.finish("a master hung", &cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-failover"]
async fn failover_on_command_fails_nothing() {
    let cluster = Cluster::start();
    let load = Load::start(&cluster.config()).await;
    let masters = cluster.masters();
    for index in (0..cluster.nodes.len()).filter(|index| !masters.contains(index)) {
        let asked = Instant::now();
        assert_eq!(cluster.nodes[index].cli(&["CLUSTER", "FAILOVER"]).trim(), "OK");
        let recovery = load.recovered(asked).await;
        eprintln!("CLUSTER FAILOVER to {index}: {recovery}");
        cluster.wait_until_whole();
    }
    load.finish("three failovers on command", &cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-failover"]
async fn failover_of_slots_in_use_to_other_masters_fails_nothing() {
    let cluster = Cluster::start();
    let load = Load::start(&cluster.config()).await;
    let masters = cluster.masters();
    let port = cluster.nodes[masters[0]].port;
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        let (from, to) = (cluster.id(masters[from]), cluster.id(masters[to]));
        let began = Instant::now();
        let moved = tokio::task::spawn_blocking(move || {
            let node = format!("127.0.0.1:{port}");
            // redis-cli refuses while the nodes still tell each other of the move before.
            let agreed = || !cli(port, &["--cluster", "check", &node]).contains("[ERR]");
            assert!(try_until(Duration::from_secs(60), agreed), "the nodes do not agree");
            let slots = ["--cluster-from", &from, "--cluster-to", &to, "--cluster-slots", "1500", "--cluster-yes"];
            let mut args = vec!["--cluster", "reshard", &node];
            args.extend(slots);
            cli(port, &args)
        })
        .await
        .unwrap();
        assert!(!moved.contains("[ERR]") && moved.contains("Moving slot"), "{moved}");
        eprintln!("1500 slots moved in {:.1?}; {}", began.elapsed(), load.summary());
    }
    load.finish("slots moved", &cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-failover"]
async fn failover_of_the_whole_cluster_loses_nothing() {
    let mut cluster = Cluster::start();
    let load = Load::start(&cluster.config()).await;
    for node in &mut cluster.nodes {
        node.kill();
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    for node in &mut cluster.nodes {
        node.restart();
    }
    let back = Instant::now();
    let recovery = load.recovered(back).await;
    eprintln!("all six gone and back: {recovery}");
    load.finish("all six gone and back", &cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-failover"]
async fn failover_to_a_replica_that_lagged_loses_nothing_that_replicas_had_to_acknowledge() {
    let mut cluster = Cluster::start();
    let config = Redis { on_missing_acks: OnMissingAcks::Fail, ..durable(&cluster) };
    let load = Load::start(&config).await;
    let victim = cluster.masters()[0];
    let replica = cluster.replica_of(victim);
    cluster.nodes[replica].pause();
    tokio::time::sleep(NODE_TIMEOUT / 2).await;
    cluster.nodes[victim].kill();
    cluster.nodes[replica].resume();
    tokio::time::sleep(2 * NODE_TIMEOUT).await;
    // Without a replica nothing is acknowledged.
    cluster.nodes[victim].restart();
    let recovery = load.recovered(Instant::now()).await;
    eprintln!("the replica of {victim} lagged and took over, and has a replica again: {recovery}");
    load.finish("a lagging replica took over", &cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-failover"]
async fn failover_of_each_node_in_turn_loses_nothing() {
    let mut cluster = Cluster::start();
    let load = Load::start(&durable(&cluster)).await;
    let began = Instant::now();
    for node in 0..cluster.nodes.len() {
        cluster.nodes[node].kill();
        cluster.nodes[node].restart();
        cluster.wait_until_whole();
        tokio::time::sleep(NODE_TIMEOUT).await;
    }
    let recovery = load.recovered(began).await;
    eprintln!("all six restarted in turn: {recovery}");
    load.finish("rolling restart", &cluster).await;
}
