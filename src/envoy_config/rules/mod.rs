//! What is looked for: a file for each part of an Envoy config, a function for each rule.

pub(super) mod access_log;
pub(super) mod chain;
pub(super) mod filter;
pub(super) mod manager;
pub(super) mod router_cluster;
pub(super) mod routes;
pub(super) mod tenancy;

use super::finding::{Findings, Rule, Severity};
use super::model::EnvoyConfig;
use super::node::At;

/// The fewest requests at a time that are worth a circuit breaker's while: Envoy's default.
const DEFAULT_MAX: f64 = 1024.0;

/// Each circuit breaker of the default priority that is as low as Envoy's default, or lower.
fn low_breakers(cluster: &At<'_>, fields: &[&'static str]) -> Vec<&'static str> {
    let thresholds = cluster.get("circuit_breakers").map(|breakers| breakers.list("thresholds")).unwrap_or_default();
    let is_default = |threshold: &&At<'_>| {
        threshold.get("priority").is_none_or(|priority| priority.word(&["DEFAULT", "HIGH"]) == Some("DEFAULT"))
    };
    let threshold = thresholds.iter().find(is_default);
    let limit = |field| threshold.and_then(|threshold| threshold.get(field)?.number()).unwrap_or(DEFAULT_MAX);
    fields.iter().copied().filter(|field| limit(field) <= DEFAULT_MAX).collect()
}

/// A cluster's options for HTTP, wherever they stand.
fn http_options<'a>(cluster: &At<'a>) -> Option<At<'a>> {
    let options = cluster.get("typed_extension_protocol_options")?;
    options
        .members()
        .map(|(_, options)| options)
        .find(|options| options.kind().is_some_and(|kind| kind.ends_with(".HttpProtocolOptions")))
}

const CLUSTER_NOT_HERE: Rule = Rule {
    name: "cluster_not_in_file",
    severity: Severity::Info,
    users_see: "nothing, when the cluster is what it should be",
    fix: "check the whole config: a file with the cluster, or what Envoy's admin page /config_dump shows",
};

/// The cluster of this name, or a finding that it is not here.
fn cluster<'c, 'a>(
    name: &str,
    config: &'c EnvoyConfig<'a>,
    asked_by: &str,
    findings: &mut Findings,
) -> Option<&'c At<'a>> {
    let found = config.cluster(name);
    if found.is_none() {
        findings.add(
            &CLUSTER_NOT_HERE,
            asked_by,
            format!("the cluster `{name}` is not in the file, so it was not checked"),
        );
    }
    found
}
