//! What can be wrong with a request, or with an upstream's answer, told apart by whose fault it is.
//!
//! These are not wire errors yet: `extproc::refusal` decides their status, code and text.

use crate::openai::item::ItemError;
use crate::openai::raw::InvalidMember;

/// A request that cannot be translated. All but the last are the client's to mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The body is not JSON, or not an object.
    #[error("the request body is not a JSON object: {0}")]
    NotAnObject(String),
    /// Objects and lists within each other, more than are accepted.
    #[error("the request body is nested deeper than {limit} levels")]
    TooDeep {
        /// The bound.
        limit: usize,
    },
    /// More values than are accepted, at all depths together.
    #[error("the request body has more than {limit} values")]
    TooManyValues {
        /// The bound.
        limit: usize,
    },
    /// A list or an object has more members than are accepted.
    #[error("{param} has more than {limit}")]
    TooMany {
        /// Its path in the request.
        param: String,
        /// The bound.
        limit: usize,
        /// What there may be so many of.
        of: &'static str,
    },
    /// A member has a wrong type.
    #[error(transparent)]
    InvalidType(#[from] InvalidMember),
    /// A required member is missing.
    #[error("'{param}' is required")]
    Missing {
        /// The member.
        param: String,
    },
    /// `input` is missing, `messages` is there: a chat client that has the wrong path.
    #[error("'input' is required; this is the Responses API, 'messages' belongs to chat completions")]
    MessagesInsteadOfInput,
    /// A member's value is not acceptable.
    #[error("{param}: {reason}")]
    InvalidValue {
        /// Its path in the request.
        param: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The member is right by the reference, but not offered here.
    #[error("{param}: {reason}")]
    Unsupported {
        /// Its path in the request.
        param: String,
        /// What is not offered.
        reason: String,
    },
    /// `previous_response_id` cannot be an id of ours. Answered exactly like an unknown one.
    #[error("previous response not found")]
    PreviousNotFound {
        /// What the client sent.
        id: String,
    },
    /// A reference to an item that is not stored, or not for this client.
    #[error("item {id} not found")]
    ItemNotFound {
        /// What the client sent.
        id: String,
    },
    /// A call that no output answers.
    #[error("no tool output found for function call {call_id}")]
    UnansweredCall {
        /// The call.
        call_id: String,
    },
    /// An output without its call.
    #[error("no tool call found for function call output with call_id {call_id}")]
    UnknownCall {
        /// What the output claims to answer.
        call_id: String,
    },
    /// A stored turn of the chain cannot be read. Ours to mend, not the client's.
    #[error("stored item unreadable: {0}")]
    History(String),
}

impl From<ItemError> for RequestError {
    fn from(error: ItemError) -> Self {
        match error {
            ItemError::Missing { param } => Self::Missing { param },
            ItemError::InvalidType(invalid) => Self::InvalidType(invalid),
            ItemError::Invalid { param, reason } => Self::InvalidValue { param, reason },
            ItemError::Unsupported { param, reason } => Self::Unsupported { param, reason },
        }
    }
}

/// An upstream's success that holds no usable answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unusable upstream answer: {0}")]
pub struct BadAnswer(pub String);
