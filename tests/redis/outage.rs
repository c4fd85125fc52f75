//! One server that comes, hangs and goes. An outage is an error, soon told, and never a missing record.

use std::sync::Arc;
use std::time::{Duration, Instant};

use responses_router::config::{OnMissingAcks, Redis};
use responses_router::store::{AtRest, HistoryError, RedisStore, ResponseStore, StoreError, history};

use super::{DEADLINE, LIMITS, TTL, figure, open, read, turn};
use crate::support::redis::Server;

/// Until the store is ready; says how long that took.
async fn until_ready(store: &Arc<dyn ResponseStore>) -> Duration {
    let started = Instant::now();
    while store.ready().await.is_err() {
        assert!(started.elapsed() < PATIENCE, "not ready");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    started.elapsed()
}

/// How long a state may take to come about.
const PATIENCE: Duration = Duration::from_secs(60);

fn impatient(server: &Server) -> Redis {
    Redis { breaker_seconds: Duration::from_secs(1), ..server.config() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_opened_without_redis_fails_fast_and_is_ready_when_redis_comes() {
    let mut server = Server::later();
    let store = open(&impatient(&server)).await;
    assert!(store.ready().await.is_err());
    let record = turn(&[], 1);
    // Each of them waiting for its own deadline would take twenty times as long.
    let refusals = async {
        for _ in 0..20 {
            let error = store.put(Arc::clone(&record)).await.unwrap_err();
            assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        }
    };
    tokio::time::timeout(DEADLINE, refusals).await.unwrap();
    server.restart();
    let took = until_ready(&store).await;
    eprintln!("ready {took:?} after Redis came");
    store.put(Arc::clone(&record)).await.unwrap();
    assert_eq!(read(&store, &record.id).await.unwrap().unwrap(), record);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_is_unavailable_and_never_a_missing_record() {
    let mut server = Server::start(&[]);
    let store = open(&impatient(&server)).await;
    let record = turn(&[], 1);
    store.put(Arc::clone(&record)).await.unwrap();
    let opened = figure(&store, "redis_breaker_opened", "");
    server.kill();
    let started = Instant::now();
    // Some may wait for their deadline; once the breaker is open, all are refused at once.
    let mut refused = 0;
    while refused < 20 {
        assert!(started.elapsed() < PATIENCE, "only {refused} were refused");
        let error = history(&*store, &record.id, LIMITS).await.unwrap_err();
        assert!(matches!(&error, HistoryError::Store(error) if error.is_transient()), "{error}");
        refused += u32::from(matches!(error, HistoryError::Store(StoreError::Unavailable(_))));
        assert!(store.delete(&record.id).await.unwrap_err().is_transient());
    }
    assert!(store.ready().await.is_err());
    assert_eq!(figure(&store, "redis_reachable", ""), 0);
    assert!(figure(&store, "redis_breaker_opened", "") > opened);
    assert!(figure(&store, "redis_refused", "away") >= 20);
    assert!(figure(&store, "redis_retries", "no_connection") > 0 && figure(&store, "redis_dial_failures", "") > 0);
    assert_eq!(figure(&store, "redis_connections", "connected"), 0);
    let reconnects = figure(&store, "redis_reconnects", "");
    server.restart();
    let took = until_ready(&store).await;
    eprintln!("ready {took:?} after Redis came back");
    assert_eq!(read(&store, &record.id).await.unwrap().unwrap(), record);
    assert_eq!(figure(&store, "redis_reachable", ""), 1);
    assert!(figure(&store, "redis_reconnects", "") > reconnects);
    assert!(figure(&store, "redis_connections", "connected") > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_times_out_and_is_used_again() {
    let server = Server::start(&[]);
    let store =
        Arc::new(RedisStore::open(&impatient(&server), TTL, Duration::from_secs(2), AtRest::default()).await.unwrap());
    let store: Arc<dyn ResponseStore> = store;
    let record = turn(&[], 1);
    store.put(Arc::clone(&record)).await.unwrap();
    assert!(figure(&store, "store_bytes_written", "") > 0);
    let opened = figure(&store, "redis_breaker_opened", "");
    server.pause();
    assert!(read(&store, &record.id).await.unwrap_err().is_transient());
    // In time the breaker opens: nobody waits for the hung server any more.
    let started = Instant::now();
    while !matches!(read(&store, &record.id).await, Err(StoreError::Unavailable(_))) {
        assert!(started.elapsed() < PATIENCE, "the breaker stays closed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(figure(&store, "redis_breaker_opened", "") > opened);
    server.resume();
    let took = until_ready(&store).await;
    eprintln!("ready {took:?} after Redis went on");
    assert_eq!(read(&store, &record.id).await.unwrap().unwrap(), record);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_are_not_answered_in_time_are_counted_and_sent_again() {
    let server = Server::start(&[]);
    let config = Redis { read_timeout: Duration::from_millis(100), ..server.config() };
    let store = Arc::new(RedisStore::open(&config, TTL, Duration::from_secs(2), AtRest::default()).await.unwrap());
    let store: Arc<dyn ResponseStore> = store;
    server.pause();
    assert!(read(&store, &turn(&[], 1).id).await.unwrap_err().is_transient());
    let (timeouts, retries) = (figure(&store, "redis_timeouts", ""), figure(&store, "redis_retries", "silent"));
    assert!(retries > 0 && timeouts >= retries, "{timeouts} {retries}");
    assert_eq!(figure(&store, "redis_breaker_opened", ""), 0);
    server.resume();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_getex_is_not_ready_and_the_error_says_why() {
    let server = Server::start(&[]);
    server.cli(&["ACL", "SETUSER", "default", "-getex"]);
    let store = open(&impatient(&server)).await;
    assert!(store.ready().await.unwrap_err().to_string().contains("NOPERM"));
    drop(server);
    // What a server before 6.2 says of it.
    let old = Server::start(&[("rename-command", "GETEX \"\"")]);
    let store = open(&impatient(&old)).await;
    let error = store.ready().await.unwrap_err().to_string();
    assert!(error.contains("6.2 or later") && error.contains("GETEX"), "{error}");
    let error = history(&*store, &turn(&[], 1).id, LIMITS).await.unwrap_err();
    assert!(matches!(&error, HistoryError::Store(error) if error.to_string().contains("6.2 or later")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_lose_nothing() {
    let server = Server::start(&[]);
    let store = open(&server.config()).await;
    for round in 0..10 {
        let records: Vec<_> = (0..20).map(|_| turn(&[], 100)).collect();
        let writes = records.iter().map(|record| store.put(Arc::clone(record)));
        let cut = async {
            tokio::task::spawn_blocking({
                let port = server.port;
                move || crate::support::redis::cli(port, &["CLIENT", "KILL", "TYPE", "normal"])
            })
            .await
            .unwrap()
        };
        let (written, _) = tokio::join!(futures_util::future::join_all(writes), cut);
        for result in written {
            result.unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        for record in &records {
            assert_eq!(read(&store, &record.id).await.unwrap().unwrap(), *record);
        }
    }
    assert!(figure(&store, "redis_reconnects", "") > 0);
    assert_eq!(figure(&store, "redis_commands_under_way", ""), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_callers_leave_the_store_usable() {
    let server = Server::start(&[]);
    let config = Redis { pool_size: 1.try_into().unwrap(), min_idle_conns: 0, ..server.config() };
    let store = open(&config).await;
    for _ in 0..500 {
        let record = turn(&[], 1000);
        let dropped = tokio::time::timeout(Duration::from_micros(50), store.put(Arc::clone(&record))).await;
        drop(dropped);
    }
    let record = turn(&[], 1);
    tokio::time::timeout(DEADLINE, store.put(Arc::clone(&record))).await.unwrap().unwrap();
    assert_eq!(read(&store, &record.id).await.unwrap().unwrap(), record);
    // Commands outlive their callers, and end.
    let started = Instant::now();
    while figure(&store, "redis_commands_under_way", "") > 0 {
        assert!(started.elapsed() < PATIENCE, "commands are under way");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_replica_acks_are_missed_as_configured() {
    let server = Server::start(&[]);
    let config = Redis { min_replica_acks: 1, ..server.config() };
    let strict = open(&Redis { on_missing_acks: OnMissingAcks::Fail, ..config.clone() }).await;
    let error = strict.put(turn(&[], 1)).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("0 of 1"), "{error}");
    assert_eq!(figure(&strict, "redis_missing_acks", "failed"), 1);
    let lenient = open(&Redis { on_missing_acks: OnMissingAcks::Degrade, ..config }).await;
    for _ in 0..20 {
        lenient.put(turn(&[], 1)).await.unwrap();
    }
    assert_eq!(figure(&lenient, "redis_missing_acks", "degraded"), 20);
    assert_eq!(figure(&lenient, "redis_missing_acks", "failed"), 0);
}
