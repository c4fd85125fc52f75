//! The stream machine: whatever the upstream sends, wherever it is cut and however it ends, the grammar holds.
//!
//! The first two bytes say how large the pieces are, how the stream ends, and whether reasoning is shown as summary.
#![no_main]

use libfuzzer_sys::fuzz_target;
use responses_router::id::ResponseId;
use responses_router::translate::{AnswerForm, CreateRequest, End, Past, ResponseStream, Settings, request};

#[allow(dead_code, reason = "shared with the integration tests, which use more of it")]
#[path = "../../support"]
mod support {
    pub(crate) mod frames;
    pub(crate) mod grammar;
    pub(crate) mod response_shape;
}

const PLAIN: &[u8] = br#"{"model":"m","input":"hi","stream":true}"#;
const SUMMARY: &[u8] = br#"{"model":"m","input":"hi","stream":true,"reasoning":{"summary":"auto"}}"#;

fuzz_target!(|input: &[u8]| {
    let [size, choices, upstream @ ..] = input else { return };
    let settings = Settings { max_answer_bytes: 4096, max_sse_frame_bytes: 4096, ..Settings::default() };
    let body = if choices & 4 == 0 { PLAIN } else { SUMMARY };
    let create = CreateRequest::parse(body, &settings.request).expect("a good request");
    let translated =
        request(create, Past::default(), &settings, None, ResponseId::from_bits(1), 1).expect("a good request");
    let mut stream = ResponseStream::new(translated.plan, AnswerForm::Events, &settings);
    let mut out = stream.take().to_vec();
    for (index, piece) in upstream.chunks(usize::from(*size).max(1)).enumerate() {
        out.extend_from_slice(&stream.push(piece));
        // A few: each is a whole snapshot, and a thousand of them would only slow the search.
        if choices & 8 != 0 && index < 4 {
            out.extend_from_slice(&stream.heartbeat());
        }
    }
    let end = match choices & 3 {
        1 => End::Disconnected,
        2 => End::ShuttingDown,
        _ => End::Complete,
    };
    out.extend_from_slice(&stream.finish(end, 2).into_tail());
    if let Err(why) = support::grammar::check(&out) {
        panic!("{why}\n{}", String::from_utf8_lossy(&out));
    }
});
