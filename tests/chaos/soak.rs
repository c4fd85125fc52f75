//! An hour's mix of everything in a minute: turns, chains, tools, reads, deletes, bad requests and clients that leave.
//!
//! Each worker knows what every one of its responses has to be, and whether it may be gone by now.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Idle, start};
use crate::support::load::{retrieve, until_stored};
use crate::support::seed::Seed;
use crate::support::stack::client::{Began, Client, Conversation, Ended, Heard, check_interrupted, error_of};
use crate::support::stack::http::{Connection, post, request};
use crate::support::stack::upstream::{Answer, Gate, Received};
use crate::support::stack::wait::eventually;
use crate::support::stack::{Stack, chat, digest};

const WORKERS: u64 = 10;
const LENGTH: Duration = Duration::from_secs(50);

/// So many conversations there have to be, however slow the machine.
const CONVERSATIONS: u64 = 300;
const LONGEST: Duration = Duration::from_secs(100);

/// Conversations that a worker has at a time.
const AT_A_TIME: usize = 6;

/// Memory that may come and go from one quarter to the next, in bytes.
const ROOM: u64 = 8 << 20;

const SLOW: &str = "slow";
const TOOLS: &str = "tools";

/// What the store forgets.
#[derive(Clone, Copy)]
enum Forgets {
    /// What was not used for so long; what a chain has used lives so much longer.
    After { ttl: Duration, longer: Duration },
    /// What was used longest ago, beyond so many.
    Beyond(u64),
}

/// When a response was used last, and from which on it may be gone.
#[derive(Clone, Copy)]
struct Use {
    asked: Instant,
    answered: Instant,
    by_a_chain: bool,
    /// How many uses of any response there were at most until then.
    uses: u64,
}

/// A response that was acknowledged.
struct Known {
    response: Value,
    question: Value,
    last: Use,
}

/// A conversation and its responses, the oldest first.
struct Talk {
    conversation: Conversation,
    known: Vec<Known>,
}

struct Worker {
    envoy: SocketAddr,
    random: StdRng,
    client: Client,
    talks: Vec<Talk>,
    forgets: Forgets,
    shared: Arc<Shared>,
}

/// What all workers count.
#[derive(Default)]
struct Shared {
    uses: AtomicU64,
    conversations: AtomicU64,
    turns: AtomicU64,
    actions: AtomicU64,
    gone: AtomicU64,
    /// The ids of all responses that were acknowledged.
    acknowledged: Mutex<Vec<String>>,
}

type Checked<T = ()> = Result<T, String>;

fn ensure(condition: bool, why: impl FnOnce() -> String) -> Checked {
    if condition { Ok(()) } else { Err(why()) }
}

impl Worker {
    async fn work(mut self, began: Instant) {
        let goes_on = |shared: &Shared| {
            let enough = shared.conversations.load(Ordering::Relaxed) >= CONVERSATIONS;
            began.elapsed() < if enough { LENGTH } else { LONGEST }
        };
        while goes_on(&self.shared) {
            let action = self.random.random_range(0..100);
            self.shared.actions.fetch_add(1, Ordering::Relaxed);
            let done = match action {
                0..45 => self.turn().await,
                45..55 => self.tools().await,
                55..67 => self.read().await,
                67..73 => self.input_items().await,
                73..78 => self.delete().await,
                78..86 => self.bad_request().await,
                86..94 => self.leave().await,
                94..97 => self.unstored().await,
                _ => self.unknown().await,
            };
            done.unwrap_or_else(|wrong| panic!("action {action}: {wrong}"));
            tokio::time::sleep(Duration::from_millis(self.random.random_range(0..20))).await;
        }
    }

    fn question(&mut self) -> String {
        let words = self.random.random_range(1..60);
        format!("{:032x}{}", self.random.random::<u128>(), " word".repeat(words))
    }

    /// A conversation to go on with; a new one as long as there are few, and now and then.
    fn talk(&mut self) -> Talk {
        if self.talks.len() < AT_A_TIME || self.random.random_range(0..4) == 0 {
            self.shared.conversations.fetch_add(1, Ordering::Relaxed);
            if self.talks.len() >= AT_A_TIME {
                let place = self.random.random_range(0..self.talks.len());
                self.talks.swap_remove(place);
            }
            return Talk { conversation: Conversation::new(self.envoy), known: Vec::new() };
        }
        let place = self.random.random_range(0..self.talks.len());
        self.talks.swap_remove(place)
    }

