//! The listener: unix sockets, health, and a stop that lets exchanges finish.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use responses_router::config::Listen;
use responses_router::extproc::duplex::{Envoy, ExchangeError, Finished};
use responses_router::extproc::headers::HeaderMutation;
use responses_router::extproc::message::{LastReply, Reply};
use responses_router::server::{BindError, Listener, Stopped};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::envoy::{PATIENCE, Router, Script, post, request, request_body};

async fn ok(mut envoy: Envoy) -> Result<Finished, ExchangeError> {
    envoy.next().await?;
    Ok(envoy.finish(LastReply::immediate(200, HeaderMutation::new(), Bytes::new(), "ok")).await)
}

/// Begins an answer at once and ends it at the second message.
async fn slow(mut envoy: Envoy) -> Result<Finished, ExchangeError> {
    envoy.next().await?;
    envoy.send(Reply::local_headers(200, HeaderMutation::new())).await;
    envoy.next().await?;
    Ok(envoy.finish(LastReply::local_body(Bytes::new())).await)
}

/// A path for a socket that exists for one test.
struct SocketPath(PathBuf);

impl SocketPath {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("responses-router-{}-{name}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Self(path)
    }

    fn listen(&self) -> Listen {
        Listen::Unix(self.0.clone())
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn stopped(router: Router) -> Stopped {
    router.stop.token.cancel();
    tokio::time::timeout(PATIENCE, router.stopped).await.expect("a stop in time").expect("no panic")
}

#[tokio::test]
async fn a_unix_socket_serves_and_is_gone_after_the_stop() {
    let path = SocketPath::new("serves");
    let router = Router::start_on(&path.listen(), Script(ok), PATIENCE).await;
    let mut exchange = router.open().await;
    exchange.send(request("GET", "/")).await;
    exchange.reply().await;
    exchange.end().await;
    drop(exchange);
    assert_eq!(stopped(router).await, Stopped::Clean);
    assert!(!path.0.exists());
}

#[tokio::test]
async fn a_socket_left_behind_is_replaced_but_nothing_else_is() {
    let path = SocketPath::new("stale");
    // A std listener leaves its file behind when it goes.
    drop(std::os::unix::net::UnixListener::bind(&path.0).unwrap());
    assert!(path.0.exists());
    let first = Listener::bind(&path.listen()).await.unwrap();
    assert!(matches!(Listener::bind(&path.listen()).await, Err(BindError::InUse(_))));

    // A successor that has put its own socket there keeps it.
    std::fs::remove_file(&path.0).unwrap();
    let second = Listener::bind(&path.listen()).await.unwrap();
    drop(first);
    assert!(path.0.exists());
    drop(second);
    assert!(!path.0.exists());

    std::fs::write(&path.0, "precious").unwrap();
    assert!(matches!(Listener::bind(&path.listen()).await, Err(BindError::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&path.0).unwrap(), "precious");
}

#[tokio::test]
async fn a_taken_port_is_an_error() {
    let first = Listener::bind(&Listen::Tcp(([127, 0, 0, 1], 0).into())).await.unwrap();
    let error = Listener::bind(first.listen()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on {}", first.listen()));
}

#[tokio::test]
async fn health_is_told_for_the_server_and_for_the_service() {
    let router = Router::script(ok).await;
    let mut health = HealthClient::new(router.channel().await);
    for service in ["", "envoy.service.ext_proc.v3.ExternalProcessor"] {
        let answer = health.check(HealthCheckRequest { service: service.to_owned() }).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    }
}

#[tokio::test]
async fn a_stop_lets_a_live_exchange_finish() {
    let router = Router::script(slow).await;
    let mut exchange = router.open().await;
    exchange.send(post()).await;
    exchange.reply().await;
    router.stop.token.cancel();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!router.stopped.is_finished());
    exchange.send(request_body("", true)).await;
    exchange.reply().await;
    exchange.end().await;
    drop(exchange);
    assert_eq!(stopped(router).await, Stopped::Clean);
}

#[tokio::test]
async fn a_stop_waits_no_longer_than_the_grace() {
    let listen = Listen::Tcp(([127, 0, 0, 1], 0).into());
    let router = Router::start_on(&listen, Script(slow), Duration::from_millis(100)).await;
    let mut exchange = router.open().await;
    exchange.send(post()).await;
    exchange.reply().await;
    assert_eq!(stopped(router).await, Stopped::GraceOver { live: 1 });
}
