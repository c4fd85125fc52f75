//! How an exchange can end. Envoy takes a clean end in mid-exchange for "go on without me" and corrupts silently, so
//! the one thing that must never be seen here is a clean end without a last message.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use responses_router::extproc::duplex::{Envoy, ExchangeError, Stopped};
use responses_router::extproc::headers::HeaderMutation;
use responses_router::extproc::message::{Inbound, LastReply, Reply};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::support::envoy::ext_proc::processing_request::Request;
use crate::support::envoy::{
    Exchange, PATIENCE, Router, Seen, answer, post, request, request_body, request_trailers, response_body,
    response_trailers, seen,
};
use crate::support::stack::wait::{POLL, eventually};

/// A whole exchange as Envoy tells it, with trailers so that every kind of message is in it.
fn conversation() -> Vec<Request> {
    vec![
        post(),
        request_body("{", false),
        request_body("}", false),
        request_trailers(),
        answer("200", "text/event-stream"),
        response_body("data: 1\n\n", false),
        response_body("data: 2\n\n", false),
        response_trailers(),
    ]
}

/// Reads this many messages and answers as a real exchange does, but for the very last message. Gives the number of
/// answers.
async fn converse(envoy: &mut Envoy, messages: usize) -> Result<usize, ExchangeError> {
    let mut sent = 0;
    for _ in 0..messages {
        let replies = match envoy.next().await? {
            Inbound::RequestHeaders(_) | Inbound::RequestBody(_) | Inbound::ResponseTrailers => vec![],
            Inbound::RequestTrailers => vec![
                Reply::request_headers(HeaderMutation::new(), false),
                Reply::request_body(Bytes::from_static(b"{}"), false),
                Reply::request_trailers(),
            ],
            Inbound::ResponseHeaders(_) => vec![Reply::response_headers(HeaderMutation::new())],
            Inbound::ResponseBody(piece) => vec![Reply::response_body(piece.bytes)],
        };
        sent += replies.len();
        for reply in replies {
            envoy.send(reply).await;
        }
    }
    Ok(sent)
}

/// How many answers `converse` gives after so many messages.
fn answers_after(messages: usize) -> usize {
    [0, 0, 0, 0, 3, 4, 5, 6, 6][messages]
}

async fn tell(exchange: &mut Exchange, messages: usize) {
    for message in conversation().into_iter().take(messages) {
        exchange.send(message).await;
    }
}

#[tokio::test]
async fn a_panic_in_any_phase_ends_with_an_error_after_what_was_sent() {
    for messages in 1..=conversation().len() {
        let router = Router::script(move |mut envoy| async move {
            converse(&mut envoy, messages).await?;
            panic!("on purpose, after {messages} messages");
        })
        .await;
        let mut exchange = router.open().await;
        tell(&mut exchange, messages).await;
        let (replies, status) = exchange.rest().await;
        assert_eq!(status.expect("an error").code(), Code::Internal, "after {messages}");
        assert_eq!(replies.len(), answers_after(messages), "after {messages}");
    }
}

#[tokio::test]
async fn a_panic_before_the_first_await_ends_with_an_error() {
    let router = Router::script(|_envoy| {
        assert!(std::hint::black_box(false), "on purpose, before there is a future");
        std::future::pending()
    })
    .await;
    let mut exchange = router.open().await;
    exchange.send(post()).await;
    assert_eq!(exchange.error().await.code(), Code::Internal);
}

#[tokio::test]
async fn an_early_return_in_any_phase_ends_with_an_error_after_what_was_sent() {
    for messages in 1..=conversation().len() {
        let router = Router::script(move |mut envoy| async move {
            converse(&mut envoy, messages).await?;
            Err(ExchangeError::Internal("gave up"))
        })
        .await;
        let mut exchange = router.open().await;
        tell(&mut exchange, messages).await;
        let (replies, status) = exchange.rest().await;
        let status = status.expect("an error");
        assert_eq!((status.code(), status.message()), (Code::Internal, "internal error: gave up"));
        assert_eq!(replies.len(), answers_after(messages), "after {messages}");
    }
}

#[tokio::test]
async fn an_end_of_envoys_side_in_any_phase_is_told_and_ends_with_an_error() {
    let told = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&told);
    let router = Router::script(move |mut envoy| {
        let told = Arc::clone(&count);
        async move {
            let result = converse(&mut envoy, usize::MAX).await;
            assert!(matches!(result, Err(ExchangeError::Gone)), "{result:?}");
            told.fetch_add(1, Ordering::SeqCst);
            Err(result.unwrap_err())
        }
    })
    .await;
    for messages in 0..=conversation().len() {
        let mut exchange = router.open().await;
        tell(&mut exchange, messages).await;
        exchange.half_close();
        let (replies, status) = exchange.rest().await;
        assert_eq!(status.expect("an error").code(), Code::Cancelled, "after {messages}");
        assert_eq!(replies.len(), answers_after(messages), "after {messages}");
        // Without a first message there is nobody to tell.
        assert_eq!(told.load(Ordering::SeqCst), messages, "after {messages}");
    }
}

#[tokio::test]
async fn what_envoy_says_after_the_last_message_does_not_matter() {
    let router = Router::script(|mut envoy| async move {
        converse(&mut envoy, 6).await?;
        Ok(envoy.finish(LastReply::response_body(Bytes::from_static(b"the end"))).await)
    })
    .await;
    let mut exchange = router.open().await;
    tell(&mut exchange, 8).await;
    exchange.half_close();
    let (replies, status) = exchange.rest().await;
    assert!(status.is_none(), "{status:?}");
    let last = seen(replies.last().cloned().unwrap());
    assert_eq!(last, Seen::ResponseBody { body: b"the end".to_vec(), end: true });
}

