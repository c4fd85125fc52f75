//! Writes that count only when replicas have them (`min_replica_acks`).
//!
//! Redis acknowledges a write before its replicas have it; WAIT asks how many do. It answers for the writes of its own
//! connection, and holds up what comes after it there, so such writes have connections of their own and each goes out
//! with its WAIT in one pipeline. On any error both are sent again: a WAIT on a new connection, without a write before it,
//! would say yes to anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fred::error::Error;
use fred::interfaces::{ClientLike as _, KeysInterface as _};
use fred::types::config::Options;
use fred::types::{ClusterHash, CustomCommand, Expiration, SetOptions, Value};

use super::command::{self, Attempt, retrying, within};
use super::link::Link;
use super::node::Lane;
use super::pool::Pool;
use crate::config::OnMissingAcks;
use crate::in_place::pinned;
use crate::store::StoreError;

/// How many connections to each node; others wait behind the WAIT of a shard that has lost its replica.
pub(super) const CONNECTIONS: usize = 4;

/// How long replicas may take, where a write without them fails.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long where it counts anyway. Writes to a shard whose master just died come all at once, to a new one that has no
/// replica, and each WAIT holds up the next: with more patience a failover takes seconds longer. Replicas in step need
/// a few milliseconds.
const LENIENT_PATIENCE: Duration = Duration::from_millis(100);

/// The same if they were missed within the last [`MISSED_LATELY`]: there may be none for long.
const IMPATIENCE: Duration = Duration::from_millis(10);
const MISSED_LATELY: Duration = Duration::from_secs(2);

/// How often the log says that writes count without their replicas.
const WARN_EVERY: Duration = Duration::from_secs(10);

pub(super) struct Durability {
    pool: Arc<Pool>,
    acks: u8,
    on_missing: OnMissingAcks,
    write_timeout: Duration,
    born: Instant,
    /// Milliseconds since `born`, 0 for never.
    missed: AtomicU64,
    warned: AtomicU64,
}

/// A write and the WAIT that follows it.
struct Confirmed<'a> {
    write: Write<'a>,
    acks: u8,
    patience: Duration,
    longest: Duration,
}

enum Write<'a> {
    Create {
        key: &'a str,
        value: &'a Bytes,
        ttl_seconds: i64,
    },
    /// Puts something behind the record into the stream of replication: who has this has the record.
    Touch {
        key: &'a str,
        ttl_seconds: i64,
    },
}

impl Confirmed<'_> {
    async fn pipeline(&self, link: &Link, asking: bool, timeout: Duration) -> Result<(Value, i64), Error> {
        let options = Options { timeout: Some(timeout), max_attempts: Some(1), ..Options::default() };
        let pipeline = link.client().pipeline().with_options(&options);
        if asking {
            let _: Value = pipeline.custom(command::asking(), Vec::<Value>::new()).await?;
        }
        match self.write {
            Write::Create { key, value, ttl_seconds } => {
                let expiration = Some(Expiration::EX(ttl_seconds));
                let value = Value::Bytes(value.clone());
                let _: Value = pipeline.set(key, value, expiration, Some(SetOptions::NX), false).await?;
            }
            Write::Touch { key, ttl_seconds } => {
                let _: Value = pipeline.expire(key, ttl_seconds, None).await?;
            }
        }
        let wait = CustomCommand::new_static("WAIT", ClusterHash::FirstKey, false);
        let patience = i64::try_from(self.patience.min(timeout).as_millis()).unwrap_or(i64::MAX).max(1);
        let _: Value = pipeline.custom(wait, vec![i64::from(self.acks), patience]).await?;
        if asking {
            let (_, written, acks): (Value, Value, i64) = pipeline.all().await?;
            return Ok((written, acks));
        }
        pipeline.all().await
    }
}

impl Attempt for Confirmed<'_> {
    type Reply = (Value, i64);

    const LANE: Lane = Lane::Confirmed;

    fn key(&self) -> &str {
        match self.write {
            Write::Create { key, .. } | Write::Touch { key, .. } => key,
        }
    }

    fn is_repeatable(&self) -> bool {
        true
    }

    async fn send(&self, link: &Link, asking: bool, left: Duration) -> Result<(Value, i64), Error> {
        let timeout = left.min(self.longest);
        within(timeout, pinned(|| self.pipeline(link, asking, timeout))).await
    }
}

impl Durability {
    pub(super) fn new(pool: Arc<Pool>, acks: u8, on_missing: OnMissingAcks, write_timeout: Duration) -> Self {
        let never = || AtomicU64::new(0);
        Self { pool, acks, on_missing, write_timeout, born: Instant::now(), missed: never(), warned: never() }
    }

    /// Writes unless there is something already; says whether it wrote.
    pub(super) async fn create(
        &self,
        key: &str,
        value: &Bytes,
        ttl_seconds: i64,
        deadline: Instant,
    ) -> Result<bool, StoreError> {
        let (written, acks) = self.write(Write::Create { key, value, ttl_seconds }, deadline).await?;
        if written.is_null() {
            return Ok(false);
        }
        self.judge(acks)?;
        Ok(true)
    }

    /// Waits for the replicas of a record that is there: an earlier attempt wrote it, and was not told.
    pub(super) async fn confirm(&self, key: &str, ttl_seconds: i64, deadline: Instant) -> Result<(), StoreError> {
        let (_, acks) = self.write(Write::Touch { key, ttl_seconds }, deadline).await?;
        self.judge(acks)
    }

    async fn write(&self, write: Write<'_>, deadline: Instant) -> Result<(Value, i64), StoreError> {
        let patience = match self.on_missing {
            OnMissingAcks::Degrade if self.was_lately(&self.missed, MISSED_LATELY) => IMPATIENCE,
            OnMissingAcks::Degrade => LENIENT_PATIENCE,
            OnMissingAcks::Fail => PATIENCE,
        };
        let attempt = Confirmed { write, acks: self.acks, patience, longest: self.write_timeout };
        retrying(&self.pool, self.pool.turn(Confirmed::LANE), &attempt, deadline, None).await
    }

    fn judge(&self, acks: i64) -> Result<(), StoreError> {
        if acks >= i64::from(self.acks) {
            return Ok(());
        }
        self.note(&self.missed);
        let counters = self.pool.counters();
        if self.on_missing == OnMissingAcks::Fail {
            counters.acks_missed_failed.one();
            return Err(StoreError::Unavailable(format!("{acks} of {} replicas have the record", self.acks)));
        }
        counters.acks_missed_degraded.one();
        if !self.was_lately(&self.warned, WARN_EVERY) {
            self.note(&self.warned);
            tracing::warn!(acks, wanted = self.acks, "RedisStore: records count as written without their replicas");
        }
        Ok(())
    }

    fn note(&self, moment: &AtomicU64) {
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        moment.store(now, Ordering::Relaxed);
    }

    fn was_lately(&self, moment: &AtomicU64, within: Duration) -> bool {
        let at = moment.load(Ordering::Relaxed);
        at > 0 && self.born.elapsed().saturating_sub(Duration::from_millis(at)) < within
    }
}
