//! Who a request is of: the tenant that something trusted has told Envoy, or that Envoy has told us.

use std::sync::Once;

use http::HeaderName;

use super::message::{MetadataValue, RequestHead};
use crate::sealing::IdentityKey;
use crate::store::Owner;
use crate::tenant::Tenant;

/// Where Envoy's jwt_authn filter puts what it has verified.
pub const JWT_NAMESPACE: &str = "envoy.filters.http.jwt_authn";

/// The longest name of a tenant, in bytes.
const MAX_NAME_BYTES: usize = 1024;

/// The longest credential, in bytes: tokens are long.
const MAX_CREDENTIAL_BYTES: usize = 32 * 1024;

/// How tenants are told apart.
#[derive(Debug, Clone)]
pub struct Tenancy {
    /// What tells who it is.
    pub source: Source,
    /// Whether a request without identity is refused.
    pub required: bool,
}

/// What tells who a tenant is.
#[derive(Debug, Clone)]
pub enum Source {
    /// A request header that Envoy sets.
    Header(HeaderName),
    /// A text in the dynamic metadata.
    Metadata {
        /// The namespace.
        namespace: String,
        /// The keys that lead to it.
        path: Vec<String>,
    },
    /// The Authorization header, of which only a digest under this key is ever kept.
    Authorization(IdentityKey),
}

/// Why a request is nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoIdentity {
    /// There is none.
    #[error("it is missing")]
    Missing,
    /// There is more than one header, or something that is no text.
    #[error("it is not one text")]
    NotOneText,
    /// It is longer than a name or a credential may be.
    #[error("it is too long")]
    TooLong,
}

impl Tenancy {
    /// Whose request this is.
    ///
    /// # Errors
    /// [`NoIdentity`]: always when the identity cannot be used, and when there is none although one is required.
    pub fn owner(&self, head: &RequestHead) -> Result<Owner, NoIdentity> {
        match self.source.tenant(head) {
            Ok(tenant) => Ok(Owner::Tenant(tenant)),
            Err(NoIdentity::Missing) if !self.required => Ok(Owner::Nobody),
            Err(reason) => {
                // Clients can cause it at will, so it is told once; the counter goes on.
                static TOLD: Once = Once::new();
                TOLD.call_once(|| {
                    tracing::warn!(%reason, "a request without usable identity was refused (tenancy.source); told once");
                });
                Err(reason)
            }
        }
    }

    /// The header that says who the tenant is, which is no business of the upstream's.
    #[must_use]
    pub fn header(&self) -> Option<&HeaderName> {
        match &self.source {
            Source::Header(name) => Some(name),
            Source::Metadata { .. } | Source::Authorization(_) => None,
        }
    }
}

impl Source {
    fn tenant(&self, head: &RequestHead) -> Result<Tenant, NoIdentity> {
        match self {
            Self::Header(name) => Ok(Tenant::named(bounded(only_header(head, name.as_str())?, MAX_NAME_BYTES)?)),
            Self::Metadata { namespace, path } => match head.metadata.find(namespace, path) {
                MetadataValue::Text(text) => Ok(Tenant::named(bounded(text.as_bytes(), MAX_NAME_BYTES)?)),
                MetadataValue::Nothing => Err(NoIdentity::Missing),
                MetadataValue::Other => Err(NoIdentity::NotOneText),
            },
            Self::Authorization(key) => {
                let credential = bounded(only_header(head, "authorization")?, MAX_CREDENTIAL_BYTES)?;
                Ok(Tenant::with_credential(key, credential))
            }
        }
    }
}

/// The value of a header that may not be there twice: of two, one could be the client's.
fn only_header<'a>(head: &'a RequestHead, name: &'a str) -> Result<&'a [u8], NoIdentity> {
    let mut values = head.headers.all(name);
    let value = values.next().ok_or(NoIdentity::Missing)?;
    if values.next().is_some() { Err(NoIdentity::NotOneText) } else { Ok(value) }
}

