//! Routers that stop, die or are not there. Each test has a stack of its own.

use serde_json::{Value, json};

use super::{assert_complete, assert_error_shape, begin_stream, error_of, finish_stream};
use crate::support::stack::chat;
use crate::support::stack::http::{Ending, post, request};
use crate::support::stack::upstream::Answer;
use crate::support::stack::wait::eventually;
use crate::support::stack::{Stack, StackOptions};

#[tokio::test]
async fn a_router_that_dies_cuts_the_stream_instead_of_ending_it() {
    let stack = Stack::start(StackOptions::default()).await;
    let (mut events, live, _) = begin_stream(&stack, "life-kill").await;
    live.chunk(&chat::text("Partial")).await;
    events.skip_to("response.output_text.delta").await;
    stack.router.process.signal("KILL");
    stack.router.process.exited().await;
    let (rest, _, ending) = events.rest().await;
    assert_eq!(ending, Ending::Cut);
    assert!(rest.is_empty(), "{rest:?}");
    live.closed().await;
}

#[tokio::test]
async fn a_router_that_dies_before_the_answer_is_an_error_and_never_an_empty_success() {
    let stack = Stack::start(StackOptions::default()).await;
    let mut turns = stack.upstream.play("life-kill-early");
    let body = json!({"model": "life-kill-early", "input": "Hi"});
    let (reply, ()) = tokio::join!(stack.create(&body), async {
        let turn = turns.next().await;
        stack.router.process.signal("KILL");
        stack.router.process.exited().await;
        turn.given_up().await;
    });
    assert_eq!(reply.status, 503);
    assert_error_shape(&reply.bytes().await);
}

#[tokio::test]
async fn without_a_router_the_answer_is_an_error_that_clients_can_read() {
    let stack = Stack::start(StackOptions::default()).await;
    stack.upstream.answer("life-passing", |_| Answer::text(200, "text/plain", "passed"));
    stack.router.process.signal("KILL");
    stack.router.process.exited().await;
    for request in [
        post("/v1/responses", &json!({"model": "life-down", "input": "Hi"})),
        post("/v1/responses", &json!({"model": "life-down", "input": "Hi", "stream": true})),
        request("GET", "/v1/responses/resp_1"),
        request("DELETE", "/v1/responses/resp_1"),
    ] {
        let reply = stack.send(request).await;
        assert_eq!((reply.status.as_u16(), reply.header("content-type")), (503, "application/json"));
        let error = assert_error_shape(&reply.bytes().await);
        assert_eq!(error["type"], "server_error");
    }
    assert!(stack.upstream.received("life-down").is_empty());
    // What does not go through the router is not touched by its absence.
    let passing = stack.send(post("/v1/chat/completions", &json!({"model": "life-passing"}))).await;
    assert_eq!(passing.bytes().await, "passed");
}

#[tokio::test]
async fn a_live_stream_finishes_while_the_router_drains() {
    let stack = Stack::start(StackOptions::default()).await;
    let (mut events, live, _) = begin_stream(&stack, "life-drain").await;
    live.chunk(&chat::text("One")).await;
    events.skip_to("response.output_text.delta").await;
    stack.router.process.signal("TERM");
    stack.router.refuses_connections().await;
    live.chunk(&chat::text(" two")).await;
    assert_eq!(events.expect("response.output_text.delta").await["delta"], " two");
    live.finish().await;
    let (last, _) = finish_stream(events).await;
    assert_eq!(last.kind, "response.completed");
    assert_eq!(last.data["response"]["output_text"], "One two");
    let status = stack.router.process.exited().await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_stream_that_outlasts_the_drain_is_failed_and_ended() {
    let settings = json!({"server": {"drain_seconds": 1}});
    let stack = Stack::start(StackOptions { settings, ..StackOptions::default() }).await;
    let (mut events, live, _) = begin_stream(&stack, "life-drain-out").await;
    live.chunk(&chat::text("One")).await;
    events.skip_to("response.output_text.delta").await;
    stack.router.process.signal("TERM");
    let (last, _) = finish_stream(events).await;
    assert_eq!(last.kind, "response.failed");
    assert_complete(&last.data["response"]);
    assert_eq!(last.data["response"]["output_text"], "One");
    live.closed().await;
    let status = stack.router.process.exited().await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_request_that_outlasts_the_drain_unanswered_is_refused() {
    let settings = json!({"server": {"drain_seconds": 1}});
    let stack = Stack::start(StackOptions { settings, ..StackOptions::default() }).await;
    let mut turns = stack.upstream.play("life-drain-unanswered");
    let body = |stream| json!({"model": "life-drain-unanswered", "input": "Hi", "stream": stream});
    let (plain, streamed) = (body(false), body(true));
    let (plain, streamed, ()) = tokio::join!(stack.create(&plain), stack.create(&streamed), async {
        let silent = turns.next().await;
        let begun = turns.next().await.stream();
        stack.router.process.signal("TERM");
        silent.given_up().await;
        begun.closed().await;
    });
    for reply in [plain, streamed] {
        let error = error_of(reply, 503).await;
        assert_eq!(error["type"], "server_error");
    }
}

#[tokio::test]
async fn an_idle_router_ends_at_once() {
    let stack = Stack::start(StackOptions::default()).await;
    stack.upstream.answer("life-idle", |_| Answer::completion("Hello."));
    stack.created(&json!({"model": "life-idle", "input": "Hi"})).await;
    stack.router.process.signal("TERM");
    let status = stack.router.process.exited().await;
    assert!(status.success(), "{status}");
}

/// Envoy resets its stream to a processor after the last message, or, if told to by this flag, ends its side and waits for
/// the status for a second.
#[tokio::test]
async fn it_is_envoy_that_ends_each_exchange_whichever_way_it_does() {
    for gracefully in [false, true] {
        let layer = json!({"envoy.reloadable_features.ext_proc_graceful_grpc_close": gracefully});
        let layers = json!({"layers": [{"name": "static", "static_layer": layer}]});
        let envoy = Box::new(move |envoy: &mut Value| envoy["layered_runtime"] = layers);
        let stack = Stack::start(StackOptions { envoy: Some(envoy), ..StackOptions::default() }).await;
        stack.upstream.answer("life-end", |_| Answer::completion("Hello."));
        stack.upstream.answer("life-end-stream", |_| Answer::words("Hello again."));
        let created = stack.created(&json!({"model": "life-end", "input": "Hi"})).await;
        let streamed = stack.create(&json!({"model": "life-end-stream", "input": "Hi", "stream": true})).await;
        assert_eq!(finish_stream(streamed.events()).await.0.kind, "response.completed");
        let id = created["id"].as_str().unwrap();
        for (reply, status) in [
            (stack.retrieve(id).await, 200),
            (stack.delete(id).await, 200),
            (stack.retrieve(id).await, 404),
            (stack.create(&json!({"model": "life-end", "input": 1})).await, 400),
        ] {
            assert_eq!(reply.status, status);
            reply.bytes().await;
        }
        let stat = async |name: &str| stack.envoy.stat(&format!("cluster.responses-router.{name}")).await;
        eventually("all have ended", async || (stat("upstream_rq_active").await == 0).then_some(())).await;
        let (all, by_envoy) = (stat("upstream_rq_total").await, stat("http2.tx_reset").await);
        assert_eq!((all, by_envoy), (6, if gracefully { 0 } else { 6 }));
        assert_eq!(stat("http2.rx_reset").await, 0, "the router reset a stream");
    }
}
