//! The one JSON document that a record is at rest.
//!
//! The document is the response object as its client got it but for `output_text`, which its output says already, then the
//! turn's `input`, then what is ours under one key (CONTRACT §9). So a person reads it with `redis-cli GET`, and the Go semantic-router, which keeps the same members
//! under the same keys, can read ours as we read its:
//!
//! ```json
//! {"id":"resp_…","object":"response", … ,"input":[…],"responses_router":{"version":1,"ancestors":["resp_…"]}}
//! ```
//!
//! Encrypted (`response_api.encryption`), such a document lies inside another one that tells no more than whose it is:
//!
//! ```json
//! {"id":"resp_…","object":"response","responses_router":{"version":2,"sealed":{"key":"…","salt":"…","data":"…"}}}
//! ```

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::ancestors::{AncestorIds, Ancestors};
use super::document::{Document, corrupt, unreadable};
use super::known_items::KnownItems;
use super::{Record, StoreError, foreign};
use crate::id::{ItemPrefix, ResponseId};
use crate::openai::raw::RawObject;
use crate::openai::raw_walk;
use crate::openai::tool_call::Side;
use crate::sealing::{SealedDocument, SealedText};
use crate::tenant::Tenant;

/// The newest version that [`Record::decode`] reads.
///
/// It rises only when an older reader would misread the document. A member added under our key does not raise it:
/// readers pass over what they do not know, so that two releases can share a store during a rolling upgrade. Each
/// document gets the oldest version that reads it right:
///
/// 1. A record of everybody.
/// 2. A record of a tenant, which a reader of version 1 would show to anyone; or one that is sealed.
const RECORD_VERSION: u32 = 2;
const OPEN_VERSION: u32 = 1;

const OURS: &str = "responses_router";
const INPUT: &str = "input";
/// Our own incomplete_reason.
const INTERRUPTED: &str = "client_disconnected";

/// What lies under a key, read as far as it can be without keys.
pub(super) enum Stored<'a> {
    /// A record.
    Open(Box<Record>),
    /// One that has to be opened first.
    Sealed(Sealed<'a>),
}

/// A record whose document is sealed.
#[derive(Debug)]
pub(super) struct Sealed<'a> {
    pub(super) tenant: Option<Tenant>,
    pub(super) text: SealedText<'a>,
}

impl Record {
    /// The record as one JSON document.
    ///
    /// A response that is not a JSON object gives a document without an id, which [`Self::decode`] refuses.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let members = self.response.get().trim().strip_prefix('{').and_then(|text| text.strip_suffix('}'));
        let members = members.unwrap_or_default().trim();
        let ancestors = match &self.ancestors {
            Ancestors::Listed(ids) => Some(ids),
            Ancestors::Walk(_) => None,
        };
        // A number and a list of ids always serialise; an empty text in their place could not be read back.
        let incomplete_reason = self.interrupted.then_some(INTERRUPTED);
        let version = if self.tenant.is_some() { RECORD_VERSION } else { OPEN_VERSION };
        let ours = OursOut {
            version,
            tenant: self.tenant,
            ancestors: ancestors.map(AncestorIds::json),
            ancestors_kept_until: ancestors.map(AncestorIds::kept_until).filter(|until| *until > 0),
            incomplete_reason,
        };
        let ours = serde_json::to_string(&ours).unwrap_or_default();

