//! Readers of values that have bounds, for `#[serde(deserialize_with)]`: what they return needs no further check.
//!
//! Their messages never show the value, which may have come from the environment; the place says where it is.

use std::fmt;
use std::marker::PhantomData;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserializer, Error, Unexpected, Visitor};

/// The longest time that any setting may have, 100 years: a sum with the present can never overflow.
const MAX_SECONDS: u64 = 100 * 365 * 24 * 60 * 60;
/// The deepest JSON: our own parser takes nothing deeper apart.
const MAX_JSON_DEPTH: u64 = 128;
/// The most worker threads: beyond, it is a typing error.
const MAX_THREADS: usize = 1024;

/// Whole seconds, 1 to 100 years.
pub(super) fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    between(deserializer, 1, MAX_SECONDS).map(Duration::from_secs)
}

/// Whole seconds, 0 to 100 years.
pub(super) fn seconds_or_zero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    between(deserializer, 0, MAX_SECONDS).map(Duration::from_secs)
}

/// Whole seconds, 1 to 100 years; 0 is off.
pub(super) fn seconds_or_off<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let seconds = seconds_or_zero(deserializer)?;
    Ok((!seconds.is_zero()).then_some(seconds))
}

/// Whole milliseconds, 1 to 100 years.
pub(super) fn milliseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    between(deserializer, 1, MAX_SECONDS * 1000).map(Duration::from_millis)
}

/// A number of things or of bytes, at least 1.
pub(super) fn at_least_one<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    let number = between(deserializer, 1, usize::MAX as u64)?;
    T::try_from(number).map_err(|_| D::Error::custom("must be a smaller number"))
}

/// Levels of JSON, 1 to 128.
pub(super) fn json_depth<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let levels = between(deserializer, 1, MAX_JSON_DEPTH)?;
    usize::try_from(levels).map_err(|_| D::Error::custom("must be a smaller number"))
}

/// A number of things or of bytes; 0 is off.
pub(super) fn number_or_off<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroU64>, D::Error> {
    between(deserializer, 0, u64::MAX).map(NonZeroU64::new)
}

/// A whole number from `min` to `max`.
pub(super) fn between<'de, D: Deserializer<'de>>(deserializer: D, min: u64, max: u64) -> Result<u64, D::Error> {
    struct Between(u64, u64);

    // Checked while the reader stands at the number, so that an error has its place.
    impl Visitor<'_> for Between {
        type Value = u64;

        fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
            formatter.write_str("a whole number")
        }

        // Only numbers below zero come this way.
        fn visit_i64<E: Error>(self, _: i64) -> Result<u64, E> {
            Err(E::custom(format_args!("must be at least {}", self.0)))
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
            let Between(min, max) = self;
            if number < min {
                Err(E::custom(format_args!("must be at least {min}")))
            } else if number > max {
                Err(E::custom(format_args!("must be at most {max}")))
            } else {
                Ok(number)
            }
        }
    }

    deserializer.deserialize_u64(Between(min, max))
}

/// A number of threads, 1 to 1024; null or an empty text is `None`.
pub(super) fn threads<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroUsize>, D::Error> {
    struct Threads;

    impl Visitor<'_> for Threads {
        type Value = Option<NonZeroUsize>;

        fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
            write!(formatter, "a number of threads from 1 to {MAX_THREADS}, or null for one per core")
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
            usize::try_from(number)
                .ok()
                .filter(|threads| *threads <= MAX_THREADS)
                .and_then(NonZeroUsize::new)
                .map(Some)
                .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            if text.is_empty() { Ok(None) } else { Err(E::invalid_type(Unexpected::Other("text"), &self)) }
        }
    }

    deserializer.deserialize_any(Threads)
}

/// A text that its type reads; null or an empty text is `None`.
pub(super) fn unless_blank<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    struct UnlessBlank<T>(PhantomData<T>);

    impl<'de, T: FromStr<Err: fmt::Display>> Visitor<'de> for UnlessBlank<T> {
        type Value = Option<T>;

        fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
            formatter.write_str("a text")
        }

        fn visit_none<E: Error>(self) -> Result<Option<T>, E> {
            Ok(None)
        }

        // The text is parsed while the reader stands at it, so that an error has its place.
        fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<T>, D::Error> {
            deserializer.deserialize_str(self)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Option<T>, E> {
            if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(E::custom) }
        }
    }

    deserializer.deserialize_option(UnlessBlank(PhantomData))
}

