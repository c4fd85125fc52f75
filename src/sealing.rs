//! All cryptography: keys that seal reasoning for clients that carry it (`response_api.reasoning_encryption`), keys that
//! seal records at rest (`response_api.encryption`), and the digests by which tenants are told apart (`tenancy`).
//!
//! A seal of reasoning is base64url of: version (1 byte), length of the key's id (1 byte), the key's id, salt (32 random bytes),
//! ciphertext and tag. Each seal has a key of its own, derived from ours and the salt with HKDF-SHA256, so that no number
//! of seals wears a key out and no nonce can repeat under one; it encrypts with AES-256-GCM. Version, key id and tenant
//! are authenticated with it: a seal of one tenant is damaged goods to another. A sealed record is made in the same way,
//! with a derivation of its own; authenticated with it are the key's id and the place where the record belongs.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::display::Base64Display;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::hmac::{self, HMAC_SHA256};
use secrecy::{ExposeSecret, SecretBox};
use serde::{Deserialize, Serialize, Serializer};

use crate::translate::sealing::Seal;

/// The version that is written, and the only one there is.
const VERSION: u8 = 1;
const SALT_BYTES: usize = 32;
const KEY_BYTES: usize = 32;
const MAX_KEY_ID_BYTES: usize = 32;
/// Sets the derivations apart, and from any other use of a key.
const REASONING: &[u8] = b"responses-router reasoning";
const RECORD: &[u8] = b"responses-router record";
/// Bytes of a SHA-256 digest.
const DIGEST_BYTES: usize = 32;

/// A key and the id by which seals name it. Its `Debug` does not show the key.
#[derive(Clone)]
pub struct SealingKey {
    id: Box<str>,
    key: Arc<SecretBox<[u8; KEY_BYTES]>>,
}

/// Why a key cannot be used. It tells nothing of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealingKeyError {
    /// The id would not fit into a seal or a log.
    #[error("an id must have 1 to {MAX_KEY_ID_BYTES} letters, digits, `-`, `_` or `.`")]
    Id,
    /// The key is no key.
    #[error("a key must be base64 of {KEY_BYTES} random bytes, as `openssl rand -base64 {KEY_BYTES}` gives")]
    Key,
}

/// Whether a key may have this id.
#[must_use]
pub fn is_key_id(id: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=MAX_KEY_ID_BYTES).contains(&id.len()) && id.bytes().all(legal)
}

impl SealingKey {
    /// A key from its base64 text; white space around it does not matter.
    ///
    /// # Errors
    /// [`SealingKeyError`].
    pub fn new(id: &str, base64: &str) -> Result<Self, SealingKeyError> {
        if !is_key_id(id) {
            return Err(SealingKeyError::Id);
        }
        Ok(Self { id: id.into(), key: Arc::new(secret(base64)?) })
    }

    /// The id by which seals name it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The key and the nonce of the one seal of this purpose that has this salt.
    fn derive(&self, purpose: &[u8], salt: &[u8; SALT_BYTES]) -> Option<(LessSafeKey, Nonce)> {
        struct Length;
        impl ring::hkdf::KeyType for Length {
            fn len(&self) -> usize {
                KEY_BYTES + NONCE_LEN
            }
        }
        let mut derived = [0; KEY_BYTES + NONCE_LEN];
        let extracted = Salt::new(HKDF_SHA256, salt).extract(self.key.expose_secret());
        extracted.expand(&[purpose], Length).ok()?.fill(&mut derived).ok()?;
        let (key, nonce) = derived.split_at(KEY_BYTES);
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?);
        Some((key, Nonce::try_assume_unique_for_key(nonce).ok()?))
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealingKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The keys in use: the first seals, all open, so that keys can be replaced while their seals are about.
#[derive(Debug, Clone)]
pub struct SealingKeys(Arc<[SealingKey]>);

impl SealingKeys {
    /// These keys; `None` without any.
    #[must_use]
    pub fn new(keys: Vec<SealingKey>) -> Option<Self> {
        (!keys.is_empty()).then(|| Self(keys.into()))
    }

    /// The keys as they serve one tenant; the empty name is that of a router without tenants.
    #[must_use]
    pub fn bound_to(&self, tenant: &str) -> Arc<dyn Seal> {
        Arc::new(TenantSeal { keys: self.clone(), tenant: tenant.into() })
    }
}

/// A record's document as it lies sealed, part of a JSON document.
#[derive(Debug, Serialize)]
pub struct SealedDocument<'k> {
    key: &'k str,
    #[serde(serialize_with = "as_base64")]
    salt: [u8; SALT_BYTES],
    #[serde(serialize_with = "as_base64")]
    data: Vec<u8>,
}

