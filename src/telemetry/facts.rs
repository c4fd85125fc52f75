//! What is known of one exchange: plain data, its words in closed sets, filled on the exchange's way.
//!
//! Metrics, the log line, the span and Envoy's dynamic metadata are all derived from it, so that they cannot disagree.
//! No clock here: times are measured by the [`Account`](super::account::Account) that holds the facts.

use std::time::Duration;

use crate::id::ResponseId;
use crate::openai::error::{ErrorType, WireError};
use crate::openai::responses::{IncompleteReason, Usage};
use crate::tenant::Tenant;
use crate::translate::{End, Finished, Lossy, Outcome};

/// The facts of one exchange. What has not come about yet, or never does, is `None`.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The operation, as `Route::name` has it; `unknown` until the request headers are read.
    pub route: &'static str,
    /// Envoy's `x-request-id`.
    pub request_id: Option<String>,
    /// Whose exchange it is, on a router with tenants. Never a metric's label.
    pub tenant: Option<Tenant>,
    /// The response that is created, or that the path names.
    pub response_id: Option<ResponseId>,
    /// The response that the new one continues.
    pub previous_response_id: Option<ResponseId>,
    /// The first response of the chain that the new one ends, which names the conversation.
    pub conversation: Option<ResponseId>,
    /// The model that was asked for. From the client: never a metric's label as it is.
    pub model: Option<String>,
    /// Whether the client asked for a stream.
    pub stream: bool,
    /// What the store has of the response.
    pub stored: Stored,
    /// The HTTP status that the client was sent.
    pub status: Option<u16>,
    /// How it ended; `None` while it goes on.
    pub ending: Option<Ending>,
    /// Whether Envoy was told, in metadata, what was asked.
    pub introduced: bool,
    /// Whether the client was told all that there is to tell: without it, nobody was left to be told.
    pub told: bool,
    /// Why the answer is incomplete: `max_output_tokens` or `content_filter`.
    pub reason: Option<&'static str>,
    /// The code of the error that the client was told, see [`known_code`].
    pub error_code: Option<&'static str>,
    /// The history, when the request named any.
    pub chain: Option<Chain>,
    /// Token counts, when the upstream reported them.
    pub usage: Option<Usage>,
    /// Whether the answer calls tools.
    pub calls: bool,
    /// The answer ended well, and the upstream reported no token counts.
    pub usage_missing: bool,
    /// From the beginning to the first event of a stream.
    pub first_event: Option<Duration>,
    /// From the beginning to the first content of a streamed answer.
    pub first_token: Option<Duration>,
    /// From the beginning to the latest content of a streamed answer.
    pub last_token: Option<Duration>,
    /// How long the exchange waited for the store, in all.
    pub store_time: Duration,
    /// What the upstream did wrong.
    pub upstream_error: Option<UpstreamError>,
    /// What the translation left out.
    pub lossy: Lossy,
    /// Why the history that the request named is not there: `parent`, `ancestor` or `item`.
    pub chain_missing: Option<&'static str>,
    /// Why the request body was not used: a class of `BodyError`, or `slow`.
    pub body_refused: Option<&'static str>,
    /// Repeated `in_progress` events.
    pub heartbeats: u32,
    /// Events of the stream, repeated ones included.
    pub events: u64,
    /// How long it took; zero while it goes on.
    pub duration: Duration,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            route: "unknown",
            request_id: None,
            tenant: None,
            response_id: None,
            previous_response_id: None,
            conversation: None,
            model: None,
            stream: false,
            stored: Stored::NotAsked,
            status: None,
            ending: None,
            introduced: false,
            told: false,
            reason: None,
            error_code: None,
            chain: None,
            usage: None,
            calls: false,
            usage_missing: false,
            first_event: None,
            first_token: None,
            last_token: None,
            store_time: Duration::ZERO,
            upstream_error: None,
            lossy: Lossy::default(),
            chain_missing: None,
            body_refused: None,
            heartbeats: 0,
            events: 0,
            duration: Duration::ZERO,
        }
    }
}

