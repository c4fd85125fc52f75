//! A backend that does whatever backends do wrong, at random. Good answers are right, all others are the contract's
//! errors.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::Idle;
use crate::support::load::{retrieve, until_stored};
use crate::support::seed::Seed;
use crate::support::stack::client::{Client, Conversation, Ended, check_interrupted};
use crate::support::stack::relay::{Fate, Relay};
use crate::support::stack::upstream::{Answer, Gate, Received};
use crate::support::stack::wait::eventually;
use crate::support::stack::{Hold, Stack, StackOptions, chat, digest};

const WORKERS: u64 = 8;
const TURNS: usize = 50;

/// How long an exchange may take; a backend that hangs takes that long.
const EXCHANGE_SECONDS: u64 = 15;

const MODEL: &str = "flapping";
const SILENT: &str = "silent";

/// What goes wrong with a request, which names it in a key that is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The bytes come a few at a time.
    Crumbs,
    /// Each piece is late, the first one too.
    Slow,
    /// JSON for a stream, a stream for JSON.
    OtherForm,
    RateLimit,
    ServerError,
    Html,
    EmptyError,
    HalfJson,
    Nonsense,
    NoEvents,
    /// A stream that ends well but for its finish reason.
    Unfinished,
    ErrorFrame,
    /// The connection breaks in mid-body.
    Cut,
}

const FAULTS: [Fault; 14] = [
    Fault::None,
    Fault::Crumbs,
    Fault::Slow,
    Fault::OtherForm,
    Fault::RateLimit,
    Fault::ServerError,
    Fault::Html,
    Fault::EmptyError,
    Fault::HalfJson,
    Fault::Nonsense,
    Fault::NoEvents,
    Fault::Unfinished,
    Fault::ErrorFrame,
    Fault::Cut,
];

impl Fault {
    fn name(self) -> String {
        format!("{self:?}")
    }

    fn answer(self, stream: bool, text: &str) -> Answer {
        static OPEN: LazyLock<Gate> = LazyLock::new(|| {
            let gate = Gate::closed();
            gate.open();
            gate
        });
        let content_type = if stream { "text/event-stream" } else { "application/json" };
        let whole = if stream { frames(text).concat() } else { chat::completion(text).to_string().into_bytes() };
        let late = |piece: usize, pause: u64| {
            let pieces = whole.chunks(piece).map(Bytes::copy_from_slice).collect();
            Answer::held(content_type, Bytes::new(), &OPEN, pieces, Duration::from_millis(pause))
        };
        match self {
            Self::None => Answer::text(200, content_type, whole),
            Self::Crumbs => late(23, 1),
            Self::Slow => late(whole.len().div_ceil(4), 200),
            Self::OtherForm if stream => Answer::completion(text),
            Self::OtherForm => Answer::words(text),
            Self::RateLimit => {
                Answer::json(429, &json!({"error": {"message": "Slow down.", "code": 429}})).header("retry-after", "7")
            }
            Self::ServerError => Answer::json(500, &json!({"error": {"message": "CUDA error", "code": 500}})),
            Self::Html => Answer::text(502, "text/html", "<html><body>nginx at 127.0.0.1</body></html>"),
            Self::EmptyError => Answer::text(503, "", ""),
            Self::HalfJson => Answer::text(200, "application/json", whole[..whole.len() / 2].to_vec()),
            Self::Nonsense => Answer::text(200, content_type, "data: {nonsense\n\ndata: more of it\n\n"),
            Self::NoEvents => Answer::text(200, "text/event-stream", ""),
            Self::Unfinished => {
                let frames = frames(text);
                Answer::text(200, "text/event-stream", frames[..frames.len() - 3].concat())
            }
            Self::ErrorFrame => {
                let frame = "data: {\"error\": {\"message\": \"CUDA error\", \"code\": 500}}\n\n";
                Answer::text(200, "text/event-stream", [&frames(text)[0], frame.as_bytes()].concat())
            }
            Self::Cut if stream => Answer::cut(&[chat::text(text.split_inclusive(' ').next().unwrap())]),
            Self::Cut => Answer::cut_body(content_type, whole[..whole.len() / 2].to_vec()),
        }
    }

