//! Reasoning that a backend leaves in the answer's text, between tags, told apart from the text.
//!
//! ```text
//!             opening tag                closing tag                anything but white space
//! Start ───────────────────► Thinking ──────────────────► Closed ───────────────────────────► Text
//!   └──────────── anything else: all of it is text ────────────────────────────────────────────▲
//! ```
//! Only the beginning of the text counts: a tag that stands later is text, as is every later pair. Tags may be cut
//! anywhere. What might still become a tag is held back, so the pieces do not depend on the cuts. White space before the
//! opening tag and behind either is the tags' own.

use super::settings::{SplitThink, ThinkTags};
use super::upstream_dialect::UpstreamDialect;
use crate::openai::chat_answer::TokenLogprob;

/// Tells reasoning and text apart as they come.
#[derive(Debug)]
pub(super) struct ThinkSplitter {
    tags: ThinkTags,
    state: State,
    /// In `Start`: white space that came before everything else.
    space: String,
    /// In `Start` and `Thinking`: the beginning of a tag, shorter than that.
    partial: String,
    /// What came in, all told.
    bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start {
        /// The opening tag may be missing, because it was in the prompt.
        implied: bool,
    },
    /// Behind the opening tag; white space goes until something came.
    Thinking {
        begun: bool,
    },
    Closed,
    Text,
}

/// What came out: reasoning, and then text. Either may be empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pieces {
    pub(super) reasoning: String,
    pub(super) text: String,
}

impl ThinkSplitter {
    /// For the answer of a backend, if its dialect wants text split.
    pub(super) fn of(dialect: &UpstreamDialect) -> Option<Self> {
        let implied = match dialect.split_think {
            SplitThink::Off => return None,
            SplitThink::On => false,
            SplitThink::Implied => true,
        };
        Some(Self::new(dialect.think_tags.clone(), implied))
    }

    fn new(tags: ThinkTags, implied: bool) -> Self {
        Self { tags, state: State::Start { implied }, space: String::new(), partial: String::new(), bytes: 0 }
    }

    /// Splits a text that is whole already and that somebody else wrote: the opening tag has to be there.
    pub(super) fn split(dialect: &UpstreamDialect, text: &str) -> Pieces {
        let mut splitter = Self::new(dialect.think_tags.clone(), false);
        let mut pieces = splitter.push(text);
        let rest = splitter.flush();
        pieces.reasoning.push_str(&rest.reasoning);
        pieces.text.push_str(&rest.text);
        pieces
    }

    /// Of the log probabilities of everything so far those of the text that came out last. Those of tags and of reasoning
    /// have no place in a response.
    pub(super) fn logprobs_of(&self, text: &str, logprobs: Vec<TokenLogprob>) -> Vec<TokenLogprob> {
        let text_begins = self.bytes.saturating_sub(text.len());
        let mut begins = 0_usize;
        let is_before = |logprob: &TokenLogprob| {
            let before = begins < text_begins;
            // A token that is a part of a character shows another one in its place; its bytes are true.
            begins += if logprob.bytes.is_empty() { logprob.token.len() } else { logprob.bytes.len() };
            before
        };
        logprobs.into_iter().skip_while(is_before).collect()
    }

    /// Whether any text has come in.
    pub(super) fn has_begun(&self) -> bool {
        self.bytes > 0
    }

    /// Whether all that follows is text.
    pub(super) fn is_past(&self) -> bool {
        self.state == State::Text
    }

    /// The backend has told some reasoning apart by itself, so none is implied in its text.
    pub(super) fn reasoning_came(&mut self) {
        if self.state == (State::Start { implied: true }) {
            self.state = State::Start { implied: false };
        }
    }

    /// Takes the next text of the answer.
    pub(super) fn push(&mut self, text: &str) -> Pieces {
        self.bytes += text.len();
        let mut pieces = Pieces::default();
        let mut rest = text;
        if let State::Start { implied } = self.state {
            if self.partial.is_empty() {
                let bare = rest.trim_start();
                self.space.push_str(rest.strip_suffix(bare).unwrap_or_default());
                rest = bare;
            }
            self.partial.push_str(rest);
            if self.tags.open.starts_with(&self.partial) && self.partial != self.tags.open {
                return pieces;
            }
            let held = std::mem::take(&mut self.partial);
            if let Some(thoughts) = held.strip_prefix(&self.tags.open) {
                self.state = State::Thinking { begun: false };
                self.think(thoughts, &mut pieces);
            } else if implied {
                self.state = State::Thinking { begun: false };
                self.think(&held, &mut pieces);
            } else {
                self.state = State::Text;
                pieces.text = std::mem::take(&mut self.space) + &held;
            }
            return pieces;
        }
        match self.state {
            State::Start { .. } => {}
            State::Thinking { .. } => self.think(rest, &mut pieces),
            State::Closed => self.after(rest, &mut pieces),
            State::Text => pieces.text.push_str(rest),
        }
        pieces
    }

