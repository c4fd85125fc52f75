//! The admin listener: liveness, readiness, metrics, the config and the build over plain HTTP. Never exposed to clients.

pub mod probe;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::build_info::BuildInfo;
use crate::store::ResponseStore;
use crate::telemetry::metrics::Metrics;

/// How long the store may take to say that it is ready.
const READY_DEADLINE: Duration = Duration::from_secs(1);

/// How long a client may take over its request head.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);

const TEXT: &str = "text/plain; charset=utf-8";

#[derive(Clone, Copy)]
enum Page {
    Index,
    Live,
    Ready,
    Metrics,
    Config,
    Build,
}

/// What is served, and what the index says of it.
const PAGES: [(&str, Page, &str); 6] = [
    ("/", Page::Index, "this list"),
    ("/healthz", Page::Live, "200 while the process lives"),
    ("/readyz", Page::Ready, "200 while it takes requests and the store answers; else 503 and why"),
    ("/metrics", Page::Metrics, "counters and gauges, for Prometheus"),
    ("/config", Page::Config, "the config that holds, secrets masked"),
    ("/buildinfo", Page::Build, "version, commit, compiler and features"),
];

/// The most connections at once; an idle one is closed after [`HEAD_DEADLINE`], any after [`CONNECTION`].
const MAX_CONNECTIONS: usize = 64;

/// How long a connection may last: one that takes its answer slowly, or not at all, would keep its place for ever. A
/// scraper that keeps its connection opens another one then.
const CONNECTION: Duration = Duration::from_secs(60);

/// The most bytes of a request head.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// What the admin listener tells.
pub struct Admin {
    /// Asked for readiness.
    pub store: Arc<dyn ResponseStore>,
    /// Printed on `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Shown on `/config`: the config with its secrets masked, as YAML.
    pub config: String,
    /// Once cancelled, the router is not ready any more.
    pub stopping: CancellationToken,
}

impl Admin {
    /// Serves until the end of the process; the listener's tasks are aborted with the runtime.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn serve(self, address: SocketAddr, tasks: &TaskTracker) -> std::io::Result<SocketAddr> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let admin = Arc::new(self);
        let connections = tasks.clone();
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        tasks.spawn(async move {
            // While all places are taken, the next connection waits where the system keeps it.
            while let Ok(place) = Arc::clone(&places).acquire_owned().await {
                let stream = match listener.accept().await {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of file descriptors, mostly: waiting beats spinning.
                        tracing::warn!(%error, "the admin listener cannot accept");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                };
                let admin = Arc::clone(&admin);
                connections.spawn(async move {
                    let _place = place;
                    admin.converse(stream, CONNECTION).await;
                });
            }
        });
        Ok(address)
    }

    /// Answers what comes by a connection, for so long at most.
    async fn converse<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S, longest: Duration) {
        let service = service_fn(async |request| Ok::<_, Infallible>(self.answer(&request).await));
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE).max_buf_size(MAX_HEAD_BYTES);
        match tokio::time::timeout(longest, http.serve_connection(TokioIo::new(stream), service)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "an admin connection broke"),
            Err(_) => tracing::debug!("an admin connection lasted too long"),
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let Some((_, page, _)) = PAGES.iter().find(|(path, ..)| *path == request.uri().path()) else {
            return response(StatusCode::NOT_FOUND, TEXT, index());
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".to_owned());
            refused.headers_mut().insert(http::header::ALLOW, http::HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        match page {
            Page::Index => response(StatusCode::OK, TEXT, index()),
            Page::Live => response(StatusCode::OK, TEXT, "ok\n".to_owned()),
            Page::Ready => match self.ready().await {
                Ok(()) => response(StatusCode::OK, TEXT, "ready\n".to_owned()),
                Err(reason) => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("not ready: {reason}\n")),
            },
            Page::Metrics => {
                let open_metrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                response(StatusCode::OK, open_metrics, self.metrics.text())
            }
            // As text, which browsers show.
            Page::Config => response(StatusCode::OK, TEXT, self.config.clone()),
            Page::Build => match serde_json::to_string(&BuildInfo::of_this_program()) {
                Ok(build) => response(StatusCode::OK, "application/json", build),
                Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, error.to_string()),
            },
        }
    }

    async fn ready(&self) -> Result<(), &'static str> {
        if self.stopping.is_cancelled() {
            return Err("draining");
        }
        match tokio::time::timeout(READY_DEADLINE, self.store.ready()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("the response store is unavailable"),
            Err(_) => Err("the response store does not answer"),
        }
    }
}

fn index() -> String {
    PAGES.iter().map(|(path, _, what)| format!("{path:<12} {what}\n")).collect()
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use crate::store::{MemoryBounds, MemoryStore};

    #[tokio::test]
    async fn who_does_not_read_its_answer_loses_its_place() {
        let bounds = MemoryBounds { max_entries: NonZeroU64::MIN, max_bytes: 1 << 20, ttl: Duration::from_secs(1) };
        let admin = Admin {
            store: Arc::new(MemoryStore::new(bounds)),
            metrics: Arc::default(),
            config: String::new(),
            stopping: CancellationToken::new(),
        };
        let (mut client, server) = tokio::io::duplex(64);
        let asking = async {
            client.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            std::future::pending::<()>().await;
        };
        let served = tokio::time::timeout(Duration::from_secs(20), admin.converse(server, Duration::from_millis(20)));
        tokio::select! {
            () = asking => {}
            served = served => served.unwrap(),
        }
    }
}
