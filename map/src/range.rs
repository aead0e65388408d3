//! Address runs: the whole address space cut into runs of equal value.
//!
//! A [`Ranges`] is a sorted list of run starts; a run ends where the next begins, and the first
//! starts at zero, so that every address is in exactly one run. Neighbouring runs of one value are
//! one run. That makes the *scope* of an address easy to see: the widest aligned block around it
//! that stays inside its run. Within that block the value is the same everywhere (sound), and in
//! any wider block it is not (optimal).

use std::fmt::Debug;

/// An address as a number.
pub(crate) trait Bits: Copy + Ord + Debug {
    /// The lowest address.
    const ZERO: Self;
    /// Lowest and highest address of the block of prefix length `len` around `self`.
    fn block(self, len: u8) -> (Self, Self);
    /// The next higher address; `None` after the highest.
    fn next(self) -> Option<Self>;
    /// The next lower address; `None` before the lowest.
    fn previous(self) -> Option<Self>;
    /// How many leading bits `self` has in common with `other`.
    fn common(self, other: Self) -> u8;
    /// How many whole steps of 2^shift addresses lie between `base` and `self`, which is not below it.
    fn steps(self, base: Self, shift: u32) -> usize;
    /// Whether `self` is a whole number of such steps above `base`.
    fn begins_step(self, base: Self, shift: u32) -> bool;
}

macro_rules! bits {
    ($number:ty) => {
        impl Bits for $number {
            const ZERO: Self = 0;
            fn block(self, len: u8) -> (Self, Self) {
                let host = <$number>::MAX.checked_shr(u32::from(len)).unwrap_or(0);
                (self & !host, self | host)
            }
            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
            fn previous(self) -> Option<Self> {
                self.checked_sub(1)
            }
            fn common(self, other: Self) -> u8 {
                (self ^ other).leading_zeros() as u8
            }
            fn steps(self, base: Self, shift: u32) -> usize {
                let steps = self.saturating_sub(base).checked_shr(shift).unwrap_or(0);
                usize::try_from(steps).unwrap_or(usize::MAX)
            }
            fn begins_step(self, base: Self, shift: u32) -> bool {
                self.saturating_sub(base).trailing_zeros() >= shift
            }
        }
    };
}

bits!(u32);
bits!(u128);

/// The address space cut into runs of equal value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ranges<B, V> {
    /// Where runs start, ascending; the first is zero. As long as `values`.
    starts: Vec<B>,
    /// The value of each run; neighbours differ.
    values: Vec<V>,
}

impl<B: Bits, V: Copy + PartialEq> Ranges<B, V> {
    /// One run of `value`.
    pub(crate) fn all(value: V) -> Ranges<B, V> {
        Ranges { starts: vec![B::ZERO], values: vec![value] }
    }

    /// Collects runs given by their starts, ascending; what lies before the first gets `value`.
    pub(crate) fn builder(value: V) -> Ranges<B, V> {
        Ranges::all(value)
    }

