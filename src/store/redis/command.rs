//! Commands: how many at once, for how long, and how often.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike as _, KeysInterface as _};
use fred::types::config::Options;
use fred::types::{ClusterHash, CustomCommand, Expiration, SetOptions, Value};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::failure::{self, Failure};
use super::link::Link;
use super::pool::Pool;
use crate::store::StoreError;

/// What a client under load carries at once without queueing for long; `pool_size` counts in these.
pub(super) const IN_FLIGHT_PER_POOL_SIZE: usize = 128;

/// The unit of the byte budget.
const BUDGET_UNIT_BYTES: usize = 1024;

/// The pause before a command is sent again, growing from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// A command on one key.
#[derive(Debug, Clone)]
pub(super) enum Command {
    Read {
        key: String,
    },
    /// Reads, and starts the time to live anew in the same round trip (Redis 6.2).
    ReadAndTouch {
        key: String,
        ttl_seconds: i64,
    },
    /// Writes unless there is something already.
    Create {
        key: String,
        value: Bytes,
        ttl_seconds: i64,
    },
    Remove {
        key: String,
    },
}

/// What can be sent, and sent again.
pub(super) trait Attempt: Sync {
    /// What the server answers.
    type Reply: Send;

    /// Whether carrying it out twice is the same as once.
    fn is_repeatable(&self) -> bool;

    /// Sends it once and waits for the answer, but not longer than `left`.
    fn send(&self, link: &Link, left: Duration) -> impl Future<Output = Result<Self::Reply, Error>> + Send;
}

/// A command and the longest that one attempt may take.
struct Once<'a> {
    command: &'a Command,
    longest: Duration,
}

impl Attempt for Once<'_> {
    type Reply = Value;

    /// A second removal would say that there was nothing.
    fn is_repeatable(&self) -> bool {
        !matches!(self.command, Command::Remove { .. })
    }

    async fn send(&self, link: &Link, left: Duration) -> Result<Value, Error> {
        let max_attempts = if self.is_repeatable() { None } else { Some(1) };
        let client = link.with(&Options { timeout: Some(left.min(self.longest)), max_attempts, ..Options::default() });
        match self.command {
            Command::Read { key } => client.get(key).await,
            Command::ReadAndTouch { key, ttl_seconds } => {
                let getex = CustomCommand::new_static("GETEX", ClusterHash::FirstKey, false);
                client.custom(getex, vec![Value::from(key), Value::from("EX"), Value::from(*ttl_seconds)]).await
            }
            Command::Create { key, value, ttl_seconds } => {
                let expiration = Some(Expiration::EX(*ttl_seconds));
                client.set(key, Value::Bytes(value.clone()), expiration, Some(SetOptions::NX), false).await
            }
            Command::Remove { key } => client.unlink(key).await,
        }
    }
}

/// Sends commands within bounds.
pub(super) struct Commands {
    pool: Arc<Pool>,
    in_flight: Semaphore,
    most_in_flight: usize,
    budget: Semaphore,
    budget_units: usize,
    read_timeout: Duration,
    write_timeout: Duration,
}

/// Room for commands. Kept until the last of them has ended.
pub(super) struct Room<'a>(#[expect(dead_code, reason = "held")] [SemaphorePermit<'a>; 2]);

impl Commands {
    pub(super) fn new(
        pool: Arc<Pool>,
        most_in_flight: usize,
        max_pending_bytes: usize,
        read_timeout: Duration,
        write_timeout: Duration,
    ) -> Self {
        let most_in_flight = most_in_flight.clamp(1, Semaphore::MAX_PERMITS);
        let budget_units = max_pending_bytes.div_ceil(BUDGET_UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        Self {
            pool,
            in_flight: Semaphore::new(most_in_flight),
            most_in_flight,
            budget: Semaphore::new(budget_units),
            budget_units,
            read_timeout,
            write_timeout,
        }
    }

    pub(super) fn link(&self) -> Arc<Link> {
        self.pool.next()
    }

    /// Waits for room: fred has no bound of its own that works (defect 3), and keeps what it has queued through an
    /// outage of Redis. More than there is at all counts as all of it.
    pub(super) async fn room(&self, commands: usize, bytes: usize, deadline: Instant) -> Result<Room<'_>, StoreError> {
        let narrow = |units: usize, most: usize| u32::try_from(units.min(most)).unwrap_or(u32::MAX);
        let both = async {
            let budget = narrow(bytes.div_ceil(BUDGET_UNIT_BYTES), self.budget_units);
            let budget = self.budget.acquire_many(budget).await?;
            let in_flight = self.in_flight.acquire_many(narrow(commands, self.most_in_flight)).await?;
            Ok::<_, tokio::sync::AcquireError>(Room([budget, in_flight]))
        };
        match tokio::time::timeout_at(deadline.into(), both).await {
            Ok(Ok(room)) => Ok(room),
            Ok(Err(_)) => Err(StoreError::Unavailable("the store is closed".to_owned())),
            Err(_) => Err(StoreError::Unavailable("too many commands are under way".to_owned())),
        }
    }

    /// Sends a command by this client, and by others if it has to be sent again.
    pub(super) async fn run(&self, link: Arc<Link>, command: &Command, deadline: Instant) -> Result<Value, StoreError> {
        let longest = match command {
            Command::Read { .. } | Command::ReadAndTouch { .. } => self.read_timeout,
            Command::Create { .. } | Command::Remove { .. } => self.write_timeout,
        };
        retrying(&self.pool, link, &Once { command, longest }, deadline).await
    }
}

/// Tries until it succeeds, cannot, or the deadline has passed.
pub(super) async fn retrying<A: Attempt>(
    pool: &Pool,
    first: Arc<Link>,
    attempt: &A,
    deadline: Instant,
) -> Result<A::Reply, StoreError> {
    let mut link = first;
    let mut pause = FIRST_PAUSE;
    loop {
        let result = tokio::select! {
            result = attempt.send(&link, left(deadline)) => result,
            () = link.ended() => Err(Error::new(ErrorKind::Canceled, "the client ended")),
        };
        link.note(&result);
        let error = match result {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let again = match failure::failure(&error, link.is_clustered()) {
            Failure::NotYet => true,
            Failure::Broken => attempt.is_repeatable(),
            Failure::Silent => {
                pool.note_silence();
                attempt.is_repeatable()
            }
            Failure::Final => false,
        };
        if !again || left(deadline) <= pause {
            return Err(failure::store_error(&error));
        }
        tracing::debug!(%error, "RedisStore: trying again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        link = pool.next();
    }
}

/// The time until a deadline, never zero: to fred, zero is for ever.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}
