//! Blocks under which everything is known to be in the store.

use crate::content::ObjectId;
use std::collections::BTreeSet;

/// Blocks remembered, over all sites: some 20 MiB. Beyond that only the newest version's are, and
/// the others are looked up in the store once more when they come again.
const WHOLE_MAX: usize = 1 << 18;

/// Blocks under which everything is known to be in the store.
#[derive(Default)]
pub(super) struct Whole(BTreeSet<ObjectId>);

impl Whole {
    pub(super) fn has(&self, id: &ObjectId) -> bool {
        self.0.contains(id)
    }

    /// Forgets all blocks but these.
    pub(super) fn retain(&mut self, blocks: &BTreeSet<ObjectId>) {
        self.0.retain(|id| blocks.contains(id));
    }

    /// Adds the blocks of a tree that is complete.
    pub(super) fn add(&mut self, mut blocks: BTreeSet<ObjectId>) {
        if self.0.len() + blocks.len() > WHOLE_MAX {
            self.0.clear();
        }
        while blocks.len() > WHOLE_MAX {
            blocks.pop_last();
        }
        self.0.append(&mut blocks);
    }
}
