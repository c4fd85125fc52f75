//! Methods, paths, connections; and what never reaches the router.

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::Frame;
use serde_json::{Value, json};

use super::{error_of, finish_stream, id, utf8};
use crate::support::stack::http::{Connection, post, post_bytes, post_frames, request, with_header};
use crate::support::stack::upstream::Answer;
use crate::support::stack::{Stack, StackOptions};

#[tokio::test]
async fn options_tell_what_a_path_offers() {
    let stack = Stack::shared().await;
    for (path, allow) in [
        ("/v1/responses", "POST, OPTIONS"),
        ("/v1/responses/resp_1", "GET, DELETE, OPTIONS"),
        ("/v1/responses/resp_1/input_items", "GET, OPTIONS"),
        ("/v1/responses/resp_1/cancel", "POST, OPTIONS"),
    ] {
        let reply = stack.send(request("OPTIONS", path)).await;
        assert_eq!((reply.status.as_u16(), reply.header("allow")), (204, allow), "{path}");
        assert_eq!(reply.bytes().await, "");
    }
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let stack = Stack::shared().await;
    for (method, path, allow) in [
        ("GET", "/v1/responses", "POST, OPTIONS"),
        ("PUT", "/v1/responses", "POST, OPTIONS"),
        ("POST", "/v1/responses/resp_1", "GET, DELETE, OPTIONS"),
        ("PATCH", "/v1/responses/resp_1", "GET, DELETE, OPTIONS"),
        ("DELETE", "/v1/responses/resp_1/input_items", "GET, OPTIONS"),
    ] {
        let reply = stack.send(request(method, path)).await;
        assert_eq!(reply.header("allow"), allow, "{method} {path}");
        let error = error_of(reply, 405).await;
        assert_eq!(error["type"], "invalid_request_error");
    }
}

#[tokio::test]
async fn a_head_request_is_answered_without_a_body() {
    let stack = Stack::shared().await;
    let mut connection = stack.connect().await;
    let reply = connection.send(request("HEAD", "/v1/responses/resp_1")).await;
    assert_eq!(reply.status, 405);
    assert_eq!(reply.bytes().await, "");
    // Nothing was left on the connection.
    error_of(connection.send(request("GET", "/v1/responses/resp_1")).await, 404).await;
}

#[tokio::test]
async fn unknown_paths_are_not_found() {
    let stack = Stack::shared().await;
    for (method, path) in [
        ("POST", "/v1/responses/compact"),
        ("GET", "/v1/responses/resp_1/output"),
        ("GET", "/v1/responses/resp_1/input_items/1"),
        ("GET", "/v1/responses/resp_%31"),
        ("GET", "/v1/responses/x"),
        ("DELETE", "/v1/responses/resp_*"),
    ] {
        let error = error_of(stack.send(request(method, path)).await, 404).await;
        assert_eq!((&error["type"], &error["code"]), (&json!("invalid_request_error"), &json!(null)), "{path}");
    }
}

#[tokio::test]
async fn cancelling_is_for_background_responses() {
    let stack = Stack::shared().await;
    stack.upstream.answer("requests-cancel", |_| Answer::completion("Hello."));
    let response = stack.created(&json!({"model": "requests-cancel", "input": "Hi"})).await;
    let reply = stack.send(post_bytes(&format!("/v1/responses/{}/cancel", id(&response)), "")).await;
    let error = error_of(reply, 400).await;
    assert_eq!(error["message"], "Only responses created with background=true can be cancelled.");
}

#[tokio::test]
async fn a_websocket_handshake_is_refused() {
    let stack = Stack::shared().await;
    let mut handshake = request("GET", "/v1/responses");
    for (name, value) in [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ] {
        handshake = with_header(handshake, name, value);
    }
    error_of(stack.send(handshake).await, 426).await;
}

