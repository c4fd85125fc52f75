//! On which node of a cluster the record of a turn comes to lie.
//!
//! A key's hash slot follows from the id in it, and ids are random: records spread evenly over all masters. A turn that
//! continues another one is drawn until it lies on the same master, though not for ever: where masters are many, or the
//! parent's has few slots, a turn now and then lies elsewhere, and what continues it lies with it. So most conversations
//! need one node: their next turn asks one for all of its history instead of each, and a master that is gone takes its own
//! conversations along instead of every long one. Keys stay as they are, each in a slot of its own. When slots move to
//! another node, records move with them, a conversation's to two nodes, and later turns lie where their parents are by then.
//!
//! A turn that many conversations begin with, such as a long prompt that was sent once, must not gather all of them on one
//! node: after some children the next ones may lie anywhere, each with its own descendants around it. Children are counted
//! when they are begun, those included that fail.
//!
//! Turns that may lie anywhere, these and the first ones of conversations, lie on a master that answers: while one fails
//! over, what is new does without it. Some that begin one after the other lie on the same one, so that what is written at
//! the same time leaves in one system call and wakes one server; then a master is drawn anew, by the slots that each has.

use std::sync::{Mutex, PoisonError};

use hashlink::LruCache;

use super::pool::Pool;
use crate::id::{IdSource, ResponseId};

/// So many children of a turn lie with it: enough for one that is asked for again, or answered in some ways.
const GATHERED: u8 = 4;

/// The children of so many turns are counted, those that were continued last. About 150 bytes each.
const COUNTED: usize = 4096;

/// So many ids are drawn at most, so a chosen one is as hard to guess as one of 120 random bits at the least. Of 20 masters with
/// as many slots each, one of 500,000 turns then misses its parent's, of 50 one of 175.
const DRAWN: usize = 256;

/// So many turns that may lie anywhere lie on the same master, one after the other.
const RUN: u16 = 32;

/// Chooses the ids of turns that will be stored.
pub(super) struct Placing {
    /// How many children turns were given here lately.
    children: Mutex<LruCache<ResponseId, u8>>,
    run: Mutex<Run>,
}

/// Turns that lie on one master because they began one after the other.
#[derive(Debug, Default)]
struct Run {
    /// A slot of that master.
    slot: u16,
    /// How many are still to come.
    left: u16,
}

impl Placing {
    pub(super) fn new() -> Self {
        Self { children: Mutex::new(LruCache::new(COUNTED)), run: Mutex::default() }
    }

    /// An id for the next child of a turn, or for the first turn of a conversation, whose key is what `key` says.
    pub(super) fn id_of_turn(
        &self,
        pool: &Pool,
        parent: Option<&ResponseId>,
        ids: &dyn IdSource,
        key: impl Fn(&ResponseId) -> String,
    ) -> ResponseId {
        if !pool.is_clustered() || !pool.some_answer() {
            return ids.response_id();
        }
        let slot = |id: &ResponseId| pool.slotting().slot(&key(id));
        let parent = parent.filter(|parent| self.gathers(parent)).map(slot);
        let place = parent.or_else(|| self.next_of_run(pool));
        // The best that has been drawn so far.
        let mut spare = None;
        for id in std::iter::repeat_with(|| ids.response_id()).take(DRAWN) {
            let slot = slot(&id);
            match place {
                Some(place) if pool.have_one_owner(place, slot) => return id,
                Some(_) if spare.is_none() && pool.answers(slot) => spare = Some(id),
                Some(_) => {}
                None if pool.answers(slot) => {
                    self.begin_run(slot);
                    return id;
                }
                None => {}
            }
        }
        if parent.is_none() {
            self.end_run();
        }
        spare.unwrap_or_else(|| ids.response_id())
    }

    /// A slot of the master on which a turn lies that may lie anywhere, unless it is time for another one.
    fn next_of_run(&self, pool: &Pool) -> Option<u16> {
        let mut run = self.run.lock().unwrap_or_else(PoisonError::into_inner);
        run.left = run.left.checked_sub(1)?;
        pool.answers(run.slot).then_some(run.slot)
    }

    fn begin_run(&self, slot: u16) {
        *self.run.lock().unwrap_or_else(PoisonError::into_inner) = Run { slot, left: RUN - 1 };
    }

    /// What comes next lies elsewhere: there are hardly any ids that lie on this master.
    fn end_run(&self) {
        self.run.lock().unwrap_or_else(PoisonError::into_inner).left = 0;
    }

    /// Whether the next child of a turn lies with it. Counts it.
    fn gathers(&self, parent: &ResponseId) -> bool {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        match children.get_mut(parent) {
            Some(number) => {
                *number = number.saturating_add(1);
                *number <= GATHERED
            }
            None => {
                children.insert(parent.clone(), 1);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_gathers_its_first_children_and_every_turn_counts_its_own() {
        let placing = Placing::new();
        let (prompt, other) = (ResponseId::from_bits(1), ResponseId::from_bits(2));
        let gathered = (0..1000).filter(|_| placing.gathers(&prompt)).count();
        assert_eq!(gathered, usize::from(GATHERED));
        assert!(placing.gathers(&other) && !placing.gathers(&prompt));
    }

    #[test]
    fn a_turn_that_is_continued_all_the_time_is_not_forgotten_among_others() {
        let placing = Placing::new();
        let prompt = ResponseId::from_bits(0);
        let others = (1..3 * COUNTED as u128).map(ResponseId::from_bits);
        let gathered = others.filter(|other| placing.gathers(other) && placing.gathers(&prompt)).count();
        assert_eq!(gathered, usize::from(GATHERED));
        assert_eq!(placing.children.lock().unwrap().len(), COUNTED);
    }
}
