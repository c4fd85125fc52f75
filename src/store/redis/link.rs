//! One fred client and what is known of its health: a connection, except with Sentinel.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fred::clients::{Client, WithOptions};
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike as _, ClusterInterface as _, EventInterface as _, TrackingInterface as _};
use fred::types::Value;
use fred::types::client::Invalidation;
use fred::types::config::{Options, Server};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::TryRecvError;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::client::Clients;
use super::command::Command;
use super::failure::{self, Failure};
use super::node::Lane;
use super::recent::{LinkId, Recent};

/// How long a probe may take.
const PROBE: Duration = Duration::from_secs(1);

/// The last sign of life of a server, or of any of many.
#[derive(Debug)]
pub(super) struct Pulse {
    born: Instant,
    /// Milliseconds since `born`, 0 for never.
    last: AtomicU64,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self { born: Instant::now(), last: AtomicU64::new(0) }
    }

    fn beat(&self) {
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        if self.last.load(Ordering::Relaxed) < now {
            self.last.fetch_max(now, Ordering::Relaxed);
        }
    }

    /// For how long there has been none; before the first, since this was made.
    pub(super) fn silence(&self) -> Duration {
        self.born.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }

    pub(super) fn has_beaten(&self) -> bool {
        self.last.load(Ordering::Relaxed) > 0
    }
}

/// A client that is connected. Dropping it does not end its task, [`Link::stop`] does.
pub(super) struct Link {
    id: LinkId,
    client: Client,
    /// What the server says has changed or gone of what was read on this connection, if it is a tracked one.
    changes: Option<Mutex<broadcast::Receiver<Invalidation>>>,
    /// When the last of the commands was sent whose answer vouches for what was read on this connection.
    vouched: Mutex<Option<Instant>>,
    /// The last question whose answer will.
    question: Mutex<Option<Question>>,
    clustered: bool,
    pulse: Pulse,
    everyones: Arc<Pulse>,
    stop: CancellationToken,
    /// The client's task is over; its commands will never be answered.
    ended: CancellationToken,
}

/// A question that is under way to a server.
#[derive(Debug, Clone)]
struct Question {
    sent: Instant,
    over: CancellationToken,
}

