//! The store as an exchange uses it: every operation with a deadline, and no answer forgotten half-way.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::id::{IdSource, ResponseId};
use crate::openai::responses::ResponseError;
use crate::store::chain::{self, ChainLimits, History, HistoryError, Wanted};
use crate::store::{
    AncestorIds, Ancestors, FromStore, Holdings, KnownItems, Owner, Record, ResponseStore, StoreError, Touch,
};
use crate::telemetry::Account;
use crate::telemetry::facts::Stored;
use crate::telemetry::metrics::Metrics;
use crate::translate::{End, Finished, Outcome, ResponseStream};

/// Where a response comes from.
#[derive(Debug, Clone)]
pub struct Lineage {
    /// Whose it is.
    pub owner: Owner,
    /// The turns before it.
    pub ancestors: AncestorIds,
}

/// A store with deadlines. Cheap to clone. Whatever is asked of it is asked on someone's behalf ([`Holdings`]).
#[derive(Clone)]
pub struct Keeping {
    /// Where the records are.
    pub store: Arc<dyn ResponseStore>,
    /// How long any one operation may take; loading a chain is two of them.
    pub deadline: Duration,
    /// Tasks that outlive their exchange, so that a drain can wait for them.
    pub tasks: TaskTracker,
    /// Counts what fails.
    pub metrics: Arc<Metrics>,
}

impl Keeping {
    fn holdings(&self, owner: Owner) -> Holdings {
        Holdings::new(&self.store, owner)
    }

    /// One record of the owner's, without prolonging its life.
    ///
    /// # Errors
    /// [`StoreError`]; not found is `None`.
    pub async fn fetch(&self, owner: Owner, id: &ResponseId) -> Result<Option<Arc<Record>>, StoreError> {
        let ids = std::slice::from_ref(id);
        let records = self.within("get", self.holdings(owner).load(ids, Touch::Keep)).await?;
        Ok(records.into_iter().next().flatten())
    }

    /// Removes a record of the owner's; says whether there was one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn delete(&self, owner: Owner, id: &ResponseId) -> Result<bool, StoreError> {
        self.within("delete", self.holdings(owner).delete(id)).await
    }

    /// The chain that ends with the parent and what is referred to besides, all of it the owner's, prolonging its life.
    ///
    /// # Errors
    /// [`HistoryError`]; a hole in the chain is one, never a shorter history.
    pub async fn history(
        &self,
        owner: Owner,
        wanted: Wanted<'_>,
        limits: ChainLimits,
    ) -> Result<History, HistoryError> {
        if wanted.is_empty() {
            return Ok(History::default());
        }
        let began = Instant::now();
        let holdings = self.holdings(owner);
        // Pinned (see `in_place`), and gone with this statement, with all that it holds of the store's bounds.
        let limit = self.deadline.saturating_mul(2);
        let result = tokio::time::timeout(limit, pin!(chain::history(&holdings, wanted, limits))).await;
        let result = result.unwrap_or(Err(HistoryError::Store(StoreError::Timeout)));
        let failure = result.as_ref().err().and_then(FromStore::store_error);
        self.note("history", failure, began.elapsed());
        result
    }

    /// An id for a turn of the owner's that will be stored, and may continue `parent`.
    #[must_use]
    pub fn id_of_turn(&self, owner: Owner, parent: Option<&ResponseId>, ids: &dyn IdSource) -> ResponseId {
        self.holdings(owner).id_of_turn(parent, ids)
    }

    /// Writes the record of a finished answer, and waits until the store has acknowledged it.
    ///
    /// Dropping the future, once polled, does not lose the record: the write then goes on, or is repeated, in a task of its
    /// own.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn keep(&self, owner: Owner, record: Record, writing: Writing) -> Result<(), StoreError> {
        let record = Arc::new(record);
        if writing == Writing::Alone {
            let written = self.keep_in_background(owner, record).await;
            return written.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string())));
        }
        let mut unwritten = Unwritten { keeping: self, owner, record: Some(Arc::clone(&record)) };
        let result = self.within("put", self.holdings(owner).put(record)).await;
        unwritten.record = None;
        result
    }

    /// Writes in a task of its own. A failure is counted and logged, for there may be nobody to tell.
    fn keep_in_background(&self, owner: Owner, record: Arc<Record>) -> JoinHandle<Result<(), StoreError>> {
        let keeping = self.clone();
        self.tasks.spawn(async move { keeping.within("put", keeping.holdings(owner).put(record)).await })
    }

    async fn within<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let began = Instant::now();
        let result = tokio::time::timeout(self.deadline, work).await.unwrap_or(Err(StoreError::Timeout));
        self.note(operation, result.as_ref().err(), began.elapsed());
        result
    }

    fn note(&self, operation: &'static str, failure: Option<&StoreError>, took: Duration) {
        if let Some(error) = failure {
            tracing::warn!(operation, store = self.store.name(), %error, "store operation failed");
        }
        self.metrics.store.done(self.store.name(), operation, failure.map(StoreError::class), took);
    }
}

