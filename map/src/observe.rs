//! What was measured, made fit for deciding: by prefix, and by place.
//!
//! Members tell values for whole client prefixes (/24, /48): these never overlap, and nobody can
//! speak for half the internet. Of each prefix what light forbids is settled (see `physics`). Then
//! the prefixes of a place are divided into groups that agree ([`crate::group`]), and those of a group
//! together tell how far they all are: the median, weighted by samples and age. So networks that a
//! database has in a wrong place neither speak for that place nor are left alone.
//!
//! A prefix with few or old samples leans on its group, one with many stands for itself; where times
//! differ much from moment to moment, the group counts for more.
//!
//! What probes of a *resolver* found is of its prefix as well, weighs half, and gives way to what was
//! measured on connections unless that weighs less. It stands for who is or asks there and for nobody
//! else: it never speaks for its place. A resolver that light allows for two members not to have
//! measured where the others did answers from several places at once (anycast): nothing that was
//! found of it counts, for or against anybody.

use crate::estimate::{Client, Estimator};
use crate::geo::{GeoDb, Point};
use crate::group;
use crate::inputs::Inputs;
use crate::locality::client_prefix;
use crate::physics::{self, Verdict};
use godwit_core::geo::Coordinates;
use godwit_core::key::MemberId;
use godwit_core::observation::{Age, ClientRtt};
use ipnet::IpNet;
use serde::Serialize;
use std::collections::BTreeMap;

/// So many prefixes make a place: with fewer there is no telling who strays.
const PLACE_MIN: usize = 3;
/// A member's words are judged as a whole from so many on.
const WORDS_MIN: usize = 8;
/// More moments than this tell no more.
const MOMENTS_MAX: u32 = 16;
/// Of the samples of other prefixes of a place one in so many is of a moment of its own.
const SHARED: u32 = 4;
/// The deviation of a median of n is this much, over the root of n.
const MEDIAN: f64 = 1.25;
/// How much prefixes of one place differ in truth, thousandths: where moments differ more than that, the
/// place weighs more.
const PLACE_PERMILLE: u64 = 50;
/// What a place weighs against a prefix' own samples: as two recent ones.
const PLACE_WEIGHT: u64 = 16;
/// A probe weighs as a connection, divided by this.
const PROBE_SHARE: u32 = 2;
/// From so many members on that light contradicts, a resolver that was only probed is in several
/// places.
const ANYCAST_MIN: usize = 2;

/// Round-trip times by member.
pub(crate) type Rtts = BTreeMap<u32, Measured>;

/// A measured round-trip time and what it rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) rtt_us: u32,
    /// See [`ClientRtt::weight`]; of a place, the sum.
    pub(crate) weight: u32,
    /// Connections that it was measured on; of a place, of all prefixes.
    pub(crate) samples: u32,
    /// As many of them as tell something new: prefixes of a place share their moments.
    pub(crate) telling: u32,
    /// Of the youngest sample.
    pub(crate) age: Age,
    /// How much one moment differs from another, thousandths of the time; `None` where nobody says.
    pub(crate) noise: Option<u32>,
    /// Whether light allowed no less than this: less was claimed.
    pub(crate) raised: bool,
    /// Whether a resolver was probed, rather than a client served.
    pub(crate) probed: bool,
}

/// What a measured round-trip time rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Measurement {
    /// On how many connections (or probes) it was measured; each member tells at most 8 of a prefix.
    pub samples: u32,
    /// How long ago the last of them was.
    pub age: Age,
    /// Whether light allows no less than the estimate: the member told less.
    pub raised: bool,
}

impl From<Measured> for Measurement {
    fn from(measured: Measured) -> Measurement {
        let Measured { samples, age, raised, .. } = measured;
        Measurement { samples, age, raised }
    }
}

