//! The tool calls of one answer: which delta belongs to which call, and what has been gathered of each.
//!
//! Backends disagree on how a delta names its call: by `index`, by `id`, by both, by neither, or with the same index
//! for every call. The rules of [`Calls::locate`] never collapse two calls into one.

use foldhash::{HashMap, HashSet};

use super::freeform::FreeformInput;
use super::tool_names::{Tool, ToolNames};
use crate::id::{ItemPrefix, ResponseId};
use crate::openai::chat_answer::ToolCallDelta;
use crate::openai::tool_call::CallKind;

/// The calls in the order in which they began.
#[derive(Debug, Default)]
pub(super) struct Calls {
    calls: Vec<Call>,
    /// The ids that calls have, and the last suffix of each that several wanted.
    taken: HashSet<String>,
    suffixes: HashMap<String, usize>,
}

/// One call, as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Call {
    index: Option<u64>,
    upstream_id: Option<String>,
    /// Fixed when the call is opened; empty before.
    pub(super) call_id: String,
    /// As the upstream says it; empty until it has.
    name: String,
    /// JSON text so far; empty for good once the call is `freeform`.
    arguments: String,
    /// All that has come of them.
    argument_bytes: usize,
    scan: ObjectScan,
    /// Known when the call is opened.
    opened: Option<Opened>,
    /// Touched by the current chunk's earlier entries.
    in_this_chunk: bool,
}

/// What is known of a call from its first event on.
#[derive(Debug)]
struct Opened {
    tool: Tool,
    /// What is written to a custom tool.
    freeform: Option<FreeformInput>,
    /// How many bytes of [`Call::text`] the client has seen.
    sent: usize,
}

impl Call {
    pub(super) fn has_name(&self) -> bool {
        !self.name.is_empty()
    }

    /// The index by which deltas name it, if they do.
    pub(super) fn index(&self) -> Option<u64> {
        self.index
    }

    /// Of its whole arguments what has not come; nothing if they are whole, or do not begin with what has.
    pub(super) fn rest_of<'m>(&self, whole: &'m str) -> Option<&'m str> {
        let is_freeform = self.opened.as_ref().is_some_and(|opened| opened.freeform.is_some());
        match self.is_whole() {
            true => None,
            // What came is not kept as it came.
            false if is_freeform => whole.get(self.argument_bytes..),
            false => whole.strip_prefix(self.arguments.as_str()),
        }
    }

    pub(super) fn is_opened(&self) -> bool {
        self.opened.is_some()
    }

    /// The length in bytes of the arguments so far, as they came.
    pub(super) fn argument_bytes(&self) -> usize {
        self.argument_bytes
    }

    /// Whether the arguments are one whole JSON object: nothing but white space can follow.
    pub(super) fn is_whole(&self) -> bool {
        let freeform = self.opened.as_ref().and_then(|opened| opened.freeform.as_ref());
        self.scan.whole && !freeform.is_some_and(FreeformInput::is_raw)
    }

    /// Finds the tool that is called.
    pub(super) fn open(&mut self, names: &ToolNames) {
        let plain = || Tool { kind: CallKind::Function, namespace: None, name: self.name.clone() };
        let tool = names.tool(&self.name).cloned().unwrap_or_else(plain);
        let freeform = (tool.kind == CallKind::Custom).then(|| {
            let mut freeform = FreeformInput::default();
            freeform.push(&std::mem::take(&mut self.arguments));
            freeform
        });
        self.opened = Some(Opened { tool, freeform, sent: 0 });
    }

    /// The tool, once the call is opened.
    pub(super) fn tool(&self) -> Option<&Tool> {
        self.opened.as_ref().map(|opened| &opened.tool)
    }

    /// What the client is told of the arguments so far.
    fn text(&self) -> &str {
        match self.opened.as_ref().and_then(|opened| opened.freeform.as_ref()) {
            Some(freeform) => freeform.certain(),
            None => &self.arguments,
        }
    }

    /// Marks all that is known as sent, and returns what of it was not before.
    pub(super) fn unsent(&mut self) -> &str {
        let end = self.text().len();
        let Some(opened) = &mut self.opened else { return "" };
        let sent = std::mem::replace(&mut opened.sent, end);
        self.text().get(sent..).unwrap_or_default()
    }

    /// Says that nothing more comes, be it because the call was `cut`.
    pub(super) fn end(&mut self, cut: bool) {
        match self.opened.as_mut().and_then(|opened| opened.freeform.as_mut()) {
            Some(freeform) => freeform.finish(cut),
            // A call without arguments is `{}` to every client that parses them.
            None if self.arguments.is_empty() && !cut => self.arguments.push_str("{}"),
            None => {}
        }
    }

    /// The whole text, which is not kept any longer.
    pub(super) fn take_text(&mut self) -> String {
        match self.opened.as_mut().and_then(|opened| opened.freeform.as_mut()) {
            Some(freeform) => freeform.take(),
            None => std::mem::take(&mut self.arguments),
        }
    }
}

