//! Chat completions: a tolerant reading of the answers that come down, whole or in chunks.
//!
//! Answers are read the way backends really send them: unknown members are ignored, null means absent, and the three
//! spellings of reasoning are one accessor. What cannot be read at all is the caller's `bad_upstream_response`.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// A whole answer (`chat.completion`) or one chunk of a streamed one (`chat.completion.chunk`).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ChatAnswer<'a> {
    /// The candidates; only the one with index 0 is ours.
    #[serde(borrow, deserialize_with = "some")]
    pub choices: Vec<Choice<'a>>,
    /// Token counts, wherever in the stream they come; `None` also if they are of a form that cannot be read, which is no
    /// reason to lose the answer.
    #[serde(deserialize_with = "readable")]
    pub usage: Option<ChatUsage>,
    /// An error in place of an answer, whatever its form.
    #[serde(borrow)]
    pub error: Option<&'a RawValue>,
    /// `error` marks the oldest error form of vLLM.
    #[serde(borrow, deserialize_with = "text")]
    pub object: Option<Cow<'a, str>>,
}

/// One candidate.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Choice<'a> {
    /// Position; absent means 0.
    #[serde(deserialize_with = "count")]
    pub index: Option<u64>,
    /// What a chunk adds.
    #[serde(borrow)]
    pub delta: Option<Message<'a>>,
    /// The whole message of an unstreamed answer.
    #[serde(borrow)]
    pub message: Option<Message<'a>>,
    /// Why generation ended.
    #[serde(borrow, deserialize_with = "text")]
    pub finish_reason: Option<Cow<'a, str>>,
    /// Token log probabilities; `None` also if they cannot be read.
    #[serde(deserialize_with = "readable")]
    pub logprobs: Option<ChoiceLogprobs>,
}

/// The assistant's message, whole or in part.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Message<'a> {
    /// Text.
    #[serde(borrow, deserialize_with = "text_or_parts")]
    pub content: Option<Cow<'a, str>>,
    /// Refusal text.
    #[serde(borrow, deserialize_with = "text")]
    pub refusal: Option<Cow<'a, str>>,
    /// Reasoning as DeepSeek, SGLang, llama.cpp and older vLLM spell it.
    #[serde(borrow, deserialize_with = "text")]
    pub reasoning_content: Option<Cow<'a, str>>,
    /// Reasoning as newer vLLM, Ollama and OpenRouter spell it.
    #[serde(borrow, deserialize_with = "text")]
    pub reasoning: Option<Cow<'a, str>>,
    /// Reasoning as OpenRouter spells it in full.
    #[serde(borrow, deserialize_with = "some")]
    pub reasoning_details: Vec<ReasoningDetail<'a>>,
    /// Calls, whole or in part.
    #[serde(borrow, deserialize_with = "some")]
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
    #[serde(borrow, deserialize_with = "text")]
    pub text: Option<Cow<'a, str>>,
    /// Of `reasoning.summary`.
    #[serde(borrow, deserialize_with = "text")]
    pub summary: Option<Cow<'a, str>>,
}

/// A call, whole or in part. Every member may be missing or null in any chunk.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ToolCallDelta<'a> {
    /// Which call this belongs to; some backends never say.
    #[serde(deserialize_with = "count")]
    pub index: Option<u64>,
    /// The call's id.
    #[serde(borrow, deserialize_with = "text")]
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
    #[serde(borrow, deserialize_with = "text")]
    pub name: Option<Cow<'a, str>>,
    /// JSON text; a backend that sends an object gets its text taken.
    #[serde(borrow, deserialize_with = "text_of_any")]
    pub arguments: Option<Cow<'a, str>>,
}

/// Token log probabilities of a choice.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ChoiceLogprobs {
    /// Of the content's tokens.
    #[serde(deserialize_with = "many")]
    pub content: Vec<TokenLogprob>,
}

/// One token with its log probability and alternatives; read from chat, written in content parts.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenLogprob {
    /// The token.
    pub token: String,
    /// Natural logarithm.
    #[serde(deserialize_with = "null_as_default")]
    pub logprob: f64,
    /// UTF-8 bytes of the token.
    #[serde(deserialize_with = "null_as_default")]
    pub bytes: Vec<u8>,
    /// Alternatives.
    #[serde(deserialize_with = "few")]
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
    #[serde(deserialize_with = "null_as_default")]
    pub logprob: f64,
    /// UTF-8 bytes of the token.
    #[serde(deserialize_with = "null_as_default")]
    pub bytes: Vec<u8>,
}

