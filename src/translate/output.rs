//! Output items and the events around their parts, each made in one place.

use super::emitter::Emitter;
use crate::openai::event::Event;
use crate::openai::responses::{ContentPart, OutputItem, Status};

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

pub(super) fn call_item(id: String, status: Status, call_id: String, name: String, arguments: String) -> OutputItem {
    OutputItem::FunctionCall { id, status, call_id, name, arguments }
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