        let mut text = String::with_capacity(self.payload_bytes() + self.input.len() + ours.len() + 64);
        text.push('{');
        text.push_str(members);
        if !members.is_empty() {
            text.push(',');
        }
        text.push_str("\"input\":[");
        for (index, item) in self.input.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            text.push_str(item.get());
        }
        text.push_str("],\"");
        text.push_str(OURS);
        text.push_str("\":");
        text.push_str(&ours);
        text.push('}');
        text.into_bytes()
    }

    /// Reads the document that lies under the key of `expected`: ours, or one of the Go semantic-router.
    ///
    /// A response that was compact JSON when encoded comes back byte for byte. Members that we do not know stay with
    /// the response; those under our own key are passed over.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it is no such document, when it carries another id (a crossed reply must never be
    /// handed on), when a newer release wrote it, or when it is sealed. The reason quotes nothing of the content. As soon
    /// as it is known whose it is, [`StoreError::OfTenant`] says so.
    pub fn decode(expected: &ResponseId, bytes: &[u8]) -> Result<Self, StoreError> {
        match Self::read(expected, bytes)? {
            Stored::Open(record) => Ok(*record),
            Stored::Sealed(sealed) => Err(corrupt("it is sealed").of(sealed.tenant)),
        }
    }

    /// The same for what may be sealed.
    pub(super) fn read<'a>(expected: &ResponseId, bytes: &'a [u8]) -> Result<Stored<'a>, StoreError> {
        let text = std::str::from_utf8(bytes).map_err(|_| corrupt("not UTF-8"))?;
        let document = Document::parse(text)?;
        let id: Option<ResponseId> = document.read("id")?;
        if id.as_ref() != Some(expected) {
            return Err(corrupt("it carries another id than its key"));
        }
        let record = match document.read::<OursIn<'a>>(OURS)? {
            Some(ours) if ours.version == 0 || ours.version > RECORD_VERSION => {
                let version = ours.version;
                let reason =
                    format!("it has format version {version}, this release reads versions up to {RECORD_VERSION}");
                return Err(corrupt(reason).of(ours.tenant));
            }
            Some(OursIn { sealed: Some(text), tenant, .. }) => return Ok(Stored::Sealed(Sealed { tenant, text })),
            Some(ours) => {
                let tenant = ours.tenant;
                Self::decode_own(expected, &document, ours).map_err(|error| error.of(tenant))?
            }
            None => Self::decode_foreign(expected, &document)?,
        };
        Ok(Stored::Open(Box::new(record)))
    }

    /// The JSON document in which a sealed one lies.
    pub(super) fn encode_sealed(&self, sealed: &SealedDocument<'_>) -> Vec<u8> {
        let ours = OursSealed { version: RECORD_VERSION, tenant: self.tenant, sealed };
        let document = SealedOut { id: &self.id, object: "response", responses_router: ours };
        // Ids and base64 always serialise.
        serde_json::to_vec(&document).unwrap_or_default()
    }

    fn decode_own(id: &ResponseId, document: &Document<'_>, ours: OursIn<'_>) -> Result<Self, StoreError> {
        let interrupted = ours.incomplete_reason.as_deref() == Some(INTERRUPTED);
        let ancestors = match ours.ancestors {
            Some(ids) => Ancestors::Listed(AncestorIds::stored(ids, ours.ancestors_kept_until)?),
            None => Ancestors::Walk(document.previous()?),
        };
        let input = document.raw(INPUT).ok_or_else(|| corrupt("it has no input"))?;
        let input = raw_walk::items(input).ok_or_else(|| corrupt("its input is no list"))?;
        let input = input.into_iter().map(ToOwned::to_owned).collect();
        // Ours come last: were the response itself to have such members, they would stay with it.
        let response = match (document.last(INPUT), document.last(OURS)) {
            (Some(input), Some(ours)) if input + 1 == ours && document.key(ours + 1).is_none() => {
                document.before(input)?
            }
            (input, ours) => document.join(|index| ![input, ours].contains(&Some(index)))?,
        };
        Ok(Self {
            id: id.clone(),
            ancestors,
            input,
            response,
            interrupted,
            tenant: ours.tenant,
            items: KnownItems::default(),
        })
    }

    fn decode_foreign(id: &ResponseId, document: &Document<'_>) -> Result<Self, StoreError> {
        if document.read::<String>("object")?.as_deref() != Some("response") {
            return Err(corrupt("it is not a response"));
        }
        let ancestors = Ancestors::Walk(document.previous()?);
        let items: Vec<Box<RawValue>> = document.read(INPUT)?.unwrap_or_default();
        let input = items.into_iter().enumerate().map(|(ordinal, item)| with_id(item, id, ordinal)).collect();
        // `ttl` is the other router's bookkeeping, not part of the response.
        let response = document.join(|index| !matches!(document.key(index), Some(INPUT | "ttl")))?;
        let response = serde_json::from_str(response.get()).map_err(|error| unreadable("document", &error))?;
        let response = foreign::completed(id, &response).ok_or_else(|| corrupt("its response is not readable"))?;
        Ok(Self {
            id: id.clone(),
            ancestors,
            input,
            response,
            interrupted: false,
            tenant: None,
            items: KnownItems::default(),
        })
    }
}

