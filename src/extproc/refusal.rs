//! The one place that turns the modules' typed errors into wire errors: status, type, code, param and text
//! (CONTRACT §8). No text names a host, a key, a file or a payload; the cause goes to the log.

use super::admission::Overloaded;
use super::apart::ProcessEnds;
use super::body::BodyError;
use crate::id::ResponseId;
use crate::openai::error::WireError;
use crate::openai::responses::ResponseError;
use crate::store::StoreError;
use crate::store::chain::HistoryError;
use crate::translate::RequestError;

/// When a client should come back after the store was away, in seconds.
const STORE_RETRY_SECONDS: u32 = 1;

/// When a client should come back that found no room, in seconds.
const OVERLOADED_RETRY_SECONDS: u32 = 1;

/// The longest id that a message repeats, in characters.
const MAX_ID_CHARS: usize = 100;

/// A request that cannot be translated.
#[must_use]
pub fn request(error: &RequestError) -> WireError {
    match error {
        RequestError::NotAnObject(reason) => {
            WireError::bad_request(format!("The request body must be a JSON object: {reason}."))
        }
        RequestError::TooDeep { limit } => {
            WireError::bad_request(format!("The request body is nested deeper than {limit} levels."))
                .code("json_too_deep")
        }
        RequestError::TooManyValues { limit } => {
            WireError::bad_request(format!("The request body has more than {limit} JSON values."))
                .code("json_too_many_values")
        }
        // The reference's words and code for a list that is too long.
        RequestError::TooMany { param, limit, of } => {
            WireError::bad_request(format!("Invalid '{param}': expected at most {limit} {of}."))
                .param(param)
                .code("array_above_max_length")
        }
        RequestError::InvalidType(invalid) => {
            WireError::bad_request(format!("Invalid type for '{}': {}.", invalid.param, invalid.reason))
                .param(&invalid.param)
                .code("invalid_type")
        }
        RequestError::Missing { param } => {
            WireError::bad_request(format!("'{param}' is required.")).param(param).code("missing_required_parameter")
        }
        RequestError::MessagesInsteadOfInput => WireError::bad_request(
            "'input' is required. This is the Responses API: send the conversation in 'input' instead of 'messages'.",
        )
        .param("input")
        .code("missing_required_parameter"),
        RequestError::InvalidValue { param, reason } => {
            WireError::bad_request(format!("Invalid '{param}': {reason}.")).param(param).code("invalid_value")
        }
        RequestError::Unsupported { param, reason } => {
            WireError::bad_request(format!("Unsupported '{param}': {reason}."))
                .param(param)
                .code("unsupported_parameter")
        }
        // One text for unknown, foreign, expired, deleted and unstored items: nobody learns which.
        RequestError::ItemNotFound { id } => WireError::bad_request(format!(
            "Item with id '{}' not found. Items are not persisted when `store` is set to false. Try again with `store` \
             set to true, or remove this item from your input.",
            shortened(id)
        ))
        .param("input"),
        RequestError::PreviousNotFound { id } => previous_not_found(id),
        RequestError::UnansweredCall { call_id } => {
            WireError::bad_request(format!("No tool output found for function call {}.", shortened(call_id)))
                .param("input")
        }
        RequestError::UnknownCall { call_id } => WireError::bad_request(format!(
            "No tool call found for function call output with call_id {}.",
            shortened(call_id)
        ))
        .param("input"),
        RequestError::History(_) => WireError::new(500, "A stored turn of this conversation cannot be read."),
    }
}

/// A chain that cannot be continued, or items that cannot be looked up. `parent` is what the client named.
#[must_use]
pub fn history(error: &HistoryError, parent: Option<&ResponseId>) -> WireError {
    let param = if parent.is_some() { "previous_response_id" } else { "input" };
    let chain = |message: &str| WireError::bad_request(message).param(param);
    let parent = parent.map(ResponseId::as_str).unwrap_or_default();
    match error {
        HistoryError::ParentNotFound => previous_not_found(parent),
        HistoryError::AncestorMissing => chain(&format!(
            "The chain of previous response '{}' is incomplete: an earlier response of it no longer exists.",
            shortened(parent)
        ))
        .code("previous_response_not_found"),
        HistoryError::TooDeep { limit } => {
            chain(&format!("The chain of previous responses is longer than {limit} responses.")).code("chain_too_long")
        }
        HistoryError::TooManyReferences { limit } => {
            WireError::bad_request(format!("The input refers to items of more than {limit} responses."))
                .param("input")
                .code("too_many_item_references")
        }
        HistoryError::TooLarge { limit } => {
            chain(&format!("The history of this conversation is larger than {limit} bytes.")).code("chain_too_large")
        }
        HistoryError::Cycle => chain("The chain of previous responses refers to itself.").code("chain_invalid"),
        HistoryError::Store(error) => store(error),
    }
}

