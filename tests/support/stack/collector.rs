//! An OpenTelemetry collector: it takes spans over OTLP/gRPC and keeps them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Kind;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::wait::{RUNTIME, eventually};

/// A running collector.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    received: Received,
    serving: tokio::task::AbortHandle,
}

#[derive(Clone, Default)]
struct Received(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[async_trait::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Starts it on a free port.
    pub(crate) async fn start() -> Self {
        let received = Received::default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let service = TraceServiceServer::new(received.clone());
        let serving = RUNTIME.spawn(async move {
            let incoming = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
        });
        Self { address, received, serving: serving.abort_handle() }
    }

    /// What the config names it by.
    pub(crate) fn settings(&self) -> Value {
        json!({"endpoint": format!("http://{}", self.address)})
    }

    /// All spans so far of this service, or of all for none.
    pub(crate) fn spans(&self, service: Option<&str>) -> Vec<Span> {
        let received = self.received.0.lock().unwrap();
        let resources = received.iter().flat_map(|request| &request.resource_spans);
        let of_service = resources.filter(|spans| {
            let resource = spans.resource.as_ref().map(|resource| &*resource.attributes).unwrap_or_default();
            service.is_none_or(|service| attribute(resource, "service.name") == json!(service))
        });
        of_service.flat_map(|spans| &spans.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
    }

    /// The spans of the router's service that belong to a trace, once the exchange's own is among them.
    pub(crate) async fn trace(&self, trace_id: u128) -> Vec<Span> {
        eventually("the spans of a trace", async || {
            let spans = self.spans(Some("responses-router"));
            let trace: Vec<_> = spans.into_iter().filter(|span| span.trace_id == trace_id.to_be_bytes()).collect();
            trace.iter().any(|span| span.name.starts_with("responses")).then_some(trace)
        })
        .await
    }

    /// Every byte that came, as it was on the wire.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.received.0.lock().unwrap().iter().flat_map(ExportTraceServiceRequest::encode_to_vec).collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The value of an attribute; null when there is none of this name.
pub(crate) fn attribute(attributes: &[KeyValue], key: &str) -> Value {
    let value = attributes.iter().find(|attribute| attribute.key == key).and_then(|attribute| attribute.value.as_ref());
    value.map_or(Value::Null, json_of)
}

fn json_of(value: &AnyValue) -> Value {
    match &value.value {
        Some(Kind::StringValue(text)) => json!(text),
        Some(Kind::BoolValue(flag)) => json!(flag),
        Some(Kind::IntValue(number)) => json!(number),
        Some(Kind::ArrayValue(array)) => array.values.iter().map(json_of).collect(),
        other => panic!("{other:?}"),
    }
}
