//! A chat backend that a test scripts beforehand, or plays itself, step by step.
//!
//! Answers are chosen by the model of the request, or by its path when the body names none, so that tests can share a
//! server.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Method};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::chat;
use super::strict;
use super::wait::{RUNTIME, eventually, within};

/// A request that came in.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Received {
    /// The body, as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The values of a header.
    pub(crate) fn header(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    /// Role and text of each message.
    pub(crate) fn messages(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let messages = self.json()["messages"].as_array().unwrap().clone();
        messages.iter().map(|message| (text(&message["role"]), text(&message["content"]))).collect()
    }

    fn key(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["model"].as_str().unwrap_or(&self.path).to_owned()
    }
}

/// An answer, ready or still to be streamed.
pub(crate) struct Answer(http::Response<BoxBody<Bytes, io::Error>>);

impl Answer {
    /// JSON.
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::text(status, "application/json", body.to_string())
    }

    /// A body of any type, with its content-length; no type when it is empty.
    pub(crate) fn text(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let mut answer = http::Response::builder().status(status);
        if !content_type.is_empty() {
            answer = answer.header("content-type", content_type);
        }
        Self(answer.body(Full::new(body.into()).map_err(|never: Infallible| match never {}).boxed()).unwrap())
    }

    /// A chat completion of this text.
    pub(crate) fn completion(text: &str) -> Self {
        Self::json(200, &chat::completion(text))
    }

    /// A stream of these chunks, and its `[DONE]`.
    pub(crate) fn chunks(chunks: &[Value]) -> Self {
        let frames: String = chunks.iter().map(frame).collect();
        Self::text(200, "text/event-stream", frames + "data: [DONE]\n\n")
    }

    /// A stream of this text, a chunk for each word, and its usage.
    pub(crate) fn words(text: &str) -> Self {
        let words = text.split_inclusive(' ').map(chat::text);
        Self::chunks(&words.chain([chat::finish("stop"), chat::usage_chunk()]).collect::<Vec<_>>())
    }

    /// A stream of these chunks, with a pause before each.
    pub(crate) fn paced(chunks: &[Value], pause: Duration) -> Self {
        let mut frames: Vec<io::Result<Bytes>> = chunks.iter().map(|chunk| Ok(frame(chunk).into())).collect();
        frames.push(Ok("data: [DONE]\n\n".into()));
        Self::live(frames, pause)
    }

    /// A stream of these chunks whose connection is closed a second later. Until then the answer has to have begun at the
    /// client: of one that has not, Envoy makes an error.
    pub(crate) fn cut(chunks: &[Value]) -> Self {
        let frames: String = chunks.iter().map(frame).collect();
        let cut = stream::once(async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Err(io::Error::other("cut"))
        });
        let body = stream::iter([Ok(Frame::data(Bytes::from(frames)))]).chain(cut);
        let answer = http::Response::builder().header("content-type", "text/event-stream");
        Self(answer.body(BodyExt::boxed(StreamBody::new(Box::pin(body)))).unwrap())
    }

    /// A body that breaks off after these bytes.
    pub(crate) fn cut_body(content_type: &str, bytes: impl Into<Bytes>) -> Self {
        // So that what was sent before is not lost with the connection.
        Self::live_as(content_type, vec![Ok(bytes.into()), Err(io::Error::other("cut"))], Duration::from_millis(50))
    }

    fn live(frames: Vec<io::Result<Bytes>>, pause: Duration) -> Self {
        Self::live_as("text/event-stream", frames, pause)
    }

    fn live_as(content_type: &str, frames: Vec<io::Result<Bytes>>, pause: Duration) -> Self {
        let frames = stream::iter(frames).then(move |bytes| async move {
            tokio::time::sleep(pause).await;
            bytes.map(Frame::data)
        });
        let answer = http::Response::builder().header("content-type", content_type);
        Self(answer.body(BodyExt::boxed(StreamBody::new(frames))).unwrap())
    }

    /// An answer whose body begins so, and goes on when the gate is open, with a pause before each further piece.
    pub(crate) fn held(content_type: &str, first: Bytes, gate: &Gate, rest: Vec<Bytes>, pause: Duration) -> Self {
        let (mut open, waiting) = (gate.open.subscribe(), Arc::clone(&gate.waiting));
        let opened = stream::once(async move {
            let _waiting = Waiting::new(waiting);
            // A gate that is gone opens no more.
            open.wait_for(|open| *open).await.map(|_| Bytes::new()).map_err(io::Error::other)
        });
        let rest = stream::iter(rest).then(move |piece| async move {
            tokio::time::sleep(pause).await;
            Ok(piece)
        });
        let body = stream::iter([Ok(first)]).chain(opened).chain(rest);
        // hyper takes an empty piece for nothing to send.
        let body = body.map(|piece| piece.map(Frame::data));
        let answer = http::Response::builder().header("content-type", content_type);
        Self(answer.body(BodyExt::boxed(StreamBody::new(Box::pin(body)))).unwrap())
    }

    /// A stream that repeats itself as fast as it is read, for ever. While it does, it waits at the gate, open or not.
    pub(crate) fn endless(piece: Bytes, gate: &Gate) -> Self {
        let waiting = Waiting::new(Arc::clone(&gate.waiting));
        let body = stream::repeat(piece).map(move |piece| {
            let _ = &waiting;
            Ok(Frame::data(piece))
        });
        let answer = http::Response::builder().header("content-type", "text/event-stream");
        Self(answer.body(BodyExt::boxed(StreamBody::new(body))).unwrap())
    }

    /// The frames of a stream of this text, a chunk for each word, and its end.
    pub(crate) fn frames_of_words(text: &str) -> Vec<Bytes> {
        let words = text.split_inclusive(' ').map(chat::text).chain([chat::finish("stop"), chat::usage_chunk()]);
        words.map(|chunk| Bytes::from(frame(&chunk))).chain([Bytes::from_static(b"data: [DONE]\n\n")]).collect()
    }

    /// The same answer with one header more.
    pub(crate) fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.0.headers_mut().append(name, value.parse().unwrap());
        self
    }
}

