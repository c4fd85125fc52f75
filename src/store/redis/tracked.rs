//! Loading records of which most were read before.
//!
//! What was read on a tracked connection is in memory ([`Recent`]), and whatever of it changes or goes, the server tells
//! on that connection in front of any later answer. So any answer to a command that was sent since a load began vouches
//! for all that is still in memory then, with some exceptions. One that was emptied tells of no single record: hence the
//! question, which goes with each such command, whether the record that is in memory for longest is still there. One
//! that is no longer the one to ask does not hear of changes: a node of a cluster answers the question by an error then,
//! and a single server that has become a replica is given up as soon as it refuses a write ([`Node::give_up_tracked`]).
//! What is left: a slot that changes hands as a whole, without a word for each key (atomic slot migration), while this
//! router has not learnt of it yet, which it does within half a minute; and an emptying in the very moment of a load.
//!
//! The parent of a turn is read by such a command, and from then on in memory: so a server is asked once for a turn, if it
//! has the parent or any of the turns above it. Where tenants share one place, the
//! parent is read without prolonging it, and joins the others when it is above one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fred::types::Value;
use futures_util::future::join_all;

use super::command::Command;
use super::link::Link;
use super::node::{Lane, Node};
use super::operations::{Shared, bytes, maybe_blocking};
use super::recent::{Looked, Recent, Ticket, Written};
use crate::id::ResponseId;
use crate::store::{Record, StoreError, Touch};

/// A server with the connection that it tells changes on.
pub(super) struct Teller {
    node: Arc<Node>,
    link: Arc<Link>,
}

/// What became of a record.
enum Found {
    /// It is still what it was.
    Kept(Arc<Record>),
    /// The server answered, for the holder of this ticket.
    Read(Ticket, Value),
}

impl Shared {
    /// The record that a turn continues, prolonged, and kept for the turn after it.
    pub(super) async fn load_parent(
        &self,
        recent: &Recent,
        ids: Vec<ResponseId>,
        keys: Vec<String>,
        longer: Duration,
    ) -> Result<Vec<Option<Arc<Record>>>, StoreError> {
        let (touch, deadline) = (Touch::Refresh { longer }, self.deadline());
        let slot = recent.slots(&keys).first().copied();
        let Some((key, teller)) = keys.first().zip(slot.and_then(|slot| self.teller(slot))) else {
            return self.load(ids, keys, touch, deadline).await;
        };
        let written = recent.written(key);
        let ticket = match recent.look(teller.link.id(), std::iter::once(key.as_str())).first() {
            Some(Looked::Missing(ticket)) => Some(*ticket),
            // To prolong it is a change, after which it is not in memory any more.
            Some(Looked::Here) | None => None,
        };
        // Prolonging is a write, and only what is read is remembered.
        let commands = vec![
            Command::ReadAndTouch { key: key.clone(), ttl_seconds: self.lifetime(longer) },
            Command::IsThere { key: key.clone() },
        ];
        let mut answers = self.ask(recent, &teller, commands, deadline).await?.into_iter();
        let Some(reply) = answers.next().flatten() else { return self.load(ids, keys, touch, deadline).await };
        let is_there = answers.next().flatten().is_some_and(|answer| is_one(&answer));
        let found = match self.as_written(written, &reply).await? {
            Some(record) => vec![Some(record)],
            None => self.unpack(ids, vec![reply], Record::know_items).await?,
        };
        let record = found.first().cloned().flatten().filter(|_| is_there);
        recent.settle(ticket.into_iter().map(|ticket| (key.as_str(), ticket, record.clone())));
        Ok(found)
    }

    /// The record that this router wrote, its items read, if it is what was found.
    async fn as_written(&self, written: Option<Written>, found: &Value) -> Result<Option<Arc<Record>>, StoreError> {
        let Some((written, found)) = written.zip(bytes(found.clone())?) else { return Ok(None) };
        let length = found.len();
        let record = maybe_blocking(length, move || {
            let record = written.is(&found).then_some(written.record);
            record.iter().for_each(|record| record.know_items());
            Ok(record)
        });
        let record = record.await?;
        if record.is_some() {
            self.pool.counters().bytes_read.add_all(length);
        }
        Ok(record)
    }

