//! Calls of tools and their outputs, in the item types of the reference.
//!
//! Whatever its type, a call is a name and a text that the model wrote; whatever its type, an output answers a call by
//! its id. So each pair can go up as one chat call and one tool message, and nothing of a history is orphaned.

use std::fmt::Display;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::item::{ItemError, Part, missing, read, required, text_or_parts};
use super::json_text::JsonText;
use super::raw::Members;
use crate::id::ItemPrefix;

/// The kinds of tools whose calls and outputs can be told in chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallKind {
    /// `function_call`: the text is JSON.
    Function,
    /// `custom_tool_call`: the text is free.
    Custom,
    /// `tool_search_call`: asks the client for tools; the text is JSON.
    ToolSearch,
    /// `local_shell_call`: the text is its `action`.
    LocalShell,
    /// `shell_call`: the text is its `action`.
    Shell,
    /// `apply_patch_call`: the text is its `operation`.
    ApplyPatch,
}

/// What `type` says of a call or of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The model called.
    Call(CallKind),
    /// The client answers.
    Output(CallKind),
}

impl Side {
    /// Reads an item's `type`; `None` for everything that is neither a call nor an output of these kinds.
    #[must_use]
    pub fn of(kind: &str) -> Option<Self> {
        Some(match kind {
            "function_call" => Self::Call(CallKind::Function),
            "function_call_output" => Self::Output(CallKind::Function),
            "custom_tool_call" => Self::Call(CallKind::Custom),
            "custom_tool_call_output" => Self::Output(CallKind::Custom),
            "tool_search_call" => Self::Call(CallKind::ToolSearch),
            "tool_search_output" => Self::Output(CallKind::ToolSearch),
            "local_shell_call" => Self::Call(CallKind::LocalShell),
            "local_shell_call_output" => Self::Output(CallKind::LocalShell),
            "shell_call" => Self::Call(CallKind::Shell),
            "shell_call_output" => Self::Output(CallKind::Shell),
            "apply_patch_call" => Self::Call(CallKind::ApplyPatch),
            "apply_patch_call_output" => Self::Output(CallKind::ApplyPatch),
            _ => return None,
        })
    }

    /// What the ids of such items begin with.
    #[must_use]
    pub fn prefix(self) -> ItemPrefix {
        match self {
            Self::Call(CallKind::Function) => ItemPrefix::FunctionCall,
            Self::Output(CallKind::Function) => ItemPrefix::FunctionCallOutput,
            Self::Call(CallKind::Custom) => ItemPrefix::CustomToolCall,
            Self::Output(CallKind::Custom) => ItemPrefix::CustomToolCallOutput,
            Self::Call(CallKind::ToolSearch) => ItemPrefix::ToolSearchCall,
            Self::Output(CallKind::ToolSearch) => ItemPrefix::ToolSearchOutput,
            Self::Call(_) | Self::Output(_) => ItemPrefix::Other,
        }
    }
}

impl CallKind {
    /// The name of a tool that has none of its own: its `type` in `tools`.
    #[must_use]
    pub fn builtin_name(self) -> Option<&'static str> {
        match self {
            Self::Function | Self::Custom => None,
            Self::ToolSearch => Some("tool_search"),
            Self::LocalShell => Some("local_shell"),
            Self::Shell => Some("shell"),
            Self::ApplyPatch => Some("apply_patch"),
        }
    }

    /// The member that holds what the model wrote.
    fn payload_member(self) -> &'static str {
        match self {
            Self::Function | Self::ToolSearch => "arguments",
            Self::Custom => "input",
            Self::LocalShell | Self::Shell => "action",
            Self::ApplyPatch => "operation",
        }
    }
}

/// A call that the model made.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// Which item type it came as.
    pub kind: CallKind,
    /// Pairs it with its output.
    pub call_id: String,
    /// The namespace of the tool, if it has one.
    pub namespace: Option<String>,
    /// What was called.
    pub name: String,
    /// What the model wrote: free text for [`CallKind::Custom`], JSON text for all others. May be empty.
    pub payload: String,
}

