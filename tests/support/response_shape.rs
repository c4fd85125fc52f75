//! The response object, its items and its parts, as CONTRACT §3 promises them in JSON and in every snapshot.

use serde_json::{Map, Value};

/// Reads as "`$place` has `$value`, but …".
type Checked = Result<(), String>;

/// Every key of CONTRACT §3 and what its value must be.
const MEMBERS: &[(&str, Kind)] = &[
    ("id", Kind::ResponseId),
    ("object", Kind::Word("response")),
    ("created_at", Kind::Integer),
    ("completed_at", Kind::OrNull(&Kind::Integer)),
    ("status", Kind::Text),
    ("error", Kind::OrNull(&Kind::Object(&[("code", Kind::Text), ("message", Kind::Text)]))),
    ("incomplete_details", Kind::OrNull(&Kind::Object(&[("reason", Kind::Text)]))),
    ("model", Kind::Text),
    ("previous_response_id", Kind::OrNull(&Kind::Text)),
    ("instructions", Kind::OrNull(&Kind::Text)),
    ("output", Kind::Array),
    ("output_text", Kind::Text),
    ("tools", Kind::Array),
    ("tool_choice", Kind::TextOrObject),
    ("parallel_tool_calls", Kind::Bool),
    ("truncation", Kind::Text),
    ("text", Kind::AnyObject),
    ("temperature", Kind::Number),
    ("top_p", Kind::Number),
    ("presence_penalty", Kind::Number),
    ("frequency_penalty", Kind::Number),
    ("top_logprobs", Kind::Integer),
    ("reasoning", Kind::OrNull(&Kind::Object(&[("effort", TEXT_OR_NULL), ("summary", TEXT_OR_NULL)]))),
    ("usage", Kind::OrNull(&USAGE)),
    ("max_output_tokens", Kind::OrNull(&Kind::Integer)),
    ("max_tool_calls", Kind::OrNull(&Kind::Integer)),
    ("store", Kind::Bool),
    ("background", Kind::Bool),
    ("service_tier", Kind::Text),
    ("metadata", Kind::AnyObject),
    ("safety_identifier", Kind::OrNull(&Kind::Text)),
    ("prompt_cache_key", Kind::OrNull(&Kind::Text)),
    ("user", Kind::OrNull(&Kind::Text)),
    ("conversation", Kind::OrNull(&Kind::AnyObject)),
];

const TEXT_OR_NULL: Kind = Kind::OrNull(&Kind::Text);

const USAGE: Kind = Kind::Object(&[
    ("input_tokens", Kind::Integer),
    ("input_tokens_details", Kind::Object(&[("cached_tokens", Kind::Integer), ("cache_write_tokens", Kind::Integer)])),
    ("output_tokens", Kind::Integer),
    ("output_tokens_details", Kind::Object(&[("reasoning_tokens", Kind::Integer)])),
    ("total_tokens", Kind::Integer),
]);

const LOGPROB: Kind = Kind::Object(&[
    ("token", Kind::Text),
    ("logprob", Kind::Number),
    ("bytes", Kind::ListOf(&Kind::Integer)),
    ("top_logprobs", Kind::ListOf(&TOP_LOGPROB)),
]);

const TOP_LOGPROB: Kind =
    Kind::Object(&[("token", Kind::Text), ("logprob", Kind::Number), ("bytes", Kind::ListOf(&Kind::Integer))]);

/// The `logprobs` of parts and of text events.
pub(crate) const LOGPROBS: Kind = Kind::ListOf(&LOGPROB);

/// What a value must be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// A string.
    Text,
    /// This very string.
    Word(&'static str),
    /// A string or an object.
    TextOrObject,
    /// A whole number, not negative.
    Integer,
    /// Any number.
    Number,
    /// True or false.
    Bool,
    /// Any array.
    Array,
    /// An array of these.
    ListOf(&'static Kind),
    /// Anything at all.
    Any,
    /// Any object.
    AnyObject,
    /// An object with exactly these members.
    Object(&'static [(&'static str, Kind)]),
    /// The same, or null.
    OrNull(&'static Kind),
    /// `resp_` and 32 lower-case hex digits.
    ResponseId,
}

