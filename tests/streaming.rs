//! The stream machine's promises, on golden streams and on arbitrary ones: the grammar holds for every ending at every
//! point, a heartbeat may come at any time, and the streamed answer is the unstreamed one.

use proptest::prelude::*;
use proptest::sample::Index;
use responses_router::openai::output_text;
use responses_router::openai::responses::ResponseError;
use responses_router::translate::{AnswerForm, End, Outcome, ResponseStream, Settings};
use serde_json::{Value, json};

use crate::golden::{AnswerCase, StreamCase};
use crate::support::arbitrary::{self, config};
use crate::support::cases::{inputs, read_json};
use crate::support::frames;
use crate::support::grammar::{self, Summary};
use crate::support::machine::{self, ENDED_AT, STREAM_REQUEST, chunk, good_plan};

const SUMMARY_REQUEST: &str = r#"{"model":"m","input":"hi","stream":true,"reasoning":{"summary":"auto"}}"#;
/// What [`arbitrary::chunks`] calls, as tools of other kinds.
const TOOLS_REQUEST: &str = r#"{"model":"m","input":"hi","stream":true,"tools":[{"type":"custom","name":"f"},
    {"type":"tool_search","execution":"client"},{"type":"namespace","name":"n","tools":[{"type":"custom","name":"g"}]}]}"#;
const ENDS: [End; 3] = [End::Complete, End::Disconnected, End::ShuttingDown];

#[test]
fn created_and_in_progress_are_ready_before_the_first_byte() {
    let settings = Settings::default();
    let mut stream = ResponseStream::new(good_plan(STREAM_REQUEST, &settings), AnswerForm::Events, &settings);
    let events = frames::read(&stream.take()).unwrap();
    let names: Vec<&str> = events.iter().map(|event| &*event.name).collect();
    assert_eq!(names, ["response.created", "response.in_progress"]);
    assert!(stream.take().is_empty());
}

#[test]
fn every_push_gives_whole_frames() {
    for path in inputs("stream", "sse") {
        let case = StreamCase::read(&path);
        let plan = good_plan(&case.request, &case.settings);
        let mut stream = ResponseStream::new(plan, AnswerForm::Events, &case.settings);
        stream.take();
        for byte in case.upstream.chunks(1) {
            let out = stream.push(byte);
            assert!(out.is_empty() || frames::read(&out).is_ok(), "{}: {out:?}", path.display());
        }
    }
}

/// The pieces of an upstream's stream between its blank lines.
fn frames_of(upstream: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    let mut rest = upstream;
    while let Some(at) = rest.windows(2).position(|pair| pair == b"\n\n") {
        let (piece, more) = rest.split_at(at + 2);
        pieces.push(piece);
        rest = more;
    }
    pieces.push(rest);
    pieces
}

#[test]
fn the_grammar_holds_for_every_ending_after_every_frame() {
    for path in inputs("stream", "sse") {
        let case = StreamCase::read(&path);
        let pieces = frames_of(&case.upstream);
        for count in 0..=pieces.len() {
            for end in ENDS {
                let plan = good_plan(&case.request, &case.settings);
                let out = machine::events(plan, &case.settings, pieces.iter().take(count).copied(), end);
                let summary = grammar::check_in(&out, case.settings.api)
                    .unwrap_or_else(|why| panic!("{} after {count} frames, {end:?}: {why}", path.display()));
                let early = end != End::Complete;
                assert!(!early || summary.terminal != "response.completed", "{}: {end:?}", path.display());
            }
        }
    }
}

#[test]
fn what_is_fed_at_once_gives_the_same_events_as_piece_by_piece() {
    for path in inputs("stream", "sse") {
        let case = StreamCase::read(&path);
        let stream =
            || ResponseStream::new(good_plan(&case.request, &case.settings), AnswerForm::Events, &case.settings);
        let (mut fed, mut pushed) = (stream(), stream());
        let mut pieces = pushed.take().to_vec();
        for piece in frames_of(&case.upstream) {
            let ready = fed.feed(piece);
            pieces.extend_from_slice(&pushed.push(piece));
            assert_eq!(ready, pieces.len(), "{}", path.display());
        }
        assert_eq!(fed.take(), pieces, "{}", path.display());
    }
}

