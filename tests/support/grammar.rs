//! The event grammar of CONTRACT §6, as a checker that any test can run on any stream of ours.
//!
//! ```text
//! created in_progress item* terminal            heartbeats (in_progress repeated) anywhere between
//! item     = added (part+ | written | nothing) done   one at a time, output_index dense
//! part     = part.added delta+ done part.done         indexes dense within the item
//! written  = delta* done                              a function's arguments, a custom tool's input; a search has none
//! ```
//! What was streamed must be what ends up in the terminal snapshot, byte by byte.

use responses_router::openai::dialect::{ApiDialect, ReasoningEvents};
use serde_json::{Value, json};

use super::frames::{self, Event};
use super::response_shape::{self as shape, Kind, Phase};

/// What a good stream came to.
#[derive(Debug)]
pub(crate) struct Summary {
    /// The response object of the terminal event.
    pub response: Value,
    /// `response.completed`, `response.incomplete` or `response.failed`.
    pub terminal: String,
    /// All events in order.
    pub events: Vec<Event>,
    /// How often in_progress was repeated.
    pub heartbeats: usize,
}

/// Checks a whole stream, from its first byte to its last.
///
/// # Errors
/// The number of the event at fault, its name, and the rule that it breaks.
pub(crate) fn check(bytes: &[u8]) -> Result<Summary, String> {
    check_in(bytes, ApiDialect::OPENAI)
}

/// What came of a stream that was cut.
pub(crate) struct Beginning {
    /// All events that came whole.
    pub events: Vec<Event>,
    /// The response of the terminal event, if even that came.
    pub terminal: Option<Value>,
}

/// Checks what came of a stream that was cut, in the middle of an event perhaps.
///
/// # Errors
/// As of [`check`], but for the missing end.
pub(crate) fn check_beginning(bytes: &[u8]) -> Result<Beginning, String> {
    let whole = bytes.windows(2).rposition(|pair| pair == b"\n\n").map_or(0, |end| end + 2);
    let events = if whole == 0 { Vec::new() } else { frames::read(&bytes[..whole])? };
    let mut checker = Checker::default();
    for (index, event) in events.iter().enumerate() {
        checker.event(index, event).map_err(|why| format!("event {index} ({}): {why}", event.name))?;
    }
    Ok(Beginning { events, terminal: checker.terminal.map(|(_, response)| response) })
}

/// [`check`] in another dialect of our API.
///
/// # Errors
/// Likewise; numbers are those of the events as the grammar sees them, without an error event.
pub(crate) fn check_in(bytes: &[u8], dialect: ApiDialect) -> Result<Summary, String> {
    let bytes = if dialect.done_frame {
        bytes.strip_suffix(b"data: [DONE]\n\n").ok_or("the stream does not end with [DONE]")?
    } else {
        bytes
    };
    let events = frames::read(bytes)?;
    let mut checker = Checker::default();
    for (index, event) in in_words_of_openai(&events, dialect)?.iter().enumerate() {
        checker.event(index, event).map_err(|why| format!("event {index} ({}): {why}", event.name))?;
    }
    let Some((terminal, response)) = checker.terminal else {
        return Err(format!("the stream ends after {} events without a terminal event", events.len()));
    };
    Ok(Summary { response, terminal, heartbeats: checker.heartbeats, events })
}

