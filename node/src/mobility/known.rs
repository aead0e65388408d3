//! Which flows this node has seen lately, in bounded room and without a lock for most packets.

use godwit_core::flow::FlowKey;
use godwit_core::flow::chance::SEEN_FOR as ACTIVE_FOR;
use godwit_core::time::Time;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Places in a table of flows; two flows in one place push each other out. 512 KiB.
const PLACES: usize = 1 << 16;

/// Seconds that a table counts before it begins again: 18 hours.
const SECONDS: u64 = 1 << 16;

/// Flows and when each was seen, to the second. Who sees a flow pushes out who had its place before, so
/// it is a cache: what it tells is true, but for one flow in 2^48 and the same second of another day.
#[derive(Debug)]
pub(super) struct Seen {
    hasher: RandomState,
    /// 48 bits of the flow's hash and the second, or 0.
    places: Box<[AtomicU64]>,
}

impl Default for Seen {
    fn default() -> Seen {
        Seen { hasher: RandomState::new(), places: (0..PLACES).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Seen {
    /// Whether the flow was seen within the last `within`.
    pub(super) fn lately(&self, now: Time, flow: &FlowKey, within: Duration) -> bool {
        let (place, print) = self.place(flow);
        let value = place.load(Ordering::Relaxed);
        let age = (now.as_secs() % SECONDS + SECONDS - value % SECONDS) % SECONDS;
        value / SECONDS == print && age <= within.as_secs()
    }

    /// It is seen now.
    pub(super) fn see(&self, now: Time, flow: &FlowKey) {
        let (place, print) = self.place(flow);
        place.store(print * SECONDS + now.as_secs() % SECONDS, Ordering::Relaxed);
    }

    /// It was not seen.
    pub(super) fn forget(&self, flow: &FlowKey) {
        let (place, print) = self.place(flow);
        let value = place.load(Ordering::Relaxed);
        if value / SECONDS == print {
            // Another flow that came meanwhile is looked up once more, which is no harm.
            place.store(0, Ordering::Relaxed);
        }
    }

    fn place(&self, flow: &FlowKey) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one(flow);
        // 0 stands for an empty place.
        let print = (hash / SECONDS).max(1);
        (&self.places[hash as usize % PLACES], print)
    }
}

/// Most UDP flows that are remembered by name; of more, the later ones are not.
pub(super) const ACTIVE_MAX: usize = 16_384;

/// When there is no room for one more, those that are over are looked for this often.
const ROOM_PAUSE: Duration = Duration::from_secs(1);

/// The UDP flows that are active: a connection the kernel knows, a UDP flow only its packets.
#[derive(Debug, Default)]
pub(super) struct Active {
    lately: Seen,
    named: Mutex<Named>,
}

#[derive(Debug, Default)]
struct Named {
    flows: HashMap<FlowKey, Time>,
    /// When room was made last.
    cleared: Time,
}

impl Named {
    fn clear(&mut self, now: Time) {
        self.cleared = now;
        self.flows.retain(|_, seen| now.since(*seen) < ACTIVE_FOR);
    }
}

impl Active {
    /// A packet of it came. Takes the lock once a second for each flow.
    pub(super) fn see(&self, now: Time, flow: &FlowKey) {
        if self.lately.lately(now, flow, Duration::ZERO) {
            return;
        }
        self.lately.see(now, flow);
        let mut named = self.named();
        let is_full = |named: &Named| named.flows.len() >= ACTIVE_MAX && !named.flows.contains_key(flow);
        if is_full(&named) && now.since(named.cleared) >= ROOM_PAUSE {
            named.clear(now);
        }
        if !is_full(&named) {
            named.flows.insert(*flow, now);
        }
    }

    /// Whether packets of it came lately.
    pub(super) fn knows(&self, now: Time, flow: &FlowKey) -> bool {
        self.lately.lately(now, flow, ACTIVE_FOR)
            || self.named().flows.get(flow).is_some_and(|seen| now.since(*seen) < ACTIVE_FOR)
    }

    /// Those of which packets came lately and for which `wanted` holds; the others are forgotten when
    /// they were silent for long.
    pub(super) fn list(&self, now: Time, wanted: impl Fn(&FlowKey) -> bool) -> Vec<FlowKey> {
        let mut named = self.named();
        named.clear(now);
        let mut found: Vec<FlowKey> = named.flows.keys().filter(|flow| wanted(flow)).copied().collect();
        found.sort();
        found
    }

    fn named(&self) -> MutexGuard<'_, Named> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(port: u16) -> FlowKey {
        FlowKey {
            protocol: 17,
            correspondent: ([203, 0, 113, 7], port).into(),
            home: "192.0.2.1:80".parse().unwrap(),
        }
    }

    #[test]
    fn what_was_seen_is_known_for_a_while() {
        let (seen, now) = (Seen::default(), Time::from_secs(SECONDS * 3 - 1));
        assert!(!seen.lately(now, &flow(1), Duration::from_secs(100)));
        seen.see(now, &flow(1));
        let later = now + Duration::from_secs(3);
        assert!(seen.lately(later, &flow(1), Duration::from_secs(3)));
        assert!(!seen.lately(later, &flow(1), Duration::from_secs(2)));
        assert!(!seen.lately(later, &flow(2), Duration::from_secs(3)));
        seen.forget(&flow(1));
        assert!(!seen.lately(now, &flow(1), Duration::from_secs(3)));
    }

    #[test]
    fn active_flows_are_listed_until_they_are_silent_and_bounded() {
        let (active, now) = (Active::default(), Time::from_secs(100));
        active.see(now, &flow(1));
        active.see(now, &flow(2));
        active.see(now + ACTIVE_FOR / 2, &flow(2));
        let listed = |at| active.list(at, |flow| flow.correspondent.port() < 10);
        assert_eq!(listed(now), [flow(1), flow(2)]);
        assert_eq!(listed(now + ACTIVE_FOR), [flow(2)]);
        for n in 0..2 * ACTIVE_MAX as u32 {
            active.see(now + ACTIVE_FOR, &FlowKey { correspondent: (n.to_be_bytes(), 9).into(), ..flow(9) });
        }
        assert_eq!(listed(now + ACTIVE_FOR).len(), ACTIVE_MAX);
        // When those are over there is room again.
        active.see(now + 2 * ACTIVE_FOR, &flow(1));
        assert!(active.knows(now + 2 * ACTIVE_FOR, &flow(1)));
        assert_eq!(listed(now + 2 * ACTIVE_FOR), [flow(1)]);
    }
}
