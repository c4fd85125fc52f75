//! The disk store against the end of its process: `kill -9` while many write. And how fast it writes.
//!
//! The killed process is this test binary itself, which runs [`a_process_that_writes_until_it_is_killed`].

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use responses_router::id::ResponseId;
use responses_router::sealing::{SealingKey, SealingKeys};
use responses_router::store::{
    AncestorIds, Ancestors, DiskSettings, DiskStore, KnownItems, Record, RecordCodec, ResponseStore, Touch,
};
use serde_json::value::RawValue;
use tokio::task::JoinSet;

/// A directory that is gone with its test.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new(purpose: &str) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("responses-router-{purpose}-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }

    pub(crate) fn settings(&self, ttl: Duration) -> DiskSettings {
        settings(self.0.join("responses.redb"), ttl)
    }

    /// Keeps it until the thread ends, and so the test: a store refuses to write a file that has lost its name.
    pub(crate) fn outlive_the_test(self) {
        thread_local!(static KEPT: RefCell<Vec<Directory>> = const { RefCell::new(Vec::new()) });
        KEPT.with_borrow_mut(|kept| kept.push(self));
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn settings(path: PathBuf, ttl: Duration) -> DiskSettings {
    DiskSettings { path, max_bytes: None, cache_bytes: 64 << 20, ttl, codec: RecordCodec::default() }
}

const HOUR: Duration = Duration::from_secs(3600);
const FILE: &str = "RESPONSES_ROUTER_TEST_DISK_FILE";

/// A record whose content follows from its number.
fn record(number: u128, bytes: usize) -> Arc<Record> {
    let id = ResponseId::from_bits(number);
    let text = format!("{number:x} ").repeat(bytes / 8);
    let response = RawValue::from_string(format!("{{\"id\":\"{id}\",\"output_text\":\"{text}\"}}")).unwrap();
    let ancestors = Ancestors::Listed(AncestorIds::default());
    let (input, items) = (Vec::new(), KnownItems::default());
    Arc::new(Record { id, ancestors, input, interrupted: false, tenant: None, response, items })
}

/// Content of many sizes, some larger than a page.
fn size_of(number: u128) -> usize {
    [40, 700, 2000, 30_000][(number % 4) as usize]
}

/// Sixteen writers at a time; each number is told once it is acknowledged. Every eighth record is deleted again, which is
/// told with a minus once that is acknowledged.
#[test]
#[ignore = "the other end of records_that_were_acknowledged_survive_kill_9"]
fn a_process_that_writes_until_it_is_killed() {
    let Ok(path) = std::env::var(FILE) else { return };
    let store = Arc::new(DiskStore::open(&settings(path.into(), HOUR)).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let mut writers = JoinSet::new();
        for _ in 0..16 {
            let store = Arc::clone(&store);
            writers.spawn(async move {
                loop {
                    let number: u128 = rand::random::<u128>() | 1 << 127;
                    store.put(record(number, size_of(number))).await.unwrap();
                    tell(&format!("+{number:x}"));
                    if number.is_multiple_of(8) {
                        assert!(store.delete(&ResponseId::from_bits(number)).await.unwrap());
                        tell(&format!("-{number:x}"));
                    }
                }
            });
        }
        writers.join_all().await;
    });
}

