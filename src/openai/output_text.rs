//! A response's `output_text`: the text of all `output_text` parts of its output, joined (CONTRACT §4).
//!
//! It says a second time what the output says, so it is not stored, and [`completed`] makes it again, to the byte, for
//! whoever asks for the response. What reads a history has no need of it.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::raw_walk;
use super::responses::{ContentPart, OutputItem, Response};
use crate::json;

/// How the member begins where it follows others.
const MEMBER: &str = ",\"output_text\":";

/// The `output_text` of output items. Borrowed when there is only one part, as is usual.
fn joined(items: &[OutputItem]) -> Cow<'_, str> {
    let contents = items.iter().filter_map(|item| match item {
        OutputItem::Message { content, .. } => Some(content),
        _ => None,
    });
    let mut texts = contents.flatten().filter_map(|part| match part {
        ContentPart::OutputText { text, .. } => Some(text.as_str()),
        _ => None,
    });
    let mut joined = Cow::Borrowed(texts.next().unwrap_or_default());
    for text in texts {
        joined += text;
    }
    joined
}

/// A response as JSON.
#[derive(Debug)]
pub struct ResponseJson {
    sent: String,
    /// The bytes before `output_text`, which is the last member.
    kept_bytes: usize,
}

impl ResponseJson {
    /// Writes a response, for which so many bytes are set aside beside its text.
    ///
    /// # Errors
    /// See [`json::to_string`].
    pub fn new(response: &Response<'_>, capacity: usize) -> Result<Self, serde_json::Error> {
        let text = joined(response.output);
        let mut sent = json::to_string(response, capacity + 2 * text.len())?;
        sent.pop();
        let kept_bytes = sent.len();
        sent.push_str(MEMBER);
        json::append(&mut sent, &*text)?;
        sent.push('}');
        Ok(Self { sent, kept_bytes })
    }

    /// As it is sent.
    ///
    /// # Errors
    /// Never in practice.
    pub fn sent(&self) -> Result<&RawValue, serde_json::Error> {
        json::borrowed(&self.sent)
    }

    /// The same, as text.
    #[must_use]
    pub fn into_sent(self) -> String {
        self.sent
    }

    /// As it is stored: without `output_text`.
    ///
    /// # Errors
    /// Never in practice.
    pub fn kept(&self) -> Result<Box<RawValue>, serde_json::Error> {
        let members = self.sent.get(..self.kept_bytes).unwrap_or_default();
        let mut kept = String::with_capacity(members.len() + 1);
        kept.push_str(members);
        kept.push('}');
        json::written(kept)
    }
}

/// A stored response as it was sent.
#[must_use]
pub fn completed(response: &RawValue) -> Cow<'_, str> {
    let whole = Cow::Borrowed(response.get());
    if raw_walk::member(response, "output_text").is_some() {
        return whole;
    }
    match (response.get().strip_suffix('}'), raw_walk::member(response, "output").and_then(raw_walk::items)) {
        (Some(members), Some(output)) => {
            let pieces = [members, MEMBER].into_iter().chain(literal(output)).chain(["}"]);
            Cow::Owned(pieces.collect())
        }
        _ => whole,
    }
}

/// The `output_text` of output items' JSON, as JSON in pieces.
pub fn literal<'a>(output: impl IntoIterator<Item = &'a RawValue>) -> impl Iterator<Item = &'a str> {
    ["\""].into_iter().chain(output.into_iter().flat_map(escaped_texts)).chain(["\""])
}

/// The texts of an output item as they are spelt in JSON.
fn escaped_texts(item: &RawValue) -> impl Iterator<Item = &str> {
    let is_message = is_of_type(item, "message");
    let content = is_message.then(|| raw_walk::member(item, "content").and_then(raw_walk::items)).flatten();
    let parts = content.unwrap_or_default().into_iter().filter(|part| is_of_type(part, "output_text"));
    parts.filter_map(|part| unquoted(raw_walk::member(part, "text")?.get()))
}

fn is_of_type(raw: &RawValue, name: &str) -> bool {
    raw_walk::member(raw, "type").and_then(|kind| unquoted(kind.get())) == Some(name)
}

fn unquoted(literal: &str) -> Option<&str> {
    literal.strip_prefix('"')?.strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::openai::responses::Status;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    fn message(texts: &[String]) -> OutputItem {
        let text =
            |text: &String| ContentPart::OutputText { annotations: [], logprobs: Vec::new(), text: text.clone() };
        let refusal = ContentPart::Refusal { refusal: "no".to_owned() };
        let content = texts.iter().map(text).chain([refusal]).collect();
        OutputItem::Message { id: "msg_1".to_owned(), status: Status::Completed, role: "assistant", content }
    }

    proptest! {
        #[test]
        fn what_is_not_stored_is_made_again_to_the_byte(texts in prop::collection::vec(any::<String>(), 0..4), at in 0..4_usize) {
            let (one, other) = texts.split_at(at.min(texts.len()));
            let items = [message(one), message(other)];
            let (output, text) = (json::to_string(&items[..], 0).unwrap(), json::raw_text(&joined(&items)).unwrap());
            let members = format!("{{\"a\":[],\"output\":{output},\"b\":{{\"output_text\":\"\"}}");
            let sent = format!("{members},\"output_text\":{text}}}");
            for response in [&format!("{members}}}"), &sent] {
                let response = raw(response);
                prop_assert_eq!(completed(&response), &*sent);
            }
        }
    }

    #[test]
    fn items_and_parts_of_other_kinds_say_nothing() {
        let output = concat!(
            r#"[{"type":"reasoning","content":[{"type":"output_text","text":"a"}]},"#,
            r#"{"type":"message","content":[{"type":"refusal","text":"b"},{"type":"output_text","text":"c"}]},"#,
            r#"{"type":"message","content":null},{"type":"message"},7]"#
        );
        let response = raw(&format!("{{\"output\":{output}}}"));
        assert_eq!(completed(&response), format!("{{\"output\":{output},\"output_text\":\"c\"}}"));
    }

    #[test]
    fn a_response_without_output_stays_as_it_is() {
        for response in [r#"{"a":1}"#, r#"{"output":{}}"#, r#"{"output_text":"theirs","output":[]}"#, "[]"] {
            assert_eq!(completed(&raw(response)), response);
        }
    }
}
