//! Weights by which clients are divided, in small whole numbers.

use crate::inputs::Inputs;
use crate::locality::Family;
use std::collections::BTreeMap;

/// Weights of a divided locality are whole parts of this many: finer ones would move clients with
/// every breath of demand.
pub(crate) const PARTS: u64 = 64;
/// The sum of the weights of clients of whom nothing is known, at most: pairs of families multiply.
const WEIGHTS_MAX: u64 = 1 << 15;

/// Members with weights.
pub(crate) type Weighted = Vec<(u32, u32)>;

/// Those of these members that serve a family.
pub(super) fn serving(inputs: &Inputs, members: &[u32], family: Family) -> Vec<u32> {
    members.iter().copied().filter(|member| family.serves(inputs, *member)).collect()
}

/// Capacity times the operator's weight. Who tells no capacity weighs as much as those who do on
/// average.
pub(super) fn base_weights(inputs: &Inputs, members: &[u32]) -> Vec<(u32, u64)> {
    let of = |member: u32| &inputs.members[member as usize].capacity;
    let told: Vec<u64> = members.iter().filter_map(|member| of(*member).rps.map(u64::from)).collect();
    let mean = told.iter().sum::<u64>().checked_div(told.len() as u64).unwrap_or(1).max(1);
    let weight =
        |member: u32| of(member).rps.map_or(mean, u64::from) * u64::from(of(member).weight_percent());
    let mut weights: Vec<(u32, u64)> = members.iter().map(|member| (*member, weight(*member))).collect();
    if weights.iter().all(|(_, weight)| *weight == 0) {
        weights.iter_mut().for_each(|(_, weight)| *weight = 1);
    }
    weights
}

/// The same in small numbers; equal weights are 1 each.
pub(super) fn normal(weights: &[(u32, u64)]) -> Weighted {
    let some: Vec<&(u32, u64)> = weights.iter().filter(|(_, weight)| *weight > 0).collect();
    if some.windows(2).all(|pair| pair[0].1 == pair[1].1) {
        return some.iter().map(|(member, _)| (*member, 1)).collect();
    }
    let sum: u128 = some.iter().map(|(_, weight)| u128::from(*weight)).sum();
    let most = u128::from(WEIGHTS_MAX.saturating_sub(some.len() as u64).max(1));
    let scaled = |weight: u64| (u128::from(weight) * most / sum.max(1)).max(1) as u32;
    some.iter().map(|(member, weight)| (*member, scaled(*weight))).collect()
}

/// Amounts in whole parts of [`PARTS`]. Too small ones are left out, but not all.
pub(super) fn in_parts(share: &BTreeMap<u32, u64>) -> Weighted {
    let sum: u128 = share.values().map(|amount| u128::from(*amount)).sum();
    let part = |amount: u64| ((u128::from(amount) * u128::from(PARTS) * 2 / sum.max(1)).div_ceil(2)) as u32;
    let parts: Weighted = share.iter().map(|(member, amount)| (*member, part(*amount))).collect();
    let mut some: Weighted = parts.iter().copied().filter(|(_, part)| *part > 0).collect();
    if let ([], Some((largest, _))) = (&some[..], share.iter().max_by_key(|(_, amount)| **amount)) {
        some.push((*largest, 1));
    }
    if let [(_, alone)] = &mut some[..] {
        *alone = 1;
    }
    some
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_small_and_in_proportion() {
        assert_eq!(normal(&[(3, 500), (4, 500), (5, 0)]), [(3, 1), (4, 1)]);
        let weights = normal(&[(0, u64::MAX / 2), (1, u64::MAX / 4), (2, 0), (3, 1)]);
        assert!(u64::from(weights.iter().map(|(_, weight)| weight).sum::<u32>()) <= WEIGHTS_MAX);
        let [(0, most), (1, half), (3, 1)] = weights[..] else { panic!("{weights:?}") };
        assert!(most.abs_diff(2 * half) <= 1, "{most} and {half}");
    }

    #[test]
    fn parts_that_are_too_small_are_left_out_but_not_all() {
        let parts = |amounts: &[(u32, u64)]| in_parts(&amounts.iter().copied().collect());
        assert_eq!(parts(&[(0, 300), (1, 100)]), [(0, 48), (1, 16)]);
        assert_eq!(parts(&[(0, 1000), (1, 1)]), [(0, 1)]);
        assert_eq!(parts(&[(7, 3)]), [(7, 1)]);
        let many: Vec<(u32, u64)> = (0..200).map(|member| (member, 1 + u64::from(member == 9))).collect();
        assert_eq!(parts(&many), [(9, 1)]);
    }
}
