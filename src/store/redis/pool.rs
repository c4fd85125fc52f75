//! The clients of a store, and the task that keeps them alive.
//!
//! fred's clients can end for good or hang (defects 2 and 4), and its own pool goes on using them. Here each has a slot
//! that a new client takes over once it has answered; whoever waits on the old one is told, and tries again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client::Clients;
use super::link::Link;

/// How often the supervisor looks.
const TICK: Duration = Duration::from_millis(50);

/// How often each client is probed.
const PROBE_EVERY: Duration = Duration::from_millis(500);

/// A client that has not answered for so long gets a rival; the one that answers first stays.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// How long a new client has to answer, and how long an ended one waits for the next attempt to replace it.
const RIVAL_PATIENCE: Duration = Duration::from_secs(3);
const BETWEEN_RIVALS: Duration = Duration::from_millis(300);

/// So many commands and probes without an answer within [`SILENCE_WINDOW`] make the clients ask for the slots again, but not more
/// often than every [`LEARN_EVERY`]: a client answers nobody while it asks.
const SILENCES: u32 = 3;
const SILENCE_WINDOW: Duration = Duration::from_secs(5);
const LEARN_EVERY: Duration = Duration::from_millis(1500);

/// Whether Redis is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// No server has answered yet, and the start was a moment ago.
    Starting,
    /// A server answered lately.
    Here,
    /// None has for longer than the breaker waits: nobody should wait for it.
    Away,
}

/// Clients that share the work.
pub(super) struct Pool {
    clients: Clients,
    first: Slot,
    others: Box<[Slot]>,
    turn: AtomicUsize,
    silences: AtomicU32,
    presence: watch::Sender<Presence>,
    breaker: Duration,
    stop: CancellationToken,
    tasks: TaskTracker,
}

struct Slot {
    link: ArcSwap<Link>,
    replacing: AtomicBool,
}

impl Slot {
    fn start(clients: &Clients, stop: &CancellationToken, tasks: &TaskTracker) -> Result<Self, fred::error::Error> {
        let link = Link::start(clients, stop.child_token(), tasks)?;
        Ok(Self { link: ArcSwap::new(link), replacing: AtomicBool::new(false) })
    }
}

