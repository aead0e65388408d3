//! The compiled form: for one set of replicas, every address to its answer.
//!
//! An *answer* is what a client is told: for each address family, the best replica and those that
//! are materially as good (at most [`PICKS_MAX`] together, the best first). Clients of one place
//! that nothing was observed of share an answer; an observed prefix has its own. Where nothing is
//! known at all, clients are divided among the replicas by their /24 or /48 (see `split`), and a scope
//! is never wider than that prefix. So are those of a place whose demand is too much for one replica
//! (see `division`).
//!
//! A run's value is a number: of an answer, or with [`SPLIT`] set of a split. Answers are numbered
//! densely, so that whoever encodes them beforehand keeps an array ([`Table::choose`]).

use crate::decisions::{Because, Decisions};
use crate::division::{Division, Weighted};
use crate::estimate::{Client, Estimate, Estimator, Source};
use crate::explore;
use crate::geo::{GeoDb, Place, PlaceId, Point};
use crate::grounds::{Ground, Grounds};
use crate::index::Indexed;
use crate::inputs::Inputs;
use crate::observe::Observed;
use crate::range::{Bits, Ranges};
use crate::rules::{self, RuleId};
use crate::split::{Share, Split, client_number, mix, pairs, score};
use godwit_core::geo::Coordinates;
use godwit_core::key::MemberId;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

/// At most so many addresses are told to a client: what a rule may list for a region. Eight fill a
/// reply of 160 octets over IPv4; more do not help a client that tries one after the other.
pub const PICKS_MAX: usize = 8;
/// Of replicas that were ranked so many are told at most: enough to fail over without asking again,
/// few enough for a small reply.
const EQUALS_MAX: usize = 3;
/// Clients without a known place are told apart by so many leading bits.
pub(crate) const CLIENT_V4_LEN: u8 = 24;
/// See [`CLIENT_V4_LEN`].
pub(crate) const CLIENT_V6_LEN: u8 = 48;
/// The number of [`Ground::Hash`].
const HASH: u32 = 0;
/// Marks a value that is not an answer's number but a split's.
const SPLIT: u32 = 1 << 31;

/// What is known of clients, shared by all tables of a generation.
#[derive(Debug)]
pub(crate) struct Knowledge {
    pub(crate) geo: GeoDb,
    pub(crate) estimator: Estimator,
    pub(crate) observed: Observed,
    /// The lots of those that explore, drawn when first needed and kept for the epoch: there are a
    /// million.
    lots: Arc<OnceLock<Ranges<u32, Option<u8>>>>,
    /// One number for each member, for hashing.
    seeds: Vec<u64>,
}

/// Clients that get one answer: those of a place, or of an observed prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Locality {
    Place(Coordinates),
    Prefix(IpNet),
    /// Those under a rule.
    Rule(RuleId),
    /// Nothing is known: by client prefix.
    Unknown(IpNet),
}

/// One replica in a ranking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) member: u32,
    pub(crate) estimate: Estimate,
}

/// Members by number, best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Picks {
    members: [u32; PICKS_MAX],
    len: u8,
}

/// What a client is told, by address family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Told {
    pub(crate) v4: Picks,
    pub(crate) v6: Picks,
}

/// One set of replicas, compiled.
#[derive(Debug)]
pub(crate) struct Table {
    members: Vec<u32>,
    answers: Vec<Told>,
    splits: Vec<Split>,
    v4: Indexed<u32, u32>,
    v6: Indexed<u128, u32>,
    /// The value of each locality. Sorted.
    told: Vec<(Locality, u32)>,
    grounds: Grounds,
    decisions: Decisions,
}

/// Which members can be reached over which family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// That of an address.
    pub(crate) fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    pub(crate) fn serves(self, inputs: &Inputs, member: u32) -> bool {
        let member = &inputs.members[member as usize];
        match self {
            Family::V4 => member.public_v4.is_some(),
            Family::V6 => member.public_v6.is_some(),
        }
    }
}

