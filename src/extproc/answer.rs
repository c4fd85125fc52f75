//! The way down: the upstream's answer, whatever it is, into what the client asked for.
//!
//! A stream that the client wanted leaves as it comes ([`live`]); everything else is held until it is whole, so that
//! the store can still turn it into an error ([`whole`]).

use std::pin::pin;

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::admission::Seat;
use super::answer_error::upstream_error;
use super::body::{BodyCollector, Codings};
use super::duplex::{Envoy, ExchangeError, Finished};
use super::exchange::{EndedBy, Interrupt, Router, now};
use super::headers::{HeaderMutation, Headers};
use super::keeping::{self, Lineage, LiveStream, Writing, unstored};
use super::local::LocalAnswer;
use super::message::{BodyPiece, Inbound, LastReply, Reply, ResponseHead};
use super::refusal;
use crate::openai::error::WireError;
use crate::telemetry::Account;
use crate::telemetry::facts::Stored as StoredFact;
use crate::translate::Outcome;
use crate::translate::{self, AnswerForm, End, Plan, ResponseStream};

/// Events leave once there are so many bytes of them, even if more could be had at once. About what fits into one HTTP/2
/// frame.
const MERGED_BYTES: usize = 16 << 10;

/// How long the last events of the upstream's chunks wait for the store, to leave in one message with those of the end. For
/// Envoy each message is work, and of a short stream it gets eight or nine.
const TOGETHER_WITHIN: Duration = Duration::from_millis(5);

/// How long after `[DONE]` an upstream may take to end its stream before its connection is given up.
const LINGER: Duration = Duration::from_secs(1);

/// How the content type of a stream begins.
const EVENT_STREAM: &[u8] = b"text/event-stream";

/// What kind of answer an upstream's headers announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Announced {
    /// One JSON body; anything that does not claim to be a stream is read as one.
    Json,
    EventStream,
    Error,
    /// A success without a body.
    Nothing,
}

impl Announced {
    fn of(head: &ResponseHead) -> Self {
        let media_type = head.headers.get("content-type").and_then(|value| value.get(..EVENT_STREAM.len()));
        match head.status {
            200..=299 if head.end_of_stream || head.status == 204 => Self::Nothing,
            200..=299 if media_type.is_some_and(|name| name.eq_ignore_ascii_case(EVENT_STREAM)) => Self::EventStream,
            200..=299 => Self::Json,
            _ => Self::Error,
        }
    }
}

/// Answers the client from the upstream's answer, of which the headers are in.
pub(super) async fn answer(
    router: &Router,
    mut envoy: Envoy,
    head: ResponseHead,
    plan: Box<Plan>,
    lineage: Lineage,
    mut seat: Seat,
    deadline: Instant,
) -> Result<Finished, ExchangeError> {
    let announced = Announced::of(&head);
    if announced == Announced::Error {
        return upstream_error(router, envoy, &head, Some((plan, lineage)), deadline).await;
    }
    let form = if plan.stream { AnswerForm::Events } else { AnswerForm::Json };
    let machine = Box::new(ResponseStream::new(plan, form, &router.settings));
    let held = match announced {
        // We asked for no compression; a stream that is compressed all the same cannot be read as it arrives.
        Announced::EventStream if is_compressed(&head.headers) => {
            Err(refusal::bad_answer("The upstream sent a compressed stream.").into())
        }
        Announced::EventStream if form == AnswerForm::Events => {
            return live(router, envoy, head, machine, lineage, seat, deadline).await;
        }
        Announced::EventStream => gather_stream(router, &mut envoy, machine, &mut seat, deadline).await,
        Announced::Json => gather_json(router, &mut envoy, &head, machine, &mut seat, deadline).await,
        Announced::Nothing | Announced::Error => Err(refusal::bad_answer("The upstream sent an empty answer.").into()),
    };
    match held {
        Ok((machine, ended_by)) => whole(router, envoy, &head, machine, lineage, ended_by).await,
        Err(interrupt) => router.leave(envoy, interrupt).await,
    }
}

fn is_compressed(headers: &Headers) -> bool {
    headers.text("content-encoding").is_some_and(|coding| !coding.trim().eq_ignore_ascii_case("identity"))
}

