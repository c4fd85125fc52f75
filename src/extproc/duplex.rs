//! One exchange as a future that lives inside its reply stream.
//!
//! hyper polls `Replies`, the body of the call's response, for messages to Envoy; that polls the exchange, which reads
//! Envoy's messages and hands over its own through a slot that holds what leaves next. No task and no channel per
//! exchange: in the prototype that was a sixth of the processor's CPU.
//!
//! ```text
//!   Envoy ──ProcessingRequest──▶ Envoy::next ─▶ exchange ─▶ Envoy::send ─▶ Slot ─▶ Replies ──ProcessingResponse──▶ Envoy
//!                                               └──────── polled by Replies ────────┘
//! ```
//!
//! What this module guarantees, because Envoy takes a clean close in the middle of an exchange for "go on without me"
//! (an empty upstream request, an empty 200, raw upstream chunks, and no error anywhere):
//!
//! - The stream ends with OK only when the exchange returned [`Finished`], which only [`Envoy::finish`] makes, out of
//!   the last message. Every other end (error, panic, Envoy gone) is a gRPC error after all messages sent before it.
//! - After the last message it is Envoy that ends the stream ([`Rest`]).
//! - While Envoy does not read, `send` waits, and the whole exchange with it: it is not polled at all. So an exchange
//!   must not hold what others wait for (a lock, a permit of a small semaphore) across a `send`, nor begin to after one: a
//!   store's write has a task of its own then.
//! - When Envoy resets the stream, the exchange is dropped at whatever await it is, a store's included. On Envoy 1.40
//!   that is what a client that hangs up and an upstream that breaks off look like; [`ExchangeError::Gone`], Envoy's
//!   side ended without a reset, is the exception. So what must happen at such an end belongs in a drop guard, and what
//!   must not be torn in a task of its own.
//! - What Envoy says after the last message is not read.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Once};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tracing::field;

use super::grpc::Messages;
use super::message::{Inbound, LastReply, MalformedMessage, Protocol, Reply, WrongProtocol};
use super::metadata;
use super::pb::{ProcessingRequest, ProcessingResponse};
use super::replies::{Replies, Slot};
use crate::in_place::pinned;
use crate::telemetry::Account;
use crate::telemetry::facts::Ending;

/// How long Envoy may take from opening a stream to its first message; both leave together.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);

/// How long Envoy may take to end a stream after its last message, when the exchange had no deadline.
const LAST_MESSAGE: Duration = Duration::from_secs(10);

