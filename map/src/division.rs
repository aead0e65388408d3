//! Who serves whom when capacities count: demand by locality, divided by `spill`, for all tables at
//! once, since a member's capacity is one, however many sites it serves.
//!
//! What comes of it for a table ([`Division::divide`]): for a locality whose demand is known, its
//! replica, or several with weights; for all others the replica of the least *effective cost*: the
//! estimated round-trip time, plus the price of room there, less a lean on the incumbent (it keeps
//! its clients unless another is materially better). Without capacities all prices are zero.
//!
//! Clients of whom nothing is known have no cost anywhere. They take what room the others leave, in
//! proportion to capacity and the operator's weights.
//!
//! Everything here follows from the inputs: what was told before by this host plays no part.

use crate::asked::{Localities, Rates, incumbent};
use crate::grounds::Favourites;
use crate::inputs::{Inputs, MemberInput};
use crate::knowledge::{Candidate, Knowledge};
use crate::locality::{Family, Locality};
use crate::spill::{Item, NEVER, Plan, assign, pour, scale};
use crate::split::Grain;
use godwit_core::geo::Coordinates;
use godwit_core::name::SiteName;
use ipnet::IpNet;
use std::collections::BTreeMap;

/// A replica that nothing is known of costs this much: more than any that something is known of.
const NOWHERE_US: u32 = 2_000_000;
/// At most so many localities are divided one by one, those with the most demand. The others stay
/// with the replica that they would have without limits, and take up room there.
const ITEMS_MAX: usize = 16_384;
/// Weights of a divided locality are whole parts of this many: finer ones would move clients with
/// every breath of demand.
pub(crate) const PARTS: u64 = 64;
/// The sum of the weights of clients of whom nothing is known, at most: pairs of families multiply.
const WEIGHTS_MAX: u64 = 1 << 15;
/// A replica that is filled further than this, of its limit, is told to nobody as the second best:
/// some clients take any address they are told.
const SECOND_PERMILLE: u64 = 750;

/// Members with weights.
pub(crate) type Weighted = Vec<(u32, u32)>;

/// Who serves whom, for all tables of a generation.
#[derive(Debug, Default)]
pub(crate) struct Division {
    /// By member. Empty where nobody has a capacity.
    plan: Plan,
    capacities: Vec<Option<u64>>,
    tables: Vec<Divided>,
    /// Who serves most of each locality, over both families.
    leans: BTreeMap<Locality, u32>,
    /// Prefixes of which something was measured, and where they are.
    places: BTreeMap<IpNet, Coordinates>,
    /// What each locality asks for, all sites together.
    demand: BTreeMap<Locality, u64>,
}

/// What is planned for one table.
#[derive(Debug, Default)]
struct Divided {
    shares: BTreeMap<(Locality, Family), Weighted>,
    unknown: BTreeMap<Family, Weighted>,
}

/// A replica for clients of one family: its cost, the lean taken into account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) member: u32,
    /// Estimated round-trip time, µs, at least that of those ranked before it; less the lean.
    pub(crate) cost_us: u32,
    /// By so much it and the best differ from one moment to the next, µs: no reason to move anybody.
    noise_us: u32,
}

/// Where items of the plan come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Known(usize, Locality, Family),
    Unknown(usize, Family),
}

/// Clients that ask for something, before they are made items of the plan.
struct Asking {
    origin: Origin,
    demand: u64,
    costs: Vec<Cost>,
    /// Who serves them today.
    kept: Rates,
}

