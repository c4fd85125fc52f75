//! Records in one file of this machine: durable without a Redis, for one router at a time. Built on redb.
//!
//! What it promises:
//! - A put or a delete is acknowledged when it is flushed (`fdatasync`): neither `kill -9` nor a power cut takes it back.
//! - A refresh is not waited for. It is visible to all after a moment and flushed with the next write, or within about a
//!   second; a crash or an error of the disk may lose that second's refreshes, never a record. What is asked for in order takes effect in order, so
//!   a child's acknowledged record stands behind refreshed parents.
//! - An expired record is never returned, though its bytes are swept later. A refreshed record lives for at least the
//!   time to live, and what the refresh adds, and up to 1/32 longer: a chain in steady use then writes its ancestors' expiries rarely.
//! - A deleted record is in no table any more. redb writes copies and frees pages, it does not wipe them: the old bytes stay
//!   in free pages of the file until other records overwrite them. Where that matters, encrypt the disk.
//! - Freed pages are used again; the file itself shrinks only where its end is free.
//! - A killed router's file is checked from end to end when it is opened next: 0.5 s for 23,000 records of 2 KB. redb's
//!   "quick repair" would spare that for a third to a half of the writes per second: not taken.
//! - Errors of the disk are [`StoreError::Unavailable`]. After an error redb neither writes nor reads what it does not
//!   hold in memory, so the file is then opened anew by itself, once and, where that fails, every second. Reads wait for it.
//!   Writes are refused meanwhile and for a pause after it, so that a disk that stays full takes few reads' time.
//! - A full disk leaves the store ready, like `max_bytes` that is reached: the router that has the file is the only one
//!   that can read it, and if it were sent no requests, no write could show that there is room again.
//! - A file that is removed or replaced while it is open is never made again, and no other one is read in its place. Writes
//!   are refused and the store is not ready until the file is back or the router is started anew; reads of the open file
//!   go on.
//!
//! Times are the system's clock's, since expiries outlive the process: set forward, records expire earlier, and vice
//! versa.

mod file;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use redb::Database;
use tokio::sync::{Semaphore, oneshot};

pub use self::file::OpenError;
use self::file::{File, Place, Trouble};
use self::tables::{Holding, Snapshot};
use self::writer::{MakeDatabase, Operation, Queued, Recovery, Rules, Writer};
use super::figures::{self, Figure, Tally};
use super::{Record, RecordCodec, ResponseStore, StoreError, Touch};
use crate::id::ResponseId;
use crate::tenant::Tenant;

/// Milliseconds since the epoch, or of a duration.
type Millis = u64;

/// The most bytes that wait for the writer; beyond, callers wait to hand over theirs, until their deadlines.
const QUEUE_BYTES: u32 = 64 << 20;

/// What an operation counts for in the queue beside its document.
const OPERATION_BYTES: usize = 1024;

/// How long an expired record stays in the file; longer than an operation may wait for the writer.
const SWEEP_DELAY: Duration = Duration::from_secs(30);

/// The part of its time to live that a refreshed record may outlive it by.
const SLACK_DIVISOR: Millis = 32;

/// Where a [`DiskStore`] is, and how much it may hold for how long.
#[derive(Debug, Clone)]
pub struct DiskSettings {
    /// The file (`response_api.disk.path`); its directory has to be there.
    pub path: PathBuf,
    /// The most bytes of records, some 256 bytes of bookkeeping for each included; a put beyond is refused as
    /// [`StoreError::Unavailable`] until others are deleted or expire. The file is larger: it also holds free pages.
    pub max_bytes: Option<NonZeroU64>,
    /// What redb may keep of the file in memory.
    pub cache_bytes: usize,
    /// The time to live of a record since it was written or last used by a chain.
    pub ttl: Duration,
    /// How records lie in the file.
    pub codec: RecordCodec,
}

/// The store in a file. Dropping it waits for the last writes and closes the file.
///
/// Reads run on tokio's blocking threads: a page that is not cached comes from the disk.
pub struct DiskStore {
    file: Arc<File>,
    /// There until the store is dropped.
    writer: Option<(Sender<Queued>, JoinHandle<()>)>,
    /// One permit per byte.
    queue: Arc<Semaphore>,
    ttl: Millis,
    counters: Arc<Counters>,
    codec: RecordCodec,
}

