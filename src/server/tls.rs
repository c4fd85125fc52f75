//! TLS on the listener: certificates from files, renewed while the router runs.
//!
//! The files are read again every [`LOOK_EVERY`] and compared by their contents, because cert-manager, SDS and Kubernetes
//! replace them in different ways (a rename, a symlink to another folder, a write in place). A handshake takes what is
//! current; a connection keeps what it began with, so that a renewal cuts nothing. A renewal that cannot be used is
//! logged once, and what was there stays.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use ring::digest::{Context, SHA256};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;

use crate::config::ServerTls;

/// How often the files are read again.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The largest file that is read; chains and bundles of authorities are far smaller.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// How long a client may take over its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How many handshakes may be under way at once; further connections wait to be accepted.
const MAX_HANDSHAKES: usize = 512;

/// Why TLS cannot be spoken with these files. It names keys of the config and files, and nothing of what is in them.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{key}: {} cannot be read", file.display())]
    Unreadable {
        /// The key of the config.
        key: &'static str,
        /// The file that it names.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{key}: {} {problem}", file.display())]
    Unusable {
        /// The key of the config.
        key: &'static str,
        /// The file that it names.
        file: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Certificate and key are good by themselves and no pair.
    #[error("server.tls.key_path: {} is not the key of the first certificate in {}", key.display(), certificate.display())]
    NoPair {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// The TLS library refuses them.
    #[error("server.tls: {0}")]
    Refused(#[source] rustls::Error),
}

/// The listener's side of TLS.
#[derive(Debug)]
pub struct Tls {
    files: ServerTls,
    current: ArcSwap<ServerConfig>,
    /// Of the files that `current` was made of.
    digest: Mutex<Digest>,
}

type Digest = [u8; 32];

/// What a look at the files found.
#[derive(Debug)]
pub enum Look {
    /// What is in use.
    Same,
    /// Others, which are in use from now on.
    Renewed,
    /// Something that cannot be used, or nothing.
    Refused(TlsError),
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn read(files: &ServerTls) -> Result<Self, TlsError> {
        let pems = Pems::read(files)?;
        let config = pems.config(files)?;
        Ok(Self { files: files.clone(), current: ArcSwap::from_pointee(config), digest: Mutex::new(pems.digest()) })
    }

    /// Looks whether the files have changed, and takes them into use.
    pub fn look(&self) -> Look {
        let pems = match Pems::read(&self.files) {
            Ok(pems) => pems,
            Err(error) => return Look::Refused(error),
        };
        let found = pems.digest();
        let mut digest = self.digest.lock().unwrap_or_else(PoisonError::into_inner);
        if found == *digest {
            return Look::Same;
        }
        match pems.config(&self.files) {
            Ok(config) => {
                self.current.store(Arc::new(config));
                *digest = found;
                Look::Renewed
            }
            Err(error) => Look::Refused(error),
        }
    }

    /// Looks for ever. Certificate and key may be replaced one after the other, so only what is still wrong at the next
    /// look is worth a warning, and one is enough.
    async fn renew(self: Arc<Self>) {
        let mut wrong: Option<(String, u32)> = None;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let tls = Arc::clone(&self);
            let Ok(look) = tokio::task::spawn_blocking(move || tls.look()).await else { continue };
            wrong = match look {
                Look::Same => None,
                Look::Renewed => {
                    tracing::info!("the listener's certificate was renewed: new connections get it");
                    None
                }
                Look::Refused(error) => {
                    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                    let problem = format!("{error}{}", cause.unwrap_or_default());
                    let looks = wrong.filter(|(before, _)| *before == problem).map_or(1, |(_, looks)| looks + 1);
                    if looks == 2 {
                        tracing::warn!("the renewed certificate cannot be used, the old one stays: {problem}");
                    }
                    // Two are as good as more.
                    Some((problem, looks.min(3)))
                }
            };
        }
    }

    fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }
}

/// What the files hold.
struct Pems {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

const CERTIFICATE: &str = "server.tls.cert_path";
const KEY: &str = "server.tls.key_path";
const CLIENT_CA: &str = "server.tls.client_ca_path";

impl Pems {
    fn read(files: &ServerTls) -> Result<Self, TlsError> {
        Ok(Self {
            certificate: read(CERTIFICATE, &files.cert_path)?,
            key: read(KEY, &files.key_path)?,
            client_ca: files.client_ca_path.as_deref().map(|file| read(CLIENT_CA, file)).transpose()?,
        })
    }

    fn digest(&self) -> Digest {
        let mut context = Context::new(&SHA256);
        for pem in [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten() {
            context.update(&(pem.len() as u64).to_be_bytes());
            context.update(pem);
        }
        let mut digest = Digest::default();
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }

    fn config(&self, files: &ServerTls) -> Result<ServerConfig, TlsError> {
        // Named, not taken from the process' default, which another library may have set or left ambiguous.
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Refused)?;
        let builder = match (&self.client_ca, &files.client_ca_path) {
            (Some(pem), Some(file)) => {
                let unusable = |problem| TlsError::Unusable { key: CLIENT_CA, file: file.clone(), problem };
                let mut roots = RootCertStore::empty();
                for authority in certificates(CLIENT_CA, file, pem)? {
                    roots.add(authority).map_err(|_| unusable("holds a certificate that cannot be trusted as one"))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                let verifier = verifier.map_err(|_| unusable("cannot be used to verify clients"))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let chain = certificates(CERTIFICATE, &files.cert_path, &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| TlsError::Unusable {
            key: KEY,
            file: files.key_path.clone(),
            problem: match error {
                PemError::NoItemsFound => "holds no private key that is not encrypted",
                _ => "is damaged",
            },
        })?;
        let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                TlsError::NoPair { certificate: files.cert_path.clone(), key: files.key_path.clone() }
            }
            rustls::Error::InvalidCertificate(_) => TlsError::Unusable {
                key: CERTIFICATE,
                file: files.cert_path.clone(),
                problem: "holds a certificate that cannot be parsed",
            },
            error => TlsError::Refused(error),
        })?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

fn read(key: &'static str, file: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |source| TlsError::Unreadable { key, file: file.to_owned(), source };
    let mut pem = Vec::new();
    File::open(file).map_err(unreadable)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut pem).map_err(unreadable)?;
    if pem.len() as u64 > MAX_FILE_BYTES {
        return Err(TlsError::Unusable { key, file: file.to_owned(), problem: "is larger than 4 MiB" });
    }
    Ok(pem)
}

/// At least one certificate.
fn certificates(key: &'static str, file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    // The library's own words would repeat lines of the file.
    let unusable = |problem| TlsError::Unusable { key, file: file.to_owned(), problem };
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| unusable("is damaged"))?;
    if certificates.is_empty() {
        return Err(unusable("holds no certificate"));
    }
    Ok(certificates)
}

/// The connections of a listener, each after its handshake. Handshakes run beside one another, so that one that dawdles
/// holds nobody up. Accepting ends when the stream is dropped.
pub(super) fn accept(listener: TcpListener, tls: Arc<Tls>) -> ReceiverStream<io::Result<TlsStream<TcpStream>>> {
    let (connections, incoming) = mpsc::channel(1);
    let renewing = Arc::clone(&tls).renew();
    TaskTracker::new().spawn(async move {
        tokio::select! {
            () = connections.closed() => {}
            () = accepting(&listener, &tls, &connections) => {}
            () = renewing => {}
        }
    });
    ReceiverStream::new(incoming)
}

async fn accepting(listener: &TcpListener, tls: &Tls, connections: &mpsc::Sender<io::Result<TlsStream<TcpStream>>>) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    while let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, mostly: waiting beats spinning.
                tracing::warn!(%error, "the listener cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, connections) = (tls.acceptor(), connections.clone());
        TaskTracker::new().spawn(async move {
            let handshake = async {
                stream.set_nodelay(true)?;
                acceptor.accept(stream).await
            };
            tokio::select! {
                () = connections.closed() => {}
                done = tokio::time::timeout(HANDSHAKE, handshake) => match done {
                    // The receiver is gone when the server stops.
                    Ok(Ok(stream)) => drop(connections.send(Ok(stream)).await),
                    // Only the operator can tell whether a stranger or a misconfigured Envoy was turned away.
                    Ok(Err(error)) => tracing::info!(%error, "a TLS handshake failed"),
                    Err(_) => tracing::info!("a TLS handshake took too long"),
                },
            }
            drop(permit);
        });
    }
}
