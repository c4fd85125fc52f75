//! `GET /v1/responses/{id}/input_items`: its query string, and one page of the items.

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::error::WireError;
use crate::id::ResponseId;

const DEFAULT_LIMIT: usize = 20;
const MAX_LIMIT: usize = 100;

/// The order of the listing; cursors are relative to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// As the client sent them.
    Ascending,
    /// Newest first, the default.
    #[default]
    Descending,
}

/// Which page of the input items is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputItemsQuery {
    /// The most items of a page, 1 to 100.
    pub limit: usize,
    /// The order of the listing.
    pub order: Order,
    /// Only items that follow this one in the listing.
    pub after: Option<String>,
    /// Only items that precede this one in the listing.
    pub before: Option<String>,
}

impl Default for InputItemsQuery {
    fn default() -> Self {
        Self { limit: DEFAULT_LIMIT, order: Order::default(), after: None, before: None }
    }
}

impl InputItemsQuery {
    /// Reads the query string: what follows the `?`, still percent-encoded.
    ///
    /// `include` and `include[]` are accepted, and change nothing: items are kept whole. Parameters that the API does
    /// not know are ignored. Of a repeated one the last counts.
    ///
    /// # Errors
    /// A 400 that names the parameter.
    pub fn parse(query: &str) -> Result<Self, WireError> {
        let mut parsed = Self::default();
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let param = match decode(key).as_deref() {
                Some("limit") => "limit",
                Some("order") => "order",
                Some("after") => "after",
                Some("before") => "before",
                _ => continue,
            };
            let value = decode(value).ok_or_else(|| invalid(param, "it is not percent-encoded UTF-8"))?;
            match param {
                "limit" => parsed.limit = limit(&value)?,
                "order" => parsed.order = order(&value)?,
                "after" => parsed.after = Some(value),
                _ => parsed.before = Some(value),
            }
        }
        Ok(parsed)
    }

    /// The page as a list object, `{object, data, first_id, last_id, has_more}`. The items' text stays as it is.
    ///
    /// After `after` comes the page directly behind that item; before `before` alone, the page directly in front of it;
    /// with both, the start of what lies between. `has_more` tells whether that range holds more than the page.
    ///
    /// # Errors
    /// A 400 that names `after` or `before` when no item has that id.
    pub fn page<'a>(&self, items: impl IntoIterator<Item = &'a Box<RawValue>>) -> Result<Vec<u8>, WireError> {
        let mut listing: Vec<&RawValue> = items.into_iter().map(|item| &**item).collect();
        if self.order == Order::Descending {
            listing.reverse();
        }
        // Should a client have sent one id twice, then each page starts behind the last of them, so that paging ends.
        let start = match &self.after {
            Some(after) => position("after", listing.iter().rposition(|item| has_id(item, after)))? + 1,
            None => 0,
        };
        let end = match &self.before {
            Some(before) => position("before", listing.iter().position(|item| has_id(item, before)))?,
            None => listing.len(),
        };
        let range = listing.get(start..end).unwrap_or_default();
        let has_more = range.len() > self.limit;
        let data = if !has_more {
            range
        } else if self.after.is_none() && self.before.is_some() {
            range.get(range.len() - self.limit..).unwrap_or_default()
        } else {
            range.get(..self.limit).unwrap_or_default()
        };
        let list = List {
            object: "list",
            data,
            first_id: data.first().and_then(|item| id(item)),
            last_id: data.last().and_then(|item| id(item)),
            has_more,
        };
        serde_json::to_vec(&list).map_err(|_| WireError::new(500, "The input items could not be listed."))
    }
}

/// The instructions of a stored response as an item, for the dialect that lists them; `None` when it had none. Its id
/// is always the same, and no item can have it.
#[must_use]
pub fn instructions_item(id: &ResponseId, response: &RawValue) -> Option<Box<RawValue>> {
    #[derive(Deserialize)]
    struct Asked {
        #[serde(default)]
        instructions: Option<String>,
    }
    #[derive(Serialize)]
    struct Item<'a> {
        id: &'a str,
        #[serde(rename = "type")]
        kind: &'static str,
        role: &'static str,
        content: [Part<'a>; 1],
        status: &'static str,
    }
    #[derive(Serialize)]
    struct Part<'a> {
        #[serde(rename = "type")]
        kind: &'static str,
        text: &'a str,
    }
    let Asked { instructions } = serde_json::from_str(response.get()).ok()?;
    let text = instructions.filter(|text| !text.is_empty())?;
    let item = Item {
        id: &id.instructions(),
        kind: "message",
        role: "system",
        content: [Part { kind: "input_text", text: &text }],
        status: "completed",
    };
    to_raw_value(&item).ok()
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: &'a [&'a RawValue],
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

