//! For how long the records of a chain that is used are kept.

use std::time::Duration;

use super::{AncestorIds, Touch};

/// How long records of a chain that is used live from now on, and what of it has to be done at all.
///
/// To prolong a record is a write, which replicas and logs repeat; to read one is nothing of the kind. So records that are
/// used live longer than they must by a part of their time to live, and a child tells until when its ancestors are kept:
/// uses soon after only read them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prolonging {
    /// Beyond the time to live.
    pub(super) longer: Duration,
    /// Until when records are kept that are prolonged now, in seconds since the epoch.
    pub(super) kept_until: u64,
    /// Ancestors that are kept until then need not be prolonged.
    needed_until: u64,
}

/// The part of its time to live that a record may be kept longer than it must.
const SLACK_DIVISOR: u32 = 16;

/// How far the clocks of two routers may be apart.
const CLOCKS_APART: Duration = Duration::from_secs(60);

impl Prolonging {
    /// At `now`, since the epoch, for a turn that is stored after `longest_turn` at the latest.
    pub(super) fn new(ttl: Duration, longest_turn: Duration, now: Duration) -> Self {
        // Too small a slack to tell over clocks that differ is none.
        let slack = Some(ttl / SLACK_DIVISOR).filter(|slack| *slack > CLOCKS_APART).unwrap_or_default();
        let longer = longest_turn.saturating_add(slack);
        let until = |longer| now.saturating_add(ttl).saturating_add(longer).as_secs();
        let needed_until = until(longest_turn.saturating_add(CLOCKS_APART)).saturating_add(1);
        Self { longer, kept_until: until(longer), needed_until }
    }

    /// What has to be done to the ancestors, and until when they are kept then.
    pub(super) fn of(&self, ancestors: &AncestorIds) -> (Touch, u64) {
        let until = ancestors.kept_until();
        // What is said by a clock that was wrong, or by a longer time to live, counts for nothing.
        let credible = self.kept_until.saturating_add(CLOCKS_APART.as_secs());
        if (self.needed_until..=credible).contains(&until) {
            (Touch::Keep, until)
        } else {
            (self.touch(), self.kept_until)
        }
    }

    /// What prolongs a record.
    pub(super) fn touch(&self) -> Touch {
        Touch::Refresh { longer: self.longer }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn a_child_never_outlives_ancestors_that_are_only_read() {
        let (ttl, longest_turn, at) =
            (DAY, Duration::from_secs(3600), |seconds| Duration::from_secs(1_000_000 + seconds));
        let kept = Prolonging::new(ttl, longest_turn, at(0)).kept_until;
        let touch = |now, kept| {
            let prolonging = Prolonging::new(ttl, longest_turn, at(now));
            prolonging.of(&AncestorIds::default().kept(kept)).0
        };
        let slack = (ttl / SLACK_DIVISOR).as_secs();
        let last = slack - CLOCKS_APART.as_secs() - 1;
        assert_eq!((touch(0, kept), touch(last, kept)), (Touch::Keep, Touch::Keep));
        assert_ne!(touch(last + 1, kept), Touch::Keep);
        // A child of the last moment, by a clock that is behind, whose turn takes the longest, is gone by then.
        assert!((at(last) + CLOCKS_APART + longest_turn + ttl).as_secs() < kept);
        // Nothing is known, or what no router can have said.
        assert_ne!(touch(0, 0), Touch::Keep);
        assert_ne!(touch(0, kept + 61), Touch::Keep);
        // No slack that clocks could tell.
        let short = Prolonging::new(Duration::from_secs(900), longest_turn, at(0));
        assert_eq!(short.longer, longest_turn);
        assert_ne!(short.of(&AncestorIds::default().kept(short.kept_until)).0, Touch::Keep);
    }
}