    /// A conversation that has a response, and the number of one of them.
    fn known(&mut self) -> Option<(usize, usize)> {
        let talks: Vec<usize> = (0..self.talks.len()).filter(|talk| !self.talks[*talk].known.is_empty()).collect();
        let talk = *talks.get(self.random.random_range(0..talks.len().max(1)))?;
        Some((talk, self.random.random_range(0..self.talks[talk].known.len())))
    }

    /// Counts that so many responses are used, before they are.
    fn uses(&self, count: usize) -> u64 {
        let count = u64::try_from(count).unwrap();
        self.shared.uses.fetch_add(count, Ordering::SeqCst) + count
    }

    /// Whether a response may be gone by now.
    fn may_be_gone(&self, last: Use) -> bool {
        match self.forgets {
            Forgets::After { ttl, longer } => {
                last.asked.elapsed() >= ttl + if last.by_a_chain { longer } else { Duration::ZERO }
            }
            Forgets::Beyond(count) => self.shared.uses.load(Ordering::SeqCst) - last.uses >= count,
        }
    }

    /// Whether a response has to be gone, for a request that is made now.
    fn must_be_gone(&self, last: Use) -> bool {
        match self.forgets {
            Forgets::After { ttl, longer } => last.answered.elapsed() > ttl + longer + Duration::from_secs(2),
            Forgets::Beyond(_) => false,
        }
    }

    /// Puts down that a turn was answered, which used the whole chain; `None` when it was refused because some of it is
    /// gone, which it may be.
    fn answered(
        &mut self,
        mut talk: Talk,
        question: Value,
        asked: Instant,
        uses: u64,
        ended: &Ended,
    ) -> Checked<Option<Talk>> {
        if ended.is_parent_not_found() {
            let may = talk.known.iter().any(|known| self.may_be_gone(known.last));
            self.shared.gone.fetch_add(1, Ordering::Relaxed);
            return ensure(may, || format!("nothing of the chain may be gone: {ended:?}")).map(|()| None);
        }
        let Ended::Answered(response) = ended else { return Err(format!("{ended:?}")) };
        let last = Use { asked, answered: Instant::now(), by_a_chain: true, uses };
        for known in &mut talk.known {
            known.last = last;
        }
        talk.known.push(Known { response: response.clone(), question, last: Use { by_a_chain: false, ..last } });
        self.shared.turns.fetch_add(1, Ordering::Relaxed);
        self.shared.acknowledged.lock().unwrap().push(response["id"].as_str().unwrap().to_owned());
        Ok(Some(talk))
    }

    async fn turn(&mut self) -> Checked {
        let (mut talk, question) = (self.talk(), self.question());
        let (asked, uses) = (Instant::now(), self.uses(2 * talk.known.len() + 2));
        let gone = talk.known.iter().any(|known| self.must_be_gone(known.last));
        let ended = talk.conversation.turn(&question, self.random.random()).await?;
        ensure(!gone || ended.is_parent_not_found(), || format!("the chain is expired: {ended:?}"))?;
        let talk = self.answered(talk, json!(question), asked, uses, &ended)?;
        self.talks.extend(talk);
        Ok(())
    }

