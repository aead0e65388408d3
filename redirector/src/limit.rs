//! Replies per source prefix: response rate limiting with slip.
//!
//! A token bucket for each prefix (IPv4 /24, IPv6 /56), in a table of fixed size: a prefix has two
//! places to be, takes the one it has or the one that was idle longer, and shares nothing else. A
//! flood from a million forged prefixes so forgets honest ones, which then start with a full
//! bucket: the limit protects the victims of a forged flood, and they are few at a time.

use crate::config::Limits;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Buckets hold replies for so many seconds.
const BURST_SECS: u64 = 2;
/// Locks: workers seldom meet.
const SHARDS: usize = 16;

/// What to do with a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Send,
    /// Send it truncated.
    Slip,
    Withhold,
}

/// The table of buckets.
pub(crate) struct Limiter {
    shards: Vec<Mutex<Vec<Bucket>>>,
    /// Thousandths of a reply per millisecond = replies per second.
    rate: u64,
    slip: u32,
    started: Instant,
    hasher: RandomState,
}

#[derive(Clone, Copy, Default)]
struct Bucket {
    prefix: u64,
    /// Thousandths of a reply.
    tokens: u64,
    /// When it was filled last, ms since the start.
    filled: u64,
    /// Replies beyond the limit.
    beyond: u32,
}

impl Limiter {
    pub(crate) fn new(limits: &Limits) -> Limiter {
        let buckets = (limits.prefixes_max / SHARDS).clamp(2, 1 << 20);
        let buckets = if limits.replies_per_second == 0 { 0 } else { buckets };
        Limiter {
            shards: (0..SHARDS).map(|_| Mutex::new(vec![Bucket::default(); buckets])).collect(),
            rate: limits.replies_per_second.into(),
            slip: limits.slip,
            started: Instant::now(),
            hasher: RandomState::new(),
        }
    }

    /// Takes a reply to `source` into account.
    pub(crate) fn check(&self, source: IpAddr) -> Verdict {
        if self.rate == 0 {
            return Verdict::Send;
        }
        self.check_at(self.started.elapsed().as_millis() as u64, source)
    }

    fn check_at(&self, now: u64, source: IpAddr) -> Verdict {
        let prefix = prefix(source);
        // Which places a prefix has is not for others to guess.
        let hash = self.hasher.hash_one(prefix);
        let mut shard = self.shards[hash as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner);
        let len = shard.len();
        let places = [(hash >> 8) as u32 as usize % len, (hash >> 36) as usize % len];
        let place = match places.iter().find(|place| shard[**place].prefix == prefix) {
            Some(place) => *place,
            None if shard[places[0]].filled <= shard[places[1]].filled => places[0],
            None => places[1],
        };
        let bucket = &mut shard[place];
        let full = self.rate * BURST_SECS * 1000;
        if bucket.prefix != prefix {
            *bucket = Bucket { prefix, tokens: full, filled: now, beyond: 0 };
        }
        let gained = now.saturating_sub(bucket.filled).saturating_mul(self.rate);
        bucket.tokens = bucket.tokens.saturating_add(gained).min(full);
        bucket.filled = now;
        if let Some(left) = bucket.tokens.checked_sub(1000) {
            bucket.tokens = left;
            return Verdict::Send;
        }
        bucket.beyond = bucket.beyond.wrapping_add(1);
        match bucket.beyond.checked_rem(self.slip) {
            Some(0) => Verdict::Slip,
            _ => Verdict::Withhold,
        }
    }
}

/// The prefix as a number; never zero, which marks a free bucket.
pub(crate) fn prefix(source: IpAddr) -> u64 {
    match source.to_canonical() {
        IpAddr::V4(address) => 1 << 62 | u64::from(u32::from(address) >> 8),
        IpAddr::V6(address) => 1 << 63 | (u128::from(address) >> 72) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(replies_per_second: u32, slip: u32) -> Limiter {
        Limiter::new(&Limits { replies_per_second, slip, prefixes_max: 64, ..Limits::default() })
    }

    #[test]
    fn a_burst_passes_then_every_second_one_slips() {
        let limiter = limiter(5, 2);
        let source = |last| IpAddr::from([192, 0, 2, last]);
        let burst = (0..10).filter(|n| limiter.check_at(7, source(*n)) == Verdict::Send).count();
        assert_eq!(burst, 10, "two seconds' worth, whatever the host in the /24");
        let beyond: Vec<Verdict> = (0..4).map(|_| limiter.check_at(7, source(1))).collect();
        assert_eq!(beyond, [Verdict::Withhold, Verdict::Slip, Verdict::Withhold, Verdict::Slip]);
        assert_eq!(limiter.check_at(7, [198, 51, 100, 1].into()), Verdict::Send, "another prefix");
        assert_eq!(limiter.check_at(207, source(1)), Verdict::Send, "a fifth of a second later: one more");
        assert_eq!(limiter.check_at(207, source(1)), Verdict::Withhold);
    }

    #[test]
    fn zero_turns_limit_or_slip_off() {
        let off = limiter(0, 2);
        assert!((0..100_000).all(|_| off.check([192, 0, 2, 1].into()) == Verdict::Send));
        let no_slip = limiter(1, 0);
        let slipped = (0..100).filter(|_| no_slip.check_at(0, [192, 0, 2, 1].into()) == Verdict::Slip);
        assert_eq!(slipped.count(), 0);
    }

    #[test]
    fn a_flood_of_prefixes_takes_no_memory() {
        let limiter = limiter(10, 2);
        for n in 0..100_000u32 {
            limiter.check_at(n.into(), IpAddr::from((n << 8).to_be_bytes()));
        }
        let held: usize = limiter.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert_eq!(held, 64);
    }
}
