//! Messages that say all at once: unstreamed answers, and what some proxies end a stream with.

use super::{Held, Open, ResponseStream, logprobs};
use crate::openai::chat_answer::{Message, TokenLogprob};
use crate::openai::responses::{ContentPart, OutputItem};
use crate::translate::think::ThinkSplitter;

impl ResponseStream {
    /// Takes the whole message with which a proxy ends a stream: of what was not streamed all, and nothing of what was,
    /// since the message repeats it.
    pub(super) fn closing_message(&mut self, mut message: Message<'_>, mut logprobs: Vec<TokenLogprob>) {
        let came = Came::of(self);
        if came.text {
            message.content = None;
            logprobs.clear();
        }
        if came.reasoning {
            (message.reasoning_content, message.reasoning, message.reasoning_details) = (None, None, Vec::new());
        }
        if came.refusal {
            message.refusal = None;
        }
        if self.calls.len() > 0 {
            message.tool_calls.clear();
        }
        self.whole_message(message, logprobs);
    }

    /// Takes a whole message. Each of its calls is one of its own, whatever index it carries.
    pub(super) fn whole_message(&mut self, mut message: Message<'_>, logprobs: Vec<TokenLogprob>) {
        for (index, call) in message.tool_calls.iter_mut().enumerate() {
            call.index = u64::try_from(index).ok();
        }
        let logprobs = logprobs::of_text(message.content.as_deref().unwrap_or_default(), logprobs);
        self.message(&message, logprobs);
    }
}

/// Which kinds of text have come.
#[derive(Default)]
struct Came {
    text: bool,
    reasoning: bool,
    refusal: bool,
}

impl Came {
    fn of(stream: &ResponseStream) -> Self {
        // What might be the beginning of a tag has come, too.
        let mut came = Self { text: stream.think.as_ref().is_some_and(ThinkSplitter::has_begun), ..Self::default() };
        let closed = stream.output.iter().filter_map(|item| match item {
            OutputItem::Message { content, .. } => Some(content),
            _ => None,
        });
        let open = match &stream.open {
            Open::Message { parts, .. } => Some(parts),
            _ => None,
        };
        for part in closed.chain(open).flatten() {
            match part {
                ContentPart::OutputText { .. } => came.text = true,
                ContentPart::Refusal { .. } => came.refusal = true,
                ContentPart::ReasoningText { .. } | ContentPart::SummaryText { .. } => {}
            }
        }
        for held in &stream.held {
            match held {
                Held::Reasoning(_) => came.reasoning = true,
                Held::Text { .. } => came.text = true,
                Held::Refusal(_) => came.refusal = true,
                Held::Call { .. } => {}
            }
        }
        came.reasoning |= matches!(stream.open, Open::Reasoning { .. })
            || stream.output.iter().any(|item| matches!(item, OutputItem::Reasoning { .. }));
        came
    }
}