#[tokio::test]
async fn a_reset_of_the_stream_drops_the_exchange() {
    struct Guard(Arc<Notify>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let dropped = Arc::new(Notify::new());
    let guarded = Arc::clone(&dropped);
    // An exchange that waits for something else than Envoy: it does not look at its messages.
    let router = Router::script(move |mut envoy| {
        let guard = Guard(Arc::clone(&guarded));
        async move {
            let _guard = guard;
            converse(&mut envoy, 4).await?;
            std::future::pending().await
        }
    })
    .await;
    let mut exchange = router.open().await;
    tell(&mut exchange, 5).await;
    exchange.reply().await;
    assert_eq!(router.stop.live.len(), 1);
    drop(exchange);
    tokio::time::timeout(PATIENCE, dropped.notified()).await.expect("the exchange is dropped");
    assert_eq!(router.stop.live.len(), 0);
}

#[tokio::test]
async fn a_deadline_is_told_apart_and_the_exchange_can_go_on() {
    let router = Router::script(|mut envoy| async move {
        envoy.next().await?;
        let began = Instant::now();
        for round in 1..=3 {
            let result = envoy.next_by(began + Duration::from_millis(30 * round)).await;
            assert!(matches!(result, Err(ExchangeError::Deadline)), "{result:?}");
        }
        assert!(began.elapsed() >= Duration::from_millis(90));
        envoy.send(Reply::request_headers(HeaderMutation::new(), false)).await;
        let message = envoy.next_by(began + PATIENCE).await?;
        assert!(matches!(message, Inbound::RequestBody(_)), "{message:?}");
        envoy.next_by(Instant::now()).await.map(|message| panic!("{message:?}"))
    })
    .await;
    let mut exchange = router.open().await;
    exchange.send(post()).await;
    exchange.reply().await;
    exchange.send(request_body("{}", false)).await;
    assert_eq!(exchange.error().await.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_message_is_given_if_it_is_there_and_before_the_work_has_to_stop() {
    let router = Router::script(|mut envoy| async move {
        envoy.next().await?;
        assert!(envoy.next_if_ready().await.is_none());
        envoy.send(Reply::request_headers(HeaderMutation::new(), false)).await;
        let message = loop {
            match envoy.next_if_ready().await {
                Some(message) => break message,
                None => tokio::time::sleep(POLL).await,
            }
        };
        assert!(matches!(message, Ok(Inbound::RequestBody(_))), "{message:?}");
        let stop = CancellationToken::new();
        let late = envoy.next_unless(Instant::now() + Duration::from_millis(20), &stop).await;
        assert!(matches!(late, Ok(Err(ExchangeError::Deadline))), "{late:?}");
        stop.cancel();
        let stopped = envoy.next_unless(Instant::now() + PATIENCE, &stop).await;
        assert!(matches!(stopped, Err(Stopped)), "{stopped:?}");
        envoy.next_by(Instant::now()).await.map(|message| panic!("{message:?}"))
    })
    .await;
    let mut exchange = router.open().await;
    exchange.send(post()).await;
    exchange.reply().await;
    exchange.send(request_body("{}", false)).await;
    assert_eq!(exchange.error().await.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_slow_envoy_slows_the_exchange_down() {
    const PIECE: usize = 64 * 1024;
    const PIECES: usize = 200;
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let router = Router::script(move |mut envoy| {
        let sent = Arc::clone(&count);
        async move {
            envoy.next().await?;
            envoy.send(Reply::local_headers(200, HeaderMutation::new())).await;
            for _ in 0..PIECES {
                envoy.send(Reply::local_body(Bytes::from(vec![b'a'; PIECE]))).await;
                sent.fetch_add(1, Ordering::SeqCst);
            }
            Ok(envoy.finish(LastReply::local_body(Bytes::new())).await)
        }
    })
    .await;
    let mut exchange = router.open().await;
    exchange.send(request("GET", "/")).await;
    exchange.reply().await;
    eventually("a piece is made", async || (sent.load(Ordering::SeqCst) > 0).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let ahead = sent.load(Ordering::SeqCst);
    assert!(ahead <= 8, "{ahead} pieces were made for an Envoy that reads none");
    let (replies, status) = exchange.rest().await;
    assert!(status.is_none(), "{status:?}");
    assert_eq!(replies.len(), PIECES + 1);
}

#[tokio::test]
async fn messages_leave_as_they_are_sent_even_from_a_combinator() {
    // FuturesUnordered polls only what was woken: a sender that waits for the slot has to be.
    use futures_util::stream::{FuturesUnordered, StreamExt as _};
    let router = Router::script(|mut envoy| async move {
        envoy.next().await?;
        {
            let mut sends = FuturesUnordered::new();
            sends.push(async {
                envoy.send(Reply::local_headers(200, HeaderMutation::new())).await;
                envoy.send(Reply::local_body(Bytes::from_static(b"1"))).await;
                envoy.send(Reply::local_body(Bytes::from_static(b"2"))).await;
            });
            while sends.next().await.is_some() {}
        }
        Ok(envoy.finish(LastReply::local_body(Bytes::new())).await)
    })
    .await;
    let mut exchange = router.open().await;
    exchange.send(request("GET", "/")).await;
    let (replies, status) = exchange.rest().await;
    assert!(status.is_none(), "{status:?}");
    assert_eq!(replies.len(), 4);
}
