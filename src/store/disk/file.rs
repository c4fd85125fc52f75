//! The file itself: opening it, and the one handle that readers and the writer share.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use redb::backends::FileBackend;
use redb::{Database, DatabaseError, StorageError};

use super::tables::{self, PrepareError};

/// Why a disk store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory of the file is not there. It is not made: a wrong path would hide lost answers.
    #[error("the directory {} does not exist", .0.display())]
    NoDirectory(PathBuf),
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

/// Opens the file at `path`, or makes it, for this user alone; `cache_bytes` is what redb may keep of it in memory.
pub(super) fn open(path: &Path, cache_bytes: usize) -> Result<Database, OpenError> {
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

/// The open file; closed for the moment that it takes to open it anew after an error.
pub(super) struct File {
    database: RwLock<Option<Database>>,
    failing: AtomicBool,
}

impl File {
    pub(super) fn new(database: Database) -> Self {
        Self { database: RwLock::new(Some(database)), failing: AtomicBool::new(false) }
    }

    /// Lends the database; `None` while there is none. It is not closed before `use_it` returns.
    pub(super) fn with<T>(&self, use_it: impl FnOnce(&Database) -> T) -> Option<T> {
        self.database.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(use_it)
    }

    /// Whether the last write failed, or there is no database.
    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Acquire)
    }

    pub(super) fn set_failing(&self, failing: bool) {
        self.failing.store(failing, Ordering::Release);
    }

    pub(super) fn is_open(&self) -> bool {
        self.with(|_| ()).is_some()
    }

    /// Puts another database, or none, in the place of this one, which is closed when all that use it are done.
    pub(super) fn replace(&self, database: Option<Database>) {
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = database;
    }
}