#[test]
fn a_heartbeat_may_come_at_any_time() {
    for path in inputs("stream", "sse") {
        let case = StreamCase::read(&path);
        let plan = good_plan(&case.request, &case.settings);
        let mut stream = ResponseStream::new(plan, AnswerForm::Events, &case.settings);
        let mut out = stream.take().to_vec();
        let mut beats = 0;
        for piece in frames_of(&case.upstream) {
            out.extend_from_slice(&stream.heartbeat());
            beats += 1;
            out.extend_from_slice(&stream.push(piece));
        }
        out.extend_from_slice(&stream.finish(case.end, ENDED_AT).into_tail());
        let beating =
            grammar::check_in(&out, case.settings.api).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        assert_eq!(beating.heartbeats, beats);
        let calm = grammar::check_in(&case.events([case.upstream.as_slice()]), case.settings.api).unwrap();
        assert_eq!(beating.response, calm.response, "{}", path.display());
        assert_eq!(without_heartbeats(beating), without_heartbeats(calm), "{}", path.display());
    }
}

fn without_heartbeats(summary: Summary) -> Vec<Value> {
    let mut events = summary.events;
    let mut first = true;
    events.retain(|event| event.name != "response.in_progress" || std::mem::take(&mut first));
    let unnumbered = |mut event: frames::Event| {
        event.data["sequence_number"] = Value::Null;
        event.data
    };
    events.into_iter().map(unnumbered).collect()
}

#[test]
fn a_refusal_of_the_store_ends_the_stream_as_failed() {
    for path in inputs("stream", "sse") {
        let case = StreamCase::read(&path);
        let plan = good_plan(&case.request, &case.settings);
        let mut stream = ResponseStream::new(plan, AnswerForm::Events, &case.settings);
        let mut out = stream.take().to_vec();
        out.extend_from_slice(&stream.push(&case.upstream));
        let mut finished = stream.finish(case.end, ENDED_AT);
        // What had failed before keeps its own reason.
        let code = match finished.outcome() {
            Outcome::Failed(error) => error.code.clone(),
            _ => "store_unavailable".to_owned(),
        };
        finished.fail(ResponseError { code: "store_unavailable".to_owned(), message: "Try again.".to_owned() });
        let stored: Value = serde_json::from_str(&finished.take_response().unwrap()).unwrap();
        out.extend_from_slice(&finished.into_tail());
        let summary =
            grammar::check_in(&out, case.settings.api).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        assert_eq!(summary.terminal, "response.failed");
        assert_eq!(summary.response["error"]["code"], code);
        assert_eq!(stored, summary.response);
    }
}

