//! What lies in the file: its tables, and the operations on them inside one transaction.
//!
//! | table | key | value |
//! |---|---|---|
//! | `records` | id | the record's JSON document |
//! | `expiries` | id | when it expires, in milliseconds since the epoch |
//! | `by_expiry` | (expiry, id) | nothing: the order in which to sweep |
//! | `meta` | name | the format's version, the bytes in use |
//!
//! The expiry stands beside the document rather than in it: a refresh must not write a 5 MB record anew.

use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata as _, Table, TableDefinition,
    TableError, WriteTransaction,
};

use super::Millis;
use crate::id::ResponseId;
use crate::store::RecordCodec;

const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
const EXPIRIES: TableDefinition<'_, &str, Millis> = TableDefinition::new("expiries");
const BY_EXPIRY: TableDefinition<'_, (Millis, &str), ()> = TableDefinition::new("by_expiry");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

const FORMAT: &str = "format";
const BYTES: &str = "bytes";

/// The format that this release writes and the newest that it reads.
const FORMAT_VERSION: u64 = 1;

/// What a record counts for beside its document: keys and values of the three tables, and their share of pages.
const RECORD_OVERHEAD_BYTES: u64 = 256;

/// What became of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// The record is there, written now or before.
    Stored,
    /// Another record has its id.
    Conflict,
    /// `max_bytes` leaves no room for it.
    Full,
}

/// Makes the tables of a new file; refuses a file of a later release. Writes nothing where they are: the disk may be full.
pub(super) fn prepare(database: &Database) -> Result<(), PrepareError> {
    let version = match database.begin_read()?.open_table(META) {
        Ok(meta) => meta.get(FORMAT)?.map(|version| version.value()),
        Err(TableError::TableDoesNotExist(_)) => None,
        Err(error) => return Err(error.into()),
    };
    match version {
        Some(version) if version > FORMAT_VERSION => return Err(PrepareError::NewerFormat(version)),
        Some(_) => return Ok(()),
        None => {}
    }
    let transaction = database.begin_write()?;
    transaction.open_table(RECORDS)?;
    transaction.open_table(EXPIRIES)?;
    transaction.open_table(BY_EXPIRY)?;
    transaction.open_table(META)?.insert(FORMAT, FORMAT_VERSION)?;
    transaction.commit()?;
    Ok(())
}

/// Why the tables could not be made ready.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
    #[error("it has format {0}, this release reads formats up to {FORMAT_VERSION}")]
    NewerFormat(u64),
    #[error(transparent)]
    Redb(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for PrepareError {
    fn from(error: E) -> Self {
        Self::Redb(error.into())
    }
}

/// How much the file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holding {
    pub(super) items: u64,
    /// What counts for `max_bytes`.
    pub(super) bytes: u64,
}

/// How much the file holds now. redb keeps the length of a table, so nothing is walked.
pub(super) fn holding(database: &Database) -> Result<Holding, redb::Error> {
    let transaction = database.begin_read()?;
    let bytes = transaction.open_table(META)?.get(BYTES)?.map_or(0, |bytes| bytes.value());
    Ok(Holding { items: transaction.open_table(RECORDS)?.len()?, bytes })
}

/// The records as they were at one moment.
pub(super) struct Snapshot {
    records: redb::ReadOnlyTable<&'static str, &'static [u8]>,
    expiries: redb::ReadOnlyTable<&'static str, Millis>,
}

impl Snapshot {
    pub(super) fn of(database: &Database) -> Result<Self, redb::Error> {
        let transaction: ReadTransaction = database.begin_read()?;
        Ok(Self { records: transaction.open_table(RECORDS)?, expiries: transaction.open_table(EXPIRIES)? })
    }

    /// Shows a record that has not expired to `read`, with its expiry.
    pub(super) fn read<T>(
        &self,
        id: &ResponseId,
        now: Millis,
        read: impl FnOnce(&[u8], Millis) -> T,
    ) -> Result<Option<T>, redb::Error> {
        let Some(expiry) = self.expiries.get(id.as_str())?.map(|expiry| expiry.value()).filter(|expiry| *expiry > now)
        else {
            return Ok(None);
        };
        Ok(self.records.get(id.as_str())?.map(|document| read(document.value(), expiry)))
    }
}

/// The tables of a transaction that writes.
pub(super) struct Tables<'t> {
    records: Table<'t, &'static str, &'static [u8]>,
    expiries: Table<'t, &'static str, Millis>,
    by_expiry: Table<'t, (Millis, &'static str), ()>,
    meta: Table<'t, &'static str, u64>,
    bytes: u64,
    bytes_before: u64,
}