impl Division {
    /// Divides what `asked` holds among the members of `tables`; `table_of` says which sites stand in
    /// which table.
    pub(crate) fn new(
        inputs: &Inputs,
        knowledge: &Knowledge,
        tables: &[Vec<u32>],
        table_of: &BTreeMap<SiteName, u32>,
        asked: &Localities,
    ) -> Division {
        let milli = |member: &MemberInput| member.capacity.rps.map(|rps| u64::from(rps) * 1000);
        let mut both: BTreeMap<Locality, Rates> = BTreeMap::new();
        for ((locality, _), rates) in &asked.known {
            let sum = both.entry(*locality).or_default();
            rates.iter().for_each(|(member, rate)| *sum.entry(*member).or_default() += rate);
        }
        let mut division = Division {
            capacities: inputs.members.iter().map(milli).collect(),
            tables: tables.iter().map(|_| Divided::default()).collect(),
            leans: both.iter().filter_map(|(at, rates)| Some((*at, incumbent(rates)?))).collect(),
            demand: both.iter().map(|(at, rates)| (*at, rates.values().sum())).collect(),
            plan: Plan::default(),
            places: knowledge.observed.placed().collect(),
        };
        // Who serves most of a place keeps also those of it of whom nobody tells who serves them.
        let places: BTreeMap<Coordinates, u32> =
            asked.places.iter().filter_map(|(place, rates)| Some((*place, incumbent(rates)?))).collect();
        for (place, member) in &places {
            division.leans.entry(Locality::Place(*place)).or_insert(*member);
        }
        for (prefix, place) in &division.places {
            let Some(member) = places.get(place) else { continue };
            let locality = Locality::Prefix(*prefix);
            if !both.contains_key(&locality) {
                division.leans.insert(locality, *member);
            }
        }
        for (table, members) in tables.iter().enumerate() {
            for family in [Family::V4, Family::V6] {
                let weights = base_weights(inputs, &serving(inputs, members, family));
                division.tables[table].unknown.insert(family, normal(&weights));
            }
        }
        if division.capacities.iter().any(Option::is_some) {
            let shares = shares_of_tables(inputs, tables.len(), table_of);
            division.plan(inputs, knowledge, tables, asked, &shares);
        }
        division
    }

    fn plan(
        &mut self,
        inputs: &Inputs,
        knowledge: &Knowledge,
        tables: &[Vec<u32>],
        asked: &Localities,
        shares: &[Vec<u64>],
    ) {
        let mut asking: Vec<Asking> = Vec::new();
        let mut unknown: BTreeMap<(usize, Family), u64> = BTreeMap::new();
        for (table, members) in tables.iter().enumerate() {
            for ((locality, family), rates) in &asked.known {
                let mut kept = rates_of(rates, &shares[table]);
                let demand = kept.values().sum();
                kept.retain(|member, _| !asked.clipped.contains(member));
                if demand == 0 {
                    continue;
                }
                if matches!(locality, Locality::Rule(_)) {
                    // Its operator has said where they go.
                    continue;
                }
                let order = knowledge.order_at(inputs, members, *locality);
                if order.iter().all(|candidate| candidate.estimate.rtt_us.is_none()) {
                    *unknown.entry((table, *family)).or_default() += demand;
                    continue;
                }
                let costs = costs_of(inputs, &order, *family);
                asking.push(Asking { origin: Origin::Known(table, *locality, *family), demand, costs, kept });
            }
            for (family, rates) in &asked.unknown {
                let demand: u64 = rates_of(rates, &shares[table]).values().sum();
                *unknown.entry((table, *family)).or_default() += demand;
            }
        }
        let background = background(&mut asking);
        for ((table, family), demand) in unknown.into_iter().filter(|(_, demand)| *demand > 0) {
            let anywhere = serving(inputs, &tables[table], family).into_iter();
            let costs = anywhere.map(|member| Cost { member, cost_us: 0, noise_us: 0 }).collect();
            let origin = Origin::Unknown(table, family);
            asking.push(Asking { origin, demand, costs, kept: Rates::new() });
        }
        let count = inputs.members.len();
        let items: Vec<(Origin, Item)> = asking
            .iter()
            .flat_map(|asking| asking.items(count).into_iter().map(|item| (asking.origin, item)))
            .collect();
        let background = |member: usize| background.get(&(member as u32)).copied().unwrap_or(0);
        let rooms: Vec<Option<u64>> = self
            .capacities
            .iter()
            .enumerate()
            .map(|(member, capacity)| {
                capacity.map(|capacity| capacity.saturating_sub(background(member)).max(1))
            })
            .collect();
        let (origins, items): (Vec<Origin>, Vec<Item>) = items.into_iter().unzip();
        self.plan = assign(&rooms, &items);
        // Items of one origin stand together.
        let mut at = 0;
        while let Some(origin) = origins.get(at) {
            let count = origins[at..].iter().take_while(|other| *other == origin).count();
            if let Origin::Known(table, locality, family) = origin {
                let mut share = Rates::new();
                for (member, amount) in self.plan.shares[at..at + count].iter().flatten() {
                    *share.entry(*member).or_default() += amount;
                }
                self.tables[*table].shares.insert((*locality, *family), in_parts(&share));
            }
            at += count;
        }
        self.pour_unknown(inputs, tables, &rooms, &origins, &items);
        for (member, load) in self.plan.load.iter_mut().enumerate() {
            *load += background(member);
        }
    }

