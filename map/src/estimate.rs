//! How far a client is from a replica, in round-trip time: an estimate with its source.
//!
//! In falling order of trust:
//!
//! 1. *observed*: connections from the client's own prefix told;
//! 2. *resolver*: a resolver of the client's own prefix was probed;
//! 3. *nearby*: connections from other prefixes of the same place told;
//! 4. *landmark*: what was measured from the client to other members, together with the round-trip
//!    times that members measured between each other; for a client that nothing was measured of,
//!    the view of the member nearest to it;
//! 5. *geography*: distance alone.
//!
//! The last two are weighed against each other: a client 3 ms from a member sees the world as that
//! member does, within a few ms; one 100 ms away hardly does; distance is right within 8 ms and a
//! quarter. Where what was measured contradicts the client's place (a database is wrong about one
//! prefix in five), distance loses its weight.
//!
//! An estimate also says how low the truth might be (*hope*), for the order in which replicas are
//! tried, and how low it can be at all (*floor*), for when to stop trying; see [`crate::explore`].
//!
//! # Why not more
//!
//! Kriging of the residuals over (client, replica) pairs, with all neighbours' and all members'
//! measurements, was tried in a prototype on the same matrix: cold it sends as many clients to a
//! worse replica (38 against 39 %), it saves one try in ten, and it did worse than this when a fifth
//! of the database was wrong. Distance as the hope and triangles as the bound, as it was before,
//! needed twelve tries of each client. The prototype was kinder than the world of
//! `benches/src/redirect_quality`: what this reaches there stands in `docs/measuring.md`.

use crate::geo::Point;
use crate::inputs::Inputs;
use crate::observe::{Measured, Rtts, middle_of};
use serde::Serialize;
use std::collections::BTreeMap;

/// Round-trip time against distance over the internet: 31.6 ms + 17.4 ms per 1,000 km, fitted to
/// 57,331 pairs of 241 cities (WonderNetwork, 2018; r² = 0.56).
const BASE_US: f64 = 31_600.0;
/// The slope of the same fit, µs per km.
const SLOPE_US_PER_KM: f64 = 17.4;
/// Round-trip time within a place, µs: a metropolitan access network.
const LOCAL_US: f64 = 3_000.0;
/// Over how many km the base of the fit sets in: a straight line through all pairs is far too
/// pessimistic for the next city.
const RAMP_KM: f64 = 600.0;
/// How far the truth is from [`by_distance`], one deviation: so many µs…
const DISTANCE_US: f64 = 8_000.0;
/// …and this share of it.
const DISTANCE_SHARE: f64 = 0.25;
/// How far it is from an estimate by way of a member, one deviation: so many µs, a quarter of that
/// for the member that stands for a client that nothing was measured of…
const DETOUR_US: f64 = 8_000.0;
/// …and so many times the shorter leg.
const DETOUR_LEGS: f64 = 2.0;
/// No estimate is better than this share of itself.
const DEVIATION_MIN: f64 = 0.1;
/// From how many (squared) deviations between distance and measurements on distance loses weight.
const DOUBT: f64 = 5.0;
/// A client that contradicts its place (see [`crate::observe`]) keeps this much of distance's
/// weight.
const STRAY_WEIGHT: f64 = 0.2;
/// How far the triangle inequality is believed when a replica is not even tried: paths over the
/// internet break it often enough, and a wrong bound hides the best replica for ever.
const TRIANGLE: f64 = 0.3;
/// Light in fibre over the great circle and back, µs per km.
pub(crate) const LIGHT_US_PER_KM: f64 = 10.0;
/// The shortest paths are so many times as long as light needs: p10 of the same pairs.
const INFLATION: f64 = 1.5;
/// Two members that tell times between them further apart than this factor and [`LOCAL_US`] cannot
/// both be right: honest ones differ by a twentieth (p90).
const DISAGREEMENT: u32 = 2;

/// The truth is hardly further below what was measured than so many deviations.
const HOPE_DEVIATIONS: u32 = 2;

