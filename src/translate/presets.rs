//! The dialects of known backends, each choice with where it is documented.
//!
//! A preset says everything that depends on the backend. What depends on the model or on the operator's taste it leaves
//! alone: `split_think`, `think_tags`, and, where the backend ignores what it does not know, `forward_unknown`.

use serde::{Deserialize, Serialize};

use super::settings::{
    AssistantContent, DeveloperRole, EffortForm, EffortMap, ForwardUnknown, InputFiles, JsonSchemaForm, MaxTokensField,
    NamedToolChoice, ReasoningField, ReasoningReplay, ResponseFormatWithTools, SendOrDrop, SystemMessages,
    ToolOutputMedia,
};
use super::upstream_dialect::DialectKeys;

/// A known backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", expecting = "vllm, sglang, llama_cpp, ollama, openai or deepseek")]
pub enum Preset {
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
    /// llama.cpp's server.
    LlamaCpp,
    /// Ollama's OpenAI-compatible endpoint.
    Ollama,
    /// OpenAI's own chat completions.
    Openai,
    /// DeepSeek's own API.
    Deepseek,
}

impl Preset {
    /// What it says.
    #[must_use]
    pub fn keys(self) -> DialectKeys {
        match self {
            Self::Vllm => vllm(),
            Self::Sglang => sglang(),
            Self::LlamaCpp => llama_cpp(),
            Self::Ollama => ollama(),
            Self::Openai => openai(),
            Self::Deepseek => deepseek(),
        }
    }
}

/// What suits every server of open models: chat templates that raise at a second system message or at the role
/// `developer` (ai-dynamo/dynamo#10206 surveys 30), tool messages that take text only (vllm-project/vllm#43203), no
/// file parts, and `content: null` beside calls (ollama/ollama#14181: `""` makes a template change its call format).
fn open_model_server() -> DialectKeys {
    DialectKeys {
        system_messages: Some(SystemMessages::Merge),
        developer_role: Some(DeveloperRole::System),
        max_tokens_field: Some(MaxTokensField::MaxTokens),
        reasoning_replay: Some(ReasoningReplay::ToolTurns),
        reasoning_field: Some(ReasoningField::ReasoningContent),
        reasoning_effort: Some(EffortForm::ReasoningEffort),
        reasoning_effort_map: Some(low_medium_high()),
        // Decoding that is constrained to the format cannot emit a call: vllm-project/vllm#39929,
        // sgl-project/sglang#25777, ollama/ollama#13750; llama.cpp fails to build the grammar (ggml-org/llama.cpp#27114).
        response_format_with_tools: Some(ResponseFormatWithTools::Instruct),
        json_schema: Some(JsonSchemaForm::Send),
        strict_tools: Some(SendOrDrop::Send),
        parallel_tool_calls: Some(SendOrDrop::Send),
        named_tool_choice: Some(NamedToolChoice::Send),
        stream_options: Some(SendOrDrop::Send),
        assistant_content: Some(AssistantContent::Nullable),
        files: Some(InputFiles::Refuse),
        tool_output_media: Some(ToolOutputMedia::UserMessage),
        ..DialectKeys::default()
    }
}

/// Every release knows these three; the others came one by one, and are a 400 before.
fn low_medium_high() -> EffortMap {
    map(&[("minimal", "low"), ("xhigh", "high"), ("max", "high")])
}

fn map(pairs: &[(&str, &str)]) -> EffortMap {
    EffortMap(pairs.iter().map(|(effort, name)| ((*effort).to_owned(), Some((*name).to_owned()))).collect())
}

fn vllm() -> DialectKeys {
    DialectKeys {
        // `max_tokens` is deprecated there in favour of it.
        max_tokens_field: Some(MaxTokensField::MaxCompletionTokens),
        // "reasoning used to be called reasoning_content" (docs.vllm.ai, Reasoning Outputs); under the old name it is
        // dropped without a word (vllm-project/vllm#38488).
        reasoning_field: Some(ReasoningField::Reasoning),
        // gpt-oss reads the parameter, all others their template's switch: `enable_thinking` (Qwen3, GLM) or `thinking`
        // (Granite, DeepSeek-V3.1), says the same page. Of the parameter's values, older releases refuse all but three
        // (bytedance/deer-flow#1673). Templates may have fewer: Qwen3.8 knows low, medium and xhigh.
        reasoning_effort: Some(EffortForm::Both),
        ..open_model_server()
    }
}

