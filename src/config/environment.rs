//! `${NAME}` and `${NAME:-default}` in the values of the config.
//!
//! Variables are put in after the YAML is parsed, scalar by scalar, never in its text. So a value of the environment
//! cannot become YAML structure whatever it holds, comments and keys are not touched, and lines and columns stay those
//! of the file. What a scalar expands to is read as the plain scalar would be: `ttl_seconds: ${TTL}` gets a number.
//!
//! | written | means |
//! |---|---|
//! | `${NAME}` | the variable; an error when it is not set |
//! | `${NAME:-default}` | the variable; `default` (up to the next `}`, taken literally) when it is unset or empty |
//! | `$${` | a literal `${` |
//! | any other `$` | itself |

/// Where variables come from.
#[derive(Clone, Copy)]
pub(super) struct Environment<'a>(pub(super) &'a dyn Fn(&str) -> Option<String>);

/// Why a text could not be expanded. No message holds the text itself, which may be a password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ExpandError {
    #[error("the environment variable `{0}` is not set and has no default (`${{{0}:-default}}`)")]
    Unset(String),
    #[error("`${{` must be followed by `NAME}}` or `NAME:-default}}` (write `$${{` for a literal `${{`)")]
    Malformed,
}

impl Environment<'_> {
    /// The text with its variables put in, or `None` when there is nothing to put in.
    pub(super) fn expand(self, text: &str) -> Result<Option<String>, ExpandError> {
        let Some(first) = text.find("${") else { return Ok(None) };
        let mut expanded = String::with_capacity(text.len());
        let (mut before, mut after) = (&text[..first], &text[first + 2..]);
        loop {
            if let Some(escaped) = before.strip_suffix('$') {
                expanded.push_str(escaped);
                expanded.push_str("${");
            } else {
                expanded.push_str(before);
                let (reference, rest) = after.split_once('}').ok_or(ExpandError::Malformed)?;
                expanded.push_str(&self.resolve(reference)?);
                after = rest;
            }
            match after.find("${") {
                Some(next) => (before, after) = (&after[..next], &after[next + 2..]),
                None => {
                    expanded.push_str(after);
                    return Ok(Some(expanded));
                }
            }
        }
    }

    /// The value of what stands between the braces.
    fn resolve(self, reference: &str) -> Result<String, ExpandError> {
        let (name, default) = match reference.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (reference, None),
        };
        if !is_name(name) {
            return Err(ExpandError::Malformed);
        }
        match (self.0(name), default) {
            (Some(value), None) => Ok(value),
            (Some(value), Some(_)) if !value.is_empty() => Ok(value),
            (_, Some(default)) => Ok(default.to_owned()),
            (None, None) => Err(ExpandError::Unset(name.to_owned())),
        }
    }
}

/// A POSIX variable name.
fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str) -> Result<Option<String>, ExpandError> {
        let variables = |name: &str| match name {
            "HOST" => Some("redis.local".to_owned()),
            "_p2" => Some("6379".to_owned()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${HOST}".to_owned()),
            _ => None,
        };
        Environment(&variables).expand(text)
    }

    #[test]
    fn references_are_replaced_and_the_rest_is_kept() {
        for (text, expected) in [
            ("${HOST}", "redis.local"),
            ("${HOST}:${_p2}", "redis.local:6379"),
            ("a ${HOST} b", "a redis.local b"),
            ("${UNSET:-fallback}", "fallback"),
            ("${UNSET:-}", ""),
            ("${UNSET:-a:-b c}", "a:-b c"),
            ("${UNSET:-a}}", "a}"),
            ("${HOST:-fallback}", "redis.local"),
            ("${EMPTY:-fallback}", "fallback"),
            ("${EMPTY}", ""),
            ("$${HOST}", "${HOST}"),
            ("$${ and ${HOST}", "${ and redis.local"),
            ("$${$${", "${${"),
            ("é${HOST}é", "éredis.localé"),
        ] {
            assert_eq!(expand(text), Ok(Some(expected.to_owned())), "{text}");
        }
    }

    #[test]
    fn text_without_references_is_left_alone() {
        for text in ["", "plain", "$", "$$", "$HOST", "pa$$word}", "{HOST}", "$ {HOST}"] {
            assert_eq!(expand(text), Ok(None), "{text}");
        }
    }

    #[test]
    fn values_are_not_expanded_again() {
        assert_eq!(expand("${NESTED}"), Ok(Some("${HOST}".to_owned())));
    }

    #[test]
    fn an_unset_variable_is_named() {
        let error = expand("x ${REDIS_PASSWORD} y").unwrap_err();
        assert_eq!(error, ExpandError::Unset("REDIS_PASSWORD".to_owned()));
        assert_eq!(
            error.to_string(),
            "the environment variable `REDIS_PASSWORD` is not set and has no default (`${REDIS_PASSWORD:-default}`)"
        );
    }

    #[test]
    fn malformed_references_are_refused_without_showing_the_text() {
        for text in ["${", "${HOST", "${}", "${1A}", "${A-b}", "${A B}", "${:-x}", "${HÖST}", "secret${HOST"] {
            let error = expand(text).unwrap_err();
            assert_eq!(error, ExpandError::Malformed, "{text}");
            assert!(!error.to_string().contains("secret"));
        }
    }
}
