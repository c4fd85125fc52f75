//! A server, and the connections to it that are kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use fred::types::config::Server;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client::Clients;
use super::counters::Counters;
use super::failure::{self, Failure};
use super::link::{Link, Pulse};
use super::patience::Patience;
use super::recent::Recent;
use crate::store::StoreError;

/// The pause before a connection is made again, growing from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(300);

/// A connection that lived for so long was a good one: the pause begins anew.
const STEADY: Duration = Duration::from_secs(2);

/// A server that does not tell changes is asked to again after so long.
const TRACK_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// A connection without an answer for so long is probed.
const PROBE_AFTER: Duration = Duration::from_millis(500);

/// A server that has not answered for so long, though it was probed, most likely will not now.
const DOUBTED_AFTER: Duration = Duration::from_secs(1);

/// A server that has refused a command most likely refuses the next one for so long.
const DOUBTED_FOR: Duration = Duration::from_secs(1);

/// How often one that does not answer is told of.
const TROUBLE_EVERY: Duration = Duration::from_millis(100);

/// A connection that has not answered for so long is given up for a new one.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// The log tells of a node that there is no connection to after the first time, and again after the second.
const WARN_AFTER: Duration = Duration::from_secs(1);
const WARN_EVERY: Duration = Duration::from_secs(60);

/// What a connection under load carries at once without queueing for long; `pool_size` counts in these.
pub(super) const IN_FLIGHT_PER_POOL_SIZE: usize = 128;

/// What a command is for; each kind has connections of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Anything that is answered at once.
    Common,
    /// Writes that wait for replicas, and hold up what is behind them.
    Confirmed,
    /// Reads of what the server is to remember: it tells when that changes or goes.
    Tracked,
}

/// What nodes are made of, and whom they tell.
pub(super) struct Making {
    pub(super) clients: Clients,
    /// Connections of each lane.
    pub(super) common: usize,
    pub(super) confirmed: usize,
    /// What was read on the tracked connections, one per node; without it there are none.
    pub(super) recent: Option<Arc<Recent>>,
    /// The most commands that are under way to one node at once.
    pub(super) most_in_flight: usize,
    /// Beats when any node answers.
    pub(super) pulse: Arc<Pulse>,
    pub(super) counters: Arc<Counters>,
    /// Told when a node is gone or silent.
    pub(super) trouble: Arc<Notify>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Making {
    /// Whether a server has said that it will not tell changes.
    fn cannot_track(&self, error: &fred::error::Error) -> bool {
        failure::failure(error, self.clients.is_clustered()) == Failure::Final
    }
}

/// A server. Its connections are kept until it is stopped.
pub(super) struct Node {
    /// Its address in a cluster; without one it is found as the config says.
    server: Option<Server>,
    common: Box<[ArcSwapOption<Link>]>,
    confirmed: Box<[ArcSwapOption<Link>]>,
    tracked: Box<[ArcSwapOption<Link>]>,
    in_flight: Semaphore,
    born: Instant,
    /// When it last refused a command: milliseconds since `born`, 0 for never.
    refused: AtomicU64,
    patience: Patience,
    stop: CancellationToken,
}

impl Node {
    /// A node whose connections begin to be made.
    pub(super) fn start(server: Option<Server>, making: &Arc<Making>) -> Arc<Self> {
        let tracked = usize::from(making.recent.is_some());
        let lane = |size| (0..size).map(|_| ArcSwapOption::empty()).collect();
        let node = Arc::new(Self {
            server,
            common: lane(making.common),
            confirmed: lane(making.confirmed),
            tracked: lane(tracked),
            in_flight: Semaphore::new(making.most_in_flight.clamp(1, Semaphore::MAX_PERMITS)),
            born: Instant::now(),
            refused: AtomicU64::new(0),
            patience: Patience::default(),
            stop: making.stop.child_token(),
        });
        let lanes = [(Lane::Common, making.common), (Lane::Confirmed, making.confirmed), (Lane::Tracked, tracked)];
        for (lane, size) in lanes {
            for index in 0..size {
                making.tasks.spawn(Arc::clone(&node).keep(lane, index, Arc::clone(making)));
            }
        }
        node
    }

    /// Ends its connections; whoever waits for an answer is told.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    pub(super) fn server(&self) -> Option<&Server> {
        self.server.as_ref()
    }

    /// How long writes wait for its replicas.
    pub(super) fn patience(&self) -> &Patience {
        &self.patience
    }

    pub(super) fn age(&self) -> Duration {
        self.born.elapsed()
    }

    /// A connection, if there is one: the same for the same turn, so that commands of one turn go out together.
    pub(super) fn link(&self, lane: Lane, turn: usize) -> Option<Arc<Link>> {
        let links = self.links(lane);
        let first = turn.checked_rem(links.len())?;
        let in_turn = links.iter().cycle().skip(first).take(links.len());
        in_turn.filter_map(ArcSwapOption::load_full).find(|link| link.is_connected())
    }

    /// Whether a command would most likely succeed now.
    pub(super) fn answers(&self) -> bool {
        let refused = self.refused.load(Ordering::Relaxed);
        let refuses = refused > 0 && self.age() < Duration::from_millis(refused) + DOUBTED_FOR;
        let mut links = self.common.iter().filter_map(ArcSwapOption::load_full);
        !refuses && links.any(|link| link.is_connected() && link.silence() < DOUBTED_AFTER)
    }

