//! The config: one YAML file in which every key has a default, so that an empty one, or none, will do.
//!
//! What is wrong in it (an unknown or repeated key, a wrong type, a value out of bounds, two values that contradict
//! each other, a variable that is not set) is an error with file, line and column. What [`Config::load`] returns needs
//! no further check. Variables of the environment may stand in any value, see `environment.rs`.

mod checked;
mod disk;
mod environment;
mod expanding;
mod history;
mod keys;
mod limits;
mod otlp;
mod redis;
mod response_api;
mod server;
mod shown;
mod source;
mod telemetry;
mod tenancy;
#[cfg(test)]
mod tests;
mod upstream;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::disk::Disk;
pub use self::history::History;
pub use self::keys::{Encryption, ReasoningEncryption};
pub use self::limits::{Limits, Stream};
pub use self::otlp::{Otlp, OtlpEndpoint};
pub use self::redis::{Compression, OnMissingAcks, Redis, RedisAddress, RedisAddressError, RedisServer};
pub use self::response_api::{OnStoreError, ResponseApi, StoreBackend};
pub use self::server::{Listen, ListenError, Server, ServerTls, SocketMode};
pub use self::telemetry::{LogFormat, LogIds, ModelName, Telemetry};
pub use self::tenancy::{JwtClaim, MetadataPlace, Tenancy, TenantSource};
pub use self::upstream::{Model, Upstream};

use self::environment::Environment;
use self::redis::RedisKeys;
use self::source::Source;
use crate::translate::settings::Settings;

/// The whole config. Its `Debug` shows no secret.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping of the config's blocks")]
pub struct Config {
    /// Where the router listens and how it stops.
    pub server: Server,
    /// What is offered and where responses are kept.
    pub response_api: ResponseApi,
    /// How the chat backend wants to be spoken to.
    pub upstream: Upstream,
    /// What becomes of a history that does not fit together.
    pub history: History,
    /// The heartbeat of streams.
    pub stream: Stream,
    /// What bounds an exchange.
    pub limits: Limits,
    /// Whose responses are whose.
    pub tenancy: Tenancy,
    /// What the log says, and how.
    pub telemetry: Telemetry,
}

impl Config {
    /// Reads and checks the config, and the file that `response_api.redis.config_path` names. Without a path, all is
    /// default. `environment` gives the value of a variable, `None` when it is not set.
    ///
    /// # Errors
    /// The first thing that is wrong, and where.
    pub fn load(path: Option<&Path>, environment: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        match path {
            None => Ok(Config::default()),
            Some(path) => Config::of(&Source::read(path, None)?, Environment(environment)),
        }
    }

    fn of(source: &Source, environment: Environment<'_>) -> Result<Config, ConfigError> {
        let mut config: Config = source.parse(environment)?;
        let redis_file = match &config.response_api.redis.config_path {
            None => None,
            Some(file) => {
                let file = Source::read(file, source.place_of(&["response_api", "redis", "config_path"]))?;
                let keys: RedisKeys = file.parse(environment)?;
                config.response_api.redis = config.response_api.redis.overridden_by(keys);
                Some(file)
            }
        };
        let sources = Sources { source, redis_file: redis_file.as_ref() };
        let redis = &mut config.response_api.redis;
        if sources.place_of_redis("min_idle_conns").is_none() {
            // Nobody asked for the default, so it cannot contradict a small pool.
            redis.min_idle_conns = redis.min_idle_conns.min(redis.pool_size.get());
        }
        config.contradictions(&sources)?;
        Ok(config)
    }

    /// The config as it holds, defaults included, as YAML that [`Config::load`] would take but for its secrets, which are
    /// masked.
    #[must_use]
    pub fn shown(&self) -> String {
        // A map of texts, numbers and lists always serialises.
        serde_yaml::to_string(self).unwrap_or_else(|error| format!("# cannot be shown: {error}\n"))
    }

