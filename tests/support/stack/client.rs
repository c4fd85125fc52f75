//! A client that takes whatever comes, and says what it was: the right thing, one of the contract's errors, or a cut.

use std::net::SocketAddr;

use bytes::Bytes;
use http::HeaderMap;
use serde_json::Value;

use super::digest;
use super::http::{Connection, Ending, Request, post};
use crate::support::grammar;

/// What a client heard in answer to a request.
pub(crate) enum Heard {
    /// The connection was refused or closed before the head of an answer.
    Nothing,
    /// A whole body that is no stream of events.
    Body { status: u16, headers: HeaderMap, bytes: Bytes },
    /// A body that is no stream of events and broke off.
    CutBody,
    /// A stream of events.
    Stream { bytes: Vec<u8>, ending: Ending },
}

/// How a request for a response ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// With a whole response.
    Answered(Value),
    /// With a whole response that says that it is not stored.
    Unstored(Value),
    /// With an error answer; its `error`, and whether it says when to come back.
    Refused { status: u16, error: Value, retry_after: bool },
    /// With `response.failed`; the response.
    Failed(Value),
    /// By a cut after the head; what came of the events, if any did.
    Cut(Option<Began>),
    /// The connection was refused or closed before any answer.
    Unanswered,
}

/// What came of a stream before it was cut.
#[derive(Debug, Clone)]
pub(crate) struct Began {
    pub(crate) id: String,
    /// Its text until then.
    pub(crate) text: String,
}

impl Ended {
    /// The code of the error, in whichever way it was told; empty when there is none.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Refused { error, .. } => error["code"].as_str().unwrap_or_default(),
            Self::Failed(response) => response["error"]["code"].as_str().unwrap_or_default(),
            _ => "",
        }
    }

    /// Whether the store was unavailable, told as the contract says.
    pub(crate) fn is_store_unavailable(&self) -> bool {
        let told = matches!(self, Self::Refused { status: 503, retry_after: true, .. } | Self::Failed(_));
        told && self.code() == "store_unavailable"
    }

    /// Whether the store cannot take this at all: trying again is of no use.
    pub(crate) fn is_store_unavailable_for_good(&self) -> bool {
        let told = matches!(self, Self::Refused { status: 503, retry_after: false, .. } | Self::Failed(_));
        told && self.code() == "store_unavailable"
    }

    /// Whether Envoy told that the router is away.
    pub(crate) fn is_router_away(&self) -> bool {
        matches!(self, Self::Refused { status: 503, .. }) && self.code() == "service_unavailable"
    }

    /// Whether the parent was not found.
    pub(crate) fn is_parent_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 400, .. }) && self.code() == "previous_response_not_found"
    }
}

/// Keeps its connection while it lasts.
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    connection: Option<Connection>,
}

impl Client {
    /// A client of the Envoy at this address, not connected yet.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, connection: None }
    }

    /// Sends a request and hears the whole answer.
    pub(crate) async fn hear(&mut self, request: Request) -> Heard {
        let kept = match self.connection.take() {
            Some(mut connection) => connection.stays_open().await.then_some(connection),
            None => None,
        };
        let connection = match kept {
            Some(connection) => Some(connection),
            None => Connection::try_http1(self.address).await,
        };
        let Some(mut connection) = connection else { return Heard::Nothing };
        let Ok(reply) = connection.send_to_end(request).await else { return Heard::Nothing };
        let (status, headers) = (reply.status.as_u16(), reply.headers.clone());
        let heard = if status == 200 && reply.header("content-type").starts_with("text/event-stream") {
            let (_, bytes, ending) = reply.events().rest().await;
            Heard::Stream { bytes, ending }
        } else {
            match reply.try_bytes().await {
                Some(bytes) => Heard::Body { status, headers, bytes },
                None => Heard::CutBody,
            }
        };
        if matches!(heard, Heard::Body { .. } | Heard::Stream { ending: Ending::Clean, .. }) {
            self.connection = Some(connection);
        }
        heard
    }

    /// POST /v1/responses, heard and checked.
    ///
    /// # Errors
    /// What is against the contract.
    pub(crate) async fn create(&mut self, body: &Value) -> Result<Ended, String> {
        let heard = self.hear(post("/v1/responses", body)).await;
        ended(heard, body["stream"] == true).map_err(|why| format!("{why}\nin answer to {body}"))
    }
}

/// How a request for a response ended, everything checked that can be without knowing what was asked.
///
/// # Errors
/// What is against the contract.
pub(crate) fn ended(heard: Heard, streamed: bool) -> Result<Ended, String> {
    match heard {
        Heard::Nothing => Ok(Ended::Unanswered),
        Heard::CutBody => Ok(Ended::Cut(None)),
        Heard::Body { status: 200, headers, bytes } => {
            let response: Value = read(&bytes)?;
            if streamed {
                return Err(format!("a stream was asked for, not {response}"));
            }
            grammar::check_response(&response)?;
            let marked = headers.get("x-responses-stored").is_some_and(|stored| stored == "false");
            if marked != (response["store"] == false) {
                return Err(format!("x-responses-stored and store disagree: {response}"));
            }
            of_response(response)
        }
        Heard::Body { status, headers, bytes } => {
            let error = error_of(&bytes)?;
            Ok(Ended::Refused { status, error, retry_after: headers.contains_key("retry-after") })
        }
        Heard::Stream { .. } if !streamed => Err("a stream that was not asked for".to_owned()),
        Heard::Stream { bytes, ending: Ending::Clean } => {
            let whole = grammar::check(&bytes).map_err(|why| format!("{why}\n{}", String::from_utf8_lossy(&bytes)))?;
            of_response(whole.response)
        }
        Heard::Stream { bytes, ending: Ending::Cut } => {
            let beginning = grammar::check_beginning(&bytes)
                .map_err(|why| format!("{why}\n{}", String::from_utf8_lossy(&bytes)))?;
            // Whoever has the terminal event takes it for the end.
            if let Some(response) = beginning.terminal {
                return of_response(response);
            }
            let Some(created) = beginning.events.first() else { return Ok(Ended::Cut(None)) };
            let id = created.data["response"]["id"].as_str().unwrap().to_owned();
            let deltas = beginning.events.iter().filter(|event| event.name == "response.output_text.delta");
            let text = deltas.map(|event| event.data["delta"].as_str().unwrap()).collect();
            Ok(Ended::Cut(Some(Began { id, text })))
        }
    }
}

