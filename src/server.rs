//! The listener that Envoy connects to: TCP or a unix socket, gRPC health, and a stop that lets exchanges finish.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;

use crate::config::Listen;
use crate::extproc::{ExternalProcessorServer, ExternalProcessorService, Handler};

/// The largest message accepted from Envoy. In FULL_DUPLEX_STREAMED it cuts bodies into pieces of about 1 MiB, so this
/// is far away; tonic's own 4 MiB would do.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// How many streams may be reset before they were accepted, per connection. More would be taken for the "rapid reset"
/// attack and end the connection with all its live streams; h2's 20 is for strangers, and Envoy resets a stream for
/// every client that hangs up.
const MAX_PENDING_RESETS: usize = 4096;

/// A ping this often finds out that the machine on the other side is gone; an idle exchange would wait for ever.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// How long the answer to a ping may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long exchanges that outlived the grace may take over their last event, its write to the store included.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The names under which health is told: the whole server, and the service.
const HEALTH_NAMES: [&str; 2] = ["", "envoy.service.ext_proc.v3.ExternalProcessor"];

/// Why listening failed.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken, not ours, or not permitted.
    #[error("cannot listen on {listen}")]
    Listen {
        /// The address.
        listen: Listen,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process answers on the unix socket.
    #[error("another process listens on {}", .0.display())]
    InUse(PathBuf),
    /// Something that is no socket has the path of the unix socket.
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
}

/// A listener that is bound but does not serve yet: a client that connects now waits.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    listen: Listen,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

impl Listener {
    /// Binds. A unix socket that a dead process left behind is replaced; a live one, or another kind of file, is not.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(listen: &Listen) -> Result<Self, BindError> {
        let failed = |source| BindError::Listen { listen: listen.clone(), source };
        match listen {
            Listen::Tcp(address) => {
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                let address = listener.local_addr().map_err(failed)?;
                Ok(Self { socket: Socket::Tcp(listener), listen: Listen::Tcp(address) })
            }
            Listen::Unix(path) => {
                remove_stale(path).await?;
                let listener = UnixListener::bind(path).map_err(failed)?;
                let file = SocketFile::of(path).map_err(failed)?;
                Ok(Self { socket: Socket::Unix(listener, file), listen: listen.clone() })
            }
        }
    }

    /// Where it listens, with the port that was chosen.
    #[must_use]
    pub fn listen(&self) -> &Listen {
        &self.listen
    }
}

/// Removes what a dead process left: nobody accepts on it.
async fn remove_stale(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Listen { listen: Listen::Unix(path.to_owned()), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(file) if !file.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(BindError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "removing the socket of a process that is gone");
            std::fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Removes a unix socket when the listener goes, unless a successor has put its own in that place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device_and_inode: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), device_and_inode: device_and_inode(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if device_and_inode(&self.path).is_ok_and(|now| now == self.device_and_inode) {
            // A socket that stays behind is replaced at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn device_and_inode(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// How a server stops.
#[derive(Debug, Clone)]
pub struct Stop {
    /// Cancelled to stop: connections get GOAWAY, which makes Envoy send new exchanges elsewhere, and exchanges go on.
    pub token: CancellationToken,
    /// How long they may go on.
    pub grace: Duration,
    /// Cancelled by the server when the grace is over: the exchanges that are left say so to their clients and end.
    pub grace_over: CancellationToken,
    /// What has to end before the server has: live exchanges, and whatever tasks the handler tracks here.
    pub live: TaskTracker,
}

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Everything finished.
    Clean,
    /// The grace was over first.
    GraceOver {
        /// Exchanges and tasks that were still alive. The end of the process cuts them: Envoy sees its connection
        /// break, never a clean end.
        live: usize,
    },
}

/// Serves exchanges until `stop` is asked for and done. gRPC health tells SERVING, and NOT_SERVING from the stop on.
///
/// # Errors
/// When tonic fails to serve at all; a broken connection is no such case.
pub async fn serve<H: Handler>(
    listener: Listener,
    handler: Arc<H>,
    stop: Stop,
) -> Result<Stopped, tonic::transport::Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    for name in HEALTH_NAMES {
        health.set_service_status(name, ServingStatus::Serving).await;
    }
    let token = stop.token.clone();
    let stopping = async move {
        token.cancelled().await;
        for name in HEALTH_NAMES {
            health.set_service_status(name, ServingStatus::NotServing).await;
        }
    };
    let service = ExternalProcessorServer::new(ExternalProcessorService::new(handler, stop.live.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    // max_concurrent_streams stays unset: every live answer is a stream, and a limit of 10 made a cold Envoy fail 30 of
    // 40 requests, because it learns of the limit too late.
    let router = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .add_service(health_service)
        .add_service(service);
    let serving = async move {
        match listener.socket {
            Socket::Tcp(listener) => {
                let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
                router.serve_with_incoming_shutdown(incoming, stopping).await
            }
            Socket::Unix(listener, _file) => {
                router.serve_with_incoming_shutdown(UnixListenerStream::new(listener), stopping).await
            }
        }
    };
    let grace_over = async {
        stop.token.cancelled().await;
        tokio::time::sleep(stop.grace).await;
        stop.grace_over.cancel();
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::select! {
        result = async {
            serving.await?;
            stop.live.close();
            stop.live.wait().await;
            Ok(Stopped::Clean)
        } => result,
        () = grace_over => Ok(Stopped::GraceOver { live: stop.live.len() }),
    }
}
