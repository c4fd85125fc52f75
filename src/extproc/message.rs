//! ext_proc messages in the words of HTTP: the one place that reads ProcessingRequests and builds ProcessingResponses.
//!
//! Everything here assumes FULL_DUPLEX_STREAMED in both directions, which `Protocol::check` establishes: bodies go
//! back as StreamedBodyResponses, cut as we like, and headers may be answered late, after the body was read.

use bytes::Bytes;
use http::Method;
use prost::Message as _;

use super::headers::{HeaderMutation, Headers};
use super::pb::{
    self, BodySendMode, processing_request::Request, processing_response::Response,
    streamed_immediate_response::Response as LocalPart,
};

use crate::telemetry::metrics::Phase;

/// Under this key Envoy files the attributes that the filter is configured to send.
const ATTRIBUTES: &str = "envoy.filters.http.ext_proc";

/// What Envoy tells, one message at a time.
///
/// The order within a direction is headers, body, trailers. The two directions overlap: an upstream may answer before
/// it has read the whole request. The first message of an exchange is usually `RequestHeaders`, but when a filter in
/// front of ours answers by itself it can be `ResponseHeaders`.
#[derive(Debug, Clone, PartialEq)]
pub enum Inbound {
    /// The request line and headers.
    RequestHeaders(RequestHead),
    /// A piece of the request body, cut anywhere; pieces of up to about 1 MiB were seen.
    RequestBody(BodyPiece),
    /// The request ends with trailers: no body piece has had `end`.
    RequestTrailers,
    /// The status line and headers, of the upstream or of Envoy's own making.
    ResponseHeaders(ResponseHead),
    /// A piece of the response body, cut anywhere, empty ones included.
    ResponseBody(BodyPiece),
    /// The response ends with trailers: no body piece has had `end`.
    ResponseTrailers,
}

/// The head of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestHead {
    /// `:method`.
    pub method: Method,
    /// `:path` as it came, query included; U+FFFD stands for what is not UTF-8. Empty when there is none (CONNECT).
    pub path: String,
    /// All headers, pseudo headers included.
    pub headers: Headers,
    /// There is no body and no trailer. Such a head must be answered at once: no other message comes.
    pub end_of_stream: bool,
    /// What `request_attributes` of the filter's configuration asks for.
    pub attributes: Attributes,
    /// What `metadata_options.forwarding_namespaces` of the filter's configuration asks for.
    pub metadata: Metadata,
}

/// The head of a response.
#[derive(Debug, Clone, PartialEq)]
pub struct ResponseHead {
    /// `:status`.
    pub status: u16,
    /// All headers, pseudo headers included.
    pub headers: Headers,
    /// There is no body and no trailer (HEAD, 204, an empty answer): no other message comes.
    pub end_of_stream: bool,
    /// What `response_attributes` of the filter's configuration asks for.
    pub attributes: Attributes,
}

impl ResponseHead {
    /// Whether the upstream gave this answer, rather than Envoy itself (connection refused, timeout, 413).
    ///
    /// `None` when the filter is configured without `response_attributes: [response.code_details]`.
    #[must_use]
    pub fn from_upstream(&self) -> Option<bool> {
        self.attributes.text("response.code_details").map(|details| details == "via_upstream")
    }
}

/// A piece of a body. It shares its bytes with the message it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyPiece {
    /// The bytes, maybe none.
    pub bytes: Bytes,
    /// Neither body nor trailers follow. Over HTTP/1 the last piece is usually empty.
    pub end: bool,
}

/// Attributes of a message, decoded only when asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attributes(Option<Bytes>);

impl Attributes {
    /// The attribute of this name (like `response.code_details`) when it was sent and is text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        let mut fields = pb::Struct::decode(self.0.clone()?).ok()?.fields;
        match fields.remove(name)?.kind? {
            pb::Kind::StringValue(text) => Some(text),
            _ => None,
        }
    }
}