/// The same as it is read: the key's id, salt and ciphertext in base64url.
#[derive(Debug, Clone, Deserialize)]
pub struct SealedText<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow)]
    salt: Cow<'a, str>,
    #[serde(borrow)]
    data: Cow<'a, str>,
}

impl SealedText<'_> {
    /// The id of the key that it is sealed with, as it stands there.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// Why a document could not be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The operating system gave no randomness.
    #[error("there is no randomness to seal it with")]
    NoRandomness,
    /// No key has the id that the seal names.
    #[error("it is sealed with the key {0:?}, which is not among the keys")]
    UnknownKey(String),
    /// Damaged, moved here from another place, or sealed with another key of that id.
    #[error("its seal does not open with the key {0:?}: it was damaged, or belongs elsewhere")]
    Damaged(String),
}

impl SealingKeys {
    /// Seals a document with the first key. `place` says where it belongs: it opens nowhere else.
    ///
    /// # Errors
    /// [`SealError::NoRandomness`].
    pub fn seal_document(&self, place: &[u8], mut document: Vec<u8>) -> Result<SealedDocument<'_>, SealError> {
        let sealed = self.0.first().zip(random_salt()).and_then(|(key, salt)| {
            let (derived, nonce) = key.derive(RECORD, &salt)?;
            derived.seal_in_place_append_tag(nonce, document_aad(key.id(), place), &mut document).ok()?;
            Some(SealedDocument { key: key.id(), salt, data: document })
        });
        sealed.ok_or(SealError::NoRandomness)
    }

    /// Opens a document that was sealed for this place.
    ///
    /// # Errors
    /// [`SealError::UnknownKey`] and [`SealError::Damaged`].
    pub fn open_document(&self, place: &[u8], sealed: &SealedText<'_>) -> Result<Vec<u8>, SealError> {
        let id = &*sealed.key;
        let key = self.0.iter().find(|key| key.id() == id).ok_or_else(|| SealError::UnknownKey(id.to_owned()))?;
        let opened = || {
            let salt = URL_SAFE_NO_PAD.decode(&*sealed.salt).ok()?;
            let mut document = URL_SAFE_NO_PAD.decode(&*sealed.data).ok()?;
            let (derived, nonce) = key.derive(RECORD, salt.as_slice().try_into().ok()?)?;
            let length = derived.open_in_place(nonce, document_aad(id, place), &mut document).ok()?.len();
            document.truncate(length);
            Some(document)
        };
        opened().ok_or_else(|| SealError::Damaged(id.to_owned()))
    }
}

/// What is authenticated besides a document. An id of a key holds no zero.
fn document_aad(key: &str, place: &[u8]) -> Aad<Vec<u8>> {
    Aad::from([key.as_bytes(), b"\0", place].concat())
}

fn as_base64<S: Serializer>(bytes: &impl AsRef<[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Base64Display::new(bytes.as_ref(), &URL_SAFE_NO_PAD))
}

/// The key under which credentials are told apart without being kept. Its `Debug` does not show it.
#[derive(Clone)]
pub struct IdentityKey(Arc<SecretBox<[u8; KEY_BYTES]>>);

impl IdentityKey {
    /// A key from its base64 text; white space around it does not matter.
    ///
    /// # Errors
    /// [`SealingKeyError::Key`].
    pub fn new(base64: &str) -> Result<Self, SealingKeyError> {
        Ok(Self(Arc::new(secret(base64)?)))
    }

    /// HMAC-SHA-256 of a credential: without the key nobody can tell which credential it is of.
    #[must_use]
    pub fn digest(&self, credential: &[u8]) -> [u8; DIGEST_BYTES] {
        let key = hmac::Key::new(HMAC_SHA256, self.0.expose_secret());
        whole(hmac::sign(&key, credential).as_ref())
    }
}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityKey").finish_non_exhaustive()
    }
}

/// SHA-256 of a name.
#[must_use]
pub fn name_digest(name: &[u8]) -> [u8; DIGEST_BYTES] {
    whole(digest(&SHA256, name).as_ref())
}

/// A digest as an array; ring gives as many bytes as the algorithm has.
fn whole(digest: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut whole = [0; DIGEST_BYTES];
    whole.iter_mut().zip(digest).for_each(|(to, from)| *to = *from);
    whole
}

/// A secret from its base64 text.
fn secret(base64: &str) -> Result<SecretBox<[u8; KEY_BYTES]>, SealingKeyError> {
    let bytes = STANDARD.decode(base64.trim()).map_err(|_| SealingKeyError::Key)?;
    let key = <[u8; KEY_BYTES]>::try_from(bytes).map_err(|_| SealingKeyError::Key)?;
    Ok(SecretBox::new(Box::new(key)))
}

fn random_salt() -> Option<[u8; SALT_BYTES]> {
    let mut salt = [0; SALT_BYTES];
    rand::TryRng::try_fill_bytes(&mut rand::rngs::SysRng, &mut salt).ok()?;
    Some(salt)
}

