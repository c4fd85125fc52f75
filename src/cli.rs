//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// An Envoy external processor that makes any chat completions backend speak the OpenAI Responses API.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "responses-router", version, about)]
pub struct Args {
    /// The YAML config file; without it every setting has its default
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Check the config and exit: 0 when it is good, 64 when it is not
    #[arg(long, alias = "check-config")]
    pub check: bool,
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
        assert_eq!(parse(&[]).unwrap(), Args { config: None, check: false });
    }

    #[test]
    fn config_and_check_are_read() {
        let args = Args { config: Some("config/config.yaml".into()), check: true };
        assert_eq!(parse(&["--config", "config/config.yaml", "--check"]).unwrap(), args);
        assert_eq!(parse(&["--config=config/config.yaml", "--check-config"]).unwrap(), args);
    }

    #[test]
    fn version_is_the_crates() {
        let version = parse(&["--version"]).unwrap_err();
        assert_eq!(version.kind(), ErrorKind::DisplayVersion);
        assert_eq!(version.to_string(), concat!("responses-router ", env!("CARGO_PKG_VERSION"), "\n"));
    }

    #[test]
    fn unknown_arguments_are_refused() {
        assert_eq!(parse(&["--port", "1"]).unwrap_err().kind(), ErrorKind::UnknownArgument);
        assert_eq!(parse(&["config.yaml"]).unwrap_err().kind(), ErrorKind::UnknownArgument);
    }
}
