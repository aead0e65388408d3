//! From entries to blocks.
//!
//! Items (entries, or child blocks by their first name) are sorted and cut into blocks. A block
//! ends after an item whose name hashes to a cut, one in `CUT_ODDS`; never before
//! `ITEMS_MIN` items, always at [`BLOCK_ITEMS_MAX`]. A cut depends on nothing but names, so
//! after a change the cuts fall where they fell before, from the next one on. The level is hashed
//! with the name: otherwise every cut among entries would be a cut among their blocks as well.

use super::block::{BLOCK_ITEMS_MAX, BadName, Block, Entry, File, Kind, check_name};
use super::{Body, LIST_OBJECTS_MAX};
use crate::content::{OBJECT_LEN_MAX, ObjectId};
use bytes::Bytes;
use std::collections::BTreeMap;

/// About how many items a block comes to have: `ITEMS_MIN` and then one in `CUT_ODDS`.
pub const ENTRIES_TARGET: usize = 128;

/// No block but a level's last has fewer: small directories are one block, and every level is at
/// most a thirty-second of the one below, whatever the names are.
const ITEMS_MIN: usize = 32;

/// One name in so many ends a block.
const CUT_ODDS: u64 = (ENTRIES_TARGET - ITEMS_MIN) as u64;

/// Why entries are no directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// An entry has a name that none may have.
    #[error(transparent)]
    Name(#[from] BadName),
    /// Two entries have one name.
    #[error("{0:?} is there twice")]
    Twice(String),
    /// A file's length does not fit where its bytes are, or it is longer than a list can hold.
    #[error("{name:?}: {len} bytes is not the length of a file with this body")]
    Length {
        /// The file.
        name: String,
        /// Its length.
        len: u64,
    },
}

/// A directory as blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// The root block's name: what the directory above, or the site version, refers to.
    pub root: ObjectId,
    /// All its blocks, the root last.
    pub blocks: Vec<(ObjectId, Bytes)>,
}

/// Makes a directory of `entries`, in any order.
pub fn build_directory(mut entries: Vec<Entry>) -> Result<Built, BuildError> {
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    check(&entries)?;
    let mut blocks = Vec::new();
    let mut level = 0;
    let mut children =
        cut(level, entries, |entry| &entry.name, |items| store(&mut blocks, Block::Entries(items)));
    while children.len() > 1 {
        level += 1;
        children = cut(level, children, |child| &child.0, |items| store(&mut blocks, Block::Index(items)));
    }
    let root = match children.pop() {
        Some((_, root)) => root,
        None => store(&mut blocks, Block::Entries(Vec::new())),
    };
    Ok(Built { root, blocks })
}

fn check(entries: &[Entry]) -> Result<(), BuildError> {
    for entry in entries {
        check_name(&entry.name)?;
        if let Kind::File(File { len, body, .. }) = entry.kind {
            let objects = len.div_ceil(OBJECT_LEN_MAX);
            let fits = match body {
                Body::Object(_) => objects <= 1,
                Body::List(_) => (2..=LIST_OBJECTS_MAX as u64).contains(&objects),
            };
            if !fits {
                return Err(BuildError::Length { name: entry.name.clone(), len });
            }
        }
    }
    match entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => Err(BuildError::Twice(pair[0].name.clone())),
        None => Ok(()),
    }
}

fn store(blocks: &mut Vec<(ObjectId, Bytes)>, block: Block) -> ObjectId {
    let bytes = block.encode();
    let id = ObjectId::of(&bytes);
    blocks.push((id, bytes));
    id
}

/// Cuts one level into blocks; returns each block's first name and id.
fn cut<T>(
    level: u8,
    items: Vec<T>,
    name: impl Fn(&T) -> &String,
    mut store: impl FnMut(Vec<T>) -> ObjectId,
) -> Vec<(String, ObjectId)> {
    let mut blocks = Vec::new();
    let mut block: Vec<T> = Vec::new();
    let mut end = |block: &mut Vec<T>| {
        if let Some(first) = block.first().map(|item| name(item).clone()) {
            blocks.push((first, store(std::mem::take(block))));
        }
    };
    for item in items {
        let ends = ends_block(level, name(&item));
        block.push(item);
        if block.len() >= BLOCK_ITEMS_MAX || ends && block.len() >= ITEMS_MIN {
            end(&mut block);
        }
    }
    end(&mut block);
    blocks
}

fn ends_block(level: u8, name: &str) -> bool {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[level]).update(name.as_bytes());
    let mut head = [0; 8];
    hasher.finalize_xof().fill(&mut head);
    u64::from_le_bytes(head).is_multiple_of(CUT_ODDS)
}

