//! An object being received, group by group.
//!
//! The groups go to a file that already has the form of an extent of its own, each verified before
//! it is written. What is there after a crash is found by verifying the file's groups again: that
//! takes a millisecond for each 3 MiB, and needs no second truth about which groups are there.

use crate::error::StoreError;
use crate::extent::Header;
use crate::shared::{Shared, lock};
use crate::writer::Job;
use bytes::Bytes;
use godwit_core::content::object::{Verifier, group_range};
use godwit_core::content::{GroupHash, ObjectId};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;

/// An object being received. Dropped before [`Incoming::commit`], it leaves what was received for
/// the next [`crate::Store::begin`] of the same object.
pub struct Incoming {
    shared: Arc<Shared>,
    verifier: Verifier,
    file: Arc<File>,
    path: PathBuf,
    body_offset: u64,
    have: Mutex<Have>,
}

struct Have {
    groups: Vec<bool>,
    missing: usize,
}

impl Incoming {
    pub(crate) fn begin(
        shared: &Arc<Shared>,
        id: ObjectId,
        len: u64,
        groups: Vec<GroupHash>,
    ) -> Result<Incoming, StoreError> {
        let verifier = Verifier::new(id, len, groups)?;
        if !lock(&shared.incoming).insert(id) {
            return Err(StoreError::InProgress(id));
        }
        let opened = Self::open(shared, verifier);
        if opened.is_err() {
            lock(&shared.incoming).remove(&id);
        }
        opened
    }

    fn open(shared: &Arc<Shared>, verifier: Verifier) -> Result<Incoming, StoreError> {
        let path = shared.layout.incoming(&verifier.id());
        let error = || StoreError::io(format!("receiving to {}", path.display()));
        let header = Header { id: verifier.id(), len: verifier.object_len(), live: true };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(error())?;
        let resumed = file.metadata().map_err(error())?.len() == header.extent_len();
        let mut have = Have { groups: vec![false; verifier.count()], missing: verifier.count() };
        if resumed {
            have.find(&file, &header, &verifier);
        } else {
            file.set_len(header.extent_len()).map_err(error())?;
        }
        file.write_all_at(&header.encode(verifier.groups()), 0).map_err(error())?;
        Ok(Incoming {
            shared: shared.clone(),
            verifier,
            file: Arc::new(file),
            body_offset: header.body_offset(),
            have: Mutex::new(have),
            path,
        })
    }

    /// The object.
    pub fn id(&self) -> ObjectId {
        self.verifier.id()
    }

    /// How many groups it has.
    pub fn count(&self) -> usize {
        self.verifier.count()
    }

    /// Which groups are there.
    pub fn have(&self) -> Vec<bool> {
        lock(&self.have).groups.clone()
    }

    /// The first group that is not there; `None` when all are.
    pub fn first_missing(&self) -> Option<usize> {
        lock(&self.have).groups.iter().position(|have| !have)
    }

    /// Takes group `index`, verified before it is written. Groups may come in any order and from
    /// several threads. Not durable until [`Incoming::commit`].
    pub fn write_group(&self, index: usize, bytes: &[u8]) -> Result<(), StoreError> {
        self.verifier.verify(index, bytes)?;
        if lock(&self.have).groups[index] {
            return Ok(());
        }
        let offset = group_range(self.verifier.object_len(), index).start;
        self.file
            .write_all_at(bytes, self.body_offset + offset)
            .map_err(StoreError::io(format!("receiving to {}", self.path.display())))?;
        lock(&self.have).note(index);
        Ok(())
    }

    /// The bytes of group `index` if it is there: for serving while receiving.
    pub fn group(&self, index: usize) -> Result<Option<Bytes>, StoreError> {
        if !lock(&self.have).groups.get(index).copied().unwrap_or(false) {
            return Ok(None);
        }
        let range = group_range(self.verifier.object_len(), index);
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.file
            .read_exact_at(&mut bytes, self.body_offset + range.start)
            .map_err(StoreError::io(format!("reading {}", self.path.display())))?;
        Ok(Some(bytes.into()))
    }

    /// Makes the object one of the store's: durable when it returns.
    pub async fn commit(self) -> Result<(), StoreError> {
        let missing = lock(&self.have).missing;
        if missing > 0 {
            return Err(StoreError::Incomplete { id: self.id(), missing });
        }
        let (done, waiter) = oneshot::channel();
        let (id, len) = (self.id(), self.verifier.object_len());
        let job = Job::Adopt { id, len, file: self.file.clone(), path: self.path.clone(), done };
        self.shared.jobs.send(job).map_err(|_| StoreError::Closed)?;
        waiter.await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        lock(&self.shared.incoming).remove(&self.verifier.id());
    }
}

impl Have {
    fn note(&mut self, index: usize) {
        if !std::mem::replace(&mut self.groups[index], true) {
            self.missing -= 1;
        }
    }

    /// Finds the groups that an earlier attempt left in `file`.
    fn find(&mut self, file: &File, header: &Header, verifier: &Verifier) {
        let len = verifier.object_len();
        for index in 0..verifier.count() {
            let range = group_range(len, index);
            let mut bytes = vec![0; (range.end - range.start) as usize];
            let read = file.read_exact_at(&mut bytes, header.body_offset() + range.start);
            if read.is_ok() && verifier.verify(index, &bytes).is_ok() {
                self.note(index);
            }
        }
    }
}