    /// What the translation may know of the config.
    pub fn translation(&self) -> Settings {
        let Limits { max_answer_bytes, max_sse_frame_bytes, max_stream_events, max_argument_bytes, .. } = self.limits;
        let history_repair = self.history.repair;
        self.upstream.translation(Settings {
            api: self.response_api.dialect.into(),
            history_repair,
            unsupported_tools: self.response_api.unsupported_tools,
            max_answer_bytes,
            max_sse_frame_bytes,
            max_stream_events,
            max_argument_bytes,
            request: self.limits.request(),
            ..Settings::default()
        })
    }

    /// Refuses values that are good by themselves and cannot be together.
    fn contradictions(&self, sources: &Sources<'_>) -> Result<(), ConfigError> {
        if let (Listen::Tcp(listen), Some(admin)) = (&self.server.listen, self.server.admin_listen)
            && *listen == admin
            && admin.port() != 0
        {
            let written = sources.source.place_of(&["server", "admin_listen"]).is_some();
            let (key, other) = if written { ("admin_listen", "listen") } else { ("listen", "admin_listen") };
            return Err(sources.invalid(&["server", key], &format!("must not be the same as `{other}`")));
        }
        match (&self.server.listen, &self.server.tls, self.server.socket_mode) {
            (Listen::Unix(_), Some(_), _) => {
                return Err(sources.invalid(&["server", "tls"], "must not be set where `listen` is a unix socket"));
            }
            (Listen::Tcp(_), _, Some(_)) => {
                return Err(sources.invalid(&["server", "socket_mode"], "must not be set where `listen` is a port"));
            }
            _ => {}
        }
        if let Some(place) = sources.redis_file.and_then(|file| file.place_of(&["config_path"])) {
            let message = "response_api.redis.config_path: must not stand in the file that it names".to_owned();
            return Err(ConfigError::Invalid { place, message });
        }
        if self.limits.max_buffered_bytes < self.limits.max_request_bytes {
            let problem = "must be at least `max_request_bytes`, or the largest requests never get in";
            return Err(sources.invalid(&["limits", "max_buffered_bytes"], problem));
        }
        let ResponseApi { reasoning_encryption, encryption, .. } = &self.response_api;
        for (block, keys) in [("reasoning_encryption", &reasoning_encryption.keys), ("encryption", &encryption.keys)] {
            if keys::repeat_an_id(keys) {
                return Err(sources.invalid(&["response_api", block, "keys"], "must each have an id of its own"));
            }
        }
        if self.telemetry.otlp.endpoint.is_some() && !cfg!(feature = "otlp") {
            let problem = "this router was built without OTLP (cargo feature `otlp`)";
            return Err(sources.invalid(&["telemetry", "otlp", "endpoint"], problem));
        }
        if encryption.required && encryption.keys.is_empty() {
            return Err(sources.invalid(&["response_api", "encryption", "required"], "needs `keys` beside it"));
        }
        self.tenancy_contradictions(sources)?;
        let redis = &self.response_api.redis;
        if redis.cluster_mode && redis.db != 0 {
            return Err(sources.invalid_redis("db", "must be 0 in cluster mode, a cluster has no other database"));
        }
        if redis.cluster_mode && redis.cluster_addresses.is_empty() {
            return Err(sources.invalid_redis("cluster_mode", "is true, so `cluster_addresses` must name a node"));
        }
        if redis.cluster_mode && !redis.sentinel_addresses.is_empty() {
            return Err(sources.invalid_redis("sentinel_addresses", "must be empty in cluster mode"));
        }
        match (redis.sentinel_addresses.is_empty(), &redis.sentinel_service) {
            (false, None) => {
                return Err(sources.invalid_redis("sentinel_addresses", "needs `sentinel_service` beside it"));
            }
            (true, Some(_)) => {
                return Err(sources.invalid_redis("sentinel_service", "needs `sentinel_addresses` beside it"));
            }
            (true, None) | (false, Some(_)) => {}
        }
        if let (RedisServer::Unix(_), true, false) = (&redis.address, redis.tls_enabled, redis.cluster_mode) {
            return Err(sources.invalid_redis("tls_enabled", "must be false where `address` is a socket"));
        }
        if redis.min_idle_conns > redis.pool_size.get() {
            return Err(sources.invalid_redis("min_idle_conns", "must not be more than `pool_size`"));
        }
        match (&redis.tls_cert_path, &redis.tls_key_path) {
            (Some(_), None) => Err(sources.invalid_redis("tls_cert_path", "needs `tls_key_path` beside it")),
            (None, Some(_)) => Err(sources.invalid_redis("tls_key_path", "needs `tls_cert_path` beside it")),
            (Some(_), Some(_)) | (None, None) => Ok(()),
        }
    }
}

