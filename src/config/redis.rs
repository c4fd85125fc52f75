//! The `response_api.redis` block, and the file that its `config_path` names. Its names and defaults are the guide's.

use std::fmt;
use std::net::Ipv6Addr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;
use serde::de::Deserializer;
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use super::{checked, shown};

/// How to reach Redis: one server, or a cluster.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(from = "RedisKeys")]
pub struct Redis {
    /// The server, `host:port` or `unix:/path`. Not used in cluster mode or with Sentinel. Default: `localhost:6379`.
    #[serde(serialize_with = "shown::display")]
    pub address: RedisServer,
    /// The password; empty is none. Default: none.
    #[serde(serialize_with = "shown::masked")]
    pub password: Option<SecretString>,
    /// The ACL user; empty is Redis' `default` user. Default: none.
    #[serde(serialize_with = "shown::masked")]
    pub username: Option<String>,
    /// The database, 0 to 15; 0 in cluster mode. Default: 0.
    pub db: u8,
    /// What every key begins with. It ends with a colon: one is added where it is missing, as the guide's router does.
    /// Default: `sr:`.
    pub key_prefix: String,
    /// Whether the server is a Redis Cluster. Default: false.
    pub cluster_mode: bool,
    /// Some or all nodes of the cluster, `host:port` each; the others are discovered. Default: none.
    pub cluster_addresses: Vec<RedisAddress>,
    /// Sentinels, `host:port` each, that know the master of `sentinel_service`; then `address` is not used. Default:
    /// none.
    pub sentinel_addresses: Vec<RedisAddress>,
    /// The name under which the Sentinels know the master. Default: none.
    pub sentinel_service: Option<String>,
    /// The ACL user at the Sentinels; empty is their `default` user. Default: none.
    #[serde(serialize_with = "shown::masked")]
    pub sentinel_username: Option<String>,
    /// The password of the Sentinels; empty is none. Default: none.
    #[serde(serialize_with = "shown::masked")]
    pub sentinel_password: Option<SecretString>,
    /// How much may be under way to each node at once, at least 1: 128 commands for each. Connections carry many commands
    /// at a time, so there are never more of them (per node) than two, or than cores. Default: 10.
    pub pool_size: NonZeroUsize,
    /// The guide's; at most `pool_size`. Without effect, all connections are kept ready. Default: 2.
    pub min_idle_conns: usize,
    /// How often a command is sent again with Sentinel while it looks for the master, from 0. Elsewhere, and after that,
    /// what may be repeated is repeated until `store_deadline_ms`. Default: 3.
    pub max_retries: u32,
    /// The longest that a connection may take to open. Whole seconds, at least 1. Default: 5.
    #[serde(serialize_with = "shown::seconds")]
    pub dial_timeout: Duration,
    /// How long to wait for a record before asking again, within `store_deadline_ms`. Whole seconds, at least 1. Default: 3.
    #[serde(serialize_with = "shown::seconds")]
    pub read_timeout: Duration,
    /// How long to wait for a write to be answered before sending it again, within `store_deadline_ms`. Whole seconds, at least 1. Default: 3.
    #[serde(serialize_with = "shown::seconds")]
    pub write_timeout: Duration,
    /// The most bytes of records that wait to be written at once, at least 1. Default: 268435456, 256 MiB.
    pub max_pending_bytes: NonZeroUsize,
    /// The most bytes of records that are kept in memory since a chain's next turn needs them again, as long as Redis says
    /// that they are still there; 0 reads them each time. Without effect with Sentinel. Default: 33554432, 32 MiB.
    pub cache_bytes: usize,
    /// `breaker_seconds`: after how long without Redis requests fail at once instead of waiting for it. Whole seconds,
    /// at least 1. Default: 5, in which a cluster with a node timeout of two seconds replaces a dead master.
    #[serde(serialize_with = "shown::seconds")]
    pub breaker_seconds: Duration,
    /// How records larger than 1 KiB are kept; both kinds are always read. Default: none.
    pub compression: Compression,
    /// How many replicas must have a record before it counts as written, 0 to 100. Default: 0.
    pub min_replica_acks: u8,
    /// What becomes of a record that too few replicas have. Default: degrade.
    pub on_missing_acks: OnMissingAcks,
    /// Whether to speak TLS. Default: false.
    pub tls_enabled: bool,
    /// The PEM file of the client certificate; goes with `tls_key_path`. Default: none.
    pub tls_cert_path: Option<PathBuf>,
    /// The PEM file of the client certificate's key; goes with `tls_cert_path`. Default: none.
    pub tls_key_path: Option<PathBuf>,
    /// The PEM file of the authorities to trust; empty is the system's. Default: none.
    pub tls_ca_path: Option<PathBuf>,
    /// A file with these keys at its top level, relative to the working directory; its values win over those here.
    /// Default: none.
    pub config_path: Option<PathBuf>,
}

