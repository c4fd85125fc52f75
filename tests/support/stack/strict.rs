//! What the strictest of chat backends refuse: each rule here is one that some server or chat template enforces.

use std::collections::HashSet;

use serde_json::Value;

/// Top-level keys that chat backends know. Those that only the hosted API has are left out, `store` and `metadata` too.
const KEYS: &[&str] = &[
    "model",
    "messages",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "stream",
    "stream_options",
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "logprobs",
    "top_logprobs",
    "max_tokens",
    "max_completion_tokens",
    "reasoning_effort",
    "n",
    "seed",
    "stop",
    "user",
];

/// Whether such a backend takes a request; why not.
pub(crate) fn check(body: &Value) -> Result<(), String> {
    known_keys(body, KEYS, "the request")?;
    ensure(body["model"].is_string(), || "model is no string".to_owned())?;
    ensure(body.get("stream_options").is_none() || body["stream"] == true, || "stream_options without stream".into())?;
    if let Some(options) = body.get("stream_options") {
        known_keys(options, &["include_usage"], "stream_options")?;
    }
    let functions = functions(body)?;
    for key in ["tool_choice", "parallel_tool_calls"] {
        ensure(body.get(key).is_none() || !functions.is_empty(), || format!("{key} without tools"))?;
    }
    if let Some(choice) = body.get("tool_choice").filter(|choice| !choice.is_string()) {
        let name = choice.pointer("/function/name").and_then(Value::as_str).unwrap_or_default();
        ensure(functions.contains(name), || format!("tool_choice of {choice}"))?;
    }
    if let Some(format) = body.get("response_format") {
        let known = ["text", "json_object", "json_schema"].iter().any(|kind| format["type"] == **kind);
        ensure(known, || format!("response_format {format}"))?;
    }
    let messages = body["messages"].as_array().ok_or("messages is no array")?;
    ensure(!messages.is_empty(), || "no messages".to_owned())?;
    conversation(messages)
}

/// The names of the tools.
fn functions(body: &Value) -> Result<HashSet<&str>, String> {
    let Some(tools) = body.get("tools") else { return Ok(HashSet::new()) };
    let tools = tools.as_array().ok_or("tools is no array")?;
    ensure(!tools.is_empty(), || "tools is empty".to_owned())?;
    let mut names = HashSet::new();
    for tool in tools {
        known_keys(tool, &["type", "function"], "a tool")?;
        ensure(tool["type"] == "function", || format!("a tool of type {}", tool["type"]))?;
        let function = &tool["function"];
        known_keys(function, &["name", "description", "parameters", "strict"], "a function")?;
        let name = function["name"].as_str().ok_or("a function without name")?;
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        ensure((1..=64).contains(&name.len()) && name.bytes().all(legal), || format!("a function called {name}"))?;
        ensure(names.insert(name), || format!("two functions called {name}"))?;
        let parameters = function.get("parameters");
        ensure(parameters.is_none_or(Value::is_object), || format!("the parameters of {name}"))?;
    }
    Ok(names)
}

/// One system message, in front; calls and their outputs side by side.
fn conversation(messages: &[Value]) -> Result<(), String> {
    let mut open: HashSet<&str> = HashSet::new();
    for (place, message) in messages.iter().enumerate() {
        let role = message["role"].as_str().ok_or("a message without role")?;
        if role != "tool" {
            ensure(open.is_empty(), || format!("messages[{place}] stands before the outputs of {open:?}"))?;
        }
        match role {
            "system" => {
                known_keys(message, &["role", "content"], "a system message")?;
                ensure(place == 0, || format!("messages[{place}] is a system message"))?;
                content(&message["content"], place)?;
            }
            "user" => {
                known_keys(message, &["role", "content", "name"], "a user message")?;
                content(&message["content"], place)?;
            }
            "tool" => {
                known_keys(message, &["role", "content", "tool_call_id"], "a tool message")?;
                let call = message["tool_call_id"].as_str().unwrap_or_default();
                ensure(open.remove(call), || format!("messages[{place}] answers no call: {call:?}"))?;
                content(&message["content"], place)?;
            }
            "assistant" => {
                let keys = &["role", "content", "tool_calls", "reasoning_content", "name"];
                known_keys(message, keys, "an assistant message")?;
                let reasoning = message.get("reasoning_content");
                let thought = reasoning.is_none_or(|text| text.as_str().is_some_and(|text| !text.is_empty()));
                ensure(thought, || format!("messages[{place}] has empty reasoning"))?;
                if message.get("tool_calls").is_none() || !message["content"].is_null() {
                    content(&message["content"], place)?;
                }
                open = calls(message)?;
            }
            other => return Err(format!("messages[{place}] has the role {other}")),
        }
    }
    ensure(open.is_empty(), || format!("no outputs of {open:?}"))
}

/// The ids of a message's calls.
fn calls(message: &Value) -> Result<HashSet<&str>, String> {
    let Some(calls) = message.get("tool_calls") else { return Ok(HashSet::new()) };
    let calls = calls.as_array().ok_or("tool_calls is no array")?;
    ensure(!calls.is_empty(), || "tool_calls is empty".to_owned())?;
    let mut ids = HashSet::new();
    for call in calls {
        known_keys(call, &["id", "type", "function"], "a call")?;
        known_keys(&call["function"], &["name", "arguments"], "a call's function")?;
        let id = call["id"].as_str().filter(|id| !id.is_empty()).ok_or("a call without id")?;
        ensure(ids.insert(id), || format!("two calls {id}"))?;
        let arguments = call["function"]["arguments"].as_str().ok_or("arguments that are no string")?;
        let object = serde_json::from_str::<Value>(arguments).is_ok_and(|value| value.is_object());
        ensure(object, || format!("arguments that are no object: {arguments}"))?;
    }
    Ok(ids)
}

/// Text, or parts.
fn content(content: &Value, place: usize) -> Result<(), String> {
    if content.is_string() {
        return Ok(());
    }
    let parts = content.as_array().ok_or_else(|| format!("messages[{place}].content is {content}"))?;
    ensure(!parts.is_empty(), || format!("messages[{place}].content is empty"))?;
    for part in parts {
        match part["type"].as_str() {
            Some("text") => known_keys(part, &["type", "text"], "a text part")?,
            Some("image_url") => known_keys(part, &["type", "image_url"], "an image part")?,
            Some("input_audio") => known_keys(part, &["type", "input_audio"], "an audio part")?,
            Some("file") => known_keys(part, &["type", "file"], "a file part")?,
            _ => return Err(format!("messages[{place}] has a part of type {}", part["type"])),
        }
    }
    Ok(())
}

fn known_keys(value: &Value, known: &[&str], what: &str) -> Result<(), String> {
    let object = value.as_object().ok_or_else(|| format!("{what} is no object: {value}"))?;
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(format!("{what} has the key {key}")),
        None => Ok(()),
    }
}

fn ensure(condition: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(why()) }
}
