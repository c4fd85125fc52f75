//! Input items: what a request's `input` and a stored turn consist of.
//!
//! An item is read twice over: as an [`Item`], what translation acts on, and as the normalised JSON object that the
//! store keeps and `input_items` lists. Types that this version does not know are carried as [`Item::Unknown`]; they
//! never fail the request as a whole.

use std::fmt::Display;

use serde_json::value::RawValue;

use super::chat::{InputAudio, InputFile};
use super::json_text::JsonText;
use super::raw::{InvalidMember, Members, RawObject, read_raw};
use super::tool_call::{self, CallKind, Side, ToolCall};
use crate::id::{ItemPrefix, ResponseId};
use crate::json;

/// An item, as far as translation acts on it.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// Something said by a role.
    Message {
        /// Who said it.
        role: Role,
        /// What was said.
        content: Vec<Part>,
    },
    /// The model's reasoning of an earlier turn, its readable text only.
    Reasoning {
        /// Raw reasoning, or the summary where there is nothing else. May be empty.
        text: String,
    },
    /// A call that the model made, of any kind that chat can tell.
    Call(ToolCall),
    /// The result of a call.
    CallOutput {
        /// Which item type it came as.
        kind: CallKind,
        /// The call that this answers.
        call_id: String,
        /// What came out.
        output: Vec<Part>,
    },
    /// Tools that are offered from here on, beside those of the request. Says nothing itself.
    AdditionalTools,
    /// What one agent says to another, who reads it as a user's message.
    AgentMessage {
        /// Who says it, and to whom, as far as it is known.
        heading: String,
        /// Its readable text.
        text: String,
        /// Whether a part of it is readable to its provider only.
        encrypted: bool,
    },
    /// A reference to a stored item.
    Reference {
        /// The item's id.
        id: String,
    },
    /// An item of another type.
    Unknown {
        /// Its `type`.
        kind: String,
    },
}

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The user.
    User,
    /// The model.
    Assistant,
    /// System text.
    System,
    /// System text under its newer name.
    Developer,
}

/// A content part, as far as translation acts on it.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// `input_text`, `output_text`, `text`, `summary_text`, `reasoning_text`.
    Text(JsonText),
    /// What the model refused with.
    Refusal(JsonText),
    /// An image by URL.
    Image {
        /// https or data URL.
        url: String,
        /// Verbatim.
        detail: Option<String>,
    },
    /// Inline audio.
    Audio(InputAudio),
    /// A file with inline data.
    File {
        /// Name and data.
        file: InputFile,
        /// How closely it is to be read, verbatim.
        detail: Option<String>,
    },
}

/// Why an item cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// A member is missing.
    #[error("{param}: is required")]
    Missing {
        /// Path from the request body, like `input[2].content[0].text`.
        param: String,
    },
    /// A member has a wrong type.
    #[error(transparent)]
    InvalidType(InvalidMember),
    /// A member has an unknown value.
    #[error("{param}: {reason}")]
    Invalid {
        /// Path from the request body, like `input[2].content[0].text`.
        param: String,
        /// What is wrong.
        reason: String,
    },
    /// The item is right, but this router cannot translate it.
    #[error("{param}: {reason}")]
    Unsupported {
        /// Path from the request body.
        param: String,
        /// What is not offered.
        reason: String,
    },
}

fn wrong_type(param: impl Display, reason: impl Into<String>) -> ItemError {
    ItemError::InvalidType(InvalidMember { param: param.to_string(), reason: reason.into() })
}

pub(super) fn missing(param: impl Display) -> ItemError {
    ItemError::Missing { param: param.to_string() }
}