/// Reads an unstreamed answer to its end.
async fn gather_json(
    router: &Router,
    envoy: &mut Envoy,
    head: &ResponseHead,
    mut machine: Box<ResponseStream>,
    seat: &mut Seat,
    deadline: Instant,
) -> Result<(Box<ResponseStream>, EndedBy), Interrupt> {
    let limit = router.policy.max_answer_bytes;
    let (body, ended_by) = response_body(router, envoy, limit, seat, deadline).await?;
    let codings = Codings::of(&head.headers).map_err(|error| unusable(&error))?;
    let body = codings.undo_by(&router.apart, body, limit).await?;
    let body = body.map_err(|error| unusable(&error))?;
    let read = if router.apart.is_for(body.len()) {
        router.apart.run(move || machine.push_completion(&body).map(|()| machine)).await?
    } else {
        machine.push_completion(&body).map(|()| machine)
    };
    let machine = read.map_err(|error| unusable(&error))?;
    Ok((machine, ended_by))
}

/// Reads to its end a stream that the client did not ask for.
async fn gather_stream(
    router: &Router,
    envoy: &mut Envoy,
    mut machine: Box<ResponseStream>,
    seat: &mut Seat,
    deadline: Instant,
) -> Result<(Box<ResponseStream>, EndedBy), Interrupt> {
    let held_before = seat.bytes();
    loop {
        match router.next(envoy, deadline).await? {
            Inbound::ResponseBody(piece) => {
                machine.feed(&piece.bytes);
                seat.hold(held_before.saturating_add(machine.kept_bytes()));
                if let Some(ended_by) = ending(piece.end, machine.is_over(), machine.has_failed()) {
                    return Ok((machine, ended_by));
                }
            }
            Inbound::ResponseTrailers => return Ok((machine, EndedBy::Trailers)),
            // What is left of the request has nothing to say any more.
            _ => {}
        }
    }
}

async fn response_body(
    router: &Router,
    envoy: &mut Envoy,
    limit: usize,
    seat: &mut Seat,
    deadline: Instant,
) -> Result<(Bytes, EndedBy), Interrupt> {
    let mut collector = BodyCollector::new(limit);
    let held_before = seat.bytes();
    loop {
        match router.next(envoy, deadline).await? {
            Inbound::ResponseBody(piece) => {
                let whole = collector.push(piece).map_err(|error| unusable(&error))?;
                seat.hold(held_before.saturating_add(collector.len()));
                if whole {
                    return Ok((collector.finish(), EndedBy::Body));
                }
            }
            Inbound::ResponseTrailers => return Ok((collector.finish(), EndedBy::Trailers)),
            // What is left of the request has nothing to say any more.
            _ => {}
        }
    }
}

fn unusable(error: &dyn std::error::Error) -> WireError {
    tracing::warn!(%error, "unusable upstream answer");
    refusal::bad_answer("The upstream's answer cannot be used.")
}

