//! The span of an exchange, of the facts that its account has gathered.
//!
//! Attributes are those of the OpenTelemetry conventions for generative AI (the ones called "development") and for HTTP;
//! what they have no name for stands under `responses_router.`.

use std::time::Duration;

use super::{Trace, Value};
use crate::id::ResponseId;
use crate::telemetry::facts::{Ending, Facts, Stored};

/// The route that creates responses, as `Route::name` has it.
const CREATE: &str = "create";

/// What chat backends speak. Who is behind it, the router does not know.
const PROVIDER: &str = "openai";

/// The most characters of a text that the client chose.
const MAX_TEXT_CHARS: usize = 128;

/// Ends the span of an exchange that has ended.
pub(crate) fn end(trace: Trace, facts: &Facts) {
    let name = match (facts.route, &facts.model) {
        (CREATE, Some(model)) => format!("responses {}", bounded(model)),
        (CREATE, None) => "responses".to_owned(),
        (route, _) => format!("responses.{route}"),
    };
    let first_token = facts.first_token.map(|after| ("first_token", after));
    let events: Vec<(&'static str, Duration)> = first_token.into_iter().collect();
    trace.end(name, attributes(facts), &events, has_failed(facts));
}

/// Whether the exchange failed, as a server's does: what the client did wrong is not our failure.
fn has_failed(facts: &Facts) -> bool {
    match facts.ending {
        Some(Ending::Failed | Ending::UpstreamError | Ending::Broken) => true,
        Some(Ending::Refused) => facts.status.is_some_and(|status| status >= 500),
        _ => false,
    }
}

fn attributes(facts: &Facts) -> Vec<(&'static str, Value)> {
    let mut attributes = vec![("responses_router.route", Value::from(facts.route))];
    let mut add = |key: &'static str, value: Option<Value>| attributes.extend(value.map(|value| (key, value)));
    if facts.route == CREATE {
        add("gen_ai.operation.name", Some("responses".into()));
        add("gen_ai.provider.name", Some(PROVIDER.into()));
        add("openai.api.type", Some("responses".into()));
        add("gen_ai.request.model", facts.model.as_deref().map(|model| Value::Text(bounded(model).to_owned())));
        add("gen_ai.conversation.id", facts.conversation.as_ref().map(id));
        add("gen_ai.response.finish_reasons", finish_reason(facts).map(|reason| Value::Texts(vec![reason.to_owned()])));
        add("responses_router.stream", Some(Value::Flag(facts.stream)));
        add("responses_router.stored", (facts.stored != Stored::NotAsked).then(|| facts.stored.as_str().into()));
    }
    add("gen_ai.response.id", facts.response_id.as_ref().map(id));
    if let Some(usage) = facts.usage {
        add("gen_ai.usage.input_tokens", Some(usage.input_tokens.into()));
        add("gen_ai.usage.output_tokens", Some(usage.output_tokens.into()));
        add("gen_ai.usage.cache_read.input_tokens", Some(usage.input_tokens_details.cached_tokens.into()));
        add("gen_ai.usage.reasoning.output_tokens", Some(usage.output_tokens_details.reasoning_tokens.into()));
    }
    if let Some(chain) = facts.chain {
        add("responses_router.chain.length", Some(count(chain.length)));
        add("responses_router.chain.bytes", Some(count(chain.bytes)));
    }
    let lossy: Vec<String> = facts.lossy.iter().map(|skipped| skipped.what.to_owned()).collect();
    add("responses_router.lossy", (!lossy.is_empty()).then_some(Value::Texts(lossy)));
    add("http.response.status_code", facts.status.map(|status| u64::from(status).into()));
    add("responses_router.outcome", facts.ending.map(|ending| ending.as_str().into()));
    add("error.type", error_type(facts).map(Value::from));
    let request_id = facts.request_id.as_deref().map(|id| Value::Texts(vec![bounded(id).to_owned()]));
    add("http.request.header.x-request-id", request_id);
    attributes
}

/// A word of a closed set for what went wrong; `None` when nothing did.
fn error_type(facts: &Facts) -> Option<&'static str> {
    let class = facts.upstream_error.map(|error| error.as_str());
    match facts.ending {
        Some(Ending::ClientGone) => Some(Ending::ClientGone.as_str()),
        Some(Ending::Failed | Ending::Refused | Ending::UpstreamError | Ending::Broken) => {
            facts.error_code.or(class).or(facts.ending.map(Ending::as_str))
        }
        _ => None,
    }
}

/// Why the model stopped, in the words of chat completions.
fn finish_reason(facts: &Facts) -> Option<&'static str> {
    match (facts.ending?, facts.reason) {
        (Ending::Completed, _) if facts.calls => Some("tool_calls"),
        (Ending::Completed, _) => Some("stop"),
        (Ending::Incomplete, Some("content_filter")) => Some("content_filter"),
        (Ending::Incomplete, _) => Some("length"),
        (Ending::Failed, _) => Some("error"),
        _ => None,
    }
}

fn id(id: &ResponseId) -> Value {
    id.as_str().into()
}

fn count(number: usize) -> Value {
    u64::try_from(number).unwrap_or(u64::MAX).into()
}

fn bounded(text: &str) -> &str {
    text.char_indices().nth(MAX_TEXT_CHARS).and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_a_servers_fault_is_a_failure() {
        let of = |ending, status| Facts { ending: Some(ending), status, ..Facts::default() };
        for (facts, failed, error) in [
            (of(Ending::Completed, Some(200)), false, None),
            (of(Ending::Refused, Some(400)), false, Some("refused")),
            (of(Ending::Refused, Some(503)), true, Some("refused")),
            (of(Ending::Failed, Some(200)), true, Some("failed")),
            (of(Ending::ClientGone, None), false, Some("client_gone")),
            (of(Ending::Broken, None), true, Some("broken")),
        ] {
            assert_eq!((has_failed(&facts), error_type(&facts)), (failed, error), "{:?}", facts.ending);
        }
    }

    #[test]
    fn a_clients_text_is_bounded() {
        assert_eq!(bounded(&"ü".repeat(1000)).chars().count(), MAX_TEXT_CHARS);
        assert_eq!(bounded("m"), "m");
    }
}
