//! From the config to a fred client that is safe to use.
//!
//! The settings that fred's defects force upon us stand here, each with its reason; see the module's doc.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use fred::clients::Client;
use fred::types::Builder;
use fred::types::RespVersion;
use fred::types::config::{Config, ReconnectPolicy, Server, ServerConfig};
use secrecy::ExposeSecret;

use super::node::Lane;
use super::slots::{Naming, Slotting};
use super::tls::tls;
use crate::config::{Redis, RedisAddress, RedisServer};

/// Why no client can be made of the config, whether or not there is a server.
#[derive(Debug, thiserror::Error)]
pub enum RedisConfigError {
    /// A PEM file cannot be used.
    #[error("response_api.redis.{key}: {} cannot be used: {reason}", file.display())]
    Pem {
        /// The setting that names the file.
        key: &'static str,
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no trust in anybody: no `tls_ca_path`, and the system has no authorities.
    #[error("response_api.redis.tls_enabled: the system has no certificate authorities ({0}), set tls_ca_path")]
    NoRoots(String),
    /// The TLS library or fred refuses the settings.
    #[error("response_api.redis: {0}")]
    Refused(String),
}

/// So many changes of what was read on a connection may wait to be heard; after more, all of it counts as changed.
const UNHEARD_CHANGES: usize = 512;

/// Makes clients of one kind; none is connected yet.
pub(super) struct Clients {
    builder: Builder,
    /// Nodes of the cluster to begin with; none if it is not a cluster.
    seeds: Vec<Server>,
    naming: Naming,
}

impl Clients {
    /// `longest_command` ends a command that names no deadline of its own.
    pub(super) fn new(redis: &Redis, longest_command: Duration) -> Result<Self, RedisConfigError> {
        let server = server(redis);
        // Whom Sentinels name may change, and so may the Sentinels: fred keeps count of them. Any other client is one
        // connection, which ends with the first error, and those who wait for an answer learn of it.
        let reconnects = matches!(server, ServerConfig::Sentinel { .. });
        let mut builder = Builder::from_config(Config {
            fail_fast: !reconnects,
            username: redis.username.clone(),
            password: redis.password.as_ref().map(|password| password.expose_secret().to_owned()),
            server,
            database: (redis.db != 0).then_some(redis.db),
            tls: redis.tls_enabled.then(|| tls(redis)).transpose()?,
            ..Config::default()
        });
        builder.with_connection_config(|connection| {
            connection.connection_timeout = redis.dial_timeout;
            connection.internal_command_timeout = redis.dial_timeout;
            connection.max_command_attempts = if reconnects { redis.max_retries.saturating_add(1) } else { 1 };
            // Defect 1: following ASK crosses replies. Redirections are followed in `command.rs`.
            connection.max_redirections = 0;
            // Defect 3: a bound here hangs the client after its first rejection. Ours are in `node.rs` and `command.rs`.
            connection.max_command_buffer_len = 0;
            connection.tcp.nodelay = Some(true);
        });
        builder.with_performance_config(|performance| performance.default_command_timeout = longest_command);
        if reconnects {
            // For ever: an end of the attempts ends the client. The first attempt waits for the first delay too.
            builder.set_policy(ReconnectPolicy::Exponential {
                attempts: 0,
                max_attempts: 0,
                min_delay: 10,
                max_delay: 300,
                base: 2,
                jitter: 10,
            });
        }
        let seeds: Vec<_> = redis.cluster_addresses.iter().filter(|_| redis.cluster_mode).map(host).collect();
        // CLUSTER SLOTS tells addresses where certificates have names. If the config knows the cluster by names only, the
        // name of the node that told them is the best there is; names that the cluster announces win over both.
        let named = |seed: &Server| seed.host.parse::<IpAddr>().is_err();
        let naming = if seeds.iter().all(named) { Naming::Teller } else { Naming::Address };
        Ok(Self { builder, seeds, naming })
    }

    /// A client for one node of the cluster, or as the config says.
    pub(super) fn make(&self, node: Option<&Server>, lane: Lane) -> Result<Client, fred::error::Error> {
        let mut builder = self.builder.clone();
        if let Some(node) = node {
            builder.with_config(|config| config.server = ServerConfig::Centralized { server: node.clone() });
        }
        if lane == Lane::Tracked {
            // What the server says unasked comes between its answers, which RESP2 cannot tell apart.
            builder.with_config(|config| config.version = RespVersion::RESP3);
            builder.with_performance_config(|performance| performance.broadcast_channel_capacity = UNHEARD_CHANGES);
        }
        builder.build()
    }

