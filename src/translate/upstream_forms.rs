//! The parameters of a chat request whose form the upstream's dialect chooses: the effort of reasoning, the format of
//! the answer, and what goes with tools.

use serde_json::value::to_raw_value;

use super::create::TextOptions;
use super::error::RequestError;
use super::lossy::Lossy;
use super::settings::{EffortForm, JsonSchemaForm, NamedToolChoice, ResponseFormatWithTools, SendOrDrop};
use super::tools::ToolSet;
use super::upstream_dialect::UpstreamDialect;
use crate::openai::chat::{ChatToolChoice, JsonSchema, ResponseFormat, Thinking};
use crate::openai::raw::{InvalidMember, RawObject};

/// The effort that switches reasoning off.
const NO_EFFORT: &str = "none";

/// `reasoning.effort` in the members that carry it.
#[derive(Debug, Default)]
pub(super) struct Effort {
    pub(super) reasoning_effort: Option<String>,
    pub(super) thinking: Option<Thinking>,
    /// The client's own variables, and those that the effort adds.
    pub(super) chat_template_kwargs: Option<RawObject>,
}

/// Writes the effort as the dialect has it. `extras` are the request's, of which `chat_template_kwargs` is extended.
///
/// # Errors
/// Never in practice: words and flags always serialise.
pub(super) fn effort(
    effort: Option<&str>,
    extras: &RawObject,
    dialect: &UpstreamDialect,
    lossy: &mut Lossy,
) -> Result<Effort, serde_json::Error> {
    let Some(asked) = effort else { return Ok(Effort::default()) };
    let name = dialect.reasoning_effort_map.get(asked).filter(|_| dialect.reasoning_effort != EffortForm::Drop);
    let Some(name) = name else {
        lossy.skip("reasoning.effort", asked);
        return Ok(Effort::default());
    };
    let thinks = name != NO_EFFORT;
    let in_its_own_member = || Some(name.to_owned());
    Ok(match dialect.reasoning_effort {
        EffortForm::Drop => Effort::default(),
        EffortForm::ReasoningEffort => Effort { reasoning_effort: in_its_own_member(), ..Effort::default() },
        EffortForm::Thinking if thinks => Effort { reasoning_effort: in_its_own_member(), ..Effort::default() },
        EffortForm::Thinking => Effort { thinking: Some(Thinking { kind: "disabled" }), ..Effort::default() },
        form @ (EffortForm::ChatTemplateKwargs | EffortForm::Both) => Effort {
            reasoning_effort: if form == EffortForm::Both && thinks { in_its_own_member() } else { None },
            thinking: None,
            chat_template_kwargs: template_variables(name, thinks, extras, dialect, lossy)?,
        },
    })
}

/// The variables of the template. One that the client set itself stays as it is.
fn template_variables(
    name: &str,
    thinks: bool,
    extras: &RawObject,
    dialect: &UpstreamDialect,
    lossy: &mut Lossy,
) -> Result<Option<RawObject>, serde_json::Error> {
    let own = extras.raw("chat_template_kwargs").filter(|_| dialect.forward_unknown.allows("chat_template_kwargs"));
    let mut variables: RawObject = match own.map(|own| serde_json::from_str(own.get())) {
        None => RawObject::default(),
        Some(Ok(variables)) => variables,
        Some(Err(_)) => {
            // The backend will say what is wrong with it.
            lossy.skip("reasoning.effort", name);
            return Ok(None);
        }
    };
    let mut add = |key: &'static str, value| {
        if !variables.contains(key) {
            variables.push(key, value);
        }
    };
    add("enable_thinking", to_raw_value(&thinks)?);
    add("thinking", to_raw_value(&thinks)?);
    if thinks {
        add("reasoning_effort", to_raw_value(name)?);
    }
    Ok(Some(variables))
}

/// The format that goes up, and what the system message has to ask for because the format does not.
#[derive(Debug, Default)]
pub(super) struct AnswerFormat {
    pub(super) response_format: Option<ResponseFormat>,
    pub(super) instruction: Option<String>,
}

