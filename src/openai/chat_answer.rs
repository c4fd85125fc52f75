//! Chat completions: a tolerant reading of the answers that come down, whole or in chunks.
//!
//! Answers are read the way backends really send them: unknown members are ignored, null means absent, and the three
//! spellings of reasoning are one accessor. What cannot be read at all is the caller's `bad_upstream_response`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::tolerant;

/// A whole answer (`chat.completion`) or one chunk of a streamed one (`chat.completion.chunk`).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ChatAnswer<'a> {
    /// The candidates; only the one with index 0 is ours.
    #[serde(borrow, deserialize_with = "tolerant::some")]
    pub choices: Vec<Choice<'a>>,
    /// Token counts, wherever in the stream they come; `None` also if they are of a form that cannot be read, which is no
    /// reason to lose the answer.
    #[serde(deserialize_with = "tolerant::object")]
    pub usage: Option<ChatUsage>,
    /// An error in place of an answer, whatever its form.
    #[serde(borrow)]
    pub error: Option<&'a RawValue>,
    /// `error` marks the oldest error form of vLLM.
    #[serde(borrow, deserialize_with = "tolerant::text")]
    pub object: Option<Cow<'a, str>>,
}

/// One candidate.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Choice<'a> {
    /// Position; absent means 0.
    #[serde(deserialize_with = "tolerant::count")]
    pub index: Option<u64>,
    /// What a chunk adds.
    #[serde(borrow)]
    pub delta: Option<Message<'a>>,
    /// The whole message of an unstreamed answer.
    #[serde(borrow)]
    pub message: Option<Message<'a>>,
    /// Why generation ended.
    #[serde(borrow, deserialize_with = "tolerant::text")]
    pub finish_reason: Option<Cow<'a, str>>,
    /// Token log probabilities; `None` also if they cannot be read.
    #[serde(deserialize_with = "tolerant::readable")]
    pub logprobs: Option<ChoiceLogprobs>,
}

/// The assistant's message, whole or in part.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Message<'a> {
    /// Text.
    #[serde(borrow, deserialize_with = "tolerant::text_or_parts")]
    pub content: Option<Cow<'a, str>>,
    /// Refusal text.
    #[serde(borrow, deserialize_with = "tolerant::text")]
    pub refusal: Option<Cow<'a, str>>,
    /// Reasoning as DeepSeek, SGLang, llama.cpp and older vLLM spell it.
    #[serde(borrow, deserialize_with = "tolerant::text")]
    pub reasoning_content: Option<Cow<'a, str>>,
    /// Reasoning as newer vLLM, Ollama and OpenRouter spell it.
    #[serde(borrow, deserialize_with = "tolerant::text")]
    pub reasoning: Option<Cow<'a, str>>,
    /// Reasoning as OpenRouter spells it in full.
    #[serde(borrow, deserialize_with = "tolerant::some")]
    pub reasoning_details: Vec<ReasoningDetail<'a>>,
    /// Calls, whole or in part.
    #[serde(borrow, deserialize_with = "tolerant::some")]
    pub tool_calls: Vec<ToolCallDelta<'a>>,
}

impl Message<'_> {
    /// The reasoning text, taken from the first spelling that has any, so that a backend that sends two is not doubled.
    #[must_use]
    pub fn reasoning_text(&self) -> Option<Cow<'_, str>> {
        let plain = [&self.reasoning_content, &self.reasoning];
        if let Some(text) = plain.into_iter().flatten().find(|text| !text.is_empty()) {
            return Some(Cow::Borrowed(text));
        }
        let details: String = self
            .reasoning_details
            .iter()
            .filter_map(|detail| detail.text.as_deref().or(detail.summary.as_deref()))
            .collect();
        (!details.is_empty()).then_some(Cow::Owned(details))
    }
}

impl Message<'_> {
    /// Whether it says nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let blank = |text: &Option<Cow<'_, str>>| text.as_deref().is_none_or(str::is_empty);
        blank(&self.content) && blank(&self.refusal) && self.tool_calls.is_empty() && self.reasoning_text().is_none()
    }
}

/// One entry of `reasoning_details`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ReasoningDetail<'a> {
    /// Of `reasoning.text`.
    #[serde(borrow, deserialize_with = "tolerant::text")]
    pub text: Option<Cow<'a, str>>,
    /// Of `reasoning.summary`.
    #[serde(borrow, deserialize_with = "tolerant::text")]
    pub summary: Option<Cow<'a, str>>,
}

