//! Overflow before overload: demand is divided among replicas at the least round-trip time, so that
//! nobody gets more than it can take.
//!
//! This is the transportation problem. *Items* (the clients of a locality) have a demand and a cost
//! for each replica; replicas have a limit. It is solved exactly, by shortest augmenting paths:
//!
//! 1. every item goes to its cheapest replica;
//! 2. from a replica beyond its limit the cheapest chain of moves is sought that ends at one with
//!    room (*a* to Madrid, so that *b* moves on from Madrid to Lisbon), and as much as possible goes
//!    along it; until nobody is beyond its limit.
//!
//! Moving an item from replica *j* to *k* costs `cost(k) - cost(j)`; of each pair of replicas only
//! the cheapest item matters, which a heap finds, so a search is one of Dijkstra's over the
//! replicas and not over the items. It keeps a *price* for each replica: what it would cost, in
//! round-trip time, to make room there for one more. A replica with room costs nothing. Prices make
//! the searches short, prove the result (no division is cheaper: see the tests), and say
//! where clients go that are in no item: to the least sum of round-trip time and price.
//!
//! A *target* is [`OVERFLOW_PERMILLE`] of the capacity. Where demand does not fit, the targets of
//! exactly those replicas that it could go to are raised by steps, all by the same one: so they share
//! what is too much in proportion to their capacity, and replicas elsewhere are not drawn in.
//!
//! # Rest
//!
//! Above the target lies a *dead band*, up to [`band`]. A replica that serves so much today keeps it,
//! and takes in nothing more; beyond the band it gives away as much as brings it back to the middle of
//! it. So demand can waver by the width of the band, and nobody is moved. What is served today is an
//! input ([`Item::kept`]), which all redirectors have heard alike: there is no other past in the
//! result. Items that cannot be divided are dealt with in `whole`.

use crate::whole;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// Replicas are filled to so much of their capacity, thousandths, while others have room: what is
/// left takes in the growth of demand until it is told (some ten seconds), prefixes that go as a
/// whole, and the unevenness of hashing.
pub(crate) const OVERFLOW_PERMILLE: u64 = 850;
/// To what targets are raised where that is not enough. Steps, so that small changes of demand
/// change nothing; small ones where every per cent counts.
const LEVELS: [u64; 19] = [
    870, 890, 910, 930, 950, 970, 1000, 1050, 1125, 1250, 1500, 1750, 2000, 2500, 3000, 4000, 6000, 8000,
    10_000,
];
/// The width of the dead band, thousandths of the capacity…
const BAND: u64 = 70;
/// …which does not reach beyond this, or the target where that is higher: rates are told within an
/// eighth, and the errors of many add up to a few per cent.
pub(crate) const BAND_TOP: u64 = 965;
/// A raised target is at least so much higher than the demand, thousandths: with none to spare, clients
/// would have to go wherever the last room is.
const CHOICE: u64 = 20;
/// After so many raises of targets all are lifted.
const RAISES_MAX: usize = 64;
/// In an item's costs: it cannot go there.
pub(crate) const NEVER: u32 = u32::MAX;

/// Clients that are divided among replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// How much they ask for.
    pub(crate) demand: u64,
    /// What each replica costs them, or [`NEVER`].
    pub(crate) costs: Vec<u32>,
    /// The replica that is preferred: one of the least cost.
    pub(crate) best: u32,
    /// Whether they go to one replica as a whole: clients of one prefix cannot be told apart.
    pub(crate) whole: bool,
    /// Who serves them today.
    pub(crate) kept: Option<u32>,
}

/// Who gets what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// For each item, replicas and how much of its demand goes to each.
    pub(crate) shares: Vec<BTreeMap<u32, u64>>,
    /// For each replica, what room for one more would cost.
    pub(crate) prices: Vec<u32>,
    /// For each replica, to how much of its capacity it may be filled, thousandths; the highest
    /// number: without limit.
    pub(crate) fill: Vec<u64>,
    /// For each replica, the demand it gets.
    pub(crate) load: Vec<u64>,
    /// For each replica, what it may get.
    pub(crate) limits: Vec<u64>,
}

/// Divides `items` among replicas with these capacities (`None`: no limit).
pub(crate) fn assign(capacities: &[Option<u64>], items: &[Item]) -> Plan {
    let items = &whole::possible(capacities, items)[..];
    let mut held = vec![0; capacities.len()];
    for item in items {
        let kept = item.kept.filter(|kept| item.costs[*kept as usize] != NEVER);
        kept.into_iter().for_each(|kept| held[kept as usize] += item.demand);
    }
    let mut fill = vec![OVERFLOW_PERMILLE; capacities.len()];
    for raise in 0.. {
        let limits = (0..fill.len()).map(|at| limit(capacities[at], fill[at], held[at])).collect();
        let mut flow = Flow::new(limits, items);
        match flow.solve() {
            Ok(()) => return flow.plan(capacities, fill),
            Err(Stuck(replicas)) if raise < RAISES_MAX => {
                let level = flow.level(capacities, &fill, &replicas);
                replicas.iter().for_each(|replica| fill[*replica] = fill[*replica].max(level));
            }
            // So many separate shortages: better an uneven answer than none.
            Err(Stuck(_)) => fill.iter_mut().for_each(|fill| *fill = u64::MAX),
        }
    }
    unreachable!("with limits raised to the utmost everything fits");
}

