//! Reading the body of POST /v1/responses.
//!
//! Everything that depends on the request alone is decided here, before the store is asked for the history: types,
//! bounds, and what is not offered. Explicit nulls mean absent (CONTRACT §4).

use serde::de::DeserializeOwned;
use serde_json::Number;
use serde_json::value::RawValue;

use super::error::RequestError;
use super::lossy::{Lossy, skip_unknown};
use super::settings::RequestBounds;
use crate::id::ResponseId;
use crate::openai::item::{self, Item};
use crate::openai::json_bounds::Excess;
use crate::openai::json_text::JsonText;
use crate::openai::raw::{InvalidMember, Members, RawObject, read_raw};

/// The longest name of a model, in bytes. It becomes a header of the upstream's request, and is in Envoy's access log.
const MAX_MODEL_BYTES: usize = 1024;

/// The most alternatives per token that the reference allows.
const MAX_TOP_LOGPROBS: u32 = 20;

/// A request to create a response, checked as far as it can be without settings and history.
#[derive(Debug)]
#[allow(missing_docs, reason = "the members are those of the reference, named as there")]
pub struct CreateRequest {
    pub model: Option<String>,
    pub input: Vec<InputItem>,
    pub instructions: Option<String>,
    pub previous_response_id: Option<ResponseId>,
    pub store: bool,
    pub stream: bool,
    pub tools: Vec<RawObject>,
    pub tool_choice: Option<Box<RawValue>>,
    pub parallel_tool_calls: Option<bool>,
    pub text: TextOptions,
    pub reasoning: Option<ReasoningOptions>,
    pub max_output_tokens: Option<u64>,
    pub max_tool_calls: Option<u64>,
    pub top_logprobs: Option<u32>,
    /// `include` names `message.output_text.logprobs`.
    pub include_logprobs: bool,
    /// `include` names `reasoning.encrypted_content`.
    pub include_encrypted_reasoning: bool,
    pub metadata: RawObject,
    pub truncation: Option<String>,
    pub service_tier: Option<String>,
    pub user: Option<String>,
    pub prompt_cache_key: Option<String>,
    pub safety_identifier: Option<String>,
    pub temperature: Option<Number>,
    pub top_p: Option<Number>,
    pub presence_penalty: Option<Number>,
    pub frequency_penalty: Option<Number>,
    /// Backend extras: top-level members that the Responses reference does not know.
    pub extras: RawObject,
    /// What was accepted, but cannot be honoured.
    pub lossy: Lossy,
}

/// One item of `input`, as it came and as it was understood.
#[derive(Debug)]
pub struct InputItem {
    /// The JSON object.
    pub object: RawObject,
    /// Its meaning.
    pub item: Item,
}

/// The `text` member.
#[derive(Debug, Default)]
pub struct TextOptions {
    /// `format`, when there is one.
    pub format: Option<RawObject>,
    /// `verbosity`, for the echo.
    pub verbosity: Option<String>,
}

/// The `reasoning` member.
#[derive(Debug, Clone)]
pub struct ReasoningOptions {
    /// `none` … `xhigh`, or whatever the backend knows.
    pub effort: Option<String>,
    /// `auto`, `concise` or `detailed`; read from its older name `generate_summary` too.
    pub summary: Option<String>,
}

