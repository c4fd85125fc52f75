//! Whether an answer is the right one: read to its end, its text compared with what the backend must have said.

use http_body_util::BodyExt as _;
use hyper::Response;
use hyper::body::Incoming;
use responses_router::sse::Decoder;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

use crate::Failure;
use crate::client::{Answer, Delay};
use crate::conversation::{Api, Heard, decoded};
use crate::mock;

/// What an answer must be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) api: Api,
    pub(crate) answer: Answer,
    pub(crate) ticket: u64,
    pub(crate) heard: Heard,
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
    /// Its id and text, when it is a completed response with an id.
    fn into_parts(self) -> Result<(String, String), Failure> {
        if !self.id.starts_with("resp_") || self.status != "completed" {
            return Err(format!("response {} is {}", self.id, self.status).into());
        }
        let text = self.output.into_iter().flat_map(|item| item.content).map(|part| part.content).collect();
        Ok((self.id, text))
    }
}

impl Expected {
    /// The response's id, if the API has one, when this JSON is the right answer.
    pub(crate) fn check_json(&self, body: &[u8]) -> Result<Option<String>, Failure> {
        let (id, text) = match self.api {
            Api::Responses => {
                let (id, text) = serde_json::from_slice::<ResponseObject>(body)?.into_parts()?;
                (Some(id), text)
            }
            Api::Chat | Api::Untranslated => {
                let choices = serde_json::from_slice::<Completion>(body)?.choices;
                (None, choices.into_iter().map(|choice| choice.message.content).collect())
            }
        };
        self.compare(&text, &decoded(&mock::json_text(self.ticket, self.heard)))?;
        Ok(id)
    }

    fn compare(&self, said: &str, right: &str) -> Result<(), Failure> {
        if said == right {
            return Ok(());
        }
        let short = |text: &str| text.chars().take(60).collect::<String>();
        Err(format!("the backend was to say {:?}, the answer is {:?}", short(right), short(said)).into())
    }
}

/// What was read of an event stream.
pub(crate) struct Events {
    expected: Expected,
    text: String,
    deltas: usize,
    stamped: usize,
    /// The number of stamped chunks by the last one of a held stream.
    end: Option<usize>,
    created: Option<String>,
    completed: Option<ResponseObject>,
    next_sequence_number: u64,
    done: bool,
    first_stamp: Option<u64>,
    pub(crate) delays: Vec<Delay>,
    /// When the first event came.
    pub(crate) first_event: Option<u64>,
}

#[derive(Deserialize)]
struct Event {
    sequence_number: u64,
    #[serde(default)]
    delta: String,
    response: Option<ResponseObject>,
}

impl Events {
    pub(crate) fn of(expected: Expected) -> Self {
        Self {
            expected,
            text: String::new(),
            deltas: 0,
            stamped: 0,
            end: None,
            created: None,
            completed: None,
            next_sequence_number: 0,
            done: false,
            first_stamp: None,
            delays: Vec::new(),
            first_event: None,
        }
    }

    /// Reads to the end. The permit to open is given back with the first event.
    pub(crate) async fn read(
        &mut self,
        response: Response<Incoming>,
        mut opening: Option<OwnedSemaphorePermit>,
    ) -> Result<(), Failure> {
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
            if self.first_event.is_some() {
                opening = None;
            }
        }
        drop(opening);
        Ok(())
    }

    /// Whether the first event came before the backend sent its first token; `None` when tokens have no stamps.
    pub(crate) fn began_before_first_token(&self) -> Option<bool> {
        Some(self.first_event? < self.first_stamp?)
    }

    fn event(&mut self, name: &[u8], data: &[u8], arrived: u64) -> Result<(), Failure> {
        self.first_event.get_or_insert(arrived);
        if self.expected.api != Api::Responses {
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
        let Expected { ticket, heard, answer, .. } = self.expected;
        match answer {
            Answer::Stream { pace: None, .. } => {
                self.expected.compare(text, &mock::chunk_text(ticket, heard, self.deltas))?;
            }
            Answer::Held { chunks, bytes, .. } if self.deltas < chunks => {
                self.expected.compare(text, &decoded(&mock::held_text(ticket, heard, self.deltas, bytes)))?;
            }
            Answer::Held { .. } if text.starts_with(mock::END) => {
                self.end = Some(text.trim_start_matches(mock::END).trim().parse()?);
            }
            Answer::Json | Answer::Stream { .. } | Answer::Held { .. } => self.stamp(text, arrived)?,
        }
        self.deltas += 1;
        self.text.push_str(text);
        Ok(())
    }

    /// A merged delta would hold several stamps and be no number.
    fn stamp(&mut self, text: &str, arrived: u64) -> Result<(), Failure> {
        let (sent, ticket) = text.trim().split_once(':').ok_or("a chunk without a stamp")?;
        if ticket.parse() != Ok(self.expected.ticket) {
            return Err("a chunk of another answer".into());
        }
        let sent = sent.parse()?;
        self.first_stamp.get_or_insert(sent);
        self.delays.push(Delay { sent, took: arrived.saturating_sub(sent) });
        self.stamped += 1;
        Ok(())
    }

    /// The response's id, if the API has one, when the stream was whole and right.
    pub(crate) fn check(&mut self) -> Result<Option<String>, Failure> {
        let (chunks, came) = match self.expected.answer {
            Answer::Json => (0, self.deltas),
            Answer::Stream { chunks, .. } => (chunks, self.deltas),
            Answer::Held { .. } => (self.end.ok_or("the stream was cut")?, self.stamped),
        };
        if came != chunks {
            return Err(format!("{came} of {chunks} chunks came").into());
        }
        if self.expected.api != Api::Responses {
            return if self.done { Ok(None) } else { Err("the stream was cut".into()) };
        }
        let (Some(created), Some(response)) = (self.created.take(), self.completed.take()) else {
            return Err("created or completed is missing".into());
        };
        let (id, text) = response.into_parts()?;
        if id != created || text != self.text {
            return Err("the completed response is not the one that was streamed".into());
        }
        Ok(Some(id))
    }
}
