//! Conversations through the whole path, while a test does harm to the cluster behind it.
//!
//! The upstream answers with a digest of every message it saw, so each answer proves the history of its turn: a record
//! that is another's, is lost, or is left out cannot go unnoticed. Every answer is kept, and asked for again at the end.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::redis::{Cluster, NODE_TIMEOUT};
use crate::support::stack::http::{Connection, post, request};
use crate::support::stack::upstream::{Answer, Received};
use crate::support::stack::{Hold, Stack, StackOptions};

const CONVERSATIONS: usize = 50;
const TURNS_PER_CONVERSATION: usize = 12;
const PACE: Duration = Duration::from_millis(400);

/// What a user would call a delay.
const SLOW: Duration = Duration::from_secs(1);

/// How long harm may go unnoticed.
const LATENT: Duration = NODE_TIMEOUT.saturating_mul(2);

/// How long anything may take to go well again after the harm is done, on a machine as busy as a test's.
const LONGEST_RECOVERY: Duration = Duration::from_secs(60);

const MODEL: &str = "digest";

/// What all conversations have seen.
#[derive(Default)]
struct Journal {
    acknowledged: Mutex<Vec<Value>>,
    /// When a turn was refused with the contract's 503, or its stream ended so.
    refused: Mutex<Vec<Instant>>,
    /// When a slow turn ended, and how long it took.
    slow: Mutex<Vec<(Instant, Duration)>>,
    /// When the last turn of each conversation began that succeeded.
    progress: Mutex<Vec<Option<Instant>>>,
    /// Never to happen: another answer than a right one or the contract's 503.
    wrong: Mutex<Vec<String>>,
    streamed: AtomicU64,
    stop: AtomicBool,
}

/// What went less than well.
struct Trouble {
    ended: Instant,
    refused: usize,
    slowest: Duration,
}

/// Conversations that go on until [`Load::finish`].
pub(super) struct Load {
    stack: Arc<Hold>,
    journal: Arc<Journal>,
    conversations: JoinSet<()>,
}

impl Load {
    /// Starts a stack over this cluster with these settings of `redis` beside its addresses, and waits until every
    /// conversation is under way.
    pub(super) async fn start(cluster: &Cluster, redis: Value) -> Self {
        let mut settings = cluster.settings();
        if let (Value::Object(own), Value::Object(more)) = (&mut settings["response_api"]["redis"], redis) {
            own.extend(more);
        }
        let stack = Arc::new(Stack::start(StackOptions { settings, ..StackOptions::default() }).await);
        stack.upstream.answer(MODEL, answer);
        let journal = Arc::new(Journal { progress: Mutex::new(vec![None; CONVERSATIONS]), ..Journal::default() });
        let mut conversations = JoinSet::new();
        for number in 0..CONVERSATIONS {
            let (conversation, journal) = (Conversation::new(number, &stack).await, Arc::clone(&journal));
            conversations.spawn(async move { conversation.go_on(&journal).await });
        }
        let load = Self { stack, journal, conversations };
        load.until("every conversation is under way", || {
            load.journal.progress.lock().unwrap().iter().all(Option::is_some)
        })
        .await;
        load
    }

    /// Waits until every conversation has had a turn that it began after the harm of `since` must have been noticed and
    /// after the last refusal; says how long after `since` the last turn ended that was refused or slow, how often turns
    /// were refused, and how long the slowest took.
    pub(super) async fn recovered(&self, since: Instant) -> String {
        self.until("every conversation goes on", || {
            let refused = self.journal.refused.lock().unwrap().last().copied();
            let last = refused.map_or(since + LATENT, |refused| refused.max(since + LATENT));
            self.journal.progress.lock().unwrap().iter().all(|begun| begun.is_some_and(|begun| begun > last))
        })
        .await;
        let Trouble { ended, refused, slowest } = self.trouble_since(since);
        let recovery = ended - since;
        if recovery.is_zero() {
            return format!("no turn was refused or took {SLOW:?}");
        }
        format!(
            "all turns succeed at once after {recovery:.1?}, {refused} were refused with 503, the slowest took {slowest:.1?}"
        )
    }

    fn trouble_since(&self, since: Instant) -> Trouble {
        let slow = self.journal.slow.lock().unwrap();
        let slow = slow.iter().filter(|(at, _)| *at > since);
        let refused: Vec<_> = self.journal.refused.lock().unwrap().iter().filter(|at| **at > since).copied().collect();
        Trouble {
            ended: slow.clone().map(|(at, _)| *at).chain(refused.last().copied()).max().unwrap_or(since),
            refused: refused.len(),
            slowest: slow.map(|(_, took)| *took).max().unwrap_or_default(),
        }
    }

    /// Waits until so many turns more were refused.
    pub(super) async fn until_refused(&self, count: usize) {
        let refused = || self.journal.refused.lock().unwrap().len();
        let before = refused();
        self.until("turns are refused", || refused() >= before + count).await;
    }