/// Held by who asks a question, until there is an answer or will be none.
pub(super) struct Asking(#[expect(dead_code, reason = "held")] DropGuard);

impl Link {
    /// Connects to a node of a cluster, or as the config says. `stop` ends the link, and the attempt.
    pub(super) async fn dial(
        clients: &Clients,
        server: Option<&Server>,
        lane: Lane,
        everyones: Arc<Pulse>,
        stop: CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<Arc<Self>, Error> {
        let client = clients.make(server, lane)?;
        let changes = (lane == Lane::Tracked).then(|| Mutex::new(client.invalidation_rx()));
        let (mut errors, reconnects) = (client.error_rx(), client.client_reconnect_policy().is_some());
        let task = {
            let connected = client.wait_for_connect();
            tokio::pin!(connected);
            // The first poll subscribes, so that what the task tells right after its start is heard.
            let mut task = AbortOnDropHandle::new(tokio::select! {
                biased;
                _ = &mut connected => return Err(canceled()),
                () = std::future::ready(()) => client.connect(),
            });
            let mut told = false;
            loop {
                tokio::select! {
                    result = &mut connected => break result?,
                    result = &mut task => return Err(result?.err().unwrap_or_else(canceled)),
                    // Behind Sentinels fred tries on by itself.
                    Ok((error, _)) = errors.recv(), if !told && reconnects => {
                        told = true;
                        tracing::warn!(%error, "RedisStore: no connection, trying on");
                    }
                    () = stop.cancelled() => return Err(canceled()),
                }
            }
            task
        };
        if lane == Lane::Tracked {
            client.start_tracking(Vec::<String>::new(), false, false, false, false).await?;
        }
        static LINKS: AtomicU64 = AtomicU64::new(0);
        let link = Arc::new(Self {
            id: LINKS.fetch_add(1, Ordering::Relaxed),
            client,
            changes,
            vouched: Mutex::new(None),
            question: Mutex::new(None),
            clustered: clients.is_clustered(),
            pulse: Pulse::new(),
            everyones,
            stop,
            ended: CancellationToken::new(),
        });
        link.beat();
        let (stop, ended) = (link.stop.clone(), link.ended.clone());
        tasks.spawn(async move {
            tokio::select! {
                result = task => tracing::debug!(?result, "RedisStore: a connection ended"),
                // Drops the task, and so ends it.
                () = stop.cancelled() => {}
            }
            ended.cancel();
        });
        Ok(link)
    }

    pub(super) fn id(&self) -> LinkId {
        self.id
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Takes note that what is still kept of this connection was there when a command was sent, or later.
    pub(super) fn vouch(&self, sent: Instant) {
        let mut vouched = self.vouched.lock().unwrap_or_else(PoisonError::into_inner);
        *vouched = (*vouched).max(Some(sent));
    }

    /// Whether what is still kept of this connection was there at some time since.
    pub(super) fn is_vouched_since(&self, since: Instant) -> bool {
        self.is_connected() && self.vouched.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at >= since)
    }

    /// Takes note that a question is sent now, so that others need not send one.
    pub(super) fn begin_question(&self, sent: Instant) -> Asking {
        let over = CancellationToken::new();
        *self.question.lock().unwrap_or_else(PoisonError::into_inner) = Some(Question { sent, over: over.clone() });
        Asking(over.drop_guard())
    }

    /// Waits for the answer to a question that is under way and was sent at some time since; whether there was one.
    pub(super) async fn join_question(&self, since: Instant, deadline: Instant) -> bool {
        let question = self.question.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(Question { over, .. }) = question.filter(|asked| asked.sent >= since && !asked.over.is_cancelled())
        else {
            return false;
        };
        let _ = tokio::time::timeout_at(deadline.into(), over.cancelled()).await;
        true
    }

    /// Makes it forgotten what the server has said until now that has changed or gone. It says so in front of whatever it
    /// answers later.
    pub(super) fn tell_changes(&self, recent: &Recent) {
        let Some(changes) = &self.changes else { return };
        let mut changes = changes.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match changes.try_recv() {
                Ok(changed) => recent.forget(self.id, changed.keys.iter().filter_map(|key| key.as_str())),
                // Some were not heard.
                Err(TryRecvError::Lagged(_)) => recent.forget_link(self.id),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    /// Whether commands can be sent now, as far as the client knows.
    pub(super) fn is_connected(&self) -> bool {
        !self.ended.is_cancelled() && self.client.is_connected()
    }

    /// Returns when the client's task is over.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// For how long the server has not answered.
    pub(super) fn silence(&self) -> Duration {
        self.pulse.silence()
    }

    fn beat(&self) {
        self.pulse.beat();
        self.everyones.beat();
    }

    /// Takes note of how a command ended.
    pub(super) fn note<T>(&self, result: &Result<T, Error>) {
        let answered = match result {
            Ok(_) => true,
            Err(error) => failure::is_answer(error, self.clustered),
        };
        if answered {
            self.beat();
        }
    }

    pub(super) fn with(&self, options: &Options) -> WithOptions<Client> {
        self.client.with_options(options)
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Asks for a sign of life and takes note of it; whether the server gave none in time.
    pub(super) async fn is_silent(&self) -> bool {
        let answer = self.ping().await;
        self.note(&answer);
        answer.is_err_and(|error| failure::failure(&error, self.clustered) == Failure::Silent)
    }

    /// What the server says to a command that is sent to see whether it may be.
    pub(super) async fn try_out(&self, command: &Command) -> Result<(), Error> {
        let answer = command.send_once(self, PROBE).await;
        self.note(&answer);
        answer.map(drop)
    }

    /// The server's answer to PING.
    async fn ping(&self) -> Result<(), Error> {
        self.with(&probing()).ping::<Value>(None).await.map(drop)
    }

    /// What the server knows of its cluster.
    pub(super) async fn cluster_slots(&self) -> Result<Value, Error> {
        let answer = self.with(&probing()).cluster_slots().await;
        self.note(&answer);
        answer
    }
}

fn probing() -> Options {
    Options { timeout: Some(PROBE), max_attempts: Some(1), ..Options::default() }
}

fn canceled() -> Error {
    Error::new(ErrorKind::Canceled, "the client ended")
}
