//! The one thread that writes the file: it commits in groups, sweeps what expired, opens the file anew after an error.
//!
//! ```text
//!            ┌─ operations ─▶ apply all that wait ─▶ commit ─▶ answer each
//!  waiting ──┤                                         │ error
//!      ▲     └─ a second of silence ─▶ sweep           ▼
//!      │                              close the file, open it anew ── error ─▶ refuse all, try again in a second
//!      └───────────────────────────────────────────────┘
//! ```
//!
//! While one group is flushed the next one gathers: the more callers, the more records per flush. Operations take
//! effect in the order in which they were handed over.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use redb::{Database, Durability};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::file::{File, OpenError};
use super::tables::{Put, Tables};
use super::{Counters, Millis, now};
use crate::id::ResponseId;
use crate::store::{RecordCodec, StoreError};

/// The most operations and the most bytes of documents in one group; bounds how long a caller waits for others.
const GROUP_OPERATIONS: usize = 1024;
const GROUP_BYTES: usize = 16 << 20;

/// How often to look for what expired, and how long a refresh may stay unflushed.
const TICK: Duration = Duration::from_secs(1);

/// How many expired records one commit takes away.
const SWEEP_RECORDS: usize = 256;

/// How long to wait between two attempts to open the file.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// What the writer is asked to do. Whoever asks learns of a failure by the end of `reply`.
pub(super) enum Operation {
    Put { id: ResponseId, document: Vec<u8>, reply: oneshot::Sender<Result<(), StoreError>> },
    Delete { id: ResponseId, reply: oneshot::Sender<bool> },
    Refresh { ids: Vec<ResponseId>, longer: Millis },
}

/// An operation on its way.
pub(super) struct Queued {
    pub(super) operation: Operation,
    /// When it was asked for: what had not expired then counts as there.
    pub(super) at: Millis,
    /// Its share of the queue, given back when it is done.
    pub(super) permit: OwnedSemaphorePermit,
}

/// How long records live, and how many fit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) ttl: Millis,
    /// How much longer than `ttl` a refreshed record lives, so that the uses soon after need not refresh it again.
    pub(super) slack: Millis,
    /// How much later than they expire records are swept: a refresh that waits in the queue must find the record that
    /// its reader was given.
    pub(super) sweep_delay: Millis,
    pub(super) max_bytes: Option<u64>,
}

/// Makes the file's database again.
pub(super) type Reopen = Box<dyn Fn() -> Result<Database, OpenError> + Send>;

/// The writer's thread.
pub(super) struct Writer {
    pub(super) file: Arc<File>,
    pub(super) reopen: Reopen,
    pub(super) queue: Receiver<Queued>,
    pub(super) rules: Rules,
    pub(super) counters: Arc<Counters>,
    pub(super) codec: RecordCodec,
}

/// An answer that is due once the group is committed.
type Answer = Box<dyn FnOnce()>;

/// What a transaction did.
#[derive(Debug, Default, Clone, Copy)]
struct Done {
    /// Whether all that was written up to here would survive a power cut.
    flushed: bool,
    /// Whether expired records may be left.
    more_expired: bool,
}

