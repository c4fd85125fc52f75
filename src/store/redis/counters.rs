//! What only this store can count: commands that went out again, connections, the shape of the cluster.

use std::sync::atomic::{AtomicU64, Ordering};

use fred::error::Error;

use super::failure::{self, Failure};
use crate::store::figures::{self, Figure, Tally};

/// Why a command was sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Moved,
    Ask,
    TryAgain,
    ClusterDown,
    MasterDown,
    Loading,
    ReadOnly,
    Busy,
    /// There was no connection to the node.
    NoConnection,
    /// The connection ended before the answer.
    Broken,
    /// No answer in time.
    Silent,
}

impl Reason {
    /// All of them, in their order.
    const ALL: [Self; 11] = [
        Self::Moved,
        Self::Ask,
        Self::TryAgain,
        Self::ClusterDown,
        Self::MasterDown,
        Self::Loading,
        Self::ReadOnly,
        Self::Busy,
        Self::NoConnection,
        Self::Broken,
        Self::Silent,
    ];

    /// The reason of an error that the same command may survive.
    pub(super) fn of(error: &Error, failure: Failure) -> Self {
        match error.details().split_whitespace().next().unwrap_or_default() {
            "MOVED" => Self::Moved,
            "ASK" => Self::Ask,
            "TRYAGAIN" => Self::TryAgain,
            "CLUSTERDOWN" => Self::ClusterDown,
            "MASTERDOWN" => Self::MasterDown,
            "LOADING" => Self::Loading,
            "READONLY" => Self::ReadOnly,
            "BUSY" => Self::Busy,
            _ if failure::is_nowhere(error) => Self::NoConnection,
            _ if failure == Failure::Silent => Self::Silent,
            _ => Self::Broken,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::Ask => "ask",
            Self::TryAgain => "try_again",
            Self::ClusterDown => "cluster_down",
            Self::MasterDown => "master_down",
            Self::Loading => "loading",
            Self::ReadOnly => "read_only",
            Self::Busy => "busy",
            Self::NoConnection => "no_connection",
            Self::Broken => "broken",
            Self::Silent => "silent",
        }
    }
}

/// A tally for each reason.
#[derive(Debug, Default)]
pub(super) struct ByReason([Tally; Reason::ALL.len()]);

impl ByReason {
    pub(super) fn note(&self, reason: Reason) {
        let place = Reason::ALL.iter().position(|one| *one == reason);
        if let Some(tally) = place.and_then(|place| self.0.get(place)) {
            tally.one();
        }
    }

    pub(super) fn each(&self) -> impl Iterator<Item = (&'static str, &Tally)> {
        Reason::ALL.iter().map(|reason| reason.name()).zip(&self.0)
    }
}

/// What the store counts.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) retries: ByReason,
    pub(super) timeouts: Tally,
    pub(super) moved: Tally,
    pub(super) asked: Tally,
    /// Connections that were made, the first ones and those that look for the slots' owners included.
    pub(super) dialled: Tally,
    pub(super) dial_failures: Tally,
    /// Connections that were made in the place of one that was lost.
    pub(super) reconnects: Tally,
    pub(super) stuck: Tally,
    pub(super) slots_learnt: Tally,
    pub(super) slots_not_learnt: Tally,
    pub(super) topology_changes: Tally,
    pub(super) breaker_opened: Tally,
    pub(super) refused_away: Tally,
    pub(super) refused_busy: Tally,
    pub(super) acks_missed_degraded: Tally,
    pub(super) acks_missed_failed: Tally,
    pub(super) bytes_written: Tally,
    pub(super) bytes_read: Tally,
    /// Records of a chain that were in memory, and that had to be read.
    pub(super) cache_hits: Tally,
    pub(super) cache_misses: Tally,
    under_way: AtomicU64,
}

/// What is not counted but seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Whether a server answered lately.
    pub(super) reachable: bool,
    /// Connections that are there, and those that should be.
    pub(super) connected: usize,
    pub(super) missing: usize,
    /// Servers that own slots.
    pub(super) masters: usize,
    /// Bytes of records that are kept in memory.
    pub(super) cache_bytes: usize,
}

/// Commands under way, until it is dropped.
pub(super) struct UnderWay<'a> {
    all: &'a AtomicU64,
    these: u64,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(self.these, Ordering::Relaxed);
    }
}

