//! Tools: the Responses forms into the one form of chat, a function.
//!
//! Functions go up as they are; the tools of a namespace flattened; a custom tool as a function of one string with its
//! grammar in the description; a search that the client runs as a function, too. Types that chat lacks are skipped and
//! reported, because agents always send some, unless the operator has them refused.

use std::collections::HashMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};

use super::create::CreateRequest;
use super::error::RequestError;
use super::lossy::{Lossy, skip_unknown};
use super::settings::{Settings, UnsupportedTools};
use super::tool_choice;
use super::tool_names::{Tool, ToolKey, ToolNames};
use crate::openai::chat::{ChatTool, ChatToolChoice, FunctionDefinition};
use crate::openai::item::Item;
use crate::openai::json_meaning::JsonMeaning;
use crate::openai::raw::{InvalidMember, RawObject};
use crate::openai::tool_call::CallKind;

/// What a tool says that chat can say too, by its type.
const FUNCTION_MEMBERS: [&str; 5] = ["type", "name", "description", "parameters", "strict"];
const CUSTOM_MEMBERS: [&str; 4] = ["type", "name", "description", "format"];
const NAMESPACE_MEMBERS: [&str; 4] = ["type", "name", "description", "tools"];
const SEARCH_MEMBERS: [&str; 4] = ["type", "execution", "description", "parameters"];

/// The longest name of a tool or of a namespace. The reference has 64 or 128 characters, and a backend refuses what it does not
/// like.
const MAX_NAME_BYTES: usize = 256;

/// The schema of a custom tool that goes up as a function.
const FREEFORM_SCHEMA: &str =
    r#"{"type":"object","properties":{"input":{"type":"string"}},"required":["input"],"additionalProperties":false}"#;

/// The tools of a request in both forms.
#[derive(Debug)]
pub(super) struct ToolSet {
    /// What the upstream is offered. Empty: neither tools nor choice go up.
    pub(super) chat: Vec<ChatTool>,
    /// The choice that goes with them.
    pub(super) choice: Option<ChatToolChoice>,
    /// What the response repeats: the Responses form, gaps filled.
    pub(super) echo: Vec<RawObject>,
    /// Which tool each name stands for.
    pub(super) names: ToolNames,
}

/// A tool that goes up.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) tool: Tool,
    description: Option<String>,
    parameters: Option<JsonMeaning<Schema>>,
    strict: Option<bool>,
    /// A search found it: the client may find it again, in a newer version.
    found: bool,
}

#[derive(Debug)]
struct Schema(Box<RawValue>);

impl AsRef<str> for Schema {
    fn as_ref(&self) -> &str {
        self.0.get()
    }
}

/// Translates `tools`, the tools within `input`, and `tool_choice`.
///
/// # Errors
/// [`RequestError`] naming the tool member at fault, or `tool_choice` when it names what is not there.
pub(super) fn translate(
    create: &CreateRequest,
    settings: &Settings,
    lossy: &mut Lossy,
) -> Result<ToolSet, RequestError> {
    let limit = settings.request.max_tools;
    let mut offers = Offers {
        unsupported: settings.unsupported_tools,
        limit,
        left: limit,
        offers: Vec::new(),
        places: HashMap::new(),
        namespaces: HashMap::new(),
    };
    offers.add_all(&create.tools, "tools", false, lossy)?;
    for (index, input) in create.input.iter().enumerate() {
        let found = match &input.item {
            Item::AdditionalTools => false,
            Item::CallOutput { kind: CallKind::ToolSearch, .. } => true,
            _ => continue,
        };
        let place = format!("input[{index}].tools");
        let tools: Vec<RawObject> = member(&input.object, &format!("input[{index}]"), "tools")?
            .ok_or_else(|| RequestError::Missing { param: place.clone() })?;
        offers.add_all(&tools, &place, found, lossy)?;
    }
    let Offers { mut offers, namespaces, .. } = offers;
    // The names of all of them, so that one that is not allowed this time keeps its name in the history.
    let names = ToolNames::new(offers.iter().map(|offer| &offer.tool));
    let choice = tool_choice::apply(create.tool_choice.as_deref(), &mut offers, &names)?;
    // A choice without tools is refused by many backends; `auto` and `none` mean nothing then.
    let choice = choice.filter(|_| !offers.is_empty());
    let chat = functions(offers, namespaces, &names);
    Ok(ToolSet { chat, choice, echo: create.tools.iter().map(echo).collect::<Result<_, _>>()?, names })
}

/// Tools in the order in which they came, each once.
struct Offers {
    unsupported: UnsupportedTools,
    /// How many tools there may be, and how many more may come.
    limit: usize,
    left: usize,
    offers: Vec<Offer>,
    places: HashMap<ToolKey, usize>,
    /// Descriptions.
    namespaces: HashMap<String, String>,
}