    /// Divides those of whom nothing is known anew: the plan has found room for them all, but with no
    /// cost anywhere it did not care where.
    fn pour_unknown(
        &mut self,
        inputs: &Inputs,
        tables: &[Vec<u32>],
        rooms: &[Option<u64>],
        origins: &[Origin],
        items: &[Item],
    ) {
        for (origin, share) in origins.iter().zip(&self.plan.shares) {
            if let Origin::Unknown(..) = origin {
                share.iter().for_each(|(member, amount)| self.plan.load[*member as usize] -= amount);
            }
        }
        for (origin, item) in origins.iter().zip(items) {
            let Origin::Unknown(table, family) = origin else { continue };
            let weights = base_weights(inputs, &serving(inputs, &tables[*table], *family));
            let room = |member: u32| {
                let member = member as usize;
                let limit = |room: u64| scale(room, self.plan.fill[member]);
                rooms[member].map(|room| limit(room).saturating_sub(self.plan.load[member]))
            };
            let within: Vec<(u64, Option<u64>)> =
                weights.iter().map(|(member, weight)| (*weight, room(*member))).collect();
            let poured = pour(item.demand, &within);
            let free: Vec<(u64, Option<u64>)> = weights.iter().map(|(_, weight)| (*weight, None)).collect();
            // Only when room does bind are the weights others than the operator's.
            if poured != pour(item.demand, &free) {
                let share = weights.iter().zip(&poured).map(|((member, _), amount)| (*member, *amount));
                self.tables[*table].unknown.insert(*family, in_parts(&share.collect()));
            }
            for ((member, _), amount) in weights.iter().zip(poured) {
                self.plan.load[*member as usize] += amount;
            }
        }
    }

    /// What replicas cost the clients of a locality, in the order of `order`, less the lean.
    fn costs(&self, inputs: &Inputs, order: &[Candidate], locality: Locality, family: Family) -> Vec<Cost> {
        let lean = self.leans.get(&locality).copied();
        costs_of(inputs, order, family).into_iter().map(|cost| cost.leant(lean)).collect()
    }

    /// Who serves the clients of a locality, with weights, and for each the others that are
    /// materially as good: first the best.
    pub(crate) fn divide(
        &self,
        inputs: &Inputs,
        table: usize,
        order: &[Candidate],
        locality: Locality,
        family: Family,
    ) -> Vec<(Vec<u32>, u32)> {
        let costs = self.costs(inputs, order, locality, family);
        let planned = self.planned(table, locality, family);
        let price = |member: u32| self.price(member);
        let effective = |cost: &Cost| cost.cost_us.saturating_add(price(cost.member));
        let Some(best) = costs.iter().min_by_key(|cost| effective(cost)) else { return Vec::new() };
        // Where nothing is known of anybody, nobody is known to be as good.
        let blind = order.iter().all(|candidate| candidate.estimate.rtt_us.is_none());
        let least = effective(best);
        let suits = |(member, _): &(u32, u32)| {
            let cost = costs.iter().find(|cost| cost.member == *member);
            cost.is_some_and(|cost| !crate::estimate::materially_better(least, effective(cost)))
        };
        let of_place = || self.of_place(table, locality, family).filter(|shares| shares.iter().all(suits));
        let firsts = match planned.or_else(of_place) {
            Some(planned) => planned.clone(),
            None => vec![(best.member, 1)],
        };
        let equals = |first: u32| -> Vec<u32> {
            if let (Locality::Prefix(_), Some(_), true) = (locality, planned, firsts.len() > 1) {
                // They share one prefix: who cannot be told apart is told of all of them.
                return firsts.iter().map(|(other, _)| *other).filter(|other| *other != first).collect();
            }
            let others = costs.iter().filter(move |cost| cost.member != first);
            let others = others.filter(|cost| !crate::estimate::materially_better(least, effective(cost)));
            others.filter(|cost| !blind && self.is_roomy(cost.member)).map(|cost| cost.member).collect()
        };
        firsts
            .iter()
            .map(|(first, weight)| ([*first].into_iter().chain(equals(*first)).collect(), *weight))
            .collect()
    }

