//! What a span tells, before it is anything of a protocol.

use std::time::SystemTime;

/// A value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Text(String),
    Texts(Vec<String>),
    Number(i64),
    Flag(bool),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// What a span is to its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The answer to a request of another process.
    Server,
    /// A step of our own.
    Internal,
    /// A request to another process.
    Client,
}

/// A span that has ended.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    pub(crate) trace_id: u128,
    pub(crate) id: u64,
    /// None for the root of a trace.
    pub(crate) parent: Option<u64>,
    /// Whether the parent is a span of another process.
    pub(crate) parent_is_remote: bool,
    /// The trace's `tracestate`.
    pub(crate) state: String,
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) began: SystemTime,
    pub(crate) ended: SystemTime,
    pub(crate) attributes: Vec<(&'static str, Value)>,
    /// Moments with a name.
    pub(crate) events: Vec<(&'static str, SystemTime)>,
    /// Whether what it tells of failed; `error.type` among the attributes says how.
    pub(crate) failed: bool,
}