#[tokio::test]
async fn a_trailing_slash_and_a_query_do_not_matter() {
    let stack = Stack::shared().await;
    stack.upstream.answer("requests-slash", |_| Answer::completion("Hello."));
    let body = json!({"model": "requests-slash", "input": "Hi"});
    for path in ["/v1/responses", "/v1/responses/", "/v1/responses?api-version=1", "/v1/responses/?x=/y"] {
        let response = stack.send(post(path, &body)).await;
        assert_eq!(response.status, 200, "{path}");
        let response = response.json().await;
        for suffix in ["", "/", "?include=", "/?x"] {
            let reply = stack.retrieve(&format!("{}{suffix}", id(&response))).await;
            assert_eq!(reply.json().await, response, "{path} {suffix}");
        }
    }
    for received in stack.upstream.received("requests-slash") {
        assert_eq!(received.path.split('?').next(), Some("/v1/chat/completions"));
    }
}

#[tokio::test]
async fn a_connection_lives_on_after_local_answers() {
    let stack = Stack::shared().await;
    stack.upstream.answer("requests-keep-alive", |_| Answer::completion("Hello."));
    let mut connection = stack.connect().await;
    let response =
        connection.send(post("/v1/responses", &json!({"model": "requests-keep-alive", "input": "Hi"}))).await;
    let response = response.json().await;
    let path = format!("/v1/responses/{}", id(&response));
    for (request, status) in [
        (request("GET", &path), 200),
        (request("GET", "/v1/responses/resp_1"), 404),
        (request("PUT", "/v1/responses"), 405),
        (request("OPTIONS", "/v1/responses"), 204),
        (post("/v1/responses", &json!({"model": "requests-keep-alive"})), 400),
        (
            post(
                "/v1/responses",
                &json!({"model": "requests-keep-alive", "input": "Hi", "previous_response_id": "resp_1"}),
            ),
            400,
        ),
        (post("/v1/responses", &json!({"model": "requests-keep-alive", "input": "Hi"})), 200),
        (request("DELETE", &path), 200),
        (request("GET", &path), 404),
    ] {
        let what = format!("{} {}", request.method(), request.uri());
        let reply = connection.send(request).await;
        assert_eq!(reply.status, status, "{what}");
        assert_eq!(reply.header("connection"), "", "{what}");
        reply.bytes().await;
        assert!(connection.stays_open().await, "{what}");
    }
}

#[tokio::test]
async fn many_requests_share_an_http_2_connection() {
    let stack = Stack::shared().await;
    stack.upstream.answer("requests-http-2", |received| Answer::completion(&received.messages()[0].1));
    let mut connection = Connection::http2(stack.envoy.address).await;
    let body = json!({"model": "requests-http-2", "input": "Hi"});
    let response = connection.send(post("/v1/responses", &body)).await.json().await;
    assert_eq!(response["output_text"], "Hi");
    let path = format!("/v1/responses/{}", id(&response));
    assert_eq!(connection.send(request("GET", &path)).await.json().await, response);
    error_of(connection.send(post("/v1/responses", &json!({"model": "requests-http-2"}))).await, 400).await;
    error_of(connection.send(request("GET", "/v1/responses/resp_1")).await, 404).await;
    assert_eq!(connection.send(request("OPTIONS", "/v1/responses")).await.status, 204);
    assert!(connection.stays_open().await);
}

#[tokio::test]
async fn a_request_may_end_with_trailers() {
    let stack = Stack::shared().await;
    stack.upstream.answer("requests-trailers", |_| Answer::completion("Hello."));
    let body = Bytes::from(json!({"model": "requests-trailers", "input": "Hi"}).to_string());
    let trailers = HeaderMap::from_iter([("x-checksum".parse().unwrap(), "1".parse().unwrap())]);
    let frames =
        || vec![Frame::data(body.slice(..10)), Frame::data(body.slice(10..)), Frame::trailers(trailers.clone())];
    let mut connection = Connection::http2(stack.envoy.address).await;
    let reply = connection.send(post_frames("/v1/responses", frames())).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json().await["output_text"], "Hello.");

    let bad = vec![Frame::data(Bytes::from("{}")), Frame::trailers(trailers.clone())];
    error_of(connection.send(post_frames("/v1/responses", bad)).await, 400).await;
}

