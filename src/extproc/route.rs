//! Which operation of the Responses API a request asks for (CONTRACT §2).
//!
//! Pure. Paths are compared as they came: nothing is percent-decoded, so `%2f` or `%72esp_1` is never taken for what it
//! would decode to, and only the case, the slashes and the ids written in the contract match.

use http::Method;

use super::headers::Headers;
use super::message::RequestHead;
use crate::id::{InvalidId, ResponseId};

/// `Allow` of /v1/responses.
const COLLECTION: &str = "POST, OPTIONS";
/// `Allow` of /v1/responses/{id}.
const RESPONSE: &str = "GET, DELETE, OPTIONS";
/// `Allow` of /v1/responses/{id}/input_items.
const INPUT_ITEMS: &str = "GET, OPTIONS";
/// `Allow` of /v1/responses/{id}/cancel.
const CANCEL: &str = "POST, OPTIONS";

/// The id in a path. One that cannot be an id is answered like one that is not stored.
pub type PathId = Result<ResponseId, InvalidId>;

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// POST /v1/responses.
    Create,
    /// GET /v1/responses/{id}.
    Retrieve {
        /// The response.
        id: PathId,
    },
    /// DELETE /v1/responses/{id}.
    Delete {
        /// The response.
        id: PathId,
    },
    /// GET /v1/responses/{id}/input_items.
    InputItems {
        /// The response.
        id: PathId,
        /// The query as it came, without its `?`; empty when there is none.
        query: String,
    },
    /// POST /v1/responses/{id}/cancel.
    Cancel {
        /// The response.
        id: PathId,
    },
    /// OPTIONS on a known path.
    Options {
        /// The value of `Allow`.
        allow: &'static str,
    },
    /// Another method on a known path.
    MethodNotAllowed {
        /// The value of `Allow`.
        allow: &'static str,
    },
    /// A WebSocket handshake on /v1/responses.
    WebSocketUpgrade,
    /// Any other path.
    NotFound,
}

impl Route {
    /// The response that the path names.
    #[must_use]
    pub fn id(&self) -> Option<&ResponseId> {
        match self {
            Self::Retrieve { id } | Self::Delete { id } | Self::InputItems { id, .. } | Self::Cancel { id } => {
                id.as_ref().ok()
            }
            _ => None,
        }
    }

    /// The operation's name in logs and metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Retrieve { .. } => "retrieve",
            Self::Delete { .. } => "delete",
            Self::InputItems { .. } => "input_items",
            Self::Cancel { .. } => "cancel",
            Self::Options { .. } => "options",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::WebSocketUpgrade => "websocket",
            Self::NotFound => "not_found",
        }
    }
}

/// The paths of this router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routes {
    /// `/openai/v1/responses`, say.
    collection: String,
}

impl Routes {
    /// The routes below `path_prefix`, which stands before `/v1`: empty, or like `/openai`. Slashes at its ends are
    /// put right.
    #[must_use]
    pub fn new(path_prefix: &str) -> Self {
        let prefix = path_prefix.trim_matches('/');
        let slash = if prefix.is_empty() { "" } else { "/" };
        Self { collection: format!("{slash}{prefix}/v1/responses") }
    }

    /// Finds the operation. The query and one trailing slash do not matter.
    ///
    /// A wrong method is told as such only on paths that exist. `/v1/responses/compact` or `/input_tokens` are neither
    /// an operation nor an id, so that a POST there finds nothing, and clients can tell that the endpoint is missing.
    #[must_use]
    pub fn find(&self, head: &RequestHead) -> Route {
        let (path, query) = head.path.split_once('?').unwrap_or((&head.path, ""));
        let Some(rest) = path.strip_prefix(&*self.collection) else { return Route::NotFound };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.is_empty() {
            return collection(head);
        }
        let Some(rest) = rest.strip_prefix('/') else { return Route::NotFound };
        match rest.split_once('/') {
            None => response(&head.method, ResponseId::parse(rest)),
            Some((id, "input_items")) => input_items(&head.method, ResponseId::parse(id), query),
            Some((id, "cancel")) => cancel(&head.method, ResponseId::parse(id)),
            Some(_) => Route::NotFound,
        }
    }
}

