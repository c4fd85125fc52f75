//! The `telemetry` block: what the log says and how, and where traces go.

use std::str::FromStr;

use serde::de::Deserializer;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::{Otlp, checked};

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
    /// Where traces go.
    pub otlp: Otlp,
}

impl Default for Telemetry {
    fn default() -> Self {
        Telemetry { log_format: LogFormat::default(), log_level: "info".to_owned(), otlp: Otlp::default() }
    }
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
