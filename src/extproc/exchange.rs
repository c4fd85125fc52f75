//! One exchange, from top to bottom in the order in which the bytes arrive (DESIGN: the walk of one POST).
//!
//! The request headers are answered late, together with the whole translated body; a JSON answer's headers late too, so
//! that its status can still change; a stream's headers with the first of its body. Every way out is a last message to
//! Envoy or an error.

use std::pin::pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Handler;
use super::admission::{Admission, Seat};
use super::answer;
use super::answer_error::upstream_error;
use super::apart::{Apart, ProcessEnds};
use super::body::{BodyCollector, BodyError, Codings};
use super::duplex::{Envoy, ExchangeError, Finished, Stopped};
use super::headers::{HeaderMutation, Headers};
use super::keeping::{Keeping, Lineage};
use super::local::{self, LocalAnswer};
use super::message::{Inbound, LastReply, Reply, RequestHead, ResponseHead};
use super::policy::Policy;
use super::refusal;
use super::route::{Route, Routes};
use super::tenancy::{NoIdentity, Tenancy};
use crate::id::{IdSource, ResponseId};
use crate::in_place::pinned;
use crate::openai::error::WireError;
use crate::sealing::SealingKeys;
use crate::store::{History, HistoryError, Owner, Record, Wanted};
use crate::telemetry::facts::{Chain, Ending, Stored};
use crate::telemetry::traces::TraceContext;
use crate::telemetry::{Account, Reporter};
use crate::translate::sealing::Seal;
use crate::translate::{self, CreateRequest, Past, Plan, RequestError, Settings, Translated, Turn};

/// The request header by which Envoy's routes can choose a cluster.
const SELECTED_MODEL: &str = "x-selected-model";

/// The longest `x-request-id` that is noted, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// How many times as much work an item of the history is that has to be read first.
const READ_ITEMS_TIMES: usize = 8;

/// All that exchanges share.
pub struct Router {
    /// When false, every request gets a 404.
    pub enabled: bool,
    /// Which paths are ours.
    pub routes: Routes,
    /// Where new ids come from.
    pub ids: Box<dyn IdSource>,
    /// How the backend is spoken to.
    pub settings: Settings,
    /// Seals reasoning for clients that carry it, when there are keys.
    pub reasoning_keys: Option<SealingKeys>,
    /// How tenants are told apart; without, there are none.
    pub tenancy: Option<Tenancy>,
    /// The responses.
    pub keeping: Keeping,
    /// Where exchanges are reported.
    pub reporter: Arc<Reporter>,
    /// How much there may be at once.
    pub admission: Arc<Admission>,
    /// Where large bodies are read and translated.
    pub apart: Apart,
    /// What else the operator decides.
    pub policy: Policy,
    /// Cancelled when the grace of a shutdown has run out: live exchanges end then.
    pub grace_over: CancellationToken,
}

/// Why the walk leaves its path. Both are ends: an answer of our own, or an error towards Envoy.
pub(super) enum Interrupt {
    /// The client gets this answer.
    Refuse(WireError),
    /// Nobody is left to answer, or Envoy broke the protocol.
    Break(ExchangeError),
}

impl From<WireError> for Interrupt {
    fn from(error: WireError) -> Self {
        Self::Refuse(error)
    }
}

impl From<ProcessEnds> for Interrupt {
    fn from(ends: ProcessEnds) -> Self {
        Self::Refuse(ends.into())
    }
}

impl From<ExchangeError> for Interrupt {
    fn from(error: ExchangeError) -> Self {
        Self::Break(error)
    }
}

/// How a body ended: that decides how ours must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndedBy {
    /// With its last piece.
    Body,
    /// With trailers after it.
    Trailers,
    /// Not yet: all of it that matters has come, and its end is still due.
    NotYet,
}

/// What became of reading a request.
enum Upload {
    /// The whole body.
    Whole(Bytes, EndedBy),
    /// Envoy answered by itself before the body was through.
    AnsweredByEnvoy(ResponseHead),
}

/// A request that is ready to go up.
struct Admitted {
    chat: Vec<u8>,
    plan: Box<Plan>,
    lineage: Lineage,
}

impl Handler for Router {
    fn account(&self, heard: Option<TraceContext>) -> Account {
        Account::open(Arc::clone(&self.reporter), heard)
    }

