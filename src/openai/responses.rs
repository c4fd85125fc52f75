//! The response object and its output items, with every key of CONTRACT §3 in the order of the reference.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Number;
use serde_json::value::RawValue;

use super::chat_answer::{ChatUsage, TokenLogprob};
use super::raw::RawObject;
use crate::id::ResponseId;

/// A response, as JSON or as the snapshot in a lifecycle event. Borrows what the plan and the stream hold.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the members are those of the reference, named and ordered as there")]
pub struct Response<'a> {
    pub id: &'a ResponseId,
    pub object: &'static str,
    pub created_at: u64,
    pub status: Status,
    pub background: bool,
    pub completed_at: Option<u64>,
    pub conversation: Option<()>,
    pub error: Option<&'a ResponseError>,
    pub frequency_penalty: &'a Number,
    pub incomplete_details: Option<IncompleteDetails>,
    pub instructions: Option<&'a str>,
    pub max_output_tokens: Option<u64>,
    pub max_tool_calls: Option<u64>,
    pub model: &'a str,
    pub output: &'a [OutputItem],
    pub parallel_tool_calls: bool,
    pub presence_penalty: &'a Number,
    pub previous_response_id: Option<&'a ResponseId>,
    pub prompt_cache_key: Option<&'a str>,
    pub reasoning: Option<&'a ReasoningEcho>,
    pub safety_identifier: Option<&'a str>,
    pub service_tier: &'a str,
    pub store: bool,
    pub temperature: &'a Number,
    pub text: &'a TextEcho,
    pub tool_choice: &'a RawValue,
    pub tools: &'a [RawObject],
    pub top_logprobs: u32,
    pub top_p: &'a Number,
    pub truncation: &'a str,
    pub usage: Option<Usage>,
    pub user: Option<&'a str>,
    pub metadata: &'a RawObject,
}

/// What a response repeats of its request, defaults filled in.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the members are those of the reference, named as there")]
pub struct Echo {
    pub frequency_penalty: Number,
    pub instructions: Option<String>,
    pub max_output_tokens: Option<u64>,
    pub max_tool_calls: Option<u64>,
    pub model: String,
    pub parallel_tool_calls: bool,
    pub presence_penalty: Number,
    pub previous_response_id: Option<ResponseId>,
    pub prompt_cache_key: Option<String>,
    pub reasoning: Option<ReasoningEcho>,
    pub safety_identifier: Option<String>,
    pub service_tier: Cow<'static, str>,
    pub temperature: Number,
    pub text: TextEcho,
    pub tool_choice: Box<RawValue>,
    pub tools: Vec<RawObject>,
    pub top_logprobs: u32,
    pub top_p: Number,
    pub truncation: Cow<'static, str>,
    pub user: Option<String>,
    pub metadata: RawObject,
}

impl Echo {
    /// About how many bytes of memory, and of JSON, it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let reasoning =
            self.reasoning.as_ref().map(|reasoning| [reasoning.effort.as_ref(), reasoning.summary.as_ref()]);
        let texts =
            [&self.instructions, &self.prompt_cache_key, &self.safety_identifier, &self.user, &self.text.verbosity];
        let texts = texts.into_iter().filter_map(Option::as_ref).chain(reasoning.into_iter().flatten().flatten());
        let objects = self.tools.iter().chain([&self.text.format, &self.metadata]);
        texts.map(String::len).sum::<usize>()
            + objects.map(RawObject::json_bytes).sum::<usize>()
            + [&*self.model, self.tool_choice.get(), &*self.service_tier, &*self.truncation]
                .map(str::len)
                .iter()
                .sum::<usize>()
    }
}

/// `reasoning` of a response: both members, always.
#[derive(Debug, Clone, Serialize)]
pub struct ReasoningEcho {
    /// As asked for.
    pub effort: Option<String>,
    /// As asked for.
    pub summary: Option<String>,
}

/// `text` of a response; `format` is always there, because typed clients demand it.
#[derive(Debug, Clone, Serialize)]
pub struct TextEcho {
    /// `{"type":"text"}` unless the request asked for another.
    pub format: RawObject,
    /// Omitted when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verbosity: Option<String>,
}

