use super::*;
use proptest::prelude::*;

fn item(demand: u64, costs: &[u32]) -> Item {
    let best = (0..costs.len()).min_by_key(|at| costs[*at]).unwrap() as u32;
    Item { demand, costs: costs.to_vec(), best, whole: false, kept: None }
}

/// Everything is somewhere, loads are what was assigned, nobody is beyond its limit, and no
/// division within these limits is cheaper: the prices prove it (weak duality of linear programs).
fn check(capacities: &[Option<u64>], items: &[Item], plan: &Plan) {
    let mut load = vec![0; capacities.len()];
    let mut cost = 0;
    for (item, shares) in items.iter().zip(&plan.shares) {
        assert_eq!(shares.values().sum::<u64>(), item.demand);
        for (replica, amount) in shares {
            load[*replica as usize] += amount;
            assert_ne!(item.costs[*replica as usize], NEVER);
            cost += i128::from(item.costs[*replica as usize]) * i128::from(*amount);
        }
    }
    assert_eq!(load, plan.load);
    let limits = &plan.limits;
    let mut bound = 0;
    for (replica, limit) in limits.iter().enumerate() {
        assert!(load[replica] <= *limit, "replica {replica}: {load:?} of {limits:?}");
        if plan.prices[replica] > 0 {
            bound -= i128::from(plan.prices[replica]) * i128::from(*limit);
        }
    }
    for item in items {
        let dear = |(cost, price): (&u32, &u32)| i128::from(*cost) + i128::from(*price);
        let costs = item.costs.iter().zip(&plan.prices).filter(|(cost, _)| **cost != NEVER);
        bound += i128::from(item.demand) * costs.map(dear).min().unwrap();
    }
    assert_eq!(cost, bound, "not the cheapest division");
}

#[test]
fn what_fits_goes_to_the_nearest() {
    let items = [item(100, &[5, 9]), item(200, &[9, 5])];
    let plan = assign(&[Some(1000), None], &items);
    check(&[Some(1000), None], &items, &plan);
    assert_eq!(plan.load, [100, 200]);
    assert_eq!(plan.prices, [0, 0]);
}

#[test]
fn those_with_the_least_to_lose_move_and_others_make_room_for_them() {
    // The first replica is too small. The second item could only go far away; the first moves to
    // the second replica, which is full itself, so that the third item moves on to the third.
    let items = [item(500, &[10, 12, 90]), item(500, &[10, 80, 90]), item(800, &[90, 10, 13])];
    let capacities = [Some(600), Some(1000), Some(1000)];
    let plan = assign(&capacities, &items);
    check(&capacities, &items, &plan);
    assert_eq!(plan.load, [510, 850, 440]);
    assert_eq!(plan.prices, [5, 3, 0]);
    assert_eq!(plan.shares[1], BTreeMap::from([(0, 500)]));
}

#[test]
fn what_does_not_fit_is_shared_where_it_could_go_and_nowhere_else() {
    // The first two replicas get three times what they can take; the third is of another name.
    let items = [item(3000, &[10, 20, NEVER]), item(3000, &[20, 10, NEVER]), item(700, &[NEVER, NEVER, 10])];
    let capacities = [Some(500), Some(1500), Some(1000)];
    let plan = assign(&capacities, &items);
    check(&capacities, &items, &plan);
    assert_eq!(plan.fill, [3000, 3000, OVERFLOW_PERMILLE]);
    assert_eq!(plan.load, [1500, 4500, 700]);
}

#[test]
fn nothing_is_left_out_however_far_beyond_capacity() {
    let items = [item(1_000_000_007, &[10, 20]), item(1, &[20, 10])];
    let capacities = [Some(1), Some(3)];
    let plan = assign(&capacities, &items);
    check(&capacities, &items, &plan);
    let share = plan.load[1] as f64 / 1_000_000_008.0;
    assert!((0.74..0.76).contains(&share), "{share} where three quarters are due");
}

#[test]
fn a_prefix_stays_whole() {
    let mut items = vec![item(600, &[10, 30]), item(600, &[10, 20])];
    items.iter_mut().for_each(|item| item.whole = true);
    let plan = assign(&[Some(1000), Some(1000)], &items);
    assert_eq!(plan.shares, [BTreeMap::from([(0, 600)]), BTreeMap::from([(1, 600)])]);
    assert_eq!(plan.load, [600, 600]);
}

#[test]
fn pouring_keeps_to_weights_and_rooms() {
    assert_eq!(pour(100, &[(1, None), (3, None)]), [25, 75]);
    assert_eq!(pour(100, &[(1, None), (3, Some(10))]), [90, 10]);
    assert_eq!(pour(100, &[(1, Some(50)), (1, Some(60)), (0, None)]), [50, 50, 0]);
    assert_eq!(pour(100, &[(1, Some(20)), (1, Some(30))]), [45, 55]);
    assert_eq!(pour(0, &[(1, Some(0)), (1, None)]), [0, 0]);
    assert_eq!(pour(9, &[]), [] as [u64; 0]);
}

