//! An upstream's errors, whatever their form, into ours (CONTRACT §8).
//!
//! A message that the upstream addressed to its client is passed on; anything else (HTML, plain text, an empty body) is
//! not, because it may name hosts and internals.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::openai::chat_answer::ChatAnswer;
use crate::openai::error::WireError;
use crate::openai::responses::ResponseError;

/// The longest upstream message that is passed on, in characters.
const MAX_MESSAGE_CHARS: usize = 2000;

/// What an upstream said of its failure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamError {
    message: Option<String>,
    code: Option<String>,
    param: Option<String>,
    /// A status inside the body: vLLM and llama.cpp put it into `code`, and some proxies as text.
    status: Option<u16>,
}

impl UpstreamError {
    /// The longest error that is read, in bytes. An answer, in whose place one may stand, may be much longer, and JSON takes many
    /// times its size.
    pub const MAX_BYTES: usize = 1 << 20;

    /// Reads an error body: `{"error":{…}}`, `{"error":"…"}`, `{"detail":…}`, `{"object":"error",…}`, `{"message":…}`.
    #[must_use]
    pub fn parse(body: &[u8]) -> Self {
        let Ok(Value::Object(object)) = serde_json::from_slice::<Value>(body) else { return Self::default() };
        match (object.get("error"), object.get("detail")) {
            (Some(Value::Object(error)), _) => Self::from_members(error),
            (Some(Value::String(message)), _) => Self { message: Some(message.clone()), ..Self::from_members(&object) },
            (_, Some(Value::String(message))) => Self { message: Some(message.clone()), ..Self::default() },
            (_, Some(Value::Array(details))) => Self { message: validation_message(details), ..Self::default() },
            (_, Some(Value::Object(detail))) => Self::from_members(detail),
            _ => Self::from_members(&object),
        }
    }

    /// An error in place of an answer: an `error` member with something in it, an `error` event, or vLLM's oldest form.
    pub(super) fn reported(answer: &ChatAnswer<'_>, event: &[u8], data: &[u8]) -> Option<Self> {
        let says_something = |raw: &RawValue| !matches!(raw.get(), "null" | "false" | "\"\"" | "{}");
        let reported =
            answer.error.is_some_and(says_something) || event == b"error" || answer.object.as_deref() == Some("error");
        let parsed = || if data.len() <= Self::MAX_BYTES { Self::parse(data) } else { Self::default() };
        reported.then(parsed)
    }

    fn from_members(members: &serde_json::Map<String, Value>) -> Self {
        let text = |key: &str| members.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let number = |key: &str| {
            let value = members.get(key)?;
            let number = value.as_u64().or_else(|| value.as_str()?.parse().ok())?;
            u16::try_from(number).ok()
        };
        // A code is a word or nothing: a number makes Codex retry for ever.
        let is_word = |code: &&str| code.parse::<u64>().is_err();
        Self {
            message: text("message").map(str::to_owned),
            code: text("code").filter(is_word).or_else(|| text("type").and_then(code_of_type)).map(str::to_owned),
            param: text("param").map(str::to_owned),
            status: number("code").or_else(|| number("status")),
        }
    }

    /// Whether the prompt did not fit the model's context.
    fn is_context_overflow(&self) -> bool {
        let code = self.code.as_deref().unwrap_or_default();
        if matches!(code, "context_length_exceeded" | "exceed_context_size_error") {
            return true;
        }
        let message = self.message.as_deref().unwrap_or_default().to_ascii_lowercase();
        // vLLM; llama.cpp; SGLang; TGI; Ollama. One phrase each, as their sources print it.
        [
            "maximum context length",
            "model's context length is only",
            "longer than the maximum model length",
            "exceeds the available context size",
            "longer than the model's context length",
            "exceed_context_size",
            "context length exceeded",
            "context size has been exceeded",
            "exceeds the context window",
            "exceeds model's maximum context",
            "must be <= max_total_tokens",
            "inputs` tokens + `max_new_tokens` must be",
            "inputs` must have less than",
        ]
        .iter()
        .any(|phrase| message.contains(phrase))
    }

    fn message(&self) -> Option<String> {
        self.message.as_ref().map(|message| message.chars().take(MAX_MESSAGE_CHARS).collect())
    }

    /// The error for a client whose answer has not begun.
    #[must_use]
    pub fn wire(&self, status: u16) -> WireError {
        if self.is_context_overflow() {
            let message = self.message().unwrap_or_else(|| "The input exceeds the model's context window.".to_owned());
            return WireError::bad_request(message).code("context_length_exceeded").param("input");
        }
        let message = self.message().unwrap_or_else(|| default_message(status).to_owned());
        let mut error = WireError::new(status, message);
        error.code = self.code.clone().or_else(|| (status == 429).then(|| "rate_limit_exceeded".to_owned()));
        error.param.clone_from(&self.param);
        error
    }

    /// The error of a response whose stream has begun.
    #[must_use]
    pub fn response_error(&self) -> ResponseError {
        let code = if self.is_context_overflow() {
            "context_length_exceeded"
        } else if self.status == Some(429) || self.code.as_deref().is_some_and(|code| code.contains("rate_limit")) {
            "rate_limit_exceeded"
        } else if self.code.as_deref() == Some("insufficient_quota") {
            "insufficient_quota"
        } else {
            "server_error"
        };
        let message = self.message().unwrap_or_else(|| "The upstream reported an error.".to_owned());
        ResponseError { code: code.to_owned(), message }
    }
}

