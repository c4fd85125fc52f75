//! Each exchange is reported once, whatever its end: the real exchange, driven by a scripted Envoy.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use responses_router::extproc::admission::Admission;
use responses_router::extproc::apart::Apart;
use responses_router::extproc::exchange::Router as Responses;
use responses_router::extproc::keeping::Keeping;
use responses_router::extproc::policy::Policy;
use responses_router::extproc::route::Routes;
use responses_router::id::CountingIds;
use responses_router::store::{ChainLimits, MemoryBounds, MemoryStore, ResponseStore};
use responses_router::telemetry::Reporter;
use responses_router::telemetry::metadata::{Key, Keys};
use responses_router::translate::Settings;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Code;

use crate::support::envoy::ext_proc::processing_request::Request;
use crate::support::envoy::ext_proc::processing_response::Response;
use crate::support::envoy::{
    Exchange, Router, Seen, answer, post, request, request_body, request_trailers, response_body, response_trailers,
    seen,
};
use crate::support::stack::chat;
use crate::support::stack::wait::eventually;

/// A router, and where it reports.
pub(super) struct Reported {
    pub(super) router: Router,
    reporter: Arc<Reporter>,
}

impl Reported {
    async fn start() -> Self {
        Self::start_bounded(Duration::from_secs(60)).await
    }

    /// One whose exchanges take no longer than that.
    async fn start_bounded(exchange: Duration) -> Self {
        Self::start_with(Arc::new(memory()), exchange).await
    }

    pub(super) async fn start_with(store: Arc<dyn ResponseStore>, exchange: Duration) -> Self {
        let (router, reporter) = responses(store, exchange);
        Self { router: Router::start(router).await, reporter }
    }

    /// Waits until no exchange is live; gives how many ended in which way, as `outcome code`.
    async fn ended(&self) -> Vec<String> {
        eventually("all exchanges are reported", async || {
            let text = self.reporter.metrics.text();
            text.contains("responses_router_exchanges_live 0\n").then_some(())?;
            let lines = text.lines().filter_map(|line| line.strip_prefix("responses_router_requests_total{"));
            let label = |line: &str, name: &str| {
                let value = line.split_once(&format!("{name}=\"")).unwrap().1;
                value.split_once('"').unwrap().0.to_owned()
            };
            let times = |line: &str| line.rsplit_once(' ').unwrap().1.parse::<usize>().unwrap();
            let mut ended: Vec<String> = lines
                .flat_map(|line| vec![format!("{} {}", label(line, "outcome"), label(line, "code")); times(line)])
                .collect();
            ended.sort();
            (!ended.is_empty()).then_some(ended)
        })
        .await
    }
}

/// What exchanges share, and where they are reported.
pub(super) fn responses(store: Arc<dyn ResponseStore>, exchange: Duration) -> (Responses, Arc<Reporter>) {
    let reporter =
        Arc::new(Reporter { metadata: Some(("ours".to_owned(), Keys::of(Key::ALL))), ..Reporter::default() });
    let router = Responses {
        enabled: true,
        routes: Routes::new(""),
        ids: Box::new(CountingIds::default()),
        settings: Settings::default(),
        reasoning_keys: None,
        tenancy: None,
        keeping: Keeping {
            store,
            deadline: Duration::from_secs(5),
            tasks: TaskTracker::new(),
            metrics: Arc::clone(&reporter.metrics),
        },
        reporter: Arc::clone(&reporter),
        admission: Arc::new(Admission::new(100, 1 << 20)),
        apart: Apart::default(),
        policy: Policy {
            chat_path: "/v1/chat/completions".into(),
            clear_route_cache: true,
            max_request_bytes: 1 << 16,
            max_answer_bytes: 1 << 20,
            chain: ChainLimits { max_depth: 10, max_bytes: 1 << 20, longest_turn: Duration::from_secs(60) },
            request_body: Duration::from_secs(60),
            request_body_pace: None,
            exchange,
            heartbeat: None,
            degrade_without_store: false,
        },
        grace_over: CancellationToken::new(),
    };
    (router, reporter)
}

pub(super) fn memory() -> MemoryStore {
    let max_entries = NonZeroU64::new(100).unwrap();
    MemoryStore::new(MemoryBounds { max_entries, max_bytes: 1 << 20, ttl: Duration::from_secs(60) })
}

pub(super) fn create(stream: bool) -> Vec<Request> {
    let body = json!({"model": "m", "input": "Hi", "stream": stream});
    vec![post(), request_body(body.to_string(), false), request_trailers()]
}

pub(super) fn frame(chunk: &serde_json::Value) -> Request {
    response_body(format!("data: {chunk}\n\n"), false)
}

/// A whole exchange with a stream, as Envoy tells it.
fn streamed() -> Vec<Request> {
    let mut messages = create(true);
    messages.push(answer("200", "text/event-stream"));
    messages.extend([chat::text("Hello."), chat::finish("stop"), chat::usage_chunk()].iter().map(frame));
    messages.push(response_trailers());
    messages
}

/// The same without a stream.
fn whole() -> Vec<Request> {
    let mut messages = create(false);
    messages.push(answer("200", "application/json"));
    messages.push(response_body(chat::completion("Hello.").to_string(), true));
    messages
}

