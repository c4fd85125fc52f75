//! 1,200 streams at once, of which every tenth is left by its client.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::RngExt as _;
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::{Idle, live_exchanges, start};
use crate::support::load::until_stored;
use crate::support::seed::Seed;
use crate::support::stack::client::{Began, Client, Ended, Heard, check_interrupted, ended};
use crate::support::stack::http::{Connection, Events, post};
use crate::support::stack::upstream::Gate;
use crate::support::stack::wait::eventually;
use crate::support::stack::{Stack, digest};

const STREAMS: usize = 1200;

/// Every so manieth client leaves.
const LEAVING: usize = 10;

/// Events that come before the gate opens: created, in_progress, item and part added, and a delta.
const FIRST_EVENTS: usize = 5;

/// The most events that a client reads before it leaves.
const MOST_EVENTS: usize = 16;

/// How many clients open their streams at the same moment: fewer than Envoy's backlog.
const OPENING: usize = 50;

/// Files that this process and Envoy open: two connections a stream, and others.
const OPEN_FILES: usize = 2 * STREAMS + 600;

const MODEL: &str = "crowd";

/// What the backend answers to a question.
fn right_answer(question: &str) -> String {
    let digest = digest::of(&[digest::user(question)]);
    format!("{digest} and then some more words about it")
}

/// A client that may leave.
struct One {
    envoy: SocketAddr,
    question: String,
    /// After how many events it leaves, if it does.
    leaves_after: Option<usize>,
}

/// What became of a client that left.
struct Left {
    began: Began,
    right: String,
    /// Whether the backend had not said all yet.
    early: bool,
}

impl One {
    /// Reads the first events, says so, waits for the others, and goes on: to its end, which has to be right, or away.
    async fn live(self, arrived: &AtomicUsize, mut go: watch::Receiver<bool>, opening: &Semaphore) -> Option<Left> {
        let right = right_answer(&self.question);
        let body = json!({"model": MODEL, "input": self.question, "stream": true});
        let permit = opening.acquire().await.unwrap();
        let mut connection = Connection::http1(self.envoy).await;
        let mut events = connection.send(post("/v1/responses", &body)).await.events();
        let (mut id, mut text) = (String::new(), String::new());
        read(&mut events, FIRST_EVENTS, &mut id, &mut text).await;
        drop(permit);
        arrived.fetch_add(1, Ordering::SeqCst);
        // However long the others take to come: each of them has its own bounds.
        go.wait_for(|go| *go).await.unwrap();
        let Some(leaves_after) = self.leaves_after else {
            let (_, bytes, ending) = events.rest().await;
            match ended(Heard::Stream { bytes, ending }, true).unwrap() {
                Ended::Answered(response) if response["output_text"] == *right && response["id"] == id => return None,
                other => panic!("not {right:?} but {other:?}"),
            }
        };
        read(&mut events, leaves_after.saturating_sub(FIRST_EVENTS), &mut id, &mut text).await;
        Some(Left { began: Began { id, text }, right, early: leaves_after <= FIRST_EVENTS })
    }
}

/// Reads so many events, or fewer when the stream ends.
async fn read(events: &mut Events, count: usize, id: &mut String, text: &mut String) {
    for _ in 0..count {
        let Ok(event) = events.try_next().await else { return };
        match event.kind.as_str() {
            "response.created" => event.data["response"]["id"].as_str().unwrap().clone_into(id),
            "response.output_text.delta" => text.push_str(event.data["delta"].as_str().unwrap()),
            _ => {}
        }
    }
}

/// All of them once.
async fn round(stack: &Stack, gate: &Gate, seed: &Seed, part: u64) {
    gate.close();
    let mut random = seed.generator(part);
    let (arrived, opening, (go, went)) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(OPENING)), watch::channel(false));
    let mut clients = JoinSet::new();
    let mut early = 0;
    for number in 0..STREAMS {
        let leaves_after = (number % LEAVING == 0).then(|| random.random_range(1..=MOST_EVENTS));
        early += usize::from(leaves_after.is_some_and(|after| after <= FIRST_EVENTS));
        let question = format!("{:032x}", random.random::<u128>());
        let one = One { envoy: stack.envoy.address, question, leaves_after };
        let (arrived, opening, went) = (Arc::clone(&arrived), Arc::clone(&opening), went.clone());
        clients.spawn(async move { one.live(&arrived, went, &opening).await });
    }
    let mut left = Vec::new();
    while arrived.load(Ordering::SeqCst) < STREAMS {
        assert!(clients.try_join_next().is_none(), "a client is through before all have come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eventually("all are live", async || (live_exchanges(&stack.router).await == STREAMS).then_some(())).await;
    go.send_replace(true);
    let staying = STREAMS - early;
    eventually("some have left", async || (live_exchanges(&stack.router).await == staying).then_some(())).await;
    gate.open();
    while let Some(client) = clients.join_next().await {
        left.extend(client.unwrap());
    }
    assert_eq!(left.len(), STREAMS / LEAVING);
    let mut client = Client::new(stack.envoy.address);
    let mut incomplete = 0;
    for Left { began, right, early } in left {
        let stored = until_stored(&mut client, &began.id).await;
        check_interrupted(&stored, &began, &right).unwrap();
        incomplete += usize::from(stored["status"] == "incomplete");
        assert!(!early || stored["status"] == "incomplete", "{stored}");
    }
    eprintln!("{STREAMS} streams: {} clients left, {incomplete} of their responses are incomplete", STREAMS / LEAVING);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-chaos"]
async fn chaos_of_1200_streams_some_of_them_left_completes_the_others_and_leaks_nothing() {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let files = files.split_whitespace().next().unwrap();
    let enough = files.parse::<usize>().is_ok_and(|files| files >= OPEN_FILES) || files == "unlimited";
    assert!(enough, "only {files} open files are allowed: `ulimit -n {OPEN_FILES}`, as make test-chaos does");

    let (stack, seed, gate) = (start(json!({})).await, Seed::of_this_run(), Gate::closed());
    let held = gate.clone();
    stack.upstream.forget_requests();
    stack.upstream.answer(MODEL, move |received| {
        let said = digest::said_in(&received.json());
        let question = said[0].strip_prefix("user: ").unwrap();
        digest::held_text(&right_answer(question), true, &held, Duration::from_millis(20))
    });
    // What a crowd leaves in caches and pools is no leak; the next one has to find room in it.
    round(&stack, &gate, &seed, 1).await;
    let idle = Idle::of(&stack.router).await;
    let resident = stack.router.process.resident_bytes();
    round(&stack, &gate, &seed, 2).await;
    idle.again(&stack.router).await;
    let bound = resident + resident / 8 + (8 << 20);
    eventually(&format!("the router's memory returns below {bound} bytes"), async || {
        (stack.router.process.resident_bytes() <= bound).then_some(())
    })
    .await;
    eprintln!("resident: {} MiB, then {} MiB", resident >> 20, stack.router.process.resident_bytes() >> 20);
    assert_eq!(stack.router.process.lines_with(" ERROR "), [""; 0]);
}
