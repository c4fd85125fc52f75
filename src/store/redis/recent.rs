//! Records that were read lately, kept in memory: a chain's next turn needs the same ones.
//!
//! A record never changes, it only goes. So what was read once need not be read again, as long as the server says that it
//! has not gone. Servers do, on connections of their own ([`Lane::Tracked`](super::node::Lane)): what was read on one is
//! remembered there, and its end is told there in front of any later answer (client-side caching, CLIENT TRACKING of
//! Redis 6). An answer that comes after a record was looked for here is therefore as good as having asked for the record
//! itself: [`tracked`](super::tracked) sees to that.
//!
//! What is kept is bound to the connection it was read on, and worth nothing without it. What this router wrote itself is
//! here as well: the next turn, whose parent it is, finds the same bytes in Redis and need not take them apart.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use hashlink::LinkedHashMap;

use super::slots::Slotting;
use crate::store::Record;

/// What an entry occupies besides its key and its record, roughly.
const OVERHEAD_BYTES: usize = 128;

/// The number of a connection, never given twice.
pub(super) type LinkId = u64;

/// In place of a connection, of records that this router wrote. No connection comes to have this number.
const WRITTEN: LinkId = LinkId::MAX;

/// A record that this router wrote, and as what.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Written {
    pub(super) record: Arc<Record>,
    /// What it was written as, but for a plain document: that is as quickly made again, and would double what is kept.
    pub(super) packed: Option<Bytes>,
}

impl Written {
    /// Whether this value is what was written.
    pub(super) fn is(&self, value: &[u8]) -> bool {
        match &self.packed {
            Some(packed) => *packed == *value,
            None => self.record.encode() == *value,
        }
    }
}

/// What says that a record which is being read has not gone in the meantime. Later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// Whether a record is here, or has to be read by this ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Looked {
    Here,
    Missing(Ticket),
}

/// Records by key, those that were used longest ago going first.
#[derive(Debug)]
pub(super) struct Recent {
    most_bytes: usize,
    slotting: Slotting,
    state: Mutex<State>,
    /// `State::bytes`, for those who only look.
    bytes: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    entries: LinkedHashMap<Arc<str>, Entry>,
    /// The records among them, those of each connection in the order in which they were asked for.
    by_age: BTreeMap<(LinkId, Ticket), Arc<str>>,
    bytes: usize,
    tickets: u64,
}

#[derive(Debug)]
struct Entry {
    /// The key's hash slot.
    slot: u16,
    link: LinkId,
    ticket: Ticket,
    /// Without one it is being read, and who has the ticket may leave it here.
    record: Option<Arc<Record>>,
    /// What a record of [`WRITTEN`] was written as, but for a plain document.
    packed: Option<Bytes>,
    bytes: usize,
}

impl Entry {
    /// Whether a record is here that was read on a connection.
    fn is_of_a_connection(&self) -> bool {
        self.record.is_some() && self.link != WRITTEN
    }
}

impl Recent {
    /// Keeps so many bytes at most.
    pub(super) fn new(most_bytes: usize, slotting: Slotting) -> Self {
        Self { most_bytes, slotting, state: Mutex::default(), bytes: AtomicUsize::new(0) }
    }