/// `text.format` as the dialect has it, given the tools that go up.
///
/// # Errors
/// [`RequestError`] naming the member of the format that is wrong.
pub(super) fn answer_format(
    text: &TextOptions,
    tools: &ToolSet,
    dialect: &UpstreamDialect,
    lossy: &mut Lossy,
) -> Result<AnswerFormat, RequestError> {
    let Some(format) = response_format(text)? else { return Ok(AnswerFormat::default()) };
    let with_tools = match &tools.choice {
        _ if tools.chat.is_empty() => ResponseFormatWithTools::Send,
        Some(ChatToolChoice::Mode("none")) => ResponseFormatWithTools::Send,
        None | Some(ChatToolChoice::Mode("auto")) => dialect.response_format_with_tools,
        // The answer has to be a call, which no format is about.
        Some(_) if dialect.response_format_with_tools == ResponseFormatWithTools::Send => ResponseFormatWithTools::Send,
        Some(_) => return Ok(AnswerFormat::default()),
    };
    Ok(match with_tools {
        ResponseFormatWithTools::Withhold => {
            lossy.skip("response_format", "withheld");
            AnswerFormat::default()
        }
        ResponseFormatWithTools::Instruct => {
            lossy.skip("response_format", "withheld");
            let instruction = instruction("When you answer without calling a tool, answer", &format);
            AnswerFormat { response_format: None, instruction: Some(instruction) }
        }
        ResponseFormatWithTools::Send => match (&format, dialect.json_schema) {
            (ResponseFormat::JsonSchema { .. }, JsonSchemaForm::JsonObject) => {
                lossy.skip("response_format", "json_object");
                let instruction = instruction("Answer", &format);
                AnswerFormat { response_format: Some(ResponseFormat::JsonObject), instruction: Some(instruction) }
            }
            _ => AnswerFormat { response_format: Some(format), instruction: None },
        },
    })
}

fn instruction(answer: &str, format: &ResponseFormat) -> String {
    match format {
        ResponseFormat::JsonObject => format!("{answer} with nothing but a JSON object."),
        ResponseFormat::JsonSchema { json_schema } => {
            let schema = json_schema.schema.get();
            format!("{answer} with nothing but JSON that conforms to this JSON schema:\n{schema}")
        }
    }
}

fn response_format(text: &TextOptions) -> Result<Option<ResponseFormat>, RequestError> {
    let Some(format) = &text.format else { return Ok(None) };
    fn member<T: serde::de::DeserializeOwned>(format: &RawObject, key: &str) -> Result<Option<T>, RequestError> {
        format.read(key).map_err(|InvalidMember { param, reason }| {
            RequestError::InvalidType(InvalidMember { param: format!("text.format.{param}"), reason })
        })
    }
    let missing = |key: &str| RequestError::Missing { param: format!("text.format.{key}") };
    match member::<String>(format, "type")?.as_deref() {
        None => Err(missing("type")),
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(ResponseFormat::JsonObject)),
        Some("json_schema") => {
            // It has to be an object; what it says is the backend's to judge.
            member::<RawObject>(format, "schema")?;
            let json_schema = JsonSchema {
                name: member(format, "name")?.ok_or_else(|| missing("name"))?,
                description: member(format, "description")?,
                schema: format.raw("schema").ok_or_else(|| missing("schema"))?.to_owned(),
                strict: member(format, "strict")?,
            };
            Ok(Some(ResponseFormat::JsonSchema { json_schema }))
        }
        Some(_) => Err(RequestError::InvalidValue {
            param: "text.format.type".to_owned(),
            reason: "must be 'text', 'json_object' or 'json_schema'".to_owned(),
        }),
    }
}

/// Changes the tools that go up into what the dialect has.
pub(super) fn restrict_tools(tools: &mut ToolSet, dialect: &UpstreamDialect, lossy: &mut Lossy) {
    if dialect.strict_tools == SendOrDrop::Drop {
        for tool in &mut tools.chat {
            if tool.function.strict.take() == Some(true) {
                lossy.skip("tool", "strict");
            }
        }
    }
    if dialect.named_tool_choice == NamedToolChoice::Required
        && let Some(ChatToolChoice::Function { function, .. }) = &tools.choice
    {
        tools.chat.retain(|tool| tool.function.name == function.name);
        tools.choice = Some(ChatToolChoice::Mode("required"));
    }
}

/// `parallel_tool_calls` as the dialect has it. Allowing parallel calls is what every backend does unasked.
pub(super) fn parallel_tool_calls(
    asked: Option<bool>,
    tools: &ToolSet,
    dialect: &UpstreamDialect,
    lossy: &mut Lossy,
) -> Option<bool> {
    let asked = asked.filter(|_| !tools.chat.is_empty());
    if dialect.parallel_tool_calls == SendOrDrop::Send {
        return asked;
    }
    if asked == Some(false) {
        lossy.skip("parallel_tool_calls", "false");
    }
    None
}
