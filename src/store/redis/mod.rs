//! Records in Redis: one server, one behind Sentinels, or a cluster. The only place that imports fred.
//!
//! A record lies under `{key_prefix}response:{id}` (or `{key_prefix}t:{tenant}:response:{id}`, see
//! [`AtRest::tenant_in_key`]) as one JSON document, written by one `SET … EX ttl NX`. All records of
//! a load are asked for at once, and fred pipelines them per node: a chain of any depth takes two dependent round trips,
//! and `GETEX` starts their time to live anew in the same ones. Redis 6.2 or newer.
//!
//! # What fred 10.1.0 does, and what is done about it
//! Each was reproduced on a real cluster and traced to fred's source; hence the exact pin.
//! 1. Following ASK reads a reply off a connection that others' commands are on: replies shift, and a GET gets another
//!    key's value. So fred follows no redirection ([`client`]), commands are sent again here ([`command`]), and a record
//!    that carries another id than its key is refused (`Record::decode`).
//! 2. An error can end a client's task for good, and fred's pool goes on using it. So a client is one connection, which
//!    ends with the first error and is made anew ([`link`], [`node`]).
//! 3. A bound on its queue hangs the client after the first rejection. So the bounds are here ([`node`], [`command`]).
//! 4. A hung node is never noticed while there is traffic. So connections that do not answer are probed ([`node`]).
//! 5. While a cluster client reconnects to one node it answers nobody: with one master dead, the keys of all the others
//!    stalled for as long as the failover took. So each node has clients of its own, and which node owns a key is known
//!    here ([`pool`], [`topology`], [`slots`]). Only with Sentinel does fred reconnect by itself.
//!
//! What waits longer than `breaker_seconds` for all servers fails at once.
//!
//! Every operation holds its share of the bounds until the last of its commands has ended, and goes on without its caller
//! until then ([`lasting`]): a caller may be dropped, a command inside fred may not be forgotten.

mod client;
mod codec;
mod command;
mod counters;
mod durability;
mod eviction;
mod failure;
mod lasting;
mod link;
mod node;
mod operations;
mod patience;
mod placing;
mod pool;
mod recent;
mod slots;
mod tls;
mod topology;
mod tracked;

use std::num::NonZeroUsize;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::client::Clients;
pub use self::client::RedisConfigError;
use self::codec::Values;
use self::command::{Command, Commands};
use self::counters::Counters;
use self::durability::Durability;
use self::failure::Failure;
use self::lasting::Lasting;
use self::link::Pulse;
use self::node::{IN_FLIGHT_PER_POOL_SIZE, Making};
use self::operations::Shared;
use self::placing::Placing;
use self::pool::{Pool, Presence};
use self::recent::Recent;
use super::figures::Figure;
use super::{Record, RecordCodec, ResponseStore, StoreError, Touch};
use crate::config::Redis;
use crate::id::{IdSource, ResponseId};
use crate::in_place::pinned;
use crate::tenant::Tenant;

/// Keeps fred's own warnings out of the log, as `tracing_subscriber::EnvFilter` takes it. There is one for every
/// connection that breaks, many times a second while a cluster is down; the store tells what of it matters.
pub const QUIET: &str = "fred=off";

/// How long a start waits for Redis, so that a router that can be ready is. Without Redis it goes on after that.
const START_PATIENCE: Duration = Duration::from_secs(2);

/// How often a start looks whether all nodes of a cluster are connected.
const WHOLE_TICK: Duration = Duration::from_millis(20);

/// Operations end so much before the callers' own deadline, in time for the reason to be told.
const MARGIN: Duration = Duration::from_millis(100);

/// How long the server may take to say that it is ready.
const READY_PATIENCE: Duration = Duration::from_millis(700);

/// What an operation may occupy, besides fred's futures, which have places of their own: with them it would be 15 KB.
const LARGEST_OPERATION_BYTES: usize = 4096;

/// How records lie in Redis.
#[derive(Debug, Clone, Default)]
pub struct AtRest {
    /// What they look like.
    pub codec: RecordCodec,
    /// Whether the records of a tenant have keys of their own, with the tenant in them (`tenancy.in_key`): so that an ACL
    /// can let someone at one tenant's records alone, and so that all of them can be found and deleted.
    pub tenant_in_key: bool,
}

