//! The load client. It reads every answer to its end and has it checked ([`crate::answers`]); the first lost or wrong
//! answer ends the run.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::Failure;
use crate::answers::{Events, Expected};
use crate::conversation::{Api, Conversation};
use crate::mock;

/// After so long an answer counts as lost.
const LOST: Duration = Duration::from_secs(120);

/// The same of a stream that is held open while thousands of others are opened.
const HELD_LOST: Duration = Duration::from_secs(900);

/// How many streams that are held open may be on their way at once: a listener's queue is not what is measured.
const OPENING: usize = 64;

/// The length of the text of every request unless a load says otherwise: 2 KB with what stands around it.
pub(crate) const REQUEST_BYTES: usize = 1950;

/// Streams at a model's pace: how many, of how many tokens, when the first comes, and how far they are apart.
pub(crate) const PACED_STREAMS: usize = 8;
pub(crate) const PACED_CHUNKS: usize = 60;
pub(crate) const PACED_THINKING: Duration = Duration::from_millis(200);
pub(crate) const PACED_BETWEEN: Duration = Duration::from_millis(20);

/// What the backend is to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Answer {
    Json,
    /// A number of chunks: as fast as they go, or at a pace and stamped. A paced one thinks before its first token.
    Stream {
        chunks: usize,
        pace: Option<Pace>,
    },
    /// A number of chunks of so many bytes; then the stream stays open until the backend lets it go, with a stamped chunk
    /// every so often or none.
    Held {
        chunks: usize,
        bytes: usize,
        pace: Option<Duration>,
    },
}

/// How a model answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Pace {
    pub(crate) between: Duration,
    /// From the response's headers to the first token.
    pub(crate) thinking: Duration,
    /// Whether an SSE comment comes with the headers.
    pub(crate) comment: bool,
    /// Whether all streams send their tokens at the same moments.
    pub(crate) in_step: bool,
}

/// A number of equal requests.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) answer: Answer,
    pub(crate) requests: usize,
    pub(crate) concurrency: usize,
    /// Of each request's text.
    pub(crate) text_bytes: usize,
    /// What each request continues.
    pub(crate) past: Arc<Conversation>,
}

impl Load {
    pub(crate) fn new(answer: Answer, requests: usize, concurrency: usize) -> Self {
        Self { answer, requests, concurrency, text_bytes: REQUEST_BYTES, past: Arc::default() }
    }

    /// Streams at a model's pace: with a comment before the first token or with nothing, each with a beat of its own or all
    /// in step.
    pub(crate) fn at_a_pace(comment: bool, in_step: bool) -> Self {
        let pace = Pace { between: PACED_BETWEEN, thinking: PACED_THINKING, comment, in_step };
        Self::new(Answer::Stream { chunks: PACED_CHUNKS, pace: Some(pace) }, PACED_STREAMS, PACED_STREAMS)
    }
}

/// A stamped chunk's way from the backend to the client, in nanoseconds of [`mock::clock`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delay {
    pub(crate) sent: u64,
    pub(crate) took: u64,
}

/// What was seen of a load, in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) elapsed: Duration,
    /// From the request's first byte to the answer's last, per request.
    pub(crate) latencies: Vec<u64>,
    /// Per stamped chunk.
    pub(crate) delays: Vec<Delay>,
    /// From the request's first byte to the first event, per stream.
    pub(crate) first_events: Vec<u64>,
    /// Of the streams with stamps, those whose first event came before the backend sent its first token.
    pub(crate) began_before_first_token: usize,
    /// Requests that were answered beside those of the load.
    pub(crate) beside: usize,
}

/// A number that no request of this run had: an answer to another request is then a wrong one.
fn tickets(count: usize) -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(count as u64, Ordering::Relaxed)
}

/// Sends a load and checks its answers. The targets share it evenly.
pub(crate) async fn run(targets: &[SocketAddr], api: Api, load: &Load) -> Result<Seen, Failure> {
    let first = tickets(load.requests);
    let next = Arc::new(AtomicUsize::new(0));
    let opening = matches!(load.answer, Answer::Held { .. }).then(|| Arc::new(Semaphore::new(OPENING)));
    let mut workers = JoinSet::new();
    let began = Instant::now();
    for (_, target) in (0..load.concurrency).zip(targets.iter().cycle()) {
        let (target, next, load, opening) = (*target, Arc::clone(&next), load.clone(), opening.clone());
        workers.spawn(async move {
            let mut connection = Connection::new(target, opening);
            let mut seen = Seen::default();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= load.requests {
                    return Ok::<_, Failure>(seen);
                }
                let ticket = first + index as u64;
                connection.ask(api, load.answer, ticket, load.text_bytes, &load.past, &mut seen).await?;
            }
        });
    }
    let mut all = Seen::default();
    while let Some(worker) = workers.join_next().await {
        let seen = worker??;
        all.latencies.extend(seen.latencies);
        all.delays.extend(seen.delays);
        all.first_events.extend(seen.first_events);
        all.began_before_first_token += seen.began_before_first_token;
    }
    all.elapsed = began.elapsed();
    if all.latencies.len() != load.requests {
        return Err(format!("{} answers to {} requests", all.latencies.len(), load.requests).into());
    }
    Ok(all)
}