/// Token counts as chat backends report them. One that cannot be read, or is below zero, was not reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct ChatUsage {
    /// Tokens of the prompt.
    #[serde(deserialize_with = "count_or_zero")]
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    #[serde(deserialize_with = "count_or_zero")]
    pub completion_tokens: u64,
    /// Their sum, if the backend says.
    #[serde(deserialize_with = "count")]
    pub total_tokens: Option<u64>,
    /// Detail of the prompt.
    #[serde(deserialize_with = "readable")]
    pub prompt_tokens_details: Option<PromptTokensDetails>,
    /// Detail of the answer.
    #[serde(deserialize_with = "readable")]
    pub completion_tokens_details: Option<CompletionTokensDetails>,
    /// Where SGLang puts that detail.
    #[serde(deserialize_with = "count")]
    pub reasoning_tokens: Option<u64>,
}

/// Detail of prompt tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct PromptTokensDetails {
    /// Read from a prefix cache.
    #[serde(deserialize_with = "count")]
    pub cached_tokens: Option<u64>,
    /// Written to a prefix cache.
    #[serde(deserialize_with = "count")]
    pub cache_write_tokens: Option<u64>,
}

/// Detail of completion tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct CompletionTokensDetails {
    /// Spent on reasoning.
    #[serde(deserialize_with = "count")]
    pub reasoning_tokens: Option<u64>,
}

/// What can be read, and nothing of what has another form, which is no reason to lose the answer.
fn readable<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    let raw = Option::<&RawValue>::deserialize(deserializer)?;
    Ok(raw.and_then(|raw| serde_json::from_str(raw.get()).ok()))
}

fn count_or_zero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    count(deserializer).map(Option::unwrap_or_default)
}

/// A count as proxies send it: as an integer, with a fraction of zero, or as -1 for none.
fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    struct Count;
    impl<'de> Visitor<'de> for Count {
        type Value = Option<u64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a count")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_u64<E>(self, count: u64) -> Result<Self::Value, E> {
            Ok(Some(count))
        }

        fn visit_i64<E>(self, count: i64) -> Result<Self::Value, E> {
            Ok(u64::try_from(count).ok())
        }

        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a fraction says nothing, and the sign is looked at"
        )]
        fn visit_f64<E>(self, count: f64) -> Result<Self::Value, E> {
            Ok((count >= 0.0).then_some(count as u64))
        }

        fn visit_str<E>(self, count: &str) -> Result<Self::Value, E> {
            Ok(count.parse().ok())
        }

        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            while items.next_element::<IgnoredAny>()?.is_some() {}
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
            while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok(None)
        }
    }
    deserializer.deserialize_any(Count)
}

/// What a list may hold at most: a value of two bytes takes a hundred times as much memory once it is read, before anything
/// of it is counted. A choice, a call, a piece of reasoning; a token; an alternative to one, of which a client may ask for 20.
const SOME: usize = 1 << 13;
const MANY: usize = 1 << 18;
const FEW: usize = 64;

fn some<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_option(Listed::<T, SOME>(PhantomData))
}

fn many<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_option(Listed::<T, MANY>(PhantomData))
}

fn few<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_option(Listed::<T, FEW>(PhantomData))
}

/// A list of at most so many; null is an empty one.
struct Listed<T, const MOST: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Listed<T, MOST> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MOST}")
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            if list.len() == MOST {
                return Err(serde::de::Error::invalid_length(MOST + 1, &self));
            }
            list.push(item);
        }
        Ok(list)
    }
}

fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Text or null, borrowed where it has no escapes: serde borrows a `Cow` of its own accord only outside of an `Option`.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cow<'de, str>>, D::Error> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    Ok(Option::<Text<'de>>::deserialize(deserializer)?.map(|text| text.0))
}

/// Content is a string, or (Mistral and some proxies) a list of parts of which the text ones count.
fn text_or_parts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cow<'de, str>>, D::Error> {
    #[derive(Deserialize)]
    struct Part {
        text: Option<String>,
    }
    struct Content;
    impl<'de> Visitor<'de> for Content {
        type Value = Option<Cow<'de, str>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("text or a list of parts")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
            Ok(Some(Cow::Borrowed(text)))
        }

        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok(Some(Cow::Owned(text.to_owned())))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
            let mut all = String::new();
            while let Some(part) = parts.next_element::<Part>()? {
                all.extend(part.text);
            }
            Ok(Some(Cow::Owned(all)))
        }
    }
    deserializer.deserialize_any(Content)
}

/// A string as it is, null as nothing, anything else as its JSON text.
fn text_of_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cow<'de, str>>, D::Error> {
    let raw = <&RawValue>::deserialize(deserializer)?;
    match raw.get() {
        "null" => Ok(None),
        text if text.starts_with('"') => serde_json::from_str(text).map(Some).map_err(serde::de::Error::custom),
        text => Ok(Some(Cow::Borrowed(text))),
    }
}
