//! Streamed answers.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    RESPONSE_KEYS, assert_complete, begin_answer, begin_stream, error_of, eventually_stored, finish_stream, id,
    open_stream,
};
use crate::support::stack::Stack;
use crate::support::stack::chat;
use crate::support::stack::http::{Connection, Ending, post};
use crate::support::stack::upstream::Answer;

#[tokio::test]
async fn a_stream_begins_before_the_first_token_and_follows_every_chunk() {
    let stack = Stack::shared().await;
    let (mut events, live) = open_stream(&stack, "stream-order", &json!({"input": "Hi"})).await;

    // The upstream has sent no token yet.
    let created = events.expect("response.created").await["response"].clone();
    assert_complete(&created);
    assert_eq!((&created["status"], &created["output"]), (&json!("in_progress"), &json!([])));
    assert_eq!(created["usage"], json!(null));
    let in_progress = events.expect("response.in_progress").await["response"].clone();
    assert_complete(&in_progress);

    live.chunk(&chat::text("Hel")).await;
    events.expect("response.output_item.added").await;
    events.expect("response.content_part.added").await;
    assert_eq!(events.expect("response.output_text.delta").await["delta"], "Hel");
    for part in ["lo", ", ", "wörld", " \u{2028}"] {
        live.chunk(&chat::text(part)).await;
        assert_eq!(events.expect("response.output_text.delta").await["delta"], *part);
    }
    live.finish().await;
    assert_eq!(events.expect("response.output_text.done").await["text"], "Hello, wörld \u{2028}");
    events.expect("response.content_part.done").await;
    events.expect("response.output_item.done").await;

    let (last, bytes) = finish_stream(events).await;
    assert_eq!(last.kind, "response.completed");
    let completed = &last.data["response"];
    assert_complete(completed);
    assert_eq!(completed["output_text"], "Hello, wörld \u{2028}");
    assert_eq!(completed["usage"]["total_tokens"], 10);
    assert_eq!(id(completed), id(&created));
    assert_eq!(&stack.retrieve(id(&created)).await.json().await, completed);

    let text = String::from_utf8(bytes).unwrap();
    for leak in ["chat.completion", "chatcmpl", "[DONE]", "\r", "\u{2028}"] {
        assert!(!text.contains(leak), "{leak:?} in {text}");
    }
}

#[tokio::test]
async fn a_stream_has_the_headers_of_a_stream() {
    let stack = Stack::shared().await;
    stack.upstream.answer("stream-headers", |_| {
        Answer::words("Hello.").header("etag", "\"1\"").header("x-request-id", "request-1")
    });
    let reply = stack.create(&json!({"model": "stream-headers", "input": "Hi", "stream": true})).await;
    assert_eq!(reply.header("content-type"), "text/event-stream; charset=utf-8");
    assert_eq!(reply.header("cache-control"), "no-cache");
    for absent in ["content-length", "content-encoding", "etag"] {
        assert!(!reply.headers.contains_key(absent), "{absent}");
    }
    assert_eq!(reply.header("x-request-id"), "request-1");
    let body = stack.upstream.only_received("stream-headers").json();
    assert_eq!((&body["stream"], &body["stream_options"]), (&json!(true), &json!({"include_usage": true})));
    finish_stream(reply.events()).await;
}

#[tokio::test]
async fn every_snapshot_in_a_stream_has_every_member() {
    let stack = Stack::shared().await;
    stack.upstream.answer("stream-snapshots", |_| Answer::words("One two three."));
    let body = json!({"model": "stream-snapshots", "input": "Hi", "stream": true, "metadata": {"a": "b"}});
    let (events, _, _) = stack.create(&body).await.events().rest().await;
    let snapshots: Vec<_> = events.iter().filter_map(|event| event.data.get("response")).collect();
    assert_eq!(snapshots.len(), 3);
    for snapshot in snapshots {
        assert_complete(snapshot);
        assert_eq!(snapshot["metadata"], json!({"a": "b"}));
    }
}

