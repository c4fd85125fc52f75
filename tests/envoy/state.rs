//! What is remembered between requests.

use serde_json::{Value, json};

use super::{begin_stream, error_of, finish_stream, id};
use crate::support::stack::chat;
use crate::support::stack::upstream::{Answer, Received};
use crate::support::stack::{Stack, StackOptions};

/// Answers with the texts of all messages that came.
fn recall(received: &Received) -> Answer {
    let texts: Vec<String> = received.messages().into_iter().map(|(_, text)| text).collect();
    Answer::completion(&format!("[{}]", texts.join("|")))
}

async fn turn(stack: &Stack, model: &str, input: &str, previous: Option<&str>) -> Value {
    stack.created(&json!({"model": model, "input": input, "previous_response_id": previous})).await
}

#[tokio::test]
async fn a_chain_carries_the_whole_conversation() {
    let stack = Stack::shared().await;
    stack.upstream.answer("state-chain", recall);
    let first = turn(&stack, "state-chain", "one", None).await;
    let second = turn(&stack, "state-chain", "two", Some(id(&first))).await;
    let third = turn(&stack, "state-chain", "three", Some(id(&second))).await;
    assert_eq!(first["output_text"], "[one]");
    assert_eq!(second["output_text"], "[one|[one]|two]");
    assert_eq!(third["output_text"], "[one|[one]|two|[one|[one]|two]|three]");
    assert_eq!(third["previous_response_id"], second["id"]);
    let roles: Vec<_> =
        stack.upstream.received("state-chain")[2].messages().into_iter().map(|(role, _)| role).collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant", "user"]);
}

#[tokio::test]
async fn a_response_can_be_continued_more_than_once() {
    let stack = Stack::shared().await;
    stack.upstream.answer("state-branch", recall);
    let root = turn(&stack, "state-branch", "root", None).await;
    let root = id(&root);
    let (left, right) = tokio::join!(
        turn(&stack, "state-branch", "left", Some(root)),
        turn(&stack, "state-branch", "right", Some(root))
    );
    assert_eq!(left["output_text"], "[root|[root]|left]");
    assert_eq!(right["output_text"], "[root|[root]|right]");
    let leaf = turn(&stack, "state-branch", "leaf", Some(id(&left))).await;
    assert_eq!(leaf["output_text"], "[root|[root]|left|[root|[root]|left]|leaf]");
}

#[tokio::test]
async fn instructions_are_not_carried_over() {
    let stack = Stack::shared().await;
    stack.upstream.answer("state-instructions", recall);
    let body = json!({"model": "state-instructions", "input": "one", "instructions": "Be brief."});
    let first = stack.created(&body).await;
    let second = turn(&stack, "state-instructions", "two", Some(id(&first))).await;
    assert_eq!(second["instructions"], json!(null));
    let roles: Vec<_> =
        stack.upstream.received("state-instructions")[1].messages().into_iter().map(|(role, _)| role).collect();
    assert_eq!(roles, ["user", "assistant", "user"]);
}

#[tokio::test]
async fn tool_calls_are_answered_in_the_next_turn() {
    let stack = Stack::shared().await;
    stack.upstream.answer("state-tools", |received| {
        let body = received.json();
        if body["messages"].as_array().unwrap().iter().any(|message| message["role"] == "tool") {
            return recall(received);
        }
        let calls = [chat::call("call_1", "add", "{\"a\":1}"), chat::call("call_2", "add", "{\"a\":2}")];
        let message = json!({"role": "assistant", "content": null, "tool_calls": calls});
        Answer::json(200, &chat::completion_of(&message, "tool_calls"))
    });
    let tool = json!({"type": "function", "name": "add", "parameters": {"type": "object"}});
    let first = stack.created(&json!({"model": "state-tools", "input": "Add.", "tools": [tool]})).await;
    let outputs = json!([
        {"type": "function_call_output", "call_id": "call_2", "output": "two"},
        {"type": "function_call_output", "call_id": "call_1", "output": "one"},
    ]);
    let body = json!({"model": "state-tools", "previous_response_id": first["id"], "input": outputs, "tools": [tool]});
    stack.created(&body).await;
    let messages = stack.upstream.received("state-tools")[1].json()["messages"].clone();
    assert_eq!(messages.as_array().unwrap().len(), 4, "{messages}");
    assert_eq!(messages[1]["tool_calls"].as_array().unwrap().len(), 2);
    let mut tools = [&messages[2], &messages[3]].map(|message| {
        assert_eq!(message["role"], "tool", "{messages}");
        (message["tool_call_id"].as_str().unwrap(), message["content"].as_str().unwrap())
    });
    tools.sort_unstable();
    assert_eq!(tools, [("call_1", "one"), ("call_2", "two")]);

    let unanswered = json!({"model": "state-tools", "previous_response_id": first["id"], "input": "Never mind."});
    let error = error_of(stack.create(&unanswered).await, 400).await;
    assert_eq!(error["param"], "input");
}

