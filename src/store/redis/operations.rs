//! What operations do, apart from who waits for them: the commands of each, in order, and what their answers mean.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fred::types::Value;

use super::codec::Values;
use super::command::{Command, Commands};
use super::durability::Durability;
use super::placing::Placing;
use super::pool::Pool;
use super::recent::{Recent, Written};
use crate::id::ResponseId;
use crate::store::{Record, StoreError, Touch};

/// More bytes of JSON than this are read or packed on a thread that may block: a third of a millisecond's work.
const BLOCKING_BYTES: usize = 256 * 1024;

/// What operations need that outlive their callers.
pub(super) struct Shared {
    pub(super) pool: Arc<Pool>,
    pub(super) commands: Commands,
    pub(super) durability: Option<Durability>,
    /// Without it, every record is read whenever it is needed.
    pub(super) recent: Option<Arc<Recent>>,
    pub(super) placing: Placing,
    pub(super) ttl_seconds: i64,
    pub(super) values: Values,
    pub(super) tenant_in_key: bool,
    pub(super) deadline: Duration,
}

impl Shared {
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.deadline
    }

    /// How long a record that is used lives from now on, in seconds.
    pub(super) fn lifetime(&self, longer: Duration) -> i64 {
        let longer = longer.as_secs() + u64::from(longer.subsec_nanos() > 0);
        self.ttl_seconds.saturating_add(i64::try_from(longer).unwrap_or(i64::MAX))
    }

    pub(super) async fn put(&self, key: String, record: Arc<Record>) -> Result<(), StoreError> {
        let value = self.write(&key, &record).await?;
        // Where nobody tells of changes, and where parents are not prolonged as they are read, nothing is remembered.
        let slot = self.pool.slotting().slot(&key);
        let is_of_use = || self.teller(slot).is_some() && (record.tenant.is_none() || self.tenant_in_key);
        if let Some(recent) = self.recent.as_ref().filter(|_| is_of_use()) {
            recent.wrote(&key, slot, Written { record, packed: self.values.are_packed().then_some(value) });
        }
        Ok(())
    }

    /// Writes a record; as what, it says.
    async fn write(&self, key: &str, record: &Arc<Record>) -> Result<Bytes, StoreError> {
        let deadline = self.deadline();
        let ttl_seconds = self.ttl_seconds;
        let _room = self.commands.room(record.payload_bytes(), deadline).await?;
        let (packed, values) = (Arc::clone(record), self.values.clone());
        let value = maybe_blocking(record.payload_bytes(), move || values.pack(&packed)).await?;
        loop {
            let written = match &self.durability {
                Some(durability) => durability.create(key, &value, ttl_seconds, deadline).await?,
                None => {
                    let create = Command::Create { key: key.to_owned(), value: value.clone(), ttl_seconds };
                    !self.commands.run(&create, deadline).await?.is_null()
                }
            };
            if written {
                self.pool.counters().bytes_written.add_all(value.len());
                return Ok(value);
            }
            // There is something. A first attempt whose answer was lost looks like this too.
            let read = Command::Read { key: key.to_owned() };
            let Some(found) = bytes(self.commands.run(&read, deadline).await?)? else {
                if Instant::now() >= deadline {
                    return Err(StoreError::Timeout);
                }
                continue;
            };
            let (wanted, values) = (Arc::clone(record), self.values.clone());
            let same = maybe_blocking(found.len(), move || {
                Ok(values.unpack(&wanted.id, &found).is_ok_and(|found| found == *wanted))
            });
            return match (same.await?, &self.durability) {
                (true, Some(durability)) => durability.confirm(key, ttl_seconds, deadline).await.map(|()| value),
                (true, None) => Ok(value),
                (false, _) => Err(StoreError::Conflict),
            };
        }
    }

    pub(super) async fn load(
        &self,
        ids: Vec<ResponseId>,
        keys: Vec<String>,
        touch: Touch,
        deadline: Instant,
    ) -> Result<Vec<Option<Arc<Record>>>, StoreError> {
        let reads = keys.into_iter().map(|key| match touch {
            Touch::Keep => Command::Read { key },
            Touch::Refresh { longer } => Command::ReadAndTouch { key, ttl_seconds: self.lifetime(longer) },
        });
        let replies = self.commands.run_all(&reads.collect::<Vec<_>>(), deadline).await?;
        self.unpack(ids, replies, |_| {}).await
    }

    /// The records of these ids, which servers answered, made ready for what will be done with them.
    pub(super) async fn unpack(
        &self,
        ids: Vec<ResponseId>,
        replies: Vec<Value>,
        make_ready: fn(&Record),
    ) -> Result<Vec<Option<Arc<Record>>>, StoreError> {
        let replies = replies.into_iter().map(bytes).collect::<Result<Vec<_>, _>>()?;
        let total = replies.iter().flatten().map(Bytes::len).sum();
        self.pool.counters().bytes_read.add_all(total);
        let values = self.values.clone();
        maybe_blocking(total, move || {
            let records = ids.iter().zip(replies).map(|(id, reply)| {
                let Some(stored) = reply else { return Ok(None) };
                let record = values.unpack(id, &stored)?;
                make_ready(&record);
                Ok(Some(Arc::new(record)))
            });
            records.collect()
        })
        .await
    }

    pub(super) async fn refresh(&self, keys: Vec<String>, longer: Duration) -> Result<(), StoreError> {
        let touches = keys.into_iter().map(|key| Command::Touch { key, ttl_seconds: self.lifetime(longer) });
        self.commands.run_all(&touches.collect::<Vec<_>>(), self.deadline()).await.map(drop)
    }

    pub(super) async fn delete(&self, key: String) -> Result<bool, StoreError> {
        let deadline = self.deadline();
        if let Some(recent) = &self.recent {
            recent.removed(&key);
        }
        let reply = self.commands.run(&Command::Remove { key }, deadline).await?;
        let removed =
            reply.as_i64().ok_or_else(|| StoreError::Corrupt("a removal was answered strangely".to_owned()))?;
        Ok(removed > 0)
    }
}

/// What lies under a key; null is nothing.
pub(super) fn bytes(reply: Value) -> Result<Option<Bytes>, StoreError> {
    match reply {
        Value::Null => Ok(None),
        Value::Bytes(bytes) => Ok(Some(bytes)),
        Value::String(text) => Ok(Some(text.into_inner())),
        _ => Err(StoreError::Corrupt("a read was answered strangely".to_owned())),
    }
}

/// Does work on so many bytes, where it does not hold up other tasks.
pub(super) async fn maybe_blocking<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    if bytes <= BLOCKING_BYTES {
        return work();
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string())))
}
