//! Spans on their way to a collector, over OTLP/gRPC: gathered, sent in batches, given up when that fails for long.
//!
//! Exchanges only ever put spans into a bounded queue, and never wait for it. What does not fit, or cannot be sent, is
//! dropped and counted.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValueKind;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as ProtoSpan, Status as ProtoStatus};
use secrecy::ExposeSecret as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use super::span::{Kind, Span, Value};
use super::{SpanCounters, Why};
use crate::config::Otlp;

/// The most spans of one export, give or take those of one exchange.
const BATCH_SPANS: usize = 512;

/// How long spans wait for others.
const GATHER: Duration = Duration::from_secs(1);

/// How often an export is tried, and the pause before the second time; it doubles.
const ATTEMPTS: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// How often the log says that spans cannot be exported.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// The flags of a span: its trace is recorded; whether its parent is another process' is known; it is.
const SAMPLED: u32 = 0x01;
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// Sends what comes by the queue.
pub(super) struct Exporter {
    client: TraceServiceClient<Channel>,
    metadata: MetadataMap,
    resource: Resource,
    longest: Duration,
    counters: SpanCounters,
    stop: CancellationToken,
    warned: Option<Instant>,
}

impl Exporter {
    /// An exporter that connects when there is something to send. `None` without an endpoint.
    ///
    /// # Errors
    /// When the system has no certificate authorities and the endpoint needs them.
    pub(super) fn new(
        otlp: &Otlp,
        counters: SpanCounters,
        stop: CancellationToken,
    ) -> Result<Option<Self>, tonic::transport::Error> {
        let Some(address) = &otlp.endpoint else { return Ok(None) };
        let mut endpoint =
            Endpoint::from(address.uri().clone()).connect_timeout(otlp.timeout_seconds).timeout(otlp.timeout_seconds);
        if address.is_tls() {
            endpoint = endpoint.tls_config(ClientTlsConfig::new().with_native_roots())?;
        }
        let headers = otlp.headers.iter().filter_map(|(name, value)| {
            let mut value: AsciiMetadataValue = value.expose_secret().parse().ok()?;
            value.set_sensitive(true);
            Some((name.parse::<AsciiMetadataKey>().ok()?, value))
        });
        let mut metadata = MetadataMap::new();
        for (name, value) in headers {
            metadata.insert(name, value);
        }
        Ok(Some(Self {
            client: TraceServiceClient::new(endpoint.connect_lazy()),
            metadata,
            resource: resource(&otlp.service_name),
            longest: otlp.timeout_seconds,
            counters,
            stop,
            warned: None,
        }))
    }

    /// Works until `stop` is cancelled and what was queued until then is sent.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Vec<Span>>) {
        let stop = self.stop.clone();
        loop {
            let mut spans = tokio::select! {
                spans = queue.recv() => match spans {
                    Some(spans) => spans,
                    None => return,
                },
                // What is in the queue is still given out.
                () = stop.cancelled(), if !queue.is_closed() => {
                    queue.close();
                    continue;
                }
            };
            let due = Instant::now() + GATHER;
            while spans.len() < BATCH_SPANS {
                tokio::select! {
                    more = queue.recv() => match more {
                        Some(more) => spans.extend(more),
                        None => break,
                    },
                    () = sleep_until(due) => break,
                    () = stop.cancelled(), if !queue.is_closed() => queue.close(),
                }
            }
            self.export(spans).await;
        }
    }

    async fn export(&mut self, spans: Vec<Span>) {
        let count = u64::try_from(spans.len()).unwrap_or(u64::MAX);
        let request = request(&self.resource, spans);
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=ATTEMPTS {
            let error = match self.send(request.clone()).await {
                Ok(rejected) => {
                    self.counters.exported(count.saturating_sub(rejected));
                    return self.counters.dropped(Why::Rejected, rejected);
                }
                Err(error) => error,
            };
            if attempt == ATTEMPTS || !may_be_repeated(&error) || self.stop.is_cancelled() {
                self.warn(&error);
                return self.counters.dropped(Why::ExportFailed, count);
            }
            tracing::debug!(%error, "traces: trying again");
            tokio::select! {
                () = sleep(pause) => {}
                () = self.stop.cancelled() => {}
            }
            pause *= 2;
        }
    }

    /// Sends once; how many spans the collector did not take.
    async fn send(&mut self, request: ExportTraceServiceRequest) -> Result<u64, Status> {
        let mut request = Request::new(request);
        *request.metadata_mut() = self.metadata.clone();
        let answer = timeout(self.longest, self.client.export(request)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))?;
        let rejected = answer.into_inner().partial_success.map_or(0, |partial| partial.rejected_spans);
        Ok(u64::try_from(rejected).unwrap_or(0))
    }

    fn warn(&mut self, error: &Status) {
        if self.warned.is_some_and(|warned| warned.elapsed() < WARN_EVERY) {
            return tracing::debug!(%error, "traces cannot be exported");
        }
        self.warned = Some(Instant::now());
        tracing::warn!(%error, "traces cannot be exported, they are dropped and counted");
    }
}

