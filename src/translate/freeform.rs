//! Free text in a JSON dress: a custom tool goes up as a function of one string, `{"input": "…"}`, and what the model
//! writes for it is undressed while it streams.
//!
//! Models are not held to that form, so the reader is lenient: of an object with a string `input` that string is the
//! input, and of anything else the whole text as it came. Once the string has begun, nothing that follows can take it
//! back: an escape that JSON does not know stays as written, half a surrogate pair becomes U+FFFD, and what comes after
//! the string is ignored.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// The one member of such a function's arguments.
#[derive(Serialize, Deserialize)]
struct Arguments<'a> {
    #[serde(borrow)]
    input: Cow<'a, str>,
}

/// The arguments that stand for this input.
pub(super) fn arguments(input: &str) -> String {
    // A string always serialises.
    serde_json::to_string(&Arguments { input: Cow::Borrowed(input) }).unwrap_or_default()
}

/// Reads the input out of arguments that come in any pieces.
#[derive(Debug, Default)]
pub(super) struct FreeformInput {
    state: State,
    /// The input in [`State::Input`], [`State::Closed`] and [`State::Raw`]; before, the arguments as they came.
    text: String,
    /// What has come of an escape, from its backslash on: at most `\ud83d\ude0`.
    escape: String,
    /// What has come of the first key; longer ones than `input` are not kept.
    key: String,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// White space may come, then `{`.
    #[default]
    Start,
    /// White space may come, then the first key's quote.
    Object,
    Key,
    /// White space may come, then `:`.
    AfterKey,
    /// White space may come, then the value's quote.
    Value,
    /// Inside the string.
    Input,
    /// After the string.
    Closed,
    /// An object that begins with something else: what it holds is known at its end.
    Deferred,
    /// No object: the text itself.
    Raw,
}

impl FreeformInput {
    /// Takes the next piece of the arguments.
    pub(super) fn push(&mut self, arguments: &str) {
        let mut rest = arguments;
        while let Some(next) = rest.chars().next() {
            match self.state {
                State::Closed => return,
                State::Raw | State::Deferred => {
                    self.text.push_str(rest);
                    return;
                }
                State::Input if self.escape.is_empty() => {
                    let plain = rest.find(['"', '\\']).unwrap_or(rest.len());
                    let (text, more) = rest.split_at(plain);
                    self.text.push_str(text);
                    rest = more;
                    if let Some(next) = rest.chars().next() {
                        rest = rest.get(next.len_utf8()..).unwrap_or_default();
                        if next == '"' {
                            self.state = State::Closed;
                        } else {
                            self.escape.push(next);
                        }
                    }
                    continue;
                }
                State::Input => self.escaped(next),
                _ => self.before_input(next),
            }
            rest = rest.get(next.len_utf8()..).unwrap_or_default();
        }
    }

    /// One character of what comes before the string.
    fn before_input(&mut self, next: char) {
        self.text.push(next);
        let white = matches!(next, ' ' | '\t' | '\n' | '\r');
        self.state = match (self.state, next) {
            (State::Start | State::Object | State::AfterKey | State::Value, _) if white => self.state,
            (State::Start, '{') => State::Object,
            (State::Object, '"') => State::Key,
            (State::Key, '"') if self.key == "input" => State::AfterKey,
            (State::Key, '"' | '\\') => State::Deferred,
            (State::Key, _) => {
                if self.key.len() <= "input".len() {
                    self.key.push(next);
                }
                State::Key
            }
            (State::AfterKey, ':') => State::Value,
            (State::Value, '"') => {
                self.text.clear();
                State::Input
            }
            (State::Value, _) => State::Deferred,
            _ => State::Raw,
        };
    }

    /// One character that may belong to the escape that has begun.
    fn escaped(&mut self, next: char) {
        // An escape has at most two halves, `\uXXXX` each; the second is the one that is being written.
        let begun = self.escape.len() % 6;
        match (begun, next) {
            (0, '\\') => self.escape.push(next),
            (0, _) => {
                self.give_up_escape();
                self.plain(next);
            }
            (1, 'u') => self.escape.push(next),
            (1, _) => {
                let second = self.escape.len() > 6;
                if second {
                    self.text.push(char::REPLACEMENT_CHARACTER);
                }
                self.escape.clear();
                match simple_escape(next) {
                    Some(meant) => self.text.push(meant),
                    None => self.text.extend(['\\', next]),
                }
            }
            (_, digit) if digit.is_ascii_hexdigit() => {
                self.escape.push(digit);
                if begun == 5 {
                    self.end_unicode_escape();
                }
            }
            (_, _) => {
                self.give_up_escape();
                self.plain(next);
            }
        }
    }

