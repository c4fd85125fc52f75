//! The operator's choices that the translation obeys.
//!
//! Part of the core: plain values that know serde, but neither YAML nor the config file. `config` builds a [`Settings`]
//! from the file; tests build one by hand from its `Default`, which is the same as that of an empty file.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use super::upstream_dialect::{ModelDialect, UpstreamDialect};
use crate::openai::dialect::ApiDialect;
use crate::openai::json_bounds::JsonBounds;

/// All that the translation may ask of the config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The model of a request that names none. Default: none, such a request is a 400.
    pub default_model: Option<String>,
    /// How the backend of a model wants to be spoken to that fits no pattern of `models`.
    pub dialect: UpstreamDialect,
    /// How the backends of other models want to be spoken to. The first pattern that fits counts. Default: empty.
    pub models: Vec<ModelDialect>,
    /// The dialect of our own API. Default: openai.
    pub api: ApiDialect,
    /// What becomes of calls without output and of outputs without call. Default: such a request is a 400.
    pub history_repair: HistoryRepair,
    /// What becomes of tools of types that chat lacks. Default: skipped.
    pub unsupported_tools: UnsupportedTools,
    /// The most bytes of an upstream's answer, and of the text gathered from its stream. Default: 64 MiB.
    pub max_answer_bytes: usize,
    /// The most bytes of one SSE frame of the upstream. Default: 8 MiB.
    pub max_sse_frame_bytes: usize,
    /// The most chunks of an upstream's stream. Default: 1,000,000.
    pub max_stream_events: usize,
    /// The most bytes of one tool call's arguments. Default: 8 MiB.
    pub max_argument_bytes: usize,
    /// What bounds a request beside its bytes.
    pub request: RequestBounds,
}

/// What bounds a request beside its bytes: how it is built, and how many there may be of what costs more than its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestBounds {
    /// Depth and number of values of the whole body. Default: 128 deep, 500,000 values.
    pub json: JsonBounds,
    /// The most items of `input`. Default: 16384.
    pub max_input_items: usize,
    /// The most tools, those within namespaces and within input items included. Default: 1024.
    pub max_tools: usize,
    /// The most pairs of `metadata`. Default, the reference's: 16.
    pub max_metadata_pairs: usize,
    /// The most characters of a key of `metadata`. Default, the reference's: 64.
    pub max_metadata_key_chars: usize,
    /// The most characters of a value of `metadata`. Default, the reference's: 512.
    pub max_metadata_value_chars: usize,
}

impl Default for RequestBounds {
    fn default() -> Self {
        RequestBounds {
            // As deep as serde_json follows what it takes apart wholly.
            json: JsonBounds { max_depth: 128, max_values: 500_000 },
            max_input_items: 16_384,
            max_tools: 1024,
            max_metadata_pairs: 16,
            max_metadata_key_chars: 64,
            max_metadata_value_chars: 512,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            default_model: None,
            dialect: UpstreamDialect::default(),
            models: Vec::new(),
            api: ApiDialect::default(),
            history_repair: HistoryRepair::default(),
            unsupported_tools: UnsupportedTools::default(),
            max_answer_bytes: 64 * 1024 * 1024,
            max_sse_frame_bytes: 8 * 1024 * 1024,
            max_stream_events: 1_000_000,
            max_argument_bytes: 8 * 1024 * 1024,
            request: RequestBounds::default(),
        }
    }
}

impl Settings {
    /// How the backend of this model wants to be spoken to.
    #[must_use]
    pub fn for_model(&self, model: &str) -> &UpstreamDialect {
        self.models.iter().find(|entry| entry.pattern.matches(model)).map_or(&self.dialect, |entry| &entry.dialect)
    }
}

/// What becomes of a history in which calls and outputs do not pair, because a user interrupted or an agent forgot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", expecting = "strict or repair")]
pub enum HistoryRepair {
    /// It is refused, with the reference's message.
    #[default]
    Strict,
    /// A call without output gets a neutral one, an output without call is left out; both are reported.
    Repair,
}

/// Which unknown top-level request keys (`top_k`, `chat_template_kwargs`, …) go on to the backend, verbatim.
///
/// Written as `true`, `false` or the list of the keys that may pass.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ForwardUnknown {
    /// `true`: every one of them.
    #[default]
    All,
    /// `false`: none of them.
    None,
    /// A list: these and no others.
    Only(Vec<String>),
}

impl ForwardUnknown {
    /// Whether a key that we do not know may pass.
    pub fn allows(&self, key: &str) -> bool {
        match self {
            ForwardUnknown::All => true,
            ForwardUnknown::None => false,
            ForwardUnknown::Only(keys) => keys.iter().any(|allowed| allowed == key),
        }
    }
}

