//! What operators see of the same exchange: Envoy's access log, the router's log and its metrics.

use std::collections::BTreeSet;

use responses_router::telemetry::metadata::Key;
use serde_json::{Value, json};

use super::{begin_answer, error_of, finish_stream, id};
use crate::support::stack::http::{post, request, with_header};
use crate::support::stack::router::Router;
use crate::support::stack::upstream::Answer;
use crate::support::stack::wait::eventually;
use crate::support::stack::{Stack, StackOptions, chat};

/// The line of Envoy's access log for the request with this id.
async fn access_line(stack: &Stack, request_id: &str) -> Value {
    stack
        .envoy
        .process
        .log_line(request_id, |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["request_id"] == request_id).then_some(line)
        })
        .await
}

/// What the router told Envoy of the request with this id.
async fn told(stack: &Stack, request_id: &str) -> Value {
    access_line(stack, request_id).await["responses"].clone()
}

/// The router's own line, in JSON, for the request with this id.
async fn router_line(stack: &Stack, request_id: &str) -> Value {
    stack
        .router
        .process
        .log_line(request_id, |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let fields = line["fields"].clone();
            let is_asked_for = fields["message"] == "exchange" && fields["request_id"] == request_id;
            // The span around it would say half of it again.
            assert!(!is_asked_for || line.get("span").is_none(), "{line}");
            is_asked_for.then_some(fields)
        })
        .await
}

async fn start() -> impl std::ops::Deref<Target = Stack> {
    start_with(json!({"metrics_models": ["told-json"]})).await
}

async fn start_with(mut telemetry: Value) -> impl std::ops::Deref<Target = Stack> {
    telemetry["log_format"] = json!("json");
    let settings = json!({"telemetry": telemetry, "server": {"admin_listen": "127.0.0.1:0"}});
    Stack::start(StackOptions { settings, ..StackOptions::default() }).await
}

fn numbers<'a>(of: &'a Value, keys: &[&str]) -> Vec<&'a Value> {
    keys.iter().map(|key| &of[key]).collect()
}

