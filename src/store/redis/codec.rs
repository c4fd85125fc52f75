//! How a record's document lies in Redis.
//!
//! The first byte tells: `{` begins the JSON document itself, [`ZSTD`] a zstd frame of it. Both are always read, so that
//! compression can be switched on and off, and differ between replicas of the router. A document that is sealed is
//! compressed inside its seal.

use std::borrow::Cow;
use std::io::Read as _;

use bytes::Bytes;

use crate::config::Compression;
use crate::id::ResponseId;
use crate::store::{Record, RecordCodec, StoreError};

/// The first byte of a compressed document. No JSON begins with it.
const ZSTD: u8 = 1;

/// The fastest level; what a higher one gains is not worth its time on documents of this kind.
const LEVEL: i32 = 1;

/// Smaller documents gain little.
const WORTHWHILE_BYTES: usize = 1024;

/// The largest document that is unpacked: beyond anything that `limits` lets in, and far below what a crafted frame
/// of some kilobytes could claim.
const MAX_DOCUMENT_BYTES: usize = 512 * 1024 * 1024;

/// How values are made of records and read.
#[derive(Debug, Clone)]
pub(super) struct Values {
    pub(super) codec: RecordCodec,
    pub(super) compression: Compression,
}

impl Values {
    /// Whether values are something else than the documents of their records.
    pub(super) fn are_packed(&self) -> bool {
        self.compression != Compression::None || self.codec.seals()
    }

    pub(super) fn pack(&self, record: &Record) -> Result<Bytes, StoreError> {
        Ok(self.codec.encode(record, |document| squeeze(document, self.compression))?.into())
    }

    /// The record of this id, in a value that lay under its key.
    pub(super) fn unpack(&self, id: &ResponseId, value: &[u8]) -> Result<Record, StoreError> {
        self.codec.decode(id, &expand(Cow::Borrowed(value))?, |document| Ok(expand(Cow::Owned(document))?.into_owned()))
    }
}

fn squeeze(document: Vec<u8>, compression: Compression) -> Result<Vec<u8>, StoreError> {
    if compression == Compression::None || document.len() <= WORTHWHILE_BYTES {
        return Ok(document);
    }
    let failed = |error: std::io::Error| StoreError::Corrupt(format!("it cannot be compressed: {error}"));
    let mut packed = Vec::with_capacity(document.len() / 2);
    packed.push(ZSTD);
    zstd::stream::copy_encode(&*document, &mut packed, LEVEL).map_err(failed)?;
    Ok(if packed.len() < document.len() { packed } else { document })
}

fn expand(stored: Cow<'_, [u8]>) -> Result<Cow<'_, [u8]>, StoreError> {
    expand_at_most(stored, MAX_DOCUMENT_BYTES)
}

fn expand_at_most(stored: Cow<'_, [u8]>, limit: usize) -> Result<Cow<'_, [u8]>, StoreError> {
    let Some((&ZSTD, frame)) = stored.split_first() else { return Ok(stored) };
    let failed = |error: std::io::Error| StoreError::Corrupt(format!("it cannot be decompressed: {error}"));
    let decoder = zstd::stream::read::Decoder::with_buffer(frame).map_err(failed)?;
    let mut document = Vec::with_capacity(frame.len().saturating_mul(3).min(limit));
    let one_too_many = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    decoder.take(one_too_many).read_to_end(&mut document).map_err(failed)?;
    if document.len() > limit {
        return Err(StoreError::Corrupt("it is larger than any record, once decompressed".to_owned()));
    }
    Ok(Cow::Owned(document))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sealing::{SealingKey, SealingKeys};

    fn document(bytes: usize) -> Vec<u8> {
        format!("{{\"x\":\"{}\"}}", "words ".repeat(bytes / 6)).into_bytes()
    }

    #[test]
    fn documents_come_back_whatever_the_compression() {
        for bytes in [10, WORTHWHILE_BYTES, 5000, 1_000_000] {
            for compression in [Compression::None, Compression::Zstd] {
                let packed = squeeze(document(bytes), compression).unwrap();
                let small = compression == Compression::Zstd && document(bytes).len() > WORTHWHILE_BYTES;
                assert_eq!(packed.first() == Some(&ZSTD), small, "{bytes}");
                assert_eq!(*expand(packed.into()).unwrap(), document(bytes));
            }
        }
    }

    #[test]
    fn values_are_plain_documents_only_without_keys_and_without_compression() {
        let keys = || SealingKeys::new(vec![SealingKey::new("k1", &format!("{}=", "A".repeat(43))).unwrap()]);
        for (keys, compression, packed) in [
            (None, Compression::None, false),
            (None, Compression::Zstd, true),
            (keys(), Compression::None, true),
            (keys(), Compression::Zstd, true),
        ] {
            assert_eq!(Values { codec: RecordCodec::new(keys, false), compression }.are_packed(), packed);
        }
    }

    #[test]
    fn damaged_and_oversized_frames_are_corrupt() {
        let packed = squeeze(document(50_000), Compression::Zstd).unwrap();
        assert!(expand_at_most(Cow::Borrowed(&packed), document(50_000).len()).is_ok());
        for bad in [
            expand_at_most(Cow::Borrowed(&packed), document(50_000).len() - 1),
            expand(Cow::Borrowed(&packed[..packed.len() / 2])),
            expand(Cow::Borrowed(&[ZSTD, b'{', b'}'])),
        ] {
            assert!(matches!(bad, Err(StoreError::Corrupt(_))));
        }
        // No frame at all is nothing, which the record's reader refuses.
        assert!(expand(Cow::Borrowed(&[])).unwrap().is_empty());
    }
}