/// A store in Redis.
#[derive(Clone)]
pub struct RedisStore {
    shared: Arc<Shared>,
    keys: Keys,
    tasks: TaskTracker,
    _stop: Arc<DropGuard>,
}

/// What records are called.
#[derive(Debug, Clone)]
struct Keys {
    prefix: Arc<str>,
}

impl Keys {
    fn key(&self, id: &ResponseId) -> String {
        // Not by `format!`, which takes ten times as long: a history has many ids.
        [&*self.prefix, "response:", id.as_str()].concat()
    }

    /// Those of one tenant. Neither a tenant nor an id holds a brace, so that a hash tag in the prefix stays what it is.
    fn of(&self, tenant: Tenant) -> Self {
        Self { prefix: format!("{}t:{tenant}:", self.prefix).into() }
    }
}

impl RedisStore {
    /// Reads what the config names, as [`Self::open`] does first. Nothing is connected to.
    ///
    /// # Errors
    /// When the config cannot be used.
    pub fn check(redis: &Redis) -> Result<(), RedisConfigError> {
        Clients::new(redis, redis.read_timeout).map(drop)
    }

    /// A store that connects in the background and keeps at it. It waits a moment for Redis, and does not need it: until
    /// it comes, operations fail and [`ResponseStore::ready`] says so.
    ///
    /// `ttl` counts in whole seconds. `deadline` is the longest that any operation takes.
    ///
    /// # Errors
    /// When the config cannot be used, whether or not there is a server.
    pub async fn open(
        redis: &Redis,
        ttl: Duration,
        deadline: Duration,
        at_rest: AtRest,
    ) -> Result<Self, RedisConfigError> {
        let deadline = deadline - MARGIN.min(deadline / 4);
        let clients = Clients::new(redis, deadline)?;
        let pool_size = redis.pool_size.get();
        if redis.cluster_mode {
            let nodes = redis.cluster_addresses.len();
            tracing::info!("RedisStore: creating cluster client (nodes={nodes}, pool_size={pool_size})");
        } else if let Some(service) = &redis.sentinel_service {
            let nodes = redis.sentinel_addresses.len();
            tracing::info!("RedisStore: creating client (sentinels={nodes}, service={service}, pool_size={pool_size})");
        } else {
            let address = &redis.address;
            tracing::info!("RedisStore: creating client (address={address}, pool_size={pool_size})");
        }

        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        // A connection carries many commands at once: more of them than cores make it slower.
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let acks = redis.min_replica_acks;
        // Behind Sentinels fred makes connections anew by itself, and what was read on one is not bound to it.
        let keeps_recent = redis.cache_bytes > 0 && redis.sentinel_service.is_none();
        let recent = keeps_recent.then(|| Arc::new(Recent::new(redis.cache_bytes, clients.slotting())));
        let making = Making {
            clients,
            common: pool_size.min(cores.max(2)),
            confirmed: if acks == 0 { 0 } else { pool_size.min(durability::CONNECTIONS) },
            recent: recent.clone(),
            most_in_flight: pool_size.saturating_mul(IN_FLIGHT_PER_POOL_SIZE),
            pulse: Arc::new(Pulse::new()),
            counters: Arc::new(Counters::default()),
            trouble: Arc::default(),
            stop: stop.clone(),
            tasks: tasks.clone(),
        };
        let pool = Pool::start(making, redis.breaker_seconds);
        let durability =
            (acks > 0).then(|| Durability::new(Arc::clone(&pool), acks, redis.on_missing_acks, redis.write_timeout));
        let shared = Arc::new(Shared {
            commands: Commands::new(
                Arc::clone(&pool),
                redis.max_pending_bytes.get(),
                redis.read_timeout,
                redis.write_timeout,
            ),
            pool,
            durability,
            recent,
            placing: Placing::new(),
            ttl_seconds: i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX).max(1),
            values: Values { codec: at_rest.codec, compression: redis.compression },
            tenant_in_key: at_rest.tenant_in_key,
            deadline,
        });
        let welcome = format!(
            "RedisStore: initialized successfully (cluster_mode={}, key_prefix={}, ttl={})",
            redis.cluster_mode,
            redis.key_prefix,
            in_go(ttl)
        );
        let arrival = tasks.spawn(welcome_redis(Arc::clone(&shared.pool), redis.key_prefix.clone(), welcome));
        if tokio::time::timeout(START_PATIENCE, arrival).await.is_err() {
            tracing::warn!("RedisStore: Redis does not answer yet, starting without it");
        }
        let keys = Keys { prefix: redis.key_prefix.as_str().into() };
        Ok(Self { shared, keys, tasks, _stop: Arc::new(stop.drop_guard()) })
    }

    /// The operation that `make` makes, in its place on the heap; it goes on when its caller is dropped.
    fn lasting<T, F>(&self, make: impl FnOnce() -> F) -> Lasting<Result<T, StoreError>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        const { assert!(size_of::<F>() <= LARGEST_OPERATION_BYTES) };
        let panicked = || StoreError::Unavailable("the operation failed by a fault of ours".to_owned());
        // An async block would have room for it twice: for what it captured, and for what it waits for.
        let caught = || AssertUnwindSafe(make()).catch_unwind().map(move |end| end.unwrap_or_else(|_| Err(panicked())));
        Lasting::new(&self.tasks, pinned(caught))
    }

    /// Runs an operation. Fails at once while Redis is away, and as soon as that is known.
    async fn run<T: Send + 'static>(&self, operation: Lasting<Result<T, StoreError>>) -> Result<T, StoreError> {
        let away = || StoreError::Unavailable("Redis does not answer".to_owned());
        let mut presence = self.shared.pool.presence();
        if *presence.borrow() == Presence::Away {
            self.shared.pool.counters().refused_away.one();
            return Err(away());
        }
        tokio::select! {
            biased;
            done = operation => done,
            _ = presence.wait_for(|presence| *presence == Presence::Away) => {
                self.shared.pool.counters().refused_away.one();
                Err(away())
            }
        }
    }
}