/// The prefix by which a client without a known place is told apart.
pub(crate) fn client_prefix(client: IpAddr) -> IpNet {
    IpNet::new_assert(client, client_len(client)).trunc()
}

fn client_len(client: IpAddr) -> u8 {
    if client.is_ipv4() { CLIENT_V4_LEN } else { CLIENT_V6_LEN }
}

impl Picks {
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.members[..usize::from(self.len)].iter().copied()
    }

    pub(crate) fn of(member: Option<u32>) -> Picks {
        Picks::equals(member.as_slice())
    }

    /// The first of these, as many as are told.
    pub(crate) fn equals(members: &[u32]) -> Picks {
        let mut picks = Picks::default();
        members.iter().take(EQUALS_MAX).for_each(|member| picks.push(*member));
        picks
    }

    /// All of these, as far as there is room.
    pub(crate) fn listed(members: &[u32]) -> Picks {
        let mut picks = Picks::default();
        members.iter().for_each(|member| picks.push(*member));
        picks
    }

    fn first(&self) -> Option<u32> {
        self.iter().next()
    }

    pub(crate) fn push(&mut self, member: u32) {
        if let Some(place) = self.members.get_mut(usize::from(self.len)) {
            *place = member;
            self.len += 1;
        }
    }
}

impl Told {
    /// The first for IPv4, or else for IPv6.
    pub(crate) fn first(&self) -> Option<u32> {
        self.v4.first().or(self.v6.first())
    }

    /// Where a member stands: those told for IPv4 first.
    pub(crate) fn place(&self, member: u32) -> Option<usize> {
        self.v4.iter().chain(self.v6.iter()).position(|told| told == member)
    }
}

impl Knowledge {
    /// `heavy`: prefixes that are to be localities of their own even if nothing was measured of them;
    /// `before`: what was known at the last generation, and its inputs.
    pub(crate) fn new(
        inputs: &Inputs,
        geo: &GeoDb,
        heavy: &[IpNet],
        before: Option<(&Inputs, &Knowledge)>,
    ) -> Knowledge {
        let estimator = Estimator::new(inputs);
        let mut observed = Observed::new(inputs, geo, &estimator);
        observed.set_apart(heavy);
        let seed = |id: &MemberId| id.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let seeds = inputs.members.iter().map(|member| seed(&member.id)).collect();
        let same = before.filter(|(before, _)| before.exploration == inputs.exploration);
        let lots = same.map(|(_, before)| before.lots.clone()).unwrap_or_default();
        Knowledge { geo: geo.clone(), estimator, observed, lots, seeds }
    }

    /// Whether a client is among those that explore.
    pub(crate) fn explores(&self, inputs: &Inputs, client: IpAddr) -> bool {
        inputs.exploration.is_some_and(|exploration| exploration.lot(client_prefix(client)).is_some())
    }

    /// To which locality an address belongs, and what is known of it.
    pub(crate) fn locate(&self, address: IpAddr) -> (Locality, Client) {
        let prefix = client_prefix(address);
        if self.observed.knows(&prefix) {
            return (Locality::Prefix(prefix), self.observed_client(prefix));
        }
        match self.geo.whereabouts(address) {
            Some(Place::Point(point)) => {
                (Locality::Place(point.coordinates), self.observed.at(point.coordinates))
            }
            Some(Place::Rule(rule)) => (Locality::Rule(*rule), Client::default()),
            None => (Locality::Unknown(prefix), Client::default()),
        }
    }

    fn observed_client(&self, prefix: IpNet) -> Client {
        self.observed.of(&prefix, self.geo.lookup(prefix.addr()).map(|(_, place)| place))
    }

