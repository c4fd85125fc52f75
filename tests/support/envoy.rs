//! A scripted Envoy: the ext_proc client of envoy-types, which is generated from Envoy's own files, against our server.
//!
//! It sends what a test tells it to send, in FULL_DUPLEX_STREAMED, and gives back what came, message by message.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
pub(crate) use envoy_types::pb::envoy::service::ext_proc::v3 as ext_proc;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use ext_proc::external_processor_client::ExternalProcessorClient;
use ext_proc::processing_request::Request;
use ext_proc::processing_response::Response;
use ext_proc::streamed_immediate_response::Response as LocalPart;
use ext_proc::{ProcessingRequest, ProcessingResponse, ProtocolConfiguration};
use responses_router::config::Listen;
use responses_router::extproc::Handler;
use responses_router::extproc::duplex::{Envoy, ExchangeError, Finished};
use responses_router::server::{self, Listener, Stop, Stopped};
use responses_router::telemetry::Account;
use responses_router::telemetry::traces::TraceContext;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// Longer than anything in these tests takes, and short enough to fail in.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A router that serves a handler, until it is dropped.
pub(crate) struct Router {
    pub(crate) listen: Listen,
    pub(crate) stop: Stop,
    pub(crate) stopped: tokio::task::JoinHandle<Stopped>,
}

impl Router {
    /// Starts on a free port.
    pub(crate) async fn start(handler: impl Handler) -> Self {
        Self::start_on(&Listen::Tcp(([127, 0, 0, 1], 0).into()), handler, Duration::from_secs(5)).await
    }

    /// Starts on a free port with a handler made of a closure.
    pub(crate) async fn script<F, R>(exchange: F) -> Self
    where
        F: Fn(Envoy) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Finished, ExchangeError>> + Send + 'static,
    {
        Self::start(Script(exchange)).await
    }

    pub(crate) async fn start_on(listen: &Listen, handler: impl Handler, grace: Duration) -> Self {
        Self::start_stopping(listen, handler, Duration::ZERO, grace).await
    }

    /// Starts on a free port, and goes on for so long when it is stopped.
    pub(crate) async fn start_delayed(handler: impl Handler, delay: Duration) -> Self {
        Self::start_stopping(&Listen::Tcp(([127, 0, 0, 1], 0).into()), handler, delay, Duration::ZERO).await
    }

    async fn start_stopping(listen: &Listen, handler: impl Handler, delay: Duration, grace: Duration) -> Self {
        let listener = Listener::bind(listen, None).await.unwrap();
        let listen = listener.listen().clone();
        let stop = Stop {
            token: CancellationToken::new(),
            delay,
            grace,
            grace_over: CancellationToken::new(),
            live: TaskTracker::new(),
        };
        let serving = server::serve(listener, Arc::new(handler), stop.clone());
        let stopped = TaskTracker::new().spawn(serving);
        Self { listen, stop, stopped }
    }

    /// A connection of its own.
    pub(crate) async fn channel(&self) -> Channel {
        let uri = match &self.listen {
            Listen::Tcp(address) => format!("http://{address}"),
            Listen::Unix(path) => format!("unix:{}", path.display()),
        };
        // The window of HTTP/2 itself, as Envoy has it per stream by default at the least.
        Endpoint::from_shared(uri).unwrap().initial_stream_window_size(65_535).connect().await.unwrap()
    }

    /// An exchange on a connection of its own, opened but silent.
    pub(crate) async fn open(&self) -> Exchange {
        Exchange::open(self.channel().await).await
    }
}

/// A handler made of a closure.
pub(crate) struct Script<F>(pub F);

impl<F, R> Handler for Script<F>
where
    F: Fn(Envoy) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Finished, ExchangeError>> + Send + 'static,
{
    fn account(&self, heard: Option<TraceContext>) -> Account {
        Account::open(Arc::default(), heard)
    }

    fn exchange(self: Arc<Self>, envoy: Envoy) -> impl Future<Output = Result<Finished, ExchangeError>> + Send {
        (self.0)(envoy)
    }
}

/// One exchange, seen from Envoy.
pub(crate) struct Exchange {
    to_router: Option<mpsc::Sender<ProcessingRequest>>,
    from_router: FromRouter,
    /// What the first message tells about the filter's configuration.
    pub(crate) protocol: Option<ProtocolConfiguration>,
    /// Whether messages say that nobody listens.
    pub(crate) observability_mode: bool,
}

/// The router's side of a call. Its head comes with the first message.
enum FromRouter {
    Called(AbortOnDropHandle<Result<tonic::Response<Streaming<ProcessingResponse>>, Status>>),
    Begun(Box<Streaming<ProcessingResponse>>),
}

