//! The grammar checker is proven on broken streams: a rule that it cannot see broken is no rule.

use responses_router::openai::dialect::ApiDialect;
use responses_router::translate::{End, ResponseStream, Settings};
use serde_json::{Value, json};

use crate::support::frames::{self, Event};
use crate::support::grammar;
use crate::support::machine::{self, ENDED_AT, STREAM_REQUEST, chunk, good_plan};

/// A stream with every kind of event of one form: reasoning, text with logprobs, refusal, two calls, a heartbeat.
fn rich_stream(request: &str) -> Vec<u8> {
    let settings = Settings::default();
    let mut stream =
        ResponseStream::new(good_plan(request, &settings), responses_router::translate::AnswerForm::Events, &settings);
    let mut out = stream.take().to_vec();
    let logprob = json!({"token":"He","logprob":-0.5,"bytes":[72,101],"top_logprobs":[{"token":"He","logprob":-0.5,"bytes":null}]});
    let call = |index: u32, name: &str| json!({"index":index,"id":format!("call_{name}"),"function":{"name":name,"arguments":"{\"a\""}});
    for delta in [
        json!({"role":"assistant","content":""}),
        json!({"reasoning_content":"Let me "}),
        json!({"reasoning_content":"think."}),
        json!({"content":"He"}),
        json!({"content":"llo"}),
        json!({"refusal":"No"}),
        json!({"refusal":"pe"}),
        json!({"tool_calls":[call(0, "f")]}),
        json!({"tool_calls":[{"index":0,"function":{"arguments":":1}"}}]}),
        json!({"tool_calls":[call(1, "g")]}),
        json!({"tool_calls":[{"index":1,"function":{"arguments":":2}"}}]}),
    ] {
        let logprobs = if delta["content"] == "He" { json!({"content":[logprob]}) } else { Value::Null };
        out.extend_from_slice(
            &stream.push(&chunk(&json!({"choices":[{"index":0,"delta":delta,"logprobs":logprobs}]}))),
        );
        if delta["content"] == "He" {
            out.extend_from_slice(&stream.heartbeat());
        }
    }
    let usage = json!({"prompt_tokens":7,"completion_tokens":5,"total_tokens":12});
    out.extend_from_slice(
        &stream.push(&chunk(&json!({"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}))),
    );
    out.extend_from_slice(&stream.push(&chunk(&json!({"choices":[],"usage":usage}))));
    out.extend_from_slice(&stream.finish(End::Complete, ENDED_AT).into_tail());
    out
}

const WITH_SUMMARY: &str = r#"{"model":"m","input":"hi","stream":true,"reasoning":{"summary":"auto"}}"#;
const WITH_TOOL: &str = r#"{"model":"m","input":"hi","stream":true,"tools":[{"type":"function","name":"f"}]}"#;
const WITH_CUSTOM: &str = r#"{"model":"m","input":"hi","stream":true,"tools":[{"type":"custom","name":"f"}]}"#;

#[test]
fn a_stream_with_every_kind_of_event_is_good() {
    for (request, kinds) in [(STREAM_REQUEST, 15), (WITH_SUMMARY, 17), (WITH_TOOL, 15), (WITH_CUSTOM, 17)] {
        let summary = grammar::check(&rich_stream(request)).unwrap();
        assert_eq!(summary.terminal, "response.completed");
        assert_eq!(summary.response["output"].as_array().map(Vec::len), Some(4));
        assert_eq!(summary.response["output_text"], "Hello");
        assert_eq!(summary.heartbeats, 1);
        let names: std::collections::BTreeSet<&str> = summary.events.iter().map(|event| &*event.name).collect();
        assert_eq!(names.len(), kinds, "{names:?}");
        grammar::check_response(&summary.response).unwrap();
    }
}

/// Where the nth event of a name is.
fn position(events: &[Event], name: &str, nth: usize) -> usize {
    events.iter().enumerate().filter(|(_, event)| event.name == name).map(|(at, _)| at).nth(nth).unwrap()
}

/// Renumbers the events, so that a mutation breaks one rule only.
fn renumber(events: &mut [Event]) {
    for (index, event) in events.iter_mut().enumerate() {
        event.data["sequence_number"] = index.into();
    }
}

/// Breaks a good stream and expects the checker to say so, in these words.
fn refuses(request: &str, wanted: &str, breaks: impl FnOnce(&mut Vec<Event>)) {
    let mut events = frames::read(&rich_stream(request)).unwrap();
    breaks(&mut events);
    match grammar::check(&frames::write(&events)) {
        Err(why) => assert!(why.contains(wanted), "expected {wanted:?} in: {why}"),
        Ok(_) => panic!("the checker does not see: {wanted}"),
    }
}

/// Sets a member of the nth event of a name; `path` is a JSON pointer.
fn set(name: &'static str, nth: usize, path: &'static str, value: Value) -> impl FnOnce(&mut Vec<Event>) {
    move |events| {
        let at = position(events, name, nth);
        let (parent, key) = path.rsplit_once('/').unwrap();
        let parent = events[at].data.pointer_mut(parent).unwrap_or_else(|| panic!("{name} has no {path}"));
        match parent {
            Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
            parent => parent[key] = value,
        }
    }
}

/// Removes a member of the nth event of a name.
fn without(name: &'static str, path: &'static str) -> impl FnOnce(&mut Vec<Event>) {
    move |events| {
        let at = position(events, name, 0);
        let (parent, key) = path.rsplit_once('/').unwrap();
        let parent = events[at].data.pointer_mut(parent).unwrap();
        assert!(parent.as_object_mut().unwrap().remove(key).is_some(), "{name} has no {path}");
    }
}

/// Removes the nth event of a name.
fn drop_event(name: &'static str, nth: usize) -> impl FnOnce(&mut Vec<Event>) {
    move |events| {
        events.remove(position(events, name, nth));
        renumber(events);
    }
}

/// Repeats the nth event of a name right after itself.
fn repeat(name: &'static str, nth: usize) -> impl FnOnce(&mut Vec<Event>) {
    move |events| {
        let at = position(events, name, nth);
        events.insert(at + 1, events[at].clone());
        renumber(events);
    }
}

/// Swaps the nth event of a name with the one after it.
fn swap_with_next(name: &'static str, nth: usize) -> impl FnOnce(&mut Vec<Event>) {
    move |events| {
        let at = position(events, name, nth);
        events.swap(at, at + 1);
        renumber(events);
    }
}

#[test]
fn frames_that_a_client_could_misread_are_refused() {
    let good = String::from_utf8(rich_stream(STREAM_REQUEST)).unwrap();
    let broken: &[(&str, String)] = &[
        ("CR, U+2028", good.replace('\n', "\r\n")),
        ("CR, U+2028", good.replace("Hello", "Hel\u{2028}lo")),
        ("does not end with a whole frame", good.trim_end().to_owned()),
        ("does not end with a whole frame", good[..good.len() - 1].to_owned()),
        ("does not end with a whole frame", String::new()),
        ("does not begin with an event line", good.replacen("event: response.created", "data: x", 1)),
        ("does not begin with an event line", good.replacen("event: response.created", "id: 1", 1)),
        ("does not begin with an event line", good.replacen("event: ", ": comment\nevent: ", 1)),
        ("does not begin with an event line", format!("{good}x\ndata: [DONE]\n\n")),
        ("has only one line", format!("{good}data: [DONE]\n\n")),
        ("has only one line", format!("{good}: heartbeat\n\n")),
        ("has more than one data line", good.replacen("\n\n", "\ndata: {}\n\n", 1)),
        ("data is not JSON", good.replacen("data: {", "data: ", 1)),
        ("data is not an object", good.replacen("data: {", "data: []\n\nevent: x\ndata: {", 1)),
        ("event line says", good.replacen("event: response.created", "event: response.in_progress", 1)),
        ("does not begin with an event line", good.replacen("\n\n", "\n\n\n", 1)),
    ];
    for (wanted, stream) in broken {
        match grammar::check(stream.as_bytes()) {
            Err(why) => assert!(why.contains(wanted), "expected {wanted:?} in: {why}"),
            Ok(_) => panic!("the checker does not see: {wanted}"),
        }
    }
    assert!(grammar::check(b"event: \xff\ndata: {}\n\n").is_err_and(|why| why.contains("not UTF-8")));
}

#[test]
fn wrong_numbers_are_refused() {
    let one = STREAM_REQUEST;
    refuses(one, "sequence_number is 4, not 3", set("response.content_part.added", 0, "/sequence_number", 4.into()));
    refuses(one, "sequence_number", set("response.created", 0, "/sequence_number", 1.into()));
    refuses(one, "sequence_number is null", without("response.created", "/sequence_number"));
    refuses(one, "output_index is 2, not 1", set("response.output_item.added", 1, "/output_index", 2.into()));
    refuses(one, "output_index is 0, not 1", set("response.output_item.done", 1, "/output_index", 0.into()));
    refuses(one, "output_index is 1, not 0", set("response.content_part.added", 0, "/output_index", 1.into()));
    refuses(one, "output_index is 0, not 1", set("response.output_text.delta", 0, "/output_index", 0.into()));
    refuses(one, "content_index is 1, not 0", set("response.content_part.added", 0, "/content_index", 1.into()));
    refuses(one, "content_index is 0, not 1", set("response.refusal.delta", 0, "/content_index", 0.into()));
    refuses(one, "content_index is 1, not 0", set("response.output_text.done", 0, "/content_index", 1.into()));
    refuses(
        WITH_SUMMARY,
        "summary_index is 1",
        set("response.reasoning_summary_part.added", 0, "/summary_index", 1.into()),
    );
    refuses(WITH_SUMMARY, "lacks 'summary_index'", without("response.reasoning_summary_text.delta", "/summary_index"));
}

#[test]
fn a_wrong_order_is_refused() {
    let one = STREAM_REQUEST;
    refuses(one, "the first event must be response.created", drop_event("response.created", 0));
    refuses(one, "the first event must be response.created", swap_with_next("response.created", 0));
    refuses(one, "the second event must be response.in_progress", drop_event("response.in_progress", 0));
    refuses(one, "response.created comes twice", repeat("response.created", 0));
    refuses(one, "no item is open", drop_event("response.output_item.added", 0));
    refuses(one, "is still open", drop_event("response.output_item.done", 0));
    refuses(one, "is still open", drop_event("response.output_item.done", 3));
    refuses(one, "no part is open", drop_event("response.content_part.added", 0));
    refuses(one, "a part is still open", drop_event("response.content_part.done", 0));
    refuses(one, "another part is still open", drop_event("response.content_part.done", 1));
    refuses(one, "the part's text was not done yet", drop_event("response.reasoning_text.done", 0));
    refuses(one, "the part's text was not done yet", drop_event("response.output_text.done", 0));
    refuses(one, "the part's text was not done yet", swap_with_next("response.refusal.done", 0));
    refuses(one, "text was done already", repeat("response.output_text.done", 0));
    refuses(one, "text was done already", |events| {
        let at = position(events, "response.reasoning_text.done", 0);
        events.insert(at + 1, events[at - 1].clone());
        renumber(events);
    });
    refuses(one, "the call's arguments were not done", drop_event("response.function_call_arguments.done", 0));
    refuses(one, "arguments were done already", repeat("response.function_call_arguments.done", 0));
    refuses(one, "arguments were done already", |events| {
        let at = position(events, "response.function_call_arguments.done", 0);
        events.insert(at + 1, events[at - 1].clone());
        renumber(events);
    });
    let custom = WITH_CUSTOM;
    refuses(custom, "the call's arguments were not done", drop_event("response.custom_tool_call_input.done", 0));
    refuses(custom, "arguments were done already", repeat("response.custom_tool_call_input.done", 0));
    refuses(custom, "is a \"custom_tool_call\"", |events| {
        let at = position(events, "response.custom_tool_call_input.delta", 0);
        events[at].name = "response.function_call_arguments.delta".to_owned();
        events[at].data["type"] = "response.function_call_arguments.delta".into();
    });
    refuses(one, "without a terminal event", drop_event("response.completed", 0));
    refuses(one, "after the terminal event", repeat("response.completed", 0));
    refuses(one, "after the terminal event", |events| {
        events.push(events[1].clone());
        renumber(events);
    });
    refuses(one, "is still open", |events| {
        // Two items at a time: the second is added before the first is done.
        let at = position(events, "response.output_item.done", 2);
        events.swap(at, at + 1);
        renumber(events);
    });
    refuses(one, "is a \"message\"", |events| {
        let call = events[position(events, "response.function_call_arguments.delta", 0)].clone();
        let at = position(events, "response.output_text.delta", 0);
        events[at].data["delta"] = "x".into();
        let item_id = events[at].data["item_id"].clone();
        let output_index = events[at].data["output_index"].clone();
        events[at] = call;
        events[at].data["item_id"] = item_id;
        events[at].data["output_index"] = output_index;
        renumber(events);
    });
    refuses(one, "may not come while a part", |events| {
        let at = position(events, "response.output_text.delta", 0);
        events[at].name = "response.refusal.delta".to_owned();
        events[at].data["type"] = "response.refusal.delta".into();
    });
}

#[test]
fn identities_that_change_are_refused() {
    let one = STREAM_REQUEST;
    let other = || Value::from("resp_00000000000000000000000000000002");
    refuses(one, "response.id was", set("response.in_progress", 0, "/response/id", other()));
    refuses(one, "id", set("response.completed", 0, "/response/id", other()));
    refuses(one, "response.model was", set("response.completed", 0, "/response/model", "n".into()));
    refuses(one, "response.model was", set("response.in_progress", 1, "/response/model", "n".into()));
    refuses(one, "response.created_at was", set("response.completed", 0, "/response/created_at", 1.into()));
    refuses(one, "item_id is", set("response.output_text.delta", 0, "/item_id", "msg_x".into()));
    refuses(one, "item_id is", set("response.function_call_arguments.done", 0, "/item_id", "fc_x".into()));
    refuses(one, "the response's digits", |events| {
        // An id that names another response.
        set("response.output_item.added", 0, "/item/id", "rs_00000000000000000000000000000002_1".into())(events);
    });
    refuses(one, "not what was streamed", set("response.output_item.done", 1, "/item/id", "msg_x".into()));
    refuses(one, "not what was streamed", set("response.output_item.done", 2, "/item/call_id", "call_x".into()));
    refuses(one, "was another item's", |events| {
        let id = events[position(events, "response.output_item.added", 2)].data["item"]["id"].clone();
        set("response.output_item.added", 3, "/item/id", id)(events);
    });
    refuses(one, "name is", set("response.function_call_arguments.done", 0, "/name", "g".into()));
    refuses(one, "resp_", set("response.created", 0, "/response/id", "resp_X".into()));
}

#[test]
fn text_that_differs_between_events_is_refused() {
    let one = STREAM_REQUEST;
    refuses(one, "the deltas were", set("response.output_text.delta", 0, "/delta", "Ha".into()));
    refuses(one, "the deltas were", set("response.output_text.done", 0, "/text", "".into()));
    refuses(one, "the deltas were", set("response.refusal.done", 0, "/refusal", "x".into()));
    refuses(one, "the deltas were", set("response.reasoning_text.done", 0, "/text", "x".into()));
    refuses(WITH_SUMMARY, "the deltas were", set("response.reasoning_summary_text.done", 0, "/text", "x".into()));
    refuses(one, "the deltas were", set("response.function_call_arguments.done", 0, "/arguments", "{}".into()));
    refuses(WITH_CUSTOM, "the deltas were", set("response.custom_tool_call_input.done", 0, "/input", "{}".into()));
    refuses(WITH_CUSTOM, "the deltas were", drop_event("response.custom_tool_call_input.delta", 0));
    refuses(WITH_CUSTOM, "not what was streamed", set("response.output_item.done", 2, "/item/input", "x".into()));
    refuses(one, "the deltas were", drop_event("response.output_text.delta", 1));
    refuses(one, "the deltas were", drop_event("response.function_call_arguments.delta", 1));
    refuses(one, "part is not what was streamed", set("response.content_part.done", 1, "/part/text", "x".into()));
    refuses(one, "logprobs are not those of the deltas", set("response.output_text.done", 0, "/logprobs", json!([])));
    refuses(one, "part is not what was streamed", set("response.content_part.done", 1, "/part/logprobs", json!([])));
    refuses(
        one,
        "item is not what was streamed",
        set("response.output_item.done", 1, "/item/content/0/text", "x".into()),
    );
    refuses(one, "item is not what was streamed", set("response.output_item.done", 2, "/item/arguments", "{}".into()));
    refuses(one, "item is not what was streamed", |events| {
        set("response.output_item.done", 1, "/item/content", json!([]))(events);
    });
    refuses(one, "not what was streamed", |events| {
        set("response.completed", 0, "/response/output/1/content/0/text", "Hullo".into())(events);
        set("response.completed", 0, "/response/output_text", "Hullo".into())(events);
    });
    refuses(one, "output_text is", set("response.completed", 0, "/response/output_text", "".into()));
    refuses(one, "not what was streamed", |events| {
        set("response.completed", 0, "/response/output", json!([]))(events);
        set("response.completed", 0, "/response/output_text", "".into())(events);
    });
    refuses(one, "delta is empty", set("response.output_text.delta", 0, "/delta", "".into()));
}

#[test]
fn an_item_that_is_not_empty_and_in_progress_when_added_is_refused() {
    let one = STREAM_REQUEST;
    refuses(one, "not in_progress", set("response.output_item.added", 0, "/item/status", "completed".into()));
    refuses(one, "status", set("response.output_item.done", 0, "/item/status", "in_progress".into()));
    refuses(one, "arguments is not empty", set("response.output_item.added", 2, "/item/arguments", "{}".into()));
    refuses(WITH_CUSTOM, "input is not empty", set("response.output_item.added", 2, "/item/input", "x".into()));
    refuses(WITH_CUSTOM, "lacks 'format'", without("response.created", "/response/tools/0/format"));
    refuses(one, "name is empty", set("response.output_item.added", 2, "/item/name", "".into()));
    refuses(one, "call_id is empty", set("response.output_item.added", 2, "/item/call_id", "".into()));
    refuses(one, "content is not empty", |events| {
        let part = json!([{"type":"output_text","text":"","annotations":[],"logprobs":[]}]);
        set("response.output_item.added", 1, "/item/content", part)(events);
    });
    refuses(one, "part is not empty", set("response.content_part.added", 1, "/part/text", "He".into()));
    refuses(one, "in a completed response", |events| {
        set("response.output_item.done", 3, "/item/status", "incomplete".into())(events);
        set("response.completed", 0, "/response/output/3/status", "incomplete".into())(events);
    });
    refuses(one, "part lacks 'annotations'", |events| {
        let at = position(events, "response.content_part.added", 1);
        events[at].data["part"].as_object_mut().unwrap().remove("annotations");
    });
    refuses(one, "lacks 'logprobs'", without("response.output_text.delta", "/logprobs"));
    refuses(one, "lacks 'logprobs'", without("response.output_text.done", "/logprobs"));
    refuses(one, "lacks 'name'", without("response.function_call_arguments.done", "/name"));
}

#[test]
fn a_snapshot_that_lacks_a_key_or_has_a_wrong_one_is_refused() {
    let one = STREAM_REQUEST;
    let events = frames::read(&rich_stream(one)).unwrap();
    for name in ["response.created", "response.in_progress", "response.completed"] {
        let keys: Vec<String> =
            events[position(&events, name, 0)].data["response"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys.len(), 34, "{keys:?}");
        for key in keys {
            refuses(one, &format!("lacks '{key}'"), |events| {
                let at = position(events, name, 0);
                events[at].data["response"].as_object_mut().unwrap().remove(&key);
            });
        }
    }
    for key in [
        "id",
        "object",
        "created_at",
        "status",
        "model",
        "output",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "truncation",
        "text",
        "temperature",
        "top_p",
        "presence_penalty",
        "frequency_penalty",
        "top_logprobs",
        "store",
        "background",
        "service_tier",
        "metadata",
        "output_text",
    ] {
        refuses(one, &format!("response.{key} is null"), |events| {
            events[0].data["response"][key] = Value::Null;
        });
    }
    let cases: &[(&str, &'static str, Value)] = &[
        ("the contract does not know", "/response/choices", json!([])),
        ("usage is null at the end", "/response/usage", Value::Null),
        ("lacks 'cached_tokens'", "/response/usage/input_tokens_details", json!({"cache_write_tokens":0})),
        ("lacks 'cache_write_tokens'", "/response/usage/input_tokens_details", json!({"cached_tokens":0})),
        ("reasoning_tokens is null", "/response/usage/output_tokens_details/reasoning_tokens", Value::Null),
        ("input_tokens is 1.5", "/response/usage/input_tokens", json!(1.5)),
        ("lacks 'format'", "/response/text", json!({})),
        ("verbosity is null", "/response/text/verbosity", Value::Null),
        ("lacks 'summary'", "/response/reasoning", json!({"effort":"low"})),
        ("metadata.a is not a string", "/response/metadata", json!({"a":1})),
        ("completed_at is null in a completed response", "/response/completed_at", Value::Null),
        ("error is {", "/response/error", json!({"code":"server_error","message":"x"})),
        ("response.error.code is 500", "/response/error", json!({"code":500,"message":"x"})),
        ("incomplete_details is {", "/response/incomplete_details", json!({"reason":"max_output_tokens"})),
        ("status is \"in_progress\" at the end", "/response/status", "in_progress".into()),
        ("phase is null", "/response/output/1/phase", Value::Null),
        ("encrypted_content is null", "/response/output/0/encrypted_content", Value::Null),
        ("carries a response whose status", "/response/status", "failed".into()),
    ];
    for (wanted, path, value) in cases {
        refuses(one, wanted, |events| {
            if *path == "/response/status" && value == "failed" {
                set("response.completed", 0, "/response/completed_at", Value::Null)(events);
                set("response.completed", 0, "/response/error", json!({"code":"server_error","message":"x"}))(events);
            }
            set("response.completed", 0, path, value.clone())(events);
        });
    }
    refuses(
        one,
        "usage is {",
        set("response.created", 0, "/response/usage", events.last().unwrap().data["response"]["usage"].clone()),
    );
    refuses(one, "status is \"queued\" while", set("response.in_progress", 1, "/response/status", "queued".into()));
    refuses(WITH_TOOL, "response.tools[0] lacks 'strict'", without("response.created", "/response/tools/0/strict"));
}

#[test]
fn an_ending_must_agree_with_its_event() {
    let settings = Settings::default();
    let plan = || good_plan(STREAM_REQUEST, &settings);
    let nothing: [&[u8]; 0] = [];
    let failed = grammar::check(&machine::events(plan(), &settings, nothing, End::Complete)).unwrap();
    assert_eq!(failed.terminal, "response.failed");
    let gone = grammar::check(&machine::events(plan(), &settings, nothing, End::Disconnected)).unwrap();
    assert_eq!((&*gone.terminal, &gone.response["incomplete_details"]), ("response.incomplete", &Value::Null));

    let mut events = failed.events;
    let last = events.len() - 1;
    events[last].data["response"]["error"] = Value::Null;
    assert!(grammar::check(&frames::write(&events)).is_err_and(|why| why.contains("error is null in a failed")));
    let mut events = gone.events;
    let last = events.len() - 1;
    events[last].data["response"]["incomplete_details"] = json!({"reason":"client_disconnected"});
    assert!(
        grammar::check(&frames::write(&events)).is_err_and(|why| why.contains("reason is \"client_disconnected\""))
    );
}

#[test]
fn an_unstreamed_answer_has_the_shape_of_a_terminal_snapshot() {
    let settings = Settings::default();
    let plan = || good_plan(r#"{"model":"m","input":"hi"}"#, &settings);
    let answer = r#"{"choices":[{"index":0,"message":{"content":"Hello"},"finish_reason":"stop"}]}"#;
    let response = machine::response(plan(), &settings, answer.as_bytes()).unwrap();
    let mut response: Value = serde_json::from_str(&response).unwrap();
    grammar::check_response(&response).unwrap();
    response["output"][0]["content"][0]["text"] = "Hullo".into();
    assert!(grammar::check_response(&response).is_err_and(|why| why.contains("output_text")));
    assert!(machine::response(plan(), &settings, b"<html>").is_err());
}

#[test]
fn a_stream_in_one_dialect_is_no_good_stream_in_another() {
    let dialects = [ApiDialect::OPENAI, ApiDialect::OPEN_RESPONSES, ApiDialect::SEMANTIC_ROUTER];
    let reasoning = chunk(&json!({"choices":[{"delta":{"reasoning_content":"Let me"}}]}));
    let error = chunk(&json!({"error":{"message":"boom"}}));
    for spoken in dialects {
        let settings = Settings { api: spoken, ..Settings::default() };
        let plan = good_plan(STREAM_REQUEST, &settings);
        let stream = machine::events(plan, &settings, [&*reasoning, &*error], End::Complete);
        for expected in dialects {
            let checked = grammar::check_in(&stream, expected);
            assert_eq!(checked.is_ok(), spoken == expected, "{spoken:?} read as {expected:?}: {checked:?}");
        }
        // What differs cannot be wrong unnoticed.
        let text = String::from_utf8(stream).unwrap();
        for (right, wrong) in [
            (
                "\"param\":null,\"error\":{\"type\":\"server_error\",\"code\":\"server_error\"",
                "\"param\":null,\"error\":{\"code\":\"x\"",
            ),
            ("data: [DONE]\n\n", ""),
            ("response.reasoning.delta", "response.reasoning_text.delta"),
        ] {
            let broken = text.replace(right, wrong);
            assert!(broken == text || grammar::check_in(broken.as_bytes(), spoken).is_err(), "{spoken:?}: {wrong:?}");
        }
    }
}
