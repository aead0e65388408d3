//! How far a client is from a replica, in round-trip time: an estimate with its source.
//!
//! In falling order of trust:
//!
//! 1. *observed*: connections from the client's own prefix told;
//! 2. *nearby*: connections from other prefixes of the same place told;
//! 3. *landmark*: what was observed from the client to other members, or else the view of the
//!    member nearest to it, together with the round-trip times that members measured between each
//!    other;
//! 4. *geography*: distance alone.
//!
//! An observed estimate is what it is; all others are on the hopeful side, as near as distance and
//! triangle allow. So a replica that looks near and turns out slow is left for the next best hope,
//! which is observed in turn, until nothing better can be hoped for: exploring needs no machinery
//! of its own, and costs a client a few connections to a worse replica once.

use crate::geo::Point;
use crate::inputs::Inputs;
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
/// Round-trip time that is hoped for from a replica nothing was observed of, µs per km. Lower tries
/// more replicas, higher settles sooner: with 18 and 20 replicas on the same 241 cities the p95
/// penalty falls to a fifth of the nearest-replica policy's in six tries of a client, and goes on
/// falling (`cargo run -p godwit-benches -- redirect-quality`).
const HOPE_US_PER_KM: f64 = 18.0;
/// How far the triangle inequality is believed: paths over the internet break it by a fifth often
/// enough.
const TRIANGLE: f64 = 0.8;
/// Light in fibre over the great circle and back, µs per km: no estimate is below it.
const LIGHT_US_PER_KM: f64 = 10.0;

/// Where an estimate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Measured on connections from the client's own prefix.
    Observed,
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
}

impl Estimate {
    /// Nothing is known.
    pub(crate) const UNKNOWN: Estimate =
        Estimate { rtt_us: None, source: Source::Unknown, distance_km: None };
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
    /// By member, from the client's own prefix.
    pub(crate) observed: BTreeMap<u32, u32>,
    /// By member, from other prefixes of its place.
    pub(crate) nearby: BTreeMap<u32, u32>,
}

/// The members as seen by the estimator: places and round-trip times between them.
#[derive(Debug)]
pub(crate) struct Estimator {
    points: Vec<Option<Point>>,
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
        let mut between = vec![u32::MAX; count * count];
        for (member, from) in inputs.members.iter().zip(0..).filter(|(member, _)| member.certified) {
            for (peer, rtt) in &member.peer_rtts {
                let Some(to) = numbers.get(peer) else { continue };
                // Where both tell, the larger counts: nobody draws clients by claiming to be near.
                for cell in [from * count + to, to * count + from] {
                    let known = &mut between[cell];
                    *known = if *known == u32::MAX { *rtt } else { (*known).max(*rtt) };
                }
            }
        }
        let points: Vec<_> = inputs.members.iter().map(|member| member.place.map(Point::new)).collect();
        let measured = |member: &u32| {
            let row = &between[*member as usize * count..][..count];
            points[*member as usize].is_some() && row.iter().any(|rtt| *rtt != u32::MAX)
        };
        let landmarks = (0..count as u32).filter(measured).collect();
        Estimator { points, between, landmarks }
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
        Some(self.point(a)?.distance_km(self.point(b)?))
    }

    fn point(&self, member: u32) -> Option<&Point> {
        self.points.get(member as usize)?.as_ref()
    }

    /// The member that stands for a client that nothing was observed of: the nearest of those that
    /// have measured others.
    pub(crate) fn landmark(&self, client: &Client) -> Option<Landmark> {
        if !client.observed.is_empty() || !client.nearby.is_empty() {
            return None;
        }
        let point = client.point.as_ref()?;
        self.landmarks
            .iter()
            .filter_map(|member| Some((self.point(*member)?.distance_km(point), *member)))
            .min_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(distance_km, member)| Landmark { member, distance_km })
    }

    /// The estimate for one replica.
    pub(crate) fn estimate(&self, client: &Client, landmark: Option<&Landmark>, replica: u32) -> Estimate {
        let km = client.point.as_ref().and_then(|point| Some(self.point(replica)?.distance_km(point)));
        let distance_km = km.map(|km| km.round() as u32);
        let from = |source, rtt_us: f64| {
            let floor = km.map_or(0.0, |km| km * LIGHT_US_PER_KM);
            Estimate { rtt_us: Some(rtt_us.max(floor).round() as u32), source, distance_km }
        };
        if let Some(rtt) = client.observed.get(&replica) {
            return Estimate { rtt_us: Some(*rtt), source: Source::Observed, distance_km };
        }
        if let Some(rtt) = client.nearby.get(&replica) {
            return Estimate { rtt_us: Some(*rtt), source: Source::Nearby, distance_km };
        }
        let measured = client.observed.iter().chain(&client.nearby);
        // What was measured from the client to other members says how far this replica is at
        // least: a path by way of it would not be shorter (the internet keeps the triangle
        // inequality well enough for a hope).
        let bound = measured
            .filter_map(|(member, rtt)| Some(self.between(*member, replica)?.abs_diff(*rtt)))
            .max()
            .map(|bound| f64::from(bound) * TRIANGLE);
        if let Some(bound) = bound {
            let hope = km.map_or(0.0, hopeful);
            let source = if bound > hope { Source::Landmark } else { Source::Geography };
            return from(source, bound.max(hope));
        }
        let by_landmark = landmark.filter(|landmark| landmark.member != replica).and_then(|landmark| {
            let measured = f64::from(self.between(landmark.member, replica)?);
            Some((landmark, measured))
        });
        match (by_landmark, km) {
            (Some((landmark, measured)), Some(km)) => {
                // The further the client is from its landmark, measured against its way to the
                // replica, the less the landmark's view says about the client's.
                let trust = (1.0 - landmark.distance_km / km.max(1.0)).clamp(0.0, 1.0);
                from(Source::Landmark, trust * measured + (1.0 - trust) * hopeful(km))
            }
            (None, Some(km)) => from(Source::Geography, hopeful(km)),
            (_, None) => Estimate { distance_km, ..Estimate::UNKNOWN },
        }
    }
}

/// A member that stands for a client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Landmark {
    pub(crate) member: u32,
    /// How far the client is from it.
    distance_km: f64,
}

/// Round-trip time that may be hoped for over a distance, µs.
fn hopeful(km: f64) -> f64 {
    LOCAL_US + HOPE_US_PER_KM * km
}

/// Round-trip time to expect over a distance, µs.
pub(crate) fn by_distance(km: f64) -> f64 {
    let base = LOCAL_US + (BASE_US - LOCAL_US) * (km / RAMP_KM).min(1.0);
    base + SLOPE_US_PER_KM * km
}
