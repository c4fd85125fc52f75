//! Chunks that differ in their text alone, as nearly all of a stream do: of those only the text is read.

use std::borrow::Cow;

use serde::Deserialize;

use crate::openai::chat_answer::{ChatAnswer, Choice, Message};

/// The most bytes around a text that are kept: they lie in memory for as long as the stream lives.
const MAX_KEPT_BYTES: usize = 2048;

/// What stands around the text of a chunk that says nothing but this text.
///
/// A chunk with the same bytes around one JSON string says that string: what else it says has been read before. So
/// nothing is guessed, and a chunk that differs in anything else is parsed as a whole.
#[derive(Debug)]
pub(super) struct ChunkTemplate {
    member: Member,
    before: Vec<u8>,
    after: Vec<u8>,
}

/// Where the text stands.
#[derive(Debug, Clone, Copy)]
enum Member {
    Content,
    ReasoningContent,
    Reasoning,
}

impl ChunkTemplate {
    /// That of a chunk without an event name, which was read as `answer`; `None` when it says anything but a text.
    pub(super) fn of(answer: &ChatAnswer<'_>, data: &[u8]) -> Option<Self> {
        let ChatAnswer { choices, usage: None, error: None, .. } = answer else { return None };
        let [Choice { index: None | Some(0), delta: Some(delta), message: None, finish_reason, logprobs: None }] =
            choices.as_slice()
        else {
            return None;
        };
        let says = |text: &Option<Cow<'_, str>>| text.as_deref().is_some_and(|text| !text.is_empty());
        let Message { content, refusal, reasoning_content, reasoning, reasoning_details, tool_calls } = delta;
        if says(finish_reason) || says(refusal) || !reasoning_details.is_empty() || !tool_calls.is_empty() {
            return None;
        }
        let (member, text) = match (says(content), says(reasoning_content), says(reasoning)) {
            (true, false, false) => (Member::Content, content),
            (false, true, false) => (Member::ReasoningContent, reasoning_content),
            (false, false, true) => (Member::Reasoning, reasoning),
            _ => return None,
        };
        // With an escape in it, it is no part of the data; the next one will do.
        let Some(Cow::Borrowed(text)) = text else { return None };
        let begins = text.as_ptr().addr().checked_sub(data.as_ptr().addr())?;
        let (before, after) = (data.get(..begins)?.strip_suffix(b"\"")?, data.get(begins + text.len()..)?);
        let after = after.strip_prefix(b"\"")?;
        let is_kept = before.len() + after.len() <= MAX_KEPT_BYTES;
        is_kept.then(|| Self { member, before: before.to_vec(), after: after.to_vec() })
    }

    /// What a chunk without an event name says, if it is one of these.
    pub(super) fn read<'a>(&self, data: &'a [u8]) -> Option<Message<'a>> {
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
        let string = data.strip_prefix(self.before.as_slice())?.strip_suffix(self.after.as_slice())?;
        let Text(text) = serde_json::from_str(std::str::from_utf8(string).ok()?).ok()?;
        let text = Some(text);
        Some(match self.member {
            Member::Content => Message { content: text, ..Message::default() },
            Member::ReasoningContent => Message { reasoning_content: text, ..Message::default() },
            Member::Reasoning => Message { reasoning: text, ..Message::default() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(chunk: &str) -> Option<ChunkTemplate> {
        ChunkTemplate::of(&serde_json::from_str(chunk).unwrap(), chunk.as_bytes())
    }

    fn content(text: &str) -> String {
        format!(r#"{{"id":"a","choices":[{{"index":0,"delta":{{"content":{text},"role":"assistant"}},"x":null}}]}}"#)
    }

    #[test]
    fn a_chunk_that_differs_in_its_text_alone_says_that_text() {
        let template = template(&content(r#""a""#)).unwrap();
        for text in [r#""b""#, r#""""#, r#""a\n\"é\u00e9\ud83d\ude00""#] {
            let chunk = content(text);
            let parsed: ChatAnswer<'_> = serde_json::from_str(&chunk).unwrap();
            let wanted = parsed.choices[0].delta.as_ref().unwrap().content.clone();
            assert_eq!(template.read(chunk.as_bytes()).unwrap().content, wanted, "{text}");
        }
    }

    #[test]
    fn any_other_chunk_is_left_to_the_parser() {
        let template = template(&content(r#""a""#)).unwrap();
        let others = ["null", "[]", "5", r#""a","content":"b""#, r#""\ud800""#, "\"a\nb\"", r#""a\""#, r#""a"}"#, ""];
        for text in others {
            assert!(template.read(content(text).as_bytes()).is_none(), "{text}");
        }
        assert!(template.read(b"").is_none());
        let mut not_utf8 = content(r#""?""#).into_bytes();
        let at = not_utf8.iter().position(|byte| *byte == b'?').unwrap();
        not_utf8[at] = 0xFF;
        assert!(template.read(&not_utf8).is_none());
    }

    #[test]
    fn a_chunk_that_says_more_than_a_text_is_no_template() {
        for more in [
            r#"{"choices":[{"delta":{"content":""}}]}"#,
            r#"{"choices":[{"delta":{"content":"a\n"}}]}"#,
            r#"{"choices":[{"delta":{"content":[{"text":"a"}]}}]}"#,
            r#"{"choices":[{"delta":{"content":"a","reasoning":"b"}}]}"#,
            r#"{"choices":[{"delta":{"content":"a","refusal":"b"}}]}"#,
            r#"{"choices":[{"delta":{"content":"a","tool_calls":[{}]}}]}"#,
            r#"{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}"#,
            r#"{"choices":[{"delta":{"content":"a"},"logprobs":{"content":[]}}]}"#,
            r#"{"choices":[{"delta":{"content":"a"},"index":1}]}"#,
            r#"{"choices":[{"delta":{"content":"a"}},{"index":1}]}"#,
            r#"{"choices":[{"delta":{"content":"a"}}],"usage":{}}"#,
            r#"{"choices":[{"delta":{"content":"a"}}],"error":{}}"#,
            r#"{"choices":[{"message":{"content":"a"}}]}"#,
            r#"{"choices":[]}"#,
        ] {
            assert!(template(more).is_none(), "{more}");
        }
        let long = format!(r#"{{"x":"{}","choices":[{{"delta":{{"content":"a"}}}}]}}"#, "x".repeat(MAX_KEPT_BYTES));
        assert!(template(&long).is_none());
        for member in ["content", "reasoning_content", "reasoning"] {
            assert!(template(&format!(r#"{{"choices":[{{"delta":{{"{member}":"a"}}}}]}}"#)).is_some(), "{member}");
        }
    }
}
