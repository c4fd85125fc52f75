//! The names under which tools go up, and back.
//!
//! Chat knows one flat list of functions with names of `[a-zA-Z0-9_-]`, at most 64. A tool of a namespace goes up as
//! `<namespace>__<tool>`; where that is not legal, too long or taken, as its beginning with a digest of both names, which
//! is the same in every turn.

use std::collections::HashMap;

use crate::openai::tool_call::CallKind;

/// The longest function name of the chat reference, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// A tool as the client knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Tool {
    /// Decides which item its calls become.
    pub(super) kind: CallKind,
    /// The namespace that it stands in.
    pub(super) namespace: Option<String>,
    /// Its name there.
    pub(super) name: String,
}

/// What tells tools apart: a namespace has one tool of a name, whether a function or a custom tool.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ToolKey {
    builtin: bool,
    namespace: Option<String>,
    name: String,
}

impl Tool {
    pub(super) fn key(&self) -> ToolKey {
        let builtin = self.kind.builtin_name().is_some();
        ToolKey { builtin, namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// Whether it goes up under its own name and comes back as it is.
    fn is_plain(&self) -> bool {
        self.kind == CallKind::Function && self.namespace.is_none()
    }
}

/// Which tool each function of a chat request stands for.
#[derive(Debug, Default)]
pub(super) struct ToolNames {
    /// By name in chat; plain functions are only taken names.
    tools: HashMap<String, Option<Tool>>,
    /// Name in chat, of all but plain functions.
    names: HashMap<ToolKey, String>,
}

impl ToolNames {
    /// Names tools that differ in their keys. Plain functions keep their names, whatever they are.
    pub(super) fn new<'a>(tools: impl Iterator<Item = &'a Tool> + Clone) -> Self {
        let mut names = Self::default();
        for tool in tools.clone().filter(|tool| tool.is_plain()) {
            names.tools.insert(tool.name.clone(), None);
        }
        // How often each name was wanted, so that many tools that want the same one do not try all suffixes each.
        let mut wanted: HashMap<String, usize> = HashMap::new();
        for tool in tools.filter(|tool| !tool.is_plain()) {
            let mut name = names.free_name(tool);
            while names.tools.contains_key(&name) {
                let again = wanted.entry(name.clone()).or_insert(1);
                *again += 1;
                name = with_suffix(&name, &again.to_string());
            }
            names.names.insert(tool.key(), name.clone());
            names.tools.insert(name, Some(tool.clone()));
        }
        names
    }

    /// The name in chat of a tool, whether it is offered now or was when it was called.
    pub(super) fn in_chat(&self, tool: &Tool) -> String {
        if tool.is_plain() {
            return tool.name.clone();
        }
        self.names.get(&tool.key()).cloned().unwrap_or_else(|| self.free_name(tool))
    }

    /// The tool behind a name in chat; `None` for plain functions and for names that were never offered.
    pub(super) fn tool(&self, in_chat: &str) -> Option<&Tool> {
        self.tools.get(in_chat).and_then(Option::as_ref)
    }

    /// The joined name if it is legal and free, else a digested one.
    fn free_name(&self, tool: &Tool) -> String {
        let joined = match &tool.namespace {
            Some(namespace) => format!("{namespace}__{}", tool.name),
            None => tool.name.clone(),
        };
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if !joined.is_empty() && joined.len() <= MAX_NAME_BYTES && joined.chars().all(legal) && !self.is_taken(&joined)
        {
            return joined;
        }
        let stem: String = joined.chars().map(|c| if legal(c) { c } else { '_' }).take(MAX_NAME_BYTES).collect();
        with_suffix(&stem, &digest(tool))
    }

    fn is_taken(&self, name: &str) -> bool {
        self.tools.contains_key(name)
    }
}

/// A name of ASCII characters, its end given up for the suffix where it would grow too long.
fn with_suffix(name: &str, suffix: &str) -> String {
    let kept = MAX_NAME_BYTES.saturating_sub(suffix.len() + 1).min(name.len());
    format!("{}_{suffix}", name.get(..kept).unwrap_or_default())
}

/// FNV-1a over both names: not for secrecy, only to be the same everywhere.
fn digest(tool: &Tool) -> String {
    let namespace = tool.namespace.as_deref().unwrap_or_default();
    let bytes = namespace.bytes().chain([0]).chain(tool.name.bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{:08x}", (hash >> 32) ^ (hash & 0xffff_ffff))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn tool(kind: CallKind, namespace: Option<&str>, name: &str) -> Tool {
        Tool { kind, namespace: namespace.map(str::to_owned), name: name.to_owned() }
    }

    fn names_of(tools: &[Tool]) -> Vec<String> {
        let names = ToolNames::new(tools.iter());
        tools.iter().map(|tool| names.in_chat(tool)).collect()
    }

    #[test]
    fn legal_free_names_are_joined() {
        let tools = [
            tool(CallKind::Function, None, "shell"),
            tool(CallKind::Function, Some("mcp__github"), "list-prs"),
            tool(CallKind::Custom, None, "apply_patch"),
            tool(CallKind::Custom, Some("a"), "b"),
        ];
        assert_eq!(names_of(&tools), ["shell", "mcp__github__list-prs", "apply_patch", "a__b"]);
    }

    #[test]
    fn colliding_illegal_and_long_names_get_a_digest() {
        let long = "n".repeat(70);
        let tools = [
            tool(CallKind::Function, Some("a"), "b__c"),
            tool(CallKind::Function, Some("a__b"), "c"),
            tool(CallKind::Function, Some("x"), "y"),
            tool(CallKind::Function, None, "x__y"),
            tool(CallKind::Function, Some("ä.b"), "c d"),
            tool(CallKind::Function, Some(&long), "1"),
            tool(CallKind::Function, Some(&long), "2"),
            tool(CallKind::Custom, None, ""),
            tool(CallKind::ToolSearch, None, "tool_search"),
            tool(CallKind::Function, None, "tool_search"),
        ];
        let cut = "n".repeat(55);
        let wanted = [
            "a__b__c",
            "a__b__c_089a7a89",
            "x__y_c091d80d",
            "x__y",
            "__b__c_d_2e82d42b",
            &format!("{cut}_538e7483"),
            &format!("{cut}_538e75ce"),
            "_29620a93",
            "tool_search_f27590e8",
            "tool_search",
        ];
        assert_eq!(names_of(&tools), wanted);
    }

    #[test]
    fn a_tool_that_is_no_longer_offered_keeps_its_name() {
        let gone = tool(CallKind::Custom, Some("a b"), "c");
        let before = ToolNames::new([&gone].into_iter()).in_chat(&gone);
        assert_eq!(ToolNames::default().in_chat(&gone), before);
    }

    fn any_tool() -> impl Strategy<Value = Tool> {
        let kind = prop::sample::select(vec![CallKind::Function, CallKind::Custom, CallKind::ToolSearch]);
        let word = prop_oneof![4 => "[ab_]{0,4}", 1 => "[ab]{30,40}", 1 => "[aé. ]{1,3}"];
        let name = prop_oneof![4 => word.clone(), 1 => "a__b_[0-9a-f]{8}(_2)?"];
        (kind, prop::option::of(word), name).prop_map(|(kind, namespace, name)| match kind.builtin_name() {
            Some(name) => Tool { kind, namespace: None, name: name.to_owned() },
            None => Tool { kind, namespace, name },
        })
    }

    proptest! {
        #[test]
        fn every_tool_has_a_legal_name_of_its_own_that_leads_back(tools in prop::collection::vec(any_tool(), 0..12)) {
            let mut seen = HashSet::new();
            let tools: Vec<Tool> = tools.into_iter().filter(|tool| seen.insert(tool.key())).collect();
            let names = ToolNames::new(tools.iter());
            let mut taken = HashSet::new();
            for tool in &tools {
                let name = names.in_chat(tool);
                prop_assert!(taken.insert(name.clone()), "{} stands for two tools", name);
                if tool.is_plain() {
                    prop_assert_eq!(&name, &tool.name);
                    prop_assert_eq!(names.tool(&name), None);
                    continue;
                }
                let legal = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
                prop_assert!(legal && (1..=MAX_NAME_BYTES).contains(&name.len()), "{}", name);
                prop_assert_eq!(names.tool(&name), Some(tool));
            }
        }
    }
}
