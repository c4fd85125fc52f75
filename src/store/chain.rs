//! Loading the turns that a new one continues.
//!
//! A record names all its ancestors, so a chain of any depth takes two dependent loads: the parent, then everything
//! above it at once. Only records of the Go semantic-router, which know their parent alone, are walked one by one.
//! The result is the whole history or an error: a model must never answer from a history with a hole (CONTRACT §8).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::record::{Ancestors, Record};
use super::{ResponseStore, StoreError, Touch};
use crate::id::ResponseId;

/// How much history a turn may bring along, and how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainLimits {
    /// The most turns in a history, the parent included (`limits.max_chain_depth`).
    pub max_depth: usize,
    /// The most bytes of input and response JSON in a history (`limits.max_history_bytes`).
    pub max_bytes: usize,
    /// The longest from loading the history to the store's word that the turn made of it is kept. The history lives so
    /// much longer than a new record, so that a child never outlives its ancestors (CONTRACT §9).
    pub longest_turn: Duration,
}

/// The turns before a new one: whole, in order, none repeated.
#[derive(Debug, Clone)]
pub struct History {
    /// Oldest first, the parent last; never empty.
    pub records: Vec<Arc<Record>>,
}

impl History {
    /// The ids that a child of this history lists as its ancestors.
    #[must_use]
    pub fn ancestors_of_child(&self) -> Vec<ResponseId> {
        self.records.iter().map(|record| record.id.clone()).collect()
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
    /// A turn is its own ancestor. No client can make such a chain: the data is damaged.
    #[error("the chain leads back to itself")]
    Cycle,
    /// The store failed, which says nothing about whether the turns exist.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Loads `parent` and all turns before it, and starts the time to live of each anew, longer by `limits.longest_turn`.
///
/// Two dependent loads at any depth; one more per record that does not list its ancestors.
///
/// # Errors
/// [`HistoryError`]; the depth is checked before the ancestors are loaded.
pub async fn history(
    store: &dyn ResponseStore,
    parent: &ResponseId,
    limits: ChainLimits,
) -> Result<History, HistoryError> {
    let mut walk = Walk { limits, seen: HashSet::new(), newest_first: Vec::new(), bytes: 0 };
    walk.enter(std::slice::from_ref(parent))?;
    let mut record = load_one(store, parent, limits).await?.ok_or(HistoryError::ParentNotFound)?;
    loop {
        walk.add(&record)?;
        match &record.ancestors {
            Ancestors::Listed(ids) => {
                walk.enter(ids)?;
                let ancestors = load_all(store, ids, limits).await?;
                for ancestor in ancestors.iter().rev() {
                    walk.add(ancestor)?;
                }
                return walk.finish();
            }
            Ancestors::Walk(None) => return walk.finish(),
            Ancestors::Walk(Some(next)) => {
                walk.enter(std::slice::from_ref(next))?;
                record = load_one(store, next, limits).await?.ok_or(HistoryError::AncestorMissing)?;
            }
        }
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
        self.bytes = self.bytes.saturating_add(record.payload_bytes());
        if self.bytes > self.limits.max_bytes {
            return Err(HistoryError::TooLarge { limit: self.limits.max_bytes });
        }
        self.newest_first.push(Arc::clone(record));
        Ok(())
    }

    /// The history, if each turn continues the one before it and the oldest continues none: a list of ancestors that
    /// was cut short would otherwise pass for a shorter chain.
    fn finish(self) -> Result<History, HistoryError> {
        let mut records = self.newest_first;
        records.reverse();
        let mut previous = None;
        for record in &records {
            if record.parent() != previous {
                return Err(StoreError::Corrupt("its list of ancestors is not the chain they form".to_owned()).into());
            }
            previous = Some(&record.id);
        }
        Ok(History { records })
    }
}

async fn load_one(
    store: &dyn ResponseStore,
    id: &ResponseId,
    limits: ChainLimits,
) -> Result<Option<Arc<Record>>, HistoryError> {
    let mut records = load(store, std::slice::from_ref(id), limits).await?;
    Ok(records.pop().flatten())
}

async fn load_all(
    store: &dyn ResponseStore,
    ids: &[ResponseId],
    limits: ChainLimits,
) -> Result<Vec<Arc<Record>>, HistoryError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let records = load(store, ids, limits).await?;
    records.into_iter().collect::<Option<_>>().ok_or(HistoryError::AncestorMissing)
}

/// Loads, and holds the backend to its word: as many answers as ids, each the record that was asked for.
async fn load(
    store: &dyn ResponseStore,
    ids: &[ResponseId],
    limits: ChainLimits,
) -> Result<Vec<Option<Arc<Record>>>, StoreError> {
    let records = store.load(ids, Touch::Refresh { longer: limits.longest_turn }).await?;
    let matches = |(record, id): (&Option<Arc<Record>>, &ResponseId)| record.as_ref().is_none_or(|r| r.id == *id);
    if records.len() != ids.len() || !records.iter().zip(ids).all(matches) {
        return Err(StoreError::Corrupt("the store answered with another record".to_owned()));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use serde_json::value::RawValue;

    use super::*;

    /// A store over a map that counts its loads.
    #[derive(Default)]
    struct Counting {
        records: HashMap<ResponseId, Arc<Record>>,
        loads: AtomicUsize,
        down: bool,
    }

    #[async_trait]
    impl ResponseStore for Counting {
        async fn put(&self, _: Arc<Record>) -> Result<(), StoreError> {
            Ok(())
        }

        async fn load(&self, ids: &[ResponseId], touch: Touch) -> Result<Vec<Option<Arc<Record>>>, StoreError> {
            assert_eq!(touch, Touch::Refresh { longer: LIMITS.longest_turn });
            self.loads.fetch_add(1, Ordering::Relaxed);
            if self.down {
                return Err(StoreError::Timeout);
            }
            Ok(ids.iter().map(|id| self.records.get(id).cloned()).collect())
        }

        async fn delete(&self, _: &ResponseId) -> Result<bool, StoreError> {
            Ok(false)
        }

        async fn ready(&self) -> Result<(), StoreError> {
            Ok(())
        }

        fn name(&self) -> &'static str {
            "counting"
        }
    }

    impl Counting {
        fn with(mut self, number: u128, ancestors: Ancestors) -> Self {
            let response = RawValue::from_string(format!("{{\"id\":\"{}\"}}", id(number))).unwrap();
            let record = Record { id: id(number), ancestors, input: Vec::new(), response, interrupted: false };
            self.records.insert(id(number), Arc::new(record));
            self
        }

        fn chain(turns: u128) -> Self {
            (1..=turns).fold(Self::default(), |store, n| store.with(n, listed(1..n)))
        }
    }

    fn id(number: u128) -> ResponseId {
        ResponseId::from_bits(number)
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
        history(store, &id(parent), limits).await.map(|history| history.ancestors_of_child())
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
