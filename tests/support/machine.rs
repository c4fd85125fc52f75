//! The pure core driven from end to end: a request, an upstream's bytes, an ending; and what the client saw.

use std::borrow::Cow;
use std::sync::Arc;

use responses_router::id::{CountingIds, IdSource};
use responses_router::translate::{
    AnswerForm, BadAnswer, CreateRequest, End, Past, Plan, RequestError, ResponseStream, Seal, Settings, request,
};
use serde_json::Value;

/// When every test response is created, in seconds since the epoch.
pub(crate) const CREATED_AT: u64 = 1_700_000_000;
/// When every test response ends.
pub(crate) const ENDED_AT: u64 = 1_700_000_005;

/// The smallest request that asks for a stream.
pub(crate) const STREAM_REQUEST: &str = r#"{"model":"m","input":"hi","stream":true}"#;

/// The plan of a request without history; the response's id is always the first of the counter.
pub(crate) fn plan(body: &[u8], settings: &Settings) -> Result<Box<Plan>, RequestError> {
    let create = CreateRequest::parse(body, &settings.request)?;
    Ok(request(create, Past::default(), settings, None, CountingIds::default().response_id(), CREATED_AT)?.plan)
}

/// A seal that can be read in a snapshot. Anything that does not begin so was sealed by somebody else.
#[derive(Debug)]
pub(crate) struct Backwards;

impl Seal for Backwards {
    fn seal(&self, text: &str) -> Option<String> {
        Some(format!("sealed:{}", text.chars().rev().collect::<String>()))
    }

    fn open(&self, sealed: &str) -> Option<String> {
        Some(sealed.strip_prefix("sealed:")?.chars().rev().collect())
    }
}

/// The plan of a request without history, where reasoning can be sealed.
pub(crate) fn sealing_plan(body: &str, settings: &Settings) -> Box<Plan> {
    let create = CreateRequest::parse(body.as_bytes(), &settings.request).unwrap();
    let (seal, id) = (Arc::new(Backwards), CountingIds::default().response_id());
    request(create, Past::default(), settings, Some(seal), id, CREATED_AT).unwrap().plan
}

/// The plan of a request that must be right.
pub(crate) fn good_plan(body: &str, settings: &Settings) -> Box<Plan> {
    plan(body.as_bytes(), settings).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// The client's whole event stream when the upstream sends these pieces and ends in this way.
///
/// Stops pushing once the machine says that nothing more can come, as the shell does.
pub(crate) fn events<'p>(
    plan: Box<Plan>,
    settings: &Settings,
    pieces: impl IntoIterator<Item = impl Into<Cow<'p, [u8]>>>,
    end: End,
) -> Vec<u8> {
    let mut stream = ResponseStream::new(plan, AnswerForm::Events, settings);
    let mut out = stream.take().to_vec();
    for piece in pieces {
        out.extend_from_slice(&stream.push(&piece.into()));
        if stream.is_over() {
            break;
        }
    }
    out.extend_from_slice(&stream.finish(end, ENDED_AT).into_tail());
    out
}

/// The response object for an unstreamed answer of the upstream.
pub(crate) fn response(plan: Box<Plan>, settings: &Settings, answer: &[u8]) -> Result<String, BadAnswer> {
    let mut stream = ResponseStream::new(plan, AnswerForm::Json, settings);
    stream.push_completion(answer)?;
    let mut finished = stream.finish(End::Complete, ENDED_AT);
    let response = finished.take_response().unwrap_or_else(|error| panic!("{error}"));
    assert!(finished.into_tail().is_empty(), "a JSON answer has events");
    Ok(response)
}

/// A frame of the upstream's stream.
pub(crate) fn chunk(chunk: &Value) -> Vec<u8> {
    format!("data: {chunk}\n\n").into_bytes()
}
