//! Reconciliation: how two members find what one of them lacks, without saying what both have.
//!
//! ```text
//!   A                                   B
//!   │── Summary: sum of everything ───▶ │  equal: done, 20 bytes
//!   │◀── Buckets: 256 sums ─────────────│
//!   │── Listing: what differs ────────▶ │
//!   │◀── Push: above or beside it ──────│
//!   │◀── Want: what B lacks ────────────│
//!   │── Push ─────────────────────────▶ │
//! ```
//!
//! Three round trips at most, some 5 KB and about 60 bytes for each record in a bucket that
//! differs. Gossip is the accelerator; this is the truth: two members that go on reconciling
//! become equal, whatever was lost on the way.
//!
//! These are functions of a set and a message: nothing is remembered between them.

use super::message::{Carried, Message};
use super::set::{BUCKETS, RecordSet, Standing};
use crate::record::{Key, Rank};
use crate::time::Time;
use crate::wire::{self, MESSAGE_LEN_MAX};
use std::collections::{BTreeMap, BTreeSet};

/// Room left in a message for what is around its items.
const FRAME_LEN: usize = 1024;

/// At most this many messages of one kind answer one message: a peer far behind is served 2 MiB,
/// asks again at once, and others get a turn between.
const ANSWERS_MAX: usize = 8;

/// At most this many keys are wanted at once.
const WANT_MAX: usize = 2048;

/// Begins.
pub(crate) fn summary(set: &RecordSet) -> Message {
    Message::Summary { sum: set.sum() }
}

/// Answers a summary; `None` when both hold the same.
pub(crate) fn buckets(set: &RecordSet, sum: u128) -> Option<Message> {
    (sum != set.sum()).then(|| Message::Buckets { sums: set.sums().to_vec() })
}

/// Answers the other's bucket sums with what is held in the buckets that differ, beginning at a
/// random one: when not all fits, the next round tells of others.
pub(crate) fn listings(set: &RecordSet, sums: &[u128], first: u8) -> Vec<Message> {
    if sums.len() != BUCKETS {
        return Vec::new();
    }
    let differing: BTreeSet<u8> = (0..=u8::MAX)
        .filter(|bucket| sums[usize::from(*bucket)] != set.sums()[usize::from(*bucket)])
        .collect();
    let mut items: BTreeMap<u8, Vec<(Key, Rank)>> =
        differing.iter().map(|bucket| (*bucket, Vec::new())).collect();
    for (key, held) in set.in_buckets(&differing) {
        items.entry(held.bucket()).or_default().push((key.clone(), held.rank));
    }
    let mut messages = Vec::new();
    let (mut told, mut list, mut len) = (Vec::new(), Vec::new(), 0);
    for bucket in (0..=u8::MAX).map(|offset| first.wrapping_add(offset)) {
        let Some(items) = items.remove(&bucket) else { continue };
        let more = wire::encode(&items).len();
        if len + more > MESSAGE_LEN_MAX - FRAME_LEN && !told.is_empty() {
            messages.push(Message::Listing {
                buckets: std::mem::take(&mut told),
                items: std::mem::take(&mut list),
            });
            len = 0;
        }
        if messages.len() == ANSWERS_MAX {
            return messages;
        }
        told.push(bucket);
        list.extend(items);
        len += more;
    }
    if !told.is_empty() {
        messages.push(Message::Listing { buckets: told, items: list });
    }
    messages
}

/// Answers a listing: what is held above or beside it, and what is wanted of it.
pub(crate) fn compare(
    now: Time,
    set: &RecordSet,
    buckets: Vec<u8>,
    items: Vec<(Key, Rank)>,
    wanted: impl Fn(&Key) -> bool,
) -> Vec<Message> {
    let buckets: BTreeSet<u8> = buckets.into_iter().collect();
    let theirs: BTreeMap<Key, Rank> = items.into_iter().collect();
    let better: Vec<Key> = set
        .in_buckets(&buckets)
        .filter(|(key, held)| theirs.get(*key).is_none_or(|rank| held.rank > *rank))
        .map(|(key, _)| key.clone())
        .collect();
    let mut messages = push(now, set, better);
    let keys: Vec<Key> = theirs
        .into_iter()
        .filter(|(key, rank)| set.standing(key, *rank) == Standing::Higher && wanted(key))
        .map(|(key, _)| key)
        .take(WANT_MAX)
        .collect();
    if !keys.is_empty() {
        messages.push(Message::Want { keys });
    }
    messages
}

/// The records under `keys`, as far as they are held, in at most [`ANSWERS_MAX`] messages.
pub(crate) fn push(now: Time, set: &RecordSet, keys: impl IntoIterator<Item = Key>) -> Vec<Message> {
    let mut messages = Vec::new();
    let (mut records, mut len, mut more) = (Vec::new(), 0, false);
    for held in keys.into_iter().filter_map(|key| set.get(&key)) {
        // An age takes at most five bytes.
        if len + held.len + 5 > MESSAGE_LEN_MAX - FRAME_LEN {
            if messages.len() + 1 == ANSWERS_MAX {
                more = true;
                break;
            }
            messages.push(Message::Push { records: std::mem::take(&mut records), more: false });
            len = 0;
        }
        records.push(Carried { record: held.record.clone(), age_ms: held.age_ms(now) });
        len += held.len + 5;
    }
    if !records.is_empty() {
        messages.push(Message::Push { records, more });
    }
    messages
}
