//! What clients ask for, gathered from all members: by prefix, then by locality.
//!
//! The rates that members tell are added up by prefix. What a member served beyond the prefixes that
//! it named (the tail of its clients) is laid over the places of those it named, up to [`TAIL_MAX`] times
//! what these ask for; the rest counts as unknown clients'. So the total is right, whoever is named. Each
//! prefix named brings its place as much of the tail as any other: where many are named there are many,
//! while one that is busy says nothing about its neighbours.
//!
//! Who serves most of a locality today is its *incumbent*: the choice leans on it (see `division`).
//! That is a past that all redirectors have heard of alike, unlike their own.

use crate::explore::Exploration;
use crate::inputs::{DemandInput, Inputs};
use crate::knowledge::Knowledge;
use crate::locality::{Family, Locality, client_prefix};
use godwit_core::geo::Coordinates;
use godwit_core::key::MemberId;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

/// At most so much of a member's unnamed clients is taken to be like its named ones.
const TAIL_MAX: u64 = 7;
/// A member's word counts for at most so many times the capacity that it claims: more it cannot have
/// served.
const CLAIM_MAX: u64 = 2;
/// A prefix with more than this share of the smallest capacity is a locality of its own: hashing
/// divides a place evenly only when no prefix in it weighs much.
const HEAVY_SHARE: u64 = 128;
/// At most so many such prefixes, the heaviest.
const HEAVY_MAX: usize = 2048;

/// Rates by who serves them, thousandths of a request per second.
pub(crate) type Rates = BTreeMap<u32, u64>;

/// What clients ask for, by prefix.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    prefixes: BTreeMap<IpNet, Rates>,
    /// What others like them ask for that are not named.
    tails: BTreeMap<IpNet, Rates>,
    /// What comes from nobody knows where, by the family of most named clients (IPv4 when none is).
    rest: BTreeMap<Family, Rates>,
    heavy: Vec<IpNet>,
    /// Members that served more than is counted.
    clipped: BTreeSet<u32>,
}

/// What clients ask for, by locality. Clients of whom nothing is known are all in one.
#[derive(Debug, Default)]
pub(crate) struct Localities {
    pub(crate) known: BTreeMap<(Locality, Family), Rates>,
    pub(crate) unknown: BTreeMap<Family, Rates>,
    /// Members of whose clients more is asked than is known: they cannot be left as they are.
    pub(crate) clipped: BTreeSet<u32>,
    /// What each place asks for, those of its prefixes that are localities of their own included.
    pub(crate) places: BTreeMap<Coordinates, Rates>,
    /// What named prefixes ask for by the lots that they have drawn, where clients explore.
    pub(crate) lots: BTreeMap<(Locality, Family, Option<u8>), Rates>,
}

impl Asked {
    /// From what certified members tell, numbered as they stand in `inputs`.
    pub(crate) fn new(inputs: &Inputs) -> Asked {
        let numbers: BTreeMap<MemberId, u32> =
            inputs.members.iter().zip(0..).filter(|(m, _)| m.certified).map(|(m, i)| (m.id, i)).collect();
        let mut asked = Asked::default();
        let mut heard: BTreeMap<u32, &DemandInput> = BTreeMap::new();
        for demand in &inputs.demands {
            if let Some(member) = numbers.get(&demand.member) {
                heard.entry(*member).or_insert(demand);
            }
        }
        for (member, demand) in heard {
            let capacity = inputs.members[member as usize].capacity.rps;
            asked.add(member, demand, capacity.map(|rps| u64::from(rps) * 1000));
        }
        let capacities = inputs.members.iter().filter(|m| m.certified).filter_map(|m| m.capacity.rps);
        if let Some(smallest) = capacities.min() {
            asked.find_heavy(u64::from(smallest) * 1000 / HEAVY_SHARE);
        }
        asked
    }

    fn add(&mut self, member: u32, demand: &DemandInput, capacity: Option<u64>) {
        let whole = |prefix: &IpNet| *prefix == client_prefix(prefix.addr());
        let named: Vec<(IpNet, u64)> = demand
            .prefixes
            .iter()
            .filter(|(prefix, rate)| whole(prefix) && *rate > 0)
            .map(|(prefix, rate)| (*prefix, u64::from(*rate)))
            .collect();
        let sum: u64 = named.iter().map(|(_, rate)| rate).sum();
        let most = capacity.map_or(u64::MAX, |capacity| capacity.saturating_mul(CLAIM_MAX));
        let total = demand.total_mrps.max(sum).min(most);
        if demand.total_mrps.max(sum) > most {
            self.clipped.insert(member);
        }
        let spread = total.min(sum.saturating_mul(1 + TAIL_MAX));
        let stated = sum.min(total);
        let mut tail = spread - stated;
        for ((prefix, rate), left) in named.iter().zip((1..=named.len() as u64).rev()) {
            let rate = (u128::from(*rate) * u128::from(stated) / u128::from(sum.max(1))) as u64;
            *self.prefixes.entry(*prefix).or_default().entry(member).or_default() += rate;
            let part = tail / left;
            tail -= part;
            if part > 0 {
                *self.tails.entry(*prefix).or_default().entry(member).or_default() += part;
            }
        }
        if total > spread {
            let v6 = named.iter().filter(|(prefix, _)| matches!(prefix, IpNet::V6(_))).count();
            let family = if v6 * 2 > named.len() { Family::V6 } else { Family::V4 };
            *self.rest.entry(family).or_default().entry(member).or_default() += total - spread;
        }
    }

