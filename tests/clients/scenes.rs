//! What every client plays in its own way: the backend's part of each scene, and what has to have reached it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::stack::chat;
use crate::support::stack::upstream::{Answer, Received};

/// One scene. The programs in this folder have a function of the same name.
pub(super) struct Scene {
    /// Its row in the README's table.
    pub(super) feature: &'static str,
    /// What the backend answers, by the model's suffix.
    pub(super) script: Vec<(&'static str, Script)>,
    /// The most requests that one model may get: more is a client that does not give up.
    pub(super) most_requests: usize,
    /// Looks at what came for the model without suffix.
    pub(super) look: fn(&[Received]),
}

type Script = fn(&Received) -> Answer;

impl Scene {
    fn new(feature: &'static str, script: Script) -> Self {
        Self { feature, script: vec![("", script)], most_requests: 1, look: |_| {} }
    }

    fn turns(self, turns: usize, look: fn(&[Received])) -> Self {
        Self { most_requests: turns, look, ..self }
    }
}

pub(super) fn answers_with_text() -> Scene {
    Scene::new("text", |received| say(received, &json!({"content": "The answer is 42."})))
}

pub(super) fn streams_text() -> Scene {
    let scene = Scene::new("stream", |received| say(received, &json!({"content": "The answer is 42."})));
    scene.turns(2, |requests| assert!(requests.iter().all(streamed)))
}

/// The router's heartbeats come in the pauses.
pub(super) fn waits_for_a_slow_stream() -> Scene {
    Scene::new("slow stream, heartbeats between", |received| {
        assert!(streamed(received));
        Answer::paced(&pieces(&json!({"content": "One two."})), Duration::from_millis(1300))
    })
}

pub(super) fn runs_a_tool() -> Scene {
    let scene = Scene::new("tool call, executed, answered", |received| {
        let outputs = tool_outputs(received);
        if outputs.is_empty() {
            return say(received, &json!({"tool_calls": [chat::call("call_1", "weather", "{\"city\": \"Oslo\"}")]}));
        }
        say(received, &json!({"content": format!("It says: {}", outputs.join(" and "))}))
    });
    scene.turns(2, |requests| {
        assert_eq!(requests.len(), 2);
        assert_eq!(tool_outputs(&requests[1]), ["sun in Oslo"]);
    })
}

pub(super) fn runs_parallel_tools() -> Scene {
    let scene = Scene::new("parallel tool calls", |received| {
        let outputs = tool_outputs(received);
        if outputs.is_empty() {
            return say(
                received,
                &json!({"tool_calls": [
                    chat::call("call_1", "weather", "{\"city\": \"Oslo\"}"),
                    chat::call("call_2", "weather", "{\"city\": \"Rome\"}"),
                ]}),
            );
        }
        say(received, &json!({"content": format!("It says: {}", outputs.join(" and "))}))
    });
    scene.turns(2, |requests| {
        assert_eq!(requests.len(), 2);
        assert_eq!(tool_outputs(&requests[1]), ["sun in Oslo", "sun in Rome"]);
        let body = requests[1].json();
        let calling = body["messages"].as_array().unwrap().iter().filter(|message| message.get("tool_calls").is_some());
        assert_eq!(calling.count(), 1, "one assistant message makes both calls");
    })
}

pub(super) fn parses_structured_output() -> Scene {
    let scene = Scene::new("structured output", |received| {
        say(received, &json!({"content": "{\"city\": \"Köln\", \"inhabitants\": 1090000}"}))
    });
    scene.turns(1, |requests| {
        let format = &requests[0].json()["response_format"];
        assert_eq!(format["type"], "json_schema", "{format}");
        assert!(format["json_schema"]["schema"]["properties"]["inhabitants"].is_object(), "{format}");
    })
}

pub(super) fn shows_reasoning() -> Scene {
    let scene = Scene::new("reasoning shown", |received| {
        say(received, &json!({"reasoning_content": "Let me think.", "content": "The answer is 42."}))
    });
    scene.turns(2, |_| {})
}

/// Such backends refuse a turn with tools that lacks the reasoning before the call.
pub(super) fn sends_reasoning_back() -> Scene {
    let scene = Scene::new("reasoning sent back with tool outputs", |received| {
        let outputs = tool_outputs(received);
        if outputs.is_empty() {
            let calls = [chat::call("call_1", "weather", "{\"city\": \"Oslo\"}")];
            return say(received, &json!({"reasoning_content": "I need the weather.", "tool_calls": calls}));
        }
        let body = received.json();
        let call = body["messages"].as_array().unwrap().iter().find(|message| message.get("tool_calls").is_some());
        if call.is_none_or(|call| call["reasoning_content"] != "I need the weather.") {
            let why = "The reasoning_content in the thinking mode must be passed back to the API.";
            return Answer::json(400, &json!({"error": {"message": why, "type": "invalid_request_error"}}));
        }
        say(received, &json!({"content": format!("It says: {}", outputs.join(" and "))}))
    });
    scene.turns(2, |requests| assert_eq!(requests.len(), 2))
}

pub(super) fn continues_a_response() -> Scene {
    let scene = Scene::new("next turn by `previous_response_id`", |received| {
        let users = received.messages().iter().filter(|(role, _)| role == "user").count();
        say(received, &json!({"content": format!("Turn {users}.")}))
    });
    scene.turns(2, |requests| {
        let roles: Vec<String> = requests[1].messages().into_iter().map(|(role, _)| role).collect();
        assert!(roles.ends_with(&["user".to_owned(), "assistant".to_owned(), "user".to_owned()]), "{roles:?}");
    })
}

pub(super) fn reports_a_refusal() -> Scene {
    Scene::new("refusal", |received| say(received, &json!({"refusal": "I will not."})))
}

/// 400, 404, 429, 500, an overflow of the context, and a parent that nobody knows.
pub(super) fn raises_its_own_errors() -> Scene {
    Scene {
        script: vec![
            ("", |received| say(received, &json!({"content": "Hi."}))),
            ("-400", |_| error(400, "that will not do")),
            ("-404", |_| error(404, "no such model")),
            ("-429", |_| error(429, "too many requests").header("retry-after", "1")),
            ("-500", |_| error(500, "out of memory").header("retry-after", "1")),
            ("-overflow", |_| {
                let message = "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.";
                error(400, message)
            }),
        ],
        most_requests: 3,
        ..Scene::new("errors as its own exceptions, few retries", |_| unreachable!())
    }
}

/// Text, and then the backend is gone; or it says in the stream that it failed.
pub(super) fn notices_a_broken_stream() -> Scene {
    Scene {
        script: vec![
            ("-cut", |_| Answer::cut(&[chat::text("Parti")])),
            ("-failed", |_| {
                Answer::chunks(&[chat::text("Parti"), json!({"error": {"message": "out of memory", "code": 500}})])
            }),
        ],
        most_requests: 6,
        ..Scene::new("broken streams noticed", |_| unreachable!())
    }
}

/// An error with a number for a code, as vLLM has it.
fn error(status: u16, message: &str) -> Answer {
    Answer::json(status, &json!({"error": {"message": message, "type": "some_error", "code": status}}))
}

fn streamed(received: &Received) -> bool {
    received.json()["stream"] == true
}

/// The text of the tool messages.
pub(super) fn tool_outputs(received: &Received) -> Vec<String> {
    let messages = received.messages();
    messages.into_iter().filter(|(role, _)| role == "tool").map(|(_, text)| text).collect()
}

/// Answers with this message, in the form that was asked for.
pub(super) fn say(received: &Received, message: &Value) -> Answer {
    if streamed(received) {
        return Answer::chunks(&pieces(message));
    }
    let mut whole = json!({"role": "assistant", "content": null});
    for (key, value) in message.as_object().unwrap() {
        whole[key] = value.clone();
    }
    Answer::json(200, &chat::completion_of(&whole, finish_reason(message)))
}

/// A message in chunks: text word by word, each call's arguments in three pieces, the calls interleaved.
fn pieces(message: &Value) -> Vec<Value> {
    let mut chunks = vec![chat::delta(&json!({"role": "assistant", "content": ""}))];
    for key in ["reasoning_content", "refusal", "content"] {
        let text = message[key].as_str().unwrap_or_default();
        chunks.extend(text.split_inclusive(' ').map(|word| chat::delta(&json!({key: word}))));
    }
    let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
    for (index, call) in calls.iter().enumerate() {
        let mut first = call.clone();
        first["index"] = json!(index);
        first["function"]["arguments"] = json!("");
        chunks.push(chat::delta(&json!({"tool_calls": [first]})));
    }
    for third in 0..3 {
        for (index, call) in calls.iter().enumerate() {
            let arguments: Vec<char> = call["function"]["arguments"].as_str().unwrap().chars().collect();
            let piece = &arguments[arguments.len() * third / 3..arguments.len() * (third + 1) / 3];
            let piece = json!({"index": index, "function": {"arguments": String::from_iter(piece)}});
            chunks.push(chat::delta(&json!({"tool_calls": [piece]})));
        }
    }
    chunks.extend([chat::finish(finish_reason(message)), chat::usage_chunk()]);
    chunks
}

fn finish_reason(message: &Value) -> &'static str {
    if message.get("tool_calls").is_some() { "tool_calls" } else { "stop" }
}
