//! One contract for every store (CONTRACT §9).
//!
//! A backend joins by an `impl Backend` and one `contract!` line at the foot. Ids are random, so that backends may share
//! one server between tests; nothing here looks at another test's records.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::future::join_all;
use responses_router::config::{self, Compression};
use responses_router::id::ResponseId;
use responses_router::sealing::{SealingKey, SealingKeys};
use responses_router::store::{
    AncestorIds, Ancestors, AtRest, ChainLimits, DiskSettings, DiskStore, HistoryError, Holdings, KnownItems,
    MemoryBounds, MemoryStore, Owner, Record, RecordCodec, RedisStore, ResponseStore, StoreError, Touch, Wanted,
    history,
};
use responses_router::tenant::Tenant;
use serde_json::value::RawValue;
use tokio::task::JoinSet;

use crate::disk::Directory;
use crate::redis::tls;
use crate::support::redis::{Cluster, Server, Tls};

/// How a store under test is opened.
#[async_trait]
trait Backend: Sync {
    /// A time to live short enough to wait for, in the backend's granularity.
    fn short_ttl(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// A store with room for a thousand turns and for several records of 5 MB.
    async fn open(&self, ttl: Duration) -> Arc<dyn ResponseStore>;
}

struct Memory;

#[async_trait]
impl Backend for Memory {
    fn short_ttl(&self) -> Duration {
        Duration::from_millis(300)
    }

    async fn open(&self, ttl: Duration) -> Arc<dyn ResponseStore> {
        let max_entries = 10_000.try_into().unwrap();
        Arc::new(MemoryStore::new(MemoryBounds { max_entries, max_bytes: 256 << 20, ttl }))
    }
}

struct Disk;

#[async_trait]
impl Backend for Disk {
    fn short_ttl(&self) -> Duration {
        Duration::from_millis(300)
    }

    async fn open(&self, ttl: Duration) -> Arc<dyn ResponseStore> {
        let directory = Directory::new("contract");
        let store = DiskStore::open(&directory.settings(ttl)).unwrap();
        directory.outlive_the_test();
        Arc::new(store)
    }
}

/// One server, and keys of its own for each test.
struct Redis;

#[async_trait]
impl Backend for Redis {
    async fn open(&self, ttl: Duration) -> Arc<dyn ResponseStore> {
        static SERVER: OnceLock<Server> = OnceLock::new();
        let config = SERVER.get_or_init(|| Server::start(&[])).config();
        Arc::new(RedisStore::open(&config, ttl, PATIENCE, AtRest::default()).await.unwrap())
    }
}

/// The same, compressed, on a cluster.
struct RedisCluster;

#[async_trait]
impl Backend for RedisCluster {
    async fn open(&self, ttl: Duration) -> Arc<dyn ResponseStore> {
        let config = config::Redis { compression: Compression::Zstd, ..Cluster::shared().config() };
        Arc::new(RedisStore::open(&config, ttl, PATIENCE, AtRest::default()).await.unwrap())
    }
}

/// Records that are sealed.
struct DiskSealed;

#[async_trait]
impl Backend for DiskSealed {
    fn short_ttl(&self) -> Duration {
        Duration::from_millis(300)
    }

