//! The flows that a node gave away, for as long as packets of them may still come here.
//!
//! A home agent that did not hear of the hand-off, or was started anew, sends their packets here. A
//! packet that reached the kernel would be answered by a reset, since its socket is gone; so it is
//! passed on to who has the flow now. Who has it may have given it away again, and so on: a packet
//! is passed on once for each move, and never back.

use super::FlowKey;
use crate::key::MemberId;
use crate::time::Time;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// A flow without packets for so long is forgotten: longer than a TCP that got no answer waits
/// before it sends again (RFC 6298, 2.5 allows a bound of 60 s).
pub const IDLE_MIN: Duration = Duration::from_secs(120);

/// Most flows that are remembered: some 12 MB. Of more, those are forgotten that were given away
/// first.
pub const MOVED_MAX: usize = 1 << 16;

#[derive(Clone, Copy, Debug)]
struct Tombstone {
    to: MemberId,
    used: Time,
    number: u64,
}

/// The flows that a node gave away. See the module.
#[derive(Debug, Default)]
pub struct Moved {
    flows: HashMap<FlowKey, Tombstone>,
    /// In the order in which they were given away; some are gone or were given away again.
    order: VecDeque<(u64, FlowKey)>,
    given: u64,
}

impl Moved {
    /// Knows of none.
    pub fn new() -> Moved {
        Moved::default()
    }

    /// A flow was given to another node.
    pub fn gave(&mut self, now: Time, flow: FlowKey, to: MemberId) {
        self.given += 1;
        self.flows.insert(flow, Tombstone { to, used: now, number: self.given });
        self.order.push_back((self.given, flow));
        while self.flows.len() > MOVED_MAX {
            self.forget_first();
        }
        // What was taken back and given again stands in the order twice.
        while self.order.len() > 2 * MOVED_MAX {
            self.forget_first();
        }
    }

    /// A flow came back.
    pub fn took(&mut self, flow: &FlowKey) {
        self.flows.remove(flow);
    }

    /// Who has the flow now, if it was given away; a packet of it came.
    pub fn to(&mut self, now: Time, flow: &FlowKey) -> Option<MemberId> {
        let tombstone = self.flows.get_mut(flow)?;
        tombstone.used = now;
        Some(tombstone.to)
    }

    /// Forgets what no packet came of for long; call it every few seconds.
    pub fn sweep(&mut self, now: Time) {
        self.flows.retain(|_, tombstone| now.since(tombstone.used) < IDLE_MIN);
        let flows = &self.flows;
        self.order.retain(|(number, flow)| flows.get(flow).is_some_and(|stone| stone.number == *number));
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    fn forget_first(&mut self) {
        let Some((number, flow)) = self.order.pop_front() else { return };
        if self.flows.get(&flow).is_some_and(|tombstone| tombstone.number == number) {
            self.flows.remove(&flow);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(n: u32) -> FlowKey {
        FlowKey {
            protocol: 6,
            correspondent: (n.to_be_bytes(), 1).into(),
            home: "192.0.2.1:80".parse().unwrap(),
        }
    }

    fn member(n: u8) -> MemberId {
        MemberId::from_bytes([n; 32])
    }

    #[test]
    fn packets_keep_a_flow_in_mind_and_silence_ends_it() {
        let (mut now, mut moved) = (Time::default(), Moved::new());
        moved.gave(now, flow(1), member(1));
        moved.gave(now, flow(2), member(2));
        for _ in 0..10 {
            now = now + IDLE_MIN / 2;
            assert_eq!(moved.to(now, &flow(1)), Some(member(1)));
            moved.sweep(now);
        }
        assert_eq!((moved.to(now, &flow(2)), moved.len()), (None, 1));
        moved.took(&flow(1));
        assert_eq!(moved.to(now, &flow(1)), None);
    }

    #[test]
    fn of_too_many_the_first_are_forgotten() {
        let (now, mut moved) = (Time::default(), Moved::new());
        for n in 0..MOVED_MAX as u32 + 10 {
            moved.gave(now, flow(n), member(1));
        }
        assert_eq!(moved.len(), MOVED_MAX);
        assert_eq!((moved.to(now, &flow(9)), moved.to(now, &flow(10))), (None, Some(member(1))));
        // One that goes to and fro takes no more room.
        for _ in 0..3 * MOVED_MAX {
            moved.gave(now, flow(10), member(2));
            moved.took(&flow(10));
        }
        assert!(moved.order.len() <= 2 * MOVED_MAX);
        moved.gave(now, flow(10), member(3));
        assert_eq!(moved.to(now, &flow(10)), Some(member(3)));
        moved.sweep(now + IDLE_MIN);
        assert!(moved.is_empty() && moved.order.is_empty());
    }
}
