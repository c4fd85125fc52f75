//! Commands: how many at once, for how long, and how often.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike as _, KeysInterface};
use fred::types::config::Options;
use fred::types::{ClusterHash, CustomCommand, Expiration, SetOptions, Value};
use futures_util::FutureExt as _;
use futures_util::future::{join_all, maybe_done};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::counters::Reason;
use super::failure::{self, Failure};
use super::link::Link;
use super::node::{IN_FLIGHT_PER_POOL_SIZE, Lane, Node};
use super::pool::Pool;
use crate::in_place::pinned;
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
    /// Whether there is something.
    IsThere {
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
        node: &Node,
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
    /// For one attempt of at most `left`.
    fn options(&self, left: Duration) -> Options {
        let max_attempts = if self.is_repeatable() { None } else { Some(1) };
        Options { timeout: Some(left.min(self.longest)), max_attempts, ..Options::default() }
    }

    async fn send_alone(&self, link: &Link, options: &Options) -> Result<Value, Error> {
        let client = link.with(options);
        // fred's futures have room for whatever a client may do, and what holds them is moved about.
        pinned(|| self.send_by(&client)).await
    }

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
            Command::IsThere { key } => client.exists(key).await,
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
            | Command::Remove { key }
            | Command::IsThere { key } => key,
        }
    }

    /// A second removal would say that there was nothing.
    fn is_repeatable(&self) -> bool {
        !matches!(self.command, Command::Remove { .. })
    }

    async fn send(&self, _: &Node, link: &Link, asking: bool, left: Duration) -> Result<Value, Error> {
        let options = self.options(left);
        if !asking {
            return self.send_alone(link, &options).await;
        }
        let pipeline = link.client().pipeline().with_options(&options);
        let both = async {
            let _: Value = pipeline.custom(self::asking(), Vec::<Value>::new()).await?;
            let _: Value = self.send_by(&pipeline).await?;
            let (_, reply): (Value, Value) = pipeline.all().await?;
            Ok(reply)
        };
        // Copied there: a slot is seldom on its way.
        within(left.min(self.longest), Box::pin(both)).await
    }
}

impl Command {
    /// Sends it by this link, without a second attempt of ours.
    pub(super) async fn send_once(&self, link: &Link, longest: Duration) -> Result<Value, Error> {
        let once = Once { command: self, longest };
        once.send_alone(link, &once.options(longest)).await
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

    fn once<'a>(&self, command: &'a Command) -> Once<'a> {
        let longest = match command {
            Command::Read { .. } | Command::ReadAndTouch { .. } | Command::IsThere { .. } => self.read_timeout,
            Command::Create { .. } | Command::Touch { .. } | Command::Remove { .. } => self.write_timeout,
        };
        Once { command, longest }
    }

    /// Sends a command.
    pub(super) async fn run(&self, command: &Command, deadline: Instant) -> Result<Value, StoreError> {
        retrying(&self.pool, self.pool.turn(Once::LANE), &self.once(command), deadline, None).await
    }

    /// Sends commands that may be repeated, all at once; their answers in the same order.
    pub(super) async fn run_all(&self, commands: &[Command], deadline: Instant) -> Result<Vec<Value>, StoreError> {
        if let [command] = commands {
            return Ok(vec![self.run(command, deadline).await?]);
        }
        // One turn for all: they go out together.
        let turn = self.pool.turn(Once::LANE);
        let mut volleys: Vec<Volley<'_>> = Vec::new();
        for (place, command) in commands.iter().enumerate() {
            let once = self.once(command);
            let node = self.pool.owner(self.pool.slotting().slot(once.key()));
            let is_one = |volley: &&mut Volley<'_>| {
                volley.commands.len() < VOLLEY
                    && volley.node.as_ref().map(Arc::as_ptr) == node.as_ref().map(Arc::as_ptr)
            };
            match volleys.iter_mut().rev().find(is_one) {
                Some(volley) => volley.commands.push((place, once)),
                None => volleys.push(Volley { node, commands: vec![(place, once)] }),
            }
        }
        let answers = join_all(volleys.into_iter().map(|volley| volley.send(&self.pool, turn, deadline))).await;
        let mut values: Vec<Value> = commands.iter().map(|_| Value::Null).collect();
        for volley in answers {
            for (place, answer) in volley? {
                if let Some(value) = values.get_mut(place) {
                    *value = answer;
                }
            }
        }
        Ok(values)
    }

    /// Sends commands to one node by this connection of it, all at once and none a second time; their answers in the same
    /// order, as far as there are any.
    pub(super) async fn ask(
        &self,
        node: &Arc<Node>,
        link: &Link,
        commands: &[Command],
        deadline: Instant,
    ) -> Result<Vec<Option<Value>>, StoreError> {
        let volleys = commands.chunks(VOLLEY).map(|some| Volley {
            node: Some(Arc::clone(node)),
            commands: some.iter().map(|command| self.once(command)).enumerate().collect(),
        });
        let answers = join_all(volleys.map(async |volley| volley.send_once(&self.pool, node, link, deadline).await));
        let answers = answers.await.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(answers.into_iter().flatten().map(Result::ok).collect())
    }
}

/// The most commands that are sent as one: what a long chain needs is sent in some pieces, so that a node's room, which
/// each takes as a whole, goes round among all that wait for it.
const VOLLEY: usize = 64;
const _: () = assert!(VOLLEY <= IN_FLIGHT_PER_POOL_SIZE, "the smallest pool would never have room for one");