/// What Envoy's filters found out about a request (dynamic metadata), by namespace; decoded only when asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata(Vec<pb::core::Filed>);

/// What stands at a place in the metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataValue {
    /// Nothing, or null.
    Nothing,
    /// A text.
    Text(String),
    /// Something else, or something unreadable.
    Other,
}

impl Metadata {
    /// What the keys of `path` lead to in a namespace. Only texts are values: Envoy's numbers are floating-point, so that
    /// large integers next to each other could be one and the same.
    #[must_use]
    pub fn find(&self, namespace: &str, path: &[String]) -> MetadataValue {
        let Some(bytes) = filed(&self.0, namespace) else { return MetadataValue::Nothing };
        let Ok(fields) = pb::Struct::decode(bytes) else { return MetadataValue::Other };
        let mut value = pb::Kind::StructValue(fields);
        for key in path {
            let pb::Kind::StructValue(mut object) = value else { return MetadataValue::Other };
            match object.fields.remove(key).and_then(|value| value.kind) {
                Some(inner) => value = inner,
                None => return MetadataValue::Nothing,
            }
        }
        match value {
            pb::Kind::StringValue(text) => MetadataValue::Text(text),
            pb::Kind::NullValue(_) => MetadataValue::Nothing,
            pb::Kind::NumberValue(_) | pb::Kind::BoolValue(_) | pb::Kind::StructValue(_) | pb::Kind::ListValue(_) => {
                MetadataValue::Other
            }
        }
    }

    /// Metadata with these encoded structs.
    #[cfg(test)]
    pub(super) fn of(namespaces: impl IntoIterator<Item = (String, Bytes)>) -> Self {
        Self(namespaces.into_iter().map(|(key, value)| pb::core::Filed { key: key.into(), value }).collect())
    }
}

/// What is filed under a key; of an entry that stands twice in a map the last counts.
fn filed(entries: &[pb::core::Filed], key: &str) -> Option<Bytes> {
    entries.iter().rfind(|entry| entry.key == key.as_bytes()).map(|entry| entry.value.clone())
}

/// A message that does not say what HTTP needs. Envoy does not send such.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedMessage {
    /// The request has no `:method`, or one that is no token.
    #[error("request headers without a method")]
    Method,
    /// The response has no `:status`, or one that is no number.
    #[error("response headers without a status")]
    Status,
}

impl Inbound {
    /// The kind of message, for metrics.
    pub(super) fn phase(&self) -> Phase {
        match self {
            Self::RequestHeaders(_) => Phase::RequestHeaders,
            Self::RequestBody(_) => Phase::RequestBody,
            Self::RequestTrailers => Phase::RequestTrailers,
            Self::ResponseHeaders(_) => Phase::ResponseHeaders,
            Self::ResponseBody(_) => Phase::ResponseBody,
            Self::ResponseTrailers => Phase::ResponseTrailers,
        }
    }

    /// Reads a message; `None` when it carries nothing for us, as a message of a later protocol version may.
    pub(super) fn read(message: pb::ProcessingRequest) -> Result<Option<Self>, MalformedMessage> {
        let Some(request) = message.request else { return Ok(None) };
        let attributes = |all: &[pb::core::Filed]| Attributes(filed(all, ATTRIBUTES));
        Ok(Some(match request {
            Request::RequestHeaders(head) => {
                let headers = Headers::read(head.headers);
                let method = headers.get(":method").and_then(|method| Method::from_bytes(method).ok());
                Self::RequestHeaders(RequestHead {
                    method: method.ok_or(MalformedMessage::Method)?,
                    path: String::from_utf8_lossy(headers.get(":path").unwrap_or_default()).into_owned(),
                    end_of_stream: head.end_of_stream,
                    attributes: attributes(&message.attributes),
                    metadata: Metadata(message.metadata_context.unwrap_or_default().filter_metadata),
                    headers,
                })
            }
            Request::ResponseHeaders(head) => {
                let headers = Headers::read(head.headers);
                let status = headers.text(":status").and_then(|status| status.parse().ok());
                Self::ResponseHeaders(ResponseHead {
                    status: status.ok_or(MalformedMessage::Status)?,
                    end_of_stream: head.end_of_stream,
                    attributes: attributes(&message.attributes),
                    headers,
                })
            }
            Request::RequestBody(piece) => Self::RequestBody(BodyPiece { bytes: piece.body, end: piece.end_of_stream }),
            Request::ResponseBody(piece) => {
                Self::ResponseBody(BodyPiece { bytes: piece.body, end: piece.end_of_stream })
            }
            Request::RequestTrailers(_) => Self::RequestTrailers,
            Request::ResponseTrailers(_) => Self::ResponseTrailers,
        }))
    }
}

