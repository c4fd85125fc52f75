//! What `check --envoy` says that users will see, seen on a real Envoy.

use std::process::Command;

use serde_json::{Value, json};

use super::error_of;
use crate::envoy_config::{FALSE_WORDS, TRUE_WORDS, cluster, filter, findings, good, manager, remove, routes};
use crate::support::stack::http::{Reply, post, request, with_header};
use crate::support::stack::process::venv_program;
use crate::support::stack::upstream::Answer;
use crate::support::stack::{Hold, Stack, StackOptions, chat};

/// A stack whose Envoy has this fault, which the check must find; a model `m` answers.
async fn faulty(rule: &str, fault: fn(&mut Value)) -> Hold {
    faulty_on(rule, fault, false).await
}

async fn faulty_on(rule: &str, fault: fn(&mut Value), unix_socket: bool) -> Hold {
    let mut config = good();
    if !unix_socket {
        fault(&mut config);
        assert_eq!(findings(&config), [rule]);
    }
    let options = StackOptions { envoy: Some(Box::new(fault)), unix_socket, ..StackOptions::default() };
    let stack = Stack::start(options).await;
    assert_eq!(dumped(&stack).await, [rule]);
    stack.upstream.answer("m", |_| Answer::completion("Hello."));
    stack
}

/// What the check says of the Envoy's own dump.
async fn dumped(stack: &Stack) -> Vec<&'static str> {
    findings(&serde_json::from_str(&stack.envoy.config_dump().await).unwrap())
}

fn hello() -> Value {
    json!({"model": "m", "input": "Hi"})
}

/// Envoy's words when it is asked to validate a config with this fault.
fn refusal(rule: &str, fault: fn(&mut Value)) -> String {
    let mut config = good();
    fault(&mut config);
    assert_eq!(findings(&config), [rule]);
    validate(&config.to_string()).expect_err(rule)
}

