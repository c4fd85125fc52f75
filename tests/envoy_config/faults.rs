//! A fault for each rule of `check --envoy`, made in envoy/envoy.yaml.

use serde_json::{Value, json};

use super::{cluster, filter, manager, remove, routes};

/// A fault: what finds it, where below the connection manager (or, with a leading `/`, below the root), and how it is made.
pub(super) type Fault = (&'static str, &'static str, fn(&mut Value));

pub(super) fn http_filter(kind: &str, mut config: Value) -> Value {
    config["@type"] = json!(format!("type.googleapis.com/envoy.extensions.filters.http.{kind}"));
    json!({"name": "other", "typed_config": config})
}

pub(super) fn insert_filter(config: &mut Value, at: usize, filter: Value) {
    manager(config)["http_filters"].as_array_mut().unwrap().insert(at, filter);
}

pub(super) const FAULTS: &[Fault] = &[
    ("filter_missing", "http_filters", |c| drop(manager(c)["http_filters"].as_array_mut().unwrap().remove(0))),
    ("body_mode", "http_filters[0].typed_config.processing_mode.request_body_mode", |c| {
        filter(c)["processing_mode"]["request_body_mode"] = json!("BUFFERED");
    }),
    ("body_mode", "http_filters[0].typed_config.processing_mode.response_body_mode", |c| {
        filter(c)["processing_mode"]["response_body_mode"] = json!(1);
    }),
    ("body_mode", "http_filters[0].typed_config.processing_mode", |c| remove(filter(c), "processing_mode")),
    (
        "body_mode",
        "route_config.virtual_hosts[0].routes[0].typed_per_filter_config[\"envoy.filters.http.ext_proc\"].overrides.processing_mode.request_body_mode",
        |c| {
            let mut modes = filter(c)["processing_mode"].clone();
            modes["request_body_mode"] = json!("NONE");
            routes(c)[0]["typed_per_filter_config"]["envoy.filters.http.ext_proc"]["overrides"] =
                json!({"processing_mode": modes});
        },
    ),
    ("header_mode", "http_filters[0].typed_config.processing_mode.response_header_mode", |c| {
        filter(c)["processing_mode"]["response_header_mode"] = json!("SKIP");
    }),
    ("trailer_mode", "http_filters[0].typed_config.processing_mode.response_trailer_mode", |c| {
        remove(&mut filter(c)["processing_mode"], "response_trailer_mode");
    }),
    ("failure_mode_allow", "http_filters[0].typed_config.failure_mode_allow", |c| {
        filter(c)["failure_mode_allow"] = json!(true);
    }),
    ("observability_mode", "http_filters[0].typed_config.observability_mode", |c| {
        filter(c)["observability_mode"] = json!(true);
    }),
    ("not_grpc", "http_filters[0].typed_config.grpc_service", |c| remove(filter(c), "grpc_service")),
    ("disable_immediate_response", "http_filters[0].typed_config.disable_immediate_response", |c| {
        filter(c)["disable_immediate_response"] = json!(true);
    }),
    ("mutation_rules", "http_filters[0].typed_config.mutation_rules", |c| {
        filter(c)["mutation_rules"] = json!({"disallow_system": true});
    }),
    ("mutation_rules", "http_filters[0].typed_config.mutation_rules", |c| {
        filter(c)["mutation_rules"] = json!({"disallow_expression": {"regex": "x-(selected|other).*"}});
    }),
    ("status_on_error", "http_filters[0].typed_config.status_on_error", |c| remove(filter(c), "status_on_error")),
    ("response_attributes", "http_filters[0].typed_config.response_attributes", |c| {
        filter(c)["response_attributes"] = json!(["response.flags"]);
    }),
    ("metadata_not_received", "http_filters[0].typed_config.metadata_options", |c| {
        remove(&mut filter(c)["metadata_options"], "receiving_namespaces");
    }),
    ("allow_mode_override", "http_filters[0].typed_config.allow_mode_override", |c| {
        filter(c)["allow_mode_override"] = json!(true);
    }),
    ("message_timeout", "http_filters[0].typed_config.message_timeout", |c| {
        filter(c)["message_timeout"] = json!("0.2s");
    }),
    ("route_cache_action", "http_filters[0].typed_config.route_cache_action", |c| {
        filter(c)["route_cache_action"] = json!("RETAIN");
    }),
    ("allow_content_length_header", "http_filters[0].typed_config.allow_content_length_header", |c| {
        filter(c)["allow_content_length_header"] = json!(true);
    }),
    ("forward_rules", "http_filters[0].typed_config.forward_rules", |c| {
        filter(c)["forward_rules"] = json!({"allowed_headers": {"patterns": [{"exact": "content-type"}]}});
    }),
    ("filter_after_router", "http_filters[1]", |c| manager(c)["http_filters"].as_array_mut().unwrap().reverse()),
    ("authentication_after_filter", "http_filters[1]", |c| {
        insert_filter(c, 1, http_filter("jwt_authn.v3.JwtAuthentication", json!({})));
    }),
    ("buffer_filter", "http_filters[0]", |c| {
        insert_filter(c, 0, http_filter("buffer.v3.Buffer", json!({"max_request_bytes": 1_048_576})));
    }),
    ("compressed_events", "http_filters[0]", |c| {
        let types = json!({"common_config": {"content_type": ["application/json", "text/event-stream"]}});
        insert_filter(c, 0, http_filter("compressor.v3.Compressor", json!({"response_direction_config": types})));
    }),
    ("other_ext_proc_buffers", "http_filters[1]", |c| {
        let modes = json!({"processing_mode": {"response_body_mode": "BUFFERED"}});
        insert_filter(c, 1, http_filter("ext_proc.v3.ExternalProcessor", modes));
    }),
    ("other_ext_proc", "http_filters[0]", |c| {
        insert_filter(c, 0, http_filter("ext_proc.v3.ExternalProcessor", json!({})));
    }),
    ("local_reply_missing", "local_reply_config", |c| {
        drop(manager(c)["local_reply_config"]["mappers"].as_array_mut().unwrap().remove(0));
    }),
    ("local_reply_of_resets_missing", "local_reply_config", |c| {
        drop(manager(c)["local_reply_config"]["mappers"].as_array_mut().unwrap().remove(1));
    }),
    ("local_reply_overwrites", "local_reply_config.mappers[2]", |c| {
        let comparison = json!({"op": "GE", "value": {"default_value": 400, "runtime_key": "x"}});
        let mapper = json!({
            "filter": {"status_code_filter": {"comparison": comparison}},
            "body_format_override": {"json_format": {"error": {"message": "%LOCAL_REPLY_BODY%"}}},
        });
        manager(c)["local_reply_config"]["mappers"].as_array_mut().unwrap().push(mapper);
    }),
    ("local_reply_overwrites", "local_reply_config.body_format", |c| {
        manager(c)["local_reply_config"]["body_format"] = json!({"text_format_source": {"inline_string": "no"}});
    }),
    ("max_stream_duration", "common_http_protocol_options.max_stream_duration", |c| {
        manager(c)["common_http_protocol_options"] = json!({"max_stream_duration": "60s"});
    }),
    (
        "max_stream_duration",
        "route_config.virtual_hosts[0].routes[1].route.max_stream_duration.max_stream_duration",
        |c| {
            routes(c)[1]["route"]["max_stream_duration"] = json!({"max_stream_duration": {"seconds": 60}});
        },
    ),
    ("per_connection_buffer_limit", "/static_resources.listeners[0].per_connection_buffer_limit_bytes", |c| {
        c["static_resources"]["listeners"][0]["per_connection_buffer_limit_bytes"] = json!(104_857_600);
    }),
    ("router_not_http2", "/static_resources.clusters[1]", |c| {
        remove(cluster(c, 1), "typed_extension_protocol_options");
    }),
    ("router_circuit_breakers", "/static_resources.clusters[1].circuit_breakers", |c| {
        remove(cluster(c, 1), "circuit_breakers");
    }),
    ("router_circuit_breakers", "/static_resources.clusters[1].circuit_breakers", |c| {
        cluster(c, 1)["circuit_breakers"]["thresholds"][0]["priority"] = json!("HIGH");
    }),
    (
        "router_max_concurrent_streams",
        "/static_resources.clusters[1].typed_extension_protocol_options[\"envoy.extensions.upstreams.http.v3.HttpProtocolOptions\"].explicit_http_config.http2_protocol_options.max_concurrent_streams",
        |c| {
            http2_options(c)["explicit_http_config"]["http2_protocol_options"]["max_concurrent_streams"] = json!(10);
        },
    ),
    (
        "router_keepalive",
        "/static_resources.clusters[1].typed_extension_protocol_options[\"envoy.extensions.upstreams.http.v3.HttpProtocolOptions\"].explicit_http_config.http2_protocol_options.connection_keepalive",
        |c| {
            http2_options(c)["explicit_http_config"]["http2_protocol_options"] = json!({});
        },
    ),
    (
        "router_max_stream_duration",
        "/static_resources.clusters[1].typed_extension_protocol_options[\"envoy.extensions.upstreams.http.v3.HttpProtocolOptions\"].common_http_protocol_options.max_stream_duration",
        |c| {
            http2_options(c)["common_http_protocol_options"] = json!({"max_stream_duration": "60s"});
        },
    ),
    (
        "socket_by_dns",
        "/static_resources.clusters[1].load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.pipe",
        |c| {
            address(c)["endpoint"]["address"] = json!({"pipe": {"path": "/run/r.sock"}});
        },
    ),
    (
        "name_in_static_cluster",
        "/static_resources.clusters[1].load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address",
        |c| {
            cluster(c, 1)["type"] = json!("STATIC");
            address(c)["endpoint"]["address"]["socket_address"]["address"] = json!("router.local");
        },
    ),
    ("router_tls_unverified", "/static_resources.clusters[1].transport_socket.typed_config", |c| {
        cluster(c, 1)["transport_socket"] = tls(json!({}));
    }),
    ("cluster_not_in_file", "http_filters[0].typed_config.grpc_service.envoy_grpc.cluster_name", |c| {
        cluster(c, 1)["name"] = json!("another");
    }),
    ("router_authority", "http_filters[0].typed_config.grpc_service.envoy_grpc.authority", |c| {
        let name = json!("outbound|50051||responses-router");
        filter(c)["grpc_service"]["envoy_grpc"]["cluster_name"] = name.clone();
        cluster(c, 1)["name"] = name;
    }),
    ("routes_not_in_file", "route_config", |c| remove(manager(c), "route_config")),
    ("filter_never_on", "http_filters[0]", |c| remove(&mut routes(c)[0], "typed_per_filter_config")),
    ("filter_off_for_responses", "route_config.virtual_hosts[0].routes[0]", |c| {
        let early = json!({"match": {"path": "/v1/responses"}, "route": {"cluster": "upstream", "timeout": "0s"}});
        routes(c).as_array_mut().unwrap().insert(0, early);
    }),
    ("filter_off_for_responses", "route_config.virtual_hosts[0].routes[1]", |c| {
        // Only creates: the items go to the catch-all.
        routes(c)[0]["match"] = json!({"path": "/v1/responses"});
    }),
    ("responses_route_missing", "route_config.virtual_hosts[0].routes", |c| {
        routes(c)[0]["match"] = json!({"path": "/v1/responses"});
        routes(c)[1]["match"] = json!({"safe_regex": {"regex": "/v1/(chat/completions|models)"}});
    }),
    ("route_names_no_filter", "route_config.virtual_hosts[0].routes[1].typed_per_filter_config.responses", |c| {
        routes(c)[1]["typed_per_filter_config"] = routes(c)[0]["typed_per_filter_config"].clone();
        let settings = routes(c)[1]["typed_per_filter_config"].as_object_mut().unwrap();
        let setting = settings.remove("envoy.filters.http.ext_proc").unwrap();
        settings.insert("responses".to_owned(), setting);
    }),
    ("responses_route_prefix", "route_config.virtual_hosts[0].routes[0].match.prefix", |c| {
        routes(c)[0]["match"] = json!({"prefix": "/v1/responses"});
    }),
    ("filter_on_for_chat", "route_config.virtual_hosts[0].routes[1]", |c| {
        remove(&mut manager(c)["http_filters"][0], "disabled");
    }),
    ("chat_route_missing", "route_config.virtual_hosts[0].routes", |c| {
        routes(c)[1]["match"] = json!({"safe_regex": {"regex": "/v1/models"}});
    }),
    ("chat_route_conditional", "route_config.virtual_hosts[0].routes", |c| {
        routes(c)[1]["match"]["headers"] = json!([{"name": "x-selected-model", "string_match": {"exact": "m"}}]);
    }),
    ("route_without_upstream", "route_config.virtual_hosts[0].routes[1]", |c| {
        remove(&mut routes(c)[1], "route");
        routes(c)[1]["redirect"] = json!({"https_redirect": true});
    }),
    ("route_timeout", "route_config.virtual_hosts[0].routes[0].route.timeout", |c| {
        remove(&mut routes(c)[0]["route"], "timeout");
    }),
    ("route_timeout", "route_config.virtual_hosts[0].routes[1].route.timeout", |c| {
        routes(c)[1]["route"]["timeout"] = json!("60s");
    }),
    ("route_timeout_finite", "route_config.virtual_hosts[0].routes[1].route.timeout", |c| {
        routes(c)[1]["route"]["timeout"] = json!("1200s");
    }),
    ("stream_idle_timeout", "stream_idle_timeout", |c| remove(manager(c), "stream_idle_timeout")),
    ("stream_idle_timeout", "route_config.virtual_hosts[0].routes[1].route.idle_timeout", |c| {
        routes(c)[1]["route"]["idle_timeout"] = json!("30s");
    }),
    ("stream_idle_timeout_off", "stream_idle_timeout", |c| manager(c)["stream_idle_timeout"] = json!("0s")),
    ("retry_policy", "route_config.virtual_hosts[0].routes[1].route.retry_policy", |c| {
        routes(c)[1]["route"]["retry_policy"] = json!({"retry_on": "connect-failure, 5xx"});
    }),
    ("hedge_policy", "route_config.virtual_hosts[0].routes[1].route.hedge_policy", |c| {
        routes(c)[1]["route"]["hedge_policy"] = json!({"hedge_on_per_try_timeout": true});
    }),
    ("websocket_upgrade", "route_config.virtual_hosts[0].routes[0].route.upgrade_configs", |c| {
        remove(&mut routes(c)[0]["route"], "upgrade_configs");
    }),
    ("upstream_circuit_breakers", "/static_resources.clusters[0].circuit_breakers", |c| {
        remove(cluster(c, 0), "circuit_breakers");
    }),
];

