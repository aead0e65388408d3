//! What the index keeps, as bytes: each value knows its form and proves itself.
//!
//! ```text
//! +---------+---------------------------+-----------
//! | form: 1 | digest of key and payload | payload ...
//! +---------+---------------------------+-----------
//! 0         1                           9
//! ```
//!
//! The index's engine has been seen to lose keys, to cut an iteration short and to give back
//! damaged values without an error. So every value carries a digest, and the digests of all
//! values, summed, stand in the index as its [`Summary`]: whoever iterates and comes to another
//! sum has not seen all.

use godwit_core::content::ObjectId;
use godwit_core::wire;
use serde::{Deserialize, Serialize};

/// The form of values written now. A later form will know how to read this one.
const FORM: u8 = 1;
const PAYLOAD: usize = 9;
/// The longest encoded summary.
const SUMMARY_LEN_MAX: usize = 64;

/// The first byte of a key: what kind of thing it is.
pub(crate) mod kind {
    /// `m` and a name: what the store notes for itself.
    pub(crate) const META: u8 = b'm';
    /// `o` and an object id: where an object lies.
    pub(crate) const OBJECT: u8 = b'o';
    /// `r`, the space, the key and the number of the part: a part of a record.
    pub(crate) const RECORD: u8 = b'r';
}

/// The key of [`Summary`].
pub(crate) const SUMMARY_KEY: &[u8] = b"msummary";

/// The value is not what was written.
#[derive(Debug)]
pub(crate) struct Damaged;

/// The framed value of `payload` under `key`.
pub(crate) fn seal(key: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(PAYLOAD + payload.len());
    value.push(FORM);
    value.extend_from_slice(&digest(key, payload).to_le_bytes());
    value.extend_from_slice(payload);
    value
}

/// The payload of the framed `value` under `key`, and its digest.
pub(crate) fn open<'a>(key: &[u8], value: &'a [u8]) -> Result<(&'a [u8], u64), Damaged> {
    let (head, payload) = value.split_at_checked(PAYLOAD).ok_or(Damaged)?;
    let sealed = u64::from_le_bytes(head[1..].try_into().map_err(|_| Damaged)?);
    let right = head[0] == FORM && sealed == digest(key, payload);
    right.then_some((payload, sealed)).ok_or(Damaged)
}

/// The digest by which a value is known and summed.
pub(crate) fn digest(key: &[u8], payload: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes()).update(key).update(payload);
    let mut digest = [0; 8];
    hasher.finalize_xof().fill(&mut digest);
    u64::from_le_bytes(digest)
}

/// The key under which an object's place stands.
pub(crate) fn object_key(id: &ObjectId) -> Vec<u8> {
    [&[kind::OBJECT], &id.as_bytes()[..]].concat()
}

/// The object of a key that [`object_key`] made.
pub(crate) fn object_of(key: &[u8]) -> Option<ObjectId> {
    match key.split_first() {
        Some((&kind::OBJECT, id)) => Some(ObjectId::from_bytes(id.try_into().ok()?)),
        _ => None,
    }
}

/// All objects and records of the index in a few numbers, written with every batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// How many values there are, this one aside.
    pub(crate) count: u64,
    /// The sum of their digests, wrapping.
    pub(crate) sum: u64,
    /// The pack up to which extents are in the index …
    pub(crate) pack: u32,
    /// … and the offset in it.
    pub(crate) offset: u64,
    /// The sequence number up to which the journal is in the index.
    pub(crate) journal: u64,
}

impl Summary {
    /// This summary as a change of the index.
    pub(crate) fn change(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        (SUMMARY_KEY.to_vec(), Some(seal(SUMMARY_KEY, &wire::encode(self))))
    }

    /// The summary that a payload is.
    pub(crate) fn decode(payload: &[u8]) -> Result<Summary, Damaged> {
        wire::decode(payload, SUMMARY_LEN_MAX).map_err(|_| Damaged)
    }

    pub(crate) fn add(&mut self, digest: u64) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(digest);
    }

    pub(crate) fn remove(&mut self, digest: u64) {
        self.count = self.count.saturating_sub(1);
        self.sum = self.sum.wrapping_sub(digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_anywhere_shows() {
        let sealed = seal(b"key", b"payload");
        assert_eq!(open(b"key", &sealed).unwrap().0, b"payload");
        assert!(open(b"kez", &sealed).is_err());
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(open(b"key", &damaged).is_err(), "bit {bit}");
        }
        for len in 0..sealed.len() {
            assert!(open(b"key", &sealed[..len]).is_err());
        }
    }
}