/// What becomes of a top-level member that this module does not read itself.
enum Member {
    /// Read by name in [`CreateRequest::parse`].
    Read,
    /// A hint without influence on the answer: kept back.
    Hint,
    /// Would change the answer, and cannot be honoured: kept back and reported.
    Lossy(&'static str),
    /// Belongs to chat; with `input` present it can only be a mistake.
    ChatOnly,
    /// Unknown to the reference: a backend extra.
    Extra,
}

fn classify(key: &str) -> Member {
    match key {
        "model"
        | "input"
        | "instructions"
        | "previous_response_id"
        | "store"
        | "stream"
        | "tools"
        | "tool_choice"
        | "parallel_tool_calls"
        | "text"
        | "reasoning"
        | "max_output_tokens"
        | "max_tool_calls"
        | "top_logprobs"
        | "include"
        | "metadata"
        | "truncation"
        | "service_tier"
        | "user"
        | "prompt_cache_key"
        | "safety_identifier"
        | "temperature"
        | "top_p"
        | "presence_penalty"
        | "frequency_penalty"
        | "background"
        | "conversation"
        | "prompt"
        | "n" => Member::Read,
        "stream_options" | "client_metadata" | "background_options" | "stream_id" => Member::Hint,
        // A family that grows: prompt_cache_retention, prompt_cache_options.
        key if key.starts_with("prompt_cache_") => Member::Hint,
        "context_management" => Member::Lossy("context_management"),
        "moderation" => Member::Lossy("moderation"),
        "access_programs" => Member::Lossy("access_programs"),
        "image" => Member::Lossy("image"),
        "messages" | "functions" | "function_call" => Member::ChatOnly,
        _ => Member::Extra,
    }
}

impl CreateRequest {
    /// Reads a request body within these bounds.
    ///
    /// # Errors
    /// [`RequestError`] naming the member at fault; the first one found.
    pub fn parse(body: &[u8], bounds: &RequestBounds) -> Result<Self, RequestError> {
        bounds.json.check(body).map_err(|excess| match excess {
            Excess::Depth => RequestError::TooDeep { limit: bounds.json.max_depth },
            Excess::Values => RequestError::TooManyValues { limit: bounds.json.max_values },
        })?;
        let members = Members::parse(body).map_err(not_an_object)?;
        refuse_what_is_not_offered(&members)?;

        let mut lossy = Lossy::default();
        let mut extras = RawObject::default();
        for (key, value) in members.iter() {
            match classify(key) {
                _ if value.get() == "null" => {}
                Member::Read | Member::Hint => {}
                Member::Lossy(what) => lossy.skip(what, ""),
                Member::ChatOnly if members.raw("input").is_none() => return Err(RequestError::MessagesInsteadOfInput),
                Member::ChatOnly => {
                    let reason = "belongs to chat completions; it cannot be combined with 'input'".to_owned();
                    return Err(RequestError::Unsupported { param: key.to_owned(), reason });
                }
                Member::Extra => extras.push(key.to_owned(), value.to_owned()),
            }
        }

        let truncation: Option<String> = members.read("truncation")?;
        match truncation.as_deref() {
            None | Some("disabled") => {}
            // Nothing is dropped from the history: an overflow is the client's to see.
            Some("auto") => lossy.skip("truncation", "auto"),
            Some(_) => return Err(invalid("truncation", "must be 'auto' or 'disabled'")),
        }
        let text = text_options(&members, &mut lossy)?;
        let top_logprobs: Option<u32> = members.read("top_logprobs")?;
        if top_logprobs.is_some_and(|count| count > MAX_TOP_LOGPROBS) {
            return Err(invalid("top_logprobs", "must be between 0 and 20"));
        }
        let include = include(&members, &mut lossy)?;
        Ok(Self {
            model: model(&members)?,
            input: input_items(&members, bounds.max_input_items)?,
            instructions: members.read("instructions")?,
            previous_response_id: previous_response_id(&members)?,
            store: members.read("store")?.unwrap_or(true),
            stream: members.read("stream")?.unwrap_or(false),
            tools: members.read("tools")?.unwrap_or_default(),
            tool_choice: members.raw("tool_choice").map(ToOwned::to_owned),
            parallel_tool_calls: members.read("parallel_tool_calls")?,
            text,
            reasoning: reasoning_options(&members, &mut lossy)?,
            max_output_tokens: positive(&members, "max_output_tokens")?,
            max_tool_calls: positive(&members, "max_tool_calls")?,
            top_logprobs,
            include_logprobs: include.logprobs,
            include_encrypted_reasoning: include.encrypted_reasoning,
            metadata: metadata(&members, bounds)?,
            truncation,
            service_tier: members.read("service_tier")?,
            user: members.read("user")?,
            prompt_cache_key: members.read("prompt_cache_key")?,
            safety_identifier: members.read("safety_identifier")?,
            temperature: members.read("temperature")?,
            top_p: members.read("top_p")?,
            presence_penalty: members.read("presence_penalty")?,
            frequency_penalty: members.read("frequency_penalty")?,
            extras,
            lossy,
        })
    }
}

/// serde_json's reasons say where the text breaks, and quote nothing of it beyond one character.
fn not_an_object(error: serde_json::Error) -> RequestError {
    RequestError::NotAnObject(match error.classify() {
        serde_json::error::Category::Data => "expected an object".to_owned(),
        _ => error.to_string(),
    })
}

fn invalid(param: &str, reason: impl Into<String>) -> RequestError {
    RequestError::InvalidValue { param: param.to_owned(), reason: reason.into() }
}

fn wrong_type(param: &str, reason: &str) -> RequestError {
    RequestError::InvalidType(InvalidMember { param: param.to_owned(), reason: reason.to_owned() })
}

fn refuse_what_is_not_offered(members: &Members<'_>) -> Result<(), RequestError> {
    let unsupported = |param: &str, reason: &str| {
        Err(RequestError::Unsupported { param: param.to_owned(), reason: reason.to_owned() })
    };
    if members.raw("conversation").is_some() {
        if members.raw("previous_response_id").is_some() {
            return Err(invalid("conversation", "cannot be combined with 'previous_response_id'"));
        }
        return unsupported("conversation", "conversations are not offered; chain with 'previous_response_id'");
    }
    if members.raw("prompt").is_some() {
        return unsupported("prompt", "stored prompts are not offered; send 'instructions' and 'input'");
    }
    if members.read::<bool>("background")?.unwrap_or(false) {
        return unsupported("background", "background responses are not offered");
    }
    if members.read::<u64>("n")?.is_some_and(|n| n != 1) {
        return unsupported("n", "a response has one answer");
    }
    Ok(())
}

fn model(members: &Members<'_>) -> Result<Option<String>, RequestError> {
    let model = members.read::<String>("model")?.filter(|model| !model.is_empty());
    match model {
        Some(model) if model.len() > MAX_MODEL_BYTES => {
            Err(invalid("model", format!("must have at most {MAX_MODEL_BYTES} bytes")))
        }
        model => Ok(model),
    }
}

fn previous_response_id(members: &Members<'_>) -> Result<Option<ResponseId>, RequestError> {
    members
        .read::<String>("previous_response_id")?
        .map(|id| ResponseId::parse(&id).map_err(|_| RequestError::PreviousNotFound { id }))
        .transpose()
}

fn input_items(members: &Members<'_>, limit: usize) -> Result<Vec<InputItem>, RequestError> {
    let Some(input) = members.raw("input") else {
        return Err(RequestError::Missing { param: "input".to_owned() });
    };
    if input.get().starts_with('"') {
        let text = match JsonText::of_raw(input) {
            Some(text) => text,
            // It cannot be read; reading it tells why.
            None => read_raw("input", input)?,
        };
        let message = item::message_from_text(text).map_err(|error| invalid("input", error.to_string()));
        return message.map(|(object, item)| vec![InputItem { object, item }]);
    }
    // Only when that fails the parser, item by item, to tell which one is wrong.
    let objects = match Members::list_of_raw(input) {
        Some(items) => items.into_iter().map(Members::into_owned).collect(),
        None => items_one_by_one(input)?,
    };
    if objects.len() > limit {
        return Err(RequestError::TooMany { param: "input".to_owned(), limit, of: "items" });
    }
    let parsed = |(index, object): (usize, RawObject)| {
        let item = item::parse(&object, &format_args!("input[{index}]"))?;
        Ok(InputItem { object, item })
    };
    objects.into_iter().enumerate().map(parsed).collect()
}

fn items_one_by_one(input: &RawValue) -> Result<Vec<RawObject>, RequestError> {
    let items: Vec<Box<RawValue>> =
        read_raw("input", input).map_err(|_| wrong_type("input", "must be a string or a list of items"))?;
    let object = |(index, raw): (usize, Box<RawValue>)| read_raw(format_args!("input[{index}]"), &raw);
    Ok(items.into_iter().enumerate().map(object).collect::<Result<_, _>>()?)
}

fn positive(members: &Members<'_>, key: &str) -> Result<Option<u64>, RequestError> {
    match members.read::<u64>(key)? {
        Some(0) => Err(invalid(key, "must be at least 1")),
        other => Ok(other),
    }
}

/// Reads a member of a nested object, naming it by its path when it does not fit.
fn nested<T: DeserializeOwned>(object: &RawObject, parent: &str, key: &str) -> Result<Option<T>, RequestError> {
    object.read(key).map_err(|InvalidMember { param, reason }| {
        RequestError::InvalidType(InvalidMember { param: format!("{parent}.{param}"), reason })
    })
}

fn text_options(members: &Members<'_>, lossy: &mut Lossy) -> Result<TextOptions, RequestError> {
    let text: RawObject = members.read("text")?.unwrap_or_default();
    skip_unknown(&text, &["format", "verbosity"], "text", lossy);
    let verbosity: Option<String> = nested(&text, "text", "verbosity")?;
    if let Some(verbosity) = &verbosity {
        lossy.skip("text.verbosity", verbosity);
    }
    let format: Option<RawObject> = nested(&text, "text", "format")?;
    if let Some(format) = &format {
        skip_unknown(format, &["type", "name", "description", "schema", "strict"], "text.format", lossy);
    }
    Ok(TextOptions { format, verbosity })
}

fn reasoning_options(members: &Members<'_>, lossy: &mut Lossy) -> Result<Option<ReasoningOptions>, RequestError> {
    let Some(reasoning) = members.read::<RawObject>("reasoning")? else { return Ok(None) };
    skip_unknown(&reasoning, &["effort", "summary", "generate_summary"], "reasoning", lossy);
    let older_name = nested(&reasoning, "reasoning", "generate_summary")?;
    Ok(Some(ReasoningOptions {
        effort: nested(&reasoning, "reasoning", "effort")?,
        summary: nested(&reasoning, "reasoning", "summary")?.or(older_name),
    }))
}

#[derive(Default)]
struct Include {
    logprobs: bool,
    encrypted_reasoning: bool,
}

fn include(members: &Members<'_>, lossy: &mut Lossy) -> Result<Include, RequestError> {
    let mut include = Include::default();
    for value in members.read::<Vec<String>>("include")?.unwrap_or_default() {
        match value.as_str() {
            "message.output_text.logprobs" => include.logprobs = true,
            "reasoning.encrypted_content" => include.encrypted_reasoning = true,
            // They concern items that no request here can lead to.
            "file_search_call.results"
            | "web_search_call.results"
            | "web_search_call.action.sources"
            | "message.input_image.image_url"
            | "computer_call_output.output.image_url"
            | "code_interpreter_call.outputs" => {}
            other => lossy.skip("include", other),
        }
    }
    Ok(include)
}

fn metadata(members: &Members<'_>, bounds: &RequestBounds) -> Result<RawObject, RequestError> {
    let Some(metadata) = members.read::<RawObject>("metadata")? else { return Ok(RawObject::default()) };
    let RequestBounds { max_metadata_pairs: pairs, max_metadata_key_chars: key_chars, .. } = *bounds;
    let value_chars = bounds.max_metadata_value_chars;
    if metadata.iter().count() > pairs {
        return Err(invalid("metadata", format!("must have at most {pairs} pairs")));
    }
    for (key, value) in metadata.iter() {
        if key.chars().count() > key_chars {
            return Err(invalid("metadata", format!("keys must have at most {key_chars} characters")));
        }
        let text: String = read_raw("metadata", value).map_err(|_| wrong_type("metadata", "values must be strings"))?;
        if text.chars().count() > value_chars {
            return Err(invalid("metadata", format!("values must have at most {value_chars} characters")));
        }
    }
    Ok(metadata)
}
