//! What an upstream says, chunk by chunk or in one message, taken apart into content that is held until it can enter.

use super::chunk_template::ChunkTemplate;
use super::{Held, MAX_CALLS, Messages, Open, ResponseStream};
use crate::json;
use crate::openai::chat_answer::{ChatAnswer, Message, TokenLogprob, ToolCallDelta};
use crate::openai::responses::Usage;
use crate::translate::calls::{Added, Call};
use crate::translate::ending::{FinishReason, upstream_failure};
use crate::translate::output::emit_call_text;
use crate::translate::think::{Pieces, ThinkSplitter};
use crate::translate::upstream_error::UpstreamError;

impl ResponseStream {
    /// Ends the answer with the upstream's own error.
    pub(super) fn fail_as_reported(&mut self, error: &UpstreamError) {
        let mut error = error.response_error();
        if error.code == "context_length_exceeded" {
            self.plan.explain_overflow(&mut error.message);
        }
        self.fail(error);
    }

    pub(super) fn chunk(&mut self, event: &[u8], data: &[u8]) {
        let data = data.trim_ascii();
        if self.is_over() || data.is_empty() {
            return;
        }
        if data == b"[DONE]" {
            self.done = true;
            return;
        }
        self.chunks += 1;
        if self.chunks > self.bounds.max_stream_events {
            return self.fail(upstream_failure("The upstream's stream has more events than this service accepts."));
        }
        let is_plain = event.is_empty();
        if is_plain && let Some(message) = self.chunk_template.as_ref().and_then(|template| template.read(data)) {
            return self.message(&message, Vec::new());
        }
        let answer: Result<ChatAnswer<'_>, _> = json::from_slice(data);
        let answer = match answer {
            Ok(answer) => answer,
            Err(_) if event == b"error" => return self.fail_as_reported(&UpstreamError::parse(data)),
            Err(_) => return self.fail(upstream_failure("The upstream sent a chunk that cannot be read.")),
        };
        if let Some(error) = UpstreamError::reported(&answer, event, data) {
            return self.fail_as_reported(&error);
        }
        if is_plain && let Some(template) = ChunkTemplate::of(&answer, data) {
            self.chunk_template = Some(template);
        }
        // Some backends count as they go: the last count is the whole.
        self.usage = answer.usage.map(Usage::from).or(self.usage);
        let is_whole = answer.object.as_deref() == Some("chat.completion");
        for choice in answer.choices.into_iter().filter(|choice| choice.index.unwrap_or(0) == 0) {
            if self.has_failed() {
                return;
            }
            let mut logprobs = choice.logprobs.map(|logprobs| logprobs.content).unwrap_or_default();
            let says_something = |delta: &Message<'_>| choice.message.is_none() || !delta.is_empty();
            if let Some(delta) = choice.delta.filter(says_something) {
                self.message(&delta, std::mem::take(&mut logprobs));
            }
            let reason = choice.finish_reason.as_deref().filter(|reason| !reason.is_empty());
            if let Some(message) = choice.message {
                let is_last = is_whole || reason.is_some() || self.finish_reason.is_some();
                // Some proxies end a stream with a whole message; one that comes before the end is a piece of it.
                match self.messages {
                    Messages::None if is_last => {
                        self.messages = Messages::Closing;
                        self.closing_message(&message, logprobs);
                    }
                    // It says all, so another one says nothing new.
                    Messages::Closing => {}
                    Messages::None | Messages::Pieces => {
                        self.messages = Messages::Pieces;
                        self.message(&message, logprobs);
                    }
                }
            }
            if let Some(reason) = reason {
                self.finish_reason = Some(FinishReason::read(reason));
            }
        }
    }

