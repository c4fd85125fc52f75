//! The nodes that there are, and which of them owns a slot. One server owns all of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use fred::types::config::Server;

use super::node::{Lane, Node};
use super::slots::{SLOTS, Shards};

/// A node that owns no slots, as one has that slots are on their way to, is kept for so long.
const GUEST_FOR: Duration = Duration::from_secs(60);

/// What is known of the servers at one moment.
#[derive(Clone)]
pub(super) struct Topology {
    masters: Vec<Arc<Node>>,
    /// For each slot its owner's place among the masters.
    owners: Box<[Option<u16>]>,
    /// Nodes that a redirection named and that own no slots as far as is known.
    guests: Vec<Arc<Node>>,
    replicas: BTreeSet<Server>,
}

impl Topology {
    /// Of a cluster that has not told anything yet.
    pub(super) fn unknown() -> Self {
        let owners = vec![None; usize::from(SLOTS)].into();
        Self { masters: Vec::new(), owners, guests: Vec::new(), replicas: BTreeSet::new() }
    }

    /// Of one server.
    pub(super) fn one(node: Arc<Node>) -> Self {
        let owners = vec![Some(0); usize::from(SLOTS)].into();
        Self { masters: vec![node], owners, guests: Vec::new(), replicas: BTreeSet::new() }
    }

    pub(super) fn masters(&self) -> &[Arc<Node>] {
        &self.masters
    }

    pub(super) fn replicas(&self) -> impl Iterator<Item = &Server> {
        self.replicas.iter()
    }

    pub(super) fn owner(&self, slot: u16) -> Option<&Arc<Node>> {
        let owner = self.owners.get(usize::from(slot)).copied().flatten()?;
        self.masters.get(usize::from(owner))
    }

    /// Whether every slot has an owner.
    pub(super) fn is_covered(&self) -> bool {
        self.owners.iter().all(Option::is_some)
    }

    pub(super) fn is_owner(&self, slot: u16, server: &Server) -> bool {
        self.owner(slot).is_some_and(|node| is_at(node, server))
    }

    /// A node at this address.
    pub(super) fn node(&self, server: &Server) -> Option<&Arc<Node>> {
        self.nodes().find(|node| is_at(node, server))
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.masters.iter().chain(&self.guests)
    }

    /// Whether every slot has the same owner there.
    pub(super) fn has_same_owners(&self, there: &Self) -> bool {
        (0..SLOTS).all(|slot| match (self.owner(slot), there.owner(slot)) {
            (Some(here), Some(there)) => Arc::ptr_eq(here, there),
            (None, None) => true,
            _ => false,
        })
    }

    /// The nodes here that are not there.
    pub(super) fn without<'a>(&'a self, there: &'a Self) -> impl Iterator<Item = &'a Arc<Node>> {
        self.nodes().filter(|node| !there.nodes().any(|other| Arc::ptr_eq(node, other)))
    }

    /// What a node of the cluster told: those that it names stay or are started, others go.
    pub(super) fn adopt(&self, told: &Shards, mut start: impl FnMut(Server) -> Arc<Node>) -> Self {
        let mut next = Self { replicas: told.replicas.clone(), ..Self::unknown() };
        let known: HashMap<_, _> = self.nodes().filter_map(|node| Some((node.server()?, node))).collect();
        let mut places = HashMap::new();
        for range in &told.ranges {
            let owner = *places.entry(&range.master).or_insert_with(|| {
                let node = known.get(&range.master).filter(|node| is_as_told(node, &range.master));
                next.place(node.map_or_else(|| start(range.master.clone()), |node| Arc::clone(node)))
            });
            let slots = usize::from(range.first)..=usize::from(range.last);
            next.owners.get_mut(slots).unwrap_or_default().fill(owner);
        }
        let stays = |guest: &&Arc<Node>| {
            guest.age() < GUEST_FOR && !next.masters.iter().any(|master| Arc::ptr_eq(master, guest))
        };
        next.guests = self.guests.iter().filter(stays).cloned().collect();
        next
    }

    /// The same, but for the owner of one slot.
    pub(super) fn moved(&self, slot: u16, to: &Server, start: impl FnOnce(Server) -> Arc<Node>) -> Self {
        // A replica that took over has been told of with its name, which MOVED leaves out.
        let to = self.replicas.get(to).unwrap_or(to);
        let mut next = self.clone();
        next.guests.retain(|guest| !is_at(guest, to));
        let owner = match self.masters.iter().position(|node| is_at(node, to)) {
            Some(place) => u16::try_from(place).ok(),
            None => next.place(self.node(to).cloned().unwrap_or_else(|| start(to.clone()))),
        };
        if let Some(entry) = next.owners.get_mut(usize::from(slot)) {
            *entry = owner;
        }
        next
    }

