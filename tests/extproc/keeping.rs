//! What the store is asked for while Envoy does not read, and what a stream that ends does while the store is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use responses_router::id::ResponseId;
use responses_router::store::{Figure, MemoryStore, Record, ResponseStore, StoreError, Touch};
use responses_router::tenant::Tenant;
use tokio::sync::Notify;

use super::reports::{Reported, create, frame, memory, tell};
use crate::support::envoy::ext_proc::processing_response::Response;
use crate::support::envoy::{Exchange, Seen, answer, response_body, response_trailers, seen};
use crate::support::stack::chat;
use crate::support::stack::wait::eventually;

/// A router with a store whose writes wait.
async fn gated() -> (Reported, Arc<Gated>) {
    let (gate, begun, ended) = (Notify::new(), AtomicUsize::new(0), AtomicUsize::new(0));
    let store = Arc::new(Gated { store: memory(), gate, begun, ended });
    (Reported::start_with(Arc::<Gated>::clone(&store), Duration::from_secs(60)).await, store)
}

/// Begins a stream, and reads what there is of it.
async fn begin_stream(exchange: &mut Exchange) {
    let mut messages = create(true);
    messages.extend([answer("200", "text/event-stream"), frame(&chat::text("Hello"))]);
    tell(exchange, &messages).await;
    while !body_of(exchange.reply().await).contains("response.output_text.delta") {}
}

/// The rest of the answer and its end, in one piece.
async fn end_stream(exchange: &mut Exchange) {
    let frames = [chat::text(" there."), chat::finish("stop")].map(|chunk| format!("data: {chunk}\n\n"));
    tell(exchange, &[response_body(format!("{}data: [DONE]\n\n", frames.concat()), true)]).await;
}

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
}

#[async_trait]
impl ResponseStore for Gated {
    async fn put(&self, record: Arc<Record>) -> Result<(), StoreError> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.gate.notified().await;
        self.ended.fetch_add(1, Ordering::SeqCst);
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

#[tokio::test]
async fn a_stream_ends_in_one_message_when_the_store_is_quick() {
    let reported = Reported::start_with(Arc::new(memory()), Duration::from_secs(60)).await;
    let mut exchange = reported.router.open().await;
    begin_stream(&mut exchange).await;
    end_stream(&mut exchange).await;
    let (replies, status) = exchange.rest().await;
    assert!(status.is_none(), "{status:?}");
    let [last] = <[Response; 1]>::try_from(replies).expect("one message");
    let last = body_of(last);
    for event in ["response.output_text.delta", "response.output_item.done", "response.completed"] {
        assert!(last.contains(&format!("event: {event}\n")), "{event}: {last}");
    }
}

#[tokio::test]
async fn what_is_ready_of_a_stream_does_not_wait_for_a_slow_store() {
    let (reported, store) = gated().await;
    let mut exchange = reported.router.open().await;
    begin_stream(&mut exchange).await;
    end_stream(&mut exchange).await;
    let ready = body_of(exchange.reply().await);
    assert!(ready.contains("there.") && ready.contains("response.output_item.done"), "{ready}");
    assert!(!ready.contains("response.completed"), "{ready}");
    assert_eq!((store.begun.load(Ordering::SeqCst), store.ended.load(Ordering::SeqCst)), (1, 0));
    store.gate.notify_one();
    let (replies, status) = exchange.rest().await;
    assert!(status.is_none(), "{status:?}");
    let [last] = <[Response; 1]>::try_from(replies).expect("one message");
    let last = body_of(last);
    assert!(last.contains("response.completed") && !last.contains("response.output_item.done"), "{last}");
}
