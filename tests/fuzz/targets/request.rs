//! Conversations: any body becomes a chat request or a typed error, under any settings, and what one turn leaves
//! behind can always be the history of the next.
//!
//! The first four bytes choose the settings. The rest is cut at NULs, which no JSON holds: a request's body, what the
//! upstream answers, the next request's body, and so on.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use responses_router::id::ResponseId;
use responses_router::openai::dialect::ApiDialect;
use responses_router::translate::presets::Preset;
use responses_router::translate::settings::{
    AssistantContent, DeveloperRole, EffortForm, ForwardUnknown, HistoryRepair, InputFiles, JsonSchemaForm,
    NamedToolChoice, ReasoningReplay, ResponseFormatWithTools, SplitThink, SystemMessages, ToolOutputMedia,
    UnsupportedTools,
};
use responses_router::translate::upstream_dialect::{DialectKeys, UpstreamDialect};
use responses_router::translate::{
    AnswerForm, CreateRequest, End, Past, RequestError, ResponseStream, Seal, Settings, Turn, request,
};
use serde_json::value::RawValue;

#[allow(dead_code, reason = "shared with the integration tests, which use more of it")]
#[path = "../../support"]
mod support {
    pub(crate) mod frames;
    pub(crate) mod grammar;
    pub(crate) mod response_shape;
}

/// Turns of one conversation; more would only slow the search.
const MAX_TURNS: usize = 4;

const PRESETS: [Preset; 6] =
    [Preset::Vllm, Preset::Sglang, Preset::LlamaCpp, Preset::Ollama, Preset::Openai, Preset::Deepseek];

/// A seal that anybody can open.
#[derive(Debug)]
struct Readable;

impl Seal for Readable {
    fn seal(&self, text: &str) -> Option<String> {
        Some(format!("sealed:{text}"))
    }

    fn open(&self, sealed: &str) -> Option<String> {
        sealed.strip_prefix("sealed:").map(str::to_owned)
    }
}

/// One of the values, by some bits of a byte.
fn pick<T: Copy>(byte: u8, shift: u32, values: &[T]) -> T {
    values[usize::from(byte >> shift) % values.len()]
}

fn settings([backend, api, dialect, forms]: [u8; 4]) -> Settings {
    let keys = DialectKeys {
        system_messages: Some(pick(dialect, 0, &[SystemMessages::Merge, SystemMessages::Keep])),
        developer_role: Some(pick(dialect, 1, &[DeveloperRole::System, DeveloperRole::Developer])),
        reasoning_replay: Some(pick(
            dialect,
            2,
            &[ReasoningReplay::ToolTurns, ReasoningReplay::Always, ReasoningReplay::Never],
        )),
        split_think: Some(pick(dialect, 4, &[SplitThink::Off, SplitThink::On, SplitThink::Implied])),
        assistant_content: Some(pick(dialect, 6, &[AssistantContent::Nullable, AssistantContent::String])),
        forward_unknown: Some(if dialect & 128 == 0 { ForwardUnknown::All } else { ForwardUnknown::None }),
        reasoning_effort: Some(pick(
            forms,
            0,
            &[EffortForm::ReasoningEffort, EffortForm::ChatTemplateKwargs, EffortForm::Both, EffortForm::Thinking],
        )),
        response_format_with_tools: Some(pick(
            forms,
            2,
            &[ResponseFormatWithTools::Send, ResponseFormatWithTools::Withhold, ResponseFormatWithTools::Instruct],
        )),
        json_schema: Some(pick(forms, 4, &[JsonSchemaForm::Send, JsonSchemaForm::JsonObject])),
        named_tool_choice: Some(pick(forms, 5, &[NamedToolChoice::Send, NamedToolChoice::Required])),
        files: Some(pick(forms, 6, &[InputFiles::Refuse, InputFiles::Send])),
        tool_output_media: Some(pick(
            api,
            4,
            &[ToolOutputMedia::UserMessage, ToolOutputMedia::Parts, ToolOutputMedia::Drop, ToolOutputMedia::Refuse],
        )),
        ..DialectKeys::default()
    };
    let chosen = UpstreamDialect::default();
    let dialect = match backend & 3 {
        0 => chosen,
        1 => chosen.with(pick(backend, 2, &PRESETS).keys()),
        2 => chosen.with(keys),
        _ => chosen.with(pick(backend, 2, &PRESETS).keys()).with(keys),
    };
    Settings {
        dialect,
        api: pick(api, 0, &[ApiDialect::OPENAI, ApiDialect::OPEN_RESPONSES, ApiDialect::SEMANTIC_ROUTER]),
        history_repair: pick(api, 2, &[HistoryRepair::Strict, HistoryRepair::Repair]),
        unsupported_tools: pick(api, 3, &[UnsupportedTools::Skip, UnsupportedTools::Refuse]),
        max_answer_bytes: 1 << 14,
        max_sse_frame_bytes: 1 << 12,
        ..Settings::default()
    }
}

/// What is looked at of a chat request. Its extras may hold numbers that `Value` would refuse.
#[derive(serde::Deserialize)]
struct Chat<'a> {
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
}

/// What a turn leaves in the store.
struct Stored {
    input: Vec<Box<RawValue>>,
    response: Box<RawValue>,
}

fuzz_target!(|input: &[u8]| {
    let Some((choices, conversation)) = input.split_first_chunk::<4>() else { return };
    let settings = settings(*choices);
    let seal = (choices[1] & 128 != 0).then(|| Arc::new(Readable) as Arc<dyn Seal>);
    let mut parts = conversation.split(|byte| *byte == 0);
    let mut chain: Vec<Stored> = Vec::new();
    for number in 1..=MAX_TURNS {
        let Some(body) = parts.next() else { return };
        let answer = parts.next().unwrap_or_default();
        let Ok(create) = CreateRequest::parse(body, &settings.request) else { continue };
        let turns: Vec<Turn<'_>> =
            chain.iter().map(|turn| Turn { input: &turn.input, response: &turn.response, items: None }).collect();
        let (newest, older) = turns.split_at(turns.len() / 2);
        // Items may be referred to whether they stand in the chain or elsewhere.
        let past = match choices[1] & 64 {
            0 => Past { chain: &turns, referenced: &[] },
            _ => Past { chain: older, referenced: newest },
        };
        let id = ResponseId::from_bits(u128::try_from(number).unwrap_or_default());
        let translated = match request(create, past, &settings, seal.clone(), id, 1) {
            Ok(translated) => translated,
            Err(RequestError::History(why)) => panic!("what was stored cannot be loaded: {why}"),
            Err(_) => continue,
        };
        let chat: Chat<'_> = serde_json::from_slice(&translated.chat).expect("the chat request is JSON");
        assert!(!chat.messages.is_empty(), "no messages");

        let mut stream = ResponseStream::new(translated.plan, AnswerForm::Events, &settings);
        let mut events = stream.take().to_vec();
        events.extend_from_slice(&stream.push(answer));
        let mut finished = stream.finish(End::Complete, 2);
        let (response, input) = finished.take_stored().expect("the response serialises");
        chain.push(Stored { input, response });
        events.extend_from_slice(&finished.into_tail());
        if let Err(why) = support::grammar::check_in(&events, settings.api) {
            panic!("{why}\n{}", String::from_utf8_lossy(&events));
        }
    }
});