/// The events as the OpenAI dialect would have them, after a check that what differs differs as it must (CONTRACT §7).
fn in_words_of_openai(events: &[Event], dialect: ApiDialect) -> Result<Vec<Event>, String> {
    let mut translated = Vec::with_capacity(events.len());
    let reasoning = match dialect.reasoning_events {
        ReasoningEvents::ReasoningText => "response.reasoning_text.",
        ReasoningEvents::Reasoning => "response.reasoning.",
    };
    let mut error: Option<Value> = None;
    for (index, Event { name, data }) in events.iter().enumerate() {
        let (mut name, mut data) = (name.clone(), data.clone());
        if dialect.sequence_numbers {
            if data["sequence_number"] != index {
                let number = &data["sequence_number"];
                return Err(format!("event {index} ({name}): sequence_number is {number}, not {index}"));
            }
        } else if data.get("sequence_number").is_some() {
            return Err(format!("event {index} ({name}) has a sequence_number"));
        }
        if let Some(error) = error.take()
            && (name != "response.failed" || data["response"]["error"] != error)
        {
            return Err(format!("event {index} ({name}) is not the failure that the error event tells of: {error}"));
        }
        if name == "error" && dialect.error_event {
            let flat = json!({"code": data["code"], "message": data["message"], "param": data["param"]});
            let mut nested = data["error"].clone();
            let kind = nested.as_object_mut().and_then(|nested| nested.remove("type"));
            if nested != flat || !kind.is_some_and(|kind| kind.is_string()) {
                return Err(format!("event {index} (error) does not say the same in both shapes: {data}"));
            }
            error = Some(json!({"code": data["code"], "message": data["message"]}));
            continue;
        }
        if name == "response.failed" && dialect.error_event && events[index - 1].name != "error" {
            return Err(format!("event {index} (response.failed) has no error event before it"));
        }
        if name.starts_with("response.reasoning_text.") || name.starts_with("response.reasoning.") {
            let kind = name.strip_prefix(reasoning).ok_or_else(|| format!("{name} is of another dialect"))?;
            name = format!("response.reasoning_text.{kind}");
        }
        data["type"] = json!(name);
        data["sequence_number"] = json!(translated.len());
        translated.push(Event { name, data });
    }
    Ok(translated)
}

/// Checks a response object that came as JSON, from POST or from GET.
///
/// # Errors
/// The member at fault and what is wrong with it.
pub(crate) fn check_response(response: &Value) -> Result<(), String> {
    shape::check(response, Phase::Final)
}

#[derive(Default)]
struct Checker {
    created: Option<Value>,
    heartbeats: usize,
    open: Option<OpenItem>,
    done: Vec<Value>,
    terminal: Option<(String, Value)>,
}

/// The item that was added and is not done yet.
struct OpenItem {
    item: Value,
    parts: Vec<Value>,
    part: Option<OpenPart>,
    /// What the model writes to a tool: the deltas, joined.
    written: String,
    written_done: bool,
}

/// The part that was added and is not done yet.
struct OpenPart {
    part: Value,
    text: String,
    logprobs: Vec<Value>,
    text_done: bool,
}

/// The members that every event of a part or of arguments has, and the names of the events that carry them.
const ITEM_ID: (&str, Kind) = ("item_id", Kind::Text);
const OUTPUT_INDEX: (&str, Kind) = ("output_index", Kind::Integer);

/// Where each kind of call holds what the model writes, and how that looks before anything is written.
const WRITTEN: &[(&str, &str, &str)] = &[
    ("function_call", "arguments", "\"\""),
    ("custom_tool_call", "input", "\"\""),
    ("tool_search_call", "arguments", "{}"),
];

/// Which member counts the parts of an item, and which events speak of that kind of part.
struct PartKind {
    index: &'static str,
    added: &'static str,
    delta: &'static str,
    text_done: &'static str,
    /// The member of the done event that holds the text.
    text: &'static str,
    part_done: &'static str,
    has_logprobs: bool,
}

fn part_kind(part_type: &str) -> Option<PartKind> {
    let content = |delta, text_done, text, has_logprobs| PartKind {
        index: "content_index",
        added: "response.content_part.added",
        delta,
        text_done,
        text,
        part_done: "response.content_part.done",
        has_logprobs,
    };
    Some(match part_type {
        "output_text" => content("response.output_text.delta", "response.output_text.done", "text", true),
        "refusal" => content("response.refusal.delta", "response.refusal.done", "refusal", false),
        "reasoning_text" => content("response.reasoning_text.delta", "response.reasoning_text.done", "text", false),
        "summary_text" => PartKind {
            index: "summary_index",
            added: "response.reasoning_summary_part.added",
            delta: "response.reasoning_summary_text.delta",
            text_done: "response.reasoning_summary_text.done",
            text: "text",
            part_done: "response.reasoning_summary_part.done",
            has_logprobs: false,
        },
        _ => return None,
    })
}