/// A chunk as it stands in a stream.
pub(crate) fn frame(chunk: &Value) -> String {
    format!("data: {chunk}\n\n")
}

/// Answers that wait for a test to let them go on.
#[derive(Clone)]
pub(crate) struct Gate {
    open: Arc<watch::Sender<bool>>,
    waiting: Arc<AtomicUsize>,
}

impl Gate {
    /// A closed one.
    pub(crate) fn closed() -> Self {
        Self { open: Arc::new(watch::Sender::new(false)), waiting: Arc::default() }
    }

    /// Lets all go on that wait, and those that come.
    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }

    /// Closes it for those that come.
    pub(crate) fn close(&self) {
        self.open.send_replace(false);
    }

    /// How many wait. One whose client has gone does not.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Waits until so many wait.
    pub(crate) async fn until_waiting(&self, count: usize) {
        eventually(&format!("{count} answers wait"), async || (self.waiting() == count).then_some(())).await;
    }
}

struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn new(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

type Script = Arc<dyn Fn(Received) -> Reaction + Send + Sync>;

enum Reaction {
    Answer(Answer),
    Turn(oneshot::Receiver<Answer>),
}

#[derive(Default)]
struct Shared {
    scripts: Mutex<HashMap<String, Script>>,
    received: Mutex<Vec<(String, Received)>>,
    forgetful: AtomicBool,
}

/// The server.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    accepting: tokio::task::AbortHandle,
}

