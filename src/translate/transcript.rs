//! Items into chat messages: who said what, with each round of calls in the shape that chat templates accept.
//!
//! Contiguous assistant-side items (reasoning, text, calls) become ONE assistant message; its tool messages follow it
//! directly, one per call, whatever stood between in the items. An output closes the round, so call, output, call,
//! output stays two rounds.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::fmt::Display;

use foldhash::{HashMap, HashMapExt as _};
use serde_json::value::RawValue;

use super::error::RequestError;
use super::freeform;
use super::lossy::Lossy;
use super::parts::{self, ToolOutput};
use super::settings::{
    AssistantContent, DeveloperRole, HistoryRepair, ReasoningField, ReasoningReplay, SplitThink, SystemMessages,
};
use super::think::ThinkSplitter;
use super::tool_names::{Tool, ToolNames};
use super::upstream_dialect::UpstreamDialect;
use crate::openai::chat::{CalledFunction, ChatContent, ChatMessage, ChatPart, ChatToolCall};
use crate::openai::item::{Item, Part, Role};
use crate::openai::json_meaning::JsonMeaning;
use crate::openai::json_text::JsonText;
use crate::openai::tool_call::{CallKind, ToolCall};

/// The output of a call that has none.
const NO_OUTPUT: &str = "tool result unavailable";

/// Gathers items in order, oldest first, and then becomes messages.
pub(super) struct Transcript<'a> {
    dialect: &'a UpstreamDialect,
    names: &'a ToolNames,
    repair: HistoryRepair,
    /// Instructions and hoisted system text, in order.
    leading: Vec<JsonText>,
    lines: Vec<Line>,
    rounds: Vec<Round>,
    /// Whether assistant-side items still join the last round.
    round_is_open: bool,
    /// Where each call is, the latest of its id: round and position.
    calls: HashMap<String, (usize, usize)>,
    /// Items of the chain and those that the input refers to, by id: a client may replay them.
    kept: HashMap<Cow<'a, str>, Cow<'a, Item>>,
    /// How many rounds came before the input that is being added, which may replay them. None while answers are added:
    /// what a model calls there is called anew.
    rounds_before_input: usize,
}

/// Where an item is from.
#[derive(Clone, Copy)]
pub(super) enum Origin<'a> {
    /// The chain, which has it as this.
    Chain(&'a Item),
    /// The chain, which has it with its text sealed, or the input, which refers to it.
    Elsewhere,
    /// The input itself.
    Input,
}

enum Line {
    Said {
        role: Role,
        content: ChatContent,
    },
    /// The next of the rounds.
    Round,
}

#[derive(Default)]
struct Round {
    texts: Vec<JsonText>,
    reasoning: Vec<String>,
    calls: Vec<Call>,
}

struct Call {
    call_id: String,
    name: String,
    arguments: JsonMeaning<String>,
    output: Option<ToolOutput>,
}

impl<'a> Transcript<'a> {
    pub(super) fn new(
        dialect: &'a UpstreamDialect,
        names: &'a ToolNames,
        repair: HistoryRepair,
        instructions: Option<&str>,
    ) -> Self {
        Self {
            dialect,
            names,
            repair,
            leading: instructions.filter(|text| !text.is_empty()).map(JsonText::of).into_iter().collect(),
            lines: Vec::new(),
            rounds: Vec::new(),
            round_is_open: false,
            calls: HashMap::new(),
            kept: HashMap::new(),
            rounds_before_input: 0,
        }
    }

    /// Says that the input of a turn follows.
    pub(super) fn begin_input(&mut self) {
        self.rounds_before_input = self.rounds.len();
    }

    /// Says that the answer of a turn follows.
    pub(super) fn begin_answer(&mut self) {
        self.rounds_before_input = 0;
    }

    /// Sets room aside for so many items more.
    pub(super) fn expect(&mut self, items: usize) {
        self.kept.reserve(items);
    }

