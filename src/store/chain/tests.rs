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

const LIMITS: ChainLimits = ChainLimits { max_depth: 1000, max_bytes: 1 << 20, longest_turn: Duration::from_secs(60) };

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