/// A message to Envoy after which others follow.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply(pub(super) pb::ProcessingResponse);

/// The message to Envoy that ends an exchange: after it Envoy has all it needs.
#[derive(Debug, Clone, PartialEq)]
pub struct LastReply(pub(super) pb::ProcessingResponse);

impl Reply {
    /// The kind of message, for metrics.
    pub(super) fn phase(&self) -> Phase {
        phase(&self.0)
    }

    /// Lets the request headers go to the upstream, changed.
    ///
    /// `clear_route_cache` makes Envoy choose the route again by the new `:path`; without it the request goes to the
    /// old route's cluster. The new route's timeout and retries apply, and this filter stays on the response.
    #[must_use]
    pub fn request_headers(mutation: HeaderMutation, clear_route_cache: bool) -> Self {
        Self(response(Response::RequestHeaders(headers_response(mutation, clear_route_cache))))
    }

    /// Sends a piece of body to the upstream; 20 MB in one piece are fine. A request that came with trailers must not
    /// `end` here but with [`Reply::request_trailers`].
    #[must_use]
    pub fn request_body(bytes: Bytes, end: bool) -> Self {
        Self(response(Response::RequestBody(body_response(bytes, end))))
    }

    /// Lets the request trailers go to the upstream.
    #[must_use]
    pub fn request_trailers() -> Self {
        Self(response(Response::RequestTrailers(pb::TrailersResponse { header_mutation: None })))
    }

    /// Lets the response headers go to the client, changed; a body follows.
    #[must_use]
    pub fn response_headers(mutation: HeaderMutation) -> Self {
        Self(response(Response::ResponseHeaders(headers_response(mutation, false))))
    }

    /// Sends a piece of body to the client; more follow, or [`LastReply::response_trailers`].
    #[must_use]
    pub fn response_body(bytes: Bytes) -> Self {
        Self(response(Response::ResponseBody(body_response(bytes, false))))
    }

    /// Begins an answer of our own that is streamed (StreamedImmediateResponse).
    ///
    /// Only while the request headers are unanswered; the body may have been read. Later, Envoy answers 500.
    #[must_use]
    pub fn local_headers(status: u16, headers: HeaderMutation) -> Self {
        Self(local(LocalPart::HeadersResponse(local_headers(status, headers, false))))
    }

    /// Continues an answer of our own.
    #[must_use]
    pub fn local_body(bytes: Bytes) -> Self {
        Self(local(LocalPart::BodyResponse(pb::StreamedBodyResponse { body: bytes, end_of_stream: false })))
    }
}

impl LastReply {
    /// The kind of message, for metrics.
    pub(super) fn phase(&self) -> Phase {
        phase(&self.0)
    }

    /// Lets the headers of a response without body ([`ResponseHead::end_of_stream`]) go to the client, changed.
    #[must_use]
    pub fn response_headers(mutation: HeaderMutation) -> Self {
        Self(Reply::response_headers(mutation).0)
    }

    /// Sends the last piece of body to the client. When the upstream has more to say, Envoy closes that connection,
    /// and the client still sees a clean end.
    #[must_use]
    pub fn response_body(bytes: Bytes) -> Self {
        Self(response(Response::ResponseBody(body_response(bytes, true))))
    }