/// What the store has of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// Nothing was to be stored.
    NotAsked,
    /// It is to be stored, and has not been yet.
    Due,
    /// The store has acknowledged it.
    Stored,
    /// The store refused it, and the client was told so by an error.
    Refused,
    /// The store refused it, and the client got its answer all the same.
    Degraded,
    /// The client was gone before; it is written behind its back.
    InBackground,
}

impl Stored {
    /// The word for logs and metadata.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotAsked => "not_asked",
            Self::Due => "due",
            Self::Stored => "stored",
            Self::Refused => "refused",
            Self::Degraded => "degraded",
            Self::InBackground => "in_background",
        }
    }
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// A whole response.
    Completed,
    /// A response that was cut short by a bound or a filter.
    Incomplete,
    /// A response that failed on its way: of the upstream, of the store, or of a shutdown.
    Failed,
    /// An answer of ours that is no response: a stored one, a deletion, a list.
    Answered,
    /// An error of ours, before there was a response.
    Refused,
    /// An error that the upstream, or Envoy in its place, answered with.
    UpstreamError,
    /// Somebody else's answer, passed on as it was.
    Relayed,
    /// Envoy ended the exchange: the client hung up, or the upstream broke off, which look alike.
    ClientGone,
    /// We ended the exchange with a gRPC error: a fault of ours or of Envoy's configuration.
    Broken,
}

impl Ending {
    /// Those of streams that had begun.
    pub const OF_STREAMS: [Self; 5] = [Self::Completed, Self::Incomplete, Self::Failed, Self::ClientGone, Self::Broken];

    /// The word for logs, metadata and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::UpstreamError => "upstream_error",
            Self::Relayed => "relayed",
            Self::ClientGone => "client_gone",
            Self::Broken => "broken",
        }
    }
}

/// The history that a turn brought along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// Turns before this one.
    pub length: usize,
    /// Their input and output as JSON, in bytes, with what was referred to besides.
    pub bytes: usize,
}

/// What an upstream did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamError {
    /// Envoy reached none.
    Unavailable,
    /// It did not answer in time.
    Timeout,
    /// It answered 429, or said so in its answer.
    RateLimited,
    /// It answered 401 or 403.
    Unauthorized,
    /// The history is too long for its model.
    ContextLength,
    /// It refused the translated request with another status of 4xx.
    Refused,
    /// It answered with a status of 5xx.
    ServerError,
    /// It answered with a success that cannot be used.
    BadAnswer,
    /// Its answer broke off or turned into an error on its way.
    BrokenAnswer,
}

impl UpstreamError {
    /// Every class.
    pub const ALL: [Self; 9] = [
        Self::Unavailable,
        Self::Timeout,
        Self::RateLimited,
        Self::Unauthorized,
        Self::ContextLength,
        Self::Refused,
        Self::ServerError,
        Self::BadAnswer,
        Self::BrokenAnswer,
    ];

    /// The word for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::RateLimited => "rate_limited",
            Self::Unauthorized => "unauthorized",
            Self::ContextLength => "context_length",
            Self::Refused => "refused",
            Self::ServerError => "server_error",
            Self::BadAnswer => "bad_answer",
            Self::BrokenAnswer => "broken_answer",
        }
    }

    /// The class of what an upstream, or Envoy in its place, answered, by the error that was made of it.
    fn of(status: u16, code: &str) -> Self {
        match (status, code) {
            (504, _) => Self::Timeout,
            (_, "upstream_unavailable") => Self::Unavailable,
            (_, "bad_upstream_response") => Self::BadAnswer,
            (_, "context_length_exceeded") => Self::ContextLength,
            (429, _) => Self::RateLimited,
            (401 | 403, _) => Self::Unauthorized,
            (400..=499, _) => Self::Refused,
            _ => Self::ServerError,
        }
    }
}

/// Why a history is not there.
pub(super) const CHAIN_MISSING: [&str; 3] = ["parent", "ancestor", "item"];

/// Why request bodies are not used.
pub(super) const BODY_REFUSED: [&str; 4] = ["too_large", "unsupported_coding", "corrupt", "slow"];

