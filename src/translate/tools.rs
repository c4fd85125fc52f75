//! Tools and `tool_choice`: the flat form of the Responses API into the nested form of chat.
//!
//! Tool types that chat lacks are skipped and reported, never refused: agents always send some. A choice that could
//! only be met by a skipped tool is refused, never widened.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};

use super::error::RequestError;
use super::lossy::{Lossy, skip_unknown};
use crate::openai::chat::{ChatTool, ChatToolChoice, FunctionDefinition, FunctionName};
use crate::openai::raw::{InvalidMember, RawObject};

/// What a function tool says that chat can say too.
const FUNCTION_MEMBERS: [&str; 5] = ["type", "name", "description", "parameters", "strict"];

/// The tools of a request in both forms.
#[derive(Debug)]
pub struct ToolSet {
    /// What the upstream is offered. Empty: neither tools nor choice go up.
    pub chat: Vec<ChatTool>,
    /// The choice that goes with them.
    pub choice: Option<ChatToolChoice>,
    /// What the response repeats: the Responses form, gaps filled with null.
    pub echo: Vec<RawObject>,
}

/// Translates `tools` and `tool_choice`.
///
/// # Errors
/// [`RequestError`] naming the tool member at fault, or `tool_choice` when it names what is not there.
pub fn translate(tools: &[RawObject], choice: Option<&RawValue>, lossy: &mut Lossy) -> Result<ToolSet, RequestError> {
    let mut chat = Vec::new();
    let mut echo = Vec::with_capacity(tools.len());
    for (index, tool) in tools.iter().enumerate() {
        let kind = member::<String>(tool, "type", index)?.ok_or_else(|| missing(index, "type"))?;
        if kind == "function" {
            skip_unknown(tool, &FUNCTION_MEMBERS, "tool", lossy);
            chat.push(function(tool, index)?);
            echo.push(echo_of_function(tool));
        } else {
            lossy.skip("tool_type", &kind);
            echo.push(tool.clone());
        }
    }
    let choice = apply_choice(choice, &mut chat)?;
    // A choice without tools is refused by many backends; `auto` and `none` mean nothing then.
    let choice = choice.filter(|_| !chat.is_empty());
    Ok(ToolSet { chat, choice, echo })
}

fn member<T: serde::de::DeserializeOwned>(
    tool: &RawObject,
    key: &str,
    index: usize,
) -> Result<Option<T>, RequestError> {
    tool.read(key).map_err(|error| {
        let param = format!("tools[{index}].{key}");
        RequestError::InvalidType(InvalidMember { param, reason: error.reason })
    })
}

fn missing(index: usize, key: &str) -> RequestError {
    RequestError::Missing { param: format!("tools[{index}].{key}") }
}

fn function(tool: &RawObject, index: usize) -> Result<ChatTool, RequestError> {
    let name = member::<String>(tool, "name", index)?.filter(|name| !name.is_empty());
    let function = FunctionDefinition {
        name: name.ok_or_else(|| missing(index, "name"))?,
        description: member(tool, "description", index)?,
        // A schema is an object; what it says is the backend's to judge.
        parameters: member::<RawObject>(tool, "parameters", index)?
            .and_then(|_| tool.raw("parameters").map(ToOwned::to_owned)),
        strict: member(tool, "strict", index)?,
    };
    Ok(ChatTool { kind: "function", function })
}

fn echo_of_function(tool: &RawObject) -> RawObject {
    let mut echo = tool.clone();
    for key in ["description", "parameters", "strict"] {
        if !echo.contains(key) {
            echo.set(key, RawValue::NULL.to_owned());
        }
    }
    echo
}

/// The forms of `tool_choice` that name something. Which members each has is checked where it is applied.
#[derive(Deserialize)]
struct NamedChoice {
    #[serde(rename = "type")]
    kind: String,
    name: Option<String>,
    mode: Option<String>,
    tools: Option<Vec<NamedTool>>,
}

#[derive(Deserialize)]
struct NamedTool {
    #[serde(rename = "type")]
    kind: String,
    name: Option<String>,
}

