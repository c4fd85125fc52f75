//! How an answer ends: what the upstream said, what came of it, and the response once the store has had its word.

use std::sync::OnceLock;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::emitter::Emitter;
use super::request::{Plan, ResponseState};
use crate::openai::event::Event;
use crate::openai::output_text::ResponseJson;
use crate::openai::responses::{IncompleteDetails, IncompleteReason, OutputItem, ResponseError, Status, Usage};

/// How the upstream's answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its last byte came.
    Complete,
    /// The client or the upstream went away mid-way; which, cannot be told apart.
    Disconnected,
    /// The router is shutting down and the grace has run out.
    ShuttingDown,
    /// The answer took longer than an exchange may.
    TimedOut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FinishReason {
    Natural,
    Length,
    ContentFilter,
    Aborted,
}

impl FinishReason {
    /// The reasons that backends use. An unknown one ended the answer all the same; the items decide (TRAPS X10).
    pub(super) fn read(reason: &str) -> Self {
        match reason {
            "length" | "max_tokens" | "model_length" | "max_output_tokens" => Self::Length,
            "content_filter" => Self::ContentFilter,
            "abort" | "aborted" | "error" | "cancelled" => Self::Aborted,
            _ => Self::Natural,
        }
    }
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Wholly.
    Completed,
    /// Cut short by a bound or a filter.
    Incomplete(IncompleteReason),
    /// Cut short because the client or the upstream went away; nobody is left to tell.
    Disconnected,
    /// By an error.
    Failed(ResponseError),
}

impl Outcome {
    /// A failure counts before everything else, and a cut before what the upstream had said.
    pub(super) fn of(failure: Option<ResponseError>, end: End, finish_reason: Option<FinishReason>) -> Self {
        if let Some(error) = failure {
            return Self::Failed(error);
        }
        match (end, finish_reason) {
            (End::Disconnected, _) => Self::Disconnected,
            (End::ShuttingDown, _) => {
                Self::Failed(upstream_failure("The service is shutting down; send the request again."))
            }
            (End::TimedOut, _) => Self::Failed(upstream_failure("The answer took longer than this service allows.")),
            (End::Complete, Some(FinishReason::Natural)) => Self::Completed,
            (End::Complete, Some(FinishReason::Length)) => Self::Incomplete(IncompleteReason::MaxOutputTokens),
            (End::Complete, Some(FinishReason::ContentFilter)) => Self::Incomplete(IncompleteReason::ContentFilter),
            (End::Complete, Some(FinishReason::Aborted)) => {
                Self::Failed(upstream_failure("The upstream aborted the answer."))
            }
            (End::Complete, None) => {
                Self::Failed(upstream_failure("The upstream ended its stream before the answer was complete."))
            }
        }
    }

    /// The word for logs and metrics.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Incomplete(_) => "incomplete",
            Self::Disconnected => "client_gone",
            Self::Failed(_) => "failed",
        }
    }
}

/// An answer that has ended, its terminal event still to come: the store must acknowledge the record first.
#[derive(Debug)]
pub struct Finished {
    pub(super) plan: Box<Plan>,
    pub(super) emitter: Emitter,
    /// How many of the emitter's bytes were ready when the stream ended.
    pub(super) untaken: usize,
    pub(super) output: Vec<OutputItem>,
    pub(super) usage: Usage,
    pub(super) usage_missing: bool,
    pub(super) outcome: Outcome,
    pub(super) completed_at: Option<u64>,
    /// The response as JSON, once somebody has asked for it: the store and the terminal event both do.
    pub(super) response: OnceLock<ResponseJson>,
}

impl Finished {
    /// The plan that this answer followed.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How the answer ended.
    #[must_use]
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Whether the answer calls tools.
    #[must_use]
    pub fn has_calls(&self) -> bool {
        self.output.iter().any(|item| !matches!(item, OutputItem::Message { .. } | OutputItem::Reasoning { .. }))
    }

    /// How many events there will have been with the terminal one; 0 for an answer that is no stream.
    #[must_use]
    pub fn events(&self) -> u64 {
        match self.emitter.events() {
            0 => 0,
            until_now => until_now.saturating_add(1),
        }
    }