impl FromRouter {
    async fn message(&mut self) -> Result<Option<ProcessingResponse>, Status> {
        if let Self::Called(call) = self {
            *self = Self::Begun(Box::new(call.await.expect("no panic")?.into_inner()));
        }
        match self {
            Self::Begun(messages) => messages.message().await,
            Self::Called(_) => unreachable!("it has begun"),
        }
    }
}

impl Exchange {
    pub(crate) async fn open(channel: Channel) -> Self {
        let (to_router, messages) = mpsc::channel(64);
        let mut client = ExternalProcessorClient::new(channel).max_decoding_message_size(64 << 20);
        let call = async move { client.process(ReceiverStream::new(messages)).await };
        let from_router = FromRouter::Called(AbortOnDropHandle::new(TaskTracker::new().spawn(call)));
        let protocol = Some(modes(BodySendMode::FullDuplexStreamed, BodySendMode::FullDuplexStreamed));
        Self { to_router: Some(to_router), from_router, protocol, observability_mode: false }
    }

    /// Sends a message.
    pub(crate) async fn send(&mut self, request: Request) {
        self.send_with(request, &[]).await;
    }

    /// Sends a message with attributes.
    pub(crate) async fn send_with(&mut self, request: Request, attributes: &[(&str, &str)]) {
        let message = ProcessingRequest {
            request: Some(request),
            attributes: attributes_of(attributes),
            protocol_config: self.protocol.take(),
            observability_mode: self.observability_mode,
            ..Default::default()
        };
        self.to_router.as_ref().expect("open").send(message).await.expect("the router reads");
    }

    /// Ends Envoy's side without a word, as it does when a client hangs up, and after the last message.
    pub(crate) fn half_close(&mut self) {
        self.to_router = None;
    }

    /// The next message, or how the stream ended: `Ok(None)` is a clean end.
    pub(crate) async fn next(&mut self) -> Result<Option<Response>, Status> {
        let message = tokio::time::timeout(PATIENCE, self.from_router.message()).await.expect("a message in time")?;
        Ok(message.map(|message| message.response.expect("a message says something")))
    }

    /// The next message.
    pub(crate) async fn reply(&mut self) -> Response {
        self.next().await.expect("no error").expect("no end")
    }

    /// The clean end, which only a finished exchange may have, and only when Envoy has ended its side.
    pub(crate) async fn end(&mut self) {
        self.half_close();
        assert_eq!(self.next().await.expect("a clean end"), None);
    }

    /// The error that must end the stream now.
    pub(crate) async fn error(&mut self) -> Status {
        self.next().await.expect_err("an error")
    }

    /// All messages until the end, and the error if there is one.
    pub(crate) async fn rest(&mut self) -> (Vec<Response>, Option<Status>) {
        let mut replies = Vec::new();
        loop {
            match self.next().await {
                Ok(Some(reply)) => {
                    if is_last(&reply) {
                        self.half_close();
                    }
                    replies.push(reply);
                }
                Ok(None) => return (replies, None),
                Err(status) => return (replies, Some(status)),
            }
        }
    }
}

pub(crate) fn modes(request: BodySendMode, response: BodySendMode) -> ProtocolConfiguration {
    ProtocolConfiguration {
        request_body_mode: request.into(),
        response_body_mode: response.into(),
        send_body_without_waiting_for_header_response: false,
    }
}

fn attributes_of(attributes: &[(&str, &str)]) -> HashMap<String, Struct> {
    if attributes.is_empty() {
        return HashMap::new();
    }
    let value = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let fields = attributes.iter().map(|(name, text)| ((*name).to_owned(), value(text))).collect();
    HashMap::from([("envoy.filters.http.ext_proc".to_owned(), Struct { fields })])
}

pub(crate) fn head(headers: &[(&str, &[u8])], end_of_stream: bool) -> ext_proc::HttpHeaders {
    let header = |(key, value): &(&str, &[u8])| core::HeaderValue {
        key: (*key).to_owned(),
        raw_value: value.to_vec(),
        ..Default::default()
    };
    let headers = core::HeaderMap { headers: headers.iter().map(header).collect() };
    ext_proc::HttpHeaders { headers: Some(headers), end_of_stream, ..Default::default() }
}

/// POST /v1/responses with a body to come.
pub(crate) fn post() -> Request {
    Request::RequestHeaders(head(&[(":method", b"POST"), (":path", b"/v1/responses")], false))
}

/// A request without body.
pub(crate) fn request(method: &str, path: &str) -> Request {
    Request::RequestHeaders(head(&[(":method", method.as_bytes()), (":path", path.as_bytes())], true))
}

pub(crate) fn request_body(body: impl Into<Vec<u8>>, end_of_stream: bool) -> Request {
    Request::RequestBody(ext_proc::HttpBody { body: body.into(), end_of_stream, ..Default::default() })
}

