//! What the router answers by itself, without the upstream: stored responses, and every refusal.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use super::duplex::{Envoy, Finished};
use super::headers::HeaderMutation;
use super::keeping::Keeping;
use super::message::{LastReply, Reply};
use super::refusal;
use super::route::{PathId, Route};
use crate::id::ResponseId;
use crate::openai::dialect::ApiDialect;
use crate::openai::error::WireError;
use crate::openai::input_items::{InputItemsQuery, instructions_item};
use crate::openai::output_text;
use crate::store::{Owner, Record};
use crate::telemetry::Account;
use crate::telemetry::facts::known_code;

/// An answer of our own.
#[derive(Debug)]
pub struct LocalAnswer {
    status: u16,
    headers: HeaderMutation,
    body: Bytes,
    details: &'static str,
    /// The word for its error, if it is one.
    error_code: Option<&'static str>,
}

impl LocalAnswer {
    /// A JSON answer that no cache may keep: it belongs to one client.
    fn json(body: impl Into<Bytes>) -> Self {
        let headers =
            HeaderMutation::new().set("content-type", "application/json").set("cache-control", "private, no-store");
        Self { status: 200, headers, body: body.into(), details: "responses_router_answer", error_code: None }
    }

    /// An error in the contract's shape.
    #[must_use]
    pub fn error(error: &WireError, dialect: ApiDialect) -> Self {
        Self {
            status: error.status,
            headers: error_headers(HeaderMutation::new(), error),
            body: error.body(dialect).into(),
            details: "responses_router_error",
            error_code: Some(known_code(error.code.as_deref(), error.kind)),
        }
    }

    fn with_header(mut self, name: &'static str, value: impl Into<Bytes>) -> Self {
        self.headers = self.headers.set(name, value);
        self
    }

    /// The same answer with further headers, like those kept of an upstream's error.
    #[must_use]
    pub fn with_headers(mut self, headers: impl IntoIterator<Item = (Bytes, Bytes)>) -> Self {
        for (name, value) in headers {
            self.headers = self.headers.set(name, value);
        }
        self
    }

    /// Ends the exchange with this answer.
    pub async fn finish(self, envoy: Envoy) -> Finished {
        self.note(envoy.account());
        envoy.finish(LastReply::immediate(self.status, self.headers, self.body, self.details)).await
    }

    /// Ends the exchange with this answer to a request whose body was read: streamed, because Envoy would close an
    /// HTTP/1 client's connection after the immediate form.
    pub async fn stream(self, mut envoy: Envoy) -> Finished {
        self.note(envoy.account());
        let headers = self.headers.set("content-length", self.body.len().to_string());
        envoy.send(Reply::local_headers(self.status, headers)).await;
        envoy.finish(LastReply::local_body(self.body)).await
    }

    fn note(&self, account: &Account) {
        account.note(|facts| facts.answered(self.status, self.error_code));
    }
}

/// The headers that go with an error body.
#[must_use]
pub fn error_headers(headers: HeaderMutation, error: &WireError) -> HeaderMutation {
    let headers = headers.set("content-type", "application/json");
    match error.retry_after_seconds {
        Some(seconds) => headers.set("retry-after", seconds.to_string()),
        None => headers,
    }
}

/// On whose behalf something is asked of the store, and where that is noted.
#[derive(Clone, Copy)]
struct Asker<'a> {
    keeping: &'a Keeping,
    owner: Owner,
    account: &'a Account,
}

impl Asker<'_> {
    /// The record of a response that a path names.
    async fn stored(self, id: &ResponseId) -> Result<Arc<Record>, WireError> {
        let record = self.account.storing("load response", self.keeping.fetch(self.owner, id)).await;
        record.map_err(|error| refusal::store(&error))?.ok_or_else(|| refusal::response_not_found(Some(id)))
    }
}

/// Answers every route but [`Route::Create`], on behalf of this owner.
pub async fn answer(
    keeping: &Keeping,
    owner: Owner,
    account: &Account,
    dialect: ApiDialect,
    route: Route,
) -> LocalAnswer {
    let asker = Asker { keeping, owner, account };
    let result = match route {
        Route::Retrieve { id } => retrieve(asker, id).await,
        Route::Delete { id } => delete(asker, id).await,
        Route::InputItems { id, query } => input_items(asker, dialect, id, &query).await,
        Route::Options { allow } => Ok(LocalAnswer {
            status: 204,
            headers: HeaderMutation::new().set("allow", allow),
            body: Bytes::new(),
            details: "responses_router_answer",
            error_code: None,
        }),
        Route::MethodNotAllowed { allow } => {
            let error = WireError::new(405, format!("This method is not allowed here; allowed: {allow}."));
            return LocalAnswer::error(&error, dialect).with_header("allow", allow);
        }
        Route::Cancel { .. } => {
            Err(WireError::bad_request("Only responses created with background=true can be cancelled."))
        }
        Route::WebSocketUpgrade => {
            Err(WireError::new(426, "WebSockets are not offered; send POST /v1/responses with \"stream\": true."))
        }
        Route::Create | Route::NotFound => Err(WireError::new(404, "There is no such path in the Responses API.")),
    };
    result.unwrap_or_else(|error| LocalAnswer::error(&error, dialect))
}

/// An id that cannot be one is answered like one that is not stored.
fn known(id: PathId) -> Result<ResponseId, WireError> {
    id.map_err(|_| refusal::response_not_found(None))
}

async fn retrieve(asker: Asker<'_>, id: PathId) -> Result<LocalAnswer, WireError> {
    let record = asker.stored(&known(id)?).await?;
    Ok(LocalAnswer::json(Bytes::from(output_text::completed(&record.response).into_owned())))
}

async fn delete(asker: Asker<'_>, id: PathId) -> Result<LocalAnswer, WireError> {
    #[derive(Serialize)]
    struct Deleted<'a> {
        id: &'a ResponseId,
        object: &'static str,
        deleted: bool,
    }
    let id = known(id)?;
    let Asker { keeping, owner, account } = asker;
    let existed = account.storing("delete response", keeping.delete(owner, &id)).await;
    if !existed.map_err(|error| refusal::store(&error))? {
        return Err(refusal::response_not_found(Some(&id)));
    }
    let body = Deleted { id: &id, object: "response.deleted", deleted: true };
    // An id and two constants always serialise.
    Ok(LocalAnswer::json(serde_json::to_vec(&body).unwrap_or_default()))
}

async fn input_items(asker: Asker<'_>, dialect: ApiDialect, id: PathId, query: &str) -> Result<LocalAnswer, WireError> {
    let query = InputItemsQuery::parse(query)?;
    let id = known(id)?;
    let record = asker.stored(&id).await?;
    let instructions = if dialect.lists_instructions { instructions_item(&id, &record.response) } else { None };
    Ok(LocalAnswer::json(query.page(instructions.iter().chain(&record.input))?))
}