    /// Adds an item; `param` is its path in the request, or a name for those of the chain. Says whether it is a replay,
    /// known by its id.
    pub(super) fn add(
        &mut self,
        id: Option<Cow<'a, str>>,
        item: Item,
        origin: Origin<'a>,
        param: &dyn Display,
        lossy: &mut Lossy,
    ) -> Result<bool, RequestError> {
        // The reference lets the output of a local shell name its call by either id.
        let shell_id = match &item {
            Item::Call(call) if call.kind == CallKind::LocalShell => id.as_deref().map(ToOwned::to_owned),
            _ => None,
        };
        if self.is_replay(id, &item, origin) {
            return Ok(true);
        }
        match item {
            Item::Message { role: Role::Assistant, content } => self.assistant(content, param)?,
            Item::Message { role: Role::User, content } => {
                let content = self.chat_content(content, param, lossy)?;
                self.round_is_open = false;
                self.lines.push(Line::Said { role: Role::User, content });
            }
            Item::Message { role: role @ (Role::System | Role::Developer), content } => {
                self.system(role, content, param, lossy)?;
            }
            Item::Reasoning { text } if text.is_empty() => {}
            Item::Reasoning { text } => self.join_round(|round| round.reasoning.push(text)),
            Item::Call(call) => self.call(call, shell_id, lossy),
            Item::CallOutput { call_id, output, .. } => self.output(call_id, output, param, lossy)?,
            Item::AdditionalTools => {}
            Item::AgentMessage { heading, text, encrypted } => self.agent(&heading, &text, encrypted, lossy),
            // Input has none left. Earlier releases kept those to items of the chain, which say nothing new.
            Item::Reference { .. } => {}
            Item::Unknown { kind } => lossy.skip("item_type", &kind),
        }
        Ok(false)
    }

    /// Whether this very item is in the chain, or was referred to. An id on other content is no replay: a client's own
    /// ids may repeat, even on what it says twice, and losing what it said would be worse than saying it twice.
    fn is_replay(&mut self, id: Option<Cow<'a, str>>, item: &Item, origin: Origin<'a>) -> bool {
        let Some(id) = id.filter(|_| !matches!(item, Item::Reference { .. })) else { return false };
        let keeps = |origin| match origin {
            Origin::Chain(stored) => Some(Cow::Borrowed(stored)),
            Origin::Elsewhere => Some(Cow::Owned(item.clone())),
            Origin::Input => None,
        };
        match self.kept.entry(id) {
            Entry::Vacant(place) => {
                if let Some(kept) = keeps(origin) {
                    place.insert(kept);
                }
                false
            }
            Entry::Occupied(mut place) => {
                let is_replay = match (&**place.get(), item) {
                    // Clients replay reasoning stripped of its text.
                    (Item::Reasoning { .. }, Item::Reasoning { text }) if text.is_empty() => true,
                    (kept, item) => kept == item,
                };
                if !is_replay {
                    match keeps(origin) {
                        Some(kept) => drop(place.insert(kept)),
                        None => drop(place.remove()),
                    }
                }
                is_replay
            }
        }
    }

    /// Changes the round that is open, after opening one if none is.
    fn join_round(&mut self, change: impl FnOnce(&mut Round)) {
        if !self.round_is_open {
            self.lines.push(Line::Round);
            self.rounds.push(Round::default());
            self.round_is_open = true;
        }
        if let Some(round) = self.rounds.last_mut() {
            change(round);
        }
    }

    fn assistant(&mut self, content: Vec<Part>, param: &dyn Display) -> Result<(), RequestError> {
        if content.iter().any(|part| matches!(part, Part::Image { .. } | Part::Audio(_) | Part::File { .. })) {
            let reason = "assistant messages can hold text only".to_owned();
            return Err(RequestError::Unsupported { param: format!("{param}.content"), reason });
        }
        // A refusal goes up as text: few templates know the refusal member, and the model should see what it said.
        let mut text = JsonText::join(content.into_iter().filter_map(Part::into_text).collect(), "");
        // Clients that know no reasoning items replay what they took out of the text in the same tags.
        if self.dialect.split_think != SplitThink::Off {
            let pieces = ThinkSplitter::split(self.dialect, &text.decode());
            if !pieces.reasoning.is_empty() {
                self.join_round(|round| round.reasoning.push(pieces.reasoning));
            }
            text = JsonText::of(&pieces.text);
        }
        if !text.is_empty() {
            self.join_round(|round| round.texts.push(text));
        }
        Ok(())
    }

    fn chat_content(
        &self,
        parts: Vec<Part>,
        param: &dyn Display,
        lossy: &mut Lossy,
    ) -> Result<ChatContent, RequestError> {
        parts::chat_content(parts, &format_args!("{param}.content"), self.dialect, lossy)
    }

    fn system(
        &mut self,
        role: Role,
        content: Vec<Part>,
        param: &dyn Display,
        lossy: &mut Lossy,
    ) -> Result<(), RequestError> {
        let content = self.chat_content(content, param, lossy)?;
        match self.dialect.system_messages {
            SystemMessages::Merge => match content {
                ChatContent::Text(text) => {
                    if !text.is_empty() {
                        self.leading.push(text);
                    }
                }
                ChatContent::Parts(_) => {
                    let reason = "system messages can hold text only".to_owned();
                    return Err(RequestError::Unsupported { param: format!("{param}.content"), reason });
                }
            },
            SystemMessages::Keep => {
                self.round_is_open = false;
                self.lines.push(Line::Said { role, content });
            }
        }
        Ok(())
    }

