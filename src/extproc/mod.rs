//! Envoy's side: the gRPC service, its messages in the words of HTTP, and the frame in which an exchange runs.
//!
//! `exchange` and what it uses of this module speak HTTP ([`message`], [`headers`], [`route`], [`body`]) and never see
//! protobuf; [`duplex`] makes sure that no exchange ends by mistake as if all were well.

pub mod admission;
mod answer;
pub mod body;
pub mod duplex;
pub mod exchange;
pub mod headers;
pub mod keeping;
pub mod local;
pub mod message;
mod metadata;
pub(crate) mod pb;
pub mod random_ids;
pub mod refusal;
pub mod route;
pub mod tenancy;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http;
use tonic::server::NamedService;
use tonic::{Request, Response, Status, Streaming};

use crate::telemetry::Account;
use crate::telemetry::traces::TraceContext;
use duplex::{Envoy, ExchangeError, Finished, Replies};
use pb::ProcessingRequest;
use pb::external_processor_server::ExternalProcessorServer;

/// The largest message accepted from Envoy. In FULL_DUPLEX_STREAMED it cuts bodies into pieces of about 1 MiB, so this
/// is far away; tonic's own 4 MiB would do.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

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
    ExternalProcessorServer::new(ExternalProcessorService { handler, live })
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
}

/// Envoy's `ExternalProcessor` service.
struct ExternalProcessorService<H> {
    handler: Arc<H>,
    live: TaskTracker,
}

#[async_trait::async_trait]
impl<H: Handler> pb::external_processor_server::ExternalProcessor for ExternalProcessorService<H> {
    type ProcessStream = Replies;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let handler = Arc::clone(&self.handler);
        let live = self.live.token();
        // An Envoy that traces has a span for this call, which is what our own is a child of.
        let told = |name| request.metadata().get(name).and_then(|value| value.to_str().ok());
        let heard = told("traceparent").and_then(|parent| TraceContext::read(parent, told("tracestate")));
        let account = handler.account(heard);
        let replies = duplex::serve(request.into_inner(), account, |envoy| async move {
            let _live = live;
            handler.exchange(envoy).await
        });
        Ok(Response::new(replies))
    }
}
