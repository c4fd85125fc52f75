//! The admin listener and the commands, of the real binary.

use std::net::SocketAddr;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::certificates::Authority;
use crate::support::stack::http::{Connection, Reply, request};
use crate::support::stack::router::Router;

async fn router(settings: Value) -> (Router, SocketAddr) {
    let mut settings = settings;
    settings["server"] = json!({"admin_listen": "127.0.0.1:0"});
    let router = Router::start(&settings, false).await;
    let admin = router.admin().await;
    (router, admin)
}

async fn ask(admin: SocketAddr, method: &str, path: &str) -> Reply {
    Connection::http1(admin).await.send(request(method, path)).await
}

async fn text(reply: Reply) -> String {
    String::from_utf8(reply.bytes().await.to_vec()).unwrap()
}

/// Runs the binary to its end.
fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_responses-router")).args(arguments).output().unwrap()
}

#[tokio::test]
async fn every_page_of_the_index_is_there_and_nothing_else_is() {
    let (_router, admin) = router(json!({})).await;
    let index = text(ask(admin, "GET", "/").await).await;
    let paths: Vec<&str> = index.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(paths, ["/", "/healthz", "/readyz", "/metrics", "/config", "/buildinfo"]);
    for path in paths {
        let reply = ask(admin, "GET", &format!("{path}?query=ignored")).await;
        assert_eq!(reply.status, 200, "{path}");
        assert!(!reply.header("content-type").is_empty());
        let length = reply.header("content-length").to_owned();
        assert_eq!(reply.bytes().await.len().to_string(), length, "{path}");
        let head = ask(admin, "HEAD", path).await;
        assert_eq!(head.status, 200, "{path}");
        assert!(head.bytes().await.is_empty());
        for method in ["POST", "DELETE", "OPTIONS"] {
            let refused = ask(admin, method, path).await;
            assert_eq!((refused.status.as_u16(), refused.header("allow")), (405, "GET, HEAD"), "{method} {path}");
        }
    }
    for path in ["/nothing", "/healthz/", "/config/x", "//"] {
        assert_eq!(ask(admin, "GET", path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn the_config_page_shows_what_holds_and_no_secret() {
    let secret = "TWFya2VyTWFya2VyTWFya2VyTWFya2VyTWFya2VyTWE=";
    let api = json!({
        "ttl_seconds": 77,
        "reasoning_encryption": {"keys": [{"id": "first", "key": secret}]},
        "redis": {"username": secret, "password": secret, "sentinel_username": secret, "sentinel_password": secret},
    });
    let (_router, admin) = router(json!({"response_api": api})).await;
    let page = text(ask(admin, "GET", "/config").await).await;
    assert!(!page.contains("TWFy"), "{page}");
    let config: Value = serde_yaml::from_str(&page).unwrap();
    assert_eq!(config["response_api"]["ttl_seconds"], 77);
    assert_eq!(config["response_api"]["redis"]["password"], "<masked>");
    assert_eq!(config["response_api"]["reasoning_encryption"]["keys"][0]["id"], "first");
    assert_eq!(config["stream"]["heartbeat_seconds"], 15);
}

#[tokio::test]
async fn the_build_is_told_by_the_page_and_by_the_flag() {
    let (_router, admin) = router(json!({})).await;
    let build = ask(admin, "GET", "/buildinfo").await.json().await;
    assert_eq!(build["version"], env!("CARGO_PKG_VERSION"));
    let rustc = build["rustc"].as_str().unwrap();
    let long = String::from_utf8(run(&["--version"]).stdout).unwrap();
    assert!(rustc.starts_with("rustc 1.") && long.contains(&format!("\nrustc: {rustc}\n")), "{long}");
}

#[tokio::test]
async fn a_router_without_its_store_is_alive_and_says_why_it_is_not_ready() {
    // A port that nobody listens on, for as long as this socket has it.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let nobody = socket.local_addr().unwrap().to_string();
    let api = json!({"store_backend": "redis", "redis": {"address": nobody}});
    let (_router, admin) = router(json!({"response_api": api})).await;
    assert_eq!(ask(admin, "GET", "/healthz").await.status, 200);
    let reply = ask(admin, "GET", "/readyz").await;
    assert_eq!(reply.status, 503);
    let reason = text(reply).await;
    assert!(reason.starts_with("not ready: the response store ") && !reason.contains("127.0.0.1"), "{reason}");

    let admin = admin.to_string();
    assert_eq!(run(&["health", "--admin", &admin]).status.code(), Some(0));
    let ready = run(&["health", "--ready", "--admin", &admin]);
    assert_eq!(ready.status.code(), Some(1));
    assert!(String::from_utf8(ready.stderr).unwrap().contains("not ready: the response store"));
}

#[tokio::test]
async fn the_health_command_asks_either_listener_and_fails_where_there_is_none() {
    let (router, admin) = router(json!({})).await;
    let (admin, grpc) = (admin.to_string(), router.listen.to_string());
    for arguments in
        [&["health", "--admin", &admin][..], &["health", "--ready", "--admin", &admin], &["health", "--grpc", &grpc]]
    {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    }
    // The other's listener speaks another language.
    for arguments in
        [&["health", "--grpc", &admin][..], &["health", "--admin", &grpc], &["health", "--grpc", "unix:/nowhere"]]
    {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
    }
}

#[test]
fn bad_configs_and_certificates_end_with_64_and_name_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.yaml");
    let authority = Authority::new();
    let (one, other) = (authority.issue(&["one.test"]), authority.issue(&["other.test"]));
    let tls = json!({"server": {"tls": {"cert_path": one.certificate, "key_path": other.key}}});
    let redis = |settings: Value| json!({"response_api": {"store_backend": "redis", "redis": settings}}).to_string();
    for (text, key) in [
        ("server: {lisen: x}".to_owned(), "lisen"),
        (redis(json!({"tls_enabled": true, "tls_ca_path": "/nowhere"})), "response_api.redis.tls_ca_path"),
        (tls.to_string(), "server.tls.key_path"),
        (
            json!({"server": {"tls": {"cert_path": "/nowhere", "key_path": other.key}}}).to_string(),
            "server.tls.cert_path",
        ),
    ] {
        std::fs::write(&config, text).unwrap();
        let config = config.to_str().unwrap();
        for arguments in [&["--config", config][..], &["--config", config, "--check"], &["check", "--config", config]] {
            let output = run(arguments);
            assert_eq!(output.status.code(), Some(64), "{arguments:?}: {output:?}");
            assert!(String::from_utf8(output.stderr).unwrap().contains(key), "{key}");
        }
    }
}