    /// A turn in which the model calls a function, and the next with its output.
    async fn tools(&mut self) -> Checked {
        let (mut talk, question, stream) = (self.talk(), self.question(), self.random.random());
        let tools = json!([{"type": "function", "name": "look_up", "parameters": {"type": "object"}}]);
        let mut body = talk.conversation.request(TOOLS, &question, stream);
        body["tools"] = tools.clone();
        let (asked, uses) = (Instant::now(), self.uses(2 * talk.known.len() + 2));
        let ended = talk.conversation.client.create(&body).await?;
        let Some(mut talk) = self.answered(talk, json!(question), asked, uses, &ended)? else { return Ok(()) };
        let Ended::Answered(response) = ended else { return Err("not answered".to_owned()) };
        talk.conversation.said.push(digest::user(&question));
        let arguments = arguments(&talk.conversation.said);
        let call = &response["output"][0];
        let is_call = call["type"] == "function_call" && call["name"] == "look_up" && call["arguments"] == *arguments;
        ensure(is_call, || format!("no call with {arguments}: {response}"))?;
        let (call_id, output) = (call["call_id"].as_str().unwrap(), self.question());
        talk.conversation.said.push(digest::call(call_id, &arguments));
        talk.conversation.said.push(digest::output(call_id, &output));
        let input = json!([{"type": "function_call_output", "call_id": call_id, "output": output}]);
        let body = json!({
            "model": TOOLS, "input": input, "stream": stream, "tools": tools, "previous_response_id": response["id"],
        });
        let (asked, uses) = (Instant::now(), self.uses(2 * talk.known.len() + 2));
        let ended = talk.conversation.client.create(&body).await?;
        let Some(mut talk) = self.answered(talk, input, asked, uses, &ended)? else { return Ok(()) };
        let Ended::Answered(response) = ended else { return Err("not answered".to_owned()) };
        let right = digest::of(&talk.conversation.said);
        ensure(response["output_text"] == *right, || format!("not {right:?} but {response}"))?;
        talk.conversation.said.push(digest::assistant(&right));
        talk.conversation.parent = Some(response["id"].as_str().unwrap().to_owned());
        self.talks.push(talk);
        Ok(())
    }

    /// GET of a response, which is what it was, or gone when it may be.
    async fn read(&mut self) -> Checked {
        let Some((talk, number)) = self.known() else { return Ok(()) };
        let (uses, last) = (self.uses(1), self.talks[talk].known[number].last);
        let must_be_gone = self.must_be_gone(last);
        let id = self.talks[talk].known[number].response["id"].as_str().unwrap().to_owned();
        let (status, found) = retrieve(&mut self.client, &id).await;
        if status == 404 {
            self.shared.gone.fetch_add(1, Ordering::Relaxed);
            return ensure(self.may_be_gone(last), || format!("{id} may not be gone"));
        }
        let known = &mut self.talks[talk].known[number];
        // Reading does not prolong a response's life, yet it keeps it from being dropped for others.
        known.last.uses = uses;
        ensure(status == 200 && found == known.response && !must_be_gone, || {
            format!("{status} {found} is not {}", known.response)
        })
    }

    async fn input_items(&mut self) -> Checked {
        let Some((talk, number)) = self.known() else { return Ok(()) };
        self.uses(1);
        let Known { response, question, last } = &self.talks[talk].known[number];
        let path = format!("/v1/responses/{}/input_items", response["id"].as_str().unwrap());
        let (status, list) = json_of(self.client.hear(request("GET", &path)).await)?;
        if status == 404 {
            return ensure(self.may_be_gone(*last), || format!("{path} may not be gone"));
        }
        let item = &list["data"][0];
        let said = if question.is_string() { &item["content"][0]["text"] } else { &item["output"] };
        let wanted = if question.is_string() { question } else { &question[0]["output"] };
        let one = list["data"].as_array().is_some_and(|data| data.len() == 1);
        ensure(status == 200 && one && said == wanted, || format!("{status} {list} is not {question}"))
    }

    /// DELETE of a response, after which its conversation cannot go on.
    async fn delete(&mut self) -> Checked {
        let Some((talk, number)) = self.known() else { return Ok(()) };
        let mut talk = self.talks.swap_remove(talk);
        let known = &talk.known[number];
        let id = known.response["id"].as_str().unwrap().to_owned();
        let path = format!("/v1/responses/{id}");
        let (status, told) = json_of(self.client.hear(request("DELETE", &path)).await)?;
        let deleted = json!({"id": id, "object": "response.deleted", "deleted": true});
        let fits = (status == 200 && told == deleted) || (status == 404 && self.may_be_gone(known.last));
        ensure(fits, || format!("{status} {told}"))?;
        let (status, found) = retrieve(&mut self.client, &id).await;
        ensure(status == 404, || format!("deleted, yet {status} {found}"))?;
        self.uses(2 * talk.known.len() + 2);
        let ended = talk.conversation.turn("And then?", self.random.random()).await?;
        ensure(ended.is_parent_not_found(), || format!("the chain has a hole: {ended:?}"))
    }

