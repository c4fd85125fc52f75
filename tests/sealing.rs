//! Reasoning that clients carry in sealed form: what they are given, streamed and not.

use responses_router::translate::{AnswerForm, End, ResponseStream, Settings};
use serde_json::{Value, json};

use crate::support::grammar::{self, Summary};
use crate::support::machine::{self, ENDED_AT, chunk, sealing_plan};

const INCLUDE: &str = r#""include":["reasoning.encrypted_content"],"store":false"#;

fn streamed(request: &str, end: End) -> Summary {
    let settings = Settings::default();
    let chunks = [
        json!({"choices":[{"delta":{"reasoning_content":"Let me "}}]}),
        json!({"choices":[{"delta":{"reasoning_content":"see."}}]}),
        json!({"choices":[{"delta":{"content":"Hello."},"finish_reason":"stop"}]}),
    ];
    let count = if end == End::Complete { 3 } else { 2 };
    let pieces = chunks.iter().take(count).map(chunk);
    grammar::check(&machine::events(sealing_plan(request, &settings), &settings, pieces, end)).unwrap()
}

fn done_item(summary: &Summary) -> &Value {
    let done = summary.events.iter().find(|event| event.name == "response.output_item.done").unwrap();
    &done.data["item"]
}

#[test]
fn a_stream_seals_its_reasoning_when_asked_to() {
    let summary = streamed(&format!(r#"{{"model":"m","input":"hi","stream":true,{INCLUDE}}}"#), End::Complete);
    let added = summary.events.iter().find(|event| event.name == "response.output_item.added").unwrap();
    assert_eq!(added.data["item"].get("encrypted_content"), None);
    assert_eq!(done_item(&summary)["encrypted_content"], "sealed:.ees em teL");
    assert_eq!(summary.response["output"][0], *done_item(&summary));
    assert_eq!(summary.response["output"][0]["content"][0]["text"], "Let me see.");
}

#[test]
fn reasoning_that_is_shown_as_summary_is_sealed_whole() {
    let request = format!(r#"{{"model":"m","input":"hi","stream":true,"reasoning":{{"summary":"auto"}},{INCLUDE}}}"#);
    let summary = streamed(&request, End::Complete);
    assert_eq!(done_item(&summary).get("content"), None);
    assert_eq!(done_item(&summary)["encrypted_content"], "sealed:.ees em teL");
}

#[test]
fn reasoning_that_was_cut_is_sealed_as_far_as_it_came() {
    let request = format!(r#"{{"model":"m","input":"hi","stream":true,{INCLUDE}}}"#);
    let summary = streamed(&request, End::Disconnected);
    assert_eq!(done_item(&summary)["status"], "incomplete");
    assert_eq!(done_item(&summary)["encrypted_content"], "sealed:.ees em teL");
}

#[test]
fn reasoning_is_not_sealed_unasked() {
    let summary = streamed(r#"{"model":"m","input":"hi","stream":true}"#, End::Complete);
    assert_eq!(done_item(&summary).get("encrypted_content"), None);
}

#[test]
fn an_answer_that_is_not_streamed_is_sealed_likewise() {
    let settings = Settings::default();
    let plan = sealing_plan(&format!(r#"{{"model":"m","input":"hi",{INCLUDE}}}"#), &settings);
    let mut stream = ResponseStream::new(plan, AnswerForm::Json, &settings);
    let message = json!({"role":"assistant","content":"Hello.","reasoning_content":"Let me see."});
    let answer = json!({"choices":[{"message":message,"finish_reason":"stop"}]});
    stream.push_completion(answer.to_string().as_bytes()).unwrap();
    let response = stream.finish(End::Complete, ENDED_AT).take_response().unwrap();
    let response: Value = serde_json::from_str(&response).unwrap();
    grammar::check_response(&response).unwrap();
    assert_eq!(response["output"][0]["encrypted_content"], "sealed:.ees em teL");
}