impl Counters {
    /// So many more commands are under way.
    pub(super) fn begin(&self, commands: usize) -> UnderWay<'_> {
        let these = u64::try_from(commands).unwrap_or(u64::MAX);
        self.under_way.fetch_add(these, Ordering::Relaxed);
        UnderWay { all: &self.under_way, these }
    }

    /// Takes note of a redirection, whether or not it is followed.
    pub(super) fn redirected(&self, reason: Reason) {
        match reason {
            Reason::Moved => self.moved.one(),
            Reason::Ask => self.asked.one(),
            _ => {}
        }
    }

    /// All of it, and what is to be seen now.
    pub(super) fn figures(&self, moment: &Moment) -> Vec<Figure> {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        vec![
            Figure::gauge(
                "redis_reachable",
                "1 while a Redis server answered lately, 0 while operations are refused at once (the breaker is open) or none \
                 has answered yet",
                u64::from(moment.reachable),
            ),
            Figure::counter(
                "redis_breaker_opened",
                "Times that no Redis server answered for breaker_seconds",
                &self.breaker_opened,
            ),
            Figure::counters(
                "redis_refused",
                "Operations refused without asking Redis: it is away, or too many commands are under way",
                "reason",
                [("away", &self.refused_away), ("busy", &self.refused_busy)],
            ),
            Figure::gauge(
                "redis_commands_under_way",
                "Commands that wait for an answer",
                self.under_way.load(Ordering::Relaxed),
            ),
            Figure::counters("redis_retries", "Commands sent again, by reason", "reason", self.retries.each()),
            Figure::counter("redis_timeouts", "Commands that were not answered in time", &self.timeouts),
            Figure::counters(
                "redis_redirections",
                "Answers that named another node of the cluster",
                "kind",
                [("moved", &self.moved), ("ask", &self.asked)],
            ),
            Figure::gauges(
                "redis_connections",
                "Connections to Redis by state; missing ones are being made",
                "state",
                [("connected", count(moment.connected)), ("missing", count(moment.missing))],
            ),
            Figure::counter("redis_connections_made", "Connections made to Redis", &self.dialled),
            Figure::counter(
                "redis_reconnects",
                "Connections made to Redis in the place of a lost one",
                &self.reconnects,
            ),
            Figure::counter("redis_dial_failures", "Attempts to connect to Redis that failed", &self.dial_failures),
            Figure::counter(
                "redis_stuck_connections",
                "Connections given up because Redis did not answer on them any more",
                &self.stuck,
            ),
            Figure::gauge("redis_masters", "Redis servers that own slots", count(moment.masters)),
            Figure::counters(
                "redis_slot_map_refreshes",
                "Times that the cluster was asked who owns which slots, by result",
                "result",
                [("learnt", &self.slots_learnt), ("failed", &self.slots_not_learnt)],
            ),
            Figure::counter(
                "redis_topology_changes",
                "Times that slots of the cluster had other owners than before",
                &self.topology_changes,
            ),
            Figure::counters(
                "redis_missing_acks",
                "Writes that fewer replicas than min_replica_acks confirmed, by what became of them",
                "outcome",
                [("degraded", &self.acks_missed_degraded), ("failed", &self.acks_missed_failed)],
            ),
            figures::bytes_written(&self.bytes_written),
            Figure::counter("store_bytes_read", "Bytes of records that the store read", &self.bytes_read),
            Figure::counters(
                "redis_cache_lookups",
                "Turns above the parent of a new one that were in memory, or had to be read from Redis",
                "result",
                [("hit", &self.cache_hits), ("miss", &self.cache_misses)],
            ),
            Figure::gauge("redis_cache_bytes", "Bytes of records of Redis kept in memory", count(moment.cache_bytes)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use fred::error::ErrorKind;

    use super::*;

    #[test]
    fn every_reason_has_a_tally_and_a_name_of_its_own() {
        let tallies = ByReason::default();
        for reason in Reason::ALL {
            tallies.note(reason);
        }
        let mut names: Vec<_> = tallies.each().map(|(name, tally)| (name, tally.value())).collect();
        names.sort_unstable();
        names.dedup_by_key(|(name, _)| *name);
        assert_eq!(names.len(), Reason::ALL.len());
        assert!(names.iter().all(|(_, count)| *count == 1), "{names:?}");
    }

    #[test]
    fn errors_have_the_reason_that_the_server_names() {
        let of = |kind, details: &'static str| {
            let error = Error::new(kind, details);
            Reason::of(&error, failure::failure(&error, true))
        };
        assert_eq!(of(ErrorKind::Cluster, "MOVED 1 h:1"), Reason::Moved);
        assert_eq!(of(ErrorKind::Cluster, "ASK 1 h:1"), Reason::Ask);
        assert_eq!(of(ErrorKind::Unknown, "TRYAGAIN Multiple keys request during rehashing of slot"), Reason::TryAgain);
        assert_eq!(of(ErrorKind::Cluster, "CLUSTERDOWN The cluster is down"), Reason::ClusterDown);
        assert_eq!(of(ErrorKind::Unknown, "READONLY You can't write against a read only replica."), Reason::ReadOnly);
        assert_eq!(of(ErrorKind::IO, "Connection closed."), Reason::Broken);
        assert_eq!(of(ErrorKind::Timeout, "Request timed out."), Reason::Silent);
        let nowhere = failure::nowhere();
        assert_eq!(Reason::of(&nowhere, failure::failure(&nowhere, true)), Reason::NoConnection);
    }
}
