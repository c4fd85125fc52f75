//! TLS, really spoken: with one server and with a cluster, and what is refused.

use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use responses_router::config::Redis;
use responses_router::store::history;
use serde_json::{Value, json};

use super::{LIMITS, chain, open, read, turn};
use crate::support::certificates::Authority;
use crate::support::redis::{Cluster, Server, Tls, try_until};
use crate::support::stack::process::Process;

/// Whom the servers here trust, and who trusts them.
pub(crate) fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(Authority::new)
}

/// How long a state may take to come about.
const PATIENCE: Duration = Duration::from_secs(30);

/// Settings that trust this authority.
pub(crate) fn trusting(config: Redis, authority: &Authority) -> Redis {
    Redis { tls_enabled: true, tls_ca_path: Some(authority.ca()), ..config }
}

async fn works(config: &Redis) {
    let store = open(config).await;
    store.ready().await.unwrap();
    let records = chain(&store, 20, 100).await;
    assert_eq!(history(&*store, &records[19].id, LIMITS).await.unwrap().records, records);
    assert!(store.delete(&records[0].id).await.unwrap());
    assert!(read(&store, &records[0].id).await.unwrap().is_none());
}

/// No operation works, nothing is ready, and nothing was sent in plain text that a server could have answered.
async fn is_refused(config: &Redis) {
    let config = Redis { breaker_seconds: Duration::from_secs(1), ..config.clone() };
    let store = open(&config).await;
    assert!(store.ready().await.is_err());
    let error = store.put(turn(&[], 1)).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(read(&store, &turn(&[], 1).id).await.unwrap_err().is_transient());
    assert!(store.ready().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authority_alone_is_enough() {
    let server = Server::start_tls(Tls::of(authority(), &["127.0.0.1"]), &[]);
    works(&trusting(server.config(), authority())).await;
    // The server would hang up on plain text; nobody tries.
    is_refused(&server.config()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_authority_or_of_another_name_is_refused() {
    let server = Server::start_tls(Tls::of(authority(), &["127.0.0.1"]), &[]);
    let misnamed = Server::start_tls(Tls::of(authority(), &["redis.example"]), &[]);
    for server in [&server, &misnamed] {
        server.cli(&["CONFIG", "RESETSTAT"]);
    }
    is_refused(&trusting(server.config(), &Authority::new())).await;
    is_refused(&trusting(misnamed.config(), authority())).await;
    for server in [&server, &misnamed] {
        assert_eq!(["ping", "auth", "hello", "client", "get", "set"].map(|command| server.calls(command)), [0; 6]);
    }
}

/// Settings with a client certificate.
pub(crate) fn certified(config: Redis, authority: &Authority) -> Redis {
    let own = authority.issue(&["router"]);
    Redis { tls_cert_path: Some(own.certificate), tls_key_path: Some(own.key), ..config }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_shown_where_one_is_asked_for() {
    let server = Server::start_tls(Tls::of(authority(), &["127.0.0.1"]).asking_clients(), &[]);
    let config = trusting(server.config(), authority());
    works(&certified(config.clone(), authority())).await;
    is_refused(&config).await;
    is_refused(&certified(config, &Authority::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_whose_certificates_have_names_is_used_though_it_tells_addresses() {
    let cluster = Cluster::start_tls(&Tls::of(authority(), &["localhost"]));
    let by_address = trusting(cluster.config(), authority());
    is_refused(&by_address).await;
    let mut config = by_address;
    for address in &mut config.cluster_addresses {
        address.host = "localhost".to_owned();
    }
    works(&config).await;
    let store = open(&Redis { min_replica_acks: 1, ..config.clone() }).await;
    let record = turn(&[], 1);
    store.put(Arc::clone(&record)).await.unwrap();
    // Now the slots are asked of a node that is known by its address only.
    let master = cluster.masters()[0];
    let replica = cluster.replica_of(master);
    assert_eq!(cluster.nodes[replica].cli(&["CLUSTER", "FAILOVER"]).trim(), "OK");
    assert!(try_until(PATIENCE, || cluster.masters().contains(&replica)));
    let records = chain(&store, 30, 10).await;
    assert_eq!(history(&*store, &records[29].id, LIMITS).await.unwrap().records, records);
    assert_eq!(read(&store, &record.id).await.unwrap().unwrap(), record);

    for node in &cluster.nodes {
        assert_eq!(node.cli(&["CONFIG", "SET", "tls-auth-clients", "yes"]).trim(), "OK");
    }
    works(&certified(config.clone(), authority())).await;
    is_refused(&config).await;
}

/// Commands that the README names, and none beside them.
pub(crate) const ALLOWED: &str = "+ping +get +getex +set +unlink +info +client|id";
const ALLOWED_FOR_CLUSTERS: &str = "+cluster|slots +cluster|info";
const ALLOWED_FOR_ACKS: &str = "+wait +expire";
const ALLOWED_FOR_MEMORY: &str = "+client|tracking +exists";

/// Makes a user that may do this to the keys of `config`.
fn allow(server: &Server, config: &Redis, commands: &[&str]) {
    let keys = format!("~{}response:*", config.key_prefix);
    let mut rule = vec!["ACL", "SETUSER", "router", "on", ">secret-word", &keys, "-@all"];
    rule.extend(commands.iter().flat_map(|commands| commands.split(' ')));
    assert_eq!(server.cli(&rule).trim(), "OK");
}

fn as_router(config: Redis) -> Redis {
    Redis { username: Some("router".to_owned()), password: Some("secret-word".into()), ..config }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_that_the_readme_names_are_all_that_is_needed() {
    let readme = include_str!("../../README.md");
    for commands in [ALLOWED, ALLOWED_FOR_CLUSTERS, ALLOWED_FOR_ACKS, ALLOWED_FOR_MEMORY] {
        assert!(readme.contains(&format!("`{commands}`")), "{commands}");
    }
    let server = Server::start_tls(Tls::of(authority(), &["127.0.0.1"]), &[]);
    let config = as_router(trusting(server.config(), authority()));
    allow(&server, &config, &[ALLOWED, ALLOWED_FOR_MEMORY]);
    works(&config).await;
    assert_eq!(server.cli(&["ACL", "LOG"]).trim(), "");

    let cluster = Cluster::start();
    let acks = Redis { min_replica_acks: 1, ..cluster.config() };
    let config = as_router(acks);
    for node in &cluster.nodes {
        allow(node, &config, &[ALLOWED, ALLOWED_FOR_CLUSTERS, ALLOWED_FOR_ACKS, ALLOWED_FOR_MEMORY]);
    }
    works(&config).await;
    let store = open(&config).await;
    let record = turn(&[], 1);
    store.put(Arc::clone(&record)).await.unwrap();
    // Written again, it is confirmed by other commands.
    store.put(record).await.unwrap();
    for node in &cluster.nodes {
        assert_eq!(node.cli(&["ACL", "LOG"]).trim(), "");
    }
}

/// A router of its own, with these settings of Redis and these variables.
fn router(redis: &Value, variables: &[(&str, &str)]) -> (Process, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml");
    let config = json!({
        "server": {"listen": "127.0.0.1:0", "admin_listen": ""},
        "response_api": {"store_backend": "redis", "redis": redis},
    });
    std::fs::write(&file, config.to_string()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_responses-router"));
    command.arg("--config").arg(&file).envs(variables.iter().copied());
    (Process::start("the router", &mut command), folder)
}

fn says(words: &str) -> impl Fn(&str) -> Option<()> {
    move |line| line.contains(words).then_some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_file_the_authorities_of_the_system_are_trusted() {
    let server = Server::start_tls(Tls::of(authority(), &["127.0.0.1"]), &[]);
    let redis = json!({"address": server.config().address.to_string(), "tls_enabled": true});
    let ca = authority().ca().display().to_string();
    let (trusting, _folder) = router(&redis, &[("SSL_CERT_FILE", &ca)]);
    trusting.log_line("its welcome", says("initialized successfully")).await;
    let other = Authority::new();
    let (refusing, _folder) = router(&redis, &[("SSL_CERT_FILE", &other.ca().display().to_string())]);
    refusing.log_line("the reason", says("UnknownIssuer")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_why_there_is_no_connection_and_tells_no_secret() {
    let server = Server::start_tls(Tls::of(authority(), &["127.0.0.1"]).asking_clients(), &[]);
    server.cli(&["ACL", "SETUSER", "default", ">another-word"]);
    let own = authority().issue(&["router"]);
    let (ca, strange) = (authority().ca(), Authority::new());
    let of = |ca: &std::path::Path, certified: bool| {
        let mut redis = json!({
            "address": server.config().address.to_string(), "tls_enabled": true, "tls_ca_path": ca,
            "username": "router", "password": "a-secret-word",
        });
        if certified {
            redis["tls_cert_path"] = json!(own.certificate);
            redis["tls_key_path"] = json!(own.key);
        }
        router(&redis, &[])
    };
    for ((process, _folder), reason) in [
        (of(&strange.ca(), true), "UnknownIssuer"),
        (of(&ca, false), "CertificateRequired"),
        (of(&ca, true), "WRONGPASS"),
    ] {
        process.log_line(reason, says(reason)).await;
        process.log_line("its state", says("Redis does not answer")).await;
        assert!(!process.log_tail().contains("secret-word"), "{}", process.log_tail());
    }
}