/// A text that its type reads.
pub(super) fn parsed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    struct Parsed<T>(PhantomData<T>);

    impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Parsed<T> {
        type Value = T;

        fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
            formatter.write_str("a text")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Parsed(PhantomData))
}

/// A text without control characters.
#[derive(Debug)]
pub(super) struct Line(pub(super) String);

impl FromStr for Line {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Line, Self::Err> {
        if text.chars().any(char::is_control) {
            return Err("must not hold control characters");
        }
        Ok(Line(text.to_owned()))
    }
}

/// The path of a file.
#[derive(Debug)]
pub(super) struct FilePath(pub(super) PathBuf);

impl FromStr for FilePath {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<FilePath, Self::Err> {
        if text.is_empty() {
            return Err("must name a file");
        }
        if text.contains('\0') {
            return Err("must not hold a NUL");
        }
        Ok(FilePath(PathBuf::from(text)))
    }
}

/// A URL path that begins with a slash, as it may stand in a request line; a query is allowed.
#[derive(Debug)]
pub(super) struct UrlPath(pub(super) String);

impl FromStr for UrlPath {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<UrlPath, Self::Err> {
        if !text.starts_with('/') {
            return Err("must begin with `/`");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            return Err("must hold visible ASCII characters only, and no `#`");
        }
        Ok(UrlPath(text.to_owned()))
    }
}

/// A URL path's beginning: empty, or one that begins with a slash and does not end with one.
#[derive(Debug)]
pub(super) struct UrlPrefix(pub(super) String);

impl FromStr for UrlPrefix {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<UrlPrefix, Self::Err> {
        if text.is_empty() {
            return Ok(UrlPrefix(String::new()));
        }
        let UrlPath(path) = text.parse()?;
        if path.ends_with('/') {
            return Err("must not end with `/`");
        }
        if path.contains('?') {
            return Err("must not hold a query");
        }
        Ok(UrlPrefix(path))
    }
}

/// A [`UrlPath`].
pub(super) fn url_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    parsed(deserializer).map(|UrlPath(path)| path)
}

/// A [`UrlPrefix`].
pub(super) fn url_prefix<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    parsed(deserializer).map(|UrlPrefix(prefix)| prefix)
}

/// A [`Line`] unless blank.
pub(super) fn line_unless_blank<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    unless_blank(deserializer).map(|line| line.map(|Line(text)| text))
}

/// A [`FilePath`] that is not empty.
pub(super) fn file<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    parsed(deserializer).map(|FilePath(path)| path)
}

/// A [`FilePath`] unless blank.
pub(super) fn file_unless_blank<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    unless_blank(deserializer).map(|file| file.map(|FilePath(path)| path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_paths_begin_with_a_slash_and_may_have_a_query() {
        for good in ["/", "/v1/chat/completions", "/openai/chat?api-version=1"] {
            assert_eq!(good.parse::<UrlPath>().unwrap().0, good);
        }
        for bad in ["", "v1", "http://h/v1", "/a b", "/a\r\nx: y", "/a#b", "/ä"] {
            assert!(bad.parse::<UrlPath>().is_err(), "{bad}");
        }
    }

    #[test]
    fn url_prefixes_are_empty_or_begin_and_never_end_with_a_slash() {
        for good in ["", "/openai", "/a/b"] {
            assert_eq!(good.parse::<UrlPrefix>().unwrap().0, good);
        }
        for bad in ["/", "/openai/", "openai", "/a?b"] {
            assert!(bad.parse::<UrlPrefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lines_hold_no_control_characters() {
        assert_eq!("Qwen/Qwen3 ü".parse::<Line>().unwrap().0, "Qwen/Qwen3 ü");
        assert!("a\nb".parse::<Line>().is_err());
    }
}
