//! Loading the turns that a new one continues, and those whose items it refers to.
//!
//! A record names all its ancestors, so a chain of any depth takes two dependent loads: the parent together with what
//! is referred to, then everything above the parent at once. A chain's bytes were bounded when it was made, so that it
//! is loaded in one go; what is referred to was never together before, and is loaded a few at a time. Only records of
//! the Go semantic-router, which know their parent alone, are walked one by one. The result is the whole history or an
//! error: a model must never answer from a history with a hole (CONTRACT §8).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::ancestors::{AncestorIds, Ancestors};
use super::prolonging::Prolonging;
use super::record::Record;
use super::{FromStore, ResponseStore, StoreError, Touch};
use crate::id::ResponseId;

/// How much history a turn may bring along, and how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainLimits {
    /// The most turns in a history, the parent included, and the most that may be referred to besides
    /// (`limits.max_chain_depth`).
    pub max_depth: usize,
    /// The most bytes of input and response JSON in a history, what is referred to included
    /// (`limits.max_history_bytes`).
    pub max_bytes: usize,
    /// The longest from loading the history to the store's word that the turn made of it is kept. The history lives so
    /// much longer than a new record, so that a child never outlives its ancestors (CONTRACT §9).
    pub longest_turn: Duration,
}

/// Which stored turns a new one needs.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The turn that it continues.
    pub parent: Option<&'a ResponseId>,
    /// The turns whose items it refers to, none repeated.
    pub referenced: &'a [ResponseId],
}

impl Wanted<'_> {
    /// Whether there is nothing to load.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parent.is_none() && self.referenced.is_empty()
    }
}

impl<'a> From<&'a ResponseId> for Wanted<'a> {
    /// A parent, and nothing besides.
    fn from(parent: &'a ResponseId) -> Self {
        Self { parent: Some(parent), referenced: &[] }
    }
}

/// The turns before a new one: whole, in order, none repeated.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Oldest first, the parent last; empty without a parent.
    pub records: Vec<Arc<Record>>,
    /// The turns that are referred to and are not of the chain, in no order, as far as they exist.
    pub referenced: Vec<Arc<Record>>,
    /// Until when all of the chain are kept, in seconds since the epoch.
    kept_until: u64,
}

impl History {
    /// The ids that a child of this history lists as its ancestors.
    #[must_use]
    pub fn ancestors_of_child(&self) -> AncestorIds {
        self.records.iter().map(|record| record.id.clone()).collect::<AncestorIds>().kept(self.kept_until)
    }
}

/// Why there is no history.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The parent is unknown, deleted or expired.
    #[error("the parent is not in the store")]
    ParentNotFound,
    /// The parent is there, a turn before it is not.
    #[error("an ancestor is not in the store")]
    AncestorMissing,
    /// The chain has more turns than allowed.
    #[error("the chain is deeper than {limit} turns")]
    TooDeep {
        /// The bound in turns.
        limit: usize,
    },
    /// The chain's turns together are larger than allowed.
    #[error("the history is larger than {limit} bytes")]
    TooLarge {
        /// The bound in bytes.
        limit: usize,
    },
    /// The input refers to items of more turns than allowed.
    #[error("items of more than {limit} turns are referred to")]
    TooManyReferences {
        /// The bound in turns.
        limit: usize,
    },
    /// A turn is its own ancestor. No client can make such a chain: the data is damaged.
    #[error("the chain leads back to itself")]
    Cycle,
    /// The store failed, which says nothing about whether the turns exist.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl FromStore for HistoryError {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

