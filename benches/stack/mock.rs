//! The chat backend: answers whatever it is asked at once, and much faster than anything that is measured.
//!
//! What it answers stands in the request's headers (the constants here), which every row passes on untouched. Its text
//! begins with the ticket of the request and with what was heard of the conversation, so a client sees whether the answer
//! is the answer to its request and whether a turn was lost on the way ([`crate::conversation`]).

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http::HeaderMap;
use http_body_util::{BodyExt as _, Either, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::Failure;
use crate::conversation::{self, Heard, push_prose};

/// The request header that says how many chunks the answer has; without it the answer is one JSON body.
pub(crate) const CHUNKS: &str = "x-bench-chunks";

/// The request header that says how many milliseconds lie between two chunks, and has each stamped with its time.
pub(crate) const PACE: &str = "x-bench-pace-ms";

/// The request header that says how many milliseconds lie between the response's headers and its first chunk.
pub(crate) const THINKING: &str = "x-bench-thinking-ms";

/// The request header that asks for an SSE comment at once, before the first chunk is there.
pub(crate) const COMMENT: &str = "x-bench-comment";

/// The request header that has the tokens of all streams leave at the same moments, when the streams began at the same
/// moment. Without it each stream with a [`PACE`] has a beat of its own.
pub(crate) const IN_STEP: &str = "x-bench-in-step";

/// The request header that gives the chunks of [`CHUNKS`] so many bytes, and then holds the stream open, at [`PACE`] if
/// that is there, until [`Mock::release`].
pub(crate) const HELD: &str = "x-bench-held-bytes";

/// What a held stream's last chunk says before the number of stamped ones.
pub(crate) const END: &str = "end";

/// Over how many milliseconds held streams end once they are released.
const ENDING_MS: u64 = 2000;

/// The golden ratio's fraction.
const GOLDEN: f64 = 0.618_033_988_749_895;

/// About the size of a short answer with usage: 1.1 KB.
const JSON_FILLER: usize = 650;

/// Nanoseconds since the first call, for stamps that both ends of this process read.
pub(crate) fn clock() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The text of a JSON answer, as it stands within JSON.
pub(crate) fn json_text(ticket: u64, heard: Heard) -> String {
    let mut text = conversation::answer_head(ticket, heard);
    push_prose(&mut text, JSON_FILLER);
    text
}

/// The text of a chunk that is not stamped.
pub(crate) fn chunk_text(ticket: u64, heard: Heard, index: usize) -> String {
    if index == 0 { conversation::answer_head(ticket, heard) } else { format!(" token{index}") }
}

/// The text of a chunk of a held stream, as it stands within JSON.
pub(crate) fn held_text(ticket: u64, heard: Heard, index: usize, bytes: usize) -> String {
    let mut text = if index == 0 { conversation::answer_head(ticket, heard) } else { String::new() };
    let missing = bytes.saturating_sub(text.len());
    push_prose(&mut text, missing);
    text
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
    chunks: AtomicUsize,
    live_streams: AtomicUsize,
    released: watch::Sender<()>,
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

    /// How many chunks went out.
    pub(crate) fn chunks(&self) -> usize {
        self.seen.chunks.load(Ordering::Relaxed)
    }

    /// How many event streams have sent the chunks of [`CHUNKS`] and not ended.
    pub(crate) fn live_streams(&self) -> usize {
        self.seen.live_streams.load(Ordering::Relaxed)
    }

    /// Ends the held streams that are live.
    pub(crate) fn release(&self) {
        self.seen.released.send_replace(());
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

type Frames = std::pin::Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;
type Answer = Response<Either<Full<Bytes>, StreamBody<Frames>>>;

async fn answer(request: Request<Incoming>, seen: Arc<Seen>) -> Result<Answer, hyper::Error> {
    seen.requests.fetch_add(1, Ordering::Relaxed);
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let (ticket, heard) = (conversation::ticket(&body), Heard::of(&body));
    drop(body);
    let (content_type, body) = match Events::asked_for(&head.headers, ticket, heard, seen) {
        None => ("application/json", Either::Left(Full::from(json(ticket, heard)))),
        Some(events) => ("text/event-stream", Either::Right(StreamBody::new(events.into_frames()))),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", http::HeaderValue::from_static(content_type));
    Ok(response)
}

fn json(ticket: u64, heard: Heard) -> String {
    let text = json_text(ticket, heard);
    format!(
        r#"{{"id":"chatcmpl-{ticket}","object":"chat.completion","created":1700000000,"model":"bench","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}","refusal":null,"tool_calls":[]}},"logprobs":null,"finish_reason":"stop"}}],"usage":{{"prompt_tokens":400,"completion_tokens":200,"total_tokens":600,"prompt_tokens_details":{{"cached_tokens":0}}}},"system_fingerprint":"bench"}}"#
    )
}

/// One event stream. One write per chunk, as model servers do; after the chunks one with finish reason, usage and end.
///
/// ```text
/// Opening ─▶ Chunk(0) ─▶ … ─▶ Chunk(chunks) ─▶ Last ─▶ Over
///                                 └▶ Held(0) ─▶ Held(1) ─ released ─▶ Last
/// ```
struct Events {
    ticket: u64,
    heard: Heard,
    chunks: usize,
    pace: Option<Duration>,
    thinking: Option<Duration>,
    comment: bool,
    in_step: bool,
    held: Option<usize>,
    began: tokio::time::Instant,
    step: Step,
    live: Option<Live>,
    seen: Arc<Seen>,
    released: watch::Receiver<()>,
    /// When a held stream ends; known once it is released.
    ends: Option<tokio::time::Instant>,
}

#[derive(Clone, Copy)]
enum Step {
    Opening,
    Chunk(usize),
    Held(usize),
    Last,
    Over,
}

/// Counts a stream as live for as long as it is there.
struct Live(Arc<Seen>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live_streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits until then, or for ever.
async fn at(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

impl Events {
    /// What the request's headers ask for; `None` is JSON.
    fn asked_for(headers: &HeaderMap, ticket: u64, heard: Heard, seen: Arc<Seen>) -> Option<Self> {
        let number = |name| headers.get(name).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let count = |name| number(name).map(|number| usize::try_from(number).unwrap_or(usize::MAX));
        Some(Self {
            ticket,
            heard,
            chunks: count(CHUNKS)?,
            pace: number(PACE).map(Duration::from_millis),
            thinking: number(THINKING).map(Duration::from_millis),
            comment: headers.contains_key(COMMENT),
            in_step: headers.contains_key(IN_STEP),
            held: count(HELD),
            began: tokio::time::Instant::now(),
            step: Step::Opening,
            live: None,
            released: seen.released.subscribe(),
            ends: None,
            seen,
        })
    }

    fn into_frames(self) -> Frames {
        Box::pin(stream::unfold(self, |mut events| async move {
            let frame = events.next().await?;
            Some((Ok(Frame::data(Bytes::from(frame))), events))
        }))
    }

    async fn next(&mut self) -> Option<String> {
        loop {
            match self.step {
                Step::Opening => {
                    self.step = Step::Chunk(0);
                    if self.comment {
                        return Some(": thinking\n\n".to_owned());
                    }
                }
                Step::Chunk(index) if index < self.chunks => {
                    self.step = Step::Chunk(index + 1);
                    return Some(self.chunk(index).await);
                }
                Step::Chunk(_) => {
                    self.seen.live_streams.fetch_add(1, Ordering::Relaxed);
                    self.live = Some(Live(Arc::clone(&self.seen)));
                    self.step = if self.held.is_some() { Step::Held(0) } else { Step::Last };
                }
                Step::Held(stamped) => {
                    if self.is_released(stamped).await {
                        self.step = Step::Last;
                        return Some(self.frame(&format!("{END} {stamped}")));
                    }
                    self.step = Step::Held(stamped + 1);
                    return Some(self.stamped_frame());
                }
                Step::Last => {
                    self.step = Step::Over;
                    self.live = None;
                    return Some(self.last_frame());
                }
                Step::Over => return None,
            }
        }
    }

    async fn chunk(&self, index: usize) -> String {
        if index == 0
            && let Some(thinking) = self.thinking
        {
            tokio::time::sleep(thinking).await;
        }
        if let Some(bytes) = self.held {
            return self.frame(&held_text(self.ticket, self.heard, index, bytes));
        }
        let Some(pace) = self.pace else {
            // hyper writes out what it has when the body has nothing ready.
            tokio::task::yield_now().await;
            return self.frame(&chunk_text(self.ticket, self.heard, index));
        };
        let since = self.began + self.thinking.unwrap_or_default();
        tokio::time::sleep_until(self.beat(since, pace, index)).await;
        self.stamped_frame()
    }

    /// When a stream that begins at `since` sends its token with this index, from 0.
    ///
    /// Each stream is so much of a beat later than the one before it that few of them are ever near each other: by the
    /// golden ratio.
    fn beat(&self, since: tokio::time::Instant, pace: Duration, index: usize) -> tokio::time::Instant {
        let offset = if self.in_step { 0.0 } else { (self.ticket as f64 * GOLDEN).fract() };
        since + pace.mul_f64(offset) + pace * u32::try_from(index).unwrap_or(u32::MAX)
    }

    /// Waits for the next stamped chunk of a held stream, or for its end.
    async fn is_released(&mut self, stamped: usize) -> bool {
        // Streams that are held together must neither all send nor all end at the same moment.
        let ending = Duration::from_millis(self.ticket % ENDING_MS);
        let next = self.pace.map(|pace| self.beat(self.began, pace, stamped + 1));
        loop {
            let ends = self.ends;
            tokio::select! {
                // An error says that the backend itself is gone, and ends the stream as well.
                _ = self.released.changed(), if ends.is_none() => self.ends = Some(tokio::time::Instant::now() + ending),
                () = at(ends) => return true,
                () = at(next) => return false,
            }
        }
    }

    fn stamped_frame(&self) -> String {
        self.frame(&format!("{}:{} ", clock(), self.ticket))
    }

    fn frame(&self, text: &str) -> String {
        self.seen.chunks.fetch_add(1, Ordering::Relaxed);
        let ticket = self.ticket;
        format!(
            "data: {{\"id\":\"chatcmpl-{ticket}\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"bench\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"logprobs\":null,\"finish_reason\":null}}]}}\n\n"
        )
    }

    fn last_frame(&self) -> String {
        let head = format!(
            "data: {{\"id\":\"chatcmpl-{}\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"bench\",\"choices\":[",
            self.ticket
        );
        format!(
            "{head}{{\"index\":0,\"delta\":{{}},\"logprobs\":null,\"finish_reason\":\"stop\"}}]}}\n\n\
             {head}],\"usage\":{{\"prompt_tokens\":400,\"completion_tokens\":100,\"total_tokens\":500}}}}\n\ndata: [DONE]\n\n"
        )
    }
}