impl Upstream {
    /// Starts it on a free port.
    pub(crate) async fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = RUNTIME.spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Self { address, shared, accepting }
    }

    /// Has requests for a model, or a path, answered by a function.
    pub(crate) fn answer(&self, key: &str, answer: impl Fn(&Received) -> Answer + Send + Sync + 'static) {
        self.script(key, Arc::new(move |received| Reaction::Answer(answer(&received))));
    }

    /// The same, but what a strict backend would refuse is refused; [`Self::refused`] tells.
    pub(crate) fn answer_strictly(&self, key: &str, answer: impl Fn(&Received) -> Answer + Send + Sync + 'static) {
        self.answer(key, move |received| match strict::check(&received.json()) {
            Ok(()) => answer(received),
            Err(why) => Answer::json(400, &json!({"error": {"message": why, "type": "BadRequestError", "code": 400}})),
        });
    }

    /// Why requests for a model were refused by a strict backend.
    pub(crate) fn refused(&self, key: &str) -> Vec<String> {
        self.received(key).iter().filter_map(|received| strict::check(&received.json()).err()).collect()
    }

    /// Has requests for a model, or a path, wait for the test to answer them.
    pub(crate) fn play(&self, key: &str) -> Turns {
        let (sender, receiver) = mpsc::unbounded_channel();
        let script = move |received| {
            let (answer, answered) = oneshot::channel();
            // Once the test is over nobody answers, and the connection is closed.
            let _ = sender.send(Turn { received, answer });
            Reaction::Turn(answered)
        };
        self.script(key, Arc::new(script));
        Turns(receiver)
    }

    /// Keeps no requests from now on: there will be too many.
    pub(crate) fn forget_requests(&self) {
        self.shared.forgetful.store(true, Ordering::Relaxed);
    }

    /// The requests that came for a model, or a path.
    pub(crate) fn received(&self, key: &str) -> Vec<Received> {
        let all = self.shared.received.lock().unwrap();
        all.iter().filter(|(name, _)| name == key).map(|(_, received)| received.clone()).collect()
    }

    /// The only request that came for a model, or a path.
    pub(crate) fn only_received(&self, key: &str) -> Received {
        let mut received = self.received(key);
        assert_eq!(received.len(), 1, "{received:?}");
        received.remove(0)
    }

    /// The number of requests, for whatever model.
    pub(crate) fn received_count(&self) -> usize {
        self.shared.received.lock().unwrap().len()
    }

    fn script(&self, key: &str, script: Script) {
        let replaced = self.shared.scripts.lock().unwrap().insert(key.to_owned(), script);
        assert!(replaced.is_none(), "two scripts for {key}");
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Requests that wait for the test.
pub(crate) struct Turns(mpsc::UnboundedReceiver<Turn>);

impl Turns {
    /// The next one.
    pub(crate) async fn next(&mut self) -> Turn {
        within("a request to the upstream", self.0.recv()).await.unwrap()
    }
}

/// A request that waits for the test. Dropped without an answer, its connection is closed.
pub(crate) struct Turn {
    pub(crate) received: Received,
    answer: oneshot::Sender<Answer>,
}

impl Turn {
    /// Answers it.
    pub(crate) fn answer(self, answer: Answer) {
        assert!(self.answer.send(answer).is_ok(), "the request was given up");
    }

    /// Sends the headers of a stream.
    pub(crate) fn stream(self) -> Live {
        self.stream_of(200, "text/event-stream")
    }

    /// Sends headers, with a body to come.
    pub(crate) fn stream_of(self, status: u16, content_type: &str) -> Live {
        let (frames, received) = mpsc::channel(1);
        let body =
            StreamBody::new(ReceiverStream::new(received).map(|bytes: io::Result<Bytes>| bytes.map(Frame::data)));
        let answer = http::Response::builder().status(status).header("content-type", content_type);
        self.answer(Answer(answer.body(BodyExt::boxed(body)).unwrap()));
        Live { frames }
    }

    /// Waits until nobody waits for the answer any more.
    pub(crate) async fn given_up(mut self) {
        within("the upstream's request is given up", self.answer.closed()).await;
    }
}

/// A body while the test sends it. Dropped, it ends as the framing says.
pub(crate) struct Live {
    frames: mpsc::Sender<io::Result<Bytes>>,
}

impl Live {
    /// Sends bytes.
    pub(crate) async fn send(&self, bytes: impl Into<Bytes>) {
        let sent = within("the upstream's bytes leave", self.frames.send(Ok(bytes.into()))).await;
        assert!(sent.is_ok(), "the upstream's connection is closed");
    }

    /// Sends a chunk.
    pub(crate) async fn chunk(&self, chunk: &Value) {
        self.send(frame(chunk)).await;
    }

    /// Ends with `stop`.
    pub(crate) async fn finish(self) {
        self.chunk(&chat::finish("stop")).await;
        self.end().await;
    }

    /// Sends usage and `[DONE]`, and ends. The router may be through before the last byte.
    pub(crate) async fn end(self) {
        self.chunk(&chat::usage_chunk()).await;
        let _ = self.frames.send(Ok(Bytes::from_static(b"data: [DONE]\n\n"))).await;
    }

    /// Closes the connection without an end.
    pub(crate) async fn cut(self) {
        let _ = within("the cut", self.frames.send(Err(io::Error::other("cut")))).await;
    }

    /// Waits until the other side closes the connection.
    pub(crate) async fn closed(self) {
        within("the upstream's connection is closed", self.frames.closed()).await;
    }
}

async fn accept(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        // A connection that is gone before it is accepted is the client's affair.
        if let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            RUNTIME.spawn(serve(stream, Arc::clone(&shared)));
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { respond(request, &shared).await }
    });
    // Cut on purpose, or by the other side: what the tests look for.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn respond(
    request: http::Request<Incoming>,
    shared: &Shared,
) -> io::Result<http::Response<BoxBody<Bytes, io::Error>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let path = head.uri.path_and_query().map_or("*", |path| path.as_str()).to_owned();
    let received = Received { method: head.method, path, headers: head.headers, body };
    let key = received.key();
    if !shared.forgetful.load(Ordering::Relaxed) {
        shared.received.lock().unwrap().push((key.clone(), received.clone()));
    }
    let script = shared.scripts.lock().unwrap().get(&key).cloned();
    let Some(script) = script else {
        return Ok(Answer::text(404, "text/plain", format!("the test has no script for {key}")).0);
    };
    match script(received) {
        Reaction::Answer(Answer(answer)) => Ok(answer),
        Reaction::Turn(answer) => match answer.await {
            Ok(Answer(answer)) => Ok(answer),
            Err(_) => Err(io::Error::other("no answer")),
        },
    }
}
