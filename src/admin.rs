//! The admin listener: liveness, readiness and metrics over plain HTTP. Never exposed to clients.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::store::ResponseStore;
use crate::telemetry::metrics::Metrics;

/// How long the store may take to say that it is ready.
const READY_DEADLINE: Duration = Duration::from_secs(1);

/// How long a client may take over its request head.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);

/// What the admin listener tells.
pub struct Admin {
    /// Asked for readiness.
    pub store: Arc<dyn ResponseStore>,
    /// Printed on `/metrics`.
    pub metrics: Arc<Metrics>,
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
        tasks.spawn(async move {
            loop {
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
                    let service = service_fn(move |request| {
                        let admin = Arc::clone(&admin);
                        async move { Ok::<_, Infallible>(admin.answer(&request).await) }
                    });
                    let mut http = hyper::server::conn::http1::Builder::new();
                    http.timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
                    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                        tracing::debug!(%error, "an admin connection broke");
                    }
                });
            }
        });
        Ok(address)
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, content_type, body) = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/healthz") => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
            (&Method::GET | &Method::HEAD, "/readyz") => match self.ready().await {
                Ok(()) => (StatusCode::OK, "text/plain", "ready\n".to_owned()),
                Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, "text/plain", format!("not ready: {reason}\n")),
            },
            (&Method::GET | &Method::HEAD, "/metrics") => {
                let open_metrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                (StatusCode::OK, open_metrics, self.metrics.text())
            }
            (_, "/healthz" | "/readyz" | "/metrics") => {
                (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n".to_owned())
            }
            _ => (StatusCode::NOT_FOUND, "text/plain", "/healthz, /readyz or /metrics\n".to_owned()),
        };
        let mut response = Response::new(Full::new(body.into()));
        *response.status_mut() = status;
        response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
        response
    }

    async fn ready(&self) -> Result<(), &'static str> {
        if self.stopping.is_cancelled() {
            return Err("stopping");
        }
        match tokio::time::timeout(READY_DEADLINE, self.store.ready()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("the response store is unavailable"),
            Err(_) => Err("the response store does not answer"),
        }
    }
}