impl Checker {
    fn event(&mut self, index: usize, Event { name, data }: &Event) -> Result<(), String> {
        if let Some((terminal, _)) = &self.terminal {
            return Err(format!("comes after the terminal event {terminal}"));
        }
        if data["sequence_number"] != index {
            return Err(format!("sequence_number is {}, not {index}", data["sequence_number"]));
        }
        match (index, name.as_str()) {
            (0, "response.created") => self.created(data),
            (0, _) => Err("the first event must be response.created".to_owned()),
            (_, "response.created") => Err("response.created comes twice".to_owned()),
            (_, "response.in_progress") => self.in_progress(index, data),
            (1, _) => Err("the second event must be response.in_progress".to_owned()),
            (_, "response.completed" | "response.incomplete" | "response.failed") => self.ended(name, data),
            (_, "response.output_item.added") => self.item_added(data),
            (_, "response.output_item.done") => self.item_done(data),
            _ => self.within_item(name, data),
        }
    }

    fn created(&mut self, data: &Value) -> Result<(), String> {
        self.created = Some(lifecycle(data, Phase::InProgress)?.clone());
        Ok(())
    }

    fn in_progress(&mut self, index: usize, data: &Value) -> Result<(), String> {
        let response = lifecycle(data, Phase::InProgress)?;
        if index > 1 {
            self.heartbeats += 1;
        }
        self.same_but(response, &[])
    }

    fn ended(&mut self, name: &str, data: &Value) -> Result<(), String> {
        let response = lifecycle(data, Phase::Final)?;
        // `store` turns false when the store refused the record and the operator chose to degrade.
        self.same_but(
            response,
            &["status", "completed_at", "error", "incomplete_details", "output", "output_text", "usage", "store"],
        )?;
        if name.strip_prefix("response.") != response["status"].as_str() {
            return Err(format!("carries a response whose status is {}", response["status"]));
        }
        if let Some(open) = &self.open {
            return Err(format!("item {} is still open", open.item["id"]));
        }
        if response["output"] != Value::Array(self.done.clone()) {
            let done = Value::Array(self.done.clone());
            return Err(format!(
                "its output is not what was streamed:\n  output:   {}\n  streamed: {done}",
                response["output"]
            ));
        }
        self.terminal = Some((name.to_owned(), response.clone()));
        Ok(())
    }

    /// Whether a snapshot is that of created, these members aside.
    fn same_but(&self, response: &Value, changing: &[&str]) -> Result<(), String> {
        let created = self.created.as_ref().and_then(Value::as_object).ok_or("comes before response.created")?;
        for (key, value) in created.iter().filter(|(key, _)| !changing.contains(&key.as_str())) {
            if response[key] != *value {
                return Err(format!("response.{key} was {value} in response.created and is {}", response[key]));
            }
        }
        Ok(())
    }

    fn item_added(&mut self, data: &Value) -> Result<(), String> {
        exactly(data, &[OUTPUT_INDEX, ("item", Kind::AnyObject)])?;
        if let Some(open) = &self.open {
            return Err(format!("item {} is still open", open.item["id"]));
        }
        if data["output_index"] != self.done.len() {
            return Err(format!("output_index is {}, not {}", data["output_index"], self.done.len()));
        }
        let item = &data["item"];
        let digits = self.created.as_ref().map(shape::id_digits).unwrap_or_default();
        shape::item("item", item, digits)?;
        if self.done.iter().any(|done| done["id"] == item["id"]) {
            return Err(format!("item.id {} was another item's", item["id"]));
        }
        if item["status"] != "in_progress" {
            return Err(format!("item.status is {}, not in_progress", item["status"]));
        }
        for key in ["content", "summary"] {
            if item[key].as_array().is_some_and(|parts| !parts.is_empty()) {
                return Err(format!("item.{key} is not empty yet"));
            }
        }
        for (kind, member, empty) in WRITTEN {
            if item["type"] == *kind && item[*member] != serde_json::from_str::<Value>(empty).unwrap() {
                return Err(format!("item.{member} is not empty yet"));
            }
        }
        for key in ["name", "call_id"] {
            if item.get(key).is_some_and(|value| value == "") {
                return Err(format!("item.{key} is empty"));
            }
        }
        self.open = Some(OpenItem {
            item: item.clone(),
            parts: Vec::new(),
            part: None,
            written: String::new(),
            written_done: false,
        });
        Ok(())
    }

