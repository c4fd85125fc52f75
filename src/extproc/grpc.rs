//! gRPC as far as Envoy's one method needs it: messages out of the data of an HTTP/2 stream, and into it.
//!
//! Instead of tonic's codec, which keeps two buffers for each call, of 8 KiB at the least and of what its largest burst
//! needed for good: a live answer is such a call, there are thousands, and they are silent most of the time. Here nothing
//! is kept between messages but what has come of the next one, and a message that came in one piece is not copied.
//!
//! The wire is that of gRPC's PROTOCOL-HTTP2: each message after a byte that tells compression, which is not offered, and
//! its length in four bytes, big-endian.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use hyper::body::{Body as _, Frame, Incoming};
use prost::Message;
use tonic::body::Body;
use tonic::{Code, Status};

use super::pb::ProcessingResponse;
use super::streamed_body::StreamedBody;

/// What stands before each message, in bytes.
const PREFIX_BYTES: usize = 5;

/// The largest message accepted from Envoy. In FULL_DUPLEX_STREAMED it cuts bodies into pieces of about 1 MiB, so this
/// is far away.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// The most room that is made for a message before its bytes come: enough for a whole piece of body.
const MAX_ROOM_BYTES: usize = 2 * 1024 * 1024;

/// The body of a call.
#[derive(Debug)]
pub enum Calling {
    /// Of a connection of ours.
    Incoming(Incoming),
    /// Made by a program, or by something between the connection and us.
    Other(Body),
}

impl From<Incoming> for Calling {
    fn from(body: Incoming) -> Self {
        Self::Incoming(body)
    }
}

impl From<Body> for Calling {
    fn from(body: Body) -> Self {
        Self::Other(body)
    }
}

impl Calling {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self {
            Self::Incoming(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                // Knows what HTTP/2 says of the end of a stream.
                Poll::Ready(frame.map(|frame| frame.map_err(|error| Status::from_error(Box::new(error)))))
            }
            Self::Other(body) => Pin::new(body).poll_frame(cx),
        }
    }
}

/// The messages that come on a call.
#[derive(Debug)]
pub(super) struct Messages {
    body: Calling,
    received: Received,
}

impl Messages {
    pub(super) fn new(body: Calling) -> Self {
        Self { body, received: Received::default() }
    }

    /// The next message; `None` when the other side has ended, or cancelled the call.
    ///
    /// Dropping the future loses no message.
    ///
    /// # Errors
    /// When the connection broke, or what came is no such message. Nothing more can be read then.
    pub(super) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        let message = std::future::poll_fn(|cx| self.poll_next(cx)).await?;
        let message = message.map(M::decode).transpose();
        message.map_err(|error| Status::internal(error.to_string()))
    }

    /// Ready when the other side has ended, or the connection broke. Nothing that comes until then is read or kept.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.received = Received::default();
        while let Some(Ok(_)) = ready!(self.body.poll_frame(cx)) {}
        Poll::Ready(())
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            if let Some(message) = self.received.message()? {
                return Poll::Ready(Ok(Some(message)));
            }
            return Poll::Ready(match ready!(self.body.poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // Trailers say nothing in a request.
                    if let Ok(data) = frame.into_data() {
                        self.received.push(data);
                    }
                    continue;
                }
                Some(Err(status)) if status.code() == Code::Cancelled => Ok(None),
                Some(Err(status)) => Err(status),
                None if self.received.is_empty() => Ok(None),
                None => Err(Status::internal("the call ended within a message")),
            });
        }
    }
}

/// Data that has come, and is not read yet.
#[derive(Debug, Default)]
struct Received {
    /// The beginning of a message that came in more than one piece.
    begun: BytesMut,
    /// What came last. It is a slice of the connection's buffer, which lives as long: it must not stay.
    data: Bytes,
}

impl Received {
    fn is_empty(&self) -> bool {
        self.begun.is_empty() && self.data.is_empty()
    }

    /// Takes what came next; what came before was read as far as there are whole messages.
    fn push(&mut self, data: Bytes) {
        debug_assert!(self.data.is_empty(), "data that was not read");
        self.data = data;
    }

    /// The next whole message, without its prefix.
    fn message(&mut self) -> Result<Option<Bytes>, Status> {
        if self.begun.is_empty()
            && let Some(length) = length_of(&self.data)?
            && self.data.len() >= length
        {
            let mut message = self.data.split_to(length);
            message.advance(PREFIX_BYTES);
            return Ok(Some(message));
        }
        if !self.data.is_empty() {
            self.gather(PREFIX_BYTES);
        }
        let Some(length) = length_of(&self.begun)? else { return Ok(None) };
        self.gather(length);
        if self.begun.len() < length {
            return Ok(None);
        }
        // The buffer goes with the message: the next one is likely to come in one piece.
        let mut message = std::mem::take(&mut self.begun).freeze();
        message.advance(PREFIX_BYTES);
        Ok(Some(message))
    }

    /// Moves data to what has begun, until that has so many bytes.
    fn gather(&mut self, bytes: usize) {
        let missing = bytes.saturating_sub(self.begun.len());
        if self.data.len() < missing {
            self.begun.reserve(missing.min(MAX_ROOM_BYTES).max(self.data.len()));
        }
        let piece = self.data.split_to(missing.min(self.data.len()));
        self.begun.extend_from_slice(&piece);
        if self.data.is_empty() {
            self.data = Bytes::new();
        }
    }
}

