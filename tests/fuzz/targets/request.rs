//! A create request: any body becomes a chat request or a typed error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use responses_router::id::ResponseId;
use responses_router::translate::{AnswerForm, CreateRequest, Past, ResponseStream, Settings, request};

fuzz_target!(|body: &[u8]| {
    let settings = Settings::default();
    let Ok(create) = CreateRequest::parse(body) else { return };
    let Ok(translated) = request(create, Past::default(), &settings, None, ResponseId::from_bits(1), 1) else { return };
    let chat: serde_json::Value = serde_json::from_slice(&translated.chat).expect("the chat request is JSON");
    assert!(chat["messages"].as_array().is_some_and(|messages| !messages.is_empty()), "no messages: {chat}");
    let created = ResponseStream::new(translated.plan, AnswerForm::Events, &settings).take();
    assert!(created.ends_with(b"\n\n"));
});