    /// The members of a set, best first for a client: by estimated round-trip time, then those of
    /// which nothing can be said.
    pub(crate) fn order(
        &self,
        inputs: &Inputs,
        members: &[u32],
        locality: Locality,
        client: &Client,
    ) -> Vec<Candidate> {
        if let Locality::Unknown(prefix) = locality {
            return self.hashed(members, prefix);
        }
        if let Locality::Rule(_) = locality {
            let estimate = Estimate { source: Source::Rule, ..Estimate::UNKNOWN };
            let members = self.ruled(inputs, members, locality).into_iter();
            return members.map(|(_, member)| Candidate { member, estimate }).collect();
        }
        let outlook = self.estimator.outlook(client);
        let estimate = |member: &u32| Candidate { member: *member, estimate: outlook.estimate(*member) };
        let mut candidates: Vec<Candidate> = members.iter().map(estimate).collect();
        let tie = |member: u32| std::cmp::Reverse(self.score(member, locality.number()));
        candidates.sort_by_key(|c| (c.estimate.rtt_us.unwrap_or(u32::MAX), tie(c.member)));
        candidates
    }

    /// The members of a set, best first for the clients of a locality.
    pub(crate) fn order_at(&self, inputs: &Inputs, members: &[u32], locality: Locality) -> Vec<Candidate> {
        let client = match locality {
            Locality::Place(place) => self.observed.at(place),
            Locality::Prefix(prefix) => self.observed_client(prefix),
            Locality::Rule(_) | Locality::Unknown(_) => Client::default(),
        };
        self.order(inputs, members, locality, &client)
    }

    /// The members of a set in the order of the rule for a locality.
    pub(crate) fn ruled(&self, inputs: &Inputs, members: &[u32], locality: Locality) -> Vec<(usize, u32)> {
        let Locality::Rule(rule) = locality else { return Vec::new() };
        let Some(rule) = self.geo.numbered(rule) else { return Vec::new() };
        rules::order(inputs, members, rule, self.geo.default_rule())
    }

    /// Rendezvous hashing: the members by falling score, so that the loss of one moves only the
    /// clients it had. All weigh the same as long as members do not tell a capacity.
    pub(crate) fn hashed(&self, members: &[u32], prefix: IpNet) -> Vec<Candidate> {
        let mut members = members.to_vec();
        let number = Locality::Unknown(prefix).number();
        members.sort_by_key(|member| (std::cmp::Reverse(self.score(*member, number)), *member));
        members.into_iter().map(|member| Candidate { member, estimate: Estimate::UNKNOWN }).collect()
    }

    fn seed(&self, member: u32) -> u64 {
        self.seeds.get(member as usize).copied().unwrap_or(0)
    }

    fn score(&self, member: u32, number: u64) -> u64 {
        score(self.seed(member), number)
    }
}