    async fn exchange(self: Arc<Self>, mut envoy: Envoy) -> Result<Finished, ExchangeError> {
        let began = Instant::now();
        let deadline = began + self.policy.exchange;
        match self.next(&mut envoy, deadline).await {
            Ok(Inbound::RequestHeaders(head)) => {
                let route = self.routes.find(&head);
                note_request(&envoy, &head, &route);
                // Before anything is read or computed: what is refused here has to be the cheapest there is.
                let seat = match self.admission.enter() {
                    Ok(seat) => seat,
                    Err(overloaded) => return self.leave(envoy, refusal::overloaded(overloaded).into()).await,
                };
                if !self.enabled {
                    let error = WireError::new(404, "The Responses API is not enabled here.");
                    return self.leave(envoy, error.into()).await;
                }
                let Ok(owner) = self.owner(&head, &route) else {
                    return self.leave(envoy, refusal::no_identity().into()).await;
                };
                envoy.account().note(|facts| facts.tenant = owner.tenant());
                if route == Route::Create {
                    // On the heap, so that what is answered at once needs none of its room.
                    return pinned(|| self.create(envoy, head, owner, seat, deadline)).await;
                }
                let answer = local::answer(&self.keeping, owner, envoy.account(), self.settings.api, route).await;
                Ok(answer.finish(envoy).await)
            }
            // A filter in front of ours answered by itself: that is its answer, not an upstream's.
            Ok(Inbound::ResponseHeaders(head)) => self.relay(envoy, &head, deadline).await,
            Ok(_) => Err(ExchangeError::OutOfOrder("waiting for the request headers")),
            Err(interrupt) => self.leave(envoy, interrupt).await,
        }
    }
}

impl Router {
    /// On whose behalf the request is answered. Browsers ask by OPTIONS without saying who they are; the answer is the
    /// same for all.
    fn owner(&self, head: &RequestHead, route: &Route) -> Result<Owner, NoIdentity> {
        match (&self.tenancy, route) {
            (None, _) => Ok(Owner::Everybody),
            (Some(_), Route::Options { .. }) => Ok(Owner::Nobody),
            (Some(tenancy), _) => tenancy.owner(head),
        }
    }

    async fn create(
        self: &Arc<Self>,
        mut envoy: Envoy,
        head: RequestHead,
        owner: Owner,
        mut seat: Seat,
        deadline: Instant,
    ) -> Result<Finished, ExchangeError> {
        let (body, ended_by) = match self.request_body(&mut envoy, &head, &mut seat).await {
            Ok(Upload::Whole(body, ended_by)) => (body, ended_by),
            Ok(Upload::AnsweredByEnvoy(head)) => {
                return upstream_error(self, envoy, &head, None, deadline).await;
            }
            Err(interrupt) => return self.leave(envoy, interrupt).await,
        };
        let Admitted { chat, plan, lineage } = match self.admit(&head, owner, body, &mut seat, envoy.account()).await {
            Ok(admitted) => admitted,
            Err(error) => {
                tracing::debug!(status = error.status, code = error.code, "refused");
                return Ok(LocalAnswer::error(&error, self.settings.api).stream(envoy).await);
            }
        };
        tracing::Span::current().record("response_id", envoy.account().shown(&plan.id));

        let mutation = self.upstream_headers(&head.headers, plan.model());
        // Its headers are slices of the connection's buffer, which must not live as long as a stream.
        drop(head);
        envoy.send_described(Reply::request_headers(mutation, self.policy.clear_route_cache)).await;
        envoy.send(Reply::request_body(chat.into(), ended_by == EndedBy::Body)).await;
        if ended_by == EndedBy::Trailers {
            envoy.send(Reply::request_trailers()).await;
        }
        // From here on it holds what is stored at its end, and what it gathers of the answer.
        seat.hold(plan.kept_bytes());

        let head = loop {
            match self.next(&mut envoy, deadline).await {
                Ok(Inbound::ResponseHeaders(head)) => break head,
                // What is left of the request has nothing to say any more.
                Ok(Inbound::RequestBody(_) | Inbound::RequestTrailers) => {}
                Ok(_) => return Err(ExchangeError::OutOfOrder("waiting for the response headers")),
                Err(interrupt) => return self.leave(envoy, interrupt).await,
            }
        };
        answer::answer(self, envoy, head, plan, lineage, seat, deadline).await
    }

