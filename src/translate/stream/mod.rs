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
//!
//! Here is the order: what may enter, what waits, how it all ends. `reading` takes the upstream's words apart
//! (`chunk_template` those that repeat, `whole_message` those that say all at once), `items` knows the items and their events.

mod chunk_template;
mod items;
mod logprobs;
mod reading;
mod whole_message;

use std::collections::VecDeque;
use std::sync::OnceLock;

use bytes::Bytes;

use self::chunk_template::ChunkTemplate;
use super::calls::{Call, Calls};
use super::emitter::Emitter;
use super::ending::{End, FinishReason, Finished, Outcome, upstream_failure};
use super::error::BadAnswer;
use super::request::{Plan, ResponseState};
use super::settings::Settings;
use super::think::ThinkSplitter;
use super::upstream_error::UpstreamError;
use crate::json;
use crate::openai::chat_answer::{ChatAnswer, TokenLogprob};
use crate::openai::event::Event;
use crate::openai::responses::{ContentPart, OutputItem, ResponseError, Status, Usage};
use crate::sse::Decoder;

/// What an output item costs in memory beside its content, its JSON included; a content part costs as much.
const ITEM_OVERHEAD_BYTES: usize = 512;

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
    plan: Box<Plan>,
    decoder: Decoder,
    /// Of the last chunk that said nothing but a text.
    chunk_template: Option<ChunkTemplate>,
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
    messages: Messages,
    /// Chunks of the upstream's stream.
    chunks: usize,
    answer_bytes: usize,
    bounds: Bounds,
}

/// What bounds an answer, see [`Settings`].
#[derive(Debug, Clone, Copy)]
struct Bounds {
    max_answer_bytes: usize,
    max_stream_events: usize,
    max_argument_bytes: usize,
}

/// What the messages in a stream are, which should have deltas only.
#[derive(Debug, Clone, Copy)]
enum Messages {
    /// There are none.
    None,
    /// Pieces, in place of deltas.
    Pieces,
    /// One that says all at the end.
    Closing,
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
    pub fn new(plan: Box<Plan>, form: AnswerForm, settings: &Settings) -> Self {
        let mut plan = plan;
        let mut stream = Self {
            think: plan.think.take(),
            plan,
            decoder: Decoder::new(settings.max_sse_frame_bytes),
            chunk_template: None,
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
            messages: Messages::None,
            chunks: 0,
            answer_bytes: 0,
            bounds: Bounds {
                max_answer_bytes: settings.max_answer_bytes,
                max_stream_events: settings.max_stream_events,
                max_argument_bytes: settings.max_argument_bytes,
            },
        };
        if form == AnswerForm::Events
            && let Ok(response) = stream.plan.response(in_progress())
            && let Ok(response) = response.sent()
        {
            stream.emitter.emit(|sequence_number| Event::Created { sequence_number, response });
            stream.emitter.emit(|sequence_number| Event::InProgress { sequence_number, response });
        }
        stream
    }

    /// The plan that this answer follows.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Takes the events that are ready.
    pub fn take(&mut self) -> Bytes {
        self.emitter.take()
    }

    /// How many bytes of events are ready.
    #[must_use]
    pub fn ready_bytes(&self) -> usize {
        self.emitter.ready_bytes()
    }

    /// Takes bytes of the upstream's event stream and returns the events that follow from them, in whole frames.
    pub fn push(&mut self, bytes: &[u8]) -> Bytes {
        self.feed(bytes);
        self.take()
    }

    /// Takes bytes of the upstream's event stream. The events that follow from them stay until they are [taken](Self::take);
    /// says how many bytes of events do.
    pub fn feed(&mut self, bytes: &[u8]) -> usize {
        // The decoder lends its frames to `chunk`, so it cannot stay inside `self` meanwhile. An empty one costs nothing.
        let mut decoder = std::mem::replace(&mut self.decoder, Decoder::new(0));
        self.emitter.expect(bytes.len());
        if decoder.push(bytes, |event, data| self.chunk(event, data)).is_err() {
            self.fail(upstream_failure("The upstream sent an event that is too large."));
        }
        self.decoder = decoder;
        self.emitter.expect(0);
        self.ready_bytes()
    }

