//! The only place that numbers events, hands out `output_index`, and encodes frames, in the words of the dialect.

use bytes::{Bytes, BytesMut};

use crate::openai::dialect::{ApiDialect, ReasoningEvents};
use crate::openai::error::ErrorType;
use crate::openai::event::{ErrorMember, Event};
use crate::openai::responses::{OutputItem, ResponseError};
use crate::sse::{self, FrameTemplate};

/// The least room that is set aside for events other than deltas, in bytes. Most that show neither a response nor a whole
/// text are shorter.
const EVENT_BYTES: usize = 1024;

/// The most room that is set aside for events that may not come, in bytes.
const MOST_EXPECTED_BYTES: usize = 64 * 1024;

/// Encodes events in order. Silent when the client wants JSON: then nothing is encoded at all.
#[derive(Debug)]
pub(super) struct Emitter {
    frames: BytesMut,
    /// About how many bytes of events are to come; 0 when no chunks are being read.
    expected: usize,
    dialect: ApiDialect,
    next_sequence_number: u64,
    silent: bool,
    /// Of the deltas of the part that is open. A part opens and closes by events of its own, so the deltas between two
    /// other events are all of one part.
    deltas: Option<FrameTemplate>,
}

impl Emitter {
    pub(super) fn new(silent: bool, dialect: ApiDialect) -> Self {
        Self { frames: BytesMut::new(), expected: 0, dialect, next_sequence_number: 0, silent, deltas: None }
    }

    /// Whether events are not wanted, so that nothing needs to be made for them.
    pub(super) fn is_silent(&self) -> bool {
        self.silent
    }

    /// So many bytes of chunks are about to be read, or 0 when they were. Their deltas will be a little longer: with room for
    /// all of them from the start, few of them are copied.
    pub(super) fn expect(&mut self, bytes: usize) {
        self.expected = (bytes + bytes / 4).min(MOST_EXPECTED_BYTES);
        // What is there already will leave with them.
        if !self.frames.is_empty() {
            self.frames.reserve(self.expected);
        }
    }

    /// Emits the event that `event` makes of the next sequence number.
    pub(super) fn emit<'a>(&mut self, event: impl FnOnce(Option<u64>) -> Event<'a>) {
        if self.silent {
            return;
        }
        let event = event(self.dialect.sequence_numbers.then_some(self.next_sequence_number));
        let event = in_words(self.dialect.reasoning_events, event);
        self.next_sequence_number += 1;
        self.deltas = None;
        if self.frames.is_empty() {
            self.frames.reserve(self.expected.max(EVENT_BYTES));
        }
        sse::encode(&mut self.frames, event.name(), &event);
    }

    /// Says that an item has begun, which is made only for those who listen.
    pub(super) fn emit_added(&mut self, output_index: usize, item: impl FnOnce() -> OutputItem) {
        if !self.silent {
            let item = item();
            self.emit(|sequence_number| Event::ItemAdded { sequence_number, output_index, item: &item });
        }
    }

    /// Emits a delta of the open part: the event that `event` makes of the next sequence number and the delta. Of two in
    /// a row all else must be the same.
    pub(super) fn emit_delta<'a>(&mut self, delta: &'a str, event: impl Fn(Option<u64>, &'a str) -> Event<'a>) {
        if self.silent {
            return;
        }
        if self.deltas.is_none() {
            let number = self.dialect.sequence_numbers.then_some(FrameTemplate::NUMBER);
            let event = in_words(self.dialect.reasoning_events, event(number, FrameTemplate::TEXT));
            self.deltas = FrameTemplate::cut(event.name(), &event);
        }
        match &self.deltas {
            Some(template) => {
                if self.frames.is_empty() {
                    self.frames.reserve(self.expected.max(template.most_bytes(delta)));
                }
                template.fill(&mut self.frames, self.next_sequence_number, delta);
                self.next_sequence_number += 1;
            }
            None => self.emit(|sequence_number| event(sequence_number, delta)),
        }
    }

    /// Says what a response fails of, in the dialects that do so by an event of its own.
    pub(super) fn emit_error(&mut self, ResponseError { code, message }: &ResponseError) {
        if self.dialect.error_event {
            let error = ErrorMember { kind: ErrorType::for_code(code), code, message, param: None };
            self.emit(|sequence_number| Event::Error { sequence_number, code, message, param: None, error });
        }
    }

    /// Ends the stream, after its terminal event.
    pub(super) fn end(&mut self) {
        if self.dialect.done_frame && !self.silent {
            sse::encode_done(&mut self.frames);
        }
    }

    /// How many events there have been.
    pub(super) fn events(&self) -> u64 {
        self.next_sequence_number
    }

    /// How many bytes [`take`](Self::take) would give.
    pub(super) fn ready_bytes(&self) -> usize {
        self.frames.len()
    }

    /// The frames of the first bytes, which end where a frame does. The others stay.
    pub(super) fn take_first(&mut self, bytes: usize) -> Bytes {
        self.frames.split_to(bytes.min(self.frames.len())).freeze()
    }

    /// The frames since the last call, each whole. Their buffer goes with them: one that stayed would be as large as the
    /// largest burst of a stream, and be empty most of the time.
    pub(super) fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.frames).freeze()
    }
}

impl Default for Emitter {
    /// A silent one.
    fn default() -> Self {
        Self::new(true, ApiDialect::default())
    }
}

/// An event of raw reasoning under the name that the dialect has for it; any other as it is.
fn in_words(names: ReasoningEvents, event: Event<'_>) -> Event<'_> {
    match (names, event) {
        (
            ReasoningEvents::Reasoning,
            Event::ReasoningDelta { sequence_number, item_id, output_index, content_index, delta },
        ) => Event::OpenReasoningDelta { sequence_number, item_id, output_index, content_index, delta },
        (
            ReasoningEvents::Reasoning,
            Event::ReasoningDone { sequence_number, item_id, output_index, content_index, text },
        ) => Event::OpenReasoningDone { sequence_number, item_id, output_index, content_index, text },
        (ReasoningEvents::Reasoning | ReasoningEvents::ReasoningText, event) => event,
    }
}
