//! Exchanges: whatever Envoy sends, in whatever order and however it ends, the router keeps to the protocol.
//!
//! The input is a script of Envoy's side: messages made of ready parts or of bytes of the input, time that passes, and
//! ends of every kind. The service is driven as HTTP/2 requests would drive it, in a runtime whose time is ours.
#![no_main]

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response;
use envoy_types::pb::envoy::service::ext_proc::v3::streamed_immediate_response::Response as LocalPart;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyResponse, HttpBody, HttpHeaders, HttpTrailers, ProcessingRequest, ProcessingResponse, ProtocolConfiguration,
    body_mutation::Mutation,
};
use http_body::{Body as _, Frame};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use responses_router::config::Config;
use responses_router::extproc::exchange::Router;
use responses_router::extproc::{Answer, Answering, Service};
use responses_router::openai::dialect::ApiDialect;
use responses_router::translate::Settings;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;

mod router;

#[allow(dead_code, reason = "shared with the integration tests, which use more of it")]
#[path = "../../../support"]
mod support {
    pub(crate) mod frames;
    pub(crate) mod grammar;
    pub(crate) mod response_shape;
}

/// Longer than any exchange may take by the settings of these routers.
const AGES: Duration = Duration::from_secs(2 * 3600);

/// Exchanges of one script, one after the other, at one router.
const MAX_EXCHANGES: usize = 4;

const BODIES: [&[u8]; 12] = [
    br#"{"model":"m","input":"hi"}"#,
    br#"{"model":"m","input":"hi","stream":true}"#,
    br#"{"model":"m","input":"on","previous_response_id":"resp_00000000000000000000000000000001"}"#,
    br#"{"model":"m","input":"on","stream":true,"previous_response_id":"resp_00000000000000000000000000000001"}"#,
    br#"{"model":"m","input":[{"id":"msg_00000000000000000000000000000001_1"}],"stream":true}"#,
    br#"{"model":"m","input":"hi","stream":true,"store":false}"#,
    br#"{"choices":[{"index":0,"message":{"role":"assistant","content":"yes"},"finish_reason":"stop"}]}"#,
    b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"y\"}}]}\n\n",
    b"data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]}}]}\n\n",
    b"data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
    br#"{"error":{"message":"maximum context length is 5 tokens","code":"context_length_exceeded"}}"#,
    b"",
];

const PATHS: [(&str, &str); 8] = [
    ("POST", "/v1/responses"),
    ("POST", "/v1/responses?x=y"),
    ("GET", "/v1/responses/resp_00000000000000000000000000000001"),
    ("GET", "/v1/responses/resp_00000000000000000000000000000001/input_items?limit=1"),
    ("DELETE", "/v1/responses/resp_00000000000000000000000000000001"),
    ("POST", "/v1/responses/resp_00000000000000000000000000000001/cancel"),
    ("OPTIONS", "/v1/responses"),
    ("PUT", "/v1/other"),
];

const CODINGS: [&str; 8] = ["", "gzip", "deflate", "br", "zstd", "gzip, zstd", "identity", "rot13"];

const STATUSES: [&str; 8] = ["200", "200", "200", "204", "400", "429", "503", "302"];

const TYPES: [&str; 4] = ["text/event-stream", "application/json", "text/html", ""];

/// What is left of the input.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A ready body, or bytes of the input, by one byte that says which.
    fn piece(&mut self) -> Option<&'a [u8]> {
        let choice = usize::from(self.byte()?);
        if let Some(ready) = BODIES.get(choice) {
            return Some(ready);
        }
        let (piece, rest) = self.0.split_at(choice.min(self.0.len()));
        self.0 = rest;
        Some(piece)
    }
}

fn headers(pairs: &[(&str, &str)], end_of_stream: bool) -> HttpHeaders {
    let header = |(key, value): &(&str, &str)| HeaderValue {
        key: (*key).to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    };
    let headers = pairs.iter().filter(|(_, value)| !value.is_empty()).map(header).collect();
    HttpHeaders { headers: Some(HeaderMap { headers }), end_of_stream, ..HttpHeaders::default() }
}

