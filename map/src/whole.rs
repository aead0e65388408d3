//! Clients that go to one replica as a whole: those of one prefix cannot be told apart.
//!
//! The division of `spill` is exact for what can be divided. It leaves a prefix between two replicas
//! at most once for each pair of them. Those are put into one place here, the large ones first, each
//! to where it fits at the least cost. Where that fills a replica beyond its dead band, it is mended:
//! by moving something to where there is room, or else by exchanging a larger prefix for a smaller
//! one; always the step that costs the least for what it relieves. First everybody is brought within
//! its band, then, where that is too much to ask, within its capacity.
//!
//! No step fills anybody beyond the bound, and every step relieves somebody, so it ends; [`STEPS_MAX`]
//! bounds it besides. A prefix that by itself asks for nearly all that a small replica can take is not
//! sent there ([`possible`]).
//!
//! Filling replicas with large prefixes is bin packing, and no promise can be made for all of it. What
//! holds: if everything fits when whole prefixes are handed out in the plainest way, the large ones
//! first, each to whoever has the most room, then nobody is overloaded. For should mending fail, they are
//! handed out like that ([`Rounding::hand_out`]), whatever it costs. Where even that fails, as when one prefix
//! asks for more than anybody has room for, the largest are divided after all ([`Rounding::divide`]). Then those who stand far off
//! are looked at again (`polish`). Otherwise they are not: with the prefixes of whole cities it gained two
//! hundredths of the mean, for ten times the moves.

mod polish;

use crate::division::PARTS;
use crate::spill::{Item, NEVER, OVERFLOW_PERMILLE, Plan, band, scale};
use std::borrow::Cow;
use std::cmp::Reverse;

/// At most so many steps for each replica.
const STEPS_MAX: usize = 16;
/// Of a replica's prefixes so many are considered for an exchange, the largest.
const EXCHANGED_MAX: usize = 64;

/// The items, without the replicas that are too small for them: rates are told within an eighth, so a
/// prefix that is told to fill the target may fill all. What is too large for everybody may go anywhere.
pub(crate) fn possible<'a>(capacities: &[Option<u64>], items: &'a [Item]) -> Cow<'a, [Item]> {
    let fits = |replica: usize, demand: u64| {
        capacities[replica].is_none_or(|capacity| demand <= scale(capacity, OVERFLOW_PERMILLE))
    };
    let Some(smallest) = capacities.iter().flatten().min() else { return Cow::Borrowed(items) };
    let large = |item: &Item| item.whole && item.demand > scale(*smallest, OVERFLOW_PERMILLE);
    if !items.iter().any(large) {
        return Cow::Borrowed(items);
    }
    let mut items = items.to_vec();
    for item in items.iter_mut().filter(|item| large(item)) {
        let left = (0..item.costs.len()).filter(|at| item.costs[*at] != NEVER && fits(*at, item.demand));
        let Some(best) = left.min_by_key(|at| item.costs[*at]) else { continue };
        for replica in (0..item.costs.len()).filter(|at| !fits(*at, item.demand)) {
            item.costs[replica] = NEVER;
        }
        if item.costs[item.best as usize] == NEVER {
            item.best = best as u32;
        }
    }
    Cow::Owned(items)
}

/// Puts the items of `plan` that are to stay whole into one place each.
pub(crate) fn settle(capacities: &[Option<u64>], items: &[Item], plan: &mut Plan) {
    let top = |(capacity, (fill, limit)): (&Option<u64>, (&u64, &u64))| match capacity {
        Some(capacity) if *fill < u64::MAX => scale(*capacity, band(*fill)).max(*limit),
        _ => u64::MAX,
    };
    let tops: Vec<u64> = capacities.iter().zip(plan.fill.iter().zip(&plan.limits)).map(top).collect();
    let utmost = |(capacity, top): (&Option<u64>, &u64)| capacity.map_or(u64::MAX, |c| c.max(*top));
    let utmost: Vec<u64> = capacities.iter().zip(&tops).map(utmost).collect();
    let mut rounding = Rounding { items, plan, bounds: tops.clone() };
    rounding.gather();
    rounding.mend();
    rounding.bounds.clone_from(&utmost);
    rounding.mend();
    if rounding.excess() == 0 {
        return;
    }
    rounding.hand_out();
    if rounding.excess() > 0 {
        rounding.bounds = tops;
        rounding.divide();
    }
    // What moves for its own good goes only where there is room below the band.
    let limits = plan.limits.iter().zip(&utmost).map(|(limit, utmost)| *limit.min(utmost)).collect();
    polish(items, plan, limits);
}

/// Puts items into better places, as far as there is room below these bounds.
pub(crate) fn polish(items: &[Item], plan: &mut Plan, bounds: Vec<u64>) {
    Rounding { items, plan, bounds }.polish();
}

struct Rounding<'a> {
    items: &'a [Item],
    plan: &'a mut Plan,
    /// What each replica may get.
    bounds: Vec<u64>,
}

