//! The server that Envoy connects to: over TCP, TLS or a unix socket, with gRPC health, and a stop that lets exchanges
//! finish.

mod listener;
pub mod probe;
pub mod tls;

use std::sync::Arc;
use std::time::Duration;

use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;

pub use self::listener::{BindError, Listener};

use self::listener::Socket;
use crate::extproc::{self, Handler};

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

/// How long exchanges that outlived the grace may take over their last event, its write to the store included.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The names under which health is told: the whole server, and the service.
const HEALTH_NAMES: [&str; 2] = ["", "envoy.service.ext_proc.v3.ExternalProcessor"];

/// How a server stops.
#[derive(Debug, Clone)]
pub struct Stop {
    /// Cancelled to stop: health tells NOT_SERVING, and everything else goes on for the `delay`.
    pub token: CancellationToken,
    /// How long new exchanges are still taken, so that whoever watches our health sends them elsewhere first. Then
    /// connections get GOAWAY and new ones are refused.
    pub delay: Duration,
    /// How long exchanges may go on after that.
    pub grace: Duration,
    /// Cancelled by the server when the grace is over: the exchanges that are left say so to their clients and end.
    pub grace_over: CancellationToken,
    /// What has to end before the server has: live exchanges, and whatever tasks the handler tracks here.
    pub live: TaskTracker,
}

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Everything finished.
    Clean,
    /// The grace was over first.
    GraceOver {
        /// Exchanges and tasks that were still alive. The end of the process cuts them: Envoy sees its connection
        /// break, never a clean end.
        live: usize,
    },
}

/// Serves exchanges until `stop` is asked for and done. gRPC health tells SERVING, and NOT_SERVING from the stop on.
///
/// It does not tell whether the store is ready: Envoy's health checks would take the router out of its cluster and answer
/// an empty 503 in its place, where the router has an error that says what is wrong and goes on serving what needs no
/// store. `/readyz` tells that.
///
/// # Errors
/// When tonic fails to serve at all; a broken connection is no such case.
pub async fn serve<H: Handler>(
    listener: Listener,
    handler: Arc<H>,
    stop: Stop,
) -> Result<Stopped, tonic::transport::Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    for name in HEALTH_NAMES {
        health.set_service_status(name, ServingStatus::Serving).await;
    }
    let token = stop.token.clone();
    let stopping = async move {
        token.cancelled().await;
        for name in HEALTH_NAMES {
            health.set_service_status(name, ServingStatus::NotServing).await;
        }
        tokio::time::sleep(stop.delay).await;
    };
    let service = extproc::service(handler, stop.live.clone());
    // max_concurrent_streams stays unset: every live answer is a stream, and a limit of 10 made a cold Envoy fail 30 of
    // 40 requests, because it learns of the limit too late.
    let router = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .add_service(health_service)
        .add_service(service);
    let serving = async move {
        match listener.socket {
            Socket::Tcp(listener) => {
                let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
                router.serve_with_incoming_shutdown(incoming, stopping).await
            }
            Socket::Tls(listener, tls) => {
                let incoming = tls::accept(listener, tls);
                router.serve_with_incoming_shutdown(incoming, stopping).await
            }
            Socket::Unix(listener, _file) => {
                router.serve_with_incoming_shutdown(UnixListenerStream::new(listener), stopping).await
            }
        }
    };
    let grace_over = async {
        stop.token.cancelled().await;
        tokio::time::sleep(stop.delay.saturating_add(stop.grace)).await;
        stop.grace_over.cancel();
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::select! {
        result = async {
            serving.await?;
            stop.live.close();
            stop.live.wait().await;
            Ok(Stopped::Clean)
        } => result,
        () = grace_over => Ok(Stopped::GraceOver { live: stop.live.len() }),
    }
}
