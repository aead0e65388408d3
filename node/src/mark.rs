//! Which objects are referred to: the marking half of [`crate::collect`].
//!
//! A version that is held must be walked whole; when a block of it is missing, or is none, nobody
//! knows what it refers to, and nothing may be deleted. Versions that are still coming, and those
//! of which only what clients asked for is here, are walked as far as they are here.
//!
//! Marks are 8 bytes of an object's name; two objects that share them both stay. A store with more
//! objects than fit is marked and swept in several parts, by the first bits of their names.

use crate::recent::short;
use godwit_core::content::ObjectId;
use godwit_core::content::tree::{Reference, Role, Walk, WalkError};
use godwit_store::{Store, StoreError};
use std::collections::{BTreeSet, HashSet};
use tokio_util::sync::CancellationToken;

/// Objects marked at a time: some 64 MiB.
const MARKS_MAX: u64 = 1 << 22;

/// Blocks known to be marked with all that is under them: some 48 MiB.
const WALKED_MAX: usize = 1 << 20;

/// A share of all names, by their first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// How many bits say which part a name is in.
    bits: u32,
    number: u64,
}

impl Part {
    /// The parts in which a store of so many objects is marked, in order of names.
    pub(crate) fn of(objects: u64) -> impl Iterator<Item = Part> {
        let bits = objects.div_ceil(MARKS_MAX).max(1).next_power_of_two().trailing_zeros();
        (0..1u64 << bits).map(move |number| Part { bits, number })
    }

    /// How many parts there are.
    pub(crate) fn count(self) -> u64 {
        1 << self.bits
    }

    /// Where a name is.
    pub(crate) fn place(self, id: &ObjectId) -> std::cmp::Ordering {
        let part = short(id).checked_shr(u64::BITS - self.bits).unwrap_or(0);
        part.cmp(&self.number)
    }
}

/// Why nobody knows what is referred to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsure {
    /// A block is not here.
    #[error("block {0} is not here")]
    Missing(ObjectId),
    /// The tree is none.
    #[error(transparent)]
    Wrong(#[from] WalkError),
    /// The disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The daemon stops.
    #[error("the daemon is stopping")]
    Stopping,
}

/// What was found so far.
pub(crate) struct Marks {
    pub(crate) part: Part,
    store: Store,
    stop: CancellationToken,
    kept: HashSet<u64>,
    cached: HashSet<u64>,
    /// Those of the cache under which others are: without them nobody would know that the others
    /// belong to it.
    cached_blocks: HashSet<u64>,
    /// Blocks that were marked with all that is under them.
    walked: BTreeSet<ObjectId>,
}

impl Marks {
    pub(crate) fn new(part: Part, store: Store, stop: CancellationToken) -> Marks {
        Marks {
            part,
            store,
            stop,
            kept: HashSet::new(),
            cached: HashSet::new(),
            cached_blocks: HashSet::new(),
            walked: BTreeSet::new(),
        }
    }

    /// Marks all that a version which is held refers to.
    pub(crate) fn keep_whole(&mut self, root: ObjectId) -> Result<(), Unsure> {
        let mut walk = Walk::new(root);
        while let Some(reference) = walk.next() {
            self.go_on()?;
            self.keep(&reference.id);
            if let Role::Leaf { .. } = reference.role {
                continue;
            }
            if self.walked.contains(&reference.id) {
                walk.skip(reference.id);
                continue;
            }
            let bytes = self.read(&reference.id)?.ok_or(Unsure::Missing(reference.id))?;
            walk.feed(reference, &bytes)?;
        }
        // Only now: under each of them everything was found.
        let mut seen = walk.into_seen();
        if self.walked.len() + seen.len() <= WALKED_MAX {
            self.walked.append(&mut seen);
        }
        Ok(())
    }

    /// Marks what is here of a version that is to be held, or that clients still read.
    pub(crate) fn keep_partly(&mut self, root: ObjectId) -> Result<(), Unsure> {
        self.partly(root, |marks, reference| marks.keep(&reference.id))
    }

    /// Marks what is here of a version that is not to be held: it may stay as long as there is
    /// room.
    pub(crate) fn cache(&mut self, root: ObjectId) -> Result<(), Unsure> {
        self.partly(root, |marks, Reference { id, role }| {
            if marks.part.place(&id).is_eq() {
                marks.cached.insert(short(&id));
                if role.leads_on() {
                    marks.cached_blocks.insert(short(&id));
                }
            }
        })
    }

    fn partly(&mut self, root: ObjectId, mark: fn(&mut Marks, Reference)) -> Result<(), Unsure> {
        let mut walk = Walk::new(root);
        while let Some(reference) = walk.next() {
            self.go_on()?;
            mark(self, reference);
            if let Role::Leaf { .. } = reference.role {
                continue;
            }
            if self.walked.contains(&reference.id) {
                walk.skip(reference.id);
                continue;
            }
            match self.read(&reference.id)? {
                None => walk.skip(reference.id),
                // A wrong tree is neither held nor served; what of it is here may go.
                Some(bytes) => {
                    if walk.feed(reference, &bytes).is_err() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn keep(&mut self, id: &ObjectId) {
        if self.part.place(id).is_eq() {
            self.kept.insert(short(id));
        }
    }

    fn read(&self, id: &ObjectId) -> Result<Option<bytes::Bytes>, Unsure> {
        let Some(object) = self.store.get(id)? else { return Ok(None) };
        let bytes = object.bytes(0..object.len()).map_err(|_| StoreError::Corrupt { id: *id })?;
        Ok(Some(bytes))
    }

    fn go_on(&self) -> Result<(), Unsure> {
        if self.stop.is_cancelled() { Err(Unsure::Stopping) } else { Ok(()) }
    }

    pub(crate) fn is_kept(&self, id: &ObjectId) -> bool {
        self.kept.contains(&short(id))
    }

    /// Whether it belongs to the cache, if it is not kept.
    pub(crate) fn is_cached(&self, id: &ObjectId) -> bool {
        self.cached.contains(&short(id))
    }

    /// Whether others of the cache are under it.
    pub(crate) fn is_cached_block(&self, id: &ObjectId) -> bool {
        self.cached_blocks.contains(&short(id))
    }

    /// The blocks of the versions that are held.
    pub(crate) fn blocks(&self) -> &BTreeSet<ObjectId> {
        &self.walked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_in_one_part_and_parts_follow_each_other() {
        assert_eq!(Part::of(0).count(), 1);
        let parts: Vec<Part> = Part::of(MARKS_MAX * 3).collect();
        assert_eq!((parts.len(), parts[0].count()), (4, 4));
        let mut ids: Vec<ObjectId> = (0..1000u32).map(|i| ObjectId::of(&i.to_le_bytes())).collect();
        ids.sort();
        let of = |id: &ObjectId| parts.iter().position(|part| part.place(id).is_eq()).unwrap();
        assert!(ids.windows(2).all(|pair| of(&pair[0]) <= of(&pair[1])));
        assert!(ids.iter().all(|id| parts.iter().filter(|part| part.place(id).is_eq()).count() == 1));
    }
}
