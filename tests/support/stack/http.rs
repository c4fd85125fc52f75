//! An HTTP client that hides nothing: connections, framing and cuts are the test's to see.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;

use super::wait::{RUNTIME, within};

/// A request; its body is sent as it is, and framed by what is known of its size.
pub(crate) type Request = http::Request<BoxBody<Bytes, Infallible>>;

/// A request without a body.
pub(crate) fn request(method: &str, path: &str) -> Request {
    http::Request::builder().method(method).uri(path).body(Empty::new().boxed()).unwrap()
}

/// A POST of JSON.
pub(crate) fn post(path: &str, body: &Value) -> Request {
    post_bytes(path, body.to_string())
}

/// A POST of anything, called JSON, with its content-length.
pub(crate) fn post_bytes(path: &str, body: impl Into<Bytes>) -> Request {
    post_body(path, Full::new(body.into()).boxed())
}

/// A POST in these pieces: chunked in HTTP/1.1, without content-length in HTTP/2.
pub(crate) fn post_frames(path: &str, frames: Vec<Frame<Bytes>>) -> Request {
    post_body(path, BodyExt::boxed(StreamBody::new(stream::iter(frames.into_iter().map(Ok)))))
}

/// A POST of JSON that promises more than this piece and never goes on.
pub(crate) fn post_stalled(path: &str, promised: usize, piece: Bytes) -> Request {
    let pieces = stream::iter([Ok(Frame::data(piece))]).chain(stream::pending());
    let mut request = post_body(path, BodyExt::boxed(StreamBody::new(pieces)));
    request.headers_mut().insert("content-length", promised.into());
    request
}

fn post_body(path: &str, body: BoxBody<Bytes, Infallible>) -> Request {
    http::Request::builder().method("POST").uri(path).header("content-type", "application/json").body(body).unwrap()
}

/// The same request with one header more.
pub(crate) fn with_header(mut request: Request, name: &'static str, value: &'static str) -> Request {
    request.headers_mut().append(name, value.parse().unwrap());
    request
}

/// A connection to a server. It closes when this and the bodies of its replies are dropped.
pub(crate) struct Connection {
    sender: Sender,
    address: SocketAddr,
}

enum Sender {
    Http1(http1::SendRequest<BoxBody<Bytes, Infallible>>),
    Http2(http2::SendRequest<BoxBody<Bytes, Infallible>>),
}

impl Connection {
    /// Connects in HTTP/1.1.
    pub(crate) async fn http1(address: SocketAddr) -> Self {
        let (sender, connection) = http1::handshake(connect(address).await).await.unwrap();
        RUNTIME.spawn(connection);
        Self { sender: Sender::Http1(sender), address }
    }

    /// The same; `None` when nobody accepts the connection.
    pub(crate) async fn try_http1(address: SocketAddr) -> Option<Self> {
        let (sender, connection) = http1::handshake(try_connect(address).await?).await.ok()?;
        RUNTIME.spawn(connection);
        Some(Self { sender: Sender::Http1(sender), address })
    }

    /// Connects in HTTP/2, with prior knowledge.
    pub(crate) async fn http2(address: SocketAddr) -> Self {
        let io = connect(address).await;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        RUNTIME.spawn(connection);
        Self { sender: Sender::Http2(sender), address }
    }

    /// Sends a request and waits for the head of the answer.
    pub(crate) async fn send(&mut self, request: Request) -> Reply {
        let what = format!("an answer to {} {}", request.method(), request.uri());
        within(&what, self.try_send(request)).await.unwrap_or_else(|error| panic!("no {what}: {error:?}"))
    }

    /// Sends a request and waits for the head of the answer, or for the close of the connection without one.
    pub(crate) async fn send_to_end(&mut self, request: Request) -> Result<Reply, hyper::Error> {
        let what = format!("an answer to {} {}, or a close", request.method(), request.uri());
        within(&what, self.try_send(request)).await
    }

