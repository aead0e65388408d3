//! Flows that are not where a new one would go, as packets look them up.
//!
//! The machine (`core::flow::table`) decides; this is a copy of it for the tunnel's threads, in shards
//! that are replaced whole: looking a flow up costs a hash and two loads, changing one costs the copy of
//! a shard. A flow that packets came of is marked; the marks go back to the machine, which forgets what
//! is idle.

use arc_swap::ArcSwap;
use godwit_core::flow::FlowKey;
use godwit_core::key::MemberId;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

/// With all flows that a home agent may bind, a shard has a thousand.
const SHARDS: usize = 256;

type Shard = HashMap<FlowKey, Arc<Moved>, RandomState>;

#[derive(Debug)]
struct Moved {
    owner: MemberId,
    /// Packets came since the last sweep.
    used: AtomicBool,
}

/// The flows that were bound by name.
#[derive(Debug)]
pub(crate) struct MovedFlows {
    shards: Vec<ArcSwap<Shard>>,
    hasher: RandomState,
    len: AtomicUsize,
}

impl MovedFlows {
    pub(crate) fn new() -> MovedFlows {
        let hasher = RandomState::new();
        let shard = || ArcSwap::from_pointee(Shard::with_hasher(hasher.clone()));
        MovedFlows { shards: (0..SHARDS).map(|_| shard()).collect(), len: AtomicUsize::new(0), hasher }
    }

    /// Whose a flow is, if it was bound by name; a packet of it came.
    pub(crate) fn owner(&self, flow: &FlowKey) -> Option<MemberId> {
        // As a rule there is none.
        if self.len.load(Relaxed) == 0 {
            return None;
        }
        let shard = self.shards[self.shard_of(flow)].load();
        let moved = shard.get(flow)?;
        if !moved.used.load(Relaxed) {
            moved.used.store(true, Relaxed);
        }
        Some(moved.owner)
    }

    /// These flows are bound to these from now on, or (`None`) to nobody.
    pub(crate) fn change(&self, changes: impl IntoIterator<Item = (FlowKey, Option<MemberId>)>) {
        let mut by_shard: BTreeMap<usize, Vec<(FlowKey, Option<MemberId>)>> = BTreeMap::new();
        for (flow, owner) in changes {
            by_shard.entry(self.shard_of(&flow)).or_default().push((flow, owner));
        }
        for (number, changes) in by_shard {
            let mut shard = Shard::clone(&self.shards[number].load());
            let before = shard.len();
            for (flow, owner) in changes {
                match owner {
                    Some(owner) => {
                        let moved = Moved { owner, used: AtomicBool::new(true) };
                        shard.insert(flow, Arc::new(moved));
                    }
                    None => drop(shard.remove(&flow)),
                }
            }
            self.resized(before, shard.len());
            self.shards[number].store(Arc::new(shard));
        }
    }

    /// The flows that packets came of since the last call.
    pub(crate) fn take_used(&self) -> Vec<FlowKey> {
        let mut used = Vec::new();
        for shard in &self.shards {
            let shard = shard.load();
            #[expect(clippy::iter_over_hash_type, reason = "each is marked by itself, in whatever order")]
            for (flow, moved) in shard.iter() {
                if moved.used.swap(false, Relaxed) {
                    used.push(*flow);
                }
            }
        }
        used
    }

    /// Keeps those only.
    pub(crate) fn retain(&self, keep: impl Fn(&FlowKey) -> bool) {
        for place in &self.shards {
            let shard = place.load();
            if shard.keys().all(&keep) {
                continue;
            }
            let mut kept = Shard::clone(&shard);
            kept.retain(|flow, _| keep(flow));
            self.resized(shard.len(), kept.len());
            place.store(Arc::new(kept));
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    fn resized(&self, before: usize, after: usize) {
        // One task changes it.
        let len = self.len.load(Relaxed) + after - before;
        self.len.store(len, Relaxed);
    }

    fn shard_of(&self, flow: &FlowKey) -> usize {
        self.hasher.hash_one(flow) as usize % SHARDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(n: u32) -> FlowKey {
        FlowKey { protocol: 6, correspondent: (n.to_be_bytes(), 9).into(), home: ([192, 0, 2, 1], 80).into() }
    }

    fn member(n: u8) -> MemberId {
        MemberId::from_bytes([n; 32])
    }

    #[test]
    fn what_is_bound_is_found_until_it_is_bound_otherwise_or_let_go() {
        let moved = MovedFlows::new();
        assert_eq!(moved.owner(&flow(1)), None);
        moved.change((0..1000).map(|n| (flow(n), Some(member(1)))));
        assert_eq!((moved.len(), moved.owner(&flow(7))), (1000, Some(member(1))));
        moved.change([(flow(7), Some(member(2))), (flow(8), None), (flow(5000), None)]);
        assert_eq!((moved.owner(&flow(7)), moved.owner(&flow(8))), (Some(member(2)), None));
        assert_eq!(moved.len(), 999);
        moved.retain(|one| *one == flow(7));
        assert_eq!((moved.len(), moved.owner(&flow(7)), moved.owner(&flow(9))), (1, Some(member(2)), None));
    }

    #[test]
    fn packets_leave_a_mark() {
        let moved = MovedFlows::new();
        moved.change((0..10).map(|n| (flow(n), Some(member(1)))));
        assert_eq!(moved.take_used().len(), 10, "a new one counts as used");
        moved.owner(&flow(3));
        moved.owner(&flow(3));
        assert_eq!(moved.take_used(), [flow(3)]);
        assert_eq!(moved.take_used(), []);
    }
}