    /// How many bytes are kept.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The hash slots of these keys. To compute one takes as long as all else that is done with a key whose record is here.
    pub(super) fn slots(&self, keys: &[String]) -> Vec<u16> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = |key: &String| match state.entries.get(key.as_str()) {
            Some(entry) => entry.slot,
            None => self.slotting.slot(key),
        };
        keys.iter().map(slot).collect()
    }

    /// Leaves a record here that was written under this key of this slot, unless it would drive out many that are needed.
    pub(super) fn wrote(&self, key: &str, slot: u16, Written { record, packed }: Written) {
        let bytes = OVERHEAD_BYTES + key.len() + record.size_bytes() + packed.as_ref().map_or(0, Bytes::len);
        if bytes > self.most_bytes / 8 {
            return;
        }
        self.change(|state| {
            state.tickets += 1;
            let ticket = Ticket(state.tickets);
            state.insert(key.into(), Entry { slot, link: WRITTEN, ticket, record: Some(record), packed, bytes });
        });
    }

    /// What this router wrote under this key, if nobody has read it since.
    pub(super) fn written(&self, key: &str) -> Option<Written> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Entry { record, packed, .. } = state.entries.get(key).filter(|entry| entry.link == WRITTEN)?;
        Some(Written { record: record.clone()?, packed: packed.clone() })
    }

    /// Forgets what this router wrote under a key and has removed.
    pub(super) fn removed(&self, key: &str) {
        self.forget(WRITTEN, std::iter::once(key));
    }

    /// Which of these records are here, as far as they were read on this connection. Whoever asks reads those that are
    /// missing on this connection now.
    pub(super) fn look<'a>(&self, link: LinkId, keys: impl Iterator<Item = &'a str>) -> Vec<Looked> {
        self.change(|state| {
            let looked = keys.map(|key| match state.entries.get(key) {
                Some(Entry { record: Some(_), link: of, .. }) if *of == link => Looked::Here,
                _ => {
                    state.tickets += 1;
                    let (ticket, bytes) = (Ticket(state.tickets), OVERHEAD_BYTES + key.len());
                    let slot = state.entries.get(key).map_or_else(|| self.slotting.slot(key), |entry| entry.slot);
                    let entry = Entry { slot, link, ticket, record: None, packed: None, bytes };
                    state.insert(key.into(), entry);
                    Looked::Missing(ticket)
                }
            });
            looked.collect()
        })
    }

    /// The records under these keys, as far as they are still here.
    pub(super) fn take<'a>(&self, link: LinkId, keys: impl Iterator<Item = &'a str>) -> Vec<Option<Arc<Record>>> {
        self.change(|state| {
            let records = keys.map(|key| match state.entries.to_back(key) {
                Some(Entry { record: Some(record), link: of, .. }) if *of == link => Some(Arc::clone(record)),
                _ => None,
            });
            records.collect()
        })
    }

    /// Leaves what was read here, unless it has changed or gone since its ticket was given. Where nothing was found, nobody
    /// is waited for any more.
    pub(super) fn settle<'a>(&self, read: impl Iterator<Item = (&'a str, Ticket, Option<Arc<Record>>)>) {
        self.change(|state| {
            for (key, ticket, record) in read {
                let awaited = state.entries.get(key).filter(|entry| entry.ticket == ticket);
                let Some((slot, link)) = awaited.map(|entry| (entry.slot, entry.link)) else { continue };
                // One record must not drive out all others.
                match record.filter(|record| record.size_bytes() <= self.most_bytes / 2) {
                    Some(record) => {
                        let bytes = OVERHEAD_BYTES + key.len() + record.size_bytes();
                        let entry = Entry { slot, link, ticket, record: Some(record), packed: None, bytes };
                        state.insert(key.into(), entry);
                    }
                    None => state.remove(key),
                }
            }
        });
    }

    /// The key of the record that has been here for longest, of those that were read on a connection.
    pub(super) fn longest_here(&self, link: LinkId) -> Option<Arc<str>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, key) = state.by_age.range((link, Ticket(0))..=(link, Ticket(u64::MAX))).next()?;
        Some(Arc::clone(key))
    }

    /// Forgets what the server of a connection says has changed or gone.
    pub(super) fn forget<'a>(&self, link: LinkId, keys: impl Iterator<Item = &'a str>) {
        self.change(|state| {
            for key in keys {
                if state.entries.get(key).is_some_and(|entry| entry.link == link) {
                    state.remove(key);
                }
            }
        });
    }

    /// Forgets all that was read on a connection.
    pub(super) fn forget_link(&self, link: LinkId) {
        self.change(|state| {
            let State { entries, by_age, bytes, .. } = state;
            entries.retain(|_, entry| {
                let stays = entry.link != link;
                if !stays {
                    *bytes = bytes.saturating_sub(entry.bytes);
                }
                stays
            });
            by_age.retain(|(of, _), _| *of != link);
        });
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state: MutexGuard<'_, State> = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut state);
        while state.bytes > self.most_bytes {
            let Some((_, oldest)) = state.entries.pop_front() else { break };
            state.left(&oldest);
        }
        self.bytes.store(state.bytes, Ordering::Relaxed);
        result
    }
}

