//! Spans as a collector gets them: whose children they are, what they tell, and what never.

use std::collections::BTreeSet;
use std::net::TcpListener;

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use serde_json::{Value, json};

use super::id;
use crate::support::stack::chat;
use crate::support::stack::collector::{Collector, attribute};
use crate::support::stack::http::{Connection, post, request, with_header};
use crate::support::stack::upstream::Answer;
use crate::support::stack::wait::{eventually, within};
use crate::support::stack::{Hold, Stack, StackOptions};

const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const SECOND_TRACE: u128 = 0x1af7_6519_16cd_43dd_8448_eb21_1c80_319c;
const SECOND_PARENT: &str = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

async fn traced(collector: &Collector, more: Value) -> Hold {
    let mut otlp = collector.settings();
    otlp.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    let settings = json!({"telemetry": {"otlp": otlp}, "server": {"admin_listen": "127.0.0.1:0"}});
    Stack::start(StackOptions { settings, ..StackOptions::default() }).await
}

/// The span of the exchange, and its children by name.
fn root(trace: &[Span]) -> (&Span, BTreeSet<&str>) {
    let (roots, children): (Vec<_>, Vec<_>) = trace.iter().partition(|span| span.kind() == SpanKind::Server);
    assert_eq!(roots.len(), 1, "{trace:#?}");
    for child in &children {
        assert_eq!(child.parent_span_id, roots[0].span_id);
        assert!(child.start_time_unix_nano >= roots[0].start_time_unix_nano);
        assert!(child.end_time_unix_nano >= child.start_time_unix_nano);
        assert!(child.end_time_unix_nano <= roots[0].end_time_unix_nano);
    }
    (roots[0], children.iter().map(|child| child.name.as_str()).collect())
}

async fn metric(stack: &Stack, sample: &str) -> u64 {
    let admin = stack.router.admin().await;
    let text = Connection::http1(admin).await.send(request("GET", "/metrics")).await.bytes().await;
    let text = String::from_utf8(text.to_vec()).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {sample} in\n{text}")).parse().unwrap()
}