impl Offers {
    fn add_all(
        &mut self,
        tools: &[RawObject],
        place: &str,
        found: bool,
        lossy: &mut Lossy,
    ) -> Result<(), RequestError> {
        self.count(tools, place)?;
        for (index, tool) in tools.iter().enumerate() {
            let place = format!("{place}[{index}]");
            match required(tool, &place, "type")?.as_str() {
                "namespace" => {
                    skip_unknown(tool, &NAMESPACE_MEMBERS, "tool", lossy);
                    let namespace = name_of(tool, &place)?;
                    if let Some(description) = described(tool, &place)? {
                        let known = self.namespaces.entry(namespace.clone()).or_insert_with(|| description.clone());
                        if *known != description {
                            lossy.skip("tool", "description");
                        }
                    }
                    let tools: Vec<RawObject> = member(tool, &place, "tools")?
                        .ok_or_else(|| RequestError::Missing { param: format!("{place}.tools") })?;
                    self.count(&tools, &place)?;
                    for (index, tool) in tools.iter().enumerate() {
                        let place = format!("{place}.tools[{index}]");
                        let kind = required(tool, &place, "type")?;
                        self.add(tool, &kind, Some(&namespace), &place, found, lossy)?;
                    }
                }
                kind => self.add(tool, kind, None, &place, found, lossy)?,
            }
        }
        Ok(())
    }

    /// Counts tools before each of them costs its share.
    fn count(&mut self, tools: &[RawObject], place: &str) -> Result<(), RequestError> {
        let limit = self.limit;
        let left = self.left.checked_sub(tools.len());
        self.left = left.ok_or_else(|| RequestError::TooMany { param: place.to_owned(), limit, of: "tools" })?;
        Ok(())
    }

    fn add(
        &mut self,
        tool: &RawObject,
        kind: &str,
        namespace: Option<&str>,
        place: &str,
        found: bool,
        lossy: &mut Lossy,
    ) -> Result<(), RequestError> {
        let by_client = || tool.text("execution").as_deref() == Some("client");
        let (kind, known) = match (kind, namespace) {
            ("function", _) => (CallKind::Function, FUNCTION_MEMBERS.as_slice()),
            ("custom", _) => (CallKind::Custom, CUSTOM_MEMBERS.as_slice()),
            ("tool_search", None) if by_client() => (CallKind::ToolSearch, SEARCH_MEMBERS.as_slice()),
            (other, _) if self.unsupported == UnsupportedTools::Skip => {
                lossy.skip("tool_type", other);
                return Ok(());
            }
            (other, _) => {
                let kind: String = other.chars().take(64).collect();
                let reason = format!("tools of type '{kind}' are not offered");
                return Err(RequestError::Unsupported { param: format!("{place}.type"), reason });
            }
        };
        if found {
            // What a search has found is loaded, whatever it says about being loaded later.
            skip_unknown(tool, &[known, &["defer_loading"]].concat(), "tool", lossy);
        } else {
            skip_unknown(tool, known, "tool", lossy);
        }
        let name = match kind.builtin_name() {
            Some(name) => name.to_owned(),
            None => name_of(tool, place)?,
        };
        let parameters = match kind {
            CallKind::Custom => Some(freeform_schema()?),
            // A schema is an object; what it says is the backend's to judge.
            _ => member::<RawObject>(tool, place, "parameters")?
                .and_then(|_| tool.raw("parameters").map(ToOwned::to_owned)),
        };
        let offer = Offer {
            tool: Tool { kind, namespace: namespace.map(str::to_owned), name },
            description: if kind == CallKind::Custom {
                freeform_description(tool, place)?
            } else {
                described(tool, place)?
            },
            parameters: parameters.map(|schema| JsonMeaning::of(Schema(schema))),
            strict: if kind == CallKind::Function { member(tool, place, "strict")? } else { None },
            found,
        };
        self.offer(offer, place)
    }

    fn offer(&mut self, offer: Offer, place: &str) -> Result<(), RequestError> {
        let key = offer.tool.key();
        let known = self.places.get(&key).and_then(|index| self.offers.get_mut(*index));
        match known {
            None => {
                self.places.insert(key, self.offers.len());
                self.offers.push(offer);
            }
            Some(known) if known.found || offer.found => *known = offer,
            Some(known) if known.is_like(&offer) => {}
            Some(_) => {
                let reason = "another tool of this name is offered already".to_owned();
                return Err(RequestError::InvalidValue { param: format!("{place}.name"), reason });
            }
        }
        Ok(())
    }
}

impl Offer {
    /// Whether the model would see no difference.
    fn is_like(&self, other: &Self) -> bool {
        let is_same_schema = match (&self.parameters, &other.parameters) {
            (Some(one), Some(other)) => one.is_same(other),
            (one, other) => one.is_none() && other.is_none(),
        };
        self.tool == other.tool
            && self.description == other.description
            && self.strict == other.strict
            && is_same_schema
    }
}

