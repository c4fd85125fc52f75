//! What this program was built from.

use serde::Serialize;

/// What this program was built from, as far as the build knew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BuildInfo {
    /// The crate's version.
    pub version: &'static str,
    /// The commit, when `RESPONSES_ROUTER_COMMIT` was set for the build.
    pub commit: Option<&'static str>,
    /// The compiler's version.
    pub rustc: &'static str,
    /// The cargo features.
    pub features: Vec<&'static str>,
}

impl BuildInfo {
    /// Of this program.
    #[must_use]
    pub fn of_this_program() -> Self {
        let features = env!("BUILT_WITH_FEATURES").split(',');
        Self {
            version: env!("CARGO_PKG_VERSION"),
            commit: Some(env!("BUILT_WITH_COMMIT")).filter(|commit| *commit != "unknown"),
            rustc: env!("BUILT_WITH_RUSTC"),
            features: features.filter(|feature| !feature.is_empty()).collect(),
        }
    }
}

/// What `--version` prints after the program's name.
pub const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ncommit: ",
    env!("BUILT_WITH_COMMIT"),
    "\nrustc: ",
    env!("BUILT_WITH_RUSTC"),
    "\nfeatures: ",
    env!("BUILT_WITH_FEATURES"),
);
