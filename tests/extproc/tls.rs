//! The files of the listener's TLS: what is refused, and how they are renewed. `tests/envoy/tls.rs` speaks it.

use std::fs;

use responses_router::config::ServerTls;
use responses_router::server::tls::{Look, Tls};

use crate::support::certificates::{Authority, Certificate};

fn files(certificate: &Certificate) -> ServerTls {
    let Certificate { certificate, key } = certificate.clone();
    ServerTls { cert_path: certificate, key_path: key, client_ca_path: None }
}

/// The error with its cause, which must name the key and nothing that the files hold.
fn refusal(files: &ServerTls) -> String {
    let error = Tls::read(files).unwrap_err();
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    format!("{error} {cause}")
}

#[test]
fn files_that_cannot_be_used_are_named_and_never_shown() {
    let authority = Authority::new();
    let (one, other) = (authority.issue(&["one.test"]), authority.issue(&["other.test"]));
    let good = files(&one);
    Tls::read(&good).unwrap();
    Tls::read(&ServerTls { client_ca_path: Some(authority.ca()), ..good.clone() }).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let secret = "c2VjcmV0";
    let empty = file("empty.pem", "");
    let text = file("text.pem", secret);
    let cut = file("cut.pem", &format!("-----BEGIN CERTIFICATE-----\n{secret}\n"));
    let garbage = file("garbage.pem", &format!("-----BEGIN CERTIFICATE-----\n{secret}\n-----END CERTIFICATE-----\n"));
    let damaged = file("damaged.pem", &format!("-----BEGIN PRIVATE KEY-----\n{secret}!\n-----END PRIVATE KEY-----\n"));
    let with_cert = |path: &std::path::Path| ServerTls { cert_path: path.to_owned(), ..good.clone() };
    let with_key = |path: &std::path::Path| ServerTls { key_path: path.to_owned(), ..good.clone() };
    let with_ca = |path: &std::path::Path| ServerTls { client_ca_path: Some(path.to_owned()), ..good.clone() };
    for (files, expected) in [
        (with_cert(folder.path().join("none").as_path()), "server.tls.cert_path: "),
        (with_cert(folder.path()), "cannot be read"),
        (with_cert(&empty), "holds no certificate"),
        (with_cert(&text), "holds no certificate"),
        (with_cert(&cut), "is damaged"),
        (with_cert(&garbage), "server.tls"),
        (with_cert(&one.key), "holds no certificate"),
        (with_key(&empty), "server.tls.key_path: "),
        (with_key(&one.certificate), "holds no private key"),
        (with_key(&damaged), "server.tls.key_path: "),
        (with_key(&other.key), "is not the key of the first certificate in"),
        (with_ca(&empty), "server.tls.client_ca_path: "),
        (with_ca(&garbage), "server.tls.client_ca_path: "),
    ] {
        let refusal = refusal(&files);
        assert!(refusal.starts_with("server.tls") && refusal.contains(expected), "{expected}: {refusal}");
        assert!(!refusal.contains(secret) && !refusal.contains("BEGIN"), "{refusal}");
    }
}

#[test]
fn other_files_are_taken_and_bad_ones_leave_what_was_there() {
    let authority = Authority::new();
    let certificate = authority.issue(&["renewed.test"]);
    let tls = Tls::read(&files(&certificate)).unwrap();
    assert!(matches!(tls.look(), Look::Same));
    authority.issue(&["renewed.test"]);
    assert!(matches!(tls.look(), Look::Renewed));
    assert!(matches!(tls.look(), Look::Same));

    let (good, key) = (fs::read(&certificate.certificate).unwrap(), fs::read(&certificate.key).unwrap());
    // Half of a renewal: the new certificate with the old key.
    authority.issue(&["renewed.test"]);
    let renewed = fs::read(&certificate.key).unwrap();
    fs::write(&certificate.key, &key).unwrap();
    assert!(matches!(tls.look(), Look::Refused(_)));
    fs::write(&certificate.key, renewed).unwrap();
    assert!(matches!(tls.look(), Look::Renewed));

    fs::remove_file(&certificate.certificate).unwrap();
    assert!(matches!(tls.look(), Look::Refused(_)));
    fs::write(&certificate.certificate, good).unwrap();
    fs::write(&certificate.key, key).unwrap();
    assert!(matches!(tls.look(), Look::Renewed));
}
