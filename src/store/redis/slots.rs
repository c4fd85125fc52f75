//! Who owns which slots of a cluster, as its nodes tell: CLUSTER SLOTS, MOVED and ASK.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crc::{CRC_16_XMODEM, Crc};
use fred::types::Value;
use fred::types::config::Server;

/// The slots of a cluster.
pub(super) const SLOTS: u16 = 16_384;

/// Which slot a key belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slotting {
    /// As the Redis Cluster specification has it: CRC16 of the key or of its hash tag.
    Hashed,
    /// One server owns all slots, so any of them will do.
    One,
}

impl Slotting {
    pub(super) fn slot(self, key: &str) -> u16 {
        match self {
            Self::Hashed => CRC16.checksum(hashed(key).as_bytes()) % SLOTS,
            Self::One => 0,
        }
    }
}

static CRC16: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);

/// What of a key decides on its slot: between the first brace and the next closing one, if there is anything, else all.
fn hashed(key: &str) -> &str {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    tag.filter(|tag| !tag.is_empty()).unwrap_or(key)
}

/// The name that a node's certificate must have, where the cluster tells an address and announces no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// The address.
    Address,
    /// The name of the node that told it: the config knows the cluster by names only.
    Teller,
}

/// What CLUSTER SLOTS told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shards {
    pub(super) ranges: Vec<Range>,
    pub(super) replicas: BTreeSet<Server>,
}

/// Slots from the first to the last, and who owns them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) master: Server,
}

impl Shards {
    /// Reads the reply of `teller`; nothing if it cannot be read or names no master.
    pub(super) fn read(reply: &Value, teller: &Server, naming: Naming) -> Option<Self> {
        let mut shards = Self { ranges: Vec::new(), replicas: BTreeSet::new() };
        for range in array(reply)? {
            let [first, last, master, replicas @ ..] = array(range)? else { return None };
            let slot =
                |value: &Value| value.as_u64().and_then(|slot| u16::try_from(slot).ok()).filter(|slot| *slot < SLOTS);
            let range = Range { first: slot(first)?, last: slot(last)?, master: node(master, teller, naming)? };
            shards.ranges.push(range);
            shards.replicas.extend(replicas.iter().filter_map(|replica| node(replica, teller, naming)));
        }
        (!shards.ranges.is_empty()).then_some(shards)
    }
}

fn array(value: &Value) -> Option<&[Value]> {
    if let Value::Array(values) = value { Some(values) } else { None }
}

/// A node as CLUSTER SLOTS tells it: its preferred endpoint, port, id and, from Redis 7 on, pairs of other endpoints.
fn node(value: &Value, teller: &Server, naming: Naming) -> Option<Server> {
    let [endpoint, port, rest @ ..] = array(value)? else { return None };
    let others = rest.get(1).and_then(array).unwrap_or_default();
    let other = |wanted: &str| {
        let pair =
            others.chunks_exact(2).find(|pair| pair.first().and_then(Value::as_str).as_deref() == Some(wanted))?;
        pair.last().and_then(Value::as_str).filter(|host| !host.is_empty())
    };
    let endpoint = endpoint.as_str().unwrap_or_default();
    // A node that is known by names and has none has an address nevertheless.
    let endpoint = if endpoint == "?" { other("ip").unwrap_or(endpoint) } else { endpoint };
    let port = port.as_u64().and_then(|port| u16::try_from(port).ok())?;
    Some(server(&endpoint, port, other("hostname").as_deref(), teller, naming))
}

/// A node at an endpoint that `teller` told: nothing and `?` mean its own.
fn server(endpoint: &str, port: u16, announced: Option<&str>, teller: &Server, naming: Naming) -> Server {
    let host = if endpoint.is_empty() || endpoint == "?" { &*teller.host } else { endpoint };
    let is_address = |host: &str| host.parse::<IpAddr>().is_ok();
    let name = match announced {
        _ if !is_address(host) => None,
        Some(announced) => Some(announced.to_owned()),
        None if naming == Naming::Teller => {
            let name = teller.tls_server_name.as_ref().unwrap_or(&teller.host);
            (!is_address(name)).then(|| name.to_string())
        }
        None => None,
    };
    Server::new_with_tls(host, port, name)
}

/// Where a node sends a command instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Redirection {
    /// The slot has another owner now.
    Moved { slot: u16, to: Server },
    /// The slot is on its way there, and this key has arrived or is new.
    Ask { to: Server },
}