/// Reads the JSON object of an item; `param` is its path in the request, written out for errors only.
///
/// # Errors
/// [`ItemError`] naming the member at fault.
pub fn parse(object: &Members<'_>, param: &dyn Display) -> Result<Item, ItemError> {
    let kind: Option<String> = read(object, "type", param)?;
    match kind.as_deref() {
        Some("message") => message(object, param),
        // EasyInputMessage: the type may be left out.
        None if object.raw("role").is_some() => message(object, param),
        Some("reasoning") => reasoning(object, param),
        Some("additional_tools") => Ok(Item::AdditionalTools),
        Some("agent_message") => agent_message(object, param),
        // A trigger asks for another kind of answer than this service gives.
        Some("compaction_trigger") => Err(ItemError::Unsupported {
            param: format!("{param}.type"),
            reason: "compaction is not offered".to_owned(),
        }),
        Some("item_reference") => Ok(Item::Reference { id: required(object, "id", param)? }),
        // ItemReferenceParam: the type may be left out or null.
        None if object.raw("id").is_some() => Ok(Item::Reference { id: required(object, "id", param)? }),
        // What a hosted search found is between it and its provider.
        Some(kind @ ("tool_search_call" | "tool_search_output")) if object.raw("call_id").is_none() => {
            Ok(Item::Unknown { kind: kind.to_owned() })
        }
        Some(kind) => match Side::of(kind) {
            Some(Side::Call(kind)) => Ok(Item::Call(tool_call::call(object, kind, param)?)),
            Some(Side::Output(kind)) => {
                let (call_id, output) = tool_call::output(object, kind, param)?;
                Ok(Item::CallOutput { kind, call_id, output })
            }
            None => Ok(Item::Unknown { kind: kind.to_owned() }),
        },
        None => Err(missing(format!("{param}.type"))),
    }
}

pub(super) fn read<T: serde::de::DeserializeOwned>(
    object: &Members<'_>,
    key: &str,
    param: &dyn Display,
) -> Result<Option<T>, ItemError> {
    object.read(key).map_err(|error| wrong_type(format!("{param}.{}", error.param), error.reason))
}

pub(super) fn required(object: &Members<'_>, key: &str, param: &dyn Display) -> Result<String, ItemError> {
    match read::<String>(object, key, param)? {
        Some(text) if !text.is_empty() => Ok(text),
        _ => Err(missing(format!("{param}.{key}"))),
    }
}

fn message(object: &Members<'_>, param: &dyn Display) -> Result<Item, ItemError> {
    let role = match required(object, "role", param)?.as_str() {
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "system" => Role::System,
        "developer" => Role::Developer,
        other => {
            let reason = format!("'{}' is not one of user, assistant, system, developer", shortened(other));
            return Err(ItemError::Invalid { param: format!("{param}.role"), reason });
        }
    };
    let at = format_args!("{param}.content");
    let content = match object.raw("content") {
        Some(content) => text_or_parts(content, &at)?,
        // Assistant messages that only held calls come back with null content.
        None if role == Role::Assistant => Vec::new(),
        None => return Err(missing(at)),
    };
    Ok(Item::Message { role, content })
}

fn reasoning(object: &Members<'_>, param: &dyn Display) -> Result<Item, ItemError> {
    for key in ["content", "summary"] {
        let at = format_args!("{param}.{key}");
        let parts = object.raw(key).map(|raw| text_or_parts(raw, &at)).transpose()?.unwrap_or_default();
        let text = JsonText::join(parts.into_iter().filter_map(Part::into_text).collect(), "\n\n");
        if !text.is_empty() {
            return Ok(Item::Reasoning { text: text.decode() });
        }
    }
    Ok(Item::Reasoning { text: String::new() })
}

/// What agents say to each other (Codex): text, and parts that only their provider can read.
fn agent_message(object: &Members<'_>, param: &dyn Display) -> Result<Item, ItemError> {
    let word = |key: &str| read::<String>(object, key, param);
    let heading = match (word("author")?, word("recipient")?) {
        (Some(author), Some(recipient)) => format!("Message from {author} to {recipient}:"),
        (Some(author), None) => format!("Message from {author}:"),
        (None, _) => "Message from another agent:".to_owned(),
    };
    let (mut texts, mut encrypted) = (Vec::new(), false);
    for (index, part) in read::<Vec<RawObject>>(object, "content", param)?.unwrap_or_default().iter().enumerate() {
        let at = format_args!("{param}.content[{index}]");
        match required(part, "type", &at)?.as_str() {
            "encrypted_content" => encrypted = true,
            _ => texts.extend(self::part(part, &at)?.into_text()),
        }
    }
    Ok(Item::AgentMessage { heading, text: JsonText::join(texts, "\n").decode(), encrypted })
}

