//! How a table is made: the value of every place and every observed prefix, laid over each other.

use super::{SPLIT, Table};
use crate::decisions::Decisions;
use crate::division::{Division, Weighted};
use crate::estimate::Client;
use crate::explore;
use crate::geo::{Place, PlaceId, Point};
use crate::grounds::{Ground, Grounds};
use crate::index::Indexed;
use crate::inputs::Inputs;
use crate::knowledge::Knowledge;
use crate::locality::{Family, Locality};
use crate::overlay::{Block, overlay};
use crate::rules::{self, RuleId};
use crate::split::{Grain, Share, Split, mix, pairs};
use crate::told::{Picks, Told};
use godwit_core::geo::Coordinates;
use ipnet::IpNet;
use std::collections::BTreeMap;

/// The number of [`Ground::Hash`].
const HASH: u32 = 0;

impl Table {
    /// Compiles the table of `members`, which has this number in `division`.
    pub(crate) fn compile(
        inputs: &Inputs,
        knowledge: &Knowledge,
        members: Vec<u32>,
        division: (&Division, usize),
    ) -> Table {
        let mut compiler = Compiler {
            inputs,
            knowledge,
            members,
            division: division.0,
            table: division.1,
            decisions: Decisions::default(),
            numbers: BTreeMap::new(),
            splits: BTreeMap::new(),
            grounds: BTreeMap::from([(Ground::Hash, HASH)]),
            unknown: 0,
            told: Vec::new(),
        };
        compiler.unknown = compiler.unknown_split();
        let unknown = compiler.unknown;
        let places: Vec<Value> = knowledge
            .geo
            .whole()
            .iter()
            .map(|place| match place {
                Place::Point(Point { coordinates, .. }) => compiler.place(*coordinates),
                Place::Rule(rule) => Value { ground: compiler.ground(Ground::Rule), ..compiler.rule(*rule) },
            })
            .collect();
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        let (mut grounds_v4, mut grounds_v6) = (Vec::new(), Vec::new());
        for prefix in knowledge.observed.prefixes() {
            let (answer, ground) = compiler.prefix(prefix);
            match prefix {
                IpNet::V4(net) => {
                    let block = |value| Block::new(u32::from(net.network()), net.prefix_len(), value);
                    v4.push(block(answer));
                    grounds_v4.push(block(ground));
                }
                IpNet::V6(net) => {
                    let block = |value| Block::new(u128::from(net.network()), net.prefix_len(), value);
                    v6.push(block(answer));
                    grounds_v6.push(block(ground));
                }
            }
        }
        let unknown_place = Value::same(unknown);
        let value = |place: PlaceId| places.get(place.index()).unwrap_or(&unknown_place);
        let told = |place: PlaceId| value(place).told;
        let drawn = |place: PlaceId, lot: Option<u8>| value(place).drawn(lot);
        let explored = inputs.exploration.filter(|_| places.iter().any(Value::is_explored));
        let v4 = match explored.map(|exploration| knowledge.lots.get_or_init(|| exploration.lots())) {
            Some(lots) => overlay(&knowledge.geo.v4().combine(lots, drawn), |value| value, &v4),
            None => overlay(knowledge.geo.v4(), told, &v4),
        };
        let (v4, v6) = (Indexed::new(v4), Indexed::new(overlay(knowledge.geo.v6(), told, &v6)));
        let ground = |place: PlaceId| value(place).ground;
        let grounds_v4 = Indexed::new(overlay(knowledge.geo.v4(), ground, &grounds_v4));
        let grounds_v6 = Indexed::new(overlay(knowledge.geo.v6(), ground, &grounds_v6));
        let Compiler { members, numbers, splits, grounds, mut told, decisions, .. } = compiler;
        let grounds = Grounds { grounds: in_order(grounds), v4: grounds_v4, v6: grounds_v6 };
        told.sort_unstable();
        let (answers, splits) = (in_order(numbers), in_order(splits));
        Table { members, answers, splits, v4, v6, told, grounds, decisions }
    }
}

struct Compiler<'a> {
    inputs: &'a Inputs,
    knowledge: &'a Knowledge,
    members: Vec<u32>,
    division: &'a Division,
    table: usize,
    decisions: Decisions,
    numbers: BTreeMap<Told, u32>,
    splits: BTreeMap<Split, u32>,
    grounds: BTreeMap<Ground, u32>,
    unknown: u32,
    told: Vec<(Locality, u32)>,
}

