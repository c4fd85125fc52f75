//! The `upstream` block: how the chat backend wants to be spoken to.

use serde::Deserialize;

use super::checked;
use crate::translate::settings::{
    DeveloperRole, ForwardUnknown, MaxTokensField, ReasoningReplay, Settings, SystemMessages,
};

/// The `upstream` block.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping of the upstream settings")]
pub struct Upstream {
    /// The path that requests are rewritten to; begins with a slash, may have a query. Default: `/v1/chat/completions`.
    #[serde(deserialize_with = "checked::url_path")]
    pub chat_path: String,
    /// The model of requests that name none; null or `""` makes them a 400. Default: null.
    #[serde(deserialize_with = "checked::line_unless_blank")]
    pub default_model: Option<String>,
    /// Which unknown top-level keys go on to the backend: true, false or a list of keys. Default: true.
    pub forward_unknown: ForwardUnknown,
    /// Whether system-class messages become one (`merge`) or stay where they are (`keep`). Default: merge.
    pub system_messages: SystemMessages,
    /// The chat role of developer messages, `system` or `developer`. Default: system.
    pub developer_role: DeveloperRole,
    /// The chat name of `max_output_tokens`: `max_tokens`, which most open backends know, or `max_completion_tokens`.
    /// Default: max_tokens.
    pub max_tokens_field: MaxTokensField,
    /// When the backend gets its own reasoning again: `never`, `tool_turns` or `always`. Default: tool_turns.
    pub reasoning_replay: ReasoningReplay,
    /// Whether Envoy chooses the route again once path and `x-selected-model` are set. Default: true.
    pub clear_route_cache: bool,
}

impl Default for Upstream {
    fn default() -> Self {
        let settings = Settings::default();
        Upstream {
            chat_path: "/v1/chat/completions".to_owned(),
            default_model: settings.default_model,
            forward_unknown: settings.forward_unknown,
            system_messages: settings.system_messages,
            developer_role: settings.developer_role,
            max_tokens_field: settings.max_tokens_field,
            reasoning_replay: settings.reasoning_replay,
            clear_route_cache: true,
        }
    }
}
