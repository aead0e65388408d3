//! Random choices of a machine, drawn from a seed that came in as a value.
//!
//! SplitMix64 (Steele, Lea, Flood 2014): one word of state, passes the usual test batteries, and
//! is nobody's secret: it chooses whom to gossip with and spreads timers, nothing else.

use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// At most `count` of `items`, each as likely as any other, in no order.
    pub(crate) fn sample<T>(&mut self, mut items: Vec<T>, count: usize) -> Vec<T> {
        let count = count.min(items.len());
        for at in 0..count {
            let other = at + self.below(items.len() - at);
            items.swap(at, other);
        }
        items.truncate(count);
        items
    }

    /// `period`, give or take a tenth, so that members started together do not act together.
    pub(crate) fn around(&mut self, period: Duration) -> Duration {
        let tenth = (period.as_millis() / 10) as usize;
        period - Duration::from_millis(tenth as u64) + Duration::from_millis(self.below(2 * tenth + 1) as u64)
    }
}

/// The finisher of SplitMix64: every bit of the input moves every bit of the output.
pub(crate) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_draws_one_sequence_within_bounds() {
        let (mut a, mut b) = (Random::new(7), Random::new(7));
        for bound in 1..200 {
            let drawn = a.below(bound);
            assert!(drawn < bound);
            assert_eq!(drawn, b.below(bound));
        }
        let mut sample = a.sample((0..10).collect(), 20);
        sample.sort_unstable();
        assert_eq!(sample, (0..10).collect::<Vec<_>>());
        assert_eq!(a.around(Duration::from_millis(3)), Duration::from_millis(3));
    }
}
