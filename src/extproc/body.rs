//! Request and answer bodies that are read to the end before they are used: collected under a cap, and decoded.
//!
//! Envoy's own body limit (1 MiB) does not hold in FULL_DUPLEX_STREAMED, so the caps here are the only ones.

use std::io::{self, BufRead, Read};

use bytes::{Bytes, BytesMut};

use super::apart::{Apart, ProcessEnds};
use super::headers::Headers;
use super::message::BodyPiece;

/// The largest window of a zstd frame, as a power of two: 8 MiB, what RFC 9659 allows for the content coding `zstd`.
/// The window is allocated before a byte is decoded.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Codings in one Content-Encoding, `identity` not counted. More than one is rare, more than two is an attack.
const MAX_CODINGS: usize = 4;

/// Members of one gzip body (RFC 1952). Parallel compressors make one for some 64 KiB; an empty one comes out as nothing, so no
/// cap on what comes out would bound them.
const MAX_GZIP_MEMBERS: usize = 1024;

/// The size of one read of a decoder.
const DECODE_STEP: usize = 16 * 1024;

/// Room for all of an announced body is set aside once one byte of so many has come. Until then it doubles: a client that
/// announces 20 MB and sends ten bytes gets no more for it.
const TRUSTED_TIMES: usize = 4;

/// How many times as long a compressed body may become, as far as that is known before it is decoded. Text seldom becomes
/// ten times as long; what is made to be an attack, a thousand times.
const DECODED_TIMES: usize = 32;

/// A body that will not be used.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It is larger than the cap, as announced, as received, or once decoded. 413.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// The cap.
        limit: usize,
    },
    /// Content-Encoding names a coding that is not known, or more of them than is sane. 415.
    #[error("the content-encoding is not supported")]
    UnsupportedCoding {
        /// The coding as it was named, shortened; from the client, so for the log rather than for an answer.
        coding: String,
    },
    /// The bytes are not what Content-Encoding says. 400.
    #[error("the body is not valid {coding}")]
    Corrupt {
        /// The coding.
        coding: &'static str,
        /// What its decoder said.
        #[source]
        source: io::Error,
    },
}

impl BodyError {
    /// The kind of refusal, in one word for metrics.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::UnsupportedCoding { .. } => "unsupported_coding",
            Self::Corrupt { .. } => "corrupt",
        }
    }
}

/// A body while it arrives.
#[derive(Debug)]
pub struct BodyCollector {
    limit: usize,
    /// By content-length, which may lie; 0 when nothing was.
    announced: usize,
    received: Received,
    over: bool,
}

#[derive(Debug)]
enum Received {
    /// Nothing yet, or one piece: it is not copied.
    One(Bytes),
    /// Copied together.
    Many(BytesMut),
}

