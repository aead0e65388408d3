//! Clients that ask for something, as items of the plan: whole prefixes, and places in parts.

use super::cost::Cost;
use super::weights::PARTS;
use crate::asked::{Rates, incumbent};
use crate::locality::{Family, Locality};
use crate::spill::{Item, NEVER};

/// At most so many localities are divided one by one, those with the most demand. The others stay
/// with the replica that they would have without limits, and take up room there.
const ITEMS_MAX: usize = 16_384;

/// Where items of the plan come from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Known(usize, Locality, Family),
    Unknown(usize, Family),
}

/// Clients that ask for something, before they are made items of the plan.
pub(super) struct Asking {
    pub(super) origin: Origin,
    pub(super) demand: u64,
    pub(super) costs: Vec<Cost>,
    /// Who serves them today.
    pub(super) kept: Rates,
}

impl Asking {
    /// The items of the plan: one, or, where clients can be divided, one for each part of them that
    /// some member serves today.
    pub(super) fn items(&self, members: usize) -> Vec<Item> {
        if let Origin::Known(_, Locality::Prefix(_), _) = self.origin {
            return self.item(members, self.demand, incumbent(&self.kept), true).into_iter().collect();
        }
        let worth = self.demand.div_ceil(PARTS);
        let kept = self.costs.iter().filter_map(|cost| Some((cost.member, *self.kept.get(&cost.member)?)));
        let kept: Vec<(u32, u64)> = kept.filter(|(_, rate)| *rate >= worth).collect();
        let rest = self.demand - kept.iter().map(|(_, rate)| rate).sum::<u64>();
        let parts = kept.into_iter().map(|(member, rate)| (rate, Some(member))).chain([(rest, None)]);
        let parts = parts.filter(|(rate, _)| *rate > 0);
        parts.filter_map(|(rate, kept)| self.item(members, rate, kept, false)).collect()
    }

    fn item(&self, members: usize, demand: u64, kept: Option<u32>, whole: bool) -> Option<Item> {
        let costs: Vec<Cost> = self.costs.iter().map(|cost| cost.leant(kept)).collect();
        let best = costs.iter().min_by_key(|cost| cost.cost_us)?.member;
        let mut by_member = vec![NEVER; members];
        costs.iter().for_each(|cost| by_member[cost.member as usize] = cost.cost_us);
        Some(Item { demand, costs: by_member, best, whole, kept })
    }
}

/// Keeps the [`ITEMS_MAX`] with the most demand; what the others take up, by member.
pub(super) fn background(asking: &mut Vec<Asking>) -> Rates {
    let mut taken = Rates::new();
    if asking.len() > ITEMS_MAX {
        asking.sort_by_key(|asking| std::cmp::Reverse(asking.demand));
        for Asking { demand, costs, kept, .. } in asking.drain(ITEMS_MAX..) {
            let incumbent = incumbent(&kept);
            let best = costs.into_iter().map(|cost| cost.leant(incumbent)).min_by_key(|cost| cost.cost_us);
            best.into_iter().for_each(|best| *taken.entry(best.member).or_default() += demand);
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_core::geo::Coordinates;

    fn asking(locality: Locality) -> Asking {
        let cost = |member: u32| Cost { member, cost_us: 10_000 * (member + 1), noise_us: 0 };
        Asking {
            origin: Origin::Known(0, locality, Family::V4),
            demand: 6400,
            costs: (0..3).map(cost).collect(),
            kept: Rates::from([(0, 3000), (1, 50), (2, 1000)]),
        }
    }

    #[test]
    fn a_place_is_in_parts_by_who_serves_them() {
        let items = asking(Locality::Place(Coordinates::new(1.0, 2.0).unwrap())).items(4);
        let parts: Vec<_> = items.iter().map(|item| (item.demand, item.kept, item.whole)).collect();
        // What one serves of it that is less than a part of 64 is nobody's.
        assert_eq!(parts, [(3000, Some(0), false), (1000, Some(2), false), (2400, None, false)]);
        assert_eq!(items[2].costs, [10_000, 20_000, 30_000, NEVER]);
        assert_eq!(items[1].costs[2], 27_272, "less for who serves them");
    }

    #[test]
    fn a_prefix_is_whole() {
        let items = asking(Locality::Prefix("192.0.2.0/24".parse().unwrap())).items(4);
        assert_eq!(items.iter().map(|item| (item.demand, item.whole)).collect::<Vec<_>>(), [(6400, true)]);
    }

    #[test]
    fn those_with_the_least_demand_take_up_room_where_they_are() {
        let place = |n: usize| Locality::Place(Coordinates::new(n as f64 / 1000.0, 2.0).unwrap());
        let small = |n: usize| Asking { demand: 1, kept: Rates::from([(1, 1)]), ..asking(place(n)) };
        let mut all: Vec<Asking> =
            (0..ITEMS_MAX).map(|n| asking(place(n))).chain((0..5).map(small)).collect();
        assert_eq!(background(&mut all), Rates::from([(0, 5)]));
        assert_eq!((all.len(), all.iter().all(|asking| asking.demand == 6400)), (ITEMS_MAX, true));
    }
}