    /// Lets the response trailers go to the client. Right only after [`Inbound::ResponseTrailers`].
    #[must_use]
    pub fn response_trailers() -> Self {
        Self(response(Response::ResponseTrailers(pb::TrailersResponse { header_mutation: None })))
    }

    /// Answers instead of the upstream, or instead of what it said, as long as no response header has left.
    ///
    /// Envoy writes content-length and suppresses the body after HEAD. After a piece of request body it closes an
    /// HTTP/1 client's connection (the streamed form does not). `details` becomes `%RESPONSE_CODE_DETAILS%` in access
    /// logs: a stable word without blanks, nothing of the request. The removals in `headers` have no effect.
    #[must_use]
    pub fn immediate(status: u16, headers: HeaderMutation, body: Bytes, details: impl Into<String>) -> Self {
        Self(response(Response::ImmediateResponse(pb::ImmediateResponse {
            status: Some(pb::envoy_type_v3::HttpStatus { code: status.into() }),
            headers: headers.into_mutation(),
            body,
            details: details.into(),
        })))
    }

    /// An answer of our own that has no body (see [`Reply::local_headers`]).
    #[must_use]
    pub fn local_headers(status: u16, headers: HeaderMutation) -> Self {
        Self(local(LocalPart::HeadersResponse(local_headers(status, headers, true))))
    }

    /// Ends an answer of our own that was begun with [`Reply::local_headers`].
    #[must_use]
    pub fn local_body(bytes: Bytes) -> Self {
        Self(local(LocalPart::BodyResponse(pb::StreamedBodyResponse { body: bytes, end_of_stream: true })))
    }
}

fn response(response: Response) -> pb::ProcessingResponse {
    pb::ProcessingResponse { response: Some(response), dynamic_metadata: Bytes::new() }
}

fn phase(message: &pb::ProcessingResponse) -> Phase {
    match &message.response {
        Some(Response::RequestHeaders(_)) => Phase::RequestHeaders,
        Some(Response::RequestBody(_)) => Phase::RequestBody,
        Some(Response::RequestTrailers(_)) => Phase::RequestTrailers,
        Some(Response::ResponseHeaders(_)) => Phase::ResponseHeaders,
        Some(Response::ResponseBody(_)) => Phase::ResponseBody,
        Some(Response::ResponseTrailers(_)) => Phase::ResponseTrailers,
        Some(Response::ImmediateResponse(_)) | None => Phase::Immediate,
        Some(Response::StreamedImmediateResponse(_)) => Phase::StreamedImmediate,
    }
}

fn headers_response(mutation: HeaderMutation, clear_route_cache: bool) -> pb::HeadersResponse {
    let header_mutation = mutation.into_mutation();
    pb::HeadersResponse {
        response: Some(pb::CommonResponse { header_mutation, body_mutation: None, clear_route_cache }),
    }
}

fn body_response(body: Bytes, end_of_stream: bool) -> pb::BodyResponse {
    let streamed = pb::StreamedBodyResponse { body, end_of_stream };
    let mutation = pb::BodyMutation { mutation: Some(pb::body_mutation::Mutation::StreamedResponse(streamed)) };
    pb::BodyResponse { response: Some(pb::CommonResponse { body_mutation: Some(mutation), ..Default::default() }) }
}

fn local(part: LocalPart) -> pb::ProcessingResponse {
    response(Response::StreamedImmediateResponse(pb::StreamedImmediateResponse { response: Some(part) }))
}

fn local_headers(status: u16, headers: HeaderMutation, end_of_stream: bool) -> pb::HttpHeaders {
    pb::HttpHeaders { headers: Some(headers.status(status).into_map()), end_of_stream }
}

/// What the first message says about the filter's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// FULL_DUPLEX_STREAMED both ways.
    FullDuplex,
    /// No `protocol_config`: Envoy before 1.34. It is believed to be configured right: a filter in another body mode
    /// waits for its headers to be answered before it sends the body, we wait for the body, and Envoy's
    /// message_timeout makes that a 504, not a silent corruption.
    Untold,
}

