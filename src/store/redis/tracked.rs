//! Loading many records of which most were read before.
//!
//! Of each server it is asked what is not in memory yet, and, when something is, whether what is longest there still exists.
//! The answer to that one question is an answer for all: whatever of them has changed or gone before, the server has told
//! in front of it ([`Recent`]), unless it is no longer the one to ask or has been emptied, and then it does not say that
//! this one exists. What is not settled by then is read like any other record.

use std::sync::Arc;
use std::time::Instant;

use fred::types::Value;
use fred::util::redis_keyslot;
use futures_util::future::join_all;

use super::Shared;
use super::command::Command;
use super::link::Link;
use super::node::{Lane, Node};
use super::recent::{Looked, Recent, Ticket};
use crate::id::ResponseId;
use crate::store::{Record, StoreError};

/// Fewer records than that are read each time: the question would cost as much.
pub(super) const WORTHWHILE: usize = 4;

/// The records of one server, by their places among all.
struct Share {
    node: Arc<Node>,
    link: Arc<Link>,
    places: Vec<usize>,
}

/// What became of a record.
enum Found {
    /// It is still what it was.
    Kept(Arc<Record>),
    /// The server answered, for the holder of this ticket.
    Read(Ticket, Value),
}

impl Shared {
    /// Like [`Shared::load`], without prolonging anything.
    pub(super) async fn load_tracked(
        &self,
        recent: &Recent,
        ids: Vec<ResponseId>,
        keys: Vec<String>,
    ) -> Result<Vec<Option<Arc<Record>>>, StoreError> {
        let deadline = self.deadline();
        let shares = self.shares(&keys);
        let asked = join_all(shares.iter().map(|share| self.ask(recent, share, &keys, deadline))).await;
        let mut found: Vec<Option<Found>> = ids.iter().map(|_| None).collect();
        for share in asked {
            for (place, answer) in share? {
                if let Some(found) = found.get_mut(place) {
                    *found = answer;
                }
            }
        }
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
        // Their items are read now, so that what these occupy is counted.
        let read = self.unpack(ids, replies, Record::know_items).await?;
        let new = keys.iter().zip(tickets).zip(&read);
        recent.keep(
            new.filter_map(|((key, ticket), record)| Some((key.as_str(), ticket?, Arc::clone(record.as_ref()?)))),
        );
        Ok(kept.into_iter().zip(read).map(|(kept, read)| kept.or(read)).collect())
    }

    /// What can be asked of whom.
    fn shares(&self, keys: &[String]) -> Vec<Share> {
        let mut shares: Vec<Share> = Vec::new();
        for (place, key) in keys.iter().enumerate() {
            let Some(node) = self.pool.owner(redis_keyslot(key.as_bytes())) else { continue };
            match shares.iter_mut().find(|share| Arc::ptr_eq(&share.node, &node)) {
                Some(share) => share.places.push(place),
                None => {
                    let Some(link) = node.link(Lane::Tracked, 0) else { continue };
                    shares.push(Share { node, link, places: vec![place] });
                }
            }
        }
        shares
    }

    /// What one server's connection and the memory of it say of the records.
    async fn ask(
        &self,
        recent: &Recent,
        share: &Share,
        keys: &[String],
        deadline: Instant,
    ) -> Result<Vec<(usize, Option<Found>)>, StoreError> {
        let Share { node, link, places } = share;
        let at = |place: &usize| keys.get(*place).map_or("", String::as_str);
        link.tell_changes(recent);
        let (mut held, mut missing) = (Vec::new(), Vec::new());
        for (place, looked) in places.iter().zip(recent.look(link.id(), places.iter().map(at))) {
            match looked {
                Looked::Here(ticket) => held.push((place, ticket)),
                Looked::Missing(ticket) => missing.push((place, ticket)),
            }
        }
        let oldest = held.iter().min_by_key(|(_, ticket)| *ticket);
        let question = oldest.map(|(place, _)| Command::IsThere { key: at(place).to_owned() });
        let is_asked = question.is_some();
        let reads = missing.iter().map(|(place, _)| Command::Read { key: at(place).to_owned() });
        let commands: Vec<_> = question.into_iter().chain(reads).collect();
        let mut answers = self.commands.ask(node, link, &commands, deadline).await?.into_iter();
        let is_there = is_asked && answers.next().flatten().and_then(|answer| answer.as_i64()) == Some(1);
        link.tell_changes(recent);
        let kept = if is_there {
            recent.take(link.id(), held.iter().map(|(place, _)| at(place)))
        } else {
            if is_asked {
                recent.forget_link(link.id());
            }
            vec![None; held.len()]
        };
        let held = held.iter().zip(kept).map(|((place, _), record)| (**place, record.map(Found::Kept)));
        let read = missing
            .iter()
            .zip(answers)
            .map(|((place, ticket), answer)| (**place, answer.map(|answer| Found::Read(*ticket, answer))));
        Ok(held.chain(read).collect())
    }
}
