//! What the store is asked for while Envoy does not read, and what a stream that ends does while the store is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use responses_router::id::ResponseId;
use responses_router::store::{Figure, MemoryStore, Record, ResponseStore, StoreError, Touch};
use responses_router::tenant::Tenant;
use serde_json::json;
use tokio::sync::Notify;

use super::reports::{Reported, create, frame, memory, tell};
use crate::support::envoy::ext_proc::processing_response::Response;
use crate::support::envoy::{Exchange, Seen, answer, post, request_body, response_body, response_trailers, seen};
use crate::support::stack::chat;
use crate::support::stack::wait::eventually;

/// A router with a store whose writes wait.
async fn gated() -> (Reported, Arc<Gated>) {
    let (gate, begun, ended, refuses) =
        (Notify::new(), AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let store = Arc::new(Gated { store: memory(), gate, begun, ended, refuses });
    (Reported::start_with(Arc::<Gated>::clone(&store), Duration::from_secs(60)).await, store)
}

/// Begins a stream, and reads what there is of it.
async fn begin_stream(exchange: &mut Exchange, request: &serde_json::Value) -> String {
    let mut messages = vec![post(), request_body(request.to_string(), true)];
    messages.extend([answer("200", "text/event-stream"), frame(&chat::text("Hello"))]);
    tell(exchange, &messages).await;
    let mut said = String::new();
    while !said.contains("response.output_text.delta") {
        said.push_str(&body_of(exchange.reply().await));
    }
    said
}

fn streamed() -> serde_json::Value {
    json!({"model": "m", "input": "Hi", "stream": true})
}

/// The rest of the answer, in one piece; with the end of the upstream, or before it.
async fn end_stream(exchange: &mut Exchange, end: bool) {
    let frames = [chat::text(" there."), chat::finish("stop")].map(|chunk| format!("data: {chunk}\n\n"));
    tell(exchange, &[response_body(format!("{}data: [DONE]\n\n", frames.concat()), end)]).await;
}

/// What a stream said, as names of events, whose numbers must be dense.
fn events(said: &str) -> Vec<String> {
    let frames = said.split_terminator("\n\n").map(|frame| frame.split_once("\ndata: ").expect("an event"));
    let numbered = frames.enumerate().map(|(number, (event, data))| {
        let data: serde_json::Value = serde_json::from_str(data).expect("JSON");
        assert_eq!(data["sequence_number"], number, "{said}");
        event.trim_start_matches("event: ").to_owned()
    });
    numbered.collect()
}

const CLOSING: [&str; 3] = ["response.output_text.done", "response.content_part.done", "response.output_item.done"];

/// The piece of the answer that a message carries, empty for other messages.
fn body_of(reply: Response) -> String {
    match seen(reply) {
        Seen::ResponseBody { body, .. } => String::from_utf8(body).expect("text"),
        _ => String::new(),
    }
}

/// A store whose writes wait to be let through, and hold what others wait for meanwhile.
struct Gated {
    store: MemoryStore,
    gate: Notify,
    begun: AtomicUsize,
    ended: AtomicUsize,
    /// Refuses what it has let through.
    refuses: AtomicBool,
}

#[async_trait]
impl ResponseStore for Gated {
    async fn put(&self, record: Arc<Record>) -> Result<(), StoreError> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.gate.notified().await;
        self.ended.fetch_add(1, Ordering::SeqCst);
        if self.refuses.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("refused on purpose".to_owned()));
        }
        self.store.put(record).await
    }

    async fn load(&self, ids: &[ResponseId], touch: Touch) -> Result<Vec<Option<Arc<Record>>>, StoreError> {
        self.store.load(ids, touch).await
    }

    async fn refresh(&self, ids: &[ResponseId], longer: Duration) -> Result<(), StoreError> {
        self.store.refresh(ids, longer).await
    }

    async fn delete(&self, id: &ResponseId) -> Result<bool, StoreError> {
        self.store.delete(id).await
    }

    async fn ready(&self) -> Result<(), StoreError> {
        self.store.ready().await
    }

    fn ttl(&self) -> Duration {
        self.store.ttl()
    }

    fn place_of(&self, tenant: Tenant) -> Option<Arc<dyn ResponseStore>> {
        self.store.place_of(tenant)
    }

    fn name(&self) -> &'static str {
        "gated"
    }

    fn figures(&self) -> Vec<Figure> {
        Vec::new()
    }
}

/// hyper does not poll an exchange while something that it has said waits for Envoy to read what came before.
#[tokio::test]
async fn the_write_of_a_stream_ends_though_envoy_does_not_read_the_stream() {
    let (reported, store) = gated().await;
    let mut exchange = reported.router.open().await;
    let mut messages = create(true);
    messages.push(answer("200", "text/event-stream"));
    // More than the window of a stream, which is 64 KiB.
    messages.push(frame(&chat::text(&"words ".repeat(30_000))));
    tell(&mut exchange, &messages).await;
    while !matches!(exchange.reply().await, Response::ResponseHeaders(_)) {}

    let mut messages: Vec<_> = [chat::text("More."), chat::finish("stop")].iter().map(frame).collect();
    messages.push(response_trailers());
    tell(&mut exchange, &messages).await;
    eventually("the write begins", async || (store.begun.load(Ordering::SeqCst) == 1).then_some(())).await;
    store.gate.notify_one();
    eventually("the write ends", async || (store.ended.load(Ordering::SeqCst) == 1).then_some(())).await;
    let (replies, status) = exchange.rest().await;
    assert!(status.is_none() && replies.len() > 2, "{status:?}");
}

