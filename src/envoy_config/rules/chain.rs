//! The order of HTTP filters. Requests pass them from the first to the last, responses the other way.

use super::super::Ours;
use super::super::finding::{Findings, Rule, Severity};
use super::super::model::{Filter, Manager};
use super::super::node::At;
use super::super::routing::OurRoutes;

const AFTER_ROUTER: Rule = Rule {
    name: "filter_after_router",
    severity: Severity::Error,
    users_see: "Envoy refuses the config: the router filter has to be the last",
    fix: "put the ext_proc filter before envoy.filters.http.router",
};

const AUTH_AFTER: Rule = Rule {
    name: "authentication_after_filter",
    severity: Severity::Error,
    users_see: "the router answers GET and DELETE before anybody was asked who they are: stored responses are open to all",
    fix: "put filters that authenticate or authorise before the ext_proc filter",
};

const BUFFERS: Rule = Rule {
    name: "buffer_filter",
    severity: Severity::Warning,
    users_see: "larger requests get Envoy's plain 413 in place of the router's JSON error, and wait to be whole",
    fix: "disable the buffer filter for these routes, or raise its max_request_bytes above limits.max_request_bytes",
};

const COMPRESSED_EVENTS: Rule = Rule {
    name: "compressed_events",
    severity: Severity::Warning,
    users_see: "events of a stream wait in the compressor and arrive in bursts",
    fix: "take text/event-stream out of the compressor's content_type",
};

const OTHER_BUFFERS: Rule = Rule {
    name: "other_ext_proc_buffers",
    severity: Severity::Warning,
    users_see: "streams arrive in one piece at their end, and answers over Envoy's buffer limit (1 MiB) are 500",
    fix: "a streamed response_body_mode, or NONE, for the other processor on these routes",
};

const OTHER_EXT_PROC: Rule = Rule {
    name: "other_ext_proc",
    severity: Severity::Info,
    users_see: "nothing by itself: before this filter the other processor sees Responses, after it chat completions",
    fix: "make sure that the other processor expects what it sees at its place",
};

/// All rules of the order.
pub(in super::super) fn check(manager: &Manager<'_>, filter: &Filter<'_>, ours: &Ours, findings: &mut Findings) {
    let Some(ours_at) = manager.filters.iter().position(|other| other.at.path() == filter.at.path()) else { return };
    let routes = OurRoutes::of(manager, filter, &ours.responses_path);
    for (index, other) in manager.filters.iter().enumerate() {
        let before = index < ours_at;
        if index == ours_at {
            continue;
        }
        if other.kind.ends_with(".router.v3.Router") && before {
            findings.add(&AFTER_ROUTER, filter.at.path(), "the filter stands after the router filter");
        }
        // A filter may be off in the chain and on by the route: Envoy Gateway writes all of its own so.
        let met = routes.meet(other);
        if met.is_empty() {
            continue;
        }
        if !before {
            authentication(other, findings);
        }
        buffer(other, &met, ours, findings);
        if before {
            compressor(other, findings);
        }
        other_processor(other, &met, findings);
    }
}

fn authentication(other: &Filter<'_>, findings: &mut Findings) {
    const KINDS: [&str; 6] = ["jwt_authn", "ext_authz", "basic_auth", "api_key_auth", "oauth2", "rbac"];
    if let Some(kind) = KINDS.iter().find(|kind| other.kind.contains(&format!(".http.{kind}."))) {
        findings.add(&AUTH_AFTER, other.at.path(), format!("{kind} stands after the ext_proc filter"));
    }
}

fn buffer(other: &Filter<'_>, met: &[Option<At<'_>>], ours: &Ours, findings: &mut Findings) {
    if !other.kind.contains(".http.buffer.") {
        return;
    }
    let limit_of = |settings: &Option<At<'_>>| {
        let of_route = settings.as_ref().and_then(|settings| settings.get("buffer"));
        let limit = of_route.as_ref().unwrap_or(&other.config).get("max_request_bytes");
        limit.and_then(|bytes| bytes.number()).unwrap_or(0.0)
    };
    let limit = met.iter().map(limit_of).fold(f64::INFINITY, f64::min);
    if limit < ours.max_request_bytes as f64 {
        let problem = format!("a buffer filter takes requests of at most {limit} bytes");
        findings.add(&BUFFERS, other.at.path(), problem);
    }
}

fn compressor(other: &Filter<'_>, findings: &mut Findings) {
    let compresses = other.kind.ends_with(".compressor.v3.Compressor");
    if compresses && other.config.node().mentions("text/event-stream") {
        findings.add(&COMPRESSED_EVENTS, other.at.path(), "a compressor takes event streams");
    }
}

fn other_processor(other: &Filter<'_>, met: &[Option<At<'_>>], findings: &mut Findings) {
    if !other.is_ext_proc() {
        return;
    }
    const MODES: [&str; 4] = ["NONE", "STREAMED", "BUFFERED", "BUFFERED_PARTIAL"];
    let buffers = |settings: &Option<At<'_>>| {
        let of_route = settings.as_ref().and_then(|settings| settings.at(&["overrides", "processing_mode"]));
        let modes = of_route.or_else(|| other.config.get("processing_mode"));
        let mode = modes.and_then(|modes| modes.get("response_body_mode")?.word(&MODES));
        matches!(mode, Some("BUFFERED" | "BUFFERED_PARTIAL"))
    };
    let name = other.name;
    if met.iter().any(buffers) {
        findings.add(&OTHER_BUFFERS, other.at.path(), format!("the ext_proc filter `{name}` buffers answers"));
    } else {
        findings.add(&OTHER_EXT_PROC, other.at.path(), format!("the ext_proc filter `{name}` is in the chain, too"));
    }
}
