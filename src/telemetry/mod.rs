//! What operators see: the account of every exchange, the metrics, the log and the traces. Used by the shells, never by the core.

pub mod account;
pub mod facts;
mod log_line;
pub mod metadata;
pub mod metrics;
mod runtime;
mod store;
pub mod traces;

pub use account::{Account, Reporter};

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Telemetry};

/// Sets up the log on stdout: what `make run-router` copies to its file and a container's runtime collects. `quiet` are
/// directives that the operator's own win over.
///
/// # Errors
/// When the level is no filter or another subscriber is set already.
pub fn log_to_stdout(telemetry: &Telemetry, quiet: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let filter = EnvFilter::try_new(format!("{quiet},{}", telemetry.log_level))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    match telemetry.log_format {
        // The list would repeat the one span that there is.
        LogFormat::Json => subscriber.json().with_span_list(false).try_init(),
        LogFormat::Text => subscriber.with_ansi(false).try_init(),
    }
}