/// Where an estimate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Measured on connections from the client's own prefix.
    Observed,
    /// Measured by probing a resolver of the client's own prefix.
    Resolver,
    /// Measured on connections from other prefixes of the client's place.
    Nearby,
    /// From what members measured between each other, seen from those that the client was observed
    /// at, or from the one nearest to it.
    Landmark,
    /// From distance alone.
    Geography,
    /// None: a rule lists its region.
    Rule,
    /// Nothing is known: chosen by hash of the client's prefix.
    Unknown,
}

/// An estimated round-trip time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Estimate {
    /// Microseconds; `None` when nothing is known.
    pub(crate) rtt_us: Option<u32>,
    pub(crate) source: Source,
    /// Great-circle distance, where both places are known.
    pub(crate) distance_km: Option<u32>,
    /// What it was measured to be, where it was.
    pub(crate) measured: Option<Measured>,
    /// How far the truth may be from what was measured, one deviation, µs, as far as moments differ.
    pub(crate) deviation_us: u32,
    /// How low it may well be, µs.
    pub(crate) hope_us: u32,
    /// How low it can be at all, µs.
    pub(crate) floor_us: u32,
}

impl Estimate {
    /// Nothing is known.
    pub(crate) const UNKNOWN: Estimate = Estimate {
        rtt_us: None,
        source: Source::Unknown,
        distance_km: None,
        measured: None,
        deviation_us: 0,
        hope_us: 0,
        floor_us: 0,
    };
}

/// Whether `a` is materially better than `b`: by more than 10 % and more than 2 ms. Anything less
/// is within the noise of one path and not worth moving a client for.
pub(crate) fn materially_better(a: u32, b: u32) -> bool {
    u64::from(a) * 11 < u64::from(b) * 10 && u64::from(a) + 2_000 < u64::from(b)
}

/// What is known of a client: where it is and what was measured to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Client {
    pub(crate) point: Option<Point>,
    /// From the client's own prefix.
    pub(crate) observed: Rtts,
    /// From other prefixes of its place.
    pub(crate) nearby: Rtts,
    /// Whether it was seen not to be where the database has it.
    pub(crate) stray: bool,
}

impl Client {
    /// What was measured between it and a member.
    fn measured(&self, member: u32) -> Option<(Source, Measured)> {
        let source = |measured: &Measured| if measured.probed { Source::Resolver } else { Source::Observed };
        let observed = self.observed.get(&member).map(|measured| (source(measured), *measured));
        observed.or_else(|| self.nearby.get(&member).map(|measured| (Source::Nearby, *measured)))
    }

    /// How much moments differ, as far as somebody says: the median over members, thousandths.
    fn noise(&self) -> u32 {
        let all = self.observed.values().chain(self.nearby.values());
        middle_of(all.filter_map(|measured| measured.noise).collect()).unwrap_or(0)
    }

    /// All that was measured, µs by member.
    fn all(&self) -> impl Iterator<Item = (u32, f64)> + '_ {
        let nearby = self.nearby.iter().filter(|(member, _)| !self.observed.contains_key(member));
        self.observed.iter().chain(nearby).map(|(member, measured)| (*member, f64::from(measured.rtt_us)))
    }
}

/// The members as seen by the estimator: places and round-trip times between them.
#[derive(Debug)]
pub(crate) struct Estimator {
    points: Vec<Option<Point>>,
    /// Great-circle distances, km, row by row; `NaN` where a place is not known.
    km: Vec<f64>,
    /// Row by row; `u32::MAX` where nothing was measured.
    between: Vec<u32>,
    /// Members with a place that have measured others or were measured by them.
    landmarks: Vec<u32>,
}