    /// Whether a request with this fault ended as it has to. Whether an answer is right is known by then.
    fn fits(self, stream: bool, ended: &Ended) -> bool {
        let refused = |wanted: u16, code: &str| {
            matches!(ended, Ended::Refused { status, .. } if *status == wanted)
                && (code.is_empty() || ended.code() == code)
        };
        match self {
            Self::None | Self::Crumbs | Self::Slow | Self::OtherForm => matches!(ended, Ended::Answered(_)),
            Self::RateLimit => refused(429, "rate_limit_exceeded"),
            Self::ServerError => refused(500, ""),
            Self::Html => refused(502, ""),
            Self::EmptyError => refused(503, ""),
            Self::HalfJson | Self::NoEvents => refused(502, "bad_upstream_response"),
            Self::Nonsense | Self::Unfinished | Self::ErrorFrame if stream => matches!(ended, Ended::Failed(_)),
            Self::Nonsense | Self::Unfinished | Self::ErrorFrame => refused(502, "bad_upstream_response"),
            // An answer that had not begun when it was cut is an error, streamed or not.
            Self::Cut => {
                stream && matches!(ended, Ended::Cut(_))
                    || refused(502, "upstream_unavailable")
                    || refused(503, "upstream_unavailable")
            }
        }
    }
}

fn frames(text: &str) -> Vec<Bytes> {
    Answer::frames_of_words(text)
}

fn answer(received: &Received) -> Answer {
    let request = received.json();
    let fault = FAULTS.into_iter().find(|fault| request["fault"] == fault.name()).unwrap();
    fault.answer(request["stream"] == true, &digest::of(&digest::said_in(&request)))
}

/// One turn with a fault. An answer is right, and what was stored besides is what its client may find.
async fn turn(
    conversation: &mut Conversation,
    random: &mut StdRng,
    fault: Fault,
    stream: bool,
) -> Result<Ended, String> {
    let question = format!("{:032x}", random.random::<u128>());
    let right = conversation.right_answer(&question);
    let mut body: Value = conversation.request(MODEL, &question, stream);
    body["fault"] = json!(fault.name());
    let ended = conversation.client.create(&body).await?;
    match &ended {
        Ended::Answered(response) => {
            if response["output_text"] != *right || response["status"] != "completed" {
                return Err(format!("not {right:?} but {response}"));
            }
            conversation.go_on_from(&question, response);
        }
        // Both are there; a failed one as it was told.
        Ended::Failed(response) => {
            let (status, found) = retrieve(&mut conversation.client, response["id"].as_str().unwrap()).await;
            if status != 200 || found != *response {
                return Err(format!("{status} {found} is not {response}"));
            }
        }
        Ended::Cut(Some(began)) => {
            let stored = until_stored(&mut conversation.client, &began.id).await;
            check_interrupted(&stored, began, &right)?;
        }
        Ended::Unstored(response) => return Err(format!("not stored: {response}")),
        Ended::Refused { .. } | Ended::Cut(None) | Ended::Unanswered => {}
    }
    Ok(ended)
}

