//! The cluster by which Envoy reaches the router.

use std::net::IpAddr;
use std::path::Path;

use super::super::finding::{Findings, Rule, Severity};
use super::super::model::{EnvoyConfig, Filter};
use super::super::node::At;
use super::super::{OurListener, Ours};
use super::{cluster, http_options, low_breakers};
use crate::config::Listen;

const AUTHORITY: Rule = Rule {
    name: "router_authority",
    severity: Severity::Error,
    users_see: "every request fails with 503 (or 500): Envoy sends the cluster's name as :authority, and gRPC refuses it",
    fix: "authority: responses-router beside cluster_name",
};

const NOT_HTTP2: Rule = Rule {
    name: "router_not_http2",
    severity: Severity::Error,
    users_see: "every request fails with 503 (or 500): gRPC needs HTTP/2",
    fix: "typed_extension_protocol_options with explicit_http_config: {http2_protocol_options: {}}, as in \
          envoy/filter-stanza.yaml",
};

const BREAKERS: Rule = Rule {
    name: "router_circuit_breakers",
    severity: Severity::Warning,
    users_see: "each live answer is one request to the router: the 1025th at a time fails with 503 (or 500)",
    fix: "circuit_breakers: {thresholds: [{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}]}",
};

const FEW_STREAMS: Rule = Rule {
    name: "router_max_concurrent_streams",
    severity: Severity::Warning,
    users_see: "Envoy opens a connection for every few live answers, and a burst can be refused",
    fix: "remove max_concurrent_streams from the router's cluster",
};

const NO_KEEPALIVE: Rule = Rule {
    name: "router_keepalive",
    severity: Severity::Info,
    users_see: "requests hang while a router whose machine vanished is not found out",
    fix: "http2_protocol_options: {connection_keepalive: {interval: 30s, timeout: 5s}}",
};

const PIPE_BY_DNS: Rule = Rule {
    name: "socket_by_dns",
    severity: Severity::Error,
    users_see: "every request fails with 503: Envoy drops the unix socket from the cluster without a word",
    fix: "type: STATIC for a unix socket",
};

const NAME_STATIC: Rule = Rule {
    name: "name_in_static_cluster",
    severity: Severity::Error,
    users_see: "Envoy refuses the config: a STATIC cluster takes IP addresses",
    fix: "type: STRICT_DNS for a DNS name",
};

const ADDRESS: Rule = Rule {
    name: "router_address",
    severity: Severity::Warning,
    users_see: "503 for every request, unless something between them maps one address to the other",
    fix: "the address of server.listen in the router's config",
};

const NO_TLS: Rule = Rule {
    name: "router_tls_missing",
    severity: Severity::Error,
    users_see: "every request fails with 503: the router speaks TLS and Envoy does not",
    fix: "the transport_socket of envoy/filter-stanza.yaml, or no server.tls",
};

const TLS_UNASKED: Rule = Rule {
    name: "router_tls_unexpected",
    severity: Severity::Error,
    users_see: "every request fails with 503: Envoy speaks TLS and the router does not",
    fix: "server.tls in the router's config, or no transport_socket",
};

const NO_CLIENT_CERTIFICATE: Rule = Rule {
    name: "router_tls_client_certificate",
    severity: Severity::Error,
    users_see: "every request fails with 503: the router lets nobody in without a certificate",
    fix: "tls_certificates in the cluster's common_tls_context, or no server.tls.client_ca_path",
};

const UNVERIFIED: Rule = Rule {
    name: "router_tls_unverified",
    severity: Severity::Warning,
    users_see: "nothing; but Envoy sends every prompt to whoever takes the router's address",
    fix: "validation_context with trusted_ca and match_typed_subject_alt_names",
};

const MAX_DURATION: Rule = Rule {
    name: "router_max_stream_duration",
    severity: Severity::Error,
    users_see: "answers that take longer are cut in the middle",
    fix: "remove max_stream_duration from the router's cluster",
};

/// All rules of the cluster that the filter calls.
pub(in super::super) fn check(filter: &Filter<'_>, config: &EnvoyConfig<'_>, ours: &Ours, findings: &mut Findings) {
    let Some(asked) = filter.cluster() else { return };
    let Some(name) = asked.text() else { return };
    authority(filter, name, findings);
    let Some(cluster) = cluster(name, config, asked.path(), findings) else { return };
    http2(cluster, findings);
    breakers(cluster, findings);
    discovery(cluster, findings);
    if let Some(listener) = &ours.listener {
        address(cluster, listener, findings);
        tls(cluster, listener, findings);
    }
    unverified(cluster, findings);
}

/// Whether a cluster leads to where the router listens.
pub(in super::super) fn is_ours(name: &str, config: &EnvoyConfig<'_>, ours: &Ours) -> bool {
    let (Some(cluster), Some(listener)) = (config.cluster(name), &ours.listener) else { return false };
    endpoints(cluster).iter().any(|endpoint| leads_to(endpoint, &listener.listen))
}

/// The addresses of a cluster's endpoints.
fn endpoints<'a>(cluster: &At<'a>) -> Vec<At<'a>> {
    let localities = cluster.get("load_assignment").map(|assignment| assignment.list("endpoints")).unwrap_or_default();
    let endpoints = localities.iter().flat_map(|locality| locality.list("lb_endpoints"));
    endpoints.filter_map(|endpoint| endpoint.at(&["endpoint", "address"])).collect()
}

fn leads_to(address: &At<'_>, listen: &Listen) -> bool {
    let pipe = address.at(&["pipe", "path"]).and_then(|path| path.text());
    let port = address.at(&["socket_address", "port_value"]).and_then(|port| port.number());
    match listen {
        Listen::Unix(path) => pipe.is_some_and(|pipe| Path::new(pipe) == path),
        // The address may be a Service's or a container's; the port mostly stays. 0 is whichever port is free.
        Listen::Tcp(listen) => port.is_some() && (listen.port() == 0 || port == Some(f64::from(listen.port()))),
    }
}

