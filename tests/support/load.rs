//! Conversations through the whole path, while a test does harm to some part of it.
//!
//! The upstream is the digest backend, so each answer proves the history of its turn. Every answer is kept, and asked for
//! again at the end.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio::task::JoinSet;

use super::seed::Seed;
use super::stack::Stack;
use super::stack::client::{Began, Client, Conversation, Ended, Heard, check_interrupted};
use super::stack::digest;
use super::stack::http::request;

/// What a user would call a delay.
const SLOW: Duration = Duration::from_secs(1);

/// How long anything may take to go well again after the harm is done, on a machine as busy as a test's.
const LONGEST_RECOVERY: Duration = Duration::from_secs(60);

/// Readers at the end.
const READERS: usize = 8;

/// What a load is made of.
pub(crate) struct Options {
    pub(crate) conversations: usize,
    /// After so many turns a conversation begins anew.
    pub(crate) turns: usize,
    /// From one turn to the next.
    pub(crate) pace: Duration,
    /// How long harm may go unnoticed.
    pub(crate) latent: Duration,
    /// How a turn may end besides with its right answer.
    pub(crate) tolerated: fn(&Ended) -> bool,
}

/// What all conversations have seen.
struct Journal {
    tolerated: fn(&Ended) -> bool,
    acknowledged: Mutex<Vec<Value>>,
    /// The streams that were cut once their id was known, each with what it would have answered.
    cut: Mutex<Vec<(Began, String)>>,
    /// When a turn ended in another way that is tolerated.
    refused: Mutex<Vec<Instant>>,
    unstored: AtomicU64,
    /// When a slow turn ended, and how long it took.
    slow: Mutex<Vec<(Instant, Duration)>>,
    /// When the last turn of each conversation began that succeeded.
    progress: Mutex<Vec<Option<Instant>>>,
    /// Never to happen: what is neither right nor tolerated.
    wrong: Mutex<Vec<String>>,
    streamed: AtomicU64,
    paused: AtomicBool,
    /// Conversations in the middle of a turn.
    busy: AtomicUsize,
    /// How often the store has lost all that it had.
    losses: AtomicU64,
    stop: AtomicBool,
}

/// What went less than well.
struct Trouble {
    ended: Instant,
    refused: usize,
    slowest: Duration,
}

/// Conversations that go on until [`Load::finish`].
pub(crate) struct Load {
    envoy: SocketAddr,
    latent: Duration,
    journal: Arc<Journal>,
    conversations: JoinSet<()>,
    seed: Seed,
}

impl Load {
    /// Has the stack's upstream be the digest backend, starts the conversations, and waits until all are under way.
    pub(crate) async fn start(stack: &Stack, options: Options) -> Self {
        stack.upstream.answer(digest::MODEL, digest::answer);
        stack.upstream.forget_requests();
        let Options { conversations: count, turns, pace, latent, tolerated } = options;
        let journal = Arc::new(Journal {
            tolerated,
            acknowledged: Mutex::default(),
            cut: Mutex::default(),
            refused: Mutex::default(),
            unstored: AtomicU64::default(),
            slow: Mutex::default(),
            progress: Mutex::new(vec![None; count]),
            wrong: Mutex::default(),
            streamed: AtomicU64::default(),
            paused: AtomicBool::default(),
            busy: AtomicUsize::default(),
            losses: AtomicU64::default(),
            stop: AtomicBool::default(),
        });
        let (envoy, seed) = (stack.envoy.address, Seed::of_this_run());
        let mut conversations = JoinSet::new();
        for number in 0..count {
            let talk = Talk {
                number,
                random: seed.generator(u64::try_from(number).unwrap()),
                turns,
                pace,
                losses: 0,
                conversation: Conversation::new(envoy),
            };
            let journal = Arc::clone(&journal);
            conversations.spawn(async move { talk.go_on(&journal).await });
        }
        let load = Self { envoy, latent, journal, conversations, seed };
        load.until("every conversation is under way", || {
            load.journal.progress.lock().unwrap().iter().all(Option::is_some)
        })
        .await;
        load
    }

    /// Random choices of the test's own.
    pub(crate) fn random(&self) -> StdRng {
        self.seed.generator(u64::MAX)
    }