    async fn bad_request(&mut self) -> Checked {
        let (body, param, code) = match self.random.random_range(0..6) {
            0 => (json!({"model": "digest"}), json!("input"), json!("missing_required_parameter")),
            1 => (json!({"input": "Hi"}), json!("model"), json!("missing_required_parameter")),
            2 => (
                json!({"model": "digest", "input": "Hi", "temperature": "hot"}),
                json!("temperature"),
                json!("invalid_type"),
            ),
            3 => (
                json!({"model": "digest", "input": "Hi", "background": true}),
                json!("background"),
                json!("unsupported_parameter"),
            ),
            4 => (
                json!({"model": "digest", "input": [{"type": "function_call_output", "call_id": "call_x", "output": ""}]}),
                json!("input"),
                Value::Null,
            ),
            _ => (json!([1, 2]), Value::Null, Value::Null),
        };
        let ended = self.client.create(&body).await?;
        let Ended::Refused { status: 400, error, .. } = &ended else { return Err(format!("{body}: {ended:?}")) };
        ensure(error["param"] == param && error["code"] == code, || format!("{body}: {error}"))
    }

    /// A client that leaves in mid-stream: what came is stored.
    async fn leave(&mut self) -> Checked {
        let question = self.question();
        self.uses(2);
        let right = digest::of(&[digest::user(&question)]);
        let body = json!({"model": SLOW, "input": question, "stream": true});
        let mut events = Connection::http1(self.envoy).await.send(post("/v1/responses", &body)).await.events();
        let id = events.expect("response.created").await["response"]["id"].as_str().unwrap().to_owned();
        let mut began = Began { id, text: String::new() };
        for _ in 0..self.random.random_range(0..6) {
            let event = events.next().await;
            if event.kind == "response.output_text.delta" {
                began.text.push_str(event.data["delta"].as_str().unwrap());
            }
        }
        drop(events);
        check_interrupted(&until_stored(&mut self.client, &began.id).await, &began, &right)
    }

    /// With `store: false` nothing is kept.
    async fn unstored(&mut self) -> Checked {
        let question = self.question();
        let body = json!({"model": digest::MODEL, "input": question, "store": false, "stream": true});
        let ended = self.client.create(&body).await?;
        let Ended::Unstored(response) = ended else { return Err(format!("{ended:?}")) };
        let (status, found) = retrieve(&mut self.client, response["id"].as_str().unwrap()).await;
        ensure(status == 404, || format!("not to be stored, yet {status} {found}"))?;
        let mut conversation = Conversation::new(self.envoy);
        conversation.go_on_from(&question, &response);
        let ended = conversation.turn("And then?", self.random.random()).await?;
        ensure(ended.is_parent_not_found(), || format!("{ended:?}"))
    }

    async fn unknown(&mut self) -> Checked {
        let path = format!("/v1/responses/resp_{:032x}", self.random.random::<u128>());
        for request in [request("GET", &path), request("DELETE", &path), request("GET", &format!("{path}/input_items"))]
        {
            let Heard::Body { status: 404, bytes, .. } = self.client.hear(request).await else {
                return Err(format!("no 404 for {path}"));
            };
            error_of(&bytes)?;
        }
        Ok(())
    }
}

fn json_of(heard: Heard) -> Checked<(u16, Value)> {
    match heard {
        Heard::Body { status, bytes, .. } => {
            Ok((status, serde_json::from_slice(&bytes).map_err(|error| error.to_string())?))
        }
        _ => Err("no whole answer".to_owned()),
    }
}

fn arguments(said: &[String]) -> String {
    json!({"about": digest::of(said)}).to_string()
}

/// Calls a function when a user has spoken, and answers when its output has come.
fn with_tools(received: &Received) -> Answer {
    let request = received.json();
    let said = digest::said_in(&request);
    if !said.last().unwrap().starts_with("user: ") {
        return digest::answer(received);
    }
    let call = chat::call(&format!("call_{:x}", rand::random::<u64>()), "look_up", &arguments(&said));
    if request["stream"] == true {
        return Answer::chunks(&[
            chat::delta(&json!({"tool_calls": [call]})),
            chat::finish("tool_calls"),
            chat::usage_chunk(),
        ]);
    }
    let message = json!({"role": "assistant", "content": null, "tool_calls": [call]});
    Answer::json(200, &chat::completion_of(&message, "tool_calls"))
}

