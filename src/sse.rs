//! Server-sent events (WHATWG HTML §9.2): an incremental decoder with a bound, and the encoder of our own frames.
//!
//! Pure. Envoy cuts a stream at arbitrary bytes, so the decoder keeps what is unfinished; the frames that it finds do
//! not depend on where the cuts were (a property test shows it).

use bytes::{BufMut, BytesMut};
use serde::Serialize;

use crate::json;

/// A frame grew past the decoder's bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("server-sent event larger than {limit} bytes")]
pub struct FrameTooLarge {
    /// The bound in bytes.
    pub limit: usize,
}

/// Memory that a decoder keeps for the next frame, in bytes: what a large one needed beyond is given back.
const KEPT_BYTES: usize = 4 * 1024;

/// Finds frames in a stream of bytes.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// The data lines of the frame that has not ended yet, joined by LF.
    data: Vec<u8>,
    has_data: bool,
    event: Vec<u8>,
    /// A CR ended the last line: an LF that follows belongs to it.
    after_cr: bool,
    /// Nothing was decoded yet: a byte order mark may come.
    at_start: bool,
}

impl Decoder {
    /// A decoder that keeps at most about `limit` bytes of an unfinished frame.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            data: Vec::new(),
            has_data: false,
            event: Vec::new(),
            after_cr: false,
            at_start: true,
        }
    }

    /// Takes bytes and hands each finished frame to `frame` as its event name (empty when there is none) and data.
    ///
    /// # Errors
    /// [`FrameTooLarge`]; the decoder is of no use afterwards.
    pub fn push(&mut self, mut bytes: &[u8], mut frame: impl FnMut(&[u8], &[u8])) -> Result<(), FrameTooLarge> {
        while !bytes.is_empty() {
            if self.after_cr {
                self.after_cr = false;
                if let Some(rest) = bytes.strip_prefix(b"\n") {
                    bytes = rest;
                    continue;
                }
            }
            let Some(end) = memchr::memchr2(b'\n', b'\r', bytes) else {
                self.admit(bytes)?;
                self.line.extend_from_slice(bytes);
                break;
            };
            let (line, rest) = bytes.split_at(end);
            self.admit(line)?;
            self.after_cr = rest.first() == Some(&b'\r');
            bytes = rest.get(1..).unwrap_or_default();
            if self.line.is_empty() {
                self.end_line(line, &mut frame);
            } else {
                self.line.extend_from_slice(line);
                self.end_kept_line(&mut frame);
            }
        }
        Ok(())
    }

    /// The stream has ended. A last frame without its blank line is handed out too: some backends close right after
    /// their last data line.
    pub fn finish(&mut self, mut frame: impl FnMut(&[u8], &[u8])) {
        if !self.line.is_empty() {
            self.end_kept_line(&mut frame);
        }
        self.end_frame(&mut frame);
    }

    /// Checks that so many more bytes of a line may come.
    fn admit(&self, bytes: &[u8]) -> Result<(), FrameTooLarge> {
        if self.line.len() + self.data.len() + bytes.len() > self.limit {
            return Err(FrameTooLarge { limit: self.limit });
        }
        Ok(())
    }

    fn end_kept_line(&mut self, frame: &mut impl FnMut(&[u8], &[u8])) {
        let mut line = std::mem::take(&mut self.line);
        self.end_line(&line, frame);
        line.clear();
        self.line = line;
    }

    fn end_line(&mut self, mut line: &[u8], frame: &mut impl FnMut(&[u8], &[u8])) {
        if std::mem::take(&mut self.at_start) {
            line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        }
        if line.is_empty() {
            self.end_frame(frame);
        } else if let Some((field, value)) = field_and_value(line) {
            match field {
                b"data" => self.add_data(value),
                b"event" => self.event = value.to_vec(),
                // No standard field: llama.cpp wrote errors like this until late 2025.
                b"error" => {
                    self.event = field.to_vec();
                    self.add_data(value);
                }
                _ => {}
            }
        }
    }

    fn add_data(&mut self, value: &[u8]) {
        if self.has_data {
            self.data.push(b'\n');
        }
        self.has_data = true;
        self.data.extend_from_slice(value);
    }

    fn end_frame(&mut self, frame: &mut impl FnMut(&[u8], &[u8])) {
        if std::mem::take(&mut self.has_data) {
            frame(&self.event, &self.data);
        }
        self.data.clear();
        self.event.clear();
        for buffer in [&mut self.line, &mut self.data, &mut self.event] {
            buffer.shrink_to(KEPT_BYTES);
        }
    }
}

