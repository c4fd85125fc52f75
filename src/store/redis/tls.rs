//! TLS: whom to trust, and which names a server's certificate may have.

use std::path::Path;
use std::sync::Arc;

use fred::rustls::client::WebPkiServerVerifier;
use fred::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use fred::rustls::crypto::ring;
use fred::rustls::pki_types::pem::PemObject;
use fred::rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer, ServerName, UnixTime};
use fred::rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use fred::rustls_native_certs::load_native_certs;
use fred::types::config::{TlsConfig, TlsConnector, TlsHostMapping};

use super::client::RedisConfigError;
use crate::config::Redis;

/// The settings of TLS, with the files that they name read.
pub(super) fn tls(redis: &Redis) -> Result<TlsConfig, RedisConfigError> {
    let refused = |error: &dyn std::error::Error| RedisConfigError::Refused(error.to_string());
    let roots = Arc::new(roots(redis.tls_ca_path.as_deref())?);
    // Named, not taken from the process' default, which another library may have set or left ambiguous.
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider));
    let verifier = verifier.build().map_err(|error| refused(&error))?;
    let verifier = ClusterVerifier { verifier, names: cluster_names(redis) };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| refused(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = match (&redis.tls_cert_path, &redis.tls_key_path) {
        (Some(certificate), Some(key)) => {
            let chain = certificates("tls_cert_path", certificate)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable("tls_key_path", key, error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| refused(&error))?
        }
        _ => builder.with_no_client_auth(),
    };
    // Nodes of a cluster bring the name that their certificate must have (`slots.rs`).
    Ok(TlsConfig { connector: TlsConnector::from(config), hostnames: TlsHostMapping::None })
}

/// The names by which the config knows a cluster.
fn cluster_names(redis: &Redis) -> Vec<ServerName<'static>> {
    let names = redis.cluster_addresses.iter().filter_map(|address| DnsName::try_from(address.host.clone()).ok());
    if redis.cluster_mode { names.map(ServerName::DnsName).collect() } else { Vec::new() }
}

/// The usual verification, and one thing more: CLUSTER SLOTS tells addresses where certificates have names, so a node
/// of a cluster may show a certificate for any of the names by which the config knows the cluster.
#[derive(Debug)]
struct ClusterVerifier {
    verifier: Arc<WebPkiServerVerifier>,
    names: Vec<ServerName<'static>>,
}

impl ServerCertVerifier for ClusterVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verify = |name: &ServerName<'_>| {
            self.verifier.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
        };
        verify(server_name).or_else(|error| match &error {
            Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => self.names.iter().find_map(|name| verify(name).ok()).ok_or(error),
            _ => Err(error),
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, RedisConfigError> {
    let mut roots = RootCertStore::empty();
    if let Some(ca) = ca {
        for certificate in certificates("tls_ca_path", ca)? {
            roots.add(certificate).map_err(|error| unusable("tls_ca_path", ca, error))?;
        }
        return Ok(roots);
    }
    let system = load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if roots.is_empty() {
        let errors = system.errors.iter().map(ToString::to_string).collect::<Vec<_>>();
        return Err(RedisConfigError::NoRoots(errors.join(", ")));
    }
    Ok(roots)
}

/// At least one certificate.
fn certificates(key: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, RedisConfigError> {
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(file).and_then(Iterator::collect).map_err(|error| unusable(key, file, error))?;
    if certificates.is_empty() {
        return Err(unusable(key, file, "it holds no certificate"));
    }
    Ok(certificates)
}

fn unusable(key: &'static str, file: &Path, reason: impl ToString) -> RedisConfigError {
    RedisConfigError::Pem { key, file: file.to_owned(), reason: reason.to_string() }
}
