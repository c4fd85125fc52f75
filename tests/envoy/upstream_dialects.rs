//! The dialects of backends through the whole path: which one a model's requests go up in, and what comes back of them.

use serde_json::{Value, json};

use super::{assert_complete, id};
use crate::support::grammar;
use crate::support::stack::chat;
use crate::support::stack::upstream::Answer;
use crate::support::stack::{Hold, Stack, StackOptions};

async fn stack() -> Hold {
    let settings = json!({
        "upstream": {"preset": "vllm", "models": [
            {"match": "deep-*", "preset": "deepseek"},
            {"match": "tagged", "split_think": true},
        ]},
        "history": {"repair": "repair"},
    });
    Stack::start(StackOptions { settings, ..StackOptions::default() }).await
}

/// A turn that thinks and calls, and one that follows it; returns the second request that the backend got.
async fn two_turns(stack: &Stack, model: &str, input: &Value) -> (Value, String) {
    stack.upstream.answer(model, |received| {
        let call = json!([{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
        let message = json!({"role": "assistant", "content": null, "reasoning": "Call f.", "tool_calls": call});
        let is_first = received.json()["messages"].as_array().unwrap().len() == 1;
        let answer = if is_first { chat::completion_of(&message, "tool_calls") } else { chat::completion("Done.") };
        Answer::json(200, &answer)
    });
    let tools = json!([{"type": "function", "name": "f", "parameters": {"type": "object"}}]);
    let effort = json!({"effort": "xhigh"});
    let first = json!({"model": model, "input": "Go.", "tools": tools, "reasoning": effort});
    let first = stack.created(&first).await;
    assert_complete(&first);
    let second = json!({
        "model": model, "input": input, "tools": tools, "reasoning": effort, "previous_response_id": id(&first),
    });
    let reply = stack.create(&second).await;
    assert_eq!(reply.status, 200);
    let lossy = reply.header("x-responses-lossy").to_owned();
    assert_complete(&reply.json().await);
    (stack.upstream.received(model).last().unwrap().json(), lossy)
}

#[tokio::test]
async fn each_model_is_spoken_to_in_the_dialect_of_its_backend() {
    let stack = stack().await;
    let output = json!([{"type": "function_call_output", "call_id": "call_1", "output": "ok"}]);
    let (deepseek, _) = two_turns(&stack, "deep-1", &output).await;
    assert_eq!(deepseek["messages"][1]["reasoning_content"], "Call f.");
    assert_eq!(deepseek["reasoning_effort"], "high");
    assert_eq!(deepseek["chat_template_kwargs"], Value::Null);

    let (vllm, _) = two_turns(&stack, "other", &output).await;
    assert_eq!(vllm["messages"][1]["reasoning"], "Call f.");
    assert_eq!(vllm["messages"][1]["reasoning_content"], Value::Null);
    assert_eq!(vllm["chat_template_kwargs"]["enable_thinking"], true);
}

#[tokio::test]
async fn a_chain_that_a_user_interrupted_goes_on_where_histories_are_repaired() {
    let stack = stack().await;
    let (chat, lossy) = two_turns(&stack, "interrupted", &json!("Never mind.")).await;
    let messages = chat["messages"].as_array().unwrap();
    let roles: Vec<&str> = messages.iter().map(|message| message["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "user"]);
    assert_eq!(messages[2]["content"], "tool result unavailable");
    assert_eq!(lossy, "call_without_output=call_1");
}

#[tokio::test]
async fn reasoning_between_tags_is_split_off_streamed_and_not() {
    let stack = stack().await;
    stack.upstream.answer("tagged", |received| {
        if received.json()["stream"] == true {
            let texts = ["<th", "ink>Let me ", "see.</thi", "nk>\n\nHel", "lo."].map(chat::text);
            Answer::chunks(&texts.into_iter().chain([chat::finish("stop")]).collect::<Vec<_>>())
        } else {
            Answer::completion("<think>Let me see.</think>\n\nHello.")
        }
    });
    let whole = stack.created(&json!({"model": "tagged", "input": "Hi"})).await;
    let reply = stack.create(&json!({"model": "tagged", "input": "Hi", "stream": true})).await;
    let streamed = grammar::check(&reply.bytes().await).unwrap().response;
    for response in [whole, streamed] {
        assert_eq!(response["output"][0]["content"][0]["text"], "Let me see.");
        assert_eq!(response["output_text"], "Hello.");
    }
}
