//! Takes JSON apart that was checked before: what a [`RawValue`] holds is JSON, so that only the ends of its values have
//! to be found, and most of it is passed over at once.
//!
//! Were it none, the pieces would be wrong, and no more than that.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::json_bounds::after_string;
use crate::json;

/// The members of an object in their order, repeated ones included; `None` when it is none, or when a name in it is no
/// text.
#[must_use]
pub fn members(raw: &RawValue) -> Option<Vec<(Cow<'_, str>, &RawValue)>> {
    let mut rest = raw.get().strip_prefix('{')?.trim_ascii_start();
    let mut members = Vec::new();
    while !rest.starts_with('}') {
        let name = first_value(rest)?;
        let after = rest.get(name.get().len()..)?.trim_ascii_start().strip_prefix(':')?.trim_ascii_start();
        let value = first_value(after)?;
        members.push((text(name.get())?, value));
        rest = after_separator(after.get(value.get().len()..)?)?;
    }
    Some(members)
}

/// The value of a member of an object that repeats none; `None` when there is none. `name` is spelt without escapes, in
/// the object too. What follows it is not looked at.
#[must_use]
pub fn member<'a>(raw: &'a RawValue, name: &str) -> Option<&'a RawValue> {
    let mut rest = raw.get().strip_prefix('{')?.trim_ascii_start();
    while !rest.starts_with('}') {
        let (spelt, after) = split_value(rest)?;
        let after = after.trim_ascii_start().strip_prefix(':')?.trim_ascii_start();
        let (value, after) = split_value(after)?;
        if spelt.strip_prefix('"').and_then(|spelt| spelt.strip_suffix('"')) == Some(name) {
            return as_raw(value);
        }
        rest = after_separator(after)?;
    }
    None
}

/// The items of a list; `None` when it is none.
#[must_use]
pub fn items(raw: &RawValue) -> Option<Vec<&RawValue>> {
    let mut rest = raw.get().strip_prefix('[')?.trim_ascii_start();
    let mut items = Vec::new();
    while !rest.starts_with(']') {
        let value = first_value(rest)?;
        items.push(value);
        rest = after_separator(rest.get(value.get().len()..)?)?;
    }
    Some(items)
}

/// What follows a value, at the next one or at the closing bracket.
fn after_separator(rest: &str) -> Option<&str> {
    let rest = rest.trim_ascii_start();
    match rest.strip_prefix(',') {
        Some(next) => Some(next.trim_ascii_start()),
        None => rest.starts_with(['}', ']']).then_some(rest),
    }
}

fn text(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    match memchr::memchr(b'\\', inner.as_bytes()) {
        None => Some(Cow::Borrowed(inner)),
        Some(_) => serde_json::from_str(json).ok().map(Cow::Owned),
    }
}

/// The value with which a text begins.
fn first_value(text: &str) -> Option<&RawValue> {
    as_raw(split_value(text)?.0)
}

/// A value that is JSON as a part of JSON, and need not be checked for it.
fn as_raw(value: &str) -> Option<&RawValue> {
    json::borrowed(value).ok()
}

/// The value with which a text begins, and what follows it.
fn split_value(text: &str) -> Option<(&str, &str)> {
    let bytes = text.as_bytes();
    let rest = match bytes.first()? {
        b'"' => after_string(bytes.get(1..)?),
        b'{' | b'[' => after_brackets(bytes)?,
        _ => {
            let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace();
            bytes.get(bytes.iter().position(ends).unwrap_or(bytes.len())..)?
        }
    };
    text.split_at_checked(text.len() - rest.len()).filter(|(value, _)| !value.is_empty())
}

/// What follows the object or list with which a text begins.
fn after_brackets(text: &[u8]) -> Option<&[u8]> {
    let (mut depth, mut rest) = (0_usize, text);
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'"' => rest = after_string(rest),
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(rest);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    /// The same by way of the parser.
    fn parsed_members(json: &str) -> Option<Vec<(String, String)>> {
        let object: super::super::raw::RawObject = serde_json::from_str(json).ok()?;
        Some(object.iter().map(|(key, value)| (key.to_owned(), value.get().to_owned())).collect())
    }

    fn json() -> impl Strategy<Value = String> {
        let leaf = prop::sample::select(vec![
            "null",
            "true",
            "-1.5e+3",
            "0",
            r#""""#,
            r#""a\"]}\\""#,
            r#""é,\u00e9:\ud83d\ude00""#,
            "[]",
            "{}",
            "[ ]",
            "{\n}",
        ]);
        leaf.prop_map(str::to_owned).prop_recursive(4, 24, 4, |inner| {
            let space = || prop::sample::select(vec!["", " ", "\n\t", "\r"]);
            let list = (prop::collection::vec(inner.clone(), 1..4), space())
                .prop_map(|(items, space)| format!("[{space}{}{space}]", items.join(&format!("{space},{space}"))));
            let names = prop::sample::subsequence(vec!["a", "", "\\\"b\\u0041", "é", "c}", "d\\\\"], 4);
            let object = (names, prop::collection::vec(inner, 4), space()).prop_map(|(names, values, space)| {
                let member = |(name, value)| format!("\"{name}\"{space}:{space}{value}");
                let members: Vec<String> = names.into_iter().zip(values).map(member).collect();
                format!("{{{space}{}{space}}}", members.join(&format!("{space},{space}")))
            });
            prop_oneof![list, object]
        })
    }

    proptest! {
        #[test]
        fn the_pieces_are_those_that_the_parser_finds(json in json()) {
            let raw = raw(&json);
            let found = members(&raw).map(|members| {
                members.into_iter().map(|(name, value)| (name.into_owned(), value.get().to_owned())).collect()
            });
            let parsed = parsed_members(&json);
            for (name, value) in parsed.iter().flatten().filter(|(name, _)| ["a", "", "é", "c}", "none"].contains(&&**name)) {
                prop_assert_eq!(member(&raw, name).map(RawValue::get), Some(&**value));
            }
            prop_assert!(member(&raw, "none").is_none());
            prop_assert_eq!(found, parsed);
            let wanted = serde_json::from_str::<Vec<&RawValue>>(&json).ok();
            let texts = |items: Vec<&RawValue>| items.iter().map(|item| item.get().to_owned()).collect::<Vec<_>>();
            prop_assert_eq!(items(&raw).map(texts), wanted.map(texts));
        }
    }

    #[test]
    fn repeated_names_stay_and_a_name_that_is_no_text_is_none() {
        let twice = raw(r#"{"a":1,"a":[2]}"#);
        let members_of_twice: Vec<_> = members(&twice).unwrap().into_iter().map(|(_, value)| value.get()).collect();
        assert_eq!(members_of_twice, ["1", "[2]"]);
        assert!(members(&raw(r#"{"\ud800":1}"#)).is_none());
    }
}