    /// Sends a request; an error when the server closes the connection without an answer.
    pub(crate) async fn try_send(&mut self, mut request: Request) -> Result<Reply, hyper::Error> {
        let authority = self.address.to_string();
        let answer = match &mut self.sender {
            Sender::Http1(sender) => {
                request.headers_mut().insert("host", authority.parse().unwrap());
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                let path = request.uri().path_and_query().unwrap().clone();
                *request.uri_mut() =
                    http::Uri::builder().scheme("http").authority(authority).path_and_query(path).build().unwrap();
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let (head, body) = answer.into_parts();
        Ok(Reply { status: head.status, headers: head.headers, body })
    }

    /// Whether another request can be sent on this connection.
    pub(crate) async fn stays_open(&mut self) -> bool {
        let ready = async {
            match &mut self.sender {
                Sender::Http1(sender) => sender.ready().await,
                Sender::Http2(sender) => sender.ready().await,
            }
        };
        within("the connection's next state", ready).await.is_ok()
    }
}

async fn connect(address: SocketAddr) -> TokioIo<TcpStream> {
    try_connect(address).await.unwrap_or_else(|| panic!("nobody accepts connections on {address}"))
}

async fn try_connect(address: SocketAddr) -> Option<TokioIo<TcpStream>> {
    // On the lasting runtime, which the connection needs when the test's is gone.
    let connecting = RUNTIME.spawn(TcpStream::connect(address));
    let stream = within("a connection", connecting).await.unwrap().ok()?;
    stream.set_nodelay(true).ok()?;
    Some(TokioIo::new(stream))
}

/// An answer whose head is in.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
}

impl Reply {
    /// The value of a header; empty when there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The whole body.
    pub(crate) async fn bytes(self) -> Bytes {
        within("the end of the body", self.body.collect()).await.unwrap().to_bytes()
    }

    /// The whole body; `None` when it is cut.
    pub(crate) async fn try_bytes(self) -> Option<Bytes> {
        within("the end of the body", self.body.collect()).await.ok().map(http_body_util::Collected::to_bytes)
    }

    /// The whole body, as JSON.
    pub(crate) async fn json(self) -> Value {
        let body = self.bytes().await;
        serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&body)))
    }

    /// The events of a stream.
    pub(crate) fn events(self) -> Events {
        assert_eq!(self.status, 200);
        assert_eq!(self.header("content-type"), "text/event-stream; charset=utf-8");
        Events { body: self.body, received: Vec::new(), read: 0, searched: 0 }
    }
}

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// As the framing says.
    Clean,
    /// By a closed connection or a reset stream.
    Cut,
}

/// One server-sent event.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// Its `type`, which is also its name.
    pub(crate) kind: String,
    pub(crate) data: Value,
}

/// A stream of events while it arrives.
pub(crate) struct Events {
    body: Incoming,
    received: Vec<u8>,
    read: usize,
    /// No event that is not read yet ends before this.
    searched: usize,
}

impl Events {
    /// The next event; `Err` tells how the stream ended.
    pub(crate) async fn try_next(&mut self) -> Result<Event, Ending> {
        loop {
            if let Some(event) = self.buffered() {
                return Ok(event);
            }
            let frame = within("the next event", self.body.frame()).await;
            match frame {
                Some(Ok(frame)) => self.received.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Some(Err(_)) => return Err(Ending::Cut),
                None => {
                    assert_eq!(self.read, self.received.len(), "bytes after the last event");
                    return Err(Ending::Clean);
                }
            }
        }
    }

    /// The next event, which there has to be.
    pub(crate) async fn next(&mut self) -> Event {
        self.try_next().await.unwrap_or_else(|ending| {
            panic!("{ending:?} end instead of an event after {}", String::from_utf8_lossy(&self.received))
        })
    }

    /// The next event, which has to be of this kind; its data.
    pub(crate) async fn expect(&mut self, kind: &str) -> Value {
        let event = self.next().await;
        assert_eq!(event.kind, kind, "{}", event.data);
        event.data
    }

    /// Reads on to an event of this kind; its data.
    pub(crate) async fn skip_to(&mut self, kind: &str) -> Value {
        loop {
            let event = self.next().await;
            if event.kind == kind {
                return event.data;
            }
        }
    }

    /// Reads to the end: the events that were left, every byte of the stream, and how it ended.
    pub(crate) async fn rest(mut self) -> (Vec<Event>, Vec<u8>, Ending) {
        let mut events = Vec::new();
        loop {
            match self.try_next().await {
                Ok(event) => events.push(event),
                Err(ending) => return (events, self.received, ending),
            }
        }
    }

    fn buffered(&mut self) -> Option<Event> {
        // Large events come in many pieces: each is searched once.
        let from = self.searched.max(self.read);
        let Some(end) = self.received[from..].windows(2).position(|pair| pair == b"\n\n") else {
            self.searched = self.received.len().saturating_sub(1);
            return None;
        };
        let frame = String::from_utf8(self.received[self.read..from + end].to_vec()).unwrap();
        self.read = from + end + 2;
        let (name, data) = frame.split_once('\n').unwrap_or_else(|| panic!("one line: {frame}"));
        let kind = name.strip_prefix("event: ").unwrap_or_else(|| panic!("no name: {frame}")).to_owned();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(data["type"], *kind, "{frame}");
        Some(Event { kind, data })
    }
}
