//! Replies per source prefix: response rate limiting with slip.
//!
//! Each prefix (IPv4 /24, IPv6 /56) has a bucket in a table of fixed size: two places to be, of which it
//! takes the one it has or the one that was idle longer, and shares nothing else. A flood from a
//! million forged prefixes so forgets honest ones, which then start with a full bucket: the limit
//! protects the victims of a forged flood, and they are few at a time.
//!
//! A bucket is one number, the moment at which it will be full again (the *generic cell rate
//! algorithm*): each reply moves it on by the time that one reply takes at the permitted rate, and what
//! would move it further ahead than the burst is beyond the limit. So threads need no lock; where two
//! meet in one bucket at the same instant, one reply may go uncounted.
//!
//! What is malformed is answered by a few octets for those who make honest mistakes, and limited much
//! more: a source that sends garbage gets ten such replies a second and no slip.

use crate::config::Limits;
use crate::fast::names::stir;
use godwit_net::memory::zeros;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Buckets hold replies for so many seconds.
const BURST: Duration = Duration::from_secs(2);
/// Replies to malformed packets per second and prefix, where replies are limited more than that
/// anyway the lower limit.
const ERRORS_PER_SECOND: u64 = 10;
/// Tells the buckets for errors from those for replies.
const ERROR: u64 = 1 << 61;

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
    /// Of each bucket two numbers: its prefix, and when it will be full again, ns since the start.
    /// Those that nobody uses take no memory.
    buckets: Box<[AtomicU64]>,
    /// What one reply costs, ns; 0 for no limit.
    cost: AtomicU64,
    slip: AtomicU64,
    /// Replies beyond the limit.
    beyond: AtomicU64,
    started: Instant,
    seed: u64,
}

#[derive(Clone, Copy)]
struct Bucket<'a> {
    prefix: &'a AtomicU64,
    full_at: &'a AtomicU64,
}

impl Limiter {
    pub(crate) fn new(limits: &Limits) -> Limiter {
        let buckets = limits.prefixes_max.clamp(32, 1 << 24);
        let limiter = Limiter {
            buckets: zeros(2 * buckets),
            cost: AtomicU64::new(0),
            slip: AtomicU64::new(0),
            beyond: AtomicU64::new(0),
            started: Instant::now(),
            seed: RandomState::new().hash_one(0),
        };
        limiter.change(limits);
        limiter
    }

    /// Other limits from now on. The number of buckets stays.
    pub(crate) fn change(&self, limits: &Limits) {
        let cost = 1_000_000_000u64.checked_div(limits.replies_per_second.into()).unwrap_or(0);
        self.cost.store(cost, Ordering::Relaxed);
        self.slip.store(limits.slip.into(), Ordering::Relaxed);
    }

    /// The moment to check with.
    pub(crate) fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// Takes a reply to `source` into account.
    pub(crate) fn check(&self, now: u64, source: IpAddr) -> Verdict {
        let cost = self.cost.load(Ordering::Relaxed);
        if cost == 0 || self.take(now, prefix(source), cost) {
            return Verdict::Send;
        }
        let beyond = self.beyond.fetch_add(1, Ordering::Relaxed) + 1;
        match beyond.checked_rem(self.slip.load(Ordering::Relaxed)) {
            Some(0) => Verdict::Slip,
            _ => Verdict::Withhold,
        }
    }

    /// Takes a reply to something malformed into account.
    pub(crate) fn check_error(&self, now: u64, source: IpAddr) -> Verdict {
        let cost = self.cost.load(Ordering::Relaxed).max(1_000_000_000 / ERRORS_PER_SECOND);
        if self.take(now, prefix(source) | ERROR, cost) { Verdict::Send } else { Verdict::Withhold }
    }

    /// Takes `cost` out of the bucket of `prefix`; `false` when there is not so much in it.
    fn take(&self, now: u64, prefix: u64, cost: u64) -> bool {
        // Which places a prefix has is not for others to guess.
        let hash = stir(prefix ^ self.seed);
        let len = self.buckets.len() as u64 / 2;
        let place = |half: u64| {
            let at = (((half & 0xffff_ffff) * len) >> 32) as usize * 2;
            Bucket { prefix: &self.buckets[at], full_at: &self.buckets[at + 1] }
        };
        let (first, second) = (place(hash), place(hash >> 32));
        let is_its = |bucket: Bucket<'_>| bucket.prefix.load(Ordering::Relaxed) == prefix;
        let full_at = |bucket: Bucket<'_>| bucket.full_at.load(Ordering::Relaxed);
        let bucket = match () {
            () if is_its(first) => first,
            () if is_its(second) => second,
            () => {
                let bucket = if full_at(first) <= full_at(second) { first } else { second };
                bucket.prefix.store(prefix, Ordering::Relaxed);
                bucket.full_at.store(now, Ordering::Relaxed);
                bucket
            }
        };
        let next = full_at(bucket).max(now) + cost;
        // A bucket holds at least one reply.
        let within = next - now <= (BURST.as_nanos() as u64).max(cost);
        if within {
            bucket.full_at.store(next, Ordering::Relaxed);
        }
        within
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

    const MS: u64 = 1_000_000;

    #[test]
    fn a_burst_passes_then_every_second_one_slips() {
        let limiter = limiter(5, 2);
        let source = |last| IpAddr::from([192, 0, 2, last]);
        let at = 7 * MS;
        let burst = (0..10).filter(|n| limiter.check(at, source(*n)) == Verdict::Send).count();
        assert_eq!(burst, 10, "two seconds' worth, whatever the host in the /24");
        let beyond: Vec<Verdict> = (0..4).map(|_| limiter.check(at, source(1))).collect();
        assert_eq!(beyond, [Verdict::Withhold, Verdict::Slip, Verdict::Withhold, Verdict::Slip]);
        assert_eq!(limiter.check(at, [198, 51, 100, 1].into()), Verdict::Send, "another prefix");
        let later = at + 200 * MS;
        assert_eq!(limiter.check(later, source(1)), Verdict::Send, "a fifth of a second later: one more");
        assert_eq!(limiter.check(later, source(1)), Verdict::Withhold);
    }

    #[test]
    fn zero_turns_limit_or_slip_off() {
        let off = limiter(0, 2);
        assert!((0..100_000).all(|_| off.check(0, [192, 0, 2, 1].into()) == Verdict::Send));
        let no_slip = limiter(1, 0);
        let slipped = (0..100).filter(|_| no_slip.check(0, [192, 0, 2, 1].into()) == Verdict::Slip);
        assert_eq!(slipped.count(), 0);
    }

    #[test]
    fn errors_are_limited_by_themselves_and_never_slip() {
        for replies_per_second in [0, 1000] {
            let limiter = limiter(replies_per_second, 2);
            let source = [192, 0, 2, 1].into();
            let verdicts: Vec<Verdict> = (0..1000).map(|_| limiter.check_error(0, source)).collect();
            assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Send).count(), 20);
            assert!(!verdicts.contains(&Verdict::Slip));
            assert_eq!(limiter.check(0, source), Verdict::Send, "queries are answered on");
        }
    }

    #[test]
    fn a_flood_of_prefixes_forgets_but_takes_no_memory() {
        let limiter = limiter(10, 2);
        let flood = |n: u32| IpAddr::from((n << 8).to_be_bytes());
        assert!((0..100_000).all(|n| limiter.check(u64::from(n) * MS, flood(n)) == Verdict::Send));
        assert_eq!(limiter.buckets.len(), 2 * 64);
    }
}