impl Serialize for ForwardUnknown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ForwardUnknown::All => serializer.serialize_bool(true),
            ForwardUnknown::None => serializer.serialize_bool(false),
            ForwardUnknown::Only(keys) => keys.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ForwardUnknown {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Choice;

        impl<'de> Visitor<'de> for Choice {
            type Value = ForwardUnknown;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("true, false or a list of keys")
            }

            fn visit_bool<E: Error>(self, all: bool) -> Result<ForwardUnknown, E> {
                Ok(if all { ForwardUnknown::All } else { ForwardUnknown::None })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut keys: A) -> Result<ForwardUnknown, A::Error> {
                let mut only = Vec::new();
                while let Some(key) = keys.next_element()? {
                    only.push(key);
                }
                Ok(ForwardUnknown::Only(only))
            }
        }

        deserializer.deserialize_any(Choice)
    }
}

/// What becomes of the instructions and of several system-class messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", expecting = "merge or keep")]
pub enum SystemMessages {
    /// One leading system message holds them all: many chat templates refuse, or silently drop, a second one.
    #[default]
    Merge,
    /// Each stays where it was.
    Keep,
}

/// The chat role of messages whose Responses role is `developer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", expecting = "system or developer")]
pub enum DeveloperRole {
    /// `system`, which every backend knows.
    #[default]
    System,
    /// `developer`, for backends whose templates have it.
    Developer,
}

/// The chat parameter that carries `max_output_tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", expecting = "max_completion_tokens or max_tokens")]
pub enum MaxTokensField {
    /// `max_completion_tokens`, as OpenAI's own reasoning models demand.
    MaxCompletionTokens,
    /// `max_tokens`: deprecated by OpenAI, yet the one that most open backends know.
    #[default]
    MaxTokens,
}

impl MaxTokensField {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            MaxTokensField::MaxCompletionTokens => "max_completion_tokens",
            MaxTokensField::MaxTokens => "max_tokens",
        }
    }
}

/// When reasoning items of the history go back up as the assistant message's `reasoning_content`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", expecting = "never, tool_turns or always")]
pub enum ReasoningReplay {
    /// Never.
    Never,
    /// With assistant messages that made tool calls: some backends refuse such a turn without it.
    #[default]
    ToolTurns,
    /// With every assistant message.
    Always,
}

/// What becomes of tools whose types chat lacks: `web_search`, `file_search`, `mcp`, `shell`, ….
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", expecting = "skip or refuse")]
pub enum UnsupportedTools {
    /// The request goes on without them, and the answer says so: agents always send some.
    #[default]
    Skip,
    /// The request is a 400 that names the first.
    Refuse,
}

/// The member of an assistant message under which its reasoning goes back up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", expecting = "reasoning_content or reasoning")]
pub enum ReasoningField {
    /// `reasoning_content`, as DeepSeek introduced it.
    #[default]
    ReasoningContent,
    /// `reasoning`, as newer vLLM and Ollama have it.
    Reasoning,
}

/// How `reasoning.effort` goes up. Templates ignore variables that they do not use, so all of those that are known are
/// set: `enable_thinking` and `thinking` (false for the effort `none`, else true) and `reasoning_effort`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", expecting = "reasoning_effort, chat_template_kwargs, both, thinking or drop")]
pub enum EffortForm {
    /// As `reasoning_effort`.
    #[default]
    ReasoningEffort,
    /// As variables of the chat template, in `chat_template_kwargs`.
    ChatTemplateKwargs,
    /// As variables of the template that switch thinking on or off, and, unless it is off, as `reasoning_effort`.
    Both,
    /// As `reasoning_effort`, or for the effort `none` as `thinking: {"type": "disabled"}`.
    Thinking,
    /// Not at all. It is reported.
    Drop,
}

/// What the efforts of the reference (`none`, `minimal`, `low`, `medium`, `high`, `xhigh`, `max`) are called by a
/// backend that knows other ones. A null sends none, and is reported.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(transparent)]
pub struct EffortMap(pub BTreeMap<String, Option<String>>);

impl EffortMap {
    /// What to send for an effort; `None` is nothing.
    #[must_use]
    pub fn get<'a>(&'a self, effort: &'a str) -> Option<&'a str> {
        self.0.get(effort).map_or(Some(effort), Option::as_deref)
    }
}

/// What becomes of `text.format` while the model may call tools. Backends that constrain decoding to the format make
/// calls impossible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", expecting = "send, withhold or instruct")]
pub enum ResponseFormatWithTools {
    /// It goes up.
    #[default]
    Send,
    /// It is kept back, and reported.
    Withhold,
    /// It is kept back, and reported; the system message asks for it instead.
    Instruct,
}

/// How a JSON schema for the answer goes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", expecting = "send or json_object")]
pub enum JsonSchemaForm {
    /// As it is.
    #[default]
    Send,
    /// As the format `json_object`, reported; the system message asks for the schema.
    JsonObject,
}

/// Whether a parameter goes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", expecting = "send or drop")]
pub enum SendOrDrop {
    /// It does.
    #[default]
    Send,
    /// It does not; where that changes the answer, it is reported.
    Drop,
}