impl Estimator {
    /// From the members of `inputs`, numbered as they stand there.
    pub(crate) fn new(inputs: &Inputs) -> Estimator {
        let count = inputs.members.len();
        let numbers: BTreeMap<_, _> =
            inputs.members.iter().zip(0..).map(|(m, i): (_, usize)| (m.id, i)).collect();
        let points: Vec<_> = inputs.members.iter().map(|member| member.place.map(Point::new)).collect();
        let mut told = vec![u32::MAX; count * count];
        for (member, from) in inputs.members.iter().zip(0..).filter(|(member, _)| member.certified) {
            for (peer, rtt) in &member.peer_rtts {
                let Some(to) = numbers.get(peer) else { continue };
                told[from * count + to] = *rtt;
            }
        }
        let km: Vec<f64> = (0..count * count)
            .map(|cell| match (&points[cell / count], &points[cell % count]) {
                (Some(a), Some(b)) => a.distance_km(b),
                _ => f64::NAN,
            })
            .collect();
        let between: Vec<u32> = (0..count * count)
            .map(|cell| {
                let (from, to) = (cell / count, cell % count);
                settled(told[cell], told[to * count + from], known(km[cell]))
            })
            .collect();
        let measured = |member: &u32| {
            let row = &between[*member as usize * count..][..count];
            points[*member as usize].is_some() && row.iter().any(|rtt| *rtt != u32::MAX)
        };
        let landmarks = (0..count as u32).filter(measured).collect();
        Estimator { points, km, between, landmarks }
    }

    /// Measured round-trip time between two members, µs.
    pub(crate) fn between(&self, a: u32, b: u32) -> Option<u32> {
        if a == b {
            return Some(0);
        }
        let rtt = *self.between.get(a as usize * self.points.len() + b as usize)?;
        (rtt != u32::MAX).then_some(rtt)
    }

    /// Distance between two members, km.
    pub(crate) fn distance_km(&self, a: u32, b: u32) -> Option<f64> {
        known(*self.km.get(a as usize * self.points.len() + b as usize)?)
    }

    pub(crate) fn point(&self, member: u32) -> Option<&Point> {
        self.points.get(member as usize)?.as_ref()
    }

    /// The member that stands for a client that nothing was measured of: the nearest of those that
    /// have measured others.
    pub(crate) fn landmark(&self, client: &Client) -> Option<u32> {
        if !client.observed.is_empty() || !client.nearby.is_empty() {
            return None;
        }
        let point = client.point.as_ref()?;
        let near = |member: &u32| Some((self.point(*member)?.distance_km(point), *member));
        self.landmarks.iter().filter_map(near).min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, member)| member)
    }

    /// The world as seen by a client.
    pub(crate) fn outlook<'a>(&'a self, client: &'a Client) -> Outlook<'a> {
        let mut outlook = Outlook {
            estimator: self,
            client,
            ways: client.all().collect(),
            detour_us: DETOUR_US,
            trust: 1.0,
            noise: client.noise(),
        };
        outlook.trust = outlook.trust_in_place();
        if let (Some(landmark), Some(point)) = (self.landmark(client), &client.point) {
            let km = self.point(landmark).map_or(0.0, |at| at.distance_km(point));
            outlook.ways.push((landmark, by_distance(km)));
            outlook.detour_us = DETOUR_US / 4.0;
        }
        outlook
    }
}

fn known(km: f64) -> Option<f64> {
    (!km.is_nan()).then_some(km)
}

/// Two members' words about the way between them, µs, `u32::MAX` where one says nothing: the larger,
/// as nobody draws clients by claiming to be near; nothing, if they disagree or light forbids it, as
/// nobody repels another's clients by claiming that it is far.
fn settled(there: u32, back: u32, km: Option<f64>) -> u32 {
    let (low, high) = (there.min(back), there.max(back));
    let possible = |rtt: u32| f64::from(rtt) >= km.unwrap_or(0.0) * LIGHT_US_PER_KM * 0.8 - 1_000.0;
    match (low, high) {
        (u32::MAX, _) => u32::MAX,
        (one, u32::MAX) => {
            if possible(one) {
                one
            } else {
                u32::MAX
            }
        }
        (low, high) if high > low.saturating_mul(DISAGREEMENT).saturating_add(LOCAL_US as u32) => u32::MAX,
        (_, high) => {
            if possible(high) {
                high
            } else {
                u32::MAX
            }
        }
    }
}