/// The keys, bound to a tenant.
#[derive(Debug)]
struct TenantSeal {
    keys: SealingKeys,
    tenant: Box<str>,
}

impl TenantSeal {
    /// What is authenticated besides the text: the seal's own head, and whose it is.
    fn aad(&self, head: &[u8]) -> Aad<Vec<u8>> {
        Aad::from([head, self.tenant.as_bytes()].concat())
    }
}

impl Seal for TenantSeal {
    fn seal(&self, text: &str) -> Option<String> {
        let key = self.keys.0.first()?;
        let salt = random_salt()?;
        let mut sealed = vec![VERSION, u8::try_from(key.id.len()).ok()?];
        sealed.extend_from_slice(key.id.as_bytes());
        let aad = self.aad(&sealed);
        sealed.extend_from_slice(&salt);
        let (key, nonce) = key.derive(REASONING, &salt)?;
        let mut text = text.as_bytes().to_vec();
        key.seal_in_place_append_tag(nonce, aad, &mut text).ok()?;
        sealed.append(&mut text);
        Some(URL_SAFE_NO_PAD.encode(sealed))
    }

    fn open(&self, sealed: &str) -> Option<String> {
        let bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (&[version, length], rest) = bytes.split_first_chunk::<2>()?;
        if version != VERSION {
            return None;
        }
        let (id, rest) = rest.split_at_checked(usize::from(length))?;
        let (salt, ciphertext) = rest.split_first_chunk::<SALT_BYTES>()?;
        let key = self.keys.0.iter().find(|key| key.id.as_bytes() == id)?;
        let (key, nonce) = key.derive(REASONING, salt)?;
        let aad = self.aad(bytes.get(..2 + id.len())?);
        let mut text = ciphertext.to_vec();
        let text = key.open_in_place(nonce, aad, &mut text).ok()?;
        Some(std::str::from_utf8(text).ok()?.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, byte: u8) -> SealingKey {
        SealingKey::new(id, &STANDARD.encode([byte; KEY_BYTES])).unwrap()
    }

    fn seal(keys: &[SealingKey], tenant: &str) -> Arc<dyn Seal> {
        SealingKeys::new(keys.to_vec()).unwrap().bound_to(tenant)
    }

    #[test]
    fn what_was_sealed_is_opened_on_any_replica_and_no_two_seals_are_alike() {
        for text in ["", "Let me see.", "Überlegung\0\n"] {
            let one = seal(&[key("a", 1)], "t").seal(text).unwrap();
            let other = seal(&[key("a", 1)], "t").seal(text).unwrap();
            assert_ne!(one, other);
            assert_eq!(seal(&[key("a", 1)], "t").open(&one).as_deref(), Some(text));
            assert!(!one.contains("Let me"));
        }
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let old = seal(&[key("old", 1)], "").seal("x").unwrap();
        let both = seal(&[key("new", 2), key("old", 1)], "");
        assert_eq!(both.open(&old).as_deref(), Some("x"));
        let new = both.seal("y").unwrap();
        assert_eq!(seal(&[key("new", 2)], "").open(&new).as_deref(), Some("y"));
        assert_eq!(seal(&[key("old", 1)], "").open(&new), None);
        assert_eq!(seal(&[key("new", 2)], "").open(&old), None);
        // Another key under the same id.
        assert_eq!(seal(&[key("new", 3)], "").open(&new), None);
    }

    #[test]
    fn a_seal_is_its_tenants() {
        let sealed = seal(&[key("a", 1)], "one").seal("x").unwrap();
        for tenant in ["", "two", "on", "one2"] {
            assert_eq!(seal(&[key("a", 1)], tenant).open(&sealed), None, "{tenant}");
        }
    }

    #[test]
    fn any_damage_makes_a_seal_unreadable_and_nothing_makes_it_panic() {
        let ours = seal(&[key("a", 1)], "");
        let sealed = ours.seal("Let me see.").unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(&sealed).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(ours.open(&URL_SAFE_NO_PAD.encode(&damaged)), None, "byte {at}");
            assert_eq!(ours.open(&URL_SAFE_NO_PAD.encode(&bytes[..at])), None, "cut at {at}");
        }
        for foreign in ["", "gAAAAABh", "not base64!", "é", &"A".repeat(10_000), &STANDARD.encode([1; 80])] {
            assert_eq!(ours.open(foreign), None);
        }
    }

    fn sealed_text(keys: &SealingKeys, place: &[u8], document: &str) -> String {
        serde_json::to_string(&keys.seal_document(place, document.into()).unwrap()).unwrap()
    }