#[tokio::test]
async fn a_stream_can_be_continued_at_the_moment_it_completes() {
    let stack = Stack::shared().await;
    let (mut events, live, first) = begin_stream(&stack, "state-after-stream").await;
    live.chunk(&chat::text("Hello")).await;
    live.finish().await;
    events.skip_to("response.completed").await;
    stack.upstream.answer("state-after-stream-2", recall);
    let second = turn(&stack, "state-after-stream-2", "two", Some(&first)).await;
    assert_eq!(second["output_text"], "[Hi|Hello|two]");
    let (rest, _, _) = events.rest().await;
    assert!(rest.is_empty());
}

#[tokio::test]
async fn nothing_is_kept_of_a_response_that_is_not_stored() {
    let stack = Stack::shared().await;
    stack.upstream.answer("state-unstored", |received| {
        if received.json()["stream"] == true { Answer::words("Hello.") } else { Answer::completion("Hello.") }
    });
    let mut body = json!({"model": "state-unstored", "input": "Hi", "store": false});
    let plain = stack.created(&body).await;
    body["stream"] = json!(true);
    let (last, _) = finish_stream(stack.create(&body).await.events()).await;
    for response in [&plain, &last.data["response"]] {
        assert_eq!(response["store"], false);
        assert_gone(&stack, id(response)).await;
    }
}

#[tokio::test]
async fn a_deleted_response_is_gone_for_every_use() {
    let stack = Stack::shared().await;
    stack.upstream.answer("state-deleted", recall);
    let response = turn(&stack, "state-deleted", "one", None).await;
    let reply = stack.delete(id(&response)).await;
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "application/json"));
    let expected = json!({"id": response["id"], "object": "response.deleted", "deleted": true});
    assert_eq!(reply.json().await, expected);
    assert_gone(&stack, id(&response)).await;
}

async fn assert_gone(stack: &Stack, id: &str) {
    for reply in
        [stack.retrieve(id).await, stack.delete(id).await, stack.get(&format!("/v1/responses/{id}/input_items")).await]
    {
        let error = error_of(reply, 404).await;
        assert_eq!((&error["type"], &error["code"]), (&json!("invalid_request_error"), &json!(null)));
    }
    assert_no_parent(stack, id).await;
}

async fn assert_no_parent(stack: &Stack, id: &str) {
    for stream in [false, true] {
        let body = json!({"model": "state-parents", "input": "Hi", "previous_response_id": id, "stream": stream});
        let error = error_of(stack.create(&body).await, 400).await;
        assert_eq!(error["message"], format!("Previous response with id '{id}' not found."));
        assert_eq!(
            (&error["type"], &error["param"], &error["code"]),
            (&json!("invalid_request_error"), &json!("previous_response_id"), &json!("previous_response_not_found"))
        );
    }
    assert!(stack.upstream.received("state-parents").is_empty());
}

#[tokio::test]
async fn a_parent_that_never_was_is_refused_like_one_that_is_gone() {
    let stack = Stack::shared().await;
    for unknown in ["resp_00000000000000000000000000000000", "resp_x", "resp_../../x", "msg_1", "x"] {
        assert_no_parent(&stack, unknown).await;
    }
}

#[tokio::test]
async fn a_conversation_is_never_continued_without_its_beginning() {
    let stack = Stack::shared().await;
    stack.upstream.answer("state-ancestors", recall);
    let first = turn(&stack, "state-ancestors", "one", None).await;
    let second = turn(&stack, "state-ancestors", "two", Some(id(&first))).await;
    let third = turn(&stack, "state-ancestors", "three", Some(id(&second))).await;
    assert_eq!(stack.delete(id(&first)).await.status, 200);
    for (parent, name) in [(&third, "two generations"), (&second, "one generation")] {
        let body = json!({"model": "state-ancestors", "input": "four", "previous_response_id": parent["id"]});
        let error = error_of(stack.create(&body).await, 400).await;
        assert_eq!(error["code"], "previous_response_not_found", "{name}");
        assert_eq!(error["param"], "previous_response_id", "{name}");
    }
    assert_eq!(stack.upstream.received("state-ancestors").len(), 3);
    assert_eq!(stack.retrieve(id(&third)).await.json().await, third);
}

