//! The stream machine: a chat answer, whole or in chunks cut anywhere, into a response and its events.
//!
//! ```text
//!            reasoning          text, refusal           call with a name
//! Nothing ──────────────► Reasoning ─────────► Message ─────────► Call
//!    ▲                        │                   │                 │
//!    └── close: the item's ───┴── done events ────┴─────────────────┘
//! ```
//! One item is open at a time. Anything that does not continue the open item waits in `held`, and enters when the open
//! item can end: reasoning and messages end at once, a call when its arguments are one whole JSON object, because
//! backends interleave the deltas of parallel calls and clients garble interleaved items (CONTRACT §6).
//!
//! The unstreamed answer goes through the same machine with a silent emitter, so both are the same response.

use std::collections::VecDeque;

use bytes::Bytes;

use super::calls::{Added, Call, Calls};
use super::emitter::Emitter;
use super::ending::{End, FinishReason, Finished, Outcome, upstream_failure};
use super::error::BadAnswer;
use super::output::{
    PartEdge, call_item, emit_call_done, emit_call_text, emit_part_done, emit_reasoning_part, message_item,
    reasoning_item,
};
use super::request::{Plan, ResponseState};
use super::sealing;
use super::settings::Settings;
use super::think::{Pieces, ThinkSplitter};
use super::upstream_error::UpstreamError;
use crate::id::ItemPrefix;
use crate::openai::chat::{ChatAnswer, Message, TokenLogprob, ToolCallDelta};
use crate::openai::event::Event;
use crate::openai::responses::{ContentPart, OutputItem, ResponseError, Status, Usage};
use crate::openai::tool_call::Side;
use crate::sse::Decoder;

/// The most calls of one answer. Finding the call of a delta is a walk over all of them, and no agent makes so many.
const MAX_CALLS: usize = 1024;

/// What the client is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerForm {
    /// Server-sent events; created and in_progress are ready at once.
    Events,
    /// One JSON body; no event is encoded.
    Json,
}

/// The machine. See the module's diagram.
#[derive(Debug)]
pub struct ResponseStream {
    plan: Plan,
    decoder: Decoder,
    emitter: Emitter,
    /// Closed items. The open one, if any, has the next index.
    output: Vec<OutputItem>,
    open: Open,
    held: VecDeque<Held>,
    calls: Calls,
    /// Of tokens whose text has not come yet.
    early_logprobs: Vec<TokenLogprob>,
    /// Until the answer's text has come so far that all that follows is text.
    think: Option<ThinkSplitter>,
    usage: Option<Usage>,
    finish_reason: Option<FinishReason>,
    failure: Option<ResponseError>,
    /// The upstream said `[DONE]`.
    done: bool,
    answer_bytes: usize,
    max_answer_bytes: usize,
}

#[derive(Debug)]
enum Open {
    Nothing,
    Reasoning {
        id: String,
        text: String,
    },
    /// The last part is open, the others are closed.
    Message {
        id: String,
        parts: Vec<ContentPart>,
    },
    Call {
        id: String,
        position: usize,
    },
}

/// Content that waits for the open item to end.
#[derive(Debug)]
enum Held {
    Reasoning(String),
    Text { text: String, logprobs: Vec<TokenLogprob> },
    Refusal(String),
    Call { position: usize },
}

impl ResponseStream {
    /// A machine for one answer. For [`AnswerForm::Events`], created and in_progress wait in [`Self::take`].
    #[must_use]
    pub fn new(plan: Plan, form: AnswerForm, settings: &Settings) -> Self {
        let mut plan = plan;
        let mut stream = Self {
            think: plan.think.take(),
            plan,
            decoder: Decoder::new(settings.max_sse_frame_bytes),
            emitter: Emitter::new(form == AnswerForm::Json, settings.api),
            output: Vec::new(),
            open: Open::Nothing,
            held: VecDeque::new(),
            calls: Calls::default(),
            early_logprobs: Vec::new(),
            usage: None,
            finish_reason: None,
            failure: None,
            done: false,
            answer_bytes: 0,
            max_answer_bytes: settings.max_answer_bytes,
        };
        let response = stream.plan.response(in_progress());
        stream.emitter.emit(|sequence_number| Event::Created { sequence_number, response: &response });
        stream.emitter.emit(|sequence_number| Event::InProgress { sequence_number, response: &response });
        stream
    }

