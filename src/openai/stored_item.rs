//! Items as the store keeps them, read back.

use serde_json::value::RawValue;

use super::item::{self, Item, ItemError};
use super::raw::Members;
use super::raw_walk;

/// An item of a stored turn, as far as translation acts on it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredItem {
    /// Its id.
    pub id: Option<String>,
    /// What it says.
    pub item: Item,
    /// The reasoning that a client carries in sealed form, of a reasoning item that has some.
    pub encrypted_content: Option<String>,
}

/// Why a stored turn cannot be read. Quotes nothing of it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StoredItemError {
    /// The response has no list of output items.
    #[error("a response without output")]
    NoOutput,
    /// An item is no JSON object, or a member of it is not what it has to be.
    #[error("{0}")]
    Unreadable(String),
    /// An item is none that a request could have had.
    #[error(transparent)]
    Item(ItemError),
}

impl StoredItem {
    /// All items of a turn in order: what was sent, then what was answered.
    ///
    /// # Errors
    /// [`StoredItemError`] of the first that cannot be read.
    pub fn of_turn(input: &[Box<RawValue>], response: &RawValue) -> Result<Vec<Self>, StoredItemError> {
        raw_items(input, response)?.map(Self::read).collect()
    }

    fn read(raw: &RawValue) -> Result<Self, StoredItemError> {
        let (object, item) = read(raw)?;
        let is_reasoning = matches!(item, Item::Reasoning { .. });
        let encrypted_content = if is_reasoning { object.text("encrypted_content") } else { None };
        Ok(Self { id: object.text("id"), item, encrypted_content })
    }
}

/// All items of a turn in order, as they are stored.
///
/// # Errors
/// [`StoredItemError::NoOutput`].
pub fn raw_items<'a>(
    input: &'a [Box<RawValue>],
    response: &'a RawValue,
) -> Result<impl Iterator<Item = &'a RawValue>, StoredItemError> {
    // A response is JSON, and long: only where its items are has to be found.
    let output = raw_walk::member(response, "output").and_then(raw_walk::items).ok_or(StoredItemError::NoOutput)?;
    Ok(input.iter().map(|item| &**item).chain(output))
}

/// Reads an item that the store kept, with its members.
///
/// # Errors
/// [`StoredItemError`].
pub fn read(raw: &RawValue) -> Result<(Members<'_>, Item), StoredItemError> {
    let object = match Members::of_raw(raw) {
        Some(object) => object,
        // The parser tells why.
        None => Members::parse(raw.get().as_bytes()).map_err(StoredItemError::from)?,
    };
    let item = item::parse(&object, &"history").map_err(StoredItemError::Item)?;
    Ok((object, item))
}

impl From<serde_json::Error> for StoredItemError {
    /// Without the parser's own words, which quote the value.
    fn from(error: serde_json::Error) -> Self {
        let (kind, line, column) = (error.classify(), error.line(), error.column());
        Self::Unreadable(format!("{kind:?} error at line {line} column {column}"))
    }
}