    /// Reads the body's meaning, loads the history, and translates. The upstream has seen nothing yet.
    async fn admit(
        self: &Arc<Self>,
        head: &RequestHead,
        owner: Owner,
        body: Bytes,
        seat: &mut Seat,
        account: &Account,
    ) -> Result<Admitted, WireError> {
        let codings = Codings::of(&head.headers).map_err(|error| refused_body(account, &error))?;
        let body = codings.undo_by(&self.apart, body, self.policy.max_request_bytes).await?;
        let body = body.map_err(|error| refused_body(account, &error))?;
        let body_bytes = body.len();
        seat.claim(body_bytes).map_err(refusal::overloaded)?;
        let created = if self.apart.is_for(body.len()) {
            let router = Arc::clone(self);
            self.apart.run(move || CreateRequest::parse(&body, &router.settings.request)).await?
        } else {
            // Gone when it is read.
            let body = body;
            CreateRequest::parse(&body, &self.settings.request)
        };
        let mut create = created.map_err(|error| refuse(&error))?;
        if create.store && !owner.keeps_records() {
            create.store = false;
            create.lossy.skip("store", "");
        }
        account.note(|facts| {
            facts.stream = create.stream;
            facts.model.clone_from(&create.model);
            facts.previous_response_id.clone_from(&create.previous_response_id);
        });

        let parent = create.previous_response_id.as_ref();
        let wanted = Wanted { parent, referenced: &create.referenced_responses() };
        let history = {
            // Pinned, see `in_place`.
            let load = pin!(self.keeping.history(owner, wanted, self.policy.chain));
            if wanted.is_empty() { load.await } else { account.storing("load history", load).await }
        };
        let history = history.map_err(|error| {
            account.note(|facts| {
                facts.chain_missing = match error {
                    HistoryError::ParentNotFound => Some("parent"),
                    HistoryError::AncestorMissing => Some("ancestor"),
                    _ => None,
                };
            });
            refusal::history(&error, parent)
        })?;
        let chain = chain_of(&history);
        let history_bytes = chain.map_or(0, |chain| chain.bytes);
        seat.claim(seat.bytes().saturating_add(history_bytes)).map_err(refusal::overloaded)?;
        let seal = self.seal_of(owner);
        let id = if create.store {
            let parent = history.records.last().map(|parent| &parent.id);
            self.keeping.id_of_turn(owner, parent, &*self.ids)
        } else {
            self.ids.response_id()
        };
        let lineage = Lineage { owner, ancestors: history.ancestors_of_child() };
        let oldest = history.records.first().map(|oldest| oldest.id.clone());
        let began = Instant::now();
        let translated = if self.apart.is_for(work_on(&history, body_bytes)) {
            let router = Arc::clone(self);
            self.apart.run(move || router.translate(create, &history, seal, id)).await?
        } else {
            self.translate(create, &history, seal, id)
        };
        account.step("translate request", began, translated.is_err());
        let translated = translated.map_err(|error| {
            if let RequestError::ItemNotFound { .. } = error {
                account.note(|facts| facts.chain_missing = Some("item"));
            }
            refuse(&error)
        })?;
        let plan = &translated.plan;
        account.note(|facts| {
            facts.response_id = Some(plan.id.clone());
            facts.conversation = Some(oldest.unwrap_or_else(|| plan.id.clone()));
            facts.model = Some(plan.model().to_owned());
            facts.stored = if plan.store { Stored::Due } else { Stored::NotAsked };
            facts.chain = chain;
            facts.lossy.clone_from(&plan.lossy);
        });
        Ok(Admitted { chat: translated.chat, plan: translated.plan, lineage })
    }

    fn translate(
        &self,
        create: CreateRequest,
        history: &History,
        seal: Option<Arc<dyn Seal>>,
        id: ResponseId,
    ) -> Result<Translated, RequestError> {
        let past = Past { chain: &turns(&history.records), referenced: &turns(&history.referenced) };
        translate::request(create, past, &self.settings, seal, id, now())
    }

    /// What seals reasoning for an owner, and opens no one else's. Those without identity would share a seal: they get
    /// none.
    fn seal_of(&self, owner: Owner) -> Option<Arc<dyn Seal>> {
        let keys = self.reasoning_keys.as_ref()?;
        match owner {
            Owner::Everybody => Some(keys.bound_to("")),
            Owner::Tenant(tenant) => Some(keys.bound_to(&tenant.to_string())),
            Owner::Nobody => None,
        }
    }