fn sglang() -> DialectKeys {
    DialectKeys {
        // `max_tokens` is deprecated there too.
        max_tokens_field: Some(MaxTokensField::MaxCompletionTokens),
        // "Input should be 'low', 'medium' or 'high'" (router-for-me/CLIProxyAPI#1572); thinking is switched by the
        // template's variable (sgl-project/sglang#28454).
        reasoning_effort: Some(EffortForm::Both),
        ..open_model_server()
    }
}

fn llama_cpp() -> DialectKeys {
    DialectKeys {
        // As a parameter it was ignored until ggml-org/llama.cpp#26941, as variables of the template it never was
        // (co-l/openfox#256).
        reasoning_effort: Some(EffortForm::ChatTemplateKwargs),
        // The object form is taken for `auto`, with a warning in the server's log only (ggml-org/llama.cpp#26535).
        named_tool_choice: Some(NamedToolChoice::Required),
        ..open_model_server()
    }
}

fn ollama() -> DialectKeys {
    DialectKeys {
        // Its docs/api/openai-compatibility.mdx lists `max_tokens` and not its successor, `stream_options`, and of
        // efforts low, medium, high and none; it does not list `parallel_tool_calls` and `strict`, and lists
        // `tool_choice` as missing: offering the chosen tool alone does what can be done.
        reasoning_field: Some(ReasoningField::Reasoning),
        // `minimal` and `xhigh` are a 400 (ollama/ollama#17140, #17252). A model that cannot think refuses every effort
        // but `none`: `reasoning_effort: drop` is for those.
        strict_tools: Some(SendOrDrop::Drop),
        parallel_tool_calls: Some(SendOrDrop::Drop),
        named_tool_choice: Some(NamedToolChoice::Required),
        ..open_model_server()
    }
}

fn openai() -> DialectKeys {
    // platform.openai.com, Create chat completion: unknown parameters are a 400, `max_tokens` is one for reasoning
    // models, files are parts, tool messages hold text, and no member takes reasoning back.
    let known = ["seed", "stop", "logit_bias", "verbosity", "prediction"];
    DialectKeys {
        forward_unknown: Some(ForwardUnknown::Only(known.map(str::to_owned).to_vec())),
        system_messages: Some(SystemMessages::Keep),
        developer_role: Some(DeveloperRole::Developer),
        max_tokens_field: Some(MaxTokensField::MaxCompletionTokens),
        reasoning_replay: Some(ReasoningReplay::Never),
        reasoning_effort_map: Some(EffortMap::default()),
        response_format_with_tools: Some(ResponseFormatWithTools::Send),
        files: Some(InputFiles::Send),
        ..open_model_server()
    }
}

fn deepseek() -> DialectKeys {
    DialectKeys {
        // api-docs.deepseek.com, Thinking Mode: of turns with calls, the final answer's included, all reasoning must
        // come back, else 400; what is not needed is ignored. Efforts are low, high and max, off is `thinking`.
        reasoning_replay: Some(ReasoningReplay::Always),
        reasoning_effort: Some(EffortForm::Thinking),
        reasoning_effort_map: Some(map(&[("minimal", "low"), ("medium", "high"), ("xhigh", "high")])),
        // "This response_format type is unavailable now" (llm-exe/llm-exe#662); for `json_object` the prompt has to say
        // "json" (browserbase/stagehand#1204).
        json_schema: Some(JsonSchemaForm::JsonObject),
        // Tool Calls: strict mode is on the beta endpoint only.
        strict_tools: Some(SendOrDrop::Drop),
        parallel_tool_calls: Some(SendOrDrop::Drop),
        ..open_model_server()
    }
}
