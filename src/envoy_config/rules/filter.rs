//! The ext_proc filter itself, and what a route sets in its place.

use regex::Regex;

use super::super::Ours;
use super::super::finding::{Findings, Rule, Severity};
use super::super::model::{EnvoyConfig, Filter};
use super::super::node::At;

const MISSING: Rule = Rule {
    name: "filter_missing",
    severity: Severity::Error,
    users_see: "POST /v1/responses goes to the chat backend as it is, which mostly answers 404",
    fix: "put the filter of envoy/filter-stanza.yaml into http_filters, before envoy.filters.http.router",
};

const BODY_MODE: Rule = Rule {
    name: "body_mode",
    severity: Severity::Error,
    users_see: "every request fails with 503 (or 500): the router refuses the mode and its log names the right one",
    fix: "FULL_DUPLEX_STREAMED for request_body_mode and for response_body_mode",
};

const HEADER_MODE: Rule = Rule {
    name: "header_mode",
    severity: Severity::Error,
    users_see: "every request fails with 503 (or 500): the router decides path, status and type in the headers",
    fix: "SEND for request_header_mode and for response_header_mode",
};

const TRAILER_MODE: Rule = Rule {
    name: "trailer_mode",
    severity: Severity::Error,
    users_see: "Envoy refuses the config: it does not start, or keeps the config that it has",
    fix: "SEND for request_trailer_mode and for response_trailer_mode: the default is SKIP",
};

const FAILS_OPEN: Rule = Rule {
    name: "failure_mode_allow",
    severity: Severity::Error,
    users_see: "while the router is away, GET and DELETE go to the chat backend, whose answers pass for ours",
    fix: "failure_mode_allow: false",
};

const OBSERVES: Rule = Rule {
    name: "observability_mode",
    severity: Severity::Error,
    users_see: "Envoy ignores what the router replies: the backend gets the Responses body, and mostly answers 404",
    fix: "remove observability_mode",
};

const HTTP_SERVICE: Rule = Rule {
    name: "not_grpc",
    severity: Severity::Error,
    users_see: "every request fails: the router speaks gRPC only",
    fix: "grpc_service: {envoy_grpc: {cluster_name: …}}",
};

const NO_LOCAL_ANSWERS: Rule = Rule {
    name: "disable_immediate_response",
    severity: Severity::Error,
    users_see: "GET, DELETE and every error of the router become 503 (or 500) with an empty body",
    fix: "remove disable_immediate_response",
};

const MUTATIONS: Rule = Rule {
    name: "mutation_rules",
    severity: Severity::Error,
    users_see: "the request reaches the backend under /v1/responses (404 there), or answers keep the backend's status and type",
    fix: "let ext_proc change :path, :status, content-type and x-selected-model, or remove mutation_rules",
};

const STATUS_ON_ERROR: Rule = Rule {
    name: "status_on_error",
    severity: Severity::Warning,
    users_see: "500 while the router is away, which says that the request is at fault and which fewer clients retry than 503",
    fix: "status_on_error: {code: 503}",
};

const RESPONSE_ATTRIBUTES: Rule = Rule {
    name: "response_attributes",
    severity: Severity::Warning,
    users_see: "a backend that is down is reported in the backend's name, not as 503 upstream_unavailable",
    fix: "response_attributes: [response.code_details, response.flags]",
};

const MODE_OVERRIDE: Rule = Rule {
    name: "allow_mode_override",
    severity: Severity::Info,
    users_see: "nothing: Envoy ignores overrides in these modes, and the router asks for none",
    fix: "remove allow_mode_override",
};

const MESSAGE_TIMEOUT: Rule = Rule {
    name: "message_timeout",
    severity: Severity::Info,
    users_see: "nothing: Envoy has no message timer in these modes; the router's limits and stream_idle_timeout hold",
    fix: "remove message_timeout, or keep it for filters in other modes",
};

const ROUTE_CACHE: Rule = Rule {
    name: "route_cache_action",
    severity: Severity::Warning,
    users_see: "translated requests stay on the route of /v1/responses: no choice of a cluster by x-selected-model",
    fix: "remove route_cache_action, or set upstream.clear_route_cache: false in the router's config if that is meant",
};

