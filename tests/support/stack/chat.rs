//! What chat backends answer.

use serde_json::{Value, json};

/// A chat completion that ends with `stop`, with usage 7 + 3 = 10.
pub(crate) fn completion(text: &str) -> Value {
    completion_of(&json!({"role": "assistant", "content": text}), "stop")
}

/// A chat completion with this message.
pub(crate) fn completion_of(message: &Value, finish_reason: &str) -> Value {
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": "backend-model",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": null}],
        "usage": usage(),
    })
}

/// A chunk with this delta.
pub(crate) fn delta(delta: &Value) -> Value {
    chunk(&json!([{"index": 0, "delta": delta, "finish_reason": null}]))
}

/// A chunk of text.
pub(crate) fn text(text: &str) -> Value {
    delta(&json!({"content": text}))
}

/// The chunk that ends the choice.
pub(crate) fn finish(reason: &str) -> Value {
    chunk(&json!([{"index": 0, "delta": {}, "finish_reason": reason}]))
}

/// The chunk of usage at the end, 7 + 3 = 10.
pub(crate) fn usage_chunk() -> Value {
    let mut chunk = chunk(&json!([]));
    chunk["usage"] = usage();
    chunk
}

/// The call of one function.
pub(crate) fn call(id: &str, name: &str, arguments: &str) -> Value {
    json!({"index": 0, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
}

fn usage() -> Value {
    json!({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10})
}

fn chunk(choices: &Value) -> Value {
    json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "backend-model",
        "choices": choices,
    })
}
