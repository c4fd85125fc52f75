//! One Responses request, with the history it continues, into one chat request and the [`Plan`] for its answer.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Number;
use serde_json::value::RawValue;

use super::create::{CreateRequest, InputItem, ReasoningOptions, TextOptions};
use super::error::RequestError;
use super::lossy::Lossy;
use super::references::{self, Past, StoredItems};
use super::sealing::{self, Seal};
use super::settings::{MaxTokensField, SendOrDrop, Settings};
use super::think::ThinkSplitter;
use super::tool_choice;
use super::tool_names::ToolNames;
use super::tools::{self, ToolSet};
use super::transcript::{Origin, Transcript};
use super::upstream_dialect::UpstreamDialect;
use super::upstream_forms;
use crate::id::ResponseId;
use crate::json;
use crate::openai::chat::{ChatMessage, ChatRequest, StreamOptions};
use crate::openai::item::{self, Item};
use crate::openai::normalised_item::normalise;
use crate::openai::output_text::ResponseJson;
use crate::openai::raw::RawObject;
use crate::openai::responses::{
    Echo, IncompleteDetails, OutputItem, ReasoningEcho, Response, ResponseError, Status, TextEcho, Usage,
};
use crate::openai::stored_item::StoredItem;

/// What is set aside for a response beside its text, tools and instructions, and for a chat request beside its messages,
/// in bytes. Both grow if that is too little.
const RESPONSE_BYTES: usize = 1536;
const CHAT_BYTES: usize = 512;

/// A request that was translated.
#[derive(Debug)]
pub struct Translated {
    /// The body for `/v1/chat/completions`.
    pub chat: Vec<u8>,
    /// What the answer must remember. On the heap: it goes from hand to hand and lives as long as a stream.
    pub plan: Box<Plan>,
}

/// All that the answer must remember of its request.
#[derive(Debug)]
pub struct Plan {
    /// The response's id.
    pub id: ResponseId,
    /// Seconds since the epoch.
    pub created_at: u64,
    /// Whether the client asked for a stream. Decided by the body alone, never by `accept`.
    pub stream: bool,
    /// Whether the response is to be stored.
    pub store: bool,
    /// Whether reasoning is shown as summary, because the request asked for one.
    pub summary: bool,
    /// This turn's input items, normalised, each with an id.
    pub input: Vec<Box<RawValue>>,
    /// What was left out.
    pub lossy: Lossy,
    /// Tells reasoning in the answer's text apart, where the backend does not.
    pub(super) think: Option<ThinkSplitter>,
    /// Seals the reasoning, because the request asked for it.
    pub(super) seal: Option<Arc<dyn Seal>>,
    /// Which tool each name in chat stands for.
    pub(super) tool_names: Box<ToolNames>,
    echo: Echo,
}

impl Plan {
    /// The model that goes up and comes back.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.echo.model
    }

    /// About how many bytes of memory it holds: the input, and what of the request the response repeats.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        self.input.iter().map(|item| item.get().len()).sum::<usize>() + self.echo.bytes()
    }

    /// Adds to the message of a context overflow what the client cannot know that asked for truncation: nothing was
    /// dropped, because an exchange with Envoy is one upstream request, and a second, shorter one cannot be sent.
    pub fn explain_overflow(&self, message: &mut String) {
        if self.echo.truncation == "auto" {
            message.push_str(" Older turns are not dropped, although 'truncation' is 'auto'; send a shorter history.");
        }
    }

    /// The response object in a given state.
    ///
    /// # Errors
    /// Never in practice: it holds nothing that JSON cannot express.
    pub(super) fn response(&self, state: ResponseState<'_>) -> Result<ResponseJson, serde_json::Error> {
        let echo = &self.echo;
        let value = Response {
            id: &self.id,
            object: "response",
            created_at: self.created_at,
            status: state.status,
            background: false,
            completed_at: state.completed_at,
            conversation: None,
            error: state.error,
            frequency_penalty: &echo.frequency_penalty,
            incomplete_details: state.incomplete_details,
            instructions: echo.instructions.as_deref(),
            max_output_tokens: echo.max_output_tokens,
            max_tool_calls: echo.max_tool_calls,
            model: &echo.model,
            output: state.output,
            parallel_tool_calls: echo.parallel_tool_calls,
            presence_penalty: &echo.presence_penalty,
            previous_response_id: echo.previous_response_id.as_ref(),
            prompt_cache_key: echo.prompt_cache_key.as_deref(),
            reasoning: echo.reasoning.as_ref(),
            safety_identifier: echo.safety_identifier.as_deref(),
            service_tier: &echo.service_tier,
            store: self.store,
            temperature: &echo.temperature,
            text: &echo.text,
            tool_choice: &echo.tool_choice,
            tools: &echo.tools,
            top_logprobs: echo.top_logprobs,
            top_p: &echo.top_p,
            truncation: &echo.truncation,
            usage: state.usage,
            user: echo.user.as_deref(),
            metadata: &echo.metadata,
        };
        ResponseJson::new(&value, RESPONSE_BYTES + self.echo.bytes())
    }
}