#[tokio::test]
async fn a_clients_trace_is_continued_and_tells_all_but_contents() {
    let collector = Collector::start().await;
    let stack = traced(&collector, Value::Null).await;
    stack.upstream.answer("m-traced", |received| {
        if received.json()["stream"] == true {
            Answer::words("MARKER-OUTPUT in words")
        } else {
            let call = chat::call("call_MARKER", "MARKER_FUNCTION", "{\"x\": \"MARKER-ARGUMENT\"}");
            let message = json!({"role": "assistant", "content": "MARKER-OUTPUT", "tool_calls": [call]});
            Answer::json(200, &chat::completion_of(&message, "tool_calls"))
        }
    });
    let tool =
        json!({"type": "function", "name": "MARKER_FUNCTION", "parameters": {"type": "object", "properties": {}}});
    let first = post(
        "/v1/responses",
        &json!({
            "model": "m-traced", "input": "MARKER-INPUT", "instructions": "MARKER-INSTRUCTIONS", "tools": [tool],
            "metadata": {"MARKER": "MARKER-METADATA"}, "user": "MARKER-USER",
        }),
    );
    let first = with_header(with_header(first, "traceparent", PARENT), "tracestate", "vendor=MORE");
    let first = stack.send(with_header(first, "authorization", "Bearer MARKER-KEY")).await.json().await;

    let trace = collector.trace(TRACE).await;
    let (span, children) = root(&trace);
    assert_eq!(span.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    assert_eq!((span.name.as_str(), span.trace_state.as_str()), ("responses m-traced", "vendor=MORE"));
    assert_eq!(span.status.as_ref().unwrap().code(), StatusCode::Unset);
    for (key, value) in [
        ("gen_ai.operation.name", json!("responses")),
        ("gen_ai.provider.name", json!("openai")),
        ("openai.api.type", json!("responses")),
        ("gen_ai.request.model", json!("m-traced")),
        ("gen_ai.response.id", first["id"].clone()),
        ("gen_ai.conversation.id", first["id"].clone()),
        ("gen_ai.response.finish_reasons", json!(["tool_calls"])),
        ("gen_ai.usage.input_tokens", json!(7)),
        ("gen_ai.usage.output_tokens", json!(3)),
        ("http.response.status_code", json!(200)),
        ("responses_router.outcome", json!("completed")),
        ("error.type", Value::Null),
    ] {
        assert_eq!(attribute(&span.attributes, key), value, "{key}");
    }
    assert_eq!(children, ["store response", "translate request"].into());

    let output = json!({"type": "function_call_output", "call_id": "call_MARKER", "output": "MARKER-TOOL"});
    let second = json!({"model": "m-traced", "input": [output], "previous_response_id": id(&first), "stream": true});
    let second = with_header(post("/v1/responses", &second), "traceparent", SECOND_PARENT);
    let mut events = stack.send(second).await.events();
    let completed = events.skip_to("response.completed").await;
    let trace = collector.trace(SECOND_TRACE).await;
    let (span, children) = root(&trace);
    assert_eq!(attribute(&span.attributes, "gen_ai.conversation.id"), first["id"]);
    assert_eq!(attribute(&span.attributes, "gen_ai.response.id"), completed["response"]["id"]);
    assert_eq!(attribute(&span.attributes, "gen_ai.response.finish_reasons"), json!(["stop"]));
    assert_eq!(attribute(&span.attributes, "responses_router.chain.length"), json!(1));
    assert_eq!(span.events.iter().map(|event| event.name.as_str()).collect::<Vec<_>>(), ["first_token"]);
    assert_eq!(children, ["load history", "store response", "translate request"].into());

    // The upstream's parent is Envoy's to say, and this one does not trace.
    assert_eq!(stack.upstream.received("m-traced")[0].header("traceparent"), [PARENT]);
    let bytes = collector.bytes();
    let told = String::from_utf8_lossy(&bytes);
    assert!(!told.contains("MARKER"), "{told}");
    // Counted when the collector has answered, which is after it has them.
    eventually("seven spans are exported", async || {
        (metric(&stack, "responses_router_otlp_spans_exported_total").await >= 7).then_some(())
    })
    .await;
}

#[tokio::test]
async fn who_is_traced_is_said_by_the_parent_or_else_by_the_ratio() {
    let collector = Collector::start().await;
    let stack = traced(&collector, json!({"sample_ratio": 0})).await;
    stack.upstream.answer("m-sampled", |_| Answer::completion("hi"));
    let create = || post("/v1/responses", &json!({"model": "m-sampled", "input": "hi"}));
    stack.send(create()).await.json().await;
    stack.send(with_header(create(), "traceparent", &SECOND_PARENT[..PARENT.len() - 2])).await.json().await;
    stack
        .send(with_header(create(), "traceparent", "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"))
        .await
        .json()
        .await;
    stack.send(with_header(create(), "traceparent", PARENT)).await.json().await;
    collector.trace(TRACE).await;
    let traces: BTreeSet<_> = collector.spans(None).into_iter().map(|span| span.trace_id).collect();
    assert_eq!(traces, [TRACE.to_be_bytes().to_vec()].into());
    // The others are not on their way either: what is queued goes out when the router ends.
    stack.router.process.signal("TERM");
    stack.router.process.exited().await;
    let traces: BTreeSet<_> = collector.spans(None).into_iter().map(|span| span.trace_id).collect();
    assert_eq!(traces.len(), 1);
}

#[tokio::test]
async fn an_envoy_that_traces_is_the_parent_of_the_exchange_and_of_the_upstreams_span() {
    let collector = Collector::start().await;
    let port = collector.address.port();
    let envoy = move |config: &mut Value| {
        let tracing = json!({"random_sampling": {"value": 100}, "spawn_upstream_span": true, "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                "grpc_service": {"envoy_grpc": {"cluster_name": "collector"}, "timeout": "5s"},
                "service_name": "envoy",
            },
        }});
        let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
        config.pointer_mut(manager).unwrap()["tracing"] = tracing;
        let address = json!({"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}});
        config["static_resources"]["clusters"].as_array_mut().unwrap().push(json!({
            "name": "collector", "type": "STATIC",
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }},
            "load_assignment": {"cluster_name": "collector", "endpoints": [{"lb_endpoints": [{"endpoint": address}]}]},
        }));
    };
    let settings = json!({"telemetry": {"otlp": collector.settings()}});
    let stack = Stack::start(StackOptions { settings, envoy: Some(Box::new(envoy)), ..StackOptions::default() }).await;
    stack.upstream.answer("m-envoy-traces", |_| Answer::completion("hi"));
    stack.created(&json!({"model": "m-envoy-traces", "input": "hi"})).await;
    let (ours, parent) = eventually("Envoy's span and its child", async || {
        let spans = collector.spans(Some("responses-router"));
        let ours = spans.into_iter().find(|span| span.kind() == SpanKind::Server)?;
        let envoys = collector.spans(Some("envoy"));
        let parent = envoys.into_iter().find(|span| span.span_id == ours.parent_span_id)?;
        Some((ours, parent))
    })
    .await;
    assert_eq!(ours.trace_id, parent.trace_id);
    assert_eq!(parent.kind(), SpanKind::Client, "{parent:?}");
    // The upstream belongs to the same trace, under a span of Envoy's, not under ours.
    let told = stack.upstream.received("m-envoy-traces")[0].header("traceparent")[0].to_owned();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert!(told.contains(&hex(&ours.trace_id)) && !told.contains(&hex(&ours.span_id)), "{told}");
}