/// The filter is configured in a way that this router cannot serve.
///
/// The modes are those in force, a `processing_mode` in the route's `ExtProcPerRoute` included (seen on Envoy 1.40).
/// The text reaches people: in Envoy's log, and in `%RESPONSE_CODE_DETAILS%` of access logs and error bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrongProtocol {
    /// A body mode is another one.
    #[error(
        "the ext_proc filter is configured with {direction}_body_mode {mode}, but this router needs \
         processing_mode: {{request_header_mode: SEND, response_header_mode: SEND, request_body_mode: \
         FULL_DUPLEX_STREAMED, response_body_mode: FULL_DUPLEX_STREAMED, request_trailer_mode: SEND, \
         response_trailer_mode: SEND}}"
    )]
    BodyMode {
        /// `request` or `response`.
        direction: &'static str,
        /// The mode by the name it has in Envoy's configuration.
        mode: &'static str,
    },
    /// Envoy would ignore whatever we answer.
    #[error("the ext_proc filter is configured with observability_mode: true, but this router needs it to be false")]
    Observability,
}

impl Protocol {
    /// Checks the first message of an exchange. That trailers are sent cannot be seen in it.
    pub(super) fn check(first: &pb::ProcessingRequest) -> Result<Self, WrongProtocol> {
        if first.observability_mode {
            return Err(WrongProtocol::Observability);
        }
        let Some(config) = &first.protocol_config else { return Ok(Self::Untold) };
        let modes = [("request", config.request_body_mode), ("response", config.response_body_mode)];
        for (direction, mode) in modes {
            match BodySendMode::try_from(mode) {
                Ok(BodySendMode::FullDuplexStreamed) => {}
                Ok(other) => return Err(WrongProtocol::BodyMode { direction, mode: other.as_str_name() }),
                Err(_) => return Err(WrongProtocol::BodyMode { direction, mode: "unknown to this router" }),
            }
        }
        Ok(Self::FullDuplex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_that_is_no_text_or_not_utf8_counts_as_absent() {
        // Struct { fields: { "a": Value { <tag>: … } } }
        let attributes = |value: &[u8]| {
            let length = |bytes: usize| u8::try_from(bytes).unwrap();
            let entry = [b"\x0a\x01a\x12", &[length(value.len())][..], value].concat();
            Attributes(Some([&[0x0a, length(entry.len())][..], &entry].concat().into()))
        };
        assert_eq!(attributes(b"\x1a\x02ok").text("a").as_deref(), Some("ok"));
        assert_eq!(attributes(b"\x1a\x02ok").text("b"), None);
        assert_eq!(attributes(b"\x1a\x02\xff\xfe").text("a"), None);
        assert_eq!(attributes(b"\x20\x01").text("a"), None);
        assert_eq!(Attributes::default().text("a"), None);
    }

    #[test]
    fn a_message_that_says_nothing_is_skipped() {
        assert_eq!(Inbound::read(pb::ProcessingRequest::default()), Ok(None));
    }

    #[test]
    fn a_path_that_is_not_utf8_stays_a_path_that_is_unknown() {
        let header = |key: &'static str, value: &'static [u8]| pb::core::HeaderValue {
            key: key.into(),
            raw_value: Bytes::from_static(value),
            ..Default::default()
        };
        let headers = vec![header(":method", b"GET"), header(":path", b"/v1/responses/resp_\xe9")];
        let head = pb::HttpHeaders { headers: Some(pb::core::HeaderMap { headers }), end_of_stream: true };
        let message = pb::ProcessingRequest { request: Some(Request::RequestHeaders(head)), ..Default::default() };
        let Ok(Some(Inbound::RequestHeaders(head))) = Inbound::read(message) else { panic!("request headers") };
        assert_eq!(head.path, "/v1/responses/resp_\u{fffd}");
    }
}
