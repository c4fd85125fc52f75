//! The `telemetry` block: what the log says and how, and where traces go.

use std::str::FromStr;

use serde::de::Deserializer;
use serde::{Deserialize, Serialize, Serializer};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::{Otlp, checked};
use crate::telemetry::metadata::{Key, Keys};

/// The `telemetry` block.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping of the telemetry settings")]
pub struct Telemetry {
    /// The form of a line of the log, `text` or `json`. Default: text.
    pub log_format: LogFormat,
    /// What is logged: a level (off, error, warn, info, debug, trace), or `tracing_subscriber::EnvFilter` directives
    /// such as `info,h2=warn`. Default: info.
    #[serde(deserialize_with = "log_level")]
    pub log_level: String,
    /// How the log shows ids of responses. Default: short.
    pub log_ids: LogIds,
    /// The namespace of the dynamic metadata that Envoy is sent. Default: `responses_router`; empty sends none.
    #[serde(deserialize_with = "namespace")]
    pub metadata_namespace: String,
    /// What it says. Default: [`Keys::USUAL`].
    pub metadata_keys: Vec<Key>,
    /// The models that metrics tell apart by name, 1 to 256 characters each; all others are `other`. Default: none.
    pub metrics_models: Vec<ModelName>,
    /// Where traces go.
    pub otlp: Otlp,
}

impl Default for Telemetry {
    fn default() -> Self {
        Telemetry {
            log_format: LogFormat::default(),
            log_level: "info".to_owned(),
            log_ids: LogIds::default(),
            metadata_namespace: "responses_router".to_owned(),
            metadata_keys: Keys::USUAL.to_vec(),
            metrics_models: Vec::new(),
            otlp: Otlp::default(),
        }
    }
}

/// How the log shows ids of responses: who has an id may read the response, unless there are tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", expecting = "short or full")]
pub enum LogIds {
    /// The first characters.
    #[default]
    Short,
    /// Whole.
    Full,
}

/// The name of a model, as requests have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelName(String);

impl AsRef<str> for ModelName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for ModelName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.chars().count() {
            1..=256 => Ok(Self(text.to_owned())),
            _ => Err("must be the name of a model, 1 to 256 characters"),
        }
    }
}

impl<'de> Deserialize<'de> for ModelName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        checked::parsed(deserializer)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        checked::parsed(deserializer)
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

struct Namespace(String);

impl FromStr for Namespace {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let usual = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        match text.len() <= 128 && text.chars().all(usual) {
            true => Ok(Self(text.to_owned())),
            false => Err("must be at most 128 letters, digits, `_`, `-` and `.`"),
        }
    }
}

fn namespace<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    checked::parsed(deserializer).map(|Namespace(text)| text)
}

/// The form of a line of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", expecting = "text or json")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

fn log_level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    checked::parsed(deserializer).map(|LogLevel(directives)| directives)
}

struct LogLevel(String);

impl FromStr for LogLevel {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<LogLevel, Self::Err> {
        let error = "must be off, error, warn, info, debug or trace, or directives such as `info,h2=warn`";
        // EnvFilter takes a bare word that is no level for a target, so that `verbose` would silence all of our own
        // log.
        let bare = |directive: &&str| !directive.contains(['=', '[', ']', '{', '}']);
        let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
        let are_levels = text.split(',').filter(bare).all(is_level);
        if !are_levels || EnvFilter::try_new(text).is_err() {
            return Err(error);
        }
        Ok(LogLevel(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_taken() {
        for text in ["info", "OFF", "info,h2=warn", "warn,responses_router=debug", "responses_router[exchange]=trace"] {
            assert_eq!(text.parse::<LogLevel>().ok().unwrap().0, text);
        }
    }

    #[test]
    fn words_that_are_no_level_are_refused() {
        for text in ["", "verbose", "info,loud", "h2=loud", "info,", "["] {
            assert!(text.parse::<LogLevel>().is_err(), "{text}");
        }
    }
}