/// The length of the message that begins here, with its prefix; `None` while too little of that has come.
fn length_of(data: &[u8]) -> Result<Option<usize>, Status> {
    let Some((prefix, _)) = data.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 {
        return Err(Status::unimplemented("compressed messages are not accepted"));
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE_BYTES {
        return Err(Status::out_of_range(format!(
            "a message of {length} bytes; at most {MAX_MESSAGE_BYTES} are accepted"
        )));
    }
    Ok(Some(PREFIX_BYTES + length))
}

/// When this many bytes of messages are ready, they leave before more are made.
const ENOUGH_BYTES: usize = 32 * 1024;

/// Messages on their way out, in the pieces in which they leave.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// What leaves next. The buffer leaves with it.
    data: BytesMut,
    /// A piece of body that leaves after it as it is, and what stands after that.
    large: Option<(Bytes, BytesMut)>,
}

impl Outgoing {
    /// Whether nothing is to leave.
    pub(super) fn is_empty(&self) -> bool {
        self.data.is_empty() && self.large.is_none()
    }

    /// Whether something has to leave before there is room for another message.
    pub(super) fn is_full(&self) -> bool {
        self.large.is_some() || self.data.len() >= ENOUGH_BYTES
    }

    /// Appends a message.
    ///
    /// # Errors
    /// When it is longer than gRPC can say.
    pub(super) fn push(&mut self, message: &ProcessingResponse) -> Result<(), Status> {
        let streamed = StreamedBody::of(message);
        let bytes = streamed.as_ref().map_or_else(|| message.encoded_len(), StreamedBody::len);
        let length = u32::try_from(bytes).map_err(|_| Status::resource_exhausted("a message longer than 4 GiB"))?;
        let here = match &streamed {
            Some(streamed) if streamed.is_large() => streamed.head_len(),
            _ => bytes,
        };
        self.data.reserve(PREFIX_BYTES + here);
        self.data.put_u8(0);
        self.data.put_u32(length);
        let Some(streamed) = streamed else {
            return message.encode(&mut self.data).map_err(|error| Status::internal(error.to_string()));
        };
        streamed.put_head(&mut self.data);
        if streamed.is_large() {
            let mut tail = BytesMut::with_capacity(streamed.tail_len());
            streamed.put_tail(&mut tail);
            self.large = Some((streamed.body.clone(), tail));
        } else {
            self.data.put_slice(streamed.body);
            streamed.put_tail(&mut self.data);
        }
        Ok(())
    }

    /// The next piece, if there is any.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        if !self.data.is_empty() {
            return Some(std::mem::take(&mut self.data).freeze());
        }
        let (body, tail) = self.large.take()?;
        self.data = tail;
        Some(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(messages: &[&[u8]]) -> Vec<u8> {
        let framed = messages.iter().map(|message| {
            let length = u32::try_from(message.len()).unwrap();
            [&[0][..], &length.to_be_bytes(), message].concat()
        });
        framed.collect::<Vec<_>>().concat()
    }

    /// What comes of data in these pieces.
    fn read(pieces: impl IntoIterator<Item = Bytes>) -> Vec<Bytes> {
        let mut received = Received::default();
        let mut messages = Vec::new();
        for piece in pieces {
            received.push(piece);
            while let Some(message) = received.message().unwrap() {
                messages.push(message);
            }
        }
        assert!(received.is_empty());
        messages
    }

    #[test]
    fn messages_do_not_depend_on_where_the_data_is_cut() {
        let long = vec![7; 300];
        let messages: [&[u8]; 5] = [b"one", b"", &long, b"", b"two"];
        let data = Bytes::from(framed(&messages));
        for size in 1..=data.len() {
            let pieces = (0..data.len()).step_by(size).map(|at| data.slice(at..data.len().min(at + size)));
            assert_eq!(read(pieces), messages, "cut every {size} bytes");
        }
    }

    #[test]
    fn a_message_in_one_piece_is_not_copied_and_nothing_of_it_stays() {
        let data = Bytes::from(framed(&[b"one", b"two"]));
        let begin = data.as_ptr();
        let mut received = Received::default();
        received.push(data);
        let one = received.message().unwrap().unwrap();
        assert_eq!(one.as_ptr(), begin.wrapping_add(PREFIX_BYTES));
        let two = received.message().unwrap().unwrap();
        assert_eq!((&*one, &*two), (&b"one"[..], &b"two"[..]));
        assert_eq!(received.message().unwrap(), None);
        drop(one);
        assert!(two.is_unique(), "the buffer of the connection is held");
    }

    #[test]
    fn what_has_begun_does_not_hold_the_buffer_it_came_in() {
        let data = Bytes::from(framed(&[b"one"]));
        let (begin, end) = (data.slice(..6), data.slice(6..));
        drop(data);
        let mut received = Received::default();
        received.push(begin);
        assert_eq!(received.message().unwrap(), None);
        assert!(end.is_unique());
        received.push(end);
        assert_eq!(received.message().unwrap().as_deref(), Some(&b"one"[..]));
        assert_eq!(received.begun.capacity(), 0, "a buffer is kept between messages");
    }

    #[test]
    fn room_is_not_made_for_what_is_only_announced() {
        let mut received = Received::default();
        let announced = u32::try_from(MAX_MESSAGE_BYTES).unwrap().to_be_bytes();
        received.push([&[0][..], &announced].concat().into());
        assert_eq!(received.message().unwrap(), None);
        assert!(received.begun.capacity() <= PREFIX_BYTES + MAX_ROOM_BYTES);
    }

    #[test]
    fn what_is_too_long_or_compressed_is_an_error() {
        for (prefix, code) in [([0, 1, 0, 0, 1], Code::OutOfRange), ([1, 0, 0, 0, 0], Code::Unimplemented)] {
            for size in [1, PREFIX_BYTES] {
                let mut received = Received::default();
                let mut last = Ok(None);
                for piece in prefix.chunks(size) {
                    received.push(Bytes::copy_from_slice(piece));
                    last = received.message();
                }
                assert_eq!(last.unwrap_err().code(), code);
            }
        }
    }
}
