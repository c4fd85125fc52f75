//! Keys that seal reasoning for clients that carry it (`response_api.reasoning_encryption`).
//!
//! A seal is base64url of: version (1 byte), length of the key's id (1 byte), the key's id, salt (32 random bytes),
//! ciphertext and tag. Each seal has a key of its own, derived from ours and the salt with HKDF-SHA256, so that no number
//! of seals wears a key out and no nonce can repeat under one; it encrypts with AES-256-GCM. Version, key id and tenant
//! are authenticated with it: a seal of one tenant is damaged goods to another.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use secrecy::{ExposeSecret, SecretBox};

use crate::translate::sealing::Seal;

/// The version that is written, and the only one there is.
const VERSION: u8 = 1;
const SALT_BYTES: usize = 32;
const KEY_BYTES: usize = 32;
const MAX_KEY_ID_BYTES: usize = 32;
/// Sets these derivations apart from any other use of a key.
const PURPOSE: &[u8] = b"responses-router reasoning";

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

impl SealingKey {
    /// A key from its base64 text; white space around it does not matter.
    ///
    /// # Errors
    /// [`SealingKeyError`].
    pub fn new(id: &str, base64: &str) -> Result<Self, SealingKeyError> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if id.is_empty() || id.len() > MAX_KEY_ID_BYTES || !id.bytes().all(legal) {
            return Err(SealingKeyError::Id);
        }
        let bytes = STANDARD.decode(base64.trim()).map_err(|_| SealingKeyError::Key)?;
        let key = <[u8; KEY_BYTES]>::try_from(bytes).map_err(|_| SealingKeyError::Key)?;
        Ok(Self { id: id.into(), key: Arc::new(SecretBox::new(Box::new(key))) })
    }

    /// The id by which seals name it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The key and the nonce of the one seal that has this salt.
    fn derive(&self, salt: &[u8; SALT_BYTES]) -> Option<(LessSafeKey, Nonce)> {
        struct Length;
        impl ring::hkdf::KeyType for Length {
            fn len(&self) -> usize {
                KEY_BYTES + NONCE_LEN
            }
        }
        let mut derived = [0; KEY_BYTES + NONCE_LEN];
        let extracted = Salt::new(HKDF_SHA256, salt).extract(self.key.expose_secret());
        extracted.expand(&[PURPOSE], Length).ok()?.fill(&mut derived).ok()?;
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
        let mut salt = [0; SALT_BYTES];
        rand::TryRng::try_fill_bytes(&mut rand::rngs::SysRng, &mut salt).ok()?;
        let mut sealed = vec![VERSION, u8::try_from(key.id.len()).ok()?];
        sealed.extend_from_slice(key.id.as_bytes());
        let aad = self.aad(&sealed);
        sealed.extend_from_slice(&salt);
        let (key, nonce) = key.derive(&salt)?;
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
        let (key, nonce) = key.derive(salt)?;
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