/// Loads the parent and all turns before it, and those that are referred to; starts the time to live of each anew,
/// longer by `limits.longest_turn` or more, unless it is known to be kept for so long.
///
/// Two dependent loads at any depth; one more per record that does not list its ancestors, and one more for every
/// sixteen that are referred to beyond the first fifteen, until their bytes are too many. Of a store that holds others'
/// records, what the client named is only read at first, and prolonged in the second step. What is referred to and does
/// not exist is left out: that is no matter of the chain.
///
/// # Errors
/// [`HistoryError`]; depth and number are checked before anything that they bound is loaded, bytes after each load.
pub async fn history<'a>(
    store: &dyn ResponseStore,
    wanted: impl Into<Wanted<'a>>,
    limits: ChainLimits,
) -> Result<History, HistoryError> {
    let Wanted { parent, referenced } = wanted.into();
    if referenced.len() > limits.max_depth {
        return Err(HistoryError::TooManyReferences { limit: limits.max_depth });
    }
    let since = Instant::now();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let prolonging = Prolonging::new(store.ttl(), limits.longest_turn, now);
    let walk = Walk { limits, seen: HashSet::new(), newest_first: Vec::new(), bytes: 0 };
    let first: Vec<ResponseId> =
        parent.into_iter().chain(referenced.iter().filter(|id| Some(*id) != parent)).cloned().collect();
    let first_touch = if store.holds_others() { Touch::Keep } else { prolonging.touch() };
    let mut loaded = Loaded::default();
    for ids in first.chunks(LOADED_AT_ONCE) {
        loaded.load(store, ids, Reading::Now(first_touch)).await?;
        if loaded.bytes() > limits.max_bytes {
            return Err(HistoryError::TooLarge { limit: limits.max_bytes });
        }
    }
    let to_prolong = match first_touch {
        Touch::Keep => loaded.ids(),
        Touch::Refresh { .. } => Vec::new(),
    };
    let prolong = prolong(store, &to_prolong, prolonging.longer);
    let chain = climb(store, walk, loaded, parent, prolonging, since);
    let (history, ()) = futures_util::future::try_join(chain, prolong).await?;
    Ok(history)
}

/// Starts the time to live of records anew that turned out to be the asker's.
async fn prolong(store: &dyn ResponseStore, ids: &[ResponseId], longer: Duration) -> Result<(), HistoryError> {
    if ids.is_empty() { Ok(()) } else { Ok(store.refresh(ids, longer).await?) }
}

/// From the parent, which is loaded, up to the oldest turn.
async fn climb(
    store: &dyn ResponseStore,
    mut walk: Walk,
    mut loaded: Loaded,
    parent: Option<&ResponseId>,
    prolonging: Prolonging,
    since: Instant,
) -> Result<History, HistoryError> {
    let kept_until = prolonging.kept_until;
    let Some(parent) = parent else { return walk.finish(loaded, kept_until) };

    walk.enter(std::slice::from_ref(parent))?;
    let mut record = loaded.take(parent).ok_or(HistoryError::ParentNotFound)?;
    loop {
        walk.add(&record)?;
        match &record.ancestors {
            Ancestors::Listed(listed) => {
                let ids = listed.read()?;
                walk.enter(&ids)?;
                let (touch, kept_until) = prolonging.of(listed);
                let reading = match touch {
                    Touch::Keep => Reading::Since(since),
                    Touch::Refresh { .. } => Reading::Now(touch),
                };
                loaded.load(store, &ids, reading).await?;
                for id in ids.iter().rev() {
                    walk.add(&loaded.take(id).ok_or(HistoryError::AncestorMissing)?)?;
                }
                return walk.finish(loaded, kept_until);
            }
            Ancestors::Walk(None) => return walk.finish(loaded, kept_until),
            Ancestors::Walk(Some(next)) => {
                walk.enter(std::slice::from_ref(next))?;
                loaded.load(store, std::slice::from_ref(next), Reading::Now(prolonging.touch())).await?;
                record = loaded.take(next).ok_or(HistoryError::AncestorMissing)?;
            }
        }
    }
}

/// How many of those that a client names are loaded before their bytes are looked at.
const LOADED_AT_ONCE: usize = 16;

/// How records are read.
#[derive(Debug, Clone, Copy)]
enum Reading {
    /// As they are now.
    Now(Touch),
    /// As they were at any time since the history began to be loaded, and not prolonged.
    Since(Instant),
}

/// What has been loaded and has no place in the chain yet.
#[derive(Default)]
struct Loaded(HashMap<ResponseId, Arc<Record>>);

impl Loaded {
    /// Loads what is not there already, in one go; holds the backend to its word: as many answers as ids, each the
    /// record that was asked for.
    async fn load(
        &mut self,
        store: &dyn ResponseStore,
        ids: &[ResponseId],
        reading: Reading,
    ) -> Result<(), StoreError> {
        let missing: Vec<ResponseId> = ids.iter().filter(|id| !self.0.contains_key(*id)).cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let records = match reading {
            Reading::Now(touch) => store.load(&missing, touch).await?,
            Reading::Since(since) => store.load_since(&missing, since).await?,
        };
        let matches = |(record, id): (&Option<Arc<Record>>, &ResponseId)| record.as_ref().is_none_or(|r| r.id == *id);
        if records.len() != missing.len() || !records.iter().zip(&missing).all(matches) {
            return Err(StoreError::Corrupt("the store answered with another record".to_owned()));
        }
        self.0.extend(records.into_iter().flatten().map(|record| (record.id.clone(), record)));
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.0.values().fold(0, |sum, record| sum.saturating_add(record.payload_bytes()))
    }