    async fn open(&self, ttl: Duration) -> Arc<dyn ResponseStore> {
        let directory = Directory::new("sealed");
        let settings = DiskSettings { codec: sealing(), ..directory.settings(ttl) };
        let store = DiskStore::open(&settings).unwrap();
        directory.outlive_the_test();
        Arc::new(store)
    }
}

/// Sealed and compressed, on a cluster, where tenants have keys of their own.
struct RedisSealed;

#[async_trait]
impl Backend for RedisSealed {
    async fn open(&self, ttl: Duration) -> Arc<dyn ResponseStore> {
        let config = config::Redis { compression: Compression::Zstd, ..Cluster::shared().config() };
        let at_rest = AtRest { codec: sealing(), tenant_in_key: true };
        Arc::new(RedisStore::open(&config, ttl, PATIENCE, at_rest).await.unwrap())
    }
}

fn sealing() -> RecordCodec {
    let key = SealingKey::new("k1", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
    RecordCodec::new(SealingKeys::new(vec![key]), true)
}

/// Over TLS, with a client certificate.
struct RedisTls;

#[async_trait]
impl Backend for RedisTls {
    async fn open(&self, ttl: Duration) -> Arc<dyn ResponseStore> {
        static SERVER: OnceLock<Server> = OnceLock::new();
        let tls = || Tls::of(tls::authority(), &["127.0.0.1"]).asking_clients();
        let server = SERVER.get_or_init(|| Server::start_tls(tls(), &[]));
        let config = tls::certified(tls::trusting(server.config(), tls::authority()), tls::authority());
        Arc::new(RedisStore::open(&config, ttl, PATIENCE, AtRest::default()).await.unwrap())
    }
}

const LONG: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(15);
const LIMITS: ChainLimits = ChainLimits { max_depth: 1000, max_bytes: 64 << 20, longest_turn: Duration::ZERO };
const REFRESH: Touch = Touch::Refresh { longer: Duration::ZERO };

fn raw(text: String) -> Box<RawValue> {
    RawValue::from_string(text).unwrap()
}

/// A turn of `ancestors` whose one input item says `text`.
fn turn(ancestors: Ancestors, text: &str) -> Arc<Record> {
    let id = ResponseId::from_bits(rand::random());
    let response = raw("null".to_owned());
    let (input, items) = (Vec::new(), KnownItems::default());
    let mut record = Record { response, id, ancestors, input, interrupted: false, tenant: None, items };
    let previous = serde_json::to_string(&record.parent()).unwrap();
    record.response = raw(format!(
        "{{\"id\":\"{}\",\"object\":\"response\",\"previous_response_id\":{previous},\"temperature\":1.50}}",
        record.id
    ));
    record.input.push(raw(format!("{{\"id\":\"msg_{}\",\"content\":\"{text}\"}}", record.id)));
    Arc::new(record)
}

fn first() -> Arc<Record> {
    turn(Ancestors::Listed(AncestorIds::default()), "first")
}

/// A child as the router makes it: from the history of its parent.
async fn child_of(store: &Arc<dyn ResponseStore>, parent: &Record) -> Arc<Record> {
    let history = history(&**store, &parent.id, LIMITS).await.unwrap();
    let child = turn(Ancestors::Listed(history.ancestors_of_child()), "child");
    store.put(Arc::clone(&child)).await.unwrap();
    child
}

/// A chain of so many turns, written and then returned oldest first.
async fn chain(store: &Arc<dyn ResponseStore>, turns: usize) -> Vec<Arc<Record>> {
    let mut ids = Vec::new();
    let mut records = Vec::new();
    for _ in 0..turns {
        let record = turn(Ancestors::Listed(ids.iter().cloned().collect()), "turn");
        ids.push(record.id.clone());
        records.push(record);
    }
    // At a time: a store that flushes each would take long over a thousand.
    let puts = join_all(records.iter().map(|record| store.put(Arc::clone(record)))).await;
    assert!(puts.iter().all(Result::is_ok));
    records
}

async fn read(store: &Arc<dyn ResponseStore>, id: &ResponseId) -> Option<Arc<Record>> {
    let mut records = store.load(std::slice::from_ref(id), Touch::Keep).await.unwrap();
    assert_eq!(records.len(), 1);
    records.pop().flatten()
}

async fn a_written_record_can_be_read_at_once(backend: &dyn Backend) {
    let store = backend.open(LONG).await;
    for _ in 0..200 {
        let record = first();
        store.put(Arc::clone(&record)).await.unwrap();
        assert_eq!(*read(&store, &record.id).await.unwrap(), *record);
    }
    assert!(store.ready().await.is_ok());
    assert!(!store.name().is_empty());
}

async fn records_come_in_the_order_asked_for_with_gaps_for_the_unknown(backend: &dyn Backend) {
    let store = backend.open(LONG).await;
    let records = chain(&store, 3).await;
    let unknown = ResponseId::from_bits(rand::random());
    let ids = [&records[2].id, &unknown, &records[0].id, &records[1].id, &records[0].id].map(Clone::clone);
    for touch in [Touch::Keep, REFRESH] {
        let loaded = store.load(&ids, touch).await.unwrap();
        let found: Vec<Option<&ResponseId>> = loaded.iter().map(|record| record.as_ref().map(|r| &r.id)).collect();
        assert_eq!(found, [Some(&ids[0]), None, Some(&ids[2]), Some(&ids[3]), Some(&ids[4])]);
        assert!(store.load(&[], touch).await.unwrap().is_empty());
    }
}

async fn a_deleted_record_is_gone(backend: &dyn Backend) {
    let store = backend.open(LONG).await;
    let record = first();
    store.put(Arc::clone(&record)).await.unwrap();
    assert!(store.delete(&record.id).await.unwrap());
    assert!(read(&store, &record.id).await.is_none());
    assert!(store.load(std::slice::from_ref(&record.id), REFRESH).await.unwrap()[0].is_none());
    assert!(!store.delete(&record.id).await.unwrap());
}

async fn the_same_record_may_be_written_twice_but_not_another_one(backend: &dyn Backend) {
    let store = backend.open(LONG).await;
    let record = first();
    store.put(Arc::clone(&record)).await.unwrap();
    store.put(Arc::new((*record).clone())).await.unwrap();
    let others = [
        Record { input: Vec::new(), ..(*record).clone() },
        Record { ancestors: Ancestors::Listed([first().id.clone()].into_iter().collect()), ..(*record).clone() },
        Record { response: raw(record.response.get().replace("1.50", "1.5")), ..(*record).clone() },
    ];
    for other in others {
        assert!(matches!(store.put(Arc::new(other)).await, Err(StoreError::Conflict)));
    }
    assert_eq!(*read(&store, &record.id).await.unwrap(), *record);
}

async fn a_record_expires_even_while_it_is_read(backend: &dyn Backend) {
    let store = backend.open(backend.short_ttl()).await;
    let record = first();
    store.put(Arc::clone(&record)).await.unwrap();
    let written = Instant::now();
    while read(&store, &record.id).await.is_some() {
        assert!(written.elapsed() < PATIENCE, "reading keeps it alive");
        tokio::time::sleep(backend.short_ttl() / 20).await;
    }
    assert!(matches!(history(&*store, &record.id, LIMITS).await, Err(HistoryError::ParentNotFound)));
}

async fn using_a_chain_keeps_all_of_it_alive(backend: &dyn Backend) {
    let ttl = backend.short_ttl();
    let store = backend.open(ttl).await;
    let deadline = Instant::now() + PATIENCE;
    'attempt: loop {
        assert!(Instant::now() < deadline, "this machine is too slow for the test");
        let started = Instant::now();
        let records = chain(&store, 4).await;
        let parent = &records[3].id;
        let mut used = started;
        // Three lifetimes long; a use that came too late after the one before proves nothing.
        while started.elapsed() < 3 * ttl {
            let now = Instant::now();
            let loaded = history(&*store, parent, LIMITS).await;
            if used.elapsed() >= ttl {
                continue 'attempt;
            }
            assert_eq!(loaded.unwrap().records.len(), 4);
            used = now;
            tokio::time::sleep(ttl / 10).await;
        }
        return;
    }
}

async fn a_child_never_outlives_its_ancestors_however_long_its_turn_took(backend: &dyn Backend) {
    let ttl = backend.short_ttl();
    let store = backend.open(ttl).await;
    let limits = ChainLimits { longest_turn: 3 * ttl, ..LIMITS };
    let deadline = Instant::now() + PATIENCE;
    let (child, stored) = loop {
        assert!(Instant::now() < deadline, "this machine is too slow for the test");
        let parent = chain(&store, 3).await.pop().unwrap();
        let used = Instant::now();
        let Ok(history) = history(&*store, &parent.id, limits).await else { continue };
        // The model takes longer than a new response lives.
        tokio::time::sleep(ttl.mul_f32(1.5)).await;
        let child = turn(Ancestors::Listed(history.ancestors_of_child()), "child");
        // It may live from when the write begins.
        let stored = Instant::now();
        store.put(Arc::clone(&child)).await.unwrap();
        if used.elapsed() < limits.longest_turn {
            break (child, stored);
        }
    };
    let Ancestors::Listed(ancestors) = &child.ancestors else { panic!("not listed") };
    let ancestors = ancestors.read().unwrap();
    loop {
        // In this order: what was gone before the child was seen was gone while it was there.
        let above = store.load(&ancestors, Touch::Keep).await.unwrap();
        if read(&store, &child.id).await.is_none() {
            break;
        }
        assert!(above.iter().all(Option::is_some), "{:?} after it was stored", stored.elapsed());
        assert!(stored.elapsed() < PATIENCE, "it lives for ever");
        tokio::time::sleep(ttl / 20).await;
    }
    assert!(stored.elapsed() >= ttl.mul_f32(0.9), "it expired before its time");
}

async fn concurrent_writers_do_not_disturb_each_other(backend: &dyn Backend) {
    let store = backend.open(LONG).await;
    let mut writers = JoinSet::new();
    for _ in 0..32 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            let mut record = first();
            store.put(Arc::clone(&record)).await.unwrap();
            for depth in 1..8 {
                record = child_of(&store, &record).await;
                let history = history(&*store, &record.id, LIMITS).await.unwrap();
                assert_eq!(history.records.len(), depth + 1);
                assert_eq!(history.records.last().unwrap().id, record.id);
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
}

async fn of_concurrent_writers_of_one_id_one_wins(backend: &dyn Backend) {
    let store = backend.open(LONG).await;
    for _ in 0..20 {
        let record = first();
        let mut writers = JoinSet::new();
        for number in 0..8 {
            let rival = Record { input: vec![raw(format!("{{\"id\":\"{number}\"}}"))], ..(*record).clone() };
            let (store, rival) = (Arc::clone(&store), Arc::new(rival));
            writers.spawn(async move { store.put(Arc::clone(&rival)).await.map(|()| rival) });
        }
        let (winners, losers): (Vec<_>, Vec<_>) = writers.join_all().await.into_iter().partition(Result::is_ok);
        assert!(losers.iter().all(|loser| matches!(loser, Err(StoreError::Conflict))));
        let winners: Vec<_> = winners.into_iter().flatten().collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(read(&store, &record.id).await.unwrap(), winners[0]);
    }
}

async fn a_refresh_never_brings_back_a_deleted_record(backend: &dyn Backend) {
    let store = backend.open(LONG).await;
    for _ in 0..10 {
        let ids: Vec<ResponseId> = chain(&store, 200).await.iter().map(|record| record.id.clone()).collect();
        let mut readers = JoinSet::new();
        for _ in 0..3 {
            let (store, ids) = (Arc::clone(&store), ids.clone());
            // Each keeps at one record until it is gone, so that every delete meets a refresh.
            readers.spawn(async move {
                for id in &ids {
                    let deadline = Instant::now() + PATIENCE;
                    while store.load(std::slice::from_ref(id), REFRESH).await.unwrap()[0].is_some() {
                        assert!(Instant::now() < deadline, "a deleted record is back");
                        tokio::task::yield_now().await;
                    }
                }
            });
        }
        for id in &ids {
            assert!(store.delete(id).await.unwrap());
            tokio::task::yield_now().await;
        }
        readers.join_all().await;
        assert!(store.load(&ids, Touch::Keep).await.unwrap().iter().all(Option::is_none));
    }
}

async fn branches_share_their_ancestors(backend: &dyn Backend) {
    let store = backend.open(LONG).await;
    let trunk = chain(&store, 3).await;
    let left = child_of(&store, &trunk[2]).await;
    let right = child_of(&store, &trunk[2]).await;
    let early = child_of(&store, &trunk[0]).await;
    for (leaf, depth) in [(&left, 3), (&right, 3), (&early, 1)] {
        let loaded = history(&*store, &leaf.id, LIMITS).await.unwrap().records;
        let (last, before) = loaded.split_last().unwrap();
        assert_eq!(last, leaf);
        assert_eq!(before, &trunk[..depth]);
    }
    // A branch can go without taking the trunk with it.
    assert!(store.delete(&left.id).await.unwrap());
    assert_eq!(history(&*store, &right.id, LIMITS).await.unwrap().records.len(), 4);
}

async fn a_chain_of_a_thousand_turns_comes_whole_and_in_order(backend: &dyn Backend) {
    let store = backend.open(LONG).await;
    let records = chain(&store, 1001).await;
    let loaded = history(&*store, &records[999].id, LIMITS).await.unwrap();
    assert_eq!(loaded.records, records[..1000]);
    let too_deep = history(&*store, &records[1000].id, LIMITS).await;
    assert!(matches!(too_deep, Err(HistoryError::TooDeep { limit: 1000 })));
}

async fn a_record_of_five_megabytes_comes_back_byte_for_byte(backend: &dyn Backend) {
    let store = backend.open(LONG).await;
    let parent = turn(Ancestors::Listed(AncestorIds::default()), &"\u{1f40e}\\u2028 ".repeat(500_000));
    assert!(parent.payload_bytes() > 5_000_000);
    store.put(Arc::clone(&parent)).await.unwrap();
    let child = child_of(&store, &parent).await;
    let loaded = history(&*store, &child.id, LIMITS).await.unwrap().records;
    assert_eq!(loaded, [Arc::clone(&parent), Arc::clone(&child)]);
    let limits = ChainLimits { max_bytes: 5_000_000, ..LIMITS };
    let too_large = history(&*store, &child.id, limits).await;
    assert!(matches!(too_large, Err(HistoryError::TooLarge { limit: 5_000_000 })));
}

async fn a_deleted_turn_ends_its_chain_with_an_error(backend: &dyn Backend) {
    let store = backend.open(LONG).await;
    for hole in 0..3 {
        let records = chain(&store, 4).await;
        assert!(store.delete(&records[hole].id).await.unwrap());
        assert!(matches!(history(&*store, &records[3].id, LIMITS).await, Err(HistoryError::AncestorMissing)));
        assert!(matches!(history(&*store, &records[hole].id, LIMITS).await, Err(HistoryError::ParentNotFound)));
    }
}

async fn records_that_know_only_their_parent_are_walked(backend: &dyn Backend) {
    let store = backend.open(LONG).await;
    let mut parent = None;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let record = turn(Ancestors::Walk(parent.take()), "foreign");
        store.put(Arc::clone(&record)).await.unwrap();
        ids.push(record.id.clone());
        parent = Some(record.id.clone());
    }
    assert_eq!(history(&*store, &ids[2], LIMITS).await.unwrap().ancestors_of_child().read().unwrap(), ids);
    let loaded = read(&store, &ids[1]).await.unwrap();
    assert_eq!(loaded.ancestors, Ancestors::Walk(Some(ids[0].clone())));
    let child = child_of(&store, &loaded).await;
    assert_eq!(child.ancestors, Ancestors::Listed(ids[..2].iter().cloned().collect()));
}

/// The record of a tenant, written.
async fn theirs(store: &Arc<dyn ResponseStore>, owner: Owner, ancestors: &[&Record]) -> Arc<Record> {
    let ancestors = ancestors.iter().map(|record| record.id.clone()).collect();
    let record = (*turn(Ancestors::Listed(ancestors), "theirs")).clone();
    let record = Arc::new(Record { tenant: owner.tenant(), ..record });
    Holdings::new(store, owner).put(Arc::clone(&record)).await.unwrap();
    record
}

fn owners() -> [Owner; 4] {
    let [one, other] = [b"one", b"two"].map(|name| Owner::Tenant(Tenant::named(name)));
    [one, other, Owner::Everybody, Owner::Nobody]
}

async fn a_record_exists_for_its_owner_alone(backend: &dyn Backend) {
    let store = backend.open(LONG).await;
    let all = owners();
    for owner in all.into_iter().filter(|owner| owner.keeps_records()) {
        let record = theirs(&store, owner, &[]).await;
        let child = theirs(&store, owner, &[&record]).await;
        let ids = [record.id.clone(), child.id.clone()];
        for stranger in all.into_iter().filter(|stranger| *stranger != owner) {
            let holdings = Holdings::new(&store, stranger);
            for touch in [Touch::Keep, REFRESH] {
                assert!(holdings.load(&ids, touch).await.unwrap().iter().all(Option::is_none), "{stranger:?}");
            }
            let as_parent = history(&holdings, &child.id, LIMITS).await;
            assert!(matches!(as_parent, Err(HistoryError::ParentNotFound)), "{stranger:?}");
            let wanted = Wanted { parent: None, referenced: &ids };
            assert!(history(&holdings, wanted, LIMITS).await.unwrap().referenced.is_empty());
            for id in &ids {
                assert!(!holdings.delete(id).await.unwrap(), "{stranger:?}");
            }
            assert!(holdings.put(Arc::clone(&record)).await.is_err(), "{stranger:?}");
            if stranger.keeps_records() {
                // A turn of theirs that names another's as its parent, which no client can make.
                let forged = theirs(&store, stranger, &[&record]).await;
                let as_ancestor = history(&holdings, &forged.id, LIMITS).await;
                assert!(matches!(as_ancestor, Err(HistoryError::AncestorMissing)), "{stranger:?}");
            }
        }
        let holdings = Holdings::new(&store, owner);
        assert_eq!(history(&holdings, &child.id, LIMITS).await.unwrap().records, [Arc::clone(&record), child]);
        assert_eq!(holdings.load(&ids[..1], Touch::Keep).await.unwrap(), [Some(record)]);
        for id in &ids {
            assert!(holdings.delete(id).await.unwrap());
            assert!(!holdings.delete(id).await.unwrap());
        }
    }
}

async fn strangers_do_not_keep_a_record_alive_and_its_owner_does(backend: &dyn Backend) {
    let ttl = backend.short_ttl();
    let store = backend.open(ttl).await;
    let [owner, stranger, ..] = owners();
    let [own, foreign] = [owner, stranger].map(|owner| Holdings::new(&store, owner));
    let deadline = Instant::now() + PATIENCE;
    'attempt: loop {
        assert!(Instant::now() < deadline, "this machine is too slow for the test");
        let (used, unused) = (theirs(&store, owner, &[]).await, theirs(&store, owner, &[]).await);
        let written = Instant::now();
        let mut last_use = written;
        while written.elapsed() < 3 * ttl {
            let wanted = Wanted { parent: None, referenced: std::slice::from_ref(&unused.id) };
            assert!(history(&foreign, wanted, LIMITS).await.unwrap().referenced.is_empty());
            let now = Instant::now();
            let loaded = history(&own, &used.id, LIMITS).await;
            if last_use.elapsed() >= ttl {
                continue 'attempt;
            }
            assert_eq!(loaded.unwrap().records.len(), 1);
            last_use = now;
            tokio::time::sleep(ttl / 10).await;
        }
        assert_eq!(own.load(std::slice::from_ref(&unused.id), Touch::Keep).await.unwrap(), [None]);
        return;
    }
}