#[tokio::test]
async fn reasoning_text_and_calls_stream_one_item_after_the_other() {
    let stack = Stack::shared().await;
    let (events, live) = open_stream(&stack, "stream-items", &json!({"input": "Hi", "tools": [look_up()]})).await;
    live.chunk(&chat::delta(&json!({"reasoning_content": "Think"}))).await;
    live.chunk(&chat::text("A moment.")).await;
    // Interleaved: the second call begins before the first is done.
    for (index, id, name, arguments) in [
        (0, "call_a", "look_up", "{\"of\":"),
        (1, "call_b", "look_up", "{\"of\":2"),
        (0, "", "", "1}"),
        (1, "", "", "}"),
    ] {
        let mut call = json!({"index": index, "function": {"arguments": arguments}});
        if !id.is_empty() {
            call["id"] = json!(id);
            call["function"]["name"] = json!(name);
        }
        live.chunk(&chat::delta(&json!({"tool_calls": [call]}))).await;
    }
    live.chunk(&chat::finish("tool_calls")).await;
    live.end().await;
    let (last, _) = finish_stream(events).await;
    let output = last.data["response"]["output"].as_array().unwrap().clone();
    let summary: Vec<_> =
        output.iter().map(|item| (item["type"].as_str().unwrap(), item["arguments"].as_str().unwrap_or(""))).collect();
    let expected =
        [("reasoning", ""), ("message", ""), ("function_call", "{\"of\":1}"), ("function_call", "{\"of\":2}")];
    assert_eq!(summary, expected);
}

#[tokio::test]
async fn a_length_limit_ends_a_stream_as_incomplete() {
    let stack = Stack::shared().await;
    let (events, live) = open_stream(&stack, "stream-length", &json!({"input": "Hi"})).await;
    live.chunk(&chat::text("Too lo")).await;
    live.chunk(&chat::finish("length")).await;
    live.end().await;
    let (last, _) = finish_stream(events).await;
    assert_eq!(last.kind, "response.incomplete");
    assert_eq!(last.data["response"]["incomplete_details"], json!({"reason": "max_output_tokens"}));
}

#[tokio::test]
async fn an_error_frame_fails_the_response_and_ends_both_connections() {
    let stack = Stack::shared().await;
    let (mut events, live, id) = begin_stream(&stack, "stream-error-frame").await;
    live.chunk(&chat::text("Partial")).await;
    events.skip_to("response.output_text.delta").await;
    live.send("data: {\"error\": {\"message\": \"out of memory\", \"type\": \"InternalError\", \"code\": 500}}\n\n")
        .await;
    let (last, _) = finish_stream(events).await;
    assert_eq!(last.kind, "response.failed");
    assert_complete(&last.data["response"]);
    assert_eq!(last.data["response"]["status"], "failed");
    assert_eq!(last.data["response"]["error"], json!({"code": "server_error", "message": "out of memory"}));
    live.closed().await;
    assert_eq!(stack.retrieve(&id).await.json().await, last.data["response"]);
}

#[tokio::test]
async fn a_chunk_that_is_not_json_fails_the_response() {
    let stack = Stack::shared().await;
    let (events, live, _) = begin_stream(&stack, "stream-garbage").await;
    live.send("data: <html>\n\n").await;
    let (last, _) = finish_stream(events).await;
    assert_eq!(
        (last.kind.as_str(), &last.data["response"]["error"]["code"]),
        ("response.failed", &json!("server_error"))
    );
    live.closed().await;
}

#[tokio::test]
async fn a_stream_without_finish_reason_ends_as_failed() {
    let stack = Stack::shared().await;
    let (events, live, id) = begin_stream(&stack, "stream-no-finish").await;
    live.chunk(&chat::text("Partial")).await;
    drop(live);
    let (last, _) = finish_stream(events).await;
    assert_eq!(last.kind, "response.failed");
    assert_eq!(last.data["response"]["error"]["code"], "server_error");
    assert_eq!(stack.retrieve(&id).await.json().await, last.data["response"]);
}

#[tokio::test]
async fn a_stream_without_a_chunk_ends_as_failed() {
    let stack = Stack::shared().await;
    stack.upstream.answer("stream-empty", |_| Answer::text(200, "text/event-stream", ": hold on\n\n"));
    let reply = stack.create(&json!({"model": "stream-empty", "input": "Hi", "stream": true})).await;
    let (last, _) = finish_stream(reply.events()).await;
    assert_eq!(last.kind, "response.failed");
}

#[tokio::test]
async fn an_upstream_that_goes_before_its_first_byte_is_never_an_empty_success() {
    let stack = Stack::shared().await;
    let mut turns = stack.upstream.play("stream-no-byte");
    let body = json!({"model": "stream-no-byte", "input": "Hi", "stream": true});
    let (reply, ()) = tokio::join!(stack.create(&body), async { drop(turns.next().await.stream()) });
    let (last, _) = finish_stream(reply.events()).await;
    assert_eq!(last.kind, "response.failed");

    let (reply, ()) = tokio::join!(stack.create(&body), async { turns.next().await.stream().cut().await });
    let status = reply.status.as_u16();
    assert!(matches!(status, 502 | 503), "{status}");
    assert_eq!(error_of(reply, status).await["code"], "upstream_unavailable");
}