    /// Like [`Shared::load`] without prolonging anything, of records that may be told as they were at any time since.
    pub(super) async fn load_tracked(
        &self,
        recent: &Recent,
        ids: Vec<ResponseId>,
        keys: Vec<String>,
        since: Instant,
    ) -> Result<Vec<Option<Arc<Record>>>, StoreError> {
        let deadline = self.deadline();
        let shares = self.shares(recent.slots(&keys));
        let shared = shares.iter().map(|(teller, places)| self.share(recent, teller, places, &keys, since, deadline));
        let mut found: Vec<Option<Found>> = ids.iter().map(|_| None).collect();
        for share in join_all(shared).await {
            for (place, answer) in share? {
                if let Some(found) = found.get_mut(place) {
                    *found = answer;
                }
            }
        }
        // What is not settled is read like any other record.
        let open = found.iter().zip(&keys).filter(|(found, _)| found.is_none());
        let reads: Vec<_> = open.map(|(_, key)| Command::Read { key: key.clone() }).collect();
        let mut answers = self.commands.run_all(&reads, deadline).await?.into_iter();

        let (mut kept, mut tickets, mut replies) = (Vec::new(), Vec::new(), Vec::new());
        for found in found {
            let (record, ticket, reply) = match found {
                Some(Found::Kept(record)) => (Some(record), None, Value::Null),
                Some(Found::Read(ticket, reply)) => (None, Some(ticket), reply),
                None => (None, None, answers.next().unwrap_or(Value::Null)),
            };
            kept.push(record);
            tickets.push(ticket);
            replies.push(reply);
        }
        let counters = self.pool.counters();
        let hits = kept.iter().flatten().count();
        counters.cache_hits.add_all(hits);
        counters.cache_misses.add_all(ids.len() - hits);
        if hits == ids.len() {
            return Ok(kept);
        }
        // Their items are read now, so that what these occupy is counted.
        let read = self.unpack(ids, replies, Record::know_items).await?;
        let new = keys.iter().zip(tickets).zip(&read);
        recent.settle(new.filter_map(|((key, ticket), record)| Some((key.as_str(), ticket?, record.clone()))));
        Ok(kept.into_iter().zip(read).map(|(kept, read)| kept.or(read)).collect())
    }

    /// Who is asked for the keys of a slot, if there is a connection on which changes are told.
    pub(super) fn teller(&self, slot: u16) -> Option<Teller> {
        let node = self.pool.owner(slot)?;
        Some(Teller { link: node.link(Lane::Tracked, 0)?, node })
    }

    /// Who is asked for the keys of which slots, by their places.
    fn shares(&self, slots: Vec<u16>) -> Vec<(Teller, Vec<usize>)> {
        let mut shares: Vec<(Teller, Vec<usize>)> = Vec::new();
        for (place, slot) in slots.into_iter().enumerate() {
            let Some(node) = self.pool.owner(slot) else { continue };
            match shares.iter_mut().find(|(teller, _)| Arc::ptr_eq(&teller.node, &node)) {
                Some((_, places)) => places.push(place),
                None => {
                    let Some(link) = node.link(Lane::Tracked, 0) else { continue };
                    shares.push((Teller { node, link }, vec![place]));
                }
            }
        }
        shares
    }

    /// What one server and the memory of what it said tell of its records.
    async fn share(
        &self,
        recent: &Recent,
        teller: &Teller,
        places: &[usize],
        keys: &[String],
        since: Instant,
        deadline: Instant,
    ) -> Result<Vec<(usize, Option<Found>)>, StoreError> {
        let link = &teller.link;
        let key = |place: usize| keys.get(place).map_or("", String::as_str);
        let (mut held, mut missing) = (Vec::new(), Vec::new());
        for (place, looked) in places.iter().zip(recent.look(link.id(), places.iter().map(|place| key(*place)))) {
            match looked {
                Looked::Here => held.push(*place),
                Looked::Missing(ticket) => missing.push((*place, ticket)),
            }
        }
        let mut answers = Vec::new();
        // Of many loads at once one asks for all that began before. If it gets no answer, the records are read.
        let is_settled = async || link.is_vouched_since(since) || link.join_question(since, deadline).await;
        if !missing.is_empty() || !is_settled().await {
            let reads = missing.iter().map(|(place, _)| Command::Read { key: key(*place).to_owned() }).collect();
            answers = self.ask(recent, teller, reads, deadline).await?;
        }
        let kept = if link.is_vouched_since(since) {
            recent.take(link.id(), held.iter().map(|place| key(*place)))
        } else {
            vec![None; held.len()]
        };
        let held = held.into_iter().zip(kept).map(|(place, record)| (place, record.map(Found::Kept)));
        let read = missing.into_iter().zip(answers);
        let read = read.map(|((place, ticket), answer)| (place, answer.map(|answer| Found::Read(ticket, answer))));
        Ok(held.chain(read).collect())
    }

    /// Sends commands to a server, and the question with them; their answers, as far as there are any. If the server
    /// vouches for what is in memory, it is noted.
    async fn ask(
        &self,
        recent: &Recent,
        teller: &Teller,
        mut commands: Vec<Command>,
        deadline: Instant,
    ) -> Result<Vec<Option<Value>>, StoreError> {
        let (link, sent) = (&teller.link, Instant::now());
        let longest_here = recent.longest_here(link.id());
        commands.extend(longest_here.iter().map(|key| Command::IsThere { key: key.to_string() }));
        let _asking = longest_here.is_some().then(|| link.begin_question(sent));
        let mut answers = self.commands.ask(&teller.node, link, &commands, deadline).await?;
        let Some(key) = longest_here else { return Ok(answers) };
        let answer = answers.pop().flatten();
        link.tell_changes(recent);
        match answer {
            Some(answer) if is_one(&answer) => link.vouch(sent),
            // Whether it was told or not: the next question is about the one after it. Of a server that was emptied all go
            // in this way before there is one that vouches for what came later.
            Some(_) => recent.forget(link.id(), std::iter::once(&*key)),
            None => {}
        }
        Ok(answers)
    }
}

/// Whether a server said that there is one.
fn is_one(answer: &Value) -> bool {
    answer.as_i64() == Some(1)
}