/// Asks Envoy to validate a config, which is YAML, or JSON as YAML.
fn validate(config: &str) -> Result<(), String> {
    let arguments = ["--mode", "validate", "--disable-hot-restart", "--config-yaml"];
    let output = Command::new(venv_program("envoy")).args(arguments).arg(config).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

async fn status(reply: Reply) -> u16 {
    reply.status.as_u16()
}

#[tokio::test]
async fn what_envoy_refuses_to_start_with() {
    refusal("trailer_mode", |c| remove(&mut filter(c)["processing_mode"], "response_trailer_mode"));
    refusal("filter_after_router", |c| manager(c)["http_filters"].as_array_mut().unwrap().reverse());
    let name = refusal("name_in_static_cluster", |c| {
        cluster(c, 1)["type"] = json!("STATIC");
        let address = &mut cluster(c, 1)["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"];
        address["socket_address"]["address"] = json!("router.local");
    });
    assert!(name.contains("malformed IP address"), "{name}");
}

#[test]
fn envoy_reads_the_words_for_booleans_as_the_check_does() {
    // It is the one filter that may not be off.
    let name = "- name: envoy.filters.http.router\n";
    let template = include_str!("../../envoy/envoy.yaml");
    let with = |word: &str| validate(&template.replace(name, &format!("{name}            disabled: {word}\n")));
    for word in TRUE_WORDS {
        let refusal = with(word).expect_err(word);
        assert!(refusal.contains("cannot be disabled by default"), "{word}: {refusal}");
    }
    for word in FALSE_WORDS {
        assert_eq!(with(word), Ok(()), "{word}");
    }
    for word in ["oN", "\"on\"", "\"off\"", "1", "\" true\""] {
        let refusal = with(word).expect_err(word);
        assert!(refusal.contains("Unable to parse JSON as proto"), "{word}: {refusal}");
    }
}

#[tokio::test]
async fn other_body_modes_fail_every_request() {
    let stack = faulty("body_mode", |c| filter(c)["processing_mode"]["request_body_mode"] = json!("BUFFERED")).await;
    assert_eq!(status(stack.create(&hello()).await).await, 503);
    assert!(stack.upstream.received("m").is_empty());
}

#[tokio::test]
async fn a_filter_that_is_on_for_everything_answers_chat_completions_with_404() {
    let stack = faulty("filter_on_for_chat", |c| remove(&mut manager(c)["http_filters"][0], "disabled")).await;
    stack.created(&hello()).await;
    let chat = stack.send(post("/v1/chat/completions", &json!({"model": "m", "messages": []}))).await;
    error_of(chat, 404).await;
}

#[tokio::test]
async fn without_a_chat_route_every_create_is_404() {
    let only_models = |c: &mut Value| routes(c)[1]["match"] = json!({"safe_regex": {"regex": "/v1/models"}});
    let stack = faulty("chat_route_missing", only_models).await;
    assert_eq!(status(stack.create(&hello()).await).await, 404);
    assert!(stack.upstream.received("m").is_empty());
}

#[tokio::test]
async fn a_filter_that_is_never_on_lets_responses_through_untranslated() {
    let stack = faulty("filter_never_on", |c| remove(&mut routes(c)[0], "typed_per_filter_config")).await;
    stack.create(&hello()).await;
    assert_eq!(stack.upstream.received("m")[0].path, "/v1/responses");
}

#[tokio::test]
async fn forbidden_mutations_send_the_request_to_the_wrong_path() {
    let stack = faulty("mutation_rules", |c| filter(c)["mutation_rules"] = json!({"disallow_system": true})).await;
    stack.create(&hello()).await;
    assert_eq!(stack.upstream.received("m")[0].path, "/v1/responses");
}

#[tokio::test]
async fn authentication_behind_the_filter_does_not_guard_stored_responses() {
    let stack = faulty("authentication_after_filter", |c| {
        let policy = json!({"permissions": [{"any": true}], "principals": [{"header": {"name": "x-deny", "present_match": true}}]});
        let rbac = json!({
            "name": "rbac",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
                "rules": {"action": "DENY", "policies": {"denied": policy}},
            },
        });
        manager(c)["http_filters"].as_array_mut().unwrap().insert(1, rbac);
    })
    .await;
    let created = stack.created(&hello()).await;
    let denied = |mut request: crate::support::stack::http::Request| {
        request.headers_mut().insert("x-deny", "yes".parse().unwrap());
        request
    };
    let create = stack.send(denied(post("/v1/responses", &hello()))).await;
    assert_eq!(status(create).await, 403);
    let read = stack.send(denied(request("GET", &format!("/v1/responses/{}", super::id(&created))))).await;
    assert_eq!(status(read).await, 200);
}

#[tokio::test]
async fn authentication_that_the_route_switches_on_behind_the_filter_does_not_guard_stored_responses() {
    let stack = faulty("authentication_after_filter", |c| {
        let kind = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";
        let rbac = json!({"name": "rbac", "disabled": true, "typed_config": {"@type": kind}});
        manager(c)["http_filters"].as_array_mut().unwrap().insert(1, rbac);
        let good = json!({"header": {"name": "authorization", "string_match": {"exact": "Bearer good"}}});
        let policy = json!({"permissions": [{"any": true}], "principals": [good]});
        let rules = json!({"action": "ALLOW", "policies": {"good": policy}});
        let per_route = json!({"@type": format!("{kind}PerRoute"), "rbac": {"rules": rules}});
        // The route of the translated request has to have the settings as well.
        for route in routes(c).as_array_mut().unwrap() {
            let settings = route.as_object_mut().unwrap().entry("typed_per_filter_config").or_insert_with(|| json!({}));
            settings["rbac"] = per_route.clone();
        }
    })
    .await;
    let create = || post("/v1/responses", &hello());
    assert_eq!(status(stack.send(create()).await).await, 403);
    let created = stack.send(with_header(create(), "authorization", "Bearer good")).await.json().await;
    let read = stack.get(&format!("/v1/responses/{}", super::id(&created))).await;
    assert_eq!(status(read).await, 200);
}

