//! Streaming events of the Responses API, in the spelling of the reference.

use serde::Serialize;

use super::chat::TokenLogprob;
use super::responses::{ContentPart, OutputItem, Response};

/// One event. `sequence_number` is handed out by the stream's emitter alone.
#[derive(Debug, Serialize)]
#[serde(tag = "type")]
#[allow(missing_docs, reason = "the members are those of the reference, named as there")]
pub enum Event<'a> {
    #[serde(rename = "response.created")]
    Created { sequence_number: u64, response: &'a Response<'a> },
    #[serde(rename = "response.in_progress")]
    InProgress { sequence_number: u64, response: &'a Response<'a> },
    #[serde(rename = "response.completed")]
    Completed { sequence_number: u64, response: &'a Response<'a> },
    #[serde(rename = "response.incomplete")]
    Incomplete { sequence_number: u64, response: &'a Response<'a> },
    #[serde(rename = "response.failed")]
    Failed { sequence_number: u64, response: &'a Response<'a> },
    #[serde(rename = "response.output_item.added")]
    ItemAdded { sequence_number: u64, output_index: usize, item: &'a OutputItem },
    #[serde(rename = "response.output_item.done")]
    ItemDone { sequence_number: u64, output_index: usize, item: &'a OutputItem },
    #[serde(rename = "response.content_part.added")]
    PartAdded {
        sequence_number: u64,
        item_id: &'a str,
        output_index: usize,
        content_index: usize,
        part: &'a ContentPart,
    },
    #[serde(rename = "response.content_part.done")]
    PartDone {
        sequence_number: u64,
        item_id: &'a str,
        output_index: usize,
        content_index: usize,
        part: &'a ContentPart,
    },
    #[serde(rename = "response.output_text.delta")]
    TextDelta {
        sequence_number: u64,
        item_id: &'a str,
        output_index: usize,
        content_index: usize,
        delta: &'a str,
        logprobs: &'a [TokenLogprob],
    },
    #[serde(rename = "response.output_text.done")]
    TextDone {
        sequence_number: u64,
        item_id: &'a str,
        output_index: usize,
        content_index: usize,
        text: &'a str,
        logprobs: &'a [TokenLogprob],
    },
    #[serde(rename = "response.refusal.delta")]
    RefusalDelta { sequence_number: u64, item_id: &'a str, output_index: usize, content_index: usize, delta: &'a str },
    #[serde(rename = "response.refusal.done")]
    RefusalDone { sequence_number: u64, item_id: &'a str, output_index: usize, content_index: usize, refusal: &'a str },
    #[serde(rename = "response.reasoning_text.delta")]
    ReasoningDelta { sequence_number: u64, item_id: &'a str, output_index: usize, content_index: usize, delta: &'a str },
    #[serde(rename = "response.reasoning_text.done")]
    ReasoningDone { sequence_number: u64, item_id: &'a str, output_index: usize, content_index: usize, text: &'a str },
    #[serde(rename = "response.reasoning_summary_part.added")]
    SummaryPartAdded {
        sequence_number: u64,
        item_id: &'a str,
        output_index: usize,
        summary_index: usize,
        part: &'a ContentPart,
    },
    #[serde(rename = "response.reasoning_summary_part.done")]
    SummaryPartDone {
        sequence_number: u64,
        item_id: &'a str,
        output_index: usize,
        summary_index: usize,
        part: &'a ContentPart,
    },
    #[serde(rename = "response.reasoning_summary_text.delta")]
    SummaryDelta { sequence_number: u64, item_id: &'a str, output_index: usize, summary_index: usize, delta: &'a str },
    #[serde(rename = "response.reasoning_summary_text.done")]
    SummaryDone { sequence_number: u64, item_id: &'a str, output_index: usize, summary_index: usize, text: &'a str },
    #[serde(rename = "response.function_call_arguments.delta")]
    ArgumentsDelta { sequence_number: u64, item_id: &'a str, output_index: usize, delta: &'a str },
    #[serde(rename = "response.function_call_arguments.done")]
    ArgumentsDone {
        sequence_number: u64,
        item_id: &'a str,
        output_index: usize,
        // Not in the reference's example, but required by openai-python's reader.
        name: &'a str,
        arguments: &'a str,
    },
}

impl Event<'_> {
    /// The event's name: what stands on the `event:` line and in `type`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "response.created",
            Self::InProgress { .. } => "response.in_progress",
            Self::Completed { .. } => "response.completed",
            Self::Incomplete { .. } => "response.incomplete",
            Self::Failed { .. } => "response.failed",
            Self::ItemAdded { .. } => "response.output_item.added",
            Self::ItemDone { .. } => "response.output_item.done",
            Self::PartAdded { .. } => "response.content_part.added",
            Self::PartDone { .. } => "response.content_part.done",
            Self::TextDelta { .. } => "response.output_text.delta",
            Self::TextDone { .. } => "response.output_text.done",
            Self::RefusalDelta { .. } => "response.refusal.delta",
            Self::RefusalDone { .. } => "response.refusal.done",
            Self::ReasoningDelta { .. } => "response.reasoning_text.delta",
            Self::ReasoningDone { .. } => "response.reasoning_text.done",
            Self::SummaryPartAdded { .. } => "response.reasoning_summary_part.added",
            Self::SummaryPartDone { .. } => "response.reasoning_summary_part.done",
            Self::SummaryDelta { .. } => "response.reasoning_summary_text.delta",
            Self::SummaryDone { .. } => "response.reasoning_summary_text.done",
            Self::ArgumentsDelta { .. } => "response.function_call_arguments.delta",
            Self::ArgumentsDone { .. } => "response.function_call_arguments.done",
        }
    }
}
