//! The dialects of our own API (CONTRACT §7): one table of switches, each read in one place. No other code asks which
//! dialect it is in.

use serde::{Deserialize, Serialize};

/// What differs between the dialects. Default: [`ApiDialect::OPENAI`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiDialect {
    /// What the events of raw reasoning are called. Read by the emitter.
    pub reasoning_events: ReasoningEvents,
    /// Whether events carry `sequence_number`. Read by the emitter.
    pub sequence_numbers: bool,
    /// Whether an `error` event, with the error both flat and nested, stands before `response.failed`. Read by the
    /// emitter.
    pub error_event: bool,
    /// Whether `data: [DONE]` follows the terminal event. Read by the emitter.
    pub done_frame: bool,
    /// What `code` of an error body is. Read where error bodies are made.
    pub error_code: ErrorCode,
    /// Whether a turn without instructions has those of the oldest turn of its chain that had any. Read by the
    /// translation of requests.
    pub inherits_instructions: bool,
    /// Whether `input_items` lists the instructions before the input, as a system item. Read where that is answered.
    pub lists_instructions: bool,
}

/// What the events of raw reasoning are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReasoningEvents {
    /// `response.reasoning_text.delta` and `.done`.
    ReasoningText,
    /// `response.reasoning.delta` and `.done`.
    Reasoning,
}

/// What `code` of an error body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// A word or null: a number makes Codex retry for ever.
    Word,
    /// The HTTP status as a number.
    HttpStatus,
}

impl ApiDialect {
    /// As the OpenAI API speaks.
    pub const OPENAI: Self = Self {
        reasoning_events: ReasoningEvents::ReasoningText,
        sequence_numbers: true,
        error_event: false,
        done_frame: false,
        error_code: ErrorCode::Word,
        inherits_instructions: false,
        lists_instructions: false,
    };

    /// As the Open Responses specification has it.
    pub const OPEN_RESPONSES: Self =
        Self { reasoning_events: ReasoningEvents::Reasoning, error_event: true, done_frame: true, ..Self::OPENAI };

    /// As the Go semantic-router speaks.
    pub const SEMANTIC_ROUTER: Self = Self {
        sequence_numbers: false,
        error_code: ErrorCode::HttpStatus,
        inherits_instructions: true,
        lists_instructions: true,
        ..Self::OPENAI
    };
}

impl Default for ApiDialect {
    fn default() -> Self {
        Self::OPENAI
    }
}

/// A dialect by its name, as the config has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", expecting = "openai, open_responses or semantic_router")]
pub enum DialectName {
    /// [`ApiDialect::OPENAI`].
    #[default]
    Openai,
    /// [`ApiDialect::OPEN_RESPONSES`].
    OpenResponses,
    /// [`ApiDialect::SEMANTIC_ROUTER`].
    SemanticRouter,
}

impl From<DialectName> for ApiDialect {
    fn from(name: DialectName) -> Self {
        match name {
            DialectName::Openai => Self::OPENAI,
            DialectName::OpenResponses => Self::OPEN_RESPONSES,
            DialectName::SemanticRouter => Self::SEMANTIC_ROUTER,
        }
    }
}
