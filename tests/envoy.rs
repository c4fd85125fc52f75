//! The whole path: a client, a real Envoy, the real binary, a scripted chat backend.

mod attack;
mod checked;
mod cluster;
mod dialects;
mod drain;
mod errors;
mod failures;
mod foreign;
mod json;
mod lifecycle;
mod limits;
mod requests;
mod state;
mod stream;
mod telemetry;
mod tenancy;
mod tls;
mod tools;
#[cfg(feature = "otlp")]
mod traces;
mod upstream_dialects;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::grammar;
use crate::support::stack::Stack;
use crate::support::stack::chat;
use crate::support::stack::client;
use crate::support::stack::http::{Ending, Event, Events, Reply};
use crate::support::stack::upstream::{Live, Turns};

/// What every response has (CONTRACT §3), and whether it may be null.
const RESPONSE_KEYS: [(&str, bool); 34] = [
    ("id", false),
    ("object", false),
    ("created_at", false),
    ("completed_at", true),
    ("status", false),
    ("error", true),
    ("incomplete_details", true),
    ("model", false),
    ("previous_response_id", true),
    ("instructions", true),
    ("output", false),
    ("output_text", false),
    ("tools", false),
    ("tool_choice", false),
    ("parallel_tool_calls", false),
    ("truncation", false),
    ("text", false),
    ("temperature", false),
    ("top_p", false),
    ("presence_penalty", false),
    ("frequency_penalty", false),
    ("top_logprobs", false),
    ("reasoning", true),
    ("usage", true),
    ("max_output_tokens", true),
    ("max_tool_calls", true),
    ("store", false),
    ("background", false),
    ("service_tier", false),
    ("metadata", false),
    ("safety_identifier", true),
    ("prompt_cache_key", true),
    ("user", true),
    ("conversation", true),
];

#[track_caller]
fn assert_complete(response: &Value) {
    let object = response.as_object().unwrap();
    for (key, nullable) in RESPONSE_KEYS {
        let value = object.get(key).unwrap_or_else(|| panic!("{key} is missing: {response}"));
        assert!(nullable || !value.is_null(), "{key} is null: {response}");
    }
    assert_eq!(object.len(), RESPONSE_KEYS.len(), "{response}");
    assert_eq!(response["object"], "response");
    assert!(response["created_at"].is_u64(), "{response}");
    assert!(response["text"]["format"]["type"].is_string(), "{response}");
    let digits = response["id"].as_str().unwrap().strip_prefix("resp_").unwrap();
    assert!(digits.len() == 32 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{digits}");
}

/// An error answer of the shape that clients parse; its `error`.
async fn error_of(reply: Reply, status: u16) -> Value {
    let (got, content_type) = (reply.status, reply.header("content-type").to_owned());
    let framing = (reply.header("content-length").to_owned(), reply.header("transfer-encoding").to_owned());
    let body = reply.bytes().await;
    let text = String::from_utf8_lossy(&body);
    assert_eq!(got, status, "{text}");
    assert_eq!(content_type, "application/json", "{text}");
    assert_framing(&framing, &body);
    assert_error_shape(&body)
}

/// Content-length and transfer-encoding of a body: the exact length, or none.
#[track_caller]
fn assert_framing((length, transfer): &(String, String), body: &[u8]) {
    if !length.is_empty() || transfer.is_empty() {
        assert_eq!(*length, body.len().to_string());
    }
}

#[track_caller]
fn assert_error_shape(body: &[u8]) -> Value {
    client::error_of(body).unwrap_or_else(|why| panic!("{why}"))
}

fn keys(object: &Value) -> Vec<&str> {
    object.as_object().unwrap_or_else(|| panic!("{object}")).keys().map(String::as_str).collect()
}

/// Opens a stream whose upstream the test plays. What it has sent until now holds no token.
async fn open_stream(stack: &Stack, model: &str, body: &Value) -> (Events, Live) {
    let mut turns = stack.upstream.play(model);
    let mut body = body.clone();
    body["model"] = json!(model);
    body["stream"] = json!(true);
    let (reply, live) = tokio::join!(stack.create(&body), begin_answer(&mut turns));
    (reply.events(), live)
}

/// Answers the next request with a stream that has begun. Envoy lets nothing of ours pass before the upstream's first
/// byte, so there is one: the chunk that only tells the role.
async fn begin_answer(turns: &mut Turns) -> Live {
    let live = turns.next().await.stream();
    live.chunk(&chat::delta(&json!({"role": "assistant", "content": ""}))).await;
    live
}

/// The same, read up to the first token; with the id that `response.created` announced.
async fn begin_stream(stack: &Stack, model: &str) -> (Events, Live, String) {
    let (mut events, live) = open_stream(stack, model, &json!({"input": "Hi"})).await;
    let created = events.expect("response.created").await;
    events.expect("response.in_progress").await;
    let id = created["response"]["id"].as_str().unwrap().to_owned();
    (events, live, id)
}

/// Reads a stream to its end and checks all of it; the response of its terminal event.
async fn finish_stream(events: Events) -> (Event, Vec<u8>) {
    let (mut events, bytes, ending) = events.rest().await;
    assert_eq!(ending, Ending::Clean);
    if let Err(problem) = grammar::check(&bytes) {
        panic!("{problem}\n{}", String::from_utf8_lossy(&bytes));
    }
    (events.pop().unwrap(), bytes)
}

/// The stored response, as soon as it is there.
async fn eventually_stored(stack: &Stack, id: &str) -> Value {
    crate::support::stack::wait::eventually("the response is stored", async || {
        let reply = stack.retrieve(id).await;
        if reply.status == 404 { None } else { Some(reply.json().await) }
    })
    .await
}

/// Id of a response.
fn id(response: &Value) -> &str {
    response["id"].as_str().unwrap()
}

/// A text of this many bytes that does not repeat itself soon.
fn long_text(bytes: usize) -> String {
    (0..).flat_map(|number: u32| format!("{number} ").into_bytes()).take(bytes).map(char::from).collect()
}

fn utf8(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
