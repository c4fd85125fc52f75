//! Envoys that end under live streams. The router has to notice each of them, and to keep what it has.

use serde_json::json;
use tokio::task::JoinSet;

use super::{Idle, live_exchanges, start};
use crate::support::load::until_stored;
use crate::support::stack::client::{Began, Client, Conversation, Ended, Heard, check_interrupted, ended};
use crate::support::stack::http::{Connection, Events, post};
use crate::support::stack::upstream::Gate;
use crate::support::stack::wait::eventually;
use crate::support::stack::{Hold, digest};

const STREAMS: usize = 40;
const UNSTREAMED: usize = 10;

/// A second turn in the middle of its stream.
struct Open {
    conversation: Conversation,
    question: String,
    _connection: Connection,
    events: Events,
}

/// A stack with two gates, one for each half of the streams.
async fn stack() -> (Hold, [Gate; 2]) {
    let stack = start(json!({})).await;
    stack.upstream.answer(digest::MODEL, digest::answer);
    let gates = [Gate::closed(), Gate::closed()];
    for (number, gate) in gates.iter().cloned().enumerate() {
        stack.upstream.answer(&model(number), move |received| digest::held(received, &gate));
    }
    (stack, gates)
}

fn model(number: usize) -> String {
    format!("held-{}", number % 2)
}

/// Opens streams, the second turns of their conversations, and reads each up to its first token.
async fn open(stack: &Hold) -> Vec<Open> {
    let mut streams = Vec::new();
    for number in 0..STREAMS {
        let mut conversation = Conversation::new(stack.envoy.address);
        let first = conversation.turn(&format!("Question {number}"), number % 2 == 0).await.unwrap();
        assert!(matches!(first, Ended::Answered(_)), "{first:?}");
        let question = format!("Question {number}, the second");
        let mut connection = stack.connect().await;
        let request = conversation.request(&model(number), &question, true);
        let mut events = connection.send(post("/v1/responses", &request)).await.events();
        events.skip_to("response.output_text.delta").await;
        streams.push(Open { conversation, question, _connection: connection, events });
    }
    streams
}

/// Requests whose answers are not streamed, and wait.
fn wait_for_answers(stack: &Hold) -> JoinSet<Result<Ended, String>> {
    let mut waiting = JoinSet::new();
    for number in 0..UNSTREAMED {
        let mut client = Client::new(stack.envoy.address);
        let body = json!({"model": model(number), "input": "Hi"});
        waiting.spawn(async move { client.create(&body).await });
    }
    waiting
}

impl Open {
    async fn ended(self) -> (Conversation, String, Ended) {
        let (_, bytes, ending) = self.events.rest().await;
        (self.conversation, self.question, ended(Heard::Stream { bytes, ending }, true).unwrap())
    }
}

/// Checks through a new Envoy that a stream that was cut is stored as incomplete, and that its conversation goes on:
/// from the turn before, and from what came of this one.
async fn check_incomplete(stack: &Hold, mut conversation: Conversation, question: &str, began: &Began) {
    let right = conversation.right_answer(question);
    conversation.client = Client::new(stack.envoy.address);
    let stored = until_stored(&mut conversation.client, &began.id).await;
    check_interrupted(&stored, began, &right).unwrap();
    assert_eq!(stored["status"], "incomplete");
    assert!(right.len() > stored["output_text"].as_str().unwrap().len());
    let mut from_there = Conversation::new(stack.envoy.address);
    from_there.said.clone_from(&conversation.said);
    from_there.go_on_from(question, &stored);
    for conversation in [&mut conversation, &mut from_there] {
        let ended = conversation.turn("And then?", true).await.unwrap();
        assert!(matches!(ended, Ended::Answered(_)), "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-chaos"]
async fn chaos_of_an_envoy_killed_under_live_streams_keeps_them_as_incomplete() {
    let (mut stack, gates) = stack().await;
    drop(Conversation::new(stack.envoy.address).turn("Hi", true).await.unwrap());
    let idle = Idle::of(&stack.router).await;
    for _ in 0..2 {
        let (streams, waiting) = (open(&stack).await, wait_for_answers(&stack));
        for gate in &gates {
            gate.until_waiting((STREAMS + UNSTREAMED) / 2).await;
        }
        assert_eq!(live_exchanges(&stack.router).await, STREAMS + UNSTREAMED);
        stack.envoy.process.signal("KILL");
        for ended in waiting.join_all().await {
            assert!(matches!(ended, Ok(Ended::Unanswered)), "{ended:?}");
        }
        idle.again(&stack.router).await;
        for gate in &gates {
            gate.until_waiting(0).await;
        }
        stack.replace_envoy().await;
        for stream in streams {
            let (conversation, question, ended) = stream.ended().await;
            let Ended::Cut(Some(began)) = ended else { panic!("{ended:?}") };
            check_incomplete(&stack, conversation, &question, &began).await;
        }
        idle.again(&stack.router).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-chaos"]
async fn chaos_of_an_envoy_that_drains_and_ends_completes_what_ends_in_time() {
    let (mut stack, gates) = stack().await;
    drop(Conversation::new(stack.envoy.address).turn("Hi", true).await.unwrap());
    let idle = Idle::of(&stack.router).await;
    let streams = open(&stack).await;
    stack.envoy.drain().await;
    gates[0].open();
    let mut left = Vec::new();
    for (number, stream) in streams.into_iter().enumerate() {
        if number % 2 == 1 {
            left.push(stream);
            continue;
        }
        let right = stream.conversation.right_answer(&stream.question);
        let (_, _, ended) = stream.ended().await;
        let Ended::Answered(response) = ended else { panic!("{ended:?}") };
        assert_eq!(response["output_text"], right);
    }
    eventually("the other half is alive", async || (live_exchanges(&stack.router).await == left.len()).then_some(()))
        .await;
    stack.envoy.process.signal("TERM");
    idle.again(&stack.router).await;
    gates[1].until_waiting(0).await;
    stack.replace_envoy().await;
    for stream in left {
        let (conversation, question, ended) = stream.ended().await;
        let Ended::Cut(Some(began)) = ended else { panic!("{ended:?}") };
        check_incomplete(&stack, conversation, &question, &began).await;
    }
    idle.again(&stack.router).await;
}