pub(crate) fn request_trailers() -> Request {
    Request::RequestTrailers(ext_proc::HttpTrailers::default())
}

/// A response with a body to come.
pub(crate) fn answer(status: &str, content_type: &str) -> Request {
    let headers = [(":status", status.as_bytes()), ("content-type", content_type.as_bytes())];
    Request::ResponseHeaders(head(&headers, false))
}

pub(crate) fn response_body(body: impl Into<Vec<u8>>, end_of_stream: bool) -> Request {
    Request::ResponseBody(ext_proc::HttpBody { body: body.into(), end_of_stream, ..Default::default() })
}

pub(crate) fn response_trailers() -> Request {
    Request::ResponseTrailers(ext_proc::HttpTrailers::default())
}

/// A reply in a form that is easy to compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    RequestHeaders { set: Vec<(String, String)>, remove: Vec<String>, clear_route_cache: bool },
    RequestBody { body: Vec<u8>, end: bool },
    RequestTrailers,
    ResponseHeaders { set: Vec<(String, String)>, remove: Vec<String> },
    ResponseBody { body: Vec<u8>, end: bool },
    ResponseTrailers,
    Immediate { status: i32, set: Vec<(String, String)>, body: Vec<u8>, details: String },
    LocalHeaders { headers: Vec<(String, String)>, end: bool },
    LocalBody { body: Vec<u8>, end: bool },
}

/// Reads a reply as Envoy would, and insists on what FULL_DUPLEX_STREAMED asks for.
pub(crate) fn seen(reply: Response) -> Seen {
    match reply {
        Response::RequestHeaders(headers) => {
            let common = headers.response.unwrap_or_default();
            let (set, remove) = mutation(common.header_mutation);
            assert_eq!(common.status, 0, "CONTINUE");
            Seen::RequestHeaders { set, remove, clear_route_cache: common.clear_route_cache }
        }
        Response::ResponseHeaders(headers) => {
            let (set, remove) = mutation(headers.response.unwrap_or_default().header_mutation);
            Seen::ResponseHeaders { set, remove }
        }
        Response::RequestBody(body) => {
            let (body, end) = streamed(body);
            Seen::RequestBody { body, end }
        }
        Response::ResponseBody(body) => {
            let (body, end) = streamed(body);
            Seen::ResponseBody { body, end }
        }
        Response::RequestTrailers(_) => Seen::RequestTrailers,
        Response::ResponseTrailers(_) => Seen::ResponseTrailers,
        Response::ImmediateResponse(immediate) => Seen::Immediate {
            status: immediate.status.expect("a status").code,
            set: mutation(immediate.headers).0,
            body: immediate.body,
            details: immediate.details,
        },
        Response::StreamedImmediateResponse(part) => match part.response.expect("a part") {
            LocalPart::HeadersResponse(head) => Seen::LocalHeaders {
                headers: head.headers.expect("headers").headers.into_iter().map(pair).collect(),
                end: head.end_of_stream,
            },
            LocalPart::BodyResponse(body) => Seen::LocalBody { body: body.body, end: body.end_of_stream },
            LocalPart::TrailersResponse(_) => panic!("trailers are not sent"),
        },
    }
}

/// Whether Envoy ends the stream after this, as far as a reply says that.
fn is_last(reply: &Response) -> bool {
    use Seen::{Immediate, LocalBody, LocalHeaders, ResponseBody, ResponseTrailers};
    match seen(reply.clone()) {
        Immediate { .. } | ResponseTrailers => true,
        ResponseBody { end, .. } | LocalHeaders { end, .. } | LocalBody { end, .. } => end,
        _ => false,
    }
}

fn streamed(body: ext_proc::BodyResponse) -> (Vec<u8>, bool) {
    match body.response.unwrap_or_default().body_mutation.expect("a body").mutation {
        Some(ext_proc::body_mutation::Mutation::StreamedResponse(body)) => (body.body, body.end_of_stream),
        other => panic!("not a StreamedBodyResponse: {other:?}"),
    }
}

fn mutation(mutation: Option<ext_proc::HeaderMutation>) -> (Vec<(String, String)>, Vec<String>) {
    let mutation = mutation.unwrap_or_default();
    let set = mutation.set_headers.into_iter().map(|option| {
        assert_eq!(option.append_action(), core::header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd);
        pair(option.header.expect("a header"))
    });
    (set.collect(), mutation.remove_headers)
}

fn pair(header: core::HeaderValue) -> (String, String) {
    assert_eq!(header.value, "", "values go in raw_value");
    (header.key, String::from_utf8(header.raw_value).expect("text"))
}
