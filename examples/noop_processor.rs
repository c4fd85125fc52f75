//! A processor that changes nothing: the floor under every benchmark of the router.
//!
//! It goes the same way through Envoy as the router does (FULL_DUPLEX_STREAMED; the request's headers answered when its
//! body is there, which is the cheapest order; the response passed on piece by piece), and does what the protocol asks of
//! every processor: decode Envoy's messages, headers included, and answer them. It has its own service and messages, of
//! the fields that Envoy sends, so that a change of the router's cannot move the floor. No account, no metrics, no log, no
//! deadline, no check: nothing that a product would need.
//!
//! ```text
//! cargo run --release --example noop_processor -- 127.0.0.1:50051 [threads]
//! ```

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::process::ExitCode;
use std::task::{Context, Poll, ready as or_pending};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use self::messages::{Body as Piece, ProcessingRequest, ProcessingResponse, Reply, Said};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The messages of `envoy.service.ext_proc.v3` as far as a processor in this mode meets them.
mod messages {
    use bytes::Bytes;
    use prost::{Message, Oneof};

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct ProcessingRequest {
        #[prost(oneof = "Said", tags = "2, 3, 4, 5, 6, 7")]
        pub(crate) request: Option<Said>,
    }

    #[derive(Clone, PartialEq, Oneof)]
    pub(crate) enum Said {
        #[prost(message, tag = "2")]
        RequestHeaders(Headers),
        #[prost(message, tag = "3")]
        ResponseHeaders(Headers),
        #[prost(message, tag = "4")]
        RequestBody(Body),
        #[prost(message, tag = "5")]
        ResponseBody(Body),
        #[prost(message, tag = "6")]
        RequestTrailers(Trailers),
        #[prost(message, tag = "7")]
        ResponseTrailers(Trailers),
    }

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct Headers {
        #[prost(message, optional, tag = "1")]
        pub(crate) headers: Option<HeaderMap>,
        #[prost(bool, tag = "3")]
        pub(crate) end_of_stream: bool,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct HeaderMap {
        #[prost(message, repeated, tag = "1")]
        pub(crate) headers: Vec<HeaderValue>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct HeaderValue {
        #[prost(string, tag = "1")]
        pub(crate) key: String,
        #[prost(bytes = "bytes", tag = "3")]
        pub(crate) raw_value: Bytes,
    }

    /// A piece of body, in both directions.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct Body {
        #[prost(bytes = "bytes", tag = "1")]
        pub(crate) body: Bytes,
        #[prost(bool, tag = "2")]
        pub(crate) end_of_stream: bool,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct Trailers {
        #[prost(message, optional, tag = "1")]
        pub(crate) trailers: Option<HeaderMap>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct ProcessingResponse {
        #[prost(oneof = "Reply", tags = "1, 2, 3, 4, 5, 6")]
        pub(crate) response: Option<Reply>,
    }

    #[derive(Clone, PartialEq, Oneof)]
    pub(crate) enum Reply {
        #[prost(message, tag = "1")]
        RequestHeaders(Unchanged),
        #[prost(message, tag = "2")]
        ResponseHeaders(Unchanged),
        #[prost(message, tag = "3")]
        RequestBody(BodyResponse),
        #[prost(message, tag = "4")]
        ResponseBody(BodyResponse),
        #[prost(message, tag = "5")]
        RequestTrailers(Unchanged),
        #[prost(message, tag = "6")]
        ResponseTrailers(Unchanged),
    }

    /// A HeadersResponse or TrailersResponse without mutation.
    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct Unchanged {}

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct BodyResponse {
        #[prost(message, optional, tag = "1")]
        pub(crate) response: Option<CommonResponse>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct CommonResponse {
        #[prost(message, optional, tag = "3")]
        pub(crate) body_mutation: Option<BodyMutation>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct BodyMutation {
        #[prost(message, optional, tag = "3")]
        pub(crate) streamed_response: Option<Body>,
    }

    impl Body {
        /// The message that hands this piece on.
        pub(crate) fn handed_on(self) -> BodyResponse {
            let body_mutation = Some(BodyMutation { streamed_response: Some(self) });
            BodyResponse { response: Some(CommonResponse { body_mutation }) }
        }
    }
}

/// What is said to Envoy in one exchange: its own words, as they come.
struct Replies {
    inbound: Streaming<ProcessingRequest>,
    /// The request's body, held until it is whole: Envoy sends it before its headers are answered.
    request: Vec<Bytes>,
    /// Replies that have not left yet.
    waiting: VecDeque<Reply>,
    /// Set by the last message; what Envoy says after it is not read.
    over: bool,
}

impl Replies {
    fn hear(&mut self, said: Said) {
        match said {
            Said::RequestHeaders(head) => {
                if head.end_of_stream {
                    self.waiting.push_back(Reply::RequestHeaders(messages::Unchanged {}));
                }
            }
            Said::RequestBody(piece) => {
                if !piece.body.is_empty() {
                    self.request.push(piece.body);
                }
                if piece.end_of_stream {
                    self.let_request_go(true);
                }
            }
            Said::RequestTrailers(_) => {
                self.let_request_go(false);
                self.waiting.push_back(Reply::RequestTrailers(messages::Unchanged {}));
            }
            Said::ResponseHeaders(head) => {
                self.over = head.end_of_stream;
                self.waiting.push_back(Reply::ResponseHeaders(messages::Unchanged {}));
            }
            Said::ResponseBody(piece) => {
                self.over = piece.end_of_stream;
                self.waiting.push_back(Reply::ResponseBody(piece.handed_on()));
            }
            Said::ResponseTrailers(_) => {
                self.over = true;
                self.waiting.push_back(Reply::ResponseTrailers(messages::Unchanged {}));
            }
        }
    }

    /// Answers the headers and hands the body on, in the pieces in which it came.
    fn let_request_go(&mut self, end_of_stream: bool) {
        self.waiting.push_back(Reply::RequestHeaders(messages::Unchanged {}));
        let pieces = std::mem::take(&mut self.request);
        let last = pieces.len().saturating_sub(1);
        if pieces.is_empty() {
            let piece = Piece { body: Bytes::new(), end_of_stream };
            self.waiting.push_back(Reply::RequestBody(piece.handed_on()));
        }
        for (index, body) in pieces.into_iter().enumerate() {
            let piece = Piece { body, end_of_stream: end_of_stream && index == last };
            self.waiting.push_back(Reply::RequestBody(piece.handed_on()));
        }
    }
}

impl Stream for Replies {
    type Item = Result<ProcessingResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(reply) = this.waiting.pop_front() {
                return Poll::Ready(Some(Ok(ProcessingResponse { response: Some(reply) })));
            }
            if this.over {
                return Poll::Ready(None);
            }
            match or_pending!(Pin::new(&mut this.inbound).poll_next(cx)) {
                Some(Ok(message)) => message.request.into_iter().for_each(|said| this.hear(said)),
                // Envoy takes a clean end for "go on without me".
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => return Poll::Ready(Some(Err(Status::cancelled("envoy ended first")))),
            }
        }
    }
}

/// `envoy.service.ext_proc.v3.ExternalProcessor`, whose one method is Process.
#[derive(Clone)]
struct Noop;

impl StreamingService<ProcessingRequest> for Noop {
    type Response = ProcessingResponse;
    type ResponseStream = Replies;
    type Future = Ready<Result<Response<Replies>, Status>>;

    fn call(&mut self, request: Request<Streaming<ProcessingRequest>>) -> Self::Future {
        let inbound = request.into_inner();
        ready(Ok(Response::new(Replies { inbound, request: Vec::new(), waiting: VecDeque::new(), over: false })))
    }
}

impl NamedService for Noop {
    const NAME: &'static str = "envoy.service.ext_proc.v3.ExternalProcessor";
}

impl Service<http::Request<Body>> for Noop {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async { Ok(Grpc::new(ProstCodec::default()).streaming(Noop, request).await) })
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("noop_processor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().ok_or("which address? 127.0.0.1:50051")?.parse()?;
    let threads: usize = arguments.next().map_or(Ok(1), |threads| threads.parse())?;
    // One thread needs no second one to be woken: the cheapest there is.
    let mut runtime = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    runtime.worker_threads(threads).enable_all().build()?.block_on(async {
        let incoming = TcpIncoming::bind(address)?.with_nodelay(Some(true));
        println!("listening on {address}");
        let stop = async {
            // Without signals it runs until it is killed.
            let _ = tokio::signal::ctrl_c().await;
        };
        Server::builder().add_service(Noop).serve_with_incoming_shutdown(incoming, stop).await?;
        Ok(())
    })
}
