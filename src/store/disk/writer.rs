//! The one thread that writes the file: it commits in groups, sweeps what expired, opens the file anew after an error.
//!
//! ```text
//!            ┌─ operations ─▶ apply all that wait ─▶ commit ─▶ answer each
//!  waiting ──┤                                         │ error
//!      ▲     └─ a second of silence ─▶ sweep           ▼
//!      │                              close the file, open it anew, refuse all
//!      └─────────── refuse all for a second, or longer ────────┘
//! ```
//!
//! While one group is flushed the next one gathers: the more callers, the more records per flush. Operations take
//! effect in the order in which they were handed over.
//!
//! After an error redb has to be opened anew, which reads the file from end to end, and readers wait for that. So that a
//! disk that stays full takes few reads' time, there is a pause after it, and what is committed for a while then also
//! writes down which pages are in use (redb's "quick repair"): the next time nothing has to be read through.

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use redb::{Database, Durability};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::file::{File, OpenError, Place, Trouble};
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

/// How long to leave the file alone after an error, and how many times as long as it took to open it anew: whichever is
/// longer.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_FACTOR: u32 = 10;

/// How long after an error commits are made such that the file is opened anew fast. They are slower for it.
const WARY: Duration = Duration::from_secs(60);

/// How long the same trouble is not logged again, when it goes and comes.
const LOG_PAUSE: Duration = Duration::from_secs(60);

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

/// Makes the database in a file that was opened, which is at the path.
pub(super) type MakeDatabase = Box<dyn Fn(&Path, std::fs::File) -> Result<Database, OpenError> + Send>;

/// The writer's thread.
pub(super) struct Writer {
    pub(super) file: Arc<File>,
    pub(super) place: Place,
    pub(super) make: MakeDatabase,
    pub(super) queue: Receiver<Queued>,
    pub(super) rules: Rules,
    pub(super) counters: Arc<Counters>,
    pub(super) codec: RecordCodec,
    pub(super) recovery: Recovery,
}

/// What is remembered of the last errors; at first there were none.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// Until when the file is left alone.
    paused: Option<Instant>,
    /// When the last error was.
    failed: Option<Instant>,
    /// The file was opened anew, and nothing was committed since.
    anew: bool,
    /// What was last logged, and when.
    told: Option<(Trouble, Instant)>,
    /// It was logged, and its end not yet.
    tell_end: bool,
}

