//! JSON as `serde_json` reads and writes it, in fewer steps.
//!
//! Most of what the router writes is names of members, which need no escaping, and long texts, of which nearly nothing
//! does. `serde_json` looks at each byte of both.

use std::io;

use bytes::{BufMut, BytesMut};
use serde::de::value::{BorrowedStrDeserializer, MapDeserializer};
use serde::ser::{Error as _, Impossible, SerializeMap, SerializeSeq, SerializeStruct, SerializeTuple};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Error;
use serde_json::value::RawValue;

/// The name by which a [`RawValue`] makes itself known to `serde_json`, and to us.
pub(crate) const RAW: &str = "$serde_json::private::RawValue";

/// Where JSON is written.
trait Sink {
    fn put(&mut self, text: &str);
}

impl Sink for String {
    fn put(&mut self, text: &str) {
        self.push_str(text);
    }
}

impl Sink for BytesMut {
    fn put(&mut self, text: &str) {
        self.put_slice(text.as_bytes());
    }
}

/// A value as JSON text, for which so many bytes are set aside.
///
/// # Errors
/// When it holds what JSON cannot express, or one of our types would have to be written in a form that none has.
pub fn to_string(value: &(impl Serialize + ?Sized), capacity: usize) -> Result<String, Error> {
    let mut text = String::with_capacity(capacity);
    append(&mut text, value)?;
    Ok(text)
}

/// Appends a value as JSON text.
///
/// # Errors
/// See [`to_string`].
pub fn append(text: &mut String, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
    value.serialize(&mut Writer { sink: text, line_safe: false, verbatim: false })
}

/// A value as raw JSON, for which so many bytes are set aside.
///
/// # Errors
/// See [`to_string`].
pub fn to_raw(value: &(impl Serialize + ?Sized), capacity: usize) -> Result<Box<RawValue>, Error> {
    written(to_string(value, capacity)?)
}

/// JSON text as raw JSON. What was written or read just now need not be checked, as `RawValue::from_string` would.
///
/// # Errors
/// Never in practice.
pub fn written(text: String) -> Result<Box<RawValue>, Error> {
    Box::<RawValue>::deserialize(MapDeserializer::new(std::iter::once((RAW, text))))
}

/// The same of a text that somebody else has.
///
/// # Errors
/// Never in practice.
pub fn borrowed(text: &str) -> Result<&RawValue, Error> {
    <&RawValue>::deserialize(MapDeserializer::new(std::iter::once((RAW, BorrowedStrDeserializer::<Error>::new(text)))))
}

/// A text as raw JSON.
///
/// # Errors
/// Never in practice: a text can always be written.
pub fn raw_text(text: &str) -> Result<Box<RawValue>, Error> {
    to_raw(text, text.len() + "\"\"".len())
}

/// Appends a value as JSON in which no character can be taken for the end of a line: U+2028 and U+2029 are escaped, and
/// raw values go without the line ends between their tokens.
///
/// # Errors
/// See [`to_string`].
pub fn append_line_safe(out: &mut BytesMut, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
    value.serialize(&mut Writer { sink: out, line_safe: true, verbatim: false })
}

/// Reads a value.
///
/// # Errors
/// Those of `serde_json`.
pub fn from_slice<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Error> {
    // All of it at once: checking text by text that it is UTF-8 costs more than the rest of the parsing.
    match std::str::from_utf8(bytes) {
        Ok(text) => serde_json::from_str(text),
        Err(_) => serde_json::from_slice(bytes),
    }
}

/// The serializer. Its maps have texts as keys; the forms of enums that no type of ours has are errors.
struct Writer<'a, S> {
    sink: &'a mut S,
    line_safe: bool,
    /// The next text is JSON already.
    verbatim: bool,
}