/// Gives an item of a foreign record the id that it lacks: the same one at every read.
pub(super) fn with_id(item: Box<RawValue>, response: &ResponseId, ordinal: usize) -> Box<RawValue> {
    let Ok(mut object) = serde_json::from_str::<RawObject>(item.get()) else { return item };
    if object.text("id").is_some_and(|id| !id.is_empty()) {
        return item;
    }
    let prefix = match object.text("type").as_deref() {
        None | Some("message") => ItemPrefix::Message,
        Some("reasoning") => ItemPrefix::Reasoning,
        Some(kind) => Side::of(kind).map_or(ItemPrefix::Other, Side::prefix),
    };
    let Ok(id) = serde_json::value::to_raw_value(&response.item(prefix, ordinal)) else { return item };
    object.set_first("id", id);
    serde_json::value::to_raw_value(&object).unwrap_or(item)
}

#[derive(Serialize)]
struct OursOut<'a> {
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<Tenant>,
    ancestors: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ancestors_kept_until: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    incomplete_reason: Option<&'static str>,
}

#[derive(Serialize)]
struct SealedOut<'a> {
    id: &'a ResponseId,
    object: &'static str,
    responses_router: OursSealed<'a>,
}

#[derive(Serialize)]
struct OursSealed<'a> {
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<Tenant>,
    sealed: &'a SealedDocument<'a>,
}