/// How a `tool_choice` that names one tool goes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", expecting = "send or required")]
pub enum NamedToolChoice {
    /// As it is.
    #[default]
    Send,
    /// As `required`, with that tool alone: the same, for backends that know the words only.
    Required,
}

/// The content of an assistant message that has calls and no text. Templates differ in what they accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", expecting = "nullable or string")]
pub enum AssistantContent {
    /// `null`, as the chat reference has it.
    #[default]
    Nullable,
    /// `""`.
    String,
}

/// What becomes of files with inline data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", expecting = "send or refuse")]
pub enum InputFiles {
    /// They go up as `file` parts.
    Send,
    /// The request is a 400: few backends know such parts.
    #[default]
    Refuse,
}

/// Where images, files and audio of a tool's output go. Its text is always in the tool message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", expecting = "user_message, parts, drop or refuse")]
pub enum ToolOutputMedia {
    /// Into a user message behind the round's tool messages: the chat reference allows text only in those.
    #[default]
    UserMessage,
    /// Into the tool message, as parts.
    Parts,
    /// Nowhere. It is reported.
    Drop,
    /// The request is a 400.
    Refuse,
}

/// Whether reasoning that the backend leaves in the text, between tags, is taken out of it.
///
/// Written as `true`, `false` or `implied`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SplitThink {
    /// `false`: text is text.
    #[default]
    Off,
    /// `true`: if the text begins with the opening tag.
    On,
    /// `implied`: also without it, because the chat template wrote it into the prompt.
    Implied,
}

impl Serialize for SplitThink {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            SplitThink::Off => serializer.serialize_bool(false),
            SplitThink::On => serializer.serialize_bool(true),
            SplitThink::Implied => serializer.serialize_str("implied"),
        }
    }
}

impl<'de> Deserialize<'de> for SplitThink {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Choice;

        impl Visitor<'_> for Choice {
            type Value = SplitThink;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("true, false or implied")
            }

            fn visit_bool<E: Error>(self, on: bool) -> Result<SplitThink, E> {
                Ok(if on { SplitThink::On } else { SplitThink::Off })
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<SplitThink, E> {
                if word == "implied" {
                    Ok(SplitThink::Implied)
                } else {
                    Err(E::custom("must be true, false or implied"))
                }
            }
        }

        deserializer.deserialize_any(Choice)
    }
}

/// The longest tag, in bytes.
const MAX_TAG_BYTES: usize = 64;

/// The tags around reasoning in text. Written as a list of two texts, neither empty nor longer than 64 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThinkTags {
    /// Before it.
    pub open: String,
    /// After it.
    pub close: String,
}

impl Default for ThinkTags {
    fn default() -> Self {
        ThinkTags { open: "<think>".to_owned(), close: "</think>".to_owned() }
    }
}

impl Serialize for ThinkTags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        [&self.open, &self.close].serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ThinkTags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pair;

        impl<'de> Visitor<'de> for Pair {
            type Value = ThinkTags;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a list of the opening and the closing tag")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut tags: A) -> Result<ThinkTags, A::Error> {
                let mut found = Vec::new();
                while let Some(tag) = tags.next_element::<String>()? {
                    found.push(tag);
                }
                let fits = |tag: &String| !tag.trim().is_empty() && tag.trim() == tag && tag.len() <= MAX_TAG_BYTES;
                match <[String; 2]>::try_from(found) {
                    Ok([open, close]) if fits(&open) && fits(&close) => Ok(ThinkTags { open, close }),
                    _ => Err(A::Error::custom("must be two tags of 1 to 64 bytes, without white space around them")),
                }
            }
        }

        deserializer.deserialize_seq(Pair)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forward_unknown_reads_a_bool_or_a_list() {
        let read = |text: &str| serde_json::from_str::<ForwardUnknown>(text).unwrap();
        assert_eq!(read("true"), ForwardUnknown::All);
        assert_eq!(read("false"), ForwardUnknown::None);
        assert_eq!(read(r#"["top_k"]"#), ForwardUnknown::Only(vec!["top_k".to_owned()]));
        assert!(serde_json::from_str::<ForwardUnknown>(r#""some""#).is_err());
    }

    #[test]
    fn a_list_lets_only_its_own_keys_pass() {
        let only = ForwardUnknown::Only(vec!["top_k".to_owned()]);
        assert!(only.allows("top_k") && !only.allows("min_p"));
        assert!(ForwardUnknown::All.allows("min_p") && !ForwardUnknown::None.allows("top_k"));
    }

    #[test]
    fn names_are_those_of_the_wire() {
        let read = |text: &str| serde_json::from_str::<MaxTokensField>(text).unwrap();
        for field in [MaxTokensField::MaxCompletionTokens, MaxTokensField::MaxTokens] {
            assert_eq!(read(&format!("\"{}\"", field.as_str())), field);
        }
    }
}
