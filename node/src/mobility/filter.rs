//! Which flows' packets do not simply go to the kernel: those that wait, and those that another node
//! has now.
//!
//! A hand-off goes through these steps (see [`godwit_core::handoff`]); the words are those of its
//! machines. A flow is in one of these states at a time, and in none most of the time.
//!
//! ```text
//!  giver  ──▶ divert ──▶ pass on ──▶ given (a tombstone: for as long as packets come)
//!                 └──▶ release, it stays    └──▶ release, it stays after all
//!  taker  ──▶ hold ──▶ release (it is served here now)
//!                └──▶ drop held (it is not; for a while what others pass on of it is dropped)
//! ```
//!
//! # Trade-offs
//!
//! - One lock for all flows that are in such a state, taken by a packet only while there is one. A node
//!   that has given flows away takes it for every packet for some minutes: 30 ns.
//! - Packets of a flow are kept in a queue of their own, so that many moving flows cannot push each
//!   other out; all queues together have a bound too.

use godwit_core::flow::FlowKey;
use godwit_core::flow::moved::Moved;
use godwit_core::key::MemberId;
use godwit_core::time::Time;
use godwit_net::tunnel::Kept;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Packets of one flow that wait: the window of a connection of 1 Gbit/s for a tenth of a second, the time in
/// which a hand-off over an ocean holds them. The first are kept. What is lost here costs an upload far more
/// than its round trip: packets come out of order when a flow moves, and a sender of Linux 6 that takes back a
/// retransmission for that reason takes back what it knew of real losses, and mends them by timeouts, one
/// segment each.
pub const QUEUE_PACKETS_MAX: usize = 8192;

/// A giver may pass packets of a flow on to here for so long after it was not taken: until it hears that, for
/// which it waits so long at most ([`godwit_core::handoff`]). The kernel would answer them with a reset.
const REFUSED_FOR: Duration = Duration::from_secs(30);

/// Bytes of all packets that wait.
pub const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As for any other: the flow is in no such state.
    Usual,
    /// It was taken into a queue.
    Kept,
    /// There is no room for it in its queue.
    Overflow,
    /// It goes to this member.
    PassOn(MemberId),
    /// Its flow was offered to this node and not taken: whoever passes it on does not know that yet.
    Refused,
    /// Part of a packet without its ports: which flow it belongs to cannot be known, and one between
    /// its two addresses is moving.
    Unclear,
}

/// The states of flows. See the module.
#[derive(Debug, Default)]
pub struct Filter {
    /// Whether any flow is in a state, so that packets need not look otherwise.
    any: AtomicBool,
    states: Mutex<States>,
}

#[derive(Debug, Default)]
struct States {
    flows: HashMap<FlowKey, State>,
    /// How many of them are between these two addresses.
    pairs: HashMap<(IpAddr, IpAddr), usize>,
    kept_bytes: usize,
    moved: Moved,
}

#[derive(Debug)]
enum State {
    Kept(VecDeque<Kept>),
    PassOn(MemberId),
    /// Until then.
    Refused(Time),
}

impl Filter {
    /// Nothing is held.
    pub fn new() -> Filter {
        Filter::default()
    }

    /// Keeps what comes of these flows (the taker's `Hold`, the giver's `Divert`). Packets that were
    /// judged before this returned may still be on their way to the kernel.
    pub fn hold(&self, flows: &[FlowKey]) {
        let mut states = self.lock();
        for flow in flows {
            states.moved.took(flow);
            states.enter(*flow, |before| match before {
                Some(State::Kept(queue)) => State::Kept(queue),
                Some(State::PassOn(_) | State::Refused(_)) | None => State::Kept(VecDeque::new()),
            });
        }
        self.told(&states);
    }

    /// These are served here: what was kept, for the kernel, in order. What comes from now on goes
    /// there too.
    #[must_use = "packets that nobody takes are lost"]
    pub fn release(&self, flows: &[FlowKey]) -> Vec<Kept> {
        let mut states = self.lock();
        let mut packets = Vec::new();
        for flow in flows {
            states.moved.took(flow);
            packets.extend(states.leave(flow));
        }
        self.told(&states);
        packets
    }

