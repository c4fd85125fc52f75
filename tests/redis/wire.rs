//! What Redis sees: keys, values, commands and how many round trips they take.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use responses_router::config::{Compression, OnMissingAcks, Redis};
use responses_router::id::ResponseId;
use responses_router::sealing::{SealingKey, SealingKeys};
use responses_router::store::{
    Ancestors, AtRest, HistoryError, Holdings, Owner, Record, RecordCodec, RedisStore, ResponseStore, StoreError,
    Touch, history,
};
use responses_router::tenant::Tenant;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use super::{DEADLINE, LIMITS, chain, open, put_confirmed, read, turn};
use crate::support::redis::{Cluster, Server};

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start(&[]))
}

fn key(config: &Redis, id: &ResponseId) -> String {
    format!("{}response:{id}", config.key_prefix)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_one_document_that_a_person_can_read() {
    let config = server().config();
    let store = open(&config).await;
    let record = turn(&[], 2000);
    store.put(Arc::clone(&record)).await.unwrap();
    let value = server().cli(&["GET", &key(&config, &record.id)]);
    assert_eq!(value.trim_end().as_bytes(), record.encode());
    let ttl: u64 = server().cli(&["TTL", &key(&config, &record.id)]).trim().parse().unwrap();
    assert!((590..=600).contains(&ttl), "{ttl}");
}

/// Sealing with the keys of these ids.
pub(super) fn sealing(ids: &[&str]) -> RecordCodec {
    let key = |id: &&str| SealingKey::new(id, &format!("{id:A<42}A=")).unwrap();
    RecordCodec::new(SealingKeys::new(ids.iter().map(key).collect()), false)
}

pub(super) async fn open_at_rest(config: &Redis, at_rest: AtRest) -> Arc<dyn ResponseStore> {
    Arc::new(RedisStore::open(config, super::TTL, DEADLINE, at_rest).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_record_shows_no_content_and_lies_under_its_tenant() {
    for compression in [Compression::None, Compression::Zstd] {
        let config = Redis { compression, ..server().config() };
        let at_rest = AtRest { codec: sealing(&["k1"]), tenant_in_key: true };
        let store = open_at_rest(&config, at_rest).await;
        let tenant = Tenant::named(b"acme");
        let record = Arc::new(Record { tenant: Some(tenant), ..(*turn(&[], 5000)).clone() });
        let holdings = Holdings::new(&store, Owner::Tenant(tenant));
        holdings.put(Arc::clone(&record)).await.unwrap();
        let keys = server().cli(&["KEYS", &format!("{}*", config.key_prefix)]);
        let key = format!("{}t:822b33ad87c148a0a20a5ba7cd5ebcaa:response:{}", config.key_prefix, record.id);
        assert_eq!(keys.trim(), key);
        let value = server().cli(&["GET", &key]);
        let begins =
            format!("{{\"id\":\"{}\",\"object\":\"response\",\"responses_router\":{{\"version\":2,", record.id);
        assert!(value.starts_with(&begins) && !value.contains("words") && !value.contains("msg_"), "{value}");
        assert!(value.contains("\"sealed\":{\"key\":\"k1\","), "{value}");
        let ids = std::slice::from_ref(&record.id);
        assert_eq!(holdings.load(ids, Touch::Keep).await.unwrap(), [Some(Arc::clone(&record))]);
        // Another router whose keys lack this one cannot read it, and does not call it unknown.
        let other = open_at_rest(&config, AtRest { codec: sealing(&["k2"]), tenant_in_key: true }).await;
        let error = Holdings::new(&other, Owner::Tenant(tenant)).load(ids, Touch::Keep).await.unwrap_err();
        assert!(matches!(&error, StoreError::UnknownKey { key } if key == "k1"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_chain_is_found_on_a_cluster_whatever_the_key_prefix() {
    for key_prefix in ["{all}:", "plain:"] {
        for tenant_in_key in [false, true] {
            let key_prefix = format!("{key_prefix}{}:", rand::random::<u32>());
            let config = Redis { key_prefix, ..Cluster::shared().config() };
            let store = open_at_rest(&config, AtRest { codec: RecordCodec::default(), tenant_in_key }).await;
            let tenant = Tenant::named(b"} {x}");
            let holdings = Holdings::new(&store, Owner::Tenant(tenant));
            let mut ids = Vec::new();
            for _ in 0..5 {
                let record = Record { tenant: Some(tenant), ..(*turn(&ids, 10)).clone() };
                ids.push(record.id.clone());
                holdings.put(Arc::new(record)).await.unwrap();
            }
            assert_eq!(history(&holdings, &ids[4], LIMITS).await.unwrap().records.len(), 5);
            assert!(holdings.delete(&ids[4]).await.unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_kinds_of_value_are_read_whatever_the_setting() {
    let plain = server().config();
    let packed = Redis { compression: Compression::Zstd, ..plain.clone() };
    let (plain_store, packed_store) = (open(&plain).await, open(&packed).await);
    for (writer, reader) in [(&plain_store, &packed_store), (&packed_store, &plain_store)] {
        let record = turn(&[], 5000);
        writer.put(Arc::clone(&record)).await.unwrap();
        assert_eq!(read(reader, &record.id).await.unwrap().unwrap(), record);
        // And one counts as the other when it is written again.
        reader.put(record).await.unwrap();
    }
    let record = turn(&[], 5000);
    packed_store.put(Arc::clone(&record)).await.unwrap();
    let length: usize = server().cli(&["STRLEN", &key(&plain, &record.id)]).trim().parse().unwrap();
    assert!(length < record.encode().len() / 2, "{length}");
}

/// A line to the server that, from when it is told to, carries GETEX commands in two lots only: the first one by itself,
/// then `second_lot` together. A client that waited for any reply in between would wait for ever.
async fn line_in_two_lots(to: u16, second_lot: usize) -> (u16, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let in_lots = Arc::new(AtomicBool::new(false));
    let (told, tasks) = (Arc::clone(&in_lots), TaskTracker::new());
    // Shared by the connections: the client may use another one for its second lot.
    let lots = Arc::new(Mutex::new(vec![second_lot, 1]));
    tasks.clone().spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                (client.into_split(), server.into_split());
            let (told, lots) = (Arc::clone(&told), Arc::clone(&lots));
            tasks.spawn(async move {
                let (mut held, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
                while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
                    held.extend_from_slice(&buffer[..length]);
                    if told.load(Ordering::Relaxed) {
                        let commands = held.windows(5).filter(|word| word.eq_ignore_ascii_case(b"GETEX")).count();
                        let mut lots = lots.lock().unwrap();
                        // What is sent besides, as the question behind the parent, waits for nothing.
                        if commands > 0 {
                            if lots.last().is_some_and(|lot| commands < *lot) {
                                continue;
                            }
                            lots.pop();
                        }
                    }
                    to_server.write_all(&held).await.unwrap();
                    held.clear();
                }
            });
            tasks.spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
        }
    });
    (port, in_lots)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_a_thousand_turns_takes_two_dependent_round_trips_and_refreshes_every_turn() {
    let server = Server::start(&[]);
    let patient = Duration::from_secs(20);
    let config = Redis { breaker_seconds: patient, read_timeout: patient, ..server.config() };
    let records = chain(&open(&config).await, 1000, 100).await;
    for_each_key(&server, "redis.call('EXPIRE', key, 50)");

    let (port, in_lots) = line_in_two_lots(server.port, 999).await;
    let far = Redis { address: format!("127.0.0.1:{port}").parse().unwrap(), ..config.clone() };
    let store = RedisStore::open(&far, super::TTL, 4 * DEADLINE, AtRest::default()).await.unwrap();
    store.ready().await.unwrap();
    server.cli(&["CONFIG", "RESETSTAT"]);
    in_lots.store(true, Ordering::Relaxed);
    let loaded = history(&store, &records[999].id, LIMITS).await.unwrap();
    assert_eq!(loaded.records, records);
    assert_eq!((server.calls("getex"), server.calls("get"), server.calls("expire")), (1000, 0, 0));
    let refreshed = for_each_key(&server, "if redis.call('TTL', key) > 500 then count = count + 1 end");
    assert_eq!(refreshed, "1000");
}

/// Runs Lua for every key; what it counts.
fn for_each_key(server: &Server, lua: &str) -> String {
    let script = format!("local count = 0 for _, key in ipairs(redis.call('KEYS', '*')) do {lua} end return count");
    server.cli(&["EVAL", &script, "0"]).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_the_go_router_wrote_is_walked() {
    let config = server().config();
    let store = open(&config).await;
    let mut previous = String::new();
    let mut ids = Vec::new();
    for turn in 0..3 {
        let id = ResponseId::from_bits(rand::random());
        let document = format!(
            "{{\"id\":\"{id}\",\"object\":\"response\",\"created_at\":1700000000,\"model\":\"m\",\"status\":\"completed\",\
             \"input\":[{{\"type\":\"message\",\"role\":\"user\",\"content\":\"turn {turn}\"}}],\"output\":[],\
             \"output_text\":\"hello\",\"previous_response_id\":\"{previous}\",\"ttl\":\"0001-01-01T00:00:00Z\"}}"
        );
        server().cli(&["SET", &key(&config, &id), &document, "EX", "50"]);
        previous = id.to_string();
        ids.push(id);
    }
    let loaded = history(&*store, &ids[2], LIMITS).await.unwrap();
    assert_eq!(loaded.ancestors_of_child().read().unwrap(), ids);
    assert_eq!(loaded.records[1].ancestors, Ancestors::Walk(Some(ids[0].clone())));
    server().cli(&["DEL", &key(&config, &ids[0])]);
    assert!(matches!(history(&*store, &ids[2], LIMITS).await, Err(HistoryError::AncestorMissing)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_record_is_corrupt_and_never_missing() {
    let config = server().config();
    let store = open(&config).await;
    let (list, text, other) = (turn(&[], 1), turn(&[], 1), turn(&[], 1));
    server().cli(&["LPUSH", &key(&config, &list.id), "x"]);
    server().cli(&["SET", &key(&config, &text.id), "x"]);
    // Another key's reply, as a crossed connection would bring it.
    server().cli(&["SET", &key(&config, &other.id), &String::from_utf8(text.encode()).unwrap()]);
    for record in [&list, &text, &other] {
        for touch in [Touch::Keep, Touch::Refresh { longer: Duration::ZERO }] {
            let loaded = store.load(&[record.id.clone(), turn(&[], 1).id.clone()], touch).await;
            assert!(matches!(loaded, Err(StoreError::Corrupt(_))), "{loaded:?}");
        }
    }
    assert!(matches!(store.put(Arc::clone(&other)).await, Err(StoreError::Conflict)));
    assert!(matches!(store.put(list).await, Err(StoreError::Corrupt(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn full_memory_refuses_writes_and_serves_reads() {
    let server = Server::start(&[("maxmemory-policy", "noeviction")]);
    let store = open(&server.config()).await;
    let record = turn(&[], 1000);
    store.put(Arc::clone(&record)).await.unwrap();
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = store.put(turn(&[], 1000)).await.unwrap_err();
    assert!(refused.is_transient() && refused.to_string().contains("OOM"), "{refused}");
    assert_eq!(read(&store, &record.id).await.unwrap().unwrap(), record);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_a_password_and_a_database_are_used() {
    let socket = std::env::temp_dir().join(format!("responses-router-{}.sock", std::process::id()));
    let socket = socket.display().to_string();
    let server = Server::start(&[("unixsocket", &socket)]);
    server.cli(&["ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all"]);
    server.cli(&["CONFIG", "SET", "requirepass", "other"]);
    let config = Redis {
        address: format!("unix:{socket}").parse().unwrap(),
        username: Some("app".to_owned()),
        password: Some("secret".into()),
        db: 3,
        ..server.config()
    };
    let store = open(&config).await;
    let record = turn(&[], 1);
    store.put(Arc::clone(&record)).await.unwrap();
    assert_eq!(read(&store, &record.id).await.unwrap().unwrap(), record);
    let found = server.cli(&["-a", "other", "--no-auth-warning", "-n", "3", "EXISTS", &key(&config, &record.id)]);
    assert_eq!(found.trim(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_cluster_a_record_lies_on_one_master_and_its_replica() {
    let cluster = Cluster::shared();
    let config = Redis { min_replica_acks: 1, on_missing_acks: OnMissingAcks::Fail, ..cluster.config() };
    let store = open(&config).await;
    let record = turn(&[], 1);
    put_confirmed(&store, &record).await;
    let holds = |node: &&Server| !node.cli(&["KEYS", &key(&config, &record.id)]).trim().is_empty();
    assert_eq!(cluster.nodes.iter().filter(holds).count(), 2);
    // A repeated write waits for the replica too.
    put_confirmed(&store, &record).await;
    put_confirmed(&store, &turn(&[], 1)).await;
}

/// Each turn is made as the router makes it.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_chain_in_steady_use_the_parent_alone_is_written_to_and_a_child_never_outlives_what_is_above_it() {
    let server = Server::start(&[]);
    let config = server.config();
    let day = Duration::from_secs(24 * 3600);
    let store = RedisStore::open(&config, day, DEADLINE, AtRest::default()).await.unwrap();
    store.ready().await.unwrap();
    server.wait_until("clients", "tracking_clients", "1");
    server.cli(&["CONFIG", "RESETSTAT"]);
    let mut ids: Vec<ResponseId> = Vec::new();
    for _ in 0..10 {
        let mut record = (*turn(&[], 100)).clone();
        if let Some(parent) = ids.last() {
            record.ancestors = Ancestors::Listed(history(&store, parent, LIMITS).await.unwrap().ancestors_of_child());
        }
        store.put(Arc::new(record.clone())).await.unwrap();
        let lives = |id: &ResponseId| server.cli(&["PEXPIRETIME", &key(&config, id)]).trim().parse::<u64>().unwrap();
        assert!(ids.iter().all(|above| lives(above) > lives(&record.id)));
        ids.push(record.id);
    }
    // What is above the parent was a parent before, and is in memory; the question whether it is still there goes with the
    // parent's own.
    assert_eq!((server.calls("getex"), server.calls("get"), server.calls("set")), (9, 0, 10));
    assert_eq!(server.calls("exists"), 9 + 8);
}

/// The table of the README: `cargo test --release --test it load_times -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn load_times_of_chains() {
    let cluster = Cluster::shared();
    let store = open(&cluster.config()).await;
    println!("| turns | history | walk of single GETs |\n|---|---|---|");
    for turns in [1, 10, 50, 200] {
        let records = chain(&store, turns, 2000).await;
        let parent = &records[turns - 1].id;
        let (mut at_once, mut walked) = (Vec::new(), Vec::new());
        for _ in 0..40 {
            let started = Instant::now();
            assert_eq!(history(&*store, parent, LIMITS).await.unwrap().records.len(), turns);
            at_once.push(started.elapsed());
            let started = Instant::now();
            for record in records.iter().rev() {
                read(&store, &record.id).await.unwrap().unwrap();
            }
            walked.push(started.elapsed());
        }
        at_once.sort();
        walked.sort();
        println!("| {turns} | {:?} | {:?} |", at_once[20], walked[20]);
    }
}

/// What a turn costs beside its translation: `cargo test --release --test it cpu_of_stored_turns -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn cpu_of_stored_turns() {
    const TURNS: u32 = 2000;
    let cluster = Cluster::start();
    let store = open(&cluster.config()).await;
    println!("| turns before it | CPU of the store's client | CPU of all six nodes |\n|---|---|---|");
    for turns in [0, 1, 10, 50] {
        let records = chain(&store, turns, 2000).await;
        let ids: Vec<_> = records.iter().map(|record| record.id.clone()).collect();
        let (own, nodes) = (own_cpu(), cluster_cpu(&cluster));
        for _ in 0..TURNS {
            if let Some(parent) = ids.last() {
                assert_eq!(history(&*store, parent, LIMITS).await.unwrap().records.len(), turns);
            }
            store.put(turn(&ids, 2000)).await.unwrap();
        }
        println!("| {turns} | {:.0?} | {:.0?} |", (own_cpu() - own) / TURNS, (cluster_cpu(&cluster) - nodes) / TURNS);
    }
}

/// User and system time of this process; Linux counts in hundredths of a second.
fn own_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // After the name, which may hold anything: fields 14 and 15 of proc(5).
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn cluster_cpu(cluster: &Cluster) -> Duration {
    let seconds = |field| move |node: &Server| node.info("cpu", field).unwrap().parse::<f64>().unwrap();
    let of_all = |field| cluster.nodes.iter().map(seconds(field)).sum::<f64>();
    Duration::from_secs_f64(of_all("used_cpu_user") + of_all("used_cpu_sys"))
}