/// What of a response changes while it is produced.
pub(super) struct ResponseState<'a> {
    pub(super) status: Status,
    pub(super) completed_at: Option<u64>,
    pub(super) error: Option<&'a ResponseError>,
    pub(super) incomplete_details: Option<IncompleteDetails>,
    pub(super) output: &'a [OutputItem],
    pub(super) usage: Option<Usage>,
}

/// Translates a request that has this past; `seal` is for reasoning that clients carry, if there is a key. `id` and `now`
/// (seconds since the epoch) become the response's.
///
/// # Errors
/// [`RequestError`]; nothing went up then.
pub fn request(
    create: CreateRequest,
    past: Past<'_>,
    settings: &Settings,
    seal: Option<Arc<dyn Seal>>,
    id: ResponseId,
    now: u64,
) -> Result<Translated, RequestError> {
    let mut create = create;
    let mut lossy = std::mem::take(&mut create.lossy);
    let model = create.model.take().or_else(|| settings.default_model.clone());
    let model = model.ok_or_else(|| RequestError::Missing { param: "model".to_owned() })?;
    let dialect = settings.for_model(&model);
    let mut tool_set = tools::translate(&create, settings, &mut lossy)?;
    upstream_forms::restrict_tools(&mut tool_set, dialect, &mut lossy);
    let format = upstream_forms::answer_format(&create.text, &tool_set, dialect, &mut lossy)?;

    let inherited = if settings.api.inherits_instructions && create.instructions.is_none() {
        references::oldest_instructions(past.chain)?
    } else {
        None
    };
    let instructions = create.instructions.as_deref().or(inherited.as_deref());
    let turns = past.chain.iter().map(|turn| turn.items()).collect::<Result<Vec<_>, _>>()?;
    let mut transcript = Transcript::new(dialect, &tool_set.names, settings.history_repair, instructions);
    transcript.expect(turns.iter().map(|turn| turn.len()).sum());
    for (turn, items) in past.chain.iter().zip(&turns) {
        let (input, answer) = items.split_at_checked(turn.input.len()).unwrap_or((items, &[]));
        transcript.begin_input();
        add_stored(&mut transcript, input, seal.as_deref(), &mut lossy)?;
        transcript.begin_answer();
        add_stored(&mut transcript, answer, seal.as_deref(), &mut lossy)?;
    }
    transcript.begin_input();
    let stored = StoredItems::of(past, &create)?;
    let input =
        add_input(&mut transcript, std::mem::take(&mut create.input), &stored, seal.as_deref(), &id, &mut lossy)?;
    let messages = transcript.into_messages(format.instruction, &mut lossy)?;
    if input.is_empty() && past.chain.is_empty() {
        return Err(RequestError::InvalidValue { param: "input".to_owned(), reason: "must not be empty".to_owned() });
    }
    if messages.is_empty() {
        let reason = "holds nothing that could be sent to the model".to_owned();
        return Err(RequestError::InvalidValue { param: "input".to_owned(), reason });
    }

    if create.include_encrypted_reasoning && seal.is_none() {
        lossy.skip("include", "reasoning.encrypted_content");
    }
    let seal = seal.filter(|_| create.include_encrypted_reasoning);
    let summary = create.reasoning.as_ref().is_some_and(|reasoning| reasoning.summary.is_some());
    let echo = echo(&create, &tool_set, model)?;
    let asked = create.reasoning.as_ref().and_then(|reasoning| reasoning.effort.as_deref());
    let effort = upstream_forms::effort(asked, &create.extras, dialect, &mut lossy).map_err(unserialisable)?;
    let parallel = upstream_forms::parallel_tool_calls(create.parallel_tool_calls, &tool_set, dialect, &mut lossy);
    let logprobs = create.include_logprobs || create.top_logprobs.is_some_and(|count| count > 0);
    let (max_completion_tokens, max_tokens) = match dialect.max_tokens_field {
        MaxTokensField::MaxCompletionTokens => (create.max_output_tokens, None),
        MaxTokensField::MaxTokens => (None, create.max_output_tokens),
    };
    let wants_usage = create.stream && dialect.stream_options == SendOrDrop::Send;
    let mut chat = ChatRequest {
        model: &echo.model,
        messages,
        stream: create.stream,
        stream_options: wants_usage.then_some(StreamOptions { include_usage: true }),
        tools: tool_set.chat,
        tool_choice: tool_set.choice,
        parallel_tool_calls: parallel,
        response_format: format.response_format,
        reasoning_effort: effort.reasoning_effort,
        thinking: effort.thinking,
        chat_template_kwargs: effort.chat_template_kwargs,
        max_completion_tokens,
        max_tokens,
        temperature: create.temperature,
        top_p: create.top_p,
        presence_penalty: create.presence_penalty,
        frequency_penalty: create.frequency_penalty,
        logprobs: logprobs.then_some(true),
        top_logprobs: create.top_logprobs.filter(|_| logprobs),
        service_tier: create.service_tier,
        user: create.user,
        extras: RawObject::default(),
    };
    chat.extras = extras(&create.extras, &chat, dialect, &mut lossy);
    let said: usize = chat.messages.iter().map(ChatMessage::json_bytes).sum();
    let body = json::to_string(&chat, CHAT_BYTES + said).map_err(unserialisable)?.into_bytes();
    let (stream, store, think) = (create.stream, create.store, ThinkSplitter::of(dialect));
    let tool_names = Box::new(tool_set.names);
    let plan = Plan { id, created_at: now, stream, store, summary, input, lossy, think, seal, tool_names, echo };
    Ok(Translated { chat: body, plan: Box::new(plan) })
}