/// The codes of our own errors, all that the sources set. What an upstream calls its errors is its own and no closed set.
pub(super) const CODES: [&str; 26] = [
    "array_above_max_length",
    "bad_upstream_response",
    "chain_invalid",
    "chain_too_large",
    "chain_too_long",
    "context_length_exceeded",
    "insufficient_quota",
    "integer_above_max_value",
    "integer_below_min_value",
    "invalid_type",
    "invalid_value",
    "json_too_deep",
    "json_too_many_values",
    "missing_required_parameter",
    "missing_tenant",
    "overloaded",
    "previous_response_not_found",
    "rate_limit_exceeded",
    "request_too_large",
    "server_error",
    "service_unavailable",
    "store_unavailable",
    "too_many_item_references",
    "unsupported_parameter",
    "upstream_unavailable",
    "invalid_prompt",
];

/// An error's code, if it is one of ours; the family of the error when it has none; `other` for what the upstream made
/// up. So the set is closed.
#[must_use]
pub fn known_code(code: Option<&str>, kind: ErrorType) -> &'static str {
    match code {
        Some(code) => CODES.into_iter().find(|known| *known == code).unwrap_or("other"),
        None => kind.as_str(),
    }
}

impl Facts {
    /// Notes an answer of ours, an error if it has a code.
    pub fn answered(&mut self, status: u16, error_code: Option<&'static str>) {
        self.status = Some(status);
        self.error_code = error_code.or(self.error_code);
        if let Some(code @ ("bad_upstream_response" | "upstream_unavailable")) = error_code {
            self.upstream_error.get_or_insert(UpstreamError::of(status, code));
        }
        match (error_code, self.ending) {
            (None, _) => self.ending = Some(Ending::Answered),
            // A response that failed stays one, although a client without a stream is told by an error.
            (Some(_), Some(Ending::Failed | Ending::UpstreamError)) => {}
            (Some(_), _) => self.ending = Some(Ending::Refused),
        }
    }

    /// Notes that the upstream, or Envoy in its place, answered with an error.
    pub fn upstream_refused(&mut self, error: &WireError) {
        let code = known_code(error.code.as_deref(), error.kind);
        self.status = Some(error.status);
        self.error_code = Some(code);
        self.upstream_error = Some(UpstreamError::of(error.status, code));
        self.ending = Some(Ending::UpstreamError);
    }

    /// Notes how a response ended, before the store has its word.
    pub fn response_ended(&mut self, finished: &Finished, end: End) {
        self.usage = finished.usage();
        self.calls = finished.has_calls();
        match finished.outcome() {
            Outcome::Completed => self.ending = Some(Ending::Completed),
            Outcome::Incomplete(reason) => {
                self.ending = Some(Ending::Incomplete);
                self.reason = Some(match reason {
                    IncompleteReason::MaxOutputTokens => "max_output_tokens",
                    IncompleteReason::ContentFilter => "content_filter",
                });
            }
            Outcome::Disconnected => self.ending = Some(Ending::ClientGone),
            Outcome::Failed(error) => {
                self.ending = Some(Ending::Failed);
                let code = known_code(Some(&error.code), ErrorType::ServerError);
                self.error_code = Some(code);
                self.upstream_error = match (end, code) {
                    (End::ShuttingDown, _) => None,
                    (End::TimedOut, _) => Some(UpstreamError::Timeout),
                    (_, "context_length_exceeded") => Some(UpstreamError::ContextLength),
                    (_, "rate_limit_exceeded" | "insufficient_quota") => Some(UpstreamError::RateLimited),
                    _ => Some(UpstreamError::BrokenAnswer),
                };
            }
        }
        self.usage_missing =
            self.usage.is_none() && matches!(self.ending, Some(Ending::Completed | Ending::Incomplete));
    }

    /// Notes that the store refused the response, and the client is told so.
    pub fn store_refused(&mut self, error: &WireError) {
        self.stored = Stored::Refused;
        self.ending = Some(Ending::Failed);
        self.reason = None;
        self.error_code = Some(known_code(error.code.as_deref(), error.kind));
    }

    /// Notes the end of an exchange, `panicking` when it is a panic's. One whose last word has not left, and that did
    /// not break of itself, was dropped: Envoy reset the stream.
    pub fn close(&mut self, duration: Duration, panicking: bool) {
        self.duration = duration;
        if panicking {
            self.broke("internal_error");
        } else if !self.told && self.ending != Some(Ending::Broken) {
            self.ending = Some(Ending::ClientGone);
        }
    }

