//! Messages to Envoy that carry a large piece of body: encoded around the piece, instead of with a copy of it.
//!
//! The request with a long history, and the end of a long answer, are held until Envoy has taken them, and a copy would be
//! held as long.

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::pb::processing_response::Response;
use super::pb::streamed_immediate_response::Response as LocalPart;
use super::pb::{BodyMutation, BodyResponse, CommonResponse, ProcessingResponse, StreamedBodyResponse};
use super::pb::{StreamedImmediateResponse, body_mutation::Mutation};

/// Of what size a piece is not copied: a frame of HTTP/2 to itself costs more than copying less.
const LARGE_BYTES: usize = 16 * 1024;

/// The fields around a piece, from the outside in, by their numbers in `proto/`: `request_body`, `response`,
/// `body_mutation`, `streamed_response`, `body`.
const REQUEST_BODY: &[u32] = &[3, 1, 3, 3, 1];
/// `response_body`, and as above.
const RESPONSE_BODY: &[u32] = &[4, 1, 3, 3, 1];
/// `streamed_immediate_response`, `body_response`, `body`.
const LOCAL_BODY: &[u32] = &[11, 2, 1];
/// `StreamedBodyResponse.end_of_stream`.
const END_OF_STREAM: u32 = 2;
/// `ProcessingResponse.dynamic_metadata`.
const DYNAMIC_METADATA: u32 = 8;

/// A message in three pieces, to be sent one after the other.
pub(super) struct Around {
    pub(super) head: BytesMut,
    pub(super) body: Bytes,
    pub(super) tail: BytesMut,
}

impl Around {
    /// The length of the message.
    pub(super) fn len(&self) -> usize {
        self.head.len() + self.body.len() + self.tail.len()
    }

    /// The pieces of a message that carries a large piece of body; `None` for any other.
    pub(super) fn of(message: &ProcessingResponse) -> Option<Self> {
        let (fields, StreamedBodyResponse { body, end_of_stream }) = streamed(message)?;
        if body.len() < LARGE_BYTES {
            return None;
        }
        let mut tail = BytesMut::new();
        if *end_of_stream {
            encode_key(END_OF_STREAM, WireType::Varint, &mut tail);
            encode_varint(1, &mut tail);
        }
        // What of the tail belongs to the message that has the body, and to all around it.
        let inside = tail.len();
        if !message.dynamic_metadata.is_empty() {
            encode_key(DYNAMIC_METADATA, WireType::LengthDelimited, &mut tail);
            encode_varint(message.dynamic_metadata.len() as u64, &mut tail);
            tail.put_slice(&message.dynamic_metadata);
        }
        // From the inside out, since the length of each field is that of all that it contains.
        let mut length = body.len();
        let mut lengths = Vec::with_capacity(fields.len());
        for (depth, _) in fields.iter().rev().enumerate() {
            lengths.push(length as u64);
            // No field of ours has a number that takes more than a byte.
            length += 1 + encoded_len_varint(length as u64);
            if depth == 0 {
                length += inside;
            }
        }
        let mut head = BytesMut::new();
        for (field, length) in fields.iter().zip(lengths.into_iter().rev()) {
            encode_key(*field, WireType::LengthDelimited, &mut head);
            encode_varint(length, &mut head);
        }
        Some(Self { head, body: body.clone(), tail })
    }
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
        for length in [LARGE_BYTES, 1 << 21] {
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
                    let Around { head, body: piece, tail } = Around::of(&message).unwrap();
                    assert_eq!(piece.as_ptr(), body.as_ptr(), "it was copied");
                    let joined = [&head[..], &piece, &tail].concat();
                    assert_eq!(ProcessingResponse::decode(&joined[..]).unwrap(), message);
                    assert_eq!(joined.len(), message.encoded_len());
                }
            }
        }
    }

    #[test]
    fn small_pieces_and_other_messages_are_encoded_whole() {
        let small = Reply::response_body(Bytes::from(vec![7; LARGE_BYTES - 1]));
        assert!(Around::of(&small.0).is_none());
        assert!(Around::of(&Reply::request_trailers().0).is_none());
    }
}
