//! Loading the turns that a new one continues, and those whose items it refers to.
//!
//! A record names all its ancestors, so a chain of any depth takes two dependent loads: the parent together with what
//! is referred to, then everything above the parent at once. A chain's bytes were bounded when it was made, so that it
//! is loaded in one go; what is referred to was never together before, and is loaded a few at a time. Only records of
//! the Go semantic-router, which know their parent alone, are walked one by one. The result is the whole history or an
//! error: a model must never answer from a history with a hole (CONTRACT §8).

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use foldhash::{HashMap, HashSet, HashSetExt as _};

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
        let listed = match self.records.last().map(|parent| (&parent.ancestors, &parent.id)) {
            // The whole list, with the parent behind it, is there already.
            Some((Ancestors::Listed(above), parent)) => above.and(parent).ok(),
            Some((Ancestors::Walk(_), _)) | None => None,
        };
        let listed = listed.unwrap_or_else(|| self.records.iter().map(|record| record.id.clone()).collect());
        listed.kept(self.kept_until)
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
    // Pinned, see `in_place`.
    let chain = pin!(climb(store, walk, loaded, parent, prolonging, since));
    let prolonged = pin!(prolong(store, &to_prolong, prolonging.longer));
    let (history, ()) = futures_util::future::try_join(chain, prolonged).await?;
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
        walk.add(Arc::clone(&record))?;
        match &record.ancestors {
            Ancestors::Listed(listed) => {
                let ids = listed.read()?;
                walk.enter(&ids)?;
                let (touch, kept_until) = prolonging.of(listed);
                let reading = match touch {
                    Touch::Keep => Reading::Since(since),
                    Touch::Refresh { .. } => Reading::Now(touch),
                };
                for record in loaded.with(store, &ids, reading).await?.into_iter().rev() {
                    walk.add(record.ok_or(HistoryError::AncestorMissing)?)?;
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

/// Reads records; holds the backend to its word: as many answers as ids, each the record that was asked for.
async fn read(
    store: &dyn ResponseStore,
    ids: &[ResponseId],
    reading: Reading,
) -> Result<Vec<Option<Arc<Record>>>, StoreError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let records = match reading {
        Reading::Now(touch) => store.load(ids, touch).await?,
        Reading::Since(since) => store.load_since(ids, since).await?,
    };
    let matches = |(record, id): (&Option<Arc<Record>>, &ResponseId)| record.as_ref().is_none_or(|r| r.id == *id);
    if records.len() != ids.len() || !records.iter().zip(ids).all(matches) {
        return Err(StoreError::Corrupt("the store answered with another record".to_owned()));
    }
    Ok(records)
}

/// What has been loaded and has no place in the chain yet.
#[derive(Default)]
struct Loaded(HashMap<ResponseId, Arc<Record>>);

impl Loaded {
    /// Loads what is not there already, in one go.
    async fn load(
        &mut self,
        store: &dyn ResponseStore,
        ids: &[ResponseId],
        reading: Reading,
    ) -> Result<(), StoreError> {
        let records = read(store, &self.missing(ids), reading).await?;
        self.0.extend(records.into_iter().flatten().map(|record| (record.id.clone(), record)));
        Ok(())
    }

    /// Loads what is not there already, in one go, and gives all of them, each in its place.
    async fn with(
        &mut self,
        store: &dyn ResponseStore,
        ids: &[ResponseId],
        reading: Reading,
    ) -> Result<Vec<Option<Arc<Record>>>, StoreError> {
        let mut read = read(store, &self.missing(ids), reading).await?.into_iter();
        Ok(ids.iter().map(|id| self.take(id).or_else(|| read.next().flatten())).collect())
    }

    /// Those that are not there, in their order.
    fn missing<'a>(&self, ids: &'a [ResponseId]) -> Cow<'a, [ResponseId]> {
        if self.0.is_empty() {
            return Cow::Borrowed(ids);
        }
        Cow::Owned(ids.iter().filter(|id| !self.0.contains_key(*id)).cloned().collect())
    }

    fn bytes(&self) -> usize {
        self.0.values().fold(0, |sum, record| sum.saturating_add(record.payload_bytes()))
    }

    fn take(&mut self, id: &ResponseId) -> Option<Arc<Record>> {
        if self.0.is_empty() { None } else { self.0.remove(id) }
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
        self.seen.reserve(ids.len());
        for id in ids {
            if !self.seen.insert(id.clone()) {
                return Err(HistoryError::Cycle);
            }
        }
        Ok(())
    }

    fn add(&mut self, record: Arc<Record>) -> Result<(), HistoryError> {
        self.count(&record)?;
        self.newest_first.push(record);
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
mod tests;
