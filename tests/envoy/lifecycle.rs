//! Routers that stop, die or are not there. Each test has a stack of its own.

use serde_json::json;

use super::{assert_complete, assert_error_shape, begin_stream, error_of, finish_stream};
use crate::support::stack::chat;
use crate::support::stack::http::{Ending, post, request};
use crate::support::stack::upstream::Answer;
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
