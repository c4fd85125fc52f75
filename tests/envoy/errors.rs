//! Errors: the client's, the upstream's, Envoy's own.

use serde_json::{Value, json};

use super::{error_of, finish_stream, id};
use crate::support::stack::http::post_bytes;
use crate::support::stack::upstream::Answer;
use crate::support::stack::{Stack, StackOptions};

fn create(model: &str, stream: bool) -> Value {
    json!({"model": model, "input": "Hi", "stream": stream})
}

#[tokio::test]
async fn requests_that_cannot_be_honoured_are_refused_by_name() {
    let stack = Stack::shared().await;
    for (body, param, code) in [
        (json!({"model": "errors-bad"}), json!("input"), json!("missing_required_parameter")),
        (json!({"model": "errors-bad", "messages": []}), json!("input"), json!("missing_required_parameter")),
        (json!({"input": "Hi"}), json!("model"), json!("missing_required_parameter")),
        (
            json!({"model": "errors-bad", "input": "Hi", "temperature": "hot"}),
            json!("temperature"),
            json!("invalid_type"),
        ),
        (
            json!({"model": "errors-bad", "input": "Hi", "background": true}),
            json!("background"),
            json!("unsupported_parameter"),
        ),
        (
            json!({"model": "errors-bad", "input": "Hi", "prompt": {"id": "p"}}),
            json!("prompt"),
            json!("unsupported_parameter"),
        ),
        (
            json!({"model": "errors-bad", "input": "Hi", "conversation": "conv_1"}),
            json!("conversation"),
            json!("unsupported_parameter"),
        ),
    ] {
        let error = error_of(stack.create(&body).await, 400).await;
        assert_eq!(error["type"], "invalid_request_error", "{body}");
        assert_eq!((&error["param"], &error["code"]), (&param, &code), "{body}: {error}");
    }
    for bytes in ["", "not json", "[]", "\"text\"", "{\"model\": ", "null"] {
        let error = error_of(stack.send(post_bytes("/v1/responses", bytes)).await, 400).await;
        assert_eq!(error["type"], "invalid_request_error", "{bytes}");
    }
    assert!(stack.upstream.received("errors-bad").is_empty());
}

#[tokio::test]
async fn an_upstream_that_refuses_connections_is_unavailable() {
    let stack = Stack::start(StackOptions { upstream_down: true, ..StackOptions::default() }).await;
    for stream in [false, true] {
        let error = error_of(stack.create(&create("errors-down", stream)).await, 503).await;
        assert_eq!((&error["type"], &error["code"]), (&json!("server_error"), &json!("upstream_unavailable")));
    }
}

#[tokio::test]
async fn an_upstream_that_hangs_up_is_unavailable() {
    let stack = Stack::shared().await;
    let mut turns = stack.upstream.play("errors-hang-up");
    for stream in [false, true] {
        let body = create("errors-hang-up", stream);
        let (reply, ()) = tokio::join!(stack.create(&body), async { drop(turns.next().await) });
        assert!(matches!(reply.status.as_u16(), 502 | 503), "{}", reply.status);
        let status = reply.status.as_u16();
        let error = error_of(reply, status).await;
        assert_eq!((&error["type"], &error["code"]), (&json!("server_error"), &json!("upstream_unavailable")));
    }
}

#[tokio::test]
async fn a_rate_limit_keeps_its_status_and_headers() {
    let stack = Stack::shared().await;
    stack.upstream.answer("errors-429", |_| {
        Answer::json(429, &json!({"error": {"message": "Slow down.", "type": "requests", "code": 429}}))
            .header("retry-after", "7")
            .header("x-ratelimit-remaining-requests", "0")
            .header("x-ratelimit-reset-requests", "1s")
            .header("x-request-id", "request-1")
    });
    for stream in [false, true] {
        let reply = stack.create(&create("errors-429", stream)).await;
        for (name, value) in [
            ("retry-after", "7"),
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", "1s"),
            ("x-request-id", "request-1"),
        ] {
            assert_eq!(reply.header(name), value, "{name}");
        }
        let error = error_of(reply, 429).await;
        assert_eq!((&error["message"], &error["code"]), (&json!("Slow down."), &json!("rate_limit_exceeded")));
    }
}

#[tokio::test]
async fn a_redirect_is_a_bad_answer_and_does_not_say_where_to() {
    let stack = Stack::shared().await;
    stack.upstream.answer("errors-redirect", |_| {
        Answer::text(302, "text/html", "moved").header("location", "http://10.1.2.3/x").header("refresh", "0; url=/x")
    });
    for stream in [false, true] {
        let reply = stack.create(&create("errors-redirect", stream)).await;
        assert!(
            reply.headers.get("location").is_none() && reply.headers.get("refresh").is_none(),
            "{:?}",
            reply.headers
        );
        assert_eq!(error_of(reply, 502).await["code"], "bad_upstream_response");
    }
}