/// What relieves a replica.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// What goes, how much of it, and where to.
    item: usize,
    amount: u64,
    to: usize,
    /// The item that comes back in exchange.
    back: Option<usize>,
}

impl Rounding<'_> {
    /// Puts the divided items into one place.
    fn gather(&mut self) {
        let is_divided = |item: &usize| self.items[*item].whole && self.plan.shares[*item].len() > 1;
        let mut divided: Vec<usize> = (0..self.items.len()).filter(is_divided).collect();
        divided.sort_by_key(|item| (Reverse(self.items[*item].demand), *item));
        for index in &divided {
            for (replica, amount) in std::mem::take(&mut self.plan.shares[*index]) {
                self.plan.load[replica as usize] -= amount;
            }
        }
        for index in divided {
            let item = &self.items[index];
            let cost = |replica: usize| u64::from(item.costs[replica]) + u64::from(self.plan.prices[replica]);
            let place = |replica: &usize| {
                let (after, bound) = (self.plan.load[*replica] + item.demand, self.bounds[*replica]);
                if after <= bound { (0, cost(*replica)) } else { (1, share(after, bound)) }
            };
            let possible = (0..self.plan.load.len()).filter(|replica| item.costs[*replica] != NEVER);
            if let Some(replica) = possible.min_by_key(place) {
                self.put(index, replica, item.demand);
            }
        }
    }

    /// Relieves those beyond their bounds, as far as it goes.
    fn mend(&mut self) {
        let mut left = self.plan.load.len() * STEPS_MAX;
        let mut given_up = vec![false; self.plan.load.len()];
        loop {
            let beyond = |at: &usize| self.plan.load[*at] > self.bounds[*at] && !given_up[*at];
            let worst = (0..self.plan.load.len())
                .filter(beyond)
                .max_by_key(|at| (share(self.plan.load[*at], self.bounds[*at]), Reverse(*at)));
            let Some(from) = worst.filter(|_| left > 0) else { return };
            left -= 1;
            match self.relief(from) {
                Some(step) => self.take_step(from, step),
                None => given_up[from] = true,
            }
        }
    }

    /// The step that costs the least for what it relieves.
    fn relief(&self, from: usize) -> Option<Step> {
        let here: Vec<usize> = (0..self.items.len()).filter(|item| self.held(*item, from) > 0).collect();
        let moves = here.iter().flat_map(|item| (0..self.bounds.len()).map(move |to| (*item, to)));
        let best = moves.filter_map(|(item, to)| self.moving(from, item, to)).min_by_key(|(cost, _)| *cost);
        best.or_else(|| self.exchange(from, here)).map(|(_, step)| step)
    }

    /// Moving an item, if there is room: what it costs for each unit that it relieves, in
    /// thousandths of a microsecond, and the step.
    fn moving(&self, from: usize, item: usize, to: usize) -> Option<(i128, Step)> {
        let excess = self.plan.load[from] - self.bounds[from];
        let held = self.held(item, from);
        let amount = if self.items[item].whole { held } else { held.min(excess).min(self.room(to)) };
        if to == from || amount == 0 || amount > self.room(to) {
            return None;
        }
        let cost = self.further(item, from, to)? * i128::from(amount) * 1000;
        Some((cost / i128::from(amount.min(excess)), Step { item, amount, to, back: None }))
    }

    /// The best exchange of a larger prefix for a smaller one.
    fn exchange(&self, from: usize, mut here: Vec<usize>) -> Option<(i128, Step)> {
        let excess = self.plan.load[from] - self.bounds[from];
        let demand = |item: usize| self.items[item].demand;
        here.retain(|item| self.items[*item].whole);
        here.sort_by_key(|item| (Reverse(demand(*item)), *item));
        here.truncate(EXCHANGED_MAX);
        let mut best: Option<(i128, Step)> = None;
        for to in (0..self.bounds.len()).filter(|to| *to != from) {
            let whole = |item: &usize| self.items[*item].whole && self.held(*item, to) > 0;
            let mut there: Vec<usize> = (0..self.items.len()).filter(whole).collect();
            there.sort_by_key(|item| (demand(*item), *item));
            for item in &here {
                // Of what may come back the smallest for which there is room.
                let least = demand(*item).saturating_sub(self.room(to));
                let start = there.partition_point(|back| demand(*back) < least);
                let back = there[start..].iter().find(|back| self.items[**back].costs[from] != NEVER);
                let Some(back) = back.filter(|back| demand(**back) < demand(*item)) else { continue };
                let relieved = (demand(*item) - demand(*back)).min(excess);
                let Some(away) = self.further(*item, from, to) else { continue };
                let Some(home) = self.further(*back, to, from) else { continue };
                let cost = away * i128::from(demand(*item)) + home * i128::from(demand(*back));
                let cost = cost * 1000 / i128::from(relieved);
                if best.is_none_or(|(least, _)| cost < least) {
                    best = Some((cost, Step { item: *item, amount: demand(*item), to, back: Some(*back) }));
                }
            }
        }
        best
    }

    /// What is beyond the bounds, all together.
    fn excess(&self) -> u64 {
        let beyond = |(load, bound): (&u64, &u64)| load.saturating_sub(*bound);
        self.plan.load.iter().zip(&self.bounds).map(beyond).fold(0, u64::saturating_add)
    }

    /// Divides everything anew in the plainest way, if that leaves nobody beyond the bounds. Where it
    /// does not fit anyhow, clients would be shuffled for little.
    fn hand_out(&mut self) {
        let before = (self.plan.shares.clone(), self.plan.load.clone());
        self.plan.shares.iter_mut().for_each(|shares| shares.clear());
        self.plan.load.iter_mut().for_each(|load| *load = 0);
        let mut order: Vec<usize> =
            (0..self.items.len()).filter(|item| self.items[*item].demand > 0).collect();
        order.sort_by_key(|item| (!self.items[*item].whole, Reverse(self.items[*item].demand), *item));
        for index in order {
            let Item { demand, whole, costs, .. } = &self.items[index];
            let mut left = *demand;
            while left > 0 {
                let possible = (0..costs.len()).filter(|replica| costs[*replica] != NEVER);
                // A whole prefix to the most room, what can be divided to the nearest room.
                let place = |replica: &usize| match (*whole, self.room(*replica)) {
                    (true, room) => (false, Reverse(room), 0),
                    (false, room) => (room == 0, Reverse(0), costs[*replica]),
                };
                let Some(replica) = possible.min_by_key(place) else { break };
                let room = self.room(replica);
                let amount = if *whole || room == 0 { left } else { left.min(room) };
                self.put(index, replica, amount);
                left -= amount;
            }
        }
        if self.excess() > 0 {
            (self.plan.shares, self.plan.load) = before;
        }
    }

    /// Divides prefixes of those beyond their bounds after all, the largest first: as much as is too much
    /// goes where there is room, at the least cost.
    fn divide(&mut self) {
        let mut left = self.plan.load.len() * STEPS_MAX;
        let mut given_up = vec![false; self.plan.load.len()];
        while left > 0 {
            left -= 1;
            let beyond = |at: &usize| self.plan.load[*at] > self.bounds[*at] && !given_up[*at];
            let Some(from) = (0..self.plan.load.len()).find(beyond) else { return };
            let here =
                (0..self.items.len()).filter(|item| self.items[*item].whole && self.held(*item, from) > 0);
            let Some(item) = here.max_by_key(|item| (self.held(*item, from), Reverse(*item))) else {
                given_up[from] = true;
                continue;
            };
            // Less than a part is not worth a narrower scope.
            let worth = self.items[item].demand / PARTS;
            let roomy = (0..self.bounds.len()).filter(|to| *to != from && self.room(*to) > worth);
            let Some(to) = roomy.filter_map(|to| Some((self.further(item, from, to)?, to))).min() else {
                given_up[from] = true;
                continue;
            };
            let excess = self.plan.load[from] - self.bounds[from];
            let amount = excess.max(worth + 1).min(self.room(to.1)).min(self.held(item, from));
            self.take(item, from, amount);
            self.put(item, to.1, amount);
        }
    }

    fn take_step(&mut self, from: usize, step: Step) {
        self.take(step.item, from, step.amount);
        self.put(step.item, step.to, step.amount);
        if let Some(back) = step.back {
            let demand = self.items[back].demand;
            self.take(back, step.to, demand);
            self.put(back, from, demand);
        }
    }

    /// How much further an item has to go, µs; `None` where it cannot.
    fn further(&self, item: usize, from: usize, to: usize) -> Option<i128> {
        let costs = &self.items[item].costs;
        (costs[to] != NEVER).then(|| i128::from(costs[to]) - i128::from(costs[from]))
    }

    fn room(&self, replica: usize) -> u64 {
        self.bounds[replica].saturating_sub(self.plan.load[replica])
    }

    fn held(&self, item: usize, replica: usize) -> u64 {
        self.plan.shares[item].get(&(replica as u32)).copied().unwrap_or(0)
    }

    fn put(&mut self, item: usize, replica: usize, amount: u64) {
        self.plan.load[replica] += amount;
        *self.plan.shares[item].entry(replica as u32).or_insert(0) += amount;
    }

    fn take(&mut self, item: usize, replica: usize, amount: u64) {
        self.plan.load[replica] -= amount;
        if let Some(share) = self.plan.shares[item].get_mut(&(replica as u32)) {
            *share -= amount;
            if *share == 0 {
                self.plan.shares[item].remove(&(replica as u32));
            }
        }
    }
}

/// A load in thousandths of what is allowed.
fn share(load: u64, bound: u64) -> u64 {
    u64::try_from(u128::from(load) * 1000 / u128::from(bound.max(1))).unwrap_or(u64::MAX)
}