    /// Notes that the exchange ended with a gRPC error.
    pub fn broke(&mut self, code: &'static str) {
        self.ending = Some(Ending::Broken);
        self.error_code = Some(code);
    }

    /// The time from one token of a streamed answer to the next, on average; `None` for fewer than two tokens.
    #[must_use]
    pub fn time_per_output_token(&self) -> Option<Duration> {
        let tokens = self.usage?.output_tokens.checked_sub(1).filter(|tokens| *tokens > 0)?;
        let took = self.last_token?.checked_sub(self.first_token?)?;
        #[expect(clippy::cast_precision_loss, reason = "an average over a number of tokens")]
        Some(took.div_f64(tokens as f64))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_exchange_whose_last_word_has_not_left_ended_with_the_client_gone() {
        for said in [None, Some(Ending::Completed), Some(Ending::Failed), Some(Ending::Refused)] {
            let mut facts = Facts { ending: said, ..Facts::default() };
            facts.close(SECOND, false);
            assert_eq!(facts.ending, Some(Ending::ClientGone), "{said:?}");
            let mut facts = Facts { ending: said, told: true, ..Facts::default() };
            facts.close(SECOND, false);
            assert_eq!(facts.ending, said);
        }
    }

    #[test]
    fn a_break_and_a_panic_stay_what_they_are() {
        let mut facts = Facts::default();
        facts.broke("protocol_error");
        facts.close(SECOND, false);
        assert_eq!((facts.ending, facts.error_code), (Some(Ending::Broken), Some("protocol_error")));
        let mut facts = Facts { ending: Some(Ending::Completed), told: true, ..Facts::default() };
        facts.close(SECOND, true);
        assert_eq!((facts.ending, facts.error_code), (Some(Ending::Broken), Some("internal_error")));
    }

    #[test]
    fn codes_that_an_upstream_made_up_are_other() {
        let server_error = ErrorType::ServerError;
        assert_eq!(known_code(Some("store_unavailable"), server_error), "store_unavailable");
        assert_eq!(known_code(Some("ECONNRESET at 10.0.0.1"), server_error), "other");
        assert_eq!(known_code(None, ErrorType::RateLimitError), "rate_limit_error");
    }

    #[test]
    fn every_code_that_the_sources_set_is_known() {
        let mut set = BTreeSet::new();
        walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut |text| set.extend(codes_set_in(text)));
        let unknown: Vec<_> = set.iter().filter(|code| !CODES.contains(&code.as_str())).collect();
        assert!(unknown.is_empty(), "counted as `other`: {unknown:?}");
        // That they are found at all; the last two are set where an upstream's error is read.
        for code in ["integer_above_max_value", "json_too_deep", "insufficient_quota", "rate_limit_exceeded"] {
            assert!(set.contains(code), "{code}");
        }
    }

    #[test]
    fn codes_are_found_wherever_an_expression_gives_them() {
        let text = r#"
            WireError::new(400, "no").param("limit").code(
                "wrapped",
            );
            Error { code: "plain".to_owned(), message: message("text") };
            Error { code: wire.code.unwrap_or_else(|| "fallback".to_owned()), message: None };
            error.code = given.or_else(|| (status == 429).then(|| "slow".to_owned()));
            let code = if text.contains("no_code") { "if" } else if a == b { "else" } else { other("no_code") };
            let code = match kind { 1 => "arm", _ => name };
            let matched = error.code == Some("no_code") && error.code.as_deref() == None;
            Self { code: text("no_code").or_else(|| text("no_code")), error_code: Some("no_code") }
            #[cfg(test)]
            mod tests { error.code("no_code") }
        "#;
        let found: Vec<_> = codes_set_in(text).into_iter().collect();
        assert_eq!(found, ["arm", "else", "fallback", "if", "plain", "slow", "wrapped"]);
    }