    async fn request_body(&self, envoy: &mut Envoy, head: &RequestHead, seat: &mut Seat) -> Result<Upload, Interrupt> {
        let account = envoy.account().clone();
        let mut collector = BodyCollector::announced(&head.headers, self.policy.max_request_bytes)
            .map_err(|error| refused_body(&account, &error))?;
        if head.end_of_stream {
            return Ok(Upload::Whole(Bytes::new(), EndedBy::Body));
        }
        let began = Instant::now();
        loop {
            match self.next(envoy, began + self.policy.patience(collector.len())).await {
                Ok(Inbound::RequestBody(piece)) => {
                    seat.claim(collector.room_with(piece.bytes.len())).map_err(refusal::overloaded)?;
                    if collector.push(piece).map_err(|error| refused_body(&account, &error))? {
                        return Ok(Upload::Whole(collector.finish(), EndedBy::Body));
                    }
                }
                Ok(Inbound::RequestTrailers) => return Ok(Upload::Whole(collector.finish(), EndedBy::Trailers)),
                Ok(Inbound::ResponseHeaders(head)) => return Ok(Upload::AnsweredByEnvoy(head)),
                Ok(_) => return Err(ExchangeError::OutOfOrder("reading the request body").into()),
                Err(Interrupt::Break(ExchangeError::Deadline)) => {
                    account.note(|facts| facts.body_refused = Some("slow"));
                    return Err(refusal::slow_body().into());
                }
                Err(interrupt) => return Err(interrupt),
            }
        }
    }

    /// Changes only what is not as it has to be: each change costs Envoy more than it costs us.
    fn upstream_headers(&self, sent: &Headers, model: &str) -> HeaderMutation {
        let mut mutation = HeaderMutation::new()
            .set(":path", self.policy.chat_path.clone())
            .set_where_other(sent, "content-type", "application/json")
            // Envoy sends the new body chunked; the old length and coding are not its. We read the answer, so it must come
            // uncompressed. `traceparent` stays as it is: whose span the upstream's is a child of, only Envoy knows, and if
            // it traces, it overwrites the header with its own when it sends the request up.
            .remove_where_present(sent, &["content-length", "content-encoding", "accept-encoding"]);
        if let Some(tenant) = self.tenancy.as_ref().and_then(Tenancy::header) {
            mutation = mutation.remove_where_present(sent, &[tenant.as_str()]);
        }
        // The model is the client's word: only what a header value can carry gets into one, and a client's own header
        // of this name never passes.
        match http::HeaderValue::from_str(model) {
            Ok(_) => mutation.set(SELECTED_MODEL, model.to_owned()),
            Err(_) => mutation.remove_where_present(sent, &[SELECTED_MODEL]),
        }
    }

    /// The next message, unless the grace of a shutdown runs out first.
    pub(super) async fn next(&self, envoy: &mut Envoy, deadline: Instant) -> Result<Inbound, Interrupt> {
        match envoy.next_unless(deadline, &self.grace_over).await {
            Ok(message) => Ok(message?),
            Err(Stopped) => Err(refusal::shutting_down().into()),
        }
    }

    /// Ends an exchange whose response headers have not left yet.
    pub(super) async fn leave(&self, envoy: Envoy, interrupt: Interrupt) -> Result<Finished, ExchangeError> {
        let error = match interrupt {
            Interrupt::Refuse(error) => error,
            Interrupt::Break(ExchangeError::Deadline) => refusal::slow_upstream(),
            Interrupt::Break(error) => return Err(error),
        };
        tracing::debug!(status = error.status, code = error.code, "refused");
        Ok(LocalAnswer::error(&error, self.settings.api).finish(envoy).await)
    }

    /// Passes an answer on as it is.
    async fn relay(&self, mut envoy: Envoy, head: &ResponseHead, deadline: Instant) -> Result<Finished, ExchangeError> {
        envoy.account().note(|facts| facts.status = Some(head.status));
        if head.end_of_stream {
            return Ok(relayed(envoy, LastReply::response_headers(HeaderMutation::new())).await);
        }
        envoy.send(Reply::response_headers(HeaderMutation::new())).await;
        loop {
            match envoy.next_by(deadline).await? {
                Inbound::ResponseBody(piece) if piece.end => {
                    return Ok(relayed(envoy, LastReply::response_body(piece.bytes)).await);
                }
                Inbound::ResponseBody(piece) => envoy.send(Reply::response_body(piece.bytes)).await,
                Inbound::ResponseTrailers => return Ok(relayed(envoy, LastReply::response_trailers()).await),
                _ => return Err(ExchangeError::OutOfOrder("passing on an answer")),
            }
        }
    }
}