    fn item_done(&mut self, data: &Value) -> Result<(), String> {
        exactly(data, &[OUTPUT_INDEX, ("item", Kind::AnyObject)])?;
        let open = self.open.take().ok_or("no item is open")?;
        if data["output_index"] != self.done.len() {
            return Err(format!("output_index is {}, not {}", data["output_index"], self.done.len()));
        }
        if open.part.is_some() {
            return Err("a part is still open".to_owned());
        }
        let item = &data["item"];
        let mut wanted = open.item;
        wanted["status"] = item["status"].clone();
        // It comes when the reasoning is whole.
        if let Some(sealed) = item.get("encrypted_content").filter(|_| wanted["type"] == "reasoning") {
            wanted["encrypted_content"] = sealed.clone();
        }
        match wanted["type"].as_str() {
            Some("function_call" | "custom_tool_call") if !open.written_done => {
                return Err("the call's arguments were not done".to_owned());
            }
            Some("function_call") => wanted["arguments"] = Value::from(open.written),
            Some("custom_tool_call") => wanted["input"] = Value::from(open.written),
            Some("tool_search_call") => wanted["arguments"] = item["arguments"].clone(),
            // What the parts were decides where they stand.
            _ if open.parts.iter().any(|part| part["type"] == "summary_text") => {
                wanted["summary"] = Value::Array(open.parts);
            }
            _ => wanted["content"] = Value::Array(open.parts),
        }
        if wanted != *item {
            return Err(format!("item is not what was streamed:\n  item:     {item}\n  streamed: {wanted}"));
        }
        shape::whole_item("item", item)?;
        self.done.push(item.clone());
        Ok(())
    }

    fn within_item(&mut self, name: &str, data: &Value) -> Result<(), String> {
        let output_index = self.done.len();
        let open = self.open.as_mut().ok_or("no item is open")?;
        if data["item_id"] != open.item["id"] {
            return Err(format!("item_id is {}, the open item is {}", data["item_id"], open.item["id"]));
        }
        if data["output_index"] != output_index {
            return Err(format!("output_index is {}, not {output_index}", data["output_index"]));
        }
        match name {
            "response.function_call_arguments.delta" | "response.function_call_arguments.done" => {
                open.written(name, data, "function_call", &[("name", Kind::Text), ("arguments", Kind::Text)])
            }
            "response.custom_tool_call_input.delta" | "response.custom_tool_call_input.done" => {
                open.written(name, data, "custom_tool_call", &[("input", Kind::Text)])
            }
            "response.content_part.added" | "response.reasoning_summary_part.added" => open.part_added(name, data),
            _ => open.within_part(name, data),
        }
    }
}