async fn stack(relay: Relay) -> Hold {
    let settings = json!({
        "server": {"admin_listen": "127.0.0.1:0"},
        "limits": {"exchange_seconds": EXCHANGE_SECONDS},
    });
    let options = StackOptions { settings, upstream_relay: Some(relay), ..StackOptions::default() };
    let stack = Stack::start(options).await;
    stack.upstream.answer(MODEL, answer);
    stack.upstream.forget_requests();
    stack
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-chaos"]
async fn chaos_of_a_backend_that_answers_wrongly_gives_right_answers_and_errors_by_the_contract() {
    let (stack, seed) = (stack(Relay::start()).await, Seed::of_this_run());
    let mut first = Conversation::new(stack.envoy.address);
    turn(&mut first, &mut seed.generator(0), Fault::None, true).await.unwrap();
    let idle = Idle::of(&stack.router).await;

    // Some hang meanwhile: before their head, before their first byte, and in mid-stream.
    let _never_answered = stack.upstream.play(SILENT);
    let closed = Gate::closed();
    let gate = closed.clone();
    stack
        .upstream
        .answer("begun", move |_| Answer::held("text/event-stream", Bytes::new(), &gate, Vec::new(), Duration::ZERO));
    let gate = closed.clone();
    stack.upstream.answer("hanging", move |_| digest::held_text("one two three", true, &gate, Duration::ZERO));
    let mut hanging = JoinSet::new();
    for (model, stream) in
        [(SILENT, false), (SILENT, true), ("begun", true), ("begun", false), ("hanging", true), ("hanging", false)]
    {
        let mut client = Client::new(stack.envoy.address);
        let body = json!({"model": model, "input": "Hi", "stream": stream});
        hanging.spawn(async move { (body.to_string(), model == "hanging" && stream, client.create(&body).await) });
    }

    let mut workers = JoinSet::new();
    for worker in 1..=WORKERS {
        let (mut random, mut conversation) = (seed.generator(worker), Conversation::new(stack.envoy.address));
        workers.spawn(async move {
            for number in 0..TURNS {
                let fault = FAULTS[random.random_range(0..FAULTS.len())];
                let stream = random.random();
                let ended = turn(&mut conversation, &mut random, fault, stream).await;
                let ended = ended.unwrap_or_else(|wrong| panic!("worker {worker}, turn {number}, {fault:?}: {wrong}"));
                assert!(fault.fits(stream, &ended), "worker {worker}, turn {number}, {fault:?}, {stream}: {ended:?}");
            }
            assert!(!conversation.said.is_empty());
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker.unwrap();
    }
    for (body, fails_in_stream, ended) in hanging.join_all().await {
        let ended = ended.unwrap();
        let fits = match &ended {
            Ended::Failed(_) => fails_in_stream,
            Ended::Refused { status: 504, .. } => !fails_in_stream && ended.code() == "upstream_unavailable",
            _ => false,
        };
        assert!(fits, "{body}: {ended:?}");
    }
    closed.until_waiting(0).await;
    idle.again(&stack.router).await;
    assert_eq!(stack.router.process.lines_with(" ERROR "), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-chaos"]
async fn chaos_of_connections_to_a_backend_gives_right_answers_and_errors_by_the_contract() {
    let (mut stack, seed) = (stack(Relay::start()).await, Seed::of_this_run());
    let mut first = Conversation::new(stack.envoy.address);
    turn(&mut first, &mut seed.generator(0), Fault::None, true).await.unwrap();
    let idle = Idle::of(&stack.router).await;
    let mut random = seed.generator(100);
    let relay = stack.upstream_relay.as_ref().unwrap();
    relay.decide(move || match random.random_range(0..10) {
        0..=3 => Fate::ResetAfter(random.random_range(1..8_000)),
        4 => Fate::ResetAfter(random.random_range(1..400)),
        5 | 6 => Fate::Reset,
        7 => Fate::Hang(Duration::from_millis(700)),
        8 => Fate::Say(b"\x16\x03\x01 this is no HTTP"),
        _ => Fate::Say(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {\"choi"),
    });
    let (good, cut, refused) =
        (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let mut workers = JoinSet::new();
    for worker in 1..=WORKERS {
        let (mut random, mut conversation) = (seed.generator(worker), Conversation::new(stack.envoy.address));
        let (good, cut, refused) = (Arc::clone(&good), Arc::clone(&cut), Arc::clone(&refused));
        workers.spawn(async move {
            for number in 0..TURNS {
                let (stream, fault) = (random.random(), if random.random() { Fault::None } else { Fault::Crumbs });
                let ended = turn(&mut conversation, &mut random, fault, stream).await;
                let ended = ended.unwrap_or_else(|wrong| panic!("worker {worker}, turn {number}: {wrong}"));
                match &ended {
                    Ended::Answered(_) => good.fetch_add(1, Ordering::Relaxed),
                    Ended::Cut(_) if stream => cut.fetch_add(1, Ordering::Relaxed),
                    Ended::Failed(_) => refused.fetch_add(1, Ordering::Relaxed),
                    Ended::Refused { status: 502..=504, .. } => {
                        assert!(["upstream_unavailable", "bad_upstream_response"].contains(&ended.code()), "{ended:?}");
                        refused.fetch_add(1, Ordering::Relaxed)
                    }
                    _ => panic!("worker {worker}, turn {number}, {stream}: {ended:?}"),
                };
            }
            conversation
        });
    }
    let conversations = workers.join_all().await;
    eprintln!("{good:?} right answers, {cut:?} streams cut, {refused:?} refused");
    assert!(good.load(Ordering::Relaxed) > 0 && refused.load(Ordering::Relaxed) > 0);

    // Nobody listens for a while; then all is well again.
    let relay = stack.upstream_relay.as_mut().unwrap();
    relay.decide(|| Fate::Pass);
    relay.refuse().await;
    let mut client = Client::new(stack.envoy.address);
    let refused = eventually("the backend is away", async || {
        // Envoy may not know yet that its connections are cut.
        let body = json!({"model": MODEL, "input": "Hi", "fault": Fault::None.name()});
        let ended = client.create(&body).await.unwrap();
        matches!(ended, Ended::Refused { .. }).then_some(ended)
    })
    .await;
    assert!(
        matches!(refused, Ended::Refused { status: 503, .. }) && refused.code() == "upstream_unavailable",
        "{refused:?}"
    );
    stack.upstream_relay.as_mut().unwrap().listen();
    let mut random = seed.generator(101);
    for mut conversation in conversations {
        for stream in [true, false] {
            eventually("the backend is back", async || {
                let ended = turn(&mut conversation, &mut random, Fault::None, stream).await.unwrap();
                matches!(ended, Ended::Answered(_)).then_some(())
            })
            .await;
        }
    }
    idle.again(&stack.router).await;
    assert_eq!(stack.router.process.lines_with(" ERROR "), [""; 0]);
}
