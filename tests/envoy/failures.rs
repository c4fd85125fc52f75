//! Rows of docs/failures.md that nothing else shows through the whole path.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{assert_error_shape, error_of, finish_stream, id, keys, open_stream};
use crate::support::redis::Server;
use crate::support::stack::http::{Connection, Reply, request};
use crate::support::stack::upstream::Answer;
use crate::support::stack::wait::{eventually, within};
use crate::support::stack::{EditEnvoy, Hold, Stack, StackOptions};

const PREFIX: &str = "failures:";

/// The breaker is no shorter than a machine as busy as a test's may stall.
async fn over_redis(server: &Server) -> Hold {
    let settings = json!({
        "server": {"admin_listen": "127.0.0.1:0"},
        "response_api": {
            "store_backend": "redis",
            "store_deadline_ms": 5000,
            "redis": {
                "address": format!("127.0.0.1:{}", server.port), "key_prefix": PREFIX, "breaker_seconds": 4,
            },
        },
    });
    let stack = Stack::start(StackOptions { settings, ..StackOptions::default() }).await;
    stack.upstream.answer("failures", |_| Answer::completion("Hello."));
    stack
}

fn body(parent: Option<&str>, store: bool) -> Value {
    json!({"model": "failures", "input": "Hi", "previous_response_id": parent, "store": store})
}

/// The status of a page of the admin listener.
async fn status(stack: &Stack, path: &str) -> u16 {
    Connection::http1(stack.router.admin().await).await.send(request("GET", path)).await.status.as_u16()
}

