//! Living through errors of the disk, and through the loss of the file.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use futures_util::FutureExt as _;
use redb::StorageBackend;
use redb::backends::FileBackend;
use tokio::task::JoinSet;

use super::*;

/// A disk that can be full, or dead.
#[derive(Debug, Default)]
struct Health {
    /// What lies where bytes were written before can still be overwritten.
    full: AtomicBool,
    dead: AtomicBool,
    flushes: AtomicU64,
    /// How often the file was read through to open it.
    repairs: AtomicU64,
    /// No flush begins while a test holds it.
    hold: Mutex<()>,
    written_up_to: AtomicU64,
}

#[derive(Debug)]
struct Faulty {
    file: FileBackend,
    health: Arc<Health>,
}

impl Faulty {
    fn check(&self) -> io::Result<()> {
        if self.health.dead.load(Ordering::Acquire) { Err(io::Error::other("the disk is dead")) } else { Ok(()) }
    }
}

impl StorageBackend for Faulty {
    fn len(&self) -> io::Result<u64> {
        self.check()?;
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.check()?;
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        drop(self.health.hold.lock());
        self.health.flushes.fetch_add(1, Ordering::AcqRel);
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        let end = offset + data.len() as u64;
        if self.health.full.load(Ordering::Acquire) && end > self.health.written_up_to.load(Ordering::Acquire) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.health.written_up_to.fetch_max(end, Ordering::AcqRel);
        self.file.write(offset, data)
    }
}

fn faulty(path: &Path) -> (DiskStore, Arc<Health>) {
    let health = Arc::new(Health::default());
    let disk = Arc::clone(&health);
    let make = move |path: &Path, file| {
        let backend = Faulty { file: FileBackend::new(file).unwrap(), health: Arc::clone(&disk) };
        let mut builder = Database::builder();
        let (health, told) = (Arc::clone(&disk), AtomicBool::new(false));
        builder.set_repair_callback(move |_| {
            if !told.swap(true, Ordering::Relaxed) {
                health.repairs.fetch_add(1, Ordering::AcqRel);
            }
        });
        // No cache: a dead disk is noticed by reads, too.
        let database = builder.set_cache_size(0).create_with_backend(backend);
        let database =
            database.map_err(|error| OpenError::Damaged { path: path.to_owned(), problem: error.to_string() })?;
        file::prepared(path, database)
    };
    (DiskStore::over(Place::make(path).unwrap(), Box::new(make), RULES, RecordCodec::default()).unwrap(), health)
}