impl Compiler<'_> {
    fn place(&mut self, place: Coordinates) -> Value {
        self.locality(Locality::Place(place), &self.knowledge.observed.at(place))
    }

    /// The value of an observed prefix: what it explores, if it does, counts for this generation
    /// only.
    fn prefix(&mut self, prefix: IpNet) -> (u32, u32) {
        let value = self.locality(Locality::Prefix(prefix), &self.knowledge.observed_client(prefix));
        let lot = self.inputs.exploration.and_then(|exploration| exploration.lot(prefix));
        (value.drawn(lot), value.ground)
    }

    fn locality(&mut self, locality: Locality, client: &Client) -> Value {
        let order = self.knowledge.order(self.inputs, &self.members, locality, client);
        if order.iter().all(|candidate| candidate.estimate.rtt_us.is_none()) {
            // Its place is known but no replica's is: as good as unknown.
            self.decisions.hashed += 1;
            return Value::same(self.unknown);
        }
        let divide = |family| self.division.divide(self.inputs, self.table, &order, locality, family);
        let (v4, v6) = (divide(Family::V4), divide(Family::V6));
        let (family, shares) = if v4.is_empty() { (Family::V6, &v6) } else { (Family::V4, &v4) };
        let favourites = self.division.favourites(self.inputs, &order, locality, family);
        if let Some(first) = shares.first().and_then(|(picks, _)| picks.first()) {
            let source = order.iter().find(|candidate| candidate.member == *first);
            self.decisions.count(
                source.map(|c| c.estimate.source),
                favourites.because(*first),
                shares.len() > 1,
            );
        }
        let grain = self.division.grain(self.table, locality, family);
        let value = self.divided(&v4, &v6, grain);
        let ground = self.ground(Ground::Ranked { usual: value, favourites });
        self.told.push((locality, value));
        let candidates = match self.inputs.exploration {
            Some(_) => explore::candidates(self.inputs, &order),
            None => Vec::new(),
        };
        let first = |shares: &[(Vec<u32>, u32)]| {
            shares.first().map(|(members, _)| Picks::equals(members)).unwrap_or_default()
        };
        let usual = Told { v4: first(&v4), v6: first(&v6) };
        let explored = candidates.into_iter().map(|trial| {
            // Who may not try it does not try another instead: that one has explorers of its own.
            let may = self.division.may_explore(self.table, locality, trial.member);
            if may { self.number(explore::told(self.inputs, trial.member, usual)) } else { value }
        });
        let explored = explored.collect();
        Value { told: value, explored, ground }
    }

    /// The value of a run whose clients are divided among these, in each family.
    fn divided(&mut self, v4: &[(Vec<u32>, u32)], v6: &[(Vec<u32>, u32)], grain: Grain) -> u32 {
        self.divided_as(v4, v6, grain, Picks::equals)
    }

    /// The same, with what `told` makes of the members of a share.
    fn divided_as(
        &mut self,
        v4: &[(Vec<u32>, u32)],
        v6: &[(Vec<u32>, u32)],
        grain: Grain,
        told: fn(&[u32]) -> Picks,
    ) -> u32 {
        let picks = |shares: &[(Vec<u32>, u32)], first: Option<u32>| {
            let share = shares.iter().find(|(picks, _)| first.is_some() && picks.first().copied() == first);
            share.map(|(members, _)| told(members)).unwrap_or_default()
        };
        let firsts = |shares: &[(Vec<u32>, u32)]| -> Weighted {
            shares.iter().filter_map(|(picks, weight)| Some((*picks.first()?, *weight))).collect()
        };
        let shares = pairs(&firsts(v4), &firsts(v6))
            .into_iter()
            .map(|(first_v4, first_v6, weight)| {
                let told = Told { v4: picks(v4, first_v4), v6: picks(v6, first_v6) };
                Share { answer: self.number(told), weight, seed: self.seed_of(first_v4, first_v6) }
            })
            .collect();
        self.split(shares, grain)
    }

    fn seed_of(&self, v4: Option<u32>, v6: Option<u32>) -> u64 {
        let seeds = [v4, v6].map(|member| member.map_or(0, |member| self.knowledge.seed(member)));
        if v4 == v6 { seeds[0] } else { mix(seeds[0]) ^ seeds[1] }
    }

    /// The answer under a rule, whatever it was before: what is listed needs no steadying.
    fn rule(&mut self, rule: RuleId) -> Value {
        let order = self.knowledge.ruled(self.inputs, &self.members, Locality::Rule(rule));
        let [v4, v6] = rules::tell(self.inputs, &order, self.knowledge.geo.at_most());
        Value::same(self.divided_as(&v4, &v6, Grain::Prefix, Picks::listed))
    }

    fn ground(&mut self, ground: Ground) -> u32 {
        let next = self.grounds.len() as u32;
        *self.grounds.entry(ground).or_insert(next)
    }

    /// All members, each with its part of the clients. With one there is nothing to choose, and its
    /// answer holds for everybody.
    fn unknown_split(&mut self) -> u32 {
        let alone = |family| -> Vec<(Vec<u32>, u32)> {
            let weighted = self.division.unknown(self.table, family);
            weighted.into_iter().map(|(member, weight)| (vec![member], weight)).collect()
        };
        let (v4, v6) = (alone(Family::V4), alone(Family::V6));
        self.divided(&v4, &v6, Grain::Prefix)
    }

    /// The value of a run whose clients are divided by `shares`.
    fn split(&mut self, shares: Vec<Share>, grain: Grain) -> u32 {
        match (Split::new(shares, grain), self.splits.len() as u32) {
            (None, _) => self.number(Told::default()),
            (Some(split), _) if split.shares().len() == 1 => split.shares()[0].answer,
            (Some(split), next) => SPLIT | *self.splits.entry(split).or_insert(next),
        }
    }

    fn number(&mut self, told: Told) -> u32 {
        let next = self.numbers.len() as u32;
        *self.numbers.entry(told).or_insert(next)
    }
}

/// What the clients of a locality get.
struct Value {
    /// Most of them.
    told: u32,
    /// Those that explore: answers by lot.
    explored: Vec<u32>,
    /// The number of what decides.
    ground: u32,
}

impl Value {
    /// The same for all, by hash.
    fn same(told: u32) -> Value {
        Value { told, explored: Vec::new(), ground: HASH }
    }

    /// Whether some of them explore.
    fn is_explored(&self) -> bool {
        self.explored.iter().any(|explored| *explored != self.told)
    }

    /// What those with this lot get.
    fn drawn(&self, lot: Option<u8>) -> u32 {
        lot.and_then(|lot| self.explored.get(usize::from(lot))).copied().unwrap_or(self.told)
    }
}

/// The keys of a numbering, by number.
fn in_order<T>(numbers: BTreeMap<T, u32>) -> Vec<T> {
    let mut items: Vec<(T, u32)> = numbers.into_iter().collect();
    items.sort_unstable_by_key(|(_, number)| *number);
    items.into_iter().map(|(item, _)| item).collect()
}
