//! The `telemetry.otlp` block: where traces go.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};
use secrecy::SecretString;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::{checked, shown};

/// The `telemetry.otlp` block.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping of the OTLP settings")]
pub struct Otlp {
    /// The collector's gRPC address, `http://host:4317` or `https://…`; null or empty is off. Default: null.
    #[serde(deserialize_with = "checked::unless_blank", serialize_with = "shown::display_or_null")]
    pub endpoint: Option<OtlpEndpoint>,
    /// The part of the exchanges without a `traceparent` that are traced, from 0 to 1; one that has a `traceparent` is traced
    /// when that says so. Default: 1.
    #[serde(deserialize_with = "ratio")]
    pub sample_ratio: f64,
    /// `timeout_seconds`: how long one export may take. Whole seconds. Default: 5.
    #[serde(deserialize_with = "checked::seconds", serialize_with = "shown::seconds")]
    pub timeout_seconds: Duration,
    /// What is sent along with every export, for collectors that want a key. Default: none.
    #[serde(deserialize_with = "headers", serialize_with = "shown::masked_values")]
    pub headers: BTreeMap<String, SecretString>,
    /// `service.name` of the resource. Default: responses-router.
    #[serde(deserialize_with = "service_name")]
    pub service_name: String,
}

impl Default for Otlp {
    fn default() -> Self {
        Otlp {
            endpoint: None,
            sample_ratio: 1.0,
            timeout_seconds: Duration::from_secs(5),
            headers: BTreeMap::new(),
            service_name: "responses-router".to_owned(),
        }
    }
}

/// An `http` or `https` URL without a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpEndpoint(Uri);

impl OtlpEndpoint {
    /// The URL.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.0
    }

    /// Whether it is spoken to over TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }
}

impl fmt::Display for OtlpEndpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl FromStr for OtlpEndpoint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = "must be `http://host:port` or `https://host:port`, the collector's gRPC port without a path";
        let uri: Uri = text.parse().map_err(|_| error)?;
        let plain = uri.authority().is_some_and(|authority| !authority.as_str().contains('@')) && uri.query().is_none();
        match (uri.scheme_str(), uri.path()) {
            (Some("http" | "https"), "" | "/") if plain => Ok(Self(uri)),
            _ => Err(error),
        }
    }
}

fn ratio<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    struct Ratio;

    impl Visitor<'_> for Ratio {
        type Value = f64;

        fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
            formatter.write_str("a number from 0 to 1")
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<f64, E> {
            match number {
                0 => Ok(0.0),
                1 => Ok(1.0),
                _ => Err(E::custom("must be a number from 0 to 1")),
            }
        }

        fn visit_i64<E: Error>(self, _: i64) -> Result<f64, E> {
            Err(E::custom("must be a number from 0 to 1"))
        }

        fn visit_f64<E: Error>(self, number: f64) -> Result<f64, E> {
            if (0.0..=1.0).contains(&number) { Ok(number) } else { Err(E::custom("must be a number from 0 to 1")) }
        }
    }

    deserializer.deserialize_f64(Ratio)
}

fn service_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = checked::line_unless_blank(deserializer)?;
    Ok(name.unwrap_or_else(|| Otlp::default().service_name))
}

/// Names and values as HTTP/2 carries them; `-bin` names are for bytes, which a config does not hold.
fn headers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, SecretString>, D::Error> {
    struct Headers;

    impl<'de> Visitor<'de> for Headers {
        type Value = BTreeMap<String, SecretString>;

        fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
            formatter.write_str("a mapping of header names to values")
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }

        // A text may be the secret, one level too high: it is not repeated.
        fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
            Err(E::custom("must be a mapping of header names to values"))
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut headers = BTreeMap::new();
            while let Some(name) = map.next_key::<String>()? {
                let name = name.to_ascii_lowercase();
                if HeaderName::from_bytes(name.as_bytes()).is_err() || name.ends_with("-bin") {
                    return Err(A::Error::custom("must be names of HTTP headers"));
                }
                let value: String = map.next_value()?;
                if HeaderValue::from_str(&value).is_err() || !value.is_ascii() {
                    return Err(A::Error::custom("must be values of HTTP headers"));
                }
                headers.insert(name, SecretString::from(value));
            }
            Ok(headers)
        }
    }

    deserializer.deserialize_any(Headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url_without_a_path() {
        for good in ["http://127.0.0.1:4317", "https://otel.example:4317/", "http://collector"] {
            let endpoint: OtlpEndpoint = good.parse().unwrap();
            assert_eq!(endpoint.is_tls(), good.starts_with("https"));
        }
        for bad in
            ["collector:4317", "grpc://h:1", "http://h/v1/traces", "http://user@h", "http://h?x=1", "/", "http://"]
        {
            assert!(bad.parse::<OtlpEndpoint>().is_err(), "{bad}");
        }
    }
}