#[tokio::test]
async fn failures_are_errors_and_a_clients_mistakes_are_not() {
    let collector = Collector::start().await;
    let stack = traced(&collector, Value::Null).await;
    stack.upstream.answer("m-fails", |_| Answer::json(500, &json!({"error": {"message": "MARKER-REASON"}})));
    let failing = post("/v1/responses", &json!({"model": "m-fails", "input": "hi"}));
    assert_eq!(stack.send(with_header(failing, "traceparent", PARENT)).await.status, 500);
    let trace = collector.trace(TRACE).await;
    let (span, _) = root(&trace);
    assert_eq!(span.status.as_ref().unwrap().code(), StatusCode::Error);
    assert_eq!(attribute(&span.attributes, "responses_router.outcome"), json!("upstream_error"));
    assert_eq!(attribute(&span.attributes, "http.response.status_code"), json!(500));
    assert!(attribute(&span.attributes, "error.type").is_string());

    let mistaken = post("/v1/responses", &json!({"model": "m-fails", "input": 3}));
    assert_eq!(stack.send(with_header(mistaken, "traceparent", SECOND_PARENT)).await.status, 400);
    let trace = collector.trace(SECOND_TRACE).await;
    let (span, _) = root(&trace);
    assert_eq!(span.status.as_ref().unwrap().code(), StatusCode::Unset);
    assert!(attribute(&span.attributes, "error.type").is_string());
    assert!(!String::from_utf8_lossy(&collector.bytes()).contains("MARKER"));
}

#[tokio::test]
async fn a_collector_that_hangs_slows_and_fails_nothing_and_its_spans_are_counted() {
    // It accepts, by its backlog, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let settings = json!({
        "telemetry": {"otlp": {"endpoint": endpoint, "timeout_seconds": 1}}, "server": {"admin_listen": "127.0.0.1:0"},
    });
    let stack = Stack::start(StackOptions { settings, ..StackOptions::default() }).await;
    stack.upstream.answer("m-unexported", |_| Answer::completion("hi"));
    let failed = "responses_router_otlp_spans_dropped_total{reason=\"export_failed\"}";
    let mut served = 0;
    eventually("spans that were given up", async || {
        stack.created(&json!({"model": "m-unexported", "input": "hi"})).await;
        served += 1;
        (metric(&stack, failed).await > 0).then_some(())
    })
    .await;
    // More than the exporter has tried meanwhile: nobody waited for it.
    assert!(served > 10, "{served}");
    stack.router.process.signal("TERM");
    assert!(within("the end of the router", stack.router.process.exited()).await.success());
}

#[tokio::test]
async fn spans_that_are_queued_when_the_router_ends_are_exported() {
    let collector = Collector::start().await;
    let stack = traced(&collector, Value::Null).await;
    stack.upstream.answer("m-last", |_| Answer::completion("hi"));
    let last = with_header(post("/v1/responses", &json!({"model": "m-last", "input": "hi"})), "traceparent", PARENT);
    stack.send(last).await.json().await;
    stack.router.process.signal("TERM");
    assert!(stack.router.process.exited().await.success());
    assert!(collector.spans(None).iter().any(|span| span.name == "responses m-last"));
}