#[tokio::test]
async fn items_of_any_stored_response_can_be_referred_to() {
    let stack = Stack::shared().await;
    stack.upstream.answer("state-references", recall);
    let first = turn(&stack, "state-references", "one", None).await;
    let second = turn(&stack, "state-references", "two", None).await;
    let reference = |response: &Value| json!({"type": "item_reference", "id": response["output"][0]["id"]});
    for stream in [false, true] {
        // As the Vercel AI SDK continues a conversation: the whole of it, answers by reference, no previous_response_id.
        let body = json!({"model": "state-references", "stream": stream, "input": [
            {"role": "user", "content": "one"}, reference(&first), {"role": "user", "content": "two"}, reference(&second),
            {"role": "user", "content": "three"},
        ]});
        let third = if stream {
            finish_stream(stack.create(&body).await.events()).await.0.data["response"].clone()
        } else {
            stack.created(&body).await
        };
        assert_eq!(third["output_text"], "[one|[one]|two|[two]|three]");
        let items = stack.get(&format!("/v1/responses/{}/input_items?order=asc", id(&third))).await.json().await;
        assert_eq!(items["data"][1], first["output"][0]);
        assert_eq!(items["data"].as_array().unwrap().len(), 5);
    }
    // Beside a chain, and to a part of it.
    let body = json!({"model": "state-references", "previous_response_id": second["id"],
        "input": [{"role": "user", "content": "one"}, reference(&first), reference(&second),
        {"role": "user", "content": "four"}]});
    let fourth = stack.created(&body).await;
    assert_eq!(fourth["output_text"], "[two|[two]|one|[one]|four]");

    // What was referred to is part of the turn: it can be continued when the response it came from is gone.
    assert_eq!(stack.delete(id(&first)).await.status, 200);
    let fifth = turn(&stack, "state-references", "five", Some(id(&fourth))).await;
    assert!(fifth["output_text"].as_str().unwrap().starts_with("[two|[two]|one|[one]|four|"), "{fifth}");
}

#[tokio::test]
async fn items_that_cannot_be_found_are_all_refused_alike() {
    let stack = Stack::shared().await;
    stack.upstream.answer("state-lost-references", recall);
    let body = json!({"model": "state-lost-references", "input": "one", "store": false});
    let unstored = stack.created(&body).await;
    let deleted = turn(&stack, "state-lost-references", "one", None).await;
    assert_eq!(stack.delete(id(&deleted)).await.status, 200);
    let stored = turn(&stack, "state-lost-references", "one", None).await;
    let beyond = format!("{}9", stored["output"][0]["id"].as_str().unwrap());
    let lost = [&unstored["output"][0]["id"], &deleted["output"][0]["id"], &json!(beyond)];
    for item in lost.into_iter().chain([&json!("msg_x"), &json!("rs_00000000000000000000000000000000_0")]) {
        let asked = stack.upstream.received("state-lost-references").len();
        let body = json!({"model": "state-lost-references", "input": [{"id": item}], "stream": true});
        let error = error_of(stack.create(&body).await, 400).await;
        let found = format!("Item with id '{}' not found.", item.as_str().unwrap());
        let (message, hint) = error["message"].as_str().unwrap().split_at(found.len());
        assert_eq!(message, found);
        assert!(hint.starts_with(" Items are not persisted when `store` is set to false."), "{error}");
        assert_eq!((&error["param"], &error["code"]), (&json!("input"), &json!(null)));
        assert_eq!(stack.upstream.received("state-lost-references").len(), asked);
    }
}

/// 32 bytes that are no secret.
const SEALING_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const OLD_SEALING_KEY: &str = "Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";

