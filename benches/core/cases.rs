//! What is measured: each case is one whole piece of work of the core, on inputs like those of `benches/stack`.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use responses_router::id::ResponseId;
use responses_router::sse::Decoder;
use responses_router::store::{AncestorIds, Ancestors, KnownItems, Record};
use responses_router::translate::{
    AnswerForm, CreateRequest, End, Past, ResponseStream, Settings, Translated, Turn, request,
};

/// A piece of work, done once per call.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) work: Box<dyn Fn()>,
}

/// Length of the text that is sent, in bytes: about 2 KB with what is around it.
const SENT: usize = 1800;
/// Length of the text that comes back.
const ANSWERED: usize = 700;
/// Chunks of a streamed answer.
const CHUNKS: usize = 100;

pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: &str, work: Box<dyn Fn()>| cases.push(Case { name: name.to_owned(), work });

    let body = body(false);
    add("parse", {
        let body = body.clone();
        Box::new(move || drop(black_box(create(&body))))
    });
    for turns in [0, 1, 50, 200] {
        let (body, records) = (body.clone(), chain(turns));
        let work = move || drop(black_box(translate(&body, &records)));
        add(&format!("request/{turns}"), Box::new(work));
    }
    // An answer needs the plan of a request, which it uses up, so these are whole exchanges: less `request/0`, they are
    // the answer.
    add("exchange/json", {
        let completion = completion();
        Box::new(move || drop(black_box(answer(translate(&body, &[]), &completion))))
    });
    for chunks in [0, CHUNKS] {
        let frames: Vec<String> = (0..chunks).map(|index| chunk(&format!(" token{index}"))).collect();
        let body = self::body(true);
        let work = move || drop(black_box(stream(translate(&body, &[]), &frames)));
        add(&format!("exchange/stream/{chunks}"), Box::new(work));
    }
    add("sse", {
        let frames: String = (0..CHUNKS).map(|index| chunk(&format!(" token{index}"))).collect();
        Box::new(move || {
            let (mut decoder, mut bytes) = (Decoder::new(1 << 20), 0);
            let decoded = decoder.push(frames.as_bytes(), |_, data| bytes += data.len());
            assert!(decoded.is_ok(), "a frame is too large");
            black_box(bytes);
        })
    });
    for turns in [1, 50] {
        let Some(record) = chain(turns).pop() else { continue };
        let document = record.encode();
        add(&format!("record/encode/{turns}"), {
            let record = Arc::clone(&record);
            Box::new(move || drop(black_box(record.encode())))
        });
        add(&format!("record/decode/{turns}"), Box::new(move || drop(black_box(decode(&record.id, &document)))));
    }
    cases
}

fn body(stream: bool) -> String {
    let text = "lorem ipsum dolor sit amet ".repeat(SENT / 27);
    format!(
        r#"{{"model":"bench","input":[{{"role":"user","content":"{text}"}}],"stream":{stream},"temperature":0.7,"metadata":{{"a":"b"}}}}"#
    )
}

fn completion() -> String {
    let text = "lorem ipsum ".repeat(ANSWERED / 12);
    format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"bench","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}","refusal":null,"tool_calls":[]}},"logprobs":null,"finish_reason":"stop"}}],"usage":{{"prompt_tokens":400,"completion_tokens":200,"total_tokens":600,"prompt_tokens_details":{{"cached_tokens":0}}}},"system_fingerprint":"bench"}}"#
    )
}

fn chunk(text: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"bench\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"logprobs\":null,\"finish_reason\":null}}]}}\n\n"
    )
}

fn create(body: &str) -> CreateRequest {
    CreateRequest::parse(body.as_bytes(), &Settings::default().request).unwrap_or_else(|error| panic!("{error}"))
}

fn translate(body: &str, records: &[Arc<Record>]) -> Translated {
    let turns: Vec<Turn<'_>> = records
        .iter()
        .map(|record| Turn { input: &record.input, response: &record.response, items: record.items.get() })
        .collect();
    let past = Past { chain: &turns, referenced: &[] };
    let id = ResponseId::from_bits(records.len() as u128 + 1);
    request(create(body), past, &Settings::default(), None, id, 1).unwrap_or_else(|error| panic!("{error}"))
}

fn answer(translated: Translated, completion: &str) -> Record {
    let mut machine = ResponseStream::new(translated.plan, AnswerForm::Json, &Settings::default());
    assert!(machine.push_completion(completion.as_bytes()).is_ok(), "the completion is unusable");
    let mut finished = machine.finish(End::Complete, 2);
    let (response, input) = finished.take_stored().unwrap_or_else(|error| panic!("{error}"));
    Record {
        id: finished.plan().id.clone(),
        ancestors: Ancestors::Listed(AncestorIds::default()),
        input,
        response,
        interrupted: false,
        tenant: None,
        items: KnownItems::default(),
    }
}

fn stream(translated: Translated, frames: &[String]) -> [Bytes; 2] {
    let mut machine = ResponseStream::new(translated.plan, AnswerForm::Events, &Settings::default());
    let opening = machine.take();
    for frame in frames {
        black_box(machine.push(frame.as_bytes()));
    }
    let mut finished = machine.finish(End::Complete, 2);
    drop(black_box(finished.take_stored()));
    [opening, finished.into_tail()]
}

/// So many turns, each the child of the one before.
fn chain(turns: usize) -> Vec<Arc<Record>> {
    let (body, completion) = (body(false), completion());
    let mut records: Vec<Arc<Record>> = Vec::new();
    for turn in 0..turns {
        let mut translated = translate(&body, &[]);
        translated.plan.id = ResponseId::from_bits(turn as u128 + 1);
        let mut record = answer(translated, &completion);
        record.ancestors = Ancestors::Listed(records.iter().map(|record| record.id.clone()).collect());
        records.push(Arc::new(record));
    }
    records
}

fn decode(id: &ResponseId, document: &[u8]) -> Record {
    Record::decode(id, document).unwrap_or_else(|error| panic!("{error}"))
}