fn id(item: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Item {
        id: Option<String>,
    }
    serde_json::from_str::<Item>(item.get()).ok().and_then(|item| item.id)
}

fn has_id(item: &RawValue, wanted: &str) -> bool {
    id(item).is_some_and(|id| id == wanted)
}

fn position(param: &'static str, found: Option<usize>) -> Result<usize, WireError> {
    found.ok_or_else(|| invalid(param, "this response has no input item with that id"))
}

fn limit(text: &str) -> Result<usize, WireError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits {
        return Err(invalid("limit", "expected an integer from 1 to 100").code("invalid_type"));
    }
    // Digits that do not fit are above the bound, too.
    let number = text.parse().unwrap_or(usize::MAX);
    match number {
        0 => Err(invalid("limit", "expected an integer from 1 to 100").code("integer_below_min_value")),
        1..=MAX_LIMIT => Ok(number),
        _ => Err(invalid("limit", "expected an integer from 1 to 100").code("integer_above_max_value")),
    }
}

fn order(text: &str) -> Result<Order, WireError> {
    match text {
        "asc" => Ok(Order::Ascending),
        "desc" => Ok(Order::Descending),
        _ => Err(invalid("order", "expected 'asc' or 'desc'").code("invalid_value")),
    }
}

fn invalid(param: &'static str, reason: &str) -> WireError {
    WireError::bad_request(format!("Invalid '{param}': {reason}.")).param(param)
}

