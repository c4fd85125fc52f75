//! The one line that the log has of every exchange: no text of a prompt or an answer, no key, and ids shortened unless
//! the operator wants them whole.

use super::facts::{Ending, Facts, Stored, UpstreamError};
use super::metadata::milliseconds;
use crate::id::ResponseId;

/// How much of an id is shown: `resp_` and eight digits, enough to find it again among a day's.
const SHOWN_CHARS: usize = 13;

/// Writes the line of an exchange that has ended. What does not apply is left out.
pub(super) fn write(facts: &Facts, full_ids: bool) {
    let id = |id: &Option<ResponseId>| id.as_ref().map(|id| shown(id, full_ids).to_owned());
    let usage = facts.usage;
    let line = || {
        tracing::info!(
            parent: None,
            route = facts.route,
            outcome = facts.ending.map(Ending::as_str),
            status = facts.status,
            stream = facts.stream.then_some(true),
            reason = facts.reason,
            error_code = facts.error_code,
            upstream_error = facts.upstream_error.map(UpstreamError::as_str),
            duration_ms = milliseconds(facts.duration),
            ttft_ms = facts.first_token.map(milliseconds),
            store_ms = (!facts.store_time.is_zero()).then(|| milliseconds(facts.store_time)),
            stored = (facts.stored != Stored::NotAsked).then(|| facts.stored.as_str()),
            chain_length = facts.chain.map(|chain| chain.length),
            input_tokens = usage.map(|usage| usage.input_tokens),
            output_tokens = usage.map(|usage| usage.output_tokens),
            cached_tokens = usage.map(|usage| usage.input_tokens_details.cached_tokens),
            reasoning_tokens = usage.map(|usage| usage.output_tokens_details.reasoning_tokens),
            lossy = (facts.lossy.iter().count() > 0).then(|| facts.lossy.iter().count()),
            heartbeats = (facts.heartbeats > 0).then_some(facts.heartbeats),
            request_id = facts.request_id,
            tenant = facts.tenant.map(|tenant| tenant.short()),
            response_id = id(&facts.response_id),
            previous_response_id = id(&facts.previous_response_id),
            "exchange"
        )
    };
    // The span around it would say half of this a second time.
    outside_of_the_span(line);
}

/// Logs as if there were no span: the JSON format shows the current one even beside what has no parent.
fn outside_of_the_span(log: impl FnOnce()) {
    let span = tracing::Span::current();
    span.with_subscriber(|(id, subscriber)| subscriber.exit(id));
    log();
    span.with_subscriber(|(id, subscriber)| subscriber.enter(id));
}

/// An id as the log shows it.
pub(crate) fn shown(id: &ResponseId, full: bool) -> &str {
    if full { id.as_str() } else { id.as_str().get(..SHOWN_CHARS).unwrap_or(id.as_str()) }
}
