//! HTTP/2 connections, and who answers their calls.
//!
//! hyper serves them without tonic's server, whose layers for what is not used here (routes, limits, boxed services and
//! bodies, information about connections) took a tenth of the CPU of a small exchange. What gRPC needs of HTTP/2 is said
//! here; the services bring the rest themselves.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic_health::pb::health_server::{Health, HealthServer};

use super::gathering::Gathering;
use crate::extproc::{self, Answer, Answering, Handler};

/// Before the name of a method of the health service.
const HEALTH: &str = "/grpc.health.v1.Health/";

/// The most bytes of a call's own headers. The HTTP headers of an exchange are not among them: those are in its messages.
const MAX_HEADER_BYTES: u32 = 16 * 1024;

/// How many streams may be reset before they were accepted, per connection. More would be taken for the "rapid reset"
/// attack and end the connection with all its live streams; h2's 20 is for strangers, and Envoy resets a stream for
/// every client that hangs up.
const MAX_PENDING_RESETS: usize = 4096;

/// A ping this often finds out that the machine on the other side is gone; an idle exchange would wait for ever.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// How long the answer to a ping may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long nothing is accepted after it failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The services of the port.
pub(super) struct Calls<H, C>(Arc<Services<H, C>>);

struct Services<H, C> {
    exchanges: extproc::Service<H>,
    health: HealthServer<C>,
}

impl<H: Handler, C: Health> Calls<H, C> {
    pub(super) fn new(exchanges: extproc::Service<H>, health: HealthServer<C>) -> Self {
        Self(Arc::new(Services { exchanges, health }))
    }

    /// Serves connections. When `stopping` is over, no more are accepted, and those that there are take no further calls
    /// and end with the last that they have; so does this.
    pub(super) async fn serve<S>(self, incoming: impl Stream<Item = io::Result<S>>, stopping: impl Future<Output = ()>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut http = http2::Builder::new(TokioExecutor::new());
        // max_concurrent_streams is no limit: every live answer is a stream, and a limit of 10 made a cold Envoy fail 30
        // of 40 requests, because it learns of the limit too late. Nor are the resets of our own counted: an exchange that
        // ends by an error ends in one, and at hyper's 1024 of them, in however many days, a connection would end with all
        // its live streams.
        http.timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .max_concurrent_streams(None)
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            .max_local_error_reset_streams(None)
            .max_header_list_size(MAX_HEADER_BYTES)
            .auto_date_header(false);
        let (connections, graceful) = (TaskTracker::new(), GracefulShutdown::new());
        let accepting = async {
            let mut incoming = pin!(incoming);
            while let Some(accepted) = incoming.next().await {
                let stream = match accepted {
                    Ok(stream) => stream,
                    Err(error) => {
                        // Out of file descriptors, mostly: waiting beats spinning.
                        tracing::warn!(%error, "the listener cannot accept");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                let (stream, sending) = Gathering::new(stream);
                let connection = http.serve_connection(TokioIo::new(stream), Self(Arc::clone(&self.0)));
                let connection = graceful.watch(connection);
                connections.spawn(async move {
                    if let Err(error) = sending.drive(connection).await {
                        tracing::debug!(%error, "a connection broke");
                    }
                });
            }
        };
        // The listener is closed by then: who connects is refused, rather than left to wait.
        tokio::select! {
            () = accepting => {}
            () = stopping => {}
        }
        graceful.shutdown().await;
    }
}

impl<H: Handler, C: Health> hyper::service::Service<Request<Incoming>> for Calls<H, C> {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Call;

    fn call(&self, request: Request<Incoming>) -> Call {
        if request.uri().path().starts_with(HEALTH) {
            return Call::Health(self.0.health.clone().call(request));
        }
        Call::Exchange(self.0.exchanges.call(request))
    }
}

/// A call that is being answered.
pub(super) enum Call {
    Exchange(Answering),
    Health(BoxFuture<'static, Result<Response<Body>, Infallible>>),
}

impl Future for Call {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(match self.get_mut() {
            Self::Exchange(answering) => ready!(Pin::new(answering).poll(cx)),
            Self::Health(answering) => ready!(answering.as_mut().poll(cx))?.map(Answer::Other),
        }))
    }
}