fn collection(head: &RequestHead) -> Route {
    match head.method {
        Method::POST => Route::Create,
        Method::OPTIONS => Route::Options { allow: COLLECTION },
        Method::GET if lists(&head.headers, "upgrade", "websocket") => Route::WebSocketUpgrade,
        // RFC 8441. Envoy turns it into the HTTP/1 form before its filters see it; other data planes may not.
        Method::CONNECT if lists(&head.headers, ":protocol", "websocket") => Route::WebSocketUpgrade,
        _ => Route::MethodNotAllowed { allow: COLLECTION },
    }
}

fn response(method: &Method, id: PathId) -> Route {
    match *method {
        Method::GET => Route::Retrieve { id },
        Method::DELETE => Route::Delete { id },
        _ => other_method(method, &id, RESPONSE),
    }
}

fn input_items(method: &Method, id: PathId, query: &str) -> Route {
    match *method {
        Method::GET => Route::InputItems { id, query: query.to_owned() },
        _ => other_method(method, &id, INPUT_ITEMS),
    }
}

fn cancel(method: &Method, id: PathId) -> Route {
    match *method {
        Method::POST => Route::Cancel { id },
        _ => other_method(method, &id, CANCEL),
    }
}

fn other_method(method: &Method, id: &PathId, allow: &'static str) -> Route {
    match (id, method) {
        (Err(InvalidId), _) => Route::NotFound,
        (Ok(_), &Method::OPTIONS) => Route::Options { allow },
        (Ok(_), _) => Route::MethodNotAllowed { allow },
    }
}