/// Why an exchange ended without its last message. Envoy gets a gRPC error: the client sees 5xx, or a cut stream when
/// its response had begun.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// Envoy ended its side first: the client hung up, or the upstream's connection broke in mid-answer. The two look
    /// alike from here.
    #[error("the client or the upstream is gone")]
    Gone,
    /// The stream from Envoy broke or carried what cannot be decoded. Usually a client that is gone, too.
    #[error("the stream from envoy broke")]
    Broken(#[source] Box<Status>),
    /// No message came until the deadline given to [`Envoy::next_by`].
    #[error("envoy sent nothing until the deadline")]
    Deadline,
    /// A message without what HTTP needs.
    #[error(transparent)]
    Malformed(#[from] MalformedMessage),
    /// A message that makes no sense at this point of the exchange.
    #[error("unexpected message while {0}")]
    OutOfOrder(&'static str),
    /// The filter is configured in a way that cannot be served.
    #[error(transparent)]
    WrongProtocol(#[from] WrongProtocol),
    /// Our own fault.
    #[error("internal error: {0}")]
    Internal(&'static str),
}

impl ExchangeError {
    pub(super) fn status(&self) -> Status {
        let text = self.to_string();
        match self {
            Self::Gone | Self::Broken(_) => Status::cancelled(text),
            Self::Deadline => Status::deadline_exceeded(text),
            Self::Malformed(_) | Self::OutOfOrder(_) => Status::invalid_argument(text),
            Self::WrongProtocol(_) => Status::failed_precondition(text),
            Self::Internal(_) => Status::internal(text),
        }
    }

    /// Notes this end of an exchange.
    fn note(&self, account: &Account) {
        account.note(|facts| match self {
            Self::Gone | Self::Broken(_) => facts.ending = Some(Ending::ClientGone),
            Self::Deadline => facts.broke("deadline"),
            Self::Malformed(_) | Self::OutOfOrder(_) => facts.broke("protocol_error"),
            Self::WrongProtocol(_) => facts.broke("wrong_protocol"),
            Self::Internal(_) => facts.broke("internal_error"),
        });
    }

    pub(super) fn log(&self) {
        match self {
            Self::Gone => tracing::debug!("{self}"),
            Self::Broken(status) => tracing::debug!(%status, "{self}"),
            Self::Deadline | Self::Malformed(_) | Self::OutOfOrder(_) => tracing::warn!("{self}"),
            Self::WrongProtocol(_) | Self::Internal(_) => tracing::error!("{self}"),
        }
    }
}

/// Proof that the last message of an exchange was handed over.
#[derive(Debug)]
#[must_use = "an exchange that does not return this ends with an error"]
pub struct Finished(pub(super) Rest);

/// What is left of a stream when the last message is handed over: Envoy ends it.
///
/// Envoy 1.40 resets the stream as soon as it has that message, and reads no status: to end the stream first costs both
/// sides a frame with the status and a reset of ours, since Envoy's side is still open, and saves nothing. With
/// `envoy.reloadable_features.ext_proc_graceful_grpc_close` it ends its side and waits for the status, which it gets then.
#[derive(Debug)]
pub(super) struct Rest {
    inbound: Messages,
    alarm: Alarm,
}

impl Rest {
    /// Ready when Envoy has ended its side; or when the deadline is over for which the exchange had set its timer last, so
    /// that a peer that does neither is not waited for for ever.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.inbound.poll_end(cx) {
            Poll::Pending => self.alarm.0.as_mut().poll(cx),
            over => over,
        }
    }
}

/// Envoy, as one exchange sees it.
#[derive(Debug)]
pub struct Envoy {
    inbound: Messages,
    /// Read before the exchange began, to check the protocol. On the heap, since an exchange moves this and lives long.
    first: Option<Box<ProcessingRequest>>,
    slot: Arc<Slot>,
    account: Account,
    request_over: bool,
    response_over: bool,
    /// Both are kept from one message to the next: to register a wait anew costs more than to read a message.
    alarm: Option<Alarm>,
    stopped: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

/// The work has to stop, whatever is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

/// A timer for deadlines that move. It is set anew when one comes before the time it is set for, or when that is over;
/// a deadline that moves on, as that of a heartbeat does with every event, costs nothing.
#[derive(Debug)]
struct Alarm(Pin<Box<Sleep>>);

impl Alarm {
    fn at(deadline: Instant) -> Self {
        Self(Box::pin(tokio::time::sleep_until(deadline)))
    }

    /// Ready when this deadline is over.
    fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if deadline < self.0.deadline() {
            self.0.as_mut().reset(deadline);
        }
        ready!(self.0.as_mut().poll(cx));
        while self.0.deadline() < deadline {
            self.0.as_mut().reset(deadline);
            ready!(self.0.as_mut().poll(cx));
        }
        Poll::Ready(())
    }
}

impl Envoy {
    /// The account of this exchange.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The next message. A direction that is over stays over: Envoy 1.35 and later may repeat the last piece of a large
    /// request body (envoy#46237), and repetitions are not shown.
    ///
    /// Dropping the future loses no message.
    ///
    /// # Errors
    /// [`ExchangeError::Gone`], [`Broken`](ExchangeError::Broken) or [`Malformed`](ExchangeError::Malformed).
    pub async fn next(&mut self) -> Result<Inbound, ExchangeError> {
        loop {
            let message = match self.first.take() {
                Some(first) => *first,
                None => receive(&mut self.inbound).await?,
            };
            let Some(message) = Inbound::read(message)? else { continue };
            self.account.received(message.phase());
            if self.is_repetition(&message) {
                tracing::debug!("envoy repeated the end of a body");
                continue;
            }
            return Ok(message);
        }
    }

    /// The next message, if it comes in time. Envoy itself has no timer in FULL_DUPLEX_STREAMED.
    ///
    /// # Errors
    /// [`ExchangeError::Deadline`], after which the exchange can go on; and those of [`Envoy::next`].
    pub async fn next_by(&mut self, deadline: Instant) -> Result<Inbound, ExchangeError> {
        // Should this future be dropped, the next call makes another alarm.
        let mut alarm = self.alarm.take().unwrap_or_else(|| Alarm::at(deadline));
        let result = {
            let mut next = pin!(self.next());
            std::future::poll_fn(|cx| match next.as_mut().poll(cx) {
                Poll::Pending => alarm.poll(deadline, cx).map(|()| Err(ExchangeError::Deadline)),
                ready => ready,
            })
            .await
        };
        self.alarm = Some(alarm);
        result
    }

    /// The next message, if it is there already.
    ///
    /// # Errors
    /// Those of [`Envoy::next`].
    pub async fn next_if_ready(&mut self) -> Option<Result<Inbound, ExchangeError>> {
        let mut next = pin!(self.next());
        std::future::poll_fn(|cx| match next.as_mut().poll(cx) {
            Poll::Pending => Poll::Ready(None),
            Poll::Ready(message) => Poll::Ready(Some(message)),
        })
        .await
    }

    /// The next message, if it comes in time and before the work has to stop; what is there already is given first.
    ///
    /// # Errors
    /// [`Stopped`]; and inside, those of [`Envoy::next_by`].
    pub async fn next_unless(
        &mut self,
        deadline: Instant,
        stop: &CancellationToken,
    ) -> Result<Result<Inbound, ExchangeError>, Stopped> {
        let mut stopped = self.stopped.take().unwrap_or_else(|| Box::pin(stop.clone().cancelled_owned()));
        let result = {
            let mut next = pin!(self.next_by(deadline));
            std::future::poll_fn(|cx| match next.as_mut().poll(cx) {
                Poll::Pending => stopped.as_mut().poll(cx).map(|()| Err(Stopped)),
                Poll::Ready(message) => Poll::Ready(Ok(message)),
            })
            .await
        };
        self.stopped = Some(stopped);
        result
    }

    /// Hands a message over to Envoy. Waits while as much as is let wait has not left.
    pub async fn send(&mut self, reply: Reply) {
        self.account.sent(reply.phase());
        self.slot.put(&reply.0).await;
    }

    /// Hands over a message together with what is known of the exchange by now.
    pub async fn send_described(&mut self, reply: Reply) {
        let reply = Reply(self.described(reply.0));
        self.send(reply).await;
    }

    /// Hands over the message with which the client has all, although the exchange does not end with it. A client that
    /// reads no further may be gone before that, so this one says what is known.
    pub async fn tell(&mut self, reply: Reply) {
        self.send_described(reply).await;
        self.account.told();
    }

    /// Hands over the message that ends the exchange, with what is known of it.
    pub async fn finish(self, reply: LastReply) -> Finished {
        self.account.sent(reply.phase());
        let message = self.described(reply.0);
        self.slot.put(&message).await;
        self.account.told();
        let alarm = self.alarm.unwrap_or_else(|| Alarm::at(Instant::now() + LAST_MESSAGE));
        Finished(Rest { inbound: self.inbound, alarm })
    }

    fn described(&self, mut message: ProcessingResponse) -> ProcessingResponse {
        message.dynamic_metadata = self.account.metadata(metadata::encode).unwrap_or_default();
        message
    }

    fn is_repetition(&mut self, message: &Inbound) -> bool {
        let (over, end) = match message {
            Inbound::RequestHeaders(head) => (&mut self.request_over, head.end_of_stream),
            Inbound::RequestBody(piece) => (&mut self.request_over, piece.end),
            Inbound::RequestTrailers => (&mut self.request_over, true),
            Inbound::ResponseHeaders(head) => (&mut self.response_over, head.end_of_stream),
            Inbound::ResponseBody(piece) => (&mut self.response_over, piece.end),
            Inbound::ResponseTrailers => (&mut self.response_over, true),
        };
        std::mem::replace(over, *over || end)
    }
}

async fn receive(inbound: &mut Messages) -> Result<ProcessingRequest, ExchangeError> {
    match inbound.next().await {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(ExchangeError::Gone),
        Err(status) => Err(ExchangeError::Broken(Box::new(status))),
    }
}

/// Runs an exchange over the messages that Envoy sends, and gives what is to be sent back.
///
/// `exchange` is called in the first poll, after the first message was read and the protocol checked. It runs in a
/// span `exchange` whose fields `request_id`, `route` and `response_id` are its to record.
///
/// Every end is noted in `account`, those before there is an exchange too.
pub(super) fn serve<X, F>(inbound: Messages, account: Account, exchange: X) -> Replies
where
    X: FnOnce(Envoy) -> F + Send + 'static,
    F: Future<Output = Result<Finished, ExchangeError>> + Send + 'static,
{
    let slot = Arc::new(Slot::default());
    let span =
        tracing::info_span!("exchange", request_id = field::Empty, route = field::Empty, response_id = field::Empty);
    Replies::of(pinned(|| run(inbound, Arc::clone(&slot), account, exchange)), slot, span)
}

async fn run<X, F>(inbound: Messages, slot: Arc<Slot>, account: Account, exchange: X) -> Result<Finished, ExchangeError>
where
    X: FnOnce(Envoy) -> F,
    F: Future<Output = Result<Finished, ExchangeError>>,
{
    let result = match open(inbound, slot, account.clone()).await {
        Ok(envoy) => exchange(envoy).await,
        Err(error) => Err(error),
    };
    if let Err(error) = &result {
        error.note(&account);
    }
    result
}

/// Reads the first message and checks the protocol.
async fn open(mut inbound: Messages, slot: Arc<Slot>, account: Account) -> Result<Envoy, ExchangeError> {
    static UNTOLD: Once = Once::new();
    // A stream that is opened and stays silent must not live for ever.
    let first = tokio::time::timeout(FIRST_MESSAGE, receive(&mut inbound)).await;
    let first = first.unwrap_or(Err(ExchangeError::Deadline))?;
    if Protocol::check(&first)? == Protocol::Untold {
        UNTOLD.call_once(|| {
            tracing::warn!(
                "envoy does not tell its processing mode (older than 1.34?); it has to be FULL_DUPLEX_STREAMED both ways"
            );
        });
    }
    Ok(Envoy {
        inbound,
        first: Some(Box::new(first)),
        slot,
        account,
        request_over: false,
        response_over: false,
        alarm: None,
        stopped: None,
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::StreamExt as _;
    use http_body_util::{BodyExt as _, StreamBody};
    use hyper::body::Frame;
    use tokio::sync::{mpsc, oneshot};
    use tokio_stream::wrappers::UnboundedReceiverStream;
    use tonic::body::Body;

    use super::*;
    use crate::extproc::grpc::Outgoing;
    use crate::extproc::pb::HttpTrailers;
    use crate::extproc::pb::processing_request::Request;

    type ToRouter = mpsc::UnboundedSender<Bytes>;

    /// An exchange that reads one message, until a deadline if there is one, and ends; until when its stream is waited for;
    /// and what Envoy sends to it, that message for a start.
    fn exchange(deadline: Option<Duration>) -> (Replies, oneshot::Receiver<Instant>, ToRouter) {
        let (to_router, frames) = mpsc::unbounded_channel();
        let frames = UnboundedReceiverStream::new(frames).map(|data| Ok::<_, Status>(Frame::data(data)));
        let inbound = Messages::new(Body::new(StreamBody::new(frames)).into());
        let (tell, until) = oneshot::channel();
        let replies = serve(inbound, Account::open(Arc::default(), None), move |mut envoy| async move {
            match deadline {
                Some(deadline) => envoy.next_by(Instant::now() + deadline).await?,
                None => envoy.next().await?,
            };
            let finished = envoy.finish(LastReply::response_trailers()).await;
            tell.send(finished.0.alarm.0.deadline()).unwrap();
            Ok(finished)
        });
        to_router.send(framed(Request::RequestTrailers(HttpTrailers::default()))).unwrap();
        (replies, until, to_router)
    }

    fn framed(request: Request) -> Bytes {
        let message = ProcessingRequest { request: Some(request), ..ProcessingRequest::default() };
        let mut data = vec![0, 0, 0, 0, u8::try_from(prost::Message::encoded_len(&message)).unwrap()];
        prost::Message::encode(&message, &mut data).unwrap();
        data.into()
    }

    /// The status in the next frame.
    async fn status(replies: &mut Replies) -> String {
        let frame = replies.frame().await.unwrap().unwrap();
        let trailers = frame.into_trailers().unwrap();
        trailers["grpc-status"].to_str().unwrap().to_owned()
    }

    /// What an exchange of `exchange` says before the status.
    fn last_message() -> Bytes {
        let mut outgoing = Outgoing::default();
        outgoing.push(&LastReply::response_trailers().0).unwrap();
        outgoing.take().unwrap()
    }

    #[tokio::test]
    async fn after_the_last_message_it_is_envoy_that_ends_the_stream() {
        let (mut replies, _until, to_router) = exchange(None);
        assert_eq!(replies.frame().await.unwrap().unwrap().into_data().unwrap(), last_message());
        // What it says until then does not matter, whether it is a message or not.
        let message = framed(Request::RequestTrailers(HttpTrailers::default()));
        for data in [message, Bytes::from_static(&[0, 0]), Bytes::new()] {
            to_router.send(data).unwrap();
            assert!(futures_util::poll!(pin!(replies.frame())).is_pending(), "the router ended first");
        }
        drop(to_router);
        assert_eq!(status(&mut replies).await, "0");
        assert!(replies.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_stream_that_envoy_does_not_end_is_ended_when_the_deadline_is_over() {
        const SHORT: Duration = Duration::from_millis(20);
        for (deadline, longest) in [(None, LAST_MESSAGE), (Some(SHORT), SHORT)] {
            let before = Instant::now();
            let (mut replies, until, to_router) = exchange(deadline);
            assert_eq!(replies.frame().await.unwrap().unwrap().into_data().unwrap(), last_message());
            let until = until.await.unwrap();
            assert!(until >= before + longest && until <= Instant::now() + longest);
            if longest == SHORT {
                assert_eq!(status(&mut replies).await, "0");
                assert!(Instant::now() >= until && replies.frame().await.is_none());
            }
            drop(to_router);
        }
    }
}
