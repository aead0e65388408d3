//! What a block is on the wire, and the checks that every decoded one has passed.
//!
//! A block that has the right hash may still be absurd: whoever signed the site made it. So
//! [`Block::decode`] and [`List::decode`] check everything that later code relies on: lengths,
//! counts, names, their order, and that a file's length fits its body.

use crate::content::{OBJECT_LEN_MAX, ObjectId};
use crate::wire::{self, DecodeError};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The longest name of an entry, bytes: what common file systems allow.
pub const NAME_LEN_MAX: usize = 255;

/// The most items in a block.
pub const BLOCK_ITEMS_MAX: usize = 256;

/// The longest encoded block, bytes: 256 items of at most 255 bytes of name and 60 of the rest
/// are 79 KiB; the bound leaves room for another field.
pub const BLOCK_LEN_MAX: usize = 128 * 1024;

/// The most objects in a [`List`]: files up to 1 TiB.
pub const LIST_OBJECTS_MAX: usize = 16 * 1024;

/// The longest encoded list, bytes.
pub const LIST_LEN_MAX: usize = LIST_OBJECTS_MAX * 32 + 8;

/// The most index blocks between a directory's root and its entries. A well built directory of a
/// million entries has three.
pub const INDEX_DEPTH_MAX: usize = 24;

/// One directory entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The file or directory name: one path segment, as [`check_name`] allows.
    pub name: String,
    /// What it is.
    pub kind: Kind,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A file.
    File(File),
    /// A directory: its root block.
    Directory(ObjectId),
}

/// A file's content and its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Length, bytes.
    pub len: u64,
    /// Last modification, seconds since the Unix epoch.
    pub modified: u64,
    /// Where the bytes are.
    pub body: Body,
}

/// Where the bytes of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// In one object, of at most [`OBJECT_LEN_MAX`].
    Object(ObjectId),
    /// In several, in order: this object is the encoded [`List`].
    List(ObjectId),
}

/// The objects of a large file: each but the last has [`OBJECT_LEN_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// The objects in order.
    pub objects: Vec<ObjectId>,
}

/// One block of a directory, as it is stored and hashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Block {
    /// Entries, sorted by name.
    Entries(Vec<Entry>),
    /// Child blocks, each with the first name in it, sorted by that name.
    Index(Vec<(String, ObjectId)>),
}

/// Why a text cannot be the name of an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Nothing.
    #[error("a file name cannot be empty")]
    Empty,
    /// `.` or `..`, which mean places, not things.
    #[error("{0:?} is not a file name")]
    Dots(String),
    /// A slash, a NUL or another control character.
    #[error("the file name {name:?} has the character {character:?} in it")]
    Character {
        /// The name.
        name: String,
        /// The first character that may not stand in a name.
        character: char,
    },
    /// Over [`NAME_LEN_MAX`] bytes.
    #[error("a file name has at most {NAME_LEN_MAX} bytes, this one has {0}")]
    TooLong(usize),
}

/// Whether `name` may be the name of an entry: one path segment, so not empty, not `.` or `..`,
/// without `/`, without control characters (NUL and newlines among them), at most
/// [`NAME_LEN_MAX`] bytes.
pub fn check_name(name: &str) -> Result<(), BadName> {
    if name.is_empty() {
        return Err(BadName::Empty);
    }
    if name.len() > NAME_LEN_MAX {
        return Err(BadName::TooLong(name.len()));
    }
    if name == "." || name == ".." {
        return Err(BadName::Dots(name.to_owned()));
    }
    match name.chars().find(|c| *c == '/' || c.is_control()) {
        Some(character) => Err(BadName::Character { name: name.to_owned(), character }),
        None => Ok(()),
    }
}

/// Why bytes are not a block or a list, though they have the right hash. Trying again does not
/// help: whoever signed the tree made it wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadBlock {
    /// They do not decode.
    #[error("not a block: {0}")]
    Decode(#[from] DecodeError),
    /// An entry has a name that none may have.
    #[error(transparent)]
    Name(#[from] BadName),
    /// More items than [`BLOCK_ITEMS_MAX`] or [`LIST_OBJECTS_MAX`].
    #[error("{0} items in one block")]
    TooMany(usize),
    /// Only the root of an empty directory has no items, and it is no index.
    #[error("an index without items")]
    Empty,
    /// The names are not strictly ascending.
    #[error("{0:?} is out of order or there twice")]
    Order(String),
    /// A file's length does not fit where its bytes are.
    #[error("{0} bytes is not the length of a file with this body")]
    Length(u64),
    /// More index blocks above one another than [`INDEX_DEPTH_MAX`].
    #[error("a directory with more than {INDEX_DEPTH_MAX} levels of index")]
    TooDeep,
}

impl Block {
    /// The block's bytes.
    pub fn encode(&self) -> Bytes {
        wire::encode(self).into()
    }

    /// The block that `bytes` are, checked in every respect.
    pub fn decode(bytes: &[u8]) -> Result<Block, BadBlock> {
        let block: Block = wire::decode(bytes, BLOCK_LEN_MAX)?;
        block.check()?;
        Ok(block)
    }

    fn check(&self) -> Result<(), BadBlock> {
        match self {
            Block::Entries(entries) => {
                check_items(entries.len(), entries.iter().map(|entry| entry.name.as_str()))?;
                entries.iter().try_for_each(|entry| match &entry.kind {
                    Kind::File(file) => file.check(),
                    Kind::Directory(_) => Ok(()),
                })
            }
            Block::Index(children) if children.is_empty() => Err(BadBlock::Empty),
            Block::Index(children) => {
                check_items(children.len(), children.iter().map(|(name, _)| name.as_str()))
            }
        }
    }
}

fn check_items<'a>(count: usize, names: impl Iterator<Item = &'a str>) -> Result<(), BadBlock> {
    if count > BLOCK_ITEMS_MAX {
        return Err(BadBlock::TooMany(count));
    }
    let mut last = "";
    for name in names {
        check_name(name)?;
        // No name is empty, so the first one passes.
        if name <= last {
            return Err(BadBlock::Order(name.to_owned()));
        }
        last = name;
    }
    Ok(())
}

