//! Records as they lie at rest where others could see them: as they are, or sealed (`response_api.encryption`).

use super::StoreError;
use super::document::corrupt;
use super::record::Record;
use super::record_json::{Sealed, Stored};
use crate::id::ResponseId;
use crate::sealing::{SealError, SealedText, SealingKeys, is_key_id};
use crate::tenant::Tenant;

/// Turns records into documents and back. The default seals nothing and opens nothing.
#[derive(Debug, Clone, Default)]
pub struct RecordCodec {
    keys: Option<SealingKeys>,
    sealed_only: bool,
}

impl RecordCodec {
    /// Seals with the first of these keys, opens with any of them. With `sealed_only`, records that are not sealed are
    /// refused: whoever can write to the store could otherwise put some there.
    #[must_use]
    pub fn new(keys: Option<SealingKeys>, sealed_only: bool) -> Self {
        Self { keys, sealed_only }
    }

    /// Whether documents are sealed.
    pub(super) fn seals(&self) -> bool {
        self.keys.is_some()
    }

    /// A record's document. `squeeze` makes it smaller, before it is sealed: afterwards nothing could.
    ///
    /// # Errors
    /// Those of `squeeze`, and [`StoreError::Unavailable`] when there is no randomness to seal with.
    pub fn encode(
        &self,
        record: &Record,
        squeeze: impl FnOnce(Vec<u8>) -> Result<Vec<u8>, StoreError>,
    ) -> Result<Vec<u8>, StoreError> {
        let document = squeeze(record.encode())?;
        let Some(keys) = &self.keys else { return Ok(document) };
        let sealed = keys.seal_document(&place(&record.id, record.tenant), document);
        Ok(record.encode_sealed(&sealed.map_err(|error| StoreError::Unavailable(error.to_string()))?))
    }

    /// The record in a document that lies under the key of `expected`. `expand` undoes `squeeze`.
    ///
    /// What was sealed for another id or another tenant does not open: records cannot be moved.
    ///
    /// # Errors
    /// Those of `expand`, [`StoreError::UnknownKey`], and [`StoreError::Corrupt`] for whatever is no such record.
    pub fn decode(
        &self,
        expected: &ResponseId,
        document: &[u8],
        expand: impl FnOnce(Vec<u8>) -> Result<Vec<u8>, StoreError>,
    ) -> Result<Record, StoreError> {
        let Sealed { tenant, text } = match Record::read(expected, document)? {
            Stored::Open(record) if self.sealed_only => return Err(corrupt("it is not sealed").of(record.tenant)),
            Stored::Open(record) => return Ok(*record),
            // Errors quote the id, and logs hold them.
            Stored::Sealed(sealed) if !is_key_id(sealed.text.key()) => {
                return Err(corrupt("it is sealed with no key").of(sealed.tenant));
            }
            Stored::Sealed(sealed) => sealed,
        };
        let opened = self.open(&place(expected, tenant), &text).and_then(expand);
        let record = opened.and_then(|document| Record::decode(expected, &document));
        match record {
            Ok(record) if record.tenant != tenant => Err(corrupt("it is sealed as another tenant's").of(tenant)),
            // The seal tells whose it is, not what lies in it.
            Err(StoreError::OfTenant { cause, .. }) => Err(cause.of(tenant)),
            record => record.map_err(|error| error.of(tenant)),
        }
    }

    fn open(&self, place: &[u8], text: &SealedText<'_>) -> Result<Vec<u8>, StoreError> {
        let unknown = || StoreError::UnknownKey { key: text.key().to_owned() };
        self.keys.as_ref().ok_or_else(unknown)?.open_document(place, text).map_err(|error| match error {
            SealError::UnknownKey(key) => StoreError::UnknownKey { key },
            SealError::Damaged(_) | SealError::NoRandomness => corrupt(error.to_string()),
        })
    }

    /// Whether two documents under one key are the same record. Sealed twice, a record looks different.
    pub(super) fn are_same(&self, id: &ResponseId, one: &[u8], other: &[u8]) -> bool {
        let read = |document| self.decode(id, document, Ok).ok();
        one == other || self.keys.is_some() && read(one).zip(read(other)).is_some_and(|(one, other)| one == other)
    }
}