/// One text for unknown, expired, deleted, foreign and unstored ids: nobody learns which.
fn previous_not_found(id: &str) -> WireError {
    WireError::bad_request(format!("Previous response with id '{}' not found.", shortened(id)))
        .param("previous_response_id")
        .code("previous_response_not_found")
}

/// GET, DELETE or input_items of an id that is not stored, or of a text that is no id, which is not repeated.
#[must_use]
pub fn response_not_found(id: Option<&ResponseId>) -> WireError {
    match id {
        Some(id) => WireError::new(404, format!("Response with id '{id}' not found.")),
        None => WireError::new(404, "Response not found."),
    }
}

/// A store that did not do what it was asked for. Never "not found".
#[must_use]
pub fn store(error: &StoreError) -> WireError {
    match error {
        // A key that this router lacks is the operator's matter; with it, or at another router, the same request succeeds.
        StoreError::Unavailable(_) | StoreError::Timeout | StoreError::UnknownKey { .. } => {
            WireError::new(503, "The response store is unavailable; try again.")
                .code("store_unavailable")
                .retry_after(STORE_RETRY_SECONDS)
        }
        StoreError::TooLarge { .. } => {
            WireError::new(503, "The response is larger than the response store accepts; send 'store': false.")
                .code("store_unavailable")
        }
        StoreError::OfTenant { cause, .. } => store(cause),
        StoreError::Corrupt(_) | StoreError::Conflict => {
            WireError::new(500, "The response store holds something unexpected under this id.")
        }
    }
}

/// A request that does not say whose it is, where only tenants are served.
#[must_use]
pub fn no_identity() -> WireError {
    WireError::new(401, "The request carries no identity that this service accepts.").code("missing_tenant")
}

/// A request body that will not be used.
#[must_use]
pub fn body(error: &BodyError) -> WireError {
    match error {
        BodyError::TooLarge { limit } => {
            WireError::new(413, format!("The request body is larger than {limit} bytes.")).code("request_too_large")
        }
        BodyError::UnsupportedCoding { .. } => {
            WireError::new(415, "The content-encoding is not supported; use gzip, deflate, br, zstd or none.")
        }
        BodyError::Corrupt { coding, .. } => WireError::bad_request(format!("The request body is not valid {coding}.")),
    }
}

/// There is too much to do already; the same request is likely to get in a moment later.
#[must_use]
pub fn overloaded(overloaded: Overloaded) -> WireError {
    tracing::debug!(%overloaded, "refused");
    WireError::new(503, "The service is overloaded; try again later.")
        .code("overloaded")
        .retry_after(OVERLOADED_RETRY_SECONDS)
}

/// The client took too long over its request body.
#[must_use]
pub fn slow_body() -> WireError {
    WireError::new(408, "The request body did not arrive in time.")
}

/// An upstream's success that holds no usable answer.
#[must_use]
pub fn bad_answer(reason: &str) -> WireError {
    WireError::new(502, reason).code("bad_upstream_response")
}

/// A failure that the upstream reported under a status of success, to a client that did not ask for a stream.
#[must_use]
pub fn failed_answer(error: &ResponseError) -> WireError {
    match error.code.as_str() {
        "context_length_exceeded" => WireError::bad_request(&error.message).code(&error.code).param("input"),
        "rate_limit_exceeded" => WireError::new(429, &error.message).code(&error.code),
        _ => bad_answer(&error.message),
    }
}

/// Envoy could not get an answer from any upstream.
#[must_use]
pub fn upstream_unavailable(status: u16) -> WireError {
    WireError::new(status, "The upstream model server is unavailable.").code("upstream_unavailable")
}

/// The upstream took longer than an exchange may.
#[must_use]
pub fn slow_upstream() -> WireError {
    WireError::new(504, "The upstream model server did not answer in time.").code("upstream_unavailable")
}

/// The grace of a shutdown has run out.
#[must_use]
pub fn shutting_down() -> WireError {
    WireError::new(503, "The service is shutting down; send the request again.").retry_after(1)
}

impl From<ProcessEnds> for WireError {
    fn from(_: ProcessEnds) -> Self {
        shutting_down()
    }
}

fn shortened(id: &str) -> String {
    id.chars().take(MAX_ID_CHARS).collect()
}
