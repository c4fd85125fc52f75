//! Streaming events of the Responses API, in the spelling of the reference.

use serde::Serialize;
use serde_json::value::RawValue;

use super::chat_answer::TokenLogprob;
use super::error::ErrorType;
use super::responses::{ContentPart, OutputItem};

/// One event. `sequence_number` is handed out by the stream's emitter alone; a dialect may have none.
#[derive(Debug, Serialize)]
#[serde(tag = "type")]
#[allow(missing_docs, reason = "the members are those of the reference, named as there")]
pub enum Event<'a> {
    #[serde(rename = "response.created")]
    Created {
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        response: &'a RawValue,
    },
    #[serde(rename = "response.in_progress")]
    InProgress {
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        response: &'a RawValue,
    },
    #[serde(rename = "response.completed")]
    Completed {
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        response: &'a RawValue,
    },
    #[serde(rename = "response.incomplete")]
    Incomplete {
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        response: &'a RawValue,
    },
    #[serde(rename = "response.failed")]
    Failed {
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        response: &'a RawValue,
    },
    #[serde(rename = "response.output_item.added")]
    ItemAdded {
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        output_index: usize,
        item: &'a OutputItem,
    },
    #[serde(rename = "response.output_item.done")]
    ItemDone {
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        output_index: usize,
        item: &'a OutputItem,
    },
    #[serde(rename = "response.content_part.added")]
    PartAdded {
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        item_id: &'a str,
        output_index: usize,
        content_index: usize,
        part: &'a ContentPart,
    },
    #[serde(rename = "response.content_part.done")]
    PartDone {
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        item_id: &'a str,
        output_index: usize,
        content_index: usize,
        part: &'a ContentPart,
    },
    #[serde(rename = "response.output_text.delta")]
    TextDelta {
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        item_id: &'a str,
        output_index: usize,
        content_index: usize,
        delta: &'a str,
        logprobs: &'a [TokenLogprob],
    },
    #[serde(rename = "response.output_text.done")]
    TextDone {
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        item_id: &'a str,
        output_index: usize,
        content_index: usize,
        text: &'a str,
        logprobs: &'a [TokenLogprob],
    },
    #[serde(rename = "response.refusal.delta")]
    RefusalDelta {
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        item_id: &'a str,
        output_index: usize,
        content_index: usize,
        delta: &'a str,
    },
    #[serde(rename = "response.refusal.done")]
    RefusalDone {
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        item_id: &'a str,
        output_index: usize,
        content_index: usize,
        refusal: &'a str,
    },
    #[serde(rename = "response.reasoning_text.delta")]
    ReasoningDelta {
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        item_id: &'a str,
        output_index: usize,
        content_index: usize,
        delta: &'a str,
    },
    #[serde(rename = "response.reasoning_text.done")]
    ReasoningDone {
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        item_id: &'a str,
        output_index: usize,
        content_index: usize,
        text: &'a str,
    },
    /// [`Self::ReasoningDelta`] in the words of Open Responses.
    #[serde(rename = "response.reasoning.delta")]
    OpenReasoningDelta {
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        item_id: &'a str,
        output_index: usize,
        content_index: usize,
        delta: &'a str,
    },
    /// [`Self::ReasoningDone`] in the words of Open Responses.
    #[serde(rename = "response.reasoning.done")]
    OpenReasoningDone {
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        item_id: &'a str,
        output_index: usize,
        content_index: usize,
        text: &'a str,
    },
    #[serde(rename = "response.reasoning_summary_part.added")]
    SummaryPartAdded {
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        item_id: &'a str,
        output_index: usize,
        summary_index: usize,
        part: &'a ContentPart,
    },
    #[serde(rename = "response.reasoning_summary_part.done")]
    SummaryPartDone {
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        item_id: &'a str,
        output_index: usize,
        summary_index: usize,
        part: &'a ContentPart,
    },
    #[serde(rename = "response.reasoning_summary_text.delta")]
    SummaryDelta {
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        item_id: &'a str,
        output_index: usize,
        summary_index: usize,
        delta: &'a str,
    },
    #[serde(rename = "response.reasoning_summary_text.done")]
    SummaryDone {
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        item_id: &'a str,
        output_index: usize,
        summary_index: usize,
        text: &'a str,
    },
    #[serde(rename = "response.function_call_arguments.delta")]
    ArgumentsDelta {
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        item_id: &'a str,
        output_index: usize,
        delta: &'a str,
    },
    #[serde(rename = "response.function_call_arguments.done")]
    ArgumentsDone {
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        item_id: &'a str,
        output_index: usize,
        // Not in the reference's example, but required by openai-python's reader.
        name: &'a str,
        arguments: &'a str,
    },
    #[serde(rename = "response.custom_tool_call_input.delta")]
    CustomInputDelta {
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        item_id: &'a str,
        output_index: usize,
        delta: &'a str,
    },
    #[serde(rename = "response.custom_tool_call_input.done")]
    CustomInputDone {
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        item_id: &'a str,
        output_index: usize,
        input: &'a str,
    },
    /// The error of a response that fails, flat as the OpenAI reference has it and nested as Open Responses has it.
    #[serde(rename = "error")]
    Error {
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence_number: Option<u64>,
        code: &'a str,
        message: &'a str,
        param: Option<&'a str>,
        error: ErrorMember<'a>,
    },
}

/// The nested form of an error in an event.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the members are those of the Open Responses specification, named as there")]
pub struct ErrorMember<'a> {
    #[serde(rename = "type")]
    pub kind: ErrorType,
    pub code: &'a str,
    pub message: &'a str,
    pub param: Option<&'a str>,
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
            Self::OpenReasoningDelta { .. } => "response.reasoning.delta",
            Self::OpenReasoningDone { .. } => "response.reasoning.done",
            Self::SummaryPartAdded { .. } => "response.reasoning_summary_part.added",
            Self::SummaryPartDone { .. } => "response.reasoning_summary_part.done",
            Self::SummaryDelta { .. } => "response.reasoning_summary_text.delta",
            Self::SummaryDone { .. } => "response.reasoning_summary_text.done",
            Self::ArgumentsDelta { .. } => "response.function_call_arguments.delta",
            Self::ArgumentsDone { .. } => "response.function_call_arguments.done",
            Self::CustomInputDelta { .. } => "response.custom_tool_call_input.delta",
            Self::CustomInputDone { .. } => "response.custom_tool_call_input.done",
            Self::Error { .. } => "error",
        }
    }
}