/// Splits `field: value`; comments (lines that begin with a colon) are nothing.
fn field_and_value(line: &[u8]) -> Option<(&[u8], &[u8])> {
    match memchr::memchr(b':', line) {
        Some(0) => None,
        Some(colon) => {
            let (field, value) = line.split_at(colon);
            let value = value.get(1..).unwrap_or_default();
            Some((field, value.strip_prefix(b" ").unwrap_or(value)))
        }
        None => Some((line, b"")),
    }
}

/// Appends one frame: `event: <name>`, one `data:` line of JSON, a blank line, LF only.
///
/// U+2028 and U+2029 are escaped, because some clients split lines there (CONTRACT §6).
pub fn encode(frames: &mut BytesMut, name: &str, data: &impl Serialize) {
    frames.put_slice(b"event: ");
    frames.put_slice(name.as_bytes());
    frames.put_slice(b"\ndata: ");
    write_json(frames, data);
    frames.put_slice(b"\n\n");
}

fn write_json(frames: &mut BytesMut, data: &(impl Serialize + ?Sized)) {
    // The event types hold nothing that JSON cannot express.
    let written = json::append_line_safe(frames, data);
    debug_assert!(written.is_ok(), "an event did not serialise");
}

/// A frame that is sent over and over with another number and another text: encoded once, and cut at these two.
///
/// Deltas are most of a stream. Encoding each as a whole cost three times as much as reading the chunk it came from.
#[derive(Debug)]
pub struct FrameTemplate {
    before_number: Vec<u8>,
    /// Empty in frames without a number.
    before_text: Vec<u8>,
    after_text: Vec<u8>,
    numbered: bool,
}

impl FrameTemplate {
    /// Stands for the number while a frame is made to be cut. No event gets so far.
    pub const NUMBER: u64 = u64::MAX;
    /// Stands for the text. Escaped it looks like no other text of ours.
    pub const TEXT: &str = "\u{1}";

