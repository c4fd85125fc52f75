//! What an exchange says, on its way out: the body of the call's response, and the slot through which messages come to it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::task::AtomicWaker;
use hyper::HeaderMap;
use hyper::body::{Body, Frame};
use tonic::Status;
use tracing::Span;

use super::duplex::{ExchangeError, Finished, Rest};
use super::grpc::Outgoing;
use super::pb::ProcessingResponse;

type Exchange = BoxFuture<'static, Result<Finished, ExchangeError>>;

/// What an exchange sends to Envoy; polling it drives the exchange, dropping it drops the exchange.
pub struct Replies {
    slot: Arc<Slot>,
    span: Span,
    state: State,
    woken: Arc<Woken>,
    /// Wakes by way of `woken`.
    waker: Waker,
}

/// Whether anything woke the exchange since it was last polled.
///
/// Its task is woken for other reasons too: each time that the connection has sent a piece, there is room for another. In
/// a paced stream two polls of three would find nothing to do, and each goes through all of the exchange's code.
#[derive(Default)]
struct Woken {
    since: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.since.store(true, Ordering::Release);
        self.task.wake();
    }
}

/// ```text
/// Running ──Finished────────▶ Said ──Envoy has ended, status sent──▶ Told
///    └─────error or panic──▶ Over ──status sent─────────────────────▲
/// ```
/// What is left in the slot goes out before the status.
enum State {
    Running(Exchange),
    Said(Rest),
    Over(Status),
    Told,
}

impl Replies {
    /// The replies of an exchange that puts its messages into `slot` and runs in `span`.
    pub(super) fn of(exchange: Exchange, slot: Arc<Slot>, span: Span) -> Self {
        let woken = Arc::new(Woken { since: AtomicBool::new(true), task: AtomicWaker::new() });
        let waker = Waker::from(Arc::clone(&woken));
        Self { slot, span, state: State::Running(exchange), woken, waker }
    }

    /// Drives the exchange if there is reason to; once it is over, its future is dropped.
    fn poll_exchange(&mut self, cx: &mut Context<'_>) {
        let State::Running(exchange) = &mut self.state else { return };
        // In this order: what wakes the exchange from now on wakes this task.
        self.woken.task.register(cx.waker());
        if !self.woken.since.swap(false, Ordering::AcqRel) {
            return;
        }
        let _within = self.span.enter();
        let mut context = Context::from_waker(&self.waker);
        self.state = match catch_unwind(AssertUnwindSafe(|| exchange.as_mut().poll(&mut context))) {
            Ok(Poll::Pending) => return,
            Ok(Poll::Ready(Ok(Finished(rest)))) => State::Said(rest),
            Ok(Poll::Ready(Err(error))) => {
                error.log();
                State::Over(error.status())
            }
            Err(panic) => {
                tracing::error!(panic = panic_text(&*panic), "the exchange panicked");
                State::Over(Status::internal("the exchange panicked"))
            }
        };
    }

    /// Ready when there is something to send. The head of the call's response, which says nothing, then leaves with it,
    /// and Envoy is woken once for both.
    pub(super) fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.drive(cx);
        let silent = self.slot.lock().outgoing.is_empty() && matches!(self.state, State::Running(_));
        if silent { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Drives the exchange as far as there is room for its messages.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if self.slot.lock().outgoing.is_full() {
            return;
        }
        self.poll_exchange(cx);
        let failed = self.slot.lock().failed.take();
        if let Some(status) = failed {
            let _within = self.span.enter();
            tracing::error!(%status, "a message to envoy could not be encoded");
            self.state = State::Over(status);
        }
    }
}

impl Body for Replies {
    type Data = Bytes;
    type Error = Status;

    /// The messages that are ready, together; at the end, the status.
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        this.drive(cx);
        if let Some(piece) = this.slot.take() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let status = match &mut this.state {
            State::Running(_) => return Poll::Pending,
            State::Said(rest) => {
                ready!(rest.poll_over(cx));
                &Status::ok("")
            }
            State::Over(status) => status,
            State::Told => return Poll::Ready(None),
        };
        let mut trailers = HeaderMap::new();
        let told = status.add_header(&mut trailers).map(|()| Frame::trailers(trailers));
        this.state = State::Told;
        Poll::Ready(Some(told))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Told)
    }
}

impl std::fmt::Debug for Replies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replies").field("slot", &self.slot).finish_non_exhaustive()
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        if matches!(self.state, State::Running(_)) {
            let _within = self.span.enter();
            tracing::debug!("envoy reset the stream before the exchange was over");
            // What it does as it is dropped belongs to the span, too.
            self.state = State::Told;
        }
    }
}

/// The text of a panic, as far as it is text.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

/// The hand-over between an exchange and its stream.
#[derive(Debug, Default)]
pub(super) struct Slot(Mutex<Handover>);

#[derive(Debug, Default)]
struct Handover {
    outgoing: Outgoing,
    /// Why a message could not be encoded. The exchange, which waits for room for it, is dropped then.
    failed: Option<Status>,
    /// Who waits for room, and is polled when it is told that there is some.
    sender: Option<Waker>,
}