impl<'t> Tables<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self, redb::Error> {
        let meta = transaction.open_table(META)?;
        let bytes = meta.get(BYTES)?.map_or(0, |bytes| bytes.value());
        Ok(Self {
            records: transaction.open_table(RECORDS)?,
            expiries: transaction.open_table(EXPIRIES)?,
            by_expiry: transaction.open_table(BY_EXPIRY)?,
            meta,
            bytes,
            bytes_before: bytes,
        })
    }

    /// Writes a record that expires at `expiry`, unless one that has not expired at `now` is there.
    pub(super) fn put(
        &mut self,
        id: &ResponseId,
        document: &[u8],
        now: Millis,
        expiry: Millis,
        max_bytes: Option<u64>,
        codec: &RecordCodec,
    ) -> Result<Put, redb::Error> {
        if let Some(old) = self.expiry(id)? {
            if old > now {
                let there = self.records.get(id.as_str())?;
                let same = there.is_some_and(|there| codec.are_same(id, there.value(), document));
                return Ok(if same { Put::Stored } else { Put::Conflict });
            }
            self.remove(id)?;
        }
        let bytes = self.bytes.saturating_add(weight(document));
        if max_bytes.is_some_and(|max| bytes > max) {
            return Ok(Put::Full);
        }
        self.bytes = bytes;
        self.records.insert(id.as_str(), document)?;
        self.expiries.insert(id.as_str(), expiry)?;
        self.by_expiry.insert((expiry, id.as_str()), ())?;
        Ok(Put::Stored)
    }

    /// Removes a record; says whether there was one that had not expired at `now`.
    pub(super) fn delete(&mut self, id: &ResponseId, now: Millis) -> Result<bool, redb::Error> {
        Ok(self.remove(id)?.is_some_and(|expiry| expiry > now))
    }

    /// Puts off the expiry of a record that had not expired at `now`. Never hastens it.
    pub(super) fn refresh(&mut self, id: &ResponseId, now: Millis, expiry: Millis) -> Result<(), redb::Error> {
        let Some(old) = self.expiry(id)?.filter(|old| *old > now && *old < expiry) else { return Ok(()) };
        self.by_expiry.remove((old, id.as_str()))?;
        self.expiries.insert(id.as_str(), expiry)?;
        self.by_expiry.insert((expiry, id.as_str()), ())?;
        Ok(())
    }

    /// Removes records that expired before `until`, at most `most`; says how many.
    pub(super) fn sweep(&mut self, until: Millis, most: usize) -> Result<usize, redb::Error> {
        let mut expired = Vec::new();
        for entry in self.by_expiry.range(..(until, ""))?.take(most) {
            let (key, ()) = entry.map(|(key, value)| (key, value.value()))?;
            let (expiry, id) = key.value();
            expired.push((expiry, id.to_owned()));
        }
        for (expiry, id) in &expired {
            self.by_expiry.remove((*expiry, id.as_str()))?;
            self.expiries.remove(id.as_str())?;
            self.remove_document(id)?;
        }
        Ok(expired.len())
    }

    /// Writes what was counted, and tells it; to be called before the commit.
    pub(super) fn close(mut self) -> Result<Holding, redb::Error> {
        if self.bytes != self.bytes_before {
            self.meta.insert(BYTES, self.bytes)?;
        }
        Ok(Holding { items: self.records.len()?, bytes: self.bytes })
    }

    fn expiry(&self, id: &ResponseId) -> Result<Option<Millis>, redb::Error> {
        Ok(self.expiries.get(id.as_str())?.map(|expiry| expiry.value()))
    }

    /// Takes a record out of all tables; returns the expiry that it had.
    fn remove(&mut self, id: &ResponseId) -> Result<Option<Millis>, redb::Error> {
        let Some(expiry) = self.expiries.remove(id.as_str())?.map(|expiry| expiry.value()) else { return Ok(None) };
        self.by_expiry.remove((expiry, id.as_str()))?;
        self.remove_document(id.as_str())?;
        Ok(Some(expiry))
    }

    fn remove_document(&mut self, id: &str) -> Result<(), redb::Error> {
        if let Some(document) = self.records.remove(id)? {
            self.bytes = self.bytes.saturating_sub(weight(document.value()));
        }
        Ok(())
    }
}

/// What a document counts for in `max_bytes`.
pub(super) fn weight(document: &[u8]) -> u64 {
    u64::try_from(document.len()).unwrap_or(u64::MAX).saturating_add(RECORD_OVERHEAD_BYTES)
}
