//! What only this store does: outliving its process, and living through errors of the disk.

mod faults;

use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use serde_json::value::RawValue;

use super::*;
use crate::store::{AncestorIds, Ancestors, KnownItems};

const HOUR: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(20);

/// A directory that is gone with the test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("responses-router-disk-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }

    fn settings(&self) -> DiskSettings {
        let codec = RecordCodec::default();
        DiskSettings { path: self.0.join("r.redb"), max_bytes: None, cache_bytes: 16 << 20, ttl: HOUR, codec }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const RULES: Rules = Rules { ttl: 3_600_000, slack: 100_000, sweep_delay: 0, max_bytes: None };

fn record(number: u128, payload: usize) -> Arc<Record> {
    let id = ResponseId::from_bits(number);
    let response = format!("{{\"id\":\"{id}\",\"x\":\"{}\"}}", "x".repeat(payload));
    let response = RawValue::from_string(response).unwrap();
    let ancestors = Ancestors::Listed(AncestorIds::default());
    let (input, items) = (Vec::new(), KnownItems::default());
    Arc::new(Record { id, ancestors, input, interrupted: false, tenant: None, response, items })
}

async fn load(store: &DiskStore, number: u128, touch: Touch) -> Result<Option<Arc<Record>>, StoreError> {
    Ok(store.load(&[ResponseId::from_bits(number)], touch).await?.remove(0))
}

async fn expiry(store: &DiskStore, number: u128) -> Option<Millis> {
    let id = ResponseId::from_bits(number);
    store.read(move |database| Snapshot::of(database)?.read(&id, 0, |_, expiry| expiry)).await.unwrap()
}

/// Waits until `condition` gives something.
async fn eventually<T, F: Future<Output = Option<T>>>(condition: impl Fn() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "it never came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn figure(store: &DiskStore, name: &str) -> u64 {
    store.figures().iter().find(|figure| figure.name == name).unwrap().samples[0].1
}

#[tokio::test]
async fn a_restart_keeps_records_and_their_expiry() {
    let directory = Directory::new();
    let store = DiskStore::open(&directory.settings()).unwrap();
    store.put(record(1, 100)).await.unwrap();
    let before = expiry(&store, 1).await.unwrap();
    drop(store);
    // Another time to live is for new records.
    let store = DiskStore::open(&DiskSettings { ttl: HOUR / 2, ..directory.settings() }).unwrap();
    assert_eq!(load(&store, 1, Touch::Keep).await.unwrap().unwrap(), record(1, 100));
    assert_eq!(expiry(&store, 1).await, Some(before));
}

#[tokio::test]
async fn what_expired_while_no_router_ran_is_gone() {
    let directory = Directory::new();
    let ttl = Duration::from_millis(50);
    let store = DiskStore::open(&DiskSettings { ttl, ..directory.settings() }).unwrap();
    store.put(record(1, 100)).await.unwrap();
    let expires = expiry(&store, 1).await.unwrap();
    drop(store);
    while now() <= expires {
        tokio::time::sleep(ttl / 10).await;
    }
    let store = DiskStore::open(&directory.settings()).unwrap();
    assert!(load(&store, 1, Touch::Refresh { longer: Duration::ZERO }).await.unwrap().is_none());
    assert!(!store.delete(&ResponseId::from_bits(1)).await.unwrap());
    // Its id is free again.
    store.put(record(1, 7)).await.unwrap();
    assert_eq!(load(&store, 1, Touch::Keep).await.unwrap().unwrap(), record(1, 7));
}

#[tokio::test]
async fn a_use_of_an_old_record_starts_its_time_anew_and_a_second_one_need_not() {
    let directory = Directory::new();
    let store = DiskStore::open(&directory.settings()).unwrap();
    store.put(record(1, 10)).await.unwrap();
    let written = expiry(&store, 1).await.unwrap();
    eventually(async || (now() > written - millis(HOUR)).then_some(())).await;
    let used = now();
    load(&store, 1, Touch::Refresh { longer: Duration::ZERO }).await.unwrap();
    let refreshed = eventually(async || expiry(&store, 1).await.filter(|expiry| *expiry != written)).await;
    assert!(refreshed >= used + millis(HOUR) && refreshed <= now() + millis(HOUR) + millis(HOUR) / SLACK_DIVISOR);
    load(&store, 1, Touch::Refresh { longer: Duration::ZERO }).await.unwrap();
    // The queue keeps the order: after this put a refresh would show.
    store.put(record(2, 10)).await.unwrap();
    assert_eq!(expiry(&store, 1).await, Some(refreshed));
}

#[tokio::test]
async fn a_refresh_is_kept_by_a_clean_end() {
    let directory = Directory::new();
    let store = DiskStore::open(&directory.settings()).unwrap();
    store.put(record(1, 10)).await.unwrap();
    let written = expiry(&store, 1).await.unwrap();
    eventually(async || (now() > written - millis(HOUR)).then_some(())).await;
    load(&store, 1, Touch::Refresh { longer: Duration::ZERO }).await.unwrap();
    drop(store);
    let store = DiskStore::open(&directory.settings()).unwrap();
    assert!(expiry(&store, 1).await.unwrap() > written);
}

#[tokio::test]
async fn what_expired_is_swept_without_any_request() {
    let directory = Directory::new();
    let place = Place::make(&directory.settings().path).unwrap();
    let make = |path: &Path, file| file::database(path, file, 1 << 20);
    let rules = Rules { ttl: 1, ..RULES };
    let store = DiskStore::over(place, Box::new(make), rules, RecordCodec::default()).unwrap();
    // More than one commit sweeps.
    let puts = futures_util::future::join_all((0..600).map(|number| store.put(record(number, 10)))).await;
    assert!(puts.iter().all(Result::is_ok));
    for number in 0..600 {
        eventually(async || expiry(&store, number).await.is_none().then_some(())).await;
    }
}

#[tokio::test]
async fn a_full_store_refuses_puts_until_there_is_room() {
    let directory = Directory::new();
    let one = record(1, 1000).encode().len() as u64 + 256;
    let settings = DiskSettings { max_bytes: NonZeroU64::new(3 * one), ..directory.settings() };
    let store = DiskStore::open(&settings).unwrap();
    for number in 1..=3 {
        store.put(record(number, 1000)).await.unwrap();
    }
    let refused = store.put(record(4, 1000)).await;
    assert!(matches!(&refused, Err(StoreError::Unavailable(reason)) if reason.contains("max_bytes")), "{refused:?}");
    // What is there may be written again, and the store is well.
    store.put(record(3, 1000)).await.unwrap();
    store.ready().await.unwrap();
    assert_eq!((figure(&store, "store_items"), figure(&store, "store_bytes")), (3, 3 * one));
    assert_eq!((figure(&store, "store_refused_for_space"), figure(&store, "disk_queue_bytes")), (1, 0));
    // The count outlives the process.
    drop(store);
    let store = DiskStore::open(&settings).unwrap();
    assert_eq!((figure(&store, "store_items"), figure(&store, "store_bytes")), (3, 3 * one));
    assert!(store.put(record(4, 1000)).await.is_err());
    assert!(store.delete(&ResponseId::from_bits(1)).await.unwrap());
    store.put(record(4, 1000)).await.unwrap();
}

fn refusal(settings: &DiskSettings) -> OpenError {
    match DiskStore::open(settings) {
        Err(error) => error,
        Ok(_) => panic!("opened"),
    }
}

#[test]
fn a_file_that_is_in_use_is_refused() {
    let directory = Directory::new();
    let store = DiskStore::open(&directory.settings()).unwrap();
    let error = refusal(&directory.settings());
    assert!(error.to_string().ends_with("r.redb is in use by another process"), "{error}");
    drop(store);
    DiskStore::open(&directory.settings()).unwrap();
}

#[test]
fn a_directory_that_is_not_there_is_refused_and_not_made() {
    let directory = Directory::new();
    let missing = directory.0.join("missing");
    let error = refusal(&DiskSettings { path: missing.join("r.redb"), ..directory.settings() });
    assert_eq!(error.to_string(), format!("the directory {} does not exist", missing.display()));
    assert!(!missing.exists());
}

#[test]
fn a_file_that_is_something_else_is_refused_and_left_as_it_is() {
    let directory = Directory::new();
    let path = directory.settings().path;
    for text in ["not a database".to_owned(), "x".repeat(100_000)] {
        std::fs::write(&path, &text).unwrap();
        let error = refusal(&directory.settings());
        assert!(error.to_string().ends_with("r.redb is not the file of a disk store"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
    let error = refusal(&DiskSettings { path: directory.0.clone(), ..directory.settings() });
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
}

#[test]
fn a_file_of_a_later_release_is_refused() {
    let directory = Directory::new();
    let path = directory.settings().path;
    drop(DiskStore::open(&directory.settings()).unwrap());
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let meta = redb::TableDefinition::<&str, u64>::new("meta");
    transaction.open_table(meta).unwrap().insert("format", 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = refusal(&directory.settings());
    assert!(error.to_string().ends_with("it has format 2, this release reads formats up to 1"), "{error}");
}

#[cfg(unix)]
#[test]
fn the_file_is_for_this_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let directory = Directory::new();
    let _store = DiskStore::open(&directory.settings()).unwrap();
    assert_eq!(std::fs::metadata(directory.settings().path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn records_that_wait_are_bounded_in_bytes() {
    let directory = Directory::new();
    let store = DiskStore::open(&directory.settings()).unwrap();
    let all = Arc::clone(&store.queue).acquire_many_owned(QUEUE_BYTES).await.unwrap();
    let mut put = std::pin::pin!(store.put(record(1, 10)));
    assert!(futures_util::poll!(put.as_mut()).is_pending());
    drop(all);
    put.await.unwrap();
    // One that is larger than the queue passes alone.
    store.put(record(2, QUEUE_BYTES as usize + 10)).await.unwrap();
    let free = async || (store.queue.available_permits() == QUEUE_BYTES as usize).then_some(());
    eventually(free).await;
}

#[tokio::test]
async fn bytes_that_are_no_record_are_corrupt() {
    let directory = Directory::new();
    let store = DiskStore::open(&directory.settings()).unwrap();
    let id = ResponseId::from_bits(1);
    let (reply, answer) = oneshot::channel();
    let document = b"{\"id\":\"resp_other\"}".to_vec();
    store.enqueue(Operation::Put { id: id.clone(), document, reply }, 0, now()).await.unwrap();
    answer.await.unwrap().unwrap();
    assert!(matches!(load(&store, 1, Touch::Keep).await, Err(StoreError::Corrupt(_))));
    assert!(store.delete(&id).await.unwrap());
    assert!(load(&store, 1, Touch::Keep).await.unwrap().is_none());
}