fn of_response(response: Value) -> Result<Ended, String> {
    match response["status"].as_str() {
        Some("failed") => Ok(Ended::Failed(response)),
        Some("completed" | "incomplete") if response["store"] == false => Ok(Ended::Unstored(response)),
        Some("completed" | "incomplete") => Ok(Ended::Answered(response)),
        _ => Err(format!("no status of an end: {response}")),
    }
}

/// The `error` of an answer, which has to have the contract's shape and to name nothing internal.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn error_of(body: &[u8]) -> Result<Value, String> {
    let body = read(body)?;
    let error = &body["error"];
    let is_text = |name: &str| error[name].as_str().is_some_and(|text| !text.is_empty());
    let nullable = |name: &str| error.get(name).is_some_and(|value| value.is_string() || value.is_null());
    let sizes = (body.as_object().map(serde_json::Map::len), error.as_object().map(serde_json::Map::len));
    if sizes != (Some(1), Some(4)) || !is_text("message") || !is_text("type") || !nullable("code") || !nullable("param")
    {
        return Err(format!("not the shape of an error: {body}"));
    }
    for internal in ["127.0.0.1", "localhost", "ext_proc", "upstream_reset", "panicked"] {
        if error["message"].as_str().unwrap_or_default().contains(internal) {
            return Err(format!("tells of {internal}: {body}"));
        }
    }
    Ok(error.clone())
}

fn read(body: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(body).map_err(|error| format!("{error}: {}", String::from_utf8_lossy(body)))
}

/// Whether what is stored of a cut stream is what its client may find: the whole right answer, or its beginning, no
/// shorter than what the client saw.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check_interrupted(stored: &Value, began: &Began, right: &str) -> Result<(), String> {
    grammar::check_response(stored)?;
    let text = stored["output_text"].as_str().unwrap_or_default();
    let fits = match stored["status"].as_str() {
        Some("completed") => text == right,
        Some("incomplete") => right.starts_with(text) && text.starts_with(&began.text),
        _ => false,
    };
    if stored["id"] == began.id.as_str() && fits {
        return Ok(());
    }
    Err(format!("not an end of {began:?}, whose answer was to be {right:?}: {stored}"))
}

/// A conversation with the digest backend, which knows what every answer has to be.
pub(crate) struct Conversation {
    pub(crate) client: Client,
    /// What the messages of its history say, and the id of the last response.
    pub(crate) said: Vec<String>,
    pub(crate) parent: Option<String>,
}

impl Conversation {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { client: Client::new(address), said: Vec::new(), parent: None }
    }

    /// Begins anew.
    pub(crate) fn forget(&mut self) {
        self.said.clear();
        self.parent = None;
    }

    /// What the answer to a question has to be.
    pub(crate) fn right_answer(&self, question: &str) -> String {
        let mut said = self.said.clone();
        said.push(digest::user(question));
        digest::of(&said)
    }

    /// The request of a turn.
    pub(crate) fn request(&self, model: &str, question: &str, stream: bool) -> Value {
        serde_json::json!({
            "model": model, "input": question, "previous_response_id": self.parent, "stream": stream,
        })
    }

    /// One turn, which the conversation goes on from when it was answered and stored.
    ///
    /// # Errors
    /// What is against the contract, or a wrong answer.
    pub(crate) async fn turn(&mut self, question: &str, stream: bool) -> Result<Ended, String> {
        self.turn_with(digest::MODEL, question, stream).await
    }

    /// The same with a model that gives the digest in its own way.
    ///
    /// # Errors
    /// Likewise.
    pub(crate) async fn turn_with(&mut self, model: &str, question: &str, stream: bool) -> Result<Ended, String> {
        let ended = self.client.create(&self.request(model, question, stream)).await?;
        if let Ended::Answered(response) | Ended::Unstored(response) = &ended {
            let right = self.right_answer(question);
            if response["status"] != "completed" || response["output_text"] != right {
                return Err(format!("not {right:?} but {response}"));
            }
            if matches!(ended, Ended::Answered(_)) {
                self.go_on_from(question, response);
            }
        }
        Ok(ended)
    }

    /// Takes a response for the last turn.
    pub(crate) fn go_on_from(&mut self, question: &str, response: &Value) {
        let answer = response["output_text"].as_str().unwrap();
        self.said.extend([digest::user(question), digest::assistant(answer)]);
        self.parent = Some(response["id"].as_str().unwrap().to_owned());
    }
}