impl Config {
    fn tenancy_contradictions(&self, sources: &Sources<'_>) -> Result<(), ConfigError> {
        let Tenancy { source, metadata, jwt_claim, authorization, in_key, .. } = &self.tenancy;
        let missing = match source {
            TenantSource::None if *in_key => return Err(sources.invalid(&["tenancy", "in_key"], "needs a `source`")),
            TenantSource::Metadata if metadata.namespace.is_empty() => "needs `metadata.namespace`",
            TenantSource::Metadata if metadata.path.is_empty() => "needs `metadata.path`",
            TenantSource::JwtClaim if jwt_claim.payload.is_empty() => "needs `jwt_claim.payload`",
            TenantSource::JwtClaim if jwt_claim.path.is_empty() => "needs `jwt_claim.path`",
            TenantSource::Authorization if authorization.is_none() => {
                "needs `authorization.key` or `authorization.file`"
            }
            TenantSource::None
            | TenantSource::Header
            | TenantSource::Metadata
            | TenantSource::JwtClaim
            | TenantSource::Authorization => return Ok(()),
        };
        Err(sources.invalid(&["tenancy", "source"], missing))
    }
}

/// Why the config cannot be used. It renders as `file:line:column: message`.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{place}: {} cannot be read: {source}", file.display())]
    Unreadable {
        /// What names the file: the start of the file itself, or a `config_path`.
        place: Place,
        /// The file.
        file: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// Something in a file is wrong.
    #[error("{place}: {message}")]
    Invalid {
        /// Where.
        place: Place,
        /// What. It holds no value of the environment.
        message: String,
    },
}

impl ConfigError {
    /// Where the error is.
    pub fn place(&self) -> &Place {
        match self {
            ConfigError::Unreadable { place, .. } | ConfigError::Invalid { place, .. } => place,
        }
    }
}

/// A place in a config file. It renders as `file:line:column`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

impl Place {
    fn start_of(file: &Path) -> Place {
        Place { file: file.to_owned(), line: 1, column: 1 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// The files that a config came from.
struct Sources<'a> {
    source: &'a Source,
    redis_file: Option<&'a Source>,
}

impl Sources<'_> {
    fn place_of_redis(&self, key: &str) -> Option<Place> {
        self.redis_file
            .and_then(|file| file.place_of(&[key]))
            .or_else(|| self.source.place_of(&["response_api", "redis", key]))
    }

    fn invalid(&self, path: &[&str], problem: &str) -> ConfigError {
        let place = self.source.place_of(path).unwrap_or_else(|| self.source.start());
        ConfigError::Invalid { place, message: format!("{}: {problem}", path.join(".")) }
    }

    /// The same for a redis setting, which stands in the redis file if that has it.
    fn invalid_redis(&self, key: &str, problem: &str) -> ConfigError {
        let place = self.place_of_redis(key).unwrap_or_else(|| self.source.start());
        ConfigError::Invalid { place, message: format!("response_api.redis.{key}: {problem}") }
    }
}