impl Slot {
    /// Encodes a message where it leaves, as soon as there is room.
    pub(super) async fn put(&self, message: &ProcessingResponse) {
        std::future::poll_fn(|cx| {
            let mut handover = self.lock();
            if !handover.outgoing.is_full() && handover.failed.is_none() {
                match handover.outgoing.push(message) {
                    Ok(()) => return Poll::Ready(()),
                    Err(status) => handover.failed = Some(status),
                }
            }
            handover.sender = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// The next piece to leave.
    fn take(&self) -> Option<Bytes> {
        let mut handover = self.lock();
        let piece = handover.outgoing.take()?;
        let sender = handover.sender.take();
        drop(handover);
        if let Some(sender) = sender {
            sender.wake();
        }
        Some(piece)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Handover> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::extproc::message::Reply;
    use crate::extproc::streamed_body::LARGE_BYTES;

    /// A task that counts how often it is woken.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn an_exchange_is_polled_when_something_woke_it_and_not_before() {
        let (polls, waiting) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(None)));
        let exchange = {
            let (polls, waiting) = (Arc::clone(&polls), Arc::clone(&waiting));
            std::future::poll_fn(move |cx| {
                polls.fetch_add(1, Ordering::Relaxed);
                *waiting.lock().unwrap() = Some(cx.waker().clone());
                Poll::Pending
            })
        };
        let mut replies = Replies::of(Box::pin(exchange), Arc::default(), Span::none());
        let (first, second) = (Arc::new(Task::default()), Arc::new(Task::default()));
        for task in [&first, &first, &second] {
            let waker = Waker::from(Arc::clone(task));
            assert!(Pin::new(&mut replies).poll_frame(&mut Context::from_waker(&waker)).is_pending());
        }
        assert_eq!(polls.load(Ordering::Relaxed), 1);
        // It is the task that polled last that hears of it.
        waiting.lock().unwrap().take().unwrap().wake();
        assert_eq!((first.0.load(Ordering::Relaxed), second.0.load(Ordering::Relaxed)), (0, 1));
        for _ in 0..2 {
            assert!(Pin::new(&mut replies).poll_frame(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        assert_eq!(polls.load(Ordering::Relaxed), 2);
    }

    /// Notes in which span it is dropped.
    struct Dropped(Arc<Mutex<Option<tracing::Id>>>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            *self.0.lock().unwrap() = Span::current().id();
        }
    }

    #[test]
    fn however_an_exchange_ends_it_is_polled_and_dropped_in_its_span() {
        let _subscriber = tracing::subscriber::set_default(tracing_subscriber::registry());
        for end in ["reset", "an error", "a panic", "a message that cannot be sent"] {
            let (polled, dropped) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(None)));
            let (span, slot) = (tracing::info_span!("exchange"), Arc::new(Slot::default()));
            let exchange = {
                let (polled, dropped) = (Arc::clone(&polled), Dropped(Arc::clone(&dropped)));
                let slot = Arc::clone(&slot);
                std::future::poll_fn(move |_| {
                    let _held = &dropped;
                    *polled.lock().unwrap() = Span::current().id();
                    match end {
                        "an error" => return Poll::Ready(Err(ExchangeError::Internal("on purpose"))),
                        "a panic" => panic!("on purpose"),
                        "a message that cannot be sent" => slot.lock().failed = Some(Status::internal("on purpose")),
                        _ => {}
                    }
                    Poll::Pending
                })
            };
            let mut replies = Replies::of(Box::pin(exchange), slot, span.clone());
            let frame = Pin::new(&mut replies).poll_frame(&mut Context::from_waker(Waker::noop()));
            assert_eq!(frame.is_pending(), end == "reset", "{end}");
            assert_eq!(dropped.lock().unwrap().is_none(), end == "reset", "{end}");
            assert!(Span::current().id().is_none(), "{end}");
            drop(replies);
            assert!(span.id().is_some() && Span::current().id().is_none(), "{end}");
            assert_eq!((&*polled.lock().unwrap(), &*dropped.lock().unwrap()), (&span.id(), &span.id()), "{end}");
        }
    }

    #[test]
    fn a_message_waits_while_there_is_no_room_for_it_and_its_sender_is_woken() {
        let slot = Slot::default();
        let large = Reply::response_body(vec![7; LARGE_BYTES].into()).0;
        let mut cx = Context::from_waker(Waker::noop());
        assert!(pin!(slot.put(&large)).poll(&mut cx).is_ready());
        let mut second = pin!(slot.put(&large));
        assert!(second.as_mut().poll(&mut cx).is_pending());
        assert!(slot.lock().sender.is_some());
        // What stands before the piece leaves first, and makes no room.
        assert!(slot.take().unwrap().len() < LARGE_BYTES);
        assert!(slot.lock().sender.is_none(), "the sender was not woken");
        assert!(second.as_mut().poll(&mut cx).is_pending());
        assert_eq!(slot.take().unwrap().len(), LARGE_BYTES);
        assert!(second.as_mut().poll(&mut cx).is_ready());
    }
}