impl Pool {
    /// So many clients, beginning to connect. `stop` ends them.
    pub(super) fn start(
        clients: Clients,
        size: usize,
        breaker: Duration,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Result<Arc<Self>, fred::error::Error> {
        let slot = || Slot::start(&clients, stop, tasks);
        let pool = Arc::new(Self {
            first: slot()?,
            others: (1..size).map(|_| slot()).collect::<Result<_, _>>()?,
            clients,
            turn: AtomicUsize::new(0),
            silences: AtomicU32::new(0),
            presence: watch::Sender::new(Presence::Starting),
            breaker,
            stop: stop.clone(),
            tasks: tasks.clone(),
        });
        tasks.spawn(Arc::clone(&pool).supervise());
        Ok(pool)
    }

    pub(super) fn presence(&self) -> watch::Receiver<Presence> {
        self.presence.subscribe()
    }

    pub(super) fn is_clustered(&self) -> bool {
        self.clients.is_clustered()
    }

    /// A client to send commands by: in turn, one that is connected if there is any.
    pub(super) fn next(&self) -> Arc<Link> {
        let size = 1 + self.others.len();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % size;
        let mut in_turn = self.slots().cycle().skip(turn).take(size).map(|slot| slot.link.load_full());
        in_turn.find(|link| link.is_connected()).unwrap_or_else(|| self.first.link.load_full())
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> + Clone {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// Takes note that a command was not answered in time.
    pub(super) fn note_silence(&self) {
        self.silences.fetch_add(1, Ordering::Relaxed);
    }

    async fn supervise(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let started = Instant::now();
        let mut probed: Option<Instant> = None;
        let mut learnt = started;
        let mut window = started;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.stop.cancelled() => return,
            }
            let now = Instant::now();
            if probed.is_none_or(|probed| now - probed >= PROBE_EVERY) {
                probed = Some(now);
                self.probe();
            }
            self.tell_presence(now);
            for index in 0..=self.others.len() {
                self.replace_if_lost(index, now);
            }
            if self.silences.load(Ordering::Relaxed) >= SILENCES && now - learnt >= LEARN_EVERY {
                learnt = now;
                window = now;
                self.silences.store(0, Ordering::Relaxed);
                self.learn_cluster();
            } else if now - window >= SILENCE_WINDOW {
                window = now;
                self.silences.store(0, Ordering::Relaxed);
            }
        }
    }

    fn probe(self: &Arc<Self>) {
        for slot in self.slots() {
            let (link, pool) = (slot.link.load_full(), Arc::clone(self));
            if !link.has_ended() {
                self.tasks.spawn(async move { pool.silences.fetch_add(link.probe().await, Ordering::Relaxed) });
            }
        }
    }

    fn learn_cluster(&self) {
        if !self.is_clustered() {
            return;
        }
        tracing::warn!("RedisStore: a node does not answer, asking the others who owns its slots");
        for slot in self.slots() {
            let link = slot.link.load_full();
            self.tasks.spawn(async move { link.learn_cluster().await });
        }
    }

    fn tell_presence(&self, now: Instant) {
        let links = || self.slots().map(|slot| slot.link.load());
        let answered = links().map(|link| link.answered_at()).max();
        let silent = answered.map_or(Duration::MAX, |answered| now.saturating_duration_since(answered));
        let presence = if silent > self.breaker {
            Presence::Away
        } else if links().any(|link| link.has_answered()) {
            Presence::Here
        } else {
            Presence::Starting
        };
        let before = self.presence.send_replace(presence);
        match (before, presence) {
            (Presence::Away, Presence::Here) => tracing::info!("RedisStore: Redis answers"),
            (Presence::Starting | Presence::Here, Presence::Away) => {
                tracing::warn!("RedisStore: Redis does not answer, requests fail until it does");
            }
            _ => {}
        }
    }

    /// Lets a new client take over a slot whose client ended or has not answered for long.
    fn replace_if_lost(self: &Arc<Self>, index: usize, now: Instant) {
        let Some(slot) = self.slots().nth(index) else { return };
        let link = slot.link.load_full();
        let stuck = now.saturating_duration_since(link.answered_at()) > STUCK_AFTER;
        if !(link.has_ended() || stuck) || slot.replacing.swap(true, Ordering::Relaxed) {
            return;
        }
        let pool = Arc::clone(self);
        self.tasks.spawn(async move {
            pool.replace(index, &link).await;
            tokio::time::sleep(BETWEEN_RIVALS).await;
            if let Some(slot) = pool.slots().nth(index) {
                slot.replacing.store(false, Ordering::Relaxed);
            }
        });
    }

    async fn replace(&self, index: usize, old: &Link) {
        let rival = match Link::start(&self.clients, self.stop.child_token(), &self.tasks) {
            Ok(rival) => rival,
            Err(error) => return tracing::warn!(%error, "RedisStore: a client could not be made"),
        };
        let deadline = tokio::time::sleep(RIVAL_PATIENCE);
        tokio::pin!(deadline);
        let asked = old.answered_at();
        while !rival.has_answered() {
            tokio::select! {
                _ = rival.probe() => tokio::time::sleep(TICK).await,
                () = rival.ended() => break,
                () = &mut deadline => break,
            }
            if old.answered_at() > asked && !old.has_ended() {
                break;
            }
        }
        let slot = self.slots().nth(index).filter(|_| rival.has_answered() && !rival.has_ended());
        match slot {
            Some(slot) => {
                tracing::info!("RedisStore: a new client took over from one that did not answer any more");
                slot.link.store(rival);
                old.stop();
            }
            None => rival.stop(),
        }
    }
}