/// The upper end of the dead band above a target, thousandths of the capacity.
pub(crate) fn band(fill: u64) -> u64 {
    if fill <= 1000 { (fill + BAND).min(BAND_TOP).max(fill) } else { fill.saturating_add(fill / 20) }
}

/// What a replica may get that serves `held` today.
fn limit(capacity: Option<u64>, fill: u64, held: u64) -> u64 {
    let Some(capacity) = capacity.filter(|_| fill < u64::MAX) else { return u64::MAX };
    let (target, top) = (scale(capacity, fill), scale(capacity, band(fill)));
    if held > top { target.midpoint(top) } else { held.max(target) }
}

/// These replicas are at their limits, and nothing of theirs can go to any other.
struct Stuck(BTreeSet<usize>);

struct Flow<'a> {
    items: &'a [Item],
    limits: Vec<u64>,
    shares: Vec<BTreeMap<u32, u64>>,
    load: Vec<u64>,
    prices: Vec<i64>,
    /// For each replica that a search has come by: for each other one, its items by what it costs
    /// to move them there. Items that have left are dropped when they come up.
    moves: Vec<Option<Vec<Moves>>>,
}

type Moves = BinaryHeap<Reverse<(i64, usize)>>;

/// A step of a chain: `item` moves.
#[derive(Clone, Copy)]
struct Step {
    from: usize,
    to: usize,
    item: usize,
}

