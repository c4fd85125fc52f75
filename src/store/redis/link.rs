//! One fred client and what is known of its health.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fred::clients::{Client, WithOptions};
use fred::error::Error;
use fred::interfaces::{ClientLike as _, ClusterInterface as _, EventInterface as _};
use fred::types::ClusterHash;
use fred::types::config::Options;
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client::Clients;
use super::failure::{self, Failure};

/// How long a probe may take.
const PROBE: Duration = Duration::from_secs(1);

/// As many probes at once as a small cluster has masters: a client that reaches one of them is well.
const PROBES: u16 = 3;

/// The slots of a cluster.
const SLOTS: u16 = 16_384;

/// A client, its task and its last sign of life. Dropping it does not end the task, [`Link::stop`] does.
pub(super) struct Link {
    client: Client,
    clustered: bool,
    born: Instant,
    /// Milliseconds since `born` at the last reply of a server.
    answered: AtomicU64,
    probing: AtomicBool,
    stop: CancellationToken,
    /// The client's task is over; its commands will never be answered.
    ended: CancellationToken,
}

impl Link {
    /// A client that begins to connect, and keeps at it. `stop` ends it from outside.
    pub(super) fn start(clients: &Clients, stop: CancellationToken, tasks: &TaskTracker) -> Result<Arc<Self>, Error> {
        let client = clients.make()?;
        let link = Arc::new(Self {
            clustered: clients.is_clustered(),
            born: Instant::now(),
            answered: AtomicU64::new(0),
            probing: AtomicBool::new(false),
            stop,
            ended: CancellationToken::new(),
            client,
        });
        let mut errors = link.client.error_rx();
        let mut task = link.client.connect();
        let (stop, ended) = (link.stop.clone(), link.ended.clone());
        tasks.spawn(async move {
            loop {
                tokio::select! {
                    // Defect 2: an error ends the client's task, and nothing starts it again.
                    result = &mut task => {
                        tracing::warn!(?result, "RedisStore: a client ended");
                        break;
                    }
                    () = stop.cancelled() => {
                        task.abort();
                        break;
                    }
                    Ok((error, server)) = errors.recv() => {
                        let server = server.map(|server| server.to_string());
                        tracing::debug!(%error, server, "RedisStore: a connection failed");
                    }
                }
            }
            ended.cancel();
        });
        Ok(link)
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether commands can be sent now, as far as the client knows.
    pub(super) fn is_connected(&self) -> bool {
        !self.ended.is_cancelled() && self.client.is_connected()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Returns when the client's task is over.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// When a server answered last; before the first time, when the client was made.
    pub(super) fn answered_at(&self) -> Instant {
        self.born + Duration::from_millis(self.answered.load(Ordering::Relaxed))
    }

    pub(super) fn has_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed) > 0
    }

    /// Takes note of how a command ended.
    pub(super) fn note<T>(&self, result: &Result<T, Error>) {
        let answered = match result {
            Ok(_) => true,
            Err(error) => failure::is_answer(error, self.clustered),
        };
        if answered {
            let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
            self.answered.fetch_max(now, Ordering::Relaxed);
        }
    }

    pub(super) fn is_clustered(&self) -> bool {
        self.clustered
    }

    pub(super) fn with(&self, options: &Options) -> WithOptions<Client> {
        self.client.with_options(options)
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Asks servers for a sign of life and takes note of it; says how many gave none in time. Does nothing while another
    /// probe is under way.
    pub(super) async fn probe(&self) -> u32 {
        if self.probing.swap(true, Ordering::Relaxed) {
            return 0;
        }
        let first = rand::random_range(0..SLOTS);
        let probes = (0..if self.clustered { PROBES } else { 1 }).map(|number| async move {
            let slot = (first + number * (SLOTS / PROBES)) % SLOTS;
            let answer = self.ping(slot).await;
            self.note(&answer);
            u32::from(answer.is_err_and(|error| failure::failure(&error, self.clustered) == Failure::Silent))
        });
        let silent = join_all(probes).await.into_iter().sum();
        self.probing.store(false, Ordering::Relaxed);
        silent
    }

    /// One server's answer to PING, the owner's of this slot.
    pub(super) async fn ping(&self, slot: u16) -> Result<(), Error> {
        let cluster_hash = self.clustered.then_some(ClusterHash::Custom(slot));
        let options = Options { timeout: Some(PROBE), max_attempts: Some(1), cluster_hash, ..Options::default() };
        self.client.with_options(&options).ping::<fred::types::Value>(None).await.map(drop)
    }

    /// Makes the client ask again who owns which slots: a hung master is never noticed by itself (defect 4).
    pub(super) async fn learn_cluster(&self) {
        match tokio::time::timeout(PROBE * 3, self.client.sync_cluster()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "RedisStore: the slots could not be learnt"),
            Err(_) => tracing::debug!("RedisStore: the slots could not be learnt in time"),
        }
    }
}
