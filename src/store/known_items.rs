//! The items of a record that stays in memory.

use std::sync::OnceLock;

use serde_json::value::RawValue;

use crate::openai::item::{Item, Part};
use crate::openai::stored_item::StoredItem;

/// What allocations cost for one item, or for one part of it, beyond its bytes.
const OVERHEAD_BYTES: usize = 128;

/// The items of a record, once they were read to be read no more: every turn of its conversation needs them. Not part of
/// what is stored, nor of what makes records equal.
#[derive(Default)]
pub struct KnownItems(OnceLock<Box<[StoredItem]>>);

impl KnownItems {
    /// The items in their order, if they were read.
    #[must_use]
    pub fn get(&self) -> Option<&[StoredItem]> {
        self.0.get().map(|items| &**items)
    }

    /// Reads them. If they cannot be read, they stay unknown, and whoever needs them is told why.
    pub(super) fn read(&self, input: &[Box<RawValue>], response: &RawValue) {
        if self.get().is_none()
            && let Ok(items) = StoredItem::of_turn(input, response)
        {
            let _ = self.0.set(items.into());
        }
    }

    /// The memory in bytes that they occupy, of a record with so many bytes of JSON; an estimate that errs upwards.
    pub(super) fn size_bytes(&self, payload_bytes: usize) -> usize {
        let Some(items) = self.get() else { return 0 };
        let parts: usize = items.iter().map(|item| parts(&item.item)).sum();
        // None of them says more than its JSON.
        let items = items.len() * (size_of::<StoredItem>() + OVERHEAD_BYTES);
        items + parts * (size_of::<Part>() + OVERHEAD_BYTES) + payload_bytes
    }
}

fn parts(item: &Item) -> usize {
    match item {
        Item::Message { content: parts, .. } | Item::CallOutput { output: parts, .. } => parts.len(),
        _ => 0,
    }
}

impl Clone for KnownItems {
    /// None: what is made of a copy may have other items.
    fn clone(&self) -> Self {
        Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ResponseId;
    use crate::store::{AncestorIds, Ancestors, Record};

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn record(output: &str) -> Record {
        Record {
            id: ResponseId::from_bits(1),
            ancestors: Ancestors::Listed(AncestorIds::default()),
            input: vec![raw(r#"{"type":"message","id":"msg_1","role":"user","content":"hi"}"#)],
            response: raw(&format!(r#"{{"id":"resp_1","output":{output}}}"#)),
            interrupted: false,
            tenant: None,
            items: KnownItems::default(),
        }
    }

    #[test]
    fn they_are_those_of_input_and_output_and_are_counted() {
        let output = r#"[{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"sealed"}]"#;
        let record = record(output);
        let before = record.size_bytes();
        assert!(record.items.get().is_none());
        record.know_items();
        let items = record.items.get().unwrap();
        let ids: Vec<_> = items.iter().map(|item| item.id.as_deref()).collect();
        assert_eq!(ids, [Some("msg_1"), Some("rs_1")]);
        assert!(matches!(&items[0].item, Item::Message { .. }));
        assert_eq!((&items[0].encrypted_content, items[1].encrypted_content.as_deref()), (&None, Some("sealed")));
        assert!(record.size_bytes() > before + record.payload_bytes());
        // They say no more of a record than it says itself.
        let copy = record.clone();
        assert!(copy.items.get().is_none() && copy == record);
    }

    #[test]
    fn what_cannot_be_read_is_not_known() {
        for output in ["7", r#"[{"type":"message"}]"#, "[5]"] {
            let record = record(output);
            let before = record.size_bytes();
            record.know_items();
            assert!(record.items.get().is_none() && record.size_bytes() == before, "{output}");
        }
    }
}
