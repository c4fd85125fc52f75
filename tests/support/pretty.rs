//! JSON laid out for people, its member order and its number forms untouched.

use std::fmt::Write;

use responses_router::openai::raw::RawObject;
use serde_json::value::RawValue;

/// What fits into this many columns stays on one line.
const COLUMNS: usize = 100;

/// Lays out a JSON text.
pub(crate) fn pretty(json: &str) -> String {
    let mut out = String::new();
    value(&mut out, json.trim(), 0);
    out
}

fn value(out: &mut String, json: &str, depth: usize) {
    let fits = json.len() + 2 * depth <= COLUMNS && !json.contains('\n');
    let object: Result<RawObject, _> = serde_json::from_str(json);
    let array: Result<Vec<Box<RawValue>>, _> = serde_json::from_str(json);
    match (object, array) {
        (Ok(object), _) if !fits => {
            let members = object.iter().map(|(key, member)| (Some(key), member));
            lines(out, ('{', '}'), depth, members);
        }
        (_, Ok(array)) if !fits => lines(out, ('[', ']'), depth, array.iter().map(|item| (None, &**item))),
        _ => out.push_str(json),
    }
}

fn lines<'v>(
    out: &mut String,
    (open, close): (char, char),
    depth: usize,
    members: impl Iterator<Item = (Option<&'v str>, &'v RawValue)>,
) {
    out.push(open);
    for (index, (key, member)) in members.enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(out, "{comma}\n{:1$}", "", 2 * (depth + 1));
        if let Some(key) = key {
            let _ = write!(out, "{}: ", serde_json::Value::from(key));
        }
        value(out, member.get(), depth + 1);
    }
    let _ = write!(out, "\n{:1$}{close}", "", 2 * depth);
}