#[test]
fn an_answer_that_was_not_stored_says_so() {
    let settings = Settings::default();
    let mut stream = ResponseStream::new(good_plan(STREAM_REQUEST, &settings), AnswerForm::Events, &settings);
    let mut out = stream.take().to_vec();
    out.extend_from_slice(&stream.push(&chunk(&json!({"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]}))));
    let mut finished = stream.finish(End::Complete, ENDED_AT);
    assert!(finished.usage().is_none(), "usage was not reported, so none may be counted");
    finished.mark_unstored();
    out.extend_from_slice(&finished.into_tail());
    let summary = grammar::check(&out).unwrap();
    assert_eq!((&*summary.terminal, &summary.response["store"]), ("response.completed", &json!(false)));
}

#[test]
fn what_is_stored_is_what_the_terminal_event_says() {
    for path in inputs("stream", "sse") {
        let case = StreamCase::read(&path);
        let plan = good_plan(&case.request, &case.settings);
        let mut stream = ResponseStream::new(plan, AnswerForm::Events, &case.settings);
        let mut out = stream.take().to_vec();
        out.extend_from_slice(&stream.push(&case.upstream));
        let mut finished = stream.finish(case.end, ENDED_AT);
        let (kept, _) = finished.take_stored().unwrap();
        let stored: Value = serde_json::from_str(&output_text::completed(&kept)).unwrap();
        out.extend_from_slice(&finished.into_tail());
        assert_eq!(grammar::check_in(&out, case.settings.api).unwrap().response, stored, "{}", path.display());
    }
}

/// A whole answer as the chunks that would have streamed it, its texts cut at `cuts`.
fn as_stream(answer: &Value, cuts: &[Index]) -> Option<Vec<u8>> {
    if answer["error"].is_object() || answer["object"] == "error" {
        return Some(chunk(answer));
    }
    let choices = answer["choices"].as_array()?;
    let choice = choices.iter().find(|choice| choice["index"].as_i64().unwrap_or(0) == 0)?;
    let message = &choice["message"];
    let mut out = chunk(&json!({"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}));
    let mut send = |delta: Value, logprobs: Value| {
        out.extend_from_slice(&chunk(&json!({"choices":[{"index":0,"delta":delta,"logprobs":logprobs}]})));
    };
    let parts = message["content"].as_array().into_iter().flatten();
    let joined: String = parts.filter_map(|part| part["text"].as_str()).collect();
    let content = message["content"].as_str().map_or(joined, str::to_owned);
    let [mut before, mut of_content, mut behind] = logprobs_about(&content, &choice["logprobs"]);
    let is_text = |key: &&str| message[*key].as_str().is_some_and(|text| !text.is_empty());
    match ["reasoning_content", "reasoning"].into_iter().find(is_text) {
        Some(key) => {
            for piece in pieces(message[key].as_str()?, cuts) {
                send(json!({key: piece}), before.take());
            }
        }
        None => {
            for detail in message["reasoning_details"].as_array().into_iter().flatten() {
                send(json!({"reasoning_details":[detail]}), Value::Null);
            }
        }
    }
    for piece in pieces(&content, cuts) {
        send(json!({"content": piece}), of_content.take());
    }
    // The token that ends the answer has no text.
    if !behind.is_null() {
        send(json!({"content": ""}), behind.take());
    }
    for piece in pieces(message["refusal"].as_str().unwrap_or_default(), cuts) {
        send(json!({"refusal": piece}), Value::Null);
    }
    for (index, call) in message["tool_calls"].as_array().into_iter().flatten().enumerate() {
        let arguments = &call["function"]["arguments"];
        let whole = arguments.is_object().then_some(arguments);
        let function = json!({"name": call["function"]["name"], "arguments": whole});
        send(json!({"tool_calls":[{"index":index,"id":call["id"],"function":function}]}), Value::Null);
        for piece in pieces(arguments.as_str().unwrap_or_default(), cuts) {
            send(json!({"tool_calls":[{"index":index,"function":{"arguments":piece}}]}), Value::Null);
        }
    }
    let reason = choice["finish_reason"].as_str().unwrap_or("stop");
    out.extend_from_slice(&chunk(&json!({"choices":[{"index":0,"delta":{},"finish_reason":reason}]})));
    out.extend_from_slice(&chunk(&json!({"choices":[],"usage":answer["usage"]})));
    out.extend_from_slice(b"data: [DONE]\n\n");
    Some(out)
}

/// The log probabilities of what comes before a text, of the text, and of what comes behind, as backends send them: each
/// beside its own delta. All of them with the text if it is not whole tokens.
fn logprobs_about(text: &str, logprobs: &Value) -> [Value; 3] {
    let tokens = logprobs["content"].as_array().map(Vec::as_slice).unwrap_or_default();
    let said = |tokens: &[Value]| tokens.iter().filter_map(|token| token["token"].as_str()).collect::<String>();
    let mut ranges = (0..tokens.len()).rev().flat_map(|first| (first + 1..=tokens.len()).map(move |end| (first, end)));
    match ranges.find(|(first, end)| said(&tokens[*first..*end]) == text) {
        Some((first, end)) => [&tokens[..first], &tokens[first..end], &tokens[end..]]
            .map(|some| if some.is_empty() { Value::Null } else { json!({ "content": some }) }),
        None => [Value::Null, logprobs.clone(), Value::Null],
    }
}

/// A text cut into pieces of at least one character.
fn pieces(text: &str, cuts: &[Index]) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(chars.len() + 1)).collect();
    at.extend([0, chars.len()]);
    at.sort_unstable();
    at.dedup();
    at.windows(2).map(|cut| chars[cut[0]..cut[1]].iter().collect()).collect()
}

/// Whether the streamed answer is the same response, byte by byte; `None` when the answer is no answer.
fn streamed_is_unstreamed(path: &std::path::Path, cuts: &[Index]) -> Option<bool> {
    let (settings, request, answer) = read_json::<AnswerCase>(path).parts();
    // Compact, as backends send it: arguments that are an object are taken in the form in which they came.
    let answer: Value = serde_json::from_slice(&answer).ok()?;
    let body = answer.to_string();
    let unstreamed = machine::response(good_plan(&request, &settings), &settings, body.as_bytes()).ok()?;
    let upstream = as_stream(&answer, cuts).unwrap();
    let mut stream = ResponseStream::new(good_plan(&request, &settings), AnswerForm::Events, &settings);
    stream.push(&upstream);
    let streamed = stream.finish(End::Complete, ENDED_AT).take_response().unwrap();
    Some(unstreamed == streamed)
}

#[test]
fn an_answer_streamed_whole_is_the_unstreamed_answer() {
    let same = inputs("answer", "json").into_iter().filter(|path| {
        let same = streamed_is_unstreamed(path, &[]);
        assert_ne!(same, Some(false), "{}", path.display());
        same.is_some()
    });
    assert!(same.count() >= 20);
}

/// Each piece waits by itself: a byte of it costs more memory than a byte.
#[test]
fn pieces_that_alternate_behind_an_open_call_count_for_more_than_their_bytes() {
    let settings = Settings { max_answer_bytes: 10_000, ..Settings::default() };
    let mut stream = ResponseStream::new(good_plan(TOOLS_REQUEST, &settings), AnswerForm::Events, &settings);
    let call = json!({"index": 0, "id": "call_1", "function": {"name": "get_weather", "arguments": "{"}});
    stream.push(&chunk(&json!({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]})));
    for _ in 0..500 {
        stream.push(&chunk(&json!({"choices": [{"index": 0, "delta": {"reasoning_content": "r"}}]})));
        stream.push(&chunk(&json!({"choices": [{"index": 0, "delta": {"content": "t"}}]})));
    }
    assert!(stream.has_failed());
}

proptest! {
    #![proptest_config(config(600))]

    #[test]
    fn an_answer_streamed_in_any_pieces_is_the_unstreamed_answer(
        which: Index,
        cuts in prop::collection::vec(any::<Index>(), 0..8),
    ) {
        let paths = inputs("answer", "json");
        let path = which.get(&paths);
        prop_assert_ne!(streamed_is_unstreamed(path, &cuts), Some(false), "{}", path.display());
    }

    #[test]
    fn the_grammar_holds_for_any_chunks_and_any_ending(
        chunks in arbitrary::chunks(),
        end in prop::sample::select(ENDS.to_vec()),
        beats: u16,
        request in prop::sample::select(vec![STREAM_REQUEST, SUMMARY_REQUEST, TOOLS_REQUEST]),
        done: bool,
        store_fails: bool,
    ) {
        let settings = Settings { max_answer_bytes: 2000, ..Settings::default() };
        let mut stream = ResponseStream::new(good_plan(request, &settings), AnswerForm::Events, &settings);
        let mut out = stream.take().to_vec();
        for (index, value) in chunks.iter().enumerate() {
            if beats >> (index % 16) & 1 == 1 {
                out.extend_from_slice(&stream.heartbeat());
            }
            out.extend_from_slice(&stream.push(&chunk(value)));
        }
        if done {
            out.extend_from_slice(&stream.push(b"data: [DONE]\n\n"));
        }
        let mut finished = stream.finish(end, ENDED_AT);
        if store_fails {
            finished.fail(ResponseError { code: "store_unavailable".to_owned(), message: "x".to_owned() });
        }
        out.extend_from_slice(&finished.into_tail());
        let checked = grammar::check(&out);
        prop_assert!(checked.is_ok(), "{}\n{}", checked.unwrap_err(), String::from_utf8_lossy(&out));
    }

    #[test]
    fn no_bytes_make_the_machine_panic_or_break_the_grammar(
        pieces in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                prop::sample::select(vec!["data: ", "data:[DONE]", "\n\n", "\r", "\r\n", "{\"choices\":[", "{}", "event: error\n", "error: ", ":"])
                    .prop_map(|text| text.as_bytes().to_vec()),
                arbitrary::json().prop_map(|json| format!("data: {json}\n\n").into_bytes()),
            ],
            0..12,
        ),
        end in prop::sample::select(ENDS.to_vec()),
    ) {
        let settings = Settings { max_sse_frame_bytes: 200, ..Settings::default() };
        let out = machine::events(good_plan(STREAM_REQUEST, &settings), &settings, pieces, end);
        let checked = grammar::check(&out);
        prop_assert!(checked.is_ok(), "{}", checked.unwrap_err());
    }

    #[test]
    fn no_body_makes_the_unstreamed_path_panic(answer in arbitrary::json(), message in arbitrary::chunks()) {
        let settings = Settings::default();
        let mut bodies = vec![answer.to_string()];
        for mut chunk in message {
            for choice in chunk["choices"].as_array_mut().into_iter().flatten() {
                choice["message"] = choice["delta"].take();
            }
            bodies.push(chunk.to_string());
        }
        for body in bodies {
            let plan = good_plan(r#"{"model":"m","input":"hi"}"#, &settings);
            if let Ok(response) = machine::response(plan, &settings, body.as_bytes()) {
                let checked = grammar::check_response(&serde_json::from_str(&response).unwrap());
                prop_assert!(checked.is_ok(), "{}\n{body}\n{response}", checked.unwrap_err());
            }
        }
    }
}