#[tokio::test]
async fn a_stream_that_the_upstream_cuts_is_cut_for_the_client_and_what_came_is_kept() {
    let stack = Stack::shared().await;
    let (mut events, live, id) = begin_stream(&stack, "stream-cut").await;
    live.chunk(&chat::text("Partial")).await;
    events.skip_to("response.output_text.delta").await;
    live.cut().await;
    let (_, _, ending) = events.rest().await;
    assert_eq!(ending, Ending::Cut);
    let stored = eventually_stored(&stack, &id).await;
    assert_complete(&stored);
    assert_eq!((&stored["status"], &stored["incomplete_details"]), (&json!("incomplete"), &json!(null)));
    assert_eq!(stored["output_text"], "Partial");
}

#[tokio::test]
async fn when_the_client_goes_the_upstream_is_closed_and_what_came_is_kept() {
    let stack = Stack::shared().await;
    let (mut events, live, id) = begin_stream(&stack, "stream-client-gone").await;
    live.chunk(&chat::text("Partial")).await;
    events.skip_to("response.output_text.delta").await;
    drop(events);
    live.closed().await;
    let stored = eventually_stored(&stack, &id).await;
    assert_complete(&stored);
    assert_eq!((&stored["status"], &stored["incomplete_details"]), (&json!("incomplete"), &json!(null)));
    assert_eq!(stored["output_text"], "Partial");
}

#[tokio::test]
async fn when_the_client_goes_before_the_answer_the_upstream_is_closed() {
    let stack = Stack::shared().await;
    let mut turns = stack.upstream.play("stream-gone-early");
    for stream in [true, false] {
        let body = json!({"model": "stream-gone-early", "input": "Hi", "stream": stream});
        let mut connection = stack.connect().await;
        let turn = tokio::select! {
            _ = connection.send(post("/v1/responses", &body)) => panic!("answered"),
            turn = turns.next() => turn,
        };
        drop(connection);
        turn.given_up().await;
    }
}

#[tokio::test]
async fn a_json_answer_to_a_streamed_request_is_streamed() {
    let stack = Stack::shared().await;
    stack.upstream.answer("stream-of-json", |_| Answer::completion("Hello."));
    let reply = stack.create(&json!({"model": "stream-of-json", "input": "Hi", "stream": true})).await;
    let (last, _) = finish_stream(reply.events()).await;
    assert_eq!((last.kind.as_str(), &last.data["response"]["output_text"]), ("response.completed", &json!("Hello.")));
    let response = last.data["response"].clone();
    assert_eq!(stack.retrieve(id(&response)).await.json().await, response);
}

#[tokio::test]
async fn a_streamed_answer_to_a_json_request_becomes_json() {
    let stack = Stack::shared().await;
    stack.upstream.answer("json-of-stream", |_| Answer::words("Hello, you."));
    let response = stack.created(&json!({"model": "json-of-stream", "input": "Hi"})).await;
    assert_complete(&response);
    assert_eq!((&response["status"], &response["output_text"]), (&json!("completed"), &json!("Hello, you.")));
}

#[tokio::test]
async fn the_streamed_and_the_json_answer_are_the_same_response() {
    let stack = Stack::shared().await;
    stack.upstream.answer("stream-same", |received| {
        let call = chat::call("call_1", "look_up", "{\"of\":1}");
        if received.json()["stream"] == true {
            return Answer::chunks(&[
                chat::delta(&json!({"reasoning_content": "Th"})),
                chat::delta(&json!({"reasoning_content": "ink"})),
                chat::text("A mo"),
                chat::text("ment."),
                chat::delta(&json!({"tool_calls": [call]})),
                chat::finish("tool_calls"),
                chat::usage_chunk(),
            ]);
        }
        let message =
            json!({"role": "assistant", "reasoning_content": "Think", "content": "A moment.", "tool_calls": [call]});
        Answer::json(200, &chat::completion_of(&message, "tool_calls"))
    });
    let mut body = json!({"model": "stream-same", "input": "Hi", "tools": [look_up()]});
    let mut plain = stack.created(&body).await;
    body["stream"] = json!(true);
    let (last, _) = finish_stream(stack.create(&body).await.events()).await;
    let mut streamed = last.data["response"].clone();
    for response in [&mut plain, &mut streamed] {
        let digits = id(response).trim_start_matches("resp_").to_owned();
        *response = serde_json::from_str(&response.to_string().replace(&digits, "0")).unwrap();
        response["created_at"] = json!(0);
        response["completed_at"] = json!(0);
    }
    for (key, _) in RESPONSE_KEYS {
        assert_eq!(streamed[key], plain[key], "{key}");
    }
}

