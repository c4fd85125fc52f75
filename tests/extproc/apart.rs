//! Large bodies hold up no other exchange: they are read and translated apart, when it is their turn.

use std::io::Write as _;
use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use futures_util::poll;
use responses_router::extproc::admission::Admission;
use responses_router::extproc::apart::Apart;
use responses_router::store::{ChainLimits, MemoryBounds, MemoryStore};
use serde_json::{Value, json};

use super::reports::{frame, responses, tell};
use crate::support::envoy::ext_proc::processing_request::Request;
use crate::support::envoy::{
    Exchange, Router, Seen, answer, head, post, request_body, response_body, response_trailers, seen,
};
use crate::support::stack::chat;

/// More than what is done where it is asked for.
const LARGE: usize = 300 * 1024;

/// A router for large bodies, and what shares its turns: one at once.
async fn start() -> (Router, Apart) {
    let (max_entries, max_bytes) = (NonZeroU64::new(100).unwrap(), 64 << 20);
    let store = MemoryStore::new(MemoryBounds { max_entries, max_bytes, ttl: Duration::from_secs(60) });
    let (mut router, _) = responses(Arc::new(store), Duration::from_secs(60));
    let apart = Apart::new(NonZeroUsize::MIN);
    router.apart = apart.clone();
    router.admission = Arc::new(Admission::new(100, 64 << 20));
    router.policy.max_request_bytes = 8 << 20;
    router.policy.max_answer_bytes = 8 << 20;
    router.policy.chain = ChainLimits { max_bytes: 8 << 20, ..router.policy.chain };
    (Router::start(router).await, apart)
}

/// Sends a request and gives what goes up.
async fn ask(exchange: &mut Exchange, body: &Value) -> Value {
    tell(exchange, &[post(), request_body(body.to_string(), true)]).await;
    gone_up(exchange).await
}

async fn gone_up(exchange: &mut Exchange) -> Value {
    let reply = seen(exchange.reply().await);
    assert!(matches!(reply, Seen::RequestHeaders { .. }), "{reply:?}");
    let Seen::RequestBody { body, end: true } = seen(exchange.reply().await) else { panic!("the whole body") };
    serde_json::from_slice(&body).unwrap()
}

/// Answers it, and gives what the client gets.
async fn answered(exchange: &mut Exchange, text: &str) -> Value {
    let answer = [answer("200", "application/json"), response_body(chat::completion(text).to_string(), true)];
    tell(exchange, &answer).await;
    came_down(exchange).await
}

async fn came_down(exchange: &mut Exchange) -> Value {
    let reply = seen(exchange.reply().await);
    assert!(matches!(reply, Seen::ResponseHeaders { .. }), "{reply:?}");
    // Its end comes with it or as trailers.
    let Seen::ResponseBody { body, .. } = seen(exchange.reply().await) else { panic!("the whole body") };
    serde_json::from_slice(&body).unwrap()
}

/// Forty kilobytes that do not become small.
fn dense_text() -> String {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{:016x}", state ^ (state >> 29))
    };
    (0..2560).map(|_| next()).collect()
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// A whole small exchange.
async fn small(router: &Router) -> Value {
    let mut exchange = router.open().await;
    ask(&mut exchange, &json!({"model": "m", "input": "Hi"})).await;
    answered(&mut exchange, "Hello.").await
}