/// What OTLP lets a client send again.
fn may_be_repeated(error: &Status) -> bool {
    matches!(
        error.code(),
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            | Code::ResourceExhausted
    )
}

fn resource(service_name: &str) -> Resource {
    let instance = format!("{:032x}", rand::random::<u128>());
    let attributes = [
        ("service.name", service_name),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", &*instance),
    ];
    let attributes = attributes.map(|(key, value)| attribute(key, Value::from(value)));
    Resource { attributes: attributes.into(), ..Resource::default() }
}

fn request(resource: &Resource, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope = InstrumentationScope {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let spans = spans.into_iter().map(span).collect();
    let scope_spans = ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() };
    let resource_spans =
        ResourceSpans { resource: Some(resource.clone()), scope_spans: vec![scope_spans], ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
}

fn span(span: Span) -> ProtoSpan {
    let kind = match span.kind {
        Kind::Server => SpanKind::Server,
        Kind::Internal => SpanKind::Internal,
        Kind::Client => SpanKind::Client,
    };
    let remote = if span.parent_is_remote { IS_REMOTE } else { 0 };
    let event =
        |(name, at): (&str, SystemTime)| Event { time_unix_nano: nanos(at), name: name.to_owned(), ..Event::default() };
    let code = if span.failed { StatusCode::Error } else { StatusCode::Unset };
    ProtoSpan {
        trace_id: span.trace_id.to_be_bytes().into(),
        span_id: span.id.to_be_bytes().into(),
        trace_state: span.state,
        parent_span_id: span.parent.map(|parent| parent.to_be_bytes().into()).unwrap_or_default(),
        flags: SAMPLED | HAS_IS_REMOTE | remote,
        name: span.name,
        kind: kind.into(),
        start_time_unix_nano: nanos(span.began),
        end_time_unix_nano: nanos(span.ended),
        attributes: span.attributes.into_iter().map(|(key, value)| attribute(key, value)).collect(),
        events: span.events.into_iter().map(event).collect(),
        status: Some(ProtoStatus { code: code.into(), ..ProtoStatus::default() }),
        ..ProtoSpan::default()
    }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    let text = |text| AnyValue { value: Some(AnyValueKind::StringValue(text)) };
    let value = match value {
        Value::Text(value) => text(value),
        Value::Texts(values) => AnyValue {
            value: Some(AnyValueKind::ArrayValue(ArrayValue { values: values.into_iter().map(text).collect() })),
        },
        Value::Number(number) => AnyValue { value: Some(AnyValueKind::IntValue(number)) },
        Value::Flag(flag) => AnyValue { value: Some(AnyValueKind::BoolValue(flag)) },
    };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

/// Nanoseconds since the epoch.
fn nanos(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