macro_rules! contract {
    (@tests $backend:expr; $($test:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn $test() {
            super::$test(&$backend).await;
        })*
    };
    ($name:ident, $backend:expr) => {
        mod $name {
            contract! { @tests $backend;
                a_written_record_can_be_read_at_once
                records_come_in_the_order_asked_for_with_gaps_for_the_unknown
                a_deleted_record_is_gone
                the_same_record_may_be_written_twice_but_not_another_one
                a_record_expires_even_while_it_is_read
                using_a_chain_keeps_all_of_it_alive
                a_child_never_outlives_its_ancestors_however_long_its_turn_took
                concurrent_writers_do_not_disturb_each_other
                of_concurrent_writers_of_one_id_one_wins
                a_refresh_never_brings_back_a_deleted_record
                branches_share_their_ancestors
                a_chain_of_a_thousand_turns_comes_whole_and_in_order
                a_record_of_five_megabytes_comes_back_byte_for_byte
                a_deleted_turn_ends_its_chain_with_an_error
                records_that_know_only_their_parent_are_walked
                a_record_exists_for_its_owner_alone
                strangers_do_not_keep_a_record_alive_and_its_owner_does
            }
        }
    };
}

contract!(memory, super::Memory);
contract!(disk, super::Disk);
contract!(redis, super::Redis);
contract!(redis_tls, super::RedisTls);
contract!(redis_cluster, super::RedisCluster);
contract!(disk_sealed, super::DiskSealed);
contract!(redis_sealed, super::RedisSealed);