    /// Hands over every source but for those of tests.
    fn walk(folder: &Path, read: &mut impl FnMut(&str)) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("tests") {
                walk(&path, read);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
                read(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }

    /// The literals that are given to something named `code`: `.code("…")`, `code: "…"`, `code = "…"`, and those in branches
    /// and closures of such expressions.
    fn codes_set_in(text: &str) -> BTreeSet<String> {
        let text = text.split("#[cfg(test)]\n").next().unwrap();
        let mut found = BTreeSet::new();
        for (at, name) in text.match_indices("code") {
            let (before, after) = (&text[..at], text[at + name.len()..].trim_start());
            let is_call = before.ends_with('.') && after.starts_with('(');
            let is_field = after.starts_with(':') && !after.starts_with("::");
            let is_assignment = after.starts_with('=') && !after.starts_with("==") && !after.starts_with("=>");
            let is_whole_word = !before.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
            if is_whole_word && (is_call || is_field || is_assignment) {
                found.extend(literals_of(&after[1..], is_call));
            }
        }
        found
    }

    /// The words in quotes that an expression may amount to: those that are no argument of a call within it.
    fn literals_of(expression: &str, is_call: bool) -> Vec<String> {
        let mut found = Vec::new();
        let (mut depth, mut start) = (0_i32, 0);
        while let Some(next) = expression[start..].find(|c| "()[]{},;\"".contains(c)) {
            let at = start + next;
            start = at + 1;
            match expression.as_bytes()[at] {
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' => depth -= 1,
                b'"' => {
                    let before = expression[..at].trim_end();
                    let length = expression[start..].find('"').unwrap();
                    let word = &expression[start..start + length];
                    let is_value =
                        before.is_empty() || ["Some(", "||", "=>", "{"].iter().any(|end| before.ends_with(end));
                    if is_value && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
                        found.push(word.to_owned());
                    }
                    start += length + 1;
                }
                b',' if depth > 0 || is_call => {}
                _ if depth <= 0 => break,
                _ => {}
            }
            if depth < 0 {
                break;
            }
        }
        found
    }

    #[test]
    fn errors_of_upstreams_fall_into_classes() {
        for (status, code, class) in [
            (503, "upstream_unavailable", UpstreamError::Unavailable),
            (504, "upstream_unavailable", UpstreamError::Timeout),
            (502, "bad_upstream_response", UpstreamError::BadAnswer),
            (400, "context_length_exceeded", UpstreamError::ContextLength),
            (429, "rate_limit_error", UpstreamError::RateLimited),
            (401, "other", UpstreamError::Unauthorized),
            (422, "invalid_request_error", UpstreamError::Refused),
            (500, "server_error", UpstreamError::ServerError),
        ] {
            assert_eq!(UpstreamError::of(status, code), class, "{status} {code}");
        }
    }

    #[test]
    fn a_response_that_fails_is_no_refusal_although_it_is_told_as_an_error() {
        let mut facts = Facts { ending: Some(Ending::Failed), ..Facts::default() };
        facts.answered(502, Some("bad_upstream_response"));
        assert_eq!((facts.ending, facts.status), (Some(Ending::Failed), Some(502)));
        let mut facts = Facts::default();
        facts.answered(502, Some("bad_upstream_response"));
        assert_eq!((facts.ending, facts.upstream_error), (Some(Ending::Refused), Some(UpstreamError::BadAnswer)));
        let mut facts = Facts::default();
        facts.answered(200, None);
        assert_eq!((facts.ending, facts.error_code), (Some(Ending::Answered), None));
    }

    #[test]
    fn time_per_output_token_needs_two_tokens_and_their_times() {
        let facts = |output_tokens| Facts {
            usage: Some(Usage { output_tokens, ..Usage::default() }),
            first_token: Some(SECOND),
            last_token: Some(3 * SECOND),
            ..Facts::default()
        };
        assert_eq!(facts(5).time_per_output_token(), Some(SECOND / 2));
        assert_eq!(facts(1).time_per_output_token(), None);
        assert_eq!(facts(0).time_per_output_token(), None);
        assert_eq!(Facts { usage: None, ..facts(5) }.time_per_output_token(), None);
        assert_eq!(Facts { first_token: None, ..facts(5) }.time_per_output_token(), None);
    }
}