fn invalid(reason: impl Into<String>) -> RequestError {
    RequestError::InvalidValue { param: "tool_choice".to_owned(), reason: reason.into() }
}

fn mode(word: &str) -> Option<&'static str> {
    ["auto", "none", "required"].into_iter().find(|mode| *mode == word)
}

fn apply_choice(choice: Option<&RawValue>, chat: &mut Vec<ChatTool>) -> Result<Option<ChatToolChoice>, RequestError> {
    let Some(choice) = choice else { return Ok(None) };
    if let Ok(word) = serde_json::from_str::<String>(choice.get()) {
        let mode = mode(&word).ok_or_else(|| invalid("must be 'auto', 'none', 'required' or an object"))?;
        return needs_a_tool(mode, chat).map(|mode| Some(ChatToolChoice::Mode(mode)));
    }
    let named: NamedChoice = serde_json::from_str(choice.get()).map_err(|_| {
        let reason = "must be 'auto', 'none', 'required' or an object with a 'type'".to_owned();
        RequestError::InvalidType(InvalidMember { param: "tool_choice".to_owned(), reason })
    })?;
    match named.kind.as_str() {
        "function" => {
            let name = named.name.ok_or_else(|| invalid("a choice of type 'function' needs a 'name'"))?;
            find(&names(chat), &name)?;
            Ok(Some(ChatToolChoice::Function { kind: "function", function: FunctionName { name } }))
        }
        "allowed_tools" => {
            let word = named.mode.as_deref().unwrap_or("auto");
            let mode = mode(word).filter(|mode| *mode != "none");
            let mode = mode.ok_or_else(|| invalid("the mode of 'allowed_tools' must be 'auto' or 'required'"))?;
            let allowed = named.tools.filter(|tools| !tools.is_empty());
            let allowed = allowed.ok_or_else(|| invalid("a choice of type 'allowed_tools' needs 'tools'"))?;
            restrict(chat, &allowed)?;
            needs_a_tool(mode, chat).map(|mode| Some(ChatToolChoice::Mode(mode)))
        }
        other => {
            let kind: String = other.chars().take(64).collect();
            Err(invalid(format!("tools of type '{kind}' are not offered, so none can be chosen")))
        }
    }
}

fn needs_a_tool(mode: &'static str, chat: &[ChatTool]) -> Result<&'static str, RequestError> {
    if mode == "required" && chat.is_empty() {
        return Err(invalid("'required' needs at least one function tool in 'tools'"));
    }
    Ok(mode)
}

/// How often each function name stands in `tools`.
fn names(chat: &[ChatTool]) -> HashMap<String, usize> {
    let mut names = HashMap::with_capacity(chat.len());
    for tool in chat {
        *names.entry(tool.function.name.clone()).or_default() += 1;
    }
    names
}

fn find(names: &HashMap<String, usize>, name: &str) -> Result<(), RequestError> {
    match names.get(name) {
        Some(1) => Ok(()),
        None => Err(invalid("names a function that is not in 'tools'")),
        Some(_) => Err(invalid("names a function that is in 'tools' more than once")),
    }
}

/// Leaves only the allowed tools, in the order of `tools`.
fn restrict(chat: &mut Vec<ChatTool>, allowed: &[NamedTool]) -> Result<(), RequestError> {
    let names = names(chat);
    let mut kept = HashSet::with_capacity(allowed.len());
    for tool in allowed {
        match (&*tool.kind, &tool.name) {
            ("function", Some(name)) => {
                find(&names, name)?;
                kept.insert(name.as_str());
            }
            _ => return Err(invalid("'allowed_tools' may list function tools by name only")),
        }
    }
    chat.retain(|tool| kept.contains(tool.function.name.as_str()));
    Ok(())
}

/// The echo of `tool_choice`: as given, or `auto`.
///
/// # Errors
/// Never in practice: a string always serialises.
pub fn echo_of_choice(choice: Option<&RawValue>) -> Result<Box<RawValue>, serde_json::Error> {
    choice.map_or_else(|| to_raw_value("auto"), |choice| Ok(choice.to_owned()))
}