impl File {
    fn check(&self) -> Result<(), BadBlock> {
        let fits = match self.body {
            Body::Object(_) => self.len <= OBJECT_LEN_MAX,
            Body::List(_) => {
                self.len > OBJECT_LEN_MAX && self.len <= OBJECT_LEN_MAX * LIST_OBJECTS_MAX as u64
            }
        };
        fits.then_some(()).ok_or(BadBlock::Length(self.len))
    }
}

impl List {
    /// The list's bytes.
    pub fn encode(&self) -> Bytes {
        wire::encode(self).into()
    }

    /// The list that `bytes` are, of a file of `file_len` bytes.
    pub fn decode(bytes: &[u8], file_len: u64) -> Result<List, BadBlock> {
        let list: List = wire::decode(bytes, LIST_LEN_MAX)?;
        if list.objects.len() > LIST_OBJECTS_MAX {
            return Err(BadBlock::TooMany(list.objects.len()));
        }
        if list.objects.len() as u64 != file_len.div_ceil(OBJECT_LEN_MAX) {
            return Err(BadBlock::Length(file_len));
        }
        Ok(list)
    }

    /// Length of object `index` of a file of `file_len` bytes.
    pub fn object_len(file_len: u64, index: usize) -> u64 {
        file_len.saturating_sub(index as u64 * OBJECT_LEN_MAX).min(OBJECT_LEN_MAX)
    }
}

/// What an object is in a tree, which says how to go on from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// A block of a directory, under so many index blocks of it.
    Block {
        /// How many index blocks of the same directory stand above.
        depth: u8,
    },
    /// The list of a file of so many bytes.
    List {
        /// The file's length.
        file_len: u64,
    },
    /// Bytes of a file: nothing follows from it.
    Leaf {
        /// The object's length.
        len: u64,
    },
}

impl Role {
    /// The role of the root of a directory.
    pub const ROOT: Role = Role::Block { depth: 0 };

    /// The object's length where the tree tells it, and otherwise the most it can be.
    pub fn len_hint(self) -> u64 {
        match self {
            Role::Block { .. } => 16 * 1024,
            Role::List { file_len } => file_len.div_ceil(OBJECT_LEN_MAX) * 32 + 8,
            Role::Leaf { len } => len,
        }
    }

    /// Whether its bytes lead on to other objects.
    pub fn leads_on(self) -> bool {
        !matches!(self, Role::Leaf { .. })
    }
}

/// An object that another leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Reference {
    /// The object.
    pub id: ObjectId,
    /// What it is.
    pub role: Role,
}

/// The objects that the object with these `bytes` and this `role` leads to, in order.
pub fn references(role: Role, bytes: &[u8]) -> Result<Vec<Reference>, BadBlock> {
    match role {
        Role::Leaf { .. } => Ok(Vec::new()),
        Role::List { file_len } => {
            let objects = List::decode(bytes, file_len)?.objects.into_iter().enumerate();
            let leaf = |index| Role::Leaf { len: List::object_len(file_len, index) };
            Ok(objects.map(|(index, id)| Reference { id, role: leaf(index) }).collect())
        }
        Role::Block { depth } => match Block::decode(bytes)? {
            Block::Entries(entries) => Ok(entries.iter().map(Entry::reference).collect()),
            Block::Index(_) if usize::from(depth) >= INDEX_DEPTH_MAX => Err(BadBlock::TooDeep),
            Block::Index(children) => {
                let role = Role::Block { depth: depth + 1 };
                Ok(children.into_iter().map(|(_, id)| Reference { id, role }).collect())
            }
        },
    }
}

