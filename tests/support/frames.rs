//! Our own event stream, read as strictly as CONTRACT §6 writes it: this is not a tolerant SSE reader.

use serde_json::Value;

/// One event of a stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    /// What the `event:` line says.
    pub name: String,
    /// What the `data:` line holds; always an object.
    pub data: Value,
}

/// Reads whole frames: `event: <name>` LF `data: <object>` LF LF, and nothing else.
///
/// # Errors
/// The number of the frame, and what is wrong with it.
pub(crate) fn read(bytes: &[u8]) -> Result<Vec<Event>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("the stream is not UTF-8: {error}"))?;
    if let Some(at) = text.find(['\r', '\u{2028}', '\u{2029}']) {
        return Err(format!(
            "byte {at}: CR, U+2028 or U+2029 outside an escape, which some clients take for a line end"
        ));
    }
    let Some(text) = text.strip_suffix("\n\n") else {
        return Err("the stream does not end with a whole frame".to_owned());
    };
    text.split("\n\n")
        .enumerate()
        .map(|(index, frame)| one(frame).map_err(|why| format!("frame {index}: {why}")))
        .collect()
}

fn one(frame: &str) -> Result<Event, String> {
    let (first, second) = frame.split_once('\n').ok_or_else(|| format!("has only one line: {frame:?}"))?;
    let name = first.strip_prefix("event: ").ok_or_else(|| format!("does not begin with an event line: {first:?}"))?;
    let data =
        second.strip_prefix("data: ").ok_or_else(|| format!("has no data line after its event line: {second:?}"))?;
    if data.contains('\n') {
        return Err(format!("has more than one data line: {data:?}"));
    }
    let data: Value = serde_json::from_str(data).map_err(|error| format!("data is not JSON ({error}): {data}"))?;
    if !data.is_object() {
        return Err(format!("data is not an object: {data}"));
    }
    if data.get("type").and_then(Value::as_str) != Some(name) {
        return Err(format!("event line says {name:?}, type says {}", data["type"]));
    }
    Ok(Event { name: name.to_owned(), data })
}

/// Writes events as a stream, so that tests can break one and put it together again.
pub(crate) fn write(events: &[Event]) -> Vec<u8> {
    events
        .iter()
        .map(|event| format!("event: {}\ndata: {}\n\n", event.name, event.data))
        .collect::<String>()
        .into_bytes()
}
