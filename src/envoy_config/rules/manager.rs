//! The connection manager around the filter: timeouts of its own, and the replies that Envoy itself makes.

use super::super::finding::{Findings, Rule, Severity};
use super::super::model::Manager;
use super::super::node::At;

const NO_ERROR_BODY: Rule = Rule {
    name: "local_reply_missing",
    severity: Severity::Warning,
    users_see: "an empty body with the 503 while the router is away: SDKs say that the answer is no JSON",
    fix: "local_reply_config with the mapper for ext_proc_error of envoy/filter-stanza.yaml",
};

const NO_RESET_BODY: Rule = Rule {
    name: "local_reply_of_resets_missing",
    severity: Severity::Info,
    users_see: "Envoy's plain text when the backend breaks off while the router holds its answer back",
    fix: "local_reply_config with the mapper for upstream_reset of envoy/filter-stanza.yaml",
};

const OVERWRITES: Rule = Rule {
    name: "local_reply_overwrites",
    severity: Severity::Warning,
    users_see: "the router's own errors lose their message, param and code: Envoy puts its body in their place",
    fix: "match the mapper on response.code_details.startsWith('ext_proc_error'), not on statuses alone",
};

const MAX_DURATION: Rule = Rule {
    name: "max_stream_duration",
    severity: Severity::Warning,
    users_see: "answers that take longer are cut in the middle, or are 408 or 504",
    fix: "remove max_stream_duration: limits.exchange_seconds of the router ends exchanges with response.failed",
};

const BUFFER_LIMIT: Rule = Rule {
    name: "per_connection_buffer_limit",
    severity: Severity::Info,
    users_see: "nothing: bodies in these modes are not buffered; each stream may hold that much more memory in Envoy",
    fix: "leave per_connection_buffer_limit_bytes at its default of 1 MiB",
};

/// All rules of the connection manager.
pub(in super::super) fn check(manager: &Manager<'_>, findings: &mut Findings) {
    let at = &manager.at;
    local_replies(at, findings);
    let options = at.get("common_http_protocol_options");
    if let Some(duration) = options.and_then(|options| options.get("max_stream_duration")) {
        max_stream_duration(&duration, findings);
    }
}

/// The limit of a listener.
pub(in super::super) fn listener(listener: &At<'_>, findings: &mut Findings) {
    const LARGE: f64 = 8.0 * 1024.0 * 1024.0;
    if let Some(limit) = listener.get("per_connection_buffer_limit_bytes")
        && limit.number().is_some_and(|bytes| bytes > LARGE)
    {
        findings.add(&BUFFER_LIMIT, limit.path(), "per_connection_buffer_limit_bytes is large");
    }
}

pub(super) fn max_stream_duration(duration: &At<'_>, findings: &mut Findings) {
    if duration.seconds().is_some_and(|seconds| seconds > 0.0) {
        findings.add(&MAX_DURATION, duration.path(), "streams may not take longer than max_stream_duration");
    }
}

fn local_replies(at: &At<'_>, findings: &mut Findings) {
    let config = at.get("local_reply_config");
    let mappers = config.as_ref().map(|config| config.list("mappers")).unwrap_or_default();
    let mentions = |words| mappers.iter().any(|mapper| mapper.node().mentions(words));
    // A format for all replies shapes these as well.
    let whole = config.as_ref().and_then(|config| config.get("body_format"));
    if whole.is_none() && !mentions("ext_proc_error") {
        let path = at.path_of("local_reply_config");
        findings.add(&NO_ERROR_BODY, path, "no mapper makes the body of Envoy's own error while the router is away");
    }
    if whole.is_none() && !mentions("upstream_reset") {
        let path = at.path_of("local_reply_config");
        findings.add(&NO_RESET_BODY, path, "no mapper makes the body of Envoy's error when the backend breaks off");
    }
    if let Some(whole) = whole {
        findings.add(
            &OVERWRITES,
            whole.path(),
            "body_format shapes every local reply, the router's own errors included",
        );
    }
    for mapper in &mappers {
        let rewrites = ["body", "body_format_override", "status_code"].iter().any(|field| mapper.get(field).is_some());
        let by_reason = mapper.get("filter").is_some_and(|filter| filter.node().mentions("code_details"));
        let by_flag = mapper.get("filter").is_some_and(|filter| filter.node().mentions("flag"));
        if rewrites && !by_reason && !by_flag {
            findings.add(&OVERWRITES, mapper.path(), "a mapper takes the router's own errors for Envoy's");
        }
    }
}
