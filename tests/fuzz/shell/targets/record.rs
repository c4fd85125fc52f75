//! Records at rest: whatever lies under a key is a record or a typed error, and what was read once is written and read
//! again without a change, open and sealed. Sealed records open only where they were written. Whatever response one has is
//! sent as JSON.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use responses_router::id::ResponseId;
use responses_router::openai::output_text;
use responses_router::openai::raw::Members;
use responses_router::sealing::{SealingKey, SealingKeys};
use responses_router::store::{Ancestors, Record, RecordCodec, StoreError};
use responses_router::tenant::Tenant;
use serde_json::value::RawValue;

/// Seals, and reads what is not sealed.
static SEALING: LazyLock<RecordCodec> = LazyLock::new(|| RecordCodec::new(keys(), false));

/// Reads only what is sealed: what does not look so any more is no record of the other router.
static STRICT: LazyLock<RecordCodec> = LazyLock::new(|| RecordCodec::new(keys(), true));

fn keys() -> Option<SealingKeys> {
    let key = SealingKey::new("k1", &format!("{:A<43}=", "fuzz")).expect("a key");
    SealingKeys::new(vec![key])
}

fuzz_target!(|bytes: &[u8]| {
    let id = ResponseId::from_bits(1);
    let record = open(&id, bytes);
    match (SEALING.decode(&id, bytes, Ok).map_err(cause), &record) {
        (Ok(read), Some(record)) => assert_eq!(read, *record),
        // By chance nothing is a seal; the seeds are some.
        (Ok(read), None) => round_trips(&read),
        (Err(StoreError::Corrupt(why)), None) => assert!(why.len() < 200, "the reason quotes the record: {why}"),
        (Err(StoreError::UnknownKey { key }), None) => assert!(key.len() <= 32, "the reason quotes the record: {key}"),
        (other, _) => panic!("{other:?} of what is {record:?} when it is not sealed"),
    }
    if let Some(record) = record {
        is_sent_whole(&record.response);
        round_trips(&record);
        stays_where_it_is(&record, bytes);
    }
});

fn open(id: &ResponseId, bytes: &[u8]) -> Option<Record> {
    match Record::decode(id, bytes).map_err(cause) {
        Ok(record) => Some(record),
        Err(StoreError::Corrupt(why)) => {
            assert!(why.len() < 200, "the reason quotes the record: {why}");
            None
        }
        Err(other) => panic!("reading a record is not {other}"),
    }
}

/// What is wrong with a record, whosever it is.
fn cause(error: StoreError) -> StoreError {
    match error {
        StoreError::OfTenant { cause, .. } => *cause,
        error => error,
    }
}

/// What a client gets is the stored response, with its text if it has a list of output, and once completed it is complete.
fn is_sent_whole(response: &RawValue) {
    let sent = output_text::completed(response);
    let kept = response.get().strip_suffix('}').expect("a response is an object");
    assert!(sent.starts_with(kept), "{sent} is not {response}");
    let sent: &RawValue = serde_json::from_str(&sent).expect("what is sent is JSON");
    let object = Members::of_raw(sent).expect("an object");
    // Of a member that stands there twice, which no router writes, each reader may take another one.
    let is_single = response.get().matches("\"output\"").count() == 1;
    let has_output = is_single && object.raw("output").is_some_and(|output| output.get().starts_with('['));
    assert!(object.contains("output_text") || !has_output, "{sent} has no text");
    assert_eq!(output_text::completed(sent), sent.get(), "it was not complete");
}

fn round_trips(record: &Record) {
    let encoded = record.encode();
    let again = Record::decode(&record.id, &encoded).expect("what was encoded can be read");
    assert_eq!(again.response.get(), record.response.get());
    assert_eq!(again.parent(), record.parent());
    if let Ancestors::Listed(_) = record.ancestors {
        assert_eq!(again, *record);
    }
    assert_eq!(again.encode(), encoded, "a second round changes nothing");
    // Any number is JSON; `Value` would refuse those that no float can hold.
    assert!(serde_json::from_slice::<&RawValue>(&encoded).is_ok_and(|document| document.get().starts_with('{')));

    let sealed = SEALING.encode(record, Ok).expect("any record can be sealed");
    assert_eq!(SEALING.decode(&record.id, &sealed, Ok).expect("what was sealed opens"), again);
}

/// Moves the sealed record to another id and another tenant, changes a byte of it, and puts other contents under its seal.
fn stays_where_it_is(record: &Record, bytes: &[u8]) {
    let sealed = String::from_utf8(SEALING.encode(record, Ok).expect("any record can be sealed")).expect("JSON");
    let other_id = ResponseId::from_bits(2);
    let moved = sealed.replacen(record.id.as_str(), other_id.as_str(), 1);
    assert!(SEALING.decode(&other_id, moved.as_bytes(), Ok).is_err(), "it opens as another response");
    let place = "\"responses_router\":{\"version\":2,";
    assert!(sealed.contains(place), "the tests know the form of a sealed record: {sealed}");
    let tenants = record.tenant.map(|tenant| format!("\"tenant\":\"{tenant}\",")).unwrap_or_default();
    for other in [String::new(), format!("\"tenant\":\"{}\",", Tenant::named(bytes))] {
        if other != tenants {
            let moved = sealed.replacen(&format!("{place}{tenants}"), &format!("{place}{other}"), 1);
            assert!(SEALING.decode(&record.id, moved.as_bytes(), Ok).is_err(), "it opens as another tenant's");
        }
    }
    let mut damaged = sealed.into_bytes();
    let at = bytes.iter().fold(bytes.len(), |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    let at = at % damaged.len();
    damaged[at] ^= 1 << (at % 8);
    if let Ok(read) = STRICT.decode(&record.id, &damaged, Ok) {
        assert_eq!(read.encode(), record.encode(), "a changed byte changes the record");
    }
    // A seal around anything: what opens is read as carefully as what was never sealed.
    let other = Record { tenant: None, ..record.clone() };
    let around = SEALING.encode(&other, |_| Ok(bytes.to_vec())).expect("anything can be sealed");
    match SEALING.decode(&other.id, &around, Ok) {
        Ok(read) => assert!(read.tenant.is_none()),
        Err(error) => assert!(matches!(error, StoreError::Corrupt(_)), "{error}"),
    }
}
