//! The response inside a record of the Go semantic-router, completed to what the contract promises (CONTRACT §3).
//!
//! That router writes a part of the response object's members. What is there stays; what is missing, or null where
//! nobody may see null, gets the value that the API documents as its default.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::record_json::with_id;
use crate::id::ResponseId;
use crate::json;
use crate::openai::output_text;
use crate::openai::raw::RawObject;
use crate::openai::responses::{InputTokensDetails, OutputTokensDetails, Usage};

/// What the value of a member must look like, or its default takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    /// A text or null; an empty one is null.
    TextOrNull,
    Number,
    Integer,
    Bool,
    Array,
    Object,
    /// The value may be an object or a text.
    Choice,
}

/// The members in the reference's order, each with its default.
const MEMBERS: [(&str, Kind, &str); 33] = [
    ("object", Kind::Text, "\"response\""),
    ("created_at", Kind::Integer, "0"),
    ("status", Kind::Text, "\"completed\""),
    ("background", Kind::Bool, "false"),
    ("completed_at", Kind::Integer, "null"),
    ("conversation", Kind::Object, "null"),
    ("error", Kind::Object, "null"),
    ("frequency_penalty", Kind::Number, "0.0"),
    ("incomplete_details", Kind::Object, "null"),
    ("instructions", Kind::TextOrNull, "null"),
    ("max_output_tokens", Kind::Integer, "null"),
    ("max_tool_calls", Kind::Integer, "null"),
    ("model", Kind::Text, "\"\""),
    ("output", Kind::Array, "[]"),
    ("output_text", Kind::Text, "\"\""),
    ("parallel_tool_calls", Kind::Bool, "true"),
    ("presence_penalty", Kind::Number, "0.0"),
    ("previous_response_id", Kind::TextOrNull, "null"),
    ("prompt_cache_key", Kind::TextOrNull, "null"),
    ("reasoning", Kind::Object, "null"),
    ("safety_identifier", Kind::TextOrNull, "null"),
    ("service_tier", Kind::Text, "\"default\""),
    ("store", Kind::Bool, "true"),
    ("temperature", Kind::Number, "1.0"),
    ("text", Kind::Object, "{}"),
    ("tool_choice", Kind::Choice, "\"auto\""),
    ("tools", Kind::Array, "[]"),
    ("top_logprobs", Kind::Integer, "0"),
    ("top_p", Kind::Number, "1.0"),
    ("truncation", Kind::Text, "\"disabled\""),
    ("usage", Kind::Object, "null"),
    ("user", Kind::TextOrNull, "null"),
    ("metadata", Kind::Object, "{}"),
];

const CONVERSATION_ID: &str = "conversation_id";

/// The response with every member, those that we do not know behind them. `None` when something in it is no JSON of
/// ours, which a parsed document cannot be.
pub(super) fn completed(id: &ResponseId, foreign: &RawObject) -> Option<Box<RawValue>> {
    let mut response = RawObject::default();
    response.push("id", to_raw(id)?);
    for (key, kind, default) in MEMBERS {
        let given = foreign.raw(key).and_then(|value| fitting(kind, value));
        response.push(key, given.map_or_else(|| RawValue::from_string(default.to_owned()), Ok).ok()?);
    }
    // The reference has the conversation's id inside an object.
    if response.raw("conversation").is_none()
        && let Some(conversation) = foreign.text(CONVERSATION_ID).filter(|conversation| !conversation.is_empty())
    {
        response.set("conversation", to_raw(&Conversation { id: conversation })?);
    }
    // A look for each into a response that grows with them would cost their number squared.
    let known: HashSet<&str> = MEMBERS.iter().map(|(key, ..)| *key).chain(["id", CONVERSATION_ID]).collect();
    for (key, value) in foreign.iter() {
        if !known.contains(key) {
            response.push(key.to_owned(), value.to_owned());
        }
    }
    complete_inside(id, &mut response)?;
    to_raw(&response)
}

