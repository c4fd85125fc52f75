//! Where the server listens: a port, or a unix socket whose file comes and goes with it.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener, UnixStream};

use super::tls::Tls;
use crate::config::{Listen, SocketMode};

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
    /// The unix socket's file cannot have the permissions asked for.
    #[error("cannot give {} the mode {mode} (server.socket_mode)", path.display())]
    Mode {
        /// The socket.
        path: PathBuf,
        /// The permissions.
        mode: SocketMode,
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
    pub(super) socket: Socket,
    listen: Listen,
}

#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Tls(TcpListener, Arc<Tls>),
    Unix(UnixListener, SocketFile),
}

impl Listener {
    /// Binds. A unix socket that a dead process left behind is replaced; a live one, or another kind of file, is not.
    ///
    /// With a `mode`, a unix socket has these permissions from the first moment, whatever the umask; who may write to it
    /// may connect. A port has none.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(listen: &Listen, mode: Option<SocketMode>) -> Result<Self, BindError> {
        let failed = |source| BindError::Listen { listen: listen.clone(), source };
        match listen {
            Listen::Tcp(address) => {
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                let address = listener.local_addr().map_err(failed)?;
                Ok(Self { socket: Socket::Tcp(listener), listen: Listen::Tcp(address) })
            }
            Listen::Unix(path) => {
                remove_stale(path).await?;
                let listener = match mode {
                    Some(mode) => bind_with_mode(path, mode, failed)?,
                    None => UnixListener::bind(path).map_err(failed)?,
                };
                let file = SocketFile::of(path).map_err(failed)?;
                Ok(Self { socket: Socket::Unix(listener, file), listen: listen.clone() })
            }
        }
    }

    /// Speaks TLS on a port. A unix socket stays as it is: its file's permissions say who may connect.
    #[must_use]
    pub fn with_tls(self, tls: Arc<Tls>) -> Self {
        let socket = match self.socket {
            Socket::Tcp(listener) | Socket::Tls(listener, _) => Socket::Tls(listener, tls),
            unix @ Socket::Unix(..) => unix,
        };
        Self { socket, ..self }
    }

    /// Where it listens, with the port that was chosen.
    #[must_use]
    pub fn listen(&self) -> &Listen {
        &self.listen
    }
}

/// Binds in a folder that only we can enter, and gives the socket its name when it has its permissions: of a socket that
/// is there before, whoever the umask lets in could connect, and would be served.
fn bind_with_mode(
    path: &Path,
    mode: SocketMode,
    failed: impl Fn(io::Error) -> BindError,
) -> Result<UnixListener, BindError> {
    let folder = path.with_file_name(format!(".{:08x}", rand::random::<u32>()));
    let hidden = folder.join("s");
    std::fs::DirBuilder::new().mode(0o700).create(&folder).map_err(&failed)?;
    let bind = || {
        let listener = UnixListener::bind(&hidden).map_err(&failed)?;
        std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(mode.bits()))
            .map_err(|source| BindError::Mode { path: path.to_owned(), mode, source })?;
        // Fails if there is something by now, where a renaming would replace it.
        std::fs::hard_link(&hidden, path).map_err(&failed)?;
        Ok(listener)
    };
    let listener = bind();
    // What stays behind is empty, or a socket that nobody can reach.
    let _ = std::fs::remove_file(&hidden);
    let _ = std::fs::remove_dir(&folder);
    listener
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
pub(super) struct SocketFile {
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