    /// Takes note that it has refused a command, or ended a connection that had one.
    pub(super) fn doubt(&self) {
        self.refused.store(u64::try_from(self.age().as_millis()).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
    }

    /// Ends the tracked connection: the server is not the one to ask any more, and what it would tell says nothing.
    pub(super) fn give_up_tracked(&self) {
        self.tracked.iter().filter_map(ArcSwapOption::load_full).for_each(|link| link.stop());
    }

    /// How many connections it has, and how many it should have, without the tracked one, which it can do without.
    pub(super) fn connections(&self) -> (usize, usize) {
        let links = || self.common.iter().chain(&self.confirmed);
        let connected = links().filter_map(ArcSwapOption::load_full).filter(|link| link.is_connected());
        (connected.count(), links().count())
    }

    fn links(&self, lane: Lane) -> &[ArcSwapOption<Link>] {
        match lane {
            Lane::Common => &self.common,
            Lane::Confirmed => &self.confirmed,
            Lane::Tracked => &self.tracked,
        }
    }

    /// Room for so many commands, kept until they have ended: fred has no bound of its own that works (defect 3). Each node has
    /// its own, so that commands for one that hangs take nothing from the others.
    pub(super) async fn room(&self, commands: usize, deadline: Instant) -> Result<SemaphorePermit<'_>, StoreError> {
        let room = self.in_flight.acquire_many(u32::try_from(commands).unwrap_or(u32::MAX));
        match tokio::time::timeout_at(deadline.into(), room).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(StoreError::Unavailable("the store is closed".to_owned())),
            Err(_) => Err(StoreError::Unavailable("too many commands are under way".to_owned())),
        }
    }

    /// Keeps one connection, until the node is stopped.
    async fn keep(self: Arc<Self>, lane: Lane, index: usize, making: Arc<Making>) {
        let Some(slot) = self.links(lane).get(index) else { return };
        let counters = &making.counters;
        let mut pause = FIRST_PAUSE;
        let mut warn_at = Instant::now() + WARN_AFTER;
        let (mut had_one, mut told) = (false, false);
        while !self.stop.is_cancelled() {
            let (server, pulse, stop) = (self.server.as_ref(), Arc::clone(&making.pulse), self.stop.child_token());
            match Link::dial(&making.clients, server, lane, pulse, stop, &making.tasks).await {
                Ok(link) => {
                    counters.dialled.one();
                    if std::mem::replace(&mut had_one, true) {
                        counters.reconnects.one();
                    }
                    let connected = Instant::now();
                    slot.store(Some(Arc::clone(&link)));
                    watch(&link, &making).await;
                    slot.store(None);
                    if let Some(recent) = making.recent.as_ref().filter(|_| lane == Lane::Tracked) {
                        recent.forget_link(link.id());
                    }
                    if connected.elapsed() > STEADY {
                        pause = FIRST_PAUSE;
                    }
                    warn_at = Instant::now() + WARN_AFTER;
                }
                Err(_) if self.stop.is_cancelled() => return,
                Err(error) if lane == Lane::Tracked && making.cannot_track(&error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::info!(%error, "RedisStore: Redis does not tell changes, so no records are kept in memory");
                    }
                    pause = TRACK_AGAIN_AFTER;
                }
                Err(error) => {
                    counters.dial_failures.one();
                    if lane == Lane::Common && index == 0 && Instant::now() >= warn_at {
                        warn_at = Instant::now() + WARN_EVERY;
                        let server = self.server.as_ref().map_or_else(String::new, |server| format!(" to {server}"));
                        tracing::warn!(%error, "RedisStore: no connection{server}, trying on");
                    } else {
                        tracing::debug!(%error, "RedisStore: no connection");
                    }
                }
            }
            if lane != Lane::Tracked {
                making.trouble.notify_one();
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Returns when a connection has ended. One that does not answer is trouble, and in time comes to its end.
async fn watch(link: &Link, making: &Making) {
    let (trouble, counters) = (&making.trouble, &making.counters);
    let mut silent = false;
    loop {
        if let Some(recent) = &making.recent {
            link.tell_changes(recent);
        }
        tokio::select! {
            () = link.ended() => return,
            () = tokio::time::sleep(PROBE_AFTER.saturating_sub(link.silence()).max(TROUBLE_EVERY)) => {}
        }
        // One that is looking for its master again (Sentinel) knows itself that it is not connected.
        if !link.is_connected() || link.silence() < PROBE_AFTER {
            silent = false;
            continue;
        }
        let probe = link.is_silent();
        tokio::pin!(probe);
        silent = loop {
            tokio::select! {
                () = link.ended() => return,
                now = &mut probe => break now,
                // Another node may have taken over at any moment.
                () = tokio::time::sleep(TROUBLE_EVERY), if silent => trouble.notify_one(),
            }
        };
        if silent {
            trouble.notify_one();
        }
        if link.silence() > STUCK_AFTER && link.is_connected() {
            tracing::warn!("RedisStore: a connection does not answer any more, trying a new one");
            counters.stuck.one();
            link.stop();
        }
    }
}