impl Measured {
    /// What one member tells of one prefix.
    pub(crate) fn one(rtt: &ClientRtt) -> Measured {
        let (weight, samples) = (rtt.weight(), u32::from(rtt.samples.max(1)));
        let noise = rtt.noise.permille();
        let (rtt_us, age, telling) = (rtt.rtt_us, rtt.age, samples);
        Measured { rtt_us, weight, samples, telling, age, noise, raised: false, probed: false }
    }

    /// What one member found of a resolver: half the weight of a connection.
    fn probe(rtt: &ClientRtt) -> Measured {
        let served = Measured::one(rtt);
        Measured { weight: served.weight.div_ceil(PROBE_SHARE), probed: true, ..served }
    }

    /// How far the truth may be from it, one deviation, µs, where times differ by `usual` thousandths
    /// unless it is told how much. As of a median of so many moments; two samples are one.
    pub(crate) fn deviation_us(&self, usual: u32) -> u32 {
        let moments = f64::from(self.telling.clamp(2, 2 * MOMENTS_MAX)) / 2.0;
        let noise = f64::from(self.noise.unwrap_or(usual)) / 1000.0;
        (f64::from(self.rtt_us) * noise * MEDIAN / moments.sqrt()).round() as u32
    }
}

/// All that was measured.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    prefixes: BTreeMap<IpNet, Prefix>,
    /// The groups of each place; first the one that those belong to of whom nothing was measured.
    places: BTreeMap<Coordinates, Vec<Group>>,
}

#[derive(Debug, Default)]
struct Prefix {
    rtts: Rtts,
    /// Where the database has it.
    place: Option<Coordinates>,
    /// Which of its place's groups says something about it.
    group: Option<usize>,
    /// Whether it is seen not to be where the database has it.
    misplaced: bool,
}

impl Prefix {
    /// Whether all that is known of it was found by probing a resolver.
    fn is_probed(&self) -> bool {
        self.rtts.values().all(|measured| measured.probed)
    }
}

/// Prefixes of a place that agree (see [`crate::group`]).
#[derive(Debug, Default)]
struct Group {
    rtts: Rtts,
    /// Whether it is seen not to be where the database has it.
    misplaced: bool,
    prefixes: Vec<IpNet>,
}

/// What a member's words are worth.
#[derive(Debug, Default)]
struct Words {
    all: usize,
    /// Those that light forbids, or that others contradict.
    aside: usize,
}

impl Words {
    /// A member of whose words most cannot be true is not believed in the others either. A database
    /// that is wrong about one prefix in five sets as many of an honest member's aside.
    fn are_believed(&self) -> bool {
        self.all < WORDS_MIN || self.aside * 2 <= self.all
    }
}