impl Locality {
    fn number(self) -> u64 {
        match self {
            Locality::Place(place) => {
                mix((place.lat().to_bits() ^ mix(place.lon().to_bits())).rotate_left(1))
            }
            Locality::Rule(rule) => mix(rule.0.into()),
            Locality::Prefix(net) | Locality::Unknown(net) => client_number(net.addr()),
        }
    }
}

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
        let explored = inputs.exploration.filter(|_| places.iter().any(|value| !value.explored.is_empty()));
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

    pub(crate) fn members(&self) -> &[u32] {
        &self.members
    }

    /// How many runs it has, IPv4 and IPv6 together.
    pub(crate) fn runs(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// The answers of a run, each with its weight, and the widest prefix around `client` inside it.
    /// Where there are several, every client of the run has one of them.
    pub(crate) fn spread(&self, client: IpAddr) -> (Vec<(u32, u32)>, u8) {
        let (value, scope) = match client {
            IpAddr::V4(address) => self.v4.get(address.into()),
            IpAddr::V6(address) => self.v6.get(address.into()),
        };
        let split = if value & SPLIT == 0 { None } else { self.splits.get((value ^ SPLIT) as usize) };
        match split {
            Some(split) => (split.shares().iter().map(|share| (share.answer, share.weight)).collect(), scope),
            None => (vec![(value, 1)], scope),
        }
    }

    /// The number of a client's answer, and the widest prefix in which all have the same.
    pub(crate) fn choose(&self, client: IpAddr) -> (u32, u8) {
        let (value, scope) = match client {
            IpAddr::V4(address) => self.v4.get(address.into()),
            IpAddr::V6(address) => self.v6.get(address.into()),
        };
        if value & SPLIT == 0 {
            return (value, scope);
        }
        (self.resolve(value, client), scope.max(client_len(client)))
    }

    /// Why a client is told its answer.
    pub(crate) fn because(&self, client: IpAddr) -> Because {
        let ((value, _), (ground, _)) = match client {
            IpAddr::V4(address) => (self.v4.get(address.into()), self.grounds.v4.get(address.into())),
            IpAddr::V6(address) => (self.v6.get(address.into()), self.grounds.v6.get(address.into())),
        };
        let told = self.answer(if value & SPLIT == 0 { value } else { self.resolve(value, client) });
        let ground = self.grounds.grounds.get(ground as usize).copied().unwrap_or(Ground::Hash);
        ground.because(value, &told)
    }

    /// The answer of this number.
    pub(crate) fn answer(&self, number: u32) -> Told {
        self.answers.get(number as usize).copied().unwrap_or_default()
    }

    /// How many answers there are.
    pub(crate) fn answers(&self) -> u32 {
        self.answers.len() as u32
    }

    /// What a client is told, and the widest prefix in which all are told the same.
    pub(crate) fn get(&self, client: IpAddr) -> (Told, u8) {
        let (number, scope) = self.choose(client);
        (self.answer(number), scope)
    }

    /// The localities that have one answer, and what it is.
    pub(crate) fn told(&self) -> impl Iterator<Item = (Locality, Told)> + '_ {
        let plain = self.told.iter().filter(|(_, value)| value & SPLIT == 0);
        plain.map(|(locality, value)| (*locality, self.answer(*value)))
    }

    /// What a locality is told, if all its clients are told the same.
    pub(crate) fn told_at(&self, locality: Locality) -> Option<Told> {
        let at = self.told.binary_search_by_key(&locality, |(locality, _)| *locality).ok()?;
        let (_, value) = self.told[at];
        (value & SPLIT == 0).then(|| self.answer(value))
    }

    /// Why its localities are told what they are.
    pub(crate) fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    fn resolve(&self, value: u32, client: IpAddr) -> u32 {
        match self.splits.get((value ^ SPLIT) as usize) {
            Some(split) => split.choose(client_number(client)),
            None => value,
        }
    }
}