/// The body of the request that an exchange is: Envoy's messages.
struct FromEnvoy(mpsc::UnboundedReceiver<Result<Bytes, tonic::Status>>);

impl http_body::Body for FromEnvoy {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(|frame| frame.map(Frame::data)))
    }
}

/// One exchange, seen from Envoy.
struct Exchange {
    to_router: Option<mpsc::UnboundedSender<Result<Bytes, tonic::Status>>>,
    from_router: FromRouter,
    undecoded: BytesMut,
    first: bool,
    seen: Seen,
}

/// The router's side of a call. Its head comes with the first message.
enum FromRouter {
    Called(Answering),
    Begun(Answer),
}

impl FromRouter {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        if let Self::Called(call) = self {
            *self = Self::Begun(ready!(Pin::new(call).poll(cx)).into_body());
        }
        match self {
            Self::Begun(body) => Pin::new(body).poll_frame(cx),
            Self::Called(_) => Poll::Pending,
        }
    }
}

/// What of the router's replies has to fit together.
#[derive(Default)]
struct Seen {
    request_headers: bool,
    request_over: bool,
    response_headers: bool,
    local_headers: bool,
    /// The last reply was one after which nothing may come.
    over: bool,
    event_stream: bool,
    body: Vec<u8>,
    ended: bool,
}

impl Seen {
    fn reply(&mut self, reply: Response) {
        assert!(!self.over, "a reply after the last one: {reply:?}");
        match reply {
            Response::RequestHeaders(_) => {
                assert!(!self.request_headers && !self.response_headers, "request headers out of order");
                self.request_headers = true;
            }
            Response::RequestBody(body) => {
                assert!(self.request_headers && !self.request_over && !self.response_headers);
                self.request_over = streamed(body).1;
            }
            Response::RequestTrailers(_) => {
                assert!(self.request_headers && !self.request_over);
                self.request_over = true;
            }
            Response::ResponseHeaders(reply) => {
                assert!(!self.response_headers && !self.local_headers, "response headers twice");
                self.response_headers = true;
                let mutation = reply.response.and_then(|common| common.header_mutation).unwrap_or_default();
                let is_stream = |header: &HeaderValue| {
                    header.key == "content-type" && header.raw_value.starts_with(b"text/event-stream; charset")
                };
                self.event_stream = mutation.set_headers.iter().filter_map(|set| set.header.as_ref()).any(is_stream);
            }
            Response::ResponseBody(body) => {
                assert!(self.response_headers, "a body before its headers");
                let (bytes, end) = streamed(body);
                self.body.extend_from_slice(&bytes);
                self.over = end;
            }
            Response::ResponseTrailers(_) => {
                assert!(self.response_headers, "trailers before headers");
                self.over = true;
            }
            Response::ImmediateResponse(answer) => {
                assert!(!self.response_headers && !self.local_headers, "an answer after the headers of another");
                let status = answer.status.map(|status| status.code).unwrap_or_default();
                if status >= 400 {
                    let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("an error is JSON");
                    assert!(body["error"]["message"].is_string(), "an error without a message: {body}");
                }
                self.over = true;
            }
            Response::StreamedImmediateResponse(part) => match part.response {
                Some(LocalPart::HeadersResponse(head)) => {
                    assert!(!self.response_headers && !self.local_headers);
                    self.local_headers = true;
                    self.over = head.end_of_stream;
                }
                Some(LocalPart::BodyResponse(body)) => {
                    assert!(self.local_headers);
                    self.over = body.end_of_stream;
                }
                other => panic!("an answer of nothing: {other:?}"),
            },
        }
    }

