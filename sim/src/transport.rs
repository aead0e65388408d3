//! Ordered, reliable connections over lossy links.
//!
//! One direction of a connection is a queue of messages. Each is handed to the link; a lost one is
//! sent again after a probe timeout that doubles, as QUIC does (RFC 9002, 6.2), and what was sent
//! behind it is delivered behind it. Acknowledgements are not simulated: the sender learns of a
//! loss by timeout only, which is the slow case, and right for sparse traffic.

use bytes::Bytes;
use std::collections::VecDeque;
use std::time::Duration;

/// The longest probe timeout.
const PROBE_MAX: Duration = Duration::from_secs(4);

/// What the transport adds to a message on the wire, bytes.
pub const OVERHEAD: usize = 60;

/// One direction of a connection.
#[derive(Debug, Default)]
pub struct Direction {
    queue: VecDeque<InFlight>,
    next: u64,
}

#[derive(Debug)]
struct InFlight {
    number: u64,
    bytes: Bytes,
    attempts: u32,
    arrived: bool,
}

impl Direction {
    /// Takes a message to send; tells its number.
    pub fn push(&mut self, bytes: Bytes) -> u64 {
        self.next += 1;
        self.queue.push_back(InFlight { number: self.next, bytes, attempts: 0, arrived: false });
        self.next
    }

    /// The message is handed to the link (again): its length on the wire, and after what time it
    /// will be sent again if it is lost. `None` when it has arrived.
    pub fn attempt(&mut self, number: u64, rtt: Duration) -> Option<(usize, Duration)> {
        let message = self.queue.iter_mut().find(|message| message.number == number && !message.arrived)?;
        let probe = (rtt + rtt / 8 + Duration::from_millis(25)) * (1 << message.attempts.min(8));
        message.attempts += 1;
        Some((message.bytes.len() + OVERHEAD, probe.min(PROBE_MAX)))
    }

    /// The message has come through; tells what can be delivered by that, in order.
    pub fn arrive(&mut self, number: u64) -> Vec<Bytes> {
        if let Some(message) = self.queue.iter_mut().find(|message| message.number == number) {
            message.arrived = true;
        }
        let mut delivered = Vec::new();
        while self.queue.front().is_some_and(|message| message.arrived) {
            delivered.extend(self.queue.pop_front().map(|message| message.bytes));
        }
        delivered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_a_lost_message_waits_for_it() {
        let mut direction = Direction::default();
        let (a, b) = (direction.push("a".into()), direction.push("b".into()));
        let rtt = Duration::from_millis(80);
        let (len, first) = direction.attempt(a, rtt).unwrap();
        assert_eq!((len, first), (1 + OVERHEAD, Duration::from_millis(115)));
        assert_eq!(direction.attempt(a, rtt).unwrap().1, first * 2);
        assert_eq!(direction.arrive(b), Vec::<Bytes>::new());
        assert_eq!(direction.arrive(a), ["a", "b"]);
        assert_eq!(direction.attempt(a, rtt), None);
    }
}
