//! The way down of what is no answer: an error of the upstream, or of Envoy on its behalf, in the contract's shape.

use bytes::Bytes;
use tokio::time::Instant;

use super::answer::{end_with, whole};
use super::body::{self, BodyCollector};
use super::duplex::{Envoy, ExchangeError, Finished};
use super::exchange::{EndedBy, Interrupt, Router};
use super::headers::{HeaderMutation, Headers};
use super::keeping::Lineage;
use super::local::{LocalAnswer, error_headers};
use super::message::{Inbound, Reply, ResponseHead};
use super::refusal;
use crate::openai::error::WireError;
use crate::openai::responses::ResponseError;
use crate::translate::upstream_error::UpstreamError;
use crate::translate::{AnswerForm, Plan, ResponseStream};

/// An error of the upstream, or of Envoy on its behalf, in the contract's shape, its status and retry headers kept.
/// `asked` is there when the request had gone up: its plan, and its lineage.
pub(super) async fn upstream_error(
    router: &Router,
    mut envoy: Envoy,
    head: &ResponseHead,
    asked: Option<(Box<Plan>, Lineage)>,
    deadline: Instant,
) -> Result<Finished, ExchangeError> {
    let (body, ended_by) = if head.end_of_stream {
        (Bytes::new(), None)
    } else {
        match error_body(router, &mut envoy, deadline).await {
            Ok((body, ended_by)) => (body, Some(ended_by)),
            Err(interrupt) => return router.leave(envoy, interrupt).await,
        }
    };
    let mut error = normalised(head, body);
    envoy.account().note(|facts| facts.upstream_refused(&error));
    let overflow = error.code.as_deref() == Some("context_length_exceeded");
    if let Some((plan, _)) = asked.as_ref().filter(|_| overflow) {
        plan.explain_overflow(&mut error.message);
    }
    match (asked, ended_by) {
        // Codex and its like compact when a stream says so; an HTTP error they would only retry.
        (Some((plan, lineage)), Some(ended_by)) if plan.stream && overflow => {
            let mut machine = Box::new(ResponseStream::new(plan, AnswerForm::Events, &router.settings));
            machine.fail(ResponseError { code: "context_length_exceeded".to_owned(), message: error.message });
            whole(router, envoy, head, machine, lineage, ended_by).await
        }
        (_, Some(ended_by)) => {
            let body = Bytes::from(error.body(router.settings.api));
            // Where a redirect would lead is the upstream's affair.
            let mutation = HeaderMutation::new()
                .remove_body_description(&head.headers)
                .remove_where_present(&head.headers, &["location", "refresh"]);
            let mutation =
                error_headers(mutation, &error).status(error.status).set("content-length", body.len().to_string());
            envoy.send(Reply::response_headers(mutation)).await;
            Ok(end_with(envoy, body, ended_by).await)
        }
        // Headers that ended the stream cannot be given a body: an answer of our own takes their place.
        (_, None) => {
            let answer = LocalAnswer::error(&error, router.settings.api).with_headers(kept_of_error(&head.headers));
            Ok(answer.finish(envoy).await)
        }
    }
}

/// The body of an error, or nothing of one that is too large to be a message.
async fn error_body(router: &Router, envoy: &mut Envoy, deadline: Instant) -> Result<(Bytes, EndedBy), Interrupt> {
    let mut collector = BodyCollector::new(UpstreamError::MAX_BYTES);
    let mut too_large = false;
    loop {
        match router.next(envoy, deadline).await? {
            Inbound::ResponseBody(piece) => {
                let end = piece.end;
                too_large = too_large || collector.push(piece).is_err();
                if end {
                    let body = if too_large { Bytes::new() } else { collector.finish() };
                    return Ok((body, EndedBy::Body));
                }
            }
            Inbound::ResponseTrailers => return Ok((collector.finish(), EndedBy::Trailers)),
            // What is left of the request has nothing to say any more.
            _ => {}
        }
    }
}

fn normalised(head: &ResponseHead, body: Bytes) -> WireError {
    // Envoy's own replies tell of hosts and connections, and their text is not ours to pass on.
    if head.from_upstream() == Some(false) {
        return match head.status {
            500..=599 => refusal::upstream_unavailable(head.status),
            status => UpstreamError::default().wire(status),
        };
    }
    let body = body::decode(&head.headers, body, UpstreamError::MAX_BYTES).unwrap_or_default();
    match head.status {
        400..=599 => UpstreamError::parse(&body).wire(head.status),
        // A redirect is of no use to a client that asked us.
        _ => refusal::bad_answer("The upstream sent an answer that is neither a success nor an error."),
    }
}

/// The headers of an upstream's error that clients act on.
fn kept_of_error(headers: &Headers) -> Vec<(Bytes, Bytes)> {
    let acted_on = |name: &[u8]| {
        let name = name.to_ascii_lowercase();
        name.starts_with(b"retry-after") || name.starts_with(b"x-ratelimit-") || name == b"x-request-id"
    };
    let kept = headers.iter().filter(|(name, _)| acted_on(name));
    kept.map(|(name, value)| (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value))).collect()
}