/// Commands for one node, with their places among all.
struct Volley<'a> {
    node: Option<Arc<Node>>,
    commands: Vec<(usize, Once<'a>)>,
}

impl Volley<'_> {
    /// The answers with their places. What goes wrong with one command is tried again by itself.
    async fn send(self, pool: &Pool, turn: usize, deadline: Instant) -> Result<Vec<(usize, Value)>, StoreError> {
        let link = self.node.as_ref().and_then(|node| Some((node, node.link(Once::LANE, turn)?)));
        let results = match link {
            Some((node, link)) => self.send_once(pool, node, &link, deadline).await?,
            None => self.commands.iter().map(|_| Err(failure::nowhere())).collect(),
        };
        let mut answers = Vec::with_capacity(results.len());
        let mut again = Vec::new();
        for ((place, once), result) in self.commands.iter().zip(results) {
            match result {
                Ok(value) => answers.push((*place, value)),
                Err(error) => again.push((*place, once, Failed { node: self.node.clone(), error })),
            }
        }
        let again = again.into_iter().map(async |(place, once, failed)| {
            let settled = retrying(pool, turn, once, deadline, Some(failed)).await;
            settled.map(|value| (place, value))
        });
        for answer in join_all(again).await {
            answers.push(answer?);
        }
        Ok(answers)
    }

    /// The answers of one attempt, in the commands' order.
    async fn send_once(
        &self,
        pool: &Pool,
        node: &Node,
        link: &Link,
        deadline: Instant,
    ) -> Result<Vec<Result<Value, Error>>, StoreError> {
        let (counters, count) = (pool.counters(), self.commands.len());
        let _under_way = counters.begin(count);
        let _room = node.room(count, deadline).await.inspect_err(|_| counters.refused_busy.one())?;
        Ok(self.send_by(link, left(deadline)).await)
    }

    async fn send_by(&self, link: &Link, left: Duration) -> Vec<Result<Value, Error>> {
        let longest = self.commands.iter().map(|(_, once)| once.longest).min().unwrap_or_default();
        let options = Options { timeout: Some(left.min(longest)), ..Options::default() };
        let client = link.with(&options);
        let mut results = Vec::with_capacity(self.commands.len());
        let answered = async {
            let sent = self.commands.iter().map(|(_, once)| maybe_done(pinned(|| once.send_by(&client))));
            let mut sent: Vec<_> = sent.collect();
            // fred sends a command when it is first asked for the answer.
            poll_fn(|context| {
                for one in &mut sent {
                    let _ = one.poll_unpin(context);
                }
                Poll::Ready(())
            })
            .await;
            // One connection answers in order: to wait for all of them at once would be to ask each at every answer.
            for one in &mut sent {
                (&mut *one).await;
                results.extend(Pin::new(one).take_output());
            }
        };
        tokio::select! {
            () = answered => {}
            () = link.ended() => {}
        }
        let ended = || Err(Error::new(ErrorKind::Canceled, "the connection ended"));
        results.resize_with(self.commands.len(), ended);
        // The last answer stands for all before it.
        for result in results.iter().filter(|result| result.is_err()).chain(results.last()) {
            link.note(result);
        }
        results
    }
}

/// An attempt that did not succeed.
pub(super) struct Failed {
    node: Option<Arc<Node>>,
    error: Error,
}

/// Tries until it succeeds, cannot, or the deadline has passed. The first attempt may have been made already.
pub(super) async fn retrying<A: Attempt>(
    pool: &Pool,
    mut turn: usize,
    attempt: &A,
    deadline: Instant,
    mut failed: Option<Failed>,
) -> Result<A::Reply, StoreError> {
    let counters = pool.counters();
    let _under_way = counters.begin(1);
    let slot = pool.slotting().slot(attempt.key());
    let mut pause = FIRST_PAUSE;
    let mut asked: Option<Arc<Node>> = None;
    loop {
        let Failed { node, error } = match failed.take() {
            Some(failed) => failed,
            None => {
                let asking = asked.is_some();
                let node = asked.take().or_else(|| pool.owner(slot));
                let result = match node.as_ref().and_then(|node| Some((node, node.link(A::LANE, turn)?))) {
                    Some((node, link)) => {
                        let _room = node.room(1, deadline).await.inspect_err(|_| counters.refused_busy.one())?;
                        let result = tokio::select! {
                            result = attempt.send(node, &link, asking, left(deadline)) => result,
                            () = link.ended() => Err(Error::new(ErrorKind::Canceled, "the connection ended")),
                        };
                        link.note(&result);
                        result
                    }
                    None => Err(failure::nowhere()),
                };
                match result {
                    Ok(value) => return Ok(value),
                    Err(error) => Failed { node, error },
                }
            }
        };
        let failure = failure::failure(&error, pool.is_clustered());
        let reason = Reason::of(&error, failure);
        counters.redirected(reason);
        if let (Reason::ReadOnly, Some(node)) = (reason, &node) {
            node.give_up_tracked();
        }
        if let (Failure::Broken | Failure::Final, Some(node)) = (&failure, &node) {
            node.doubt();
        }
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
        // Shorter towards the deadline: who waits for a failover asks until its very end.
        let next = pause.min(left(deadline) / 2);
        if !again || next < FIRST_PAUSE {
            return Err(failure::store_error(&error));
        }
        tracing::debug!(%error, "RedisStore: trying again");
        counters.retries.note(reason);
        tokio::time::sleep(next).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        turn = turn.wrapping_add(1);
    }
}

/// The time until a deadline, never zero: to fred, zero is for ever.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}
