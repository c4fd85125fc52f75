//! What the operator decides about an exchange.

use std::num::NonZeroU64;
use std::time::Duration;

use bytes::Bytes;

use crate::store::ChainLimits;

/// How long a request's body may come slower than its pace.
pub const BODY_GRACE: Duration = Duration::from_secs(10);

/// Bounds and choices of an exchange.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The upstream path, prefix included.
    pub chat_path: Bytes,
    /// Whether Envoy chooses the route anew by the new path.
    pub clear_route_cache: bool,
    /// The most bytes of a request body, before and after decoding.
    pub max_request_bytes: usize,
    /// The most bytes of an unstreamed answer.
    pub max_answer_bytes: usize,
    /// The bounds of a chain.
    pub chain: ChainLimits,
    /// How long a client may take over its body.
    pub request_body: Duration,
    /// The bytes that must come of it each second on average, after [`BODY_GRACE`]; `None` is any number.
    pub request_body_pace: Option<NonZeroU64>,
    /// How long an exchange may take in all.
    pub exchange: Duration,
    /// Silence after which a stream repeats in_progress.
    pub heartbeat: Option<Duration>,
    /// Whether an answer that the store refused is given all the same, marked as not stored.
    pub degrade_without_store: bool,
}

impl Policy {
    /// How long after its beginning a body of which so many bytes have come may be without its next piece.
    pub(super) fn patience(&self, received: usize) -> Duration {
        let Some(pace) = self.request_body_pace else { return self.request_body };
        let due = BODY_GRACE + Duration::from_secs(received as u64 / pace);
        due.min(self.request_body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_its_grace_then_its_pace_and_never_more_than_its_time() {
        let chain = ChainLimits { max_depth: 1, max_bytes: 1, longest_turn: Duration::ZERO };
        let mut policy = Policy {
            chat_path: Bytes::new(),
            clear_route_cache: true,
            max_request_bytes: 1,
            max_answer_bytes: 1,
            chain,
            request_body: Duration::from_secs(60),
            request_body_pace: NonZeroU64::new(1024),
            exchange: Duration::from_secs(3600),
            heartbeat: None,
            degrade_without_store: false,
        };
        let seconds = |policy: &Policy, received| policy.patience(received).as_secs();
        assert_eq!(seconds(&policy, 0), 10);
        assert_eq!(seconds(&policy, 20 * 1024), 30);
        assert_eq!(seconds(&policy, 32 << 20), 60);
        policy.request_body_pace = None;
        assert_eq!(seconds(&policy, 0), 60);
    }
}
