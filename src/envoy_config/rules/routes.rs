//! The routes: that of `/v1/responses` switches the filter on, and translated requests find one to the chat backend.

use super::super::Ours;
use super::super::finding::{Findings, Rule, Severity};
use super::super::model::{EnvoyConfig, Filter, Host, Manager};
use super::super::node::At;
use super::super::routing::{Choice, Request, Switch, clusters_of, is_on, item_path, switch};
use super::{cluster, filter as filter_rules, low_breakers, manager as manager_rules};

const NOT_HERE: Rule = Rule {
    name: "routes_not_in_file",
    severity: Severity::Info,
    users_see: "nothing, when the routes are what they should be",
    fix: "check the whole config: a file with the routes, or what Envoy's admin page /config_dump shows",
};

const NEVER_ON: Rule = Rule {
    name: "filter_never_on",
    severity: Severity::Error,
    users_see: "POST /v1/responses goes to the chat backend as it is, which mostly answers 404",
    fix: "typed_per_filter_config with ExtProcPerRoute {overrides: {}} on the route of /v1/responses, under the filter's name",
};

const OFF: Rule = Rule {
    name: "filter_off_for_responses",
    severity: Severity::Error,
    users_see: "these requests go to the chat backend as they are, which mostly answers 404",
    fix: "put the route that switches the filter on before every other that matches /v1/responses",
};

const NO_RESPONSES_ROUTE: Rule = Rule {
    name: "responses_route_missing",
    severity: Severity::Error,
    users_see: "404 from Envoy",
    fix: "a route with match: {path_separated_prefix: /v1/responses} (after response_api.path_prefix, if there is one)",
};

const WRONG_NAME: Rule = Rule {
    name: "route_names_no_filter",
    severity: Severity::Error,
    users_see: "the route's settings do not reach the filter",
    fix: "the name of the filter in http_filters as the key in typed_per_filter_config",
};

const WIDE_PREFIX: Rule = Rule {
    name: "responses_route_prefix",
    severity: Severity::Info,
    users_see: "404 for paths such as /v1/responsesX, which are the router's to answer then",
    fix: "path_separated_prefix in place of prefix",
};

const ON_FOR_CHAT: Rule = Rule {
    name: "filter_on_for_chat",
    severity: Severity::Error,
    users_see: "404 for chat completions (and whatever else this route matches): the router answers the Responses API alone",
    fix: "disabled: true on the filter in http_filters, and switch it on for the route of /v1/responses alone",
};

const NO_CHAT_ROUTE: Rule = Rule {
    name: "chat_route_missing",
    severity: Severity::Error,
    users_see: "404 for every POST /v1/responses: Envoy finds no route for the translated request",
    fix: "a route for upstream.chat_path to the chat backend, or upstream.clear_route_cache: false",
};

const CHAT_ROUTE_PERHAPS: Rule = Rule {
    name: "chat_route_conditional",
    severity: Severity::Info,
    users_see: "404 for POST /v1/responses with a model (x-selected-model) that no route is for",
    fix: "a last route for upstream.chat_path without conditions, if other models are to be served",
};

const NO_UPSTREAM: Rule = Rule {
    name: "route_without_upstream",
    severity: Severity::Error,
    users_see: "Envoy's own redirect or fixed answer in place of a response",
    fix: "route: {cluster: …} to the chat backend",
};

const TIMEOUT: Rule = Rule {
    name: "route_timeout",
    severity: Severity::Error,
    users_see: "504, or a stream that is cut in the middle, for every answer that takes longer than the timeout",
    fix: "timeout: 0s; stream_idle_timeout and the router's limits.exchange_seconds are the bounds",
};

const LONG_TIMEOUT: Rule = Rule {
    name: "route_timeout_finite",
    severity: Severity::Warning,
    users_see: "504, or a stream that is cut in the middle, for answers that take longer than the timeout",
    fix: "timeout: 0s; stream_idle_timeout and the router's limits.exchange_seconds are the bounds",
};

const IDLE_TIMEOUT: Rule = Rule {
    name: "stream_idle_timeout",
    severity: Severity::Warning,
    users_see: "504 for unstreamed answers whose model is silent for longer; SDKs wait 600 s",
    fix: "stream_idle_timeout: 900s in the connection manager (the default is 300s), or idle_timeout on both routes",
};

const NO_IDLE_TIMEOUT: Rule = Rule {
    name: "stream_idle_timeout_off",
    severity: Severity::Info,
    users_see: "nothing; streams whose client vanished stay open until the router's limits end them",
    fix: "a stream_idle_timeout above the 600 s that SDKs wait",
};

const RETRIES: Rule = Rule {
    name: "retry_policy",
    severity: Severity::Warning,
    users_see: "a model may run twice for one request, and be billed twice",
    fix: "retry_on: connect-failure,refused-stream,reset-before-request, which repeat nothing that was begun",
};

const HEDGING: Rule = Rule {
    name: "hedge_policy",
    severity: Severity::Warning,
    users_see: "a model may run twice for one request, and be billed twice",
    fix: "no hedge_policy on routes to models",
};

