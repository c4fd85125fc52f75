//! Records in this process: the default, for one replica and for tests. A restart forgets them.
//!
//! Bounded by entries and by bytes at once; what was used longest ago goes first. Built on moka with plain LRU:
//! its default policy may refuse a *new* entry in favour of popular old ones, and a record that was acknowledged must
//! be there for the next turn.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use moka::Expiry;
use moka::notification::RemovalCause;
use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::figures::{self, Figure, Tally};
use super::{Record, ResponseStore, StoreError, Touch};
use crate::id::ResponseId;
use crate::tenant::Tenant;

/// What the cache keeps per entry beside the record: two copies of the key, list nodes, timestamps, the hash bucket.
const ENTRY_OVERHEAD_BYTES: usize = 512;

/// After how many records of one load other tasks get their turn: a third of a millisecond.
const RECORDS_PER_TURN: usize = 128;

/// moka refuses more than a thousand years by a panic.
const LONGEST_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

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
/// An operation on one record takes about 3 µs (release build) and no lock is held over an await, so nothing is handed
/// to a blocking thread; a long chain gives way to other tasks now and then.
pub struct MemoryStore {
    records: Cache<ResponseId, Stored>,
    scale: Scale,
    ttl: Duration,
    counters: Arc<Counters>,
}

#[derive(Clone)]
struct Stored {
    record: Arc<Record>,
    weight: u32,
    bytes: usize,
    /// From its last write, which a refresh is too.
    lifetime: Duration,
}

/// Each record has a lifetime of its own: one that a chain has used lives longer than a new one.
struct Lifetimes;

impl Expiry<ResponseId, Stored> for Lifetimes {
    fn expire_after_create(&self, _: &ResponseId, stored: &Stored, _: Instant) -> Option<Duration> {
        Some(stored.lifetime)
    }

    fn expire_after_update(
        &self,
        _: &ResponseId,
        stored: &Stored,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(stored.lifetime)
    }
}

/// What the store counts. moka tells of every entry that goes, one that is written over included; so what came in less
/// what went is what is there.
#[derive(Debug, Default)]
struct Counters {
    put: Tally,
    put_bytes: Tally,
    gone: Tally,
    gone_bytes: Tally,
    written_bytes: Tally,
    expired: Tally,
    evicted: Tally,
    refused_for_space: Tally,
}

impl Counters {
    fn put(&self, stored: Stored) -> Op<Stored> {
        self.put.one();
        self.put_bytes.add_bytes(stored.bytes);
        Op::Put(stored)
    }

    fn gone(&self, bytes: usize, cause: RemovalCause) {
        self.gone.one();
        self.gone_bytes.add_bytes(bytes);
        match cause {
            RemovalCause::Expired => self.expired.one(),
            RemovalCause::Size => self.evicted.one(),
            RemovalCause::Explicit | RemovalCause::Replaced => {}
        }
    }
}

impl MemoryStore {
    /// An empty store with these bounds.
    #[must_use]
    pub fn new(bounds: MemoryBounds) -> Self {
        let scale = Scale::new(bounds.max_entries, bounds.max_bytes);
        let counters = Arc::new(Counters::default());
        let told = Arc::clone(&counters);
        let records = Cache::builder()
            .name("responses")
            .eviction_policy(EvictionPolicy::lru())
            .eviction_listener(move |_, stored: Stored, cause| told.gone(stored.bytes, cause))
            .weigher(|_, stored: &Stored| stored.weight)
            .max_capacity(u64::from(scale.capacity))
            .expire_after(Lifetimes)
            .build();
        Self { records, scale, ttl: bounds.ttl.min(LONGEST_TTL), counters }
    }

    fn read(&self, id: &ResponseId, touch: Touch) -> Option<Arc<Record>> {
        let stored = match touch {
            Touch::Keep => self.records.get(id)?,
            // Time to live counts from the last write, so the record is written over itself: under the same key lock
            // as `delete`, which therefore comes wholly before or wholly after.
            Touch::Refresh { longer } => {
                let lifetime = self.ttl.saturating_add(longer).min(LONGEST_TTL);
                self.records
                    .entry_by_ref(id)
                    .and_compute_with(|entry| {
                        entry.map_or(Op::Nop, |entry| self.counters.put(Stored { lifetime, ..entry.into_value() }))
                    })
                    .into_entry()?
                    .into_value()
            }
        };
        Some(stored.record)
    }