const CONTENT_LENGTH: Rule = Rule {
    name: "allow_content_length_header",
    severity: Severity::Warning,
    users_see: "bodies may be cut to the length that they had before the translation, or wait for bytes that never come",
    fix: "remove allow_content_length_header: Envoy then takes the length away itself",
};

const FORWARD_RULES: Rule = Rule {
    name: "forward_rules",
    severity: Severity::Warning,
    users_see: "what the router does not see it cannot read: compressed bodies, WebSocket handshakes, trace ids",
    fix: "remove forward_rules, so that the router gets every header",
};

/// No chain has an ext_proc filter.
pub(in super::super) fn missing(config: &EnvoyConfig<'_>, findings: &mut Findings) {
    for manager in &config.managers {
        findings.add(&MISSING, manager.at.path_of("http_filters"), "no ext_proc filter is in the chain");
    }
}

/// All rules of the filter.
pub(in super::super) fn check(filter: &Filter<'_>, ours: &Ours, findings: &mut Findings) {
    let config = &filter.config;
    match config.get("processing_mode") {
        Some(modes) => processing_mode(&modes, findings),
        None => no_processing_mode(&config.path_of("processing_mode"), findings),
    }
    failure_mode_allow(config, findings);
    observability_mode(config, findings);
    grpc(config, findings);
    immediate_responses(config, findings);
    mutation_rules(config, findings);
    status_on_error(config, findings);
    response_attributes(config, findings);
    without_effect(config, findings);
    route_cache(config, ours, findings);
    content_length(config, findings);
    forward_rules(config, findings);
}

/// What a route sets in the filter's place (`ExtProcOverrides`).
pub(super) fn overrides(overrides: &At<'_>, findings: &mut Findings) {
    // It takes the place of all modes, not of those alone that it names.
    if let Some(modes) = overrides.get("processing_mode") {
        processing_mode(&modes, findings);
    }
    failure_mode_allow(overrides, findings);
    if overrides.get("response_attributes").is_some() {
        response_attributes(overrides, findings);
    }
}

const BODY_MODES: [&str; 6] = ["NONE", "STREAMED", "BUFFERED", "BUFFERED_PARTIAL", "FULL_DUPLEX_STREAMED", "GRPC"];
const HEADER_MODES: [&str; 3] = ["DEFAULT", "SEND", "SKIP"];

fn processing_mode(modes: &At<'_>, findings: &mut Findings) {
    let mode = |field: &str, names: &[&'static str], default| {
        modes.get(field).map_or(default, |mode| mode.word(names).unwrap_or("an unknown mode"))
    };
    for field in ["request_body_mode", "response_body_mode"] {
        let is = mode(field, &BODY_MODES, "NONE");
        if is != "FULL_DUPLEX_STREAMED" {
            findings.add(&BODY_MODE, modes.path_of(field), format!("{field} is {is}"));
        }
    }
    for field in ["request_header_mode", "response_header_mode"] {
        let is = mode(field, &HEADER_MODES, "DEFAULT");
        // For headers the default is to send.
        if !matches!(is, "SEND" | "DEFAULT") {
            findings.add(&HEADER_MODE, modes.path_of(field), format!("{field} is {is}"));
        }
    }
    for field in ["request_trailer_mode", "response_trailer_mode"] {
        let is = mode(field, &HEADER_MODES, "DEFAULT");
        if is != "SEND" {
            findings.add(&TRAILER_MODE, modes.path_of(field), format!("{field} is {is}"));
        }
    }
}

fn no_processing_mode(path: &str, findings: &mut Findings) {
    findings.add(&BODY_MODE, path, "no processing_mode is set, so bodies are not sent to the router");
}

fn failure_mode_allow(config: &At<'_>, findings: &mut Findings) {
    if config.is_true("failure_mode_allow") {
        findings.add(&FAILS_OPEN, config.path_of("failure_mode_allow"), "the filter fails open");
    }
}

fn observability_mode(config: &At<'_>, findings: &mut Findings) {
    if config.is_true("observability_mode") {
        findings.add(&OBSERVES, config.path_of("observability_mode"), "the filter only observes");
    }
}