    /// Takes text inside the tags.
    fn think(&mut self, text: &str, pieces: &mut Pieces) {
        let mut text = text;
        if self.state == (State::Thinking { begun: false }) {
            text = text.trim_start();
            if text.is_empty() {
                return;
            }
            self.state = State::Thinking { begun: true };
        }
        let mut thoughts = std::mem::take(&mut self.partial) + text;
        if let Some(at) = thoughts.find(&self.tags.close) {
            let after = thoughts.split_off(at);
            pieces.reasoning.push_str(&thoughts);
            self.state = State::Closed;
            self.after(after.strip_prefix(&self.tags.close).unwrap_or_default(), pieces);
            return;
        }
        let keep = partial_tag(&thoughts, &self.tags.close);
        self.partial = thoughts.split_off(thoughts.len() - keep);
        pieces.reasoning.push_str(&thoughts);
    }

    /// Takes text behind the closing tag.
    fn after(&mut self, text: &str, pieces: &mut Pieces) {
        let text = text.trim_start();
        if !text.is_empty() {
            self.state = State::Text;
            pieces.text.push_str(text);
        }
    }

    /// Gives out what was held back: nothing continues it, because something else came, or nothing more will.
    pub(super) fn flush(&mut self) -> Pieces {
        let held = std::mem::take(&mut self.partial);
        match self.state {
            State::Start { implied: true } if !held.is_empty() => {
                self.state = State::Thinking { begun: true };
                Pieces { reasoning: held, text: String::new() }
            }
            State::Start { .. } => {
                let text = std::mem::take(&mut self.space) + &held;
                if !text.is_empty() {
                    self.state = State::Text;
                }
                Pieces { reasoning: String::new(), text }
            }
            _ => Pieces { reasoning: held, text: String::new() },
        }
    }
}

/// How many bytes at the end of a text could be the beginning of a tag.
fn partial_tag(text: &str, tag: &str) -> usize {
    let longest = text.len().min(tag.len().saturating_sub(1));
    // At most 63 comparisons, whatever the text's length.
    let begins =
        |length: &usize| text.as_bytes().get(text.len() - length..).is_some_and(|end| tag.as_bytes().starts_with(end));
    (1..=longest).rev().find(begins).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What comes of a text that comes in these pieces and then ends.
    fn split<'t>(implied: bool, texts: impl IntoIterator<Item = &'t str>) -> (String, String) {
        let mut splitter = ThinkSplitter::new(ThinkTags::default(), implied);
        let (mut reasoning, mut text) = (String::new(), String::new());
        let mut take = |pieces: Pieces| {
            assert!(pieces.reasoning.is_empty() || text.is_empty(), "reasoning behind text");
            reasoning.push_str(&pieces.reasoning);
            text.push_str(&pieces.text);
        };
        for piece in texts {
            take(splitter.push(piece));
        }
        take(splitter.flush());
        (reasoning, text)
    }

    fn both(reasoning: &str, text: &str) -> (String, String) {
        (reasoning.to_owned(), text.to_owned())
    }

    #[test]
    fn only_the_beginning_of_the_text_counts() {
        assert_eq!(split(false, ["\n <think>\na</think>\n\nb"]), both("a", "b"));
        assert_eq!(split(false, ["<think></think>b"]), both("", "b"));
        assert_eq!(split(false, ["b <think>a</think>"]), both("", "b <think>a</think>"));
        assert_eq!(split(false, ["<think>a</think>b<think>c</think>"]), both("a", "b<think>c</think>"));
        assert_eq!(split(false, ["a</think>b"]), both("", "a</think>b"));
        assert_eq!(split(false, [" <thin"]), both("", " <thin"));
        assert_eq!(split(false, [" \n"]), both("", " \n"));
    }

    #[test]
    fn what_is_never_closed_is_all_reasoning() {
        assert_eq!(split(false, ["<think>a</thi"]), both("a</thi", ""));
        assert_eq!(split(true, ["a"]), both("a", ""));
        assert_eq!(split(true, ["<th"]), both("<th", ""));
    }

    #[test]
    fn an_implied_opening_tag_may_be_there_all_the_same() {
        assert_eq!(split(true, ["a</think>\nb"]), both("a", "b"));
        assert_eq!(split(true, ["<think>a</think>b"]), both("a", "b"));
        assert_eq!(split(true, ["</think>b"]), both("", "b"));
    }

    #[test]
    fn nothing_is_implied_once_the_backend_has_told_reasoning_apart() {
        let mut splitter = ThinkSplitter::new(ThinkTags::default(), true);
        splitter.reasoning_came();
        assert_eq!(splitter.push("b"), Pieces { text: "b".to_owned(), ..Pieces::default() });
        assert!(splitter.is_past());
    }

    proptest! {
        /// Whatever the text and wherever it is cut, by characters, the outcome is that of the whole.
        #[test]
        fn any_cut_gives_the_same(
            parts in prop::collection::vec(
                prop::sample::select(vec!["<think>", "</think>", "<thi", "</", "<", "nk>", " ", "\n", "a", "é"]), 0..12),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
            implied in any::<bool>(),
        ) {
            let text = parts.concat();
            let chars: Vec<&str> = text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]).collect();
            let whole = split(implied, [text.as_str()]);
            prop_assert_eq!(&split(implied, chars.iter().copied()), &whole);
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(chars.len() + 1)).collect();
            at.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in at.into_iter().chain([chars.len()]) {
                pieces.push(chars[from..cut].concat());
                from = cut;
            }
            prop_assert_eq!(&split(implied, pieces.iter().map(String::as_str)), &whole);
        }
    }
}
