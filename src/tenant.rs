//! Tenants: those whose responses are kept apart.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::sealing::{IdentityKey, name_digest};

const BYTES: usize = 16;

/// A tenant, by a digest of its name: 32 lower-case hex digits wherever it is written.
///
/// The digest is the first 128 bits of SHA-256 of a name, or of HMAC-SHA-256 of a credential. A name stays out of keys
/// and logs, whatever is in it, and can still be computed by who knows it: `printf %s NAME | sha256sum | cut -c1-32`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tenant([u8; BYTES]);

impl Tenant {
    /// The tenant of this name.
    #[must_use]
    pub fn named(name: &[u8]) -> Self {
        Self(shortened(name_digest(name)))
    }

    /// The tenant that has this credential.
    #[must_use]
    pub fn with_credential(key: &IdentityKey, credential: &[u8]) -> Self {
        Self(shortened(key.digest(credential)))
    }

    /// Its first eight digits: enough to recognise it in a log, too few to count on.
    #[must_use]
    pub fn short(&self) -> String {
        let mut digits = self.to_string();
        digits.truncate(8);
        digits
    }
}

fn shortened(digest: [u8; 32]) -> [u8; BYTES] {
    let mut short = [0; BYTES];
    short.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    short
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Tenant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Tenant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        let legal = text.len() == 2 * BYTES && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = u128::from_str_radix(&text, 16).ok().filter(|_| legal);
        number.map(|number| Self(number.to_be_bytes())).ok_or_else(|| D::Error::custom("not a tenant"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_the_beginning_of_its_names_digest() {
        // printf %s acme | sha256sum | cut -c1-32
        let acme = Tenant::named(b"acme");
        assert_eq!(acme.to_string(), "822b33ad87c148a0a20a5ba7cd5ebcaa");
        assert_eq!(acme.short(), "822b33ad");
        assert_ne!(acme, Tenant::named(b"acme "));
        let text = serde_json::to_string(&acme).unwrap();
        assert_eq!(serde_json::from_str::<Tenant>(&text).unwrap(), acme);
    }

    #[test]
    fn what_is_no_tenant_is_not_read_as_one() {
        for text in ["", "acme", "+0000000000000000000000000000000", "0000000000000000000000000000000A", "{}"] {
            assert!(serde_json::from_str::<Tenant>(&format!("\"{text}\"")).is_err(), "{text}");
        }
        for text in ["null", "1", "{}", "[]"] {
            assert!(serde_json::from_str::<Tenant>(text).is_err(), "{text}");
        }
    }
}
