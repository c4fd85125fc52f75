//! `tool_choice`: which of the tools the model may or must call.
//!
//! A choice that could only be met by a tool that is not offered is refused, never widened.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::RequestError;
use super::tool_names::ToolNames;
use super::tools::Offer;
use crate::json;
use crate::openai::chat::{ChatToolChoice, FunctionName};
use crate::openai::raw::InvalidMember;
use crate::openai::tool_call::CallKind;

/// The forms of `tool_choice` that name something. Which members each has is checked where it is applied.
#[derive(Deserialize)]
struct NamedChoice {
    #[serde(flatten)]
    tool: NamedTool,
    mode: Option<String>,
    tools: Option<Vec<NamedTool>>,
}

#[derive(Deserialize)]
struct NamedTool {
    #[serde(rename = "type")]
    kind: String,
    name: Option<String>,
    namespace: Option<String>,
}

fn invalid(reason: impl Into<String>) -> RequestError {
    RequestError::InvalidValue { param: "tool_choice".to_owned(), reason: reason.into() }
}

fn mode(word: &str) -> Option<&'static str> {
    ["auto", "none", "required"].into_iter().find(|mode| *mode == word)
}

/// Applies the choice to the tools: leaves only the allowed ones, and says what goes up.
///
/// # Errors
/// [`RequestError`] on `tool_choice` when it is malformed, or names what is not offered.
pub(super) fn apply(
    choice: Option<&RawValue>,
    offers: &mut Vec<Offer>,
    names: &ToolNames,
) -> Result<Option<ChatToolChoice>, RequestError> {
    let Some(choice) = choice else { return Ok(None) };
    if let Ok(word) = serde_json::from_str::<String>(choice.get()) {
        let mode = mode(&word).ok_or_else(|| invalid("must be 'auto', 'none', 'required' or an object"))?;
        return needs_a_tool(mode, offers).map(|mode| Some(ChatToolChoice::Mode(mode)));
    }
    let named: NamedChoice = serde_json::from_str(choice.get()).map_err(|_| {
        let reason = "must be 'auto', 'none', 'required' or an object with a 'type'".to_owned();
        RequestError::InvalidType(InvalidMember { param: "tool_choice".to_owned(), reason })
    })?;
    if named.tool.kind == "allowed_tools" {
        let word = named.mode.as_deref().unwrap_or("auto");
        let mode = mode(word).filter(|mode| *mode != "none");
        let mode = mode.ok_or_else(|| invalid("the mode of 'allowed_tools' must be 'auto' or 'required'"))?;
        let allowed = named.tools.filter(|tools| !tools.is_empty());
        let allowed = allowed.ok_or_else(|| invalid("a choice of type 'allowed_tools' needs 'tools'"))?;
        restrict(offers, &allowed)?;
        return needs_a_tool(mode, offers).map(|mode| Some(ChatToolChoice::Mode(mode)));
    }
    let chosen = Index::new(offers).find(&named.tool)?;
    let name = offers.get(chosen).map(|offer| names.in_chat(&offer.tool)).unwrap_or_default();
    Ok(Some(ChatToolChoice::Function { kind: "function", function: FunctionName { name } }))
}

fn needs_a_tool(mode: &'static str, offers: &[Offer]) -> Result<&'static str, RequestError> {
    if mode == "required" && offers.is_empty() {
        return Err(invalid("'required' needs at least one tool that can be called"));
    }
    Ok(mode)
}

/// Where the tools of each name are.
struct Index<'a> {
    /// By kind, namespace and name.
    exact: HashMap<(CallKind, Option<&'a str>, &'a str), usize>,
    /// By kind and name within namespaces; `None` where several have that name.
    bare: HashMap<(CallKind, &'a str), Option<usize>>,
    namespaces: HashSet<&'a str>,
}

impl<'a> Index<'a> {
    fn new(offers: &'a [Offer]) -> Self {
        let mut index = Self { exact: HashMap::new(), bare: HashMap::new(), namespaces: HashSet::new() };
        for (place, Offer { tool, .. }) in offers.iter().enumerate() {
            index.exact.insert((tool.kind, tool.namespace.as_deref(), &tool.name), place);
            if let Some(namespace) = &tool.namespace {
                index.namespaces.insert(namespace);
                index.bare.entry((tool.kind, &tool.name)).and_modify(|place| *place = None).or_insert(Some(place));
            }
        }
        index
    }

    /// The one tool that is meant. A namespace may be left out where no other has a tool of that name.
    fn find(&self, wanted: &NamedTool) -> Result<usize, RequestError> {
        let (kind, name) = match (wanted.kind.as_str(), &wanted.name) {
            ("function", Some(name)) => (CallKind::Function, name.as_str()),
            ("custom", Some(name)) => (CallKind::Custom, name.as_str()),
            ("tool_search", _) => (CallKind::ToolSearch, "tool_search"),
            ("function" | "custom", None) => {
                return Err(invalid(format!("a choice of type '{}' needs a 'name'", wanted.kind)));
            }
            (other, _) => {
                let kind: String = other.chars().take(64).collect();
                return Err(invalid(format!("tools of type '{kind}' are not offered, so none can be chosen")));
            }
        };
        if let Some(place) = self.exact.get(&(kind, wanted.namespace.as_deref(), name)) {
            return Ok(*place);
        }
        match self.bare.get(&(kind, name)).filter(|_| wanted.namespace.is_none()) {
            Some(Some(place)) => Ok(*place),
            Some(None) => Err(invalid("names a tool that several namespaces have; say which with 'namespace'")),
            None => Err(invalid("names a tool that is not offered")),
        }
    }
}

/// Leaves only the allowed tools, in the order in which they were offered.
fn restrict(offers: &mut Vec<Offer>, allowed: &[NamedTool]) -> Result<(), RequestError> {
    let index = Index::new(offers);
    let mut kept = HashSet::with_capacity(allowed.len());
    let mut namespaces = HashSet::new();
    for wanted in allowed {
        match (wanted.kind.as_str(), &wanted.name) {
            ("namespace", Some(name)) if index.namespaces.contains(name.as_str()) => {
                namespaces.insert(name.as_str());
            }
            ("namespace", _) => return Err(invalid("names a namespace that is not offered")),
            _ => {
                kept.insert(index.find(wanted)?);
            }
        }
    }
    let mut place = 0;
    offers.retain(|offer| {
        let is_kept =
            kept.contains(&place) || offer.tool.namespace.as_deref().is_some_and(|name| namespaces.contains(name));
        place += 1;
        is_kept
    });
    Ok(())
}

/// The echo of `tool_choice`: as given, or `auto`.
///
/// # Errors
/// Never in practice: a string always serialises.
pub(super) fn echo(choice: Option<&RawValue>) -> Result<Box<RawValue>, serde_json::Error> {
    choice.map_or_else(|| json::raw_text("auto"), |choice| Ok(choice.to_owned()))
}