fn median(samples: &[u64]) -> u64 {
    let mut samples = samples.to_vec();
    samples.sort_unstable();
    samples[samples.len() / 2]
}

async fn soak(stack: &Stack, forgets: Forgets) {
    let seed = Seed::of_this_run();
    let open = Gate::closed();
    open.open();
    stack.upstream.forget_requests();
    stack.upstream.answer(digest::MODEL, digest::answer);
    stack.upstream.answer(TOOLS, with_tools);
    stack.upstream.answer(SLOW, move |received| {
        let text = digest::of(&digest::said_in(&received.json()));
        digest::held_text(&text, true, &open, Duration::from_millis(5))
    });
    for stream in [true, false, true, false] {
        Conversation::new(stack.envoy.address).turn("Hi", stream).await.unwrap();
    }
    let idle = Idle::of(&stack.router).await;
    let (shared, began) = (Arc::<Shared>::default(), Instant::now());
    let mut workers = JoinSet::new();
    for number in 0..WORKERS {
        let (envoy, random, shared) = (stack.envoy.address, seed.generator(number), Arc::clone(&shared));
        let worker = Worker { envoy, random, client: Client::new(envoy), talks: Vec::new(), forgets, shared };
        workers.spawn(worker.work(began));
    }
    let mut resident = Vec::new();
    while !workers.is_empty() {
        tokio::select! {
            ended = workers.join_next() => ended.unwrap().unwrap(),
            () = tokio::time::sleep(Duration::from_millis(200)) => resident.push(stack.router.process.resident_bytes()),
        }
    }
    idle.again(&stack.router).await;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let quarter = resident.len() / 4;
    let (third, last) = (median(&resident[2 * quarter..3 * quarter]), median(&resident[3 * quarter..]));
    eprintln!(
        "{} actions, {} conversations, {} turns, {} found gone in {:.0?}; resident {} KiB, then {} KiB",
        count(&shared.actions),
        count(&shared.conversations),
        count(&shared.turns),
        count(&shared.gone),
        began.elapsed(),
        third >> 10,
        last >> 10,
    );
    let (ids, mut client) = (shared.acknowledged.lock().unwrap().clone(), Client::new(stack.envoy.address));
    match forgets {
        Forgets::Beyond(most) => {
            let mut kept = 0;
            for id in ids.iter().rev().take(1000) {
                kept += u64::from(retrieve(&mut client, id).await.0 == 200);
            }
            eprintln!("{kept} of the last {} turns are still stored", ids.len().min(1000));
            assert!(kept <= most && kept > most / 2, "{kept} of {most}");
            assert!(count(&shared.gone) > 0, "nothing was forgotten");
        }
        // A fast machine may have used all of them in time until now.
        Forgets::After { .. } => {
            for id in ids.iter().rev().take(50) {
                eventually("the last turns expire", async || (retrieve(&mut client, id).await.0 == 404).then_some(()))
                    .await;
            }
        }
    }
    assert!(count(&shared.conversations) >= CONVERSATIONS, "the machine is too slow for a soak");
    assert!(last <= third + third / 10 + ROOM, "memory grows: {resident:?}");
    assert_eq!(stack.router.process.lines_with(" ERROR "), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-chaos"]
async fn chaos_of_a_soak_whose_responses_expire_gives_no_wrong_answer_and_does_not_grow() {
    let settings = json!({
        "response_api": {"ttl_seconds": 5, "store_deadline_ms": 1000},
        "limits": {"exchange_seconds": 10},
    });
    let stack = start(settings).await;
    // The longest turn: the exchange and two attempts to store it.
    soak(&stack, Forgets::After { ttl: Duration::from_secs(5), longer: Duration::from_secs(12) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "make test-chaos"]
async fn chaos_of_a_soak_in_a_small_memory_store_gives_no_wrong_answer_and_stays_within_its_bounds() {
    let stack = start(json!({"response_api": {"max_responses": 300}})).await;
    soak(&stack, Forgets::Beyond(300)).await;
}