/// Holds one conversation, each turn an unstreamed request that continues the one before, at the next target in turn.
/// Gives the turns' latencies in nanoseconds, and the conversation.
pub(crate) async fn converse(
    targets: &[SocketAddr],
    api: Api,
    turns: usize,
    text_bytes: usize,
) -> Result<(Vec<u64>, Conversation), Failure> {
    let mut connections: Vec<_> = targets.iter().map(|target| Connection::new(*target, None)).collect();
    let (mut conversation, mut seen, count) = (Conversation::default(), Seen::default(), connections.len());
    let first = tickets(turns);
    for turn in 0..turns {
        let connection = connections.get_mut(turn % count.max(1)).ok_or("a conversation with nobody")?;
        let ticket = first + turn as u64;
        let asked = connection.ask(api, Answer::Json, ticket, text_bytes, &conversation, &mut seen).await;
        let id = asked.map_err(|error| format!("turn {} of {turns}: {error}", turn + 1))?;
        let answer = mock::json_text(ticket, conversation.to_be_heard(ticket));
        conversation.answered(api, ticket, text_bytes, &answer, id);
    }
    Ok((seen.latencies, conversation))
}

/// A connection that is opened with the first request.
struct Connection {
    target: SocketAddr,
    opened: Option<(SendRequest<Full<Bytes>>, JoinSet<()>)>,
    opening: Option<Arc<Semaphore>>,
}

impl Connection {
    fn new(target: SocketAddr, opening: Option<Arc<Semaphore>>) -> Self {
        Self { target, opened: None, opening }
    }

    async fn sender(&mut self) -> Result<&mut SendRequest<Full<Bytes>>, Failure> {
        if self.opened.is_none() {
            let socket = TcpStream::connect(self.target).await?;
            socket.set_nodelay(true)?;
            let (sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
            let mut driver = JoinSet::new();
            driver.spawn(async move {
                // Whoever waits for an answer sees that the connection broke.
                let _ = connection.await;
            });
            self.opened = Some((sender, driver));
        }
        let (sender, _) = self.opened.as_mut().ok_or("not connected")?;
        sender.ready().await?;
        Ok(sender)
    }

    /// One request and its answer, checked; the response's id, if the API has one.
    async fn ask(
        &mut self,
        api: Api,
        answer: Answer,
        ticket: u64,
        text_bytes: usize,
        past: &Conversation,
        seen: &mut Seen,
    ) -> Result<Option<String>, Failure> {
        let lost = if matches!(answer, Answer::Held { .. }) { HELD_LOST } else { LOST };
        let asked = tokio::time::timeout(lost, self.exchange(api, answer, ticket, text_bytes, past, seen)).await;
        asked.unwrap_or_else(|_| Err("no answer".into())).map_err(|error| {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            format!("request {ticket} ({api:?}, {answer:?}): {error}{cause}").into()
        })
    }

    async fn exchange(
        &mut self,
        api: Api,
        answer: Answer,
        ticket: u64,
        text_bytes: usize,
        past: &Conversation,
        seen: &mut Seen,
    ) -> Result<Option<String>, Failure> {
        let expected = Expected { api, answer, ticket, heard: past.to_be_heard(ticket) };
        let permit = match &self.opening {
            Some(opening) => Some(Arc::clone(opening).acquire_owned().await?),
            None => None,
        };
        let request = request(self.target, api, answer, past.request(api, answer != Answer::Json, ticket, text_bytes))?;
        let sender = self.sender().await?;
        let began = mock::clock();
        let since = |then: u64| then.saturating_sub(began);
        let response = sender.send_request(request).await?;
        if response.status() != 200 {
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            return Err(format!("status {status}: {}", String::from_utf8_lossy(&body)).into());
        }
        if answer == Answer::Json {
            let body = response.into_body().collect().await?.to_bytes();
            seen.latencies.push(since(mock::clock()));
            return expected.check_json(&body);
        }
        let mut events = Events::of(expected);
        events.read(response, permit).await?;
        seen.latencies.push(since(mock::clock()));
        seen.first_events.extend(events.first_event.map(since));
        seen.began_before_first_token += usize::from(events.began_before_first_token() == Some(true));
        seen.delays.append(&mut events.delays);
        events.check()
    }
}

fn request(target: SocketAddr, api: Api, answer: Answer, body: String) -> Result<Request<Full<Bytes>>, Failure> {
    let path = if api == Api::Chat { "/v1/chat/completions" } else { "/v1/responses" };
    let mut request = Request::post(path).header("host", target.to_string()).header("content-type", "application/json");
    let milliseconds = |duration: Duration| u64::try_from(duration.as_millis());
    match answer {
        Answer::Json => {}
        Answer::Stream { chunks, pace } => {
            request = request.header(mock::CHUNKS, chunks);
            if let Some(pace) = pace {
                request = request.header(mock::PACE, milliseconds(pace.between)?);
                request = request.header(mock::THINKING, milliseconds(pace.thinking)?);
                if pace.comment {
                    request = request.header(mock::COMMENT, "1");
                }
                if pace.in_step {
                    request = request.header(mock::IN_STEP, "1");
                }
            }
        }
        Answer::Held { chunks, bytes, pace } => {
            request = request.header(mock::CHUNKS, chunks).header(mock::HELD, bytes);
            if let Some(pace) = pace {
                request = request.header(mock::PACE, milliseconds(pace)?);
            }
        }
    }
    Ok(request.body(Full::from(body))?)
}
