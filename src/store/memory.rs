//! Records in this process: the default, for one replica and for tests. A restart forgets them.
//!
//! Bounded by entries and by bytes at once; what was used longest ago goes first, and a new record is never refused in
//! favour of an old one: what was acknowledged must be there for the next turn.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hashlink::LinkedHashMap;

use super::figures::{self, Figure, Tally};
use super::{Record, ResponseStore, StoreError, Touch};
use crate::id::ResponseId;
use crate::tenant::Tenant;

/// What is kept per entry beside the record: the key, its place in map and order, and the allocations' edges.
const ENTRY_OVERHEAD_BYTES: usize = 512;

/// After how many records of one load other tasks get their turn: some tens of microseconds.
const RECORDS_PER_TURN: usize = 128;

/// The same of turns whose items may have to be read.
const READ_PER_TURN: usize = 4;

/// Larger records are not kept with their items read: where they are needed they are read as large bodies are, beside the
/// other tasks.
const KNOWN_AT_MOST_BYTES: usize = 64 * 1024;

/// Items take up to about so many times their JSON: the smallest ones are some twenty bytes of it each.
const ITEMS_PER_JSON_BYTE: usize = 16;

/// So far no clock reaches.
const LONGEST_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// So long after what has expired was looked for everywhere, it is again.
const SWEEP_APART: Duration = Duration::from_secs(1);

/// How much a [`MemoryStore`] may hold, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryBounds {
    /// The most records (`response_api.max_responses`).
    pub max_entries: NonZeroU64,
    /// The most bytes of memory for records, bookkeeping included; also the bound for a single one.
    pub max_bytes: u64,
    /// The time to live of a record since it was written or last used by a chain. Zero keeps nothing.
    pub ttl: Duration,
}

/// The in-process store.
///
/// An operation on one record takes about a microsecond (release build) under one lock, which is not held over an await;
/// what goes is freed outside it. A long chain gives way to other tasks now and then.
pub struct MemoryStore {
    held: Mutex<Held>,
    bounds: MemoryBounds,
    counters: Counters,
}

/// The records, the longest unused first.
#[derive(Default)]
struct Held {
    records: LinkedHashMap<ResponseId, Stored>,
    bytes: u64,
    swept: Option<Instant>,
}

struct Stored {
    record: Arc<Record>,
    bytes: u64,
    /// Each record has a lifetime of its own: one that a chain has used lives longer than a new one.
    expires: Instant,
}

#[derive(Debug, Default)]
struct Counters {
    written_bytes: Tally,
    expired: Tally,
    evicted: Tally,
    refused_for_space: Tally,
}

impl Held {
    fn put(&mut self, id: ResponseId, stored: Stored) {
        self.bytes += stored.bytes;
        if let Some(before) = self.records.insert(id, stored) {
            self.bytes -= before.bytes;
        }
    }

    fn remove(&mut self, id: &ResponseId) -> Option<Stored> {
        let gone = self.records.remove(id)?;
        self.bytes -= gone.bytes;
        Some(gone)
    }

    fn remove_oldest(&mut self) -> Option<Stored> {
        let (_, gone) = self.records.pop_front()?;
        self.bytes -= gone.bytes;
        Some(gone)
    }

    /// Takes note of the size of a record that has grown, if it is still there.
    fn measure(&mut self, id: &ResponseId, record: &Arc<Record>) {
        let Some(stored) = self.records.get_mut(id).filter(|stored| Arc::ptr_eq(&stored.record, record)) else {
            return;
        };
        let bytes = entry_bytes(record);
        self.bytes += bytes.saturating_sub(stored.bytes);
        stored.bytes = stored.bytes.max(bytes);
    }

    fn is_oldest_expired(&self, now: Instant) -> bool {
        self.records.front().is_some_and(|(_, oldest)| oldest.expires <= now)
    }

    fn exceeds(&self, bounds: &MemoryBounds) -> bool {
        self.bytes > bounds.max_bytes || self.records.len() as u64 > bounds.max_entries.get()
    }

