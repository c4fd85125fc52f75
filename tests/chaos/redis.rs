//! One Redis that hangs, dies and forgets while conversations go on.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{start, until_served};
use crate::support::load::{Load, Options, retrieve};
use crate::support::redis::Server;
use crate::support::stack::client::{Client, Conversation, Ended};
use crate::support::stack::digest;

fn settings(server: &Server, on_store_error: &str) -> Value {
    json!({"response_api": {
        "store_backend": "redis",
        "on_store_error": on_store_error,
        "store_deadline_ms": 2000,
        "redis": {"address": format!("127.0.0.1:{}", server.port), "breaker_seconds": 1},
    }})
}

fn options(tolerated: fn(&Ended) -> bool) -> Options {
    let (pace, latent) = (Duration::from_millis(150), Duration::from_secs(1));
    Options { conversations: 20, turns: 12, pace, latent, tolerated }
}

/// Nothing that was answered is lost with a server that is killed: it writes before it answers.
fn server() -> Server {
    Server::start(&[("appendfsync", "always")])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-chaos"]
async fn chaos_of_a_flapping_redis_refuses_what_cannot_be_kept() {
    let mut server = server();
    let stack = start(settings(&server, "fail")).await;
    let load = Load::start(&stack, options(Ended::is_store_unavailable)).await;

    for hangs in [500, 1500] {
        let began = Instant::now();
        server.pause();
        tokio::time::sleep(Duration::from_millis(hangs)).await;
        server.resume();
        eprintln!("hung for {hangs} ms: {}", load.recovered(began).await);
    }
    server.pause();
    load.until_refused(5).await;
    server.resume();
    eprintln!("hung until turns were refused: {}", load.recovered(Instant::now()).await);

    let began = Instant::now();
    server.cli(&["CLIENT", "PAUSE", "3000", "WRITE"]);
    eprintln!("took no writes for 3 s: {}", load.recovered(began).await);

    for _ in 0..5 {
        server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    eprintln!("cut all connections five times: {}", load.recovered(Instant::now()).await);

    server.kill();
    load.until_refused(5).await;
    server.restart();
    eprintln!("killed and restarted: {}", load.recovered(Instant::now()).await);

    load.pause().await;
    server.restart_empty();
    let lost = load.all_is_lost();
    assert!(!lost.is_empty());
    let mut client = Client::new(stack.envoy.address);
    for response in lost.iter().rev().take(200) {
        let (status, found) = retrieve(&mut client, response["id"].as_str().unwrap()).await;
        assert_eq!(status, 404, "{found}");
    }
    load.resume();
    eprintln!("came back without its data: {}", load.recovered(Instant::now()).await);
    load.finish("a Redis that flapped", || ()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-chaos"]
async fn chaos_of_a_flapping_redis_is_told_of_in_the_answer_where_that_is_wished() {
    let mut server = server();
    let stack = start(settings(&server, "degrade")).await;
    let tolerated = |ended: &Ended| ended.is_store_unavailable() || matches!(ended, Ended::Unstored(_));
    let load = Load::start(&stack, options(tolerated)).await;

    // Histories can be read and nothing can be written, as on a full server.
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    load.until_unstored(10).await;
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    eprintln!("was full: {}", load.recovered(Instant::now()).await);

    server.pause();
    load.until_refused(5).await;
    server.resume();
    eprintln!("hung: {}", load.recovered(Instant::now()).await);

    server.kill();
    load.until_refused(5).await;
    server.restart();
    eprintln!("killed and restarted: {}", load.recovered(Instant::now()).await);
    until_served(&stack).await;
    load.finish("a Redis that flapped, answers given all the same", || ()).await;
}

/// The memory store refuses nothing but what is larger than all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-chaos"]
async fn chaos_of_a_memory_store_that_is_too_small_is_an_error_or_told_of_in_the_answer() {
    for (on_store_error, tolerated) in [
        ("fail", Ended::is_store_unavailable_for_good as fn(&Ended) -> bool),
        ("degrade", |ended: &Ended| matches!(ended, Ended::Unstored(_))),
    ] {
        let bounds = json!({"response_api": {"max_memory_bytes": 100_000, "on_store_error": on_store_error}});
        let stack = start(bounds).await;
        stack.upstream.answer(digest::MODEL, digest::answer);
        let mut conversation = Conversation::new(stack.envoy.address);
        for stream in [true, false] {
            let ended = conversation.turn("Hi", stream).await.unwrap();
            assert!(matches!(ended, Ended::Answered(_)), "{ended:?}");
            let ended = conversation.turn(&"too much ".repeat(20_000), stream).await.unwrap();
            assert!(tolerated(&ended), "{ended:?}");
            let ended = conversation.turn("And then?", stream).await.unwrap();
            assert!(matches!(ended, Ended::Answered(_)), "{ended:?}");
        }
    }
}