/// The code for which a type stands where there is none.
fn code_of_type(kind: &str) -> Option<&str> {
    // rate_limit_error, RateLimitError.
    if kind.to_ascii_lowercase().replace('_', "").contains("ratelimit") {
        return Some("rate_limit_exceeded");
    }
    (kind.contains("exceed") || kind == "insufficient_quota").then_some(kind)
}

/// FastAPI's `{"detail":[{"loc":["body","messages"],"msg":"field required"}]}` in one sentence.
fn validation_message(details: &[Value]) -> Option<String> {
    #[derive(Deserialize)]
    struct Detail {
        #[serde(default)]
        loc: Vec<Value>,
        msg: String,
    }
    let sentence = |detail: &Value| {
        let Detail { loc, msg } = Detail::deserialize(detail).ok()?;
        let place: Vec<String> =
            loc.iter().map(|step| step.as_str().map_or_else(|| step.to_string(), str::to_owned)).collect();
        Some(if place.is_empty() { msg } else { format!("{}: {msg}", place.join(".")) })
    };
    let sentences: Vec<String> = details.iter().filter_map(sentence).collect();
    (!sentences.is_empty()).then(|| sentences.join("; "))
}

fn default_message(status: u16) -> &'static str {
    match status {
        401 => "The upstream refused the credentials.",
        403 => "The upstream denied access.",
        404 => "The upstream does not know this model or path.",
        408 | 504 => "The upstream did not answer in time.",
        413 => "The upstream refused the request as too large.",
        429 => "The upstream is rate limiting requests.",
        400..=499 => "The upstream refused the request.",
        _ => "The upstream failed.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_form_becomes_one_with_a_string_code_or_none() {
        for (status, body, message, code) in [
            (400, r#"{"error":{"message":"bad","type":"BadRequestError","param":null,"code":400}}"#, "bad", None),
            (429, r#"{"error":{"message":"slow down","code":"429"}}"#, "slow down", Some("rate_limit_exceeded")),
            (503, r#"{"error":{"message":"busy","code":"503"}}"#, "busy", None),
            (429, r#"{"error":{"message":"slow","type":"RateLimitError"}}"#, "slow", Some("rate_limit_exceeded")),
            (429, r#"{"error":"slow down"}"#, "slow down", Some("rate_limit_exceeded")),
            (422, r#"{"detail":[{"loc":["body","messages",0],"msg":"required"}]}"#, "body.messages.0: required", None),
            (404, r#"{"detail":"Not Found"}"#, "Not Found", None),
            (400, r#"{"object":"error","message":"no model","code":40001}"#, "no model", None),
            (502, "<html>nginx at 10.0.0.1</html>", "The upstream failed.", None),
            (500, "", "The upstream failed.", None),
            (503, "[]", "The upstream failed.", None),
        ] {
            let error = UpstreamError::parse(body.as_bytes()).wire(status);
            assert_eq!((error.status, &*error.message, error.code.as_deref()), (status, message, code), "{body}");
        }
    }

    #[test]
    fn context_overflow_is_told_apart_in_every_backends_words() {
        for body in [
            r#"{"error":{"message":"This model's maximum context length is 4096 tokens. However, you requested 5000","code":400}}"#,
            r#"{"error":{"code":400,"message":"the request exceeds the available context size, try increasing it","type":"exceed_context_size_error"}}"#,
            r#"{"error":{"message":"The input (9000 tokens) is longer than the model's context length (8192 tokens)."}}"#,
            r#"{"error":{"message":"You passed 30721 input tokens and requested 2048 output tokens. However, the model's context length is only 32768 tokens, resulting in a maximum input length of 30720 tokens.","code":400}}"#,
            r#"{"error":{"message":"The decoder prompt (length 32838) is longer than the maximum model length of 32768."}}"#,
            r#"{"error":"`inputs` must have less than 4095 tokens. Given: 5000","error_type":"validation"}"#,
            r#"{"error":{"message":"x","code":"context_length_exceeded"}}"#,
        ] {
            let error = UpstreamError::parse(body.as_bytes());
            let wire = error.wire(400);
            assert_eq!((wire.status, wire.code.as_deref()), (400, Some("context_length_exceeded")), "{body}");
            assert_eq!(error.response_error().code, "context_length_exceeded");
        }
    }
    #[test]
    fn a_rate_limit_in_a_stream_is_known_in_every_spelling() {
        for body in [
            r#"{"error":{"message":"slow","code":429}}"#,
            r#"{"error":{"message":"slow","code":"429"}}"#,
            r#"{"error":{"message":"slow","type":"rate_limit_error","code":null}}"#,
            r#"{"error":{"message":"slow","type":"RateLimitError"}}"#,
            r#"{"error":{"message":"slow","type":"requests","code":"rate_limit_exceeded"}}"#,
        ] {
            assert_eq!(UpstreamError::parse(body.as_bytes()).response_error().code, "rate_limit_exceeded", "{body}");
        }
        let quota = UpstreamError::parse(br#"{"error":{"message":"no money","type":"insufficient_quota"}}"#);
        assert_eq!(quota.response_error().code, "insufficient_quota");
    }
}
