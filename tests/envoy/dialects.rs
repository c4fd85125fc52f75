//! The dialects of our own API through the whole path (CONTRACT §7): JSON, a stream, a failing one, an error, and the
//! input items. The default dialect is what all other tests speak.

use responses_router::openai::dialect::ApiDialect;
use serde_json::{Value, json};

use super::{assert_complete, id};
use crate::support::grammar;
use crate::support::stack::chat;
use crate::support::stack::http::Reply;
use crate::support::stack::upstream::Answer;
use crate::support::stack::{Hold, Stack, StackOptions};

async fn speaking(dialect: &str) -> Hold {
    let settings = json!({"response_api": {"dialect": dialect}});
    Stack::start(StackOptions { settings, ..StackOptions::default() }).await
}

/// Answers as a backend that reasons first.
fn reasoning(streamed: bool) -> Answer {
    if streamed {
        let thought = chat::delta(&json!({"role": "assistant", "reasoning_content": "Let me see."}));
        Answer::chunks(&[thought, chat::text("Hello."), chat::finish("stop")])
    } else {
        let message = json!({"role": "assistant", "content": "Hello.", "reasoning_content": "Let me see."});
        Answer::json(200, &chat::completion_of(&message, "stop"))
    }
}

/// The events of a stream, checked in the dialect: their names, and the bytes as text.
async fn events(reply: Reply, dialect: ApiDialect) -> (Vec<String>, String) {
    assert_eq!(reply.status, 200);
    let bytes = reply.bytes().await;
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let summary = grammar::check_in(&bytes, dialect).unwrap_or_else(|why| panic!("{why}\n{text}"));
    (summary.events.into_iter().map(|event| event.name).collect(), text)
}

async fn error_code(reply: Reply, status: u16) -> Value {
    assert_eq!(reply.status, status);
    let body = reply.json().await;
    let error = &body["error"];
    assert!(error["message"].is_string() && error["type"].is_string(), "{body}");
    error["code"].clone()
}

#[tokio::test]
async fn open_responses_is_spoken() {
    let stack = speaking("open_responses").await;
    stack.upstream.answer("dialect", |received| reasoning(received.json()["stream"] == true));
    let response = stack.created(&json!({"model": "dialect", "input": "Hi", "instructions": "Be brief."})).await;
    assert_complete(&response);

    let reply = stack.create(&json!({"model": "dialect", "input": "Hi", "stream": true})).await;
    let (names, text) = events(reply, ApiDialect::OPEN_RESPONSES).await;
    assert!(names.iter().any(|name| name == "response.reasoning.delta"), "{names:?}");
    assert_eq!(names.last().map(String::as_str), Some("response.completed"));
    assert_eq!(text.matches("[DONE]").count(), 1);

    stack
        .upstream
        .answer("dialect-fails", |_| Answer::chunks(&[chat::text("Hel"), json!({"error": {"message": "boom"}})]));
    let reply = stack.create(&json!({"model": "dialect-fails", "input": "Hi", "stream": true})).await;
    let (names, _) = events(reply, ApiDialect::OPEN_RESPONSES).await;
    assert_eq!(names[names.len() - 2..], ["error", "response.failed"]);

    let lost = json!({"model": "dialect", "input": "Hi", "previous_response_id": "resp_x"});
    assert_eq!(error_code(stack.create(&lost).await, 400).await, "previous_response_not_found");
    assert_eq!(error_code(stack.retrieve("resp_x").await, 404).await, Value::Null);
    let items = stack.get(&format!("/v1/responses/{}/input_items", id(&response))).await.json().await;
    assert_eq!(items["data"].as_array().unwrap().len(), 1, "{items}");
}

#[tokio::test]
async fn semantic_router_is_spoken() {
    let stack = speaking("semantic_router").await;
    stack.upstream.answer("dialect", |received| reasoning(received.json()["stream"] == true));
    let first = stack.created(&json!({"model": "dialect", "input": "Hi", "instructions": "Be brief."})).await;
    assert_complete(&first);

    let body = json!({"model": "dialect", "input": "And?", "stream": true, "previous_response_id": first["id"]});
    let (names, text) = events(stack.create(&body).await, ApiDialect::SEMANTIC_ROUTER).await;
    assert!(names.iter().any(|name| name == "response.reasoning_text.delta"), "{names:?}");
    assert!(!text.contains("sequence_number") && !text.contains("[DONE]"));
    let sent = stack.upstream.received("dialect")[1].messages();
    assert_eq!(sent[0], ("system".to_owned(), "Be brief.".to_owned()));

    for (reply, status) in [
        (stack.create(&json!({"model": "dialect", "input": "Hi", "previous_response_id": "resp_x"})).await, 400),
        (stack.create(&json!({"model": "dialect"})).await, 400),
        (stack.retrieve("resp_x").await, 404),
    ] {
        assert_eq!(error_code(reply, status).await, status);
    }
    stack
        .upstream
        .answer("dialect-refuses", |_| Answer::json(429, &json!({"error": {"message": "slow", "code": "x"}})));
    let refused = stack.create(&json!({"model": "dialect-refuses", "input": "Hi"})).await;
    assert_eq!(error_code(refused, 429).await, 429);

    let path = format!("/v1/responses/{}/input_items", id(&first));
    let items = stack.get(&format!("{path}?order=asc")).await.json().await;
    assert_eq!(items["data"].as_array().unwrap().len(), 2, "{items}");
    let instructions = &items["data"][0];
    assert_eq!((&instructions["role"], &instructions["type"]), (&json!("system"), &json!("message")));
    assert_eq!(instructions["content"], json!([{"type": "input_text", "text": "Be brief."}]));
    let after = format!("{path}?order=asc&after={}", instructions["id"].as_str().unwrap());
    assert_eq!(stack.get(&after).await.json().await["data"], json!([items["data"][1]]));
}
