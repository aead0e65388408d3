//! Who asks most, without remembering everybody who asks.
//!
//! Space-Saving (Metwally, Agrawal, El Abbadi 2005): so many counters; who has none takes over the
//! smallest one with its count, and remembers that count as its error. What a counter holds less its
//! error was surely counted, and everybody with more than the total by the number of counters is
//! among them. Sources are counted by prefix, as that is what decides for them; of each prefix one
//! address is remembered, the one that most queries came from (Boyer and Moore's majority vote).

use super::prefix_of;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Counters: four times what is asked for, so that those few are counted well. Some 100 KiB.
pub const ASKERS_MAX: usize = 4 * super::ASKED_MAX;

/// Counts who asks.
#[derive(Clone, Debug, Default)]
pub struct Askers {
    counts: BTreeMap<IpNet, Count>,
    /// The same by weight, for the smallest.
    order: BTreeSet<(u64, IpNet)>,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    weight: u64,
    /// At most so much of it was not counted for this prefix.
    error: u64,
    address: IpAddr,
    /// By how much it is ahead of the others.
    lead: u64,
}

impl Askers {
    /// Nobody has asked.
    pub fn new() -> Askers {
        Askers::default()
    }

    /// `address` has asked so often.
    pub fn add(&mut self, address: IpAddr, weight: u64) {
        let address = address.to_canonical();
        let prefix = prefix_of(address);
        let count = match self.counts.remove(&prefix) {
            Some(count) => {
                self.order.remove(&(count.weight, prefix));
                count.added(address, weight)
            }
            None => {
                let error = self.take_smallest();
                Count { weight: error.saturating_add(weight), error, address, lead: weight }
            }
        };
        self.order.insert((count.weight, prefix));
        self.counts.insert(prefix, count);
    }

    /// Room for one: the weight of who gave way, 0 while there is room.
    fn take_smallest(&mut self) -> u64 {
        if self.counts.len() < ASKERS_MAX {
            return 0;
        }
        let Some((weight, prefix)) = self.order.pop_first() else { return 0 };
        self.counts.remove(&prefix);
        weight
    }

    /// Half of everything is forgotten: called from time to time, it leaves what is asked of late.
    pub fn fade(&mut self) {
        self.counts.retain(|_, count| {
            count.weight /= 2;
            count.error /= 2;
            count.lead /= 2;
            count.weight > 0
        });
        self.order = self.counts.iter().map(|(prefix, count)| (count.weight, *prefix)).collect();
    }

    /// The prefixes that surely asked `least` times or more, the heaviest first, at most `max`: one
    /// address of each. Those of about the same weight (within a power of two) stand in the order of
    /// their prefixes, so that the list rests while weights waver.
    pub fn heaviest(&self, max: usize, least: u64) -> Vec<IpAddr> {
        let heavy =
            self.order.iter().rev().filter_map(|(_, prefix)| Some((prefix, self.counts.get(prefix)?)));
        let sure = heavy.filter(|(_, count)| count.weight - count.error >= least).take(max);
        let mut sure: Vec<_> = sure
            .map(|(prefix, count)| (std::cmp::Reverse(count.weight.max(1).ilog2()), *prefix, count.address))
            .collect();
        sure.sort_unstable();
        sure.into_iter().map(|(_, _, address)| address).collect()
    }

    /// How many prefixes are counted.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether nobody is counted.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

impl Count {
    fn added(self, address: IpAddr, weight: u64) -> Count {
        let (address, lead) = match self.lead.checked_sub(weight) {
            _ if address == self.address => (address, self.lead.saturating_add(weight)),
            Some(lead) => (self.address, lead),
            None => (address, weight - self.lead),
        };
        Count { weight: self.weight.saturating_add(weight), error: self.error, address, lead }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(prefix: u32, host: u8) -> IpAddr {
        IpAddr::from((0x0800_0000 + (prefix << 8) + u32::from(host)).to_be_bytes())
    }

    #[test]
    fn the_heaviest_are_found_among_many_that_asked_once() {
        let mut askers = Askers::new();
        for round in 0..200u32 {
            (0..20).for_each(|heavy| askers.add(ip(heavy, 53), u64::from(20 - heavy)));
            (0..50).for_each(|n| askers.add(ip(1000 + round * 50 + n, 1), 1));
        }
        assert_eq!(askers.len(), ASKERS_MAX);
        let mut heaviest = askers.heaviest(20, 100);
        // 4,000 to 2,200 of 2^12 and 2^11 stand before the others.
        assert_eq!(heaviest[..10], (0..10).map(|heavy| ip(heavy, 53)).collect::<Vec<_>>());
        heaviest.sort_unstable();
        assert_eq!(heaviest, (0..20).map(|heavy| ip(heavy, 53)).collect::<Vec<_>>());
        assert!(askers.heaviest(256, 100).len() <= 20, "who asked once is not asked for");
    }

    #[test]
    fn a_prefix_is_known_by_who_asks_most_in_it() {
        let mut askers = Askers::new();
        for _ in 0..10 {
            askers.add(ip(1, 7), 1);
            askers.add(ip(1, 53), 3);
        }
        assert_eq!(askers.heaviest(9, 40), [ip(1, 53)]);
        assert!(askers.heaviest(9, 41).is_empty());
    }

    #[test]
    fn what_is_not_asked_any_more_is_forgotten() {
        let mut askers = Askers::new();
        askers.add(ip(1, 1), 100);
        (0..3).for_each(|_| askers.fade());
        askers.add(ip(2, 1), 13);
        assert_eq!(askers.heaviest(1, 1), [ip(2, 1)]);
        assert_eq!(askers.heaviest(9, 1), [ip(1, 1), ip(2, 1)], "12 and 13 weigh about the same");
        (0..4).for_each(|_| askers.fade());
        assert!(askers.is_empty());
    }

    proptest! {
        /// The promise of the sketch: bounds hold for each, and nobody above the share is missing.
        #[test]
        fn counts_are_bounded(asked in prop::collection::vec((0u32..3000, 1u64..9), 0..4000)) {
            let mut askers = Askers::new();
            let mut truth = BTreeMap::<IpNet, u64>::new();
            for (prefix, weight) in asked {
                askers.add(ip(prefix, 1), weight);
                *truth.entry(prefix_of(ip(prefix, 1))).or_default() += weight;
            }
            prop_assert!(askers.len() <= ASKERS_MAX);
            prop_assert_eq!(askers.len(), askers.order.len());
            let total: u64 = truth.values().sum();
            for (prefix, true_weight) in truth {
                match askers.counts.get(&prefix) {
                    Some(count) => {
                        prop_assert!(count.weight - count.error <= true_weight);
                        prop_assert!(true_weight <= count.weight);
                    }
                    None => prop_assert!(true_weight <= total / ASKERS_MAX as u64),
                }
            }
        }
    }
}
