//! Writes what a client sent as a case of `tests/golden/request`, when `make capture-clients` asks for it.
//!
//! So the translation of real traffic is pinned without the clients. What differs from run to run is replaced: ids, times,
//! folders.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::support::pretty::pretty;
use crate::support::stack::Stack;
use crate::support::stack::recorder::Recorder;

#[derive(Serialize)]
struct Case {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    history: Vec<PastTurn>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    referenced: Vec<PastTurn>,
    body: Box<RawValue>,
}

#[derive(Serialize)]
struct PastTurn {
    input: Vec<Box<RawValue>>,
    response: Box<RawValue>,
}

/// A recorder in front of the stack, if there is something to capture.
pub(super) fn recorder(stack: &Stack) -> Option<Recorder> {
    std::env::var_os("CAPTURE_CLIENTS").map(|_| Recorder::start(stack.envoy.address))
}

/// Writes the last request that was recorded, together with the stored turns that it leans on.
pub(super) async fn write(stack: &Stack, recorder: &Recorder, name: &str, folders: &[&Path]) {
    let body = recorder.bodies().pop().unwrap();
    let request: Value = serde_json::from_str(&body).unwrap();
    let mut case = Case { history: Vec::new(), referenced: Vec::new(), body: RawValue::from_string(body).unwrap() };
    if let Some(parent) = request["previous_response_id"].as_str() {
        case.history.push(stored(stack, parent).await);
    }
    let items = request["input"].as_array().into_iter().flatten();
    let references = items.filter(|item| item["type"] == "item_reference");
    // The id of an item is that of its response, with another prefix and an ordinal.
    let digits = references.filter_map(|item| item["id"].as_str()?.split_once('_')?.1.get(..32));
    for digits in digits.collect::<BTreeSet<&str>>() {
        case.referenced.push(stored(stack, &format!("resp_{digits}")).await);
    }
    let mut text = serde_json::to_string(&case).unwrap();
    for folder in folders {
        text = text.replace(folder.to_str().unwrap(), "/home/user/work");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/request").join(format!("clients-{name}.json"));
    for label in ["Chunk ID: ", "Wall time: ", "Wall time "] {
        text = zeroed_after(&text, label);
    }
    std::fs::write(path, pretty(&without_ids(&without_times(&without_dates(&text)))) + "\n").unwrap();
}

async fn stored(stack: &Stack, id: &str) -> PastTurn {
    #[derive(Deserialize)]
    struct List {
        data: Vec<Box<RawValue>>,
    }
    let response = stack.retrieve(id).await.bytes().await;
    let items = stack.get(&format!("/v1/responses/{id}/input_items?order=asc&limit=100")).await.bytes().await;
    PastTurn {
        input: serde_json::from_slice::<List>(&items).unwrap().data,
        response: serde_json::from_slice(&response).unwrap(),
    }
}

/// Numbers the runs of 32 hexadecimal digits and the UUIDs, each in the order in which they first occur.
fn without_ids(text: &str) -> String {
    let mut known: BTreeMap<&str, String> = BTreeMap::new();
    let mut out = String::new();
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let length = id_length(rest);
        if length == 0 {
            out.push(letter);
            rest = &rest[letter.len_utf8()..];
            continue;
        }
        let (id, after) = rest.split_at(length);
        let number = known.len() + 1;
        let replaced = known.entry(id).or_insert_with(|| match length {
            36 => format!("00000000-0000-4000-8000-{number:012}"),
            length => format!("{number:0length$}"),
        });
        out.push_str(replaced);
        rest = after;
    }
    out
}

/// Makes every time since 1970 that can be now, in seconds or milliseconds, the first of January 2026.
fn without_times(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let time = rest.starts_with("17") || rest.starts_with("18") || rest.starts_with("19");
        match digits {
            0 => out.push(letter),
            10 if time => out.push_str("1767225600"),
            13 if time => out.push_str("1767225600000"),
            _ => out.push_str(&rest[..digits]),
        }
        rest = &rest[digits.max(letter.len_utf8())..];
    }
    out
}

/// The length of the id that a text begins with; 0 when there is none.
fn id_length(text: &str) -> usize {
    let hexadecimal = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let uuid = text.get(..36).is_some_and(|id| {
        let groups: Vec<&str> = id.split('-').collect();
        let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
        lengths == [8, 4, 4, 4, 12] && groups.into_iter().all(hexadecimal)
    });
    if uuid {
        return 36;
    }
    let digits = text.bytes().take_while(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')).count();
    if digits >= 32 { digits } else { 0 }
}

/// Makes the number after this label zero, in as many digits. Codex writes such ones into the outputs of its tools.
fn zeroed_after(text: &str, label: &str) -> String {
    let zeroed = text.split(label).enumerate().map(|(index, piece)| {
        let number = |letter: &char| index > 0 && (letter.is_ascii_hexdigit() || *letter == '.');
        let length = piece.chars().take_while(number).count();
        piece[..length].replace(|letter| letter != '.', "0") + &piece[length..]
    });
    zeroed.collect::<Vec<String>>().join(label)
}

/// Makes every `2026-11-23` the first of January.
fn without_dates(text: &str) -> String {
    let bytes = text.as_bytes();
    let date = |at: usize| {
        bytes.get(at..at + 10).is_some_and(|date| {
            date.iter().zip(b"2000-00-00").all(
                |(byte, form)| {
                    if *form == b'-' { *byte == b'-' } else { byte.is_ascii_digit() }
                },
            ) && date.starts_with(b"20")
        })
    };
    let mut out = String::new();
    let mut copied = 0;
    for at in 0..bytes.len() {
        if at >= copied && date(at) {
            out.push_str(&text[copied..at]);
            out.push_str("2026-01-01");
            copied = at + 10;
        }
    }
    out + &text[copied..]
}
