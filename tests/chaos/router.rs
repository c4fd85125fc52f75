//! A router that is killed in the middle of everything, and started again over the same store.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{start, until_served};
use crate::support::load::{Load, Options, check_cut, retrieve};
use crate::support::redis::Server;
use crate::support::seed::Seed;
use crate::support::stack::client::{Began, Client, Conversation, Ended};
use crate::support::stack::relay::Relay;
use crate::support::stack::upstream::Gate;
use crate::support::stack::wait::eventually;
use crate::support::stack::{Hold, Stack, digest};

/// Conversations in a round, each with one turn, streamed or not.
const CONVERSATIONS: usize = 24;

/// Bytes of a question, so that a write of so many is known to hold it.
const QUESTION_BYTES: u64 = 600;

const HELD: &str = "held";

fn disk(folder: &tempfile::TempDir) -> Value {
    let path = folder.path().join("responses.redb");
    json!({"response_api": {"store_backend": "disk", "disk": {"path": path}}})
}

/// A Redis behind a relay, which makes it slow; with patience enough for any of that.
fn redis(relay: &Relay) -> Value {
    json!({"response_api": {
        "store_backend": "redis",
        "store_deadline_ms": 60_000,
        "redis": {"address": relay.address.to_string(), "read_timeout": 50, "write_timeout": 50, "breaker_seconds": 60},
    }})
}

/// A stack whose upstream answers at once or, to another model, when the gate opens.
async fn with_gate(settings: Value) -> (Hold, Gate) {
    let (stack, gate) = (start(settings).await, Gate::closed());
    let held = gate.clone();
    stack.upstream.answer(digest::MODEL, digest::answer);
    stack.upstream.answer(HELD, move |received| digest::held(received, &held));
    (stack, gate)
}

/// Conversations of one turn each, and the random choices of what follows.
struct Talks {
    conversations: Vec<Conversation>,
    random: StdRng,
}

/// A turn that was held at the gate.
struct Held {
    conversation: Conversation,
    question: String,
    /// What the answer had to be.
    right: String,
    ended: Result<Ended, String>,
}

impl Talks {
    async fn begin(stack: &Stack, random: StdRng) -> Self {
        let mut talks = Self { conversations: Vec::new(), random };
        for _ in 0..CONVERSATIONS {
            talks.conversations.push(Conversation::new(stack.envoy.address));
        }
        talks.go_on().await;
        talks
    }

    /// A turn of each that nothing may go wrong in.
    async fn go_on(&mut self) {
        for conversation in &mut self.conversations {
            let stream = self.random.random();
            let ended = conversation.turn(&question(&mut self.random), stream).await.unwrap();
            assert!(matches!(ended, Ended::Answered(_)), "{ended:?}");
        }
    }

    /// The next turn of each, held by the upstream; two of three are streams.
    async fn hold(&mut self, gate: &Gate) -> JoinSet<Held> {
        gate.close();
        let mut turns = JoinSet::new();
        for (number, mut conversation) in self.conversations.drain(..).enumerate() {
            let question = question(&mut self.random);
            turns.spawn(async move {
                let right = conversation.right_answer(&question);
                let ended = conversation.turn_with(HELD, &question, number % 3 != 0).await;
                Held { conversation, question, right, ended }
            });
        }
        gate.until_waiting(CONVERSATIONS).await;
        turns
    }

    /// Takes the conversations back and sorts how their turns ended.
    async fn ended(&mut self, turns: JoinSet<Held>) -> Round {
        let mut round = Round { acknowledged: Vec::new(), cut: Vec::new(), refused: 0 };
        for held in turns.join_all().await {
            match held.ended.unwrap() {
                Ended::Answered(response) => round.acknowledged.push(response),
                Ended::Cut(Some(began)) => {
                    round.cut.push(Cut {
                        began,
                        right: held.right,
                        question: held.question,
                        said: held.conversation.said.clone(),
                    });
                }
                Ended::Cut(None) => {}
                ended if ended.is_router_away() => round.refused += 1,
                ended => panic!("{ended:?}"),
            }
            self.conversations.push(held.conversation);
        }
        round
    }
}

/// A stream that was cut.
struct Cut {
    began: Began,
    right: String,
    question: String,
    /// The history before it.
    said: Vec<String>,
}

/// How the turns of a round ended.
struct Round {
    acknowledged: Vec<Value>,
    cut: Vec<Cut>,
    refused: usize,
}

impl Round {
    /// What was acknowledged has to be there; what was cut may be, if it is right. How many of those are.
    async fn check(&self, envoy: SocketAddr) -> usize {
        let mut client = Client::new(envoy);
        for response in &self.acknowledged {
            let (status, found) = retrieve(&mut client, response["id"].as_str().unwrap()).await;
            assert_eq!((status, &found), (200, response), "acknowledged and lost");
        }
        let cut: Vec<_> = self.cut.iter().map(|cut| (cut.began.clone(), cut.right.clone())).collect();
        check_cut(envoy, &cut).await
    }