/// What is kept of a finished answer.
///
/// # Errors
/// [`StoreError::Corrupt`], never in practice: what the answer was made of is JSON.
pub(super) fn record(finished: &mut Finished, lineage: &Lineage) -> Result<Record, StoreError> {
    let (response, input) = finished.take_stored().map_err(|error| StoreError::Corrupt(error.to_string()))?;
    Ok(Record {
        id: finished.plan().id.clone(),
        ancestors: Ancestors::Listed(lineage.ancestors.clone()),
        input,
        response,
        interrupted: *finished.outcome() == Outcome::Disconnected,
        tenant: lineage.owner.tenant(),
        items: KnownItems::default(),
    })
}

/// Who drives the write of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// The exchange, which has nothing to do meanwhile.
    ByExchange,
    /// A task of its own: an exchange that has sent something is not polled while Envoy does not read it, and others wait
    /// for a write's share of the store's bounds.
    Alone,
}

/// A record whose write has begun and was not acknowledged.
struct Unwritten<'a> {
    keeping: &'a Keeping,
    owner: Owner,
    record: Option<Arc<Record>>,
}

impl Drop for Unwritten<'_> {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            drop(self.keeping.keep_in_background(self.owner, record));
        }
    }
}

/// A stream whose answer has begun. If the exchange is dropped (the client hung up, or the upstream broke off), what
/// was produced is stored as incomplete, because the client knows the id since `response.created`.
pub struct LiveStream {
    /// There until it is finished.
    machine: Option<Box<ResponseStream>>,
    lineage: Lineage,
    keeping: Keeping,
    account: Account,
    now: fn() -> u64,
}

impl LiveStream {
    /// Watches over a stream. `now` gives seconds since the epoch.
    pub fn new(
        machine: Box<ResponseStream>,
        lineage: Lineage,
        keeping: Keeping,
        account: Account,
        now: fn() -> u64,
    ) -> Self {
        Self { machine: Some(machine), lineage, keeping, account, now }
    }

    /// See [`ResponseStream::feed`].
    pub fn feed(&mut self, bytes: &[u8]) -> usize {
        self.machine.as_mut().map_or(0, |machine| machine.feed(bytes))
    }

    /// See [`ResponseStream::take`].
    pub fn take(&mut self) -> Bytes {
        self.note_ready();
        self.machine.as_mut().map_or_else(Bytes::new, |machine| machine.take())
    }

    fn note_ready(&self) {
        if let Some(machine) = &self.machine
            && machine.ready_bytes() > 0
        {
            self.account.events(machine.events(), machine.has_content());
        }
    }

    /// See [`ResponseStream::heartbeat`].
    pub fn heartbeat(&mut self) -> Bytes {
        let Some(machine) = &mut self.machine else { return Bytes::new() };
        self.account.heartbeat();
        machine.heartbeat()
    }

    /// See [`ResponseStream::kept_bytes`].
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        self.machine.as_ref().map_or(0, |machine| machine.kept_bytes())
    }

    /// See [`ResponseStream::is_over`].
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.machine.as_ref().is_none_or(|machine| machine.is_over())
    }

    /// See [`ResponseStream::has_failed`].
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.machine.as_ref().is_some_and(|machine| machine.has_failed())
    }

    /// Ends the stream, which is no longer watched over. What was not taken of it is what its end begins with.
    #[must_use]
    pub fn finish(mut self, end: End) -> Option<(Box<Finished>, Lineage)> {
        self.note_ready();
        let finished = Box::new(self.machine.take()?.finish(end, (self.now)()));
        self.account.note(|facts| facts.response_ended(&finished, end));
        let ancestors = std::mem::take(&mut self.lineage.ancestors);
        Some((finished, Lineage { owner: self.lineage.owner, ancestors }))
    }
}

impl Drop for LiveStream {
    fn drop(&mut self) {
        let Some(machine) = self.machine.take() else { return };
        // A panic may have left the machine broken; a second one while unwinding would end the process.
        if std::thread::panicking() {
            return;
        }
        let mut finished = machine.finish(End::Disconnected, (self.now)());
        self.account.note(|facts| facts.response_ended(&finished, End::Disconnected));
        if !finished.plan().store {
            return;
        }
        self.account.note(|facts| facts.stored = Stored::InBackground);
        match record(&mut finished, &self.lineage) {
            Ok(record) => drop(self.keeping.keep_in_background(self.lineage.owner, Arc::new(record))),
            Err(error) => tracing::error!(%error, "an interrupted response could not be stored"),
        }
    }
}

/// The error of a response that the store refused.
#[must_use]
pub fn unstored(error: &StoreError) -> ResponseError {
    let wire = super::refusal::store(error);
    ResponseError { code: wire.code.unwrap_or_else(|| "server_error".to_owned()), message: wire.message }
}