/// A fault that shows in the light of the router's config, which listens at this address, with TLS or without.
pub(super) type FaultForAConfig = (&'static str, &'static str, Option<bool>, fn(&mut Value));

pub(super) const FAULTS_FOR_A_CONFIG: &[FaultForAConfig] = &[
    ("router_address", "127.0.0.1:50052", None, |_| {}),
    ("router_address", "unix:/run/r.sock", None, |_| {}),
    ("router_tls_missing", "127.0.0.1:50051", Some(false), |_| {}),
    ("router_tls_unexpected", "127.0.0.1:50051", None, |c| {
        cluster(c, 1)["transport_socket"] = tls(json!({"validation_context": {}}));
    }),
    ("router_tls_client_certificate", "127.0.0.1:50051", Some(true), |c| {
        cluster(c, 1)["transport_socket"] = tls(json!({"validation_context": {}}));
    }),
];

fn http2_options(config: &mut Value) -> &mut Value {
    &mut cluster(config, 1)["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
}

fn address(config: &mut Value) -> &mut Value {
    &mut cluster(config, 1)["load_assignment"]["endpoints"][0]["lb_endpoints"][0]
}

fn tls(context: Value) -> Value {
    let kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    json!({"name": "envoy.transport_sockets.tls", "typed_config": {"@type": kind, "common_tls_context": context}})
}