impl Default for Redis {
    fn default() -> Self {
        Redis {
            address: RedisServer::Tcp(RedisAddress { host: "localhost".to_owned(), port: 6379 }),
            password: None,
            username: None,
            db: 0,
            key_prefix: "sr:".to_owned(),
            cluster_mode: false,
            cluster_addresses: Vec::new(),
            sentinel_addresses: Vec::new(),
            sentinel_service: None,
            sentinel_username: None,
            sentinel_password: None,
            pool_size: const { NonZeroUsize::new(10).unwrap() },
            min_idle_conns: 2,
            max_retries: 3,
            dial_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(3),
            write_timeout: Duration::from_secs(3),
            max_pending_bytes: const { NonZeroUsize::new(256 * 1024 * 1024).unwrap() },
            cache_bytes: 32 * 1024 * 1024,
            breaker_seconds: Duration::from_secs(5),
            compression: Compression::default(),
            min_replica_acks: 0,
            on_missing_acks: OnMissingAcks::default(),
            tls_enabled: false,
            tls_cert_path: None,
            tls_key_path: None,
            tls_ca_path: None,
            config_path: None,
        }
    }
}

/// The keys as written: `None` is a key that is not there, and one that is there but empty.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping of the redis settings")]
pub(super) struct RedisKeys {
    #[serde(deserialize_with = "checked::unless_blank")]
    address: Option<RedisServer>,
    #[serde(deserialize_with = "password")]
    password: Option<SecretString>,
    #[serde(deserialize_with = "checked::line_unless_blank")]
    username: Option<String>,
    #[serde(deserialize_with = "db")]
    db: Option<u8>,
    #[serde(deserialize_with = "checked::line_unless_blank")]
    key_prefix: Option<String>,
    cluster_mode: Option<bool>,
    cluster_addresses: Option<Vec<RedisAddress>>,
    sentinel_addresses: Option<Vec<RedisAddress>>,
    #[serde(deserialize_with = "checked::line_unless_blank")]
    sentinel_service: Option<String>,
    #[serde(deserialize_with = "checked::line_unless_blank")]
    sentinel_username: Option<String>,
    #[serde(deserialize_with = "password")]
    sentinel_password: Option<SecretString>,
    #[serde(deserialize_with = "pool_size")]
    pool_size: Option<NonZeroUsize>,
    min_idle_conns: Option<usize>,
    max_retries: Option<u32>,
    #[serde(deserialize_with = "timeout")]
    dial_timeout: Option<Duration>,
    #[serde(deserialize_with = "timeout")]
    read_timeout: Option<Duration>,
    #[serde(deserialize_with = "timeout")]
    write_timeout: Option<Duration>,
    #[serde(deserialize_with = "pool_size")]
    max_pending_bytes: Option<NonZeroUsize>,
    cache_bytes: Option<usize>,
    #[serde(deserialize_with = "timeout")]
    breaker_seconds: Option<Duration>,
    compression: Option<Compression>,
    #[serde(deserialize_with = "min_replica_acks")]
    min_replica_acks: Option<u8>,
    on_missing_acks: Option<OnMissingAcks>,
    tls_enabled: Option<bool>,
    #[serde(deserialize_with = "checked::file_unless_blank")]
    tls_cert_path: Option<PathBuf>,
    #[serde(deserialize_with = "checked::file_unless_blank")]
    tls_key_path: Option<PathBuf>,
    #[serde(deserialize_with = "checked::file_unless_blank")]
    tls_ca_path: Option<PathBuf>,
    #[serde(deserialize_with = "checked::file_unless_blank")]
    config_path: Option<PathBuf>,
}