/// The first two of `names` that differ only in case: on a file system that ignores case, one
/// would replace the other, so a publisher is warned. Full Unicode lower case is compared;
/// composed and decomposed forms count as different.
pub fn case_clash<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<(&'a str, &'a str)> {
    let mut seen = BTreeMap::new();
    names.into_iter().find_map(|name| {
        let earlier = seen.insert(name.to_lowercase(), name)?;
        (earlier != name).then_some((earlier, name))
    })
}

#[cfg(test)]
mod tests {
    use super::super::resolve::{Resolve, Step};
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn entry(name: &str, content: &str) -> Entry {
        let file = File {
            len: content.len() as u64,
            modified: 1,
            body: Body::Object(ObjectId::of(content.as_bytes())),
        };
        Entry { name: name.to_owned(), kind: Kind::File(file) }
    }

    fn find(built: &Built, path: &str) -> Step {
        let blocks: BTreeMap<ObjectId, Bytes> = built.blocks.iter().cloned().collect();
        let mut resolve = Resolve::new(built.root, path);
        loop {
            match resolve.step() {
                Step::NeedBlock(id) => resolve.feed(&blocks[&id]).unwrap(),
                done => return done,
            }
        }
    }

    fn ids(built: &Built) -> BTreeSet<ObjectId> {
        built.blocks.iter().map(|(id, _)| *id).collect()
    }

    #[test]
    fn an_empty_directory_is_one_block() {
        let built = build_directory(vec![]).unwrap();
        assert_eq!(built.blocks.len(), 1);
        assert_eq!(find(&built, "x"), Step::NotFound);
    }

    #[test]
    fn names_twice_bad_names_and_misfits_are_refused() {
        assert_eq!(
            build_directory(vec![entry("a", "1"), entry("a", "2")]),
            Err(BuildError::Twice("a".into()))
        );
        assert!(matches!(build_directory(vec![entry("a\nb", "1")]), Err(BuildError::Name(_))));
        let body = Body::Object(ObjectId::of(b""));
        let long = Kind::File(File { len: OBJECT_LEN_MAX + 1, modified: 0, body });
        assert!(matches!(
            build_directory(vec![Entry { name: "a".into(), kind: long }]),
            Err(BuildError::Length { .. })
        ));
    }

    #[test]
    fn clashes_of_case_are_found() {
        assert_eq!(case_clash(["a", "B", "b"]), Some(("B", "b")));
        assert_eq!(case_clash(["STRASSE", "straße"]), None);
        assert_eq!(case_clash(["Ä", "ä"]), Some(("Ä", "ä")));
        assert_eq!(case_clash(["a", "b"]), None);
    }

    #[test]
    fn a_large_directory_has_blocks_near_the_target() {
        let built = build_directory((0..20_000).map(|i| entry(&format!("file-{i}"), "x")).collect()).unwrap();
        assert!((20_000 / 256..20_000 / 64).contains(&built.blocks.len()), "{}", built.blocks.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn every_entry_is_found_and_order_does_not_matter(
            names in proptest::collection::btree_set("[a-z]{1,4}", 0..1500),
        ) {
            let entries: Vec<Entry> = names.iter().map(|name| entry(name, name)).collect();
            let built = build_directory(entries.clone()).unwrap();
            let reversed = build_directory(entries.into_iter().rev().collect()).unwrap();
            prop_assert_eq!(&built, &reversed);
            for name in &names {
                let Kind::File(file) = entry(name, name).kind else { unreachable!() };
                prop_assert_eq!(find(&built, name), Step::File(file));
            }
            prop_assert_eq!(find(&built, "not-there"), Step::NotFound);
        }

        #[test]
        fn one_change_rewrites_few_blocks(seed in 0u32..1000, at in 0usize..5000) {
            let names: Vec<String> = (0..5000).map(|i| format!("{:x}", i * 7919 + seed)).collect();
            let entries: Vec<Entry> = names.iter().map(|name| entry(name, "old")).collect();
            let before = build_directory(entries.clone()).unwrap();
            let fresh = |after: Vec<Entry>| {
                let after = build_directory(after).unwrap();
                ids(&after).difference(&ids(&before)).count()
            };
            let mut changed = entries.clone();
            changed[at] = entry(&names[at], "new");
            // The block, and two levels of index at most over it.
            prop_assert!(fresh(changed) <= 3);
            let mut added = entries.clone();
            added.push(entry(&format!("{}0", names[at]), "new"));
            prop_assert!(fresh(added) <= 8);
            let mut removed = entries;
            removed.remove(at);
            prop_assert!(fresh(removed) <= 8);
        }
    }
}