    fn opened(keys: &SealingKeys, place: &[u8], text: &str) -> Result<String, SealError> {
        keys.open_document(place, &serde_json::from_str(text).unwrap()).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_sealed_document_opens_in_its_place_alone_with_any_of_the_keys() {
        let old = SealingKeys::new(vec![key("old", 1)]).unwrap();
        let both = SealingKeys::new(vec![key("new", 2), key("old", 1)]).unwrap();
        let text = sealed_text(&old, b"here", "{\"secret\":1}");
        assert!(text.starts_with(r#"{"key":"old","salt":""#) && !text.contains("secret"), "{text}");
        assert_ne!(text, sealed_text(&old, b"here", "{\"secret\":1}"));
        assert_eq!(opened(&both, b"here", &text).unwrap(), "{\"secret\":1}");
        assert_eq!(opened(&both, b"there", &text), Err(SealError::Damaged("old".to_owned())));
        let new = sealed_text(&both, b"here", "x");
        assert_eq!(opened(&old, b"here", &new), Err(SealError::UnknownKey("new".to_owned())));
        // Another key under the same id, and the right key under another.
        let other = SealingKeys::new(vec![key("old", 3)]).unwrap();
        assert_eq!(opened(&other, b"here", &text), Err(SealError::Damaged("old".to_owned())));
        let renamed = SealingKeys::new(vec![key("ren", 1)]).unwrap();
        assert!(opened(&renamed, b"here", &text.replace("\"old\"", "\"ren\"")).is_err());
    }

    #[test]
    fn any_damage_makes_a_document_unreadable() {
        let keys = SealingKeys::new(vec![key("a", 1)]).unwrap();
        let text = sealed_text(&keys, b"p", "content");
        for at in text.find("salt").unwrap() + 7..text.len() - 2 {
            let mut damaged = text.clone().into_bytes();
            damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
            let damaged = String::from_utf8(damaged).unwrap();
            if let Ok(sealed) = serde_json::from_str::<SealedText<'_>>(&damaged) {
                assert!(keys.open_document(b"p", &sealed).is_err(), "{at}: {damaged}");
            }
        }
        for bad in ["", "x", "____"] {
            let sealed = SealedText { key: "a".into(), salt: bad.into(), data: bad.into() };
            assert!(keys.open_document(b"p", &sealed).is_err());
        }
    }

    #[test]
    fn reasoning_and_documents_do_not_open_as_each_other() {
        let keys = SealingKeys::new(vec![key("a", 1)]).unwrap();
        let (salt, place) = ([7; SALT_BYTES], b"p");
        let (reasoning, nonce) = keys.0[0].derive(REASONING, &salt).unwrap();
        let mut data = b"x".to_vec();
        reasoning.seal_in_place_append_tag(nonce, document_aad("a", place), &mut data).unwrap();
        let encode = |bytes: &[u8]| Cow::from(URL_SAFE_NO_PAD.encode(bytes));
        let sealed = SealedText { key: "a".into(), salt: encode(&salt), data: encode(&data) };
        assert_eq!(keys.open_document(place, &sealed), Err(SealError::Damaged("a".to_owned())));
    }

    #[test]
    fn digests_are_what_sha256sum_and_openssl_print() {
        let hex = |bytes: [u8; 32]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        // printf acme | sha256sum
        assert_eq!(hex(name_digest(b"acme")), "822b33ad87c148a0a20a5ba7cd5ebcaa68d36a18e7aad165554903f52ca82757");
        let key = IdentityKey::new(&STANDARD.encode([7; KEY_BYTES])).unwrap();
        // printf 'Bearer x' | openssl dgst -sha256 -mac HMAC -macopt hexkey:0707…
        assert_eq!(hex(key.digest(b"Bearer x")), "c671ecf4c3ddc6c2018043afcab3b617e12719ba1938c43049ab5011d21d376e");
        assert_eq!(format!("{key:?}"), "IdentityKey { .. }");
        assert!(IdentityKey::new("x").is_err());
    }

    #[test]
    fn a_key_is_32_bytes_in_base64_and_is_never_shown() {
        let good = STANDARD.encode([7; KEY_BYTES]);
        let key = SealingKey::new("a.b-c_1", &format!(" {good}\n")).unwrap();
        assert_eq!(format!("{key:?}"), r#"SealingKey { id: "a.b-c_1", .. }"#);
        let keys = SealingKeys::new(vec![key]).unwrap();
        assert!(!format!("{:?}", keys.bound_to("t")).contains("7, 7"));
        for bad in ["", "x", &good[1..], &STANDARD.encode([7; 31]), &STANDARD.encode([7; 33])] {
            assert_eq!(SealingKey::new("a", bad).unwrap_err(), SealingKeyError::Key);
        }
        for bad in ["", "a b", "é", &"a".repeat(33)] {
            assert_eq!(SealingKey::new(bad, &good).unwrap_err(), SealingKeyError::Id);
        }
        assert!(SealingKeys::new(Vec::new()).is_none());
    }
}