/// Streams an answer to its end, and wants all that follows the first delta in one message with the end.
async fn ends_in_one_message(request: &serde_json::Value) {
    let reported = Reported::start_with(Arc::new(memory()), Duration::from_secs(60)).await;
    let mut exchange = reported.router.open().await;
    let begun = begin_stream(&mut exchange, request).await;
    end_stream(&mut exchange, true).await;
    let (replies, status) = exchange.rest().await;
    assert!(status.is_none(), "{status:?}");
    let [last] = <[Response; 1]>::try_from(replies).expect("one message");
    let Seen::ResponseBody { body, end: true } = seen(last) else { panic!("not the end of the body") };
    let names = events(&(begun.clone() + &String::from_utf8(body).expect("text")));
    let last = [&["response.output_text.delta"][..], &CLOSING, &["response.completed"]].concat();
    assert_eq!(names[events(&begun).len()..], last);
}

#[tokio::test]
async fn a_stream_ends_in_one_message_when_the_store_is_quick() {
    ends_in_one_message(&streamed()).await;
}

#[tokio::test]
async fn a_stream_that_is_not_stored_ends_in_one_message() {
    ends_in_one_message(&json!({"model": "m", "input": "Hi", "stream": true, "store": false})).await;
}

#[tokio::test]
async fn a_stream_ends_in_one_message_and_trailers_when_the_upstream_has_some() {
    let reported = Reported::start_with(Arc::new(memory()), Duration::from_secs(60)).await;
    let mut exchange = reported.router.open().await;
    let begun = begin_stream(&mut exchange, &streamed()).await;
    end_stream(&mut exchange, false).await;
    tell(&mut exchange, &[response_trailers()]).await;
    let (replies, status) = exchange.rest().await;
    assert!(status.is_none(), "{status:?}");
    let [last, trailers] = <[Response; 2]>::try_from(replies).expect("two messages");
    assert_eq!(events(&(begun + &body_of(last))).last().unwrap(), "response.completed");
    assert_eq!(seen(trailers), Seen::ResponseTrailers);
}

/// Of a slow store, lets through or refuses what is written; gives what was said before that, and after.
async fn ends_slowly(refuses: bool) -> (Vec<String>, Vec<String>) {
    let (reported, store) = gated().await;
    store.refuses.store(refuses, Ordering::SeqCst);
    let mut exchange = reported.router.open().await;
    let mut said = begin_stream(&mut exchange, &streamed()).await;
    end_stream(&mut exchange, true).await;
    let untaken = body_of(exchange.reply().await);
    assert!(untaken.contains("there."), "{untaken}");
    said.push_str(&untaken);
    let before = events(&said);
    assert_eq!((store.begun.load(Ordering::SeqCst), store.ended.load(Ordering::SeqCst)), (1, 0));
    store.gate.notify_one();
    let (replies, status) = exchange.rest().await;
    assert!(status.is_none(), "{status:?}");
    let [last] = <[Response; 1]>::try_from(replies).expect("one message");
    let after = events(&(said + &body_of(last))).split_off(before.len());
    (before, after)
}

#[tokio::test]
async fn the_last_deltas_do_not_wait_for_a_slow_store_but_the_end_does() {
    let (before, after) = ends_slowly(false).await;
    assert_eq!(before.last().unwrap(), "response.output_text.delta");
    assert_eq!(after, [&CLOSING[..], &["response.completed"]].concat());
}

#[tokio::test]
async fn a_refusal_after_the_last_deltas_ends_the_stream_as_failed() {
    let (before, after) = ends_slowly(true).await;
    assert_eq!(before.last().unwrap(), "response.output_text.delta");
    assert_eq!(after, [&CLOSING[..], &["response.failed"]].concat());
}

#[tokio::test]
async fn a_client_that_leaves_while_the_end_waits_for_the_store_leaves_the_record() {
    let (reported, store) = gated().await;
    let mut exchange = reported.router.open().await;
    let begun = begin_stream(&mut exchange, &streamed()).await;
    let (_, id) = begun.split_once("\"id\":\"").expect("an id");
    let id = ResponseId::parse(id.split('"').next().unwrap()).expect("an id");
    end_stream(&mut exchange, true).await;
    eventually("the write begins", async || (store.begun.load(Ordering::SeqCst) == 1).then_some(())).await;
    drop(exchange);
    store.gate.notify_one();
    eventually("the record is there", async || {
        store.store.load(std::slice::from_ref(&id), Touch::Keep).await.unwrap().remove(0)
    })
    .await;
    assert_eq!(store.begun.load(Ordering::SeqCst), 1);
}
