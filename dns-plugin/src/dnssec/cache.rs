//! Signatures made, bounded in number and bytes.
//!
//! Two generations for each shard: what is made or used goes into the young one; when that is full it
//! becomes the old one, and what was in the old one is gone. So what is used stays, what is not goes,
//! at a constant cost and without a list to keep in order. A shard is a lock and is held for a look-up;
//! whole answers are repeated from the fast path's blocks and do not come here.
//!
//! Names that exist have a cache of their own: a flood of names that do not exist cannot push their
//! signatures out.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

/// Locks: workers seldom meet.
const SHARDS: usize = 16;
/// What an entry costs beside its key and its value, octets: two words for each of them, and the
/// table's free places.
const ENTRY_OVERHEAD: usize = 96;

/// A signature as it goes into an RRSIG record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    /// RDATA of the RRSIG record.
    pub(crate) data: Arc<[u8]>,
    /// Valid from then on, seconds since 1970.
    pub(crate) inception: u64,
    /// To be replaced from then on, seconds since 1970; valid some days longer.
    pub(crate) refresh: u64,
    /// Not valid any more from then on, seconds since 1970.
    pub(crate) expiration: u64,
}

/// How much a cache may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) entries: usize,
    pub(crate) bytes: usize,
}

/// A bounded map from RRset and signer to signature.
#[derive(Debug)]
pub(crate) struct Signatures {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    /// Of one generation of one shard.
    bounds: Bounds,
}

#[derive(Debug, Default)]
struct Shard {
    young: HashMap<Box<[u8]>, Signature>,
    old: HashMap<Box<[u8]>, Signature>,
    young_bytes: usize,
    old_bytes: usize,
}

impl Signatures {
    /// At most this much, all shards and both generations together.
    pub(crate) fn new(bounds: Bounds) -> Signatures {
        let part = |all: usize| (all / (2 * SHARDS)).max(1);
        Signatures {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            bounds: Bounds { entries: part(bounds.entries), bytes: part(bounds.bytes) },
        }
    }

    /// A number that is the same for equal keys while the process runs.
    pub(crate) fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    /// The signature kept for `key`, which has the hash `hash`.
    pub(crate) fn find(&self, hash: u64, key: &[u8]) -> Option<Signature> {
        let mut shard = self.shard(hash);
        if let Some(found) = shard.young.get(key) {
            return Some(found.clone());
        }
        let (key, found) = shard.old.remove_entry(key)?;
        shard.old_bytes = shard.old_bytes.saturating_sub(cost(&key, &found));
        shard.insert(key, found.clone(), self.bounds);
        Some(found)
    }

    /// Keeps a signature.
    pub(crate) fn keep(&self, hash: u64, key: &[u8], signature: Signature) {
        self.shard(hash).insert(key.into(), signature, self.bounds);
    }

    /// Entries and bytes held.
    pub(crate) fn held(&self) -> (usize, usize) {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner)).fold(
            (0, 0),
            |(entries, bytes), shard| {
                (entries + shard.young.len() + shard.old.len(), bytes + shard.young_bytes + shard.old_bytes)
            },
        )
    }

    fn shard(&self, hash: u64) -> std::sync::MutexGuard<'_, Shard> {
        // The upper bits: the table inside a shard hashes with a key of its own.
        self.shards[(hash >> 60) as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn insert(&mut self, key: Box<[u8]>, signature: Signature, bounds: Bounds) {
        let cost = cost(&key, &signature);
        if cost > bounds.bytes {
            return;
        }
        if self.young.len() >= bounds.entries || self.young_bytes + cost > bounds.bytes {
            self.old = std::mem::take(&mut self.young);
            self.old_bytes = std::mem::take(&mut self.young_bytes);
        }
        self.young_bytes += cost;
        let key_len = key.len();
        if let Some(before) = self.young.insert(key, signature) {
            self.young_bytes = self.young_bytes.saturating_sub(key_len + before.data.len() + ENTRY_OVERHEAD);
        }
    }
}

fn cost(key: &[u8], signature: &Signature) -> usize {
    key.len() + signature.data.len() + ENTRY_OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(n: u64) -> Signature {
        Signature { data: vec![0; 100].into(), inception: n, refresh: n, expiration: n }
    }

    fn keep(cache: &Signatures, n: u64) {
        cache.keep(cache.hash(&n.to_be_bytes()), &n.to_be_bytes(), signature(n));
    }

    fn find(cache: &Signatures, n: u64) -> Option<Signature> {
        cache.find(cache.hash(&n.to_be_bytes()), &n.to_be_bytes())
    }

    #[test]
    fn neither_entries_nor_bytes_grow_beyond_the_bounds() {
        for bounds in [
            Bounds { entries: 1000, bytes: usize::MAX },
            Bounds { entries: usize::MAX, bytes: 1000 * (8 + 100 + ENTRY_OVERHEAD) },
        ] {
            let cache = Signatures::new(bounds);
            for n in 0..50_000 {
                keep(&cache, n);
                keep(&cache, n);
                find(&cache, n / 2);
            }
            let (entries, bytes) = cache.held();
            assert!((100..=1000).contains(&entries), "{entries}");
            assert_eq!(bytes, entries * (8 + 100 + ENTRY_OVERHEAD), "counted as held");
        }
    }

    #[test]
    fn what_is_used_stays() {
        let cache = Signatures::new(Bounds { entries: 3200, bytes: usize::MAX });
        keep(&cache, u64::MAX);
        for n in 0..50_000 {
            keep(&cache, n);
            assert_eq!(find(&cache, u64::MAX), Some(signature(u64::MAX)), "after {n}");
        }
        assert_eq!(find(&cache, 0), None);
    }

    #[test]
    fn what_is_larger_than_all_is_not_kept() {
        let cache = Signatures::new(Bounds { entries: 10, bytes: 32 });
        keep(&cache, 1);
        assert_eq!(cache.held(), (0, 0));
    }
}
