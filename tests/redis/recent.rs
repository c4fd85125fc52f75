//! Records that were read before are not read again, and are never answered once they are gone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use responses_router::config::{Compression, Redis};
use responses_router::id::ResponseId;
use responses_router::store::{
    Ancestors, AtRest, HistoryError, Record, RecordCodec, RedisStore, ResponseStore, Touch, history,
};

use super::wire::{open_at_rest, sealing};
use super::{DEADLINE, LIMITS, chain, figure, open, turn};
use crate::support::redis::{Cluster, Server, cli, try_until};

const PATIENCE: Duration = Duration::from_secs(60);

fn ids(records: &[Arc<Record>]) -> Vec<ResponseId> {
    records.iter().map(|record| record.id.clone()).collect()
}

/// Loads as for a history whose load begins now.
async fn load(store: &Arc<dyn ResponseStore>, ids: &[ResponseId]) -> Vec<Option<Arc<Record>>> {
    store.load_since(ids, Instant::now()).await.unwrap()
}

/// The records as a load of them answers, those of these places missing.
fn without(records: &[Arc<Record>], gone: &[usize]) -> Vec<Option<Arc<Record>>> {
    let one = |(place, record): (usize, &Arc<Record>)| (!gone.contains(&place)).then(|| Arc::clone(record));
    records.iter().enumerate().map(one).collect()
}

fn calls(servers: &[Server], command: &str) -> u64 {
    servers.iter().map(|server| server.calls(command)).sum()
}