#[tokio::test]
async fn small_exchanges_go_on_while_large_ones_wait_for_their_turn() {
    let (router, apart) = start().await;
    let long = "x".repeat(LARGE);

    // Of a request whose turn comes at once.
    let mut first = router.open().await;
    let chat = ask(&mut first, &json!({"model": "m", "input": long})).await;
    assert_eq!(chat["messages"][0]["content"], long);
    let first = answered(&mut first, "Long.").await;

    let (release, held) = mpsc::channel::<()>();
    let mut turn = apart.run(move || held.recv());
    assert!(poll!(&mut turn).is_pending(), "the only turn is taken");

    // A large body, a large history, and a large answer; one that was streamed, and a body that may be large once decoded.
    let (mut body, mut history, mut large_answer) = (router.open().await, router.open().await, router.open().await);
    let (mut gathered, mut packed) = (router.open().await, router.open().await);
    // What is refused when it is read has no other work before it.
    let (mut refused, mut unusable) = (router.open().await, router.open().await);
    let asked = json!({"model": "m", "input": long}).to_string();
    tell(&mut body, &[post(), request_body(asked, true)]).await;
    let asked = json!({"model": "m", "input": "And?", "previous_response_id": first["id"]}).to_string();
    tell(&mut history, &[post(), request_body(asked, true)]).await;
    ask(&mut large_answer, &json!({"model": "m", "input": "At length, please."})).await;
    let completion = chat::completion(&long).to_string();
    tell(&mut large_answer, &[answer("200", "application/json"), response_body(completion, true)]).await;

    ask(&mut gathered, &json!({"model": "m", "input": "The same in pieces."})).await;
    tell(&mut gathered, &[answer("200", "text/event-stream")]).await;
    for chunk in [chat::text(&long[..LARGE / 2]), chat::text(&long[LARGE / 2..]), chat::finish("stop")] {
        tell(&mut gathered, &[frame(&chunk)]).await;
    }
    tell(&mut gathered, &[response_trailers()]).await;
    let text = dense_text();
    let coded = gzip(json!({"model": "m", "input": text}).to_string().as_bytes());
    let headers: [(&str, &[u8]); 3] =
        [(":method", b"POST"), (":path", b"/v1/responses"), ("content-encoding", b"gzip")];
    tell(&mut packed, &[Request::RequestHeaders(head(&headers, false)), request_body(coded, true)]).await;

    let asked = json!({"model": "m", "input": [long]}).to_string();
    tell(&mut refused, &[post(), request_body(asked, true)]).await;
    ask(&mut unusable, &json!({"model": "m", "input": "Nothing of use, please."})).await;
    let nothing = json!({"choices": 7, "x": long}).to_string();
    tell(&mut unusable, &[answer("200", "application/json"), response_body(nothing, true)]).await;

    for _ in 0..3 {
        assert_eq!(small(&router).await["status"], "completed");
    }
    for waiting in [&mut body, &mut history, &mut large_answer, &mut gathered, &mut packed, &mut refused, &mut unusable]
    {
        assert!(poll!(Box::pin(waiting.next())).is_pending(), "it has no turn yet");
    }

    drop(release);
    assert!(turn.await.unwrap().is_err(), "the sender is gone");
    assert_eq!(gone_up(&mut body).await["messages"][0]["content"], long);
    let continued = gone_up(&mut history).await;
    assert_eq!(continued["messages"].as_array().unwrap().len(), 3, "{continued}");
    assert_eq!(continued["messages"][2]["content"], "And?");
    for answer in [&mut large_answer, &mut gathered] {
        assert_eq!(came_down(answer).await["output"][0]["content"][0]["text"], long);
    }
    assert_eq!(gone_up(&mut packed).await["messages"][0]["content"], text);
    for (exchange, status) in [(&mut refused, "400"), (&mut unusable, "502")] {
        let (replies, error) = exchange.rest().await;
        assert!(error.is_none(), "{error:?}");
        let replies: Vec<_> = replies.into_iter().map(seen).collect();
        assert!(format!("{replies:?}").contains(status), "{status}: {replies:?}");
    }
}

#[tokio::test]
async fn a_large_body_that_is_refused_is_refused_as_a_small_one_is() {
    let (router, _) = start().await;
    let large = json!({"model": "m", "input": ["x".repeat(LARGE)]}).to_string();
    let mut refusals = Vec::new();
    for body in [large, json!({"model": "m", "input": ["x"]}).to_string()] {
        let mut exchange = router.open().await;
        tell(&mut exchange, &[post(), request_body(body, true)]).await;
        let (replies, status) = exchange.rest().await;
        assert!(status.is_none(), "{status:?}");
        refusals.push(replies.into_iter().map(seen).collect::<Vec<_>>());
    }
    assert!(format!("{:?}", refusals[0]).contains("400"), "{refusals:?}");
    assert_eq!(refusals[0], refusals[1]);
}
