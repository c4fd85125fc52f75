//! Envoy's side: the gRPC service, its messages in the words of HTTP, and the frame in which an exchange runs.
//!
//! `exchange` and what it uses of this module speak HTTP ([`message`], [`headers`], [`route`], [`body`]) and never see
//! protobuf; [`duplex`] makes sure that no exchange ends by mistake as if all were well.

pub mod admission;
mod answer;
mod answer_error;
pub mod apart;
pub mod body;
pub mod duplex;
pub mod exchange;
mod grpc;
pub mod headers;
pub mod keeping;
pub mod local;
pub mod message;
mod metadata;
pub(crate) mod pb;
pub mod policy;
pub mod random_ids;
pub mod refusal;
pub mod replies;
pub mod route;
mod streamed_body;
pub mod tenancy;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use hyper::body::Frame;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::GRPC_CONTENT_TYPE;

use crate::telemetry::Account;
use crate::telemetry::traces::TraceContext;
use duplex::{Envoy, ExchangeError, Finished};
pub use grpc::Calling;
use grpc::Messages;
use replies::Replies;

/// The method of the service that Envoy calls, as it stands in the path.
const PROCESS: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";

/// What is done with an exchange.
pub trait Handler: Send + Sync + 'static {
    /// Opens the account of an exchange that begins. `heard` is the trace that Envoy's call belongs to, if Envoy traces.
    fn account(&self, heard: Option<TraceContext>) -> Account;

    /// Runs one exchange, from the first message (still to be read with [`Envoy::next`]) to the last.
    ///
    /// The future may be dropped at any await, when Envoy resets the stream.
    fn exchange(self: Arc<Self>, envoy: Envoy) -> impl Future<Output = Result<Finished, ExchangeError>> + Send;
}

/// Envoy's `ExternalProcessor` service as requests and responses of HTTP/2: every call of `Process` is one exchange, which
/// runs with the handler.
#[derive(Debug)]
pub struct Service<H> {
    handler: Arc<H>,
    live: TaskTracker,
}

impl<H: Handler> Service<H> {
    /// Exchanges run with `handler` and count in `live`.
    pub fn new(handler: Arc<H>, live: TaskTracker) -> Self {
        Self { handler, live }
    }

    /// Answers a call. The exchange runs when the answer, and then its body, is polled.
    pub fn call<B: Into<Calling>>(&self, request: http::Request<B>) -> Answering {
        if request.uri().path() != PROCESS {
            return Answering::Refused(Some(Status::unimplemented("")));
        }
        let handler = Arc::clone(&self.handler);
        let live = self.live.token();
        // An Envoy that traces has a span for this call, which is what our own is a child of.
        let told = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        let heard = told("traceparent").and_then(|parent| TraceContext::read(parent, told("tracestate")));
        let account = handler.account(heard);
        let replies = duplex::serve(Messages::new(request.into_body().into()), account, |envoy| async move {
            let _live = live;
            handler.exchange(envoy).await
        });
        Answering::Begins(Some(replies))
    }
}

/// The answer to a call, in the making.
#[derive(Debug)]
pub enum Answering {
    /// Of an exchange that has not said anything yet.
    Begins(Option<Replies>),
    /// Of a call that is none of ours.
    Refused(Option<Status>),
}

impl Future for Answering {
    type Output = http::Response<Answer>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Begins(replies) => {
                if let Some(replies) = replies {
                    ready!(replies.poll_begun(cx));
                }
                let Some(replies) = replies.take() else { return Poll::Pending };
                let mut response = http::Response::new(Answer::Replies(replies));
                response.headers_mut().insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
                Poll::Ready(response)
            }
            Self::Refused(status) => match status.take() {
                Some(status) => Poll::Ready(status.into_http().map(Answer::Other)),
                None => Poll::Pending,
            },
        }
    }
}

/// The body of the answer to a call.
#[derive(Debug)]
pub enum Answer {
    /// What an exchange tells Envoy.
    Replies(Replies),
    /// Of a call that is no exchange.
    Other(Body),
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.get_mut() {
            Self::Replies(replies) => Pin::new(replies).poll_frame(cx),
            Self::Other(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Replies(replies) => replies.is_end_stream(),
            Self::Other(body) => body.is_end_stream(),
        }
    }
}
