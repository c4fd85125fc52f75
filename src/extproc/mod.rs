//! Envoy's side: the gRPC service, its messages in the words of HTTP, and the frame in which an exchange runs.
//!
//! `exchange` and what it uses of this module speak HTTP ([`message`], [`headers`], [`route`], [`body`]) and never see
//! protobuf; [`duplex`] makes sure that no exchange ends by mistake as if all were well.

mod answer;
pub mod body;
pub mod duplex;
pub mod exchange;
pub mod headers;
pub mod keeping;
pub mod local;
pub mod message;
pub(crate) mod pb;
pub mod random_ids;
pub mod refusal;
pub mod route;

use std::future::Future;
use std::sync::Arc;

use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use crate::telemetry::Account;
use duplex::{Envoy, ExchangeError, Finished, Replies};
use pb::ProcessingRequest;
pub(crate) use pb::external_processor_server::ExternalProcessorServer;

/// What is done with an exchange.
pub trait Handler: Send + Sync + 'static {
    /// Opens the account of an exchange that begins.
    fn account(&self) -> Account;

    /// Runs one exchange, from the first message (still to be read with [`Envoy::next`]) to the last.
    ///
    /// The future may be dropped at any await, when Envoy resets the stream.
    fn exchange(self: Arc<Self>, envoy: Envoy) -> impl Future<Output = Result<Finished, ExchangeError>> + Send;
}

/// Envoy's `ExternalProcessor` service: every call of `Process` is one exchange.
pub(crate) struct ExternalProcessorService<H> {
    handler: Arc<H>,
    live: TaskTracker,
}

impl<H: Handler> ExternalProcessorService<H> {
    /// A service that runs its exchanges with `handler` and counts the live ones in `live`.
    pub(crate) fn new(handler: Arc<H>, live: TaskTracker) -> Self {
        Self { handler, live }
    }
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
        let account = handler.account();
        let replies = duplex::serve(request.into_inner(), account, |envoy| async move {
            let _live = live;
            handler.exchange(envoy).await
        });
        Ok(Response::new(replies))
    }
}