impl BodyCollector {
    /// A collector of at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, announced: 0, received: Received::One(Bytes::new()), over: false }
    }

    /// A collector of the body that follows these headers.
    ///
    /// # Errors
    /// [`BodyError::TooLarge`] when content-length announces more than `limit`, so that the refusal leaves before the
    /// body is sent. A content-length that is no number is Envoy's to refuse.
    pub fn announced(headers: &Headers, limit: usize) -> Result<Self, BodyError> {
        let length = headers.text("content-length").and_then(|length| length.trim().parse::<u64>().ok());
        let announced = usize::try_from(length.unwrap_or(0)).unwrap_or(usize::MAX);
        if announced > limit { Err(BodyError::TooLarge { limit }) } else { Ok(Self { announced, ..Self::new(limit) }) }
    }

    /// Appends a piece; true when it was the last one. Whatever comes after the last one is ignored (TRAPS 96).
    ///
    /// # Errors
    /// [`BodyError::TooLarge`], after which the collector holds nothing.
    pub fn push(&mut self, piece: BodyPiece) -> Result<bool, BodyError> {
        if self.over {
            return Ok(true);
        }
        self.over = piece.end;
        if piece.bytes.len() > self.limit - self.len() {
            self.over = true;
            self.received = Received::One(Bytes::new());
            return Err(BodyError::TooLarge { limit: self.limit });
        }
        if piece.bytes.is_empty() {
            return Ok(self.over);
        }
        let room = self.room_for(self.len() + piece.bytes.len());
        match &mut self.received {
            Received::One(first) if first.is_empty() => self.received = Received::One(piece.bytes),
            Received::One(first) => {
                let mut both = BytesMut::with_capacity(room);
                both.extend_from_slice(first);
                both.extend_from_slice(&piece.bytes);
                self.received = Received::Many(both);
            }
            Received::Many(all) => {
                if all.capacity() < room {
                    all.reserve(room - all.len());
                }
                all.extend_from_slice(&piece.bytes);
            }
        }
        Ok(self.over)
    }

    /// How much room there should be when so many bytes have come.
    fn room_for(&self, come: usize) -> usize {
        if self.announced > come && self.announced / TRUSTED_TIMES <= come { self.announced } else { come }
    }

    /// How many bytes are set aside once a piece of so many has come: those received, or all that were announced.
    #[must_use]
    pub fn room_with(&self, piece: usize) -> usize {
        let come = self.len().saturating_add(piece);
        if self.is_empty() { come } else { self.room_for(come) }
    }

    /// The number of bytes received.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.received {
            Received::One(bytes) => bytes.len(),
            Received::Many(bytes) => bytes.len(),
        }
    }

    /// Whether no byte was received.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The body.
    #[must_use]
    pub fn finish(self) -> Bytes {
        match self.received {
            Received::One(bytes) => bytes,
            Received::Many(bytes) => bytes.freeze(),
        }
    }
}

/// Undoes the Content-Encoding of a body: gzip, deflate (zlib or raw), br, zstd, identity, and lists of them.
///
/// At most `limit` bytes come out of every step, and not many more are ever held. An empty body is empty in any known
/// coding. This computes; a body of megabytes takes milliseconds.
///
/// # Errors
/// All of [`BodyError`].
pub fn decode(headers: &Headers, body: Bytes, limit: usize) -> Result<Bytes, BodyError> {
    Codings::of(headers)?.undo(body, limit)
}

/// What the Content-Encoding of a body says, in the order in which it was done.
#[derive(Debug)]
pub(super) struct Codings(Vec<Coding>);

impl Codings {
    /// Those of a body with these headers.
    ///
    /// # Errors
    /// [`BodyError::UnsupportedCoding`].
    pub(super) fn of(headers: &Headers) -> Result<Self, BodyError> {
        let mut codings = Vec::new();
        for value in headers.all("content-encoding") {
            for name in String::from_utf8_lossy(value).split(',').map(str::trim) {
                let coding = match name.to_ascii_lowercase().as_str() {
                    "" | "identity" => continue,
                    "gzip" | "x-gzip" => Coding::Gzip,
                    "deflate" => Coding::Deflate,
                    "br" => Coding::Brotli,
                    "zstd" => Coding::Zstd,
                    _ => return Err(unsupported(name)),
                };
                if codings.len() == MAX_CODINGS {
                    return Err(unsupported("a list that is too long"));
                }
                codings.push(coding);
            }
        }
        Ok(Self(codings))
    }

    /// The body without them, see [`decode`]; undone apart if that may be much work.
    ///
    /// # Errors
    /// [`ProcessEnds`], and within it all of [`BodyError`].
    pub(super) async fn undo_by(
        self,
        apart: &Apart,
        body: Bytes,
        limit: usize,
    ) -> Result<Result<Bytes, BodyError>, ProcessEnds> {
        if !self.0.is_empty() && apart.is_for(body.len().saturating_mul(DECODED_TIMES)) {
            return apart.run(move || self.undo(body, limit)).await;
        }
        Ok(self.undo(body, limit))
    }