    /// Forgets what was kept of these flows; they are like any others that this node does not know, but for
    /// what is still passed on to it.
    pub fn drop_held(&self, now: Time, flows: &[FlowKey]) {
        let mut states = self.lock();
        for flow in flows {
            states.leave(flow);
            states.enter(*flow, |_| State::Refused(now + REFUSED_FOR));
        }
        self.told(&states);
    }

    /// These go to another node: what was kept, in order. What comes from now on goes there too.
    #[must_use = "packets that nobody passes on are lost"]
    pub fn pass_on(&self, flows: &[FlowKey], to: MemberId) -> Vec<Kept> {
        let mut states = self.lock();
        let mut packets = Vec::new();
        for flow in flows {
            packets.extend(states.leave(flow));
            states.enter(*flow, |_| State::PassOn(to));
        }
        self.told(&states);
        packets
    }

    /// These are another node's for good: what still comes is passed on to it for as long as any does.
    pub fn given(&self, now: Time, flows: &[FlowKey], to: MemberId) {
        let mut states = self.lock();
        for flow in flows {
            states.leave(flow);
            states.moved.gave(now, *flow, to);
        }
        self.told(&states);
    }

    /// What becomes of a packet of this flow. `begins` says that it opens a connection; `keep` copies it when
    /// it is to be kept.
    pub fn judge(&self, now: Time, flow: &FlowKey, begins: bool, keep: impl FnOnce() -> Kept) -> Verdict {
        if !self.any.load(Ordering::Acquire) {
            return Verdict::Usual;
        }
        let mut states = self.lock();
        if flow.correspondent.port() == 0 {
            let pair = (flow.correspondent.ip(), flow.home.ip());
            return if states.pairs.contains_key(&pair) { Verdict::Unclear } else { Verdict::Usual };
        }
        let states = &mut *states;
        match states.flows.get_mut(flow) {
            Some(State::PassOn(to)) => Verdict::PassOn(*to),
            Some(State::Refused(until)) if now < *until && !begins => Verdict::Refused,
            Some(State::Refused(_)) => {
                states.leave(flow);
                Verdict::Usual
            }
            Some(State::Kept(queue)) => {
                if queue.len() >= QUEUE_PACKETS_MAX || states.kept_bytes >= QUEUE_BYTES_MAX {
                    return Verdict::Overflow;
                }
                let packet = keep();
                states.kept_bytes += packet.bytes().len();
                queue.push_back(packet);
                Verdict::Kept
            }
            // The client uses the port again: that is another connection.
            None if begins => {
                states.moved.took(flow);
                Verdict::Usual
            }
            None => states.moved.to(now, flow).map_or(Verdict::Usual, Verdict::PassOn),
        }
    }

    /// Forgets tombstones that no packet came for, and what is over; call it every few seconds.
    pub fn sweep(&self, now: Time) {
        let mut states = self.lock();
        states.moved.sweep(now);
        let is_over = |state: &State| matches!(state, State::Refused(until) if *until <= now);
        let over: Vec<FlowKey> =
            states.flows.iter().filter(|(_, state)| is_over(state)).map(|(flow, _)| *flow).collect();
        over.iter().for_each(|flow| drop(states.leave(flow)));
        self.told(&states);
    }

    /// How many flows are in a state, how many were given away and are remembered, and how many bytes
    /// wait.
    pub fn sizes(&self) -> Sizes {
        let states = self.lock();
        Sizes { moving: states.flows.len(), given: states.moved.len(), kept_bytes: states.kept_bytes }
    }