/// Answers with a whole response: stored first, then sent in one piece.
pub(super) async fn whole(
    router: &Router,
    mut envoy: Envoy,
    head: &ResponseHead,
    machine: Box<ResponseStream>,
    lineage: Lineage,
    ended_by: EndedBy,
) -> Result<Finished, ExchangeError> {
    let finish = |machine: Box<ResponseStream>| Box::new(machine.finish(End::Complete, now()));
    let finished = if router.apart.is_for(machine.kept_bytes()) {
        let finish_and_serialise = move || {
            let finished = finish(machine);
            finished.serialise();
            finished
        };
        router.apart.run(finish_and_serialise).await
    } else {
        Ok(finish(machine))
    };
    let mut finished = match finished {
        Ok(finished) => finished,
        Err(ends) => return router.leave(envoy, ends.into()).await,
    };
    envoy.account().note(|facts| facts.response_ended(&finished, End::Complete));
    let streamed = finished.plan().stream;
    // A stream has its own way to say that it failed; a JSON client gets an HTTP error.
    if let (Outcome::Failed(error), false) = (finished.outcome(), streamed) {
        tracing::warn!(error.code, "the upstream's answer failed");
        let error = refusal::failed_answer(error);
        return Ok(LocalAnswer::error(&error, router.settings.api).finish(envoy).await);
    }
    let mut mutation = answer_headers(&head.headers, finished.plan());
    match settle(router, envoy.account(), &mut finished, &lineage, None).await {
        Ok(Stored::AsAsked) => {}
        Ok(Stored::Not) => mutation = mutation.set("x-responses-stored", "false"),
        Err(error) if !streamed => {
            return Ok(LocalAnswer::error(&error, router.settings.api).finish(envoy).await);
        }
        // The stream tells of it.
        Err(_) => {}
    }
    let (mutation, body) = if streamed {
        envoy.account().events(finished.events(), true);
        (stream_headers(mutation, &head.headers), finished.into_tail())
    } else {
        let Ok(body) = finished.take_response() else {
            return Err(ExchangeError::Internal("the response did not serialise"));
        };
        let body = Bytes::from(body);
        let length = body.len().to_string();
        let mutation = mutation.set_where_other(&head.headers, "content-type", "application/json");
        (mutation.set("content-length", length), body)
    };
    envoy.account().note(|facts| facts.status = Some(200));
    envoy.send(Reply::response_headers(mutation.status_where_other(head.status, 200))).await;
    Ok(end_with(envoy, body, ended_by).await)
}

/// Streams the answer as it comes.
///
/// It begins with the upstream's first byte, not with its headers: before Envoy 1.40 has a piece of body for us, it
/// takes none from us ("spurious response message") and breaks the stream off. Since nothing can leave before, nothing
/// does: an upstream that fails until then is an error with a status.
async fn live(
    router: &Router,
    mut envoy: Envoy,
    head: ResponseHead,
    machine: Box<ResponseStream>,
    lineage: Lineage,
    mut seat: Seat,
    deadline: Instant,
) -> Result<Finished, ExchangeError> {
    let held_before = seat.bytes();
    let first = match first_piece(router, &mut envoy, deadline).await {
        Ok(first) => first,
        Err(interrupt) => return router.leave(envoy, interrupt).await,
    };
    let mutation = stream_headers(answer_headers(&head.headers, machine.plan()), &head.headers);
    let mutation = mutation.status_where_other(head.status, 200);
    // Its headers are slices of the connection's buffer, which must not live as long as the stream.
    drop(head);
    // From here on the client may know the id: whatever becomes of this future, what was produced is kept.
    let account = envoy.account().clone();
    account.note(|facts| facts.status = Some(200));
    let mut stream = LiveStream::new(machine, lineage, router.keeping.clone(), account.clone(), now);
    let mut ended_by = feed(&mut envoy, &mut stream, first).await?;
    // Leaves at once, even if the whole answer is in it.
    let opening = stream.take();
    envoy.send(Reply::response_headers(mutation)).await;
    envoy.send(Reply::response_body(opening)).await;

    let mut last_sent = Instant::now();
    let (end, ended_by) = loop {
        if let Some(ended_by) = ended_by {
            break (End::Complete, ended_by);
        }
        let wake = router.policy.heartbeat.map_or(deadline, |silence| (last_sent + silence).min(deadline));
        let events = match router.next(&mut envoy, wake).await {
            Ok(Inbound::ResponseBody(piece)) => {
                ended_by = feed(&mut envoy, &mut stream, piece).await?;
                seat.hold(held_before.saturating_add(stream.kept_bytes()));
                if ended_by.is_some() {
                    // Not taken: it leaves with the end, see `settle`.
                    continue;
                }
                stream.take()
            }
            Ok(Inbound::ResponseTrailers) => break (End::Complete, EndedBy::Trailers),
            // What is left of the request has nothing to say any more.
            Ok(_) => continue,
            Err(Interrupt::Break(ExchangeError::Deadline)) if Instant::now() < deadline => stream.heartbeat(),
            Err(Interrupt::Break(ExchangeError::Deadline)) => break (End::TimedOut, EndedBy::Body),
            Err(Interrupt::Break(error)) => return Err(error),
            // The headers have left, so nothing can be refused but more time.
            Err(Interrupt::Refuse(_)) => break (End::ShuttingDown, EndedBy::Body),
        };
        if !events.is_empty() {
            envoy.send(Reply::response_body(events)).await;
            last_sent = Instant::now();
        }
    };

    let Some((mut finished, lineage)) = stream.finish(end) else {
        return Err(ExchangeError::Internal("the stream was finished twice"));
    };
    // A failure is told inside the stream, see `settle`.
    let _ = settle(router, &account, &mut finished, &lineage, Some(&mut envoy)).await;
    account.note(|facts| facts.events = finished.events());
    let tail = finished.into_tail();
    Ok(end_with(envoy, tail, ended_by).await)
}

