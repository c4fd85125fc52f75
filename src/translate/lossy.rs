//! What a translation had to leave out, so that nothing is dropped in silence (CONTRACT §4).

use std::fmt::Write;

use crate::openai::raw::RawObject;

/// The longest detail that is reported, in bytes.
const MAX_DETAIL_BYTES: usize = 64;

/// The most skips that are told apart; further ones are alike, so that a request of a million unknown keys costs no
/// more to report than one of a hundred.
const MAX_SKIPPED: usize = 128;

/// Everything that one request's translation skipped. Each `(what, detail)` is noted once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lossy {
    skipped: Vec<Skipped>,
    /// How often something was skipped beyond what is told apart.
    more: usize,
}

/// One thing that was skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// A word of a closed set, fit for a metric label.
    pub what: &'static str,
    /// Which one, for the header only: the tool's type, the parameter's value.
    pub detail: String,
}

impl Lossy {
    /// Notes something skipped. The detail comes from the client, so it is cut and reduced to header-safe characters.
    pub fn skip(&mut self, what: &'static str, detail: &str) {
        let safe = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let detail: String = detail.chars().filter(safe).take(MAX_DETAIL_BYTES).collect();
        let skipped = Skipped { what, detail };
        if self.skipped.contains(&skipped) {
            return;
        }
        if self.skipped.len() < MAX_SKIPPED {
            self.skipped.push(skipped);
        } else {
            self.more += 1;
        }
    }

    /// What was skipped, in the order of finding.
    pub fn iter(&self) -> impl Iterator<Item = &Skipped> {
        self.skipped.iter()
    }

    /// The value of `x-responses-lossy`, at most 1 KiB; `None` when nothing was skipped.
    #[must_use]
    pub fn header(&self) -> Option<String> {
        let mut value = String::new();
        for (index, Skipped { what, detail }) in self.skipped.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            let equals = if detail.is_empty() { "" } else { "=" };
            if value.len() + what.len() + detail.len() > 1000 {
                let _ = write!(value, ", and-{}-more", self.skipped.len() - index + self.more);
                break;
            }
            // Writing to a String cannot fail.
            let _ = write!(value, "{separator}{what}{equals}{detail}");
        }
        (!value.is_empty()).then_some(value)
    }
}

/// Reports the members of a nested object that are not among the known ones.
pub(super) fn skip_unknown(object: &RawObject, known: &[&str], what: &'static str, lossy: &mut Lossy) {
    for (key, value) in object.iter().filter(|(key, _)| !known.contains(key)) {
        if value.get() != "null" {
            lossy.skip(what, key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_lists_each_loss_once_in_safe_characters() {
        let mut lossy = Lossy::default();
        lossy.skip("tool_type", "web_search");
        lossy.skip("tool_type", "web_search");
        lossy.skip("tool_type", "a\r\nb,c");
        lossy.skip("text.verbosity", "");
        assert_eq!(lossy.header().as_deref(), Some("tool_type=web_search, tool_type=abc, text.verbosity"));
        assert_eq!(Lossy::default().header(), None);
    }

    #[test]
    fn the_header_is_bounded() {
        let mut lossy = Lossy::default();
        for index in 0..1000 {
            lossy.skip("item_type", &format!("a_rather_long_item_type_{index}"));
        }
        assert!(lossy.header().is_some_and(|value| value.len() < 1024 && value.contains("more")));
    }
}