    fn take(&mut self, id: &ResponseId) -> Option<Arc<Record>> {
        self.0.remove(id)
    }

    fn ids(&self) -> Vec<ResponseId> {
        self.0.keys().cloned().collect()
    }
}

/// A history in the making: bounds are checked as ids and records come in, from the parent upwards.
struct Walk {
    limits: ChainLimits,
    seen: HashSet<ResponseId>,
    newest_first: Vec<Arc<Record>>,
    bytes: usize,
}

impl Walk {
    /// Takes note of ids that are about to be loaded.
    fn enter(&mut self, ids: &[ResponseId]) -> Result<(), HistoryError> {
        if self.seen.len().saturating_add(ids.len()) > self.limits.max_depth {
            return Err(HistoryError::TooDeep { limit: self.limits.max_depth });
        }
        for id in ids {
            if !self.seen.insert(id.clone()) {
                return Err(HistoryError::Cycle);
            }
        }
        Ok(())
    }

    fn add(&mut self, record: &Arc<Record>) -> Result<(), HistoryError> {
        self.count(record)?;
        self.newest_first.push(Arc::clone(record));
        Ok(())
    }

    fn count(&mut self, record: &Record) -> Result<(), HistoryError> {
        self.bytes = self.bytes.saturating_add(record.payload_bytes());
        if self.bytes > self.limits.max_bytes {
            return Err(HistoryError::TooLarge { limit: self.limits.max_bytes });
        }
        Ok(())
    }

    /// The history, if each turn continues the one before it and the oldest continues none: a list of ancestors that
    /// was cut short would otherwise pass for a shorter chain. What is left of `loaded` is what is referred to.
    fn finish(mut self, loaded: Loaded, kept_until: u64) -> Result<History, HistoryError> {
        let referenced: Vec<Arc<Record>> = loaded.0.into_values().collect();
        for record in &referenced {
            self.count(record)?;
        }
        let mut records = self.newest_first;
        records.reverse();
        let mut previous = None;
        for record in &records {
            if record.parent() != previous {
                return Err(StoreError::Corrupt("its list of ancestors is not the chain they form".to_owned()).into());
            }
            previous = Some(&record.id);
        }
        Ok(History { records, referenced, kept_until })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use serde_json::value::RawValue;

    use super::*;
    use crate::store::KnownItems;
    use crate::tenant::Tenant;

    /// A store over a map that counts its loads.
    #[derive(Default)]
    struct Counting {
        records: HashMap<ResponseId, Arc<Record>>,
        loads: AtomicUsize,
        loaded: AtomicUsize,
        down: bool,
        holds_others: bool,
        prolonged: Mutex<Vec<ResponseId>>,
        ttl: Duration,
        touches: Mutex<Vec<Touch>>,
    }

    #[async_trait]
    impl ResponseStore for Counting {
        async fn put(&self, _: Arc<Record>) -> Result<(), StoreError> {
            Ok(())
        }

        async fn load(&self, ids: &[ResponseId], touch: Touch) -> Result<Vec<Option<Arc<Record>>>, StoreError> {
            let is_first = self.loads.fetch_add(1, Ordering::Relaxed) == 0;
            self.loaded.fetch_add(ids.len(), Ordering::Relaxed);
            let refresh = Touch::Refresh { longer: LIMITS.longest_turn };
            if self.ttl == Duration::ZERO {
                assert_eq!(touch, if self.holds_others && is_first { Touch::Keep } else { refresh });
            }
            self.touches.lock().unwrap().push(touch);
            if self.down {
                return Err(StoreError::Timeout);
            }
            Ok(ids.iter().map(|id| self.records.get(id).cloned()).collect())
        }

        async fn delete(&self, _: &ResponseId) -> Result<bool, StoreError> {
            Ok(false)
        }

        async fn refresh(&self, ids: &[ResponseId], longer: Duration) -> Result<(), StoreError> {
            assert_eq!(longer, LIMITS.longest_turn);
            self.prolonged.lock().unwrap().extend_from_slice(ids);
            Ok(())
        }

        async fn ready(&self) -> Result<(), StoreError> {
            Ok(())
        }

        fn ttl(&self) -> Duration {
            self.ttl
        }

        fn holds_others(&self) -> bool {
            self.holds_others
        }

        fn place_of(&self, _: Tenant) -> Option<Arc<dyn ResponseStore>> {
            None
        }

        fn name(&self) -> &'static str {
            "counting"
        }

        fn figures(&self) -> Vec<super::super::Figure> {
            Vec::new()
        }
    }

