//! The `tenancy` block: whose responses are whose, and who says so.

use std::fmt;
use std::str::FromStr;

use http::HeaderName;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::{checked, keys, shown};
use crate::sealing::IdentityKey;

/// The most keys in a path, and the longest of them in bytes.
const MAX_PATH_KEYS: usize = 8;
const MAX_PATH_KEY_BYTES: usize = 256;

/// The `tenancy` block.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping of the tenancy settings")]
pub struct Tenancy {
    /// What tells who a tenant is. Default: none, and all responses are everybody's who knows their ids.
    pub source: TenantSource,
    /// With `source: header`, the request header, which Envoy has to set and to take away from clients. Default:
    /// `x-tenant-id`.
    #[serde(deserialize_with = "header", serialize_with = "shown::display")]
    pub header: HeaderName,
    /// With `source: metadata`, where the tenant stands in the dynamic metadata.
    pub metadata: MetadataPlace,
    /// With `source: jwt_claim`, where the tenant stands in the token.
    pub jwt_claim: JwtClaim,
    /// With `source: authorization`, the key of the digests: `key` (base64 of 32 bytes) or `file` (one that holds that).
    /// Default: none.
    #[serde(deserialize_with = "keys::identity_key", serialize_with = "shown::masked")]
    pub authorization: Option<IdentityKey>,
    /// Whether requests without identity are refused; otherwise they are answered and nothing is kept. Default: true.
    pub required: bool,
    /// Whether a tenant's responses have keys of their own in Redis, with the tenant in them. Default: false.
    pub in_key: bool,
}

impl Default for Tenancy {
    fn default() -> Self {
        Tenancy {
            source: TenantSource::default(),
            header: HeaderName::from_static("x-tenant-id"),
            metadata: MetadataPlace::default(),
            jwt_claim: JwtClaim::default(),
            authorization: None,
            required: true,
            in_key: false,
        }
    }
}

/// What tells who a tenant is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", expecting = "none, header, metadata, jwt_claim or authorization")]
pub enum TenantSource {
    /// Nothing: there are no tenants.
    #[default]
    None,
    /// A request header that Envoy sets.
    Header,
    /// Dynamic metadata that one of Envoy's filters sets.
    Metadata,
    /// A claim of a token that Envoy has verified.
    JwtClaim,
    /// The Authorization header, whatever it is.
    Authorization,
}

/// A value in the dynamic metadata of a request.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping: `namespace` and `path`")]
pub struct MetadataPlace {
    /// The namespace, often a filter's name. Default: empty.
    #[serde(deserialize_with = "line")]
    pub namespace: String,
    /// The keys that lead to a text in it, 1 to 8. Default: empty.
    #[serde(deserialize_with = "path")]
    pub path: Vec<String>,
}

/// A claim in a token.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping: `payload` and `path`")]
pub struct JwtClaim {
    /// `payload_in_metadata` of the provider in Envoy's jwt_authn filter. Default: `jwt_payload`.
    #[serde(deserialize_with = "line")]
    pub payload: String,
    /// The keys that lead to the claim, 1 to 8. Default: `[sub]`.
    #[serde(deserialize_with = "path")]
    pub path: Vec<String>,
}

impl Default for JwtClaim {
    fn default() -> Self {
        JwtClaim { payload: "jwt_payload".to_owned(), path: vec!["sub".to_owned()] }
    }
}

fn line<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    checked::parsed(deserializer).map(|checked::Line(text)| text)
}

fn header<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HeaderName, D::Error> {
    checked::parsed(deserializer).map(|TenantHeader(name)| name)
}

struct TenantHeader(HeaderName);

impl FromStr for TenantHeader {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<TenantHeader, Self::Err> {
        let name = HeaderName::from_str(text).map_err(|_| "must be the name of a header")?;
        match name.as_str() {
            // Digests without a key could be undone by trying.
            "authorization" | "cookie" => Err("must not hold credentials; see `source: authorization`"),
            _ => Ok(TenantHeader(name)),
        }
    }
}

fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Path;

    impl<'de> Visitor<'de> for Path {
        type Value = Vec<String>;

        fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
            formatter.write_str("a list of keys")
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut written: A) -> Result<Self::Value, A::Error> {
            let mut keys = Vec::new();
            while let Some(PathKey(key)) = written.next_element()? {
                if keys.len() == MAX_PATH_KEYS {
                    return Err(A::Error::custom(format_args!("must be at most {MAX_PATH_KEYS} keys")));
                }
                keys.push(key);
            }
            Ok(keys)
        }
    }

    deserializer.deserialize_any(Path)
}

struct PathKey(String);

impl FromStr for PathKey {
    type Err = String;

    fn from_str(text: &str) -> Result<PathKey, Self::Err> {
        if text.is_empty() || text.len() > MAX_PATH_KEY_BYTES {
            return Err(format!("must have 1 to {MAX_PATH_KEY_BYTES} bytes"));
        }
        Ok(PathKey(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for PathKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        checked::parsed(deserializer)
    }
}