    fn told(&self, what: &str, there: usize) {
        let (acknowledged, cut, refused) = (self.acknowledged.len(), self.cut.len(), self.refused);
        eprintln!(
            "{what}: {acknowledged} acknowledged, {cut} streams cut ({there} of them stored whole), {refused} refused"
        );
    }
}

fn question(random: &mut StdRng) -> String {
    (0..QUESTION_BYTES / 32).map(|_| format!("{:032x}", random.random::<u128>())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-chaos"]
async fn chaos_of_a_router_killed_between_the_write_and_the_terminal_event_acknowledges_nothing() {
    let (server, relay, seed) = (Server::start(&[("appendfsync", "always")]), Relay::start(), Seed::of_this_run());
    relay.lead_to(SocketAddr::from(([127, 0, 0, 1], server.port)));
    let (mut stack, gate) = with_gate(redis(&relay)).await;
    let mut talks = Talks::begin(&stack, seed.generator(1)).await;

    let turns = talks.hold(&gate).await;
    let records = || server.cli(&["DBSIZE"]).trim().parse::<usize>().unwrap();
    let before = records();
    relay.hold_answers(true);
    gate.open();
    // Redis has all of them now, and the router knows of none.
    eventually("every answer is written", async || (records() >= before + CONVERSATIONS).then_some(())).await;
    stack.router.kill().await;
    relay.hold_answers(false);
    stack.router.restart().await;
    until_served(&stack).await;
    let round = talks.ended(turns).await;
    assert_eq!(round.acknowledged.len(), 0);
    assert_eq!((round.refused, round.cut.len()), (CONVERSATIONS / 3, CONVERSATIONS - CONVERSATIONS / 3));
    let there = round.check(stack.envoy.address).await;
    round.told("written, not acknowledged", there);
    assert_eq!(there, round.cut.len());
    // Both go on with all of their history: from the last turn that the client knows, and from the one that it missed.
    talks.go_on().await;
    for Cut { began, right, question, said } in round.cut {
        let mut missed = Conversation::new(stack.envoy.address);
        missed.said = said;
        missed.go_on_from(&question, &json!({"id": began.id, "output_text": right}));
        let ended = missed.turn("And then?", true).await.unwrap();
        assert!(matches!(ended, Ended::Answered(_)), "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-chaos"]
async fn chaos_of_a_router_killed_while_redis_hangs_over_its_writes_acknowledges_nothing() {
    let (server, relay, seed) = (Server::start(&[("appendfsync", "always")]), Relay::start(), Seed::of_this_run());
    relay.lead_to(SocketAddr::from(([127, 0, 0, 1], server.port)));
    let (mut stack, gate) = with_gate(redis(&relay)).await;
    let mut talks = Talks::begin(&stack, seed.generator(2)).await;

    let turns = talks.hold(&gate).await;
    server.pause();
    let before = relay.asked_bytes();
    gate.open();
    let writes = QUESTION_BYTES / 2 * u64::try_from(CONVERSATIONS).unwrap();
    eventually("every write is on its way", async || (relay.asked_bytes() >= before + writes).then_some(())).await;
    stack.router.kill().await;
    server.resume();
    stack.router.restart().await;
    until_served(&stack).await;
    let round = talks.ended(turns).await;
    assert_eq!(round.acknowledged.len(), 0);
    assert_eq!((round.refused, round.cut.len()), (CONVERSATIONS / 3, CONVERSATIONS - CONVERSATIONS / 3));
    let there = round.check(stack.envoy.address).await;
    round.told("on its way to Redis", there);
    talks.go_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-chaos"]
async fn chaos_of_a_router_killed_mid_stream_and_mid_write_over_a_file_loses_nothing() {
    let (folder, seed) = (tempfile::tempdir().unwrap(), Seed::of_this_run());
    let (mut stack, gate) = with_gate(disk(&folder)).await;
    let mut talks = Talks::begin(&stack, seed.generator(3)).await;
    let mut random = seed.generator(4);
    for round in 0..6 {
        let turns = talks.hold(&gate).await;
        // The first time in the middle of the streams, then at any moment of their ends.
        if round > 0 {
            gate.open();
            tokio::time::sleep(Duration::from_millis(random.random_range(0..150))).await;
        }
        stack.router.kill().await;
        stack.router.restart().await;
        until_served(&stack).await;
        let ended = talks.ended(turns).await;
        assert!(round > 0 || ended.acknowledged.is_empty());
        let there = ended.check(stack.envoy.address).await;
        ended.told(&format!("round {round}"), there);
        talks.go_on().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-chaos"]
async fn chaos_of_a_router_killed_again_and_again_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut stack = start(disk(&folder)).await;
    let tolerated = |ended: &Ended| ended.is_router_away() || matches!(ended, Ended::Cut(_));
    let (pace, latent) = (Duration::from_millis(100), Duration::ZERO);
    let load = Load::start(&stack, Options { conversations: 20, turns: 12, pace, latent, tolerated }).await;
    let mut random = load.random();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(random.random_range(200..1200))).await;
        stack.router.kill().await;
        load.until_refused(3).await;
        stack.router.restart().await;
        eprintln!("killed and restarted: {}", load.recovered(Instant::now()).await);
    }
    load.finish("a router killed five times", || ()).await;
}