impl OpenItem {
    /// The events of what the model writes to a tool; `done` is what the last of them has, the text last.
    fn written(
        &mut self,
        name: &str,
        data: &Value,
        item_type: &str,
        done: &[(&'static str, Kind)],
    ) -> Result<(), String> {
        if self.item["type"] != item_type {
            return Err(format!("the open item is a {}", self.item["type"]));
        }
        if self.written_done {
            return Err("the arguments were done already".to_owned());
        }
        if name.ends_with(".delta") {
            exactly(data, &[ITEM_ID, OUTPUT_INDEX, ("delta", Kind::Text)])?;
            self.written.push_str(delta(data)?);
            return Ok(());
        }
        exactly(data, &[[ITEM_ID, OUTPUT_INDEX].as_slice(), done].concat())?;
        if data.get("name").is_some_and(|name| *name != self.item["name"]) {
            return Err(format!("name is {}, the call's is {}", data["name"], self.item["name"]));
        }
        let (text, _) = done.last().ok_or("a done event without text")?;
        if data[*text] != self.written {
            return Err(format!("arguments are {}, the deltas were {:?}", data[*text], self.written));
        }
        self.written_done = true;
        Ok(())
    }

    fn part_added(&mut self, name: &str, data: &Value) -> Result<(), String> {
        if self.part.is_some() {
            return Err("another part is still open".to_owned());
        }
        let part = data.get("part").ok_or("lacks 'part'")?;
        shape::part("part", part)?;
        let kind = part_kind(part["type"].as_str().unwrap_or_default()).ok_or("part has no known type")?;
        if kind.added != name {
            return Err(format!("a part of type {} is announced by {}", part["type"], kind.added));
        }
        let belongs = match self.item["type"].as_str() {
            Some("message") => matches!(part["type"].as_str(), Some("output_text" | "refusal")),
            Some("reasoning") => matches!(part["type"].as_str(), Some("reasoning_text" | "summary_text")),
            _ => false,
        };
        if !belongs {
            return Err(format!("a part of type {} does not belong into a {}", part["type"], self.item["type"]));
        }
        exactly(data, &[ITEM_ID, OUTPUT_INDEX, (kind.index, Kind::Integer), ("part", Kind::AnyObject)])?;
        if data[kind.index] != self.parts.len() {
            return Err(format!("{} is {}, not {}", kind.index, data[kind.index], self.parts.len()));
        }
        let is_empty = |key: &str| part[key].as_array().is_none_or(Vec::is_empty);
        if !shape::part_text(part).is_empty() || !is_empty("logprobs") || !is_empty("annotations") {
            return Err(format!("part is not empty yet: {part}"));
        }
        self.part = Some(OpenPart { part: part.clone(), text: String::new(), logprobs: Vec::new(), text_done: false });
        Ok(())
    }

    fn within_part(&mut self, name: &str, data: &Value) -> Result<(), String> {
        let index = self.parts.len();
        let open = self.part.as_mut().ok_or("no part is open, and this event is no other that may come here")?;
        let kind =
            part_kind(open.part["type"].as_str().unwrap_or_default()).ok_or("the open part has no known type")?;
        let place = [ITEM_ID, OUTPUT_INDEX, (kind.index, Kind::Integer)];
        let with = |more: &[(&'static str, Kind)]| exactly(data, &[place.as_slice(), more].concat());
        let logprobs: &[(&str, Kind)] = if kind.has_logprobs { &[("logprobs", shape::LOGPROBS)] } else { &[] };
        if name == kind.delta {
            with(&[&[("delta", Kind::Text)], logprobs].concat())?;
            if open.text_done {
                return Err("the part's text was done already".to_owned());
            }
            open.text.push_str(delta(data)?);
            open.logprobs.extend(data["logprobs"].as_array().into_iter().flatten().cloned());
        } else if name == kind.text_done {
            with(&[&[(kind.text, Kind::Text)], logprobs].concat())?;
            if open.text_done {
                return Err("the part's text was done already".to_owned());
            }
            if data[kind.text] != open.text {
                return Err(format!("{} is {}, the deltas were {:?}", kind.text, data[kind.text], open.text));
            }
            if kind.has_logprobs && data["logprobs"] != Value::Array(open.logprobs.clone()) {
                return Err("logprobs are not those of the deltas".to_owned());
            }
            open.text_done = true;
        } else if name == kind.part_done {
            with(&[("part", Kind::AnyObject)])?;
            if !open.text_done {
                return Err("the part's text was not done yet".to_owned());
            }
            let mut wanted = open.part.clone();
            wanted[kind.text] = Value::from(std::mem::take(&mut open.text));
            if kind.has_logprobs {
                wanted["logprobs"] = Value::Array(std::mem::take(&mut open.logprobs));
            }
            if data["part"] != wanted {
                return Err(format!(
                    "part is not what was streamed:\n  part:     {}\n  streamed: {wanted}",
                    data["part"]
                ));
            }
            self.parts.push(wanted);
            self.part = None;
        } else {
            return Err(format!("may not come while a part of type {} is open", open.part["type"]));
        }
        if data[kind.index] != index {
            return Err(format!("{} is {}, not {index}", kind.index, data[kind.index]));
        }
        Ok(())
    }
}

/// The response of a lifecycle event, its shape checked.
fn lifecycle(data: &Value, phase: Phase) -> Result<&Value, String> {
    exactly(data, &[("response", Kind::AnyObject)])?;
    shape::check(&data["response"], phase)?;
    Ok(&data["response"])
}

/// Checks that an event has `type`, `sequence_number` and exactly these members.
fn exactly(data: &Value, members: &[(&str, Kind)]) -> Result<(), String> {
    let always = [("type", Kind::Text), ("sequence_number", Kind::Integer)];
    shape::exactly("the event", data, &[always.as_slice(), members].concat())
}

fn delta(data: &Value) -> Result<&str, String> {
    match data["delta"].as_str() {
        Some("") | None => Err("delta is empty".to_owned()),
        Some(delta) => Ok(delta),
    }
}