/// What a delta came to.
#[derive(Debug)]
pub(super) struct Added<'d> {
    /// The call that it belongs to.
    pub(super) position: usize,
    /// Whether the call begins with it.
    pub(super) begins: bool,
    /// The arguments that it added.
    pub(super) arguments: &'d str,
    /// What is kept of it.
    pub(super) kept_bytes: usize,
}

impl Calls {
    /// How many calls there are.
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    /// Says that a new chunk begins.
    pub(super) fn begin_chunk(&mut self) {
        for call in &mut self.calls {
            call.in_this_chunk = false;
        }
    }

    /// Adds a delta to the call that it belongs to, or to a new one.
    pub(super) fn add<'d>(&mut self, delta: &'d ToolCallDelta<'_>) -> Added<'d> {
        let function = delta.function.as_ref();
        let name = function.and_then(|function| function.name.as_deref()).unwrap_or_default();
        let arguments = function.and_then(|function| function.arguments.as_deref()).unwrap_or_default();
        let id = delta.usable_id();
        let mut kept_bytes = arguments.len();
        let known = self.locate(delta.index, id, name, arguments);
        let position = known.unwrap_or_else(|| {
            // An empty call costs memory too.
            kept_bytes += size_of::<Call>();
            self.calls.push(Call { index: delta.index, ..Call::default() });
            self.calls.len() - 1
        });
        if let Some(call) = self.calls.get_mut(position) {
            // Set once, never blanked: later deltas may carry null, an empty string, or the same again.
            if call.upstream_id.is_none() && !id.is_empty() {
                call.upstream_id = Some(id.to_owned());
                kept_bytes += id.len();
            }
            if call.name.is_empty() {
                call.name.push_str(name);
                kept_bytes += name.len();
            }
            match call.opened.as_mut().and_then(|opened| opened.freeform.as_mut()) {
                Some(freeform) => freeform.push(arguments),
                None => call.arguments.push_str(arguments),
            }
            call.argument_bytes += arguments.len();
            call.scan.push(arguments);
            call.in_this_chunk = true;
        }
        Added { position, begins: known.is_none(), arguments, kept_bytes }
    }

    /// The call that a delta continues; `None` when it begins a new one.
    fn locate(&self, index: Option<u64>, id: &str, name: &str, arguments: &str) -> Option<usize> {
        let last_of = |wanted: &dyn Fn(&Call) -> bool| self.calls.iter().rposition(wanted);
        let starts_anew = |call: &Call| {
            let other_id = !id.is_empty() && call.upstream_id.as_deref().is_some_and(|known| known != id);
            let other_name = !call.name.is_empty() && call.name != name;
            // Only what names a function can begin a call: some backends draw a new id for every delta.
            !name.is_empty() && (other_id || other_name || (call.is_whole() && !arguments.trim().is_empty()))
        };
        let position = match index {
            Some(index) => last_of(&|call| call.index == Some(index))?,
            None if !id.is_empty() => match last_of(&|call| call.upstream_id.as_deref() == Some(id)) {
                Some(position) => position,
                None if !name.is_empty() => return None,
                None => self.calls.len().checked_sub(1)?,
            },
            None => {
                let last = self.calls.len().checked_sub(1)?;
                // Two entries of one chunk that say neither index nor id are two calls.
                if !name.is_empty() && self.calls.get(last).is_some_and(|call| call.in_this_chunk) {
                    return None;
                }
                last
            }
        };
        self.calls.get(position).is_some_and(|call| !starts_anew(call)).then_some(position)
    }