    /// The stream has ended with this gRPC status.
    fn end(&mut self, status: &str, settings: &Settings) {
        self.ended = true;
        assert_ne!(status, "13", "an internal error");
        assert_ne!(status, "2", "an unknown error");
        if status != "0" {
            return;
        }
        // Headers that end the stream are answered by headers alone.
        let relayed = self.response_headers && !self.event_stream && self.body.is_empty();
        assert!(self.over || relayed, "a clean end in the middle of an exchange");
        if self.event_stream
            && let Err(why) = support::grammar::check_in(&self.body, settings.api)
        {
            panic!("{why}\n{}", String::from_utf8_lossy(&self.body));
        }
    }
}

fn streamed(body: BodyResponse) -> (Vec<u8>, bool) {
    let mutation = body.response.and_then(|common| common.body_mutation).and_then(|body| body.mutation);
    match mutation {
        Some(Mutation::StreamedResponse(streamed)) => (streamed.body, streamed.end_of_stream),
        other => panic!("a body that is not streamed: {other:?}"),
    }
}

impl Exchange {
    fn open(service: &Service<Router>) -> Self {
        let (to_router, messages) = mpsc::unbounded_channel();
        let request = http::Request::post("/envoy.service.ext_proc.v3.ExternalProcessor/Process")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::new(FromEnvoy(messages)))
            .expect("a request");
        let call = service.call(request);
        Self {
            to_router: Some(to_router),
            from_router: FromRouter::Called(call),
            undecoded: BytesMut::new(),
            first: true,
            seen: Seen::default(),
        }
    }

    fn send(&mut self, request: Request) {
        let mode = BodySendMode::FullDuplexStreamed.into();
        let protocol_config = std::mem::take(&mut self.first).then_some(ProtocolConfiguration {
            request_body_mode: mode,
            response_body_mode: mode,
            send_body_without_waiting_for_header_response: false,
        });
        let message = ProcessingRequest { request: Some(request), protocol_config, ..ProcessingRequest::default() };
        self.send_raw(&message.encode_to_vec());
    }

    fn send_raw(&mut self, message: &[u8]) {
        let length = u32::try_from(message.len()).unwrap_or_default().to_be_bytes();
        let frame = [&[0], &length[..], message].concat();
        if let Some(to_router) = &self.to_router {
            let _ = to_router.send(Ok(frame.into()));
        }
    }

    /// Reads until the router waits, or has ended.
    async fn read_what_is_there(&mut self, settings: &Settings) {
        // Writes that were begun go on beside it.
        tokio::task::yield_now().await;
        while !self.seen.ended {
            let polled = std::future::poll_fn(|cx| Poll::Ready(self.from_router.poll_frame(cx))).await;
            let Poll::Ready(frame) = polled else { return };
            self.frame(frame, settings);
        }
    }

    async fn read_to_the_end(&mut self, settings: &Settings) {
        while !self.seen.ended {
            let frame = std::future::poll_fn(|cx| self.from_router.poll_frame(cx)).await;
            self.frame(frame, settings);
        }
    }

    fn frame(&mut self, frame: Option<Result<Frame<Bytes>, tonic::Status>>, settings: &Settings) {
        let frame = frame.expect("the body ends with trailers").expect("the body is no error");
        match frame.into_data() {
            Ok(data) => {
                self.undecoded.extend_from_slice(&data);
                while let Some(length) = self.undecoded.get(1..5).map(|mut length| length.get_u32() as usize) {
                    if self.undecoded.len() < 5 + length {
                        break;
                    }
                    let message = self.undecoded.split_to(5 + length).split_off(5);
                    let reply = ProcessingResponse::decode(message).expect("a reply");
                    self.seen.reply(reply.response.expect("a reply says something"));
                }
            }
            Err(frame) => {
                assert!(self.undecoded.is_empty(), "half a message");
                let trailers = frame.into_trailers().expect("data or trailers");
                let status = trailers.get("grpc-status").and_then(|status| status.to_str().ok()).unwrap_or("none");
                self.seen.end(status, settings);
            }
        }
    }
}