/// Where a record belongs: its id, which holds no zero, and its tenant's digits, none without one.
fn place(id: &ResponseId, tenant: Option<Tenant>) -> Vec<u8> {
    let tenant = tenant.map(|tenant| tenant.to_string()).unwrap_or_default();
    [id.as_str().as_bytes(), b"\0", tenant.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;
    use crate::sealing::SealingKey;
    use crate::store::{Ancestors, KnownItems};

    fn keys(ids: &[&str]) -> RecordCodec {
        let keys = ids.iter().map(|id| SealingKey::new(id, &format!("{id:A<42}A=")).unwrap()).collect();
        RecordCodec::new(SealingKeys::new(keys), false)
    }

    fn record(number: u128, tenant: Option<&str>) -> Record {
        let id = ResponseId::from_bits(number);
        let response = format!("{{\"id\":\"{id}\",\"object\":\"response\",\"output_text\":\"MARKER\"}}");
        Record {
            response: RawValue::from_string(response).unwrap(),
            ancestors: Ancestors::Listed([ResponseId::from_bits(99)].into_iter().collect()),
            input: vec![RawValue::from_string("{\"content\":\"MARKER\"}".to_owned()).unwrap()],
            interrupted: true,
            tenant: tenant.map(|name| Tenant::named(name.as_bytes())),
            id,
            items: KnownItems::default(),
        }
    }

    fn encode(codec: &RecordCodec, record: &Record) -> String {
        String::from_utf8(codec.encode(record, Ok).unwrap()).unwrap()
    }

    fn decode(codec: &RecordCodec, id: &ResponseId, document: &str) -> Result<Record, StoreError> {
        codec.decode(id, document.as_bytes(), Ok)
    }

    /// Whether it is a damaged record that is said to be this tenant's.
    fn is_corrupt(read: Result<Record, StoreError>, whose: Option<Tenant>) -> bool {
        match read.unwrap_err() {
            StoreError::OfTenant { tenant, cause } => whose == Some(tenant) && cause.class() == "corrupt",
            error => whose.is_none() && error.class() == "corrupt",
        }
    }

    #[test]
    fn a_sealed_document_is_json_that_tells_the_id_and_the_tenant_alone() {
        for tenant in [None, Some("acme")] {
            let (codec, record) = (keys(&["k1"]), record(3, tenant));
            let text = encode(&codec, &record);
            let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
            let sealed = value["responses_router"]["sealed"].take();
            assert_eq!(sealed["key"], "k1");
            let tenant =
                tenant.map_or(String::new(), |_| "\"tenant\":\"822b33ad87c148a0a20a5ba7cd5ebcaa\",".to_owned());
            let shown = format!(
                "{{\"id\":\"{}\",\"object\":\"response\",\"responses_router\":{{\"version\":2,{tenant}\"sealed\":null}}}}",
                record.id
            );
            assert_eq!(value, serde_json::from_str::<serde_json::Value>(&shown).unwrap());
            assert_eq!(decode(&codec, &record.id, &text).unwrap(), record);
            assert!(Record::decode(&record.id, text.as_bytes()).is_err());
        }
    }

    #[test]
    fn keys_are_rotated_by_putting_the_new_one_first() {
        let record = record(3, None);
        let old = encode(&keys(&["old"]), &record);
        let new = encode(&keys(&["new", "old"]), &record);
        assert!(decode(&keys(&["new", "old"]), &record.id, &old).is_ok());
        assert!(decode(&keys(&["old", "new"]), &record.id, &new).is_ok());
        for (codec, text, missing) in
            [(keys(&["old"]), &new, "new"), (keys(&["new"]), &old, "old"), (RecordCodec::default(), &old, "old")]
        {
            match decode(&codec, &record.id, text) {
                Err(StoreError::UnknownKey { key }) => assert_eq!(key, missing),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_names_no_key_is_quoted_in_no_error() {
        let record = record(3, None);
        let sealed = encode(&keys(&["k1"]), &record);
        for id in [String::new(), "k".repeat(33), "k\\n1".to_owned()] {
            let text = sealed.replace("\"key\":\"k1\"", &format!("\"key\":\"{id}\""));
            assert_ne!(text, sealed);
            for codec in [keys(&["k1"]), RecordCodec::default()] {
                let error = decode(&codec, &record.id, &text).unwrap_err();
                assert!(matches!(&error, StoreError::Corrupt(why) if why.len() < 40), "{error}");
            }
        }
    }

    #[test]
    fn a_record_that_was_moved_to_another_id_or_tenant_does_not_open() {
        let codec = keys(&["k1"]);
        let theirs = record(3, Some("acme"));
        let text = encode(&codec, &theirs);
        let other_id = ResponseId::from_bits(4);
        let moved = text.replace(theirs.id.as_str(), other_id.as_str());
        assert!(is_corrupt(decode(&codec, &other_id, &moved), Some(Tenant::named(b"acme"))));
        for tenant in [Tenant::named(b"evil"), Tenant::named(b"")] {
            let moved = text.replace("822b33ad87c148a0a20a5ba7cd5ebcaa", &tenant.to_string());
            assert!(is_corrupt(decode(&codec, &theirs.id, &moved), Some(tenant)));
        }
        let nobodys = text.replace("\"tenant\":\"822b33ad87c148a0a20a5ba7cd5ebcaa\",", "");
        assert!(is_corrupt(decode(&codec, &theirs.id, &nobodys), None));
    }

    #[test]
    fn records_that_are_not_sealed_are_read_unless_that_is_forbidden() {
        let record = record(3, None);
        let open = encode(&RecordCodec::default(), &record);
        assert_eq!(open.as_bytes(), record.encode());
        assert_eq!(decode(&keys(&["k1"]), &record.id, &open).unwrap(), record);
        let strict = RecordCodec { sealed_only: true, ..keys(&["k1"]) };
        assert!(matches!(decode(&strict, &record.id, &open), Err(StoreError::Corrupt(_))));
        assert_eq!(decode(&strict, &record.id, &encode(&strict, &record)).unwrap(), record);
    }

    #[test]
    fn a_record_that_was_sealed_twice_is_the_same_record() {
        let (codec, record) = (keys(&["k1"]), record(3, None));
        let other = Record { interrupted: false, ..record.clone() };
        let [one, again, other] = [&record, &record, &other].map(|record| encode(&codec, record));
        assert_ne!(one, again);
        assert!(codec.are_same(&record.id, one.as_bytes(), again.as_bytes()));
        assert!(!codec.are_same(&record.id, one.as_bytes(), other.as_bytes()));
        assert!(!codec.are_same(&record.id, one.as_bytes(), b""));
    }
}