pub(super) fn text_or_parts(raw: &RawValue, param: &dyn Display) -> Result<Vec<Part>, ItemError> {
    if raw.get().starts_with('"') {
        return Ok(vec![Part::Text(json_text(raw, param)?)]);
    }
    let parts =
        Members::list_of_raw(raw).ok_or_else(|| wrong_type(param, "must be a string or a list of content parts"))?;
    parts.iter().enumerate().map(|(index, object)| part(object, &format_args!("{param}[{index}]"))).collect()
}

/// The text that a member is, which needs no second parsing.
fn json_text(raw: &RawValue, param: &dyn Display) -> Result<JsonText, ItemError> {
    match JsonText::of_raw(raw) {
        Some(text) => Ok(text),
        // It cannot be read; reading it tells why.
        None => read_raw(param, raw).map_err(ItemError::InvalidType),
    }
}

fn part(object: &Members<'_>, param: &dyn Display) -> Result<Part, ItemError> {
    let kind = required(object, "type", param)?;
    let text = |key: &str| match object.raw(key) {
        Some(raw) => json_text(raw, &format_args!("{param}.{key}")),
        None => Err(missing(format_args!("{param}.{key}"))),
    };
    match kind.as_str() {
        "input_text" | "output_text" | "text" | "summary_text" | "reasoning_text" => Ok(Part::Text(text("text")?)),
        "refusal" => Ok(Part::Refusal(text("refusal")?)),
        "input_image" => match read(object, "image_url", param)? {
            Some(url) => Ok(Part::Image { url, detail: read(object, "detail", param)? }),
            None if object.raw("file_id").is_some() => Err(ItemError::Unsupported {
                param: format!("{param}.file_id"),
                reason: "file ids are not offered; send the image as a URL or a data URL in 'image_url'".to_owned(),
            }),
            None => Err(missing(format!("{param}.image_url"))),
        },
        "input_audio" => match read(object, "input_audio", param)? {
            Some(audio) => Ok(Part::Audio(audio)),
            None => Err(missing(format!("{param}.input_audio"))),
        },
        "input_file" => file(object, param),
        other => Err(ItemError::Unsupported {
            param: format!("{param}.type"),
            reason: format!("content parts of type '{}' are not offered", shortened(other)),
        }),
    }
}

fn file(object: &Members<'_>, param: &dyn Display) -> Result<Part, ItemError> {
    if let Some(file_data) = read(object, "file_data", param)? {
        let file = InputFile { filename: read(object, "filename", param)?, file_data };
        return Ok(Part::File { file, detail: read(object, "detail", param)? });
    }
    for key in ["file_id", "file_url"] {
        if object.raw(key).is_some() {
            let reason = "files are offered with inline data only; send it in 'file_data'".to_owned();
            return Err(ItemError::Unsupported { param: format!("{param}.{key}"), reason });
        }
    }
    Err(missing(format!("{param}.file_data")))
}

/// A client's word, short enough for an error message.
fn shortened(word: &str) -> String {
    word.chars().take(64).collect()
}

impl Part {
    /// The text of a text or refusal part.
    #[must_use]
    pub fn into_text(self) -> Option<JsonText> {
        match self {
            Self::Text(text) | Self::Refusal(text) => Some(text),
            Self::Image { .. } | Self::Audio(_) | Self::File { .. } => None,
        }
    }
}

/// A string `input` as the one user message that it stands for: its object, whose content is the item's, and the item.
///
/// # Errors
/// Never in practice: a name always serialises.
pub fn message_from_text(text: JsonText) -> Result<(RawObject, Item), serde_json::Error> {
    let mut object = RawObject::default();
    object.push("role", json::raw_text("user")?);
    object.push("content", RawValue::NULL.to_owned());
    Ok((object, Item::Message { role: Role::User, content: vec![Part::Text(text)] }))
}