/// Undoes form encoding: `+` is a space, `%xx` a byte. `None` when that gives no text.
fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => hex(bytes.next()?)? * 16 + hex(bytes.next()?)?,
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn items(count: usize) -> Vec<Box<RawValue>> {
        (0..count).map(|n| RawValue::from_string(format!("{{\"id\":\"i{n}\",\"n\":1.50}}")).unwrap()).collect()
    }

    fn list(query: &str, items: &[Box<RawValue>]) -> Value {
        serde_json::from_slice(&InputItemsQuery::parse(query).unwrap().page(items).unwrap()).unwrap()
    }

    fn ids(list: &Value) -> Vec<&str> {
        list["data"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect()
    }

    #[test]
    fn without_a_query_the_newest_twenty_come_newest_first() {
        let list = list("", &items(25));
        assert_eq!(ids(&list).len(), 20);
        assert_eq!((&list["first_id"], &list["last_id"]), (&"i24".into(), &"i5".into()));
        assert_eq!((&list["object"], &list["has_more"]), (&"list".into(), &true.into()));
    }

    #[test]
    fn an_empty_list_has_null_ids() {
        let bytes = InputItemsQuery::default().page(&[]).unwrap();
        assert_eq!(
            std::str::from_utf8(&bytes).unwrap(),
            r#"{"object":"list","data":[],"first_id":null,"last_id":null,"has_more":false}"#
        );
    }

    #[test]
    fn items_keep_their_exact_text() {
        let bytes = InputItemsQuery::default().page(&items(1)).unwrap();
        assert!(std::str::from_utf8(&bytes).unwrap().contains(r#""data":[{"id":"i0","n":1.50}]"#));
    }

    #[test]
    fn cursors_are_relative_to_the_order_asked_for() {
        for (query, expected, more) in [
            ("order=asc&limit=2&after=i1", vec!["i2", "i3"], true),
            ("order=desc&limit=2&after=i3", vec!["i2", "i1"], true),
            ("order=desc&limit=3&after=i3", vec!["i2", "i1", "i0"], false),
            ("order=asc&limit=2&before=i4", vec!["i2", "i3"], true),
            ("order=asc&limit=9&before=i4", vec!["i0", "i1", "i2", "i3"], false),
            ("order=desc&limit=1&before=i3", vec!["i4"], true),
            ("order=asc&after=i0&before=i3", vec!["i1", "i2"], false),
            ("order=asc&after=i0&before=i5&limit=2", vec!["i1", "i2"], true),
            ("order=asc&after=i3&before=i1", vec![], false),
            ("order=asc&after=i2&before=i2", vec![], false),
            ("order=asc&after=i5", vec![], false),
        ] {
            let list = list(query, &items(6));
            assert_eq!((ids(&list), &list["has_more"]), (expected, &more.into()), "{query}");
        }
    }

    #[test]
    fn a_query_is_decoded_and_what_is_unknown_is_ignored() {
        let query = "include[]=a&include%5B%5D=b&include=c&%zz=1&foo=%zz&&limi%74=5&order=%61sc&after=a%2Bb+c&limit=7";
        assert_eq!(
            InputItemsQuery::parse(query).unwrap(),
            InputItemsQuery { limit: 7, order: Order::Ascending, after: Some("a+b c".to_owned()), before: None }
        );
    }

    #[test]
    fn what_is_invalid_is_a_400_that_names_it() {
        for (query, param) in [
            ("limit=0", "limit"),
            ("limit=101", "limit"),
            ("limit=99999999999999999999999", "limit"),
            ("limit=abc", "limit"),
            ("limit=-1", "limit"),
            ("limit=%2B5", "limit"),
            ("limit=1.0", "limit"),
            ("limit=", "limit"),
            ("limit", "limit"),
            ("order=foo", "order"),
            ("order=ASC", "order"),
            ("after=%f0", "after"),
            ("after=%4", "after"),
            ("before=%", "before"),
        ] {
            let error = InputItemsQuery::parse(query).unwrap_err();
            assert_eq!((error.status, error.param.as_deref()), (400, Some(param)), "{query}");
        }
        for (query, param) in [("after=nope", "after"), ("before=nope", "before"), ("after=", "after")] {
            let error = InputItemsQuery::parse(query).unwrap().page(&items(3)).unwrap_err();
            assert_eq!((error.status, error.param.as_deref()), (400, Some(param)), "{query}");
            assert!(!error.message.contains("nope"));
        }
    }

    #[test]
    fn paging_over_repeated_ids_ends() {
        let item = |id: &str| RawValue::from_string(format!("{{\"id\":\"{id}\"}}")).unwrap();
        let items = [item("a"), item("b"), item("a"), item("c")];
        assert_eq!(ids(&list("order=asc&limit=1&after=a", &items)), ["c"]);
    }

    proptest! {
        #[test]
        fn paging_visits_every_item_exactly_once(
            count in 0..150_usize,
            limit in 1..=100_usize,
            ascending in any::<bool>(),
            backwards in any::<bool>(),
        ) {
            let items = items(count);
            let (order, cursor) = (if ascending { "asc" } else { "desc" }, if backwards { "before" } else { "after" });
            let mut expected: Vec<String> = (0..count).map(|n| format!("i{n}")).collect();
            if !ascending {
                expected.reverse();
            }
            let mut visited: Vec<String> = Vec::new();
            let mut query = format!("limit={limit}&order={order}");
            if backwards && count > 0 {
                // From the last item, which `before` itself leaves out.
                visited.push(expected[count - 1].clone());
                query += &format!("&before={}", visited[0]);
            }
            loop {
                let list = list(&query, &items);
                let page: Vec<String> = ids(&list).into_iter().map(str::to_owned).collect();
                prop_assert!(page.len() <= limit);
                prop_assert_eq!(list["first_id"].as_str(), page.first().map(String::as_str));
                prop_assert_eq!(list["last_id"].as_str(), page.last().map(String::as_str));
                let next = if backwards { list["first_id"].clone() } else { list["last_id"].clone() };
                let place = if backwards { 0 } else { visited.len() };
                visited.splice(place..place, page);
                if list["has_more"] == false {
                    break;
                }
                query = format!("limit={limit}&order={order}&{cursor}={}", next.as_str().unwrap());
            }
            prop_assert_eq!(visited, expected);
        }

        #[test]
        fn no_query_makes_the_reader_panic(query in any::<String>()) {
            let _ = InputItemsQuery::parse(&query);
        }
    }
}