    /// The plan that this answer follows.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The events that are ready.
    pub fn take(&mut self) -> Bytes {
        self.emitter.take()
    }

    /// Takes bytes of the upstream's event stream and returns the events that follow from them, in whole frames.
    pub fn push(&mut self, bytes: &[u8]) -> Bytes {
        // The decoder lends its frames to `chunk`, so it cannot stay inside `self` meanwhile. An empty one costs nothing.
        let mut decoder = std::mem::replace(&mut self.decoder, Decoder::new(0));
        if decoder.push(bytes, |event, data| self.chunk(event, data)).is_err() {
            self.fail(upstream_failure("The upstream sent an event that is too large."));
        }
        self.decoder = decoder;
        self.emitter.take()
    }

    /// Takes the body of an unstreamed answer.
    ///
    /// # Errors
    /// [`BadAnswer`] when there is no usable message in it. An error in its place makes the response a failed one.
    pub fn push_completion(&mut self, body: &[u8]) -> Result<(), BadAnswer> {
        let answer: ChatAnswer<'_> = serde_json::from_slice(body).map_err(|error| BadAnswer(place_of(&error)))?;
        if let Some(error) = UpstreamError::reported(&answer, b"", body) {
            // An error under a status of success; what it says counts, as in a stream.
            self.fail_as_reported(&error);
            return Ok(());
        }
        self.usage = answer.usage.map(Usage::from);
        let choice = answer.choices.into_iter().find(|choice| choice.index.unwrap_or(0) == 0);
        let choice = choice.ok_or_else(|| BadAnswer("no choices".to_owned()))?;
        let mut message = choice.message.ok_or_else(|| BadAnswer("no message".to_owned()))?;
        if choice.finish_reason.is_none() && message.is_empty() {
            // How Ollama ends an answer that its runner failed to give.
            return Err(BadAnswer("neither content nor a finish reason".to_owned()));
        }
        for (index, call) in message.tool_calls.iter_mut().enumerate() {
            // Each entry of a whole message is a call of its own, whatever index it carries.
            call.index = u64::try_from(index).ok();
        }
        self.message(&message, choice.logprobs.map(|logprobs| logprobs.content).unwrap_or_default());
        // A whole answer without a reason is whole all the same.
        let reason = choice.finish_reason.as_deref().map_or(FinishReason::Natural, FinishReason::read);
        self.finish_reason = Some(reason);
        Ok(())
    }

    /// Repeats in_progress, for clients that give up on a silent stream.
    pub fn heartbeat(&mut self) -> Bytes {
        let response = self.plan.response(in_progress());
        self.emitter.emit(|sequence_number| Event::InProgress { sequence_number, response: &response });
        self.emitter.take()
    }