impl From<RedisKeys> for Redis {
    fn from(keys: RedisKeys) -> Redis {
        Redis::default().overridden_by(keys)
    }
}

impl Redis {
    /// These settings, but for those that `keys` has.
    pub(super) fn overridden_by(self, keys: RedisKeys) -> Redis {
        Redis {
            address: keys.address.unwrap_or(self.address),
            password: keys.password.or(self.password),
            username: keys.username.or(self.username),
            db: keys.db.unwrap_or(self.db),
            key_prefix: keys.key_prefix.map_or(self.key_prefix, ending_with_colon),
            cluster_mode: keys.cluster_mode.unwrap_or(self.cluster_mode),
            cluster_addresses: keys.cluster_addresses.unwrap_or(self.cluster_addresses),
            sentinel_addresses: keys.sentinel_addresses.unwrap_or(self.sentinel_addresses),
            sentinel_service: keys.sentinel_service.or(self.sentinel_service),
            sentinel_username: keys.sentinel_username.or(self.sentinel_username),
            sentinel_password: keys.sentinel_password.or(self.sentinel_password),
            pool_size: keys.pool_size.unwrap_or(self.pool_size),
            min_idle_conns: keys.min_idle_conns.unwrap_or(self.min_idle_conns),
            max_retries: keys.max_retries.unwrap_or(self.max_retries),
            dial_timeout: keys.dial_timeout.unwrap_or(self.dial_timeout),
            read_timeout: keys.read_timeout.unwrap_or(self.read_timeout),
            write_timeout: keys.write_timeout.unwrap_or(self.write_timeout),
            max_pending_bytes: keys.max_pending_bytes.unwrap_or(self.max_pending_bytes),
            cache_bytes: keys.cache_bytes.unwrap_or(self.cache_bytes),
            breaker_seconds: keys.breaker_seconds.unwrap_or(self.breaker_seconds),
            compression: keys.compression.unwrap_or(self.compression),
            min_replica_acks: keys.min_replica_acks.unwrap_or(self.min_replica_acks),
            on_missing_acks: keys.on_missing_acks.unwrap_or(self.on_missing_acks),
            tls_enabled: keys.tls_enabled.unwrap_or(self.tls_enabled),
            tls_cert_path: keys.tls_cert_path.or(self.tls_cert_path),
            tls_key_path: keys.tls_key_path.or(self.tls_key_path),
            tls_ca_path: keys.tls_ca_path.or(self.tls_ca_path),
            config_path: self.config_path.or(keys.config_path),
        }
    }
}

fn ending_with_colon(mut prefix: String) -> String {
    if !prefix.ends_with(':') {
        prefix.push(':');
    }
    prefix
}

fn password<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    let password = Option::<String>::deserialize(deserializer)?;
    Ok(password.filter(|password| !password.is_empty()).map(SecretString::from))
}

fn db<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    checked::between(deserializer, 0, 15).map(|db| u8::try_from(db).ok())
}

fn min_replica_acks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    checked::between(deserializer, 0, 100).map(|acks| u8::try_from(acks).ok())
}

fn pool_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroUsize>, D::Error> {
    checked::at_least_one(deserializer).map(NonZeroUsize::new)
}

fn timeout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    checked::seconds(deserializer).map(Some)
}

/// How records are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", expecting = "none or zstd")]
pub enum Compression {
    /// As JSON, which `redis-cli` shows and the Go semantic-router reads.
    #[default]
    None,
    /// As zstd at its fastest, about half the memory.
    Zstd,
}