impl Entry {
    /// The object it leads to.
    pub fn reference(&self) -> Reference {
        match &self.kind {
            Kind::Directory(id) => Reference { id: *id, role: Role::ROOT },
            Kind::File(File { len, body: Body::Object(id), .. }) => {
                Reference { id: *id, role: Role::Leaf { len: *len } }
            }
            Kind::File(File { len, body: Body::List(id), .. }) => {
                Reference { id: *id, role: Role::List { file_len: *len } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, len: u64, body: Body) -> Entry {
        Entry { name: name.to_owned(), kind: Kind::File(File { len, modified: 0, body }) }
    }

    fn object() -> Body {
        Body::Object(ObjectId::of(b"x"))
    }

    fn check(block: Block, expected: Result<(), BadBlock>) {
        let decoded = Block::decode(&block.encode());
        assert_eq!(decoded.clone().map(|_| ()), expected);
        if let Ok(decoded) = decoded {
            assert_eq!(decoded, block);
        }
    }

    #[test]
    fn names_that_mean_places_or_hide_things_are_refused() {
        for name in ["", ".", "..", "a/b", "/", "a\0", "a\nb", "a\u{7f}", "a\u{85}", &"n".repeat(256)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["a", "...", ".hidden", "ä ö", "名", "a\\b", "%2e%2e", &"n".repeat(255)] {
            assert_eq!(check_name(name), Ok(()), "{name:?}");
        }
    }

    #[test]
    fn a_block_reads_back_and_a_wrong_one_is_refused() {
        let list = Body::List(ObjectId::of(b"l"));
        check(Block::Entries(vec![]), Ok(()));
        check(Block::Entries(vec![file("a", 1, object()), file("b", OBJECT_LEN_MAX + 1, list)]), Ok(()));
        check(
            Block::Entries(vec![file("b", 1, object()), file("a", 1, object())]),
            Err(BadBlock::Order("a".into())),
        );
        check(
            Block::Entries(vec![file("a", 1, object()), file("a", 1, object())]),
            Err(BadBlock::Order("a".into())),
        );
        check(Block::Entries(vec![file("..", 1, object())]), Err(BadName::Dots("..".into()).into()));
        check(Block::Entries(vec![file("a", u64::MAX, object())]), Err(BadBlock::Length(u64::MAX)));
        check(Block::Entries(vec![file("a", u64::MAX, list)]), Err(BadBlock::Length(u64::MAX)));
        check(Block::Entries(vec![file("a", 1, list)]), Err(BadBlock::Length(1)));
        check(Block::Index(vec![]), Err(BadBlock::Empty));
        let many: Vec<Entry> = (0..300).map(|i| file(&format!("{i:04}"), 1, object())).collect();
        check(Block::Entries(many), Err(BadBlock::TooMany(300)));
    }

    #[test]
    fn absurd_lengths_are_refused_before_anything_is_allocated() {
        assert!(matches!(
            Block::decode(&vec![0; BLOCK_LEN_MAX + 1]),
            Err(BadBlock::Decode(DecodeError::TooLong { .. }))
        ));
        // A count of 2^63 entries with nothing after it.
        let absurd = [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert!(matches!(Block::decode(&absurd), Err(BadBlock::Decode(DecodeError::Malformed(_)))));
    }

    #[test]
    fn the_largest_block_fits_its_bound() {
        let name = |i: usize| format!("{i:04}{}", "n".repeat(251));
        let entry = |i| Entry {
            name: name(i),
            kind: Kind::File(File { len: OBJECT_LEN_MAX, modified: u64::MAX, body: object() }),
        };
        check(Block::Entries((0..BLOCK_ITEMS_MAX).map(entry).collect()), Ok(()));
        let child = |i| (name(i), ObjectId::of(b"c"));
        check(Block::Index((0..BLOCK_ITEMS_MAX).map(child).collect()), Ok(()));
        let list = List { objects: vec![ObjectId::of(b"o"); LIST_OBJECTS_MAX] };
        assert!(list.encode().len() <= LIST_LEN_MAX);
    }

    #[test]
    fn a_list_has_as_many_objects_as_its_file_needs() {
        let id = ObjectId::of(b"part");
        let bytes = List { objects: vec![id; 3] }.encode();
        let file_len = 2 * OBJECT_LEN_MAX + 5;
        let lens: Vec<u64> = references(Role::List { file_len }, &bytes)
            .unwrap()
            .into_iter()
            .map(|reference| reference.role.len_hint())
            .collect();
        assert_eq!(lens, [OBJECT_LEN_MAX, OBJECT_LEN_MAX, 5]);
        assert_eq!(List::decode(&bytes, OBJECT_LEN_MAX), Err(BadBlock::Length(OBJECT_LEN_MAX)));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(
            bytes in proptest::collection::vec(0u8..=255, 0..300), file_len in 0u64..u64::MAX, depth in 0u8..=255,
        ) {
            for role in [Role::Block { depth }, Role::List { file_len }, Role::Leaf { len: file_len }] {
                let _ = references(role, &bytes);
            }
        }

        #[test]
        fn a_damaged_block_is_refused_or_still_in_order(at in 0usize..200, bit in 0u8..8) {
            let entries = (0..5).map(|i| file(&format!("file-{i}"), i, object())).collect();
            let mut bytes = Block::Entries(entries).encode().to_vec();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(Block::Entries(entries)) = Block::decode(&bytes) {
                proptest::prop_assert!(entries.is_sorted_by(|a, b| a.name < b.name));
                proptest::prop_assert!(entries.iter().all(|entry| check_name(&entry.name).is_ok()));
            }
        }
    }
}