impl<S: Sink> Writer<'_, S> {
    fn string(&mut self, text: &str) {
        self.sink.put("\"");
        let mut rest = text;
        loop {
            let at = plain_bytes(rest.as_bytes());
            let Some((plain, special)) = rest.split_at_checked(at) else { break };
            self.sink.put(plain);
            let Some(first) = special.chars().next() else { break };
            rest = special.get(first.len_utf8()..).unwrap_or_default();
            match first {
                '"' => self.sink.put("\\\""),
                '\\' => self.sink.put("\\\\"),
                '\n' => self.sink.put("\\n"),
                '\r' => self.sink.put("\\r"),
                '\t' => self.sink.put("\\t"),
                '\u{8}' => self.sink.put("\\b"),
                '\u{c}' => self.sink.put("\\f"),
                '\u{2028}' if self.line_safe => self.sink.put("\\u2028"),
                '\u{2029}' if self.line_safe => self.sink.put("\\u2029"),
                control if control < ' ' => self.sink.put(&format!("\\u{:04x}", u32::from(control))),
                other => self.sink.put(other.encode_utf8(&mut [0; 4])),
            }
        }
        self.sink.put("\"");
    }

    fn raw(&mut self, json: &str) {
        if !self.line_safe {
            return self.sink.put(json);
        }
        // In valid JSON a raw line end stands between tokens only, and the separators within strings only, where the
        // escape means the same.
        if memchr::memchr3(b'\n', b'\r', 0xE2, json.as_bytes()).is_none() {
            return self.sink.put(json);
        }
        for piece in json.split_inclusive(['\n', '\r', '\u{2028}', '\u{2029}']) {
            let plain = piece.trim_end_matches(['\n', '\r', '\u{2028}', '\u{2029}']);
            self.sink.put(plain);
            match piece.get(plain.len()..) {
                Some("\u{2028}") => self.sink.put("\\u2028"),
                Some("\u{2029}") => self.sink.put("\\u2029"),
                _ => {}
            }
        }
    }

    /// Numbers, in the words of `serde_json`.
    fn number(&mut self, number: impl Serialize) -> Result<(), Error> {
        struct Ascii<'a, S>(&'a mut S);
        impl<S: Sink> io::Write for Ascii<'_, S> {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.put(std::str::from_utf8(bytes).map_err(io::Error::other)?);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        serde_json::to_writer(Ascii(self.sink), &number)
    }
}

/// How many bytes at the beginning of a text stand for themselves, wherever they are written.
fn plain_bytes(text: &[u8]) -> usize {
    // Without branches, so that the compiler compares a whole block at once. E2 begins the line separators.
    let is_special = |byte: u8| (byte < 0x20) | (byte == b'"') | (byte == b'\\') | (byte == 0xE2);
    let (blocks, _) = text.as_chunks::<32>();
    let is_plain = |block: &&[u8; 32]| block.iter().fold(0, |found, byte| found | u8::from(is_special(*byte))) == 0;
    let whole = blocks.iter().take_while(is_plain).count() * 32;
    let rest = text.get(whole..).unwrap_or_default();
    whole + rest.iter().position(|byte| is_special(*byte)).unwrap_or(rest.len())
}

/// What is between two brackets.
struct Elements<'w, 's, S> {
    writer: &'w mut Writer<'s, S>,
    is_first: bool,
    close: &'static str,
}

impl<'w, 's, S: Sink> Elements<'w, 's, S> {
    fn begin(writer: &'w mut Writer<'s, S>, open: &str, close: &'static str) -> Self {
        writer.sink.put(open);
        Self { writer, is_first: true, close }
    }

    fn separate(&mut self) {
        if !std::mem::take(&mut self.is_first) {
            self.writer.sink.put(",");
        }
    }

    fn finish(self) {
        self.writer.sink.put(self.close);
    }
}

fn unknown_form<T>() -> Result<T, Error> {
    Err(Error::custom("a form that none of our types has"))
}