/// Whether the comma list in a header has this token, whatever its case.
fn lists(headers: &Headers, name: &str, token: &str) -> bool {
    headers
        .all(name)
        .filter_map(|value| std::str::from_utf8(value).ok())
        .any(|value| value.split(',').any(|element| element.trim().eq_ignore_ascii_case(token)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(prefix: &str, method: &str, path: &str, headers: &[(&'static str, &'static str)]) -> Route {
        Routes::new(prefix).find(&RequestHead {
            method: method.parse().unwrap(),
            path: path.to_owned(),
            headers: headers.iter().copied().collect(),
            end_of_stream: true,
            attributes: crate::extproc::message::Attributes::default(),
            metadata: crate::extproc::message::Metadata::default(),
        })
    }

    fn id() -> PathId {
        ResponseId::parse("resp_1")
    }

    #[test]
    fn operations_are_found_by_method_and_path() {
        use Route::{Cancel, Create, Delete, InputItems, MethodNotAllowed, NotFound, Options, Retrieve};
        let items = |query: &str| InputItems { id: id(), query: query.to_owned() };
        let refused = |allow| MethodNotAllowed { allow };
        let options = |allow| Options { allow };
        for (method, path, route) in [
            ("POST", "/v1/responses", Create),
            ("POST", "/v1/responses/", Create),
            ("POST", "/v1/responses?x=/y", Create),
            ("POST", "/v1/responses/?", Create),
            ("OPTIONS", "/v1/responses", options(COLLECTION)),
            ("GET", "/v1/responses", refused(COLLECTION)),
            ("HEAD", "/v1/responses", refused(COLLECTION)),
            ("PUT", "/v1/responses", refused(COLLECTION)),
            ("CONNECT", "/v1/responses", refused(COLLECTION)),
            ("post", "/v1/responses", refused(COLLECTION)),
            ("GET", "/v1/responses/resp_1", Retrieve { id: id() }),
            ("GET", "/v1/responses/resp_1/", Retrieve { id: id() }),
            ("GET", "/v1/responses/resp_1?stream=true", Retrieve { id: id() }),
            ("DELETE", "/v1/responses/resp_1", Delete { id: id() }),
            ("HEAD", "/v1/responses/resp_1", refused(RESPONSE)),
            ("POST", "/v1/responses/resp_1", refused(RESPONSE)),
            ("OPTIONS", "/v1/responses/resp_1", options(RESPONSE)),
            ("GET", "/v1/responses/resp_1/input_items", items("")),
            ("GET", "/v1/responses/resp_1/input_items/", items("")),
            ("GET", "/v1/responses/resp_1/input_items?limit=2&after=a?b", items("limit=2&after=a?b")),
            ("DELETE", "/v1/responses/resp_1/input_items", refused(INPUT_ITEMS)),
            ("OPTIONS", "/v1/responses/resp_1/input_items", options(INPUT_ITEMS)),
            ("POST", "/v1/responses/resp_1/cancel", Cancel { id: id() }),
            ("GET", "/v1/responses/resp_1/cancel", refused(CANCEL)),
            ("OPTIONS", "/v1/responses/resp_1/cancel", options(CANCEL)),
            ("GET", "/v1/responses/resp_1/output", NotFound),
            ("POST", "/v1/responses/resp_1/cancel/now", NotFound),
            ("GET", "/v1/responses/resp_1/Input_Items", NotFound),
            ("POST", "/v1/responses/compact", NotFound),
            ("POST", "/v1/responses/input_tokens", NotFound),
            ("POST", "/v1/responses/resp_1/input_tokens", NotFound),
            ("OPTIONS", "/v1/responses/compact", NotFound),
            ("POST", "/v1/responsesX", NotFound),
            ("POST", "/v1/responses//", NotFound),
            ("GET", "/v1/responses//resp_1", NotFound),
            ("GET", "/v1//responses/resp_1", NotFound),
            ("GET", "/v1/responses/resp_1//", NotFound),
            ("POST", "/V1/responses", NotFound),
            ("POST", "/v1%2fresponses", NotFound),
            ("POST", "/v1/%72esponses", NotFound),
            ("POST", "/v1/chat/completions", NotFound),
            ("POST", "/openai/v1/responses", NotFound),
            ("OPTIONS", "*", NotFound),
            ("CONNECT", "", NotFound),
            ("GET", "/", NotFound),
        ] {
            assert_eq!(find("", method, path, &[]), route, "{method} {path}");
        }
    }

    #[test]
    fn what_cannot_be_an_id_is_an_unknown_id() {
        for bad in [
            "resp_%31",
            "%72esp_1",
            "resp_1%2f..",
            "..",
            "resp_",
            "resp_a;b",
            "RESP_1",
            "resp_\u{fffd}",
            "1",
            "compact",
        ] {
            let id = Err(InvalidId);
            assert_eq!(
                find("", "GET", &format!("/v1/responses/{bad}"), &[]),
                Route::Retrieve { id: id.clone() },
                "{bad}"
            );
            assert_eq!(
                find("", "DELETE", &format!("/v1/responses/{bad}"), &[]),
                Route::Delete { id: id.clone() },
                "{bad}"
            );
            assert_eq!(find("", "POST", &format!("/v1/responses/{bad}/cancel"), &[]), Route::Cancel { id: id.clone() });
            let items = Route::InputItems { id, query: String::new() };
            assert_eq!(find("", "GET", &format!("/v1/responses/{bad}/input_items"), &[]), items, "{bad}");
            assert_eq!(find("", "PATCH", &format!("/v1/responses/{bad}"), &[]), Route::NotFound, "{bad}");
        }
    }

    #[test]
    fn the_prefix_stands_before_v1() {
        for prefix in ["/openai", "openai", "/openai/", "openai//"] {
            assert_eq!(find(prefix, "POST", "/openai/v1/responses", &[]), Route::Create, "{prefix}");
            assert_eq!(
                find(prefix, "GET", "/openai/v1/responses/resp_1", &[]),
                Route::Retrieve { id: id() },
                "{prefix}"
            );
            assert_eq!(find(prefix, "POST", "/v1/responses", &[]), Route::NotFound, "{prefix}");
        }
        assert_eq!(find("/", "POST", "/v1/responses", &[]), Route::Create);
        assert_eq!(find("/a/b", "POST", "/a/b/v1/responses", &[]), Route::Create);
    }

    #[test]
    fn a_websocket_handshake_is_known_in_both_http_versions() {
        let http1 = [("connection", "keep-alive, Upgrade"), ("upgrade", "h2c, WebSocket")];
        assert_eq!(find("", "GET", "/v1/responses?model=m", &http1), Route::WebSocketUpgrade);
        assert_eq!(find("", "CONNECT", "/v1/responses", &[(":protocol", "websocket")]), Route::WebSocketUpgrade);
        assert_eq!(find("", "POST", "/v1/responses", &http1), Route::Create);
        assert_eq!(find("", "GET", "/v1/responses/resp_1", &http1), Route::Retrieve { id: id() });
        let h2c = [("upgrade", "h2c")];
        assert_eq!(find("", "GET", "/v1/responses", &h2c), Route::MethodNotAllowed { allow: COLLECTION });
    }
}