#[tokio::test]
async fn a_client_that_keeps_its_own_history_carries_the_reasoning_from_replica_to_replica() {
    let stack = async |keys: Value| {
        let settings = json!({"response_api": {"reasoning_encryption": {"keys": keys}}});
        let stack = Stack::start(StackOptions { settings, ..StackOptions::default() }).await;
        stack.upstream.answer("state-sealed", |received| {
            let message = if received.json()["messages"].as_array().unwrap().len() > 1 {
                json!({"role": "assistant", "content": "42."})
            } else {
                let calls = [chat::call("call_1", "add", "{}")];
                json!({"role": "assistant", "reasoning_content": "A secret thought.", "tool_calls": calls})
            };
            Answer::json(200, &chat::completion_of(&message, "stop"))
        });
        stack
    };
    let (old, new) = (json!({"id": "old", "key": OLD_SEALING_KEY}), json!({"id": "new", "key": SEALING_KEY}));
    let (first, other, keyless) = (stack(json!([old])).await, stack(json!([new, old])).await, stack(json!([])).await);
    for stream in [false, true] {
        // As Codex asks.
        let mut body = json!({"model": "state-sealed", "input": [{"role": "user", "content": "Add."}], "store": false,
            "stream": stream, "include": ["reasoning.encrypted_content"], "reasoning": {"summary": "auto"}});
        let response = if stream {
            finish_stream(first.create(&body).await.events()).await.0.data["response"].clone()
        } else {
            first.created(&body).await
        };
        let mut reasoning = response["output"][0].clone();
        let sealed = reasoning["encrypted_content"].as_str().unwrap();
        assert!(sealed.len() > 60 && !sealed.contains("secret"), "{sealed}");
        reasoning["summary"] = json!([]);
        let history = [reasoning, response["output"][1].clone()];
        let input = body["input"].as_array_mut().unwrap();
        input.extend(history);
        input.push(json!({"type": "function_call_output", "call_id": "call_1", "output": "42"}));
        for (stack, thought) in [(&other, json!("A secret thought.")), (&keyless, json!(null))] {
            body["stream"] = json!(false);
            let reply = stack.create(&body).await;
            assert_eq!(reply.status, 200);
            let lossy = reply.header("x-responses-lossy").to_owned();
            let sent = stack.upstream.received("state-sealed").pop().unwrap().json();
            assert_eq!(sent["messages"][1]["reasoning_content"], thought, "{sent}");
            assert_eq!(lossy.contains("reasoning.encrypted_content=unreadable"), thought.is_null(), "{lossy}");
        }
    }
}

#[tokio::test]
async fn input_items_come_in_pages() {
    let stack = Stack::shared().await;
    stack.upstream.answer("state-items", |_| Answer::completion("Hello."));
    let input: Vec<Value> = (0..5).map(|number| json!({"role": "user", "content": format!("item {number}")})).collect();
    let body = json!({"model": "state-items", "input": input, "instructions": "Not an item."});
    let response = stack.created(&body).await;
    let page = async |query: &str| -> Value {
        let reply = stack.get(&format!("/v1/responses/{}/input_items{query}", id(&response))).await;
        assert_eq!(reply.status, 200);
        reply.json().await
    };
    let texts = |page: &Value| -> Vec<String> {
        let data = page["data"].as_array().unwrap();
        data.iter()
            .map(|item| item["content"][0]["text"].as_str().unwrap().trim_start_matches("item ").to_owned())
            .collect()
    };

    let all = page("").await;
    assert_eq!(super::keys(&all), ["data", "first_id", "has_more", "last_id", "object"]);
    assert_eq!((&all["object"], &all["has_more"]), (&json!("list"), &json!(false)));
    assert_eq!(texts(&all), ["4", "3", "2", "1", "0"]);
    assert_eq!(texts(&page("?order=asc").await), ["0", "1", "2", "3", "4"]);
    assert_eq!(page("").await, all);

    let mut seen = Vec::new();
    let mut query = "?limit=2".to_owned();
    loop {
        let page = page(&query).await;
        assert_eq!(page["first_id"], page["data"][0]["id"]);
        seen.extend(texts(&page));
        query = format!("?limit=2&after={}", page["last_id"].as_str().unwrap());
        if page["has_more"] == false {
            break;
        }
    }
    assert_eq!(seen, ["4", "3", "2", "1", "0"]);
    let last = all["last_id"].as_str().unwrap();
    let beyond = page(&format!("?after={last}")).await;
    assert_eq!((&beyond["data"], &beyond["has_more"]), (&json!([]), &json!(false)));
    assert_eq!(texts(&page(&format!("?before={last}&order=desc&limit=2")).await).len(), 2);

    for bad in ["?limit=0", "?limit=101", "?limit=x", "?order=up"] {
        let reply = stack.get(&format!("/v1/responses/{}/input_items{bad}", id(&response))).await;
        error_of(reply, 400).await;
    }
}

#[tokio::test]
async fn a_string_input_is_one_message_among_the_input_items() {
    let stack = Stack::shared().await;
    stack.upstream.answer("state-string-item", recall);
    let first = turn(&stack, "state-string-item", "one", None).await;
    let second = turn(&stack, "state-string-item", "two", Some(id(&first))).await;
    let items = stack.get(&format!("/v1/responses/{}/input_items", id(&second))).await.json().await;
    assert_eq!(items["data"].as_array().unwrap().len(), 1, "{items}");
    let item = &items["data"][0];
    assert_eq!((&item["type"], &item["role"]), (&json!("message"), &json!("user")));
    assert_eq!(item["content"], json!([{"type": "input_text", "text": "two"}]));
}