impl Kind {
    /// Checks a value; `place` is its name in the message.
    pub(crate) fn check(&self, place: &str, value: &Value) -> Checked {
        let fits = match self {
            Self::Text => value.is_string(),
            Self::Word(word) => value == word,
            Self::TextOrObject => value.is_string() || value.is_object(),
            Self::Integer => value.is_u64(),
            Self::Number => value.is_number(),
            Self::Bool => value.is_boolean(),
            Self::Array => value.is_array(),
            Self::ListOf(kind) => {
                let items = value.as_array().ok_or_else(|| format!("{place} is not a list: {value}"))?;
                return items
                    .iter()
                    .enumerate()
                    .try_for_each(|(index, item)| kind.check(&format!("{place}[{index}]"), item));
            }
            Self::Any => true,
            Self::AnyObject => value.is_object(),
            Self::Object(members) => return exactly(place, value, members),
            Self::OrNull(_) if value.is_null() => true,
            Self::OrNull(kind) => return kind.check(place, value),
            Self::ResponseId => value.as_str().and_then(digits).is_some(),
        };
        if fits { Ok(()) } else { Err(format!("{place} is {value}, which is not {self:?}")) }
    }
}

/// Checks that an object has exactly these members, each of its kind.
pub(crate) fn exactly(place: &str, value: &Value, members: &[(&str, Kind)]) -> Checked {
    let object = object(place, value)?;
    for (key, kind) in members {
        let member = object.get(*key).ok_or_else(|| format!("{place} lacks '{key}'"))?;
        kind.check(&format!("{place}.{key}"), member)?;
    }
    match object.keys().find(|key| !members.iter().any(|(known, _)| known == key)) {
        Some(key) => Err(format!("{place} has '{key}', which the contract does not know")),
        None => Ok(()),
    }
}

fn object<'v>(place: &str, value: &'v Value) -> Result<&'v Map<String, Value>, String> {
    value.as_object().ok_or_else(|| format!("{place} is not an object: {value}"))
}

/// The 32 digits of a response id.
fn digits(id: &str) -> Option<&str> {
    let digits = id.strip_prefix("resp_")?;
    let legal = digits.len() == 32 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    legal.then_some(digits)
}

/// Whether a response is still being produced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A snapshot of created or in_progress.
    InProgress,
    /// The snapshot of a terminal event, the JSON answer, or what GET returns.
    Final,
}

/// Checks a whole response object.
///
/// # Errors
/// The member at fault and what is wrong with it.
pub(crate) fn check(response: &Value, phase: Phase) -> Checked {
    exactly("response", response, MEMBERS)?;
    text(&response["text"])?;
    metadata(&response["metadata"])?;
    tools(&response["tools"])?;
    match phase {
        Phase::InProgress => in_progress(response),
        Phase::Final => ended(response),
    }
}

fn text(text: &Value) -> Checked {
    let format = text.get("format").ok_or("response.text lacks 'format'")?;
    if !format.get("type").is_some_and(Value::is_string) {
        return Err(format!("response.text.format has no type: {format}"));
    }
    match text.get("verbosity") {
        Some(Value::Null) => Err("response.text.verbosity is null; it must be left out".to_owned()),
        _ => Ok(()),
    }
}

fn metadata(metadata: &Value) -> Checked {
    match object("response.metadata", metadata)?.iter().find(|(_, value)| !value.is_string()) {
        Some((key, value)) => Err(format!("response.metadata.{key} is not a string: {value}")),
        None => Ok(()),
    }
}