impl State {
    /// Puts it where what was used last lies, in the place of what lay there.
    fn insert(&mut self, key: Arc<str>, entry: Entry) {
        self.remove(&key);
        self.bytes += entry.bytes;
        if entry.is_of_a_connection() {
            self.by_age.insert((entry.link, entry.ticket), Arc::clone(&key));
        }
        self.entries.insert(key, entry);
    }

    fn remove(&mut self, key: &str) {
        if let Some(before) = self.entries.remove(key) {
            self.left(&before);
        }
    }

    /// Takes note that an entry is gone.
    fn left(&mut self, entry: &Entry) {
        self.bytes = self.bytes.saturating_sub(entry.bytes);
        if entry.is_of_a_connection() {
            self.by_age.remove(&(entry.link, entry.ticket));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;
    use crate::id::ResponseId;
    use crate::store::{AncestorIds, Ancestors, KnownItems};

    const ROOM: usize = 1 << 20;

    fn record(number: u128) -> Arc<Record> {
        let id = ResponseId::from_bits(number);
        let response = RawValue::from_string(format!("{{\"id\":\"{id}\"}}")).unwrap();
        let ancestors = Ancestors::Listed(AncestorIds::default());
        let (input, items) = (Vec::new(), KnownItems::default());
        Arc::new(Record { id, ancestors, input, response, interrupted: false, tenant: None, items })
    }

    fn look(recent: &Recent, link: LinkId, key: &str) -> Looked {
        recent.look(link, std::iter::once(key))[0]
    }

    fn awaited(recent: &Recent, link: LinkId, key: &str) -> Ticket {
        match look(recent, link, key) {
            Looked::Missing(ticket) => ticket,
            Looked::Here => panic!("{key} is here"),
        }
    }

    fn keep(recent: &Recent, key: &str, ticket: Ticket, number: u128) {
        recent.settle(std::iter::once((key, ticket, Some(record(number)))));
    }

    fn take(recent: &Recent, link: LinkId, key: &str) -> Option<Arc<Record>> {
        recent.take(link, std::iter::once(key)).remove(0)
    }

    #[test]
    fn what_was_read_is_here_for_the_connection_it_was_read_on() {
        let recent = Recent::new(ROOM, Slotting::Hashed);
        let ticket = awaited(&recent, 1, "a");
        assert_eq!(take(&recent, 1, "a"), None);
        keep(&recent, "a", ticket, 7);
        assert_eq!(look(&recent, 1, "a"), Looked::Here);
        assert_eq!(take(&recent, 1, "a"), Some(record(7)));
        assert_eq!(take(&recent, 2, "a"), None);
        // Another connection knows nothing of it, and has it in its place.
        let other = awaited(&recent, 2, "a");
        assert!(other > ticket);
        keep(&recent, "a", other, 7);
        assert_eq!((take(&recent, 1, "a"), take(&recent, 2, "a")), (None, Some(record(7))));
    }

    #[test]
    fn what_went_while_it_was_read_is_not_kept() {
        let recent = Recent::new(ROOM, Slotting::Hashed);
        let first = awaited(&recent, 1, "a");
        recent.forget(1, std::iter::once("a"));
        keep(&recent, "a", first, 7);
        assert_eq!(take(&recent, 1, "a"), None);

        // A second reader asked after it had gone: the first one's answer is of before.
        let first = awaited(&recent, 1, "a");
        recent.forget(1, std::iter::once("a"));
        let second = awaited(&recent, 1, "a");
        keep(&recent, "a", first, 7);
        assert_eq!(take(&recent, 1, "a"), None);
        keep(&recent, "a", second, 8);
        assert_eq!(take(&recent, 1, "a"), Some(record(8)));

        let ticket = awaited(&recent, 1, "b");
        recent.forget_link(1);
        keep(&recent, "b", ticket, 9);
        assert_eq!((take(&recent, 1, "a"), take(&recent, 1, "b")), (None, None));
        assert_eq!(recent.bytes(), 0);
    }

    #[test]
    fn what_was_not_found_leaves_nothing_behind() {
        let recent = Recent::new(ROOM, Slotting::Hashed);
        let ticket = awaited(&recent, 1, "a");
        recent.settle(std::iter::once(("a", ticket, None)));
        assert_eq!((recent.bytes(), recent.longest_here(1)), (0, None));
        // Of two who ask, one who finds nothing takes nothing from the other.
        let (first, second) = (awaited(&recent, 1, "a"), awaited(&recent, 1, "a"));
        recent.settle(std::iter::once(("a", first, None)));
        keep(&recent, "a", second, 7);
        assert_eq!(take(&recent, 1, "a"), Some(record(7)));
    }

    #[test]
    fn what_was_written_is_here_until_it_is_read_or_removed_and_vouches_for_nothing() {
        let recent = Recent::new(ROOM, Slotting::Hashed);
        let written = |number| Written { record: record(number), packed: Some(Bytes::from_static(b"value")) };
        recent.wrote("a", Slotting::Hashed.slot("a"), written(7));
        assert_eq!(recent.written("a"), Some(written(7)));
        // No connection was told to watch it.
        assert_eq!((look(&recent, WRITTEN - 1, "b"), take(&recent, 1, "a")), (Looked::Missing(Ticket(2)), None));
        assert_eq!(recent.longest_here(1), None);
        recent.removed("b");
        let bytes = recent.bytes();
        assert_eq!(recent.slots(&["a".to_owned(), "c".to_owned()]), ["a", "c"].map(|key| Slotting::Hashed.slot(key)));
        // Once it is seen on a connection it is that connection's, and takes its room once.
        let ticket = awaited(&recent, 1, "a");
        assert_eq!(recent.written("a"), None);
        keep(&recent, "a", ticket, 7);
        assert_eq!((recent.longest_here(1).as_deref(), recent.bytes()), (Some("a"), bytes - b"value".len()));
        recent.removed("a");
        assert_eq!((take(&recent, 1, "a"), recent.written("a")), (Some(record(7)), None));

        let bytes = recent.bytes();
        recent.wrote("d", Slotting::Hashed.slot("d"), written(8));
        recent.removed("d");
        assert_eq!((recent.written("d"), recent.bytes()), (None, bytes));
    }

    #[test]
    fn a_written_record_is_told_by_its_document_or_by_what_that_was_packed_as() {
        let document = record(7).encode();
        let plain = Written { record: record(7), packed: None };
        assert!(plain.is(&document));
        assert!(!plain.is(&record(8).encode()));
        assert!(!plain.is(&document[1..]) && !plain.is(b""));
        let packed = Written { packed: Some(Bytes::from_static(b"sealed")), ..plain };
        assert!(packed.is(b"sealed"));
        assert!(!packed.is(&document) && !packed.is(b""));
    }

    #[test]
    fn another_connections_news_change_nothing() {
        let recent = Recent::new(ROOM, Slotting::Hashed);
        let ticket = awaited(&recent, 1, "a");
        keep(&recent, "a", ticket, 7);
        recent.forget(2, std::iter::once("a"));
        recent.forget_link(2);
        assert_eq!(take(&recent, 1, "a"), Some(record(7)));
    }

    #[test]
    fn beyond_its_bound_what_was_used_longest_ago_goes() {
        let key = |number: u128| format!("k{number}");
        let each = OVERHEAD_BYTES + 2 + record(1).size_bytes();
        let recent = Recent::new(3 * each, Slotting::Hashed);
        let put = |number| {
            let ticket = awaited(&recent, 1, &key(number));
            keep(&recent, &key(number), ticket, number);
        };
        (1..=3).for_each(put);
        assert_eq!(recent.bytes(), 3 * each);
        assert!(take(&recent, 1, "k1").is_some());
        put(4);
        let left: Vec<_> = (1..=4).filter(|number| take(&recent, 1, &key(*number)).is_some()).collect();
        assert_eq!((left, recent.bytes()), (vec![1, 3, 4], 3 * each));
        // What has been here for longest is told of each connection.
        assert_eq!(recent.longest_here(1).as_deref(), Some("k1"));
        recent.forget(1, std::iter::once("k1"));
        assert_eq!(
            (recent.longest_here(1).as_deref(), recent.longest_here(0), recent.longest_here(2)),
            (Some("k3"), None, None)
        );
        // What is larger than all the room is not kept, and takes nothing along that is used.
        let nothing = Recent::new(each - 1, Slotting::Hashed);
        let ticket = awaited(&nothing, 1, "k1");
        keep(&nothing, "k1", ticket, 1);
        assert_eq!((take(&nothing, 1, "k1"), nothing.bytes()), (None, 0));
    }
}