    /// An index above all that deltas have named.
    pub(super) fn next_index(&self) -> u64 {
        self.calls.iter().filter_map(|call| call.index).max().map_or(0, |highest| highest.saturating_add(1))
    }

    /// The call that a whole message means by an id, or without one, or by one that no delta had, by its place.
    pub(super) fn same_as(&self, place: usize, id: &str) -> Option<usize> {
        let has_id = |call: &Call| !id.is_empty() && call.upstream_id.as_deref() == Some(id);
        let has_none = |call: &Call| id.is_empty() || call.upstream_id.is_none();
        self.calls
            .iter()
            .position(has_id)
            .or_else(|| self.calls.get(place).filter(|call| has_none(call)).map(|_| place))
    }

    pub(super) fn get(&self, position: usize) -> Option<&Call> {
        self.calls.get(position)
    }

    pub(super) fn get_mut(&mut self, position: usize) -> Option<&mut Call> {
        self.calls.get_mut(position)
    }

    /// Fixes the call's id: the upstream's, made unique if another call has it, or made up once if there is none.
    pub(super) fn settle_id(&mut self, position: usize, response: &ResponseId, ordinal: usize) {
        let Some(call) = self.calls.get_mut(position) else { return };
        let wanted = call.upstream_id.clone().unwrap_or_else(|| response.item(ItemPrefix::Call, ordinal));
        let mut call_id = wanted.clone();
        if self.taken.contains(&call_id) {
            // Each suffix is tried once, however many calls want the same id.
            let suffix = self.suffixes.entry(wanted.clone()).or_insert(1);
            while self.taken.contains(&call_id) {
                *suffix += 1;
                call_id = format!("{wanted}_{suffix}");
            }
        }
        self.taken.insert(call_id.clone());
        call.call_id = call_id;
    }
}

/// Finds the end of a JSON object without parsing it twice: depth and string state, byte by byte.
#[derive(Debug, Default)]
struct ObjectScan {
    /// More than white space has come.
    begun: bool,
    /// It did not begin like an object or a list: no JSON to scan.
    foreign: bool,
    depth: usize,
    in_string: bool,
    escaped: bool,
    whole: bool,
}