    fn find_heavy(&mut self, above: u64) {
        let rate = |rates: &Rates| rates.values().sum::<u64>();
        let mut heavy: Vec<(u64, IpNet)> =
            self.prefixes.iter().map(|(prefix, rates)| (rate(rates), *prefix)).collect();
        heavy.retain(|(rate, _)| *rate > above);
        heavy.sort_by_key(|(rate, prefix)| (std::cmp::Reverse(*rate), *prefix));
        heavy.truncate(HEAVY_MAX);
        self.heavy = heavy.into_iter().map(|(_, prefix)| prefix).collect();
    }

    /// The prefixes that are localities of their own for what they ask for. None where nobody has a
    /// capacity.
    pub(crate) fn heavy(&self) -> &[IpNet] {
        &self.heavy
    }

    /// The same by locality.
    pub(crate) fn localities(&self, knowledge: &Knowledge, exploration: Option<Exploration>) -> Localities {
        let mut localities =
            Localities { unknown: self.rest.clone(), clipped: self.clipped.clone(), ..Localities::default() };
        let named: Vec<_> = (self.prefixes.iter())
            .map(|(prefix, rates)| (prefix, knowledge.locate(prefix.addr()).0, rates))
            .collect();
        if let Some(exploration) = exploration {
            for (prefix, locality, rates) in &named {
                let drawn = (*locality, Family::of(prefix.addr()), exploration.lot(**prefix));
                add(localities.lots.entry(drawn).or_default(), rates);
            }
        }
        let tails = self.tails.iter().map(|(prefix, rates)| (prefix, knowledge.around(*prefix), rates));
        for (prefix, locality, rates) in named.into_iter().chain(tails) {
            let family = Family::of(prefix.addr());
            if let Some((_, place)) = knowledge.geo.lookup(prefix.addr()) {
                add(localities.places.entry(place).or_default(), rates);
            }
            let sum = match locality {
                Locality::Unknown(_) => localities.unknown.entry(family).or_default(),
                known => localities.known.entry((known, family)).or_default(),
            };
            add(sum, rates);
        }
        localities
    }
}

fn add(sum: &mut Rates, rates: &Rates) {
    rates.iter().for_each(|(member, rate)| *sum.entry(*member).or_default() += rate);
}

/// Who serves more than half of this.
pub(crate) fn incumbent(rates: &Rates) -> Option<u32> {
    let sum: u64 = rates.values().sum();
    rates.iter().find(|(_, rate)| **rate > sum / 2).map(|(member, _)| *member)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geo::GeoDb;
    use crate::inputs::tests::{inputs, node};

    fn told(member: &crate::MemberInput, total: u64, rates: &[(&str, u32)]) -> DemandInput {
        let prefixes = rates.iter().map(|(prefix, rate)| (prefix.parse().unwrap(), *rate)).collect();
        DemandInput { member: member.id, total_mrps: total, prefixes, sites: Vec::new() }
    }

    #[test]
    fn rates_add_up_and_the_tail_is_laid_over_those_named() {
        let members = vec![node(1, 0.0, 0.0), node(2, 0.0, 10.0), node(3, 0.0, 20.0)];
        let mut inputs = inputs(members);
        inputs.demands = vec![
            told(&inputs.members[0], 2000, &[("192.0.2.0/24", 300), ("198.51.100.0/24", 700)]),
            told(&inputs.members[1], 100, &[("192.0.2.0/24", 100)]),
            told(&inputs.members[2], 5000, &[]),
        ];
        let asked = Asked::new(&inputs);
        let [near, far]: [IpNet; 2] = ["192.0.2.0/24", "198.51.100.0/24"].map(|net| net.parse().unwrap());
        assert_eq!(asked.prefixes[&near], Rates::from([(0, 300), (1, 100)]));
        assert_eq!(asked.prefixes[&far], Rates::from([(0, 700)]));
        assert_eq!([&asked.tails[&near], &asked.tails[&far]], [&Rates::from([(0, 500)]); 2]);
        assert_eq!(asked.rest[&Family::V4], Rates::from([(2, 5000)]));
        let place = godwit_core::geo::Coordinates::new(1.0, 2.0).unwrap();
        let geo = GeoDb::from_networks([("192.0.0.0/16".parse().unwrap(), place)]);
        let localities = asked.localities(&Knowledge::new(&inputs, &geo, &[], None), None);
        assert_eq!(
            localities.known,
            BTreeMap::from([((Locality::Place(place), Family::V4), Rates::from([(0, 800), (1, 100)]))])
        );
        assert_eq!(localities.unknown[&Family::V4], Rates::from([(0, 1200), (2, 5000)]));
    }

    #[test]
    fn a_member_cannot_speak_for_more_than_it_can_serve_nor_for_wide_prefixes_nor_uncertified() {
        let mut inputs = inputs(vec![node(1, 0.0, 0.0), node(2, 0.0, 10.0)]);
        inputs.members[0].capacity.rps = Some(10);
        inputs.members[1].certified = false;
        inputs.demands = vec![
            told(&inputs.members[0], u64::MAX, &[("192.0.2.0/24", u32::MAX), ("10.0.0.0/8", 7)]),
            told(&inputs.members[0], 7, &[("198.51.100.0/24", 7)]),
            told(&inputs.members[1], 100, &[("192.0.2.0/24", 100)]),
        ];
        let asked = Asked::new(&inputs);
        assert_eq!(asked.prefixes.len(), 1);
        assert_eq!(asked.prefixes[&"192.0.2.0/24".parse().unwrap()], Rates::from([(0, 20_000)]));
        assert_eq!(asked.heavy(), ["192.0.2.0/24".parse::<IpNet>().unwrap()]);
    }

    #[test]
    fn the_incumbent_serves_more_than_half() {
        assert_eq!(incumbent(&Rates::from([(1, 49), (2, 51)])), Some(2));
        assert_eq!(incumbent(&Rates::from([(1, 50), (2, 50)])), None);
        assert_eq!(incumbent(&Rates::new()), None);
    }
}
