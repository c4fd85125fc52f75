//! The only place that numbers events, hands out `output_index`, and encodes frames.

use bytes::{Bytes, BytesMut};

use crate::openai::event::Event;
use crate::sse;

/// Encodes events in order. Silent when the client wants JSON: then nothing is encoded at all.
#[derive(Debug)]
pub(super) struct Emitter {
    frames: BytesMut,
    next_sequence_number: u64,
    silent: bool,
}

impl Emitter {
    pub(super) fn new(silent: bool) -> Self {
        Self { frames: BytesMut::new(), next_sequence_number: 0, silent }
    }

    /// Emits the event that `event` makes of the next sequence number.
    pub(super) fn emit<'a>(&mut self, event: impl FnOnce(u64) -> Event<'a>) {
        if self.silent {
            return;
        }
        let event = event(self.next_sequence_number);
        self.next_sequence_number += 1;
        sse::encode(&mut self.frames, event.name(), &event);
    }

    /// The frames since the last call, each whole.
    pub(super) fn take(&mut self) -> Bytes {
        self.frames.split().freeze()
    }
}
