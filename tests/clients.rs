//! Real clients against the whole path. Their programs are in `clients/`; what the backend answers is scripted here.
//!
//! Here: the official Python SDK, to the last detail. `matrix` has every client, scene by scene; `codex` the Codex CLI,
//! `codex_tools` the tools that it has beside functions.

mod capture;
mod codex;
mod codex_tools;
mod matrix;
mod program;
mod scenes;
mod table;

use serde_json::{Value, json};

use self::program::Program;
use crate::support::stack::upstream::{Answer, Received};
use crate::support::stack::{Stack, chat};

#[tokio::test]
async fn the_python_sdk_creates_retrieves_and_deletes() {
    let stack = Stack::shared().await;
    stack.upstream.answer("sdk-create", echo);
    stack.upstream.answer("sdk-parse", |_| Answer::completion("{\"city\": \"Köln\", \"inhabitants\": 1090000}"));
    stack.upstream.answer("sdk-parse-stream", |_| Answer::words("{\"city\": \"Köln\", \"inhabitants\": 1090000}"));
    run("sdk_responses.py", &stack).await;
    let format = &stack.upstream.received("sdk-parse")[0].json()["response_format"];
    assert_eq!((&format["type"], &format["json_schema"]["strict"]), (&json!("json_schema"), &json!(true)));
}

#[tokio::test]
async fn the_python_sdk_follows_streams() {
    let stack = Stack::shared().await;
    stack.upstream.answer("sdk-stream", |_| Answer::words("Hello to all of you."));
    stack.upstream.answer("sdk-stream-reasoning", |_| {
        Answer::chunks(&[
            chat::delta(&json!({"role": "assistant", "reasoning_content": "Let me "})),
            chat::delta(&json!({"reasoning_content": "think."})),
            chat::text("Thought."),
            chat::finish("stop"),
            chat::usage_chunk(),
        ])
    });
    stack.upstream.answer("sdk-stream-refusal", |_| {
        Answer::chunks(&[
            chat::delta(&json!({"role": "assistant", "refusal": "I will "})),
            chat::delta(&json!({"refusal": "not."})),
            chat::finish("stop"),
            chat::usage_chunk(),
        ])
    });
    stack.upstream.answer("sdk-stream-length", |_| {
        Answer::chunks(&[chat::text("Too lo"), chat::finish("length"), chat::usage_chunk()])
    });
    stack.upstream.answer("sdk-stream-failed", |_| {
        Answer::chunks(&[chat::text("Partial"), json!({"error": {"message": "out of memory", "code": 500}})])
    });
    run("sdk_streams.py", &stack).await;
}

#[tokio::test]
async fn the_python_sdk_calls_tools_in_turns() {
    let stack = Stack::shared().await;
    stack.upstream.answer("sdk-tools", weather);
    run("sdk_tools.py", &stack).await;
}

#[tokio::test]
async fn the_python_sdk_raises_the_right_error() {
    let stack = Stack::shared().await;
    stack.upstream.answer("sdk-error", echo);
    for (model, status, message) in [
        ("sdk-error-400", 400, "bad"),
        ("sdk-error-401", 401, "who"),
        ("sdk-error-403", 403, "no"),
        ("sdk-error-404", 404, "what"),
        ("sdk-error-409", 409, "both"),
        ("sdk-error-422", 422, "huh"),
        ("sdk-error-429", 429, "slow"),
        ("sdk-error-500", 500, "oops"),
        ("sdk-error-503", 503, "later"),
    ] {
        stack.upstream.answer(model, move |_| {
            Answer::json(status, &json!({"error": {"message": message, "code": status}})).header("retry-after", "7")
        });
    }
    stack.upstream.answer("sdk-error-garbage", |_| Answer::text(200, "text/html", "<html>"));
    run("sdk_errors.py", &stack).await;
}

#[tokio::test]
async fn fifty_chains_of_the_python_sdk_do_not_mix() {
    let stack = Stack::shared().await;
    stack.upstream.answer("sdk-chains", echo);
    run("sdk_chains.py", &stack).await;
}

/// Says how many messages there are and what the last one is, streamed when asked to.
fn echo(received: &Received) -> Answer {
    let messages = received.messages();
    let all: Vec<&str> = messages.iter().filter(|(role, _)| role == "user").map(|(_, text)| text.as_str()).collect();
    let text = format!("{}: {}", messages.len(), all.join(" "));
    if received.json()["stream"] == true { Answer::words(&text) } else { Answer::completion(&text) }
}

/// Asks for the weather of two cities, and tells it once it is there.
fn weather(received: &Received) -> Answer {
    let body = received.json();
    let messages = body["messages"].as_array().unwrap();
    let outputs: Vec<&str> = messages
        .iter()
        .filter(|message| message["role"] == "tool")
        .filter_map(|message| message["content"].as_str())
        .collect();
    let streamed = body["stream"] == true;
    if !outputs.is_empty() {
        let text = outputs.join(" and ");
        return if streamed { Answer::words(&text) } else { Answer::completion(&text) };
    }
    let mut calls = [
        chat::call("call_1", "weather", "{\"city\": \"Oslo\"}"),
        chat::call("call_2", "weather", "{\"city\": \"Rome\"}"),
    ];
    calls[1]["index"] = json!(1);
    if streamed {
        let mut chunks: Vec<Value> = calls.iter().map(|call| chat::delta(&json!({"tool_calls": [call]}))).collect();
        chunks.extend([chat::finish("tool_calls"), chat::usage_chunk()]);
        return Answer::chunks(&chunks);
    }
    let message = json!({"role": "assistant", "content": null, "tool_calls": calls});
    Answer::json(200, &chat::completion_of(&message, "tool_calls"))
}

/// Runs a file of Python tests against a stack; shows what it printed if one fails.
async fn run(file: &'static str, stack: &Stack) {
    let base_url = format!("http://{}/v1", stack.envoy.address);
    Program::Sdk(file).run(&[], &[("BASE_URL", &base_url)]).await;
}