    /// The same and one more node, which owns no slots.
    pub(super) fn with_guest(&self, guest: Arc<Node>) -> Self {
        let mut next = self.clone();
        next.guests.push(guest);
        next
    }

    /// One more master; its place.
    fn place(&mut self, node: Arc<Node>) -> Option<u16> {
        self.masters.push(node);
        u16::try_from(self.masters.len() - 1).ok()
    }
}

fn is_at(node: &Node, server: &Server) -> bool {
    node.server() == Some(server)
}

/// Whether a node at this address may stay as it is: told by name, it may have been dialled by another one in vain.
fn is_as_told(node: &Node, server: &Server) -> bool {
    let same_name = node.server().is_some_and(|known| known.tls_server_name == server.tls_server_name);
    same_name || node.link(Lane::Common, 0).is_some()
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    use super::super::client::Clients;
    use super::super::link::Pulse;
    use super::super::node::Making;
    use super::super::slots::Range;
    use super::*;
    use crate::config::Redis;

    fn making() -> Arc<Making> {
        let redis =
            Redis { cluster_mode: true, cluster_addresses: vec!["127.0.0.1:1".parse().unwrap()], ..Redis::default() };
        Arc::new(Making {
            clients: Clients::new(&redis, Duration::from_secs(1)).unwrap(),
            common: 1,
            confirmed: 0,
            recent: None,
            most_in_flight: 1,
            pulse: Arc::new(Pulse::new()),
            counters: Arc::default(),
            trouble: Arc::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    fn at(port: u16) -> Server {
        Server::new("127.0.0.1", port)
    }

    /// Ranges of two nodes and a replica.
    fn told(low: u16, high: u16) -> Shards {
        let range = |first, last, port| Range { first, last, master: at(port) };
        Shards {
            ranges: vec![range(0, 99, low), range(100, 199, high), range(300, 16383, low)],
            replicas: [at(9)].into(),
        }
    }

    fn owner(topology: &Topology, slot: u16) -> Option<u16> {
        topology.owner(slot).map(|node| node.server().unwrap().port)
    }

    #[tokio::test]
    async fn nodes_that_are_told_again_stay_and_others_go() {
        let making = making();
        let start = |server| Node::start(Some(server), &making);
        let one = Topology::unknown().adopt(&told(1, 2), start);
        let owners = [0, 99, 100, 199, 200, 300, 16383].map(|slot| owner(&one, slot));
        assert_eq!(owners, [Some(1), Some(1), Some(2), Some(2), None, Some(1), Some(1)]);
        let next = one.adopt(&told(1, 3), start);
        assert!(Arc::ptr_eq(one.owner(0).unwrap(), next.owner(0).unwrap()));
        let gone: Vec<_> = one.without(&next).map(|node| node.server().unwrap().port).collect();
        assert_eq!((gone, next.masters().len()), (vec![2], 2));
        making.stop.cancel();
    }

    #[tokio::test]
    async fn a_moved_slot_has_another_owner_and_a_guest_that_owns_one_stays() {
        let making = making();
        let start = |server| Node::start(Some(server), &making);
        let before = Topology::unknown().adopt(&told(1, 2), start).with_guest(start(at(4)));
        assert_eq!((before.masters().len(), before.owner(0).is_some()), (2, true));
        let moved = before.moved(0, &at(4), start).moved(1, &at(2), start).moved(2, &at(9), start);
        assert_eq!([0, 1, 2, 3].map(|slot| owner(&moved, slot)), [Some(4), Some(2), Some(9), Some(1)]);
        assert!(Arc::ptr_eq(before.node(&at(4)).unwrap(), moved.node(&at(4)).unwrap()));
        assert_eq!((before.without(&moved).count(), moved.masters().len()), (0, 4));
        assert!(moved.is_owner(1, &at(2)) && !moved.is_owner(1, &at(1)));
        // A guest outlives a map that does not name it.
        let mapped = before.adopt(&told(1, 2), start);
        assert!(mapped.node(&at(4)).is_some());
        making.stop.cancel();
    }
}
