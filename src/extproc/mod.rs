//! Envoy's side: the gRPC service, its messages in the words of HTTP, and the frame in which an exchange runs.
//!
//! `exchange` and what it uses of this module speak HTTP ([`message`], [`headers`], [`route`], [`body`]) and never see
//! protobuf; [`duplex`] makes sure that no exchange ends by mistake as if all were well.

pub mod admission;
mod answer;
pub mod body;
pub mod duplex;
pub mod exchange;
mod grpc;
pub mod headers;
pub mod keeping;
mod large_body;
pub mod local;
pub mod message;
mod metadata;
pub(crate) mod pb;
pub mod random_ids;
pub mod refusal;
pub mod route;
pub mod tenancy;

use std::convert::Infallible;
use std::future::{Future, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::header::CONTENT_TYPE;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::metadata::GRPC_CONTENT_TYPE;
use tonic::server::NamedService;

use crate::telemetry::Account;
use crate::telemetry::traces::TraceContext;
use duplex::{Envoy, ExchangeError, Finished};
use grpc::Messages;

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

/// Envoy's service as requests and responses of HTTP/2, whatever carries them: every call of `Process` is one exchange,
/// which runs with `handler` and counts in `live`.
pub fn service<H: Handler>(
    handler: Arc<H>,
    live: TaskTracker,
) -> impl Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible, Future: Send>
+ NamedService
+ Clone
+ Send
+ Sync {
    ExternalProcessor { handler, live }
}

/// Envoy's `ExternalProcessor` service.
struct ExternalProcessor<H> {
    handler: Arc<H>,
    live: TaskTracker,
}

impl<H> Clone for ExternalProcessor<H> {
    fn clone(&self) -> Self {
        Self { handler: Arc::clone(&self.handler), live: self.live.clone() }
    }
}

impl<H> NamedService for ExternalProcessor<H> {
    const NAME: &'static str = "envoy.service.ext_proc.v3.ExternalProcessor";
}

impl<H: Handler> Service<http::Request<Body>> for ExternalProcessor<H> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != PROCESS {
            return Box::pin(ready(Ok(Status::unimplemented("").into_http())));
        }
        let handler = Arc::clone(&self.handler);
        let live = self.live.token();
        // An Envoy that traces has a span for this call, which is what our own is a child of.
        let told = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        let heard = told("traceparent").and_then(|parent| TraceContext::read(parent, told("tracestate")));
        let account = handler.account(heard);
        let replies = duplex::serve(Messages::new(request.into_body()), account, |envoy| async move {
            let _live = live;
            handler.exchange(envoy).await
        });
        Box::pin(async move {
            let mut response = http::Response::new(Body::new(replies.begun().await));
            response.headers_mut().insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
            Ok(response)
        })
    }
}