    /// Token counts; `None` when the upstream reported none (the response then says zero).
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        (!self.usage_missing).then_some(self.usage)
    }

    /// The response object as it is sent.
    ///
    /// # Errors
    /// Never in practice: the response holds nothing that JSON cannot express.
    pub fn take_response(&mut self) -> Result<String, serde_json::Error> {
        let response = match self.response.take() {
            Some(response) => response,
            None => self.plan.response(self.state())?,
        };
        Ok(response.into_sent())
    }

    /// Serialises the response now, and not when it is first asked for: of a large one that is work. One that has failed may
    /// never be asked for.
    pub fn serialise(&self) {
        if !matches!(self.outcome, Outcome::Failed(_)) {
            // Whoever asks for it is told if it cannot be done.
            let _ = self.json();
        }
    }

    /// The response object, serialised when it is first asked for.
    fn json(&self) -> Result<&ResponseJson, serde_json::Error> {
        if let Some(response) = self.response.get() {
            return Ok(response);
        }
        let response = self.plan.response(self.state())?;
        Ok(self.response.get_or_init(|| response))
    }

    /// The response object as it is stored, and this turn's input.
    ///
    /// # Errors
    /// Those of [`Finished::take_response`].
    pub fn take_stored(&mut self) -> Result<(Box<RawValue>, Vec<Box<RawValue>>), serde_json::Error> {
        let response = self.json()?.kept()?;
        Ok((response, std::mem::take(&mut self.plan.input)))
    }

    /// Turns the answer into a failed one, because the store refused it. One that has failed keeps its own reason, which
    /// tells the client more; says whether it was another one.
    pub fn fail(&mut self, error: ResponseError) -> bool {
        if matches!(self.outcome, Outcome::Failed(_)) {
            return false;
        }
        self.outcome = Outcome::Failed(error);
        self.completed_at = None;
        self.response.take();
        true
    }

    /// Says in the response that it was not stored.
    pub fn mark_unstored(&mut self) {
        self.plan.store = false;
        self.response.take();
    }

    /// How many bytes of events were ready when the stream ended, and are not taken.
    #[must_use]
    pub fn untaken_bytes(&self) -> usize {
        self.untaken
    }

    /// Takes the events that were ready when the stream ended. What its end made, done events as an example, stays for
    /// [`Self::into_tail`].
    pub fn take_untaken(&mut self) -> Bytes {
        self.emitter.take_first(std::mem::take(&mut self.untaken))
    }

    /// The last events: those that are not taken, the done events of what was open, and the one terminal event.
    #[must_use]
    pub fn into_tail(mut self) -> Bytes {
        let mut emitter = std::mem::take(&mut self.emitter);
        if let Outcome::Failed(error) = &self.outcome {
            emitter.emit_error(error);
        }
        if !emitter.is_silent()
            && let Ok(response) = self.json().and_then(ResponseJson::sent)
        {
            emitter.emit(|sequence_number| match self.outcome {
                Outcome::Completed => Event::Completed { sequence_number, response },
                Outcome::Incomplete(_) | Outcome::Disconnected => Event::Incomplete { sequence_number, response },
                Outcome::Failed(_) => Event::Failed { sequence_number, response },
            });
        }
        emitter.end();
        emitter.take()
    }

    fn state(&self) -> ResponseState<'_> {
        let (status, error, incomplete_details) = match &self.outcome {
            Outcome::Completed => (Status::Completed, None, None),
            Outcome::Incomplete(reason) => (Status::Incomplete, None, Some(IncompleteDetails { reason: *reason })),
            Outcome::Disconnected => (Status::Incomplete, None, None),
            Outcome::Failed(error) => (Status::Failed, Some(error), None),
        };
        let output = &self.output;
        let (completed_at, usage) = (self.completed_at, Some(self.usage));
        ResponseState { status, completed_at, error, incomplete_details, output, usage }
    }
}

/// A failure that is nobody's but the upstream's or ours.
pub(super) fn upstream_failure(message: &str) -> ResponseError {
    ResponseError { code: "server_error".to_owned(), message: message.to_owned() }
}