#[tokio::test]
async fn a_route_timeout_ends_answers_that_take_longer() {
    let stack = faulty("route_timeout", |c| routes(c)[1]["route"]["timeout"] = json!("1s")).await;
    let mut turns = stack.upstream.play("slow");
    let slow = json!({"model": "slow", "input": "Hi"});
    let (reply, ()) = tokio::join!(stack.create(&slow), async {
        let live = turns.next().await.stream();
        live.chunk(&chat::text("Half")).await;
        live.closed().await;
    });
    assert_eq!(status(reply).await, 504);
}

#[tokio::test]
async fn a_socket_in_a_cluster_of_names_is_not_there() {
    let stack = faulty_on("socket_by_dns", |c| cluster(c, 1)["type"] = json!("STRICT_DNS"), true).await;
    assert_eq!(status(stack.create(&hello()).await).await, 503);
}

#[tokio::test]
async fn without_http2_every_request_fails() {
    let fault = |c: &mut Value| remove(cluster(c, 1), "typed_extension_protocol_options");
    let stack = faulty("router_not_http2", fault).await;
    assert_eq!(status(stack.create(&hello()).await).await, 503);
}

#[tokio::test]
async fn a_filter_that_fails_open_lets_the_backend_answer_for_us() {
    let stack = faulty("failure_mode_allow", |c| filter(c)["failure_mode_allow"] = json!(true)).await;
    stack.upstream.answer("/v1/responses/resp_1", |_| Answer::text(200, "text/plain", "the backend's"));
    stack.router.process.signal("KILL");
    stack.router.process.exited().await;
    assert_eq!(stack.get("/v1/responses/resp_1").await.bytes().await, "the backend's");
}

#[tokio::test]
async fn local_answers_that_are_disabled_fail() {
    let fault = |c: &mut Value| filter(c)["disable_immediate_response"] = json!(true);
    let stack = faulty("disable_immediate_response", fault).await;
    stack.created(&hello()).await;
    assert_eq!(status(stack.get("/v1/responses/resp_1").await).await, 503);
}

#[tokio::test]
async fn an_envoy_that_observes_sends_responses_to_the_backend() {
    let stack = faulty("observability_mode", |c| filter(c)["observability_mode"] = json!(true)).await;
    let reply = stack.create(&hello()).await;
    // Nothing is translated. What the client gets is whichever comes first: the router's refusal ends the exchange, or the
    // backend answers a request that it does not know in its own words.
    if reply.status == 200 {
        assert_eq!(reply.json().await, chat::completion("Hello."));
    } else {
        assert!(reply.status.is_server_error(), "{}", reply.status);
    }
    for received in stack.upstream.received("m") {
        assert_eq!((received.path.as_str(), received.json()), ("/v1/responses", hello()));
    }
}

#[tokio::test]
async fn a_mapper_of_statuses_takes_the_routers_errors_away() {
    let stack = faulty("local_reply_overwrites", |c| {
        let comparison = json!({"op": "GE", "value": {"default_value": 400, "runtime_key": "x"}});
        let mapper = json!({
            "filter": {"status_code_filter": {"comparison": comparison}},
            "body_format_override": {"json_format": {"error": {"message": "mapped"}}},
        });
        manager(c)["local_reply_config"]["mappers"].as_array_mut().unwrap().push(mapper);
    })
    .await;
    let body = stack.get("/v1/responses/resp_1").await.json().await;
    assert_eq!(body, json!({"error": {"message": "mapped"}}));
}

#[tokio::test]
async fn the_config_dump_of_a_good_envoy_is_good() {
    let stack = Stack::shared().await;
    let report =
        responses_router::envoy_config::check(stack.envoy.config_dump().await.as_bytes(), &crate::envoy_config::ours())
            .unwrap();
    assert_eq!((report.errors, report.warnings), (0, 0), "{report}");
}

#[tokio::test]
async fn a_clusters_name_that_is_no_authority_fails_every_request() {
    let stack = faulty("router_authority", |c| {
        let name = json!("outbound|50051||responses-router");
        filter(c)["grpc_service"]["envoy_grpc"]["cluster_name"] = name.clone();
        cluster(c, 1)["name"] = name;
    })
    .await;
    assert_eq!(status(stack.create(&hello()).await).await, 503);
}
