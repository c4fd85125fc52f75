//! Reasoning that leaves in sealed form and comes back (`reasoning.encrypted_content`; TRAPS A5, 44 and A2, 23).
//!
//! A client that keeps its own history (`store: false`) carries the model's raw reasoning from turn to turn without
//! reading it. The core decides what is sealed and what an opened seal means; keys and randomness are the shell's.

use std::borrow::Cow;
use std::fmt;

use super::lossy::Lossy;
use crate::openai::item::Item;

/// The most bytes of reasoning that are sealed, and of a seal that is opened: 16 MiB. Beyond, the item goes without.
pub const MAX_SEALED_BYTES: usize = 16 * 1024 * 1024;

/// Seals and opens reasoning on behalf of one tenant.
///
/// A seal can be opened by every replica that has its key, for the same tenant; for any other it is as if damaged.
pub trait Seal: fmt::Debug + Send + Sync {
    /// The text in sealed form, as it stands in `encrypted_content`; `None` when it cannot be sealed.
    fn seal(&self, text: &str) -> Option<String>;

    /// The text in a seal; `None` when it is not one of ours, was damaged, or its key is gone.
    fn open(&self, sealed: &str) -> Option<String>;
}

/// Gives a reasoning item the text that its `encrypted_content` holds. What cannot be opened stays out of the prompt,
/// and is reported: it may be another provider's, or sealed with a key that is gone. Says whether the item has changed.
pub(super) fn open<'a>(
    item: &mut Item,
    encrypted_content: impl FnOnce() -> Option<Cow<'a, str>>,
    seal: Option<&dyn Seal>,
    lossy: &mut Lossy,
) -> bool {
    let Item::Reasoning { text } = item else { return false };
    let Some(sealed) = encrypted_content().filter(|sealed| !sealed.is_empty()) else { return false };
    let opened = seal.filter(|_| sealed.len() <= 2 * MAX_SEALED_BYTES).and_then(|seal| seal.open(&sealed));
    let is_open = opened.is_some();
    match opened {
        Some(opened) => *text = opened,
        None => lossy.skip("reasoning.encrypted_content", "unreadable"),
    }
    is_open
}

/// A reasoning item's `encrypted_content`, if the request asked for it and there is a key.
pub(super) fn sealed(text: &str, seal: Option<&dyn Seal>) -> Option<String> {
    seal.filter(|_| text.len() <= MAX_SEALED_BYTES)?.seal(text)
}