#[tokio::test]
async fn other_paths_pass_by_byte_for_byte_and_never_reach_the_router() {
    let stack = Stack::start(StackOptions::default()).await;
    let answer = "{\"choices\" :[ ],\"not\":\"ours\"}\n";
    stack.upstream.answer("passing", move |_| Answer::text(200, "application/json", answer).header("x-own", "kept"));
    stack.upstream.answer("passing-stream", |_| Answer::words("Hello, you."));
    stack.upstream.answer("/v1/models", |_| Answer::text(200, "application/json", "{\"data\":[]}\n"));
    stack.upstream.answer("/v1/responsesX", |_| Answer::text(200, "text/plain", "not a response"));
    stack.upstream.answer("router-stream-counter", |_| Answer::completion("Hello."));

    let chat = |model: &str| format!("{{\"model\":\"{model}\" , \"messages\":[],\"stream\":true}}\n");
    let requests = || {
        [
            post_bytes("/v1/chat/completions", chat("passing")),
            post_bytes("/v1/chat/completions", chat("passing-stream")),
            request("GET", "/v1/models"),
            request("GET", "/v1/responsesX"),
        ]
    };
    for (through_envoy, direct) in requests().into_iter().zip(requests()) {
        let path = direct.uri().to_string();
        let before = stack.upstream.received_count();
        let direct = Connection::http1(stack.upstream.address).await.send(direct).await;
        let through_envoy = stack.send(with_header(through_envoy, "accept-encoding", "gzip")).await;
        assert_eq!(stack.upstream.received_count(), before + 2);
        assert_eq!(through_envoy.status, direct.status, "{path}");
        for (name, value) in &direct.headers {
            if name != "date" {
                assert_eq!(through_envoy.headers.get(name), Some(value), "{path}: {name}");
            }
        }
        assert_eq!(utf8(&through_envoy.bytes().await), utf8(&direct.bytes().await), "{path}");
    }
    for model in ["passing", "passing-stream"] {
        for received in stack.upstream.received(model) {
            assert_eq!(received.body, chat(model));
        }
    }
    let passed = stack.upstream.received("passing");
    assert_eq!(passed[1].headers.get("accept-encoding").unwrap(), "gzip");

    assert_eq!(router_streams(&stack).await, 0);
    let response: Value = stack.created(&json!({"model": "router-stream-counter", "input": "Hi"})).await;
    assert_eq!(router_streams(&stack).await, 1);
    assert_eq!(stack.retrieve(id(&response)).await.status, 200);
    assert_eq!(router_streams(&stack).await, 2);
}

/// How many gRPC streams Envoy has opened to the router.
async fn router_streams(stack: &Stack) -> u64 {
    let requests = stack.envoy.stat("cluster.responses-router.upstream_rq_total").await;
    assert_eq!(stack.envoy.stat("http.responses.ext_proc.streams_started").await, requests);
    requests
}

#[tokio::test]
async fn the_router_may_listen_on_a_unix_socket() {
    let stack = Stack::start(StackOptions { unix_socket: true, ..StackOptions::default() }).await;
    stack.upstream.answer("unix-socket", |received| {
        if received.json()["stream"] == true { Answer::words("Hello.") } else { Answer::completion("Hello.") }
    });
    let mut body = json!({"model": "unix-socket", "input": "Hi"});
    let response = stack.created(&body).await;
    assert_eq!(stack.retrieve(id(&response)).await.json().await, response);
    body["stream"] = json!(true);
    finish_stream(stack.create(&body).await.events()).await;
}

#[tokio::test]
async fn local_answers_never_touch_the_upstream() {
    let stack = Stack::start(StackOptions::default()).await;
    stack.upstream.answer("local", |_| Answer::completion("Hello."));
    let response = stack.created(&json!({"model": "local", "input": "Hi"})).await;
    let id = id(&response);
    stack.retrieve(id).await;
    stack.get(&format!("/v1/responses/{id}/input_items")).await;
    stack.send(request("OPTIONS", "/v1/responses")).await;
    stack.create(&json!({"model": "local"})).await;
    stack.create(&json!({"model": "local", "input": "Hi", "previous_response_id": "resp_1"})).await;
    stack.delete(id).await;
    stack.delete(id).await;
    assert_eq!(stack.upstream.received_count(), 1);
}