/// What was parsed from JSON serialises again; should it not, the history is at fault, never the client.
fn unserialisable(error: serde_json::Error) -> RequestError {
    RequestError::History(error.to_string())
}

fn add_stored<'a>(
    transcript: &mut Transcript<'a>,
    items: &'a [StoredItem],
    seal: Option<&dyn Seal>,
    lossy: &mut Lossy,
) -> Result<(), RequestError> {
    for stored in items {
        let mut item = stored.item.clone();
        let is_opened =
            sealing::open(&mut item, || stored.encrypted_content.as_deref().map(Cow::Borrowed), seal, lossy);
        let id = stored.id.as_deref().map(Cow::Borrowed);
        let origin = if is_opened { Origin::Elsewhere } else { Origin::Chain(&stored.item) };
        let added = transcript.add(id, item, origin, &"history", lossy);
        added.map_err(|error| match error {
            // The turn was said to another model, whose backend takes what this one does not.
            RequestError::Unsupported { reason, .. } => {
                RequestError::Unsupported { param: "previous_response_id".to_owned(), reason }
            }
            other => other,
        })?;
    }
    Ok(())
}

/// Adds this turn's input, and returns it normalised: each item with an id of its own, references replaced by what they
/// refer to.
fn add_input(
    transcript: &mut Transcript<'_>,
    input: Vec<InputItem>,
    stored: &StoredItems<'_>,
    seal: Option<&dyn Seal>,
    id: &ResponseId,
    lossy: &mut Lossy,
) -> Result<Vec<Box<RawValue>>, RequestError> {
    let mut used = std::collections::HashSet::with_capacity(input.len());
    let mut normalised = Vec::with_capacity(input.len());
    for (index, given) in input.into_iter().enumerate() {
        let (InputItem { object, mut item }, origin) = match given.item {
            // It stands in this input already, itself or by another reference.
            Item::Reference { id } if used.contains(&id) => continue,
            Item::Reference { id } => (stored.find(&id)?.ok_or(RequestError::ItemNotFound { id })?, Origin::Elsewhere),
            item => (InputItem { object: given.object, item }, Origin::Input),
        };
        sealing::open(&mut item, || object.text("encrypted_content").map(Cow::Owned), seal, lossy);
        let own_id = object.text("id");
        let ordinal = normalised.len();
        let mut item_id = item::id_for(own_id.as_deref(), &item, id, ordinal);
        let repeats_id = !used.insert(item_id.clone());
        if repeats_id {
            // Paging by id needs ids that differ within a turn.
            item_id = item::id_for(None, &item, id, ordinal);
        }
        let normal = normalise(&object, &item, &item_id).map_err(unserialisable)?;
        let is_replay = transcript.add(own_id.map(Cow::Owned), item, origin, &format_args!("input[{index}]"), lossy)?;
        if repeats_id {
            // The very item stands in this input already. Under another id the next turn would not know it again.
            if is_replay {
                continue;
            }
            used.insert(item_id);
        }
        normalised.push(normal);
    }
    Ok(normalised)
}

