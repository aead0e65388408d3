//! What can go wrong, what it did to the store, and whether trying again helps.

use godwit_core::content::ObjectId;
use godwit_core::key::MemberId;
use std::io;
use std::path::{Path, PathBuf};

/// Why a store could not be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A running process holds it. Trying again helps when that one has ended.
    #[error("{path} is in use by a running process", path = .0.display())]
    Locked(PathBuf),
    /// It belongs to another member: two members must not share one directory.
    #[error("{path} belongs to member {theirs}, not to {ours}", path = .path.display())]
    OtherMember {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        theirs: MemberId,
        /// Who asked.
        ours: MemberId,
    },
    /// It was written by a later version of the software, or its `owner` file is damaged.
    #[error("{path} does not read as the owner file of a store: {found:?}", path = .path.display())]
    Format {
        /// The owner file.
        path: PathBuf,
        /// What stands there.
        found: String,
    },
    /// The file system refused.
    #[error("{path}", path = .path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Not even a fresh index could be opened.
    #[error("no index can be opened in {path}: {why}", path = .path.display())]
    Index {
        /// The index's directory.
        path: PathBuf,
        /// What it said.
        why: String,
    },
}

impl OpenError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
        let path = path.to_owned();
        move |source| OpenError::Io { path, source }
    }
}

/// Why an operation on an open store failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The disk is full: nothing was written, reads go on. Trying again helps when there is space.
    #[error("the disk is full: {free} bytes free, {needed} needed")]
    Full {
        /// Bytes free when it was refused.
        free: u64,
        /// Bytes needed, the reserve included.
        needed: u64,
    },
    /// What was read is not what was written. The object was set aside and counts as missing now;
    /// fetching it again helps.
    #[error("object {id} is damaged on the disk")]
    Corrupt {
        /// The object.
        id: ObjectId,
    },
    /// The index is damaged and is being rebuilt. Trying again in a moment helps.
    #[error("the index is being repaired: {0}")]
    Degraded(String),
    /// The object does not have the length or the group hashes it is said to have, or the bytes
    /// of a group are wrong. Nothing was written; trying again with the same does not help.
    #[error(transparent)]
    Mismatch(#[from] godwit_core::content::object::Mismatch),
    /// Another task is receiving this object. Waiting for it helps.
    #[error("object {0} is being received already")]
    InProgress(ObjectId),
    /// The key or value is longer than the store takes.
    #[error("a {what} of {len} bytes where at most {max} are allowed")]
    TooLong {
        /// Key or value.
        what: &'static str,
        /// Its length.
        len: usize,
        /// What is allowed.
        max: usize,
    },
    /// Groups are missing: it cannot be committed yet.
    #[error("object {id} lacks {missing} groups")]
    Incomplete {
        /// The object.
        id: ObjectId,
        /// How many groups are missing.
        missing: usize,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The file system refused. What was being written is not durable; what was acknowledged is.
    #[error("{what}: {why}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        why: String,
    },
}

impl StoreError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> StoreError {
        let what = what.into();
        move |error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                StoreError::Full { free: 0, needed: 0 }
            }
            _ => StoreError::Io { what, why: error.to_string() },
        }
    }
}
