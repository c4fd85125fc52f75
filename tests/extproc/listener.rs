//! The listener: unix sockets, health, and a stop that lets exchanges finish.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use responses_router::config::Listen;
use responses_router::extproc::duplex::{Envoy, ExchangeError, Finished};
use responses_router::extproc::headers::HeaderMutation;
use responses_router::extproc::message::{LastReply, Reply};
use responses_router::server::{BindError, Listener, Stopped, probe};
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
    let first = Listener::bind(&path.listen(), None).await.unwrap();
    assert!(matches!(Listener::bind(&path.listen(), None).await, Err(BindError::InUse(_))));

    // A successor that has put its own socket there keeps it.
    std::fs::remove_file(&path.0).unwrap();
    let second = Listener::bind(&path.listen(), None).await.unwrap();
    drop(first);
    assert!(path.0.exists());
    drop(second);
    assert!(!path.0.exists());

    std::fs::write(&path.0, "precious").unwrap();
    assert!(matches!(Listener::bind(&path.listen(), None).await, Err(BindError::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&path.0).unwrap(), "precious");
}

#[tokio::test]
async fn a_socket_has_the_mode_that_was_asked_for_and_a_port_has_none() {
    let path = SocketPath::new("mode");
    for mode in ["0600", "0660", "0777"] {
        let listener = Listener::bind(&path.listen(), Some(mode.parse().unwrap())).await.unwrap();
        let permissions = std::fs::metadata(&path.0).unwrap().permissions();
        assert_eq!(format!("{:04o}", permissions.mode() & 0o7777), mode);
        drop(listener);
    }
    let port = Listen::Tcp(([127, 0, 0, 1], 0).into());
    Listener::bind(&port, Some("0660".parse().unwrap())).await.unwrap();
}

#[tokio::test]
async fn a_socket_never_has_another_mode_than_the_one_that_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("router.sock");
    let over = Arc::new(AtomicBool::new(false));
    let watching = std::thread::spawn({
        let (path, over) = (path.clone(), Arc::clone(&over));
        move || {
            let mut seen = BTreeSet::new();
            while !over.load(Ordering::Relaxed) {
                seen.extend(std::fs::metadata(&path).map(|file| file.permissions().mode() & 0o777));
            }
            seen
        }
    });
    for _ in 0..300 {
        drop(Listener::bind(&Listen::Unix(path.clone()), Some("0600".parse().unwrap())).await.unwrap());
    }
    over.store(true, Ordering::Relaxed);
    let seen = watching.join().unwrap();
    assert!(seen.iter().all(|mode| *mode == 0o600), "{seen:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_stop_tells_not_serving_and_takes_exchanges_until_the_delay_is_over() {
    let router = Router::start_delayed(Script(ok), Duration::from_secs(3600)).await;
    let mut health = HealthClient::new(router.channel().await);
    router.stop.token.cancel();
    crate::support::stack::wait::eventually("NOT_SERVING", async || {
        let answer = health.check(HealthCheckRequest::default()).await.unwrap().into_inner().status();
        (answer == ServingStatus::NotServing).then_some(())
    })
    .await;
    assert!(probe::grpc(&router.listen, PATIENCE).await.unwrap_err().to_string().contains("draining"));
    let mut exchange = router.open().await;
    exchange.send(request("GET", "/")).await;
    exchange.reply().await;
    exchange.end().await;
    assert!(!router.stopped.is_finished());
}

#[tokio::test]
async fn the_probe_tells_a_serving_router_from_none() {
    let router = Router::script(ok).await;
    probe::grpc(&router.listen, PATIENCE).await.unwrap();
    let free = Listener::bind(&Listen::Tcp(([127, 0, 0, 1], 0).into()), None).await.unwrap();
    let nobody = free.listen().clone();
    drop(free);
    assert_eq!(probe::grpc(&nobody, PATIENCE).await.unwrap_err().to_string(), format!("no connection to {nobody}"));
}

#[tokio::test]
async fn a_taken_port_is_an_error() {
    let first = Listener::bind(&Listen::Tcp(([127, 0, 0, 1], 0).into()), None).await.unwrap();
    let error = Listener::bind(first.listen(), None).await.unwrap_err();
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
async fn a_stop_does_not_wait_for_who_watches_our_health() {
    let router = Router::script(ok).await;
    let mut health = HealthClient::new(router.channel().await);
    let mut watched = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let mut told = async || watched.message().await.unwrap().map(|answer| answer.status());
    assert_eq!(told().await, Some(ServingStatus::Serving));
    router.stop.token.cancel();
    while told().await.is_some() {}
    assert_eq!(stopped(router).await, Stopped::Clean);
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
