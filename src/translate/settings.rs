//! The operator's choices that the translation obeys.
//!
//! Part of the core: plain values that know serde, but neither YAML nor the config file. `config` builds a [`Settings`]
//! from the file; tests build one by hand from its `Default`, which is the same as that of an empty file.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};

/// All that the translation may ask of the config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The model of a request that names none. Default: none, such a request is a 400.
    pub default_model: Option<String>,
    /// Which top-level keys that we do not know go on to the backend. Default: all.
    pub forward_unknown: ForwardUnknown,
    /// What becomes of several system-class messages. Default: merged into one.
    pub system_messages: SystemMessages,
    /// The chat role of developer messages. Default: `system`.
    pub developer_role: DeveloperRole,
    /// The chat name of `max_output_tokens`. Default: `max_tokens`.
    pub max_tokens_field: MaxTokensField,
    /// When the backend gets its own earlier reasoning again. Default: in tool turns.
    pub reasoning_replay: ReasoningReplay,
    /// The most bytes of an upstream's answer, and of the text gathered from its stream. Default: 64 MiB.
    pub max_answer_bytes: usize,
    /// The most bytes of one SSE frame of the upstream. Default: 8 MiB.
    pub max_sse_frame_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            default_model: None,
            forward_unknown: ForwardUnknown::default(),
            system_messages: SystemMessages::default(),
            developer_role: DeveloperRole::default(),
            max_tokens_field: MaxTokensField::default(),
            reasoning_replay: ReasoningReplay::default(),
            max_answer_bytes: 64 * 1024 * 1024,
            max_sse_frame_bytes: 8 * 1024 * 1024,
        }
    }
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case", expecting = "merge or keep")]
pub enum SystemMessages {
    /// One leading system message holds them all: many chat templates refuse, or silently drop, a second one.
    #[default]
    Merge,
    /// Each stays where it was.
    Keep,
}

/// The chat role of messages whose Responses role is `developer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case", expecting = "system or developer")]
pub enum DeveloperRole {
    /// `system`, which every backend knows.
    #[default]
    System,
    /// `developer`, for backends whose templates have it.
    Developer,
}

/// The chat parameter that carries `max_output_tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
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