/// The backend extras that go up: those the operator allows, never one that the request says in the Responses way.
fn extras(given: &RawObject, chat: &ChatRequest<'_>, dialect: &UpstreamDialect, lossy: &mut Lossy) -> RawObject {
    let mut extras = RawObject::default();
    for (key, value) in given.iter() {
        let said_already = match key {
            "response_format" => chat.response_format.is_some(),
            "reasoning_effort" => chat.reasoning_effort.is_some(),
            "thinking" => chat.thinking.is_some(),
            "max_tokens" | "max_completion_tokens" => chat.max_tokens.or(chat.max_completion_tokens).is_some(),
            "logprobs" => chat.logprobs.is_some(),
            _ => false,
        };
        if said_already || !dialect.forward_unknown.allows(key) {
            lossy.skip("extra", key);
        } else if key != "chat_template_kwargs" || chat.chat_template_kwargs.is_none() {
            // Where the effort goes up among them, they are in the request already.
            extras.push(key.to_owned(), value.to_owned());
        }
    }
    extras
}

fn echo(create: &CreateRequest, tools: &ToolSet, model: String) -> Result<Echo, RequestError> {
    let or_one = |number: &Option<Number>| number.clone().or_else(|| Number::from_f64(1.0)).unwrap_or_else(|| 1.into());
    let or_zero =
        |number: &Option<Number>| number.clone().or_else(|| Number::from_f64(0.0)).unwrap_or_else(|| 0.into());
    let reasoning =
        create.reasoning.clone().map(|ReasoningOptions { effort, summary }| ReasoningEcho { effort, summary });
    Ok(Echo {
        instructions: create.instructions.clone(),
        max_output_tokens: create.max_output_tokens,
        max_tool_calls: create.max_tool_calls,
        model,
        parallel_tool_calls: create.parallel_tool_calls.unwrap_or(true),
        previous_response_id: create.previous_response_id.clone(),
        prompt_cache_key: create.prompt_cache_key.clone(),
        reasoning,
        safety_identifier: create.safety_identifier.clone(),
        service_tier: create.service_tier.clone().map_or(Cow::Borrowed("default"), Cow::Owned),
        temperature: or_one(&create.temperature),
        text: text_echo(&create.text).map_err(unserialisable)?,
        tool_choice: tool_choice::echo(create.tool_choice.as_deref()).map_err(unserialisable)?,
        tools: tools.echo.clone(),
        top_logprobs: create.top_logprobs.unwrap_or(0),
        top_p: or_one(&create.top_p),
        presence_penalty: or_zero(&create.presence_penalty),
        frequency_penalty: or_zero(&create.frequency_penalty),
        truncation: create.truncation.clone().map_or(Cow::Borrowed("disabled"), Cow::Owned),
        user: create.user.clone(),
        metadata: create.metadata.clone(),
    })
}

/// `text` of the response: the format as given, a schema's gaps filled with null, or `{"type":"text"}`.
fn text_echo(text: &TextOptions) -> Result<TextEcho, serde_json::Error> {
    let mut format = text.format.clone().unwrap_or_default();
    match format.text("type").as_deref() {
        None => format.set("type", json::raw_text("text")?),
        Some("json_schema") => {
            for key in ["description", "strict"] {
                if !format.contains(key) {
                    format.set(key, RawValue::NULL.to_owned());
                }
            }
        }
        Some(_) => {}
    }
    Ok(TextEcho { format, verbosity: text.verbosity.clone() })
}