/// Loads the records until all of them are in memory, as they are once there is a connection that tells changes.
async fn load_until_kept(store: &Arc<dyn ResponseStore>, records: &[Arc<Record>]) {
    let kept = async {
        loop {
            let hits = figure(store, "redis_cache_lookups", "hit");
            assert_eq!(load(store, &ids(records)).await, without(records, &[]));
            if figure(store, "redis_cache_lookups", "hit") == hits + u64::try_from(records.len()).unwrap() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, kept).await.expect("records that are kept");
}

fn key(config: &Redis, record: &Record) -> String {
    format!("{}response:{}", config.key_prefix, record.id)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_is_asked_for_by_one_question_to_each_server() {
    let cluster = Cluster::start();
    let config = cluster.config();
    let store = open(&config).await;
    let records = chain(&store, 60, 500).await;
    load_until_kept(&store, &records).await;
    assert!(figure(&store, "redis_cache_bytes", "") > 60 * 500);

    for node in &cluster.nodes {
        node.cli(&["CONFIG", "RESETSTAT"]);
    }
    assert_eq!(load(&store, &ids(&records)).await, without(&records, &[]));
    assert_eq!((calls(&cluster.nodes, "get"), calls(&cluster.nodes, "exists")), (0, 3));
    // One that is new is read, and no other.
    let more = [&records[..], &[turn(&[], 500)]].concat();
    store.put(Arc::clone(&more[60])).await.unwrap();
    assert_eq!(load(&store, &ids(&more)).await, without(&more, &[]));
    assert_eq!(calls(&cluster.nodes, "get"), 1);
    // Without the memory every load reads.
    let plain = open(&Redis { cache_bytes: 0, ..config }).await;
    for _ in 0..2 {
        assert_eq!(load(&plain, &ids(&records)).await, without(&records, &[]));
    }
    assert_eq!(calls(&cluster.nodes, "get"), 1 + 120);
    assert_eq!(figure(&plain, "redis_cache_bytes", ""), 0);
}

/// Puts a turn, and loads it as the parent of the next one after something was done with its key.
async fn put_and_continue(store: &Arc<dyn ResponseStore>, record: &Arc<Record>, before: impl FnOnce()) -> Arc<Record> {
    store.put(Arc::clone(record)).await.unwrap();
    before();
    let found = store.load(std::slice::from_ref(&record.id), Touch::Refresh { longer: DEADLINE }).await.unwrap();
    found.into_iter().next().flatten().unwrap()
}

/// That it is the same in memory, not an equal one, shows that it was not taken apart.
#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_this_router_wrote_is_what_it_wrote_as_long_as_that_lies_there() {
    let server = Server::start(&[]);
    for codec in [RecordCodec::default(), sealing(&["k1"])] {
        for compression in [Compression::None, Compression::Zstd] {
            let at_rest = || AtRest { codec: codec.clone(), tenant_in_key: false };
            let config = Redis { compression, ..server.config() };
            let store = open_at_rest(&config, at_rest()).await;
            // As soon as there is a connection that tells changes.
            let same = async {
                loop {
                    let record = turn(&[], 3_000);
                    let found = put_and_continue(&store, &record, || ()).await;
                    assert_eq!(found, record);
                    if Arc::ptr_eq(&found, &record) {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(PATIENCE, same).await.expect("a record that is not taken apart");

            // Another document in its place is what is found.
            let elsewhere = Redis { key_prefix: "elsewhere:".to_owned(), ..config.clone() };
            let record = turn(&[], 3_000);
            let changed = Arc::new(Record { interrupted: true, ..Record::clone(&record) });
            open_at_rest(&elsewhere, at_rest()).await.put(Arc::clone(&changed)).await.unwrap();
            let copy = || {
                server.cli(&["COPY", &key(&elsewhere, &record), &key(&config, &record), "REPLACE"]);
            };
            assert_eq!(put_and_continue(&store, &record, copy).await, changed);
        }
    }
}

/// On one thread, so that all have begun before the first has its answer.
#[tokio::test]
async fn of_many_loads_at_once_one_asks() {
    let server = Server::start(&[]);
    let store = open(&server.config()).await;
    let records = chain(&store, 20, 100).await;
    load_until_kept(&store, &records).await;
    let (asked, all, since) = (server.calls("exists"), ids(&records), Instant::now());
    let loads = futures_util::future::join_all((0..32).map(|_| store.load_since(&all, since))).await;
    assert!(loads.into_iter().all(|found| found.unwrap() == without(&records, &[])));
    assert_eq!(server.calls("exists") - asked, 1);
    // What came before says nothing of a load that begins now.
    assert_eq!(load(&store, &all).await, without(&records, &[]));
    assert_eq!(server.calls("exists") - asked, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_router_deleted_is_gone_at_once() {
    let cluster = Cluster::shared();
    let config = cluster.config();
    let (store, other) = (open(&config).await, open(&config).await);
    let records = chain(&other, 40, 100).await;
    load_until_kept(&store, &records).await;
    let mut gone = Vec::new();
    // Not a moment later: no load may begin after the deletion was told and still see the record.
    for place in (0..40).rev() {
        assert!(other.delete(&records[place].id).await.unwrap());
        gone.push(place);
        assert_eq!(load(&store, &ids(&records)).await, without(&records, &gone), "{place}");
    }
    // What is gone is not kept either, though nobody asks for it any more.
    assert!(try_until(PATIENCE, || figure(&store, "redis_cache_bytes", "") < 40 * 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expired_or_was_flushed_is_gone_at_once() {
    let server = Server::start(&[]);
    let config = server.config();
    let store = open(&config).await;
    let records = chain(&store, 20, 100).await;
    load_until_kept(&store, &records).await;
    assert_eq!(server.cli(&["PEXPIRE", &key(&config, &records[7]), "1"]).trim(), "1");
    assert!(try_until(PATIENCE, || server.cli(&["EXISTS", &key(&config, &records[7])]).trim() == "0"));
    assert_eq!(load(&store, &ids(&records)).await, without(&records, &[7]));

    // Of this the server tells no single key.
    server.cli(&["FLUSHALL"]);
    store.put(Arc::clone(&records[3])).await.unwrap();
    let gone: Vec<_> = (0..20).filter(|place| *place != 3).collect();
    assert_eq!(load(&store, &ids(&records)).await, without(&records, &gone));
    assert_eq!(load(&store, &ids(&records)).await, without(&records, &gone));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_on_a_connection_that_ended_is_read_again() {
    let server = Server::start(&[]);
    let config = server.config();
    let store = open(&config).await;
    let records = chain(&store, 20, 100).await;
    for place in 0..5 {
        load_until_kept(&store, &records[place..]).await;
        // The connection ends, and what the server would have told on it is told to nobody.
        let killed = tokio::task::spawn_blocking({
            let (port, key) = (server.port, key(&config, &records[place]));
            move || {
                cli(port, &["CLIENT", "KILL", "TYPE", "normal"]);
                cli(port, &["UNLINK", &key])
            }
        });
        assert_eq!(killed.await.unwrap().trim(), "1");
        assert_eq!(load(&store, &ids(&records[place..])).await, without(&records[place..], &[0]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_to_another_master_and_was_deleted_there_is_gone() {
    let cluster = Cluster::start();
    // A hash tag: all keys are in one slot.
    let config = Redis { key_prefix: "{moving}:".to_owned(), ..cluster.config() };
    let (store, other) = (open(&config).await, open(&config).await);
    let records = chain(&store, 40, 100).await;
    load_until_kept(&store, &records).await;
    let masters = cluster.masters();
    let holds = |master: &usize| cluster.nodes[*master].cli(&["EXISTS", &key(&config, &records[0])]).trim() == "1";
    let from = masters.iter().copied().find(holds).unwrap();
    let to = masters.iter().copied().find(|master| *master != from).unwrap();
    let (source, target) = (&cluster.nodes[from], &cluster.nodes[to]);
    let slot = source.cli(&["CLUSTER", "KEYSLOT", &key(&config, &records[0])]).trim().to_owned();
    target.cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &cluster.id(from)]);
    source.cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &cluster.id(to)]);
    let port = target.port.to_string();
    for record in records.iter().skip(1).step_by(2) {
        let moved = source.cli(&["MIGRATE", "127.0.0.1", &port, &key(&config, record), "0", "5000"]);
        assert_eq!(moved.trim(), "OK");
    }
    // Half of them are there, and stay where they are found.
    assert_eq!(load(&store, &ids(&records)).await, without(&records, &[]));
    let mut gone = vec![1, 20];
    for place in &gone {
        assert!(other.delete(&records[*place].id).await.unwrap());
    }
    assert_eq!(load(&store, &ids(&records)).await, without(&records, &gone));

    for record in records.iter().step_by(2) {
        source.cli(&["MIGRATE", "127.0.0.1", &port, &key(&config, record), "0", "5000"]);
    }
    for node in [target, source] {
        assert_eq!(node.cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &cluster.id(to)]).trim(), "OK");
    }
    assert!(other.delete(&records[38].id).await.unwrap());
    gone.push(38);
    assert_eq!(load(&store, &ids(&records)).await, without(&records, &gone));
}

/// The old master lives on as a replica, and its connections with it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_former_master_says_counts_for_nothing() {
    let cluster = Cluster::start();
    let config = cluster.config();
    let (store, other) = (open(&config).await, open(&config).await);
    let records = chain(&store, 60, 100).await;
    let mut gone = Vec::new();
    for round in 0..2 {
        let left: Vec<_> =
            (0..60).filter(|place| !gone.contains(place)).map(|place| Arc::clone(&records[place])).collect();
        load_until_kept(&store, &left).await;
        for master in cluster.masters() {
            let heir = &cluster.nodes[cluster.replica_of(master)];
            let is_master = || heir.info("replication", "role").as_deref() == Some("master");
            // Redis gives an attempt up that takes it longer than five seconds.
            let took_over = || {
                heir.cli(&["CLUSTER", "FAILOVER"]);
                try_until(Duration::from_secs(6), is_master)
            };
            assert!(try_until(PATIENCE, took_over));
        }
        for place in [round, 20 + round, 40 + round, 59 - round] {
            assert!(other.delete(&records[place].id).await.unwrap());
            gone.push(place);
            assert_eq!(load(&store, &ids(&records)).await, without(&records, &gone), "{place}");
        }
        cluster.wait_until_whole();
    }
}

/// Of what a replica gets as a whole from its new master it tells no single key, and it has the oldest record as before.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_became_a_replica_vouches_for_nothing_once_it_refuses_a_write() {
    let (server, heir) = (Server::start(&[]), Server::start(&[]));
    let config = server.config();
    let store = open(&config).await;
    let records = chain(&store, 10, 100).await;
    load_until_kept(&store, &records).await;
    let follow = |follower: &Server, master: &Server| {
        follower.cli(&["REPLICAOF", "127.0.0.1", &master.port.to_string()]);
        follower.wait_until("replication", "master_link_status", "up");
    };
    follow(&heir, &server);
    heir.cli(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(heir.cli(&["UNLINK", &key(&config, &records[5])]).trim(), "1");
    // What the heir does not have keeps the other from taking over the difference alone.
    server.cli(&["SET", "diverged", "1"]);
    follow(&server, &heir);
    assert!(store.put(turn(&[], 10)).await.is_err());
    assert_eq!(load(&store, &ids(&records)).await, without(&records, &[5]));
    assert!(matches!(history(&*store, &records[9].id, LIMITS).await, Err(HistoryError::Store(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_be_told_changes_reads_each_time() {
    let server = Server::start(&[]);
    server.cli(&["ACL", "SETUSER", "default", "-client|tracking"]);
    let store = open(&server.config()).await;
    let records = chain(&store, 20, 100).await;
    for _ in 0..3 {
        assert_eq!(load(&store, &ids(&records)).await, without(&records, &[]));
    }
    assert_eq!((figure(&store, "redis_cache_lookups", "hit"), server.calls("get")), (0, 60));
    assert_eq!(figure(&store, "redis_connections", "missing"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_kept_than_the_bound_allows() {
    let server = Server::start(&[]);
    let bound = 100_000;
    let store = open(&Redis { cache_bytes: bound, ..server.config() }).await;
    let records: Vec<_> = (0..300).map(|_| turn(&[], 2_000)).collect();
    for record in &records {
        store.put(Arc::clone(record)).await.unwrap();
    }
    for some in records.chunks(30) {
        load_until_kept(&store, some).await;
        let kept = figure(&store, "redis_cache_bytes", "");
        assert!(kept > 60_000 && kept <= u64::try_from(bound).unwrap(), "{kept}");
    }
    // More than has room is right all the same.
    for _ in 0..2 {
        assert_eq!(load(&store, &ids(&records)).await, without(&records, &[]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn loads_and_deletions_at_once_agree() {
    let cluster = Cluster::shared();
    let config = cluster.config();
    let (store, other) = (open(&config).await, open(&config).await);
    let records = chain(&other, 64, 100).await;
    let all = ids(&records);
    load_until_kept(&store, &records).await;
    let deleting = async {
        for id in all.iter().step_by(2) {
            assert!(other.delete(id).await.unwrap());
            tokio::task::yield_now().await;
        }
    };
    let loading = || async {
        let mut before: Vec<bool> = vec![true; all.len()];
        while before.iter().filter(|there| **there).count() > 32 {
            let now: Vec<_> = load(&store, &all).await.iter().map(Option::is_some).collect();
            // What was seen to be gone does not come back.
            assert!(before.iter().zip(&now).all(|(before, now)| *before || !now));
            before = now;
        }
    };
    let loads = futures_util::future::join_all((0..8).map(|_| loading()));
    tokio::time::timeout(PATIENCE, async { tokio::join!(deleting, loads) }).await.expect("an end");
    let gone: Vec<_> = (0..64).step_by(2).collect();
    assert_eq!(load(&store, &all).await, without(&records, &gone));
}

/// Each turn is made as the router makes it, and loads its history by the fewest commands.
#[tokio::test(flavor = "multi_thread")]
async fn a_history_in_memory_ends_with_the_deletion_of_any_of_its_turns() {
    let server = Server::start(&[]);
    let (config, day) = (server.config(), Duration::from_secs(24 * 3600));
    let store = RedisStore::open(&config, day, DEADLINE, AtRest::default()).await.unwrap();
    let (store, other): (Arc<dyn ResponseStore>, _) = (Arc::new(store), open(&config).await);
    load_until_kept(&store, &chain(&store, 1, 10).await).await;
    let reads = || (server.calls("getex"), server.calls("get"));
    let before = reads();
    for place in 0..8 {
        let mut records: Vec<Record> = Vec::new();
        for _ in 0..8 {
            let mut record = (*turn(&[], 100)).clone();
            if let Some(parent) = records.last() {
                let history = history(&*store, &parent.id, LIMITS).await.unwrap();
                assert!(history.records.iter().map(|record| &**record).eq(&records));
                record.ancestors = Ancestors::Listed(history.ancestors_of_child());
            }
            store.put(Arc::new(record.clone())).await.unwrap();
            records.push(record);
        }
        assert!(other.delete(&records[place].id).await.unwrap());
        let error = history(&*store, &records[7].id, LIMITS).await.unwrap_err();
        let expected = match place {
            7 => matches!(error, HistoryError::ParentNotFound),
            _ => matches!(error, HistoryError::AncestorMissing),
        };
        assert!(expected, "{place}: {error}");
    }
    let hits = figure(&store, "redis_cache_lookups", "hit");
    // One read for each turn with a parent and each last load: of that parent, but for what was deleted above it.
    assert_eq!(reads(), (before.0 + 8 * 8, before.1 + 7));
    // Of the k-th turn k - 2 are above its parent: 21 in a conversation, and 6 to 0 of the last load.
    assert!(hits >= 8 * 21, "{hits}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_taken_from_memory_as_long_as_the_same_lies_in_redis() {
    let server = Server::start(&[]);
    let config = server.config();
    let (store, other) = (open(&config).await, open(&config).await);
    load_until_kept(&store, &chain(&store, 1, 10).await).await;
    let (own, foreign, replaced) = (turn(&[], 500), turn(&[], 500), turn(&[], 500));
    for record in [&own, &replaced] {
        store.put(Arc::clone(record)).await.unwrap();
    }
    other.put(Arc::clone(&foreign)).await.unwrap();
    let parent = async |record: &Arc<Record>| Ok(history(&*store, &record.id, LIMITS).await?.records.remove(0));
    // The very record that was written: nothing was taken apart.
    assert!(Arc::ptr_eq(&parent(&own).await.unwrap(), &own));
    // The next child finds it read on the connection, and reads it again, since what prolongs it is a change.
    assert_eq!(parent(&own).await.unwrap(), own);
    assert_eq!(parent(&foreign).await.unwrap(), foreign);
    server.cli(&["SET", &key(&config, &replaced), "{}"]);
    let error: Result<Arc<Record>, HistoryError> = parent(&replaced).await;
    assert!(matches!(error, Err(HistoryError::Store(_))));
    // Whoever removed them, they are gone.
    let unread = turn(&[], 500);
    store.put(Arc::clone(&unread)).await.unwrap();
    assert!(store.delete(&own.id).await.unwrap() && other.delete(&unread.id).await.unwrap());
    for record in [&own, &unread] {
        assert!(matches!(parent(record).await, Err(HistoryError::ParentNotFound)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_takes_no_room() {
    let server = Server::start(&[]);
    let store = open(&server.config()).await;
    server.wait_until("clients", "tracking_clients", "1");
    let unknown: Vec<_> = (0..50).map(|_| turn(&[], 1).id.clone()).collect();
    for id in &unknown {
        assert!(matches!(history(&*store, id, LIMITS).await, Err(HistoryError::ParentNotFound)));
    }
    assert!(load(&store, &unknown).await.iter().all(Option::is_none));
    assert_eq!(figure(&store, "redis_cache_bytes", ""), 0);
}
