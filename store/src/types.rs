//! What is put into the store, and what it tells.

use bytes::Bytes;
use godwit_core::content::ObjectId;
use godwit_core::content::object::{self, Named};
use serde::{Deserialize, Serialize};

/// Which set of records: one for each kind of thing that keeps records, numbered by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Space(pub u8);

/// An object to be kept.
#[derive(Clone, Debug)]
pub struct NewObject {
    /// Its name, length and group hashes, as found by hashing `bytes` or by having verified them.
    /// The store does not hash them again.
    pub named: Named,
    /// Its bytes.
    pub bytes: Bytes,
}

impl NewObject {
    /// The object that `bytes` are, hashed here.
    pub fn of(bytes: Bytes) -> NewObject {
        NewObject { named: object::name(&bytes), bytes }
    }
}

/// A change of a record.
#[derive(Clone, Debug)]
pub struct RecordChange {
    /// The set it is in.
    pub space: Space,
    /// Its key, at most [`crate::KEY_LEN_MAX`] bytes.
    pub key: Vec<u8>,
    /// Its value, at most [`crate::VALUE_LEN_MAX`] bytes; `None` removes it.
    pub value: Option<Vec<u8>>,
}

/// The store in numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stats {
    /// Objects kept.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Records kept.
    pub records: u64,
    /// Pack files.
    pub packs: u64,
    /// Group commits since the start.
    pub commits: u64,
    /// Objects found damaged since the start.
    pub lost: u64,
    /// Times the index was rebuilt since the start, the opening aside.
    pub rebuilds: u64,
    /// Bytes free on the file system.
    pub disk_free: u64,
    /// The last write was refused because the disk is full, and would be now.
    pub full: bool,
    /// Why the index is being repaired, if it is: reads and writes fail meanwhile.
    pub degraded: Option<String>,
}

/// How far a scrub came.
#[derive(Clone, Debug, Default)]
pub struct Scrubbed {
    /// Where to go on; `None` when the last object was reached.
    pub next: Option<ObjectId>,
    /// Objects checked.
    pub objects: u64,
    /// Bytes checked.
    pub bytes: u64,
    /// Objects found damaged: they count as missing now.
    pub damaged: Vec<ObjectId>,
}