    /// Applies pending work: evicts down to the bounds, frees what expired or was removed.
    fn settle(&self) {
        self.records.run_pending_tasks();
    }
}

#[async_trait]
impl ResponseStore for MemoryStore {
    async fn put(&self, record: Arc<Record>) -> Result<(), StoreError> {
        let bytes = record.size_bytes() + ENTRY_OVERHEAD_BYTES;
        let limit = self.scale.largest_bytes();
        let Some(weight) = self.scale.weight(bytes) else {
            self.counters.refused_for_space.one();
            return Err(StoreError::TooLarge { bytes, limit });
        };
        self.records.entry(record.id.clone()).and_try_compute_with(|entry| match entry {
            None => {
                self.counters.written_bytes.add_bytes(bytes);
                Ok(self.counters.put(Stored { record, weight, bytes, lifetime: self.ttl }))
            }
            Some(entry) if *entry.value().record == *record => Ok(Op::Nop),
            Some(_) => Err(StoreError::Conflict),
        })?;
        // moka would let 64 writes pile up before it evicts: of 5 MB records, 320 MB over the bound.
        self.settle();
        Ok(())
    }

    async fn load(&self, ids: &[ResponseId], touch: Touch) -> Result<Vec<Option<Arc<Record>>>, StoreError> {
        let mut records = Vec::with_capacity(ids.len());
        for ids in ids.chunks(RECORDS_PER_TURN) {
            if !records.is_empty() {
                tokio::task::yield_now().await;
            }
            records.extend(ids.iter().map(|id| self.read(id, touch)));
        }
        Ok(records)
    }

    async fn refresh(&self, ids: &[ResponseId], longer: Duration) -> Result<(), StoreError> {
        self.load(ids, Touch::Refresh { longer }).await.map(drop)
    }

    async fn delete(&self, id: &ResponseId) -> Result<bool, StoreError> {
        let mut existed = false;
        // moka's own answer would count an expired entry that is not swept yet.
        self.records.entry_by_ref(id).and_compute_with(|entry| {
            existed = entry.is_some();
            Op::Remove
        });
        self.settle();
        Ok(existed)
    }

    /// Always ready. The probe doubles as the sweep of expired records while no request comes by.
    async fn ready(&self) -> Result<(), StoreError> {
        self.settle();
        Ok(())
    }

    fn ttl(&self) -> Duration {
        self.ttl
    }

    fn place_of(&self, _: Tenant) -> Option<Arc<dyn ResponseStore>> {
        None
    }

    fn name(&self) -> &'static str {
        "memory"
    }

    fn figures(&self) -> Vec<Figure> {
        let Counters { put, put_bytes, gone, gone_bytes, written_bytes, expired, evicted, refused_for_space } =
            &*self.counters;
        // What went is read first: it came in before.
        let (gone, gone_bytes) = (gone.value(), gone_bytes.value());
        vec![
            figures::items(put.value().saturating_sub(gone)),
            figures::bytes(put_bytes.value().saturating_sub(gone_bytes)),
            figures::bytes_written(written_bytes),
            figures::evictions([("expired", expired), ("bound", evicted)]),
            figures::refused_for_space(refused_for_space),
        ]
    }
}

/// One weight for two bounds.
///
/// A record weighs its bytes, but at least a `max_entries`-th of the capacity, so that neither more records nor more
/// bytes than allowed fit. Weights are u32 in moka: above 4 GiB a unit of weight is several bytes, rounded so that the
/// sum never understates.
#[derive(Debug, Clone, Copy)]
struct Scale {
    bytes_per_unit: u64,
    lightest: u32,
    capacity: u32,
}

impl Scale {
    fn new(max_entries: NonZeroU64, max_bytes: u64) -> Self {
        let bytes_per_unit = max_bytes.div_ceil(u64::from(u32::MAX)).max(1);
        let units = max_bytes / bytes_per_unit;
        let lightest = (units / max_entries).max(1);
        // One entry more than allowed must not fit, even where the division left a remainder.
        let one_too_many = max_entries.get().saturating_add(1).saturating_mul(lightest);
        let capacity = units.min(one_too_many - 1);
        // Both are at most `units`, or 1: they fit.
        let narrow = |units: u64| u32::try_from(units).unwrap_or(u32::MAX);
        Self { bytes_per_unit, lightest: narrow(lightest), capacity: narrow(capacity) }
    }

