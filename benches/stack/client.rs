//! The load client. It reads every answer to its end and compares it with what the backend must have said; the first
//! lost or wrong answer ends the run.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use responses_router::sse::Decoder;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::Failure;
use crate::mock::{self, TICKET};

/// After so long an answer counts as lost.
const LOST: Duration = Duration::from_secs(60);

/// The length of every request body.
const REQUEST_BYTES: usize = 2048;

/// The API that is spoken, and so what a right answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    /// A chat request to the chat path, which nothing translates.
    Chat,
    /// A Responses request, passed on as it is: the backend answers as to a chat request.
    Untranslated,
    /// A Responses request and a response.
    Responses,
}

/// What the backend is to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Json,
    Stream { chunks: usize, pace: Option<Duration> },
}

/// A number of equal requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) answer: Answer,
    pub(crate) requests: usize,
    pub(crate) concurrency: usize,
}

/// What was seen of a load, in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) elapsed: Duration,
    /// From the request's first byte to the answer's last, per request.
    pub(crate) latencies: Vec<u64>,
    /// From the backend's sending of a chunk to its arrival, per chunk; only of paced streams.
    pub(crate) delays: Vec<u64>,
}

/// Sends a load and checks its answers.
pub(crate) async fn run(target: SocketAddr, api: Api, load: Load) -> Result<Seen, Failure> {
    // Never the same ticket twice in a run, so that an answer to another request is a wrong one.
    static TICKETS: AtomicU64 = AtomicU64::new(1);
    let last = TICKETS.fetch_add(load.requests as u64, Ordering::Relaxed) + load.requests as u64;
    let tickets = Arc::new(AtomicU64::new(last - load.requests as u64));

    let mut workers = JoinSet::new();
    let began = Instant::now();
    for _ in 0..load.concurrency {
        let tickets = Arc::clone(&tickets);
        workers.spawn(async move {
            let mut connection = Connection::open(target).await?;
            let mut seen = Seen::default();
            loop {
                let ticket = tickets.fetch_add(1, Ordering::Relaxed);
                if ticket >= last {
                    return Ok::<_, Failure>(seen);
                }
                let exchange = tokio::time::timeout(LOST, connection.exchange(api, load.answer, ticket, &mut seen));
                let checked = exchange.await.unwrap_or_else(|_| Err("no answer".into()));
                checked.map_err(|error| {
                    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
                    format!("request {ticket} ({api:?}, {:?}): {error}{cause}", load.answer)
                })?;
            }
        });
    }
    let mut all = Seen::default();
    while let Some(worker) = workers.join_next().await {
        let seen = worker??;
        all.latencies.extend(seen.latencies);
        all.delays.extend(seen.delays);
    }
    all.elapsed = began.elapsed();
    if all.latencies.len() != load.requests {
        return Err(format!("{} answers to {} requests", all.latencies.len(), load.requests).into());
    }
    Ok(all)
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    target: SocketAddr,
    _driver: JoinSet<()>,
}