/// The members that have members of their own.
fn complete_inside(id: &ResponseId, response: &mut RawObject) -> Option<()> {
    let items: Vec<Box<RawValue>> = response.read("output").ok()??;
    let items = items.into_iter().enumerate().map(|(ordinal, item)| complete_item(id, ordinal, item));
    let items = items.collect::<Option<Vec<_>>>()?;
    if response.text("output_text").is_none_or(|text| text.is_empty()) {
        let text = output_text::literal(items.iter().map(|item| &**item)).collect();
        response.set("output_text", json::written(text).ok()?);
    }
    response.set("output", to_raw(&items)?);
    response.set("usage", to_raw(&usage(response.raw("usage")))?);
    let mut text: RawObject = response.read("text").ok()??;
    if text.raw("format").is_none() {
        text.set_first("format", RawValue::from_string("{\"type\":\"text\"}".to_owned()).ok()?);
        response.set("text", to_raw(&text)?);
    }
    if let Ok(Some(mut reasoning)) = response.read::<RawObject>("reasoning") {
        for key in ["effort", "summary"] {
            if !reasoning.contains(key) {
                reasoning.push(key, to_raw(&())?);
            }
        }
        response.set("reasoning", to_raw(&reasoning)?);
    }
    if let Ok(Some(mut error)) = response.read::<RawObject>("error") {
        let code = error.text("code").unwrap_or_else(|| "server_error".to_owned());
        let message = error.text("message").unwrap_or_default();
        error.set("code", to_raw(&code)?);
        error.set("message", to_raw(&message)?);
        response.set("error", to_raw(&error)?);
    }
    // It keeps no other time.
    if response.text("status").as_deref() == Some("completed") && response.raw("completed_at").is_none() {
        response.set("completed_at", response.raw("created_at")?.to_owned());
    }
    Some(())
}

#[derive(Serialize)]
struct Conversation {
    id: String,
}

fn fitting(kind: Kind, value: &RawValue) -> Option<Box<RawValue>> {
    let text = value.get();
    let fits = match kind {
        Kind::Text => text.starts_with('"'),
        Kind::TextOrNull => text.starts_with('"') && text != "\"\"",
        Kind::Bool => matches!(text, "true" | "false"),
        Kind::Array => text.starts_with('['),
        Kind::Object => text.starts_with('{'),
        Kind::Choice => text.starts_with(['"', '{']) && text != "\"\"",
        Kind::Number => is_number(text),
        Kind::Integer if text.parse::<u64>().is_ok() => true,
        // A time with a fraction, say.
        Kind::Integer => {
            let (whole, _) = text.split_once('.')?;
            return RawValue::from_string(whole.parse::<u64>().ok()?.to_string()).ok();
        }
    };
    fits.then(|| value.to_owned())
}

fn is_number(text: &str) -> bool {
    text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
}

/// An item with an id, and what the clients' types ask of it.
fn complete_item(id: &ResponseId, ordinal: usize, item: Box<RawValue>) -> Option<Box<RawValue>> {
    let item = with_id(item, id, ordinal);
    let Ok(mut object) = serde_json::from_str::<RawObject>(item.get()) else { return Some(item) };
    if object.raw("status").is_none() {
        object.set("status", to_raw("completed")?);
    }
    if object.text("type").as_deref() == Some("message") {
        if object.raw("role").is_none() {
            object.set("role", to_raw("assistant")?);
        }
        let parts = object.read::<Vec<RawObject>>("content").ok().flatten().unwrap_or_default();
        let parts = parts.into_iter().map(|mut part| {
            for key in ["annotations", "logprobs"] {
                if part.text("type").as_deref() == Some("output_text") && part.raw(key).is_none() {
                    part.set(key, RawValue::from_string("[]".to_owned()).ok()?);
                }
            }
            Some(part)
        });
        object.set("content", to_raw(&parts.collect::<Option<Vec<_>>>()?)?);
    }
    to_raw(&object)
}

/// Token counts by the names of either API; what is missing is zero.
fn usage(foreign: Option<&RawValue>) -> Usage {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Counts {
        #[serde(alias = "prompt_tokens")]
        input_tokens: Option<u64>,
        #[serde(alias = "prompt_tokens_details")]
        input_tokens_details: Option<Details>,
        #[serde(alias = "completion_tokens")]
        output_tokens: Option<u64>,
        #[serde(alias = "completion_tokens_details")]
        output_tokens_details: Option<Details>,
        total_tokens: Option<u64>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Details {
        cached_tokens: Option<u64>,
        cache_write_tokens: Option<u64>,
        reasoning_tokens: Option<u64>,
    }
    let counts: Counts = foreign.and_then(|usage| serde_json::from_str(usage.get()).ok()).unwrap_or_default();
    let (input, output) =
        (counts.input_tokens_details.unwrap_or_default(), counts.output_tokens_details.unwrap_or_default());
    let (input_tokens, output_tokens) =
        (counts.input_tokens.unwrap_or_default(), counts.output_tokens.unwrap_or_default());
    Usage {
        input_tokens,
        input_tokens_details: InputTokensDetails {
            cached_tokens: input.cached_tokens.unwrap_or_default(),
            cache_write_tokens: input.cache_write_tokens.unwrap_or_default(),
        },
        output_tokens,
        output_tokens_details: OutputTokensDetails { reasoning_tokens: output.reasoning_tokens.unwrap_or_default() },
        total_tokens: counts.total_tokens.unwrap_or_else(|| input_tokens.saturating_add(output_tokens)),
    }
}

fn to_raw<T: Serialize + ?Sized>(value: &T) -> Option<Box<RawValue>> {
    serde_json::value::to_raw_value(value).ok()
}