/// Feeds a stream with a piece of the upstream's, and with those that have come as well. What follows from them leaves in
/// one message: a message costs Envoy more than its bytes, and nothing is waited for. Says whether the stream ends.
async fn feed(envoy: &mut Envoy, stream: &mut LiveStream, piece: BodyPiece) -> Result<Option<EndedBy>, ExchangeError> {
    let mut piece = piece;
    loop {
        let ready = stream.feed(&piece.bytes);
        let ended_by = ending(piece.end, stream.is_over(), stream.has_failed());
        if ended_by.is_some() || ready >= MERGED_BYTES {
            return Ok(ended_by);
        }
        piece = loop {
            match envoy.next_if_ready().await {
                None => return Ok(None),
                Some(Ok(Inbound::ResponseBody(piece))) => break piece,
                Some(Ok(Inbound::ResponseTrailers)) => return Ok(Some(EndedBy::Trailers)),
                // What is left of the request has nothing to say any more.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
            }
        };
    }
}

/// The first piece of a stream's body.
async fn first_piece(router: &Router, envoy: &mut Envoy, deadline: Instant) -> Result<BodyPiece, Interrupt> {
    loop {
        match router.next(envoy, deadline).await? {
            Inbound::ResponseBody(piece) => return Ok(piece),
            Inbound::ResponseTrailers => {
                return Err(refusal::bad_answer("The upstream sent an empty answer.").into());
            }
            // What is left of the request has nothing to say any more.
            _ => {}
        }
    }
}

/// Whether a response that should be stored is.
enum Stored {
    /// It is, or nobody wanted it to be.
    AsAsked,
    /// The store refused it, and the operator wants the answer given all the same.
    Not,
}

/// Has the store acknowledge the response, if it is to be stored. When the store refuses, the response says so: as
/// `store: false`, or as a failed one, whose error for a JSON client is returned.
///
/// `live` is where a stream that has begun goes: what was not taken of it leaves if the store takes long.
async fn settle(
    router: &Router,
    account: &Account,
    finished: &mut translate::Finished,
    lineage: &Lineage,
    live: Option<&mut Envoy>,
) -> Result<Stored, WireError> {
    if !finished.plan().store {
        return Ok(Stored::AsAsked);
    }
    // What becomes of it when this future is dropped.
    account.note(|facts| facts.stored = StoredFact::InBackground);
    let writing = if live.is_some() { Writing::Alone } else { Writing::ByExchange };
    let record = keeping::record(finished, lineage);
    let keep = async { router.keeping.keep(lineage.owner, record?, writing).await };
    match releasing_untaken(live, finished, account.storing("store response", pin!(keep))).await {
        Ok(()) => {
            account.note(|facts| facts.stored = StoredFact::Stored);
            Ok(Stored::AsAsked)
        }
        Err(_) if router.policy.degrade_without_store => {
            account.note(|facts| facts.stored = StoredFact::Degraded);
            finished.mark_unstored();
            Ok(Stored::Not)
        }
        Err(error) => {
            let is_told = finished.fail(unstored(&error));
            let error = refusal::store(&error);
            account.note(|facts| match is_told {
                true => facts.store_refused(&error),
                // It failed for a reason of its own.
                false => facts.stored = StoredFact::Refused,
            });
            Err(error)
        }
    }
}

