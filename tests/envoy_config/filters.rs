//! Filters that are off in the chain and on by a route, as Envoy Gateway writes them, or the other way about.

use serde_json::{Value, json};

use super::faults::{http_filter, insert_filter};
use super::{OurTenancy, Ours, checked, findings, good, manager, ours, remove, routes};

const RBAC: &str = "rbac.v3.RBAC";

/// A config with this filter, which is off in the chain or on.
fn with_filter(at: usize, kind: &str, config: Value, disabled: bool) -> Value {
    let mut envoy = good();
    let mut filter = http_filter(kind, config);
    filter["disabled"] = json!(disabled);
    insert_filter(&mut envoy, at, filter);
    envoy
}

/// What a place, such as a route, says of it.
fn says(place: &mut Value, setting: Value) {
    if place.get("typed_per_filter_config").is_none() {
        place["typed_per_filter_config"] = json!({});
    }
    place["typed_per_filter_config"]["other"] = setting;
}

fn per_route(kind: &str, mut setting: Value) -> Value {
    setting["@type"] = json!(format!("type.googleapis.com/envoy.extensions.filters.http.{kind}PerRoute"));
    setting
}

fn filter_config(setting: Value) -> Value {
    let mut wrapper = setting;
    wrapper["@type"] = json!("type.googleapis.com/envoy.config.route.v3.FilterConfig");
    wrapper
}

#[test]
fn authentication_behind_the_filter_counts_where_requests_for_responses_meet_it() {
    let off = || with_filter(1, RBAC, json!({}), true);
    let on = || with_filter(1, RBAC, json!({}), false);
    let setting = || per_route(RBAC, json!({"rbac": {}}));
    let behind = ["authentication_after_filter"];
    assert_eq!(findings(&off()), Vec::<&str>::new());
    assert_eq!(findings(&on()), behind);

    let mut config = off();
    says(&mut routes(&mut config)[0], setting());
    assert_eq!(findings(&config), behind, "by its route");
    let mut config = off();
    says(&mut manager(&mut config)["route_config"]["virtual_hosts"][0], filter_config(json!({"config": setting()})));
    assert_eq!(findings(&config), behind, "by the virtual host");
    let mut config = off();
    says(&mut manager(&mut config)["route_config"], filter_config(json!({"config": {}})));
    assert_eq!(findings(&config), behind, "by the route configuration");
    // A route of GET alone, which conditions may lead to.
    let mut config = off();
    let mut reads = routes(&mut config)[0].clone();
    reads["match"]["headers"] =
        json!([{"name": ":method", "string_match": {"exact": "GET"}}, {"name": "x-tier", "present_match": true}]);
    says(&mut reads, setting());
    routes(&mut config).as_array_mut().unwrap().insert(0, reads);
    assert_eq!(findings(&config), behind, "by a route of some requests");

    let mut config = off();
    says(&mut routes(&mut config)[1], setting());
    assert_eq!(findings(&config), Vec::<&str>::new(), "on for chat completions alone");
    let mut config = on();
    says(&mut routes(&mut config)[0], filter_config(json!({"disabled": true})));
    assert_eq!(findings(&config), Vec::<&str>::new(), "off for responses");
    // Where nobody knows the routes, the chain decides.
    for (mut config, expected) in
        [(on(), &["authentication_after_filter", "routes_not_in_file"][..]), (off(), &["routes_not_in_file"])]
    {
        remove(manager(&mut config), "route_config");
        assert_eq!(findings(&config), expected);
    }
}

#[test]
fn what_a_route_sets_in_place_of_a_filters_settings_counts() {
    let buffer =
        |chain: u64, disabled| with_filter(0, "buffer.v3.Buffer", json!({"max_request_bytes": chain}), disabled);
    let setting = |bytes: u64| per_route("buffer.v3.Buffer", json!({"buffer": {"max_request_bytes": bytes}}));
    let (small, large) = (1 << 20, 1 << 30);
    for (chain, route, expected) in [(large, small, &["buffer_filter"][..]), (small, large, &[])] {
        let mut config = buffer(chain, true);
        says(&mut routes(&mut config)[0], setting(route));
        assert_eq!(findings(&config), expected);
    }
    let mut config = buffer(small, false);
    says(&mut routes(&mut config)[0], per_route("buffer.v3.Buffer", json!({"disabled": true})));
    assert_eq!(findings(&config), Vec::<&str>::new());

    let kind = "ext_proc.v3.ExternalProcessor";
    let mode = |mode: &str| json!({"processing_mode": {"response_body_mode": mode}});
    for (chain, route, expected) in
        [("NONE", "BUFFERED", "other_ext_proc_buffers"), ("BUFFERED", "NONE", "other_ext_proc")]
    {
        let mut config = with_filter(1, kind, mode(chain), true);
        let setting = per_route("ext_proc.v3.ExtProc", json!({"overrides": mode(route)}));
        says(&mut routes(&mut config)[0], setting);
        assert_eq!(findings(&config), [expected]);
    }
}

#[test]
fn a_filter_for_tenants_has_to_be_on_wherever_requests_for_responses_come() {
    let found = |config: &Value, tenancy: OurTenancy| -> Vec<_> {
        let findings = checked(config, &Ours { tenancy, ..ours() }).findings;
        findings.into_iter().map(|finding| finding.rule).collect()
    };
    let header = || OurTenancy::Header("x-tenant-id".to_owned());
    let lua = |script: &str, disabled: bool| {
        let mut config = with_filter(0, "lua.v3.Lua", json!({"inline_code": script}), disabled);
        remove(manager(&mut config), "early_header_mutation_extensions");
        config
    };
    let knows = "headers:remove('X-Tenant-Id')";
    let open = ["tenant_header_from_clients"];
    assert_eq!(found(&lua(knows, false), header()), Vec::<&str>::new());
    assert_eq!(found(&lua(knows, true), header()), open);
    let mut config = lua(knows, true);
    says(&mut routes(&mut config)[0], filter_config(json!({"config": {}})));
    assert_eq!(found(&config, header()), Vec::<&str>::new(), "on by the route");
    let mut config = lua(knows, false);
    says(&mut routes(&mut config)[0], filter_config(json!({"disabled": true})));
    assert_eq!(found(&config, header()), open, "off by the route");
    // The script is the route's.
    let mut config = lua("", true);
    says(&mut routes(&mut config)[0], per_route("lua.v3.Lua", json!({"source_code": {"inline_string": knows}})));
    assert_eq!(found(&config, header()), Vec::<&str>::new());
    // Some requests pass it by.
    let mut config = lua(knows, true);
    let mut some = routes(&mut config)[0].clone();
    some["match"]["headers"] = json!([{"name": "x-tier", "present_match": true}]);
    routes(&mut config).as_array_mut().unwrap().insert(0, some);
    says(&mut routes(&mut config)[1], filter_config(json!({"config": {}})));
    assert_eq!(found(&config, header()), open);

    let jwt = |disabled| with_filter(0, "jwt_authn.v3.JwtAuthentication", json!({}), disabled);
    assert_eq!(found(&jwt(true), OurTenancy::JwtClaim), ["tenant_jwt_not_verified"]);
    let mut config = jwt(true);
    says(&mut routes(&mut config)[0], filter_config(json!({"config": {}})));
    assert_eq!(found(&config, OurTenancy::JwtClaim), Vec::<&str>::new());
}
