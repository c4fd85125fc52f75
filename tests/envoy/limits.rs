//! What the router refuses so that one client, or one backend, cannot take the memory that all of them share.

use serde_json::{Value, json};

use super::{error_of, finish_stream};
use crate::support::stack::http::{Reply, post_bytes};
use crate::support::stack::upstream::Answer;
use crate::support::stack::wait::eventually;
use crate::support::stack::{Hold, Stack, StackOptions, chat};

const MIB: usize = 1 << 20;

async fn limited(limits: Value) -> Hold {
    let settings = json!({"limits": limits, "response_api": {"max_memory_bytes": 32 * MIB}});
    Stack::start(StackOptions { settings, ..StackOptions::default() }).await
}

async fn assert_overloaded(reply: Reply) {
    assert_eq!(reply.header("retry-after"), "1");
    let error = error_of(reply, 503).await;
    assert_eq!((&error["type"], &error["code"]), (&json!("server_error"), &json!("overloaded")));
}

#[tokio::test]
async fn more_exchanges_than_allowed_are_refused_and_room_comes_back() {
    let stack = limited(json!({"max_live_exchanges": 2})).await;
    let mut turns = stack.upstream.play("limits-live");
    let body = json!({"model": "limits-live", "input": "Hi", "stream": true});
    let mut live = Vec::new();
    for _ in 0..2 {
        let (reply, upstream) = tokio::join!(stack.create(&body), async {
            let upstream = turns.next().await.stream();
            upstream.chunk(&chat::text("Yes.")).await;
            upstream
        });
        live.push((reply.events(), upstream));
    }
    assert_overloaded(stack.create(&body).await).await;
    assert_overloaded(stack.retrieve("resp_1").await).await;
    let (events, upstream) = live.remove(0);
    let ((terminal, _), ()) = tokio::join!(finish_stream(events), upstream.finish());
    assert_eq!(terminal.kind, "response.completed");
    eventually("room for one", async || (stack.retrieve("resp_1").await.status == 404).then_some(())).await;
}

#[tokio::test]
async fn requests_that_together_are_too_large_are_refused_and_answers_go_on() {
    let stack = limited(json!({"max_request_bytes": 65536, "max_buffered_bytes": 65536})).await;
    let mut turns = stack.upstream.play("limits-bytes");
    let body = json!({"model": "limits-bytes", "input": "x".repeat(40_000), "stream": true});
    let (reply, upstream) = tokio::join!(stack.create(&body), async {
        let upstream = turns.next().await.stream();
        upstream.chunk(&chat::text("Yes.")).await;
        upstream
    });
    assert_overloaded(stack.create(&body).await).await;
    let (_, (terminal, _)) = tokio::join!(upstream.finish(), finish_stream(reply.events()));
    assert_eq!(terminal.kind, "response.completed");
    let ((), reply) = tokio::join!(async { turns.next().await.answer(Answer::words("Yes.")) }, async {
        eventually("room for it", async || {
            let reply = stack.create(&body).await;
            (reply.status == 200).then_some(reply)
        })
        .await
    });
    assert_eq!(finish_stream(reply.events()).await.0.kind, "response.completed");
}

#[tokio::test]
async fn requests_of_too_much_structure_are_refused_by_name() {
    let stack = Stack::shared().await;
    let item = r#"{"role":"user","content":"x"}"#;
    let tool = r#"{"type":"web_search"}"#;
    for (body, param, code) in [
        ("[".repeat(MIB), Value::Null, "json_too_deep"),
        (format!(r#"{{"input":[{}1]}}"#, "1,".repeat(500_000)), Value::Null, "json_too_many_values"),
        (
            format!(r#"{{"model":"m","input":[{}{item}]}}"#, format!("{item},").repeat(16_384)),
            json!("input"),
            "array_above_max_length",
        ),
        (
            format!(r#"{{"model":"m","input":"x","tools":[{}{tool}]}}"#, format!("{tool},").repeat(1024)),
            json!("tools"),
            "array_above_max_length",
        ),
    ] {
        let error = error_of(stack.send(post_bytes("/v1/responses", body)).await, 400).await;
        assert_eq!((&error["type"], &error["code"]), (&json!("invalid_request_error"), &json!(code)), "{error}");
        assert_eq!(error["param"], param, "{error}");
    }
}