    /// Cuts the frame of `data`, in which [`Self::NUMBER`] (at most once) comes before [`Self::TEXT`]. `None` when there
    /// is no such text in it.
    #[must_use]
    pub fn cut(name: &str, data: &impl Serialize) -> Option<Self> {
        let mut frame = BytesMut::new();
        encode(&mut frame, name, data);
        let number = Self::NUMBER.to_string();
        let text = memchr::memmem::rfind(&frame, br#""\u0001""#)?;
        let (head, after_text) = (frame.get(..text)?, frame.get(text + br#""\u0001""#.len()..)?);
        let number_at = memchr::memmem::find(head, number.as_bytes());
        let (before_number, before_text) = match number_at {
            Some(at) => (head.get(..at)?, head.get(at + number.len()..)?),
            None => (head, [].as_slice()),
        };
        Some(Self {
            before_number: before_number.to_vec(),
            before_text: before_text.to_vec(),
            after_text: after_text.to_vec(),
            numbered: number_at.is_some(),
        })
    }

    /// How long the frame with this text is at most, if nothing in it has to be escaped.
    #[must_use]
    pub fn most_bytes(&self, text: &str) -> usize {
        // 20 digits, two quotes.
        self.before_number.len() + self.before_text.len() + self.after_text.len() + text.len() + 22
    }

    /// Appends the frame with this number, if it has one, and this text.
    pub fn fill(&self, frames: &mut BytesMut, number: u64, text: &str) {
        frames.reserve(self.most_bytes(text));
        frames.put_slice(&self.before_number);
        if self.numbered {
            write_json(frames, &number);
        }
        frames.put_slice(&self.before_text);
        write_json(frames, text);
        frames.put_slice(&self.after_text);
    }
}

/// Appends the frame that ends streams of chat completions, and of some dialects of ours.
pub fn encode_done(frames: &mut BytesMut) {
    frames.put_slice(b"data: [DONE]\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    type Frames = Vec<(String, String)>;

    fn decode(cuts: &[&[u8]]) -> Frames {
        let mut frames = Vec::new();
        let mut take = |event: &[u8], data: &[u8]| {
            frames.push((String::from_utf8_lossy(event).into_owned(), String::from_utf8_lossy(data).into_owned()));
        };
        let mut decoder = Decoder::new(1 << 20);
        for cut in cuts {
            decoder.push(cut, &mut take).unwrap();
        }
        decoder.finish(&mut take);
        frames
    }

    const STREAM: &str = "\u{feff}: hello\r\nevent: a\r\ndata: 1\r\n\r\ndata:2\n\nevent: b\rdata: 3\rdata: é\u{2028}\r\r\
                          id: 7\nretry: 5\nnonsense\n\n\n\ndata\n\ndata: [DONE]";

    #[test]
    fn every_line_end_comment_and_field_form_is_read() {
        let frames = decode(&[STREAM.as_bytes()]);
        let wanted = [("a", "1"), ("", "2"), ("b", "3\né\u{2028}"), ("", ""), ("", "[DONE]")];
        assert_eq!(frames, wanted.map(|(event, data)| (event.to_owned(), data.to_owned())));
    }

    #[test]
    fn frames_do_not_depend_on_where_the_stream_is_cut() {
        let whole = decode(&[STREAM.as_bytes()]);
        for at in 0..=STREAM.len() {
            let (head, tail) = STREAM.as_bytes().split_at(at);
            assert_eq!(decode(&[head, tail]), whole, "cut at {at}");
        }
        let single: Vec<&[u8]> = STREAM.as_bytes().chunks(1).collect();
        assert_eq!(decode(&single), whole);
    }

    #[test]
    fn a_frame_past_the_bound_is_an_error_not_memory() {
        let mut decoder = Decoder::new(16);
        assert!(decoder.push(b"data: 12345\n\ndata: 12345\n\n", |_, _| {}).is_ok());
        let endless = vec![b'x'; 17];
        assert_eq!(decoder.push(&endless, |_, _| {}), Err(FrameTooLarge { limit: 16 }));
    }

    #[test]
    fn a_large_frame_leaves_no_large_buffer_behind() {
        let mut decoder = Decoder::new(1 << 20);
        let large = format!("data: {}\n\n", "x".repeat(1 << 19));
        for piece in large.as_bytes().chunks(16 * 1024) {
            decoder.push(piece, |_, _| {}).unwrap();
        }
        assert!(decoder.line.capacity() + decoder.data.capacity() <= 2 * KEPT_BYTES);
    }

    #[test]
    fn no_character_of_a_frame_can_be_taken_for_a_line_end() {
        let mut frames = BytesMut::new();
        let raw = serde_json::value::RawValue::from_string("{\"z\":\n \"a\u{2029}\"}".to_owned()).unwrap();
        encode(&mut frames, "x", &("a\u{2028}b\u{2029}\n\r—", raw));
        let text = std::str::from_utf8(&frames).unwrap();
        assert_eq!(text, "event: x\ndata: [\"a\\u2028b\\u2029\\n\\r—\",{\"z\": \"a\\u2029\"}]\n\n");
    }
}