/// The id that an item keeps, if it has one of its own, or the one that it gets at this place of the turn.
#[must_use]
pub fn id_for(own: Option<&str>, item: &Item, response: &ResponseId, ordinal: usize) -> String {
    if let Some(id) = own.filter(|id| !id.is_empty()) {
        return id.to_owned();
    }
    let prefix = match item {
        Item::Message { .. } => ItemPrefix::Message,
        Item::Reasoning { .. } => ItemPrefix::Reasoning,
        Item::Call(call) => Side::Call(call.kind).prefix(),
        Item::CallOutput { kind, .. } => Side::Output(*kind).prefix(),
        Item::AdditionalTools | Item::AgentMessage { .. } | Item::Reference { .. } | Item::Unknown { .. } => {
            ItemPrefix::Other
        }
    };
    response.item(prefix, ordinal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Item, ItemError> {
        parse(&serde_json::from_str(text).unwrap(), &"input[0]")
    }

    #[test]
    fn a_message_reads_the_same_with_and_without_type_and_as_string_or_parts() {
        let wanted = Item::Message { role: Role::User, content: vec![Part::Text(JsonText::of("hi"))] };
        for text in [
            r#"{"role":"user","content":"hi"}"#,
            r#"{"type":"message","role":"user","content":"hi"}"#,
            r#"{"type":null,"role":"user","content":[{"type":"input_text","text":"hi"}]}"#,
            r#"{"type":"message","role":"user","content":[{"type":"text","text":"hi"}],"status":"completed"}"#,
        ] {
            assert_eq!(parsed(text).unwrap(), wanted, "{text}");
        }
    }

    #[test]
    fn a_reference_may_lack_its_type() {
        let wanted = Item::Reference { id: "msg_1".to_owned() };
        assert_eq!(parsed(r#"{"id":"msg_1"}"#).unwrap(), wanted);
        assert_eq!(parsed(r#"{"type":"item_reference","id":"msg_1"}"#).unwrap(), wanted);
    }

    #[test]
    fn a_tool_output_keeps_whatever_json_it_is() {
        let output =
            |json: &str| match parsed(&format!(r#"{{"type":"function_call_output","call_id":"c","output":{json}}}"#)) {
                Ok(Item::CallOutput { output, .. }) => output,
                other => panic!("{other:?}"),
            };
        for json in ["42", "true", "null", r#"{"a":[1.50]}"#, "[1,2]", "[]"] {
            assert_eq!(output(json), vec![Part::Text(JsonText::of(json))]);
        }
        let parts = output(r#"[{"type":"input_text","text":"a"},{"type":"input_image","image_url":"data:x"}]"#);
        assert_eq!(parts.len(), 2);
    }

    #[test]
    fn a_wrong_member_is_named_by_its_path() {
        for (text, param) in [
            (r#"{"role":"user"}"#, "input[0].content"),
            (r#"{"role":"king","content":""}"#, "input[0].role"),
            (r#"{"role":"user","content":[{"type":"input_text"}]}"#, "input[0].content[0].text"),
            (r#"{"role":"user","content":5}"#, "input[0].content"),
            (r#"{"role":"user","content":[{"type":"input_image","file_id":"f"}]}"#, "input[0].content[0].file_id"),
            (r#"{"type":"function_call","call_id":"c"}"#, "input[0].name"),
            (r#"{"type":"function_call_output","output":""}"#, "input[0].call_id"),
            (r#"{"type":5}"#, "input[0].type"),
            ("{}", "input[0].type"),
        ] {
            match parsed(text) {
                Err(
                    ItemError::Missing { param: found }
                    | ItemError::InvalidType(InvalidMember { param: found, .. })
                    | ItemError::Invalid { param: found, .. }
                    | ItemError::Unsupported { param: found, .. },
                ) => assert_eq!(found, param, "{text}"),
                Ok(item) => panic!("{text} was read as {item:?}"),
            }
        }
    }
}