    pub(super) fn message(&mut self, message: &Message<'_>, logprobs: Vec<TokenLogprob>) {
        if let Some(text) = message.reasoning_text() {
            if let Some(think) = &mut self.think {
                think.reasoning_came();
            }
            self.hold(text.len(), Held::Reasoning(text.into_owned()));
        }
        match message.content.as_deref() {
            // Beside reasoning they are the reasoning's tokens, for which a response has no place.
            Some("") if message.reasoning_text().is_none() => self.keep_logprobs(logprobs),
            Some("") => {}
            Some(text) if self.think.is_some() => self.split(text, logprobs),
            Some(text) => {
                let mut all = std::mem::take(&mut self.early_logprobs);
                let bytes = text.len() + logprobs.iter().map(TokenLogprob::kept_bytes).sum::<usize>();
                all.extend(logprobs);
                self.hold_text(bytes, text, all);
            }
            None => {}
        }
        if message.refusal.as_deref().is_some_and(|text| !text.is_empty()) || !message.tool_calls.is_empty() {
            self.flush_think();
        }
        if let Some(text) = message.refusal.as_deref().filter(|text| !text.is_empty()) {
            self.hold(text.len(), Held::Refusal(text.to_owned()));
        }
        self.calls.begin_chunk();
        for delta in &message.tool_calls {
            // One that failed the answer is the last: finding the call of a delta is a walk over all of them.
            if self.has_failed() {
                return;
            }
            self.call(delta);
        }
    }

    /// Holds text whose reasoning, between tags, is told apart from it.
    fn split(&mut self, text: &str, logprobs: Vec<TokenLogprob>) {
        let Some(mut think) = self.think.take() else { return };
        if !self.fits(text.len() + logprobs.iter().map(TokenLogprob::kept_bytes).sum::<usize>()) {
            return;
        }
        self.early_logprobs.extend(logprobs);
        let pieces = think.push(text);
        self.hold_pieces(pieces, &think);
        self.think = (!think.is_past()).then_some(think);
    }

    /// Holds what might have become a tag, and will not.
    pub(super) fn flush_think(&mut self) {
        let Some(mut think) = self.think.take() else { return };
        let pieces = think.flush();
        self.hold_pieces(pieces, &think);
        self.think = (!think.is_past()).then_some(think);
    }

    fn hold_pieces(&mut self, Pieces { reasoning, text }: Pieces, think: &ThinkSplitter) {
        if !reasoning.is_empty() {
            self.hold(0, Held::Reasoning(reasoning));
        }
        if !text.is_empty() {
            let logprobs = think.logprobs_of(&text, std::mem::take(&mut self.early_logprobs));
            self.hold(0, Held::Text { text, logprobs });
        }
    }

    /// Keeps the log probabilities of tokens that have no text yet, because a character is not complete: they go with
    /// the text that comes next.
    fn keep_logprobs(&mut self, logprobs: Vec<TokenLogprob>) {
        if self.fits(logprobs.iter().map(TokenLogprob::kept_bytes).sum()) {
            self.early_logprobs.extend(logprobs);
        }
    }

    fn call(&mut self, delta: &ToolCallDelta<'_>) {
        let Added { position, begins, arguments, kept_bytes } = self.calls.add(delta);
        if !self.fits(kept_bytes) {
            return;
        }
        if self.calls.len() > MAX_CALLS {
            return self.fail(upstream_failure("The upstream made more tool calls than this service accepts."));
        }
        if self.calls.get(position).is_some_and(|call| call.argument_bytes() > self.bounds.max_argument_bytes) {
            return self.fail(upstream_failure("The upstream's tool call is larger than this service accepts."));
        }
        let opened = self.calls.get(position).is_some_and(Call::is_opened);
        match &self.open {
            Open::Call { id, position: open } if *open == position => {
                if let Some(call) = self.calls.get_mut(position) {
                    emit_call_text(&mut self.emitter, id, self.output.len(), call);
                }
            }
            _ if opened => {
                // The call was closed because its arguments were whole: only white space may follow.
                if !arguments.trim_ascii().is_empty() {
                    self.fail(upstream_failure("The upstream continued a tool call that was complete."));
                }
                return;
            }
            _ if begins => self.held.push_back(Held::Call { position }),
            // It waits among the held.
            _ => {}
        }
        self.advance();
    }
}
