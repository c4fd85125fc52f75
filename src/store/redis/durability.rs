//! Writes that count only when replicas have them (`min_replica_acks`).
//!
//! Redis acknowledges a write before its replicas have it; WAIT asks how many do. It answers for the writes of its own
//! connection, and holds up what comes after it there, so such writes have connections of their own and each goes out
//! with its WAIT in one pipeline. On any error both are sent again: a WAIT on a new connection, without a write before it,
//! would say yes to anything.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fred::error::Error;
use fred::interfaces::{ClientLike as _, KeysInterface as _};
use fred::types::config::Options;
use fred::types::{ClusterHash, CustomCommand, Expiration, SetOptions, Value};

use super::command::{self, Attempt, retrying, within};
use super::link::Link;
use super::node::{Lane, Node};
use super::pool::Pool;
use crate::config::OnMissingAcks;
use crate::in_place::pinned;
use crate::store::StoreError;

/// How many connections to each node; others wait behind the WAIT of a shard that has lost its replica.
pub(super) const CONNECTIONS: usize = 4;

/// How long replicas may take, where a write without them fails.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often the log says that writes count without their replicas.
const WARN_EVERY: Duration = Duration::from_secs(10);

pub(super) struct Durability {
    pool: Arc<Pool>,
    acks: u8,
    on_missing: OnMissingAcks,
    write_timeout: Duration,
    /// When the log said last that records count without their replicas.
    warned: Mutex<Option<Instant>>,
}

/// A write and the WAIT that follows it.
struct Confirmed<'a> {
    write: Write<'a>,
    acks: u8,
    on_missing: OnMissingAcks,
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
    async fn pipeline(
        &self,
        link: &Link,
        asking: bool,
        patience: Duration,
        timeout: Duration,
    ) -> Result<(Value, i64), Error> {
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
        let patience = i64::try_from(patience.min(timeout).as_millis()).unwrap_or(i64::MAX).max(1);
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

    async fn send(&self, node: &Node, link: &Link, asking: bool, left: Duration) -> Result<(Value, i64), Error> {
        let timeout = left.min(self.longest);
        let patience = match self.on_missing {
            OnMissingAcks::Degrade => node.patience().now(),
            OnMissingAcks::Fail => PATIENCE,
        };
        let reply = within(timeout, pinned(|| self.pipeline(link, asking, patience, timeout))).await;
        if let Ok((_, acks)) = &reply {
            node.patience().note(patience, *acks >= i64::from(self.acks));
        }
        reply
    }
}

impl Durability {
    pub(super) fn new(pool: Arc<Pool>, acks: u8, on_missing: OnMissingAcks, write_timeout: Duration) -> Self {
        Self { pool, acks, on_missing, write_timeout, warned: Mutex::new(None) }
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
        let attempt = Confirmed { write, acks: self.acks, on_missing: self.on_missing, longest: self.write_timeout };
        retrying(&self.pool, self.pool.turn(Confirmed::LANE), &attempt, deadline, None).await
    }

    fn judge(&self, acks: i64) -> Result<(), StoreError> {
        if acks >= i64::from(self.acks) {
            return Ok(());
        }
        let counters = self.pool.counters();
        if self.on_missing == OnMissingAcks::Fail {
            counters.acks_missed_failed.one();
            return Err(StoreError::Unavailable(format!("{acks} of {} replicas have the record", self.acks)));
        }
        counters.acks_missed_degraded.one();
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            *warned = Some(Instant::now());
            tracing::warn!(acks, wanted = self.acks, "RedisStore: records count as written without their replicas");
        }
        Ok(())
    }
}