/// Tells when Redis is there, and what to know of it.
async fn welcome_redis(pool: Arc<Pool>, key_prefix: String, welcome: String) {
    if pool.presence().wait_for(|presence| *presence == Presence::Here).await.is_ok() {
        while !pool.knows_owners() {
            tokio::time::sleep(WHOLE_TICK).await;
        }
        let connected = async {
            while pool.links().is_empty() {
                tokio::time::sleep(WHOLE_TICK).await;
            }
        };
        let _ = tokio::time::timeout(START_PATIENCE, connected).await;
        match try_out(&pool, &key_prefix).await {
            Err(error) if failure::failure(&error, pool.is_clustered()) == Failure::Final => {
                tracing::error!("RedisStore: Redis cannot be used: {}", failure::store_error(&error));
            }
            Ok(()) | Err(_) => tracing::info!("{welcome}"),
        }
        let whole = async {
            while !pool.is_whole() {
                tokio::time::sleep(WHOLE_TICK).await;
            }
        };
        // Nodes that are not there yet are not warned of.
        let _ = tokio::time::timeout(START_PATIENCE, whole).await;
        eviction::warn_of_full_memory(pool.links()).await;
    }
}

/// The command that needs most of a server, its release (6.2) and the right to use it, on a key that is not there. Any
/// server's answer will do, one that names another node included.
async fn try_out(pool: &Pool, key_prefix: &str) -> Result<(), fred::error::Error> {
    let probe = format!("{key_prefix}response:probe_{:x}", rand::random::<u32>());
    match pool.links().first() {
        Some(link) => link.try_out(&Command::ReadAndTouch { key: probe, ttl_seconds: 1 }).await,
        None => Err(failure::nowhere()),
    }
}

#[async_trait]
impl ResponseStore for RedisStore {
    async fn put(&self, record: Arc<Record>) -> Result<(), StoreError> {
        let (shared, key) = (Arc::clone(&self.shared), self.keys.key(&record.id));
        let operation = self.lasting(|| async move { shared.put(key, record).await });
        self.run(operation).await
    }