impl Observed {
    pub(crate) fn new(inputs: &Inputs, geo: &GeoDb, estimator: &Estimator) -> Observed {
        let mut prefixes = gather(inputs);
        let mut nets: BTreeMap<Option<Coordinates>, Vec<IpNet>> = BTreeMap::new();
        for net in prefixes.keys() {
            nets.entry(geo.lookup(net.addr()).map(|(_, place)| place)).or_default().push(*net);
        }
        let mut words: BTreeMap<u32, Words> = BTreeMap::new();
        let mut places: BTreeMap<Coordinates, Vec<Group>> = BTreeMap::new();
        for (place, nets) in nets {
            let mut groups = match place {
                Some(place) => grouped(place, &nets, &prefixes, estimator),
                None => Vec::new(),
            };
            let group_of: BTreeMap<IpNet, usize> = (0..)
                .zip(&groups)
                .flat_map(|(n, group)| group.prefixes.iter().map(move |net| (*net, n)))
                .collect();
            let point = place.map(Point::new);
            for net in &nets {
                let Some(prefix) = prefixes.get_mut(net) else { continue };
                let who: Vec<u32> = prefix.rtts.keys().copied().collect();
                let probed = prefix.is_probed();
                // A resolver that was only probed founds no group: it is with the first or with none.
                let first =
                    || groups.first().filter(|group| group::accord(&group.rtts, &prefix.rtts)).map(|_| 0);
                let number = if probed { first() } else { group_of.get(net).copied() };
                (prefix.place, prefix.group) = (place, number);
                let group = number.and_then(|number| groups.get(number));
                let point = point.as_ref().filter(|_| group.is_none_or(|group| !group.misplaced));
                let witnesses = group.filter(|_| !probed).map(|group| &group.rtts);
                let (verdict, aside) = physics::settle_among(estimator, point, witnesses, &mut prefix.rtts);
                if probed && aside.len() >= ANYCAST_MIN {
                    prefix.rtts.clear();
                    continue;
                }
                who.iter().for_each(|member| words.entry(*member).or_default().all += 1);
                aside.iter().for_each(|member| words.entry(*member).or_default().aside += 1);
                if verdict == Verdict::Misplaced {
                    (prefix.group, prefix.misplaced) = (None, true);
                }
            }
            if let Some(place) = place {
                places.insert(place, std::mem::take(&mut groups));
            }
        }
        prefixes.retain(|_, prefix| !prefix.rtts.is_empty());
        let believed = |member: &u32| words.get(member).is_none_or(Words::are_believed);
        prefixes.values_mut().for_each(|prefix| prefix.rtts.retain(|member, _| believed(member)));
        for (place, groups) in &mut places {
            let point = Point::new(*place);
            for (number, group) in (0..).zip(groups) {
                let own = group.prefixes.iter().filter_map(|net| prefixes.get(net));
                let own = own.filter(|prefix| prefix.group == Some(number));
                group.rtts = medians(own.map(|prefix| &prefix.rtts));
                let point = (!group.misplaced).then_some(&point);
                physics::settle(estimator, point, &mut group.rtts);
            }
        }
        Observed { prefixes, places }
    }

    /// Has these looked at by themselves, even if nothing was measured of them.
    pub(crate) fn set_apart(&mut self, prefixes: &[IpNet]) {
        prefixes.iter().for_each(|prefix| _ = self.prefixes.entry(*prefix).or_default());
    }

    /// The prefixes, ascending.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.prefixes.keys().copied()
    }

    /// The prefixes that are where their place is, and where that is.
    pub(crate) fn placed(&self) -> impl Iterator<Item = (IpNet, Coordinates)> + '_ {
        let placed = self.prefixes.iter().filter(|(_, prefix)| prefix.group == Some(0));
        placed.filter_map(|(net, prefix)| Some((*net, prefix.place?)))
    }

    /// Whether something was measured of exactly this prefix.
    pub(crate) fn knows(&self, prefix: &IpNet) -> bool {
        self.prefixes.contains_key(prefix)
    }

    /// A client of whom nothing but its place is known.
    pub(crate) fn at(&self, place: Coordinates) -> Client {
        self.in_group(place, Some(0))
    }

    fn in_group(&self, place: Coordinates, number: Option<usize>) -> Client {
        let group = number.and_then(|number| self.places.get(&place)?.get(number));
        // Who contradicts those that speak for the place is hardly there; of two alone who can tell?
        let main = self.places.get(&place).and_then(|groups| groups.first());
        let is_known = main.is_some_and(|main| main.prefixes.len() >= PLACE_MIN);
        let stray = |group: &Group| group.misplaced || is_known && number != Some(0);
        let (nearby, stray) = group.map(|group| (group.rtts.clone(), stray(group))).unwrap_or_default();
        // What is far from a place is not near to whoever is there.
        let point = group.is_none_or(|group| !group.misplaced).then(|| Point::new(place));
        Client { point, observed: Rtts::new(), nearby, stray }
    }

    /// A client of a prefix that something was measured of.
    pub(crate) fn of(&self, prefix: &IpNet, place: Option<Coordinates>) -> Client {
        let known = self.prefixes.get(prefix).filter(|known| !known.rtts.is_empty());
        let Some(known) = known else { return place.map(|place| self.at(place)).unwrap_or_default() };
        let mut client = place.map(|place| self.in_group(place, known.group)).unwrap_or_default();
        client.stray |= place.is_some() && known.group.is_none();
        let lean = |(member, own): (&u32, &Measured)| {
            (*member, client.nearby.get(member).map_or(*own, |place| leaning(*own, *place)))
        };
        client.observed = known.rtts.iter().map(lean).collect();
        if known.misplaced {
            client.point = None;
        }
        client
    }
}

