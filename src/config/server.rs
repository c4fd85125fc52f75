//! The `server` block: where the router listens and how it stops.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::de::Deserializer;
use serde::{Deserialize, Serialize};

use super::{checked, shown};

/// The `server` block.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping of the server settings")]
pub struct Server {
    /// Where Envoy reaches the ext_proc service. `IP:PORT` or `unix:/path`. Default: `127.0.0.1:50051`.
    #[serde(deserialize_with = "checked::parsed", serialize_with = "shown::display")]
    pub listen: Listen,
    /// The permissions of the unix socket, as octal digits (`"0660"`); null or `""` leaves them to the umask. Who may
    /// write to it may connect. Default: null.
    #[serde(deserialize_with = "checked::unless_blank", serialize_with = "shown::display_or_null")]
    pub socket_mode: Option<SocketMode>,
    /// TLS on a port. Default: none, clear text.
    pub tls: Option<ServerTls>,
    /// Where health and metrics are served over HTTP. `IP:PORT`; null or `""` is off. Default: `127.0.0.1:9190`.
    #[serde(deserialize_with = "admin_listen")]
    pub admin_listen: Option<SocketAddr>,
    /// `drain_seconds`: how long exchanges in flight may go on after SIGTERM. Whole seconds, from 0. Default: 25, which
    /// fits into Kubernetes' grace period of 30.
    #[serde(deserialize_with = "checked::seconds_or_zero", serialize_with = "shown::seconds")]
    pub drain_seconds: Duration,
    /// `drain_delay_seconds`: how long new exchanges are still taken after SIGTERM, while health already tells that the
    /// router goes. Whole seconds, from 0; `drain_seconds` begin after them. Default: 0.
    #[serde(deserialize_with = "checked::seconds_or_zero", serialize_with = "shown::seconds")]
    pub drain_delay_seconds: Duration,
    /// Worker threads, 1 to 1024; null is one per core. Default: null.
    #[serde(deserialize_with = "checked::threads")]
    pub threads: Option<NonZeroUsize>,
}

impl Default for Server {
    fn default() -> Self {
        let localhost = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Server {
            listen: Listen::Tcp(localhost(50051)),
            socket_mode: None,
            tls: None,
            admin_listen: Some(localhost(9190)),
            drain_seconds: Duration::from_secs(25),
            drain_delay_seconds: Duration::ZERO,
            threads: None,
        }
    }
}

/// The files of the listener's TLS; each is read again when it changes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, expecting = "a mapping of the TLS settings: `cert_path` and `key_path`")]
pub struct ServerTls {
    /// The PEM file of the certificate, its chain after it.
    #[serde(deserialize_with = "checked::file")]
    pub cert_path: PathBuf,
    /// The PEM file of its key, not encrypted.
    #[serde(deserialize_with = "checked::file")]
    pub key_path: PathBuf,
    /// The PEM file of the authorities whose clients may connect; null or `""` lets everybody. Default: null.
    #[serde(default, deserialize_with = "checked::file_unless_blank")]
    pub client_ca_path: Option<PathBuf>,
}

/// The permissions of a file: what its owner, its group and all others may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketMode(u32);

impl SocketMode {
    /// As the system has them.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }
}

/// Renders as it is written in the config.
impl fmt::Display for SocketMode {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "{:04o}", self.0)
    }
}

impl FromStr for SocketMode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<SocketMode, Self::Err> {
        let digits = text.strip_prefix('0').filter(|digits| digits.len() == 3).unwrap_or(text);
        let octal = digits.len() == 3 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
        let mode = u32::from_str_radix(digits, 8).ok().filter(|_| octal);
        mode.map(SocketMode).ok_or("must be three octal digits, such as `\"0660\"`")
    }
}

fn admin_listen<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    checked::unless_blank(deserializer).map(|address| address.map(|AdminListen(address)| address))
}

/// The address of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// An IP address and a port; port 0 is a free one.
    Tcp(SocketAddr),
    /// The absolute path of a Unix domain socket, at most 107 bytes.
    Unix(PathBuf),
}

impl Listen {
    /// The longest path that fits into Linux' `sockaddr_un`, which holds a NUL after it.
    const MAX_PATH_BYTES: usize = 107;
}

/// Renders as it is written in the config.
impl fmt::Display for Listen {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Listen::Tcp(address) => write!(formatter, "{address}"),
            Listen::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// Why a text is not the address of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// Neither form.
    #[error("must be an IP address and a port (`127.0.0.1:50051`, `[::1]:50051`) or `unix:/path`")]
    Neither,
    /// A Unix socket with a relative path, or none.
    #[error("the path after `unix:` must be absolute")]
    Relative,
    /// A Unix socket whose path the kernel would not take.
    #[error("the path after `unix:` must be at most {} bytes long, without a NUL", Listen::MAX_PATH_BYTES)]
    Path,
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Listen, ListenError> {
        match text.strip_prefix("unix:") {
            Some(path) if !path.starts_with('/') => Err(ListenError::Relative),
            Some(path) if path.len() > Listen::MAX_PATH_BYTES || path.contains('\0') => Err(ListenError::Path),
            Some(path) => Ok(Listen::Unix(PathBuf::from(path))),
            None => text.parse().map(Listen::Tcp).map_err(|_| ListenError::Neither),
        }
    }
}

struct AdminListen(SocketAddr);

impl FromStr for AdminListen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<AdminListen, Self::Err> {
        text.parse()
            .map(AdminListen)
            .map_err(|_| "must be an IP address and a port (`127.0.0.1:9190`), or empty for none")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_render_as_they_are_written() {
        for text in ["127.0.0.1:50051", "[::1]:50051", "0.0.0.0:0", "unix:/run/router.sock"] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn modes_are_three_octal_digits() {
        for (text, bits, rendered) in [("0660", 0o660, "0660"), ("777", 0o777, "0777"), ("000", 0, "0000")] {
            let mode: SocketMode = text.parse().unwrap();
            assert_eq!((mode.bits(), &*mode.to_string()), (bits, rendered));
        }
        for text in ["", "0", "66", "0o660", "0668", "00660", "1660", "rw-", "-660", "+66"] {
            assert!(text.parse::<SocketMode>().is_err(), "{text}");
        }
    }

    #[test]
    fn anything_else_is_not_an_address() {
        let long = format!("unix:/{}", "x".repeat(107));
        for (text, error) in [
            ("", ListenError::Neither),
            ("50051", ListenError::Neither),
            ("127.0.0.1", ListenError::Neither),
            ("127.0.0.1:99999", ListenError::Neither),
            ("localhost:50051", ListenError::Neither),
            ("unix:", ListenError::Relative),
            ("unix:router.sock", ListenError::Relative),
            (&long, ListenError::Path),
        ] {
            assert_eq!(text.parse::<Listen>(), Err(error), "{text}");
        }
    }
}
