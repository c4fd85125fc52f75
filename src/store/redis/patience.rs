//! How long writes wait for a node's replicas where they count without them, too (`on_missing_acks: degrade`).

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// As long as replicas answer. Writes to a shard whose master just died come all at once, to a new one that has no
/// replica, and each WAIT holds up the next: with more patience a failover takes seconds longer. Replicas in step need
/// a few milliseconds.
const LONG: Duration = Duration::from_millis(100);

/// Once they did not: there may be none for long.
const SHORT: Duration = Duration::from_millis(10);

/// Then one write in so long waits as before, since replicas that need more than the short time would never be heard again.
const TRY_EVERY: Duration = Duration::from_millis(500);

/// What the last writes to a node have shown of its replicas.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// When a write is to wait long again; `None` as long as replicas answer.
    try_at: Mutex<Option<Instant>>,
}

impl Patience {
    /// For a write that is sent now.
    pub(super) fn now(&self) -> Duration {
        self.at(Instant::now())
    }

    /// Takes note of a write that has waited so long at most, and whether enough replicas had it.
    pub(super) fn note(&self, waited: Duration, confirmed: bool) {
        self.note_at(waited, confirmed, Instant::now());
    }

    fn at(&self, now: Instant) -> Duration {
        let mut try_at = self.try_at.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *try_at {
            None => LONG,
            Some(at) if now >= *at => {
                *at = now + TRY_EVERY;
                LONG
            }
            Some(_) => SHORT,
        }
    }

    fn note_at(&self, waited: Duration, confirmed: bool, now: Instant) {
        let mut try_at = self.try_at.lock().unwrap_or_else(PoisonError::into_inner);
        if confirmed {
            *try_at = None;
        } else if waited >= LONG {
            *try_at = Some(now + TRY_EVERY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A_MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn writes_wait_for_replicas_until_these_did_not_answer() {
        let (patience, now) = (Patience::default(), Instant::now());
        assert_eq!(patience.at(now), LONG);
        patience.note_at(LONG, true, now);
        assert_eq!(patience.at(now), LONG);
        patience.note_at(LONG, false, now);
        assert_eq!(patience.at(now), SHORT);
        patience.note_at(SHORT, true, now);
        assert_eq!(patience.at(now), LONG);
    }

    #[test]
    fn one_write_at_a_time_waits_for_replicas_that_may_have_come_back() {
        let (patience, now) = (Patience::default(), Instant::now());
        patience.note_at(LONG, false, now);
        let mut now = now;
        for _ in 0..3 {
            now += TRY_EVERY - A_MOMENT;
            assert_eq!(patience.at(now), SHORT);
            // Whoever waited for a moment only knows nothing new.
            patience.note_at(SHORT, false, now);
            now += A_MOMENT;
            assert_eq!([patience.at(now), patience.at(now)], [LONG, SHORT]);
            patience.note_at(LONG, false, now);
        }
        now += TRY_EVERY;
        assert_eq!(patience.at(now), LONG);
        patience.note_at(LONG, true, now);
        assert_eq!([patience.at(now), patience.at(now)], [LONG, LONG]);
    }
}