/// What became of an operation; told once its group is committed.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    Put(Put),
    /// Whether it existed.
    Deleted(bool),
    Refreshed,
}

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
    pub(super) fn run(mut self) {
        let mut done = Done { flushed: true, more_expired: false };
        loop {
            let group = match self.queue.recv_timeout(if done.more_expired { Duration::ZERO } else { TICK }) {
                Ok(first) => self.gather(first),
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if !self.may_write() {
                done.more_expired = false;
                self.refuse(group);
                continue;
            }
            let idle = group.is_empty() && !done.more_expired;
            // A flush shows whether the disk is well again, also where nobody writes.
            let failing = self.file.trouble() == Some(Trouble::Failing);
            match self.work(group, failing || (idle && !done.flushed)) {
                Some(now_done) => done = now_done,
                None => done = Done { flushed: true, more_expired: false },
            }
        }
        if !done.flushed && self.work(Vec::new(), true).is_none() {
            tracing::warn!("the last refreshes of the disk store were not flushed");
        }
        self.file.close();
        self.file.reopened(None);
    }

    /// Whether there is a file to write, which has its name and is not to be left alone.
    fn may_write(&mut self) -> bool {
        if let Err(error) = self.place.check() {
            self.complain(Trouble::Gone, &error);
            return false;
        }
        if self.file.trouble() == Some(Trouble::Gone) {
            // It is back; whether it can be written is seen next.
            self.file.set_trouble(Some(Trouble::Failing));
        }
        if self.recovery.paused.is_some_and(|until| Instant::now() < until) {
            return false;
        }
        if !self.file.is_open() {
            if !self.open_anew() {
                return false;
            }
            // The pause was before it.
            self.recovery.paused = None;
        }
        true
    }

    /// Says whether it worked. After an error redb takes no more writes, and may not even read, until it is opened anew.
    fn open_anew(&mut self) -> bool {
        // Closed first: the file is locked as long as it is open.
        self.file.close();
        self.counters.reopened.one();
        let began = Instant::now();
        let database = self.place.open().and_then(|file| (self.make)(self.place.path(), file));
        let ended = Instant::now();
        self.recovery.paused = Some(ended + PAUSE.max(ended.duration_since(began).saturating_mul(PAUSE_FACTOR)));
        match database {
            Ok(database) => {
                self.recovery.anew = true;
                self.file.reopened(Some(database));
                true
            }
            Err(error) => {
                let gone = matches!(error, OpenError::Gone(_));
                self.complain(if gone { Trouble::Gone } else { Trouble::Failing }, &error);
                // Last, so that readers who waited are told why.
                self.file.reopened(None);
                false
            }
        }
    }

    /// Takes note of what is wrong, and logs it when it begins, but not as often as it may come and go.
    fn complain(&mut self, trouble: Trouble, error: &dyn std::fmt::Display) {
        if self.file.set_trouble(Some(trouble)) == Some(trouble) {
            return;
        }
        if self.recovery.told.is_some_and(|(told, at)| told == trouble && at.elapsed() < LOG_PAUSE) {
            return;
        }
        self.recovery.told = Some((trouble, Instant::now()));
        self.recovery.tell_end = true;
        tracing::error!(%error, "the disk store cannot write until this is over, and tries by itself");
    }

    /// Drops a group, which tells its callers.
    fn refuse(&self, group: Vec<Queued>) {
        if self.file.trouble() == Some(Trouble::Full) {
            for queued in &group {
                if matches!(queued.operation, Operation::Put { .. }) {
                    self.counters.refused_for_space.one();
                }
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

    /// Applies, commits and answers a group; `None` after an error, of which the group was told. `flush` flushes what
    /// earlier groups left.
    fn work(&mut self, group: Vec<Queued>, flush: bool) -> Option<Done> {
        // An empty commit needs little room, and once it is there an error after it costs no reading through.
        let result = if self.recovery.anew && (flush || !group.is_empty()) {
            self.caught(&[], true).map(|_| ())
        } else {
            Ok(())
        };
        match result.and_then(|()| self.caught(&group, flush)) {
            Ok((done, outcomes)) => {
                if done.flushed && (flush || !group.is_empty()) {
                    // Before anybody is told, so that who was told finds the store ready.
                    self.recovered(!group.is_empty());
                }
                group.into_iter().zip(outcomes).for_each(|(queued, outcome)| self.answer(queued, outcome));
                Some(done)
            }
            Err((trouble, error)) => {
                self.complain(trouble, &error);
                self.recovery.failed = Some(Instant::now());
                self.refuse(group);
                self.open_anew();
                None
            }
        }
    }

    /// Takes note of a flush that succeeded. One without a record shows nothing of room for records.
    fn recovered(&mut self, with_operations: bool) {
        self.recovery.anew = false;
        if with_operations || self.file.trouble() != Some(Trouble::Full) {
            self.file.set_trouble(None);
            if std::mem::take(&mut self.recovery.tell_end) {
                tracing::info!("the disk store writes again");
            }
        }
    }

    fn caught(&self, group: &[Queued], flush: bool) -> Result<(Done, Vec<Outcome>), (Trouble, String)> {
        // redb panics over a file that something else has damaged; this thread has to live on and say so.
        match catch_unwind(AssertUnwindSafe(|| self.commit(group, flush))) {
            Ok(result) => result.map_err(|error| (trouble(&error), error.to_string())),
            Err(_) => Err((Trouble::Failing, "redb panicked".to_owned())),
        }
    }

    fn commit(&self, group: &[Queued], flush: bool) -> Result<(Done, Vec<Outcome>), redb::Error> {
        let mut transaction = self.file.with(Database::begin_write).ok_or(redb::Error::DatabaseClosed)??;
        let mut tables = Tables::open(&transaction)?;
        let outcomes = group.iter().map(|queued| self.apply(&mut tables, queued)).collect::<Result<Vec<_>, _>>()?;
        let swept = tables.sweep(now().saturating_sub(self.rules.sweep_delay), SWEEP_RECORDS)?;
        let holding = tables.close()?;
        let more_expired = swept == SWEEP_RECORDS;
        if group.is_empty() && swept == 0 && !flush {
            transaction.abort()?;
            return Ok((Done { flushed: true, more_expired }, outcomes));
        }
        let refreshes_only = outcomes.iter().all(|outcome| matches!(outcome, Outcome::Refreshed));
        let flushed = flush || !refreshes_only || swept > 0;
        transaction.set_durability(if flushed { Durability::Immediate } else { Durability::None })?;
        if flushed && self.recovery.failed.is_some_and(|at| at.elapsed() < WARY) {
            transaction.set_quick_repair(true);
        }
        transaction.commit()?;
        self.counters.holds(holding);
        self.counters.swept.add(u64::try_from(swept).unwrap_or(u64::MAX));
        Ok((Done { flushed, more_expired }, outcomes))
    }

    fn apply(&self, tables: &mut Tables<'_>, queued: &Queued) -> Result<Outcome, redb::Error> {
        let Rules { ttl, slack, max_bytes, .. } = self.rules;
        let at = queued.at;
        let expiry = at.saturating_add(ttl);
        match &queued.operation {
            Operation::Put { id, document, .. } => {
                tables.put(id, document, at, expiry, max_bytes, &self.codec).map(Outcome::Put)
            }
            Operation::Delete { id, .. } => tables.delete(id, at).map(Outcome::Deleted),
            Operation::Refresh { ids, longer } => {
                let expiry = expiry.saturating_add(*longer).saturating_add(slack);
                for id in ids {
                    tables.refresh(id, at, expiry)?;
                }
                Ok(Outcome::Refreshed)
            }
        }
    }

    fn answer(&self, queued: Queued, outcome: Outcome) {
        // First, so that who was told finds its share of the queue free.
        drop(queued.permit);
        // An answer that nobody waits for any more is dropped.
        match (queued.operation, outcome) {
            (Operation::Put { document, reply, .. }, Outcome::Put(put)) => {
                let _ = reply.send(match put {
                    Put::Stored => {
                        self.counters.bytes_written.add_all(document.len());
                        Ok(())
                    }
                    Put::Conflict => Err(StoreError::Conflict),
                    Put::Full => {
                        self.counters.refused_for_space.one();
                        Err(StoreError::Unavailable("disk.max_bytes is reached".to_owned()))
                    }
                });
            }
            (Operation::Delete { reply, .. }, Outcome::Deleted(existed)) => {
                let _ = reply.send(existed);
            }
            // A refresh is not waited for, and the others are each answered by their own.
            _ => {}
        }
    }
}

fn trouble(error: &redb::Error) -> Trouble {
    match error {
        redb::Error::Io(error) => match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => Trouble::Full,
            _ => Trouble::Failing,
        },
        _ => Trouble::Failing,
    }
}
