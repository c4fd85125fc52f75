//! Messages that say all at once: unstreamed answers, and what some proxies end a stream with.

use super::{Held, Open, ResponseStream};
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
        let logprobs = match message.content.as_deref() {
            Some(text) if !logprobs.is_empty() => logprobs_of_text(text, logprobs),
            _ => logprobs,
        };
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

/// Of a whole answer's log probabilities those of its text: the tokens of reasoning come before it, and that which ended
/// the answer behind. All of them if the text is not what its tokens are.
fn logprobs_of_text(text: &str, mut logprobs: Vec<TokenLogprob>) -> Vec<TokenLogprob> {
    if text.is_empty() {
        return logprobs;
    }
    let (mut all, mut begins) = (Vec::new(), Vec::with_capacity(logprobs.len()));
    for logprob in &logprobs {
        begins.push(all.len());
        // A token that is a part of a character shows another one in its place; its bytes are true.
        all.extend_from_slice(if logprob.bytes.is_empty() { logprob.token.as_bytes() } else { &logprob.bytes });
    }
    // The text is whole tokens: it may occur within one as well, as "s" does in "</s>".
    let tokens = memchr::memmem::rfind_iter(&all, text).find_map(|at| {
        let first = begins.binary_search(&at).ok()?;
        let end = at + text.len();
        if end == all.len() {
            Some(first..begins.len())
        } else {
            begins.binary_search(&end).ok().map(|last| first..last)
        }
    });
    match tokens {
        Some(tokens) => {
            logprobs.truncate(tokens.end);
            logprobs.split_off(tokens.start)
        }
        None => logprobs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens_of_text<'a>(text: &str, tokens: &[&'a str]) -> Vec<&'a str> {
        let logprobs =
            tokens.iter().map(|token| TokenLogprob { token: (*token).to_owned(), ..TokenLogprob::default() });
        let kept = logprobs_of_text(text, logprobs.collect());
        kept.iter().map(|kept| *tokens.iter().find(|token| **token == kept.token).unwrap()).collect()
    }

    #[test]
    fn the_log_probabilities_of_a_whole_answer_are_those_of_its_text() {
        for (text, tokens, wanted) in [
            ("Hello", &["He", "llo"][..], &["He", "llo"][..]),
            ("Hello", &["He", "llo", "<eos>"], &["He", "llo"]),
            ("Hello", &["r1", "</think>", "He", "llo", "<eos>"], &["He", "llo"]),
            ("s", &["s", "</think>", "s", "</s>"], &["s"]),
            // White space that a parser took from the text; a stop sequence that ends within a token.
            ("Hello", &["think", "\n\nHello"], &["think", "\n\nHello"]),
            ("Hel", &["He", "llo"], &["He", "llo"]),
            ("", &["<eos>"], &["<eos>"]),
        ] {
            assert_eq!(tokens_of_text(text, tokens), wanted, "{text}");
        }
    }
}
