//! A chat backend whose answer is a digest of every message that it saw.
//!
//! So each answer proves the history of its turn: a record that is another's, is lost, or is left out cannot go unnoticed.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::chat;
use super::upstream::{Answer, Gate, Received};

/// The model under which tests have it answer.
pub(crate) const MODEL: &str = "digest";

/// The answer, in the form that was asked for.
pub(crate) fn answer(received: &Received) -> Answer {
    let request = received.json();
    let answer = of(&said_in(&request));
    if request["stream"] == true { Answer::words(&answer) } else { Answer::completion(&answer) }
}

/// The answer, held until the gate opens: after its first word when it is a stream, else before its first byte.
pub(crate) fn held(received: &Received, gate: &Gate) -> Answer {
    let request = received.json();
    held_text(&of(&said_in(&request)), request["stream"] == true, gate, Duration::ZERO)
}

/// The same of another text, with a pause before each piece.
pub(crate) fn held_text(text: &str, stream: bool, gate: &Gate, pause: Duration) -> Answer {
    if !stream {
        let completion = Bytes::from(chat::completion(text).to_string());
        return Answer::held("application/json", Bytes::new(), gate, vec![completion], pause);
    }
    let mut frames = Answer::frames_of_words(text);
    let first = frames.remove(0);
    Answer::held("text/event-stream", first, gate, frames, pause)
}

/// What the answer says: how many messages there were, and a digest of all that they say.
pub(crate) fn of(said: &[String]) -> String {
    let mut hasher = DefaultHasher::new();
    said.hash(&mut hasher);
    format!("{} messages, {:016x}", said.len(), hasher.finish())
}

/// What each message of a request says.
pub(crate) fn said_in(request: &Value) -> Vec<String> {
    request["messages"].as_array().unwrap().iter().map(said).collect()
}

fn said(message: &Value) -> String {
    let role = message["role"].as_str().unwrap();
    let content = &message["content"];
    let content = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
    let calls = message["tool_calls"].as_array().into_iter().flatten();
    let calls: Vec<_> = calls.map(|call| format!("{} {}", call["id"], call["function"]["arguments"])).collect();
    match role {
        "tool" => output(message["tool_call_id"].as_str().unwrap(), &content),
        _ if calls.is_empty() => format!("{role}: {content}"),
        _ => format!("{role} calls {}", calls.join(", ")),
    }
}

/// A user's message.
pub(crate) fn user(text: &str) -> String {
    format!("user: {text}")
}

/// An answer in text.
pub(crate) fn assistant(text: &str) -> String {
    format!("assistant: {text}")
}

/// An answer that calls one function and says nothing.
pub(crate) fn call(id: &str, arguments: &str) -> String {
    format!("assistant calls {} {}", Value::from(id), Value::from(arguments))
}

/// The output of a call.
pub(crate) fn output(call_id: &str, text: &str) -> String {
    format!("output of {call_id}: {text}")
}
