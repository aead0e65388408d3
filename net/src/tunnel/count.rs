//! What was counted: everything that came and went, and each drop by its reason.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why a packet went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Reason {
    /// From the network: no header of ours, or cut off.
    Header,
    /// From the network: under a key that is not installed.
    Stranger,
    /// From the network: the seal is not that of the key.
    Forged,
    /// From the network: a counter that was taken before, or too old to know.
    Replayed,
    /// What was sealed, or came from the kernel, is no packet that is understood.
    Malformed,
    /// A tunnel packet inside a tunnel packet: a route goes round.
    Nested,
    /// To be relayed although it was already, or with no hops left.
    Loop,
    /// Congestion on the tunnel's path that the sender cannot be told but by loss.
    Congested,
    /// Larger than what fits into the tunnel; the sender was told where that is possible.
    TooBig,
    /// To be sealed with a key that is not installed.
    NoKey,
    /// The key has sealed as much as it may.
    Worn,
    /// The kernel would not send it.
    Unsent,
    /// The kernel would not take it.
    Undelivered,
    /// The owner's: an inner address that the other end may not use, or that is not ours.
    Foreign,
    /// The owner's: nobody serves the address, or nobody that is alive.
    Unserved,
    /// The owner's: a queue of held packets is full.
    Overflow,
    /// The owner's: a flow that must not reach this kernel.
    Filtered,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 17] = [
        Reason::Header,
        Reason::Stranger,
        Reason::Forged,
        Reason::Replayed,
        Reason::Malformed,
        Reason::Nested,
        Reason::Loop,
        Reason::Congested,
        Reason::TooBig,
        Reason::NoKey,
        Reason::Worn,
        Reason::Unsent,
        Reason::Undelivered,
        Reason::Foreign,
        Reason::Unserved,
        Reason::Overflow,
        Reason::Filtered,
    ];

    /// As metrics call it.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Header => "header",
            Reason::Stranger => "stranger",
            Reason::Forged => "forged",
            Reason::Replayed => "replayed",
            Reason::Malformed => "malformed",
            Reason::Nested => "nested",
            Reason::Loop => "loop",
            Reason::Congested => "congested",
            Reason::TooBig => "too-big",
            Reason::NoKey => "no-key",
            Reason::Worn => "worn",
            Reason::Unsent => "unsent",
            Reason::Undelivered => "undelivered",
            Reason::Foreign => "foreign",
            Reason::Unserved => "unserved",
            Reason::Overflow => "overflow",
            Reason::Filtered => "filtered",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What was counted since the engine started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets from the kernel that were sealed and sent.
    pub sealed: u64,
    /// Their octets, inside.
    pub sealed_octets: u64,
    /// Packets from the tunnel that the kernel was given.
    pub delivered: u64,
    /// Their octets, inside.
    pub delivered_octets: u64,
    /// Packets from the tunnel that were passed on through another.
    pub relayed: u64,
    /// Packets that the owner took.
    pub taken: u64,
    /// Packets that the owner gave back to the kernel.
    pub injected: u64,
    /// Errors written to senders whose packets were too big.
    pub errors_sent: u64,
    /// Events that found the owner's queue full.
    pub events_lost: u64,
    /// Reads and writes of packets, of both sides: against the packets, how well they are gathered.
    pub calls: u64,
    /// Packets that went no further.
    pub dropped: BTreeMap<Reason, u64>,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) sealed: AtomicU64,
    pub(super) sealed_octets: AtomicU64,
    pub(super) delivered: AtomicU64,
    pub(super) delivered_octets: AtomicU64,
    pub(super) relayed: AtomicU64,
    pub(super) taken: AtomicU64,
    pub(super) injected: AtomicU64,
    pub(super) errors_sent: AtomicU64,
    pub(super) events_lost: AtomicU64,
    pub(super) calls: AtomicU64,
    dropped: [AtomicU64; Reason::ALL.len()],
}

impl Counters {
    pub(super) fn drop(&self, reason: Reason, packets: usize) {
        self.dropped[reason as usize].fetch_add(packets as u64, Relaxed);
    }

    pub(super) fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        Counts {
            sealed: read(&self.sealed),
            sealed_octets: read(&self.sealed_octets),
            delivered: read(&self.delivered),
            delivered_octets: read(&self.delivered_octets),
            relayed: read(&self.relayed),
            taken: read(&self.taken),
            injected: read(&self.injected),
            errors_sent: read(&self.errors_sent),
            events_lost: read(&self.events_lost),
            calls: read(&self.calls),
            dropped: Reason::ALL
                .iter()
                .map(|reason| (*reason, read(&self.dropped[*reason as usize])))
                .collect(),
        }
    }
}

pub(super) fn add(counter: &AtomicU64, amount: usize) {
    counter.fetch_add(amount as u64, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_place_and_its_name() {
        for (place, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place);
        }
        let names: std::collections::BTreeSet<&str> =
            Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
    }
}