impl Writer {
    /// Works until every sender is gone and the queue is empty; then flushes and closes the file.
    pub(super) fn run(self) {
        let mut done = Done { flushed: true, more_expired: false };
        let mut opened = Instant::now();
        loop {
            let group = match self.queue.recv_timeout(if done.more_expired { Duration::ZERO } else { TICK }) {
                Ok(first) => self.gather(first),
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if !self.file.is_open() && (opened.elapsed() < REOPEN_PAUSE || !self.open_anew(&mut opened)) {
                // Dropping the group tells its callers.
                continue;
            }
            let flush = group.is_empty() && !done.more_expired && (!done.flushed || self.file.is_failing());
            match self.work(group, flush) {
                Ok(now_done) => done = now_done,
                Err(error) => {
                    tracing::error!(error, "the disk store cannot write, its file is opened anew");
                    done = Done { flushed: true, more_expired: false };
                    self.file.set_failing(true);
                    self.open_anew(&mut opened);
                }
            }
        }
        if !done.flushed
            && let Err(error) = self.work(Vec::new(), true)
        {
            tracing::warn!(error, "the last refreshes of the disk store were not flushed");
        }
        self.file.replace(None);
    }

    /// Says whether it worked. After an error redb takes no more writes, and may not even read, until it is opened anew.
    fn open_anew(&self, opened: &mut Instant) -> bool {
        // Closed first: the file is locked as long as it is open.
        self.file.replace(None);
        self.counters.reopened.one();
        let database = (self.reopen)();
        *opened = Instant::now();
        match database {
            Ok(database) => {
                self.file.replace(Some(database));
                true
            }
            Err(error) => {
                tracing::error!(%error, "the disk store is closed until its file can be opened");
                false
            }
        }
    }

    /// Takes what waits, up to a group.
    fn gather(&self, first: Queued) -> Vec<Queued> {
        let bytes = |queued: &Queued| match &queued.operation {
            Operation::Put { document, .. } => document.len(),
            Operation::Delete { .. } | Operation::Refresh { .. } => 0,
        };
        let mut total = bytes(&first);
        let mut group = vec![first];
        while group.len() < GROUP_OPERATIONS && total < GROUP_BYTES {
            let Ok(next) = self.queue.try_recv() else { break };
            total += bytes(&next);
            group.push(next);
        }
        group
    }

    /// Applies, commits and answers a group; on an error nobody is answered. `flush` flushes what earlier groups left.
    fn work(&self, group: Vec<Queued>, flush: bool) -> Result<Done, String> {
        // redb panics over a file that something else has damaged; this thread has to live on and say so.
        match catch_unwind(AssertUnwindSafe(|| self.commit(group, flush))) {
            Ok(Ok((done, answers))) => {
                // Before anybody is told, so that who was told finds the store ready.
                self.file.set_failing(false);
                answers.into_iter().for_each(|answer| answer());
                Ok(done)
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("redb panicked".to_owned()),
        }
    }

    fn commit(&self, group: Vec<Queued>, flush: bool) -> Result<(Done, Vec<Answer>), redb::Error> {
        let mut transaction = self.file.with(Database::begin_write).ok_or(redb::Error::DatabaseClosed)??;
        let mut answers = Vec::with_capacity(group.len());
        let mut tables = Tables::open(&transaction)?;
        let refreshes_only = group.iter().all(|queued| matches!(queued.operation, Operation::Refresh { .. }));
        let idle = group.is_empty();
        for queued in group {
            answers.push(self.apply(&mut tables, queued)?);
        }
        let swept = tables.sweep(now().saturating_sub(self.rules.sweep_delay), SWEEP_RECORDS)?;
        let holding = tables.close()?;
        let more_expired = swept == SWEEP_RECORDS;
        if idle && swept == 0 && !flush {
            transaction.abort()?;
            return Ok((Done { flushed: true, more_expired }, answers));
        }
        let flushed = flush || !refreshes_only || swept > 0;
        transaction.set_durability(if flushed { Durability::Immediate } else { Durability::None })?;
        transaction.commit()?;
        self.counters.holds(holding);
        self.counters.swept.add(u64::try_from(swept).unwrap_or(u64::MAX));
        Ok((Done { flushed, more_expired }, answers))
    }

    fn apply(&self, tables: &mut Tables<'_>, queued: Queued) -> Result<Answer, redb::Error> {
        let Rules { ttl, slack, max_bytes, .. } = self.rules;
        let Queued { operation, at, permit } = queued;
        let expiry = at.saturating_add(ttl);
        // An answer that nobody waits for any more is dropped.
        match operation {
            Operation::Put { id, document, reply } => {
                let put = tables.put(&id, &document, at, expiry, max_bytes, &self.codec)?;
                let counters = Arc::clone(&self.counters);
                Ok(Box::new(move || {
                    drop(permit);
                    let _ = reply.send(match put {
                        Put::Stored => {
                            counters.bytes_written.add_all(document.len());
                            Ok(())
                        }
                        Put::Conflict => Err(StoreError::Conflict),
                        Put::Full => {
                            counters.refused_for_space.one();
                            Err(StoreError::Unavailable("disk.max_bytes is reached".to_owned()))
                        }
                    });
                }))
            }
            Operation::Delete { id, reply } => {
                let existed = tables.delete(&id, at)?;
                Ok(Box::new(move || {
                    drop(permit);
                    let _ = reply.send(existed);
                }))
            }
            Operation::Refresh { ids, longer } => {
                let expiry = expiry.saturating_add(longer).saturating_add(slack);
                for id in &ids {
                    tables.refresh(id, at, expiry)?;
                }
                Ok(Box::new(move || drop(permit)))
            }
        }
    }
}