    impl Counting {
        fn with(mut self, number: u128, ancestors: Ancestors) -> Self {
            let response = RawValue::from_string(format!("{{\"id\":\"{}\"}}", id(number))).unwrap();
            let id = id(number);
            let (input, items) = (Vec::new(), KnownItems::default());
            let record = Record { id, ancestors, input, response, interrupted: false, tenant: None, items };
            self.records.insert(record.id.clone(), Arc::new(record));
            self
        }

        fn chain(turns: u128) -> Self {
            (1..=turns).fold(Self::default(), |store, n| store.with(n, listed(1..n)))
        }
    }

    fn id(number: u128) -> ResponseId {
        ResponseId::from_bits(number)
    }

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[tokio::test]
    async fn ancestors_that_are_kept_for_long_enough_are_read_and_not_prolonged() {
        let prolonged = Touch::Refresh { longer: LIMITS.longest_turn + DAY / 16 };
        let mut store = Counting { ttl: DAY, ..Counting::chain(3) };
        let first = history(&store, &id(3), LIMITS).await.unwrap().ancestors_of_child();
        assert_eq!(*store.touches.lock().unwrap(), [prolonged, prolonged]);

        store = store.with(4, Ancestors::Listed(first.clone()));
        store.touches.lock().unwrap().clear();
        let second = history(&store, &id(4), LIMITS).await.unwrap().ancestors_of_child();
        assert_eq!(*store.touches.lock().unwrap(), [prolonged, Touch::Keep]);
        // The parent is kept longer than the turns above it, of which nothing new is known.
        assert_eq!(second.kept_until(), first.kept_until());

        // What a turn that takes longer would need is not known to be kept.
        store.touches.lock().unwrap().clear();
        let long = ChainLimits { longest_turn: LIMITS.longest_turn + DAY / 16, ..LIMITS };
        history(&store, &id(4), long).await.unwrap();
        assert!(!store.touches.lock().unwrap().contains(&Touch::Keep));
    }

    fn listed(numbers: impl IntoIterator<Item = u128>) -> Ancestors {
        Ancestors::Listed(numbers.into_iter().map(id).collect())
    }

    fn walk(number: u128) -> Ancestors {
        Ancestors::Walk(Some(id(number)))
    }

    const LIMITS: ChainLimits =
        ChainLimits { max_depth: 1000, max_bytes: 1 << 20, longest_turn: Duration::from_secs(60) };

    async fn load(store: &Counting, parent: u128, limits: ChainLimits) -> Result<Vec<ResponseId>, HistoryError> {
        history(store, &id(parent), limits).await.map(|history| history.ancestors_of_child().read().unwrap())
    }

    async fn load_with(
        store: &Counting,
        parent: Option<u128>,
        referenced: &[u128],
        limits: ChainLimits,
    ) -> Result<(usize, Vec<ResponseId>), HistoryError> {
        let referenced: Vec<ResponseId> = referenced.iter().copied().map(id).collect();
        let parent = parent.map(id);
        let wanted = Wanted { parent: parent.as_ref(), referenced: &referenced };
        let history = history(store, wanted, limits).await?;
        let mut referenced: Vec<ResponseId> = history.referenced.iter().map(|record| record.id.clone()).collect();
        referenced.sort();
        Ok((history.records.len(), referenced))
    }