    /// Begins a run at `start`, which is not below the last start. A run of the same value goes on;
    /// a second run at the same start replaces the first.
    pub(crate) fn push(&mut self, start: B, value: V) {
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.values.pop();
        }
        if self.values.last() != Some(&value) {
            self.starts.push(start);
            self.values.push(value);
        }
    }

    /// How many runs there are.
    pub(crate) fn len(&self) -> usize {
        self.starts.len()
    }

    /// The runs: start and value.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (B, V)> + '_ {
        self.starts.iter().copied().zip(self.values.iter().copied())
    }

    /// Lays `other` beside it: `choose` tells the value of each stretch.
    pub(crate) fn combine<W, X>(&self, other: &Ranges<B, W>, choose: impl Fn(V, W) -> X) -> Ranges<B, X>
    where
        W: Copy + PartialEq,
        X: Copy + PartialEq,
    {
        let (mut at, mut beside) = (0, 0);
        let mut combined = Ranges::all(choose(self.values[0], other.values[0]));
        loop {
            let next = match (self.starts.get(at + 1), other.starts.get(beside + 1)) {
                (None, None) => return combined,
                (Some(next), None) | (None, Some(next)) => *next,
                (Some(a), Some(b)) => *a.min(b),
            };
            at += usize::from(self.starts.get(at + 1) == Some(&next));
            beside += usize::from(other.starts.get(beside + 1) == Some(&next));
            combined.push(next, choose(self.values[at], other.values[beside]));
        }
    }

    /// Gives back what was reserved for more runs.
    pub(crate) fn shrink(&mut self) {
        self.starts.shrink_to_fit();
        self.values.shrink_to_fit();
    }

    /// The value at `address` and its scope.
    pub(crate) fn get(&self, address: B) -> (V, u8) {
        self.at(self.starts.partition_point(|start| *start <= address).saturating_sub(1), address)
    }

    /// Where runs start, ascending; the first is zero.
    pub(crate) fn starts(&self) -> &[B] {
        &self.starts
    }

    /// The value of run `at`, which `address` is in, and its scope.
    pub(crate) fn at(&self, at: usize, address: B) -> (V, u8) {
        // A block around the address stays inside the run if it has neither the last address
        // before the run nor the first one after it, that is, if it is longer than what the
        // address has in common with these.
        let beyond = |other: B| address.common(other) + 1;
        let before = self.starts[at].previous().map_or(0, beyond);
        let after = self.starts.get(at + 1).map_or(0, |next| beyond(*next));
        (self.values[at], before.max(after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges(cuts: &[(u32, u8)]) -> Ranges<u32, u8> {
        let mut ranges = Ranges::builder(0);
        for (start, value) in cuts {
            ranges.push(*start, *value);
        }
        ranges
    }

    #[test]
    fn one_run_has_scope_zero() {
        assert_eq!(ranges(&[]).get(7), (0, 0));
        assert_eq!(ranges(&[(0, 3)]).get(u32::MAX), (3, 0));
        assert_eq!(ranges(&[(0, 0), (9, 0)]).len(), 1);
        assert_eq!(Ranges::<u128, u8>::all(1).get(u128::MAX), (1, 0));
    }

    #[test]
    fn scope_is_the_widest_block_inside_the_run() {
        let ranges = ranges(&[(0x0a00_0000, 1), (0x0a00_0200, 2), (0x0a00_0201, 1)]);
        assert_eq!(ranges.get(0x0a00_0000), (1, 23));
        assert_eq!(ranges.get(0x0a00_0200), (2, 32));
        assert_eq!(ranges.get(0x0a00_0201), (1, 32));
        assert_eq!(ranges.get(0x0a00_0300), (1, 24));
        assert_eq!(ranges.get(0), (0, 5));
        assert_eq!(ranges.get(u32::MAX), (1, 1));
    }

    proptest! {
        #[test]
        fn combining_is_looking_up_in_both(
            a in prop::collection::btree_map(0u32..99, 0u8..3, 0..9),
            b in prop::collection::btree_map(0u32..99, 0u8..3, 0..9),
        ) {
            let (a, b) = (ranges(&a.into_iter().collect::<Vec<_>>()), ranges(&b.into_iter().collect::<Vec<_>>()));
            let both = a.combine(&b, |a, b| a * 3 + b);
            for at in 0..100 {
                prop_assert_eq!(both.get(at).0, a.get(at).0 * 3 + b.get(at).0);
            }
            prop_assert!(both.values.windows(2).all(|pair| pair[0] != pair[1]));
        }

        #[test]
        fn scope_is_sound_and_optimal(cuts in prop::collection::btree_map(any::<u32>(), 0u8..3, 0..20), at: u32) {
            let ranges = ranges(&cuts.into_iter().collect::<Vec<_>>());
            let (value, scope) = ranges.get(at);
            let same = |len: u8| {
                let (low, high) = at.block(len);
                ranges.get(low).0 == value
                    && ranges.runs().all(|(start, other)| start < low || start > high || other == value)
            };
            prop_assert!(same(scope));
            prop_assert!(scope == 0 || !same(scope - 1));
        }
    }
}
