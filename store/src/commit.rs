//! One group commit while it is gathered.

use crate::error::StoreError;
use crate::frame::{self, Summary, object_key};
use crate::index::Trouble;
use crate::journal::Entry;
use crate::place::Place;
use crate::shared::Shared;
use crate::writer::Done;
use godwit_core::content::ObjectId;
use std::collections::BTreeMap;
use tokio::sync::OwnedSemaphorePermit;

/// Bytes of bodies in one commit, about: at 200 MB/s some 80 ms, so that nobody waits long.
const COMMIT_BYTES: u64 = 16 << 20;
/// Changes of the index in one commit, about: sled wants its batches small.
const COMMIT_CHANGES: usize = 2048;
/// What one commit is made of.
#[derive(Default)]
pub(crate) struct Commit {
    pub(crate) changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) summary: Summary,
    /// Change in numbers of objects, their bytes, and records.
    pub(crate) objects: i64,
    pub(crate) bytes: i64,
    pub(crate) records: i64,
    pub(crate) added: Vec<(ObjectId, Place)>,
    pub(crate) removed: Vec<(ObjectId, Place)>,
    pub(crate) waiting: Vec<Done>,
    pub(crate) permits: Vec<OwnedSemaphorePermit>,
    pub(crate) staged: u64,
    pub(crate) repair: bool,
    pub(crate) stop: bool,
}

impl Commit {
    pub(crate) fn has_room(&self) -> bool {
        self.staged < COMMIT_BYTES && self.changes.len() < COMMIT_CHANGES && !self.repair && !self.stop
    }

    pub(crate) fn add(&mut self, id: ObjectId, place: Place) {
        let (key, payload) = (object_key(&id), place.encode());
        self.summary.add(frame::digest(&key, &payload));
        self.changes.insert(key, Some(payload));
        self.objects += 1;
        self.bytes += place.len as i64;
        self.added.push((id, place));
    }

    /// The payload under `key` once the commit is made.
    pub(crate) fn value(&self, shared: &Shared, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.changes.get(key) {
            Some(payload) => Ok(payload.clone()),
            None => shared.value(key),
        }
    }
}

impl From<Trouble> for StoreError {
    fn from(trouble: Trouble) -> StoreError {
        match trouble {
            Trouble::Full => StoreError::Full { free: 0, needed: 0 },
            Trouble::Damaged(why) => StoreError::Degraded(why),
        }
    }
}
