//! `responses-router check --envoy`: what in an Envoy config is wrong for this router.
//!
//! Pure: text in, findings out; the command reads the file and prints. `node` and `document` read anything within bounds,
//! `model` finds what matters by the types of messages, `routing` chooses routes as Envoy does, and `rules` has a function
//! for each thing that is looked for, with what users would see and the fix beside it.

mod document;
mod finding;
mod model;
mod node;
mod routing;
mod rules;

pub use self::document::{MAX_FILE_BYTES, Unreadable};
pub use self::finding::{Finding, Report, Severity};

use self::finding::Findings;
use self::model::{EnvoyConfig, Filter, Manager};
use crate::config::{Config, Listen, TenantSource};

/// What the router's own config says to what Envoy has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ours {
    /// The path that is served, `/v1/responses` after its prefix.
    pub responses_path: String,
    /// The path of translated requests, without its query.
    pub chat_path: String,
    /// Whether the route is chosen again for those.
    pub clear_route_cache: bool,
    /// The largest request that we take, in bytes.
    pub max_request_bytes: usize,
    /// How long an exchange may take, in seconds.
    pub exchange_seconds: u64,
    /// Who says whose a response is.
    pub tenancy: OurTenancy,
    /// Under which name Envoy is told of exchanges.
    pub metadata_namespace: String,
    /// Where the router listens; `None` when nobody said, because there is no config file.
    pub listener: Option<OurListener>,
}

/// Who says whose a response is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OurTenancy {
    /// Nobody, or the client's own credential: Envoy has no part in it.
    Untold,
    /// Envoy, in this header.
    Header(String),
    /// One of Envoy's filters, in the dynamic metadata of this namespace.
    Metadata(String),
    /// A token that Envoy has verified.
    JwtClaim,
}

/// Where the router listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OurListener {
    /// The address.
    pub listen: Listen,
    /// Whether it speaks TLS, and if so whether it wants a client's certificate.
    pub tls: Option<bool>,
}

impl Ours {
    /// What a config says. `given` tells whether somebody wrote it: the default address need not be Envoy's.
    #[must_use]
    pub fn of(config: &Config, given: bool) -> Self {
        let Config { server, response_api, upstream, limits, tenancy, telemetry, .. } = config;
        let prefix = &response_api.path_prefix;
        let chat_path = upstream.chat_path.split('?').next().unwrap_or_default();
        let tls = server.tls.as_ref().map(|tls| tls.client_ca_path.is_some());
        Self {
            responses_path: format!("{prefix}/v1/responses"),
            chat_path: format!("{prefix}{chat_path}"),
            clear_route_cache: upstream.clear_route_cache,
            max_request_bytes: limits.max_request_bytes,
            exchange_seconds: limits.exchange_seconds.as_secs(),
            tenancy: match tenancy.source {
                TenantSource::None | TenantSource::Authorization => OurTenancy::Untold,
                TenantSource::Header => OurTenancy::Header(tenancy.header.to_string()),
                TenantSource::Metadata => OurTenancy::Metadata(tenancy.metadata.namespace.clone()),
                TenantSource::JwtClaim => OurTenancy::JwtClaim,
            },
            metadata_namespace: telemetry.metadata_namespace.clone(),
            listener: given.then(|| OurListener { listen: server.listen.clone(), tls }),
        }
    }
}

/// Reads an Envoy config and says what is wrong with it for this router.
///
/// # Errors
/// [`Unreadable`] when there is nothing to check.
pub fn check(file: &[u8], ours: &Ours) -> Result<Report, Unreadable> {
    let documents = document::read(file)?;
    let config = EnvoyConfig::of(&documents);
    if config.managers.is_empty() && config.loose.is_empty() {
        return Err(Unreadable::NothingToCheck);
    }
    let mut findings = Findings::default();
    let with_filter: Vec<(&Manager<'_>, &Filter<'_>)> =
        config.managers.iter().filter_map(|manager| Some((manager, our_filter(manager, &config, ours)?))).collect();
    if with_filter.is_empty() && config.loose.is_empty() {
        rules::filter::missing(&config, &mut findings);
    }
    for (manager, filter) in with_filter {
        rules::filter::check(filter, ours, &mut findings);
        rules::chain::check(manager, filter, ours, &mut findings);
        rules::manager::check(manager, &mut findings);
        rules::tenancy::check(manager, filter, ours, &mut findings);
        rules::access_log::check(manager, filter, ours, &mut findings);
        rules::routes::check(manager, filter, &config, ours, &mut findings);
        rules::router_cluster::check(filter, &config, ours, &mut findings);
    }
    for listener in &config.listeners {
        rules::manager::listener(listener, &mut findings);
    }
    for filter in &config.loose {
        rules::filter::check(filter, ours, &mut findings);
        rules::router_cluster::check(filter, &config, ours, &mut findings);
    }
    Ok(findings.into_report())
}

/// The ext_proc filter that is this router's, where a chain has several: the one that calls where the router listens, or
/// whose name or cluster speaks of responses, or that has our modes.
fn our_filter<'m, 'a>(manager: &'m Manager<'a>, config: &EnvoyConfig<'a>, ours: &Ours) -> Option<&'m Filter<'a>> {
    let likeness = |filter: &&Filter<'a>| {
        let cluster = filter.cluster().and_then(|cluster| cluster.text()).unwrap_or_default();
        let calls_us = rules::router_cluster::is_ours(cluster, config, ours);
        let named = cluster.contains("responses") || filter.name.contains("responses");
        let duplex = filter.config.get("processing_mode").is_some_and(|modes| modes.node().mentions("FULL_DUPLEX"));
        (calls_us, named, duplex)
    };
    // Of equals the first: `max_by_key` would take the last.
    manager.filters.iter().filter(|filter| filter.is_ext_proc()).rev().max_by_key(likeness)
}
