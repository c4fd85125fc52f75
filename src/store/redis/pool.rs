//! The nodes of a store: which one a key belongs to, and whether any of them answers.
//!
//! fred's own cluster client answers nobody while it connects to one node (defect 5), so there is a client for each node
//! and connection, and who owns which slots is kept here. It is learnt from any node that answers: at start, after MOVED,
//! and again and again while a node is gone or silent. When another took over from it, the node is stopped: who waited
//! for it is told at once, and asks the other one.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use fred::types::config::Server;
use futures_util::stream::{self, StreamExt as _};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::counters::{Counters, Moment};
use super::link::Link;
use super::node::{Lane, Making, Node};
use super::slots::{Redirection, Shards, Slotting};
use super::topology::Topology;
use crate::store::figures::Figure;

/// How often presence is told.
const TICK: Duration = Duration::from_millis(50);

/// The slots are learnt this often without cause, and not more often than that with it.
const LEARN_EVERY: Duration = Duration::from_secs(30);
const LEARN_APART: Duration = Duration::from_millis(200);

/// As long as a slot has no owner, as in a cluster that is not there yet or is being made, they are learnt again after a
/// pause that grows to this.
const LEARN_AGAIN: Duration = Duration::from_secs(1);

/// So many commands, one after the other, go by the same connection of a node, so that those of the same moment leave in
/// one system call.
const TOGETHER: usize = 16;

/// So many nodes are asked at once who owns the slots; the first answer counts.
const ASKED_AT_ONCE: usize = 3;

/// The log is not told more often than that why a node is of no use.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// How long a node that is not connected has to be so and to tell.
const TELL_PATIENCE: Duration = Duration::from_secs(2);

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

/// Nodes that share the work.
pub(super) struct Pool {
    making: Arc<Making>,
    topology: ArcSwap<Topology>,
    /// Held while the topology changes.
    changing: Mutex<()>,
    /// When the log was told last of a node that is of no use.
    complained: Mutex<Option<Instant>>,
    turn: AtomicUsize,
    presence: watch::Sender<Presence>,
    breaker: Duration,
}

impl Pool {
    /// Begins to connect. `making.stop` ends it.
    pub(super) fn start(making: Making, breaker: Duration) -> Arc<Self> {
        let making = Arc::new(making);
        let clustered = making.clients.is_clustered();
        let topology = if clustered { Topology::unknown() } else { Topology::one(Node::start(None, &making)) };
        let pool = Arc::new(Self {
            topology: ArcSwap::from_pointee(topology),
            changing: Mutex::new(()),
            complained: Mutex::new(None),
            turn: AtomicUsize::new(0),
            presence: watch::Sender::new(Presence::Starting),
            breaker,
            making,
        });
        pool.making.tasks.spawn(Arc::clone(&pool).keep_presence());
        if clustered {
            pool.making.tasks.spawn(Arc::clone(&pool).keep_learning());
        }
        pool
    }

    pub(super) fn presence(&self) -> watch::Receiver<Presence> {
        self.presence.subscribe()
    }

    pub(super) fn is_clustered(&self) -> bool {
        self.making.clients.is_clustered()
    }

    pub(super) fn slotting(&self) -> Slotting {
        self.making.clients.slotting()
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.making.counters
    }

    /// A number for commands that should go out together, the same for some that follow one another, unless each holds up
    /// the next.
    pub(super) fn turn(&self, lane: Lane) -> usize {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        match lane {
            Lane::Common | Lane::Tracked => turn / TOGETHER,
            Lane::Confirmed => turn,
        }
    }

    /// The node that owns a slot, as far as is known.
    pub(super) fn owner(&self, slot: u16) -> Option<Arc<Node>> {
        self.topology.load().owner(slot).cloned()
    }

    /// Whether one node owns both slots, as far as is known.
    pub(super) fn have_one_owner(&self, one: u16, other: u16) -> bool {
        let topology = self.topology.load();
        let owners = topology.owner(one).zip(topology.owner(other));
        owners.is_some_and(|(one, other)| Arc::ptr_eq(one, other))
    }

