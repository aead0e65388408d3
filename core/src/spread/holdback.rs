//! Records that came before the member they rest on: kept back for a while, tried again with each
//! new member. Bounded: what does not fit, or waits too long, comes again by reconciliation.

use super::message::Carried;
use crate::key::MemberId;
use crate::record::{Key, Rank};
use crate::time::Time;
use std::collections::BTreeMap;
use std::time::Duration;

/// At most this many records wait: what a network of 200 members has about all of them.
const COUNT_MAX: usize = 1024;

/// At most this many bytes wait.
const LEN_MAX: usize = 2 * 1024 * 1024;

/// So long a record waits: two rounds of reconciliation bring it again anyway.
const WAIT_MAX: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Waiting {
    carried: Carried,
    from: Option<MemberId>,
    rank: Rank,
    len: usize,
    since: Time,
}

#[derive(Debug, Default)]
pub(crate) struct HoldBack {
    waiting: BTreeMap<Key, Waiting>,
    len: usize,
}

impl HoldBack {
    /// Keeps a record, unless a higher one of its key waits already or there is no room.
    pub(crate) fn keep(
        &mut self,
        now: Time,
        key: Key,
        rank: Rank,
        len: usize,
        carried: Carried,
        from: Option<MemberId>,
    ) {
        let before = self.waiting.get(&key).map(|waiting| (waiting.rank, waiting.len));
        let (waiting_rank, freed) = before.map_or((None, 0), |(rank, len)| (Some(rank), len));
        let room = self.len - freed + len <= LEN_MAX && (before.is_some() || self.waiting.len() < COUNT_MAX);
        if room && waiting_rank.is_none_or(|waiting| rank > waiting) {
            self.len = self.len - freed + len;
            self.waiting.insert(key, Waiting { carried, from, rank, len, since: now });
        }
    }

    /// All that waits, in the order of keys (so that members come first), aged by the time it has
    /// waited.
    pub(crate) fn take(&mut self, now: Time) -> Vec<(Carried, Option<MemberId>)> {
        self.len = 0;
        let waiting = std::mem::take(&mut self.waiting);
        let aged = |waiting: Waiting| {
            let waited = now.since(waiting.since).as_millis().try_into().unwrap_or(u32::MAX);
            let age_ms = waiting.carried.age_ms.saturating_add(waited);
            (Carried { age_ms, ..waiting.carried }, waiting.from)
        };
        waiting.into_values().map(aged).collect()
    }

    /// Forgets what has waited too long.
    pub(crate) fn expire(&mut self, now: Time) {
        let len = &mut self.len;
        self.waiting.retain(|_, waiting| {
            let keep = now.since(waiting.since) < WAIT_MAX;
            if !keep {
                *len -= waiting.len;
            }
            keep
        });
    }
}
