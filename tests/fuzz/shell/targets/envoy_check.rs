//! Envoy configs: whatever `check --envoy` is given, it says what is wrong with it or that it cannot read it, in bounded
//! time.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use responses_router::config::Config;
use responses_router::envoy_config::{OurTenancy, Ours, Unreadable, check};

/// The router's own settings, as far as the rules differ by them.
static OURS: LazyLock<[Ours; 4]> = LazyLock::new(|| {
    let with = |tenancy| Ours { tenancy, ..Ours::of(&Config::default(), true) };
    [
        Ours::of(&Config::default(), false),
        with(OurTenancy::Header("x-tenant".to_owned())),
        with(OurTenancy::Metadata("envoy.filters.http.jwt_authn".to_owned())),
        with(OurTenancy::JwtClaim),
    ]
});

fuzz_target!(|text: &[u8]| {
    // Any property of the text would do; its length leaves the text an Envoy config from its first byte on.
    let ours = &OURS[text.len() % OURS.len()];
    match check(text, ours) {
        Ok(report) => {
            let again = check(text, ours).expect("what was read can be read again");
            assert_eq!(report.to_string(), again.to_string(), "a report depends on chance");
        }
        Err(Unreadable::TooLarge) => panic!("{} bytes are not too large", text.len()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