/// Capacities of replicas, and items with a demand, costs, and whether they stay whole.
fn worlds() -> impl Strategy<Value = (Vec<u64>, Vec<Item>)> {
    (1usize..7).prop_flat_map(|count| {
        let item = (0u64..2000, prop::collection::vec(1u32..200_000, count), any::<bool>()).prop_map(
            |(demand, costs, whole)| {
                let best = (0..costs.len()).min_by_key(|at| costs[*at]).unwrap_or(0) as u32;
                Item { demand, costs, best, whole, kept: None }
            },
        );
        (prop::collection::vec(1u64..20_000, count), prop::collection::vec(item, 0..40))
    })
}

fn utilisation(capacities: &[u64], items: &[Item]) -> f64 {
    let demand: u64 = items.iter().map(|item| item.demand).sum();
    demand as f64 / capacities.iter().sum::<u64>() as f64
}

/// Whether everybody stays within its target when what is whole is handed out, the large ones first,
/// to whoever has the most room.
fn fits_plainly(capacities: &[u64], items: &[Item]) -> bool {
    let mut room: Vec<u64> = capacities.iter().map(|capacity| scale(*capacity, OVERFLOW_PERMILLE)).collect();
    let mut whole: Vec<u64> = items.iter().filter(|item| item.whole).map(|item| item.demand).collect();
    whole.sort_unstable();
    let handed_out = whole.iter().rev().all(|demand| {
        let most = room.iter_mut().max().unwrap();
        let fits = demand <= most;
        *most = most.saturating_sub(*demand);
        fits
    });
    let divisible: u64 = items.iter().filter(|item| !item.whole).map(|item| item.demand).sum();
    handed_out && divisible <= room.iter().sum()
}

proptest! {
    #[test]
    fn every_division_is_the_cheapest_within_its_limits((capacities, mut items) in worlds(), free in 0usize..9) {
        items.iter_mut().for_each(|item| item.whole = false);
        let mut limited: Vec<Option<u64>> = capacities.iter().copied().map(Some).collect();
        if let Some(capacity) = limited.get_mut(free) {
            *capacity = None;
        }
        check(&limited, &items, &assign(&limited, &items));
    }

    /// Whatever is whole, however large, and whoever serves it today: if everything fits when it is
    /// handed out in the plainest way, nobody gets more than it can take.
    #[test]
    fn demand_that_fits_overloads_nobody(
        (capacities, mut items) in worlds(),
        load in 0.05f64..0.85,
        kept in prop::collection::vec(0usize..9, 40),
    ) {
        let scale = load / utilisation(&capacities, &items).max(1e-9);
        for (item, kept) in items.iter_mut().zip(kept) {
            item.demand = (item.demand as f64 * scale * 1000.0) as u64;
            item.kept = (kept < capacities.len()).then_some(kept as u32);
        }
        let capacities: Vec<u64> = capacities.iter().map(|capacity| capacity * 1000).collect();
        prop_assume!(fits_plainly(&capacities, &items));
        let limited: Vec<Option<u64>> = capacities.iter().copied().map(Some).collect();
        let plan = assign(&limited, &items);
        for (load, capacity) in plan.load.iter().zip(&capacities) {
            prop_assert!(load <= capacity, "{load} of {capacity}: {plan:?}");
        }
    }

    /// What is served today, and lies within the dead band, is not moved for want of room.
    #[test]
    fn who_is_within_the_band_keeps_what_it_serves((capacities, mut items) in worlds(), load in 0.5f64..0.85) {
        let scale = load / utilisation(&capacities, &items).max(1e-9);
        for item in &mut items {
            item.demand = (item.demand as f64 * scale * 1000.0) as u64;
            item.whole = false;
        }
        let limited: Vec<Option<u64>> = capacities.iter().map(|capacity| Some(capacity * 1000)).collect();
        let plan = assign(&limited, &items);
        // All grow by as much as the band is wide, and lean on where they are.
        let grown = |item: &Item, replica: u32, amount: u64| {
            let mut costs = item.costs.clone();
            costs[replica as usize] -= 1;
            let best = (0..costs.len()).min_by_key(|at| costs[*at]).unwrap() as u32;
            Item { demand: amount * 107 / 100, costs, best, whole: false, kept: Some(replica) }
        };
        let again: Vec<Item> = items
            .iter()
            .zip(&plan.shares)
            .flat_map(|(item, shares)| shares.iter().map(|(replica, amount)| grown(item, *replica, *amount)))
            .collect();
        let second = assign(&limited, &again);
        for (item, shares) in again.iter().zip(&second.shares).filter(|(item, _)| item.demand > 0) {
            prop_assert_eq!(shares, &BTreeMap::from([(item.kept.unwrap(), item.demand)]));
        }
    }

    #[test]
    fn overload_is_shared_within_a_step((capacities, mut items) in worlds(), load in 1.0f64..9.0) {
        let scale = load / utilisation(&capacities, &items).max(1e-9);
        for item in &mut items {
            item.demand = (item.demand as f64 * scale * 1000.0) as u64;
            item.whole = false;
        }
        prop_assume!(items.iter().any(|item| item.demand > 0));
        let limited: Vec<Option<u64>> = capacities.iter().map(|capacity| Some(capacity * 1000)).collect();
        let plan = assign(&limited, &items);
        check(&limited, &items, &plan);
        let worst = plan.load.iter().zip(&capacities).map(|(load, c)| *load as f64 / (*c as f64 * 1000.0));
        let worst = worst.fold(0.0, f64::max);
        prop_assert!(worst <= utilisation(&capacities, &items) / 1000.0 * 1.5 + 0.001, "{worst} at {load}");
    }

    #[test]
    fn pouring_loses_little_and_overfills_only_when_nothing_else_is_left(
        amount in 0u64..1_000_000,
        weights in prop::collection::vec((1u64..1000, prop::option::of(0u64..500_000)), 1..9),
    ) {
        let poured = pour(amount, &weights);
        let sum: u64 = poured.iter().sum();
        prop_assert!(sum <= amount && amount - sum <= weights.len() as u64, "{poured:?} of {amount}");
        let room = weights.iter().map(|(_, room)| room.unwrap_or(u64::MAX / 16)).sum::<u64>();
        if room > amount + weights.len() as u64 {
            for (poured, (_, room)) in poured.iter().zip(&weights) {
                prop_assert!(room.is_none_or(|room| *poured <= room), "{poured:?}");
            }
        }
    }
}

