//! What was measured, made fit for deciding: by prefix, and by place.
//!
//! Members tell values for whole client prefixes (/24, /48): these never overlap, and nobody can
//! speak for half the internet. Of each prefix what light forbids is settled (see `physics`). Then
//! the prefixes of a place together tell how far that place is: the median, weighted by samples and
//! age, of those that agree; a few that are far from it (a wrong database entry, a sick line, a
//! liar's pick) are *strays*, which neither speak for their place nor are helped by it.
//!
//! A prefix with few or old samples leans on its place, one with many stands for itself.
//!
//! What probes of a *resolver* found is of its prefix as well, weighs half, and gives way to what was
//! measured on connections unless that weighs less. It stands for who is or asks there and for nobody
//! else: it never speaks for its place. A resolver that light allows for two members not to have
//! measured where the others did answers from several places at once (anycast): nothing that was
//! found of it counts, for or against anybody.

use crate::estimate::{Client, Estimator};
use crate::geo::{GeoDb, Point};
use crate::inputs::Inputs;
use crate::physics::{self, Verdict};
use crate::table::client_prefix;
use godwit_core::geo::Coordinates;
use godwit_core::key::MemberId;
use godwit_core::observation::{Age, ClientRtt};
use ipnet::IpNet;
use serde::Serialize;
use std::collections::BTreeMap;

/// So many prefixes make a place: with fewer there is no telling who strays.
const PLACE_MIN: usize = 3;
/// A prefix strays when it is further from the median than this many median deviations…
const STRAY_DEVIATIONS: u32 = 5;
/// …and than this share of the median, as a divisor, and this, µs.
const STRAY_SHARE: u32 = 3;
const STRAY_US: u32 = 10_000;
/// A member's words are judged as a whole from so many on.
const WORDS_MIN: usize = 8;
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
    /// Of the youngest sample.
    pub(crate) age: Age,
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
        Measured { rtt_us: rtt.rtt_us, weight, samples, age: rtt.age, raised: false, probed: false }
    }

    /// What one member found of a resolver: half the weight of a connection.
    fn probe(rtt: &ClientRtt) -> Measured {
        let served = Measured::one(rtt);
        Measured { weight: served.weight.div_ceil(PROBE_SHARE), probed: true, ..served }
    }
}

/// All that was measured.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    prefixes: BTreeMap<IpNet, Prefix>,
    places: BTreeMap<Coordinates, Rtts>,
}

#[derive(Debug, Default)]
struct Prefix {
    rtts: Rtts,
    /// Whether its place says nothing about it.
    stray: bool,
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
        let place_of = |prefix: &IpNet| geo.lookup(prefix.addr()).map(|(_, place)| place);
        let mut places: BTreeMap<Coordinates, Vec<IpNet>> = BTreeMap::new();
        let mut words: BTreeMap<u32, Words> = BTreeMap::new();
        for (net, prefix) in &mut prefixes {
            let who: Vec<u32> = prefix.rtts.keys().copied().collect();
            let probed = prefix.rtts.values().all(|measured| measured.probed);
            let point = place_of(net).map(Point::new);
            let (verdict, aside) = physics::settle(estimator, point.as_ref(), &mut prefix.rtts);
            if probed && aside.len() >= ANYCAST_MIN {
                prefix.rtts.clear();
                continue;
            }
            who.iter().for_each(|member| words.entry(*member).or_default().all += 1);
            aside.iter().for_each(|member| words.entry(*member).or_default().aside += 1);
            prefix.stray = verdict == Verdict::Misplaced;
        }
        prefixes.retain(|_, prefix| !prefix.rtts.is_empty());
        for (net, prefix) in &mut prefixes {
            prefix.rtts.retain(|member, _| words.get(member).is_none_or(|words| words.are_believed()));
            let place = place_of(net);
            if let Some(place) = place.filter(|_| !prefix.stray) {
                places.entry(place).or_default().push(*net);
            }
        }
        let places = places.into_iter().map(|(place, nets)| {
            let all = medians(nets.iter().filter_map(|net| prefixes.get(net)));
            for net in &nets {
                let Some(prefix) = prefixes.get_mut(net) else { continue };
                prefix.stray = prefix.rtts.iter().any(|(member, own)| {
                    all.get(member).is_some_and(|(place, deviation)| strays(*own, *place, *deviation))
                });
            }
            let agreeing = nets.iter().filter_map(|net| prefixes.get(net)).filter(|prefix| !prefix.stray);
            let mut rtts: Rtts = medians(agreeing).into_iter().map(|(m, (place, _))| (m, place)).collect();
            physics::settle(estimator, Some(&Point::new(place)), &mut rtts);
            (place, rtts)
        });
        let places = places.collect();
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

