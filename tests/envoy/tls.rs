//! TLS between Envoy and the router.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use responses_router::config::Listen;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::{begin_stream, error_of, finish_stream};
use crate::support::certificates::{Authority, Certificate};
use crate::support::stack::chat;
use crate::support::stack::upstream::Answer;
use crate::support::stack::{EditEnvoy, Hold, Stack, StackOptions};

const NAME: &str = "router.test";

/// Has Envoy speak TLS to the router: it trusts the authority, and shows a certificate if it has one.
fn envoy_trusts(authority: &Authority, own: Option<Certificate>) -> EditEnvoy {
    let ca = authority.ca();
    Box::new(move |config| {
        let mut context = json!({
            "validation_context": {
                "trusted_ca": {"filename": ca},
                "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": NAME}}],
            },
        });
        if let Some(Certificate { certificate, key }) = own {
            let pair = json!({"certificate_chain": {"filename": certificate}, "private_key": {"filename": key}});
            context["tls_certificates"] = json!([pair]);
        }
        config["static_resources"]["clusters"][1]["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": NAME,
                "common_tls_context": context,
            },
        });
    })
}

async fn stack(certificate: &Certificate, client_ca: Option<&Path>, envoy: EditEnvoy) -> Hold {
    let Certificate { certificate, key } = certificate;
    let settings = json!({"server": {"tls": {"cert_path": certificate, "key_path": key, "client_ca_path": client_ca}}});
    let stack = Stack::start(StackOptions { settings, envoy: Some(envoy), ..StackOptions::default() }).await;
    stack.upstream.answer("tls", |_| Answer::completion("Hello."));
    stack
}

fn hello() -> Value {
    json!({"model": "tls", "input": "Hi"})
}

/// 503 with our error's shape, which Envoy makes, and nothing upstream.
async fn is_refused(stack: &Stack) {
    let error = error_of(stack.create(&hello()).await, 503).await;
    assert_eq!(error["code"], "service_unavailable");
    assert!(stack.upstream.received("tls").is_empty());
}

#[tokio::test]
async fn envoy_verifies_authority_and_name_and_refuses_others() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let certificate = authority.issue(&[NAME]);
    let good = stack(&certificate, None, envoy_trusts(&authority, None)).await;
    assert_eq!(good.created(&hello()).await["output_text"], "Hello.");

    let wrong_authority = stack(&certificate, None, envoy_trusts(&stranger, None)).await;
    is_refused(&wrong_authority).await;
    let wrong_name = stack(&authority.issue(&["other.test"]), None, envoy_trusts(&authority, None)).await;
    is_refused(&wrong_name).await;
    let clear_text = stack(&certificate, None, Box::new(|_| {})).await;
    is_refused(&clear_text).await;
}

#[tokio::test]
async fn with_an_authority_for_clients_only_its_clients_get_in() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (server, client) = (authority.issue(&[NAME]), authority.issue(&["envoy.test"]));
    let ca = authority.ca();
    let known = stack(&server, Some(&ca), envoy_trusts(&authority, Some(client))).await;
    assert_eq!(known.created(&hello()).await["output_text"], "Hello.");

    let nobody = stack(&server, Some(&ca), envoy_trusts(&authority, None)).await;
    is_refused(&nobody).await;
    let unknown = stack(&server, Some(&ca), envoy_trusts(&authority, Some(stranger.issue(&["envoy.test"])))).await;
    is_refused(&unknown).await;
}

/// The certificate that a new connection gets.
async fn served(address: SocketAddr, authority: &Authority) -> Vec<u8> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.ca()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(NAME).unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn a_renewed_certificate_serves_new_connections_and_cuts_no_stream() {
    let authority = Authority::new();
    let certificate = authority.issue(&[NAME]);
    let stack = stack(&certificate, None, envoy_trusts(&authority, None)).await;
    let Listen::Tcp(address) = stack.router.listen else { panic!("no port") };
    let on_disk = || CertificateDer::from_pem_file(&certificate.certificate).unwrap().to_vec();
    assert_eq!(served(address, &authority).await, on_disk());
    let (mut events, live, _) = begin_stream(&stack, "tls-renewed").await;
    live.chunk(&chat::text("One")).await;
    events.skip_to("response.output_text.delta").await;

    authority.issue(&[NAME]);
    let renewed = on_disk();
    let told = |words: &'static str| move |line: &str| line.contains(words).then_some(());
    stack.router.process.log_line("the renewal", told("certificate was renewed")).await;
    assert_eq!(served(address, &authority).await, renewed);
    std::fs::write(&certificate.key, "no key").unwrap();
    stack.router.process.log_line("the warning", told("cannot be used, the old one stays: server.tls.key_path")).await;
    assert_eq!(served(address, &authority).await, renewed);

    live.chunk(&chat::text(" two")).await;
    live.finish().await;
    let (last, _) = finish_stream(events).await;
    assert_eq!(last.kind, "response.completed");
    assert_eq!(last.data["response"]["output_text"], "One two");
}
