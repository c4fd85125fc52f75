//! What a router does between SIGTERM and its end, beyond what `lifecycle.rs` shows of live streams.

use std::net::SocketAddr;
use std::time::Duration;

use responses_router::config::Listen;
use responses_router::server::probe;
use serde_json::{Value, json};

use super::{begin_stream, error_of, finish_stream};
use crate::support::stack::http::{Connection, Ending, request};
use crate::support::stack::router::Router;
use crate::support::stack::upstream::Answer;
use crate::support::stack::wait::eventually;
use crate::support::stack::{Stack, StackOptions, chat};

/// Longer than any test.
const LONG: u64 = 600;
const PATIENCE: Duration = Duration::from_secs(20);

async fn readiness(admin: SocketAddr) -> (u16, String) {
    let reply = Connection::http1(admin).await.send(request("GET", "/readyz")).await;
    (reply.status.as_u16(), String::from_utf8(reply.bytes().await.to_vec()).unwrap())
}

#[tokio::test]
async fn readiness_and_health_go_at_once_while_requests_are_taken_for_the_delay() {
    let settings = json!({"server": {"admin_listen": "127.0.0.1:0", "drain_delay_seconds": LONG}});
    let stack = Stack::start(StackOptions { settings, ..StackOptions::default() }).await;
    stack.upstream.answer("drain-delay", |_| Answer::completion("Hello."));
    let admin = stack.router.admin().await;
    assert_eq!(readiness(admin).await, (200, "ready\n".to_owned()));
    probe::grpc(&stack.router.listen, PATIENCE).await.unwrap();

    stack.router.process.signal("TERM");
    eventually("not ready", async || (readiness(admin).await.0 == 503).then_some(())).await;
    assert_eq!(readiness(admin).await, (503, "not ready: draining\n".to_owned()));
    eventually("NOT_SERVING", async || probe::grpc(&stack.router.listen, PATIENCE).await.err()).await;
    // The process lives, though it goes.
    let alive = Connection::http1(admin).await.send(request("GET", "/healthz")).await;
    assert_eq!(alive.status, 200);
    stack.created(&json!({"model": "drain-delay", "input": "Hi"})).await;

    // The second signal does not wait for anything.
    stack.router.process.signal("TERM");
    let status = stack.router.process.exited().await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_second_signal_ends_at_once_and_cuts_rather_than_ends_streams() {
    let settings = json!({"server": {"drain_seconds": LONG}});
    let stack = Stack::start(StackOptions { settings, unix_socket: true, ..StackOptions::default() }).await;
    let Listen::Unix(socket) = stack.router.listen.clone() else { panic!("no socket") };
    let (mut events, live, _) = begin_stream(&stack, "drain-second").await;
    live.chunk(&chat::text("One")).await;
    events.skip_to("response.output_text.delta").await;
    stack.router.process.signal("TERM");
    stack.router.process.log_line("the first signal", |line| line.contains("stopping:").then_some(())).await;
    stack.router.process.signal("TERM");
    let (_, _, ending) = events.rest().await;
    assert_eq!(ending, Ending::Cut);
    let status = stack.router.process.exited().await;
    assert!(status.success(), "{status}");
    assert!(!socket.exists());
}

#[tokio::test]
async fn an_answer_that_is_held_back_when_the_drain_is_over_is_an_error() {
    let settings = json!({"server": {"drain_seconds": 1}});
    let stack = Stack::start(StackOptions { settings, unix_socket: true, ..StackOptions::default() }).await;
    let Listen::Unix(socket) = stack.router.listen.clone() else { panic!("no socket") };
    let mut turns = stack.upstream.play("drain-held");
    let body = json!({"model": "drain-held", "input": "Hi"});
    let (reply, ()) = tokio::join!(stack.create(&body), async {
        // An unstreamed answer that came as a stream is held until its end.
        let live = turns.next().await.stream();
        live.chunk(&chat::text("Half")).await;
        stack.router.process.signal("TERM");
        live.closed().await;
    });
    let error = error_of(reply, 503).await;
    assert_eq!(error["type"], "server_error");
    let status = stack.router.process.exited().await;
    assert!(status.success(), "{status}");
    assert!(!socket.exists());
}

/// Puts a second router beside the first, and has Envoy ask their health several times a second.
fn two_routers(second: SocketAddr) -> impl FnOnce(&mut Value) + Send {
    move |config| {
        let cluster = &mut config["static_resources"]["clusters"][1];
        let address = json!({"socket_address": {"address": second.ip(), "port_value": second.port()}});
        let endpoints = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"].as_array_mut().unwrap();
        endpoints.push(json!({"endpoint": {"address": address}}));
        cluster["health_checks"] = json!([{
            "timeout": "5s", "interval": "0.2s", "no_traffic_interval": "0.2s", "unhealthy_threshold": 1,
            "healthy_threshold": 1, "grpc_health_check": {},
        }]);
    }
}

#[tokio::test]
async fn of_two_routers_one_drains_under_fifty_streams_and_nobody_notices() {
    const STREAMS: usize = 50;
    let redis = crate::support::redis::Server::start(&[]);
    let settings = json!({
        "server": {"drain_delay_seconds": 3, "drain_seconds": LONG},
        "response_api": {"store_backend": "redis", "redis": {"address": redis.config().address.to_string()}},
    });
    let second = Router::start(&settings, false).await;
    let Listen::Tcp(address) = second.listen else { panic!("no port") };
    let envoy = Some(Box::new(two_routers(address)) as _);
    let stack = Stack::start(StackOptions { settings, envoy, ..StackOptions::default() }).await;
    eventually("both routers are healthy", async || {
        (stack.envoy.stat("cluster.responses-router.membership_healthy").await == 2).then_some(())
    })
    .await;
    stack.upstream.answer("drain-two", |_| Answer::completion("Hello."));
    let mut streams = Vec::new();
    for number in 0..STREAMS {
        let (mut events, live, id) = begin_stream(&stack, &format!("drain-two-{number}")).await;
        live.chunk(&chat::text("One")).await;
        events.skip_to("response.output_text.delta").await;
        streams.push((events, live, id));
    }

    second.process.signal("TERM");
    // New requests all the while, until the router is out of the cluster and takes no connection.
    let mut asked = 0;
    let gone = async {
        second.refuses_connections().await;
    };
    tokio::pin!(gone);
    loop {
        stack.created(&json!({"model": "drain-two", "input": "Hi"})).await;
        asked += 1;
        if futures_util::FutureExt::now_or_never(&mut gone).is_some() {
            break;
        }
    }
    eventually("Envoy knows one router", async || {
        (stack.envoy.stat("cluster.responses-router.membership_healthy").await == 1).then_some(())
    })
    .await;
    for _ in 0..20 {
        stack.created(&json!({"model": "drain-two", "input": "Hi"})).await;
    }
    assert!(asked > 1, "{asked}");

    for (events, live, id) in streams {
        live.chunk(&chat::text(" two")).await;
        live.finish().await;
        let (last, _) = finish_stream(events).await;
        assert_eq!((&*last.kind, &last.data["response"]["output_text"]), ("response.completed", &json!("One two")));
        // Kept by whichever router it went through, and known to the one that is left.
        assert_eq!(stack.retrieve(&id).await.status, 200);
    }
    let status = second.process.exited().await;
    assert!(status.success(), "{status}");
}
