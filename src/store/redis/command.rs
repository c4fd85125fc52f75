//! Commands: how many at once, for how long, and how often.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike as _, KeysInterface};
use fred::types::config::Options;
use fred::types::{ClusterHash, CustomCommand, Expiration, SetOptions, Value};
use fred::util::redis_keyslot;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::counters::Reason;
use super::failure::{self, Failure};
use super::link::Link;
use super::node::{Lane, Node};
use super::pool::Pool;
use crate::store::StoreError;

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
    /// Starts the time to live anew, if there is something.
    Touch {
        key: String,
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

    /// The connections that it goes by.
    const LANE: Lane;

    /// The key that it is about.
    fn key(&self) -> &str;

    /// Whether carrying it out twice is the same as once.
    fn is_repeatable(&self) -> bool;

    /// Sends it once and waits for the answer, but not longer than `left`. A node that is being given the key's slot
    /// answers only who says ASKING before.
    fn send(
        &self,
        link: &Link,
        asking: bool,
        left: Duration,
    ) -> impl Future<Output = Result<Self::Reply, Error>> + Send;
}

/// Makes a node answer the next command on the connection for a slot that it is being given.
pub(super) fn asking() -> CustomCommand {
    CustomCommand::new_static("ASKING", ClusterHash::FirstKey, false)
}

/// A command and the longest that one attempt may take.
struct Once<'a> {
    command: &'a Command,
    longest: Duration,
}

impl Once<'_> {
    async fn send_by<C: KeysInterface>(&self, client: &C) -> Result<Value, Error> {
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
            Command::Touch { key, ttl_seconds } => client.expire(key, *ttl_seconds, None).await,
            Command::Remove { key } => client.unlink(key).await,
        }
    }
}

impl Attempt for Once<'_> {
    type Reply = Value;

    const LANE: Lane = Lane::Common;

    fn key(&self) -> &str {
        match self.command {
            Command::Read { key }
            | Command::ReadAndTouch { key, .. }
            | Command::Create { key, .. }
            | Command::Touch { key, .. }
            | Command::Remove { key } => key,
        }
    }

    /// A second removal would say that there was nothing.
    fn is_repeatable(&self) -> bool {
        !matches!(self.command, Command::Remove { .. })
    }

    async fn send(&self, link: &Link, asking: bool, left: Duration) -> Result<Value, Error> {
        let timeout = left.min(self.longest);
        let max_attempts = if self.is_repeatable() { None } else { Some(1) };
        let options = Options { timeout: Some(timeout), max_attempts, ..Options::default() };
        if !asking {
            return self.send_by(&link.with(&options)).await;
        }
        let pipeline = link.client().pipeline().with_options(&options);
        let both = async {
            let _: Value = pipeline.custom(self::asking(), Vec::<Value>::new()).await?;
            let _: Value = self.send_by(&pipeline).await?;
            let (_, reply): (Value, Value) = pipeline.all().await?;
            Ok(reply)
        };
        within(timeout, both).await
    }
}

impl Command {
    /// Sends it by this link, without a second attempt of ours.
    pub(super) async fn send_once(&self, link: &Link, longest: Duration) -> Result<Value, Error> {
        Once { command: self, longest }.send(link, false, longest).await
    }
}

/// fred ends a pipeline by its client's own timeout only, the longest that any operation may take.
pub(super) async fn within<T>(timeout: Duration, pipeline: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(timeout, pipeline)
        .await
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "Request timed out.")))
}

/// Sends commands within bounds.
pub(super) struct Commands {
    pool: Arc<Pool>,
    budget: Semaphore,
    budget_units: usize,
    read_timeout: Duration,
    write_timeout: Duration,
}

/// Room for a value. Kept until the last of its commands has ended.
pub(super) struct Room<'a>(#[expect(dead_code, reason = "held")] SemaphorePermit<'a>);

impl Commands {
    pub(super) fn new(
        pool: Arc<Pool>,
        max_pending_bytes: usize,
        read_timeout: Duration,
        write_timeout: Duration,
    ) -> Self {
        let budget_units = max_pending_bytes.div_ceil(BUDGET_UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        Self { pool, budget: Semaphore::new(budget_units), budget_units, read_timeout, write_timeout }
    }

    /// Waits for room for so many bytes; more than there is at all count as all of it.
    pub(super) async fn room(&self, bytes: usize, deadline: Instant) -> Result<Room<'_>, StoreError> {
        let units = bytes.div_ceil(BUDGET_UNIT_BYTES).min(self.budget_units);
        let permits = self.budget.acquire_many(u32::try_from(units).unwrap_or(u32::MAX));
        match tokio::time::timeout_at(deadline.into(), permits).await {
            Ok(Ok(permits)) => Ok(Room(permits)),
            Ok(Err(_)) => Err(StoreError::Unavailable("the store is closed".to_owned())),
            Err(_) => {
                self.pool.counters().refused_busy.one();
                Err(StoreError::Unavailable("too many commands are under way".to_owned()))
            }
        }
    }

    /// Sends a command; those of one turn go out together.
    pub(super) async fn run(&self, turn: usize, command: &Command, deadline: Instant) -> Result<Value, StoreError> {
        let longest = match command {
            Command::Read { .. } | Command::ReadAndTouch { .. } => self.read_timeout,
            Command::Create { .. } | Command::Touch { .. } | Command::Remove { .. } => self.write_timeout,
        };
        retrying(&self.pool, turn, &Once { command, longest }, deadline).await
    }
}

/// Tries until it succeeds, cannot, or the deadline has passed.
pub(super) async fn retrying<A: Attempt>(
    pool: &Pool,
    mut turn: usize,
    attempt: &A,
    deadline: Instant,
) -> Result<A::Reply, StoreError> {
    let counters = pool.counters();
    let _under_way = counters.begin();
    let slot = redis_keyslot(attempt.key().as_bytes());
    let mut pause = FIRST_PAUSE;
    let mut asked: Option<Arc<Node>> = None;
    loop {
        let asking = asked.is_some();
        let node = asked.take().or_else(|| pool.owner(slot));
        let result = match node.as_ref().and_then(|node| Some((node, node.link(A::LANE, turn)?))) {
            Some((node, link)) => {
                let _room = node.room(deadline).await.inspect_err(|_| counters.refused_busy.one())?;
                let result = tokio::select! {
                    result = attempt.send(&link, asking, left(deadline)) => result,
                    () = link.ended() => Err(Error::new(ErrorKind::Canceled, "the connection ended")),
                };
                link.note(&result);
                result
            }
            None => Err(failure::nowhere()),
        };
        let error = match result {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let failure = failure::failure(&error, pool.is_clustered());
        let reason = Reason::of(&error, failure);
        counters.redirected(reason);
        let again = match failure {
            Failure::NotYet => {
                asked = node.and_then(|node| pool.follow(error.details(), &node));
                true
            }
            Failure::Broken => attempt.is_repeatable(),
            Failure::Silent => {
                counters.timeouts.one();
                pool.note_silence();
                attempt.is_repeatable()
            }
            Failure::Final => false,
        };
        if !again || left(deadline) <= pause {
            return Err(failure::store_error(&error));
        }
        tracing::debug!(%error, "RedisStore: trying again");
        counters.retries.note(reason);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        turn = turn.wrapping_add(1);
    }
}

/// The time until a deadline, never zero: to fred, zero is for ever.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}