    /// What is planned for clients of whom it is known what they ask for.
    fn planned(&self, table: usize, locality: Locality, family: Family) -> Option<&Weighted> {
        self.tables.get(table)?.shares.get(&(locality, family))
    }

    /// A prefix of which nobody tells what it asks for goes with the others of its place, where these are
    /// divided: so its place is divided as planned.
    fn of_place(&self, table: usize, locality: Locality, family: Family) -> Option<&Weighted> {
        let Locality::Prefix(prefix) = locality else { return None };
        let place = Locality::Place(*self.places.get(&prefix)?);
        self.planned(table, place, family).filter(|shares| shares.len() > 1)
    }

    /// By what the clients of a locality are told apart where they are divided.
    pub(crate) fn grain(&self, table: usize, locality: Locality, family: Family) -> Grain {
        match (locality, self.planned(table, locality, family)) {
            (Locality::Prefix(_), Some(_)) => Grain::Address,
            _ => Grain::Prefix,
        }
    }

    /// Who of `order` has reasons to be told first to the clients of a locality.
    pub(crate) fn favourites(
        &self,
        inputs: &Inputs,
        order: &[Candidate],
        locality: Locality,
        family: Family,
    ) -> Favourites {
        let nearest = order.iter().find(|candidate| family.serves(inputs, candidate.member));
        let nearest = nearest.map(|nearest| nearest.member);
        let keeper = nearest.filter(|nearest| self.price(*nearest) == 0);
        let keeper = keeper.and_then(|_| self.leans.get(&locality).copied());
        Favourites { nearest, keeper }
    }

    /// Members and their weights for clients of whom nothing is known.
    pub(crate) fn unknown(&self, table: usize, family: Family) -> Weighted {
        self.tables.get(table).and_then(|table| table.unknown.get(&family)).cloned().unwrap_or_default()
    }

    /// What room for one more client would cost at a member, µs; 0 while there is some.
    pub(crate) fn price(&self, member: u32) -> u32 {
        self.plan.prices.get(member as usize).copied().unwrap_or(0)
    }

    /// What a member gets of the demand, thousandths of its capacity; `None` where it has none.
    pub(crate) fn load_permille(&self, member: u32) -> Option<u32> {
        let capacity = (*self.capacities.get(member as usize)?)?;
        let load = self.plan.load.get(member as usize).copied().unwrap_or(0);
        u32::try_from(u128::from(load) * 1000 / u128::from(capacity.max(1))).ok()
    }

    /// Whether a member gets more than it can take, because nobody has room.
    pub(crate) fn is_beyond(&self, member: u32) -> bool {
        self.plan.fill.get(member as usize).is_some_and(|fill| *fill > 1000)
    }

    /// Whether there is so much room at a member that it may be told to those who do not need it.
    pub(crate) fn is_roomy(&self, member: u32) -> bool {
        let limit = self.plan.fill.get(member as usize).copied().unwrap_or(u64::MAX);
        let load = self.load_permille(member).map_or(0, u64::from);
        self.price(member) == 0 && load * 1000 <= limit.saturating_mul(SECOND_PERMILLE)
    }

    /// What a locality asks for, thousandths of a request per second, and who serves most of it.
    pub(crate) fn asked(&self, locality: Locality) -> (u64, Option<u32>) {
        (self.demand.get(&locality).copied().unwrap_or(0), self.leans.get(&locality).copied())
    }
}

