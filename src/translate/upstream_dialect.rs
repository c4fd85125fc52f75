//! How one chat backend wants to be spoken to: a plain value for each key, resolved from presets and the operator's own
//! choices when the config is read, so that a request only looks its model up.

use super::model_glob::ModelGlob;

/// The table of the keys, handed to the macro that is named: each key once, with its type, whose default it has.
///
/// The types are those of the core and of the config alike, so that both have the same keys by construction.
macro_rules! upstream_dialect_keys {
    ($then:ident! { $($given:tt)* }) => {
        $then! {
            { $($given)* }
            /// Which unknown top-level keys of a request go on to the backend: true, false or a list of keys.
            /// Default: true.
            forward_unknown: $crate::translate::settings::ForwardUnknown,
            /// Whether system-class messages become one (`merge`) or stay where they are (`keep`). Default: merge.
            system_messages: $crate::translate::settings::SystemMessages,
            /// The chat role of developer messages, `system` or `developer`. Default: system.
            developer_role: $crate::translate::settings::DeveloperRole,
            /// The chat name of `max_output_tokens`: `max_tokens` or `max_completion_tokens`. Default: max_tokens.
            max_tokens_field: $crate::translate::settings::MaxTokensField,
            /// When the backend gets its own reasoning again: `never`, `tool_turns` or `always`. Default: tool_turns.
            reasoning_replay: $crate::translate::settings::ReasoningReplay,
            /// The name under which it gets that: `reasoning_content` or `reasoning`. Default: reasoning_content.
            reasoning_field: $crate::translate::settings::ReasoningField,
            /// How `reasoning.effort` goes up: `reasoning_effort`, `chat_template_kwargs`, `both`, `thinking` or `drop`.
            /// Default: reasoning_effort.
            reasoning_effort: $crate::translate::settings::EffortForm,
            /// What each effort is called there; null sends none, what is not in the map goes up as it is.
            /// Default: empty.
            reasoning_effort_map: $crate::translate::settings::EffortMap,
            /// What becomes of `text.format` while tools are offered: `send`, `withhold` or `instruct`. Default: send.
            response_format_with_tools: $crate::translate::settings::ResponseFormatWithTools,
            /// How a JSON schema goes up: `send`, or `json_object` with the schema in the system message.
            /// Default: send.
            json_schema: $crate::translate::settings::JsonSchemaForm,
            /// Whether `strict` of a tool goes up: `send` or `drop`. Default: send.
            strict_tools: $crate::translate::settings::SendOrDrop,
            /// Whether `parallel_tool_calls` goes up: `send` or `drop`. Default: send.
            parallel_tool_calls: $crate::translate::settings::SendOrDrop,
            /// How the choice of one tool goes up: `send`, or `required` with that tool alone. Default: send.
            named_tool_choice: $crate::translate::settings::NamedToolChoice,
            /// Whether a stream asks for usage by `stream_options`: `send` or `drop`. Default: send.
            stream_options: $crate::translate::settings::SendOrDrop,
            /// The content of an assistant message that has calls only: null (`nullable`) or `""` (`string`).
            /// Default: nullable.
            assistant_content: $crate::translate::settings::AssistantContent,
            /// Whether files with inline data go up as parts (`send`) or are a 400 (`refuse`). Default: refuse.
            files: $crate::translate::settings::InputFiles,
            /// Where images, files and audio of a tool's output go: `user_message`, `parts`, `drop` or `refuse`.
            /// Default: user_message.
            tool_output_media: $crate::translate::settings::ToolOutputMedia,
            /// Whether reasoning between tags is taken out of the text: true, false or `implied`. Default: false.
            split_think: $crate::translate::settings::SplitThink,
            /// The tags around it, two texts. Default: `<think>` and `</think>`.
            think_tags: $crate::translate::settings::ThinkTags,
        }
    };
}
pub(crate) use upstream_dialect_keys;

macro_rules! define {
    ({} $($(#[$doc:meta])* $key:ident: $type:ty,)*) => {
        /// How one chat backend wants to be spoken to. `Default` is what suits most open backends.
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        pub struct UpstreamDialect {
            $($(#[$doc])* pub $key: $type,)*
        }

        /// Some of a dialect's keys: those of a preset, of the `upstream` block, or of one entry of its `models`.
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        pub struct DialectKeys {
            $($(#[$doc])* pub $key: Option<$type>,)*
        }

        impl UpstreamDialect {
            /// This dialect with these keys in place of its own.
            #[must_use]
            pub fn with(mut self, keys: DialectKeys) -> Self {
                $(if let Some(value) = keys.$key { self.$key = value; })*
                self
            }
        }
    };
}

upstream_dialect_keys!(define! {});

/// The dialect of the models whose names fit a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelDialect {
    /// Which models.
    pub pattern: ModelGlob,
    /// How to speak to them.
    pub dialect: UpstreamDialect,
}
