//! Whatever a client sends, the request side answers with a chat request that keeps its promises, or with a typed error.

use std::collections::HashSet;

use proptest::prelude::*;
use responses_router::id::{CountingIds, IdSource};
use responses_router::openai::json_bounds::JsonBounds;
use responses_router::translate::settings::RequestBounds;
use responses_router::translate::{AnswerForm, CreateRequest, End, Past, ResponseStream, Settings, request};
use serde_json::{Value, json};

use crate::support::arbitrary::{self, config};
use crate::support::grammar;
use crate::support::machine::{CREATED_AT, ENDED_AT, good_plan};

/// What no chat backend knows (CONTRACT §4).
const NEVER_UPSTREAM: &[&str] = &[
    "input",
    "instructions",
    "previous_response_id",
    "store",
    "include",
    "metadata",
    "truncation",
    "prompt_cache_key",
    "safety_identifier",
    "client_metadata",
    "context_management",
    "moderation",
    "max_output_tokens",
    "max_tool_calls",
    "text",
    "reasoning",
    "background",
    "conversation",
    "prompt",
    "n",
];

/// Checks a chat request that was made of a create request.
fn chat_promises(chat: &Value) -> Result<(), String> {
    if let Some(key) = NEVER_UPSTREAM.iter().find(|key| chat.get(**key).is_some()) {
        return Err(format!("'{key}' went up"));
    }
    for key in ["tools", "messages"] {
        if chat.get(key).is_some_and(|list| list.as_array().is_none_or(Vec::is_empty)) {
            return Err(format!("'{key}' is empty"));
        }
    }
    if chat.get("tools").is_none() && (chat.get("tool_choice").is_some() || chat.get("parallel_tool_calls").is_some()) {
        return Err("tool parameters without tools".to_owned());
    }
    let mut names = HashSet::new();
    for tool in chat["tools"].as_array().into_iter().flatten() {
        if !names.insert(tool["function"]["name"].as_str()) {
            return Err(format!("two tools are called {}", tool["function"]["name"]));
        }
    }
    let mut unanswered: Vec<&Value> = Vec::new();
    for message in chat["messages"].as_array().into_iter().flatten() {
        if message["role"] == "tool" {
            let at =
                unanswered.iter().position(|id| **id == message["tool_call_id"]).ok_or("an output without its call")?;
            unanswered.remove(at);
            continue;
        }
        if let Some(id) = unanswered.first() {
            return Err(format!("call {id} is not answered at once"));
        }
        let calls = message["tool_calls"].as_array();
        if message["content"].is_null() && calls.is_none() {
            return Err(format!("a message that says nothing: {message}"));
        }
        unanswered.extend(calls.into_iter().flatten().map(|call| &call["id"]));
    }
    unanswered.first().map_or(Ok(()), |id| Err(format!("call {id} is not answered")))
}

/// The parser must hold by itself, not by the bounds in front of it.
const BOUNDLESS: RequestBounds = RequestBounds {
    json: JsonBounds { max_depth: usize::MAX, max_values: usize::MAX },
    max_input_items: usize::MAX,
    max_tools: usize::MAX,
    max_metadata_pairs: 16,
    max_metadata_key_chars: 64,
    max_metadata_value_chars: 512,
};

proptest! {
    #![proptest_config(config(1500))]

    #[test]
    fn no_request_panics_and_every_chat_request_keeps_its_promises(body in arbitrary::create_request()) {
        let settings = Settings::default();
        let Ok(create) = CreateRequest::parse(body.to_string().as_bytes(), &RequestBounds::default()) else { return Ok(()) };
        let Ok(translated) = request(create, Past::default(), &settings, None, CountingIds::default().response_id(), CREATED_AT) else {
            return Ok(());
        };
        let chat: Value = serde_json::from_slice(&translated.chat).unwrap();
        let kept = chat_promises(&chat);
        prop_assert!(kept.is_ok(), "{}\n{body}\n{chat}", kept.unwrap_err());

        let mut ids = HashSet::new();
        for item in &translated.plan.input {
            let item: Value = serde_json::from_str(item.get()).unwrap();
            prop_assert!(item["id"].as_str().is_some_and(|id| !id.is_empty() && ids.insert(id.to_owned())), "{item}\n{body}");
            prop_assert!(item["type"].is_string(), "{item}\n{body}");
        }

        let mut stream = ResponseStream::new(translated.plan, AnswerForm::Events, &settings);
        let mut out = stream.take().to_vec();
        out.extend_from_slice(&stream.finish(End::Complete, ENDED_AT).into_tail());
        let checked = grammar::check(&out);
        prop_assert!(checked.is_ok(), "{}\n{body}", checked.unwrap_err());
    }

    #[test]
    fn no_json_makes_the_parser_panic(body in arbitrary::json()) {
        let _ = CreateRequest::parse(body.to_string().as_bytes(), &RequestBounds::default());
    }

    #[test]
    fn no_bytes_make_the_parser_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = CreateRequest::parse(&body, &RequestBounds::default());
    }
}

