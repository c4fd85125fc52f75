//! Messages to Envoy that carry a piece of body: encoded around the piece, whose bytes are copied at most once.
//!
//! prost would take the piece into a holder of its own first. A large piece is not copied at all: the request with a long
//! history, and the end of a long answer, are held until Envoy has taken them, and a copy would be held as long.

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::pb::processing_response::Response;
use super::pb::streamed_immediate_response::Response as LocalPart;
use super::pb::{BodyMutation, BodyResponse, CommonResponse, ProcessingResponse, StreamedBodyResponse};
use super::pb::{StreamedImmediateResponse, body_mutation::Mutation};

/// Of what size a piece is not copied: a frame of HTTP/2 to itself costs more than copying less.
pub(super) const LARGE_BYTES: usize = 16 * 1024;

/// How many fields are around a piece at most.
const DEEPEST: usize = 5;

/// The fields around a piece, from the outside in, by their numbers in `proto/`: `request_body`, `response`,
/// `body_mutation`, `streamed_response`, `body`.
const REQUEST_BODY: &[u32] = &[3, 1, 3, 3, 1];
/// `response_body`, and as above.
const RESPONSE_BODY: &[u32] = &[4, 1, 3, 3, 1];
/// `streamed_immediate_response`, `body_response`, `body`.
const LOCAL_BODY: &[u32] = &[11, 2, 1];
/// `StreamedBodyResponse.end_of_stream`.
const END_OF_STREAM: u32 = 2;
/// The bytes of `end_of_stream: true`.
const END_LEN: usize = 2;
/// `ProcessingResponse.dynamic_metadata`.
const DYNAMIC_METADATA: u32 = 8;

/// A message that carries a piece of body: what stands before the piece, the piece, and what stands after it.
pub(super) struct StreamedBody<'a> {
    /// The piece.
    pub(super) body: &'a Bytes,
    fields: &'static [u32],
    /// How long what each of the fields contains is, in their order.
    lengths: [usize; DEEPEST],
    end_of_stream: bool,
    metadata: &'a Bytes,
}

impl<'a> StreamedBody<'a> {
    /// A message that carries a piece of body and nothing else but metadata; `None` for any other.
    pub(super) fn of(message: &'a ProcessingResponse) -> Option<Self> {
        let (fields, StreamedBodyResponse { body, end_of_stream }) = streamed(message)?;
        let mut lengths = [0; DEEPEST];
        let mut length = body.len();
        // From the inside out, since the length of each field is that of all that it contains.
        for (depth, outer) in lengths.iter_mut().take(fields.len()).rev().enumerate() {
            *outer = length;
            length += field_head_len(length);
            if depth == 0 && *end_of_stream {
                length += END_LEN;
            }
        }
        Some(Self { body, fields, lengths, end_of_stream: *end_of_stream, metadata: &message.dynamic_metadata })
    }

    /// Whether the piece should leave as it is rather than be copied.
    pub(super) fn is_large(&self) -> bool {
        self.body.len() >= LARGE_BYTES
    }

    /// The length of the message, in bytes.
    pub(super) fn len(&self) -> usize {
        self.head_len() + self.body.len() + self.tail_len()
    }

    /// The length of what stands before the piece.
    pub(super) fn head_len(&self) -> usize {
        let lengths = self.lengths.iter().take(self.fields.len());
        lengths.map(|length| field_head_len(*length)).sum()
    }

    /// The length of what stands after the piece.
    pub(super) fn tail_len(&self) -> usize {
        let metadata = self.metadata.len();
        let told = if metadata > 0 { field_head_len(metadata) + metadata } else { 0 };
        told + if self.end_of_stream { END_LEN } else { 0 }
    }

    /// Writes what stands before the piece.
    pub(super) fn put_head(&self, out: &mut BytesMut) {
        for (field, length) in self.fields.iter().zip(self.lengths) {
            encode_key(*field, WireType::LengthDelimited, out);
            encode_varint(length as u64, out);
        }
    }

    /// Writes what stands after the piece: of the message that has it, and of that around all.
    pub(super) fn put_tail(&self, out: &mut BytesMut) {
        if self.end_of_stream {
            encode_key(END_OF_STREAM, WireType::Varint, out);
            encode_varint(1, out);
        }
        if !self.metadata.is_empty() {
            encode_key(DYNAMIC_METADATA, WireType::LengthDelimited, out);
            encode_varint(self.metadata.len() as u64, out);
            out.put_slice(self.metadata);
        }
    }
}

/// The bytes of a field's key and length; no field of ours has a number that takes more than a byte.
fn field_head_len(length: usize) -> usize {
    1 + encoded_len_varint(length as u64)
}

/// The piece of body that a message carries and nothing else, and the fields around it.
fn streamed(message: &ProcessingResponse) -> Option<(&'static [u32], &StreamedBodyResponse)> {
    match message.response.as_ref()? {
        Response::RequestBody(body) => Some((REQUEST_BODY, of_body(body)?)),
        Response::ResponseBody(body) => Some((RESPONSE_BODY, of_body(body)?)),
        Response::StreamedImmediateResponse(StreamedImmediateResponse {
            response: Some(LocalPart::BodyResponse(body)),
        }) => Some((LOCAL_BODY, body)),
        _ => None,
    }
}

fn of_body(message: &BodyResponse) -> Option<&StreamedBodyResponse> {
    match message.response.as_ref()? {
        CommonResponse {
            header_mutation: None,
            body_mutation: Some(BodyMutation { mutation: Some(Mutation::StreamedResponse(body)) }),
            clear_route_cache: false,
        } => Some(body),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::super::message::{LastReply, Reply};
    use super::*;

    #[test]
    fn the_pieces_are_the_message_as_it_is_encoded_whole() {
        // An empty piece is left out by prost, and is the same to whoever reads it.
        for length in [0, 1, 100, 127, 128, LARGE_BYTES - 1, LARGE_BYTES, 1 << 21] {
            let body = Bytes::from(vec![7; length]);
            let messages = [
                Reply::request_body(body.clone(), false).0,
                Reply::request_body(body.clone(), true).0,
                Reply::response_body(body.clone()).0,
                LastReply::response_body(body.clone()).0,
                Reply::local_body(body.clone()).0,
                LastReply::local_body(body.clone()).0,
            ];
            for message in messages {
                for metadata in [Bytes::new(), Bytes::from(vec![1; 200])] {
                    let message = ProcessingResponse { dynamic_metadata: metadata, ..message.clone() };
                    let streamed = StreamedBody::of(&message).unwrap();
                    let (mut head, mut tail) = (BytesMut::new(), BytesMut::new());
                    streamed.put_head(&mut head);
                    streamed.put_tail(&mut tail);
                    assert_eq!((head.len(), tail.len()), (streamed.head_len(), streamed.tail_len()));
                    let joined = [&head[..], &body, &tail].concat();
                    assert_eq!(ProcessingResponse::decode(&joined[..]).unwrap(), message);
                    assert_eq!(joined.len(), streamed.len());
                    if length > 0 {
                        assert_eq!(joined, message.encode_to_vec());
                    }
                    assert_eq!(streamed.is_large(), length >= LARGE_BYTES);
                }
            }
        }
    }

    #[test]
    fn other_messages_are_none() {
        assert!(StreamedBody::of(&Reply::request_trailers().0).is_none());
    }
}