/// The world as seen by one client.
#[derive(Debug)]
pub(crate) struct Outlook<'a> {
    estimator: &'a Estimator,
    client: &'a Client,
    /// Members that the client's distance to is known of, µs: measured, or else its landmark.
    ways: Vec<(u32, f64)>,
    detour_us: f64,
    /// What distance weighs, 0 to 1.
    trust: f64,
    /// How much moments differ on this client's paths, thousandths.
    noise: u32,
}

impl Outlook<'_> {
    /// The estimate for one replica.
    pub(crate) fn estimate(&self, replica: u32) -> Estimate {
        let km = self.km(replica);
        let distance_km = km.map(|km| km.round() as u32);
        if let Some((source, measured)) = self.client.measured(replica) {
            let (rtt, deviation_us) = (measured.rtt_us, measured.deviation_us(self.noise));
            let hope_us = rtt.saturating_sub(deviation_us.saturating_mul(HOPE_DEVIATIONS));
            return Estimate {
                rtt_us: Some(rtt),
                source,
                distance_km,
                measured: Some(measured),
                deviation_us,
                hope_us,
                floor_us: hope_us,
            };
        }
        let (mut weight, mut sum) = (0.0, 0.0);
        let mut add = |rtt: f64, deviation: f64, trust: f64| {
            let precision = trust / (deviation * deviation);
            weight += precision;
            sum += precision * rtt;
            precision
        };
        let by_place = km.map_or(0.0, |km| {
            let rtt = by_distance(km);
            add(rtt, DISTANCE_US + DISTANCE_SHARE * rtt, self.trust)
        });
        // No path is shorter than light allows, if the client is where it is said to be.
        let mut floor = km.filter(|_| self.trust > 0.5).map_or(0.0, |km| km * LIGHT_US_PER_KM * INFLATION);
        for (member, leg) in &self.ways {
            let Some(between) = self.estimator.between(*member, replica).filter(|_| *member != replica)
            else {
                continue;
            };
            let between = f64::from(between);
            // Half-way, so to speak, between the longest and the shortest that a triangle allows.
            let detour = (between * between + leg * leg).sqrt();
            add(detour, self.detour_us + DETOUR_LEGS * leg.min(between), 1.0);
            floor = floor.max((between - leg).abs() * TRIANGLE);
        }
        if weight <= 0.0 {
            return Estimate { distance_km, ..Estimate::UNKNOWN };
        }
        let rtt = sum / weight;
        let hope = rtt - (1.0 / weight).sqrt().max(rtt * DEVIATION_MIN);
        let source = if by_place * 2.0 >= weight { Source::Geography } else { Source::Landmark };
        Estimate {
            rtt_us: Some(rtt.round() as u32),
            source,
            distance_km,
            measured: None,
            deviation_us: 0,
            hope_us: hope.max(0.0).round() as u32,
            floor_us: floor.round() as u32,
        }
    }

    fn km(&self, member: u32) -> Option<f64> {
        let point = self.client.point.as_ref()?;
        Some(self.estimator.point(member)?.distance_km(point))
    }

    /// How far the client's place explains what was measured.
    fn trust_in_place(&self) -> f64 {
        let surprises = self.ways.iter().filter_map(|(member, rtt)| {
            let km = self.km(*member)?;
            let expected = by_distance(km);
            let deviations = (rtt - expected) / (DISTANCE_US + DISTANCE_SHARE * expected);
            Some(deviations * deviations)
        });
        let surprises: Vec<f64> = surprises.collect();
        let mean = surprises.iter().sum::<f64>() / surprises.len().max(1) as f64;
        let doubt = mean / DOUBT;
        let stray = if self.client.stray { STRAY_WEIGHT } else { 1.0 };
        stray / (1.0 + doubt * doubt)
    }
}

/// Round-trip time to expect over a distance, µs.
pub(crate) fn by_distance(km: f64) -> f64 {
    let base = LOCAL_US + (BASE_US - LOCAL_US) * (km / RAMP_KM).min(1.0);
    base + SLOPE_US_PER_KM * km
}
