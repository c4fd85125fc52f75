//! How deep and how many: what a JSON text would cost to take apart, found by walking over its bytes once.
//!
//! Our parser keeps members that are only passed on as text and takes the rest apart step by step, so nesting cannot
//! exhaust its stack; but a backend's parser may not be so careful, and millions of tiny values cost far more memory
//! than the bytes they came as.

/// The bounds of one text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonBounds {
    /// The most objects and lists within each other.
    pub max_depth: usize,
    /// The most values: members of objects and items of lists, at any depth. An empty object or list counts as two.
    pub max_values: usize,
}

/// The bound that a text exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    /// Objects and lists within each other.
    Depth,
    /// Values in all.
    Values,
}

impl JsonBounds {
    /// Checks a text, in one pass and without memory. What is no JSON is the parser's to refuse: here it only counts.
    ///
    /// # Errors
    /// The bound that was exceeded first.
    pub fn check(self, text: &[u8]) -> Result<(), Excess> {
        // Most texts are too small for either bound, even if all brackets in strings counted.
        if text.len() < self.max_values && memchr::memchr2_iter(b'{', b'[', text).nth(self.max_depth).is_none() {
            return Ok(());
        }
        let (mut depth, mut values) = (0_usize, 1_usize);
        let mut rest = text;
        while let Some((byte, after)) = rest.split_first() {
            rest = after;
            match byte {
                b'"' => rest = after_string(rest),
                b'{' | b'[' => {
                    depth += 1;
                    values += 1;
                    if depth > self.max_depth {
                        return Err(Excess::Depth);
                    }
                }
                b'}' | b']' => depth = depth.saturating_sub(1),
                b',' => values += 1,
                _ => {}
            }
            if values > self.max_values {
                return Err(Excess::Values);
            }
        }
        Ok(())
    }
}

/// What follows the string whose opening quote was read; nothing when it has no end.
pub(super) fn after_string(text: &[u8]) -> &[u8] {
    let mut rest = text;
    while let Some(at) = memchr::memchr2(b'"', b'\\', rest) {
        let escape = rest.get(at) == Some(&b'\\');
        // An escape covers the character after it, a quote included.
        rest = rest.get(at + 1 + usize::from(escape)..).unwrap_or_default();
        if !escape {
            return rest;
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, max_depth: usize, max_values: usize) -> Result<(), Excess> {
        JsonBounds { max_depth, max_values }.check(text.as_bytes())
    }

    #[test]
    fn depth_counts_objects_and_lists_but_nothing_within_strings() {
        assert_eq!(check(r#"{"a":[{"b":"[[[{{{\"[["}]}"#, 3, 100), Ok(()));
        assert_eq!(check(r#"{"a":[{"b":1}]}"#, 2, 100), Err(Excess::Depth));
        assert_eq!(check(r#"[[],[],[[]]]"#, 3, 100), Ok(()));
        assert_eq!(check(&"[".repeat(1_000_000), 128, 10_000_000), Err(Excess::Depth));
    }

    #[test]
    fn values_are_members_and_items() {
        assert_eq!(check(r#"{"a":1,"b":[2,3],"c":"x,y,\\"}"#, 9, 6), Ok(()));
        assert_eq!(check(r#"{"a":1,"b":[2,3],"c":"x,y"}"#, 9, 5), Err(Excess::Values));
        assert_eq!(check("7", 9, 1), Ok(()));
        assert_eq!(check("[1,2]", 9, 4), Ok(()));
        // One value each byte, and the whole, is the most that there can be.
        assert_eq!(check("[[[[[[[[[", 9, 10), Ok(()));
        assert_eq!(check("[[[[[[[[[", 9, 9), Err(Excess::Values));
    }

    #[test]
    fn what_is_cut_or_no_json_is_only_counted() {
        for text in ["", "\"", "\"\\", "]]]", "{\"a", "\"\\\"", "nonsense"] {
            assert_eq!(check(text, 1, 2), Ok(()), "{text}");
        }
    }
}