#[tokio::test]
async fn the_access_log_tells_what_the_router_knows_of_each_kind_of_exchange() {
    let keys: Vec<_> = Key::ALL.iter().map(|key| key.as_str()).collect();
    let stack = start_with(json!({"metrics_models": ["told-json"], "metadata_keys": keys})).await;

    stack.upstream.answer("told-json", |_| Answer::completion("Hello."));
    let first =
        with_header(post("/v1/responses", &json!({"model": "told-json", "input": "Hi"})), "x-request-id", "json-1");
    let first = stack.send(first).await.json().await;
    let told_first = told(&stack, "json-1").await;
    assert_eq!(told_first["response_id"], first["id"]);
    assert_eq!((&told_first["outcome"], &told_first["stored"]), (&json!("completed"), &json!("stored")));
    assert_eq!((&told_first["model"], &told_first["stream"]), (&json!("told-json"), &json!(false)));
    let tokens = ["input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "total_tokens"];
    assert_eq!(numbers(&told_first, &tokens), [7.0, 3.0, 0.0, 0.0, 10.0], "{told_first}");
    assert!(told_first["store_ms"].is_number() && told_first["ttft_ms"].is_null(), "{told_first}");

    stack.upstream.answer("told-sse", |_| Answer::words("Hello you there."));
    let body = json!({
        "model": "told-sse", "input": "Hi", "stream": true, "previous_response_id": id(&first),
        "tools": [{"type": "web_search"}],
    });
    let stream = with_header(post("/v1/responses", &body), "x-request-id", "sse-1");
    let (last, _) = finish_stream(stack.send(stream).await.events()).await;
    let told_stream = told(&stack, "sse-1").await;
    assert_eq!(told_stream["response_id"], last.data["response"]["id"]);
    assert_eq!(told_stream["previous_response_id"], first["id"]);
    assert_eq!(numbers(&told_stream, &["chain_length", "total_tokens"]), [1.0, 10.0], "{told_stream}");
    assert_eq!((&told_stream["outcome"], &told_stream["stream"]), (&json!("completed"), &json!(true)));
    assert_eq!(told_stream["lossy"], "tool_type=web_search");
    assert!(told_stream["ttft_ms"].is_number(), "{told_stream}");

    let path = format!("/v1/responses/{}", id(&first));
    let got = stack.send(with_header(request("GET", &path), "x-request-id", "get-1")).await;
    assert_eq!(got.status, 200);
    let line = access_line(&stack, "get-1").await;
    assert_eq!((&line["responses"]["route"], &line["responses"]["outcome"]), (&json!("retrieve"), &json!("answered")));
    assert_eq!((&line["responses"]["response_id"], &line["path"]), (&first["id"], &json!(path)));

    let refused = with_header(post("/v1/responses", &json!({"model": "m"})), "x-request-id", "bad-1");
    error_of(stack.send(refused).await, 400).await;
    let line = access_line(&stack, "bad-1").await;
    let refusal = &line["responses"];
    assert_eq!(
        (&refusal["outcome"], &refusal["error_code"]),
        (&json!("refused"), &json!("missing_required_parameter"))
    );
    assert_eq!(line["status"], 400);

    stack.upstream.answer("told-429", |_| Answer::json(429, &json!({"error": {"message": "Slow down."}})));
    let limited = post("/v1/responses", &json!({"model": "told-429", "input": "Hi"}));
    error_of(stack.send(with_header(limited, "x-request-id", "limited-1")).await, 429).await;
    let limited = told(&stack, "limited-1").await;
    assert_eq!((&limited["outcome"], &limited["upstream_error"]), (&json!("upstream_error"), &json!("rate_limited")));

    let other = with_header(post("/v1/chat/completions", &json!({"model": "told-json"})), "x-request-id", "chat-1");
    stack.send(other).await;
    assert_eq!(told(&stack, "chat-1").await, Value::Null);
}

#[tokio::test]
async fn by_default_the_access_log_has_what_envoy_does_not_know_itself() {
    let stack = start().await;
    stack.upstream.answer("told-usual", |_| Answer::completion("Hello."));
    let asked = post("/v1/responses", &json!({"model": "told-usual", "input": "Hi"}));
    let first = stack.send(with_header(asked, "x-request-id", "usual-1")).await.json().await;
    let line = access_line(&stack, "usual-1").await;
    let expected = json!({
        "response_id": first["id"], "outcome": "completed", "input_tokens": 7, "output_tokens": 3,
    });
    assert_eq!((&line["responses"], &line["model"]), (&expected, &json!("told-usual")));

    let body = json!({"model": "told-usual-sse", "input": "Hi", "previous_response_id": id(&first), "stream": true});
    stack.upstream.answer("told-usual-sse", |_| Answer::words("Hello you there."));
    finish_stream(stack.send(with_header(post("/v1/responses", &body), "x-request-id", "usual-2")).await.events())
        .await;
    let told = told(&stack, "usual-2").await;
    assert_eq!((&told["chain_length"], told["ttft_ms"].is_number()), (&json!(1), true), "{told}");
    assert_eq!(told.as_object().unwrap().len(), 6, "{told}");
}

#[tokio::test]
async fn a_client_that_leaves_in_mid_stream_is_told_of_in_both_logs_and_in_the_metrics() {
    let stack = start().await;
    let mut turns = stack.upstream.play("told-gone");
    let body = json!({"model": "told-gone", "input": "Hi", "stream": true});
    let mut connection = stack.connect().await;
    let asked = with_header(post("/v1/responses", &body), "x-request-id", "gone-1");
    let (reply, live) = tokio::join!(connection.send(asked), begin_answer(&mut turns));
    let mut events = reply.events();
    let created = events.expect("response.created").await;
    live.chunk(&chat::text("Some")).await;
    events.skip_to("response.output_text.delta").await;
    drop((events, connection));

    // Envoy has only what was known when the request went up: a client that is gone is nobody's to be told.
    let told = told(&stack, "gone-1").await;
    assert_eq!(told, json!({"response_id": created["response"]["id"]}));
    let line = router_line(&stack, "gone-1").await;
    assert_eq!((&line["outcome"], &line["stored"]), (&json!("client_gone"), &json!("in_background")));
    let terminal = "responses_router_stream_terminal_total{outcome=\"client_gone\"}";
    let metrics = stack.router.told("/metrics").await;
    assert!(metrics.lines().any(|line| line == format!("{terminal} 1")), "{metrics}");
    assert!(metrics.lines().any(|line| line == "responses_router_exchanges_live 0"), "{metrics}");
}

#[tokio::test]
async fn the_log_has_one_line_per_exchange_and_nothing_of_its_contents() {
    const MARKERS: [&str; 8] = [
        "MARKER-input",
        "MARKER-instructions",
        "MARKER-output",
        "MARKER-tool",
        "MARKER-argument",
        "MARKER-key",
        "MARKER-metadata",
        "MARKER-error",
    ];
    for level in ["info", "debug"] {
        let settings = json!({"telemetry": {"log_level": level}});
        let stack = Stack::start(StackOptions { settings, ..StackOptions::default() }).await;
        stack.upstream.answer("told-markers", |received| {
            if received.json()["temperature"] == json!(0.5) {
                return Answer::json(500, &json!({"error": {"message": "MARKER-error"}}));
            }
            let message = json!({
                "role": "assistant", "content": "MARKER-output",
                "tool_calls": [chat::call("call_1", "MARKER-tool", "{\"a\": \"MARKER-argument\"}")],
            });
            Answer::json(200, &chat::completion_of(&message, "tool_calls"))
        });
        let body = json!({
            "model": "told-markers", "input": "MARKER-input", "instructions": "MARKER-instructions",
            "metadata": {"a": "MARKER-metadata"},
            "tools": [{"type": "function", "name": "MARKER-tool", "parameters": {"type": "object", "title": "MARKER-tool"}}],
        });
        let with_key = |body: &Value| with_header(post("/v1/responses", body), "authorization", "Bearer MARKER-key");
        let whole = stack.send(with_key(&body)).await.json().await;
        let mut streamed = body.clone();
        streamed["stream"] = json!(true);
        stack.send(with_key(&streamed)).await.bytes().await;
        let mut failing = body.clone();
        failing["temperature"] = json!(0.5);
        error_of(stack.send(with_key(&failing)).await, 500).await;
        let mut wrong = body.clone();
        wrong["input"] =
            json!([{"type": "function_call_output", "call_id": "MARKER-argument", "output": "MARKER-input"}]);
        error_of(stack.send(with_key(&wrong)).await, 400).await;
        assert_eq!(stack.retrieve(id(&whole)).await.status, 200);

        let lines = eventually("five lines", async || {
            let log = stack.router.process.log();
            let lines: Vec<String> = log.iter().filter(|line| line.contains(" exchange ")).cloned().collect();
            (lines.len() >= 5).then_some(lines)
        })
        .await;
        assert_eq!(lines.len(), 5, "{lines:#?}");
        let outcomes = ["completed", "completed", "upstream_error", "refused", "answered"];
        for (line, outcome) in lines.iter().zip(outcomes) {
            assert!(line.contains(&format!("outcome=\"{outcome}\"")), "{line}");
        }
        for line in stack.router.process.log() {
            for marker in MARKERS {
                assert!(!line.contains(marker), "{line}");
            }
            assert!(!line.contains(id(&whole)), "a whole id: {line}");
        }
        assert!(lines[0].contains(&id(&whole)[..13]), "{}", lines[0]);
    }
}

#[tokio::test]
async fn the_log_shows_whole_ids_when_it_is_told_to() {
    let settings = json!({"telemetry": {"log_ids": "full", "log_format": "json"}});
    let stack = Stack::start(StackOptions { settings, ..StackOptions::default() }).await;
    stack.upstream.answer("told-full", |_| Answer::completion("Hello."));
    let asked = post("/v1/responses", &json!({"model": "told-full", "input": "Hi"}));
    let response = stack.send(with_header(asked, "x-request-id", "full-1")).await.json().await;
    assert_eq!(router_line(&stack, "full-1").await["response_id"], response["id"]);
}

/// The names in the first column of a chapter's table.
fn documented(text: &str, heading: &str) -> BTreeSet<String> {
    let chapter = text.split(&format!("\n## {heading}\n")).nth(1).unwrap_or_else(|| panic!("no {heading}"));
    let chapter = chapter.split("\n## ").next().unwrap();
    let rows = chapter.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    rows.map(|(name, _)| name.to_owned()).collect()
}

/// The names that `/metrics` prints, with the suffixes that their values have.
fn printed(metrics: &str) -> BTreeSet<String> {
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let full = types.map(|(name, kind)| match kind {
        "counter" => format!("{name}_total"),
        "info" => format!("{name}_info"),
        _ => name.to_owned(),
    });
    full.collect()
}

#[tokio::test]
async fn the_table_of_metrics_and_what_is_printed_agree() {
    let stack = start().await;
    stack.upstream.answer("told-table", |_| Answer::words("Hello you there."));
    let body = json!({"model": "told-table", "input": "Hi", "stream": true, "tools": [{"type": "web_search"}]});
    finish_stream(stack.create(&body).await.events()).await;
    let with_traffic = eventually("the exchange is counted", async || {
        let metrics = stack.router.told("/metrics").await;
        metrics.contains("responses_router_requests_total{").then_some(metrics)
    })
    .await;
    let mut all = printed(&with_traffic);
    // Other stores have figures of their own; those of Redis are there even while it is not.
    let folder = tempfile::tempdir().unwrap();
    for store in [
        json!({"store_backend": "disk", "disk": {"path": folder.path().join("responses.redb")}}),
        json!({"store_backend": "redis", "redis": {"address": "127.0.0.1:1"}}),
    ] {
        let settings = json!({"response_api": store, "server": {"admin_listen": "127.0.0.1:0"}});
        let router = Router::start(&settings, false).await;
        all.append(&mut printed(&router.told("/metrics").await));
    }
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/observability.md");
    let documented = documented(&std::fs::read_to_string(document).unwrap(), "Metrics");
    let missing: Vec<&String> = all.difference(&documented).collect();
    let invented: Vec<&String> = documented.difference(&all).collect();
    assert!(missing.is_empty() && invented.is_empty(), "not in the table: {missing:?}; not printed: {invented:?}");
}