    /// Removes what has expired wherever it stands, unless that was done a moment ago: all are looked at.
    fn sweep(&mut self, now: Instant) -> Vec<Stored> {
        if self.swept.is_some_and(|last| now.saturating_duration_since(last) < SWEEP_APART) {
            return Vec::new();
        }
        self.swept = Some(now);
        let expired = self.records.iter().filter(|(_, stored)| stored.expires <= now).map(|(id, _)| id.clone());
        let expired: Vec<_> = expired.collect();
        expired.iter().filter_map(|id| self.remove(id)).collect()
    }
}

impl MemoryStore {
    /// An empty store with these bounds.
    #[must_use]
    pub fn new(bounds: MemoryBounds) -> Self {
        let bounds = MemoryBounds { ttl: bounds.ttl.min(LONGEST_TTL), ..bounds };
        Self { held: Mutex::default(), bounds, counters: Counters::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The record of a turn that others continue: its items stay read while less than half of the room is used. They go with
    /// their record, and count until then.
    fn read_turn(&self, id: &ResponseId, touch: Touch) -> Option<Arc<Record>> {
        let record = self.read(id, touch)?;
        if record.items.get().is_some() || record.payload_bytes() > KNOWN_AT_MOST_BYTES {
            return Some(record);
        }
        let more = entry_bytes(&record).saturating_add((ITEMS_PER_JSON_BYTE * record.payload_bytes()) as u64);
        let has_room = self.held().bytes.saturating_add(more) < self.bounds.max_bytes / 2;
        if has_room {
            record.know_items();
            self.held().measure(id, &record);
        }
        Some(record)
    }

    /// One that has expired goes; no later than this it is nothing more.
    fn read(&self, id: &ResponseId, touch: Touch) -> Option<Arc<Record>> {
        let now = Instant::now();
        let mut held = self.held();
        if held.records.get(id)?.expires <= now {
            let gone = held.remove(id);
            drop(held);
            self.counters.expired.one();
            drop(gone);
            return None;
        }
        let stored = held.records.to_back(id)?;
        if let Touch::Refresh { longer } = touch {
            stored.expires = now + self.bounds.ttl.saturating_add(longer).min(LONGEST_TTL);
        }
        Some(Arc::clone(&stored.record))
    }
}

/// What a record takes of the bound.
fn entry_bytes(record: &Record) -> u64 {
    u64::try_from(record.size_bytes() + ENTRY_OVERHEAD_BYTES).unwrap_or(u64::MAX)
}

/// What `read` says of each, giving way to other tasks after so many.
async fn in_turns<T>(ids: &[ResponseId], per_turn: usize, read: impl Fn(&ResponseId) -> T) -> Vec<T> {
    let mut all = Vec::with_capacity(ids.len());
    for ids in ids.chunks(per_turn) {
        if !all.is_empty() {
            tokio::task::yield_now().await;
        }
        all.extend(ids.iter().map(&read));
    }
    all
}

#[async_trait]
impl ResponseStore for MemoryStore {
    async fn put(&self, record: Arc<Record>) -> Result<(), StoreError> {
        let MemoryBounds { max_bytes, ttl, .. } = self.bounds;
        let bytes = entry_bytes(&record);
        if bytes > max_bytes {
            self.counters.refused_for_space.one();
            let [bytes, limit] = [bytes, max_bytes].map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
            return Err(StoreError::TooLarge { bytes, limit });
        }
        let now = Instant::now();
        // Freed when the lock is.
        let mut gone = Vec::new();
        let mut held = self.held();
        match held.records.get(&record.id) {
            Some(before) if before.expires > now => {
                return if *before.record == *record { Ok(()) } else { Err(StoreError::Conflict) };
            }
            _ => {}
        }
        held.put(record.id.clone(), Stored { record, bytes, expires: now + ttl });
        while held.is_oldest_expired(now) && held.records.len() > 1 {
            gone.extend(held.remove_oldest());
        }
        // What lives must not go for what has expired behind it.
        if held.exceeds(&self.bounds) {
            gone.append(&mut held.sweep(now));
        }
        self.counters.expired.add(gone.len() as u64);
        while held.exceeds(&self.bounds) {
            gone.extend(held.remove_oldest());
            self.counters.evicted.one();
        }
        drop(held);
        self.counters.written_bytes.add(bytes);
        Ok(())
    }

    async fn load(&self, ids: &[ResponseId], touch: Touch) -> Result<Vec<Option<Arc<Record>>>, StoreError> {
        // Who prolongs a record continues it.
        match touch {
            Touch::Keep => Ok(in_turns(ids, RECORDS_PER_TURN, |id| self.read(id, touch)).await),
            Touch::Refresh { .. } => Ok(in_turns(ids, READ_PER_TURN, |id| self.read_turn(id, touch)).await),
        }
    }

    async fn load_since(&self, ids: &[ResponseId], _: Instant) -> Result<Vec<Option<Arc<Record>>>, StoreError> {
        Ok(in_turns(ids, READ_PER_TURN, |id| self.read_turn(id, Touch::Keep)).await)
    }

    async fn refresh(&self, ids: &[ResponseId], longer: Duration) -> Result<(), StoreError> {
        in_turns(ids, RECORDS_PER_TURN, |id| self.read(id, Touch::Refresh { longer })).await;
        Ok(())
    }

    async fn delete(&self, id: &ResponseId) -> Result<bool, StoreError> {
        let gone = self.held().remove(id);
        Ok(gone.is_some_and(|gone| gone.expires > Instant::now()))
    }

    /// Always ready. The probe doubles as the sweep of expired records while no request comes by.
    async fn ready(&self) -> Result<(), StoreError> {
        let gone = self.held().sweep(Instant::now());
        self.counters.expired.add(gone.len() as u64);
        Ok(())
    }

    fn ttl(&self) -> Duration {
        self.bounds.ttl
    }

    fn place_of(&self, _: Tenant) -> Option<Arc<dyn ResponseStore>> {
        None
    }

    fn name(&self) -> &'static str {
        "memory"
    }

    fn figures(&self) -> Vec<Figure> {
        let Counters { written_bytes, expired, evicted, refused_for_space } = &self.counters;
        let (items, bytes) = {
            let held = self.held();
            (held.records.len() as u64, held.bytes)
        };
        vec![
            figures::items(items),
            figures::bytes(bytes),
            figures::bytes_written(written_bytes),
            figures::evictions([("expired", expired), ("bound", evicted)]),
            figures::refused_for_space(refused_for_space),
        ]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;
    use crate::store::{AncestorIds, Ancestors, KnownItems};

    fn record(number: u128, payload: usize) -> Arc<Record> {
        let response = RawValue::from_string(format!("{{\"x\":\"{}\"}}", "x".repeat(payload))).unwrap();
        let id = ResponseId::from_bits(number);
        Arc::new(Record {
            id,
            ancestors: Ancestors::Listed(AncestorIds::default()),
            input: Vec::new(),
            response,
            interrupted: false,
            tenant: None,
            items: KnownItems::default(),
        })
    }

    fn store(max_entries: u64, max_bytes: u64) -> MemoryStore {
        let max_entries = NonZeroU64::new(max_entries).unwrap();
        MemoryStore::new(MemoryBounds { max_entries, max_bytes, ttl: Duration::from_secs(3600) })
    }

    fn held(store: &MemoryStore) -> Vec<u128> {
        let held = store.held();
        let number = |id: &ResponseId| u128::from_str_radix(id.as_str().trim_start_matches("resp_"), 16).unwrap();
        let mut numbers: Vec<u128> = held.records.keys().map(number).collect();
        numbers.sort_unstable();
        numbers
    }

    fn bytes_held(store: &MemoryStore) -> u64 {
        let held = store.held();
        held.records.values().map(|stored| (stored.record.size_bytes() + ENTRY_OVERHEAD_BYTES) as u64).sum()
    }

    #[tokio::test]
    async fn the_bound_of_entries_holds_and_the_longest_unused_goes_first() {
        let store = store(3, 1 << 30);
        for number in 1..=3 {
            store.put(record(number, 10)).await.unwrap();
        }
        assert_eq!(held(&store), [1, 2, 3]);
        // The use of 1 by a chain makes 2 the oldest.
        store.load(&[ResponseId::from_bits(1)], Touch::Refresh { longer: Duration::ZERO }).await.unwrap();
        store.put(record(4, 10)).await.unwrap();
        assert_eq!(held(&store), [1, 3, 4]);
    }

    #[tokio::test]
    async fn the_bound_of_bytes_holds_after_every_write() {
        let limit = 200_000;
        let store = store(1000, limit);
        for number in 1..=300 {
            store.put(record(number, 17 * number as usize)).await.unwrap();
            assert!(bytes_held(&store) <= limit, "{number}");
            assert!(held(&store).contains(&number));
        }
        assert!(bytes_held(&store) > limit - 20_000);
    }

    #[tokio::test]
    async fn a_record_larger_than_the_bound_is_refused_and_evicts_nothing() {
        let store = store(10, 10_000);
        store.put(record(1, 10)).await.unwrap();
        let error = store.put(record(2, 10_000)).await.unwrap_err();
        assert!(matches!(error, StoreError::TooLarge { bytes: 10_000.., limit: 10_000 }), "{error}");
        assert_eq!(held(&store), [1]);
        let nothing = MemoryStore::new(MemoryBounds { max_entries: NonZeroU64::MIN, max_bytes: 0, ttl: Duration::MAX });
        assert!(matches!(nothing.put(record(1, 0)).await, Err(StoreError::TooLarge { limit: 0, .. })));
    }

    #[tokio::test]
    async fn a_new_record_is_never_refused_in_favour_of_popular_old_ones() {
        let store = store(8, 1 << 20);
        for number in 1..=8 {
            store.put(record(number, 10)).await.unwrap();
            for _ in 0..200 {
                store.load(&[ResponseId::from_bits(number)], Touch::Keep).await.unwrap();
            }
        }
        for number in 100..1100 {
            store.put(record(number, 10)).await.unwrap();
            assert!(store.load(&[ResponseId::from_bits(number)], Touch::Keep).await.unwrap()[0].is_some());
            assert_eq!(held(&store).len(), 8);
        }
    }

    #[tokio::test]
    async fn the_items_of_a_turn_stay_read_where_there_is_more_room_than_for_records() {
        let turn = |number, payload: usize| {
            let response = format!("{{\"x\":\"{}\",\"output\":[]}}", "x".repeat(payload));
            Arc::new(Record { response: RawValue::from_string(response).unwrap(), ..(*record(number, 0)).clone() })
        };
        let continued = Touch::Refresh { longer: Duration::ZERO };
        let roomy = store(10, 1 << 20);
        for (number, payload, known) in [(1, 1000, true), (2, KNOWN_AT_MOST_BYTES, false)] {
            let record = turn(number, payload);
            roomy.put(Arc::clone(&record)).await.unwrap();
            roomy.load(std::slice::from_ref(&record.id), Touch::Keep).await.unwrap();
            roomy.refresh(std::slice::from_ref(&record.id), Duration::ZERO).await.unwrap();
            assert!(record.items.get().is_none());
            roomy.load(std::slice::from_ref(&record.id), continued).await.unwrap();
            assert_eq!(record.items.get().is_some(), known, "{payload}");
        }
        // Turns above a parent are read as well.
        let above = turn(3, 10);
        roomy.put(Arc::clone(&above)).await.unwrap();
        roomy.load_since(std::slice::from_ref(&above.id), Instant::now()).await.unwrap();
        assert!(above.items.get().is_some());
        let bytes = roomy.held().bytes;
        assert_eq!((bytes, held(&roomy)), (bytes_held(&roomy), vec![1, 2, 3]));

        // None goes for the items of another.
        let narrow = store(10, 12_000);
        for number in 1..=5 {
            narrow.put(turn(number, 1000)).await.unwrap();
        }
        let ids: Vec<_> = (1..=5).map(ResponseId::from_bits).collect();
        let records = narrow.load(&ids, continued).await.unwrap();
        assert!(records.iter().flatten().all(|record| record.items.get().is_none()));
        assert_eq!(held(&narrow), [1, 2, 3, 4, 5]);
    }

    #[tokio::test]
    async fn a_deleted_record_is_freed() {
        let store = store(10, 1 << 20);
        let record = record(1, 10);
        let id = record.id.clone();
        let memory = Arc::downgrade(&record);
        store.put(record).await.unwrap();
        store.load(std::slice::from_ref(&id), Touch::Refresh { longer: Duration::ZERO }).await.unwrap();
        assert!(store.delete(&id).await.unwrap());
        assert_eq!((bytes_held(&store), store.held().bytes), (0, 0));
        assert!(memory.upgrade().is_none(), "the record is still in memory");
    }

    #[tokio::test]
    async fn what_has_expired_goes_by_the_next_write_read_or_probe() {
        let bounds = MemoryBounds { max_entries: NonZeroU64::MAX, max_bytes: 1 << 20, ttl: Duration::from_millis(1) };
        let store = MemoryStore::new(bounds);
        let longer = Touch::Refresh { longer: Duration::from_secs(3600) };
        let id = ResponseId::from_bits;
        let expired = |store: &MemoryStore| store.counters.expired.value();
        store.put(record(1, 10)).await.unwrap();
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(2) {
            std::thread::yield_now();
        }
        store.put(record(2, 10)).await.unwrap();
        assert_eq!((held(&store), expired(&store)), (vec![2], 1));
        while store.load(&[id(2)], Touch::Keep).await.unwrap()[0].is_some() {}
        assert_eq!((held(&store), expired(&store)), (vec![], 2));
        // One that lives stands before one that does not.
        let bounds =
            MemoryBounds { ttl: Duration::from_millis(50), max_entries: NonZeroU64::new(2).unwrap(), ..bounds };
        let store = MemoryStore::new(bounds);
        store.put(record(3, 10)).await.unwrap();
        assert!(store.load(&[id(3)], longer).await.unwrap()[0].is_some());
        store.put(record(4, 10)).await.unwrap();
        while held(&store) != [3] {
            store.ready().await.unwrap();
        }
        let bytes = store.held().bytes;
        assert_eq!((expired(&store), bytes), (1, bytes_held(&store)));
        // Nor does it go for one.
        let store = MemoryStore::new(bounds);
        store.put(record(3, 10)).await.unwrap();
        assert!(store.load(&[id(3)], longer).await.unwrap()[0].is_some());
        store.put(record(4, 10)).await.unwrap();
        let began = Instant::now();
        while began.elapsed() <= bounds.ttl {
            std::thread::yield_now();
        }
        store.put(record(5, 10)).await.unwrap();
        assert_eq!(held(&store), [3, 5]);
    }

    #[tokio::test]
    async fn what_is_held_is_counted_whatever_becomes_of_it() {
        let store = store(3, 1 << 20);
        let figure = |name: &str, label: Option<&str>| {
            let figures = store.figures();
            let samples = &figures.iter().find(|figure| figure.name == name).unwrap().samples;
            samples.iter().find(|(by, _)| by.map(|(_, value)| value) == label).unwrap().1
        };
        assert_eq!((figure("store_items", None), figure("store_bytes", None)), (0, 0));
        for number in 1..=5 {
            store.put(record(number, 100 * number as usize)).await.unwrap();
        }
        // A second write, a refresh and a refusal change nothing of it.
        store.put(record(5, 500)).await.unwrap();
        store.load(&[ResponseId::from_bits(4)], Touch::Refresh { longer: Duration::ZERO }).await.unwrap();
        assert!(store.put(record(9, 2 << 20)).await.is_err());
        assert_eq!((figure("store_items", None), figure("store_bytes", None)), (3, bytes_held(&store)));
        assert_eq!(figure("store_evictions", Some("bound")), 2);
        assert_eq!(figure("store_refused_for_space", None), 1);
        assert!(figure("store_bytes_written", None) > bytes_held(&store));
        assert!(store.delete(&ResponseId::from_bits(4)).await.unwrap());
        assert_eq!((figure("store_items", None), figure("store_bytes", None)), (2, bytes_held(&store)));
    }

    #[tokio::test]
    async fn an_expired_record_does_not_count_as_deleted() {
        let bounds = MemoryBounds { max_entries: NonZeroU64::MIN, max_bytes: 1 << 20, ttl: Duration::ZERO };
        let store = MemoryStore::new(bounds);
        store.put(record(1, 10)).await.unwrap();
        assert!(!store.delete(&ResponseId::from_bits(1)).await.unwrap());
    }
}
