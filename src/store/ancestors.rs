//! What a record knows of the turns before its own.

use std::fmt;

use serde_json::value::RawValue;

use super::StoreError;
use super::document::corrupt;
use crate::id::ResponseId;

/// What a record knows of the turns before its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ancestors {
    /// All of them.
    Listed(AncestorIds),
    /// The parent only, as in records of the Go semantic-router: the chain has to be walked.
    Walk(Option<ResponseId>),
}

/// The ids of all turns before one: oldest first, the parent last, none for the first turn.
///
/// They stay the JSON array that they are at rest. All records of a chain have such a list, and it is read of the newest
/// one alone: to read each would cost the square of the chain's length.
#[derive(Clone)]
pub struct AncestorIds {
    json: Box<RawValue>,
    parent: Option<ResponseId>,
    kept_until: u64,
}

impl AncestorIds {
    /// Of a list at rest, of which no more than the parent is read now.
    pub(super) fn stored(json: &RawValue, kept_until: u64) -> Result<Self, StoreError> {
        let list = inner(json)?;
        let parent = match list.strip_suffix('"').map(|list| list.rsplit_once('"')) {
            None if list.is_empty() => None,
            Some(Some((_, parent))) => Some(ResponseId::parse(parent).map_err(|_| no_ancestor())?),
            None | Some(None) => return Err(no_ancestor()),
        };
        Ok(Self { json: json.to_owned(), parent, kept_until })
    }

    /// As they are at rest.
    pub(super) fn json(&self) -> &RawValue {
        &self.json
    }

    /// The turn that is continued.
    #[must_use]
    pub fn parent(&self) -> Option<&ResponseId> {
        self.parent.as_ref()
    }

    /// All of them.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when one of them is no id.
    pub fn read(&self) -> Result<Vec<ResponseId>, StoreError> {
        let list = inner(&self.json)?;
        if list.is_empty() {
            return Ok(Vec::new());
        }
        // An id has no comma, no quote and no escape in it.
        let id = |id: &str| ResponseId::parse(id.trim_ascii().strip_prefix('"')?.strip_suffix('"')?).ok();
        list.split(',').map(|text| id(text).ok_or_else(no_ancestor)).collect()
    }

    /// The same with one turn more, which continues them.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when this is no list.
    pub(super) fn and(&self, next: &ResponseId) -> Result<Self, StoreError> {
        let list = inner(&self.json)?;
        let separator = if list.is_empty() { "" } else { "," };
        let json = RawValue::from_string(format!("[{list}{separator}\"{next}\"]"));
        let json = json.map_err(|_| corrupt("its ancestors are not a list"))?;
        Ok(Self { json, parent: Some(next.clone()), kept_until: 0 })
    }

    /// The same, known to be kept until a time in seconds since the epoch: none of them expires earlier.
    #[must_use]
    pub fn kept(self, until: u64) -> Self {
        Self { kept_until: until, ..self }
    }

    /// Until when all of them are kept, in seconds since the epoch; 0 where it is not known.
    #[must_use]
    pub fn kept_until(&self) -> u64 {
        self.kept_until
    }
}

impl Default for AncestorIds {
    fn default() -> Self {
        Self::from_iter([])
    }
}

impl FromIterator<ResponseId> for AncestorIds {
    fn from_iter<I: IntoIterator<Item = ResponseId>>(ids: I) -> Self {
        let ids: Vec<ResponseId> = ids.into_iter().collect();
        // A list of ids always serialises; null in its place could not be read back.
        let json = serde_json::value::to_raw_value(&ids).unwrap_or_else(|_| RawValue::NULL.to_owned());
        Self { json, parent: ids.into_iter().next_back(), kept_until: 0 }
    }
}

impl PartialEq for AncestorIds {
    /// Whether they are the same turns, however long they are kept.
    fn eq(&self, other: &Self) -> bool {
        self.json.get() == other.json.get()
    }
}

impl Eq for AncestorIds {}

impl fmt::Debug for AncestorIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AncestorIds")
            .field("parent", &self.parent)
            .field("bytes", &self.json.get().len())
            .field("kept_until", &self.kept_until)
            .finish()
    }
}

/// What stands between the brackets of a list.
fn inner(json: &RawValue) -> Result<&str, StoreError> {
    let list = json.get().strip_prefix('[').and_then(|list| list.strip_suffix(']'));
    Ok(list.ok_or_else(|| corrupt("its ancestors are not a list"))?.trim())
}

fn no_ancestor() -> StoreError {
    corrupt("one of its ancestors is not a response id")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(bits: u128) -> ResponseId {
        ResponseId::from_bits(bits)
    }

    #[test]
    fn a_list_of_ancestors_is_read_when_it_is_needed_and_its_parent_at_once() {
        let list = |json: &str| AncestorIds::stored(&RawValue::from_string(json.to_owned()).unwrap(), 0);
        let own = |number: u128| format!("\"{}\"", id(number));
        for (json, parent) in [
            ("[]".to_owned(), None),
            ("[ ]".to_owned(), None),
            (format!("[{}]", own(1)), Some(id(1))),
            (format!("[ {} , {} ]", own(1), own(2)), Some(id(2))),
        ] {
            let ids = list(&json).unwrap();
            assert_eq!((ids.parent(), ids.read().unwrap().last()), (parent.as_ref(), parent.as_ref()), "{json}");
        }
        for above in [vec![], vec![id(1)], vec![id(1), id(2)]] {
            let one_more = above.iter().cloned().collect::<AncestorIds>().and(&id(3)).unwrap();
            let all: AncestorIds = above.into_iter().chain([id(3)]).collect();
            assert_eq!((&one_more, one_more.parent()), (&all, Some(&id(3))));
            assert_eq!(one_more.read().unwrap(), all.read().unwrap());
        }
        let odd = list(&format!("[\"secret\",7,{}]", own(2))).unwrap();
        assert_eq!(odd.parent(), Some(&id(2)));
        assert!(!odd.read().unwrap_err().to_string().contains("secret"));
        for json in ["7", "{}", "\"secret\"", "[7]", "[null]", "[\"secret\"]", "[[\"resp_1\"]]"] {
            assert!(!list(json).unwrap_err().to_string().contains("secret"), "{json}");
        }
    }
}