pub(super) async fn tell(exchange: &mut Exchange, messages: &[Request]) {
    for message in messages {
        exchange.send(message.clone()).await;
    }
}

#[tokio::test]
async fn every_way_to_an_end_is_reported_once() {
    let failing = |chunks: &[serde_json::Value]| {
        let mut messages = create(true);
        messages.push(answer("200", "text/event-stream"));
        messages.extend(chunks.iter().map(frame));
        messages.push(response_trailers());
        messages
    };
    let refused = |status: &str, body: serde_json::Value| {
        let mut messages = create(false);
        messages.extend([answer(status, "application/json"), response_body(body.to_string(), true)]);
        messages
    };
    let cases: Vec<(Vec<Request>, &str)> = vec![
        (streamed(), "completed 200"),
        (whole(), "completed 200"),
        (failing(&[chat::text("Hel"), chat::finish("length")]), "incomplete 200"),
        (failing(&[chat::text("Hel")]), "failed 200"),
        (failing(&[]), "refused 502"),
        (refused("429", json!({"error": {"message": "Slow down."}})), "upstream_error 429"),
        (refused("200", json!({"nothing": true})), "refused 502"),
        (refused("200", json!({"error": {"message": "No."}})), "failed 502"),
        (vec![post(), request_body("{", true)], "refused 400"),
        (vec![request("GET", "/v1/responses/resp_00000000000000000000000000000001")], "refused 404"),
        (vec![request("OPTIONS", "/v1/responses")], "answered 204"),
        (vec![answer("401", "text/plain"), response_body("no", true)], "relayed 401"),
    ];
    for (messages, expected) in cases {
        let reported = Reported::start().await;
        let mut exchange = reported.router.open().await;
        tell(&mut exchange, &messages).await;
        let (_, status) = exchange.rest().await;
        assert!(status.is_none(), "{expected}: {status:?}");
        assert_eq!(reported.ended().await, [expected]);
    }
}

#[tokio::test]
async fn a_reset_after_any_message_is_reported_once() {
    for (conversation, begins) in [(streamed(), 4), (whole(), 4)] {
        for messages in 1..conversation.len() {
            let reported = Reported::start().await;
            let mut exchange = reported.router.open().await;
            tell(&mut exchange, &conversation[..messages]).await;
            // What has come is worked on before the reset is seen: the request has gone up when it was whole.
            if messages >= begins - 1 {
                exchange.reply().await;
            } else {
                eventually("the exchange is live", async || {
                    reported.reporter.metrics.text().contains("responses_router_exchanges_live 1\n").then_some(())
                })
                .await;
            }
            drop(exchange);
            let ended = reported.ended().await;
            let gone = ended.iter().all(|end| end.starts_with("client_gone "));
            assert!(ended.len() == 1 && gone, "after {messages}: {ended:?}");
        }
    }
}

/// What a client gets by these messages: the status, if they have one, and the body.
fn told(replies: Vec<Response>) -> (Option<i32>, String) {
    let (mut answered, mut text) = (None, Vec::new());
    for reply in replies {
        match seen(reply) {
            Seen::Immediate { status, body, .. } => {
                answered = Some(status);
                text.extend(body);
            }
            Seen::ResponseBody { body, .. } => text.extend(body),
            _ => {}
        }
    }
    (answered, String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn an_exchange_that_takes_too_long_is_a_504_before_its_answer_begins_and_failed_in_a_stream() {
    let before = |stream| async move {
        let reported = Reported::start_bounded(Duration::from_secs(1)).await;
        let mut exchange = reported.router.open().await;
        tell(&mut exchange, &create(stream)).await;
        let (replies, error) = exchange.rest().await;
        assert!(error.is_none(), "{error:?}");
        let (status, body) = told(replies);
        assert_eq!(status, Some(504), "{body}");
        assert!(body.contains("\"code\":\"upstream_unavailable\""), "{body}");
        assert_eq!(reported.ended().await, ["refused 504"]);
    };
    let within = async {
        // Long enough for the answer to begin on a busy machine.
        let reported = Reported::start_bounded(Duration::from_secs(4)).await;
        let mut exchange = reported.router.open().await;
        let begun = [answer("200", "text/event-stream"), frame(&chat::text("Hello."))];
        tell(&mut exchange, &[create(true), begun.into()].concat()).await;
        let (replies, error) = exchange.rest().await;
        assert!(error.is_none(), "{error:?}");
        let (status, body) = told(replies);
        assert_eq!(status, None, "{body}");
        let last = body.trim_end().rsplit("\n\n").next().unwrap();
        assert!(last.starts_with("event: response.failed\n"), "{body}");
        assert!(body.contains("response.output_text.delta"), "{body}");
        assert_eq!(reported.ended().await, ["failed 200"]);
    };
    tokio::join!(before(false), before(true), within);
}

#[tokio::test]
async fn an_end_with_an_error_towards_envoy_is_reported_once() {
    let reported = Reported::start().await;
    let mut exchange = reported.router.open().await;
    exchange.send(request_body("{}", true)).await;
    assert_eq!(exchange.error().await.code(), Code::InvalidArgument);
    assert_eq!(reported.ended().await, ["broken 0"]);
}
