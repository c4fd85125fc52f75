//! The file itself: opening it, and the one handle that readers and the writer share.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use redb::backends::FileBackend;
use redb::{Database, DatabaseError, StorageError};
use tokio::sync::watch;

use super::tables::{self, PrepareError};
use crate::store::StoreError;

/// Why a disk store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory of the file is not there. It is not made: a wrong path would hide lost answers.
    #[error("the directory {} does not exist", .0.display())]
    NoDirectory(PathBuf),
    /// The file was there and is no more, or another one has its name: opening that would turn every record into a
    /// missing one.
    #[error("{} is gone, or another file is in its place", .0.display())]
    Gone(PathBuf),
    /// Another process, or another store of this one, has it open.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The file is something else.
    #[error("{} is not the file of a disk store", .0.display())]
    NotAStore(PathBuf),
    /// A later release wrote it.
    #[error("{} was written by a later release: {problem}", .path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// What is too new.
        problem: String,
    },
    /// The system refused it.
    #[error("{} cannot be opened: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The system gave no thread for the writer.
    #[error("no thread for the disk store: {0}")]
    NoThread(#[source] io::Error),
    /// Its content cannot be used.
    #[error("{} cannot be used: {problem}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What redb says.
        problem: String,
    },
}

/// The file that a store began with, by its name and by itself.
pub(super) struct Place {
    path: PathBuf,
    /// Held as long as the store lives, so that no other file is given its inode.
    file: std::fs::File,
}

impl Place {
    /// Opens the file at `path`, or makes it, for this user alone.
    pub(super) fn make(path: &Path) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if !directory.is_dir() {
            return Err(OpenError::NoDirectory(directory.to_owned()));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path).map_err(io)?;
        // The name of a new file must outlive a power cut like what is in it.
        std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)?;
        Ok(Self { path: path.to_owned(), file })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file once more; never makes it.
    pub(super) fn open(&self) -> Result<std::fs::File, OpenError> {
        let io = |source| OpenError::Io { path: self.path.clone(), source };
        match OpenOptions::new().read(true).write(true).open(&self.path) {
            Ok(file) if same_file(&file.metadata().map_err(io)?, &self.file.metadata().map_err(io)?) => Ok(file),
            Ok(_) => Err(OpenError::Gone(self.path.clone())),
            Err(error) if is_absence(&error) => Err(OpenError::Gone(self.path.clone())),
            Err(error) => Err(io(error)),
        }
    }

    /// Refuses a file that has lost its name: what is written to it would be lost with this process. Where the system
    /// does not tell, nothing is refused.
    pub(super) fn check(&self) -> Result<(), OpenError> {
        let there = match std::fs::metadata(&self.path) {
            Ok(named) => self.file.metadata().is_ok_and(|file| same_file(&named, &file)),
            Err(error) => !is_absence(&error),
        };
        if there { Ok(()) } else { Err(OpenError::Gone(self.path.clone())) }
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(unix)]
fn same_file(one: &std::fs::Metadata, other: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

#[cfg(not(unix))]
fn same_file(_: &std::fs::Metadata, _: &std::fs::Metadata) -> bool {
    true
}

/// The database in `file`, which is at `path`; `cache_bytes` is what redb may keep of it in memory.
pub(super) fn database(path: &Path, file: std::fs::File, cache_bytes: usize) -> Result<Database, OpenError> {
    let mut builder = Database::builder();
    builder.set_cache_size(cache_bytes);
    let (shown, told) = (path.display().to_string(), AtomicBool::new(false));
    builder.set_repair_callback(move |_| {
        if !told.swap(true, Ordering::Relaxed) {
            tracing::info!("checking {shown} after an unclean end");
        }
    });
    let database = FileBackend::new(file).and_then(|file| builder.create_with_backend(file));
    let database = database.map_err(|error| refused(path, error))?;
    prepared(path, database)
}

/// A database with our tables in it.
pub(super) fn prepared(path: &Path, database: Database) -> Result<Database, OpenError> {
    let path = path.to_owned();
    match tables::prepare(&database) {
        Ok(()) => Ok(database),
        Err(problem @ PrepareError::NewerFormat(_)) => {
            Err(OpenError::NewerFormat { path, problem: problem.to_string() })
        }
        Err(PrepareError::Redb(error)) => Err(OpenError::Damaged { path, problem: error.to_string() }),
    }
}

fn refused(path: &Path, error: DatabaseError) -> OpenError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(path),
        DatabaseError::Storage(StorageError::Io(source)) if source.kind() == io::ErrorKind::InvalidData => {
            OpenError::NotAStore(path)
        }
        DatabaseError::Storage(StorageError::Io(source)) => OpenError::Io { path, source },
        other => OpenError::Damaged { path, problem: other.to_string() },
    }
}

/// Why the store cannot write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The disk, a quota or the file's greatest size leaves no room.
    Full,
    /// The file has lost its name.
    Gone,
    /// Anything else.
    Failing,
}

impl Trouble {
    /// What callers are told.
    pub(super) fn error(self) -> StoreError {
        let reason = match self {
            Self::Full => "the disk is full",
            Self::Gone => "the file is gone, or another one is in its place",
            Self::Failing => "the file could not be written",
        };
        StoreError::Unavailable(reason.to_owned())
    }
}

/// Whether there is a database to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Phase {
    /// It is being opened anew: waiting for it is worth it.
    pub(super) opening: bool,
    /// How often it was tried to open it anew.
    pub(super) attempts: u64,
}

/// The open file; closed for the moment that it takes to open it anew after an error.
pub(super) struct File {
    database: RwLock<Option<Database>>,
    phase: watch::Sender<Phase>,
    trouble: Mutex<Option<Trouble>>,
}

impl File {
    pub(super) fn new(database: Database) -> Self {
        let phase = watch::Sender::new(Phase { opening: false, attempts: 0 });
        Self { database: RwLock::new(Some(database)), phase, trouble: Mutex::new(None) }
    }

    /// Lends the database; `None` while there is none. It is not closed before `use_it` returns.
    pub(super) fn with<T>(&self, use_it: impl FnOnce(&Database) -> T) -> Option<T> {
        self.database.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(use_it)
    }

    /// Tells of the file's being opened anew.
    pub(super) fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// What is wrong since the last write that failed, until one succeeds.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of it, and returns what was noted before.
    pub(super) fn set_trouble(&self, trouble: Option<Trouble>) -> Option<Trouble> {
        std::mem::replace(&mut *self.trouble.lock().unwrap_or_else(PoisonError::into_inner), trouble)
    }

    pub(super) fn is_open(&self) -> bool {
        self.with(|_| ()).is_some()
    }

    /// Closes the database when all that use it are done; readers that come now wait for [`Self::reopened`].
    pub(super) fn close(&self) {
        self.phase.send_modify(|phase| phase.opening = true);
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Ends what [`Self::close`] began, with another database or, where that failed, with none.
    pub(super) fn reopened(&self, database: Option<Database>) {
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = database;
        self.phase.send_modify(|phase| *phase = Phase { opening: false, attempts: phase.attempts.saturating_add(1) });
    }
}