    async fn until(&self, what: &str, done: impl Fn() -> bool) {
        let started = Instant::now();
        while !done() {
            self.assert_nothing_wrong();
            assert!(started.elapsed() < LONGEST_RECOVERY, "in vain: {what}; {}", self.summary());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    #[track_caller]
    fn assert_nothing_wrong(&self) {
        let wrong = self.journal.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{} wrong answers, {:#?}", wrong.len(), &wrong[..wrong.len().min(5)]);
    }

    /// What was seen until now, in a line.
    pub(super) fn summary(&self) -> String {
        format!(
            "{} turns acknowledged ({} streamed), {} refused with 503",
            self.journal.acknowledged.lock().unwrap().len(),
            self.journal.streamed.load(Ordering::Relaxed),
            self.journal.refused.lock().unwrap().len(),
        )
    }

    /// Ends the conversations and retrieves every response that was acknowledged: each has to be what POST returned.
    pub(super) async fn finish(mut self, what: &str, cluster: &Cluster) {
        self.journal.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.conversations.join_next().await {
            ended.unwrap();
        }
        cluster.wait_until_whole();
        let acknowledged = Arc::new(std::mem::take(&mut *self.journal.acknowledged.lock().unwrap()));
        let next = Arc::new(AtomicU64::new(0));
        let mut readers = JoinSet::new();
        for _ in 0..8 {
            let (stack, all, next) = (Arc::clone(&self.stack), Arc::clone(&acknowledged), Arc::clone(&next));
            readers.spawn(async move {
                let mut connection = stack.connect().await;
                let mut lost = 0;
                loop {
                    let number = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap();
                    let Some(response) = all.get(number) else { return lost };
                    lost += u32::from(retrieve(&mut connection, response).await != *response);
                }
            });
        }
        let mut lost = 0;
        while let Some(found) = readers.join_next().await {
            lost += found.unwrap();
        }
        let refused = self.journal.refused.lock().unwrap().len();
        eprintln!("{what}: {} turns acknowledged, {refused} refused with 503, {lost} lost", acknowledged.len());
        assert_eq!(lost, 0);
        self.assert_nothing_wrong();
    }
}

async fn retrieve(connection: &mut Connection, response: &Value) -> Value {
    let path = format!("/v1/responses/{}", response["id"].as_str().unwrap());
    loop {
        let reply = connection.send(request("GET", &path)).await;
        let status = reply.status;
        let body = reply.json().await;
        if status != 503 {
            return body;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The upstream's answer: how many messages it saw, and a digest of all they said.
fn answer(received: &Received) -> Answer {
    let texts: Vec<String> = received.messages().into_iter().map(|(_, text)| text).collect();
    let answer = digest(&texts);
    if received.json()["stream"] == true { Answer::words(&answer) } else { Answer::completion(&answer) }
}

fn digest(texts: &[String]) -> String {
    let mut hasher = DefaultHasher::new();
    texts.hash(&mut hasher);
    format!("{} messages, {:016x}", texts.len(), hasher.finish())
}

struct Conversation {
    number: usize,
    connection: Connection,
    /// Questions and answers so far, and the id of the last response.
    said: Vec<String>,
    parent: Option<String>,
}

/// How a turn ended.
enum Turn {
    Acknowledged(Value),
    Refused,
    Wrong(String),
}

impl Conversation {
    async fn new(number: usize, stack: &Stack) -> Self {
        Self { number, connection: stack.connect().await, said: Vec::new(), parent: None }
    }

    async fn go_on(mut self, journal: &Journal) {
        while !journal.stop.load(Ordering::Relaxed) {
            tokio::time::sleep(PACE.mul_f64(rand::random_range(0.5..1.5))).await;
            if self.said.len() == 2 * TURNS_PER_CONVERSATION {
                self.said.clear();
                self.parent = None;
            }
            let question = format!("{:032x} {}", rand::random::<u128>(), "words of a turn ".repeat(20));
            let asked = Instant::now();
            match self.ask(&question, journal).await {
                Turn::Acknowledged(response) => {
                    let now = Instant::now();
                    journal.progress.lock().unwrap()[self.number] = Some(asked);
                    if now - asked > SLOW {
                        journal.slow.lock().unwrap().push((now, now - asked));
                    }
                    self.said.extend([question, response["output_text"].as_str().unwrap().to_owned()]);
                    self.parent = Some(response["id"].as_str().unwrap().to_owned());
                    journal.acknowledged.lock().unwrap().push(response);
                }
                // The same turn again, as a client does.
                Turn::Refused => journal.refused.lock().unwrap().push(Instant::now()),
                Turn::Wrong(what) => {
                    journal.wrong.lock().unwrap().push(what);
                    return;
                }
            }
        }
    }

    /// One turn, streamed or not.
    async fn ask(&mut self, question: &str, journal: &Journal) -> Turn {
        let stream = rand::random::<bool>();
        let body = json!({
            "model": MODEL, "input": question, "previous_response_id": self.parent, "stream": stream,
        });
        let reply = self.connection.send(post("/v1/responses", &body)).await;
        if reply.status != 200 {
            let (status, retry_after) = (reply.status, reply.header("retry-after").to_owned());
            let body = reply.json().await;
            let expected = status == 503 && body["error"]["code"] == "store_unavailable" && !retry_after.is_empty();
            return if expected { Turn::Refused } else { Turn::Wrong(format!("{status} {body}")) };
        }
        let response = if stream {
            journal.streamed.fetch_add(1, Ordering::Relaxed);
            let (mut events, _, _) = reply.events().rest().await;
            let Some(last) = events.pop() else { return Turn::Wrong("a stream without events".to_owned()) };
            if last.kind == "response.failed" && last.data["response"]["error"]["code"] == "store_unavailable" {
                return Turn::Refused;
            }
            last.data["response"].clone()
        } else {
            reply.json().await
        };
        let mut texts = self.said.clone();
        texts.push(question.to_owned());
        if response["status"] != "completed" || response["output_text"] != digest(&texts) {
            return Turn::Wrong(format!("not {} but {response}", digest(&texts)));
        }
        Turn::Acknowledged(response)
    }
}
