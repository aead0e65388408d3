//! Which prefixes of a place agree about where they are.
//!
//! A database is wrong about one network in five, and it is wrong by the city: whoever moved a
//! block of addresses moved many networks at once, all to one wrong place. So the prefixes of a
//! place are divided into *groups* that do not contradict each other. Each group is a place of its
//! own: its prefixes measure for each other, and none for those of another group. In this way a city that
//! stands elsewhere in the database is still one city.
//!
//! Two times of one member to two prefixes agree when they differ by less than a third or 10 ms; of
//! a prefix and a group more must agree than contradict, by weight. Prefixes without anything in
//! common with others are where the database has them: in the largest group.

use crate::observe::{Measured, Rtts, median};
use std::collections::BTreeMap;

/// At most so many groups in a place: more are the noise of sick lines, who stand alone.
const GROUPS_MAX: usize = 8;
/// Times that differ by less than this share of the larger, as a divisor, agree…
const AGREE_SHARE: u32 = 3;
/// …and so do those that differ by less than this, µs.
const AGREE_US: u32 = 10_000;

/// So many times make a median.
const CENTRE_MAX: usize = 9;

/// Numbers of the prefixes of each group, ascending; those that stand alone are left out.
pub(crate) fn groups(prefixes: &[&Rtts]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Centre> = Vec::new();
    // Who was measured by most says most, and what was measured longest.
    let mut order: Vec<usize> = (0..prefixes.len()).collect();
    let weight = |rtts: &Rtts| rtts.values().map(|one| one.weight).sum::<u32>();
    order.sort_by_key(|at| std::cmp::Reverse((prefixes[*at].len(), weight(prefixes[*at]))));
    let mut strangers = Vec::new();
    for at in order {
        let fits = |(number, group): (usize, &Centre)| {
            let (agreeing, contradicting) = group.compare(prefixes[at]);
            let known = agreeing + contradicting > 0;
            known.then_some((i64::from(agreeing) - i64::from(contradicting), std::cmp::Reverse(number)))
        };
        match groups.iter().enumerate().filter_map(fits).max() {
            Some((balance, number)) if balance > 0 => groups[number.0].add(at, prefixes[at]),
            None if !groups.is_empty() => strangers.push(at),
            _ if groups.len() < GROUPS_MAX => groups.push(Centre::new(at, prefixes[at])),
            _ => {}
        }
    }
    if let Some(largest) = groups.iter_mut().min_by_key(|group| std::cmp::Reverse(group.prefixes.len())) {
        largest.prefixes.extend(strangers);
    }
    let sorted = |group: Centre| {
        let mut prefixes = group.prefixes;
        prefixes.sort_unstable();
        prefixes
    };
    groups.into_iter().map(sorted).collect()
}

/// A group in the making.
struct Centre {
    prefixes: Vec<usize>,
    /// By member: all times, and their weighted median.
    times: BTreeMap<u32, (Vec<Measured>, u32)>,
}

impl Centre {
    fn new(at: usize, rtts: &Rtts) -> Centre {
        let mut centre = Centre { prefixes: Vec::new(), times: BTreeMap::new() };
        centre.add(at, rtts);
        centre
    }

    fn add(&mut self, at: usize, rtts: &Rtts) {
        self.prefixes.push(at);
        for (member, one) in rtts.iter().filter(|(_, one)| !one.probed) {
            let (all, middle) = self.times.entry(*member).or_default();
            // Those that come first weigh most: more do not move a median much.
            if all.len() < CENTRE_MAX {
                all.push(*one);
                *middle = median(all);
            }
        }
    }

    /// The weights of what agrees and of what contradicts.
    fn compare(&self, rtts: &Rtts) -> (u32, u32) {
        let mut weights = (0, 0);
        for (member, one) in rtts {
            let Some((_, middle)) = self.times.get(member) else { continue };
            if agree(one.rtt_us, *middle) {
                weights.0 += one.weight;
            } else {
                weights.1 += one.weight;
            }
        }
        weights
    }
}

/// Whether no member's times in both contradict each other.
pub(crate) fn accord(a: &Rtts, b: &Rtts) -> bool {
    b.iter().all(|(member, one)| a.get(member).is_none_or(|other| agree(one.rtt_us, other.rtt_us)))
}

/// Whether two times may be of one place.
fn agree(a: u32, b: u32) -> bool {
    let away = a.abs_diff(b);
    away <= AGREE_US || away <= a.max(b) / AGREE_SHARE
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_core::observation::ClientRtt;

    /// Groups of prefixes to which members 0, 1… measured so many ms.
    fn check(prefixes: &[[u32; 3]], expected: &[&[usize]]) {
        let measured = |ms: u32| {
            let rtt = ClientRtt { samples: 8, ..ClientRtt::new("192.0.2.0/24".parse().unwrap(), ms * 1000) };
            Measured::one(&rtt)
        };
        let rtts = |ms: &[u32; 3]| -> Rtts {
            (0..).zip(ms).filter(|(_, ms)| **ms > 0).map(|(member, ms)| (member, measured(*ms))).collect()
        };
        let rtts: Vec<Rtts> = prefixes.iter().map(rtts).collect();
        assert_eq!(groups(&rtts.iter().collect::<Vec<_>>()), expected, "{prefixes:?}");
    }

    #[test]
    fn those_that_agree_are_together_whoever_they_were_measured_by() {
        check(&[[9, 0, 0], [14, 0, 0], [250, 0, 0], [260, 30, 0], [11, 0, 99]], &[&[2, 3], &[0, 1, 4]]);
        check(&[[9, 0, 0], [0, 99, 0], [0, 0, 7]], &[&[0, 1, 2]]);
        check(&[], &[]);
    }

    #[test]
    fn one_time_off_among_more_that_agree_makes_no_other_place() {
        check(&[[9, 100, 200], [10, 101, 900], [11, 99, 0]], &[&[0, 1, 2]]);
    }

    #[test]
    fn there_are_not_more_groups_than_bounded() {
        let prefixes: Vec<[u32; 3]> = (0..20).map(|n| [20 << n.min(16), 0, 0]).collect();
        let rtts: Vec<Rtts> = prefixes
            .iter()
            .map(|ms| {
                let rtt = ClientRtt::new("192.0.2.0/24".parse().unwrap(), ms[0]);
                Rtts::from([(0, Measured::one(&ClientRtt { rtt_us: ms[0].saturating_mul(1000), ..rtt }))])
            })
            .collect();
        assert_eq!(groups(&rtts.iter().collect::<Vec<_>>()).len(), GROUPS_MAX);
    }
}