    #[tokio::test]
    async fn what_is_referred_to_comes_with_the_parent_in_one_load() {
        let store = Counting::chain(10).with(20, listed([])).with(21, listed([]));
        assert_eq!(load_with(&store, Some(10), &[20, 21, 99], LIMITS).await.unwrap(), (10, vec![id(20), id(21)]));
        assert_eq!(store.loads.swap(0, Ordering::Relaxed), 2);
        // Turns of the chain are loaded once and stand in the chain.
        assert_eq!(load_with(&store, Some(10), &[10, 3, 20], LIMITS).await.unwrap(), (10, vec![id(20)]));
        assert_eq!(store.loads.swap(0, Ordering::Relaxed), 2);
        assert_eq!(load_with(&store, None, &[3, 20], LIMITS).await.unwrap(), (0, vec![id(3), id(20)]));
        assert_eq!(store.loads.swap(0, Ordering::Relaxed), 1);
        assert_eq!(load_with(&store, None, &[], LIMITS).await.unwrap(), (0, vec![]));
        assert_eq!(store.loads.into_inner(), 0);
    }

    #[tokio::test]
    async fn among_others_what_the_client_named_is_prolonged_once_it_is_known_whose_it_is() {
        let store = Counting { holds_others: true, ..Counting::chain(10).with(20, listed([])) };
        assert_eq!(load_with(&store, Some(10), &[20, 99], LIMITS).await.unwrap(), (10, vec![id(20)]));
        assert_eq!(store.loads.load(Ordering::Relaxed), 2);
        let mut prolonged = store.prolonged.into_inner().unwrap();
        prolonged.sort();
        assert_eq!(prolonged, [id(10), id(20)]);
    }

    #[tokio::test]
    async fn what_is_referred_to_is_bounded_in_number_and_in_bytes() {
        let store = Counting::chain(3);
        let each = store.records[&id(1)].payload_bytes();
        let few = ChainLimits { max_depth: 2, ..LIMITS };
        let error = load_with(&store, None, &[1, 2, 3], few).await.unwrap_err();
        assert!(matches!(error, HistoryError::TooManyReferences { limit: 2 }));
        assert_eq!(store.loads.load(Ordering::Relaxed), 0);
        assert!(load_with(&store, Some(1), &[2, 3], ChainLimits { max_bytes: 3 * each, ..LIMITS }).await.is_ok());
        let small = ChainLimits { max_bytes: 3 * each - 1, ..LIMITS };
        assert!(matches!(load_with(&store, Some(1), &[2, 3], small).await, Err(HistoryError::TooLarge { .. })));
        let down = Counting { down: true, ..Counting::chain(1) };
        let error = load_with(&down, None, &[1], LIMITS).await.unwrap_err();
        assert!(matches!(error, HistoryError::Store(StoreError::Timeout)));
    }

    #[tokio::test]
    async fn what_is_referred_to_is_loaded_no_further_than_its_bytes_may_go() {
        let store = (1..=1000).fold(Counting::chain(10), |store, n| store.with(1000 + n, listed([])));
        let each = store.records[&id(1001)].payload_bytes();
        let many: Vec<u128> = (1001..=2000).collect();
        let small = ChainLimits { max_bytes: 20 * each, ..LIMITS };
        for parent in [None, Some(10)] {
            let error = load_with(&store, parent, &many, small).await.unwrap_err();
            assert!(matches!(error, HistoryError::TooLarge { limit } if limit == 20 * each));
            assert_eq!(store.loads.swap(0, Ordering::Relaxed), 2);
            assert_eq!(store.loaded.swap(0, Ordering::Relaxed), 2 * LOADED_AT_ONCE);
        }
        let (_, referenced) = load_with(&store, Some(10), &many, LIMITS).await.unwrap();
        assert_eq!(referenced.len(), 1000);
        assert_eq!(store.loads.swap(0, Ordering::Relaxed), 1001_usize.div_ceil(LOADED_AT_ONCE) + 1);
        // What fills one load beside the parent costs a chain nothing.
        assert!(load_with(&store, Some(10), &many[..LOADED_AT_ONCE - 1], LIMITS).await.is_ok());
        assert_eq!(store.loads.into_inner(), 2);
    }

    #[tokio::test]
    async fn a_chain_of_a_thousand_turns_takes_two_loads() {
        let store = Counting::chain(1000);
        assert_eq!(load(&store, 1000, LIMITS).await.unwrap(), (1..=1000).map(id).collect::<Vec<_>>());
        assert_eq!(store.loads.into_inner(), 2);
    }

