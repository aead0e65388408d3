//! Errors that a router would send to clients whose packets nobody takes.
//!
//! The tunnel's threads say which packet it was; the task writes the error. Both are bounded: a flood
//! to a closed port gets [`PER_SECOND`] errors a second and nothing else.

use crate::steering::Denial;
use godwit_core::packet::unreachable::Why;
use godwit_core::packet::{Packet, unreachable};
use godwit_net::tunnel::{Kept, Passing};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use tokio::sync::mpsc;

/// At most so many errors a second, as the tunnel's own (RFC 1812, 4.3.2.8).
const PER_SECOND: u64 = 100;
/// So many wait for the task.
const WAITING_MAX: usize = 128;
/// An error quotes at most so much.
const QUOTE_MAX: usize = 1280;

/// A packet that was denied.
#[derive(Clone, Debug)]
pub(crate) struct Denied {
    packet: Packet,
    bytes: Vec<u8>,
    why: Why,
}

/// The threads' end.
#[derive(Debug)]
pub(crate) struct Unreachable {
    started: Instant,
    /// The second, and how many errors were wanted in it: 40 and 24 bits.
    wanted: AtomicU64,
    tell: mpsc::Sender<Denied>,
}

impl Unreachable {
    pub(crate) fn new() -> (Unreachable, mpsc::Receiver<Denied>) {
        let (tell, denied) = mpsc::channel(WAITING_MAX);
        (Unreachable { started: Instant::now(), wanted: AtomicU64::new(0), tell }, denied)
    }

    /// The sender of a packet is to be told, if that is not too much.
    pub(crate) fn wanted(&self, passing: &Passing<'_>, denial: Denial) {
        if !self.may(self.started.elapsed().as_secs()) {
            return;
        }
        let why = match denial {
            Denial::ClosedPort => Why::Prohibited,
            _ => Why::NoHost,
        };
        let bytes = passing.bytes[..passing.bytes.len().min(QUOTE_MAX)].to_vec();
        // With a full queue the client hears nothing, as it would from a busy router.
        let _ = self.tell.try_send(Denied { packet: passing.packet, bytes, why });
    }

    fn may(&self, second: u64) -> bool {
        let seen = self.wanted.load(Relaxed);
        let count = if seen >> 24 == second { seen & 0xff_ffff } else { 0 };
        if count >= PER_SECOND {
            return false;
        }
        // Threads that come at once may let one more pass each.
        self.wanted.store(second << 24 | (count + 1), Relaxed);
        true
    }
}

impl Denied {
    /// The error. It comes from the home address itself: that is an address which the routers send
    /// here, while one of the host's own would be taken for a forgery by its kernel.
    pub(crate) fn error(&self) -> Option<Kept> {
        unreachable(&self.bytes, &self.packet, self.why, self.packet.destination).map(Kept::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_a_second_and_no_more() {
        let (unreachable, _denied) = Unreachable::new();
        for second in 5..8 {
            let told = (0..1000).filter(|_| unreachable.may(second)).count() as u64;
            assert_eq!(told, PER_SECOND);
        }
    }
}