async fn assert_unavailable(reply: Reply) {
    assert_eq!(reply.header("retry-after"), "1");
    let error = error_of(reply, 503).await;
    assert_eq!((&error["type"], &error["code"]), (&json!("server_error"), &json!("store_unavailable")));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_only_what_needs_it_is_refused_and_the_router_stays_alive() {
    let mut server = Server::start(&[]);
    let stack = over_redis(&server).await;
    let first = stack.created(&body(None, true)).await;
    assert_eq!((status(&stack, "/healthz").await, status(&stack, "/readyz").await), (200, 200));
    server.kill();
    assert_unavailable(stack.create(&body(Some(id(&first)), true)).await).await;
    assert_unavailable(stack.create(&body(None, true)).await).await;
    assert_unavailable(stack.retrieve(id(&first)).await).await;
    assert_unavailable(stack.delete(id(&first)).await).await;
    assert_eq!(stack.created(&body(None, false)).await["output_text"], "Hello.");
    eventually("the router is not ready", async || (status(&stack, "/readyz").await == 503).then_some(())).await;
    assert_eq!(status(&stack, "/healthz").await, 200);
    server.restart();
    eventually("the router is ready", async || (status(&stack, "/readyz").await == 200).then_some(())).await;
    assert_eq!(stack.retrieve(id(&first)).await.json().await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_refuses_writes_and_goes_on_being_read() {
    let server = Server::start(&[]);
    let stack = over_redis(&server).await;
    let first = stack.created(&body(None, true)).await;
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_unavailable(stack.create(&body(Some(id(&first)), true)).await).await;
    assert_eq!(stack.retrieve(id(&first)).await.json().await, first);
    let (events, live) = open_stream(&stack, "failures-full", &json!({"input": "Hi"})).await;
    live.finish().await;
    let (last, _) = finish_stream(events).await;
    assert_eq!(
        (&*last.kind, &last.data["response"]["error"]["code"]),
        ("response.failed", &json!("store_unavailable"))
    );
    // What failed before it could be stored failed for its own reason: trying again would be no use.
    stack.upstream.answer("failures-overflow", |_| {
        Answer::json(400, &json!({"error": {"message": "This model's maximum context length is 10 tokens."}}))
    });
    let failed = stack.create(&json!({"model": "failures-overflow", "input": "Hi", "stream": true})).await;
    let (last, _) = finish_stream(failed.events()).await;
    assert_eq!(
        (&*last.kind, &last.data["response"]["error"]["code"]),
        ("response.failed", &json!("context_length_exceeded"))
    );
    let metrics = stack.router.told("/metrics").await;
    let counted = metrics.lines().find(|line| {
        line.starts_with("responses_router_errors_total{") && line.contains(r#"code="context_length_exceeded""#)
    });
    assert!(counted.is_some_and(|line| line.ends_with(" 1")), "{counted:?}");
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    stack.created(&body(Some(id(&first)), true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_is_an_error_and_never_a_missing_one() {
    let server = Server::start(&[]);
    let stack = over_redis(&server).await;
    let first = stack.created(&body(None, true)).await;
    server.cli(&["SET", &format!("{PREFIX}response:{}", id(&first)), "{\"version\": 1"]);
    for reply in [stack.retrieve(id(&first)).await, stack.create(&body(Some(id(&first)), true)).await] {
        assert_eq!(error_of(reply, 500).await["type"], "server_error");
    }
}

#[tokio::test]
async fn a_chain_that_is_too_long_is_refused_and_never_shortened() {
    let settings = json!({"limits": {"max_chain_depth": 2}});
    let stack = Stack::start(StackOptions { settings, ..StackOptions::default() }).await;
    stack.upstream.answer("failures", |_| Answer::completion("Hello."));
    let first = stack.created(&body(None, true)).await;
    let second = stack.created(&body(Some(id(&first)), true)).await;
    let third = stack.created(&body(Some(id(&second)), true)).await;
    let error = error_of(stack.create(&body(Some(id(&third)), true)).await, 400).await;
    assert_eq!((&error["param"], &error["code"]), (&json!("previous_response_id"), &json!("chain_too_long")));
    assert_eq!(stack.upstream.received("failures").len(), 3);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let settings = json!({"limits": {"request_body_seconds": 1}});
    let stack = Stack::start(StackOptions { settings, ..StackOptions::default() }).await;
    let mut connection = TcpStream::connect(stack.envoy.address).await.unwrap();
    let head =
        "POST /v1/responses HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    within("the answer", connection.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(
        assert_error_shape(answer.split_once("\r\n\r\n").unwrap().1.as_bytes())["type"],
        "invalid_request_error"
    );
}

#[tokio::test]
async fn more_streams_than_envoys_circuit_breaker_allows_are_refused_as_an_absent_router_is() {
    let edit: EditEnvoy = Box::new(|config| {
        let cluster = &mut config["static_resources"]["clusters"][1];
        assert_eq!(cluster["name"], "responses-router");
        cluster["circuit_breakers"]["thresholds"] = json!([{"max_requests": 2}]);
    });
    let stack = Stack::start(StackOptions { envoy: Some(edit), ..StackOptions::default() }).await;
    stack.upstream.answer("failures", |_| Answer::completion("Hello."));
    let streams = [
        open_stream(&stack, "failures-1", &json!({"input": "Hi"})).await,
        open_stream(&stack, "failures-2", &json!({"input": "Hi"})).await,
    ];
    let error = error_of(stack.create(&body(None, true)).await, 503).await;
    assert_eq!((&error["type"], &error["code"]), (&json!("server_error"), &json!("service_unavailable")));
    assert!(stack.envoy.stat("cluster.responses-router.upstream_rq_active_overflow").await > 0);
    for (events, live) in streams {
        live.finish().await;
        assert_eq!(finish_stream(events).await.0.kind, "response.completed");
    }
    let created = eventually("there is room again", async || {
        let reply = stack.create(&body(None, true)).await;
        if reply.status == 200 { Some(reply.json().await) } else { None }
    })
    .await;
    assert_eq!(created["output_text"], "Hello.");
}

#[tokio::test]
async fn an_envoy_in_another_mode_gets_errors_and_the_log_names_the_right_one() {
    let edit: EditEnvoy = Box::new(|config| {
        let filter = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config";
        let mode = &mut config.pointer_mut(filter).unwrap()["processing_mode"];
        assert!(keys(mode).contains(&"request_body_mode"));
        mode["request_body_mode"] = json!("STREAMED");
        mode["response_body_mode"] = json!("STREAMED");
    });
    let stack = Stack::start(StackOptions { envoy: Some(edit), ..StackOptions::default() }).await;
    let error = error_of(stack.create(&body(None, true)).await, 503).await;
    assert_eq!(error["code"], "service_unavailable");
    let names_it = |line: &str| (line.contains(" ERROR ") && line.contains("FULL_DUPLEX_STREAMED")).then_some(());
    stack.router.process.log_line("an error with the right mode", names_it).await;
    assert!(stack.upstream.received("failures").is_empty());
}

/// The failure table names tests; each of them exists.
#[test]
fn the_tests_that_the_failure_table_names_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(root.join("docs/failures.md")).unwrap();
    let (_, table) = table.split_once("## Which tests show it").unwrap();
    let tests: Vec<_> = table.split('`').skip(1).step_by(2).filter_map(|code| code.rsplit_once("::")).collect();
    let tests: Vec<_> = tests.into_iter().filter(|(_, name)| !name.is_empty()).collect();
    assert!(tests.len() > 30, "{}", tests.len());
    for (module, name) in tests {
        let path = module.replace("::", "/");
        let sources =
            ["tests", "src"].map(|folder| std::fs::read_to_string(root.join(folder).join(format!("{path}.rs"))));
        let test = format!("fn {name}(");
        assert!(sources.iter().flatten().any(|source| source.contains(&test)), "no test {module}::{name}");
    }
}