    /// Waits until every conversation has had a turn that it began after the harm of `since` must have been noticed and
    /// after the last refusal; says how long after `since` the last turn ended that was refused or slow, how often turns
    /// were refused, and how long the slowest took.
    pub(crate) async fn recovered(&self, since: Instant) -> String {
        self.until("every conversation goes on", || {
            let refused = self.journal.refused.lock().unwrap().last().copied();
            let last = refused.map_or(since + self.latent, |refused| refused.max(since + self.latent));
            self.journal.progress.lock().unwrap().iter().all(|begun| begun.is_some_and(|begun| begun > last))
        })
        .await;
        let Trouble { ended, refused, slowest } = self.trouble_since(since);
        let recovery = ended - since;
        if recovery.is_zero() {
            return format!("no turn was refused or took {SLOW:?}");
        }
        format!(
            "all turns succeed at once after {recovery:.1?}, {refused} were refused, the slowest took {slowest:.1?}"
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
    pub(crate) async fn until_refused(&self, count: usize) {
        let refused = || self.journal.refused.lock().unwrap().len();
        let before = refused();
        self.until("turns are refused", || refused() >= before + count).await;
    }

    /// Waits until so many turns more were answered without being stored.
    pub(crate) async fn until_unstored(&self, count: u64) {
        let unstored = || self.journal.unstored.load(Ordering::Relaxed);
        let before = unstored();
        self.until("answers are given without being stored", || unstored() >= before + count).await;
    }

    /// Waits until no conversation is in the middle of a turn, and lets none begin another.
    pub(crate) async fn pause(&self) {
        self.journal.paused.store(true, Ordering::SeqCst);
        self.until("every conversation rests", || self.journal.busy.load(Ordering::SeqCst) == 0).await;
    }

    /// Lets them go on.
    pub(crate) fn resume(&self) {
        self.journal.paused.store(false, Ordering::SeqCst);
    }

    /// To be called while paused, when the store has lost all that it had: every conversation has to be told so, once.
    /// Gives the responses that are gone.
    pub(crate) fn all_is_lost(&self) -> Vec<Value> {
        assert_eq!(self.journal.busy.load(Ordering::SeqCst), 0);
        self.journal.losses.fetch_add(1, Ordering::SeqCst);
        self.journal.cut.lock().unwrap().clear();
        std::mem::take(&mut self.journal.acknowledged.lock().unwrap())
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
    pub(crate) fn summary(&self) -> String {
        format!(
            "{} turns acknowledged ({} streamed), {} refused, {} not stored, {} streams cut",
            self.journal.acknowledged.lock().unwrap().len(),
            self.journal.streamed.load(Ordering::Relaxed),
            self.journal.refused.lock().unwrap().len(),
            self.journal.unstored.load(Ordering::Relaxed),
            self.journal.cut.lock().unwrap().len(),
        )
    }

    /// Ends the conversations and, once `settled` has waited for the store, retrieves every response that was
    /// acknowledged: each has to be what POST returned. What was cut has to be absent, or what it may be.
    pub(crate) async fn finish(mut self, what: &str, settled: impl FnOnce()) {
        self.journal.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.conversations.join_next().await {
            ended.unwrap();
        }
        settled();
        let summary = self.summary();
        let acknowledged = Arc::new(std::mem::take(&mut *self.journal.acknowledged.lock().unwrap()));
        let next = Arc::new(AtomicUsize::new(0));
        let mut readers = JoinSet::new();
        for _ in 0..READERS {
            let (envoy, all, next) = (self.envoy, Arc::clone(&acknowledged), Arc::clone(&next));
            readers.spawn(async move {
                let mut client = Client::new(envoy);
                let mut lost = 0;
                loop {
                    let Some(response) = all.get(next.fetch_add(1, Ordering::Relaxed)) else { return lost };
                    let (status, found) = retrieve(&mut client, response["id"].as_str().unwrap()).await;
                    if status != 200 || found != *response {
                        eprintln!("{status} {found} is not {response}");
                        lost += 1;
                    }
                }
            });
        }
        let mut lost = 0;
        while let Some(found) = readers.join_next().await {
            lost += found.unwrap();
        }
        eprintln!("{what}: {summary}, {lost} lost");
        assert_eq!(lost, 0);
        let cut = std::mem::take(&mut *self.journal.cut.lock().unwrap());
        check_cut(self.envoy, &cut).await;
        self.assert_nothing_wrong();
    }
}

/// Checks what is stored of streams that were cut, each with what it would have answered: nothing, or what fits. How many
/// are there.
pub(crate) async fn check_cut(envoy: SocketAddr, cut: &[(Began, String)]) -> usize {
    let mut client = Client::new(envoy);
    let mut there = 0;
    for (began, right) in cut {
        let (status, found) = retrieve(&mut client, &began.id).await;
        if status == 200 {
            there += 1;
            check_interrupted(&found, began, right).unwrap();
        } else {
            assert_eq!(status, 404, "{found}");
        }
    }
    there
}

/// GET of a response, again as long as the store or the router is away.
pub(crate) async fn retrieve(client: &mut Client, id: &str) -> (u16, Value) {
    let path = format!("/v1/responses/{id}");
    let started = Instant::now();
    loop {
        match client.hear(request("GET", &path)).await {
            Heard::Body { status, bytes, .. } if status != 503 => {
                return (status, serde_json::from_slice(&bytes).unwrap());
            }
            _ => assert!(started.elapsed() < LONGEST_RECOVERY, "in vain: an answer to GET {path}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The stored response, as soon as it is there.
pub(crate) async fn until_stored(client: &mut Client, id: &str) -> Value {
    let started = Instant::now();
    loop {
        let (status, found) = retrieve(client, id).await;
        if status == 200 {
            return found;
        }
        assert!(started.elapsed() < LONGEST_RECOVERY, "not stored: {id}, {found}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One conversation and its pace.
struct Talk {
    number: usize,
    random: StdRng,
    turns: usize,
    pace: Duration,
    /// Losses that it knows of.
    losses: u64,
    conversation: Conversation,
}

impl Talk {
    async fn go_on(mut self, journal: &Journal) {
        while !journal.stop.load(Ordering::Relaxed) {
            tokio::time::sleep(self.pace.mul_f64(self.random.random_range(0.5..1.5))).await;
            journal.busy.fetch_add(1, Ordering::SeqCst);
            if !journal.paused.load(Ordering::SeqCst)
                && let Err(wrong) = self.turn(journal).await
            {
                journal.wrong.lock().unwrap().push(wrong);
                journal.busy.fetch_sub(1, Ordering::SeqCst);
                return;
            }
            journal.busy.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// One turn, streamed or not; after a refusal the next is another attempt, as a client makes it.
    async fn turn(&mut self, journal: &Journal) -> Result<(), String> {
        let losses = journal.losses.load(Ordering::SeqCst);
        let lost = losses > self.losses && self.conversation.parent.is_some();
        if !lost {
            self.losses = losses;
            if self.conversation.said.len() >= 2 * self.turns {
                self.conversation.forget();
            }
        }
        let question = format!("{:032x} {}", self.random.random::<u128>(), "words of a turn ".repeat(20));
        let stream = self.random.random::<bool>();
        journal.streamed.fetch_add(u64::from(stream), Ordering::Relaxed);
        let right = self.conversation.right_answer(&question);
        let asked = Instant::now();
        let ended = self.conversation.turn(&question, stream).await?;
        let now = Instant::now();
        if now - asked > SLOW {
            journal.slow.lock().unwrap().push((now, now - asked));
        }
        if lost && ended.is_parent_not_found() {
            self.losses = losses;
            self.conversation.forget();
            return Ok(());
        }
        match ended {
            Ended::Answered(response) if !lost => {
                journal.progress.lock().unwrap()[self.number] = Some(asked);
                journal.acknowledged.lock().unwrap().push(response);
                return Ok(());
            }
            ended if !(journal.tolerated)(&ended) => return Err(format!("the turn ended so: {ended:?}")),
            Ended::Unstored(_) => {
                journal.unstored.fetch_add(1, Ordering::Relaxed);
            }
            Ended::Cut(Some(began)) => journal.cut.lock().unwrap().push((began, right)),
            _ => {}
        }
        journal.refused.lock().unwrap().push(now);
        Ok(())
    }
}