#[test]
fn deep_nesting_is_refused_and_not_a_stack_overflow() {
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        let deep = format!("{}1{}", open.repeat(200_000), close.repeat(200_000));
        for body in [
            deep.clone(),
            format!(r#"{{"model":"m","input":{deep}}}"#),
            format!(r#"{{"model":"m","input":[{{"type":"x","y":{deep}}}]}}"#),
            format!(r#"{{"model":"m","input":"x","top_k":{deep}}}"#),
            format!(
                r#"{{"model":"m","input":"x","tools":[{{"type":"function","name":"f","parameters":{{"x":{deep}}}}}]}}"#
            ),
        ] {
            let settings = Settings::default();
            if let Ok(create) = CreateRequest::parse(body.as_bytes(), &BOUNDLESS) {
                let _ =
                    request(create, Past::default(), &settings, None, CountingIds::default().response_id(), CREATED_AT);
            }
        }
    }
}

#[test]
fn lone_surrogates_and_huge_numbers_are_errors_or_kept_but_never_a_panic() {
    for body in [
        r#"{"model":"m","input":"\ud800"}"#,
        r#"{"model":"m","input":[{"role":"user","content":"\udc00\ud800"}]}"#,
        r#"{"model":"m","input":"x","\ud800":1}"#,
        r#"{"model":"m","input":"x","temperature":1e400}"#,
        r#"{"model":"m","input":"x","top_k":1e400}"#,
        r#"{"model":"m","input":"x","max_output_tokens":1e30}"#,
        r#"{"model":"m","input":"x","max_output_tokens":-1}"#,
        r#"{"model":"m","input":"x","max_output_tokens":1.0}"#,
        r#"{"model":"m","input":"x","metadata":{"a":"\ud800"}}"#,
    ] {
        let settings = Settings::default();
        if let Ok(create) = CreateRequest::parse(body.as_bytes(), &BOUNDLESS) {
            let _ = request(create, Past::default(), &settings, None, CountingIds::default().response_id(), CREATED_AT);
        }
    }
}

#[test]
fn namespaces_within_namespaces_are_neither_a_stack_overflow_nor_quadratic() {
    let depth = 100_000;
    let open = r#"{"type":"namespace","name":"n","tools":["#;
    let body = format!(r#"{{"model":"m","input":"x","tools":[{}{}]}}"#, open.repeat(depth), "]}".repeat(depth));
    let create = CreateRequest::parse(body.as_bytes(), &BOUNDLESS).unwrap();
    let id = CountingIds::default().response_id();
    let translated = request(create, Past::default(), &Settings::default(), None, id, CREATED_AT).unwrap();
    assert_eq!(translated.plan.lossy.header().as_deref(), Some("tool_type=namespace"));
}

/// What a live exchange holds is what it is charged for, and heartbeats repeat it.
#[test]
fn all_that_a_response_repeats_of_its_request_is_counted() {
    let long = "x".repeat(100_000);
    let repeated = [
        json!({"instructions": long}),
        json!({"prompt_cache_key": long}),
        json!({"safety_identifier": long}),
        json!({"user": long}),
        json!({"text": {"format": {"type": "json_schema", "name": "n", "schema": {"description": long}}}}),
        json!({"tools": [{"type": "function", "name": "f", "description": long}]}),
    ];
    for mut body in repeated {
        body["model"] = "m".into();
        body["input"] = "hi".into();
        let kept = good_plan(&body.to_string(), &Settings::default()).kept_bytes();
        assert!((long.len()..2 * long.len()).contains(&kept), "{kept} of {:.40}", body.to_string());
    }
}