impl<'w, 's, S: Sink> Serializer for &'w mut Writer<'s, S> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Elements<'w, 's, S>;
    type SerializeTuple = Elements<'w, 's, S>;
    type SerializeTupleStruct = Impossible<(), Error>;
    type SerializeTupleVariant = Impossible<(), Error>;
    type SerializeMap = Elements<'w, 's, S>;
    type SerializeStruct = Elements<'w, 's, S>;
    type SerializeStructVariant = Impossible<(), Error>;

    fn serialize_bool(self, value: bool) -> Result<(), Error> {
        self.sink.put(if value { "true" } else { "false" });
        Ok(())
    }

    fn serialize_i8(self, value: i8) -> Result<(), Error> {
        self.number(value)
    }

    fn serialize_i16(self, value: i16) -> Result<(), Error> {
        self.number(value)
    }

    fn serialize_i32(self, value: i32) -> Result<(), Error> {
        self.number(value)
    }

    fn serialize_i64(self, value: i64) -> Result<(), Error> {
        self.number(value)
    }

    fn serialize_u8(self, value: u8) -> Result<(), Error> {
        self.number(value)
    }

    fn serialize_u16(self, value: u16) -> Result<(), Error> {
        self.number(value)
    }

    fn serialize_u32(self, value: u32) -> Result<(), Error> {
        self.number(value)
    }

    fn serialize_u64(self, value: u64) -> Result<(), Error> {
        self.number(value)
    }

    fn serialize_f32(self, value: f32) -> Result<(), Error> {
        self.number(value)
    }

    fn serialize_f64(self, value: f64) -> Result<(), Error> {
        self.number(value)
    }

    fn serialize_char(self, value: char) -> Result<(), Error> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), Error> {
        if std::mem::take(&mut self.verbatim) {
            self.raw(value);
        } else {
            self.string(value);
        }
        Ok(())
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<(), Error> {
        unknown_form()
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        self.sink.put("null");
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Error> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Error> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Error> {
        unknown_form()
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Error> {
        Ok(Elements::begin(self, "[", "]"))
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Error> {
        self.serialize_seq(None)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, Error> {
        unknown_form()
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Error> {
        unknown_form()
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Error> {
        Ok(Elements::begin(self, "{", "}"))
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Self::SerializeStruct, Error> {
        // Its only field is the JSON.
        self.verbatim = name == RAW;
        let (open, close) = if self.verbatim { ("", "") } else { ("{", "}") };
        Ok(Elements::begin(self, open, close))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Error> {
        unknown_form()
    }
}

impl<S: Sink> SerializeSeq for Elements<'_, '_, S> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.separate();
        value.serialize(&mut *self.writer)
    }

    fn end(self) -> Result<(), Error> {
        self.finish();
        Ok(())
    }
}

impl<S: Sink> SerializeTuple for Elements<'_, '_, S> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        SerializeSeq::serialize_element(self, value)
    }

    fn end(self) -> Result<(), Error> {
        SerializeSeq::end(self)
    }
}

impl<S: Sink> SerializeMap for Elements<'_, '_, S> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.separate();
        key.serialize(&mut *self.writer)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.writer.sink.put(":");
        value.serialize(&mut *self.writer)
    }

    fn end(self) -> Result<(), Error> {
        self.finish();
        Ok(())
    }
}

impl<S: Sink> SerializeStruct for Elements<'_, '_, S> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Error> {
        if !self.writer.verbatim {
            // A name in the code, so nothing in it needs an escape.
            self.separate();
            self.writer.sink.put("\"");
            self.writer.sink.put(key);
            self.writer.sink.put("\":");
        }
        value.serialize(&mut *self.writer)
    }

    fn end(self) -> Result<(), Error> {
        self.finish();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Serialize)]
    struct Everything<'a> {
        text: &'a str,
        character: char,
        integer: i64,
        float: f64,
        tiny: f32,
        flag: bool,
        nothing: Option<()>,
        list: Vec<(u8, &'a str)>,
        empty: [(); 0],
        map: BTreeMap<&'a str, Option<Kind<'a>>>,
        raw: &'a RawValue,
        #[serde(skip_serializing_if = "Option::is_none")]
        absent: Option<u8>,
        #[serde(flatten)]
        more: BTreeMap<&'a str, u64>,
    }

    #[derive(Serialize)]
    #[serde(tag = "type", rename_all = "snake_case")]
    enum Kind<'a> {
        SomeText { text: &'a str, raw: &'a RawValue },
        Nothing,
    }

    #[derive(Serialize)]
    #[serde(rename_all = "snake_case")]
    enum Word {
        InProgress,
    }

    proptest! {
        #[test]
        fn it_is_the_json_of_serde_json(
            text in any::<String>(), special in "[a\"\\\\\u{0}-\u{20}\u{7f}é—\u{2028}\u{2029}😀]{0,80}",
            integer in any::<i64>(), float in any::<f64>(), tiny in any::<f32>(), flag in any::<bool>(),
        ) {
            let raw = serde_json::value::to_raw_value(&[&special]).unwrap();
            let kind = Kind::SomeText { text: &special, raw: &raw };
            let value = Everything {
                text: &text, character: '"', integer, float, tiny, flag, nothing: None, raw: &raw, absent: None,
                list: vec![(1, &special), (2, "")], empty: [],
                map: [(text.as_str(), Some(kind)), ("none", None), ("nothing", Some(Kind::Nothing))].into(),
                more: [(special.as_str(), u64::MAX), ("more", 0)].into(),
            };
            let wanted = serde_json::to_string(&(&value, Word::InProgress)).unwrap();
            prop_assert_eq!(&to_string(&(&value, Word::InProgress), 0).unwrap(), &wanted);
            let raw = to_raw(&(&value, Word::InProgress), 0).unwrap();
            prop_assert_eq!(raw.get(), &wanted);
            let mut frames = BytesMut::new();
            append_line_safe(&mut frames, &(&value, Word::InProgress)).unwrap();
            let wanted = wanted.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029");
            prop_assert_eq!(std::str::from_utf8(&frames).unwrap(), wanted);
        }
    }

    #[test]
    fn forms_that_none_of_our_types_has_are_errors() {
        #[derive(Serialize)]
        enum Foreign {
            Newtype(u8),
            Tuple(u8, u8),
            Struct { a: u8 },
        }
        for foreign in [Foreign::Newtype(1), Foreign::Tuple(1, 2), Foreign::Struct { a: 1 }] {
            assert!(to_string(&foreign, 0).is_err());
        }
    }
}