/// Does work at the end of a stream, and releases what was not taken of it before if the work takes longer than a moment.
///
/// The work must go on by itself while `send` waits for Envoy, as [`Writing::Alone`] does.
async fn releasing_untaken<T>(
    live: Option<&mut Envoy>,
    finished: &mut translate::Finished,
    work: impl Future<Output = T>,
) -> T {
    // Pinned, see `in_place`.
    let mut work = pin!(work);
    if let Some(envoy) = live
        && finished.untaken_bytes() > 0
    {
        match tokio::time::timeout(TOGETHER_WITHIN, work.as_mut()).await {
            Ok(done) => return done,
            Err(_elapsed) => envoy.send(Reply::response_body(finished.take_untaken())).await,
        }
    }
    work.await
}

/// Whether a stream ends now. After `[DONE]` the upstream's own end is waited for, because an end before it makes Envoy
/// close the upstream connection instead of keeping it for the next request. After a failure that is what we want.
fn ending(last_piece: bool, is_over: bool, has_failed: bool) -> Option<EndedBy> {
    match (last_piece || has_failed, is_over) {
        (true, _) => Some(EndedBy::Body),
        (false, true) => Some(EndedBy::NotYet),
        (false, false) => None,
    }
}

/// Ends the answer with its last piece, in the way in which the upstream's ends.
pub(super) async fn end_with(mut envoy: Envoy, body: Bytes, ended_by: EndedBy) -> Finished {
    // Often the end came while the answer was being stored. Then one message is enough.
    let ended_by = if ended_by == EndedBy::NotYet { end_of_upstream(&mut envoy, None).await } else { ended_by };
    if ended_by == EndedBy::Body {
        return envoy.finish(LastReply::response_body(body)).await;
    }
    envoy.tell(Reply::response_body(body)).await;
    let ended_by = match ended_by {
        EndedBy::NotYet => end_of_upstream(&mut envoy, Some(Instant::now() + LINGER)).await,
        ended_by => ended_by,
    };
    envoy
        .finish(match ended_by {
            EndedBy::Trailers => LastReply::response_trailers(),
            EndedBy::Body | EndedBy::NotYet => LastReply::response_body(Bytes::new()),
        })
        .await
}

/// The end of an upstream that has said all that matters: waits for it until then, or looks whether it is there.
async fn end_of_upstream(envoy: &mut Envoy, deadline: Option<Instant>) -> EndedBy {
    loop {
        let message = match deadline {
            Some(deadline) => Some(envoy.next_by(deadline).await),
            None => envoy.next_if_ready().await,
        };
        match message {
            Some(Ok(Inbound::ResponseTrailers)) => return EndedBy::Trailers,
            Some(Ok(Inbound::ResponseBody(piece))) if piece.end => return EndedBy::Body,
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return EndedBy::NotYet,
        }
    }
}

/// The headers that every translated answer gets.
fn answer_headers(upstream: &Headers, plan: &Plan) -> HeaderMutation {
    let mutation = HeaderMutation::new().remove_body_description(upstream);
    match plan.lossy.header() {
        Some(lossy) => mutation.set("x-responses-lossy", lossy),
        None => mutation,
    }
}

fn stream_headers(mutation: HeaderMutation, upstream: &Headers) -> HeaderMutation {
    mutation.set_where_other(upstream, "content-type", "text/event-stream; charset=utf-8").set_where_other(
        upstream,
        "cache-control",
        "no-cache",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extproc::message::Attributes;

    #[test]
    fn an_answer_is_a_stream_by_its_media_type_in_any_case_and_with_any_parameters() {
        let announced = |content_type: &'static [u8]| {
            let headers = Headers::from_iter([("content-type", bytes::Bytes::from_static(content_type))]);
            let attributes = Attributes::default();
            Announced::of(&ResponseHead { status: 200, headers, end_of_stream: false, attributes })
        };
        for stream in ["text/event-stream", "Text/Event-Stream;charset=utf-8", "TEXT/EVENT-STREAM ; x=\u{e9}"] {
            assert_eq!(announced(stream.as_bytes()), Announced::EventStream, "{stream}");
        }
        for other in ["", "text/event", "application/json", "text/plain", " text/event-stream"] {
            assert_eq!(announced(other.as_bytes()), Announced::Json, "{other}");
        }
        assert_eq!(announced(b"text/event-stream; x=\xff"), Announced::EventStream);
    }
}
