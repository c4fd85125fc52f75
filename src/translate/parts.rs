//! Content parts into those of chat, as the upstream's dialect allows, and tool outputs into text and what is not text.

use std::fmt::Display;

use super::error::RequestError;
use super::lossy::Lossy;
use super::settings::{InputFiles, ToolOutputMedia};
use super::upstream_dialect::UpstreamDialect;
use crate::openai::chat::{ChatContent, ChatPart, ImageUrl};
use crate::openai::item::Part;
use crate::openai::json_text::JsonText;

/// Stands in a tool message whose output has no text: templates choke on an empty one.
const IN_THE_NEXT_MESSAGE: &str = "The output is in the user message that follows.";
/// The same where that is dropped.
const NOT_SHOWN: &str = "The output cannot be shown here.";

/// The output of a call.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ToolOutput {
    /// Of the tool message.
    pub(super) content: ChatContent,
    /// What goes into a user message behind it.
    pub(super) media: Vec<ChatPart>,
}

impl ToolOutput {
    pub(super) fn of_text(text: &str) -> Self {
        Self { content: ChatContent::Text(JsonText::of(text)), media: Vec::new() }
    }
}

/// Text-only content as a plain string, its parts on lines of their own; mixed content as parts. `param` is the path of
/// the content.
pub(super) fn chat_content(
    parts: Vec<Part>,
    param: &dyn Display,
    dialect: &UpstreamDialect,
    lossy: &mut Lossy,
) -> Result<ChatContent, RequestError> {
    if parts.iter().all(is_text) {
        let texts = parts.into_iter().filter_map(Part::into_text).collect();
        return Ok(ChatContent::Text(JsonText::join(texts, "\n")));
    }
    let mut all = Vec::with_capacity(parts.len());
    for (index, part) in parts.into_iter().enumerate() {
        all.extend(chat_part(part, &format_args!("{param}[{index}]"), dialect, lossy)?);
    }
    Ok(ChatContent::Parts(all))
}

/// The output of a call, its images, files and audio where the backend takes them.
pub(super) fn tool_output(
    parts: Vec<Part>,
    param: &dyn Display,
    dialect: &UpstreamDialect,
    lossy: &mut Lossy,
) -> Result<ToolOutput, RequestError> {
    if dialect.tool_output_media == ToolOutputMedia::Parts || parts.iter().all(is_text) {
        return Ok(ToolOutput { content: chat_content(parts, param, dialect, lossy)?, media: Vec::new() });
    }
    let (mut texts, mut media) = (Vec::new(), Vec::new());
    for (index, part) in parts.into_iter().enumerate() {
        let at = format_args!("{param}[{index}]");
        match (part, dialect.tool_output_media) {
            (Part::Text(text) | Part::Refusal(text), _) => texts.push(text),
            (part, ToolOutputMedia::Drop) => lossy.skip("tool_output", kind(&part)),
            (part, ToolOutputMedia::Refuse) => {
                let reason = format!("tool outputs that hold {} are not offered", plural(&part));
                return Err(RequestError::Unsupported { param: at.to_string(), reason });
            }
            (part, ToolOutputMedia::UserMessage | ToolOutputMedia::Parts) => {
                media.extend(chat_part(part, &at, dialect, lossy)?);
            }
        }
    }
    let mut text = JsonText::join(texts, "\n");
    if text.is_empty() {
        text = JsonText::of(if media.is_empty() { NOT_SHOWN } else { IN_THE_NEXT_MESSAGE });
    }
    Ok(ToolOutput { content: ChatContent::Text(text), media })
}

fn is_text(part: &Part) -> bool {
    matches!(part, Part::Text(_) | Part::Refusal(_))
}

/// The part as chat has it; `None` for empty text, on which templates choke beside an image.
fn chat_part(
    part: Part,
    param: &dyn Display,
    dialect: &UpstreamDialect,
    lossy: &mut Lossy,
) -> Result<Option<ChatPart>, RequestError> {
    Ok(match part {
        Part::Text(text) | Part::Refusal(text) => (!text.is_empty()).then_some(ChatPart::Text { text }),
        Part::Image { url, detail } => {
            let detail = detail.map(|detail| match detail.as_str() {
                // Chat knows auto, low and high.
                "original" => {
                    lossy.skip("image_detail", "original");
                    "high".to_owned()
                }
                _ => detail,
            });
            Some(ChatPart::ImageUrl { image_url: ImageUrl { url, detail } })
        }
        Part::Audio(input_audio) => Some(ChatPart::InputAudio { input_audio }),
        Part::File { file, detail } if dialect.files == InputFiles::Send => {
            // Chat knows none; auto is no wish.
            if let Some(detail) = detail.filter(|detail| detail != "auto") {
                lossy.skip("file_detail", &detail);
            }
            Some(ChatPart::File { file })
        }
        Part::File { .. } => {
            let reason = "files are not offered for this model; send their text".to_owned();
            return Err(RequestError::Unsupported { param: param.to_string(), reason });
        }
    })
}

fn kind(part: &Part) -> &'static str {
    match part {
        Part::Text(_) | Part::Refusal(_) => "text",
        Part::Image { .. } => "image",
        Part::Audio(_) => "audio",
        Part::File { .. } => "file",
    }
}

fn plural(part: &Part) -> &'static str {
    match part {
        Part::Text(_) | Part::Refusal(_) => "text",
        Part::Image { .. } => "images",
        Part::Audio(_) => "audio",
        Part::File { .. } => "files",
    }
}
