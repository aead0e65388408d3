//! From a root to every object under it.
//!
//! A step machine over [`references`]: it hands out objects in portions, and is fed the bytes of
//! those that lead on. It goes depth first, so that what waits is at most the items of the blocks
//! on one path, and remembers which blocks it has seen: a tree may use one subtree in many places,
//! and a malicious one could otherwise make 2^100 paths out of a hundred blocks.

use super::block::{BadBlock, Reference, Role, references};
use crate::content::ObjectId;
use std::collections::BTreeSet;

/// The most blocks and lists a tree may have. A site of a million files in ordinary directories
/// has some ten thousand; the bound is on the memory of a walk, about 64 MiB.
pub const TREE_BLOCKS_MAX: usize = 1 << 20;

/// Why a tree cannot be walked. Trying again does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalkError {
    /// A block is not one.
    #[error("object {id} in the tree")]
    Block {
        /// The block.
        id: ObjectId,
        /// What is wrong with it.
        #[source]
        source: BadBlock,
    },
    /// More than [`TREE_BLOCKS_MAX`] blocks.
    #[error("a tree of more than {TREE_BLOCKS_MAX} blocks")]
    TooLarge,
}

/// A walk over one tree.
#[derive(Clone, Debug)]
pub struct Walk {
    /// Found and not yet handed out, the next one last.
    stack: Vec<Reference>,
    /// Blocks and lists found so far.
    seen: BTreeSet<ObjectId>,
    /// Handed out, and still to be fed or skipped.
    open: BTreeSet<ObjectId>,
}

impl Walk {
    /// A walk from the root of a directory.
    pub fn new(root: ObjectId) -> Walk {
        let stack = vec![Reference { id: root, role: Role::ROOT }];
        Walk { stack, seen: BTreeSet::from([root]), open: BTreeSet::new() }
    }

    /// The next object. Each block and list comes once; a leaf may come again where the tree uses
    /// it again. One whose role leads on has to be [fed](Walk::feed) or [skipped](Walk::skip).
    #[expect(clippy::should_implement_trait, reason = "a walk that waits for a block is not at its end")]
    pub fn next(&mut self) -> Option<Reference> {
        let reference = self.stack.pop()?;
        if reference.role.leads_on() {
            self.open.insert(reference.id);
        }
        Some(reference)
    }

    /// What [`Walk::next`] would hand out.
    pub fn peek(&self) -> Option<Reference> {
        self.stack.last().copied()
    }

    /// Takes the bytes of an object that was handed out and leads on.
    pub fn feed(&mut self, reference: Reference, bytes: &[u8]) -> Result<(), WalkError> {
        let Reference { id, role } = reference;
        if !self.open.remove(&id) {
            return Ok(());
        }
        let found = references(role, bytes).map_err(|source| WalkError::Block { id, source })?;
        for reference in found.into_iter().rev() {
            if !reference.role.leads_on() || self.seen.insert(reference.id) {
                self.stack.push(reference);
            }
        }
        if self.seen.len() > TREE_BLOCKS_MAX {
            return Err(WalkError::TooLarge);
        }
        Ok(())
    }

    /// Leaves out what is under an object that was handed out and leads on.
    pub fn skip(&mut self, id: ObjectId) {
        self.open.remove(&id);
    }

    /// Whether every object was handed out, and all that lead on were fed or skipped.
    pub fn finished(&self) -> bool {
        self.stack.is_empty() && self.open.is_empty()
    }

    /// How many objects wait to be handed out.
    pub fn waiting(&self) -> usize {
        self.stack.len()
    }

    /// The blocks and lists of the tree, as far as they were found.
    pub fn into_seen(self) -> BTreeSet<ObjectId> {
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Body, Entry, File, Kind, build_directory};
    use super::*;
    use bytes::Bytes;
    use std::collections::BTreeMap;

    fn entry(name: String, kind: Kind) -> Entry {
        Entry { name, kind }
    }

    fn walk(root: ObjectId, blocks: &BTreeMap<ObjectId, Bytes>) -> (usize, usize) {
        let mut walk = Walk::new(root);
        let (mut leaves, mut inner) = (0, 0);
        while let Some(reference) = walk.next() {
            match reference.role.leads_on() {
                true => {
                    inner += 1;
                    walk.feed(reference, &blocks[&reference.id]).unwrap();
                }
                false => leaves += 1,
            }
        }
        assert!(walk.finished());
        (leaves, inner)
    }

    #[test]
    fn all_files_of_a_large_directory_are_found() {
        let file = |i: u32| {
            let body = Body::Object(ObjectId::of(&i.to_le_bytes()));
            entry(format!("{i}"), Kind::File(File { len: 4, modified: 0, body }))
        };
        let built = build_directory((0..3000).map(file).collect()).unwrap();
        let blocks: BTreeMap<_, _> = built.blocks.iter().cloned().collect();
        assert_eq!(walk(built.root, &blocks), (3000, blocks.len()));
    }

    #[test]
    fn a_tree_that_repeats_itself_is_walked_once() {
        // 64 levels, each naming the one below four times: 4^64 paths.
        let mut blocks = BTreeMap::new();
        let mut root = build_directory(vec![]).unwrap();
        for _ in 0..64 {
            blocks.extend(root.blocks.iter().cloned());
            let below = root.root;
            root = build_directory((0..4).map(|i| entry(format!("{i}"), Kind::Directory(below))).collect())
                .unwrap();
        }
        blocks.extend(root.blocks.iter().cloned());
        assert_eq!(walk(root.root, &blocks), (0, 65));
    }
}