fn whole(demand: u64, costs: &[u32]) -> Item {
    Item { whole: true, ..item(demand, costs) }
}

#[test]
fn a_prefix_that_nobody_has_room_for_is_divided_by_as_much_as_is_too_much() {
    let items = [whole(1500, &[5, 9, 90]), whole(300, &[9, 5, 90])];
    let plan = assign(&[Some(1000), Some(1000), Some(1000)], &items);
    assert!(plan.load.iter().all(|load| *load <= 965), "{:?}", plan.load);
    assert!(plan.shares[0].len() > 1, "{:?}", plan.shares);
    assert_eq!(plan.shares[0].values().sum::<u64>(), 1500);
    assert_eq!(plan.shares[1], BTreeMap::from([(1, 300)]), "what fits stays whole");
}

/// What all items cost where they are.
fn cost_of(items: &[Item], plan: &Plan) -> u128 {
    let of = |(item, shares): (&Item, &BTreeMap<u32, u64>)| -> u128 {
        shares.iter().map(|(at, amount)| u128::from(item.costs[*at as usize]) * u128::from(*amount)).sum()
    };
    items.iter().zip(&plan.shares).map(of).sum()
}

#[test]
fn two_that_are_in_each_others_place_change_places() {
    // Neither has room for both, and each prefix sits where the other would be better off.
    let items = [whole(700, &[10, 50]), whole(600, &[40, 10])];
    let mut plan = assign(&[Some(1000), Some(1000)], &items);
    assert_eq!(plan.shares, [BTreeMap::from([(0, 700)]), BTreeMap::from([(1, 600)])]);
    plan.shares = vec![BTreeMap::from([(1, 700)]), BTreeMap::from([(0, 600)])];
    plan.load = vec![600, 700];
    whole::polish(&items, &mut plan, vec![850, 850]);
    assert_eq!(plan.shares, [BTreeMap::from([(0, 700)]), BTreeMap::from([(1, 600)])]);
    assert_eq!(plan.load, [700, 600]);
}

proptest! {
    #[test]
    fn polishing_costs_nobody_his_room_and_all_together_nothing(
        items in prop::collection::vec((1u64..400, prop::collection::vec(1u32..100, 4), any::<bool>()), 1..40),
        places in prop::collection::vec(0usize..4, 40),
    ) {
        let items: Vec<Item> =
            items.iter().map(|(demand, costs, whole)| Item { whole: *whole, ..item(*demand, costs) }).collect();
        let mut plan = Plan { load: vec![0; 4], ..Plan::default() };
        for (item, at) in items.iter().zip(places) {
            plan.shares.push(BTreeMap::from([(at as u32, item.demand)]));
            plan.load[at] += item.demand;
        }
        let before = plan.clone();
        whole::polish(&items, &mut plan, vec![1200; 4]);
        let mut load = vec![0; 4];
        for (item, shares) in items.iter().zip(&plan.shares) {
            prop_assert_eq!(shares.values().sum::<u64>(), item.demand);
            prop_assert!(!item.whole || shares.len() == 1, "{:?}", shares);
            shares.iter().for_each(|(at, amount)| load[*at as usize] += amount);
        }
        prop_assert_eq!(&load, &plan.load);
        for (now, before) in load.iter().zip(&before.load) {
            prop_assert!(*now <= 1200.max(*before), "{} after {}", now, before);
        }
        prop_assert!(cost_of(&items, &plan) <= cost_of(&items, &before));
    }
}