    /// Whether something was measured of exactly this prefix.
    pub(crate) fn knows(&self, prefix: &IpNet) -> bool {
        self.prefixes.contains_key(prefix)
    }

    /// A client of whom nothing but its place is known.
    pub(crate) fn at(&self, place: Coordinates) -> Client {
        let nearby = self.places.get(&place).cloned().unwrap_or_default();
        Client { point: Some(Point::new(place)), observed: Rtts::new(), nearby, stray: false }
    }

    /// A client of a prefix that something was measured of.
    pub(crate) fn of(&self, prefix: &IpNet, place: Option<Coordinates>) -> Client {
        let at = place.map(|place| self.at(place)).unwrap_or_default();
        let Some(known) = self.prefixes.get(prefix) else { return at };
        if known.stray {
            let observed = known.rtts.clone();
            return Client { observed, nearby: Rtts::new(), stray: true, ..at };
        }
        let lean = |(member, own): (&u32, &Measured)| {
            (*member, at.nearby.get(member).map_or(*own, |place| leaning(*own, *place)))
        };
        Client { observed: known.rtts.iter().map(lean).collect(), ..at }
    }
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

/// For each member the weighted median over prefixes, and the median deviation from it.
fn medians<'a>(prefixes: impl Iterator<Item = &'a Prefix>) -> BTreeMap<u32, (Measured, Option<u32>)> {
    let mut by_member: BTreeMap<u32, Vec<Measured>> = BTreeMap::new();
    for prefix in prefixes {
        for (member, measured) in prefix.rtts.iter().filter(|(_, measured)| !measured.probed) {
            by_member.entry(*member).or_default().push(*measured);
        }
    }
    let settled = |mut all: Vec<Measured>| {
        let middle = median(&mut all);
        let deviation = (all.len() >= PLACE_MIN).then(|| {
            let away = |one: &Measured| Measured { rtt_us: one.rtt_us.abs_diff(middle), ..*one };
            median(&mut all.iter().map(away).collect::<Vec<_>>())
        });
        let place = Measured {
            rtt_us: middle,
            weight: all.iter().map(|one| one.weight).fold(0, u32::saturating_add),
            samples: all.iter().map(|one| one.samples).fold(0, u32::saturating_add),
            age: all.iter().map(|one| one.age).min().unwrap_or_default(),
            raised: all.iter().any(|one| one.raised && one.rtt_us == middle),
            probed: false,
        };
        (place, deviation)
    };
    by_member.into_iter().map(|(member, all)| (member, settled(all))).collect()
}

/// The weighted median (the lower one of two).
fn median(all: &mut [Measured]) -> u32 {
    all.sort_unstable_by_key(|one| one.rtt_us);
    let total: u64 = all.iter().map(|one| u64::from(one.weight)).sum();
    let mut below = 0;
    let middle = all.iter().find(|one| {
        below += u64::from(one.weight);
        below * 2 >= total
    });
    middle.map_or(0, |one| one.rtt_us)
}

fn strays(own: Measured, place: Measured, deviation: Option<u32>) -> bool {
    let away = own.rtt_us.abs_diff(place.rtt_us);
    deviation.is_some_and(|deviation| away > deviation.saturating_mul(STRAY_DEVIATIONS))
        && away > place.rtt_us / STRAY_SHARE
        && away > STRAY_US
}

/// A prefix' own value, drawn towards its place's as far as it rests on less.
fn leaning(own: Measured, place: Measured) -> Measured {
    // The prefix is one of its place: what others add is what counts.
    let others = u64::from(place.weight.saturating_sub(own.weight)).min(PLACE_WEIGHT);
    let (mine, theirs) = (u64::from(own.weight), others);
    let sum = u64::from(own.rtt_us) * mine + u64::from(place.rtt_us) * theirs;
    let rtt_us = u32::try_from(sum / (mine + theirs).max(1)).unwrap_or(u32::MAX);
    Measured { rtt_us, ..own }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::tests::{inputs, node};

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
        assert!(stray.stray && stray.nearby.is_empty());
        assert_eq!(stray.observed[&0].rtt_us, 240_000);
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
    fn with_two_prefixes_nobody_strays() {
        let observed = observed(|n| match n {
            0 => [ms(n, 10), ms(n, 12)],
            1 => [ms(n, 200), None],
            _ => [None, None],
        });
        assert!(!client(&observed, 0).stray && !client(&observed, 1).stray);
    }
}