    /// Whether nothing more can come: the upstream said so, or has failed. Then [`Self::finish`] is due.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.done || self.failure.is_some()
    }

    /// Whether it is over because it failed: then the upstream has nothing to say that matters.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Ends the answer as failed. The first failure counts.
    pub fn fail(&mut self, error: ResponseError) {
        self.failure.get_or_insert(error);
    }

    /// Ends the answer with the upstream's own error.
    fn fail_as_reported(&mut self, error: &UpstreamError) {
        let mut error = error.response_error();
        if error.code == "context_length_exceeded" {
            self.plan.explain_overflow(&mut error.message);
        }
        self.fail(error);
    }

    fn chunk(&mut self, event: &[u8], data: &[u8]) {
        let data = data.trim_ascii();
        if self.is_over() || data.is_empty() {
            return;
        }
        if data == b"[DONE]" {
            self.done = true;
            return;
        }
        let answer: ChatAnswer<'_> = match serde_json::from_slice(data) {
            Ok(answer) => answer,
            Err(_) if event == b"error" => return self.fail_as_reported(&UpstreamError::parse(data)),
            Err(_) => return self.fail(upstream_failure("The upstream sent a chunk that cannot be read.")),
        };
        if let Some(error) = UpstreamError::reported(&answer, event, data) {
            return self.fail_as_reported(&error);
        }
        // Some backends count as they go: the last count is the whole.
        self.usage = answer.usage.map(Usage::from).or(self.usage);
        for choice in answer.choices.into_iter().filter(|choice| choice.index.unwrap_or(0) == 0) {
            let logprobs = choice.logprobs.map(|logprobs| logprobs.content).unwrap_or_default();
            // A chunk that carries a whole `message` is how some proxies end a stream that they did not stream.
            if let Some(delta) = choice.delta.or(choice.message) {
                self.message(&delta, logprobs);
            }
            if let Some(reason) = choice.finish_reason.as_deref().filter(|reason| !reason.is_empty()) {
                self.finish_reason = Some(FinishReason::read(reason));
            }
        }
    }

    fn message(&mut self, message: &Message<'_>, logprobs: Vec<TokenLogprob>) {
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
                self.hold(bytes, Held::Text { text: text.to_owned(), logprobs: all });
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
    fn flush_think(&mut self) {
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

    /// Counts what must be kept of the answer; false once it is too much.
    fn fits(&mut self, bytes: usize) -> bool {
        self.answer_bytes = self.answer_bytes.saturating_add(bytes);
        let fits = self.answer_bytes <= self.max_answer_bytes;
        if !fits {
            self.fail(upstream_failure("The upstream's answer is larger than this service accepts."));
        }
        fits
    }

    fn hold(&mut self, bytes: usize, content: Held) {
        if !self.fits(bytes) {
            return;
        }
        match (self.held.back_mut(), content) {
            (Some(Held::Reasoning(held)), Held::Reasoning(more)) => held.push_str(&more),
            (Some(Held::Refusal(held)), Held::Refusal(more)) => held.push_str(&more),
            (Some(Held::Text { text, logprobs }), Held::Text { text: more, logprobs: more_logprobs }) => {
                text.push_str(&more);
                logprobs.extend(more_logprobs);
            }
            (_, content) => self.held.push_back(content),
        }
        self.advance();
    }

    fn call(&mut self, delta: &ToolCallDelta<'_>) {
        let Added { position, arguments, kept_bytes } = self.calls.add(delta);
        if !self.fits(kept_bytes) {
            return;
        }
        if self.calls.len() > MAX_CALLS {
            return self.fail(upstream_failure("The upstream made more tool calls than this service accepts."));
        }
        let is_held = |held: &Held| matches!(held, Held::Call { position: held } if *held == position);
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
            _ if self.held.iter().any(is_held) => {}
            _ => self.held.push_back(Held::Call { position }),
        }
        self.advance();
    }

    /// Lets held content in as far as the open item allows.
    fn advance(&mut self) {
        loop {
            let enters = match (&self.open, self.held.front()) {
                (_, None) => return,
                (Open::Nothing, Some(Held::Call { position })) => {
                    // Clients need the name with the item's first event.
                    if !self.calls.get(*position).is_some_and(Call::has_name) {
                        return;
                    }
                    true
                }
                (Open::Nothing, Some(_)) | (Open::Reasoning { .. }, Some(Held::Reasoning(_))) => true,
                (Open::Message { .. }, Some(Held::Text { .. } | Held::Refusal(_))) => true,
                (Open::Reasoning { .. } | Open::Message { .. }, Some(_)) => false,
                (Open::Call { position, .. }, Some(_)) => {
                    if !self.calls.get(*position).is_none_or(|call| call.is_whole()) {
                        return;
                    }
                    false
                }
            };
            if enters {
                self.enter_front();
            } else {
                self.close(Status::Completed);
            }
        }
    }

    fn enter_front(&mut self) {
        match self.held.pop_front() {
            Some(Held::Reasoning(text)) => self.reasoning(&text),
            Some(Held::Text { text, logprobs }) => self.text(&text, logprobs),
            Some(Held::Refusal(text)) => self.refusal(&text),
            Some(Held::Call { position }) => self.open_call(position),
            None => {}
        }
    }

    fn next_item_id(&self, prefix: ItemPrefix) -> String {
        self.plan.id.item(prefix, self.plan.input.len() + self.output.len())
    }

    fn reasoning(&mut self, delta: &str) {
        let output_index = self.output.len();
        let summary = self.plan.summary;
        if !matches!(self.open, Open::Reasoning { .. }) {
            let id = self.next_item_id(ItemPrefix::Reasoning);
            let item = reasoning_item(id.clone(), Status::InProgress, None, summary, None);
            self.emitter.emit(|sequence_number| Event::ItemAdded { sequence_number, output_index, item: &item });
            emit_reasoning_part(&mut self.emitter, &id, output_index, summary, PartEdge::Added);
            self.open = Open::Reasoning { id, text: String::new() };
        }
        let Open::Reasoning { id, text } = &mut self.open else { return };
        text.push_str(delta);
        let item_id = id.as_str();
        self.emitter.emit(|sequence_number| {
            if summary {
                Event::SummaryDelta { sequence_number, item_id, output_index, summary_index: 0, delta }
            } else {
                Event::ReasoningDelta { sequence_number, item_id, output_index, content_index: 0, delta }
            }
        });
    }

    fn text(&mut self, delta: &str, logprobs: Vec<TokenLogprob>) {
        self.open_part(&ContentPart::OutputText { annotations: [], logprobs: Vec::new(), text: String::new() });
        let output_index = self.output.len();
        let Open::Message { id, parts } = &mut self.open else { return };
        let content_index = parts.len().saturating_sub(1);
        let Some(ContentPart::OutputText { text, logprobs: all, .. }) = parts.last_mut() else { return };
        text.push_str(delta);
        self.emitter.emit(|sequence_number| Event::TextDelta {
            sequence_number,
            item_id: id,
            output_index,
            content_index,
            delta,
            logprobs: &logprobs,
        });
        all.extend(logprobs);
    }

    fn refusal(&mut self, delta: &str) {
        self.open_part(&ContentPart::Refusal { refusal: String::new() });
        let output_index = self.output.len();
        let Open::Message { id, parts } = &mut self.open else { return };
        let content_index = parts.len().saturating_sub(1);
        let Some(ContentPart::Refusal { refusal }) = parts.last_mut() else { return };
        refusal.push_str(delta);
        self.emitter.emit(|sequence_number| Event::RefusalDelta {
            sequence_number,
            item_id: id,
            output_index,
            content_index,
            delta,
        });
    }

    /// Makes sure that a message is open and that its last part is of the kind of `empty`.
    fn open_part(&mut self, empty: &ContentPart) {
        let output_index = self.output.len();
        if !matches!(self.open, Open::Message { .. }) {
            let id = self.next_item_id(ItemPrefix::Message);
            let item = message_item(id.clone(), Status::InProgress, Vec::new());
            self.emitter.emit(|sequence_number| Event::ItemAdded { sequence_number, output_index, item: &item });
            self.open = Open::Message { id, parts: Vec::new() };
        }
        let Open::Message { id, parts } = &mut self.open else { return };
        if let Some(last) = parts.last() {
            if std::mem::discriminant(last) == std::mem::discriminant(empty) {
                return;
            }
            emit_part_done(&mut self.emitter, id, output_index, parts.len() - 1, last);
        }
        let content_index = parts.len();
        self.emitter.emit(|sequence_number| Event::PartAdded {
            sequence_number,
            item_id: id,
            output_index,
            content_index,
            part: empty,
        });
        parts.push(empty.clone());
    }

    fn open_call(&mut self, position: usize) {
        let output_index = self.output.len();
        let ordinal = self.plan.input.len() + output_index;
        self.calls.settle_id(position, &self.plan.id, ordinal);
        let Some(call) = self.calls.get_mut(position) else { return };
        call.open(&self.plan.tool_names);
        let Some(tool) = call.tool() else { return };
        let id = self.plan.id.item(Side::Call(tool.kind).prefix(), ordinal);
        let item = call_item(id.clone(), Status::InProgress, call.call_id.clone(), tool, String::new());
        self.emitter.emit(|sequence_number| Event::ItemAdded { sequence_number, output_index, item: &item });
        emit_call_text(&mut self.emitter, &id, output_index, call);
        self.open = Open::Call { id, position };
    }

    /// Ends the open item with its done events.
    fn close(&mut self, status: Status) {
        let output_index = self.output.len();
        let emitter = &mut self.emitter;
        let item = match std::mem::replace(&mut self.open, Open::Nothing) {
            Open::Nothing => return,
            Open::Reasoning { id, text } => {
                let summary = self.plan.summary;
                emit_reasoning_part(emitter, &id, output_index, summary, PartEdge::Done(&text));
                let encrypted_content = sealing::sealed(&text, self.plan.seal.as_deref());
                reasoning_item(id, status, Some(text), summary, encrypted_content)
            }
            Open::Message { id, parts } => {
                if let Some(last) = parts.last() {
                    emit_part_done(emitter, &id, output_index, parts.len() - 1, last);
                }
                message_item(id, status, parts)
            }
            Open::Call { id, position } => {
                let Some(call) = self.calls.get_mut(position) else { return };
                call.end(status != Status::Completed);
                emit_call_text(emitter, &id, output_index, call);
                let text = call.take_text();
                let Some(tool) = call.tool() else { return };
                emit_call_done(emitter, &id, output_index, tool, &text);
                call_item(id, status, call.call_id.clone(), tool, text)
            }
        };
        emitter.emit(|sequence_number| Event::ItemDone { sequence_number, output_index, item: &item });
        self.output.push(item);
    }

    /// Ends the answer: every item is closed, the outcome is known. `now` is in seconds since the epoch.
    ///
    /// The terminal event is not out yet: [`Finished`] waits for the store.
    #[must_use]
    pub fn finish(mut self, end: End, now: u64) -> Finished {
        if end == End::Complete {
            let mut decoder = std::mem::replace(&mut self.decoder, Decoder::new(0));
            decoder.finish(|event, data| self.chunk(event, data));
        }
        self.flush_think();
        let outcome = Outcome::of(self.failure.take(), end, self.finish_reason);
        let completed = outcome == Outcome::Completed;
        let outcome = if self.drop_nameless_calls() && completed {
            Outcome::Failed(upstream_failure("The upstream sent a tool call without a name."))
        } else {
            outcome
        };
        self.close_all(outcome == Outcome::Completed);
        let completed_at = (outcome == Outcome::Completed).then_some(now);
        Finished {
            plan: self.plan,
            emitter: self.emitter,
            output: self.output,
            usage_missing: self.usage.is_none(),
            usage: self.usage.unwrap_or_default(),
            outcome,
            completed_at,
        }
    }

    /// Drops held calls that never got a name, which no client could act on. Says whether there were any.
    fn drop_nameless_calls(&mut self) -> bool {
        let calls = &self.calls;
        let held = self.held.len();
        self.held.retain(|held| match held {
            Held::Call { position } => calls.get(*position).is_some_and(Call::has_name),
            _ => true,
        });
        held != self.held.len()
    }

    /// Closes the open item and all that is held. Cut answers end with what was cut marked incomplete.
    fn close_all(&mut self, completed: bool) {
        loop {
            let last = self.held.is_empty();
            let whole = match &self.open {
                Open::Nothing if last => return,
                Open::Nothing => {
                    self.enter_front();
                    // A message of several held parts stays one message.
                    self.advance_within_message();
                    continue;
                }
                Open::Call { position, .. } => self.calls.get(*position).is_some_and(|call| call.is_whole()),
                Open::Reasoning { .. } | Open::Message { .. } => !last,
            };
            self.close(if completed || whole { Status::Completed } else { Status::Incomplete });
        }
    }

    fn advance_within_message(&mut self) {
        while matches!(self.open, Open::Message { .. })
            && matches!(self.held.front(), Some(Held::Text { .. } | Held::Refusal(_)))
        {
            self.enter_front();
        }
    }
}

fn in_progress<'a>() -> ResponseState<'a> {
    ResponseState {
        status: Status::InProgress,
        completed_at: None,
        error: None,
        incomplete_details: None,
        output: &[],
        usage: None,
    }
}

/// Where a body is no chat completion, without what stands there: that is the model's.
fn place_of(error: &serde_json::Error) -> String {
    let (kind, line, column) = (error.classify(), error.line(), error.column());
    format!("not a chat completion: {kind:?} error at line {line} column {column}")
}