/// What the store counts.
#[derive(Debug, Default)]
struct Counters {
    items: AtomicU64,
    bytes: AtomicU64,
    bytes_written: Tally,
    swept: Tally,
    refused_for_space: Tally,
    reopened: Tally,
}

impl Counters {
    /// Takes note of what is committed.
    fn holds(&self, Holding { items, bytes }: Holding) {
        self.items.store(items, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }
}

impl DiskStore {
    /// Opens the file, or makes it (for this user alone). Blocks; for long when a large file has to be repaired after a
    /// crash.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(settings: &DiskSettings) -> Result<Self, OpenError> {
        let ttl = millis(settings.ttl);
        let rules = Rules {
            ttl,
            slack: ttl / SLACK_DIVISOR,
            sweep_delay: millis(SWEEP_DELAY),
            max_bytes: settings.max_bytes.map(NonZeroU64::get),
        };
        let DiskSettings { path, cache_bytes, codec, .. } = settings.clone();
        let make = move |path: &Path, file| file::database(path, file, cache_bytes);
        Self::over(Place::make(&path)?, Box::new(make), rules, codec)
    }

    fn over(place: Place, make: MakeDatabase, rules: Rules, codec: RecordCodec) -> Result<Self, OpenError> {
        let file = Arc::new(File::new(make(place.path(), place.open()?)?));
        let counters = Arc::new(Counters::default());
        // A file that cannot tell cannot be read either, and the first operation says so.
        if let Some(Ok(holding)) = file.with(tables::holding) {
            counters.holds(holding);
        }
        let (sender, queue) = mpsc::channel();
        let writer = Writer {
            file: Arc::clone(&file),
            place,
            make,
            queue,
            rules,
            counters: Arc::clone(&counters),
            codec: codec.clone(),
            recovery: Recovery::default(),
        };
        let thread = std::thread::Builder::new().name("disk-store".to_owned()).spawn(move || writer.run());
        let thread = thread.map_err(OpenError::NoThread)?;
        let queue = Arc::new(Semaphore::new(QUEUE_BYTES as usize));
        Ok(Self { file, writer: Some((sender, thread)), queue, ttl: rules.ttl, counters, codec })
    }

    /// Hands an operation to the writer; waits while its queue is full.
    async fn enqueue(&self, operation: Operation, bytes: usize, at: Millis) -> Result<(), StoreError> {
        let share = u32::try_from(bytes.saturating_add(OPERATION_BYTES)).unwrap_or(u32::MAX).min(QUEUE_BYTES);
        let permit = Arc::clone(&self.queue).acquire_many_owned(share).await.map_err(|_| gone())?;
        let (sender, _) = self.writer.as_ref().ok_or_else(gone)?;
        sender.send(Queued { operation, at, permit }).map_err(|_| gone())
    }

    async fn enqueue_refresh(&self, ids: Vec<ResponseId>, longer: Millis, at: Millis) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let bytes = ids.len().saturating_mul(size_of::<ResponseId>() + 64);
        self.enqueue(Operation::Refresh { ids, longer }, bytes, at).await
    }

    /// Runs a read on a blocking thread; waits while the file is opened anew, until the caller's deadline.
    async fn read<T: Send + 'static>(
        &self,
        read: impl Fn(&Database) -> Result<T, redb::Error> + Send + Sync + 'static,
    ) -> Result<T, StoreError> {
        let read = Arc::new(read);
        let mut phases = self.file.phases();
        loop {
            let attempts = phases.wait_for(|phase| !phase.opening).await.map_err(|_| gone())?.attempts;
            let (file, read) = (Arc::clone(&self.file), Arc::clone(&read));
            let result = tokio::task::spawn_blocking(move || file.with(|database| read(database))).await;
            match result {
                Ok(Some(Ok(value))) => return Ok(value),
                // After an error, most likely of a write, the writer is about to open the file anew, if it is there.
                Ok(Some(Err(redb::Error::PreviousIo))) if self.file.trouble() != Some(Trouble::Gone) => {
                    phases.wait_for(|phase| phase.attempts > attempts).await.map_err(|_| gone())?;
                }
                Ok(Some(Err(error))) => return Err(StoreError::Unavailable(format!("cannot read: {error}"))),
                Ok(None) if phases.borrow().opening || phases.borrow().attempts > attempts => {}
                Ok(None) => return Err(self.refusal()),
                Err(_) => return Err(StoreError::Unavailable("the read did not end".to_owned())),
            }
        }
    }

    /// Why an operation got no answer.
    fn refusal(&self) -> StoreError {
        self.file.trouble().unwrap_or(Trouble::Failing).error()
    }
}