fn tools(tools: &Value) -> Checked {
    for (index, tool) in tools.as_array().into_iter().flatten().enumerate() {
        let place = format!("response.tools[{index}]");
        let tool = object(&place, tool)?;
        let wanted: &[&str] = match tool.get("type").and_then(Value::as_str) {
            Some("function") => &["name", "description", "parameters", "strict"],
            Some("custom") => &["name", "description", "format"],
            Some(_) => &[],
            None => return Err(format!("{place} has no type")),
        };
        if let Some(key) = wanted.iter().find(|key| !tool.contains_key(**key)) {
            return Err(format!("{place} lacks '{key}'"));
        }
    }
    Ok(())
}

fn in_progress(response: &Value) -> Checked {
    let wanted = [
        ("status", Value::from("in_progress")),
        ("output", Value::Array(Vec::new())),
        ("output_text", Value::from("")),
        ("usage", Value::Null),
        ("completed_at", Value::Null),
        ("error", Value::Null),
        ("incomplete_details", Value::Null),
    ];
    for (key, wanted) in wanted {
        if response[key] != wanted {
            return Err(format!("response.{key} is {} while in progress, not {wanted}", response[key]));
        }
    }
    Ok(())
}

fn ended(response: &Value) -> Checked {
    let status = response["status"].as_str().unwrap_or_default();
    if !matches!(status, "completed" | "incomplete" | "failed") {
        return Err(format!("response.status is {status:?} at the end"));
    }
    // `incomplete` may lack its details: that of a client who went away is not among the reference's reasons.
    let rules = [
        ("completed_at", status == "completed", true),
        ("error", status == "failed", true),
        ("incomplete_details", status == "incomplete", false),
    ];
    for (key, may, must) in rules {
        let is = !response[key].is_null();
        if (is && !may) || (!is && may && must) {
            return Err(format!("response.{key} is {} in a {status} response", response[key]));
        }
    }
    if let Some(details) = response["incomplete_details"].as_object() {
        let reason = details["reason"].as_str().unwrap_or_default();
        if !matches!(reason, "max_output_tokens" | "content_filter") {
            return Err(format!("response.incomplete_details.reason is {reason:?}"));
        }
    }
    if response["usage"].is_null() {
        return Err("response.usage is null at the end".to_owned());
    }
    let digits = response["id"].as_str().and_then(digits).unwrap_or_default();
    let mut ids = std::collections::HashSet::new();
    let mut call_ids = std::collections::HashSet::new();
    let mut joined = String::new();
    for (index, item) in response["output"].as_array().into_iter().flatten().enumerate() {
        let place = format!("response.output[{index}]");
        self::item(&place, item, digits)?;
        whole_item(&place, item)?;
        if status == "completed" && item["status"] != "completed" {
            return Err(format!("{place}.status is {} in a completed response", item["status"]));
        }
        if !ids.insert(item["id"].as_str()) {
            return Err(format!("{place}.id is not its own: {}", item["id"]));
        }
        if item.get("call_id").is_some() && !call_ids.insert(item["call_id"].as_str()) {
            return Err(format!("{place}.call_id is not its own: {}", item["call_id"]));
        }
        for part in item["content"].as_array().into_iter().flatten().filter(|part| part["type"] == "output_text") {
            joined.push_str(part["text"].as_str().unwrap_or_default());
        }
    }
    if response["output_text"] != joined {
        return Err(format!("response.output_text is {}, its parts are {joined:?}", response["output_text"]));
    }
    Ok(())
}

