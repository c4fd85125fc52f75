//! Header lists as Envoy sends them, and the changes that we ask of it.

use bytes::Bytes;

use super::pb::{self, core};

/// What describes a body.
const DESCRIBE_THE_BODY: [&str; 9] = [
    "content-length",
    "content-encoding",
    "content-md5",
    "content-digest",
    "repr-digest",
    "digest",
    "etag",
    "last-modified",
    "accept-ranges",
];

/// The headers of one message, pseudo headers (`:method`, `:path`, `:status`) included, in the order of arrival.
///
/// Envoy sends names in lower case and values as bytes (`raw_value`), which need not be UTF-8. It joins repeated
/// headers with a comma where HTTP allows that. Looking up is a walk: there are a dozen or two, read once each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Headers(Vec<core::HeaderValue>);

impl Headers {
    pub(super) fn read(map: Option<core::HeaderMap>) -> Self {
        Self(map.map(|map| map.headers).unwrap_or_default())
    }

    /// The value of the first header of this name, whatever its case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.named(name).next().map(value)
    }

    /// The value of the first header of this name when it is UTF-8; others count as absent.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.get(name)?).ok()
    }

    /// The values of all headers of this name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.named(name).map(value)
    }

    /// All headers, name and value.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|header| (&*header.key, value(header)))
    }

    fn named<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a core::HeaderValue> + use<'a, 'n> {
        self.0.iter().filter(move |header| header.key.eq_ignore_ascii_case(name.as_bytes()))
    }
}

/// The protocol has two; Envoy 1.40 fills `raw_value`.
fn value(header: &core::HeaderValue) -> &[u8] {
    if header.raw_value.is_empty() { &header.value } else { &header.raw_value }
}

impl<N: Into<Bytes>, V: Into<Bytes>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| header(name, value)).collect())
    }
}

/// Changes to a header list. What is not mentioned stays as it is.
///
/// Envoy's default mutation rules allow `:path`, `:status` and ordinary headers, and silently reject `:method`,
/// `:scheme`, `:authority` and `host` (counted in `rejected_header_mutations`). In FULL_DUPLEX_STREAMED it removes
/// content-length itself unless `allow_content_length_header` is set; never rely on it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeaderMutation {
    set: Vec<core::HeaderValueOption>,
    remove: Vec<Bytes>,
}

impl HeaderMutation {
    /// No change.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a header, or overwrites all of its values; it needs no removal then.
    #[must_use]
    pub fn set(mut self, name: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        let header = header(name, value);
        self.remove.retain(|removed| *removed != header.key);
        self.set.push(core::HeaderValueOption {
            // Envoy drops a header that is set to nothing, unless told not to.
            keep_empty_value: header.raw_value.is_empty(),
            header: Some(header),
            append_action: core::header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        });
        self
    }

    /// Removes a header; removing what is not there is no error.
    #[must_use]
    pub fn remove(mut self, name: impl Into<Bytes>) -> Self {
        self.remove.push(name.into());
        self
    }

    /// Sets a header that is not there, or has another value.
    #[must_use]
    pub fn set_where_other(self, sent: &Headers, name: &'static str, value: &'static str) -> Self {
        let mut values = sent.all(name);
        let same = values.next() == Some(value.as_bytes()) && values.next().is_none();
        if same { self } else { self.set(name, value) }
    }

    /// Removes headers that are there.
    #[must_use]
    pub fn remove_where_present(self, sent: &Headers, names: &[&str]) -> Self {
        let is_named =
            |header: &&core::HeaderValue| names.iter().any(|name| header.key.eq_ignore_ascii_case(name.as_bytes()));
        // Under the names that were sent, which have their bytes already.
        sent.0.iter().filter(is_named).fold(self, |mutation, header| mutation.remove(header.key.clone()))
    }

    /// Removes what describes the body that was sent, and is wrong of another one.
    #[must_use]
    pub fn remove_body_description(self, sent: &Headers) -> Self {
        self.remove_where_present(sent, &DESCRIBE_THE_BODY)
    }

    /// Sets `:status`, which works in every reply to response headers, even a late one.
    #[must_use]
    pub fn status(self, status: u16) -> Self {
        self.set(":status", status.to_string())
    }

    /// Sets `:status` if it is another one.
    #[must_use]
    pub fn status_where_other(self, sent: u16, status: u16) -> Self {
        if sent == status { self } else { self.status(status) }
    }

    /// As a change of the headers that Envoy holds.
    pub(super) fn into_mutation(self) -> Option<pb::HeaderMutation> {
        let changes = !self.set.is_empty() || !self.remove.is_empty();
        changes.then_some(pb::HeaderMutation { set_headers: self.set, remove_headers: self.remove })
    }

    /// As a list of its own, for an answer that starts from nothing.
    pub(super) fn into_map(self) -> core::HeaderMap {
        core::HeaderMap { headers: self.set.into_iter().filter_map(|set| set.header).collect() }
    }
}

fn header(name: impl Into<Bytes>, value: impl Into<Bytes>) -> core::HeaderValue {
    core::HeaderValue { key: name.into(), value: Bytes::new(), raw_value: value.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_not_utf8_is_kept_and_is_no_text() {
        let headers =
            Headers::from_iter([("x-name", Bytes::from_static(b"caf\xe9")), ("accept", Bytes::from_static(b"*/*"))]);
        assert_eq!(headers.get("X-Name"), Some(&b"caf\xe9"[..]));
        assert_eq!(headers.text("x-name"), None);
        assert_eq!(headers.text("accept"), Some("*/*"));
    }

    #[test]
    fn the_text_field_stands_in_for_an_empty_raw_value() {
        let old = core::HeaderValue { key: "a".into(), value: "b".into(), raw_value: Bytes::new() };
        assert_eq!(Headers(vec![old]).text("a"), Some("b"));
    }

    #[test]
    fn nothing_is_changed_that_is_as_it_has_to_be() {
        let sent = Headers::from_iter([("content-type", "application/json"), ("content-length", "12"), ("vary", "a")]);
        let mutation = HeaderMutation::new()
            .status_where_other(200, 200)
            .set_where_other(&sent, "content-type", "application/json")
            .remove_where_present(&sent, &["accept-encoding"]);
        assert_eq!(mutation, HeaderMutation::new());

        let twice = Headers::from_iter([("content-type", "application/json"), ("content-type", "text/plain")]);
        let mutation = HeaderMutation::new()
            .status_where_other(201, 200)
            .set_where_other(&twice, "content-type", "application/json")
            .set_where_other(&sent, "cache-control", "no-cache")
            .remove_body_description(&sent);
        let names = |mutation: &HeaderMutation| {
            let set = mutation.set.iter().map(|set| set.header.clone().unwrap().key);
            set.collect::<Vec<_>>()
        };
        assert_eq!(names(&mutation), [":status", "content-type", "cache-control"]);
        assert_eq!(mutation.remove, ["content-length"]);
        assert!(mutation.set("content-length", "7").remove.is_empty());
    }

    #[test]
    fn a_mutation_overwrites_through_raw_value() {
        let mutation = HeaderMutation::new().status(429).set("x-empty", "").remove("etag").into_mutation().unwrap();
        let [status, empty] = &mutation.set_headers[..] else { panic!("{mutation:?}") };
        assert_eq!(status.append_action, 2);
        let header = status.header.clone().unwrap();
        assert_eq!((&*header.key, &*header.value, &*header.raw_value), (&b":status"[..], &b""[..], &b"429"[..]));
        assert!(empty.keep_empty_value && !status.keep_empty_value);
        assert_eq!(mutation.remove_headers, ["etag"]);
    }
}