#[async_trait]
impl ResponseStore for DiskStore {
    async fn put(&self, record: Arc<Record>) -> Result<(), StoreError> {
        let at = now();
        let document = self.codec.encode(&record, Ok)?;
        let bytes = document.len();
        let (reply, answer) = oneshot::channel();
        self.enqueue(Operation::Put { id: record.id.clone(), document, reply }, bytes, at).await?;
        answer.await.unwrap_or_else(|_| Err(self.refusal()))
    }

    async fn load(&self, ids: &[ResponseId], touch: Touch) -> Result<Vec<Option<Arc<Record>>>, StoreError> {
        let at = now();
        let longer = match touch {
            Touch::Keep => None,
            Touch::Refresh { longer } => Some(millis(longer)),
        };
        let due = longer.map(|longer| at.saturating_add(self.ttl).saturating_add(longer));
        let (ids, codec) = (ids.to_vec(), self.codec.clone());
        let (records, to_refresh) = self
            .read(move |database| {
                let snapshot = Snapshot::of(database)?;
                let mut to_refresh = Vec::new();
                let mut records = Vec::with_capacity(ids.len());
                for id in &ids {
                    let found = snapshot.read(id, at, |document, expiry| (codec.decode(id, document, Ok), expiry))?;
                    if found.as_ref().zip(due).is_some_and(|((_, expiry), due)| *expiry < due) {
                        to_refresh.push(id.clone());
                    }
                    records.push(found.map(|(record, _)| record.map(Arc::new)).transpose());
                }
                Ok((records, to_refresh))
            })
            .await?;
        if let Some(longer) = longer {
            self.enqueue_refresh(to_refresh, longer, at).await?;
        }
        records.into_iter().collect()
    }

    async fn refresh(&self, ids: &[ResponseId], longer: Duration) -> Result<(), StoreError> {
        self.enqueue_refresh(ids.to_vec(), millis(longer), now()).await
    }

    async fn delete(&self, id: &ResponseId) -> Result<bool, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.enqueue(Operation::Delete { id: id.clone(), reply }, 0, now()).await?;
        answer.await.map_err(|_| self.refusal())
    }

    async fn ready(&self) -> Result<(), StoreError> {
        if self.writer.as_ref().is_none_or(|(_, thread)| thread.is_finished()) {
            return Err(gone());
        }
        match self.file.trouble() {
            None | Some(Trouble::Full) => Ok(()),
            Some(trouble @ (Trouble::Gone | Trouble::Failing)) => Err(trouble.error()),
        }
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl)
    }

    fn place_of(&self, _: Tenant) -> Option<Arc<dyn ResponseStore>> {
        None
    }

    fn name(&self) -> &'static str {
        "disk"
    }

    fn figures(&self) -> Vec<Figure> {
        let Counters { items, bytes, bytes_written, swept, refused_for_space, reopened } = &*self.counters;
        let waiting = (QUEUE_BYTES as usize).saturating_sub(self.queue.available_permits());
        vec![
            figures::items(items.load(Ordering::Relaxed)),
            figures::bytes(bytes.load(Ordering::Relaxed)),
            figures::bytes_written(bytes_written),
            figures::evictions([("expired", swept)]),
            figures::refused_for_space(refused_for_space),
            Figure::gauge(
                "disk_queue_bytes",
                "Bytes that wait for the disk store's writer",
                u64::try_from(waiting).unwrap_or(u64::MAX),
            ),
            Figure::counter("disk_reopened", "Attempts to open the disk store's file anew after an error", reopened),
        ]
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.writer.take() {
            // The writer ends when nobody can ask any more, and closes the file.
            drop(sender);
            if thread.join().is_err() {
                tracing::error!("the writer of the disk store panicked");
            }
        }
    }
}

fn gone() -> StoreError {
    StoreError::Unavailable("the writer has ended".to_owned())
}

fn now() -> Millis {
    // Before 1970 nothing has expired.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}
