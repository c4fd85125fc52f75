//! Where responses live between turns: the record, the store trait, and loading a chain.
//!
//! A backend knows nothing of Envoy, of chat or of the wire; it keeps records by id. Two rules hold for every backend
//! (CONTRACT §9): a transport error is never "not found", and a record that was acknowledged can be read at once.

pub mod ancestors;
pub mod chain;
mod codec;
pub mod disk;
mod document;
pub mod figures;
mod foreign;
pub mod holdings;
mod known_items;
pub mod memory;
mod prolonging;
pub mod record;
mod record_json;
pub mod redis;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::id::{IdSource, ResponseId};
use crate::tenant::Tenant;
pub use ancestors::{AncestorIds, Ancestors};
pub use chain::{ChainLimits, History, HistoryError, Wanted, history};
pub use codec::RecordCodec;
pub use disk::{DiskSettings, DiskStore};
pub use figures::{Figure, FigureKind};
pub use holdings::{Holdings, Owner};
pub use known_items::KnownItems;
pub use memory::{MemoryBounds, MemoryStore};
pub use record::Record;
pub use redis::{AtRest, RedisConfigError, RedisStore};

/// Whether reading a record also starts its time to live anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touch {
    /// Leave the expiry as it is: GET and `input_items` do not prolong a response's life.
    Keep,
    /// Start the time to live anew, and let it last so much longer: the turn that is made of a chain is stored only when
    /// it has ended, and must not outlive the turns that it needs.
    Refresh {
        /// The longest until that turn is stored.
        longer: Duration,
    },
}

/// A keeper of responses. One contract suite (`tests/store.rs`) runs over every implementation.
#[async_trait]
pub trait ResponseStore: Send + Sync + 'static {
    /// Writes a record and returns when it can be read back. A second write of the same record is a success
    /// (a retried command looks the same as a first one); another record under the same id is not.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] and [`StoreError::TooLarge`] leave the store as it was; after any other the record may
    /// or may not have been written.
    async fn put(&self, record: Arc<Record>) -> Result<(), StoreError>;

    /// Reads records by id: one answer per id, in the order asked for, `None` where there is none (unknown, deleted or
    /// expired). Refreshing never brings back what a concurrent delete removed.
    ///
    /// # Errors
    /// Any [`StoreError`] for the whole call, when even one of the records could not be asked for.
    async fn load(&self, ids: &[ResponseId], touch: Touch) -> Result<Vec<Option<Arc<Record>>>, StoreError>;

    /// Reads records like [`Self::load`] with [`Touch::Keep`], but each may be told as it was at any time since `since`: a
    /// history is of the time of its load, not of each of its steps.
    ///
    /// # Errors
    /// Those of [`Self::load`].
    async fn load_since(&self, ids: &[ResponseId], since: Instant) -> Result<Vec<Option<Arc<Record>>>, StoreError> {
        let _ = since;
        self.load(ids, Touch::Keep).await
    }

    /// Starts the time to live of records anew, longer by so much, as [`Touch::Refresh`] does. Ids under which there is
    /// nothing are passed over.
    ///
    /// # Errors
    /// Any [`StoreError`]; some of the records may live longer then.
    async fn refresh(&self, ids: &[ResponseId], longer: Duration) -> Result<(), StoreError>;

    /// Removes a record wholly; says whether there was one. Its children stay, and can no longer be continued.
    ///
    /// # Errors
    /// Any [`StoreError`]; the record may or may not be gone then, and the call may be repeated.
    async fn delete(&self, id: &ResponseId) -> Result<bool, StoreError>;

    /// Whether the store can serve now; for readiness. Called every few seconds, so it is cheap.
    ///
    /// # Errors
    /// The [`StoreError`] that an operation would meet now.
    async fn ready(&self) -> Result<(), StoreError>;

    /// How long a record is kept after it was written or last prolonged, at least.
    fn ttl(&self) -> Duration;

    /// Whether an id may name a record of this store that is none of the asker's: such a one is not returned, and nothing
    /// may be prolonged before it is known whose it is.
    fn holds_others(&self) -> bool {
        false
    }

    /// An id for a record that will be written, which may continue `parent`: one of those that `ids` gives, as good a one
    /// as any unless the store is better off with the record in one place rather than another.
    fn id_of_turn(&self, parent: Option<&ResponseId>, ids: &dyn IdSource) -> ResponseId {
        let _ = parent;
        ids.response_id()
    }

    /// The place where a tenant's records lie apart from all others, if there are such places.
    fn place_of(&self, tenant: Tenant) -> Option<Arc<dyn ResponseStore>>;

    /// The backend's name in metrics and logs.
    fn name(&self) -> &'static str;

    /// What the store alone knows of itself, as it is now. Asked for at every scrape, so it is cheap and never waits.
    fn figures(&self) -> Vec<Figure>;
}

/// Why a store operation failed. None of these means that a record does not exist.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The backend cannot be reached, refused the work, or is starting.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// The backend did not answer within the deadline.
    #[error("store did not answer within the deadline")]
    Timeout,
    /// What lies under the key is not the record that was asked for, or cannot be read.
    #[error("record unreadable: {0}")]
    Corrupt(String),
    /// The record is encrypted, and its key is not among those of `response_api.encryption`: a key was taken away too
    /// early, or has not reached this router yet.
    #[error("record unreadable: it is sealed with the key {key:?}, which is not among response_api.encryption.keys")]
    UnknownKey {
        /// The id of the key.
        key: String,
    },
    /// A tenant's record cannot be read. [`Holdings`] tells the cause to that tenant, and to nobody else that there is one.
    #[error("{cause}")]
    OfTenant {
        /// Whose record it is, which stands there in clear.
        tenant: Tenant,
        /// [`Self::Corrupt`] or [`Self::UnknownKey`].
        cause: Box<StoreError>,
    },
    /// The record is larger than the backend can hold.
    #[error("record of {bytes} bytes is larger than the store's bound of {limit}")]
    TooLarge {
        /// Size of the record in bytes.
        bytes: usize,
        /// The bound in bytes.
        limit: usize,
    },
    /// Another record already lies under this id.
    #[error("another record has this id")]
    Conflict,
}

/// An error that may be the store's.
pub trait FromStore {
    /// The store's failure, if it is one.
    fn store_error(&self) -> Option<&StoreError>;
}

impl FromStore for StoreError {
    fn store_error(&self) -> Option<&StoreError> {
        Some(self)
    }
}

impl StoreError {
    /// The kind of failure, in one word for metrics.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Timeout => "timeout",
            Self::Corrupt(_) => "corrupt",
            Self::UnknownKey { .. } => "unknown_key",
            Self::OfTenant { cause, .. } => cause.class(),
            Self::TooLarge { .. } => "too_large",
            Self::Conflict => "conflict",
        }
    }

    /// The same, as an error of reading a record that is this tenant's, if it is one's.
    #[must_use]
    fn of(self, tenant: Option<Tenant>) -> Self {
        match tenant {
            Some(tenant) => Self::OfTenant { tenant, cause: Box::new(self) },
            None => self,
        }
    }

    /// Whether one record is at fault, and the others of the same load are not.
    fn is_of_a_record(&self) -> bool {
        matches!(self, Self::Corrupt(_) | Self::UnknownKey { .. } | Self::OfTenant { .. })
    }

    /// Whether the same operation may succeed later, unchanged.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Timeout)
    }
}