    /// Whether the node that owns a slot has answered lately, as far as is known.
    pub(super) fn answers(&self, slot: u16) -> bool {
        self.topology.load().owner(slot).is_some_and(|node| node.answers())
    }

    /// Whether any node that owns slots has.
    pub(super) fn some_answer(&self) -> bool {
        self.topology.load().masters().iter().any(|node| node.answers())
    }

    /// A connection to each master that there is one to; others first each time.
    pub(super) fn links(&self) -> Vec<Arc<Link>> {
        self.told_by().into_iter().map(|(link, _)| link).collect()
    }

    /// Whether there is a node that owns slots, as far as is known.
    pub(super) fn knows_owners(&self) -> bool {
        !self.topology.load().masters().is_empty()
    }

    /// Whether there is a connection to each master.
    pub(super) fn is_whole(&self) -> bool {
        let masters = self.topology.load().masters().len();
        masters > 0 && masters == self.links().len()
    }

    fn told_by(&self) -> Vec<(Arc<Link>, Option<Server>)> {
        let (topology, turn) = (self.topology.load(), self.turn.fetch_add(TOGETHER, Ordering::Relaxed) / TOGETHER);
        let masters = topology.masters();
        let in_turn = masters.iter().cycle().skip(turn.checked_rem(masters.len()).unwrap_or(0)).take(masters.len());
        in_turn.filter_map(|node| Some((node.link(Lane::Common, turn)?, node.server().cloned()))).collect()
    }

    /// Takes note that a command was not answered in time.
    pub(super) fn note_silence(&self) {
        self.making.trouble.notify_one();
    }

    /// Takes note of a redirection that this node answered; says which node to ask instead, for this once.
    pub(super) fn follow(&self, answer: &str, teller: &Node) -> Option<Arc<Node>> {
        match Redirection::read(answer, teller.server()?, self.making.clients.naming())? {
            Redirection::Moved { slot, to } => {
                if self.topology.load().is_owner(slot, &to) {
                    return None;
                }
                self.change(|now| now.moved(slot, &to, |server| self.begin(server)));
                self.making.trouble.notify_one();
                None
            }
            Redirection::Ask { to } => {
                if let Some(node) = self.topology.load().node(&to) {
                    return Some(Arc::clone(node));
                }
                self.change(|now| match now.node(&to) {
                    Some(_) => now.clone(),
                    None => now.with_guest(self.begin(to.clone())),
                });
                self.topology.load().node(&to).cloned()
            }
        }
    }

