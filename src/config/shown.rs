//! Writers of values, for `#[serde(serialize_with)]`: each as its reader in `checked.rs` takes it.
//!
//! A secret has no way to be written but [`masked`]: its type does not serialise.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::num::NonZeroU64;
use std::time::Duration;

use serde::Serialize;
use serde::ser::Serializer;

use crate::sealing::SealingKey;

/// What stands in a secret's place.
pub(super) const MASK: &str = "<masked>";

/// Whole seconds.
pub(super) fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_secs())
}

/// Whole seconds; `None` is 0.
pub(super) fn seconds_or_off<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    seconds(&duration.unwrap_or_default(), serializer)
}

/// Whole milliseconds.
pub(super) fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// A number; `None` is 0.
pub(super) fn number_or_off<S: Serializer>(number: &Option<NonZeroU64>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(number.map_or(0, NonZeroU64::get))
}

/// A text.
pub(super) fn display<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// A text, or null.
pub(super) fn display_or_null<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(ToString::to_string).serialize(serializer)
}

/// Whether there is a secret, and nothing of it.
pub(super) fn masked<T, S: Serializer>(secret: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(|_| MASK).serialize(serializer)
}

/// The names of headers.
pub(super) fn masked_values<T, S: Serializer>(headers: &BTreeMap<String, T>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(headers.keys().map(|name| (name, MASK)))
}

/// The ids of keys.
pub(super) fn keys<S: Serializer>(keys: &[SealingKey], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Masked<'a> {
        id: &'a str,
        key: &'static str,
    }

    serializer.collect_seq(keys.iter().map(|key| Masked { id: key.id(), key: MASK }))
}
