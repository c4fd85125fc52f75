//! The record of one turn.

use std::fmt;

use serde_json::value::RawValue;

use super::ancestors::Ancestors;
use super::known_items::KnownItems;
use crate::id::ResponseId;
#[cfg(doc)]
use crate::openai::output_text;
use crate::tenant::Tenant;

/// What one allocation costs beyond its bytes: the allocator's rounding and bookkeeping.
const ALLOCATION_OVERHEAD_BYTES: usize = 16;

/// One stored turn. Never changed once written.
#[derive(Clone)]
pub struct Record {
    /// The response's id, equal to the `id` inside [`Self::response`].
    pub id: ResponseId,
    /// The turns before this one.
    pub ancestors: Ancestors,
    /// This turn's input items, each with an id. Earlier turns' items and instructions are not among them.
    pub input: Vec<Box<RawValue>>,
    /// The response object exactly as it was sent, but for its `output_text` (see [`output_text::completed`]).
    pub response: Box<RawValue>,
    /// The client or the upstream went away before the answer's end. On the wire such a response is `incomplete`
    /// without details, because the reference has no reason for it; here it is `client_disconnected` (CONTRACT §6).
    pub interrupted: bool,
    /// Whose it is; `None` is a record of a router without tenants.
    pub tenant: Option<Tenant>,
    /// Its items, if they were read to be read no more.
    pub items: KnownItems,
}

impl Record {
    /// The turn that this one continues.
    #[must_use]
    pub fn parent(&self) -> Option<&ResponseId> {
        match &self.ancestors {
            Ancestors::Listed(ids) => ids.parent(),
            Ancestors::Walk(parent) => parent.as_ref(),
        }
    }

    /// The length in bytes of the input and the response as JSON: what this turn adds to a history.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.input.iter().map(|item| item.get().len()).sum::<usize>() + self.response.get().len()
    }

    /// The memory in bytes that this record occupies, allocations included; an estimate that errs upwards.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let id = |id: &ResponseId| size_of::<ResponseId>() + ALLOCATION_OVERHEAD_BYTES + id.as_str().len();
        let ancestors: usize = match &self.ancestors {
            Ancestors::Listed(ids) => ALLOCATION_OVERHEAD_BYTES + ids.json().get().len() + ids.parent().map_or(0, id),
            Ancestors::Walk(parent) => parent.as_ref().map_or(0, id),
        };
        let items = self.input.len() * (size_of::<Box<RawValue>>() + ALLOCATION_OVERHEAD_BYTES);
        let own = size_of::<Self>() + 3 * ALLOCATION_OVERHEAD_BYTES + self.payload_bytes();
        own + id(&self.id) + ancestors + items + self.items.size_bytes(self.payload_bytes())
    }

    /// Reads the items of a record that will be needed again and again.
    pub fn know_items(&self) {
        self.items.read(&self.input, &self.response);
    }
}

impl PartialEq for Record {
    /// Equal text, not equal meaning: a repeated write carries the same bytes.
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
            && self.tenant == other.tenant
            && self.ancestors == other.ancestors
            && self.interrupted == other.interrupted
            && self.response.get() == other.response.get()
            && self.input.iter().map(|item| item.get()).eq(other.input.iter().map(|item| item.get()))
    }
}

impl fmt::Debug for Record {
    /// Names and sizes only: what people said must not reach a log through `{:?}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("id", &self.id)
            .field("tenant", &self.tenant)
            .field("ancestors", &self.ancestors)
            .field("input_items", &self.input.len())
            .field("payload_bytes", &self.payload_bytes())
            .finish()
    }
}