impl ObjectScan {
    fn push(&mut self, text: &str) {
        for byte in text.bytes() {
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            if !self.begun && !byte.is_ascii_whitespace() {
                self.begun = true;
                self.foreign = !matches!(byte, b'{' | b'[');
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.whole = self.depth == 0 && !self.foreign;
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(chunks: &[&str]) -> Vec<(String, String)> {
        let mut calls = Calls::default();
        for chunk in chunks {
            calls.begin_chunk();
            for delta in &serde_json::from_str::<Vec<ToolCallDelta<'_>>>(chunk).unwrap() {
                calls.add(delta);
            }
        }
        calls.calls.into_iter().map(|call| (call.name, call.arguments)).collect()
    }

    #[test]
    fn deltas_find_their_call_however_the_backend_names_it() {
        let two = vec![("f".to_owned(), r#"{"a":1}"#.to_owned()), ("f".to_owned(), r#"{"a":2}"#.to_owned())];
        let by_index = [
            r#"[{"index":0,"id":"x","function":{"name":"f","arguments":""}}]"#,
            r#"[{"index":1,"id":"y","function":{"name":"f","arguments":"{\"a\""}}]"#,
            r#"[{"index":0,"id":null,"function":{"name":null,"arguments":"{\"a\":1}"}}]"#,
            r#"[{"index":1,"id":"","function":{"name":"","arguments":":2}"}}]"#,
        ];
        assert_eq!(gathered(&by_index), two);
        let same_index = [
            r#"[{"index":0,"id":"x","function":{"name":"f","arguments":"{\"a\":1}"}}]"#,
            r#"[{"index":0,"id":"y","function":{"name":"f","arguments":"{\"a\":2}"}}]"#,
        ];
        assert_eq!(gathered(&same_index), two);
        let no_index = [
            r#"[{"id":"x","function":{"name":"f","arguments":"{\"a\""}}]"#,
            r#"[{"function":{"arguments":":1}"}}]"#,
            r#"[{"id":"y","function":{"name":"f","arguments":{"a":2}}}]"#,
        ];
        assert_eq!(gathered(&no_index), two);
        let nothing_but_names = [
            r#"[{"function":{"name":"f","arguments":"{\"a\":1}"}},{"function":{"name":"f","arguments":"{\"a\":2}"}}]"#,
        ];
        assert_eq!(gathered(&nothing_but_names), two);
        let same_index_no_id = [
            r#"[{"index":0,"function":{"name":"f","arguments":"{\"a\":1}"}}]"#,
            r#"[{"index":0,"function":{"name":"f","arguments":"{\"a\":2}"}}]"#,
        ];
        assert_eq!(gathered(&same_index_no_id), two);
    }

    #[test]
    fn a_name_repeated_or_an_id_redrawn_with_every_delta_stays_one_call() {
        let one = vec![("f".to_owned(), r#"{"a":1}"#.to_owned())];
        let repeated = [
            r#"[{"index":0,"id":"x","function":{"name":"f","arguments":"{\"a\""}}]"#,
            r#"[{"index":0,"id":"x","function":{"name":"f","arguments":":1}"}}]"#,
        ];
        assert_eq!(gathered(&repeated), one);
        let redrawn = [
            r#"[{"index":0,"id":"x","function":{"name":"f","arguments":"{\"a\""}}]"#,
            r#"[{"index":0,"id":"y","function":{"arguments":":1}"}}]"#,
        ];
        assert_eq!(gathered(&redrawn), one);
    }

    #[test]
    fn the_end_of_an_object_is_found_through_strings_and_nesting() {
        for (text, whole) in [
            (r#"{"a":"}\"}","b":{"c":[]}}"#, true),
            (r#"{"a":"}"#, false),
            ("", false),
            ("{}", true),
            (r#"{"a":{}"#, false),
        ] {
            let mut scan = ObjectScan::default();
            scan.push(text);
            assert_eq!(scan.whole, whole, "{text}");
        }
    }

    #[test]
    fn ids_that_several_calls_want_get_suffixes_that_none_has() {
        let mut calls = Calls::default();
        let response = ResponseId::from_bits(1);
        for (position, id) in ["x_2", "x", "x", "x", "x_2", "y", "y"].into_iter().enumerate() {
            let index = u64::try_from(position).ok();
            calls.add(&ToolCallDelta { index, id: Some(id.into()), ..ToolCallDelta::default() });
            calls.settle_id(position, &response, position);
        }
        let ids: Vec<_> = calls.calls.iter().map(|call| &*call.call_id).collect();
        assert_eq!(ids, ["x_2", "x", "x_3", "x_4", "x_2_2", "y", "y_2"]);
    }

    #[test]
    fn an_id_that_is_too_long_is_replaced_by_one_of_ours() {
        let mut calls = Calls::default();
        let (longest, longer) = ("i".repeat(256), "i".repeat(257));
        for (position, id) in [&longest, &longer].into_iter().enumerate() {
            let index = u64::try_from(position).ok();
            calls.add(&ToolCallDelta { index, id: Some(id.as_str().into()), ..ToolCallDelta::default() });
            calls.settle_id(position, &ResponseId::from_bits(1), position);
        }
        let ids: Vec<_> = calls.calls.iter().map(|call| &*call.call_id).collect();
        assert_eq!(ids, [&*longest, "call_00000000000000000000000000000001_1"]);
    }
}
