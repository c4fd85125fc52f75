//! The chat backend: answers whatever it is asked at once, and much faster than anything that is measured.
//!
//! What it answers stands in the request's headers ([`CHUNKS`], [`PACE`]), which every row passes on untouched, and in
//! the request's body, whose [`TICKET`] it repeats: so a client sees whether the answer is the answer to its request.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http_body_util::{BodyExt as _, Either, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::Failure;

/// The request header that says how many chunks the answer has; without it the answer is one JSON body.
pub(crate) const CHUNKS: &str = "x-bench-chunks";

/// The request header that says how many milliseconds lie between two chunks, and has each stamped with its time.
pub(crate) const PACE: &str = "x-bench-pace-ms";

/// What begins the text of a request; a number follows.
pub(crate) const TICKET: &str = "bench-";

/// About the size of a short answer with usage: 1.1 KB.
const JSON_FILLER: usize = 700;

/// Nanoseconds since the first call, for stamps that both ends of this process read.
pub(crate) fn clock() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The text of a JSON answer to a request with this ticket.
pub(crate) fn json_text(ticket: u64) -> String {
    format!("{TICKET}{ticket} {}", "lorem ipsum ".repeat(JSON_FILLER / 12))
}

/// The text of a chunk that is not stamped.
pub(crate) fn chunk_text(ticket: u64, index: usize) -> String {
    if index == 0 { format!("{TICKET}{ticket}") } else { format!(" token{index}") }
}

/// A backend that runs until it is dropped.
pub(crate) struct Mock {
    address: std::net::SocketAddr,
    seen: Arc<Seen>,
    _accepting: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    requests: AtomicUsize,
    live_streams: AtomicUsize,
}

impl Mock {
    pub(crate) async fn start() -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Seen::default());
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, Arc::clone(&seen)));
        Ok(Self { address, seen, _accepting: accepting })
    }

    pub(crate) fn address(&self) -> std::net::SocketAddr {
        self.address
    }

    /// How many requests came.
    pub(crate) fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::Relaxed)
    }

    /// How many event streams have begun and not ended.
    pub(crate) fn live_streams(&self) -> usize {
        self.seen.live_streams.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, seen: Arc<Seen>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        // Otherwise Nagle's algorithm would be what is measured.
        let _ = socket.set_nodelay(true);
        let seen = Arc::clone(&seen);
        connections.spawn(async move {
            let answer = service_fn(|request| answer(request, Arc::clone(&seen)));
            // A connection that breaks is a lost answer, which the client notices.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

type Events = std::pin::Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;
type Answer = Response<Either<Full<Bytes>, StreamBody<Events>>>;

async fn answer(request: Request<Incoming>, seen: Arc<Seen>) -> Result<Answer, hyper::Error> {
    seen.requests.fetch_add(1, Ordering::Relaxed);
    let number = |name| request.headers().get(name).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let (chunks, pace) = (number(CHUNKS), number(PACE).map(Duration::from_millis));
    let body = request.into_body().collect().await?.to_bytes();
    let ticket = ticket(&body);
    let (content_type, body) = match chunks {
        None => ("application/json", Either::Left(Full::from(json(ticket)))),
        Some(chunks) => {
            let chunks = usize::try_from(chunks).unwrap_or(usize::MAX);
            ("text/event-stream", Either::Right(StreamBody::new(events(ticket, chunks, pace, seen))))
        }
    };
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", http::HeaderValue::from_static(content_type));
    Ok(response)
}

/// The number behind the first [`TICKET`]; 0, which no client uses, when there is none.
fn ticket(body: &[u8]) -> u64 {
    let Some(at) = memchr::memmem::find(body, TICKET.as_bytes()) else { return 0 };
    let digits = body.iter().skip(at + TICKET.len()).take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

fn json(ticket: u64) -> String {
    let text = json_text(ticket);
    format!(
        r#"{{"id":"chatcmpl-{ticket}","object":"chat.completion","created":1700000000,"model":"bench","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}","refusal":null,"tool_calls":[]}},"logprobs":null,"finish_reason":"stop"}}],"usage":{{"prompt_tokens":400,"completion_tokens":200,"total_tokens":600,"prompt_tokens_details":{{"cached_tokens":0}}}},"system_fingerprint":"bench"}}"#
    )
}

/// Counts a stream as live for as long as it is there.
struct Live(Arc<Seen>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live_streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One write per chunk, as model servers do; after the chunks one with finish reason, usage and end.
fn events(ticket: u64, chunks: usize, pace: Option<Duration>, seen: Arc<Seen>) -> Events {
    seen.live_streams.fetch_add(1, Ordering::Relaxed);
    let live = Live(seen);
    let began = tokio::time::Instant::now();
    Box::pin(stream::unfold((0, live), move |(index, live)| async move {
        if index > chunks {
            return None;
        }
        match pace {
            Some(pace) => {
                tokio::time::sleep_until(began + pace * u32::try_from(index).unwrap_or(u32::MAX)).await;
            }
            // hyper writes out what it has when the body has nothing ready.
            None => tokio::task::yield_now().await,
        }
        let frame = match (index < chunks, pace) {
            (false, _) => last_frame(ticket),
            (true, None) => frame(ticket, &chunk_text(ticket, index)),
            (true, Some(_)) => frame(ticket, &format!("{} ", clock())),
        };
        Some((Ok(Frame::data(Bytes::from(frame))), (index + 1, live)))
    }))
}

fn frame(ticket: u64, text: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-{ticket}\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"bench\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"logprobs\":null,\"finish_reason\":null}}]}}\n\n"
    )
}

fn last_frame(ticket: u64) -> String {
    let head = format!(
        "data: {{\"id\":\"chatcmpl-{ticket}\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"bench\",\"choices\":["
    );
    format!(
        "{head}{{\"index\":0,\"delta\":{{}},\"logprobs\":null,\"finish_reason\":\"stop\"}}]}}\n\n\
         {head}],\"usage\":{{\"prompt_tokens\":400,\"completion_tokens\":100,\"total_tokens\":500}}}}\n\ndata: [DONE]\n\n"
    )
}