/// One write call per line, so that a line is told wholly or not at all; on the stream that the test harness leaves alone.
fn tell(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_sealed_record_shows_no_content_in_the_file() {
    for sealed in [false, true] {
        let directory = Directory::new("sealed-bytes");
        let key = SealingKey::new("k1", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
        let codec = RecordCodec::new(SealingKeys::new(if sealed { vec![key] } else { Vec::new() }), false);
        let settings = DiskSettings { codec, ..directory.settings(HOUR) };
        let store = DiskStore::open(&settings).unwrap();
        store.put(record(0xabc_def0, 3000)).await.unwrap();
        let file = std::fs::read(&settings.path).unwrap();
        let holds = |marker: &[u8]| file.windows(marker.len()).any(|window| window == marker);
        assert!(holds(b"resp_0000000000000000000000000abcdef0"));
        assert_eq!((holds(b"abcdef0 abcdef0"), holds(b"output_text")), (!sealed, !sealed));
        let ids = [ResponseId::from_bits(0xabc_def0)];
        assert_eq!(store.load(&ids, Touch::Keep).await.unwrap(), [Some(record(0xabc_def0, 3000))]);
    }
}

#[tokio::test]
async fn records_that_were_acknowledged_survive_kill_9() {
    let directory = Directory::new("kill-9");
    let settings = directory.settings(HOUR);
    let mut there = Vec::new();
    let mut gone = Vec::new();
    for round in 1..=5 {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "disk::a_process_that_writes_until_it_is_killed", "--nocapture"])
            .env(FILE, &settings.path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut child = Killed(child);
        let mut told = 0;
        for line in BufReader::new(child.0.stderr.take().unwrap()).lines() {
            let line = line.unwrap();
            let (sign, number) = line.split_at_checked(1).expect(&line);
            let number = u128::from_str_radix(number, 16).expect(&line);
            if sign == "+" {
                there.push(number)
            } else {
                gone.push(number)
            }
            told += 1;
            if told == 200 * round {
                child.0.kill().unwrap();
            }
        }
        assert!(told >= 200 * round, "it ended by itself");
        drop(child);

        let store = DiskStore::open(&settings).unwrap();
        for number in there.iter().filter(|number| !number.is_multiple_of(8)) {
            let loaded = store.load(&[ResponseId::from_bits(*number)], Touch::Keep).await.unwrap().remove(0);
            assert!(loaded == Some(record(*number, size_of(*number))), "round {round}: {number:x}");
        }
        for number in &gone {
            let loaded = store.load(&[ResponseId::from_bits(*number)], Touch::Keep).await.unwrap().remove(0);
            assert!(loaded.is_none(), "round {round}: {number:x} is back");
        }
    }
    assert!(!gone.is_empty());
}

/// `cargo test --release -- --ignored --exact --nocapture disk::how_fast_it_writes_and_reads`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn how_fast_it_writes_and_reads() {
    for writers in [1, 16, 64, 256] {
        let directory = Directory::new("speed");
        let settings = directory.settings(HOUR);
        let store = Arc::new(DiskStore::open(&settings).unwrap());
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for writer in 0..writers {
            let store = Arc::clone(&store);
            tasks.spawn(async move {
                let mut times = Vec::new();
                for number in (writer << 64..).take_while(|_| began.elapsed() < Duration::from_secs(4)) {
                    let record = record(number, 2000);
                    let asked = Instant::now();
                    store.put(record).await.unwrap();
                    times.push(asked.elapsed());
                }
                times
            });
        }
        let mut times = tasks.join_all().await.concat();
        let elapsed = began.elapsed().as_secs_f64();
        times.sort_unstable();
        let (count, middle, late) = (times.len(), times[times.len() / 2], times[times.len() * 99 / 100]);
        let file = std::fs::metadata(&settings.path).unwrap().len();
        println!(
            "{writers:>3} writers: {:>6.0} puts/s of 2 KB, p50 {middle:.1?}, p99 {late:.1?}; the file is {:.1} times the records",
            count as f64 / elapsed,
            file as f64 / (count * 2100) as f64,
        );
        let ids: Vec<ResponseId> = (0..200).map(ResponseId::from_bits).collect();
        for depth in [1, 10, 50, 200] {
            let began = Instant::now();
            for _ in 0..100 {
                store.load(&ids[..depth], Touch::Keep).await.unwrap();
            }
            print!("  load of {depth}: {:.1?}", began.elapsed() / 100);
        }
        println!();
        // What a process leaves that is killed now.
        let crashed = DiskSettings { path: settings.path.with_extension("crashed"), ..settings.clone() };
        std::fs::copy(&settings.path, &crashed.path).unwrap();
        drop(store);
        for (how, settings) in [("a clean end", &settings), ("a crash", &crashed)] {
            let began = Instant::now();
            let store = DiskStore::open(settings).unwrap();
            print!("  opened after {how} in {:.1?}", began.elapsed());
            assert!(store.load(&ids[..1], Touch::Keep).await.unwrap()[0].is_some());
        }
        println!(" ({} MB)", file >> 20);
    }
}