/// A call, whole or in part. Every member may be missing or null in any chunk.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ToolCallDelta<'a> {
    /// Which call this belongs to; some backends never say.
    #[serde(deserialize_with = "tolerant::count")]
    pub index: Option<u64>,
    /// The call's id.
    #[serde(borrow, deserialize_with = "tolerant::text")]
    pub id: Option<Cow<'a, str>>,
    /// Name and arguments.
    #[serde(borrow)]
    pub function: Option<FunctionDelta<'a>>,
}

/// The longest id that is the call's: ids are compared with each other again and again, and a client has no use for one that
/// is as long as an answer.
const MAX_ID_BYTES: usize = 256;

impl ToolCallDelta<'_> {
    /// The call's id; empty when there is none, or one that is too long to be used.
    #[must_use]
    pub fn usable_id(&self) -> &str {
        self.id.as_deref().filter(|id| id.len() <= MAX_ID_BYTES).unwrap_or_default()
    }
}

/// Name and arguments of a call, whole or in part.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct FunctionDelta<'a> {
    /// Function name.
    #[serde(borrow, deserialize_with = "tolerant::text")]
    pub name: Option<Cow<'a, str>>,
    /// JSON text; a backend that sends an object gets its text taken.
    #[serde(borrow, deserialize_with = "tolerant::text_of_any")]
    pub arguments: Option<Cow<'a, str>>,
}

/// Token log probabilities of a choice.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ChoiceLogprobs {
    /// Of the content's tokens.
    #[serde(deserialize_with = "tolerant::many")]
    pub content: Vec<TokenLogprob>,
}

/// One token with its log probability and alternatives; read from chat, written in content parts.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenLogprob {
    /// The token.
    pub token: String,
    /// Natural logarithm.
    #[serde(deserialize_with = "tolerant::null_as_default")]
    pub logprob: f64,
    /// UTF-8 bytes of the token.
    #[serde(deserialize_with = "tolerant::null_as_default")]
    pub bytes: Vec<u8>,
    /// Alternatives.
    #[serde(deserialize_with = "tolerant::few")]
    pub top_logprobs: Vec<TopLogprob>,
}

impl TokenLogprob {
    /// About how many bytes of memory it takes.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        let top: usize =
            self.top_logprobs.iter().map(|top| size_of::<TopLogprob>() + top.token.len() + top.bytes.len()).sum();
        size_of::<Self>() + self.token.len() + self.bytes.len() + top
    }
}

/// An alternative token.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TopLogprob {
    /// The token.
    pub token: String,
    /// Natural logarithm.
    #[serde(deserialize_with = "tolerant::null_as_default")]
    pub logprob: f64,
    /// UTF-8 bytes of the token.
    #[serde(deserialize_with = "tolerant::null_as_default")]
    pub bytes: Vec<u8>,
}

/// Token counts as chat backends report them. One that cannot be read, or is below zero, was not reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct ChatUsage {
    /// Tokens of the prompt.
    #[serde(deserialize_with = "tolerant::count_or_zero")]
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    #[serde(deserialize_with = "tolerant::count_or_zero")]
    pub completion_tokens: u64,
    /// Their sum, if the backend says.
    #[serde(deserialize_with = "tolerant::count")]
    pub total_tokens: Option<u64>,
    /// Detail of the prompt.
    #[serde(deserialize_with = "tolerant::object")]
    pub prompt_tokens_details: Option<PromptTokensDetails>,
    /// Detail of the answer.
    #[serde(deserialize_with = "tolerant::object")]
    pub completion_tokens_details: Option<CompletionTokensDetails>,
    /// Where SGLang puts that detail.
    #[serde(deserialize_with = "tolerant::count")]
    pub reasoning_tokens: Option<u64>,
}

/// Detail of prompt tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct PromptTokensDetails {
    /// Read from a prefix cache.
    #[serde(deserialize_with = "tolerant::count")]
    pub cached_tokens: Option<u64>,
    /// Written to a prefix cache.
    #[serde(deserialize_with = "tolerant::count")]
    pub cache_write_tokens: Option<u64>,
}

/// Detail of completion tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct CompletionTokensDetails {
    /// Spent on reasoning.
    #[serde(deserialize_with = "tolerant::count")]
    pub reasoning_tokens: Option<u64>,
}