    /// Says why a node is of no use, but not again and again.
    fn complain(&self, error: &dyn Display, complaint: &str) {
        let mut last = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < COMPLAIN_EVERY) {
            return tracing::debug!(%error, "RedisStore: {complaint}");
        }
        *last = Some(Instant::now());
        tracing::warn!(%error, "RedisStore: {complaint}, trying on");
    }

    fn begin(&self, server: Server) -> Arc<Node> {
        tracing::debug!(%server, "RedisStore: a node of the cluster is new");
        Node::start(Some(server), &self.making)
    }

    fn change(&self, next: impl FnOnce(&Topology) -> Topology) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.topology.load_full();
        let next = Arc::new(next(&before));
        if !before.has_same_owners(&next) {
            self.counters().topology_changes.one();
        }
        self.topology.store(Arc::clone(&next));
        for gone in before.without(&next) {
            gone.stop();
        }
    }

    async fn keep_learning(self: Arc<Self>) {
        let learning = async {
            let mut again = LEARN_APART;
            loop {
                self.learn().await;
                tokio::time::sleep(LEARN_APART).await;
                let pause = if self.topology.load().is_covered() {
                    again = LEARN_APART;
                    LEARN_EVERY
                } else {
                    again = (again * 2).min(LEARN_AGAIN);
                    again
                };
                let _ = tokio::time::timeout(pause, self.making.trouble.notified()).await;
            }
        };
        tokio::select! {
            () = learning => {}
            () = self.making.stop.cancelled() => {}
        }
    }

    /// Asks nodes who owns which slots, connected ones before others, until one tells.
    async fn learn(&self) {
        let connected = self.told_by();
        let asked = |(link, server): (Arc<Link>, Option<Server>)| async move { self.ask(&link, &server?).await };
        let mut told = std::pin::pin!(stream::iter(connected).map(asked).buffer_unordered(ASKED_AT_ONCE));
        let mut shards = None;
        while let (None, Some(answer)) = (&shards, told.next().await) {
            shards = answer;
        }
        if shards.is_none() {
            shards = self.learn_from_others().await;
        }
        let Some(shards) = shards else {
            self.counters().slots_not_learnt.one();
            return tracing::debug!("RedisStore: no node tells who owns the slots");
        };
        self.counters().slots_learnt.one();
        self.change(|now| now.adopt(&shards, |server| self.begin(server)));
    }

    /// Asks all nodes that were ever told of, or are in the config.
    async fn learn_from_others(&self) -> Option<Shards> {
        let topology = self.topology.load_full();
        let masters = topology.masters().iter().filter_map(|node| node.server());
        let known: BTreeSet<Server> =
            masters.chain(topology.replicas()).chain(self.making.clients.seeds()).cloned().collect();
        let dialled = |server: Server| async move {
            let making = &self.making;
            let (pulse, stop) = (Arc::clone(&making.pulse), making.stop.child_token());
            let told = async {
                let link =
                    Link::dial(&making.clients, Some(&server), Lane::Common, pulse, stop.clone(), &making.tasks).await;
                match link {
                    Ok(link) => self.ask(&link, &server).await,
                    Err(error) => {
                        making.counters.dial_failures.one();
                        self.complain(&error, &format!("no connection to {server}"));
                        None
                    }
                }
            };
            let told = tokio::time::timeout(TELL_PATIENCE, told).await.ok().flatten();
            stop.cancel();
            told
        };
        let mut told = std::pin::pin!(stream::iter(known).map(dialled).buffer_unordered(ASKED_AT_ONCE));
        while let Some(answer) = told.next().await {
            if answer.is_some() {
                return answer;
            }
        }
        None
    }

    async fn ask(&self, link: &Link, teller: &Server) -> Option<Shards> {
        let told = link.cluster_slots().await;
        let shards = told.as_ref().ok().and_then(|told| Shards::read(told, teller, self.making.clients.naming()));
        if shards.is_none() {
            let error: &dyn Display = told.as_ref().err().map_or(&"it knows no node that owns any", |error| error);
            let complaint = format!("{teller} does not tell who owns the slots");
            if self.knows_owners() {
                tracing::debug!(%error, "RedisStore: {complaint}");
            } else {
                self.complain(error, &complaint);
            }
        }
        shards
    }

    /// What can be told of the store now.
    pub(super) fn figures(&self) -> Vec<Figure> {
        let topology = self.topology.load();
        let connections = topology.nodes().map(|node| node.connections());
        let (connected, wanted) = connections.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        self.counters().figures(&Moment {
            reachable: *self.presence.borrow() == Presence::Here,
            connected,
            missing: wanted.saturating_sub(connected),
            masters: topology.masters().len(),
            cache_bytes: self.making.recent.as_ref().map_or(0, |recent| recent.bytes()),
        })
    }

    async fn keep_presence(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.tell_presence(),
                () = self.making.stop.cancelled() => return,
            }
        }
    }

    fn tell_presence(&self) {
        let pulse = &self.making.pulse;
        let presence = if pulse.silence() > self.breaker {
            Presence::Away
        } else if pulse.has_beaten() {
            Presence::Here
        } else {
            Presence::Starting
        };
        let before = *self.presence.borrow();
        if before != Presence::Away && presence == Presence::Away {
            // Before it is told: who is refused finds it counted.
            self.counters().breaker_opened.one();
        }
        self.presence.send_replace(presence);
        match (before, presence) {
            (Presence::Away, Presence::Here) => tracing::info!("RedisStore: Redis answers"),
            (Presence::Starting | Presence::Here, Presence::Away) => {
                tracing::warn!("RedisStore: Redis does not answer, requests fail until it does");
            }
            _ => {}
        }
    }
}