/// Ends an exchange that passed on an answer.
async fn relayed(envoy: Envoy, last: LastReply) -> Finished {
    envoy.account().note(|facts| facts.ending = Some(Ending::Relayed));
    envoy.finish(last).await
}

/// Notes what a request asks for.
fn note_request(envoy: &Envoy, head: &RequestHead, route: &Route) {
    // Envoy's are UUIDs; where it takes the client's, a log line must not be as long as the client likes.
    let request_id = head.headers.text("x-request-id").filter(|id| id.len() <= MAX_REQUEST_ID_BYTES);
    let span = tracing::Span::current();
    span.record("route", route.name());
    span.record("request_id", request_id);
    envoy.account().trace(|| TraceContext::read(head.headers.text("traceparent")?, head.headers.text("tracestate")));
    envoy.account().note(|facts| {
        facts.route = route.name();
        facts.request_id = request_id.map(ToOwned::to_owned);
        facts.response_id = route.id().cloned();
    });
}

fn refused_body(account: &Account, error: &BodyError) -> WireError {
    account.note(|facts| facts.body_refused = Some(error.class()));
    refusal::body(error)
}

/// How much work a request and its history are to translate, in bytes of JSON that are as much.
fn work_on(history: &History, body_bytes: usize) -> usize {
    let work = |record: &Arc<Record>| match record.items.get() {
        Some(_) => record.payload_bytes() / READ_ITEMS_TIMES,
        None => record.payload_bytes(),
    };
    history.records.iter().chain(&history.referenced).map(work).sum::<usize>().saturating_add(body_bytes)
}

/// What a request's history amounts to; `None` when it named none.
fn chain_of(history: &History) -> Option<Chain> {
    let bytes = |records: &[Arc<Record>]| records.iter().map(|record| record.payload_bytes()).sum::<usize>();
    let chain = Chain { length: history.records.len(), bytes: bytes(&history.records) + bytes(&history.referenced) };
    (chain.bytes > 0).then_some(chain)
}

fn turns(records: &[Arc<Record>]) -> Vec<Turn<'_>> {
    let turns = records.iter().map(|record| (&record.input, &record.response, record.items.get()));
    turns.map(|(input, response, items)| Turn { input, response, items }).collect()
}

fn refuse(error: &RequestError) -> WireError {
    if let RequestError::History(cause) = error {
        tracing::error!(cause, "a stored turn cannot be read");
    }
    refusal::request(error)
}

/// Seconds since the epoch.
pub(super) fn now() -> u64 {
    // A clock before 1970 is answered with 0 rather than with a panic.
    SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Ancestors, KnownItems};

    /// The bytes that a future of this walk has in memory, without making one.
    fn room<A, B, C, D, E, F>(_: impl FnOnce(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn items_that_were_read_are_an_eighth_of_the_work() {
        let raw = |text: String| serde_json::value::RawValue::from_string(text).unwrap();
        let record = || {
            Arc::new(Record {
                id: ResponseId::from_bits(1),
                ancestors: Ancestors::Walk(None),
                input: Vec::new(),
                response: raw(format!(r#"{{"x":"{}","output":[]}}"#, "x".repeat(8000))),
                interrupted: false,
                tenant: None,
                items: KnownItems::default(),
            })
        };
        let (read, unread) = (record(), record());
        read.know_items();
        let bytes = unread.payload_bytes();
        let mut history = History::default();
        assert_eq!(work_on(&history, 10), 10);
        history.records.push(read);
        assert_eq!(work_on(&history, 10), 10 + bytes / 8);
        history.referenced.push(unread);
        assert_eq!(work_on(&history, 10), 10 + bytes / 8 + bytes);
    }

    #[test]
    fn a_live_stream_needs_little_room_for_where_it_stands() {
        let create = |envoy, head, owner, seat, (router, deadline): (&'static Arc<Router>, Instant)| {
            router.create(envoy, head, owner, seat, deadline)
        };
        let exchange = |envoy, (): (), (): (), (): (), router: Arc<Router>| router.exchange(envoy);
        let bytes = (room(create), room(exchange));
        assert!(bytes.0 <= 6 * 1024 && bytes.1 <= 3 * 1024, "{bytes:?} bytes");
    }
}