/// The functions of the offers; the first of each namespace tells what the namespace is for.
fn functions(offers: Vec<Offer>, mut namespaces: HashMap<String, String>, names: &ToolNames) -> Vec<ChatTool> {
    let function = |offer: Offer| {
        let name = names.in_chat(&offer.tool);
        let Offer { tool, description, parameters, strict, .. } = offer;
        let parameters = parameters.map(|schema| schema.into_text().0);
        let of_namespace = tool.namespace.and_then(|namespace| namespaces.remove(&namespace));
        let description = match (of_namespace, description) {
            (Some(namespace), Some(tool)) => Some(format!("{namespace}\n\n{tool}")),
            (namespace, tool) => namespace.or(tool),
        };
        ChatTool { kind: "function", function: FunctionDefinition { name, description, parameters, strict } }
    };
    offers.into_iter().map(function).collect()
}

/// A custom tool's own description and what its input must look like.
fn freeform_description(tool: &RawObject, place: &str) -> Result<Option<String>, RequestError> {
    let description = described(tool, place)?;
    let Some(format) = member::<RawObject>(tool, place, "format")? else { return Ok(description) };
    let place = format!("{place}.format");
    let grammar = match required(&format, &place, "type")?.as_str() {
        "text" => return Ok(description),
        "grammar" => {
            let language = match required(&format, &place, "syntax")?.as_str() {
                "lark" => "Lark grammar",
                "regex" => "regular expression",
                _ => return Err(invalid(format!("{place}.syntax"), "must be 'lark' or 'regex'")),
            };
            let definition = required(&format, &place, "definition")?;
            format!("The text in 'input' must match this {language}:\n\n{definition}")
        }
        _ => return Err(invalid(format!("{place}.type"), "must be 'text' or 'grammar'")),
    };
    Ok(Some(description.map_or_else(|| grammar.clone(), |description| format!("{description}\n\n{grammar}"))))
}

fn freeform_schema() -> Result<Box<RawValue>, RequestError> {
    // Never fails: the schema is JSON.
    RawValue::from_string(FREEFORM_SCHEMA.to_owned()).map_err(unserialisable)
}

fn described(tool: &RawObject, place: &str) -> Result<Option<String>, RequestError> {
    Ok(member::<String>(tool, place, "description")?.filter(|description| !description.is_empty()))
}

fn member<T: DeserializeOwned>(object: &RawObject, place: &str, key: &str) -> Result<Option<T>, RequestError> {
    object.read(key).map_err(|InvalidMember { reason, .. }| {
        RequestError::InvalidType(InvalidMember { param: format!("{place}.{key}"), reason })
    })
}

fn required(object: &RawObject, place: &str, key: &str) -> Result<String, RequestError> {
    member::<String>(object, place, key)?
        .filter(|text| !text.is_empty())
        .ok_or_else(|| RequestError::Missing { param: format!("{place}.{key}") })
}

/// The name of a tool or of a namespace, which is kept and repeated many times.
fn name_of(object: &RawObject, place: &str) -> Result<String, RequestError> {
    let name = required(object, place, "name")?;
    if name.len() > MAX_NAME_BYTES {
        return Err(invalid(format!("{place}.name"), "must be at most 256 bytes long"));
    }
    Ok(name)
}

fn invalid(param: String, reason: &str) -> RequestError {
    RequestError::InvalidValue { param, reason: reason.to_owned() }
}

/// The echo of a tool: as it came, what typed clients look for filled in. Namespaces do not nest: one within another is
/// skipped, and repeated as it came, however deep it goes.
fn echo(tool: &RawObject) -> Result<RawObject, RequestError> {
    if tool.text("type").as_deref() != Some("namespace") {
        return filled_in(tool);
    }
    let tools: Vec<RawObject> = tool.read("tools")?.unwrap_or_default();
    let tools = tools.iter().map(filled_in).collect::<Result<Vec<_>, _>>()?;
    let mut echo = tool.clone();
    echo.set("tools", to_raw_value(&tools).map_err(unserialisable)?);
    Ok(echo)
}

/// A tool that holds no others, the members that it leaves out as null, or what they mean then.
fn filled_in(tool: &RawObject) -> Result<RawObject, RequestError> {
    #[derive(Serialize)]
    struct AnyText {
        r#type: &'static str,
    }
    let mut echo = tool.clone();
    let nulls: &[&str] = match tool.text("type").as_deref() {
        Some("function") => &["description", "parameters", "strict"],
        Some("custom") => {
            if tool.raw("format").is_none() {
                echo.set("format", to_raw_value(&AnyText { r#type: "text" }).map_err(unserialisable)?);
            }
            &["description"]
        }
        _ => &[],
    };
    for key in nulls {
        if !echo.contains(key) {
            echo.set(*key, RawValue::NULL.to_owned());
        }
    }
    Ok(echo)
}

/// What was parsed from JSON serialises again; should it not, the client is not at fault.
fn unserialisable(error: serde_json::Error) -> RequestError {
    RequestError::History(error.to_string())
}
