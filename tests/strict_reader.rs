//! async-openai's types as a strict reader of our output: a client in another type system.
//!
//! It must read every response and every event that the golden cases make. So far it reads all of them; should its types
//! ever turn out narrower than CONTRACT.md, the exception belongs here, by name and with its reason.

use async_openai::types::responses::{Response, ResponseStreamEvent};
use responses_router::openai::dialect::ApiDialect;
use serde_json::Value;

use crate::golden::{AnswerCase, StreamCase};
use crate::support::cases::{inputs, read_json};
use crate::support::machine::{self, good_plan};
use crate::support::{frames, grammar};

#[test]
fn every_response_is_read_whole() {
    let mut read = 0;
    for path in inputs("answer", "json") {
        let (settings, request, answer) = read_json::<AnswerCase>(&path).parts();
        let Ok(response) = machine::response(good_plan(&request, &settings), &settings, &answer) else { continue };
        let ours: Value = serde_json::from_str(&response).unwrap();
        let theirs: Response =
            serde_json::from_value(ours.clone()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(theirs.output.len(), ours["output"].as_array().unwrap().len());
        let text = theirs.output_text().unwrap_or_default();
        assert_eq!(text, ours["output_text"].as_str().unwrap(), "{}", path.display());
        read += 1;
    }
    assert!(read >= 20);
}

#[test]
fn every_event_is_read() {
    let mut names = std::collections::BTreeSet::new();
    for path in inputs("stream", "sse") {
        let case = StreamCase::read(&path);
        if case.settings.api != ApiDialect::OPENAI {
            continue;
        }
        let stream = case.events([case.upstream.as_slice()]);
        grammar::check(&stream).unwrap();
        for frames::Event { name, data } in frames::read(&stream).unwrap() {
            let read: Result<ResponseStreamEvent, _> = serde_json::from_value(data.clone());
            assert!(read.is_ok(), "{}: {name}: {}\n{data}", path.display(), read.unwrap_err());
            names.insert(name);
        }
    }
    // All that the machine can emit, so that none goes unread.
    assert_eq!(names.len(), 23, "{names:#?}");
}