    /// The weight of an entry of so many bytes; `None` when it can never fit.
    fn weight(self, bytes: usize) -> Option<u32> {
        let units = u64::try_from(bytes).ok()?.div_ceil(self.bytes_per_unit);
        let weight = u32::try_from(units).ok()?.max(self.lightest);
        (weight <= self.capacity).then_some(weight)
    }

    fn largest_bytes(self) -> usize {
        usize::try_from(u64::from(self.capacity) * self.bytes_per_unit).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;
    use crate::store::{AncestorIds, Ancestors};

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
        })
    }

    fn store(max_entries: u64, max_bytes: u64) -> MemoryStore {
        let max_entries = NonZeroU64::new(max_entries).unwrap();
        MemoryStore::new(MemoryBounds { max_entries, max_bytes, ttl: Duration::from_secs(3600) })
    }

    fn held(store: &MemoryStore) -> Vec<u128> {
        let mut numbers: Vec<u128> = store
            .records
            .iter()
            .map(|(id, _)| u128::from_str_radix(id.as_str().trim_start_matches("resp_"), 16).unwrap())
            .collect();
        numbers.sort_unstable();
        numbers
    }

    fn bytes_held(store: &MemoryStore) -> u64 {
        store.records.iter().map(|(_, stored)| (stored.record.size_bytes() + ENTRY_OVERHEAD_BYTES) as u64).sum()
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
        assert!(matches!(error, StoreError::TooLarge { bytes: 10_000.., limit: 9_990..=10_000 }), "{error}");
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
    async fn a_deleted_record_is_freed() {
        let store = store(10, 1 << 20);
        let record = record(1, 10);
        let id = record.id.clone();
        let memory = Arc::downgrade(&record);
        store.put(record).await.unwrap();
        store.load(std::slice::from_ref(&id), Touch::Refresh { longer: Duration::ZERO }).await.unwrap();
        assert!(store.delete(&id).await.unwrap());
        assert_eq!(store.records.weighted_size(), 0);
        // moka frees through epochs, which other threads of this test process may hold back for a moment.
        let deadline = Instant::now() + Duration::from_secs(10);
        while memory.upgrade().is_some() {
            assert!(Instant::now() < deadline, "the record is still in memory");
            store.ready().await.unwrap();
            std::thread::yield_now();
        }
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

    proptest! {
        #[test]
        fn one_weight_keeps_both_bounds(
            max_entries in 1..=u64::MAX,
            small_entries in 1..=5000_u64,
            max_bytes in prop_oneof![0..=100_000_u64, any::<u64>()],
            sizes in prop::collection::vec(prop_oneof![0..=2000_usize, any::<usize>()], 1..200),
        ) {
            for max_entries in [max_entries, small_entries] {
                let scale = Scale::new(NonZeroU64::new(max_entries).unwrap(), max_bytes);
                let (mut entries, mut bytes, mut weight) = (0_u64, 0_u128, 0_u64);
                for size in &sizes {
                    let Some(one) = scale.weight(*size) else {
                        // Refused alone: larger than the bound, but for the remainder of one division.
                        prop_assert!(*size > scale.largest_bytes() || scale.capacity == 0);
                        continue;
                    };
                    if weight + u64::from(one) <= u64::from(scale.capacity) {
                        weight += u64::from(one);
                        entries += 1;
                        bytes += *size as u128;
                    }
                }
                prop_assert!(bytes <= u128::from(max_bytes));
                prop_assert!(entries <= max_entries);
                prop_assert!(u64::from(scale.capacity) / u64::from(scale.lightest) <= max_entries);
                // Small records fill the bound of entries wholly where bytes allow one unit for each.
                if max_bytes / scale.bytes_per_unit >= max_entries {
                    prop_assert!(u64::from(scale.capacity) / u64::from(scale.lightest) == max_entries);
                }
            }
        }
    }
}