fn grpc(config: &At<'_>, findings: &mut Findings) {
    if config.get("http_service").is_some() {
        findings.add(&HTTP_SERVICE, config.path_of("http_service"), "the filter calls an HTTP service");
    } else if config.get("grpc_service").is_none() {
        findings.add(&HTTP_SERVICE, config.path_of("grpc_service"), "the filter has no grpc_service");
    }
}

fn immediate_responses(config: &At<'_>, findings: &mut Findings) {
    if config.is_true("disable_immediate_response") {
        let path = config.path_of("disable_immediate_response");
        findings.add(&NO_LOCAL_ANSWERS, path, "the router may not answer itself");
    }
}

/// What the router sets or removes.
const CHANGED: [&str; 6] =
    [":path", ":status", "content-type", "x-selected-model", "x-responses-lossy", "accept-encoding"];

fn mutation_rules(config: &At<'_>, findings: &mut Findings) {
    let Some(rules) = config.get("mutation_rules") else { return };
    let regex = |field: &str| {
        let regex = rules.get(field).and_then(|matcher| matcher.get("regex")?.text())?;
        Regex::new(&format!("^(?:{regex})$")).ok()
    };
    let (allowed, refused) = (regex("allow_expression"), regex("disallow_expression"));
    let (nothing, no_system) = (rules.is_true("disallow_all"), rules.is_true("disallow_system"));
    let blocked = |header: &&&str| {
        let is = |regex: &Option<Regex>| regex.as_ref().is_some_and(|regex| regex.is_match(header));
        // Envoy's order: what is refused, then what is allowed, then the switches.
        is(&refused) || (!is(&allowed) && (nothing || (no_system && header.starts_with(':'))))
    };
    let blocked: Vec<&str> = CHANGED.iter().filter(blocked).copied().collect();
    if !blocked.is_empty() {
        findings.add(&MUTATIONS, rules.path(), format!("the router may not change {}", blocked.join(", ")));
    }
}

fn status_on_error(config: &At<'_>, findings: &mut Findings) {
    let code = config.get("status_on_error").and_then(|status| status.get("code"));
    let is_503 = code.is_some_and(|code| code.number() == Some(503.0) || code.text() == Some("ServiceUnavailable"));
    if !is_503 {
        findings.add(&STATUS_ON_ERROR, config.path_of("status_on_error"), "status_on_error is not 503");
    }
}

fn response_attributes(config: &At<'_>, findings: &mut Findings) {
    let attributes = config.list("response_attributes");
    if !attributes.iter().any(|attribute| attribute.text() == Some("response.code_details")) {
        let problem = "response_attributes lacks response.code_details";
        findings.add(&RESPONSE_ATTRIBUTES, config.path_of("response_attributes"), problem);
    }
}

fn without_effect(config: &At<'_>, findings: &mut Findings) {
    if config.is_true("allow_mode_override") {
        findings.add(&MODE_OVERRIDE, config.path_of("allow_mode_override"), "allow_mode_override has no effect");
    }
    if let Some(timeout) = config.get("message_timeout") {
        findings.add(&MESSAGE_TIMEOUT, timeout.path(), "message_timeout has no effect");
    }
}

fn route_cache(config: &At<'_>, ours: &Ours, findings: &mut Findings) {
    let action = config.get("route_cache_action").and_then(|action| action.word(&["DEFAULT", "CLEAR", "RETAIN"]));
    if ours.clear_route_cache && (action == Some("RETAIN") || config.is_true("disable_clear_route_cache")) {
        findings.add(
            &ROUTE_CACHE,
            config.path_of("route_cache_action"),
            "the router may not have the route chosen again",
        );
    }
}

fn content_length(config: &At<'_>, findings: &mut Findings) {
    if config.is_true("allow_content_length_header") {
        findings.add(&CONTENT_LENGTH, config.path_of("allow_content_length_header"), "content-length is kept");
    }
}

fn forward_rules(config: &At<'_>, findings: &mut Findings) {
    if let Some(rules) = config.get("forward_rules") {
        findings.add(&FORWARD_RULES, rules.path(), "the router does not get every header");
    }
}