/// What replicas cost, in the order of `order`.
fn costs_of(inputs: &Inputs, order: &[Candidate], family: Family) -> Vec<Cost> {
    let best = order.first().map_or(0, |best| best.estimate.deviation_us);
    let mut least = 0;
    let serving = order.iter().filter(|candidate| family.serves(inputs, candidate.member));
    serving
        .map(|candidate| {
            // Beyond the short list estimates are hopes: they are not better than the list.
            least = candidate.estimate.rtt_us.unwrap_or(NOWHERE_US).clamp(least, NOWHERE_US.max(least));
            let noise_us = f64::from(best).hypot(f64::from(candidate.estimate.deviation_us)) as u32;
            Cost { member: candidate.member, cost_us: least, noise_us }
        })
        .collect()
}

impl Cost {
    /// Less, if it is the incumbent's.
    fn leant(self, incumbent: Option<u32>) -> Cost {
        if incumbent != Some(self.member) {
            return self;
        }
        // Nobody is moved for a difference that moments make.
        let cost_us = leant(self.cost_us).min(self.cost_us.saturating_sub(self.noise_us));
        Cost { cost_us, ..self }
    }
}

impl Asking {
    /// The items of the plan: one, or, where clients can be divided, one for each part of them that
    /// some member serves today.
    fn items(&self, members: usize) -> Vec<Item> {
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

/// The highest cost at which a replica that takes over is not materially better than one of cost
/// `rtt`, and a little less, so that of equals the incumbent stays.
fn leant(rtt: u32) -> u32 {
    let tenth = (u64::from(rtt) * 10).div_ceil(11) as u32;
    tenth.min(rtt.saturating_sub(2000)).saturating_sub(1)
}

fn serving(inputs: &Inputs, members: &[u32], family: Family) -> Vec<u32> {
    members.iter().copied().filter(|member| family.serves(inputs, *member)).collect()
}

/// Capacity times the operator's weight. Who tells no capacity weighs as much as those who do on
/// average.
fn base_weights(inputs: &Inputs, members: &[u32]) -> Vec<(u32, u64)> {
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
fn normal(weights: &[(u32, u64)]) -> Weighted {
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
fn in_parts(share: &BTreeMap<u32, u64>) -> Weighted {
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

/// Keeps the [`ITEMS_MAX`] with the most demand; what the others take up, by member.
fn background(asking: &mut Vec<Asking>) -> Rates {
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

/// For each table, how much of what each member serves is for its sites, parts of [`SHARE_ONE`].
fn shares_of_tables(inputs: &Inputs, tables: usize, table_of: &BTreeMap<SiteName, u32>) -> Vec<Vec<u64>> {
    let mut sites = vec![0u64; tables];
    table_of.values().for_each(|table| sites[*table as usize] += 1);
    let by_count = |table: usize| sites[table] * SHARE_ONE / (table_of.len() as u64).max(1);
    let mut shares: Vec<Vec<u64>> =
        (0..tables).map(|table| vec![by_count(table); inputs.members.len()]).collect();
    for (member, input) in inputs.members.iter().enumerate() {
        let Some(demand) = inputs.demands.iter().find(|demand| demand.member == input.id) else { continue };
        let mut rates = vec![0u64; tables];
        for (site, rate) in &demand.sites {
            if let Some(table) = table_of.get(site) {
                rates[*table as usize] += u64::from(*rate);
            }
        }
        let sum: u64 = rates.iter().sum();
        if sum > 0 {
            let share = |rate: u64| (u128::from(rate) * u128::from(SHARE_ONE) / u128::from(sum)) as u64;
            shares.iter_mut().zip(&rates).for_each(|(shares, rate)| shares[member] = share(*rate));
        }
    }
    shares
}

const SHARE_ONE: u64 = 1 << 20;

/// The part of these rates that is for a table's sites.
fn rates_of(rates: &Rates, shares: &[u64]) -> Rates {
    let part = |member: u32, rate: u64| {
        (u128::from(rate) * u128::from(shares[member as usize]) / u128::from(SHARE_ONE)) as u64
    };
    rates.iter().map(|(member, rate)| (*member, part(*member, *rate))).collect()
}