/// The groups of a place, first the one that speaks for those of whom nothing was measured: rather
/// one that two members have measured than one, rather a large one.
fn grouped(
    place: Coordinates,
    nets: &[IpNet],
    prefixes: &BTreeMap<IpNet, Prefix>,
    estimator: &Estimator,
) -> Vec<Group> {
    let of = |net: &IpNet| prefixes.get(net).filter(|prefix| !prefix.is_probed()).map(|prefix| &prefix.rtts);
    let known: Vec<(IpNet, &Rtts)> = nets.iter().filter_map(|net| Some((*net, of(net)?))).collect();
    let rtts: Vec<&Rtts> = known.iter().map(|(_, rtts)| *rtts).collect();
    let point = Point::new(place);
    let settled = |numbers: Vec<usize>| {
        let mut group = Group {
            rtts: medians(numbers.iter().map(|number| rtts[*number])),
            misplaced: false,
            prefixes: numbers.iter().map(|number| known[*number].0).collect(),
        };
        let (verdict, _) = physics::settle(estimator, Some(&point), &mut group.rtts);
        group.misplaced = verdict == Verdict::Misplaced;
        group.rtts.retain(|_, measured| !measured.raised);
        group
    };
    let mut groups: Vec<Group> = group::groups(&rtts).into_iter().map(settled).collect();
    groups.sort_by_key(|group| std::cmp::Reverse((group.rtts.len().min(2), group.prefixes.len())));
    groups
}

/// What certified members tell of whole prefixes.
fn gather(inputs: &Inputs) -> BTreeMap<IpNet, Prefix> {
    let numbers: BTreeMap<MemberId, u32> =
        inputs.members.iter().zip(0..).filter(|(m, _)| m.certified).map(|(m, i)| (m.id, i)).collect();
    let mut prefixes: BTreeMap<IpNet, Prefix> = BTreeMap::new();
    for (member, rtt) in &inputs.observations {
        let Some(member) = numbers.get(member) else { continue };
        if rtt.prefix == client_prefix(rtt.prefix.addr()) {
            prefixes.entry(rtt.prefix).or_default().rtts.insert(*member, Measured::one(rtt));
        }
    }
    for (member, rtt) in &inputs.probed {
        let Some(member) = numbers.get(member) else { continue };
        if rtt.prefix == client_prefix(rtt.prefix.addr()) {
            let probe = Measured::probe(rtt);
            let known = prefixes.entry(rtt.prefix).or_default().rtts.entry(*member).or_insert(probe);
            if known.weight < probe.weight {
                *known = probe;
            }
        }
    }
    prefixes
}

/// For each member the weighted median over prefixes.
fn medians<'a>(prefixes: impl Iterator<Item = &'a Rtts>) -> Rtts {
    let mut by_member: BTreeMap<u32, Vec<Measured>> = BTreeMap::new();
    for rtts in prefixes {
        for (member, measured) in rtts.iter().filter(|(_, measured)| !measured.probed) {
            by_member.entry(*member).or_default().push(*measured);
        }
    }
    let settled = |mut all: Vec<Measured>| {
        let middle = median(&mut all);
        let samples = all.iter().map(|one| one.samples).fold(0, u32::saturating_add);
        let longest = all.iter().map(|one| one.samples).max().unwrap_or(0);
        Measured {
            rtt_us: middle,
            weight: all.iter().map(|one| one.weight).fold(0, u32::saturating_add),
            samples,
            telling: longest + (samples - longest) / SHARED,
            age: all.iter().map(|one| one.age).min().unwrap_or_default(),
            noise: middle_of(all.iter().filter_map(|one| one.noise).collect()),
            raised: all.iter().any(|one| one.raised && one.rtt_us == middle),
            probed: false,
        }
    };
    by_member.into_iter().map(|(member, all)| (member, settled(all))).collect()
}