const WEBSOCKET: Rule = Rule {
    name: "websocket_upgrade",
    severity: Severity::Info,
    users_see: "an empty 403 for WebSocket handshakes in place of the router's 426, by which clients turn to HTTP",
    fix: "upgrade_configs: [{upgrade_type: websocket}] on the route of /v1/responses",
};

const BREAKERS: Rule = Rule {
    name: "upstream_circuit_breakers",
    severity: Severity::Warning,
    users_see: "503 for the 1025th live answer at a time",
    fix: "circuit_breakers: {thresholds: [{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}]}",
};

/// Seconds that the OpenAI SDKs wait for an answer.
const SDK_PATIENCE: f64 = 600.0;
/// Seconds that Envoy gives a route that says nothing.
const DEFAULT_TIMEOUT: f64 = 15.0;
/// Seconds of silence that Envoy allows where nothing is said.
const DEFAULT_IDLE: f64 = 300.0;

/// What the rules look at.
#[derive(Clone, Copy)]
struct Scene<'s, 'a> {
    manager: &'s Manager<'a>,
    filter: &'s Filter<'a>,
    config: &'s EnvoyConfig<'a>,
    ours: &'s Ours,
}

/// All rules of the routes.
pub(in super::super) fn check(
    manager: &Manager<'_>,
    filter: &Filter<'_>,
    config: &EnvoyConfig<'_>,
    ours: &Ours,
    findings: &mut Findings,
) {
    if manager.hosts.is_empty() {
        findings.add(
            &NOT_HERE,
            manager.at.path_of("route_config"),
            "the routes are not in the file, so they were not checked",
        );
        return;
    }
    let scene = Scene { manager, filter, config, ours };
    names(scene, findings);
    let uses = |host: &&Host<'_>| host.routes.iter().any(|route| is_on(route, host, filter));
    let hosts: Vec<_> = manager.hosts.iter().filter(uses).collect();
    if hosts.is_empty() {
        findings.add(&NEVER_ON, filter.at.path(), "the filter is off, and no route switches it on");
    }
    for host in hosts {
        responses_route(scene, host, findings);
        chat_route(scene, host, findings);
    }
}

/// Settings of an ext_proc filter under a name that no filter has.
fn names(scene: Scene<'_, '_>, findings: &mut Findings) {
    let known = |name: &str| scene.manager.filters.iter().any(|filter| filter.name == name);
    for host in &scene.manager.hosts {
        for place in host.routes.iter().chain([&host.at]).chain(&host.around) {
            let settings = place.get("typed_per_filter_config");
            for (name, setting) in settings.iter().flat_map(At::members) {
                let ours = setting.kind().is_some_and(|kind| kind.ends_with(".ExtProcPerRoute"));
                if ours && !known(name) && !scene.manager.pieces {
                    findings.add(&WRONG_NAME, setting.path(), format!("no filter of the chain is called `{name}`"));
                }
            }
        }
    }
}

fn responses_route(scene: Scene<'_, '_>, host: &Host<'_>, findings: &mut Findings) {
    let Scene { filter, ours, .. } = scene;
    for request in Request::all(&ours.responses_path, &item_path(&ours.responses_path)) {
        let Request { method, path } = request;
        let choice = Choice::of(host, request);
        let Some(route) = choice.first() else {
            findings.add(&NO_RESPONSES_ROUTE, host.at.path_of("routes"), format!("no route matches {method} {path}"));
            continue;
        };
        if !is_on(route, host, filter) {
            let problem = format!("the filter is off on the first route that matches {method} {path}");
            findings.add(&OFF, route.path(), problem);
            continue;
        }
        if let Switch::On(Some(settings)) = switch(route, host, filter)
            && let Some(overrides) = settings.get("overrides")
        {
            filter_rules::overrides(&overrides, findings);
        }
        wide_prefix(route, ours, findings);
        bounds(scene, route, findings);
        if method == "POST" {
            websocket(scene, route, findings);
            // It is the request's last route.
            if !ours.clear_route_cache {
                upstream(scene, route, findings);
            }
        }
    }
}

fn wide_prefix(route: &At<'_>, ours: &Ours, findings: &mut Findings) {
    if let Some(prefix) = route.at(&["match", "prefix"])
        && prefix.text() == Some(&ours.responses_path)
    {
        findings.add(&WIDE_PREFIX, prefix.path(), "the prefix matches longer words, too");
    }
}

fn chat_route(scene: Scene<'_, '_>, host: &Host<'_>, findings: &mut Findings) {
    let Scene { filter, ours, manager, .. } = scene;
    let request = Request { method: "POST", path: &ours.chat_path };
    let choice = Choice::of(host, request);
    // Where the pieces go, there is one already.
    if ours.clear_route_cache && !manager.pieces {
        let routes = host.at.path_of("routes");
        if choice.first().is_none() {
            findings.add(&NO_CHAT_ROUTE, routes, format!("no route matches POST {}", ours.chat_path));
        } else if choice.surely.is_none() {
            let problem = format!("every route for POST {} has conditions", ours.chat_path);
            findings.add(&CHAT_ROUTE_PERHAPS, routes, problem);
        }
    }
    for route in choice.all() {
        if is_on(route, host, filter) {
            let problem = format!("the filter is on for POST {}, which is not the router's", ours.chat_path);
            findings.add(&ON_FOR_CHAT, route.path(), problem);
        }
        if ours.clear_route_cache {
            bounds(scene, route, findings);
            upstream(scene, route, findings);
        }
    }
}

