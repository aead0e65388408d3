//! How many signatures a second may be made for names that nobody set up.
//!
//! Whoever asks for random names makes each reply cost a signature (20 µs), which is what a flood is
//! after. So these draw from a bucket for their source's prefix and from one for all. Beyond it the
//! reply is empty and truncated: who is real asks again over TCP, where a second bucket for all is
//! kept for them; the prefix's own is the same. Beyond that it is SERVFAIL. Signatures already made,
//! and those of names that exist, are not counted: they go on through a flood.

use godwit_core::time::Time;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

/// Buckets hold what comes in this many seconds.
const BURST_SECS: u64 = 2;
/// Prefixes counted apart (64 KiB). Two that fall together share a bucket: a flood of forged sources
/// is held by the bucket for all.
const PREFIXES: usize = 4096;
/// Thousandths of a signature: the unit of a bucket.
const ONE: u64 = 1000;

/// Signatures for names that nobody set up, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColdLimits {
    /// A second for all over UDP, and as many again over connections. Default 5,000: a tenth of what
    /// one processor makes. 0: none.
    pub per_second: u32,
    /// A second for one source prefix (IPv4 /24, IPv6 /56). Default 200: a large resolver asks a zone
    /// for fewer names that do not exist. 0: none.
    pub per_prefix_per_second: u32,
}

impl Default for ColdLimits {
    fn default() -> ColdLimits {
        ColdLimits { per_second: 5000, per_prefix_per_second: 200 }
    }
}

/// Whom a signature is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Where the query came from: the resolver, not the client subnet.
    pub source: IpAddr,
    /// Whether that is certain: it came over a connection, or with a valid cookie.
    pub verified: bool,
}

#[derive(Debug)]
pub(crate) struct Budget {
    limits: ColdLimits,
    forgeable: Mutex<Bucket>,
    verified: Mutex<Bucket>,
    prefixes: Vec<Mutex<Bucket>>,
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// Thousandths of a signature.
    tokens: u64,
    /// When it was filled last, ms; 0 before its first use.
    filled: u64,
}

impl Bucket {
    fn fill(&mut self, now: u64, per_second: u32) {
        let full = u64::from(per_second) * BURST_SECS * ONE;
        // Thousandths in a millisecond are signatures in a second. An unused bucket is full.
        let gained = now.saturating_sub(self.filled).saturating_mul(per_second.into());
        self.tokens = if self.filled == 0 { full } else { self.tokens.saturating_add(gained).min(full) };
        self.filled = now.max(1);
    }
}

impl Budget {
    pub(crate) fn new(limits: ColdLimits) -> Budget {
        Budget {
            limits,
            forgeable: Mutex::default(),
            verified: Mutex::default(),
            prefixes: (0..PREFIXES).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
        }
    }

    /// Whether one more may be made; counts it if so.
    pub(crate) fn take(&self, now: Time, asker: Asker) -> bool {
        let now = now.as_millis();
        let all = if asker.verified { &self.verified } else { &self.forgeable };
        let place = self.hasher.hash_one(prefix(asker.source)) as usize % PREFIXES;
        let mut own = self.prefixes[place].lock().unwrap_or_else(PoisonError::into_inner);
        own.fill(now, self.limits.per_prefix_per_second);
        if own.tokens < ONE {
            return false;
        }
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        all.fill(now, self.limits.per_second);
        if all.tokens < ONE {
            return false;
        }
        own.tokens -= ONE;
        all.tokens -= ONE;
        true
    }
}

fn prefix(source: IpAddr) -> (bool, u64) {
    match source.to_canonical() {
        IpAddr::V4(address) => (true, u64::from(u32::from(address) >> 8)),
        IpAddr::V6(address) => (false, (u128::from(address) >> 72) as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn taken(budget: &Budget, now: u64, asker: impl Fn(u8) -> Asker) -> usize {
        (0..100).filter(|n| budget.take(Time::from_millis(now), asker(*n))).count()
    }

    #[test]
    fn a_prefix_has_a_share_and_all_have_a_limit() {
        let limits = ColdLimits { per_second: 30, per_prefix_per_second: 10 };
        let from = |prefix, verified| move |host| Asker { source: [192, 0, prefix, host].into(), verified };
        // Which prefixes fall together is random in a process: find some that do not.
        let budget = Budget::new(limits);
        let mut apart = Vec::new();
        let mut places = Vec::new();
        for third in 0..=255u8 {
            let place = budget.hasher.hash_one(prefix([192, 0, third, 0].into())) as usize % PREFIXES;
            if !places.contains(&place) {
                places.push(place);
                apart.push(third);
            }
        }
        let [a, b, c, d, ..] = apart[..] else { panic!("{apart:?}") };
        assert_eq!(taken(&budget, 5000, from(a, false)), 20, "two seconds' worth");
        assert_eq!(taken(&budget, 5000, from(b, false)), 20);
        assert_eq!(taken(&budget, 5000, from(c, false)), 20);
        assert_eq!(taken(&budget, 5000, from(d, false)), 0, "of all together");
        assert_eq!(taken(&budget, 5000, from(d, true)), 20, "over a connection");
        assert_eq!(taken(&budget, 5000, from(d, true)), 0, "its own share is used up");
        assert_eq!(taken(&budget, 5500, from(d, true)), 5, "half a second later");
        assert_eq!(taken(&budget, 4000, from(d, true)), 0, "a clock that was set back gives nothing");
    }

    #[test]
    fn zero_allows_none() {
        let asker = |_| Asker { source: [192, 0, 2, 1].into(), verified: true };
        let none = Budget::new(ColdLimits { per_second: 0, per_prefix_per_second: 10 });
        assert_eq!(taken(&none, 5000, asker), 0);
        let none = Budget::new(ColdLimits { per_second: 10, per_prefix_per_second: 0 });
        assert_eq!(taken(&none, 5000, asker), 0);
    }
}
