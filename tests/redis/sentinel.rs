//! One master, one replica and three Sentinels.

use std::sync::Arc;
use std::time::{Duration, Instant};

use responses_router::config::{OnMissingAcks, Redis, RedisAddress};
use responses_router::store::{ResponseStore, history};

use super::{LIMITS, chain, open, put_confirmed, read, turn};
use crate::support::redis::{Server, try_until};

const SERVICE: &str = "responses";
const PASSWORD: &str = "sentinel-word";

/// How long a state may take to come about. Sentinels that were held up for two seconds do nothing for the next thirty.
const PATIENCE: Duration = Duration::from_secs(90);

struct Group {
    master: Server,
    replica: Server,
    sentinels: Vec<Server>,
}

impl Group {
    fn start() -> Self {
        let (master, replica) = (Server::start(&[]), Server::start(&[]));
        replica.cli(&["REPLICAOF", "127.0.0.1", &master.port.to_string()]);
        let in_sync = || replica.info("replication", "master_link_status").as_deref() == Some("up");
        assert!(try_until(PATIENCE, in_sync), "the replica does not follow");
        let sentinels: Vec<_> = (0..3).map(|_| Server::sentinel(SERVICE, master.port, PASSWORD)).collect();
        let ready = |sentinel: &Server| {
            let state = sentinel.cli(&["SENTINEL", "CKQUORUM", SERVICE]);
            let replicas = sentinel.cli(&["SENTINEL", "REPLICAS", SERVICE]);
            state.contains("OK 3 usable") && replicas.contains(&replica.port.to_string())
        };
        assert!(try_until(PATIENCE, || sentinels.iter().all(ready)), "the Sentinels do not find each other");
        Self { master, replica, sentinels }
    }

    fn config(&self) -> Redis {
        let address = |server: &Server| RedisAddress { host: "127.0.0.1".to_owned(), port: server.port };
        Redis {
            sentinel_addresses: self.sentinels.iter().map(address).collect(),
            sentinel_service: Some(SERVICE.to_owned()),
            sentinel_password: Some(PASSWORD.into()),
            ..self.master.config()
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_master_dies_the_store_goes_on_with_the_replica_and_nothing_acknowledged_is_lost() {
    let mut group = Group::start();
    let config = Redis { address: "127.0.0.1:1".parse().unwrap(), ..group.config() };
    let store = open(&config).await;
    store.ready().await.unwrap();
    let records = chain(&store, 50, 100).await;
    assert_eq!(history(&*store, &records[49].id, LIMITS).await.unwrap().records, records);
    assert!(store.delete(&records[49].id).await.unwrap());
    assert!(read(&store, &records[49].id).await.unwrap().is_none());

    // Acknowledged is what the replica has.
    let acks = Redis { min_replica_acks: 1, on_missing_acks: OnMissingAcks::Fail, ..config };
    let writing = open(&acks).await;
    let (mut kept, mut failed) = (Vec::new(), 0);
    for _ in 0..100 {
        let record = turn(&[], 100);
        put_confirmed(&writing, &record).await;
        kept.push(record);
    }
    group.master.kill();
    let killed = Instant::now();
    loop {
        assert!(killed.elapsed() < PATIENCE, "the store does not go on");
        let record = turn(&[], 100);
        match store.put(Arc::clone(&record)).await {
            Ok(()) => {
                kept.push(record);
                break;
            }
            Err(error) => {
                assert!(error.is_transient(), "{error}");
                failed += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eprintln!("a write succeeded {:?} after the kill, {failed} failed before", killed.elapsed());
    assert_eq!(group.replica.info("replication", "role").as_deref(), Some("master"));
    for record in kept.iter().chain(&records[..49]) {
        assert_eq!(read(&store, &record.id).await.unwrap().as_ref(), Some(record));
    }
    store.ready().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_that_do_not_know_the_password_or_the_service_are_no_store() {
    let group = Group::start();
    let quick = Redis { breaker_seconds: Duration::from_secs(1), ..group.config() };
    for config in [
        Redis { sentinel_password: Some("another".into()), ..quick.clone() },
        Redis { sentinel_password: None, ..quick.clone() },
        Redis { sentinel_service: Some("another".to_owned()), ..quick.clone() },
    ] {
        let store: Arc<dyn ResponseStore> = open(&config).await;
        assert!(store.ready().await.is_err());
        assert!(store.put(turn(&[], 1)).await.unwrap_err().is_transient());
    }
    let user = group.master.cli(&["ACL", "SETUSER", "router", "on", ">word", "~*", "-@all"]);
    assert_eq!(user.trim(), "OK");
    let least = super::tls::ALLOWED.split(' ').chain(["+role"]).collect::<Vec<_>>();
    group.master.cli(&[["ACL", "SETUSER", "router"].as_slice(), &least].concat());
    let store =
        open(&Redis { username: Some("router".to_owned()), password: Some("word".into()), ..group.config() }).await;
    store.put(turn(&[], 1)).await.unwrap();
    assert_eq!(group.master.cli(&["ACL", "LOG"]).trim(), "");
}