    /// Another agent's message, as a user's.
    fn agent(&mut self, heading: &str, text: &str, encrypted: bool, lossy: &mut Lossy) {
        if encrypted {
            lossy.skip("agent_message", "encrypted_content");
        }
        if !text.is_empty() {
            self.round_is_open = false;
            let content = ChatContent::Text(JsonText::of(&format!("{heading}\n{text}")));
            self.lines.push(Line::Said { role: Role::User, content });
        }
    }

    fn call(&mut self, call: ToolCall, other_id: Option<String>, lossy: &mut Lossy) {
        let ToolCall { kind, call_id, namespace, name, payload } = call;
        let name = self.names.in_chat(&Tool { kind, namespace, name });
        let arguments = match kind {
            CallKind::Custom => freeform::arguments(&payload),
            _ if payload.is_empty() || is_object(&payload) => payload,
            // Cut short, or wrongly escaped by the model. Servers read them anew in every turn, and refuse all of them:
            // vllm-project/vllm#43995, sgl-project/sglang#28035.
            _ => {
                lossy.skip("call_arguments", &call_id);
                freeform::arguments(&payload)
            }
        };
        // The client replays a call under another item id, or under none. Answered ones too, where it can be nothing
        // else: what a model calls anew is never first seen in the input of a turn whose chain has that call.
        let of_history = self.calls.get(&call_id).is_some_and(|(round, _)| *round < self.rounds_before_input);
        let arguments = JsonMeaning::of(arguments);
        if let Some(known) = self.call_at(&call_id)
            && known.name == name
            && (known.output.is_none() || of_history)
            && known.arguments.is_same(&arguments)
        {
            return;
        }
        let mut position = 0;
        self.join_round(|round| {
            position = round.calls.len();
            round.calls.push(Call { call_id: call_id.clone(), name, arguments, output: None });
        });
        let place = (self.rounds.len().saturating_sub(1), position);
        if let Some(other_id) = other_id {
            self.calls.entry(other_id).or_insert(place);
        }
        self.calls.insert(call_id, place);
    }

    fn call_at(&mut self, call_id: &str) -> Option<&mut Call> {
        let (round, position) = *self.calls.get(call_id)?;
        self.rounds.get_mut(round)?.calls.get_mut(position)
    }

    fn output(
        &mut self,
        call_id: String,
        output: Vec<Part>,
        param: &dyn Display,
        lossy: &mut Lossy,
    ) -> Result<(), RequestError> {
        let output = parts::tool_output(output, &format_args!("{param}.output"), self.dialect, lossy)?;
        let repair = self.repair;
        match self.call_at(&call_id) {
            None if repair == HistoryRepair::Repair => {
                lossy.skip("output_without_call", &call_id);
                return Ok(());
            }
            None => return Err(RequestError::UnknownCall { call_id }),
            Some(call) => match &call.output {
                None => {
                    call.output = Some(output);
                    self.round_is_open = false;
                }
                Some(known) if *known == output => {}
                Some(_) => {
                    let reason = "this call already has another output".to_owned();
                    return Err(RequestError::InvalidValue { param: format!("{param}.call_id"), reason });
                }
            },
        }
        Ok(())
    }

    /// The messages, oldest first, with one leading system message when there is anything for it. `instruction` is put
    /// to its end, unless there is nothing else to be sent.
    pub(super) fn into_messages(
        self,
        instruction: Option<String>,
        lossy: &mut Lossy,
    ) -> Result<Vec<ChatMessage>, RequestError> {
        let (dialect, repair) = (self.dialect, self.repair);
        let mut messages = Vec::with_capacity(self.lines.len() + 1);
        let mut leading = self.leading;
        if !leading.is_empty() || !self.lines.is_empty() {
            leading.extend(instruction.as_deref().map(JsonText::of));
        }
        if !leading.is_empty() {
            // Merged text is one message, whose role is what the backend calls such text.
            let role = match dialect.system_messages {
                SystemMessages::Merge => Role::Developer,
                SystemMessages::Keep => Role::System,
            };
            messages.push(system_message(role, ChatContent::Text(JsonText::join(leading, "\n\n")), dialect));
        }
        // Rounds stand in the lines in their own order.
        let mut rounds = self.rounds.into_iter();
        for line in self.lines {
            match line {
                Line::Said { role: Role::User, content } => messages.push(ChatMessage::User { content }),
                Line::Said { role, content } => messages.push(system_message(role, content, dialect)),
                Line::Round => {
                    if let Some(round) = rounds.next() {
                        round.into_messages(dialect, repair, &mut messages, lossy)?;
                    }
                }
            }
        }
        Ok(messages)
    }
}