    #[tokio::test]
    async fn a_first_turn_takes_one_load() {
        let store = Counting::chain(1);
        assert_eq!(load(&store, 1, LIMITS).await.unwrap(), [id(1)]);
        assert_eq!(store.loads.into_inner(), 1);
    }

    #[tokio::test]
    async fn a_chain_that_is_too_deep_is_refused_before_its_ancestors_are_loaded() {
        let store = Counting::chain(11);
        let limits = ChainLimits { max_depth: 10, ..LIMITS };
        assert!(load(&store, 10, limits).await.is_ok());
        store.loads.store(0, Ordering::Relaxed);
        assert!(matches!(load(&store, 11, limits).await, Err(HistoryError::TooDeep { limit: 10 })));
        assert_eq!(store.loads.into_inner(), 1);
    }

    #[tokio::test]
    async fn a_history_that_is_too_large_is_refused() {
        let store = Counting::chain(3);
        let each = store.records[&id(1)].payload_bytes();
        assert!(load(&store, 3, ChainLimits { max_bytes: 3 * each, ..LIMITS }).await.is_ok());
        let limits = ChainLimits { max_bytes: 3 * each - 1, ..LIMITS };
        assert!(matches!(load(&store, 3, limits).await, Err(HistoryError::TooLarge { .. })));
    }

    #[tokio::test]
    async fn a_hole_is_an_error_wherever_it_is() {
        for hole in 1..=5 {
            let mut store = Counting::chain(5);
            store.records.remove(&id(hole));
            let error = load(&store, 5, LIMITS).await.unwrap_err();
            assert!(
                matches!((hole, &error), (5, HistoryError::ParentNotFound) | (1..=4, HistoryError::AncestorMissing)),
                "{hole}: {error}"
            );
        }
    }

    #[tokio::test]
    async fn foreign_records_are_walked_until_one_lists_its_ancestors() {
        let foreign = Counting::default().with(1, Ancestors::Walk(None)).with(2, walk(1)).with(3, walk(2));
        assert_eq!(load(&foreign, 3, LIMITS).await.unwrap(), [id(1), id(2), id(3)]);
        assert_eq!(foreign.loads.load(Ordering::Relaxed), 3);

        // Ours on top of theirs: the list covers all. Theirs on top of ours: walked to the first list.
        let mixed = foreign.with(4, listed(1..4)).with(5, walk(4));
        mixed.loads.store(0, Ordering::Relaxed);
        assert_eq!(load(&mixed, 4, LIMITS).await.unwrap().len(), 4);
        assert_eq!(mixed.loads.swap(0, Ordering::Relaxed), 2);
        assert_eq!(load(&mixed, 5, LIMITS).await.unwrap().len(), 5);
        assert_eq!(mixed.loads.swap(0, Ordering::Relaxed), 3);
        let limits = ChainLimits { max_depth: 2, ..LIMITS };
        assert!(matches!(load(&mixed, 3, limits).await, Err(HistoryError::TooDeep { limit: 2 })));

        let holed = Counting::default().with(2, walk(1));
        assert!(matches!(load(&holed, 2, LIMITS).await, Err(HistoryError::AncestorMissing)));
    }

    #[tokio::test]
    async fn a_chain_that_leads_back_to_itself_ends() {
        for store in [
            Counting::default().with(1, walk(1)),
            Counting::default().with(1, walk(2)).with(2, walk(1)),
            Counting::default().with(1, listed([1])),
            Counting::default().with(1, listed([2, 2])).with(2, listed([])),
            Counting::default().with(1, walk(2)).with(2, listed([3, 1])).with(3, listed([])),
        ] {
            assert!(matches!(load(&store, 1, LIMITS).await, Err(HistoryError::Cycle)));
        }
    }

    #[tokio::test]
    async fn a_list_of_ancestors_that_was_cut_short_is_not_a_shorter_chain() {
        for list in [listed([2]), listed([2, 1])] {
            let store = Counting::chain(2).with(3, list);
            let error = load(&store, 3, LIMITS).await.unwrap_err();
            assert!(matches!(error, HistoryError::Store(StoreError::Corrupt(_))), "{error}");
        }
    }

    #[tokio::test]
    async fn a_store_that_is_down_is_not_a_missing_parent() {
        let store = Counting { down: true, ..Counting::chain(2) };
        assert!(matches!(load(&store, 2, LIMITS).await, Err(HistoryError::Store(StoreError::Timeout))));
    }
}