impl<'a> Flow<'a> {
    fn new(limits: Vec<u64>, items: &'a [Item]) -> Flow<'a> {
        let count = limits.len();
        let mut flow = Flow {
            items,
            limits,
            shares: vec![BTreeMap::new(); items.len()],
            load: vec![0; count],
            prices: vec![0; count],
            moves: vec![None; count],
        };
        for (index, item) in items.iter().enumerate().filter(|(_, item)| item.demand > 0) {
            flow.put(index, item.best as usize, item.demand);
        }
        flow
    }

    fn solve(&mut self) -> Result<(), Stuck> {
        while let Some(over) =
            (0..self.load.len()).find(|replica| self.load[*replica] > self.limits[*replica])
        {
            let chain = self.search(over)?;
            self.push(over, &chain);
        }
        Ok(())
    }

    /// The cheapest chain of moves from a replica to one with room.
    fn search(&mut self, over: usize) -> Result<Vec<Step>, Stuck> {
        let count = self.load.len();
        let mut distance = vec![i64::MAX; count];
        let mut by: Vec<Option<Step>> = vec![None; count];
        let mut settled: Vec<usize> = Vec::new();
        let mut open = vec![true; count];
        distance[over] = 0;
        loop {
            let next = (0..count).filter(|replica| open[*replica] && distance[*replica] < i64::MAX);
            let Some(at) = next.min_by_key(|replica| distance[*replica]) else {
                return Err(Stuck(settled.into_iter().collect()));
            };
            if self.load[at] < self.limits[at] {
                settled.iter().for_each(|replica| self.prices[*replica] += distance[at] - distance[*replica]);
                let mut chain: Vec<Step> = Vec::new();
                let mut step = by[at];
                while let Some(last) = step {
                    chain.push(last);
                    step = by[last.from];
                }
                return Ok(chain);
            }
            open[at] = false;
            settled.push(at);
            for to in (0..count).filter(|to| open[*to]) {
                let Some((cost, item)) = self.cheapest(at, to) else { continue };
                let through = distance[at] + cost - self.prices[at] + self.prices[to];
                if through < distance[to] {
                    distance[to] = through;
                    by[to] = Some(Step { from: at, to, item });
                }
            }
        }
    }

    /// The item that is the cheapest to move from one replica to another.
    fn cheapest(&mut self, from: usize, to: usize) -> Option<(i64, usize)> {
        if self.moves[from].is_none() {
            self.moves[from] = Some(vec![Moves::new(); self.load.len()]);
            for item in 0..self.items.len() {
                if self.shares[item].contains_key(&(from as u32)) {
                    self.offer(item, from);
                }
            }
        }
        let heap = &mut self.moves[from].as_mut()?[to];
        while let Some(Reverse((cost, item))) = heap.peek() {
            if self.shares[*item].contains_key(&(from as u32)) {
                return Some((*cost, *item));
            }
            heap.pop();
        }
        None
    }

    /// Notes what it costs to move an item from where it is to anywhere else.
    fn offer(&mut self, item: usize, from: usize) {
        let Some(moves) = &mut self.moves[from] else { return };
        let costs = &self.items[item].costs;
        for (to, cost) in costs.iter().enumerate().filter(|(to, cost)| *to != from && **cost != NEVER) {
            moves[to].push(Reverse((i64::from(*cost) - i64::from(costs[from]), item)));
        }
    }

    /// Moves along a chain, given from its end, as much as goes.
    fn push(&mut self, over: usize, chain: &[Step]) {
        let Some(end) = chain.first().map(|step| step.to) else { return };
        let held = |step: &Step| self.shares[step.item].get(&(step.from as u32)).copied().unwrap_or(0);
        let room = (self.limits[end] - self.load[end]).min(self.load[over] - self.limits[over]);
        let amount = chain.iter().map(held).min().unwrap_or(0).min(room);
        for step in chain {
            self.take(step.item, step.from, amount);
            self.put(step.item, step.to, amount);
        }
    }

    fn put(&mut self, item: usize, replica: usize, amount: u64) {
        self.load[replica] += amount;
        let share = self.shares[item].entry(replica as u32).or_insert(0);
        *share += amount;
        if *share == amount {
            self.offer(item, replica);
        }
    }

    fn take(&mut self, item: usize, replica: usize, amount: u64) {
        self.load[replica] -= amount;
        if let Some(share) = self.shares[item].get_mut(&(replica as u32)) {
            *share -= amount;
            if *share == 0 {
                self.shares[item].remove(&(replica as u32));
            }
        }
    }

    /// The level that `replicas` need to take in what is theirs together.
    fn level(&self, capacities: &[Option<u64>], fill: &[u64], replicas: &BTreeSet<usize>) -> u64 {
        let load: u128 = replicas.iter().map(|replica| u128::from(self.load[*replica])).sum();
        let capacity: u128 = replicas.iter().filter_map(|replica| capacities[*replica]).map(u128::from).sum();
        // Limits are rounded down: what has not sufficed does not suffice again.
        let above = replicas.iter().map(|replica| u128::from(fill[*replica]) + 1).min().unwrap_or(0);
        let needed = (load * 1000).div_ceil(capacity.max(1)).max(above);
        let spare = |level: u64| if level < 1000 { u128::from(CHOICE) } else { 0 };
        let level = LEVELS.iter().find(|level| u128::from(**level) >= needed + spare(**level));
        // Beyond the last step by whole capacities, and one more against rounding.
        level.copied().unwrap_or_else(|| u64::try_from((needed / 1000 + 2) * 1000).unwrap_or(u64::MAX))
    }

    fn plan(self, capacities: &[Option<u64>], fill: Vec<u64>) -> Plan {
        let price = |price: &i64| u32::try_from(*price).unwrap_or(NEVER);
        let prices = self.prices.iter().map(price).collect();
        let mut plan = Plan { prices, shares: self.shares, fill, load: self.load, limits: self.limits };
        whole::settle(capacities, self.items, &mut plan);
        plan
    }
}

/// So much of a capacity; the highest number of thousandths: no limit.
pub(crate) fn scale(capacity: u64, permille: u64) -> u64 {
    if permille == u64::MAX {
        return u64::MAX;
    }
    u64::try_from(u128::from(capacity) * u128::from(permille) / 1000).unwrap_or(u64::MAX)
}

/// Divides `amount` in proportion to weights, but to nobody more than its room (`None`: no limit).
/// What does not fit at all is divided in proportion to weights.
pub(crate) fn pour(amount: u64, weights: &[(u64, Option<u64>)]) -> Vec<u64> {
    let mut poured = vec![0; weights.len()];
    let mut open: Vec<usize> = (0..weights.len()).filter(|at| weights[*at].0 > 0).collect();
    let mut left = amount;
    loop {
        let sum: u128 = open.iter().map(|at| u128::from(weights[*at].0)).sum();
        let share = |at: usize| (u128::from(left) * u128::from(weights[at].0) / sum.max(1)) as u64;
        let (full, rest): (Vec<usize>, Vec<usize>) =
            open.iter().partition(|at| weights[**at].1.is_some_and(|room| room < share(**at)));
        if rest.is_empty() {
            // Nobody has room for its share of the rest: all weights again, over what they have.
            let all: u128 = weights.iter().map(|(weight, _)| u128::from(*weight)).sum();
            for (at, (weight, _)) in weights.iter().enumerate() {
                let room = if full.contains(&at) { weights[at].1.unwrap_or(0) } else { poured[at] };
                let more = left.saturating_sub(full.iter().filter_map(|at| weights[*at].1).sum());
                poured[at] = room + (u128::from(more) * u128::from(*weight) / all.max(1)) as u64;
            }
            return poured;
        }
        if full.is_empty() {
            rest.iter().for_each(|at| poured[*at] = share(*at));
            return poured;
        }
        for at in full {
            poured[at] = weights[at].1.unwrap_or(0);
            left -= poured[at];
        }
        open = rest;
    }
}

#[cfg(test)]
mod tests;
