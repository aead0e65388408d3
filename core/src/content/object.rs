//! Objects as verified extents.
//!
//! An object is at most [`OBJECT_LEN_MAX`] bytes, named by the BLAKE3 hash of them. BLAKE3 is a
//! binary tree over 1 KiB chunks; cut at [`GROUP_LEN`] it has one subtree root, the *group hash*,
//! for every 16 KiB. The list of group hashes is all that is kept beside an object's bytes (0.2 %):
//! the object's name follows from it, so a receiver that has checked the list against the name can
//! verify every group alone, in any order, from any holder, and resume where it stopped.
//!
//! The usual form, bao's interleaved tree, proves a group without the whole list; with objects
//! capped at 64 MiB the list has at most 4,096 entries (128 KiB), and the flat form is simpler on
//! disk and on the wire. Larger files are lists of objects ([`super::tree::Body::List`]).

use blake3::hazmat::{self, HasherExt, Mode};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Bytes that one group hash covers.
pub const GROUP_LEN: usize = 16 * 1024;

/// The largest object, bytes: its group list has at most 4,096 entries.
pub const OBJECT_LEN_MAX: u64 = 64 * 1024 * 1024;

/// The name of an object: the BLAKE3 hash of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ObjectId([u8; 32]);

impl ObjectId {
    /// The name of these bytes.
    pub fn of(bytes: &[u8]) -> ObjectId {
        ObjectId(blake3::hash(bytes).into())
    }

    /// The name with these 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> ObjectId {
        ObjectId(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", hex::encode(&self.0[..4]))
    }
}

impl FromStr for ObjectId {
    type Err = String;
    fn from_str(text: &str) -> Result<ObjectId, String> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| "an object name is 64 hexadecimal digits".to_owned())?;
        Ok(ObjectId(bytes))
    }
}

/// The subtree root of one group: its BLAKE3 chaining value.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GroupHash([u8; 32]);

impl GroupHash {
    /// The hash with these 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> GroupHash {
        GroupHash(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for GroupHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", hex::encode(&self.0[..4]))
    }
}

/// How many groups an object of `len` bytes has: none up to one group, whose hash would be the name.
pub fn group_count(len: u64) -> usize {
    match len.div_ceil(GROUP_LEN as u64) {
        0 | 1 => 0,
        count => count as usize,
    }
}

/// The bytes of group `index` in an object of `len` bytes.
pub fn group_range(len: u64, index: usize) -> std::ops::Range<u64> {
    let start = index as u64 * GROUP_LEN as u64;
    start.min(len)..(start + GROUP_LEN as u64).min(len)
}

/// Names bytes as they come: feed them in any portions, then [`Namer::finish`].
#[derive(Default)]
pub struct Namer {
    groups: Vec<GroupHash>,
    partial: Vec<u8>,
    len: u64,
}

/// What [`Namer`] learnt about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The object's name.
    pub id: ObjectId,
    /// Its length, bytes.
    pub len: u64,
    /// Its group hashes, [`group_count`] of them.
    pub groups: Vec<GroupHash>,
}

impl Namer {
    /// A namer of no bytes yet.
    pub fn new() -> Namer {
        Namer::default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len() as u64;
        // A full group is hashed only when more follows: the only group of a small object has none.
        while self.partial.len() + bytes.len() > GROUP_LEN {
            if self.partial.is_empty() {
                let (group, rest) = bytes.split_at(GROUP_LEN);
                self.groups.push(hash_group(self.groups.len(), group));
                bytes = rest;
            } else {
                let (fill, rest) = bytes.split_at(GROUP_LEN - self.partial.len());
                self.partial.extend_from_slice(fill);
                let group = std::mem::take(&mut self.partial);
                self.groups.push(hash_group(self.groups.len(), &group));
                bytes = rest;
            }
        }
        self.partial.extend_from_slice(bytes);
    }

    /// The object's name, length and group hashes.
    pub fn finish(mut self) -> Named {
        if self.groups.is_empty() {
            return Named { id: ObjectId::of(&self.partial), len: self.len, groups: Vec::new() };
        }
        self.groups.push(hash_group(self.groups.len(), &self.partial));
        Named { id: merge(&self.groups, self.len), len: self.len, groups: self.groups }
    }
}

/// Names bytes that are all there.
pub fn name(bytes: &[u8]) -> Named {
    let mut namer = Namer::new();
    namer.update(bytes);
    namer.finish()
}

/// What was received is not the object asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The list of group hashes does not lead to the name.
    #[error("the group hashes do not belong to object {0:?}")]
    Groups(ObjectId),
    /// A group's bytes do not have its hash.
    #[error("group {index} of object {id:?} has wrong bytes")]
    Bytes {
        /// The object.
        id: ObjectId,
        /// Which group.
        index: usize,
    },
    /// The length is over [`OBJECT_LEN_MAX`], or the group list does not fit it.
    #[error("{0} is not the length of an object with these groups")]
    Length(u64),
}

