//! Asking a running router's admin listener, as `responses-router health` does: distroless images have no other program
//! that could.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The most bytes of an answer that are read; ours are a line.
const MAX_ANSWER_BYTES: u64 = 16 * 1024;

/// Why a router is not healthy.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nobody answers there.
    #[error("no answer from {address}")]
    Io {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The answer is not 200: its status, and its body when that is ours.
    #[error("{0}")]
    Unhealthy(String),
}

/// Asks for a path of the admin listener, such as `/readyz`.
///
/// # Errors
/// [`ProbeError`] for every answer but 200, and for none within `patience`.
pub async fn http(address: SocketAddr, path: &str, patience: Duration) -> Result<(), ProbeError> {
    let failed = |source| ProbeError::Io { address, source };
    let asked = tokio::time::timeout(patience, ask(address, path)).await;
    let answer = asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).unwrap_or(head).trim();
    if status.starts_with("200") {
        return Ok(());
    }
    Err(ProbeError::Unhealthy(format!("{status}: {}", body.trim())))
}

async fn ask(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