    pub(super) fn is_clustered(&self) -> bool {
        !self.seeds.is_empty()
    }

    pub(super) fn slotting(&self) -> Slotting {
        if self.is_clustered() { Slotting::Hashed } else { Slotting::One }
    }

    pub(super) fn seeds(&self) -> &[Server] {
        &self.seeds
    }

    pub(super) fn naming(&self) -> Naming {
        self.naming
    }
}

/// Where the server is; of a cluster, any node.
fn server(redis: &Redis) -> ServerConfig {
    let hosts = |addresses: &[RedisAddress]| addresses.iter().map(host).collect();
    if let (true, Some(seed)) = (redis.cluster_mode, redis.cluster_addresses.first()) {
        return ServerConfig::Centralized { server: host(seed) };
    }
    if let Some(service_name) = &redis.sentinel_service {
        return ServerConfig::Sentinel {
            hosts: hosts(&redis.sentinel_addresses),
            service_name: service_name.clone(),
            username: redis.sentinel_username.clone(),
            password: redis.sentinel_password.as_ref().map(|password| password.expose_secret().to_owned()),
        };
    }
    match &redis.address {
        RedisServer::Tcp(address) => ServerConfig::Centralized { server: host(address) },
        RedisServer::Unix(path) => ServerConfig::Unix { path: path.clone() },
    }
}

fn host(address: &RedisAddress) -> Server {
    Server::new(address.host.clone(), address.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(redis: &Redis) -> Result<Clients, RedisConfigError> {
        Clients::new(redis, Duration::from_secs(5))
    }

    #[tokio::test]
    async fn what_the_defects_force_upon_us_is_set() {
        use fred::interfaces::ClientLike as _;
        let seed = "10.0.0.1:7000".parse().unwrap();
        let cluster = Redis { cluster_mode: true, cluster_addresses: vec![seed], ..Redis::default() };
        let node = Server::new_with_tls("10.0.0.2", 7001, Some("b.example".to_owned()));
        let client = clients(&cluster).unwrap().make(Some(&node), Lane::Common).unwrap();
        let connection = client.connection_config();
        assert_eq!((connection.max_redirections, connection.max_command_buffer_len), (0, 0));
        assert_eq!(connection.max_command_attempts, 1);
        let config = client.client_config();
        assert!(config.fail_fast && client.client_reconnect_policy().is_none());
        let ServerConfig::Centralized { server } = config.server else { panic!("{:?}", config.server) };
        assert_eq!(server.tls_server_name.as_deref(), Some("b.example"));

        let sentinels = Redis { sentinel_service: Some("mymaster".to_owned()), max_retries: 7, ..Redis::default() };
        let client = clients(&sentinels).unwrap().make(None, Lane::Common).unwrap();
        assert_eq!(client.connection_config().max_command_attempts, 8);
        assert!(!client.client_config().fail_fast);
        assert_eq!(client.client_reconnect_policy().unwrap().max_attempts(), 0);
    }

    #[test]
    fn the_config_names_one_kind_of_server() {
        let address = |text: &str| text.parse::<RedisAddress>().unwrap();
        let sentinels = Redis {
            sentinel_addresses: vec![address("s:26379")],
            sentinel_service: Some("mymaster".to_owned()),
            ..Redis::default()
        };
        assert!(matches!(server(&sentinels), ServerConfig::Sentinel { hosts, .. } if hosts.len() == 1));
        let socket = Redis { address: "unix:/run/redis.sock".parse().unwrap(), ..Redis::default() };
        assert!(matches!(server(&socket), ServerConfig::Unix { .. }));
        assert!(matches!(server(&Redis::default()), ServerConfig::Centralized { server } if server.port == 6379));
    }

    #[test]
    fn a_pem_file_that_is_not_there_is_named() {
        let ca = Some(PathBuf::from("/nonexistent/ca.pem"));
        let redis = Redis { tls_enabled: true, tls_ca_path: ca, ..Redis::default() };
        let error = clients(&redis).err().unwrap().to_string();
        assert!(error.starts_with("response_api.redis.tls_ca_path: /nonexistent/ca.pem cannot be used: "), "{error}");
    }
}
