//! The open item: how each kind is opened, grows by deltas and is closed, each step with its events.

use super::{ITEM_OVERHEAD_BYTES, Open, ResponseStream};
use crate::id::ItemPrefix;
use crate::openai::chat_answer::TokenLogprob;
use crate::openai::event::Event;
use crate::openai::responses::{ContentPart, Status};
use crate::openai::tool_call::Side;
use crate::translate::output::{
    PartEdge, call_item, emit_call_done, emit_call_text, emit_part_done, emit_reasoning_part, message_item,
    reasoning_item,
};
use crate::translate::sealing;

impl ResponseStream {
    fn next_item_id(&self, prefix: ItemPrefix) -> String {
        self.plan.id.item(prefix, self.plan.input.len() + self.output.len())
    }

    pub(super) fn reasoning(&mut self, delta: &str) {
        let output_index = self.output.len();
        let summary = self.plan.summary;
        if !matches!(self.open, Open::Reasoning { .. }) {
            let id = self.next_item_id(ItemPrefix::Reasoning);
            self.emitter
                .emit_added(output_index, || reasoning_item(id.clone(), Status::InProgress, None, summary, None));
            emit_reasoning_part(&mut self.emitter, &id, output_index, summary, PartEdge::Added);
            self.open = Open::Reasoning { id, text: String::new() };
        }
        let Open::Reasoning { id, text } = &mut self.open else { return };
        text.push_str(delta);
        let item_id = id.as_str();
        self.emitter.emit_delta(delta, |sequence_number, delta| {
            if summary {
                Event::SummaryDelta { sequence_number, item_id, output_index, summary_index: 0, delta }
            } else {
                Event::ReasoningDelta { sequence_number, item_id, output_index, content_index: 0, delta }
            }
        });
    }

    pub(super) fn text(&mut self, delta: &str, logprobs: Vec<TokenLogprob>) {
        self.open_part(&ContentPart::OutputText { annotations: [], logprobs: Vec::new(), text: String::new() });
        let output_index = self.output.len();
        let Open::Message { id, parts } = &mut self.open else { return };
        let content_index = parts.len().saturating_sub(1);
        let Some(ContentPart::OutputText { text, logprobs: all, .. }) = parts.last_mut() else { return };
        text.push_str(delta);
        let item_id = id.as_str();
        if logprobs.is_empty() {
            self.emitter.emit_delta(delta, |sequence_number, delta| Event::TextDelta {
                sequence_number,
                item_id,
                output_index,
                content_index,
                delta,
                logprobs: &[],
            });
        } else {
            let logprobs = &logprobs;
            self.emitter.emit(|sequence_number| Event::TextDelta {
                sequence_number,
                item_id,
                output_index,
                content_index,
                delta,
                logprobs,
            });
        }
        all.extend(logprobs);
    }

    pub(super) fn refusal(&mut self, delta: &str) {
        self.open_part(&ContentPart::Refusal { refusal: String::new() });
        let output_index = self.output.len();
        let Open::Message { id, parts } = &mut self.open else { return };
        let content_index = parts.len().saturating_sub(1);
        let Some(ContentPart::Refusal { refusal }) = parts.last_mut() else { return };
        refusal.push_str(delta);
        let item_id = id.as_str();
        self.emitter.emit_delta(delta, |sequence_number, delta| Event::RefusalDelta {
            sequence_number,
            item_id,
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
            self.emitter.emit_added(output_index, || message_item(id.clone(), Status::InProgress, Vec::new()));
            self.open = Open::Message { id, parts: Vec::new() };
        }
        let Open::Message { id, parts } = &mut self.open else { return };
        let another = !parts.is_empty();
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
        if another {
            self.fits(ITEM_OVERHEAD_BYTES);
        }
    }

    pub(super) fn open_call(&mut self, position: usize) {
        let output_index = self.output.len();
        let ordinal = self.plan.input.len() + output_index;
        self.calls.settle_id(position, &self.plan.id, ordinal);
        let Some(call) = self.calls.get_mut(position) else { return };
        call.open(&self.plan.tool_names);
        let Some(tool) = call.tool() else { return };
        let id = self.plan.id.item(Side::Call(tool.kind).prefix(), ordinal);
        self.emitter.emit_added(output_index, || {
            call_item(id.clone(), Status::InProgress, call.call_id.clone(), tool, String::new())
        });
        emit_call_text(&mut self.emitter, &id, output_index, call);
        self.open = Open::Call { id, position };
    }

    /// Ends the open item with its done events.
    pub(super) fn close(&mut self, status: Status) {
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
        // Items of a byte each would cost hundreds of times what came.
        self.fits(ITEM_OVERHEAD_BYTES);
    }
}