/// Plays one step; says whether the exchange goes on, `None` when the script is over.
async fn step(
    exchange: &mut Exchange,
    script: &mut Script<'_>,
    router: &Router,
    grace: &CancellationToken,
) -> Option<bool> {
    let operation = script.byte()?;
    let end = operation & 128 != 0;
    match operation & 15 {
        0 | 1 => {
            let choice = script.byte()?;
            let (method, path) = PATHS[usize::from(choice & 7)];
            let coding = CODINGS[usize::from(choice >> 3 & 7)];
            let length = if choice & 128 == 0 { "" } else { "99999" };
            let pairs =
                [(":method", method), (":path", path), ("content-encoding", coding), ("content-length", length)];
            exchange.send(Request::RequestHeaders(headers(&pairs, end)));
        }
        2 | 3 => {
            let body = script.piece()?.to_vec();
            exchange.send(Request::RequestBody(HttpBody { body, end_of_stream: end, ..HttpBody::default() }));
        }
        4 => exchange.send(Request::RequestTrailers(HttpTrailers::default())),
        5 | 6 => {
            let choice = script.byte()?;
            let status = STATUSES[usize::from(choice & 7)];
            let kind = TYPES[usize::from(choice >> 3 & 3)];
            let coding = CODINGS[usize::from(choice >> 5 & 7)];
            let pairs = [(":status", status), ("content-type", kind), ("content-encoding", coding)];
            exchange.send(Request::ResponseHeaders(headers(&pairs, end)));
        }
        7..=9 => {
            let body = script.piece()?.to_vec();
            exchange.send(Request::ResponseBody(HttpBody { body, end_of_stream: end, ..HttpBody::default() }));
        }
        10 => exchange.send(Request::ResponseTrailers(HttpTrailers::default())),
        11 => tokio::time::advance(Duration::from_secs(script.byte()?.into())).await,
        12 => exchange.read_what_is_there(&router.settings).await,
        13 => {
            exchange.to_router = None;
            return Some(false);
        }
        14 => {
            let message = script.piece()?;
            exchange.send_raw(message);
        }
        _ => match script.byte()? {
            // Envoy resets the stream.
            0..=63 => return Some(false),
            64..=127 => {
                if let Some(to_router) = &exchange.to_router {
                    let _ = to_router.send(Err(tonic::Status::cancelled("reset")));
                }
            }
            128..=135 => grace.cancel(),
            _ => {
                exchange.read_what_is_there(&router.settings).await;
                return Some(!exchange.seen.ended);
            }
        },
    }
    Some(true)
}

async fn play(input: &[u8]) {
    let mut script = Script(input);
    let Some(choices) = script.byte() else { return };
    let mut config = Config::default();
    config.limits.max_request_bytes = 2048;
    config.limits.max_answer_bytes = 2048;
    config.limits.max_sse_frame_bytes = 1024;
    let mut settings = config.translation();
    settings.api = match choices & 3 {
        0 | 1 => ApiDialect::OPENAI,
        2 => ApiDialect::OPEN_RESPONSES,
        _ => ApiDialect::SEMANTIC_ROUTER,
    };
    let (tasks, grace) = (TaskTracker::new(), CancellationToken::new());
    let router = Arc::new(router::router(settings, choices, &tasks, &grace));
    let service = Service::new(Arc::clone(&router), tasks.clone());
    for _ in 0..MAX_EXCHANGES {
        let mut exchange = Exchange::open(&service);
        let went_on = loop {
            match step(&mut exchange, &mut script, &router, &grace).await {
                Some(true) => {}
                Some(false) => break true,
                None => break false,
            }
        };
        // An end by reset drops the exchange; any other has to come by itself.
        let reset = went_on && exchange.to_router.is_some() && !exchange.seen.ended;
        if !reset {
            let ended = tokio::time::timeout(AGES, exchange.read_to_the_end(&router.settings)).await;
            assert!(ended.is_ok(), "the exchange never ended");
        }
        drop(exchange);
        if !went_on {
            break;
        }
    }
    tasks.close();
    let settled = tokio::time::timeout(AGES, tasks.wait()).await;
    assert!(settled.is_ok(), "a task was left");
}

fuzz_target!(|input: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(play(input));
});