/// Status of a response or of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Still being produced.
    InProgress,
    /// Whole.
    Completed,
    /// Cut short, but what is there is good.
    Incomplete,
    /// Ended by an error. Only responses, never items.
    Failed,
}

/// Why a response is incomplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct IncompleteDetails {
    /// The reason.
    pub reason: IncompleteReason,
}

/// The reasons that the reference knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IncompleteReason {
    /// The output bound was reached.
    MaxOutputTokens,
    /// The upstream's filter stopped it.
    ContentFilter,
}

/// The error of a failed response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResponseError {
    /// Machine-readable; clients such as Codex act on `context_length_exceeded` and `rate_limit_exceeded`.
    pub code: String,
    /// One sentence for people.
    pub message: String,
}

/// Token counts of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[allow(missing_docs, reason = "the members are those of the reference, named as there")]
pub struct Usage {
    pub input_tokens: u64,
    pub input_tokens_details: InputTokensDetails,
    pub output_tokens: u64,
    pub output_tokens_details: OutputTokensDetails,
    pub total_tokens: u64,
}

/// Detail of [`Usage::input_tokens`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[allow(missing_docs, reason = "the members are those of the reference, named as there")]
pub struct InputTokensDetails {
    pub cached_tokens: u64,
    pub cache_write_tokens: u64,
}

/// Detail of [`Usage::output_tokens`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[allow(missing_docs, reason = "the members are those of the reference, named as there")]
pub struct OutputTokensDetails {
    pub reasoning_tokens: u64,
}

impl From<ChatUsage> for Usage {
    fn from(chat: ChatUsage) -> Self {
        let prompt = chat.prompt_tokens_details.unwrap_or_default();
        let completion = chat.completion_tokens_details.unwrap_or_default();
        Self {
            input_tokens: chat.prompt_tokens,
            input_tokens_details: InputTokensDetails {
                cached_tokens: prompt.cached_tokens.unwrap_or_default(),
                cache_write_tokens: prompt.cache_write_tokens.unwrap_or_default(),
            },
            output_tokens: chat.completion_tokens,
            output_tokens_details: OutputTokensDetails {
                reasoning_tokens: completion.reasoning_tokens.or(chat.reasoning_tokens).unwrap_or_default(),
            },
            total_tokens: chat.total_tokens.unwrap_or(chat.prompt_tokens.saturating_add(chat.completion_tokens)),
        }
    }
}

/// An output item.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the members are those of the reference, named as there")]
pub enum OutputItem {
    Reasoning {
        id: String,
        status: Status,
        summary: Vec<ContentPart>,
        /// Omitted when the reasoning is shown as summary.
        #[serde(skip_serializing_if = "Option::is_none")]
        content: Option<Vec<ContentPart>>,
        /// The reasoning in sealed form. Omitted unless asked for.
        #[serde(skip_serializing_if = "Option::is_none")]
        encrypted_content: Option<String>,
    },
    Message {
        id: String,
        status: Status,
        role: &'static str,
        content: Vec<ContentPart>,
    },
    FunctionCall {
        id: String,
        status: Status,
        call_id: String,
        /// Omitted unless the tool stands in one.
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        name: String,
        arguments: String,
    },
    CustomToolCall {
        id: String,
        status: Status,
        call_id: String,
        /// Omitted unless the tool stands in one.
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        name: String,
        input: String,
    },
    ToolSearchCall {
        id: String,
        status: Status,
        call_id: String,
        /// Always `client`: a search that others run is not offered.
        execution: &'static str,
        /// Any JSON.
        arguments: Box<RawValue>,
    },
}

/// A content part of an output item.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the members are those of the reference, named as there")]
pub enum ContentPart {
    OutputText { annotations: [(); 0], logprobs: Vec<TokenLogprob>, text: String },
    Refusal { refusal: String },
    ReasoningText { text: String },
    SummaryText { text: String },
}