    /// Takes the body of an unstreamed answer.
    ///
    /// # Errors
    /// [`BadAnswer`] when there is no usable message in it. An error in its place makes the response a failed one.
    pub fn push_completion(&mut self, body: &[u8]) -> Result<(), BadAnswer> {
        let answer: ChatAnswer<'_> = json::from_slice(body).map_err(|error| BadAnswer(place_of(&error)))?;
        if let Some(error) = UpstreamError::reported(&answer, b"", body) {
            // An error under a status of success; what it says counts, as in a stream.
            self.fail_as_reported(&error);
            return Ok(());
        }
        self.usage = answer.usage.map(Usage::from);
        let choice = answer.choices.into_iter().find(|choice| choice.index.unwrap_or(0) == 0);
        let choice = choice.ok_or_else(|| BadAnswer("no choices".to_owned()))?;
        let message = choice.message.ok_or_else(|| BadAnswer("no message".to_owned()))?;
        if choice.finish_reason.is_none() && message.is_empty() {
            // How Ollama ends an answer that its runner failed to give.
            return Err(BadAnswer("neither content nor a finish reason".to_owned()));
        }
        let logprobs = choice.logprobs.map(|logprobs| logprobs.content).unwrap_or_default();
        self.whole_message(message, logprobs);
        // A whole answer without a reason is whole all the same.
        let reason = choice.finish_reason.as_deref().map_or(FinishReason::Natural, FinishReason::read);
        self.finish_reason = Some(reason);
        Ok(())
    }

    /// Repeats in_progress, for clients that give up on a silent stream.
    pub fn heartbeat(&mut self) -> Bytes {
        if let Ok(response) = self.plan.response(in_progress())
            && let Ok(response) = response.sent()
        {
            self.emitter.emit(|sequence_number| Event::InProgress { sequence_number, response });
        }
        self.emitter.take()
    }

    /// How many events there have been.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.emitter.events()
    }

    /// Whether anything of the answer has come: text, reasoning, a refusal or a call.
    #[must_use]
    pub fn has_content(&self) -> bool {
        !matches!(self.open, Open::Nothing) || !self.output.is_empty() || !self.held.is_empty()
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

    /// About how many bytes of memory the answer holds so far.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        self.answer_bytes
    }

    /// Ends the answer as failed. The first failure counts.
    pub fn fail(&mut self, error: ResponseError) {
        self.failure.get_or_insert(error);
    }

    /// Counts what must be kept of the answer; false once it is too much.
    fn fits(&mut self, bytes: usize) -> bool {
        self.answer_bytes = self.answer_bytes.saturating_add(bytes);
        let fits = self.answer_bytes <= self.bounds.max_answer_bytes;
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
            (before, content) => {
                let waits = before.is_some();
                self.held.push_back(content);
                // What alternates is not joined, and costs memory beside its bytes while it waits.
                if waits && !self.fits(size_of::<Held>()) {
                    return;
                }
            }
        }
        self.advance();
    }

    /// Holds text; text that can enter at once, as most of a stream can, is not copied for it.
    fn hold_text(&mut self, bytes: usize, text: &str, logprobs: Vec<TokenLogprob>) {
        let enters = self.held.is_empty() && matches!(self.open, Open::Nothing | Open::Message { .. });
        if !enters {
            self.hold(bytes, Held::Text { text: text.to_owned(), logprobs });
        } else if self.fits(bytes) {
            self.text(text, logprobs);
        }
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

    /// Ends the answer: every item is closed, the outcome is known. `now` is in seconds since the epoch.
    ///
    /// The terminal event is not out yet: [`Finished`] waits for the store.
    #[must_use]
    pub fn finish(mut self, end: End, now: u64) -> Finished {
        let untaken = self.ready_bytes();
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
            untaken,
            output: self.output,
            usage_missing: self.usage.is_none(),
            usage: self.usage.unwrap_or_default(),
            outcome,
            completed_at,
            response: OnceLock::new(),
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