    fn undo(self, body: Bytes, limit: usize) -> Result<Bytes, BodyError> {
        if body.len() > limit {
            return Err(BodyError::TooLarge { limit });
        }
        self.0.into_iter().rev().try_fold(body, |body, coding| coding.undo(body, limit))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

fn unsupported(coding: &str) -> BodyError {
    BodyError::UnsupportedCoding { coding: coding.chars().take(32).collect() }
}

impl Coding {
    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    fn undo(self, body: Bytes, limit: usize) -> Result<Bytes, BodyError> {
        if body.is_empty() {
            return Ok(body);
        }
        let body: &[u8] = &body;
        let result = match self {
            Self::Gzip => read_members(body, limit),
            Self::Deflate if is_zlib(body) => read(flate2::bufread::ZlibDecoder::new(body), limit),
            Self::Deflate => read(flate2::bufread::DeflateDecoder::new(body), limit),
            Self::Brotli => read(brotli::Decompressor::new(body, DECODE_STEP), limit),
            Self::Zstd => zstd_decoder(body).and_then(|decoder| read(decoder, limit)),
        };
        match result {
            Ok(Some(decoded)) => Ok(decoded),
            Ok(None) => Err(BodyError::TooLarge { limit }),
            Err(source) => Err(BodyError::Corrupt { coding: self.name(), source }),
        }
    }
}

/// Whether a deflate body has the zlib wrapper that RFC 9110 asks for; some clients send it raw. The first byte names
/// the method, both together are a multiple of 31.
fn is_zlib(body: &[u8]) -> bool {
    match body {
        [method, flags, ..] => method & 0x0f == 8 && (u16::from(*method) << 8 | u16::from(*flags)) % 31 == 0,
        _ => false,
    }
}

fn zstd_decoder(body: impl BufRead) -> io::Result<impl Read> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(body)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(decoder)
}

/// Reads all members of a gzip body; `None` when there is more than `limit` in them.
fn read_members(body: &[u8], limit: usize) -> io::Result<Option<Bytes>> {
    let (mut rest, mut decoded) = (body, Vec::with_capacity(DECODE_STEP));
    for _ in 0..MAX_GZIP_MEMBERS {
        let mut member = flate2::bufread::GzDecoder::new(rest);
        let room = limit.saturating_sub(decoded.len()) as u64 + 1;
        (&mut member).take(room).read_to_end(&mut decoded)?;
        if decoded.len() > limit {
            return Ok(None);
        }
        rest = member.into_inner();
        if rest.is_empty() {
            return Ok(Some(decoded.into()));
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "there are more gzip members than this service accepts"))
}

/// Reads to the end; `None` when there is more than `limit`.
fn read(decoder: impl Read, limit: usize) -> io::Result<Option<Bytes>> {
    let mut decoded = Vec::with_capacity(DECODE_STEP);
    decoder.take(limit as u64 + 1).read_to_end(&mut decoded)?;
    Ok((decoded.len() <= limit).then(|| decoded.into()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn piece(bytes: &'static str, end: bool) -> BodyPiece {
        BodyPiece { bytes: Bytes::from_static(bytes.as_bytes()), end }
    }

    fn encoding(list: &'static str) -> Headers {
        [("content-encoding", list)].into_iter().collect()
    }

    fn gzip(body: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(body: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    fn raw_deflate(body: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    fn br(body: &[u8]) -> Vec<u8> {
        let mut encoded = Vec::new();
        brotli::CompressorWriter::new(&mut encoded, 4096, 5, 22).write_all(body).unwrap();
        encoded
    }

    fn zstd(body: &[u8]) -> Vec<u8> {
        zstd::encode_all(body, 3).unwrap()
    }

    type Encode = fn(&[u8]) -> Vec<u8>;
    const CODINGS: [(&str, Encode); 5] =
        [("gzip", gzip), ("deflate", zlib), ("deflate", raw_deflate), ("br", br), ("zstd", zstd)];

    #[test]
    fn one_piece_is_not_copied() {
        let bytes = Bytes::from_static(b"{}");
        let mut body = BodyCollector::new(2);
        assert!(!body.push(piece("", false)).unwrap());
        assert!(!body.push(BodyPiece { bytes: bytes.clone(), end: false }).unwrap());
        assert!(body.push(piece("", true)).unwrap());
        assert_eq!(body.finish().as_ptr(), bytes.as_ptr());
    }

    #[test]
    fn pieces_are_joined_up_to_the_cap() {
        let mut body = BodyCollector::new(6);
        for text in ["ab", "", "cd"] {
            assert!(!body.push(piece(text, false)).unwrap());
        }
        assert!(body.push(piece("ef", true)).unwrap());
        assert_eq!(body.finish(), "abcdef");

        let mut body = BodyCollector::new(5);
        body.push(piece("abcd", false)).unwrap();
        assert!(matches!(body.push(piece("ef", false)), Err(BodyError::TooLarge { limit: 5 })));
        assert!(body.is_empty());
    }

    #[test]
    fn a_repeated_last_piece_counts_once() {
        let mut body = BodyCollector::new(100);
        body.push(piece("ab", false)).unwrap();
        assert!(body.push(piece("cd", true)).unwrap());
        assert!(body.push(piece("cd", true)).unwrap());
        assert_eq!(body.finish(), "abcd");
    }

    #[test]
    fn an_announced_length_over_the_cap_is_refused_at_the_headers() {
        let announce = |length: &'static str| {
            let headers: Headers = [("content-length", length)].into_iter().collect();
            BodyCollector::announced(&headers, 10)
        };
        assert!(matches!(announce("11"), Err(BodyError::TooLarge { limit: 10 })));
        assert!(matches!(announce("18446744073709551615"), Err(BodyError::TooLarge { .. })));
        assert!(announce("10").is_ok());
        assert!(announce("ten").is_ok());
        assert!(BodyCollector::announced(&Headers::default(), 10).is_ok());
    }

    #[test]
    fn room_for_all_that_was_announced_is_there_once_a_quarter_has_come() {
        let headers: Headers = [("content-length", "4000000")].into_iter().collect();
        let mut body = BodyCollector::announced(&headers, 5_000_000).unwrap();
        let bytes = Bytes::from(vec![b'x'; 100_000]);
        let mut rooms = Vec::new();
        for pieces in 1..=40 {
            let received = pieces * 100_000;
            let trusted = (10..40).contains(&pieces);
            assert_eq!(body.room_with(100_000), if trusted { 4_000_000 } else { received }, "{received}");
            assert_eq!(body.push(BodyPiece { bytes: bytes.clone(), end: pieces == 40 }).unwrap(), pieces == 40);
            if let Received::Many(all) = &body.received {
                assert!(all.capacity() <= TRUSTED_TIMES * all.len(), "{} for {}", all.capacity(), all.len());
                rooms.push(all.capacity());
            }
        }
        assert!(rooms.last().is_some_and(|room| (4_000_000..5_000_000).contains(room)), "{rooms:?}");
        rooms.dedup();
        assert!(rooms.len() <= 5, "{rooms:?}");
        assert_eq!(body.finish().len(), 4_000_000);
    }

    #[test]
    fn more_than_was_announced_is_taken_as_it_comes() {
        let headers: Headers = [("content-length", "3")].into_iter().collect();
        let mut body = BodyCollector::announced(&headers, 100).unwrap();
        for text in ["ab", "cd", "ef"] {
            body.push(piece(text, false)).unwrap();
        }
        assert_eq!(body.finish(), "abcdef");
    }

    #[test]
    fn every_coding_is_undone() {
        let body = b"{\"input\":\"hello hello hello hello\"}".as_slice();
        for (name, encode) in CODINGS {
            assert_eq!(decode(&encoding(name), encode(body).into(), 100).unwrap(), body, "{name}");
            assert_eq!(decode(&encoding(name), Bytes::new(), 100).unwrap(), "", "{name}");
        }
        assert_eq!(decode(&Headers::default(), body.into(), 100).unwrap(), body);
        assert_eq!(decode(&encoding("Identity"), body.into(), 100).unwrap(), body);
        assert_eq!(decode(&encoding(" X-GZIP ,identity,"), gzip(body).into(), 100).unwrap(), body);
        assert_eq!(decode(&encoding("gzip, br"), br(&gzip(body)).into(), 100).unwrap(), body);
        let members = [gzip(&body[..10]), gzip(b""), gzip(&body[10..])].concat();
        assert_eq!(decode(&encoding("gzip"), members.into(), 100).unwrap(), body);
    }

    /// A kilobyte encoded three times can be a million members of nothing, and each of them takes its time.
    #[test]
    fn more_gzip_members_than_any_compressor_makes_are_refused() {
        let members = |count| [gzip(b"x"), gzip(b"").repeat(count - 1)].concat();
        assert_eq!(decode(&encoding("gzip"), members(MAX_GZIP_MEMBERS).into(), 100_000).unwrap(), "x");
        let error = decode(&encoding("gzip"), members(MAX_GZIP_MEMBERS + 1).into(), 100_000).unwrap_err();
        assert!(matches!(error, BodyError::Corrupt { coding: "gzip", .. }), "{error}");
        let twice = gzip(&members(MAX_GZIP_MEMBERS + 1));
        assert!(decode(&encoding("gzip, gzip"), twice.into(), 100_000).is_err());
    }

    #[test]
    fn two_headers_are_one_list() {
        let headers: Headers = [("content-encoding", "gzip"), ("content-encoding", "zstd")].into_iter().collect();
        assert_eq!(decode(&headers, zstd(&gzip(b"{}")).into(), 100).unwrap(), "{}");
    }

    #[test]
    fn a_bomb_is_too_large_in_every_coding() {
        let bomb = vec![0; 10_000_000];
        for (name, encode) in CODINGS {
            let encoded = encode(&bomb);
            assert!(encoded.len() < 100_000, "{name}");
            let result = decode(&encoding(name), encoded.into(), 100_000);
            assert!(matches!(result, Err(BodyError::TooLarge { limit: 100_000 })), "{name}: {result:?}");
        }
        assert!(matches!(decode(&Headers::default(), bomb.into(), 100), Err(BodyError::TooLarge { .. })));
    }

    #[test]
    fn exactly_the_cap_is_allowed() {
        for (name, encode) in CODINGS {
            let body = vec![b'a'; 5000];
            assert_eq!(decode(&encoding(name), encode(&body).into(), 5000).unwrap(), body, "{name}");
            assert!(decode(&encoding(name), encode(&body).into(), 4999).is_err(), "{name}");
        }
    }

    #[test]
    fn broken_and_cut_bodies_are_corrupt() {
        for (name, encode) in CODINGS {
            let noise = decode(&encoding(name), Bytes::from_static(b"\xff\xff{\"input\":1}"), 1000);
            assert!(matches!(noise, Err(BodyError::Corrupt { .. })), "{name}: {noise:?}");
            let mut cut = encode(b"hello hello hello hello, and so on and so on and so on");
            cut.truncate(cut.len() - 6);
            let cut = decode(&encoding(name), cut.into(), 1000);
            assert!(matches!(cut, Err(BodyError::Corrupt { .. })), "{name}: {cut:?}");
        }
    }

    #[test]
    fn unknown_codings_are_unsupported() {
        for list in ["compress", "gzip, snappy", "gzip;q=1", "*", "gzip,gzip,gzip,gzip,gzip"] {
            let result = decode(&encoding(list), Bytes::from_static(b"x"), 10);
            assert!(matches!(result, Err(BodyError::UnsupportedCoding { .. })), "{list}: {result:?}");
        }
    }

    #[test]
    fn a_zstd_window_beyond_the_rfc_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(b"{}").unwrap();
        let encoded = encoder.finish().unwrap();
        assert!(matches!(
            decode(&encoding("zstd"), encoded.into(), 100),
            Err(BodyError::Corrupt { coding: "zstd", .. })
        ));
    }
}