/// What becomes of a record that fewer replicas than `min_replica_acks` have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", expecting = "degrade or fail")]
pub enum OnMissingAcks {
    /// It counts as written, and the log says so: after a failover there may be no replica for a while.
    #[default]
    Degrade,
    /// It counts as not written.
    Fail,
}

/// Where one Redis server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisServer {
    /// On the network.
    Tcp(RedisAddress),
    /// At a socket of this machine.
    Unix(PathBuf),
}

/// Renders as it is written in the config.
impl fmt::Display for RedisServer {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            RedisServer::Tcp(address) => address.fmt(formatter),
            RedisServer::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

impl FromStr for RedisServer {
    type Err = RedisAddressError;

    fn from_str(text: &str) -> Result<RedisServer, RedisAddressError> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') && !path.contains('\0') => Ok(RedisServer::Unix(path.into())),
            Some(_) => Err(RedisAddressError),
            None => text.parse().map(RedisServer::Tcp),
        }
    }
}

/// The address of a Redis server: a host, by name or by number, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisAddress {
    /// The name or the IP address, the latter without brackets.
    pub host: String,
    /// The port, never 0.
    pub port: u16,
}

/// Renders as it is written in the config.
impl fmt::Display for RedisAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let RedisAddress { host, port } = self;
        if host.contains(':') { write!(formatter, "[{host}]:{port}") } else { write!(formatter, "{host}:{port}") }
    }
}

/// Says why a text is not the address of a Redis server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be `host:port`, without a scheme (`localhost:6379`, `[::1]:6379`), or for a single server `unix:/path`")]
pub struct RedisAddressError;

impl FromStr for RedisAddress {
    type Err = RedisAddressError;

    fn from_str(text: &str) -> Result<RedisAddress, RedisAddressError> {
        let (host, port) = text.rsplit_once(':').ok_or(RedisAddressError)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(RedisAddressError)?;
        let in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) if v6.parse::<Ipv6Addr>().is_ok() => v6,
            None if !host.is_empty() && host.bytes().all(in_name) => host,
            _ => return Err(RedisAddressError),
        };
        Ok(RedisAddress { host: host.to_owned(), port })
    }
}

impl Serialize for RedisAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RedisAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        checked::parsed(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_render_as_they_are_written() {
        for text in ["localhost:6379", "10.0.0.1:7001", "redis_1.svc-a.local:1", "[::1]:6379"] {
            assert_eq!(text.parse::<RedisAddress>().unwrap().to_string(), text);
        }
        assert_eq!("[::1]:6379".parse::<RedisAddress>().unwrap().host, "::1");
    }

    #[test]
    fn a_single_server_may_be_at_a_socket() {
        for text in ["localhost:6379", "[::1]:6379", "unix:/run/redis.sock"] {
            assert_eq!(text.parse::<RedisServer>().unwrap().to_string(), text);
        }
        for text in ["unix:", "unix:redis.sock", "unix:/a\0b", "/run/redis.sock"] {
            assert_eq!(text.parse::<RedisServer>(), Err(RedisAddressError), "{text}");
        }
        assert!("unix:/run/redis.sock".parse::<RedisAddress>().is_err());
    }

    #[test]
    fn anything_else_is_not_an_address() {
        for text in [
            "",
            "localhost",
            ":6379",
            "h:0",
            "h:65536",
            "h:x",
            "redis://h:6379",
            "u:p@h:6379",
            "::1:6379",
            "[h]:1",
            "a b:1",
        ] {
            assert_eq!(text.parse::<RedisAddress>(), Err(RedisAddressError), "{text}");
        }
    }

    #[test]
    fn keys_that_are_there_win_and_the_others_stay() {
        let inline = Redis { db: 3, username: Some("app".to_owned()), ..Redis::default() };
        let merged = inline.overridden_by(RedisKeys {
            db: Some(5),
            key_prefix: Some("mine".to_owned()),
            ..RedisKeys::default()
        });
        assert_eq!((merged.db, merged.username.as_deref()), (5, Some("app")));
        assert_eq!(merged.key_prefix, "mine:");
        assert_eq!(merged.address, Redis::default().address);
    }
}