    async fn load(&self, ids: &[ResponseId], touch: Touch) -> Result<Vec<Option<Arc<Record>>>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<_> = ids.iter().map(|id| self.keys.key(id)).collect();
        let (shared, ids) = (Arc::clone(&self.shared), ids.to_vec());
        let operation = match (touch, &self.shared.recent) {
            // The parent of a turn, which the next one needs again.
            (Touch::Refresh { longer }, Some(recent)) if ids.len() == 1 => {
                let recent = Arc::clone(recent);
                self.lasting(|| async move { shared.load_parent(&recent, ids, keys, longer).await })
            }
            _ => self.lasting(|| async move { shared.load(ids, keys, touch, shared.deadline()).await }),
        };
        self.run(operation).await
    }

    async fn load_since(&self, ids: &[ResponseId], since: Instant) -> Result<Vec<Option<Arc<Record>>>, StoreError> {
        let Some(recent) = self.shared.recent.as_ref().filter(|_| !ids.is_empty()) else {
            return self.load(ids, Touch::Keep).await;
        };
        let (keys, recent) = (ids.iter().map(|id| self.keys.key(id)).collect(), Arc::clone(recent));
        let (shared, ids) = (Arc::clone(&self.shared), ids.to_vec());
        let operation = self.lasting(|| async move { shared.load_tracked(&recent, ids, keys, since).await });
        self.run(operation).await
    }

    async fn refresh(&self, ids: &[ResponseId], longer: Duration) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let keys = ids.iter().map(|id| self.keys.key(id)).collect();
        let shared = Arc::clone(&self.shared);
        let operation = self.lasting(|| async move { shared.refresh(keys, longer).await });
        self.run(operation).await
    }

    async fn delete(&self, id: &ResponseId) -> Result<bool, StoreError> {
        let (shared, key) = (Arc::clone(&self.shared), self.keys.key(id));
        let operation = self.lasting(|| async move { shared.delete(key).await });
        self.run(operation).await
    }

    async fn ready(&self) -> Result<(), StoreError> {
        match *self.shared.pool.presence().borrow() {
            Presence::Here => {}
            Presence::Starting | Presence::Away => {
                return Err(StoreError::Unavailable("Redis does not answer".to_owned()));
            }
        }
        let pool = &self.shared.pool;
        if !pool.knows_owners() {
            return Err(StoreError::Unavailable("no node tells who owns the slots".to_owned()));
        }
        // Any server's answer will do: one shard that fails over must not take every router out of service.
        match tokio::time::timeout(READY_PATIENCE, try_out(pool, &self.keys.prefix)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if failure::failure(&error, pool.is_clustered()) == Failure::Final => {
                Err(failure::store_error(&error))
            }
            // Presence says that some server answered a moment ago.
            Ok(Err(_)) | Err(_) if pool.is_clustered() => Ok(()),
            Ok(Err(error)) => Err(failure::store_error(&error)),
            Err(_) => Err(StoreError::Timeout),
        }
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.shared.ttl_seconds).unwrap_or_default())
    }

    fn id_of_turn(&self, parent: Option<&ResponseId>, ids: &dyn IdSource) -> ResponseId {
        self.shared.placing.id_of_turn(&self.shared.pool, parent, ids, |id| self.keys.key(id))
    }

    fn place_of(&self, tenant: Tenant) -> Option<Arc<dyn ResponseStore>> {
        let place = || Self { keys: self.keys.of(tenant), ..self.clone() };
        self.shared.tenant_in_key.then(|| Arc::new(place()) as Arc<dyn ResponseStore>)
    }

    fn name(&self) -> &'static str {
        "redis"
    }

    fn figures(&self) -> Vec<Figure> {
        self.shared.pool.figures()
    }
}

/// A duration as Go prints it: `24h0m0s`.
fn in_go(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_told_as_the_guide_tells_them() {
        for (seconds, expected) in [(86400, "24h0m0s"), (90, "1m30s"), (59, "59s"), (3600, "1h0m0s"), (0, "0s")] {
            assert_eq!(in_go(Duration::from_secs(seconds)), expected);
        }
    }
}
