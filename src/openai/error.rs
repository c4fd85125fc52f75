//! The one place where error bodies are made (CONTRACT §8).
//!
//! A message names no host, no key, no file and no payload; causes go to the log, not into these values.

use serde::Serialize;

use super::dialect::{ApiDialect, ErrorCode};

/// The `type` of an error, as the OpenAI SDKs know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorType {
    /// The client must change its request.
    InvalidRequestError,
    /// Credentials are missing or wrong.
    AuthenticationError,
    /// The credentials do not allow this.
    PermissionError,
    /// Too many requests.
    RateLimitError,
    /// This router, its store or the upstream failed.
    ServerError,
}

impl ErrorType {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequestError => "invalid_request_error",
            Self::AuthenticationError => "authentication_error",
            Self::PermissionError => "permission_error",
            Self::RateLimitError => "rate_limit_error",
            Self::ServerError => "server_error",
        }
    }

    /// The type that goes with an HTTP status.
    #[must_use]
    pub fn for_status(status: u16) -> Self {
        match status {
            401 => Self::AuthenticationError,
            403 => Self::PermissionError,
            429 => Self::RateLimitError,
            400..=499 => Self::InvalidRequestError,
            _ => Self::ServerError,
        }
    }

    /// The type that goes with the code of a failed response.
    #[must_use]
    pub fn for_code(code: &str) -> Self {
        match code {
            "context_length_exceeded" => Self::InvalidRequestError,
            "rate_limit_exceeded" | "insufficient_quota" => Self::RateLimitError,
            _ => Self::ServerError,
        }
    }
}

/// An error as a client sees it: HTTP status and body, and the header that tells when to come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireError {
    /// HTTP status.
    pub status: u16,
    /// Error family.
    pub kind: ErrorType,
    /// Stable machine-readable code; never a number.
    pub code: Option<String>,
    /// The request parameter at fault, like `input[2].content`.
    pub param: Option<String>,
    /// One sentence for people.
    pub message: String,
    /// Seconds after which a retry makes sense (`retry-after`).
    pub retry_after_seconds: Option<u32>,
}

impl WireError {
    /// An error of this status, its type derived from it.
    #[must_use]
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            kind: ErrorType::for_status(status),
            code: None,
            param: None,
            message: message.into(),
            retry_after_seconds: None,
        }
    }

    /// 400 `invalid_request_error`.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    /// Sets the code.
    #[must_use]
    pub fn code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// Sets the parameter.
    #[must_use]
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Sets `retry-after`.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// The JSON body: `{"error":{"message","type","param","code"}}`, its code in the form of the dialect.
    #[must_use]
    pub fn body(&self, dialect: ApiDialect) -> Vec<u8> {
        #[derive(Serialize)]
        #[serde(untagged)]
        enum Code<'a> {
            Word(Option<&'a str>),
            Status(u16),
        }
        #[derive(Serialize)]
        struct Body<'a> {
            error: Inner<'a>,
        }
        #[derive(Serialize)]
        struct Inner<'a> {
            message: &'a str,
            #[serde(rename = "type")]
            kind: ErrorType,
            param: Option<&'a str>,
            code: Code<'a>,
        }
        let code = match dialect.error_code {
            ErrorCode::Word => Code::Word(self.code.as_deref()),
            ErrorCode::HttpStatus => Code::Status(self.status),
        };
        let inner = Inner { message: &self.message, kind: self.kind, param: self.param.as_deref(), code };
        // A struct of strings always serialises; an empty body would still carry the status.
        serde_json::to_vec(&Body { error: inner }).unwrap_or_default()
    }
}
