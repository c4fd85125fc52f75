//! Chat completions: the request that goes up. What comes down is in [`chat_answer`](super::chat_answer).

use serde::{Deserialize, Serialize};
use serde_json::Number;
use serde_json::value::RawValue;

use super::json_text::JsonText;
use super::raw::RawObject;

/// A chat completion request, in the member order of the chat reference.
#[derive(Debug, Serialize)]
pub struct ChatRequest<'a> {
    /// Model name as the client gave it.
    pub model: &'a str,
    /// The conversation.
    pub messages: Vec<ChatMessage>,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Present only with `stream: true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
    /// Function tools; absent rather than empty, because many backends refuse an empty list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ChatTool>,
    /// Absent when there are no tools.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<ChatToolChoice>,
    /// Absent when there are no tools or the client did not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel_tool_calls: Option<bool>,
    /// Structured output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<ResponseFormat>,
    /// Reasoning effort, verbatim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<String>,
    /// Switches reasoning off where no effort does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<Thinking>,
    /// Variables of the chat template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template_kwargs: Option<RawObject>,
    /// Output bound in tokens, for backends that know the newer name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_completion_tokens: Option<u64>,
    /// Output bound in tokens, for backends that know the older name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    /// Sampling, verbatim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<Number>,
    /// Sampling, verbatim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<Number>,
    /// Sampling, verbatim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<Number>,
    /// Sampling, verbatim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<Number>,
    /// Whether token log probabilities are wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<bool>,
    /// How many alternatives per token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<u32>,
    /// Processing tier, verbatim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<String>,
    /// End user, verbatim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Backend extras, in the exact form in which they came.
    #[serde(flatten)]
    pub extras: RawObject,
}

/// `stream_options` of a chat request.
#[derive(Debug, Serialize)]
pub struct StreamOptions {
    /// Asks for a usage chunk at the end of the stream.
    pub include_usage: bool,
}

/// `thinking` of a chat request, as DeepSeek has it.
#[derive(Debug, Serialize)]
pub struct Thinking {
    /// `disabled`.
    #[serde(rename = "type")]
    pub kind: &'static str,
}

/// A message of a chat request.
#[derive(Debug, Serialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum ChatMessage {
    /// System text.
    System {
        /// Text or parts.
        content: ChatContent,
    },
    /// System text for backends that know the newer role.
    Developer {
        /// Text or parts.
        content: ChatContent,
    },
    /// What the user said.
    User {
        /// Text or parts.
        content: ChatContent,
    },
    /// One whole assistant turn: text, reasoning and all its parallel calls.
    Assistant {
        /// Null only when there are calls: templates reject a message with neither.
        content: Option<JsonText>,
        /// Reasoning sent back to backends that need it.
        #[serde(skip_serializing_if = "Option::is_none")]
        reasoning_content: Option<String>,
        /// The same, for backends that read it under this name.
        #[serde(skip_serializing_if = "Option::is_none")]
        reasoning: Option<String>,
        /// The calls of this turn.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<ChatToolCall>,
    },
    /// The result of one call; follows its assistant message directly.
    Tool {
        /// The call that this answers.
        tool_call_id: String,
        /// Text or parts.
        content: ChatContent,
    },
}

impl ChatMessage {
    /// About how many bytes of JSON it becomes: the room to set aside for it.
    #[must_use]
    pub fn json_bytes(&self) -> usize {
        const MEMBERS: usize = r#"{"role":"assistant","content":""},"#.len();
        let said = match self {
            Self::System { content } | Self::Developer { content } | Self::User { content } => content.json_bytes(),
            Self::Assistant { content, reasoning_content, reasoning, tool_calls } => {
                let calls = tool_calls.iter().map(|call| 2 * MEMBERS + call.function.arguments.len());
                let reasoning = [reasoning_content, reasoning].into_iter().flatten().map(String::len);
                content.as_ref().map_or(0, JsonText::json_bytes) + reasoning.chain(calls).sum::<usize>()
            }
            Self::Tool { tool_call_id, content } => MEMBERS + tool_call_id.len() + content.json_bytes(),
        };
        MEMBERS + said
    }
}

impl ChatContent {
    fn json_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.json_bytes(),
            Self::Parts(parts) => parts.iter().map(ChatPart::json_bytes).sum(),
        }
    }
}

impl ChatPart {
    fn json_bytes(&self) -> usize {
        const MEMBERS: usize = r#"{"type":"image_url","image_url":{"url":"","detail":"auto"}},"#.len();
        let data = match self {
            Self::Text { text } => text.json_bytes(),
            Self::ImageUrl { image_url } => image_url.url.len(),
            Self::InputAudio { input_audio } => input_audio.data.len(),
            Self::File { file } => file.file_data.len() + file.filename.as_ref().map_or(0, String::len),
        };
        MEMBERS + data
    }
}

/// Text-only content is a plain string, mixed content is parts.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ChatContent {
    /// Plain text.
    Text(JsonText),
    /// Text and media.
    Parts(Vec<ChatPart>),
}

/// A part of mixed content.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ChatPart {
    /// Text.
    Text {
        /// The text.
        text: JsonText,
    },
    /// An image by https or data URL; the router never fetches it.
    ImageUrl {
        /// Where it is.
        image_url: ImageUrl,
    },
    /// Inline audio.
    InputAudio {
        /// Base64 data and its format, as the client sent them.
        input_audio: InputAudio,
    },
    /// A file with inline data.
    File {
        /// The file.
        file: InputFile,
    },
}

/// An image of a chat part.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImageUrl {
    /// https or data URL.
    pub url: String,
    /// `auto`, `low`, `high`, …, verbatim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Audio of a chat part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InputAudio {
    /// Base64.
    pub data: String,
    /// `wav` or `mp3`.
    pub format: String,
}

/// A file of a chat part.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InputFile {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    /// Its content, base64 or a data URL as the client sent it.
    pub file_data: String,
}

/// A call in an assistant message of the request.
#[derive(Debug, Serialize)]
pub struct ChatToolCall {
    /// The call's id.
    pub id: String,
    /// Always `function`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What is called.
    pub function: CalledFunction,
}

/// Name and arguments of a call.
#[derive(Debug, Serialize)]
pub struct CalledFunction {
    /// Function name.
    pub name: String,
    /// JSON text, unparsed.
    pub arguments: String,
}

/// A tool of the request: `{type: function, function: {…}}`.
#[derive(Debug, Clone, Serialize)]
pub struct ChatTool {
    /// Always `function`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The function.
    pub function: FunctionDefinition,
}

/// A function that the model may call.
#[derive(Debug, Clone, Serialize)]
pub struct FunctionDefinition {
    /// Function name.
    pub name: String,
    /// For the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// JSON schema, verbatim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Box<RawValue>>,
    /// Whether the schema is enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// `tool_choice` of a chat request.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ChatToolChoice {
    /// `auto`, `none` or `required`.
    Mode(&'static str),
    /// One named function.
    Function {
        /// Always `function`.
        #[serde(rename = "type")]
        kind: &'static str,
        /// Which.
        function: FunctionName,
    },
}

/// A function by name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FunctionName {
    /// The name.
    pub name: String,
}

/// `response_format` of a chat request.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseFormat {
    /// Any JSON object.
    JsonObject,
    /// JSON that follows a schema.
    JsonSchema {
        /// The schema and its name.
        json_schema: JsonSchema,
    },
}

/// A named schema.
#[derive(Debug, Clone, Serialize)]
pub struct JsonSchema {
    /// Name, required by the reference.
    pub name: String,
    /// For the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The schema, verbatim.
    pub schema: Box<RawValue>,
    /// Whether it is enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}