    fn lock(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called with the lock held, so that two changes cannot tell in the wrong order.
    fn told(&self, states: &States) {
        self.any.store(!states.flows.is_empty() || !states.moved.is_empty(), Ordering::Release);
    }
}

/// What a filter holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Flows that wait or are passed on while a hand-off is under way.
    pub moving: usize,
    /// Flows that are another node's.
    pub given: usize,
    /// Bytes of packets that wait.
    pub kept_bytes: usize,
}

impl States {
    fn enter(&mut self, flow: FlowKey, state: impl FnOnce(Option<State>) -> State) {
        let before = self.flows.remove(&flow);
        if before.is_none() {
            *self.pairs.entry((flow.correspondent.ip(), flow.home.ip())).or_insert(0) += 1;
        }
        self.flows.insert(flow, state(before));
    }

    /// Ends the state of a flow; gives what was kept.
    fn leave(&mut self, flow: &FlowKey) -> VecDeque<Kept> {
        let Some(state) = self.flows.remove(flow) else { return VecDeque::new() };
        let pair = (flow.correspondent.ip(), flow.home.ip());
        if let Some(count) = self.pairs.get_mut(&pair) {
            *count -= 1;
            if *count == 0 {
                self.pairs.remove(&pair);
            }
        }
        let State::Kept(queue) = state else { return VecDeque::new() };
        self.kept_bytes -= queue.iter().map(|packet| packet.bytes().len()).sum::<usize>();
        queue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(port: u16) -> FlowKey {
        FlowKey {
            protocol: 6,
            correspondent: ([203, 0, 113, 7], port).into(),
            home: "192.0.2.1:80".parse().unwrap(),
        }
    }

    fn member(n: u8) -> MemberId {
        MemberId::from_bytes([n; 32])
    }

    fn judge(filter: &Filter, port: u16, packet: &[u8]) -> Verdict {
        filter.judge(Time::from_secs(1), &flow(port), false, || Kept::whole(packet))
    }

    fn bytes(packets: Vec<Kept>) -> Vec<Vec<u8>> {
        packets.iter().map(|packet| packet.bytes().to_vec()).collect()
    }

    fn nothing() -> Kept {
        Kept::whole(&[])
    }

    #[test]
    fn a_giver_keeps_then_passes_on_then_remembers() {
        let filter = Filter::new();
        assert_eq!(judge(&filter, 1, b"a"), Verdict::Usual);
        filter.hold(&[flow(1), flow(2)]);
        assert_eq!(judge(&filter, 1, b"b"), Verdict::Kept);
        assert_eq!(judge(&filter, 2, b"x"), Verdict::Kept);
        assert_eq!(judge(&filter, 1, b"c"), Verdict::Kept);
        assert_eq!(judge(&filter, 3, b"d"), Verdict::Usual);
        // One of them stays.
        assert_eq!(bytes(filter.release(&[flow(2)])), [b"x"]);
        assert_eq!(judge(&filter, 2, b"y"), Verdict::Usual);
        assert_eq!(bytes(filter.pass_on(&[flow(1)], member(9))), [b"b", b"c"]);
        assert_eq!(judge(&filter, 1, b"e"), Verdict::PassOn(member(9)));
        filter.given(Time::from_secs(1), &[flow(1)], member(9));
        assert_eq!(judge(&filter, 1, b"f"), Verdict::PassOn(member(9)));
        assert_eq!(filter.sizes(), Sizes { moving: 0, given: 1, kept_bytes: 0 });
        // Nothing came for long.
        filter.sweep(Time::from_secs(10_000));
        assert_eq!(judge(&filter, 1, b"g"), Verdict::Usual);
        assert!(!filter.any.load(Ordering::Relaxed));
    }

    #[test]
    fn what_comes_back_or_begins_anew_is_nobody_elses() {
        let filter = Filter::new();
        filter.given(Time::from_secs(1), &[flow(1), flow(2)], member(9));
        filter.hold(&[flow(1)]);
        assert_eq!(judge(&filter, 1, b"a"), Verdict::Kept);
        assert_eq!(bytes(filter.release(&[flow(1)])), [b"a"]);
        assert_eq!(judge(&filter, 1, b"b"), Verdict::Usual);
        let begins = filter.judge(Time::from_secs(1), &flow(2), true, nothing);
        assert_eq!(begins, Verdict::Usual);
        assert_eq!(judge(&filter, 2, b"b"), Verdict::Usual);
    }

    #[test]
    fn what_is_dropped_is_gone_and_its_room_is_free() {
        let filter = Filter::new();
        filter.hold(&[flow(1)]);
        assert_eq!(judge(&filter, 1, &[0; 1000]), Verdict::Kept);
        filter.hold(&[flow(1)]);
        assert_eq!(filter.sizes().kept_bytes, 1000);
        filter.drop_held(Time::from_secs(1), &[flow(1)]);
        assert_eq!(filter.sizes().kept_bytes, 0);
        assert!(filter.release(&[flow(1)]).is_empty());
        assert_eq!(filter.sizes(), Sizes::default());
    }

    #[test]
    fn what_was_not_taken_is_not_the_kernels_while_its_giver_may_pass_it_on() {
        let filter = Filter::new();
        let at = |seconds, begins| {
            filter.judge(Time::from_secs(seconds), &flow(1), begins, || Kept::whole(b"late"))
        };
        filter.hold(&[flow(1)]);
        filter.drop_held(Time::from_secs(1), &[flow(1)]);
        assert_eq!(at(2, false), Verdict::Refused);
        assert_eq!(judge(&filter, 2, b"another"), Verdict::Usual);
        // The giver offers it again.
        filter.hold(&[flow(1)]);
        assert_eq!(at(3, false), Verdict::Kept);
        filter.drop_held(Time::from_secs(3), &[flow(1)]);
        // The client uses the port again.
        assert_eq!(at(4, true), Verdict::Usual);
        filter.drop_held(Time::from_secs(5), &[flow(1)]);
        assert_eq!(at(35, false), Verdict::Usual, "whoever passes it on now has nobody else");
        filter.drop_held(Time::from_secs(5), &[flow(1)]);
        filter.sweep(Time::from_secs(35));
        assert_eq!(filter.sizes(), Sizes::default());
    }

    #[test]
    fn queues_are_bounded_each_and_together() {
        let filter = Filter::new();
        filter.hold(&[flow(1), flow(2)]);
        for _ in 0..QUEUE_PACKETS_MAX {
            assert_eq!(judge(&filter, 1, b"a"), Verdict::Kept);
        }
        assert_eq!(judge(&filter, 1, b"a"), Verdict::Overflow);
        assert_eq!(judge(&filter, 2, b"a"), Verdict::Kept);
        let filter = Filter::new();
        let flows: Vec<FlowKey> = (1..100).map(flow).collect();
        filter.hold(&flows);
        let kept =
            (0..120_000u32).filter(|n| judge(&filter, (n % 99) as u16 + 1, &[0; 1400]) == Verdict::Kept);
        assert!(kept.count() * 1400 < QUEUE_BYTES_MAX + 1400);
        filter.drop_held(Time::from_secs(1), &flows);
        filter.sweep(Time::from_secs(31));
        assert_eq!(filter.sizes(), Sizes::default());
    }

    #[test]
    fn a_part_without_ports_is_not_guessed() {
        let filter = Filter::new();
        filter.hold(&[flow(1)]);
        let part = FlowKey {
            correspondent: ([203, 0, 113, 7], 0).into(),
            home: "192.0.2.1:0".parse().unwrap(),
            ..flow(0)
        };
        assert_eq!(filter.judge(Time::default(), &part, false, nothing), Verdict::Unclear);
        let other = FlowKey { correspondent: ([203, 0, 113, 8], 0).into(), ..part };
        assert_eq!(filter.judge(Time::default(), &other, false, nothing), Verdict::Usual);
        drop(filter.release(&[flow(1)]));
        assert_eq!(filter.judge(Time::default(), &part, false, nothing), Verdict::Usual);
    }
}
