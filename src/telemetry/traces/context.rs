//! W3C Trace Context: which trace a request belongs to, and whether that one is recorded.

/// The most bytes of a `tracestate` that are kept, which is what the specification asks everybody to carry.
const MAX_STATE_BYTES: usize = 512;

/// What `traceparent` and `tracestate` say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// Never zero.
    pub trace_id: u128,
    /// The caller's span. Never zero.
    pub span_id: u64,
    /// Whether the caller records.
    pub sampled: bool,
    /// `tracestate`, or nothing where it is malformed or long.
    pub state: String,
}

impl TraceContext {
    /// Reads the two headers; a `traceparent` that is malformed counts as none, as the specification wants.
    #[must_use]
    pub fn read(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let mut fields = traceparent.trim().split('-');
        let (version, trace_id) = (hex(fields.next()?, 2)?, hex(fields.next()?, 32)?);
        let (span_id, flags) = (hex(fields.next()?, 16)?, hex(fields.next()?, 2)?);
        // Later versions may say more behind these.
        if version == 0xff || version == 0 && fields.next().is_some() || trace_id == 0 || span_id == 0 {
            return None;
        }
        let state = tracestate.map(str::trim).filter(|state| {
            state.len() <= MAX_STATE_BYTES && state.bytes().all(|byte| byte == b'\t' || matches!(byte, b' '..=b'~'))
        });
        Some(Self {
            trace_id,
            span_id: u64::try_from(span_id).ok()?,
            sampled: flags & 1 == 1,
            state: state.unwrap_or_default().to_owned(),
        })
    }
}

/// A number of exactly so many lower-case hex digits.
fn hex(field: &str, digits: usize) -> Option<u128> {
    let lower = field.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if field.len() == digits && lower { u128::from_str_radix(field, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_well_formed_parent_is_read() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = TraceContext::read(parent, Some("vendor=a,other=b")).unwrap();
        assert_eq!(context.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!((context.span_id, context.sampled), (0xb7ad_6b71_6920_3331, true));
        assert_eq!(context.state, "vendor=a,other=b");
        let unsampled = TraceContext::read(&parent.replace("-01", "-fe"), None).unwrap();
        assert_eq!((unsampled.sampled, unsampled.state.as_str()), (false, ""));
        // A later version may have more fields.
        assert!(TraceContext::read(&format!("{}-x", parent.replacen("00", "cc", 1)), None).is_some());
    }

    #[test]
    fn a_malformed_parent_is_none() {
        for bad in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g",
        ] {
            assert_eq!(TraceContext::read(bad, None), None, "{bad}");
        }
    }

    #[test]
    fn a_state_that_is_long_or_strange_is_left_out() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        for state in ["x".repeat(513), "a=\u{e9}".to_owned(), "a=\n".repeat(2) + "b"] {
            assert_eq!(TraceContext::read(parent, Some(&state)).unwrap().state, "", "{state}");
        }
    }
}
