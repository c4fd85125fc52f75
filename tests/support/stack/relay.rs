//! A relay between two of the parts, which a test has do harm: cut connections, hold back answers, talk nonsense.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::wait::{RUNTIME, eventually};

/// What becomes of a connection.
#[derive(Debug, Clone)]
pub(crate) enum Fate {
    /// It is relayed to its end.
    Pass,
    /// It is reset as soon as the client has said something.
    Reset,
    /// It is relayed, and reset after so many bytes of answers.
    ResetAfter(usize),
    /// Nothing is answered; after this time it is closed.
    Hang(Duration),
    /// This is answered, whatever the client says, and it is closed.
    Say(&'static [u8]),
}

type Fates = Box<dyn FnMut() -> Fate + Send>;

struct Shared {
    server: Mutex<Option<SocketAddr>>,
    /// Bytes that clients have said.
    asked: AtomicU64,
    fates: Mutex<Fates>,
    answers_held: watch::Sender<bool>,
    /// How often all connections were cut.
    cuts: watch::Sender<u64>,
}

/// A running relay.
pub(crate) struct Relay {
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<AbortHandle>,
    /// Keeps the port while nobody listens on it.
    _place: TcpSocket,
}

impl Relay {
    /// A relay that leads nowhere yet, and passes on everything once it does.
    pub(crate) fn start() -> Self {
        let place = socket_at(SocketAddr::from(([127, 0, 0, 1], 0)));
        let address = place.local_addr().unwrap();
        let shared = Arc::new(Shared {
            server: Mutex::new(None),
            asked: AtomicU64::new(0),
            fates: Mutex::new(Box::new(|| Fate::Pass)),
            answers_held: watch::Sender::new(false),
            cuts: watch::Sender::new(0),
        });
        let mut relay = Self { address, shared, accepting: None, _place: place };
        relay.listen();
        relay
    }

    /// Takes connections, again after [`Relay::refuse`].
    pub(crate) fn listen(&mut self) {
        let _runtime = RUNTIME.enter();
        let listener = socket_at(self.address).listen(1024).unwrap();
        self.accepting = Some(RUNTIME.spawn(accept(listener, Arc::clone(&self.shared))).abort_handle());
    }

    /// Cuts all connections, and refuses others.
    pub(crate) async fn refuse(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
        }
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
        let address = self.address;
        eventually("the relay refuses connections", async || TcpStream::connect(address).await.is_err().then_some(()))
            .await;
    }

    /// How many bytes clients have said so far.
    pub(crate) fn asked_bytes(&self) -> u64 {
        self.shared.asked.load(Ordering::SeqCst)
    }

    /// Leads to this server from now on.
    pub(crate) fn lead_to(&self, server: SocketAddr) {
        *self.shared.server.lock().unwrap() = Some(server);
    }

    /// Has the fate of each new connection decided.
    pub(crate) fn decide(&self, fates: impl FnMut() -> Fate + Send + 'static) {
        *self.shared.fates.lock().unwrap() = Box::new(fates);
    }

    /// Holds back what the server says, on all connections, until told otherwise. What clients say goes on.
    pub(crate) fn hold_answers(&self, held: bool) {
        self.shared.answers_held.send_replace(held);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

fn socket_at(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let fate = (shared.fates.lock().unwrap())();
        let shared = Arc::clone(&shared);
        RUNTIME.spawn(async move {
            // Broken by either side: what the tests look for.
            let _ = live(client, fate, &shared).await;
        });
    }
}

async fn live(mut client: TcpStream, fate: Fate, shared: &Shared) -> std::io::Result<()> {
    let limit = match fate {
        Fate::Pass => usize::MAX,
        Fate::ResetAfter(bytes) => bytes,
        Fate::Reset => {
            client.readable().await?;
            return client.set_zero_linger();
        }
        Fate::Hang(long) => {
            tokio::time::sleep(long).await;
            return Ok(());
        }
        Fate::Say(bytes) => {
            client.readable().await?;
            client.write_all(bytes).await?;
            client.shutdown().await?;
            // So that the close does not overtake the bytes as a reset.
            while client.read(&mut [0; 1024]).await? > 0 {}
            return Ok(());
        }
    };
    let server = *shared.server.lock().unwrap();
    let Some(server) = server else { return client.set_zero_linger() };
    let mut server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let whole = {
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let up = async {
            let mut piece = vec![0; 16384];
            loop {
                let read = from_client.read(&mut piece).await?;
                if read == 0 {
                    return to_server.shutdown().await;
                }
                shared.asked.fetch_add(u64::try_from(read).unwrap(), Ordering::SeqCst);
                to_server.write_all(&piece[..read]).await?;
            }
        };
        let down = pass(&mut from_server, &mut to_client, limit, shared.answers_held.subscribe());
        tokio::pin!(up);
        tokio::pin!(down);
        let mut cuts = shared.cuts.subscribe();
        // The way up may end before the answer; after the answer's way nothing is left.
        tokio::select! {
            down = &mut down => down?,
            _ = cuts.changed() => false,
            up = &mut up => {
                up?;
                down.await?
            }
        }
    };
    if whole { Ok(()) } else { client.set_zero_linger() }
}

/// Whether all of it could be passed on within the limit.
async fn pass(
    from: &mut (impl tokio::io::AsyncRead + Unpin),
    to: &mut (impl tokio::io::AsyncWrite + Unpin),
    limit: usize,
    mut held: watch::Receiver<bool>,
) -> std::io::Result<bool> {
    let mut left = limit;
    let mut piece = vec![0; 16384];
    loop {
        let read = from.read(&mut piece).await?;
        if held.wait_for(|held| !held).await.is_err() || read == 0 {
            to.shutdown().await?;
            return Ok(true);
        }
        let passed = read.min(left);
        to.write_all(&piece[..passed]).await?;
        to.flush().await?;
        left -= passed;
        if left == 0 {
            return Ok(false);
        }
    }
}
