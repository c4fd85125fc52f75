//! Tools that chat does not know, as agents use them.

use serde_json::{Value, json};

use super::{finish_stream, id, open_stream};
use crate::support::stack::Stack;
use crate::support::stack::chat;
use crate::support::stack::upstream::Answer;

const PATCH: &str = "*** Begin Patch\n+a \"quoted\" line, é and 😀\n*** End Patch";

fn tools() -> Value {
    json!([
        {"type": "custom", "name": "apply_patch", "description": "Edits files.",
         "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}},
        {"type": "namespace", "name": "agents", "description": "Agents.",
         "tools": [{"type": "function", "name": "spawn", "parameters": {"type": "object"}}]},
        {"type": "web_search"},
    ])
}

/// A stream in which the model patches a file and spawns an agent; the terminal event's response.
async fn called(stack: &Stack, model: &str) -> Value {
    let body = json!({"input": [{"role": "user", "content": "Patch."}], "tools": tools()});
    let (mut events, live) = open_stream(stack, model, &body).await;
    events.expect("response.created").await;
    events.expect("response.in_progress").await;
    live.chunk(&chat::delta(&json!({"tool_calls": [chat::call("call_1", "apply_patch", "")]}))).await;
    let added = events.expect("response.output_item.added").await;
    assert_eq!((&added["item"]["type"], &added["item"]["name"]), (&json!("custom_tool_call"), &json!("apply_patch")));
    let arguments = json!({"input": PATCH}).to_string();
    for letter in arguments.chars() {
        let call = json!({"index": 0, "function": {"arguments": letter.to_string()}});
        live.chunk(&chat::delta(&json!({"tool_calls": [call]}))).await;
    }
    // The text is there while the call still goes on.
    let mut input = String::new();
    while input != PATCH {
        let delta = events.expect("response.custom_tool_call_input.delta").await;
        input.push_str(delta["delta"].as_str().unwrap());
        assert!(PATCH.starts_with(&input), "{input}");
    }
    let mut spawn = chat::call("call_2", "agents__spawn", "{}");
    spawn["index"] = json!(1);
    live.chunk(&chat::delta(&json!({"tool_calls": [spawn]}))).await;
    live.chunk(&chat::finish("tool_calls")).await;
    live.end().await;
    let (last, _) = finish_stream(events).await;
    assert_eq!(last.kind, "response.completed");
    let response = last.data["response"].clone();
    assert_eq!(response["output"][0]["input"], PATCH);
    assert_eq!(response["output"][1]["namespace"], "agents");
    assert_eq!(response["output"][1]["name"], "spawn");
    assert_eq!(response["tools"][2], json!({"type": "web_search"}));
    let stored = stack.retrieve(id(&response)).await.json().await;
    assert_eq!(stored, response);
    response
}

fn outputs() -> Value {
    json!([
        {"type": "custom_tool_call_output", "call_id": "call_1", "output": "Success."},
        {"type": "function_call_output", "call_id": "call_2", "output": "Spawned."},
    ])
}

/// What the second turn's request looks like to the backend, however the client continues.
fn assert_continued(stack: &Stack, model: &str) {
    let body = stack.upstream.received(model).pop().unwrap().json();
    let arguments = json!({"input": PATCH}).to_string();
    let wanted = json!([
        {"role": "user", "content": "Patch."},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "apply_patch", "arguments": arguments}},
            {"id": "call_2", "type": "function", "function": {"name": "agents__spawn", "arguments": "{}"}},
        ]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Success."},
        {"role": "tool", "tool_call_id": "call_2", "content": "Spawned."},
    ]);
    assert_eq!(body["messages"], wanted);
    let names: Vec<&Value> = body["tools"].as_array().unwrap().iter().map(|tool| &tool["function"]["name"]).collect();
    assert_eq!(names, ["apply_patch", "agents__spawn"]);
}

#[tokio::test]
async fn outputs_of_custom_and_namespaced_calls_continue_a_chain() {
    let stack = Stack::shared().await;
    let first = called(&stack, "tools-chain").await;
    stack.upstream.answer("tools-chain-2", |_| Answer::completion("Done."));
    let body = json!({
        "model": "tools-chain-2", "previous_response_id": first["id"], "input": outputs(), "tools": tools(),
    });
    let reply = stack.create(&body).await;
    assert_eq!(reply.header("x-responses-lossy"), "tool_type=web_search");
    assert_eq!(reply.json().await["output_text"], "Done.");
    assert_continued(&stack, "tools-chain-2");
}

#[tokio::test]
async fn a_full_replay_of_custom_and_namespaced_calls_says_the_same() {
    let stack = Stack::shared().await;
    let first = called(&stack, "tools-replay").await;
    stack.upstream.answer("tools-replay-2", |_| Answer::completion("Done."));
    let mut input = json!([{"role": "user", "content": "Patch."}]);
    let items = input.as_array_mut().unwrap();
    items.extend(first["output"].as_array().unwrap().iter().cloned());
    items.extend(outputs().as_array().unwrap().iter().cloned());
    // As Codex sends them: not stored, and its tools inside an item.
    items.push(json!({"type": "additional_tools", "role": "developer", "tools": tools()}));
    let body = json!({"model": "tools-replay-2", "store": false, "input": input});
    let second = stack.created(&body).await;
    assert_eq!((&second["output_text"], &second["tools"]), (&json!("Done."), &json!([])));
    assert_continued(&stack, "tools-replay-2");
}

#[tokio::test]
async fn a_phase_is_stored_and_listed_and_none_is_made_up() {
    let stack = Stack::shared().await;
    stack.upstream.answer("tools-phase", |_| Answer::completion("Done."));
    let said = json!({"type": "message", "role": "assistant", "phase": "commentary",
        "content": [{"type": "output_text", "text": "Hm.", "annotations": []}]});
    let body = json!({"model": "tools-phase", "input": [said, {"role": "user", "content": "So?"}]});
    let response = stack.created(&body).await;
    assert!(response["output"][0].get("phase").is_none(), "{response}");
    let items = stack.get(&format!("/v1/responses/{}/input_items?order=asc", id(&response))).await.json().await;
    assert_eq!(items["data"][0]["phase"], "commentary");
}