    /// A character outside of any escape.
    fn plain(&mut self, next: char) {
        match next {
            '"' => self.state = State::Closed,
            '\\' => self.escape.push(next),
            _ => self.text.push(next),
        }
    }

    /// The last digit of a half has come.
    fn end_unicode_escape(&mut self) {
        let mut units = self.escape.split("\\u").skip(1).filter_map(|digits| u16::from_str_radix(digits, 16).ok());
        let (first, second) = (units.next(), units.next());
        let Some(first) = first else { return self.escape.clear() };
        if second.is_none() && (0xD800..0xDC00).contains(&first) {
            // The other half may follow.
            return;
        }
        let second_is_first_half = second.is_some_and(|unit| (0xD800..0xDC00).contains(&unit));
        if second_is_first_half {
            self.text.push(char::REPLACEMENT_CHARACTER);
            self.escape.drain(..6);
            return;
        }
        let decoded = char::decode_utf16([Some(first), second].into_iter().flatten());
        self.text.extend(decoded.map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)));
        self.escape.clear();
    }

    /// The escape does not go on: half a pair is no character, and what is no escape stays as written.
    fn give_up_escape(&mut self) {
        let escape = std::mem::take(&mut self.escape);
        let half = escape.get(..6);
        if half.is_some() {
            self.text.push(char::REPLACEMENT_CHARACTER);
        }
        self.text.push_str(escape.get(half.map_or(0, str::len)..).unwrap_or_default());
    }

    /// The input as far as it is certain: text that has been said once is never taken back.
    pub(super) fn certain(&self) -> &str {
        match self.state {
            State::Input | State::Closed | State::Raw => &self.text,
            _ => "",
        }
    }

    /// Whether the text is its own end: only the end of the answer can end it.
    pub(super) fn is_raw(&self) -> bool {
        self.state == State::Raw
    }

    /// Says that nothing more comes: all of the input is certain then. Of arguments that were `cut` before they had
    /// said what they are, nothing is.
    pub(super) fn finish(&mut self, cut: bool) {
        match self.state {
            State::Raw | State::Closed => {}
            // What has come of an escape says nothing by itself.
            State::Input => self.escape.clear(),
            State::Deferred => {
                if let Ok(Arguments { input }) = serde_json::from_str(&self.text) {
                    self.text = input.into_owned();
                }
            }
            State::Start | State::Object | State::Key | State::AfterKey | State::Value => {
                if cut {
                    self.text.clear();
                }
            }
        }
        if self.state != State::Closed {
            self.state = State::Raw;
        }
    }

    /// The whole input, once [`Self::finish`] was called.
    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.text)
    }
}

