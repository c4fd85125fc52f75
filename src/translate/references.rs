//! The turns before a request, and the stored items among them that its input refers to (TRAPS A2, 24).
//!
//! A reference stands for the item itself: the item takes its place in the transcript and among this turn's input, so
//! that `input_items` lists items only and the record keeps its meaning when the one referred to has expired.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::create::{CreateRequest, InputItem};
use super::error::RequestError;
use crate::id::ResponseId;
use crate::openai::item::Item;
use crate::openai::stored_item::{self, StoredItem, StoredItemError};

/// A turn of the history: what was sent and what was answered, as the store kept it.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    /// The turn's input items, normalised.
    pub input: &'a [Box<RawValue>],
    /// The turn's response object.
    pub response: &'a RawValue,
    /// The items of both, if they were read before.
    pub items: Option<&'a [StoredItem]>,
}

/// The stored turns that a request needs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Past<'a> {
    /// Those that it continues, oldest first.
    pub chain: &'a [Turn<'a>],
    /// Others to whose items it refers, in no order.
    pub referenced: &'a [Turn<'a>],
}

impl CreateRequest {
    /// The responses whose items the input refers to, by the items' ids; each once.
    #[must_use]
    pub fn referenced_responses(&self) -> Vec<ResponseId> {
        let mut seen = HashSet::new();
        let ids = self.references().filter_map(ResponseId::of_item);
        ids.filter(|id| seen.insert(id.clone())).collect()
    }

    fn references(&self) -> impl Iterator<Item = &str> {
        self.input.iter().filter_map(|input| match &input.item {
            Item::Reference { id } => Some(id.as_str()),
            _ => None,
        })
    }
}

impl<'a> Turn<'a> {
    /// All items of the turn in order: what was sent, then what was answered.
    pub(super) fn items(self) -> Result<Cow<'a, [StoredItem]>, RequestError> {
        match self.items {
            Some(items) => Ok(Cow::Borrowed(items)),
            None => Ok(Cow::Owned(StoredItem::of_turn(self.input, self.response)?)),
        }
    }
}

/// The stored items that a request may refer to, by id.
pub(super) struct StoredItems<'a>(HashMap<String, &'a RawValue>);

impl<'a> StoredItems<'a> {
    /// Those of the past; none at all, and no work, when nothing is referred to.
    pub(super) fn of(past: Past<'a>, create: &CreateRequest) -> Result<Self, RequestError> {
        #[derive(Deserialize)]
        struct Named {
            id: Option<String>,
            #[serde(rename = "type")]
            kind: Option<String>,
        }
        let mut items = HashMap::new();
        if create.references().next().is_none() {
            return Ok(Self(items));
        }
        // Should a client have given one id to several items, then the latest of the chain counts.
        for turn in past.referenced.iter().chain(past.chain) {
            for raw in stored_item::raw_items(turn.input, turn.response)? {
                let Named { id, kind } = serde_json::from_str(raw.get()).map_err(StoredItemError::from)?;
                // Earlier releases kept references as they came.
                if let Some(id) = id.filter(|_| kind.as_deref() != Some("item_reference")) {
                    items.insert(id, raw);
                }
            }
        }
        Ok(Self(items))
    }

    /// The item of this id; `None` when it is not stored.
    pub(super) fn find(&self, id: &str) -> Result<Option<InputItem>, RequestError> {
        let found = self.0.get(id).map(|raw| stored_item::read(raw)).transpose()?;
        Ok(found.map(|(object, item)| InputItem { object: object.into_owned(), item }))
    }
}

/// The instructions of the oldest turn that had any.
pub(super) fn oldest_instructions(chain: &[Turn<'_>]) -> Result<Option<String>, RequestError> {
    #[derive(Deserialize)]
    struct Asked {
        #[serde(default)]
        instructions: Option<String>,
    }
    for turn in chain {
        let Asked { instructions } = serde_json::from_str(turn.response.get()).map_err(StoredItemError::from)?;
        if let Some(text) = instructions.filter(|text| !text.is_empty()) {
            return Ok(Some(text));
        }
    }
    Ok(None)
}

impl From<StoredItemError> for RequestError {
    /// What the store kept was read before it was kept: should it not be readable, it is no fault of the client.
    fn from(error: StoredItemError) -> Self {
        Self::History(error.to_string())
    }
}
