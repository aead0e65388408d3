//! An object that is read.

use crate::extent::Header;
use crate::place::Place;
use crate::shared::Shared;
use bytes::{Bytes, BytesMut};
use godwit_core::content::{GroupHash, ObjectId};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// An object in the store, proved when it was got. Its bytes stay in place while this is held,
/// though the object be deleted meanwhile.
#[derive(Clone)]
pub struct Object {
    id: ObjectId,
    place: Place,
    file: Arc<File>,
    _pin: Arc<Pin>,
}

struct Pin {
    id: ObjectId,
    shared: Arc<Shared>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.shared.unpin(self.id);
    }
}

impl Object {
    /// The caller has pinned `id`.
    pub(crate) fn new(shared: &Arc<Shared>, id: ObjectId, place: Place, file: Arc<File>) -> Object {
        Object { id, place, file, _pin: Arc::new(Pin { id, shared: shared.clone() }) }
    }

    /// Its name.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// Its length, bytes.
    #[expect(clippy::len_without_is_empty, reason = "an object is a file's bytes, not a collection")]
    pub fn len(&self) -> u64 {
        self.place.len
    }

    /// Its group hashes, read from the disk.
    pub fn groups(&self) -> io::Result<Vec<GroupHash>> {
        let file_len = self.file.metadata()?.len();
        match Header::read(&self.file, self.place.offset(), file_len)? {
            Some((header, groups)) if header.id == self.id => Ok(groups),
            _ => {
                // The body is proved, the hashes are not: make them again.
                let bytes = self.bytes(0..self.len())?;
                Ok(godwit_core::content::object::name(&bytes).groups)
            }
        }
    }

    /// Reads from `offset` on until `buffer` is full or the object ends; returns how many bytes.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.len().saturating_sub(offset).min(buffer.len() as u64) as usize;
        let start = self.place.body_offset(self.id) + offset.min(self.len());
        self.file.read_exact_at(&mut buffer[..len], start)?;
        Ok(len)
    }

    /// The bytes in `range`, as far as the object reaches.
    pub fn bytes(&self, range: Range<u64>) -> io::Result<Bytes> {
        let end = range.end.min(self.len());
        let mut bytes = BytesMut::zeroed(end.saturating_sub(range.start) as usize);
        self.read_at(range.start, &mut bytes)?;
        Ok(bytes.freeze())
    }

    /// The file that has the object and where in it the bytes begin: for `sendfile`. Keep this
    /// object while the file is read.
    pub fn file(&self) -> (&Arc<File>, u64) {
        (&self.file, self.place.body_offset(self.id))
    }
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Object").field("id", &self.id).field("len", &self.place.len).finish()
    }
}