fn simple_escape(letter: char) -> Option<char> {
    Some(match letter {
        '"' | '\\' | '/' => letter,
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The input, and all that was certain before the end.
    fn read<'a>(pieces: impl IntoIterator<Item = &'a str>, cut: bool) -> (String, String) {
        let mut input = FreeformInput::default();
        let mut certain = String::new();
        for piece in pieces {
            input.push(piece);
            assert!(input.certain().starts_with(&certain), "{certain:?} was taken back");
            certain = input.certain().to_owned();
        }
        input.finish(cut);
        assert_eq!(input.certain(), input.text);
        (input.take(), certain)
    }

    #[track_caller]
    fn reads(arguments: &str, wanted: &str) {
        assert_eq!(read([arguments], false).0, wanted, "{arguments}");
        let mut letters = [0; 4];
        let mut single = FreeformInput::default();
        for letter in arguments.chars() {
            single.push(letter.encode_utf8(&mut letters));
        }
        single.finish(false);
        assert_eq!(single.take(), wanted, "{arguments}, letter by letter");
    }

    #[test]
    fn the_string_input_of_an_object_is_the_input() {
        reads(
            r#"{"input":"*** Begin Patch\n+\"x\"\\d \u00e9 \ud83d\ude00\t\/"}"#,
            "*** Begin Patch\n+\"x\"\\d é 😀\t/",
        );
        reads(" {\n \"input\" :\t\"a\" , \"more\": 1 }", "a");
        reads(r#"{"input":""}"#, "");
        reads(r#"{"reason":"why","input":"a"}"#, "a");
        reads(r#"{"\u0069nput":"a"}"#, "a");
    }

    #[test]
    fn anything_else_is_the_input_itself() {
        for text in [
            "*** Begin Patch\n*** End Patch",
            "  raw",
            r#"{"patch":"a"}"#,
            r#"{"input":5}"#,
            r#"{"input":{"a":"b"}}"#,
            r#"{"inputs":"a"}"#,
            r#"{"inp":"a"}"#,
            "{}",
            "{a}",
            "{\"input\" \"a\"}",
            "[1]",
            r#""text""#,
            "",
            " ",
            "{",
            r#"{"input""#,
        ] {
            reads(text, text);
        }
    }

    #[test]
    fn escapes_that_json_does_not_know_stay_as_written() {
        reads(r#"{"input":"\d+ \x \u12g4 \u"}"#, r"\d+ \x \u12g4 \u");
        reads("{\"input\":\"two\nlines\"}", "two\nlines");
    }

    #[test]
    fn half_a_surrogate_pair_is_a_replacement_character() {
        for (escapes, wanted) in [
            (r"\ud83d!", "\u{fffd}!"),
            (r"\ude00!", "\u{fffd}!"),
            (r"\ud83d\n", "\u{fffd}\n"),
            (r"\ud83d\ud83d\ude00", "\u{fffd}😀"),
            (r"\ud83d\u0041", "\u{fffd}A"),
            (r"\ud83d\u00zz", "\u{fffd}\\u00zz"),
            (r"\ud83d\q", "\u{fffd}\\q"),
            (r"\ud83d", "\u{fffd}"),
        ] {
            reads(&format!(r#"{{"input":"{escapes}"}}"#), wanted);
        }
    }

    #[test]
    fn of_cut_arguments_what_was_certain_remains() {
        for (arguments, wanted) in [
            (r#"{"input":"ab\ud83d"#, "ab"),
            (r#"{"input":"ab\"#, "ab"),
            (r#"{"input":"ab"#, "ab"),
            (r#"{"inp"#, ""),
            (r#"{"input": "#, ""),
            (r#"{"other":"x"#, r#"{"other":"x"#),
            ("*** Begin", "*** Begin"),
        ] {
            assert_eq!(read([arguments], true).0, wanted, "{arguments}");
        }
    }

    #[test]
    fn the_string_is_certain_while_it_comes() {
        let mut input = FreeformInput::default();
        for (piece, certain) in [
            ("{\"inp", ""),
            ("ut\": ", ""),
            ("\"a", "a"),
            ("b\\", "ab"),
            ("n\\ud83d", "ab\n"),
            ("\\ude00c\"}", "ab\n😀c"),
        ] {
            input.push(piece);
            assert_eq!(input.certain(), certain);
        }
    }

    fn cut<'a>(text: &'a str, cuts: &[prop::sample::Index]) -> Vec<&'a str> {
        let mut at: Vec<usize> = cuts.iter().map(|cut| text.floor_char_boundary(cut.index(text.len() + 1))).collect();
        at.extend([0, text.len()]);
        at.sort_unstable();
        at.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect()
    }

    /// A JSON string with some of its characters escaped that need not be.
    fn escaped(text: &str, all: bool) -> String {
        if !all {
            return serde_json::to_string(text).unwrap();
        }
        let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
        format!("\"{units}\"")
    }

    proptest! {
        #[test]
        fn any_input_comes_back_however_it_is_escaped_and_cut(
            text: String,
            all: bool,
            after in prop::sample::select(vec!["}", " }", ",\"a\":\"\\\"\"}", ""]),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let dressed = format!("{{\"input\":{}{after}", escaped(&text, all));
            let (input, certain) = read(cut(&dressed, &cuts), false);
            prop_assert_eq!(&input, &text);
            prop_assert_eq!(&certain, &text);
            let dressed = arguments(&text);
            let ours: Arguments<'_> = serde_json::from_str(&dressed).unwrap();
            prop_assert_eq!(ours.input, text);
        }

        #[test]
        fn what_serde_json_reads_is_read_alike_however_it_is_cut(
            dressed in r#"\{ ?"(input|inpu|a)" ?: ?("([a-c/é😀]|\\[bfnrt"/\\]|\\u00[0-7][0-9a-f]|\\ud83d\\ude0[0-9]){0,6}"|1|\{\})(,"(input|a)":"[a-c]")?\}"#,
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let read = read(cut(&dressed, &cuts), false).0;
            let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&dressed).unwrap();
            // Of a repeated key serde_json takes the last, and a stream can only take the first.
            let repeated = dressed.matches("\"input\"").count() > 1;
            match object.get("input").and_then(serde_json::Value::as_str) {
                _ if repeated => {}
                Some(input) => prop_assert_eq!(read, input),
                None => prop_assert_eq!(read, dressed),
            }
        }

        #[test]
        fn cuts_change_nothing_whatever_comes(
            text in r#"[{}":\\uiinput0-9a-fdD8 \n😀]{0,40}"#,
            dressed: bool,
            was_cut: bool,
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let text = if dressed { format!("{{\"input\":\"{text}") } else { text };
            prop_assert_eq!(read(cut(&text, &cuts), was_cut).0, read([text.as_str()], was_cut).0);
        }
    }
}