/// Whether a text is one JSON object. It is walked once, at any depth, and not kept.
fn is_object(text: &str) -> bool {
    text.trim_start().starts_with('{') && serde_json::from_str::<&RawValue>(text).is_ok()
}

fn system_message(role: Role, content: ChatContent, dialect: &UpstreamDialect) -> ChatMessage {
    match (role, dialect.developer_role) {
        (Role::Developer, DeveloperRole::Developer) => ChatMessage::Developer { content },
        _ => ChatMessage::System { content },
    }
}

impl Round {
    fn into_messages(
        self,
        dialect: &UpstreamDialect,
        repair: HistoryRepair,
        messages: &mut Vec<ChatMessage>,
        lossy: &mut Lossy,
    ) -> Result<(), RequestError> {
        let replayed = match dialect.reasoning_replay {
            ReasoningReplay::Never => false,
            ReasoningReplay::ToolTurns => !self.calls.is_empty(),
            ReasoningReplay::Always => true,
        };
        // An empty string is refused by backends that want reasoning back, so it is left out then.
        let thoughts = (replayed && !self.reasoning.is_empty()).then(|| self.reasoning.join("\n\n"));
        let text = JsonText::join(self.texts, "\n\n");
        if text.is_empty() && self.calls.is_empty() && thoughts.is_none() {
            return Ok(());
        }
        let has_content =
            !text.is_empty() || self.calls.is_empty() || dialect.assistant_content == AssistantContent::String;
        let mut tool_calls = Vec::with_capacity(self.calls.len());
        let mut outputs = Vec::with_capacity(self.calls.len());
        let mut media = Vec::new();
        for Call { call_id, name, arguments, output } in self.calls {
            let output = match output {
                Some(output) => output,
                None if repair == HistoryRepair::Repair => {
                    lossy.skip("call_without_output", &call_id);
                    ToolOutput::of_text(NO_OUTPUT)
                }
                None => return Err(RequestError::UnansweredCall { call_id }),
            };
            if !output.media.is_empty() {
                let text = JsonText::of(&format!("Output of tool call {call_id}:"));
                media.push(ChatPart::Text { text });
                media.extend(output.media);
            }
            let arguments = arguments.into_text();
            let arguments = if arguments.is_empty() { "{}".to_owned() } else { arguments };
            outputs.push(ChatMessage::Tool { tool_call_id: call_id.clone(), content: output.content });
            let function = CalledFunction { name, arguments };
            tool_calls.push(ChatToolCall { id: call_id, kind: "function", function });
        }
        let (reasoning_content, reasoning) = match dialect.reasoning_field {
            ReasoningField::ReasoningContent => (thoughts, None),
            ReasoningField::Reasoning => (None, thoughts),
        };
        let content = has_content.then_some(text);
        messages.push(ChatMessage::Assistant { content, reasoning_content, reasoning, tool_calls });
        messages.append(&mut outputs);
        if !media.is_empty() {
            // Tool messages follow their assistant message directly, so it stands behind all of them.
            messages.push(ChatMessage::User { content: ChatContent::Parts(media) });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::settings::Settings;

    #[test]
    fn a_stored_item_that_comes_again_and_again_is_said_once() {
        let said = |text| Item::Message { role: Role::User, content: vec![Part::Text(JsonText::of(text))] };
        let (settings, names, stored) = (Settings::default(), ToolNames::default(), said("hi"));
        let dialect = settings.for_model("m");
        let mut transcript = Transcript::new(dialect, &names, HistoryRepair::Strict, None);
        let mut add = |item: Item, origin| {
            transcript.add(Some(Cow::Borrowed("msg_1")), item, origin, &"input[0]", &mut Lossy::default()).unwrap();
            transcript.lines.len()
        };
        assert_eq!(add(stored.clone(), Origin::Chain(&stored)), 1);
        for _ in 0..3 {
            assert_eq!(add(said("hi"), Origin::Input), 1);
        }
        // Other content under the same id is said, and shows that the id says nothing.
        assert_eq!(add(said("no"), Origin::Input), 2);
        assert_eq!(add(said("no"), Origin::Input), 3);
        assert_eq!(add(said("hi"), Origin::Input), 4);
    }
}