fn bounded(identity: &[u8], limit: usize) -> Result<&[u8], NoIdentity> {
    if identity.trim_ascii().is_empty() {
        Err(NoIdentity::Missing)
    } else if identity.len() > limit {
        Err(NoIdentity::TooLong)
    } else {
        Ok(identity)
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use prost::Message as _;

    use super::*;
    use crate::extproc::message::{Attributes, Metadata};
    use envoy_types::pb::google::protobuf::Value;

    use crate::extproc::pb::{Kind, Struct};

    fn head(headers: &[(&'static str, &'static str)], metadata: Metadata) -> RequestHead {
        RequestHead {
            method: Method::GET,
            path: "/v1/responses/resp_1".to_owned(),
            headers: headers.iter().copied().collect(),
            end_of_stream: true,
            attributes: Attributes::default(),
            metadata,
        }
    }

    fn object<const N: usize>(members: [(&str, Kind); N]) -> Struct {
        let member = |(key, kind): (&str, Kind)| (key.to_owned(), Value { kind: Some(kind) });
        Struct { fields: members.into_iter().map(member).collect() }
    }

    fn by(source: &Source, head: &RequestHead) -> Result<Owner, NoIdentity> {
        Tenancy { source: source.clone(), required: true }.owner(head)
    }

    fn acme() -> Owner {
        Owner::Tenant(Tenant::named(b"acme"))
    }

    #[test]
    fn a_header_names_the_tenant_if_there_is_exactly_one() {
        let source = Source::Header(HeaderName::from_static("x-tenant-id"));
        let of = |headers: &[(&'static str, &'static str)]| by(&source, &head(headers, Metadata::default()));
        assert_eq!(of(&[("x-tenant-id", "acme"), ("authorization", "x")]), Ok(acme()));
        assert_eq!(of(&[("X-Tenant-Id", "acme")]), Ok(acme()));
        assert_ne!(of(&[("x-tenant-id", "acme,evil")]), Ok(acme()));
        assert_eq!(of(&[("x-tenant-id", "acme"), ("x-tenant-id", "acme")]), Err(NoIdentity::NotOneText));
        for nothing in [&[][..], &[("x-tenant-id", "")], &[("x-tenant-id", " \t")], &[("x-tenant", "acme")]] {
            assert_eq!(of(nothing), Err(NoIdentity::Missing));
        }
        let long: &'static str = "a".repeat(1025).leak();
        assert_eq!(of(&[("x-tenant-id", long)]), Err(NoIdentity::TooLong));
        assert!(of(&[("x-tenant-id", &long[1..])]).is_ok());
    }

    #[test]
    fn metadata_name_the_tenant_by_a_text_at_the_place() {
        let source =
            Source::Metadata { namespace: JWT_NAMESPACE.to_owned(), path: vec!["payload".into(), "org.id".into()] };
        let of = |kind: Kind| {
            let payload = Kind::StructValue(object([("org.id", kind), ("sub", Kind::StringValue("evil".into()))]));
            let namespace = object([("payload", payload)]).encode_to_vec().into();
            by(&source, &head(&[], Metadata::of([(JWT_NAMESPACE.to_owned(), namespace)])))
        };
        assert_eq!(of(Kind::StringValue("acme".into())), Ok(acme()));
        assert_eq!(of(Kind::StringValue(String::new())), Err(NoIdentity::Missing));
        assert_eq!(of(Kind::NullValue(0)), Err(NoIdentity::Missing));
        for other in [Kind::NumberValue(7.0), Kind::BoolValue(true), Kind::StructValue(object([]))] {
            assert_eq!(of(other), Err(NoIdentity::NotOneText));
        }
        let at = |namespace: &str, bytes: Vec<u8>| {
            by(&source, &head(&[], Metadata::of([(namespace.to_owned(), bytes.into())])))
        };
        assert_eq!(at("other", Vec::new()), Err(NoIdentity::Missing));
        assert_eq!(at(JWT_NAMESPACE, Vec::new()), Err(NoIdentity::Missing));
        assert_eq!(at(JWT_NAMESPACE, vec![0xff; 9]), Err(NoIdentity::NotOneText));
        let text = object([("payload", Kind::StringValue("acme".into()))]);
        assert_eq!(at(JWT_NAMESPACE, text.encode_to_vec()), Err(NoIdentity::NotOneText));
    }

    #[test]
    fn a_credential_is_told_by_a_digest_that_needs_the_key() {
        let by_key = |text: &str| Source::Authorization(IdentityKey::new(text).unwrap());
        let one = by_key("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
        let other = by_key("ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=");
        let request = head(&[("authorization", "Bearer sk-1")], Metadata::default());
        let owner = by(&one, &request).unwrap();
        assert_eq!(by(&one, &request), Ok(owner));
        assert_ne!(by(&other, &request), Ok(owner));
        assert_ne!(owner, Owner::Tenant(Tenant::named(b"Bearer sk-1")));
        let another = head(&[("authorization", "Bearer sk-2")], Metadata::default());
        assert_ne!(by(&one, &another), Ok(owner));
        assert_eq!(by(&one, &head(&[], Metadata::default())), Err(NoIdentity::Missing));
    }

    #[test]
    fn who_needs_no_identity_has_nothing_without_and_is_still_refused_with_an_unusable_one() {
        let source = Source::Header(HeaderName::from_static("x-tenant-id"));
        let tenancy = Tenancy { source, required: false };
        let of = |headers: &[(&'static str, &'static str)]| tenancy.owner(&head(headers, Metadata::default()));
        assert_eq!(of(&[]), Ok(Owner::Nobody));
        assert_eq!(of(&[("x-tenant-id", "acme")]), Ok(acme()));
        assert_eq!(of(&[("x-tenant-id", "acme"), ("x-tenant-id", "evil")]), Err(NoIdentity::NotOneText));
        assert!(!Owner::Nobody.keeps_records());
    }
}
