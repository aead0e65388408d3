//! Runs with an index: finding the run of an address in a few steps, however many there are.
//!
//! The part of the address space in which runs begin is cut into equal buckets, about as many as there
//! are runs; for each bucket the index keeps how many runs begin up to its lowest address. So a lookup
//! reads one number of the index and searches the few runs that begin in its bucket, instead of
//! stepping through the whole list by halves. Runs that crowd in few buckets cost more steps, never a
//! wrong answer. The index takes 4 bytes for each run, at most 256 KiB.

use crate::range::{Bits, Ranges};

/// More buckets would no longer fit into a processor's cache.
const BUCKETS_MAX: usize = 1 << 16;
/// Below so many runs halving is as quick.
const RUNS_MIN: usize = 64;

/// [`Ranges`] that will not change any more.
#[derive(Debug, PartialEq)]
pub(crate) struct Indexed<B, V> {
    ranges: Ranges<B, V>,
    /// Where the first bucket begins.
    base: B,
    /// A bucket is 2^shift addresses.
    shift: u32,
    /// How many runs begin up to the lowest address of each bucket. Empty: no index.
    begun: Box<[u32]>,
}

impl<B: Bits, V: Copy + PartialEq> Indexed<B, V> {
    pub(crate) fn new(mut ranges: Ranges<B, V>) -> Indexed<B, V> {
        ranges.shrink();
        let starts = ranges.starts();
        let (Some(base), Some(last)) = (starts.get(1).copied(), starts.last()) else {
            return Indexed { base: B::ZERO, shift: 0, begun: Box::default(), ranges };
        };
        if starts.len() < RUNS_MIN {
            return Indexed { base, shift: 0, begun: Box::default(), ranges };
        }
        let buckets = starts.len().next_power_of_two().min(BUCKETS_MAX);
        let shift = (0..128).find(|shift| last.steps(base, *shift) < buckets).unwrap_or(127);
        let mut begun = vec![0; last.steps(base, shift) + 1];
        for start in &starts[1..] {
            // The run counts from the next bucket on, and in this one if it begins with it.
            let bucket = start.steps(base, shift);
            let first = if start.begins_step(base, shift) { bucket } else { bucket + 1 };
            if let Some(count) = begun.get_mut(first) {
                *count += 1;
            }
        }
        let mut total = 1;
        for count in &mut begun {
            total += *count;
            *count = total;
        }
        Indexed { base, shift, begun: begun.into(), ranges }
    }

    /// The value at `address` and its scope.
    pub(crate) fn get(&self, address: B) -> (V, u8) {
        if self.begun.is_empty() {
            return self.ranges.get(address);
        }
        if address < self.base {
            return self.ranges.at(0, address);
        }
        let bucket = address.steps(self.base, self.shift).min(self.begun.len() - 1);
        let low = self.begun[bucket] as usize;
        let starts = self.ranges.starts();
        let high = self.begun.get(bucket + 1).map_or(starts.len(), |begun| *begun as usize);
        let begun = low + starts[low..high].partition_point(|start| *start <= address);
        self.ranges.at(begun - 1, address)
    }

    /// How many runs there are.
    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check<B: Bits>(starts: impl IntoIterator<Item = B>, asked: impl IntoIterator<Item = B>) {
        let mut ranges = Ranges::builder(0u32);
        let starts: std::collections::BTreeSet<B> = starts.into_iter().collect();
        starts.iter().zip(1..).for_each(|(start, value)| ranges.push(*start, value));
        let indexed = Indexed::new(ranges.clone());
        let edges = starts.iter().flat_map(|start| [Some(*start), start.next(), start.previous()]);
        for address in edges.flatten().chain(asked) {
            assert_eq!(indexed.get(address), ranges.get(address), "{address:?}");
        }
    }

    proptest! {
        #[test]
        fn the_index_changes_nothing(
            spread in prop::collection::vec(any::<u32>(), 0..300),
            crowded in prop::collection::vec(0x0a00_0000u32..0x0a00_1000, 0..300),
            wide in prop::collection::vec(any::<u128>(), 0..200),
            asked: [u32; 32],
        ) {
            check(spread.iter().copied(), asked);
            check(crowded.iter().copied(), asked);
            check(spread.iter().chain(&crowded).copied(), asked);
            check(wide.iter().copied(), [0, 1, u128::MAX]);
            check(wide.iter().map(|at| 0x2001 << 112 | at >> 40), [0, u128::MAX, 0x2001 << 112]);
        }
    }

    #[test]
    fn few_and_extreme_runs() {
        check([], [0, 7, u32::MAX]);
        check([0, u32::MAX], [0, 7, u32::MAX]);
        check((0..100).map(|n| u32::MAX - n), [0, 7]);
        check((0..100u32).map(|n| n << 25), [0, u32::MAX]);
    }
}
