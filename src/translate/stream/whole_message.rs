//! Messages that say all at once: unstreamed answers, and what some proxies end a stream with.

use std::borrow::Cow;

use super::{Held, MAX_CALLS, Open, ResponseStream, logprobs};
use crate::openai::chat_answer::{FunctionDelta, Message, TokenLogprob, ToolCallDelta};
use crate::openai::responses::{ContentPart, OutputItem};
use crate::translate::think::ThinkSplitter;

impl ResponseStream {
    /// Takes the whole message with which a proxy ends a stream: of what was not streamed all, of what was in part the rest.
    /// What it says otherwise than the stream did counts for nothing.
    pub(super) fn closing_message(&mut self, message: &Message<'_>, mut logprobs: Vec<TokenLogprob>) {
        // Nothing can be told of text that waits to be told apart from a tag, but that it came.
        let is_split = self.think.as_ref().is_some_and(ThinkSplitter::has_begun);
        let mut rest = Message::default();
        if let Some(content) = message.content.as_deref().filter(|_| !is_split) {
            rest.content = rest_of(content, self.came(Kind::Text));
        }
        if is_split || self.came(Kind::Text).next().is_some() {
            logprobs.clear();
        }
        if let Some(reasoning) = message.reasoning_text() {
            rest.reasoning_content = rest_of(&reasoning, self.came(Kind::Reasoning));
        }
        if let Some(refusal) = message.refusal.as_deref() {
            rest.refusal = rest_of(refusal, self.came(Kind::Refusal));
        }
        rest.tool_calls = self.rest_of_calls(&message.tool_calls);
        let logprobs = logprobs::of_text(rest.content.as_deref().unwrap_or_default(), logprobs);
        self.message(&rest, logprobs);
    }

    /// Takes the message of an unstreamed answer. Each of its calls is one of its own, whatever index it carries.
    pub(super) fn whole_message(&mut self, mut message: Message<'_>, logprobs: Vec<TokenLogprob>) {
        for (index, call) in message.tool_calls.iter_mut().enumerate() {
            call.index = u64::try_from(index).ok();
        }
        let logprobs = logprobs::of_text(message.content.as_deref().unwrap_or_default(), logprobs);
        self.message(&message, logprobs);
    }

    /// What has come of one kind, piece by piece, in whatever part of the machine it is.
    fn came(&self, kind: Kind) -> impl Iterator<Item = &str> {
        let closed = self.output.iter().flat_map(move |item| {
            let parts = match item {
                OutputItem::Message { content, .. } => content.as_slice(),
                OutputItem::Reasoning { summary, content, .. } => content.as_ref().unwrap_or(summary).as_slice(),
                _ => &[],
            };
            parts.iter().filter_map(move |part| kind.text_of(part))
        });
        let (reasoning, parts) = match &self.open {
            Open::Reasoning { text, .. } if kind == Kind::Reasoning => (Some(text.as_str()), &[][..]),
            Open::Message { parts, .. } => (None, parts.as_slice()),
            _ => (None, &[][..]),
        };
        let open = reasoning.into_iter().chain(parts.iter().filter_map(move |part| kind.text_of(part)));
        let held = self.held.iter().filter_map(move |held| match (held, kind) {
            (Held::Text { text, .. }, Kind::Text)
            | (Held::Reasoning(text), Kind::Reasoning)
            | (Held::Refusal(text), Kind::Refusal) => Some(text.as_str()),
            _ => None,
        });
        closed.chain(open).chain(held).filter(|text| !text.is_empty())
    }

    /// Of whole calls what was not streamed.
    fn rest_of_calls<'m>(&self, whole: &'m [ToolCallDelta<'_>]) -> Vec<ToolCallDelta<'m>> {
        let mut next_index = self.calls.next_index();
        let mut rest = Vec::new();
        // Those beyond fail the answer, whatever they say.
        for (place, call) in whole.iter().take(MAX_CALLS + 1).enumerate() {
            let (id, function) = (call.usable_id(), call.function.as_ref());
            let name = function.and_then(|function| function.name.as_deref());
            let arguments = function.and_then(|function| function.arguments.as_deref()).unwrap_or_default();
            let known = self.calls.same_as(place, id).and_then(|position| self.calls.get(position));
            let (index, id, name, arguments) = match known {
                Some(known) => {
                    let Some(arguments) = known.rest_of(arguments) else { continue };
                    // An id finds its call where all have the same index.
                    let index = if id.is_empty() { known.index() } else { None };
                    (index, id, name.filter(|_| !known.has_name()), arguments)
                }
                None => {
                    let index = next_index;
                    next_index = next_index.saturating_add(1);
                    (Some(index), id, name, arguments)
                }
            };
            let function = FunctionDelta { name: name.map(Cow::Borrowed), arguments: Some(Cow::Borrowed(arguments)) };
            let id = (!id.is_empty()).then_some(Cow::Borrowed(id));
            rest.push(ToolCallDelta { index, id, function: Some(function) });
        }
        rest
    }
}

/// A kind of text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Reasoning,
    Refusal,
}

impl Kind {
    fn text_of(self, part: &ContentPart) -> Option<&str> {
        match (part, self) {
            (ContentPart::OutputText { text, .. }, Self::Text)
            | (ContentPart::ReasoningText { text } | ContentPart::SummaryText { text }, Self::Reasoning)
            | (ContentPart::Refusal { refusal: text }, Self::Refusal) => Some(text),
            _ => None,
        }
    }
}

/// Of a whole text what comes behind the pieces that came; nothing if it does not begin with them.
fn rest_of<'a>(whole: &str, mut came: impl Iterator<Item = &'a str>) -> Option<Cow<'static, str>> {
    let rest = came.try_fold(whole, |rest, piece| rest.strip_prefix(piece))?;
    Some(Cow::Owned(rest.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::id::ResponseId;
    use crate::translate::{AnswerForm, CreateRequest, Past, Settings, request};

    fn stream() -> ResponseStream {
        let settings = Settings::default();
        let create = CreateRequest::parse(br#"{"model":"m","input":"hi","stream":true}"#, &settings.request).unwrap();
        let translated = request(create, Past::default(), &settings, None, ResponseId::from_bits(1), 0).unwrap();
        ResponseStream::new(translated.plan, AnswerForm::Events, &settings)
    }

    /// Each of them is looked for among those before it, so a frame of millions must not be gone through.
    #[test]
    fn calls_beyond_the_most_that_an_answer_may_have_are_not_gathered() {
        let calls: Vec<Value> = (0..4 * MAX_CALLS).map(|index| json!({"index": index})).collect();
        let streamed = json!({"choices": [{"delta": {"tool_calls": calls}}]});
        let closing = json!({"choices": [{"message": {"tool_calls": calls}, "finish_reason": "stop"}]});
        for frame in [streamed, closing.clone()] {
            let mut stream = stream();
            stream.push(format!("data: {frame}\n\n").as_bytes());
            assert!(stream.has_failed());
            assert_eq!(stream.calls.len(), MAX_CALLS + 1);
        }
        let mut unstreamed = stream();
        unstreamed.push_completion(closing.to_string().as_bytes()).unwrap();
        assert!(unstreamed.has_failed());
        assert_eq!(unstreamed.calls.len(), MAX_CALLS + 1);
    }
}
