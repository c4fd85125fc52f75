//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::build_info::LONG_VERSION;
use crate::config::Listen;

/// An Envoy external processor that makes any chat completions backend speak the OpenAI Responses API.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "responses-router", version, long_version = LONG_VERSION, about)]
pub struct Args {
    /// The YAML config file; without it every setting has its default
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,

    /// Check the config and exit: 0 when it is good, 64 when it is not
    #[arg(long, alias = "check-config")]
    pub check: bool,

    /// What to do instead of serving
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of serving.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Check the config and, with --envoy, an Envoy config: exit 0 when both will do, 1 when Envoy's will not, 64 when
    /// a file cannot be read
    Check {
        /// The Envoy config, YAML or JSON: a bootstrap, a listener, or what its admin page /config_dump shows
        #[arg(long, value_name = "FILE")]
        envoy: Option<PathBuf>,

        /// How findings are printed
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Ask a running router whether it is healthy, for probes: exit 0 or 1
    Health {
        /// Where its admin listener is; by default where the config says
        #[arg(long, value_name = "IP:PORT", conflicts_with = "grpc")]
        admin: Option<SocketAddr>,

        /// Ask whether it is ready (/readyz) rather than alive (/healthz)
        #[arg(long, conflicts_with = "grpc")]
        ready: bool,

        /// Ask the gRPC health service there instead, in clear text
        #[arg(long, value_name = "IP:PORT|unix:/path")]
        grpc: Option<Listen>,
    },
}

/// How findings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once(&"responses-router").chain(args))
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn no_arguments_mean_defaults_and_no_check() {
        assert_eq!(parse(&[]).unwrap(), Args { config: None, check: false, command: None });
    }

    #[test]
    fn config_and_check_are_read() {
        let args = Args { config: Some("config/config.yaml".into()), check: true, command: None };
        assert_eq!(parse(&["--config", "config/config.yaml", "--check"]).unwrap(), args);
        assert_eq!(parse(&["--config=config/config.yaml", "--check-config"]).unwrap(), args);
    }

    #[test]
    fn version_is_the_crates_and_the_long_one_tells_the_build() {
        let long = parse(&["--version"]).unwrap_err().to_string();
        for part in [concat!("responses-router ", env!("CARGO_PKG_VERSION"), "\n"), "\ncommit: ", "\nrustc: rustc 1."] {
            assert!(long.contains(part), "{long}");
        }
        let version = parse(&["-V"]).unwrap_err();
        assert_eq!(version.kind(), ErrorKind::DisplayVersion);
        assert_eq!(version.to_string(), concat!("responses-router ", env!("CARGO_PKG_VERSION"), "\n"));
    }

    #[test]
    fn commands_take_the_config_before_and_after_them() {
        let check = |envoy: Option<&str>| Args {
            config: Some("c.yaml".into()),
            check: false,
            command: Some(Command::Check { envoy: envoy.map(Into::into), format: Format::Text }),
        };
        assert_eq!(parse(&["check", "--config", "c.yaml"]).unwrap(), check(None));
        assert_eq!(parse(&["--config", "c.yaml", "check", "--envoy", "e.yaml"]).unwrap(), check(Some("e.yaml")));
    }

    #[test]
    fn unknown_arguments_are_refused() {
        assert_eq!(parse(&["--port", "1"]).unwrap_err().kind(), ErrorKind::UnknownArgument);
        assert_eq!(parse(&["config.yaml"]).unwrap_err().kind(), ErrorKind::InvalidSubcommand);
        assert_eq!(parse(&["health", "--grpc", "localhost:1"]).unwrap_err().kind(), ErrorKind::ValueValidation);
        let both = ["health", "--grpc", "127.0.0.1:1", "--admin", "127.0.0.1:2"];
        assert_eq!(parse(&both).unwrap_err().kind(), ErrorKind::ArgumentConflict);
    }
}