/// Reads a call; `param` is its path in the request.
///
/// # Errors
/// [`ItemError`] naming the member at fault.
pub(super) fn call(object: &Members<'_>, kind: CallKind, param: &dyn Display) -> Result<ToolCall, ItemError> {
    let member = kind.payload_member();
    let payload = match kind {
        CallKind::Function | CallKind::Custom => read(object, member, param)?.unwrap_or_default(),
        CallKind::ToolSearch | CallKind::LocalShell | CallKind::Shell | CallKind::ApplyPatch => {
            object.text(member).or_else(|| object.raw(member).map(|raw| raw.get().to_owned())).unwrap_or_default()
        }
    };
    let name = match kind.builtin_name() {
        Some(name) => name.to_owned(),
        None => required(object, "name", param)?,
    };
    let namespace = read::<String>(object, "namespace", param)?.filter(|namespace| !namespace.is_empty());
    Ok(ToolCall { kind, call_id: call_id(object, kind, param)?, namespace, name, payload })
}

/// Reads an output: the id of its call, and what came out.
///
/// # Errors
/// [`ItemError`] naming the member at fault.
pub(super) fn output(
    object: &Members<'_>,
    kind: CallKind,
    param: &dyn Display,
) -> Result<(String, Vec<Part>), ItemError> {
    #[derive(Serialize)]
    struct Outcome<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<&'a RawValue>,
        #[serde(skip_serializing_if = "Option::is_none")]
        output: Option<&'a RawValue>,
    }
    let call_id = call_id(object, kind, param)?;
    let output = match kind {
        CallKind::ToolSearch => json(object.raw("tools").ok_or_else(|| missing(format!("{param}.tools")))?),
        CallKind::ApplyPatch => {
            let outcome = Outcome { status: object.raw("status"), output: object.raw("output") };
            json(&to_raw_value(&outcome).map_err(|_| missing(format!("{param}.output")))?)
        }
        CallKind::Function | CallKind::Custom | CallKind::LocalShell | CallKind::Shell => text_or_json(object, param)?,
    };
    Ok((call_id, output))
}

fn json(raw: &RawValue) -> Vec<Part> {
    vec![Part::Text(JsonText::of(raw.get()))]
}

/// What a tool returned: text, a list of content parts, or any other JSON as its text.
fn text_or_json(object: &Members<'_>, param: &dyn Display) -> Result<Vec<Part>, ItemError> {
    let at = format_args!("{param}.output");
    let Some(output) = object.raw("output") else {
        // Null is a legal JSON result of a tool; a missing member is a mistake.
        return if object.contains("output") { Ok(json(RawValue::NULL)) } else { Err(missing(at)) };
    };
    match output.get().as_bytes().first() {
        Some(b'"') => text_or_parts(output, &at),
        Some(b'[') if is_list_of_parts(output) => text_or_parts(output, &at),
        // Numbers, objects and plain lists are what the tool returned: the model sees them as JSON.
        _ => Ok(json(output)),
    }
}

/// Whether it is a list of content parts: what a tool returned may have types that only sound like theirs.
fn is_list_of_parts(output: &RawValue) -> bool {
    let is_part = |object: &Members<'_>| {
        let has = |members: &[&str], begins: char| {
            members.iter().filter_map(|member| object.raw(member)).any(|raw| raw.get().starts_with(begins))
        };
        match object.text("type").as_deref() {
            Some("input_text" | "text") => has(&["text"], '"'),
            Some("input_image") => has(&["image_url", "file_id"], '"'),
            Some("input_audio") => has(&["input_audio"], '{'),
            Some("input_file") => has(&["file_data", "file_id", "file_url"], '"'),
            _ => false,
        }
    };
    Members::list_of_raw(output).is_some_and(|items| !items.is_empty() && items.iter().all(is_part))
}

/// The id that pairs a call with its output. Local shell items may carry it as `id` alone.
fn call_id(object: &Members<'_>, kind: CallKind, param: &dyn Display) -> Result<String, ItemError> {
    match (kind, object.raw("call_id")) {
        (CallKind::LocalShell, None) => required(object, "id", param),
        _ => required(object, "call_id", param),
    }
}