/// The hashes by which an object is verified group by group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    id: ObjectId,
    len: u64,
    /// Invariant: leads to `id`; empty when the object has one group.
    groups: Vec<GroupHash>,
}

impl Verifier {
    /// Checks that `groups` are those of object `id` with `len` bytes.
    pub fn new(id: ObjectId, len: u64, groups: Vec<GroupHash>) -> Result<Verifier, Mismatch> {
        if len > OBJECT_LEN_MAX || groups.len() != group_count(len) {
            return Err(Mismatch::Length(len));
        }
        if !groups.is_empty() && merge(&groups, len) != id {
            return Err(Mismatch::Groups(id));
        }
        Ok(Verifier { id, len, groups })
    }

    /// The object.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// Its length, bytes.
    pub fn object_len(&self) -> u64 {
        self.len
    }

    /// Its group hashes.
    pub fn groups(&self) -> &[GroupHash] {
        &self.groups
    }

    /// How many groups there are to verify, at least one.
    pub fn count(&self) -> usize {
        self.groups.len().max(1)
    }

    /// Checks the bytes of group `index`, [`group_range`] of the object.
    pub fn verify(&self, index: usize, bytes: &[u8]) -> Result<(), Mismatch> {
        let range = group_range(self.len, index);
        let right = range.end - range.start == bytes.len() as u64
            && match self.groups.get(index) {
                Some(group) => hash_group(index, bytes) == *group,
                None => self.groups.is_empty() && index == 0 && ObjectId::of(bytes) == self.id,
            };
        right.then_some(()).ok_or(Mismatch::Bytes { id: self.id, index })
    }
}

fn hash_group(index: usize, bytes: &[u8]) -> GroupHash {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(index as u64 * GROUP_LEN as u64).update(bytes);
    GroupHash(hasher.finalize_non_root())
}

/// The root over at least two groups of an object of `len` bytes.
fn merge(groups: &[GroupHash], len: u64) -> ObjectId {
    let (left, right) = split(groups, len);
    ObjectId(hazmat::merge_subtrees_root(&left, &right, Mode::Hash).into())
}

/// The chaining values of both halves; the left one is the largest power of two that leaves a right.
fn split(groups: &[GroupHash], len: u64) -> ([u8; 32], [u8; 32]) {
    let left_len = hazmat::left_subtree_len(len);
    let (left, right) = groups.split_at((left_len / GROUP_LEN as u64) as usize);
    (subtree(left, left_len), subtree(right, len - left_len))
}

fn subtree(groups: &[GroupHash], len: u64) -> [u8; 32] {
    if let [group] = groups {
        return group.0;
    }
    let (left, right) = split(groups, len);
    hazmat::merge_subtrees_non_root(&left, &right, Mode::Hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 31 % 251) as u8).collect()
    }

    #[test]
    fn names_are_plain_blake3_at_every_size() {
        for len in
            [0, 1, 1024, 16_383, 16_384, 16_385, 32_768, 32_769, 49_153, 100_000, 1 << 20, (1 << 20) + 1]
        {
            let data = bytes(len);
            let named = name(&data);
            assert_eq!(named.id, ObjectId::of(&data), "{len}");
            assert_eq!(named.groups.len(), group_count(len as u64), "{len}");
            let mut namer = Namer::new();
            data.chunks(1000).for_each(|portion| namer.update(portion));
            assert_eq!(namer.finish(), named, "{len}");
        }
    }

    #[test]
    fn every_group_verifies_alone_and_a_flipped_bit_shows() {
        for len in [0, 5, 16_384, 16_385, 70_000] {
            let data = bytes(len);
            let named = name(&data);
            let verifier = Verifier::new(named.id, named.len, named.groups).unwrap();
            for index in 0..verifier.count() {
                let range = group_range(named.len, index);
                let mut group = data[range.start as usize..range.end as usize].to_vec();
                assert_eq!(verifier.verify(index, &group), Ok(()));
                if let Some(byte) = group.last_mut() {
                    *byte ^= 1;
                    assert!(verifier.verify(index, &group).is_err());
                    group.pop();
                    assert!(verifier.verify(index, &group).is_err());
                }
            }
            assert!(verifier.verify(verifier.count(), &[]).is_err());
        }
    }

    #[test]
    fn wrong_lists_and_absurd_lengths_are_refused() {
        let named = name(&bytes(70_000));
        let mut groups = named.groups.clone();
        groups.swap(0, 1);
        assert_eq!(Verifier::new(named.id, named.len, groups), Err(Mismatch::Groups(named.id)));
        assert_eq!(Verifier::new(named.id, 10, named.groups.clone()), Err(Mismatch::Length(10)));
        assert_eq!(Verifier::new(named.id, u64::MAX, named.groups), Err(Mismatch::Length(u64::MAX)));
    }
}