#[derive(Deserialize)]
struct OursIn<'a> {
    version: u32,
    /// One that cannot be read makes the record unreadable: it must not pass for everybody's.
    #[serde(default)]
    tenant: Option<Tenant>,
    #[serde(default, borrow)]
    ancestors: Option<&'a RawValue>,
    #[serde(default)]
    ancestors_kept_until: u64,
    #[serde(default)]
    incomplete_reason: Option<String>,
    #[serde(default, borrow)]
    sealed: Option<SealedText<'a>>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn id(bits: u128) -> ResponseId {
        ResponseId::from_bits(bits)
    }

    fn reason(result: Result<Record, StoreError>) -> String {
        match result {
            Err(StoreError::Corrupt(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    fn record(response: &str) -> Record {
        Record {
            id: id(3),
            ancestors: Ancestors::Listed([id(1), id(2)].into_iter().collect()),
            input: vec![raw(r#"{"id":"msg_3_0","type":"message"}"#), raw(r#"{"id":"x","n":1.50}"#)],
            response: raw(response),
            interrupted: false,
            tenant: None,
            items: KnownItems::default(),
        }
    }

    #[test]
    fn the_document_is_the_response_then_the_input_then_one_key_of_ours() {
        let record = record(r#"{"id":"resp_00000000000000000000000000000003","object":"response","big":1e400}"#);
        let text = String::from_utf8(record.encode()).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"id":"resp_00000000000000000000000000000003","object":"response","big":1e400,"#,
                r#""input":[{"id":"msg_3_0","type":"message"},{"id":"x","n":1.50}],"#,
                r#""responses_router":{"version":1,"ancestors":["resp_00000000000000000000000000000001","#,
                r#""resp_00000000000000000000000000000002"]}}"#,
            )
        );
        assert_eq!(Record::decode(&id(3), text.as_bytes()).unwrap(), record);
        assert_eq!(record.parent(), Some(&id(2)));
    }

    #[test]
    fn members_named_like_ours_stay_with_the_response() {
        let text = r#"{"id":"resp_00000000000000000000000000000003","input":"mine","responses_router":0,"a":1,"a":2}"#;
        let record = record(text);
        assert_eq!(Record::decode(&id(3), &record.encode()).unwrap().response.get(), text);
    }

    #[test]
    fn a_document_that_somebody_spaced_out_is_read_as_a_compact_one() {
        let compact = record(r#"{"id":"resp_00000000000000000000000000000003","object":"response","a b":[1, 2]}"#);
        let text = String::from_utf8(compact.encode()).unwrap();
        for (from, to) in [
            ("{\"id", "{\t\n\"id"),
            (",\"object", " , \"object"),
            ("\"a b\":", "\"a\\u0020b\":"),
            (",\"input", "\n,\"input"),
        ] {
            let spaced = text.replacen(from, to, 1);
            assert_ne!(spaced, text);
            let read = Record::decode(&id(3), spaced.as_bytes()).unwrap();
            assert_eq!(read, compact, "{spaced}");
            assert_eq!(read.encode(), text.as_bytes());
        }
        assert_eq!(Record::decode(&id(3), format!(" {text} ").as_bytes()).unwrap(), compact);
    }

    #[test]
    fn a_record_of_another_id_is_corrupt() {
        let record = record(r#"{"id":"resp_00000000000000000000000000000003"}"#);
        assert!(reason(Record::decode(&id(4), &record.encode())).contains("another id"));
        let nameless = Record { response: raw("[]"), ..record };
        assert!(reason(Record::decode(&id(3), &nameless.encode())).contains("another id"));
    }

    #[test]
    fn a_newer_version_is_corrupt_and_says_so() {
        let text = r#"{"id":"resp_00000000000000000000000000000003","input":[],"responses_router":{"version":3}}"#;
        assert_eq!(
            reason(Record::decode(&id(3), text.as_bytes())),
            "it has format version 3, this release reads versions up to 2"
        );
    }

    #[test]
    fn unknown_members_of_a_later_release_are_passed_over() {
        let text = concat!(
            r#"{"id":"resp_00000000000000000000000000000003","later":[1, 2],"input":[],"#,
            r#""responses_router":{"version":1,"owner":{"x":1},"ancestors":[],"codec":"none"}}"#
        );
        let record = Record::decode(&id(3), text.as_bytes()).unwrap();
        assert_eq!(record.ancestors, Ancestors::Listed(AncestorIds::default()));
        assert_eq!(record.response.get(), r#"{"id":"resp_00000000000000000000000000000003","later":[1, 2]}"#);
    }

    #[test]
    fn a_record_tells_until_when_its_ancestors_are_kept_and_earlier_releases_told_nothing() {
        let mut record = record(r#"{"id":"resp_00000000000000000000000000000003"}"#);
        let known = [id(1), id(2)].into_iter().collect::<AncestorIds>().kept(1_700_000_000);
        record.ancestors = Ancestors::Listed(known);
        let text = String::from_utf8(record.encode()).unwrap();
        let until = ",\"ancestors_kept_until\":1700000000";
        assert!(text.ends_with(&format!("\"resp_00000000000000000000000000000002\"]{until}}}}}")), "{text}");
        let kept = |text: &str| match Record::decode(&id(3), text.as_bytes()).unwrap().ancestors {
            Ancestors::Listed(ids) => (ids.read().unwrap(), ids.kept_until()),
            Ancestors::Walk(_) => panic!("not listed"),
        };
        assert_eq!(kept(&text), (vec![id(1), id(2)], 1_700_000_000));
        assert_eq!(kept(&text.replace(until, "")), (vec![id(1), id(2)], 0));
    }

    #[test]
    fn a_record_of_a_tenant_names_it_and_is_not_for_readers_that_know_no_tenants() {
        let everybodys = record(r#"{"id":"resp_00000000000000000000000000000003"}"#);
        let theirs = Record { tenant: Some(Tenant::named(b"acme")), ..everybodys.clone() };
        let text = String::from_utf8(theirs.encode()).unwrap();
        let ours = r#""responses_router":{"version":2,"tenant":"822b33ad87c148a0a20a5ba7cd5ebcaa","ancestors":["#;
        assert!(text.contains(ours), "{text}");
        assert_eq!(Record::decode(&id(3), text.as_bytes()).unwrap(), theirs);
        assert_ne!(theirs, everybodys);
        for unreadable in ["\"acme\"", "7", "{}", "\"\""] {
            let text = text.replace("\"822b33ad87c148a0a20a5ba7cd5ebcaa\"", unreadable);
            reason(Record::decode(&id(3), text.as_bytes()));
        }
    }

    #[test]
    fn what_is_no_record_is_corrupt_without_quoting_it() {
        let own = r#""id":"resp_00000000000000000000000000000003""#;
        for text in [
            String::new(),
            "secret".to_owned(),
            "[]".to_owned(),
            "\"OK\"".to_owned(),
            "{}".to_owned(),
            format!("{{{own}}}"),
            format!("{{{own},\"object\":\"secret\"}}"),
            format!("{{{own},\"object\":\"response\",\"input\":\"secret\"}}"),
            format!("{{{own},\"object\":\"response\",\"previous_response_id\":\"secret\"}}"),
            format!("{{{own},\"responses_router\":{{\"version\":1,\"ancestors\":[]}}}}"),
            format!("{{{own},\"input\":[],\"responses_router\":{{\"version\":1,\"ancestors\":[\"secret\"]}}}}"),
            format!("{{{own},\"input\":[],\"responses_router\":\"secret\"}}"),
            format!("{{{own},\"input\":[],\"responses_router\":{{\"version\":1,\"ancestors\":[]}}}} secret"),
        ] {
            assert!(!reason(Record::decode(&id(3), text.as_bytes())).contains("secret"), "{text}");
        }
        assert_eq!(reason(Record::decode(&id(3), b"{\"\xff\":1}")), "not UTF-8");
        assert!(!format!("{:?}", record(r#"{"secret":1}"#)).contains("secret"));
    }

    #[test]
    fn a_record_of_the_go_router_is_read_and_has_to_be_walked() {
        let text = concat!(
            r#"{"id":"resp_0123456789abcdef01234567","object":"response","created_at":1700000000,"model":"m","#,
            r#""status":"completed","input":[{"type":"message","role":"user","content":"hi"},"#,
            r#"{"type":"message","id":"item_1","role":"user","content":[]}],"output":[{"type":"message"}],"#,
            r#""output_text":"hello","previous_response_id":"resp_fedcba98765432100123","conversation_id":"conv_1","#,
            r#""usage":{"input_tokens":1},"instructions":"be","metadata":{},"ttl":"0001-01-01T00:00:00Z"}"#
        );
        let own = ResponseId::parse("resp_0123456789abcdef01234567").unwrap();
        let record = Record::decode(&own, text.as_bytes()).unwrap();
        let parent = ResponseId::parse("resp_fedcba98765432100123").unwrap();
        assert_eq!(record.ancestors, Ancestors::Walk(Some(parent)));
        let items: Vec<&str> = record.input.iter().map(|item| item.get()).collect();
        assert_eq!(
            items,
            [
                r#"{"id":"msg_0123456789abcdef01234567_0","type":"message","role":"user","content":"hi"}"#,
                r#"{"type":"message","id":"item_1","role":"user","content":[]}"#
            ]
        );
        assert!(!record.response.get().contains("\"ttl\"") && !record.response.get().contains("\"input\""));

        let root = r#"{"id":"resp_0123456789abcdef01234567","object":"response","input":null}"#;
        let root = Record::decode(&own, root.as_bytes()).unwrap();
        assert_eq!(root.ancestors, Ancestors::Walk(None));
        assert_eq!(Record::decode(&own, &root.encode()).unwrap(), root);
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 24, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::vec((any::<String>(), inner), 0..6)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_record_comes_back_byte_for_byte(
            bits in any::<u128>(),
            ancestors in prop::collection::vec(any::<u128>(), 0..8),
            kept_until in any::<u64>(),
            input in prop::collection::vec(json(), 0..5),
            members in prop::collection::vec((any::<String>(), json()), 0..8),
            interrupted in any::<bool>(),
            tenant in prop::option::of(any::<[u8; 4]>()),
        ) {
            let mut response = serde_json::Map::new();
            response.insert("id".to_owned(), id(bits).as_str().into());
            response.extend(members.into_iter().filter(|(key, _)| key != "id"));
            let record = Record {
                id: id(bits),
                ancestors: Ancestors::Listed(ancestors.into_iter().map(id).collect::<AncestorIds>().kept(kept_until)),
                input: input.iter().map(|item| raw(&item.to_string())).collect(),
                response: raw(&serde_json::Value::Object(response).to_string()),
                interrupted,
                tenant: tenant.map(|name| Tenant::named(&name)),
                items: KnownItems::default(),
            };
            let bytes = record.encode();
            let back = Record::decode(&record.id, &bytes).unwrap();
            prop_assert_eq!(&back, &record);
            prop_assert_eq!(back.encode(), bytes);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Record::decode(&id(1), &bytes).is_err());
        }
    }
}
