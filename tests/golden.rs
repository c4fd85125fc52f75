//! Golden cases: what goes in is a file under `tests/golden`, what comes out is the snapshot beside it.
//!
//! A case is named as the sentence that it proves. After a change that is meant, `INSTA_UPDATE=always cargo test golden`
//! rewrites the snapshots; read the difference before committing it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use responses_router::id::{CountingIds, IdSource, ResponseId};
use responses_router::openai::dialect::ApiDialect;
use responses_router::openai::stored_item::StoredItem;
use responses_router::store::Record;
use responses_router::translate::upstream_error::UpstreamError;
use responses_router::translate::{CreateRequest, End, Past, RequestError, Seal, Settings, Translated, Turn, request};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::support::cases::{SettingsSpec, compare, inputs, read_json};
use crate::support::machine::{self, CREATED_AT};
use crate::support::pretty::pretty;
use crate::support::stack::strict;
use crate::support::{frames, grammar};

#[test]
fn requests_become_chat_requests_or_are_refused() {
    compare("request", "json", 30, request_case);
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestCase {
    #[serde(default)]
    settings: SettingsSpec,
    /// Oldest first.
    #[serde(default)]
    history: Vec<PastTurn>,
    /// Other stored turns, to whose items the request refers.
    #[serde(default)]
    referenced: Vec<PastTurn>,
    /// There is a key for reasoning; what it seals reads `sealed:` and the text backwards.
    #[serde(default)]
    sealing: bool,
    /// The body of the POST; a string stands for a body that is not JSON.
    body: Box<RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PastTurn {
    input: Vec<Box<RawValue>>,
    response: Box<RawValue>,
}

/// The translation, which is the same whether the items of the past were read before or are read now.
fn translated(path: &Path) -> Result<Translated, RequestError> {
    let RequestCase { settings, history, referenced, sealing, body } = read_json(path);
    let (settings, body) = (settings.settings(), text_or_json(&body));
    let translate = |history: Vec<Turn<'_>>, referenced: Vec<Turn<'_>>| {
        let past = Past { chain: &history, referenced: &referenced };
        let seal = sealing.then(|| Arc::new(machine::Backwards) as Arc<dyn Seal>);
        CreateRequest::parse(&body, &settings.request)
            .and_then(|create| request(create, past, &settings, seal, CountingIds::default().response_id(), CREATED_AT))
    };
    let read = |past: &[PastTurn]| -> Vec<Option<Vec<StoredItem>>> {
        past.iter().map(|turn| StoredItem::of_turn(&turn.input, &turn.response).ok()).collect()
    };
    let anew = translate(turns(&history, &[]), turns(&referenced, &[]));
    let known = translate(turns(&history, &read(&history)), turns(&referenced, &read(&referenced)));
    let told = |translated: &Result<Translated, RequestError>| match translated {
        Ok(Translated { chat, plan }) => {
            format!("{} {:?} {:?}", String::from_utf8_lossy(chat), plan.input, plan.lossy.header())
        }
        Err(error) => format!("{error:?}"),
    };
    assert_eq!(told(&anew), told(&known));
    anew
}

fn request_case(path: &Path) -> String {
    match translated(path) {
        Err(error) => format!("refused: {error}\n\n{error:#?}"),
        Ok(translated) => {
            let plan = translated.plan;
            let chat = pretty(std::str::from_utf8(&translated.chat).unwrap());
            let items: String = plan.input.iter().map(|item| pretty(item.get()) + "\n").collect();
            let lossy = plan.lossy.header().unwrap_or_else(|| "-".to_owned());
            format!("chat: {chat}\n\nx-responses-lossy: {lossy}\n\ninput items:\n{items}")
        }
    }
}

/// The turns, with their items as far as these are known.
fn turns<'a>(past: &'a [PastTurn], known: &'a [Option<Vec<StoredItem>>]) -> Vec<Turn<'a>> {
    let items = known.iter().map(Option::as_deref).chain(std::iter::repeat(None));
    past.iter().zip(items).map(|(turn, items)| Turn { input: &turn.input, response: &turn.response, items }).collect()
}

/// A JSON string stands for the text in it, anything else for itself.
fn text_or_json(raw: &RawValue) -> Vec<u8> {
    serde_json::from_str::<String>(raw.get()).unwrap_or_else(|_| raw.get().to_owned()).into_bytes()
}

/// Every member that clients rely on is there, as in a response of ours.
#[test]
fn records_of_the_go_router_become_responses() {
    compare("foreign", "json", 3, |path| {
        let text = std::fs::read_to_string(path).unwrap();
        let id = ResponseId::parse(serde_json::from_str::<Value>(&text).unwrap()["id"].as_str().unwrap()).unwrap();
        let record = Record::decode(&id, text.as_bytes()).unwrap();
        // Its ids are not made as ours are, which is all that may differ.
        let digits = "0".repeat(32);
        let long = record.response.get().replace("item_2", &format!("msg_{digits}_0"));
        let long = long.replace(&id.as_str()["resp_".len()..], &digits);
        grammar::check_response(&serde_json::from_str(&long).unwrap()).unwrap();
        let items: String = record.input.iter().map(|item| pretty(item.get()) + "\n").collect();
        format!("{}\n\ninput items:\n{items}", pretty(record.response.get()))
    });
}

/// The cases that `make capture-clients` has written.
#[test]
fn what_real_clients_send_suits_a_strict_backend() {
    let captured = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("clients-");
    for path in inputs("request", "json").into_iter().filter(captured) {
        let chat = translated(&path).unwrap().chat;
        let checked = strict::check(&serde_json::from_slice(&chat).unwrap());
        assert_eq!(checked, Ok(()), "{}", path.display());
    }
}

#[test]
fn chat_answers_become_responses() {
    compare("answer", "json", 20, answer_case);
}

/// A case of `tests/golden/answer`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AnswerCase {
    #[serde(default)]
    settings: SettingsSpec,
    /// The create request; the smallest one by default.
    #[serde(default)]
    request: Option<Box<RawValue>>,
    /// The upstream's body; a string stands for one that is not JSON.
    answer: Box<RawValue>,
}

impl AnswerCase {
    /// Settings, request body and answer body.
    pub(crate) fn parts(self) -> (Settings, String, Vec<u8>) {
        let request =
            self.request.map_or(r#"{"model":"m","input":"hi"}"#.to_owned(), |request| request.get().to_owned());
        (self.settings.settings(), request, text_or_json(&self.answer))
    }
}

fn answer_case(path: &Path) -> String {
    let (settings, request, answer) = read_json::<AnswerCase>(path).parts();
    match machine::response(machine::good_plan(&request, &settings), &settings, &answer) {
        Err(error) => format!("bad answer: {error}"),
        Ok(response) => {
            grammar::check_response(&serde_json::from_str(&response).unwrap()).unwrap();
            pretty(&response)
        }
    }
}

#[test]
fn chat_streams_become_events() {
    compare("stream", "sse", 25, stream_case);
}

/// What stands in the JSON file beside a stream that needs more than the defaults.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct StreamSpec {
    settings: SettingsSpec,
    request: Option<Box<RawValue>>,
    end: EndSpec,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EndSpec {
    #[default]
    Complete,
    Disconnected,
    ShuttingDown,
}

/// A case of `tests/golden/stream`.
pub(crate) struct StreamCase {
    pub(crate) settings: Settings,
    pub(crate) request: String,
    pub(crate) end: End,
    pub(crate) upstream: Vec<u8>,
}

impl StreamCase {
    /// Reads the `.sse` file and the `.json` file beside it, if there is one.
    pub(crate) fn read(path: &Path) -> Self {
        let spec_path = path.with_extension("json");
        let spec: StreamSpec = if spec_path.exists() { read_json(&spec_path) } else { StreamSpec::default() };
        let request = spec.request.map_or(machine::STREAM_REQUEST.to_owned(), |request| request.get().to_owned());
        let end = match spec.end {
            EndSpec::Complete => End::Complete,
            EndSpec::Disconnected => End::Disconnected,
            EndSpec::ShuttingDown => End::ShuttingDown,
        };
        Self { settings: spec.settings.settings(), request, end, upstream: std::fs::read(path).unwrap() }
    }

    /// The client's stream when the upstream's comes in these pieces.
    pub(crate) fn events<'p>(&self, pieces: impl IntoIterator<Item = &'p [u8]>) -> Vec<u8> {
        machine::events(machine::good_plan(&self.request, &self.settings), &self.settings, pieces, self.end)
    }
}

fn stream_case(path: &Path) -> String {
    let case = StreamCase::read(path);
    let stream = case.events([case.upstream.as_slice()]);
    let summary =
        grammar::check_in(&stream, case.settings.api).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    let text = std::str::from_utf8(&stream).unwrap();
    let mut lines: Vec<String> =
        text.split("\n\n").zip(&summary.events).map(|(frame, event)| line(frame, event)).collect();
    lines.extend(text.strip_suffix("\n\ndata: [DONE]\n\n").map(|_| "data: [DONE]".to_owned()));
    lines.join("\n")
}

/// One event on one line; of a snapshot what an event's reader looks at first, because the grammar knows the rest.
fn line(frame: &str, event: &frames::Event) -> String {
    let number = event.data.get("sequence_number").map_or_else(|| "-".to_owned(), Value::to_string);
    let Some(response) = event.data.get("response") else {
        let data = frame.split_once("data: ").map_or(frame, |(_, data)| data);
        let kind = json!(event.name).to_string();
        // The name and the number stand in front.
        let rest = data.replacen(&format!("\"type\":{kind},"), "", 1);
        let rest = rest.replacen(&format!("\"sequence_number\":{number},"), "", 1);
        return format!("{number} {} {rest}", event.name);
    };
    if response["status"] == "in_progress" {
        return format!("{number} {}", event.name);
    }
    let telling = ["status", "error", "incomplete_details", "output", "output_text", "usage"];
    let telling: String = telling.iter().map(|key| format!("\n  {key}: {}", response_member(frame, key))).collect();
    format!("{number} {}{telling}", event.name)
}

/// A member of the frame's response, in the form in which it was sent.
fn response_member(frame: &str, key: &str) -> String {
    #[derive(Deserialize)]
    struct Data {
        response: std::collections::HashMap<String, Box<RawValue>>,
    }
    let data = frame.split_once("data: ").map_or(frame, |(_, data)| data);
    let data: Data = serde_json::from_str(data).unwrap();
    let json = data.response[key].get();
    if key == "output" { pretty(json).replace('\n', "\n  ") } else { json.to_owned() }
}

#[test]
fn upstream_errors_become_errors_of_ours() {
    compare("upstream_error", "json", 15, upstream_error_case);
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpstreamErrorCase {
    status: u16,
    /// A string stands for a body that is not JSON.
    body: Box<RawValue>,
}

fn upstream_error_case(path: &Path) -> String {
    let case: UpstreamErrorCase = read_json(path);
    let error = UpstreamError::parse(&text_or_json(&case.body));
    let wire = error.wire(case.status);
    let body: Value = serde_json::from_slice(&wire.body(ApiDialect::OPENAI)).unwrap();
    assert!(
        body["error"]["code"].is_string() || body["error"]["code"].is_null(),
        "a code that is neither text nor null"
    );
    let in_stream = error.response_error();
    format!(
        "{} {}\n\nin a stream: {} {:?}",
        wire.status,
        pretty(std::str::from_utf8(&wire.body(ApiDialect::OPENAI)).unwrap()),
        in_stream.code,
        in_stream.message
    )
}