/// The bounds of time on a route.
fn bounds(scene: Scene<'_, '_>, route: &At<'_>, findings: &mut Findings) {
    let Some(action) = route.get("route") else { return };
    let timeout = action.get("timeout").map_or(Some(DEFAULT_TIMEOUT), |timeout| timeout.seconds()).unwrap_or(0.0);
    let path = action.path_of("timeout");
    if timeout > 0.0 && timeout < SDK_PATIENCE {
        let default = if action.get("timeout").is_none() { ", the default" } else { "" };
        findings.add(&TIMEOUT, path, format!("the route's timeout is {timeout} s{default}"));
    } else if timeout > 0.0 && timeout < scene.ours.exchange_seconds as f64 {
        findings.add(&LONG_TIMEOUT, path, format!("the route's timeout is {timeout} s"));
    }
    if let Some(duration) = action.at(&["max_stream_duration", "max_stream_duration"]) {
        manager_rules::max_stream_duration(&duration, findings);
    }
    // Of pieces nobody knows what they are put into.
    let of_manager = scene.manager.at.get("stream_idle_timeout");
    if scene.manager.pieces && of_manager.is_none() {
        return;
    }
    let (path, idle) = match (action.get("idle_timeout"), of_manager) {
        (Some(own), _) => (own.path().to_owned(), own.seconds()),
        (None, Some(around)) => (around.path().to_owned(), around.seconds()),
        (None, None) => (scene.manager.at.path_of("stream_idle_timeout"), Some(DEFAULT_IDLE)),
    };
    match idle {
        Some(idle) if idle <= 0.0 => findings.add(&NO_IDLE_TIMEOUT, path, "streams may be silent for ever"),
        Some(idle) if idle < SDK_PATIENCE => {
            findings.add(&IDLE_TIMEOUT, path, format!("streams may be silent for {idle} s only"));
        }
        _ => {}
    }
}

/// What a request meets on its way to the model.
fn upstream(scene: Scene<'_, '_>, route: &At<'_>, findings: &mut Findings) {
    if ["redirect", "direct_response"].iter().any(|action| route.get(action).is_some()) {
        findings.add(&NO_UPSTREAM, route.path(), "the route of translated requests leads to no cluster");
    }
    retries(route, findings);
    for name in clusters_of(route) {
        if scene.manager.pieces && scene.config.cluster(name).is_none() {
            continue;
        }
        let asked_by = route.path_of("route");
        let Some(cluster) = cluster(name, scene.config, &asked_by, findings) else { continue };
        let low = low_breakers(cluster, &["max_connections", "max_pending_requests", "max_requests"]);
        if !low.is_empty() {
            let problem = format!("{} of the backend's cluster: 1024, the default, or less", low.join(", "));
            findings.add(&BREAKERS, cluster.path_of("circuit_breakers"), problem);
        }
    }
}

fn retries(route: &At<'_>, findings: &mut Findings) {
    const REPEAT: [&str; 7] = [
        "5xx",
        "gateway-error",
        "reset",
        "retriable-status-codes",
        "retriable-headers",
        "retriable-4xx",
        "http3-post-connect-failure",
    ];
    let Some(action) = route.get("route") else { return };
    if let Some(policy) = action.get("retry_policy") {
        let never = policy.get("num_retries").and_then(|number| number.number()) == Some(0.0);
        let on = policy.text_of("retry_on").unwrap_or_default();
        let repeating: Vec<_> = on.split(',').map(str::trim).filter(|reason| REPEAT.contains(reason)).collect();
        if !never && !repeating.is_empty() {
            findings.add(&RETRIES, policy.path(), format!("requests are repeated on {}", repeating.join(", ")));
        }
    }
    if let Some(policy) = action.get("hedge_policy") {
        findings.add(&HEDGING, policy.path(), "requests are sent twice");
    }
}

fn websocket(scene: Scene<'_, '_>, route: &At<'_>, findings: &mut Findings) {
    let upgrades = |at: Option<At<'_>>| {
        let configs = at.map(|at| at.list("upgrade_configs")).unwrap_or_default();
        configs
            .iter()
            .any(|config| config.text_of("upgrade_type").is_some_and(|kind| kind.eq_ignore_ascii_case("websocket")))
    };
    if !upgrades(route.get("route")) && !upgrades(Some(scene.manager.at.clone())) {
        findings.add(
            &WEBSOCKET,
            route.path_of("route.upgrade_configs"),
            "WebSocket handshakes do not reach the router",
        );
    }
}
