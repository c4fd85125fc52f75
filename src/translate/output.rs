//! Output items and the events around their parts, each made in one place.

use serde_json::value::{RawValue, to_raw_value};

use super::calls::Call;
use super::emitter::Emitter;
use super::tool_names::Tool;
use crate::openai::event::Event;
use crate::openai::responses::{ContentPart, OutputItem, Status};
use crate::openai::tool_call::CallKind;

/// A reasoning item; with its text, and in sealed form if it has one, once it is done.
pub(super) fn reasoning_item(
    id: String,
    status: Status,
    text: Option<String>,
    summary: bool,
    encrypted_content: Option<String>,
) -> OutputItem {
    if summary {
        let summary = text.map(|text| ContentPart::SummaryText { text }).into_iter().collect();
        OutputItem::Reasoning { id, status, summary, content: None, encrypted_content }
    } else {
        let content = text.map(|text| ContentPart::ReasoningText { text }).into_iter().collect();
        OutputItem::Reasoning { id, status, summary: Vec::new(), content: Some(content), encrypted_content }
    }
}

pub(super) fn message_item(id: String, status: Status, content: Vec<ContentPart>) -> OutputItem {
    OutputItem::Message { id, status, role: "assistant", content }
}

/// The item of a call of this tool; `text` is what the model has written so far.
pub(super) fn call_item(id: String, status: Status, call_id: String, tool: &Tool, text: String) -> OutputItem {
    let Tool { kind, namespace, name } = tool.clone();
    match kind {
        CallKind::Custom => OutputItem::CustomToolCall { id, status, call_id, namespace, name, input: text },
        CallKind::ToolSearch => {
            OutputItem::ToolSearchCall { id, status, call_id, execution: "client", arguments: json_or_text(text) }
        }
        CallKind::Function | CallKind::LocalShell | CallKind::Shell | CallKind::ApplyPatch => {
            OutputItem::FunctionCall { id, status, call_id, namespace, name, arguments: text }
        }
    }
}

/// A model's JSON as it wrote it; what is none as a string, and nothing as no arguments.
fn json_or_text(text: String) -> Box<RawValue> {
    let text = if text.is_empty() { "{}".to_owned() } else { text };
    let as_string = to_raw_value(&text);
    RawValue::from_string(text).or(as_string).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// What the client has not seen yet of what the model writes to a tool.
pub(super) fn emit_call_text(emitter: &mut Emitter, item_id: &str, output_index: usize, call: &mut Call) {
    let Some(kind) = call.tool().map(|tool| tool.kind) else { return };
    let delta = call.unsent();
    // A search has no events of its own: its arguments come with the whole item.
    if delta.is_empty() || kind == CallKind::ToolSearch {
        return;
    }
    emitter.emit_delta(delta, |sequence_number, delta| match kind {
        CallKind::Custom => Event::CustomInputDelta { sequence_number, item_id, output_index, delta },
        _ => Event::ArgumentsDelta { sequence_number, item_id, output_index, delta },
    });
}

/// All that the model wrote to a tool.
pub(super) fn emit_call_done(emitter: &mut Emitter, item_id: &str, output_index: usize, tool: &Tool, text: &str) {
    if tool.kind == CallKind::ToolSearch {
        return;
    }
    let name = tool.name.as_str();
    emitter.emit(|sequence_number| match tool.kind {
        CallKind::Custom => Event::CustomInputDone { sequence_number, item_id, output_index, input: text },
        _ => Event::ArgumentsDone { sequence_number, item_id, output_index, name, arguments: text },
    });
}

pub(super) enum PartEdge<'a> {
    Added,
    Done(&'a str),
}

/// The events around the one part of a reasoning item.
pub(super) fn emit_reasoning_part(
    emitter: &mut Emitter,
    item_id: &str,
    output_index: usize,
    summary: bool,
    edge: PartEdge<'_>,
) {
    let part = |text: &str| {
        let text = text.to_owned();
        if summary { ContentPart::SummaryText { text } } else { ContentPart::ReasoningText { text } }
    };
    let (summary_index, content_index) = (0, 0);
    match edge {
        PartEdge::Added => {
            let part = &part("");
            emitter.emit(|sequence_number| {
                if summary {
                    Event::SummaryPartAdded { sequence_number, item_id, output_index, summary_index, part }
                } else {
                    Event::PartAdded { sequence_number, item_id, output_index, content_index, part }
                }
            });
        }
        PartEdge::Done(text) => {
            let part = &part(text);
            emitter.emit(|sequence_number| {
                if summary {
                    Event::SummaryDone { sequence_number, item_id, output_index, summary_index, text }
                } else {
                    Event::ReasoningDone { sequence_number, item_id, output_index, content_index, text }
                }
            });
            emitter.emit(|sequence_number| {
                if summary {
                    Event::SummaryPartDone { sequence_number, item_id, output_index, summary_index, part }
                } else {
                    Event::PartDone { sequence_number, item_id, output_index, content_index, part }
                }
            });
        }
    }
}

/// The done events of a message's part.
pub(super) fn emit_part_done(
    emitter: &mut Emitter,
    item_id: &str,
    output_index: usize,
    content_index: usize,
    part: &ContentPart,
) {
    emitter.emit(|sequence_number| match part {
        ContentPart::OutputText { text, logprobs, .. } => {
            Event::TextDone { sequence_number, item_id, output_index, content_index, text, logprobs }
        }
        ContentPart::Refusal { refusal: text }
        | ContentPart::ReasoningText { text }
        | ContentPart::SummaryText { text } => {
            Event::RefusalDone { sequence_number, item_id, output_index, content_index, refusal: text }
        }
    });
    emitter.emit(|sequence_number| Event::PartDone { sequence_number, item_id, output_index, content_index, part });
}