#[tokio::test]
async fn upstream_errors_of_every_form_become_ours() {
    let stack = Stack::shared().await;
    let html = "<html><body>nginx at 10.1.2.3</body></html>";
    let cases: [(&'static str, u16, &'static str, &'static str, &'static str); 7] = [
        (
            "errors-500",
            500,
            "application/json",
            r#"{"error":{"message":"CUDA error","type":"x","code":500}}"#,
            "CUDA error",
        ),
        ("errors-html", 502, "text/html", html, "The upstream failed."),
        ("errors-empty", 500, "", "", "The upstream failed."),
        (
            "errors-detail",
            422,
            "application/json",
            r#"{"detail":[{"loc":["body","n"],"msg":"too many"}]}"#,
            "body.n: too many",
        ),
        ("errors-text", 503, "text/plain", "no backend 10.1.2.3", "The upstream failed."),
        (
            "errors-404",
            404,
            "application/json",
            r#"{"object":"error","message":"no such model","code":404}"#,
            "no such model",
        ),
        ("errors-401", 401, "application/json", r#"{"error":"bad key"}"#, "bad key"),
    ];
    for (model, status, content_type, body, message) in cases {
        stack.upstream.answer(model, move |_| Answer::text(status, content_type, body));
        for stream in [false, true] {
            let error = error_of(stack.create(&create(model, stream)).await, status).await;
            assert_eq!(error["message"], message, "{model}");
        }
    }
}

#[tokio::test]
async fn a_context_overflow_is_told_apart() {
    let stack = Stack::shared().await;
    stack.upstream.answer("errors-context", |_| {
        let message = "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.";
        Answer::json(400, &json!({"object": "error", "message": message, "type": "BadRequestError", "code": 400}))
    });
    let error = error_of(stack.create(&create("errors-context", false)).await, 400).await;
    assert_eq!(error["code"], "context_length_exceeded");

    // Agents compact when a stream says so, and retry when a status does.
    let (last, _) = finish_stream(stack.create(&create("errors-context", true)).await.events()).await;
    assert_eq!(last.kind, "response.failed");
    assert_eq!(last.data["response"]["error"]["code"], "context_length_exceeded");
}

#[tokio::test]
async fn truncation_drops_nothing_and_says_so_when_that_is_too_much() {
    let stack = Stack::shared().await;
    stack.upstream.answer("errors-truncation", |_| {
        let message = "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.";
        Answer::json(400, &json!({"object": "error", "message": message, "type": "BadRequestError", "code": 400}))
    });
    for (truncation, told) in [(json!("auto"), true), (json!("disabled"), false), (json!(null), false)] {
        let mut body = create("errors-truncation", false);
        body["truncation"] = truncation;
        let error = error_of(stack.create(&body).await, 400).await;
        assert_eq!(error["code"], "context_length_exceeded");
        body["stream"] = json!(true);
        let (last, _) = finish_stream(stack.create(&body).await.events()).await;
        let failure = &last.data["response"]["error"];
        assert_eq!(failure["code"], "context_length_exceeded");
        for message in [&error["message"], &failure["message"]] {
            let count = message.as_str().unwrap().matches("Older turns are not dropped").count();
            assert_eq!(count, usize::from(told), "{message}");
        }
    }
    // Each was asked once, with all of it.
    assert_eq!(stack.upstream.received("errors-truncation").len(), 6);

    stack.upstream.answer("errors-truncation-fits", |_| Answer::completion("Hello."));
    let mut body = create("errors-truncation-fits", false);
    body["truncation"] = json!("auto");
    let reply = stack.create(&body).await;
    assert_eq!(reply.header("x-responses-lossy"), "truncation=auto");
    assert_eq!(reply.json().await["truncation"], "auto");
}

#[tokio::test]
async fn an_answer_that_cannot_be_used_is_a_bad_gateway() {
    let stack = Stack::shared().await;
    let cases: [(&'static str, &'static str, &'static str); 6] = [
        ("errors-garbage", "application/json", "{\"choices\": ["),
        ("errors-garbage-html", "text/html", "<html>Welcome</html>"),
        ("errors-garbage-empty", "", ""),
        ("errors-garbage-object", "application/json", "{\"hello\": \"world\"}"),
        ("errors-garbage-choices", "application/json", "{\"choices\": []}"),
        ("errors-garbage-array", "application/json", "[]"),
    ];
    for (model, content_type, body) in cases {
        stack.upstream.answer(model, move |_| Answer::text(200, content_type, body));
        for stream in [false, true] {
            let error = error_of(stack.create(&create(model, stream)).await, 502).await;
            assert_eq!(
                (&error["type"], &error["code"]),
                (&json!("server_error"), &json!("bad_upstream_response")),
                "{model}"
            );
        }
    }
}

#[tokio::test]
async fn a_json_answer_that_the_upstream_cuts_is_never_half_an_answer() {
    let stack = Stack::shared().await;
    let mut turns = stack.upstream.play("errors-cut");
    let body = create("errors-cut", false);
    let (reply, ()) = tokio::join!(stack.create(&body), async {
        let live = turns.next().await.stream_of(200, "application/json");
        live.send("{\"choices\": [{\"message\"").await;
        live.cut().await;
    });
    let status = reply.status.as_u16();
    assert!(matches!(status, 502 | 503), "{status}");
    let error = error_of(reply, status).await;
    assert_eq!((&error["type"], &error["code"]), (&json!("server_error"), &json!("upstream_unavailable")));
}

#[tokio::test]
async fn an_unusual_success_is_not_mistaken_for_an_error() {
    let stack = Stack::shared().await;
    stack.upstream.answer("errors-201", |_| Answer::json(201, &crate::support::stack::chat::completion("Made.")));
    let reply = stack.create(&create("errors-201", false)).await;
    assert!(reply.status.is_success(), "{}", reply.status);
    let response = reply.json().await;
    assert_eq!(response["output_text"], "Made.");
    assert_eq!(stack.retrieve(id(&response)).await.status, 200);
}