#[tokio::test]
async fn a_full_disk_is_unavailable_for_writes_and_not_for_reads() {
    let directory = Directory::new();
    let (store, health) = faulty(&directory.settings().path);
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let first = 100 * round;
        store.put(record(first, 1000)).await.unwrap();
        acknowledged.push((first, 1000));
        health.full.store(true, Ordering::Release);
        let mut refused = None;
        // Free pages may hold some.
        for number in first + 1..first + 100 {
            match store.put(record(number, 100_000)).await {
                Ok(()) => acknowledged.push((number, 100_000)),
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        assert!(matches!(refused, Some(StoreError::Unavailable(_))), "{refused:?}");
        for (number, payload) in &acknowledged {
            let loaded = load(&store, *number, Touch::Keep).await.unwrap();
            assert_eq!(loaded.unwrap(), record(*number, *payload));
        }
        health.full.store(false, Ordering::Release);
        eventually(async || store.put(record(first + 99, 100_000)).await.ok()).await;
        acknowledged.push((first + 99, 100_000));
        store.ready().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_stays_full_under_many_writes_takes_no_read_away() {
    let directory = Directory::new();
    let (store, health) = faulty(&directory.settings().path);
    let store = Arc::new(store);
    for number in 0..20 {
        store.put(record(number, 1000)).await.unwrap();
    }
    health.full.store(true, Ordering::Release);
    let over = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 1..=3_u128 {
        let (store, over) = (Arc::clone(&store), Arc::clone(&over));
        writers.spawn(async move {
            let mut refused = 0;
            for number in (writer << 64..).take_while(|_| !over.load(Ordering::Acquire)) {
                if let Err(error) = store.put(record(number, 100_000)).await {
                    assert_eq!(error.to_string(), Trouble::Full.error().to_string());
                    refused += 1;
                }
            }
            refused
        });
    }
    let deadline = Instant::now() + PATIENCE;
    while figure(&store, "disk_reopened") < 2 {
        assert!(Instant::now() < deadline, "the full disk was not tried again");
        for number in 0..20 {
            assert_eq!(load(&store, number, Touch::Keep).await.unwrap().unwrap(), record(number, 1000));
        }
        store.ready().await.unwrap();
    }
    over.store(true, Ordering::Release);
    let refused: u64 = writers.join_all().await.into_iter().sum();
    assert_eq!(figure(&store, "store_refused_for_space"), refused);
    let reopened = figure(&store, "disk_reopened");
    assert!(10 * reopened < refused, "opened anew {reopened} times for {refused} refused writes");
    // Only the first time.
    assert_eq!(health.repairs.load(Ordering::Acquire), 1);
    health.full.store(false, Ordering::Release);
    eventually(async || store.put(record(100, 100_000)).await.ok()).await;
}

#[tokio::test]
async fn a_file_that_is_removed_is_noticed_and_well_when_it_is_back() {
    let directory = Directory::new();
    let settings = directory.settings();
    let store = DiskStore::open(&settings).unwrap();
    store.put(record(1, 1000)).await.unwrap();
    let aside = directory.0.join("aside");
    std::fs::rename(&settings.path, &aside).unwrap();
    // Without any request.
    let error = eventually(async || store.ready().await.err()).await;
    assert_eq!(error.to_string(), Trouble::Gone.error().to_string());
    for replaced in [false, true] {
        if replaced {
            std::fs::write(&settings.path, "another").unwrap();
        }
        let error = store.put(record(2, 1000)).await.unwrap_err();
        assert_eq!(error.to_string(), Trouble::Gone.error().to_string());
        assert!(store.delete(&ResponseId::from_bits(1)).await.is_err());
        assert_eq!(load(&store, 1, Touch::Keep).await.unwrap().unwrap(), record(1, 1000));
        assert!(store.ready().await.is_err());
    }
    assert_eq!(std::fs::read_to_string(&settings.path).unwrap(), "another");
    std::fs::rename(&aside, &settings.path).unwrap();
    eventually(async || store.ready().await.ok()).await;
    store.put(record(2, 1000)).await.unwrap();
    drop(store);
    let store = DiskStore::open(&settings).unwrap();
    for number in 1..=2 {
        assert_eq!(load(&store, number, Touch::Keep).await.unwrap().unwrap(), record(number, 1000));
    }
}

#[tokio::test]
async fn a_file_that_is_removed_from_a_dead_disk_is_not_made_again_and_its_records_are_not_missing() {
    let directory = Directory::new();
    let path = directory.settings().path;
    let (store, health) = faulty(&path);
    store.put(record(1, 1000)).await.unwrap();
    health.dead.store(true, Ordering::Release);
    store.put(record(2, 1000)).await.unwrap_err();
    let aside = directory.0.join("aside");
    std::fs::rename(&path, &aside).unwrap();
    health.dead.store(false, Ordering::Release);
    let gone = Trouble::Gone.error().to_string();
    eventually(async || store.ready().await.err().filter(|error| error.to_string() == gone)).await;
    for _ in 0..3 {
        assert_eq!(load(&store, 1, Touch::Keep).await.unwrap_err().to_string(), gone);
        assert_eq!(store.put(record(2, 1000)).await.unwrap_err().to_string(), gone);
    }
    assert!(!path.exists());
    std::fs::rename(&aside, &path).unwrap();
    eventually(async || store.ready().await.ok()).await;
    assert_eq!(load(&store, 1, Touch::Keep).await.unwrap().unwrap(), record(1, 1000));
}

#[test]
fn only_the_file_that_a_store_began_with_is_opened_again() {
    let directory = Directory::new();
    let path = directory.settings().path;
    let place = Place::make(&path).unwrap();
    assert!(place.check().is_ok() && place.open().is_ok());
    std::fs::remove_file(&path).unwrap();
    let is_gone = || matches!((place.check(), place.open()), (Err(OpenError::Gone(_)), Err(OpenError::Gone(_))));
    assert!(is_gone() && !path.exists());
    std::fs::write(&path, "another").unwrap();
    assert!(is_gone());
    std::fs::remove_dir_all(&directory.0).unwrap();
    assert!(is_gone());
}

#[tokio::test]
async fn a_dead_disk_is_unavailable_and_the_store_recovers_by_itself() {
    let directory = Directory::new();
    let (store, health) = faulty(&directory.settings().path);
    store.put(record(0, 1000)).await.unwrap();
    for round in 1..=2 {
        health.dead.store(true, Ordering::Release);
        for number in 100..105 {
            let error = store.put(record(number, 1000)).await.unwrap_err();
            assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        }
        assert!(matches!(store.delete(&ResponseId::from_bits(0)).await, Err(StoreError::Unavailable(_))));
        eventually(async || store.ready().await.err()).await;
        health.dead.store(false, Ordering::Release);
        // Without any request.
        eventually(async || store.ready().await.ok()).await;
        store.put(record(round, 1000)).await.unwrap();
        for number in 0..=round {
            assert_eq!(load(&store, number, Touch::Keep).await.unwrap().unwrap(), record(number, 1000));
        }
    }
}

#[tokio::test]
async fn a_read_that_fails_is_no_missing_record() {
    let directory = Directory::new();
    let (store, health) = faulty(&directory.settings().path);
    store.put(record(1, 1000)).await.unwrap();
    health.dead.store(true, Ordering::Release);
    assert!(matches!(load(&store, 1, Touch::Keep).await, Err(StoreError::Unavailable(_))));
    // Nobody writes, yet it comes back.
    health.dead.store(false, Ordering::Release);
    eventually(async || load(&store, 1, Touch::Keep).await.ok()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_at_the_same_time_share_flushes() {
    let directory = Directory::new();
    let (store, health) = faulty(&directory.settings().path);
    let store = Arc::new(store);
    let before = health.flushes.load(Ordering::Acquire);
    let writers = (0..500).map(|number| {
        let store = Arc::clone(&store);
        async move { store.put(record(number, 100)).await.unwrap() }
    });
    // Unconstrained, one poll queues them all.
    let mut writers = tokio::task::unconstrained(futures_util::future::join_all(writers));
    {
        let _held = health.hold.lock().unwrap();
        assert!((&mut writers).now_or_never().is_none());
        assert!(QUEUE_BYTES as usize - store.queue.available_permits() >= 500 * OPERATION_BYTES);
    }
    writers.await;
    let flushes = health.flushes.load(Ordering::Acquire) - before;
    assert!(flushes < 100, "{flushes} flushes for 500 records");
}
