//! The server that Envoy connects to: over TCP, TLS or a unix socket, with gRPC health, and a stop that lets exchanges
//! finish.

mod calls;
mod gathering;
mod listener;
pub mod probe;
pub mod tls;

use std::sync::Arc;
use std::time::Duration;

use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::ServingStatus;

pub use self::listener::{BindError, Listener};

use self::calls::Calls;
use self::listener::Socket;
use crate::extproc::{self, Handler};

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

/// Serves exchanges until `stop` is asked for and done. gRPC health tells SERVING, NOT_SERVING from the stop on, and after
/// the stop's delay nothing more.
///
/// It does not tell whether the store is ready: Envoy's health checks would take the router out of its cluster and answer
/// an empty 503 in its place, where the router has an error that says what is wrong and goes on serving what needs no
/// store. `/readyz` tells that.
pub async fn serve<H: Handler>(listener: Listener, handler: Arc<H>, stop: Stop) -> Stopped {
    let (mut health, health_service) = tonic_health::server::health_reporter();
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
        // Ends the calls of who watches it, which would otherwise be waited for until the grace is over.
        for name in HEALTH_NAMES {
            health.clear_service_status(name).await;
        }
    };
    let calls = Calls::new(extproc::Service::new(handler, stop.live.clone()), health_service);
    let serving = async move {
        match listener.socket {
            Socket::Tcp(listener) => {
                let incoming = TcpListenerStream::new(listener).map(|accepted| {
                    accepted.inspect(|stream| {
                        // Without it a small message waits for the acknowledgement of the one before it. It fails on a
                        // connection that has broken already.
                        let _ = stream.set_nodelay(true);
                    })
                });
                calls.serve(incoming, stopping).await;
            }
            Socket::Tls(listener, tls) => calls.serve(tls::accept(listener, tls), stopping).await,
            Socket::Unix(listener, _file) => calls.serve(UnixListenerStream::new(listener), stopping).await,
        }
    };
    let grace_over = async {
        stop.token.cancelled().await;
        tokio::time::sleep(stop.delay.saturating_add(stop.grace)).await;
        stop.grace_over.cancel();
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::select! {
        () = async {
            serving.await;
            stop.live.close();
            stop.live.wait().await;
        } => Stopped::Clean,
        () = grace_over => Stopped::GraceOver { live: stop.live.len() },
    }
}