/// The keys of a numbering, by number.
fn in_order<T>(numbers: BTreeMap<T, u32>) -> Vec<T> {
    let mut items: Vec<(T, u32)> = numbers.into_iter().collect();
    items.sort_unstable_by_key(|(_, number)| *number);
    items.into_iter().map(|(item, _)| item).collect()
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
        if let Some(first) = shares.first().and_then(|(picks, _)| picks.first()) {
            let because = self.division.because(self.inputs, &order, locality, family, *first);
            let source = order.iter().find(|candidate| candidate.member == *first);
            self.decisions.count(source.map(|c| c.estimate.source), because, shares.len() > 1);
        }
        let value = self.divided(&v4, &v6);
        let ground = self.division.ground(self.inputs, &order, locality, family, value);
        let ground = self.ground(ground);
        self.told.push((locality, value));
        let candidates = match self.inputs.exploration {
            Some(_) => explore::candidates(self.inputs, &order),
            None => Vec::new(),
        };
        let first = |shares: &[(Vec<u32>, u32)]| {
            shares.first().map(|(members, _)| Picks::equals(members)).unwrap_or_default()
        };
        let usual = Told { v4: first(&v4), v6: first(&v6) };
        let explored = candidates.into_iter().filter(|member| self.division.is_roomy(*member));
        let explored: Vec<Told> = explored.map(|member| explore::told(self.inputs, member, usual)).collect();
        let explored = explored.into_iter().map(|told| self.number(told)).collect();
        Value { told: value, explored, ground }
    }

    /// The value of a run whose clients are divided among these, in each family.
    fn divided(&mut self, v4: &[(Vec<u32>, u32)], v6: &[(Vec<u32>, u32)]) -> u32 {
        self.divided_as(v4, v6, Picks::equals)
    }

    /// The same, with what `told` makes of the members of a share.
    fn divided_as(
        &mut self,
        v4: &[(Vec<u32>, u32)],
        v6: &[(Vec<u32>, u32)],
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
        self.split(shares)
    }

    fn seed_of(&self, v4: Option<u32>, v6: Option<u32>) -> u64 {
        let seeds = [v4, v6].map(|member| member.map_or(0, |member| self.knowledge.seed(member)));
        if v4 == v6 { seeds[0] } else { mix(seeds[0]) ^ seeds[1] }
    }

    /// The answer under a rule, whatever it was before: what is listed needs no steadying.
    fn rule(&mut self, rule: RuleId) -> Value {
        let order = self.knowledge.ruled(self.inputs, &self.members, Locality::Rule(rule));
        let [v4, v6] = rules::tell(self.inputs, &order, self.knowledge.geo.at_most());
        Value::same(self.divided_as(&v4, &v6, Picks::listed))
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
        self.divided(&v4, &v6)
    }

    /// The value of a run whose clients are divided by `shares`.
    fn split(&mut self, shares: Vec<Share>) -> u32 {
        match (Split::new(shares), self.splits.len() as u32) {
            (None, _) => self.number(Told::default()),
            (Some(split), _) if split.len() == 1 => split.choose(0),
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

    /// What those with this lot get.
    fn drawn(&self, lot: Option<u8>) -> u32 {
        lot.and_then(|lot| self.explored.get(usize::from(lot))).copied().unwrap_or(self.told)
    }
}

/// A block of addresses with its own answer.
pub(crate) struct Block<B> {
    low: B,
    high: B,
    answer: u32,
}

impl<B: Bits> Block<B> {
    pub(crate) fn new(address: B, len: u8, answer: u32) -> Block<B> {
        let (low, high) = address.block(len);
        Block { low, high, answer }
    }
}

/// Lays `blocks` (ascending, disjoint) over the runs of `base`.
pub(crate) fn overlay<B: Bits, V: Copy + PartialEq>(
    base: &Ranges<B, V>,
    value: impl Fn(V) -> u32,
    blocks: &[Block<B>],
) -> Ranges<B, u32> {
    let mut runs = base.runs().peekable();
    let mut out: Option<Ranges<B, u32>> = None;
    let mut blocks = blocks.iter().peekable();
    // Below `free` everything is laid; `None` when the highest address is.
    let mut free = Some(B::ZERO);
    let push = |start: B, value: u32, out: &mut Option<Ranges<B, u32>>| match out {
        Some(out) => out.push(start, value),
        None => *out = Some(Ranges::builder(value)),
    };
    let lowest = base.runs().next().map(|(_, lowest)| lowest);
    while let Some((start, at)) = runs.next() {
        let after = runs.peek().map(|(next, _)| *next);
        let answer = value(at);
        let Some(mut cursor) = free.map(|free| free.max(start)) else { break };
        let inside = |address: B| after.is_none_or(|after| address < after);
        while let Some(block) = blocks.next_if(|block| inside(block.low)) {
            if block.low > cursor {
                push(cursor, answer, &mut out);
            }
            push(block.low, block.answer, &mut out);
            free = block.high.next();
            match free {
                Some(next) => cursor = next,
                None => break,
            }
        }
        if free.is_some() && inside(cursor) {
            push(cursor, answer, &mut out);
        }
    }
    out.unwrap_or_else(|| Ranges::all(lowest.map_or(0, value)))
}