impl Redirection {
    /// Reads `MOVED slot host:port` or `ASK slot host:port`, the answer of `teller`.
    pub(super) fn read(answer: &str, teller: &Server, naming: Naming) -> Option<Self> {
        let mut words = answer.split(' ');
        let (word, slot, to) = (words.next()?, words.next()?, words.next()?);
        let slot = slot.parse().ok().filter(|slot| *slot < SLOTS)?;
        let (host, port) = to.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let to = server(host, port.parse().ok()?, None, teller, naming);
        match word {
            "MOVED" => Some(Self::Moved { slot, to }),
            "ASK" => Some(Self::Ask { to }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn slots_are_those_of_redis_hash_tags_included() {
        // As CLUSTER KEYSLOT of Redis 7.0 tells them.
        for (key, slot) in [
            ("123456789", 12739),
            ("user1000", 3443),
            ("{user1000}.following", 3443),
            ("bar", 5061),
            ("foo{bar}{zap}", 5061),
            ("{bar", 4015),
            ("foo{{bar}}zap", 4015),
            ("foo{}{bar}", 8363),
            ("foo{bar", 15278),
        ] {
            assert_eq!(Slotting::Hashed.slot(key), slot, "{key}");
        }
    }

    proptest! {
        #[test]
        fn slots_are_those_of_fred(key in "[a-z:{}é]{0,60}") {
            assert_eq!(Slotting::Hashed.slot(&key), fred::util::redis_keyslot(key.as_bytes()));
        }
    }

    fn list(values: Vec<Value>) -> Value {
        Value::Array(values)
    }

    /// A reply with one range, whose master has this endpoint and these pairs.
    fn reply(endpoint: Value, pairs: &[&str]) -> Value {
        let pairs = list(pairs.iter().map(|word| Value::from(*word)).collect());
        let master = list(vec![endpoint, Value::from(7001), Value::from("id"), pairs]);
        let replica = list(vec![Value::from("10.0.0.9"), Value::from(7002), Value::from("id2"), list(Vec::new())]);
        list(vec![list(vec![Value::from(0), Value::from(5460), master, replica])])
    }

    fn master(endpoint: Value, pairs: &[&str], naming: Naming) -> (String, Option<String>) {
        let teller = Server::new_with_tls("10.0.0.1", 7000, Some("redis.example".to_owned()));
        let shards = Shards::read(&reply(endpoint, pairs), &teller, naming).unwrap();
        assert_eq!(shards.replicas.len(), 1);
        let range = &shards.ranges[0];
        assert_eq!((range.first, range.last), (0, 5460));
        (range.master.to_string(), range.master.tls_server_name.as_ref().map(ToString::to_string))
    }

    #[test]
    fn an_endpoint_that_is_not_known_is_the_tellers_host() {
        for endpoint in [Value::Null, Value::from(""), Value::from("?")] {
            assert_eq!(master(endpoint, &[], Naming::Address).0, "10.0.0.1:7001");
        }
        assert_eq!(master(Value::from("?"), &["ip", "10.0.0.2"], Naming::Address).0, "10.0.0.2:7001");
        assert_eq!(master(Value::from("10.0.0.3"), &[], Naming::Address), ("10.0.0.3:7001".to_owned(), None));
    }

    #[test]
    fn a_certificate_must_have_the_announced_name_or_else_the_tellers() {
        let address = || Value::from("10.0.0.3");
        let named = |name: &str| Some(name.to_owned());
        assert_eq!(master(address(), &["hostname", "a.example"], Naming::Teller).1, named("a.example"));
        assert_eq!(master(address(), &["hostname", ""], Naming::Teller).1, named("redis.example"));
        assert_eq!(master(address(), &[], Naming::Address).1, None);
        assert_eq!(master(Value::from("b.example"), &[], Naming::Teller), ("b.example:7001".to_owned(), None));
    }

    #[test]
    fn what_is_no_map_is_none() {
        let teller = Server::new("h", 1);
        let read = |reply: &Value| Shards::read(reply, &teller, Naming::Address);
        let short = list(vec![list(vec![Value::from(0)])]);
        let wild =
            list(vec![list(vec![Value::from(0), Value::from(16384), list(vec![Value::from("h"), Value::from(1)])])]);
        for reply in [Value::Null, Value::from("OK"), list(Vec::new()), short, wild] {
            assert_eq!(read(&reply), None, "{reply:?}");
        }
    }

    #[test]
    fn redirections_are_read() {
        let teller = Server::new("10.0.0.1", 7000);
        let read = |answer: &str| Redirection::read(answer, &teller, Naming::Address);
        let to = |host: &str, port| Server::new(host, port);
        assert_eq!(
            read("MOVED 16383 10.0.0.2:7001"),
            Some(Redirection::Moved { slot: 16383, to: to("10.0.0.2", 7001) })
        );
        assert_eq!(read("ASK 1 ::1:7001"), Some(Redirection::Ask { to: to("::1", 7001) }));
        assert_eq!(read("ASK 1 :7001"), Some(Redirection::Ask { to: to("10.0.0.1", 7001) }));
        for answer in ["MOVED", "MOVED 16384 h:1", "MOVED 1 h", "MOVED 1 h:x", "OOM command not allowed"] {
            assert_eq!(read(answer), None, "{answer}");
        }
    }
}
