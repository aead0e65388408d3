//! What could have been reached: choices by somebody who knows more than the map can.
//!
//! - *hindsight, taken*: all times that were really measured so far, of all networks of a city
//!   together, without their last miles, and which network is in which city: of the replicas that
//!   were measured from a city the one with the lowest median. What separates the map from it are
//!   the node's summary, wrong places and the map's caution.
//! - *hindsight, all*: the same when every replica is measured from every city in every epoch. What
//!   separates it from the best are times that vary: nobody knows better until more time passes.

use std::collections::BTreeMap;

/// Samples of each city and replica in an epoch, where all are measured.
pub(super) const SAMPLES: usize = 8;

/// Times measured so far, ms, by city and replica.
#[derive(Default)]
pub(super) struct Memory(BTreeMap<(usize, usize), Vec<f64>>);

impl Memory {
    pub(super) fn add(&mut self, city: usize, replica: usize, ms: f64) {
        self.0.entry((city, replica)).or_default().push(ms);
    }

    /// The replica with the lowest median for each city.
    pub(super) fn best(&self) -> BTreeMap<usize, usize> {
        let mut best: BTreeMap<usize, (f64, usize)> = BTreeMap::new();
        for ((city, replica), all) in &self.0 {
            let mut sorted = all.clone();
            sorted.sort_by(f64::total_cmp);
            let median = sorted[sorted.len() / 2];
            let least = best.entry(*city).or_insert((median, *replica));
            if median < least.0 {
                *least = (median, *replica);
            }
        }
        best.into_iter().map(|(city, (_, replica))| (city, replica)).collect()
    }
}
