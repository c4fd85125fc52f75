//! Writes of a connection, gathered: one system call for all that it has to say at a time.
//!
//! h2 writes each DATA frame by itself. A connection of Envoy carries many exchanges, whose frames are ready together: with
//! sixteen exchanges at once, that was six system calls each time that the connection's task ran, and so many packets for
//! Envoy to read. Here frames wait until the task has nothing more to do for the moment; none waits for longer.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Once so much waits, it is sent before more is taken. Up to as much again is taken at once, and as much that has left
/// may still lie before it: three times as much for a connection at the most, in room that doubles as it grows.
const ENOUGH_BYTES: usize = 64 * 1024;

/// A connection whose writes are gathered.
pub(super) struct Gathering<S>(Arc<Mutex<Gathered<S>>>);

struct Gathered<S> {
    stream: S,
    waiting: Waiting,
    /// Whether the stream may have taken something that it has not sent itself, as TLS does.
    unflushed: bool,
    /// Why nothing can be sent any more.
    broken: Option<io::ErrorKind>,
}

/// Bytes that wait. Each time that all have left, the next begin where the first did, which is still in the processor's
/// caches; a `BytesMut` would go on to the end of its room first.
#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    sent: usize,
}

impl Waiting {
    fn unsent(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    fn push(&mut self, bytes: &[u8]) {
        // Before a slow reader they may never all have left.
        if self.sent >= ENOUGH_BYTES {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// So many have left.
    fn advance(&mut self, sent: usize) {
        self.sent += sent;
        if self.sent >= self.bytes.len() {
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.sent = 0;
    }
}

/// Sends what was gathered.
pub(super) struct Sending<S>(Arc<Mutex<Gathered<S>>>);

impl<S> Gathering<S> {
    /// A connection, and what sends its writes.
    pub(super) fn new(stream: S) -> (Self, Sending<S>) {
        let gathered =
            Arc::new(Mutex::new(Gathered { stream, waiting: Waiting::default(), unflushed: false, broken: None }));
        (Self(Arc::clone(&gathered)), Sending(gathered))
    }
}

impl<S: AsyncWrite + Unpin> Sending<S> {
    /// Drives what writes to the connection, and sends whenever it waits or has ended.
    pub(super) async fn drive<F: Future>(self, writer: F) -> F::Output {
        let mut writer = pin!(writer);
        poll_fn(|cx| {
            let polled = writer.as_mut().poll(cx);
            let mut gathered = lock(&self.0);
            if let Poll::Ready(Err(error)) = gathered.poll_send(cx) {
                // The writer learns of it when it writes again, for which it may be waiting.
                gathered.waiting.clear();
                gathered.unflushed = false;
                if gathered.broken.replace(error.kind()).is_none() {
                    cx.waker().wake_by_ref();
                }
            }
            polled
        })
        .await
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.unsent().is_empty() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, self.waiting.unsent()))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(sent);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn check(&self) -> io::Result<()> {
        self.broken.map_or(Ok(()), |kind| Err(kind.into()))
    }
}

fn lock<S>(gathered: &Mutex<Gathered<S>>) -> MutexGuard<'_, Gathered<S>> {
    gathered.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathering<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut gathered = lock(&self.0);
        gathered.check()?;
        if gathered.waiting.unsent().len() >= ENOUGH_BYTES {
            ready!(gathered.poll_send(cx))?;
        }
        let mut taken = 0;
        for buf in bufs {
            let piece = buf.get(..buf.len().min(ENOUGH_BYTES - taken)).unwrap_or_default();
            gathered.waiting.push(piece);
            taken += piece.len();
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Only says whether all is well: [`Sending::drive`] sends.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(lock(&self.0).check())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = lock(&self.0);
        ready!(gathered.poll_send(cx))?;
        Pin::new(&mut gathered.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Buf as _, BytesMut};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    /// Notes how much was written at once.
    struct Noting {
        stream: DuplexStream,
        writes: Arc<Mutex<Vec<usize>>>,
    }

    impl AsyncWrite for Noting {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
            self.writes.lock().unwrap().push(written);
            Poll::Ready(Ok(written))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(cx)
        }
    }

    fn noting(room: usize) -> (Noting, DuplexStream, Arc<Mutex<Vec<usize>>>) {
        let (stream, other) = tokio::io::duplex(room);
        let writes = Arc::default();
        (Noting { stream, writes: Arc::clone(&writes) }, other, writes)
    }

    #[tokio::test]
    async fn what_is_written_before_the_writer_waits_leaves_at_once() {
        let (stream, mut other, writes) = noting(1 << 20);
        let (mut gathering, sending) = Gathering::new(stream);
        let writer = async {
            for piece in ["one ", "two ", "three"] {
                gathering.write_all(piece.as_bytes()).await.unwrap();
                gathering.flush().await.unwrap();
            }
            // It waits for an answer, so that what it wrote must have left.
            tokio::task::yield_now().await;
            gathering.write_all(b" four").await.unwrap();
            gathering.shutdown().await.unwrap();
        };
        sending.drive(writer).await;
        let mut all = String::new();
        other.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "one two three four");
        assert_eq!(*writes.lock().unwrap(), [13, 5]);
    }

    #[tokio::test]
    async fn a_reader_that_is_slow_holds_the_writer_back_and_gets_everything() {
        let (stream, mut other, _) = noting(1000);
        let (mut gathering, sending) = Gathering::new(stream);
        let gathered = Arc::clone(&gathering.0);
        let whole: Vec<u8> = (0..1_000_000_u32).map(|byte| byte.to_le_bytes()[0]).collect();
        let writer = async {
            gathering.write_all(&whole).await.unwrap();
            gathering.shutdown().await.unwrap();
            drop(gathering);
        };
        let reader = async {
            let (mut all, mut most, mut piece) = (Vec::new(), 0, vec![0; 700]);
            while all.len() < whole.len() {
                most = most.max(lock(&gathered).waiting.bytes.len());
                let read = other.read(&mut piece).await.unwrap();
                all.extend_from_slice(&piece[..read]);
            }
            (all, most)
        };
        let ((), (all, most)) = tokio::join!(sending.drive(writer), reader);
        assert!(all == whole && (ENOUGH_BYTES..3 * ENOUGH_BYTES).contains(&most), "{most}");
    }

    /// Takes everything, and sends it only when it is flushed, as TLS does when the socket is full.
    struct Hoarding(BytesMut, DuplexStream);

    impl AsyncWrite for Hoarding {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.0.extend_from_slice(buf);
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            while !self.0.is_empty() {
                let Self(hoard, stream) = &mut *self;
                let sent = ready!(Pin::new(stream).poll_write(cx, hoard))?;
                hoard.advance(sent);
            }
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.poll_flush(cx)
        }
    }