#[tokio::test]
async fn silence_is_filled_with_heartbeats_that_are_events() {
    let stack = Stack::shared_with_narrow_limits().await;
    let (mut events, live, _) = begin_stream(&stack, "stream-heartbeat").await;
    // The upstream says nothing; the router does, twice.
    for number in [2, 3] {
        let heartbeat = events.expect("response.in_progress").await;
        assert_eq!(heartbeat["sequence_number"], number);
        assert_complete(&heartbeat["response"]);
    }
    live.chunk(&chat::text("Awake")).await;
    assert_eq!(events.skip_to("response.output_text.delta").await["delta"], "Awake");
    events.expect("response.in_progress").await;
    live.finish().await;
    let (last, _) = finish_stream(events).await;
    assert_eq!(last.kind, "response.completed");
}

#[tokio::test]
async fn two_hundred_streams_live_side_by_side() {
    const STREAMS: usize = 200;
    let stack = Stack::shared().await;
    let mut turns = stack.upstream.play("stream-many");
    let idle = stack.router.process.resident_bytes();
    let opening = (0..STREAMS).map(|number| {
        let stack = &stack;
        async move {
            let body = json!({"model": "stream-many", "input": format!("I am {number}"), "stream": true});
            stack.create(&body).await.events()
        }
    });
    let playing = async {
        let mut lives = BTreeMap::new();
        while lives.len() < STREAMS {
            let turn = turns.next().await;
            let (_, input) = turn.received.messages().remove(0);
            let live = turn.stream();
            live.send(": hold on\n\n").await;
            lives.insert(input, live);
        }
        lives
    };
    let (mut clients, lives) = tokio::join!(futures_util::future::join_all(opening), playing);
    let mut ids = Vec::new();
    for events in &mut clients {
        let created = events.expect("response.created").await;
        ids.push(id(&created["response"]).to_owned());
        events.expect("response.in_progress").await;
    }
    // All are open, and none has its first token.
    let live_bytes = stack.router.process.resident_bytes();
    println!("router RSS: {} KiB before, {} KiB with {STREAMS} live streams", idle / 1024, live_bytes / 1024);
    for part in ["You said: ", "<", ">"] {
        for (input, live) in &lives {
            let part = if part == "<" { format!("<{input}") } else { part.to_owned() };
            live.chunk(&chat::text(&part)).await;
        }
    }
    for (_, live) in lives {
        live.finish().await;
    }
    for (number, events) in clients.into_iter().enumerate() {
        let (last, _) = finish_stream(events).await;
        let response = &last.data["response"];
        assert_eq!(response["output_text"], format!("You said: <I am {number}>"));
        assert_eq!(id(response), ids[number]);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), STREAMS);
}

#[tokio::test]
async fn a_stream_flows_over_http_2() {
    let stack = Stack::shared().await;
    let mut turns = stack.upstream.play("stream-http-2");
    let mut connection = Connection::http2(stack.envoy.address).await;
    let body = json!({"model": "stream-http-2", "input": "Hi", "stream": true});
    let request = post("/v1/responses", &body);
    let (reply, live) = tokio::join!(connection.send(request), begin_answer(&mut turns));
    let mut events = reply.events();
    events.expect("response.created").await;
    events.expect("response.in_progress").await;
    live.chunk(&chat::text("Hello")).await;
    assert_eq!(events.skip_to("response.output_text.delta").await["delta"], "Hello");
    live.finish().await;
    let (last, _) = finish_stream(events).await;
    assert_eq!(last.kind, "response.completed");
}

#[tokio::test]
async fn a_reset_http_2_stream_closes_its_upstream() {
    let stack = Stack::shared().await;
    let mut turns = stack.upstream.play("stream-http-2-reset");
    let mut connection = Connection::http2(stack.envoy.address).await;
    let body = json!({"model": "stream-http-2-reset", "input": "Hi", "stream": true});
    let request = post("/v1/responses", &body);
    let (reply, live) = tokio::join!(connection.send(request), begin_answer(&mut turns));
    let mut events = reply.events();
    events.expect("response.created").await;
    drop(events);
    live.closed().await;
    assert!(connection.stays_open().await);
}

fn look_up() -> Value {
    json!({"type": "function", "name": "look_up", "parameters": {"type": "object"}})
}