/// Checks an item's members and its id, which must name the response (`digits` of its id).
pub(crate) fn item(place: &str, item: &Value, response_id_digits: &str) -> Checked {
    let kind = item.get("type").and_then(Value::as_str).unwrap_or_default();
    let always = [("type", Kind::Text), ("id", Kind::Text), ("status", Kind::Text)];
    let (prefix, mut members): (&str, Vec<(&str, Kind)>) = match kind {
        "message" => ("msg_", vec![("role", Kind::Word("assistant")), ("content", Kind::Array)]),
        "reasoning" => ("rs_", vec![("summary", Kind::Array)]),
        "function_call" => ("fc_", vec![("call_id", Kind::Text), ("name", Kind::Text), ("arguments", Kind::Text)]),
        "custom_tool_call" => ("ctc_", vec![("call_id", Kind::Text), ("name", Kind::Text), ("input", Kind::Text)]),
        "tool_search_call" => {
            ("tsc_", vec![("call_id", Kind::Text), ("execution", Kind::Word("client")), ("arguments", Kind::Any)])
        }
        other => return Err(format!("{place} is of type {other:?}, which this checker does not know")),
    };
    members.extend(always);
    // Optional members are left out rather than null.
    let optional: &[(&str, Kind)] = match kind {
        "message" => &[("phase", Kind::Text)],
        "reasoning" => &[("content", Kind::Array), ("encrypted_content", Kind::Text)],
        "function_call" | "custom_tool_call" => &[("namespace", Kind::Text)],
        _ => &[],
    };
    members.extend(optional.iter().filter(|(key, _)| item.get(key).is_some()));
    exactly(place, item, &members)?;
    let id = item["id"].as_str().unwrap_or_default();
    let ordinal = id.strip_prefix(prefix).and_then(|rest| rest.strip_prefix(response_id_digits)?.strip_prefix('_'));
    if !ordinal.is_some_and(|ordinal| !ordinal.is_empty() && ordinal.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(format!("{place}.id {id:?} is not {prefix}, the response's digits and an ordinal"));
    }
    for key in ["content", "summary"] {
        for (index, part) in item[key].as_array().into_iter().flatten().enumerate() {
            let place = format!("{place}.{key}[{index}]");
            self::part(&place, part)?;
            let allowed: &[&str] = match (kind, key) {
                ("message", _) => &["output_text", "refusal"],
                (_, "summary") => &["summary_text"],
                _ => &["reasoning_text"],
            };
            if !allowed.iter().any(|allowed| part["type"] == *allowed) {
                return Err(format!("{place} is of type {}, which does not belong into a {kind}", part["type"]));
            }
        }
    }
    Ok(())
}

/// Checks an item that has ended: its status, and that it is not empty.
pub(crate) fn whole_item(place: &str, item: &Value) -> Checked {
    if item["status"] != "completed" && item["status"] != "incomplete" {
        return Err(format!("{place}.status is {} in an item that has ended", item["status"]));
    }
    let is_empty = |key: &str| item[key].as_array().is_none_or(Vec::is_empty);
    if item["type"] == "message" && is_empty("content") {
        return Err(format!("{place} is a message without content"));
    }
    if item["type"] == "reasoning" && is_empty("content") && is_empty("summary") {
        return Err(format!("{place} is reasoning without text"));
    }
    for key in ["name", "call_id"] {
        if item.get(key).is_some_and(|value| value == "") {
            return Err(format!("{place}.{key} is empty"));
        }
    }
    for part in ["content", "summary"].iter().flat_map(|key| item[*key].as_array().into_iter().flatten()) {
        if part_text(part).is_empty() {
            return Err(format!("{place} has an empty part: {part}"));
        }
    }
    Ok(())
}

/// Checks a content part.
pub(crate) fn part(place: &str, part: &Value) -> Checked {
    let kind = Kind::Text;
    match part.get("type").and_then(Value::as_str) {
        Some("output_text") => exactly(
            place,
            part,
            &[("type", kind), ("annotations", Kind::Array), ("logprobs", LOGPROBS), ("text", kind)],
        ),
        Some("refusal") => exactly(place, part, &[("type", kind), ("refusal", kind)]),
        Some("reasoning_text" | "summary_text") => exactly(place, part, &[("type", kind), ("text", kind)]),
        _ => Err(format!("{place} is not a content part: {part}")),
    }
}

/// The text of a part, whatever its member is called.
pub(crate) fn part_text(part: &Value) -> &str {
    part.get("text").or_else(|| part.get("refusal")).and_then(Value::as_str).unwrap_or_default()
}

/// The digits of the id of a response that was checked.
pub(crate) fn id_digits(response: &Value) -> &str {
    response["id"].as_str().and_then(digits).unwrap_or_default()
}