    #[tokio::test]
    async fn what_the_stream_keeps_back_leaves_though_nothing_more_is_written() {
        let (stream, mut other) = tokio::io::duplex(100);
        let (mut gathering, sending) = Gathering::new(Hoarding(BytesMut::new(), stream));
        let writer = async {
            gathering.write_all(&[7; 1000]).await.unwrap();
            std::future::pending::<()>().await;
        };
        let reader = async {
            let mut all = [0; 1000];
            other.read_exact(&mut all).await.unwrap();
        };
        tokio::select! {
            () = sending.drive(writer) => unreachable!(),
            () = reader => {}
        }
    }

    #[tokio::test]
    async fn the_writer_learns_that_nobody_reads_any_more() {
        let (stream, other, _) = noting(1000);
        let (mut gathering, sending) = Gathering::new(stream);
        drop(other);
        let writer = async {
            gathering.write_all(b"lost").await.unwrap();
            // It waits for nothing that would come by itself.
            poll_fn(|cx| Pin::new(&mut gathering).poll_flush(cx).map(|flushed| flushed.map_err(|error| error.kind())))
                .await
                .unwrap();
            let mut seen = false;
            poll_fn(|_| if std::mem::replace(&mut seen, true) { Poll::Ready(()) } else { Poll::Pending }).await;
            gathering.flush().await.unwrap_err().kind()
        };
        assert_eq!(sending.drive(writer).await, io::ErrorKind::BrokenPipe);
    }
}
