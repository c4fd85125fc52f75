//! Records at rest: whatever lies under a key is a record or a typed error, and what was read once is written and read
//! again without a change.
#![no_main]

use libfuzzer_sys::fuzz_target;
use responses_router::id::ResponseId;
use responses_router::store::{Ancestors, Record, StoreError};
use serde_json::value::RawValue;

fuzz_target!(|bytes: &[u8]| {
    let id = ResponseId::from_bits(1);
    let record = match Record::decode(&id, bytes) {
        Ok(record) => record,
        Err(StoreError::Corrupt(why)) => {
            assert!(why.len() < 200, "the reason quotes the record: {why}");
            return;
        }
        Err(other) => panic!("reading a record is not {other}"),
    };
    assert_eq!(record.id, id);
    let encoded = record.encode();
    let again = Record::decode(&id, &encoded).expect("what was encoded can be read");
    assert_eq!(again.response.get(), record.response.get());
    assert_eq!(again.parent(), record.parent());
    if let Ancestors::Listed(_) = record.ancestors {
        assert_eq!(again, record);
    }
    assert_eq!(again.encode(), encoded, "a second round changes nothing");
    // Any number is JSON; `Value` would refuse those that no float can hold.
    assert!(serde_json::from_slice::<&RawValue>(&encoded).is_ok_and(|document| document.get().starts_with('{')));
});