/// The upper median of what is told.
pub(crate) fn middle_of(mut told: Vec<u32>) -> Option<u32> {
    told.sort_unstable();
    told.get(told.len() / 2).copied()
}

/// The weighted median (the lower one of two).
pub(crate) fn median(all: &mut [Measured]) -> u32 {
    all.sort_unstable_by_key(|one| one.rtt_us);
    let total: u64 = all.iter().map(|one| u64::from(one.weight)).sum();
    let mut below = 0;
    let middle = all.iter().find(|one| {
        below += u64::from(one.weight);
        below * 2 >= total
    });
    middle.map_or(0, |one| one.rtt_us)
}

/// A prefix' own value, drawn towards its place's as far as it rests on less.
fn leaning(own: Measured, place: Measured) -> Measured {
    // The prefix is one of its place: what others add is what counts.
    let noise = u64::from(own.noise.or(place.noise).unwrap_or(0));
    let most = PLACE_WEIGHT + PLACE_WEIGHT * noise * noise / (PLACE_PERMILLE * PLACE_PERMILLE);
    let others = u64::from(place.weight.saturating_sub(own.weight)).min(most);
    let (mine, theirs) = (u64::from(own.weight), others);
    let sum = u64::from(own.rtt_us) * mine + u64::from(place.rtt_us) * theirs;
    let rtt_us = u32::try_from(sum / (mine + theirs).max(1)).unwrap_or(u32::MAX);
    // It tells as much more as the place had part in it.
    let telling = if theirs > mine { place.telling.max(own.telling) } else { own.telling };
    Measured { rtt_us, telling, noise: own.noise.or(place.noise), ..own }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::tests::{inputs, node};
    use godwit_core::observation::Noise;

    const PARIS: (f64, f64) = (48.9, 2.4);

    /// Twenty prefixes in Paris, and what members 0 (Paris) and 1 (Frankfurt) tell of them.
    fn observed(tell: impl Fn(u8) -> [Option<ClientRtt>; 2]) -> Observed {
        let mut inputs = inputs(vec![node(1, PARIS.0, PARIS.1), node(2, 50.1, 8.7)]);
        inputs.members.sort_by_key(|member| member.public_v4);
        for n in 0..20 {
            let told = inputs.members.iter().zip(tell(n)).filter_map(|(m, rtt)| Some((m.id, rtt?)));
            let told: Vec<_> = told.collect();
            inputs.observations.extend(told);
        }
        let place = Coordinates::new(PARIS.0, PARIS.1).unwrap();
        let geo = GeoDb::from_networks((0..20).map(|n| (net(n), place)));
        Observed::new(&inputs, &geo, &Estimator::new(&inputs))
    }

    fn net(n: u8) -> IpNet {
        format!("203.0.{n}.0/24").parse().unwrap()
    }

    fn ms(n: u8, ms: u32) -> Option<ClientRtt> {
        Some(ClientRtt { samples: 8, ..ClientRtt::new(net(n), ms * 1000) })
    }

    fn paris(observed: &Observed) -> Rtts {
        observed.at(Coordinates::new(PARIS.0, PARIS.1).unwrap()).nearby
    }

    fn client(observed: &Observed, n: u8) -> Client {
        observed.of(&net(n), Some(Coordinates::new(PARIS.0, PARIS.1).unwrap()))
    }

    #[test]
    fn a_place_is_the_median_of_those_that_agree() {
        // Six of twenty are elsewhere in truth.
        let observed =
            observed(|n| if n < 6 { [ms(n, 240), None] } else { [ms(n, 8 + u32::from(n % 3)), None] });
        assert_eq!(paris(&observed)[&0].rtt_us, 9_000);
        assert_eq!(paris(&observed)[&0].samples, 14 * 8, "strays do not speak for it");
        let stray = client(&observed, 0);
        assert!(stray.stray, "they are a place of their own");
        assert_eq!((stray.observed[&0].rtt_us, stray.nearby[&0].rtt_us), (240_000, 240_000));
        assert_eq!(stray.nearby[&0].samples, 6 * 8);
        assert!(!client(&observed, 7).stray);
    }

    #[test]
    fn who_lies_about_most_is_not_believed_in_the_rest() {
        // Member 1 claims 1 ms; all but four of the prefixes are in Tokyo, far from it.
        let mut inputs = inputs(vec![node(1, PARIS.0, PARIS.1), node(2, 35.7, 139.7)]);
        let liar = inputs.members[0].id;
        inputs.observations = (0..20).filter_map(|n| Some((liar, ms(n, 1)?))).collect();
        let at = |n| if n < 4 { (PARIS.0, PARIS.1) } else { (35.7, 139.7) };
        let place = |n| Coordinates::new(at(n).0, at(n).1).unwrap();
        let geo = GeoDb::from_networks((0..20).map(|n| (net(n), place(n))));
        let observed = |inputs: &Inputs| Observed::new(inputs, &geo, &Estimator::new(inputs));
        assert!(observed(&inputs).of(&net(0), Some(place(0))).observed.is_empty(), "though it may be true");
        inputs.observations.truncate(7);
        assert!(!observed(&inputs).of(&net(0), Some(place(0))).observed.is_empty(), "three of seven");
    }

    #[test]
    fn old_samples_weigh_less() {
        let old = |n, rtt| ms(n, rtt).map(|rtt| ClientRtt { age: Age::Day, ..rtt });
        let observed = observed(|n| if n < 12 { [old(n, 30), None] } else { [ms(n, 20), None] });
        assert_eq!(paris(&observed)[&0].rtt_us, 20_000);
        assert_eq!(paris(&observed)[&0].age, Age::Recent);
    }

    #[test]
    fn one_sample_leans_on_its_place_and_many_stand_alone() {
        let one = |n, rtt| ms(n, rtt).map(|rtt| ClientRtt { samples: 1, ..rtt });
        let observed = observed(|n| match n {
            0 => [one(n, 19), None],
            1 => [ms(n, 19), None],
            _ => [ms(n, 10), None],
        });
        assert_eq!(client(&observed, 0).observed[&0].rtt_us, 13_000);
        assert_eq!(client(&observed, 1).observed[&0].rtt_us, 17_200);
    }

    #[test]
    fn where_moments_differ_much_the_place_counts_for_more() {
        let noisy = |n, rtt, permille| {
            ms(n, rtt).map(|rtt| ClientRtt { samples: 2, noise: Noise::of(permille), ..rtt })
        };
        let at = |permille| {
            let observed = observed(|n| [noisy(n, if n == 0 { 13 } else { 9 }, permille), None]);
            client(&observed, 0).observed[&0].rtt_us
        };
        assert_eq!(at(5), 11_000, "half and half");
        assert!(at(500) < 9_500, "{}", at(500));
    }

    #[test]
    fn a_median_of_more_moments_deviates_less() {
        let rtt = |samples, permille| {
            let rtt = ClientRtt { samples, noise: Noise::of(permille), ..ClientRtt::new(net(0), 100_000) };
            Measured::one(&rtt).deviation_us(0)
        };
        assert_eq!((rtt(1, 150), rtt(2, 150), rtt(8, 150)), (13_750, 13_750, 6_875));
        assert_eq!(rtt(8, 0), 0);
        let untold = Measured::one(&ClientRtt::new(net(0), 100_000));
        assert_eq!((untold.deviation_us(0), untold.deviation_us(200)), (0, 25_000));
    }

    #[test]
    fn with_two_prefixes_nobody_strays() {
        let observed = observed(|n| match n {
            0 => [ms(n, 10), ms(n, 12)],
            1 => [ms(n, 200), None],
            _ => [None, None],
        });
        assert!(!client(&observed, 0).stray && !client(&observed, 1).stray);
    }
}