impl Connection {
    async fn open(target: SocketAddr) -> Result<Self, Failure> {
        let socket = TcpStream::connect(target).await?;
        socket.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // Whoever waits for an answer sees that the connection broke.
            let _ = connection.await;
        });
        Ok(Self { sender, target, _driver: driver })
    }

    async fn exchange(&mut self, api: Api, answer: Answer, ticket: u64, seen: &mut Seen) -> Result<(), Failure> {
        self.sender.ready().await?;
        let request = request(self.target, api, answer, ticket)?;
        let began = Instant::now();
        let response = self.sender.send_request(request).await?;
        if response.status() != 200 {
            return Err(format!("status {}", response.status()).into());
        }
        match answer {
            Answer::Json => {
                let body = response.into_body().collect().await?.to_bytes();
                seen.latencies.push(nanoseconds(began.elapsed()));
                check_json(api, ticket, &body)
            }
            Answer::Stream { chunks, pace } => {
                let mut events = Events { api, delays: pace.map(|_| Vec::with_capacity(chunks)), ..Events::default() };
                events.read(response).await?;
                seen.latencies.push(nanoseconds(began.elapsed()));
                seen.delays.extend(events.check(ticket, chunks)?);
                Ok(())
            }
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn request(target: SocketAddr, api: Api, answer: Answer, ticket: u64) -> Result<Request<Full<Bytes>>, Failure> {
    let path = if api == Api::Chat { "/v1/chat/completions" } else { "/v1/responses" };
    let mut request = Request::post(path).header("host", target.to_string()).header("content-type", "application/json");
    if let Answer::Stream { chunks, pace } = answer {
        request = request.header(mock::CHUNKS, chunks);
        if let Some(pace) = pace {
            request = request.header(mock::PACE, u64::try_from(pace.as_millis())?);
        }
    }
    let stream = answer != Answer::Json;
    let (before, after) = match api {
        Api::Chat => (r#""messages":[{"role":"user","content":""#, r#""}]}"#),
        Api::Untranslated | Api::Responses => (r#""input":""#, r#""}"#),
    };
    let mut body = format!(r#"{{"model":"bench","stream":{stream},"temperature":0.7,{before}{TICKET}{ticket} "#);
    while body.len() + after.len() < REQUEST_BYTES {
        body.push(if body.len() % 6 == 0 { ' ' } else { 'x' });
    }
    body.push_str(after);
    Ok(request.body(Full::from(body))?)
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(alias = "delta")]
    message: Text,
}

#[derive(Deserialize)]
struct Text {
    #[serde(default, alias = "text")]
    content: String,
}

#[derive(Deserialize)]
struct ResponseObject {
    id: String,
    status: String,
    output: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    content: Vec<Text>,
}

impl ResponseObject {
    /// Its text, when it is a completed response with an id.
    fn text(self) -> Result<String, Failure> {
        if !self.id.starts_with("resp_") || self.status != "completed" {
            return Err(format!("response {} is {}", self.id, self.status).into());
        }
        Ok(self.output.into_iter().flat_map(|item| item.content).map(|part| part.content).collect())
    }
}

fn check_json(api: Api, ticket: u64, body: &[u8]) -> Result<(), Failure> {
    let text = match api {
        Api::Responses => serde_json::from_slice::<ResponseObject>(body)?.text()?,
        Api::Chat | Api::Untranslated => serde_json::from_slice::<Completion>(body)?
            .choices
            .into_iter()
            .map(|choice| choice.message.content)
            .collect(),
    };
    if text != mock::json_text(ticket) { Err("the answer has another text".into()) } else { Ok(()) }
}

/// What was read of an event stream.
struct Events {
    api: Api,
    text: String,
    deltas: usize,
    /// The ids and texts of `created` and of `completed`.
    created: Option<String>,
    completed: Option<ResponseObject>,
    next_sequence_number: u64,
    done: bool,
    delays: Option<Vec<u64>>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            api: Api::Responses,
            text: String::new(),
            deltas: 0,
            created: None,
            completed: None,
            next_sequence_number: 0,
            done: false,
            delays: None,
        }
    }
}

#[derive(Deserialize)]
struct Event {
    sequence_number: u64,
    #[serde(default)]
    delta: String,
    response: Option<ResponseObject>,
}

impl Events {
    async fn read(&mut self, response: Response<Incoming>) -> Result<(), Failure> {
        let mut decoder = Decoder::new(1 << 20);
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let Ok(bytes) = frame?.into_data() else { continue };
            let arrived = mock::clock();
            let mut read = Ok(());
            decoder.push(&bytes, |name, data| {
                if read.is_ok() {
                    read = self.event(name, data, arrived);
                }
            })?;
            read?;
        }
        Ok(())
    }

    fn event(&mut self, name: &[u8], data: &[u8], arrived: u64) -> Result<(), Failure> {
        if self.api != Api::Responses {
            if data == b"[DONE]" {
                self.done = true;
                return Ok(());
            }
            let chunk: Completion = serde_json::from_slice(data)?;
            for choice in chunk.choices {
                self.delta(&choice.message.content, arrived)?;
            }
            return Ok(());
        }
        let event: Event = serde_json::from_slice(data)?;
        if event.sequence_number != self.next_sequence_number {
            return Err("a sequence number was skipped".into());
        }
        self.next_sequence_number += 1;
        match name {
            b"response.created" => self.created = event.response.map(|response| response.id),
            b"response.completed" => self.completed = event.response,
            b"response.output_text.delta" => self.delta(&event.delta, arrived)?,
            _ => {}
        }
        Ok(())
    }

    fn delta(&mut self, text: &str, arrived: u64) -> Result<(), Failure> {
        if text.is_empty() {
            return Ok(());
        }
        self.deltas += 1;
        self.text.push_str(text);
        if let Some(delays) = &mut self.delays {
            // A merged delta would hold several stamps and be no number.
            delays.push(arrived.saturating_sub(text.trim().parse::<u64>()?));
        }
        Ok(())
    }

    /// The delays, when the stream was whole and right.
    fn check(self, ticket: u64, chunks: usize) -> Result<Vec<u64>, Failure> {
        if self.deltas != chunks {
            return Err(format!("{} of {chunks} chunks came", self.deltas).into());
        }
        let unstamped = || (0..chunks).map(|index| mock::chunk_text(ticket, index)).collect::<String>();
        if self.delays.is_none() && self.text != unstamped() {
            return Err("the stream has another text".into());
        }
        if self.api != Api::Responses {
            return if self.done { Ok(self.delays.unwrap_or_default()) } else { Err("the stream was cut".into()) };
        }
        let (Some(id), Some(response)) = (self.created, self.completed) else {
            return Err("created or completed is missing".into());
        };
        if id != response.id || response.text()? != self.text {
            return Err("the completed response is not the one that was streamed".into());
        }
        Ok(self.delays.unwrap_or_default())
    }
}