fn authority(filter: &Filter<'_>, cluster: &str, findings: &mut Findings) {
    let Some(service) = filter.config.at(&["grpc_service", "envoy_grpc"]) else { return };
    // `outbound|50051||name`, as Istio calls its clusters.
    let sent = service.text_of("authority").unwrap_or(cluster);
    if sent.parse::<http::uri::Authority>().is_err() {
        let problem = format!("`{sent}` is sent as :authority, and is none");
        findings.add(&AUTHORITY, service.path_of("authority"), problem);
    }
}

fn http2(cluster: &At<'_>, findings: &mut Findings) {
    let options = http_options(cluster);
    let ways = [
        ["explicit_http_config", "http2_protocol_options"],
        ["use_downstream_protocol_config", "http2_protocol_options"],
    ];
    let of_options = options
        .as_ref()
        .and_then(|options| ways.iter().find_map(|way| options.at(way)).or_else(|| options.get("auto_config")));
    let Some(http2) = of_options.or_else(|| cluster.get("http2_protocol_options")) else {
        findings.add(&NOT_HTTP2, cluster.path(), "the router's cluster has no HTTP/2");
        return;
    };
    if let Some(streams) = http2.get("max_concurrent_streams")
        && streams.number().is_some_and(|streams| streams < 1000.0)
    {
        findings.add(&FEW_STREAMS, streams.path(), "few streams share a connection");
    }
    let local = endpoints(cluster).iter().all(|address| address.get("pipe").is_some());
    if !local && http2.get("connection_keepalive").is_none() {
        findings.add(&NO_KEEPALIVE, http2.path_of("connection_keepalive"), "nothing finds a router that vanished");
    }
    let common = options.and_then(|options| options.at(&["common_http_protocol_options", "max_stream_duration"]));
    if let Some(duration) = common.filter(|duration| duration.seconds().is_some_and(|seconds| seconds > 0.0)) {
        findings.add(&MAX_DURATION, duration.path(), "streams to the router have a longest duration");
    }
}

fn breakers(cluster: &At<'_>, findings: &mut Findings) {
    let low = low_breakers(cluster, &["max_requests", "max_pending_requests"]);
    if !low.is_empty() {
        let problem = format!("{} of the router's cluster: 1024, the default, or less", low.join(" and "));
        findings.add(&BREAKERS, cluster.path_of("circuit_breakers"), problem);
    }
}

const TYPES: [&str; 5] = ["STATIC", "STRICT_DNS", "LOGICAL_DNS", "EDS", "ORIGINAL_DST"];

fn discovery(cluster: &At<'_>, findings: &mut Findings) {
    let kind = cluster.get("type").map_or(Some("STATIC"), |kind| kind.word(&TYPES));
    for address in endpoints(cluster) {
        if let (Some("STRICT_DNS" | "LOGICAL_DNS"), Some(pipe)) = (kind, address.get("pipe")) {
            findings.add(&PIPE_BY_DNS, pipe.path(), "a unix socket in a cluster that resolves DNS names");
        }
        let host = address.at(&["socket_address", "address"]);
        let is_name = host.as_ref().and_then(|host| host.text()).is_some_and(|host| host.parse::<IpAddr>().is_err());
        if let (Some("STATIC"), Some(host), true) = (kind, host, is_name) {
            findings.add(&NAME_STATIC, host.path(), "a DNS name in a STATIC cluster");
        }
    }
}

fn address(cluster: &At<'_>, listener: &OurListener, findings: &mut Findings) {
    for address in endpoints(cluster).iter().filter(|address| !leads_to(address, &listener.listen)) {
        let problem = format!("the router's config says server.listen: {}", listener.listen);
        findings.add(&ADDRESS, address.path(), problem);
    }
}

/// The TLS of a cluster.
fn tls_context<'a>(cluster: &At<'a>) -> Option<At<'a>> {
    let (kind, context) = cluster.at(&["transport_socket", "typed_config"])?.typed()?;
    kind.ends_with(".UpstreamTlsContext").then_some(context)
}

fn tls(cluster: &At<'_>, listener: &OurListener, findings: &mut Findings) {
    let path = cluster.path_of("transport_socket");
    match (&listener.tls, tls_context(cluster)) {
        (Some(_), None) => findings.add(&NO_TLS, path, "the router's config has server.tls, the cluster has no TLS"),
        (None, Some(_)) => {
            findings.add(&TLS_UNASKED, path, "the cluster has TLS, the router's config has no server.tls")
        }
        (Some(true), Some(context)) => {
            let common = context.get("common_tls_context");
            let fields = ["tls_certificates", "tls_certificate_sds_secret_configs"];
            let has_one = common.is_some_and(|common| fields.iter().any(|field| common.get(field).is_some()));
            if !has_one {
                findings.add(&NO_CLIENT_CERTIFICATE, context.path(), "Envoy has no certificate to show to the router");
            }
        }
        (Some(false), Some(_)) | (None, None) => {}
    }
}

fn unverified(cluster: &At<'_>, findings: &mut Findings) {
    let Some(context) = tls_context(cluster) else { return };
    let fields = ["validation_context", "validation_context_sds_secret_config", "combined_validation_context"];
    let common = context.get("common_tls_context");
    if !common.is_some_and(|common| fields.iter().any(|field| common.get(field).is_some())) {
        findings.add(&UNVERIFIED, context.path(), "Envoy takes any certificate for the router's");
    }
}
