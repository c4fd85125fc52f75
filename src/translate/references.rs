//! The turns before a request, and the stored items among them that its input refers to (TRAPS A2, 24).
//!
//! A reference stands for the item itself: the item takes its place in the transcript and among this turn's input, so
//! that `input_items` lists items only and the record keeps its meaning when the one referred to has expired.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::create::{CreateRequest, InputItem};
use super::error::RequestError;
use crate::id::ResponseId;
use crate::openai::item::{self, Item};
use crate::openai::raw::Members;
use crate::openai::raw_walk;

/// A turn of the history: what was sent and what was answered, as the store kept it.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    /// The turn's input items, normalised.
    pub input: &'a [Box<RawValue>],
    /// The turn's response object.
    pub response: &'a RawValue,
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
    pub(super) fn items(self) -> Result<impl Iterator<Item = &'a RawValue>, RequestError> {
        // A response is JSON, and long: only where its items are has to be found.
        let output = raw_walk::member(self.response, "output").and_then(raw_walk::items);
        let output = output.ok_or_else(|| RequestError::History("a response without output".to_owned()))?;
        Ok(self.input.iter().map(|item| &**item).chain(output))
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
            for raw in turn.items()? {
                let Named { id, kind } = serde_json::from_str(raw.get()).map_err(unreadable)?;
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
        let found = self.0.get(id).map(|raw| stored(raw)).transpose()?;
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
        let Asked { instructions } = serde_json::from_str(turn.response.get()).map_err(unreadable)?;
        if let Some(text) = instructions.filter(|text| !text.is_empty()) {
            return Ok(Some(text));
        }
    }
    Ok(None)
}

/// Reads an item that the store kept.
pub(super) fn stored(raw: &RawValue) -> Result<(Members<'_>, Item), RequestError> {
    let object = match Members::of_raw(raw) {
        Some(object) => object,
        // The parser tells why.
        None => Members::parse(raw.get().as_bytes()).map_err(unreadable)?,
    };
    let item = item::parse(&object, &"history").map_err(|error| RequestError::History(error.to_string()))?;
    Ok((object, item))
}

/// Without the parser's own words, which quote the value.
fn unreadable(error: serde_json::Error) -> RequestError {
    let (kind, line, column) = (error.classify(), error.line(), error.column());
    RequestError::History(format!("{kind:?} error at line {line} column {column}"))
}
