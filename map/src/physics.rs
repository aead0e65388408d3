//! What light allows: claims that cannot be true together.
//!
//! A client is in one place. Whoever measured it at `a` and at `b` microseconds is at most `a + b`
//! away from each other, as light in fibre goes; and a client that a database places somewhere is
//! not nearer than light allows. Places of members stand in their grants, so no member chooses its
//! own. A member that claims to be next door to everybody, to draw clients, contradicts everybody
//! else who measured them; a database that is wrong contradicts several members who agree.
//!
//! So the witnesses of a client (its members' claims, and the database) are held against each
//! other, and the one that contradicts most of the others is set aside, until none does. Between
//! a single member and the database, the database is believed: it does not gain from lying. (A
//! member that is near where the database has the client, and measured that it is far, speaks
//! against the database as well: nobody gains by calling a client far.) Between
//! two members and nobody else, neither is. A claim set aside counts as what light allows at
//! least, so that an honest one that the database contradicts is not lost.

use crate::estimate::{Estimator, LIGHT_US_PER_KM, by_distance};
use crate::geo::Point;
use crate::observe::Rtts;

/// A city is this large: members are where their city is, and pairs of cities were measured a
/// little faster than light from centre to centre.
const CITY_KM: f64 = 100.0;
/// A database is this wrong without being wrong: it tells the centre of a province or country.
const DATABASE_KM: f64 = 500.0;
/// A time that is so many times what distance lets expect…
const IMPLAUSIBLE: f64 = 2.0;
/// …and this much more, µs, speaks against the database.
const IMPLAUSIBLE_US: f64 = 50_000.0;

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The database may be right.
    Placed,
    /// The client is not where the database has it.
    Misplaced,
}

/// Settles the claims about a client that a database places at `place`: what is set aside is raised
/// to what light allows, or dropped where nothing says which of two is wrong.
/// Also tells whose claims these are.
pub(crate) fn settle(estimator: &Estimator, place: Option<&Point>, rtts: &mut Rtts) -> (Verdict, Vec<u32>) {
    let mut aside: Vec<u32> = Vec::new();
    let mut dropped: Vec<u32> = Vec::new();
    let mut place = place;
    let mut verdict = Verdict::Placed;
    loop {
        let standing: Vec<(u32, f64)> = rtts
            .iter()
            .filter(|(member, _)| !aside.contains(member) && !dropped.contains(member))
            .map(|(member, measured)| (*member, f64::from(measured.rtt_us)))
            .collect();
        let against = |at: usize| {
            let (member, rtt) = standing[at];
            let others = standing.iter().enumerate().filter(|(other, _)| *other != at);
            others.filter(|(_, (other, theirs))| rtt + theirs < apart(estimator, member, *other)).count()
        };
        let misplaced =
            |(member, rtt): (u32, f64)| place.is_some_and(|place| rtt < away(estimator, member, place));
        let contradicting = standing.iter().filter(|claim| misplaced(**claim)).count();
        let doubting = |(member, rtt): &&(u32, f64)| {
            place.is_some_and(|place| rtt > &implausible(estimator, *member, place))
        };
        let contradicting = match contradicting {
            0 => 0,
            some => some + standing.iter().filter(doubting).count(),
        };
        let counts: Vec<usize> =
            (0..standing.len()).map(|at| against(at) + usize::from(misplaced(standing[at]))).collect();
        let worst = counts.iter().copied().max().unwrap_or(0);
        if worst == 0 {
            break;
        }
        if contradicting > worst {
            (place, verdict) = (None, Verdict::Misplaced);
            continue;
        }
        let guilty: Vec<u32> =
            counts.iter().zip(&standing).filter(|(count, _)| **count == worst).map(|(_, c)| c.0).collect();
        match guilty[..] {
            [one] => aside.push(one),
            _ => {
                // Of equals, those that the database contradicts too; if that tells none apart,
                // nobody is believed.
                let placed: Vec<u32> = standing
                    .iter()
                    .filter(|c| guilty.contains(&c.0) && misplaced(**c))
                    .map(|c| c.0)
                    .collect();
                if placed.is_empty() { dropped.extend(guilty) } else { aside.extend(placed) }
            }
        }
    }
    rtts.retain(|member, _| !dropped.contains(member));
    let standing: Vec<(u32, u32)> =
        rtts.iter().filter(|(m, _)| !aside.contains(m)).map(|(m, measured)| (*m, measured.rtt_us)).collect();
    for member in aside.iter().copied() {
        let others = standing.iter().map(|(other, rtt)| apart(estimator, member, *other) - f64::from(*rtt));
        let least = place.map(|place| away(estimator, member, place)).into_iter().chain(others);
        let least = least.fold(0.0, f64::max).round() as u32;
        if let Some(measured) = rtts.get_mut(&member) {
            measured.rtt_us = measured.rtt_us.max(least);
            measured.raised = true;
        }
    }
    aside.extend(dropped);
    (verdict, aside)
}

/// The same among `witnesses`: what others told of clients that are where this one is. Nothing becomes of
/// these.
pub(crate) fn settle_among(
    estimator: &Estimator,
    place: Option<&Point>,
    witnesses: Option<&Rtts>,
    rtts: &mut Rtts,
) -> (Verdict, Vec<u32>) {
    let others = witnesses.into_iter().flatten().filter(|(member, _)| !rtts.contains_key(member));
    let others: Vec<_> = others.map(|(member, measured)| (*member, *measured)).collect();
    if others.is_empty() {
        return settle(estimator, place, rtts);
    }
    let mut all = rtts.clone();
    all.extend(others);
    let (verdict, mut aside) = settle(estimator, place, &mut all);
    aside.retain(|member| rtts.contains_key(member));
    all.retain(|member, _| rtts.contains_key(member));
    *rtts = all;
    (verdict, aside)
}

/// The least time from one member to another and back, µs.
fn apart(estimator: &Estimator, a: u32, b: u32) -> f64 {
    estimator.distance_km(a, b).map_or(0.0, |km| (km - CITY_KM) * LIGHT_US_PER_KM)
}

/// The least time from a member to where a database says and back, µs.
fn away(estimator: &Estimator, member: u32, place: &Point) -> f64 {
    let km = estimator.point(member).map(|point| point.distance_km(place));
    km.map_or(0.0, |km| (km - DATABASE_KM) * LIGHT_US_PER_KM)
}

/// From which time on a member's word speaks against where a database says, µs: light would allow it,
/// but hardly any path is as bad.
fn implausible(estimator: &Estimator, member: u32, place: &Point) -> f64 {
    let km = estimator.point(member).map(|point| point.distance_km(place));
    km.map_or(f64::MAX, |km| IMPLAUSIBLE * by_distance(km) + IMPLAUSIBLE_US)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::tests::{inputs, node};
    use crate::observe::Measured;
    use godwit_core::geo::Coordinates;
    use godwit_core::observation::ClientRtt;

    const PARIS: (f64, f64) = (48.9, 2.4);
    const TOKYO: (f64, f64) = (35.7, 139.7);
    const OSAKA: (f64, f64) = (34.7, 135.5);
    const FRANKFURT: (f64, f64) = (50.1, 8.7);

    /// Settles claims (ms) of members in Paris, Tokyo, Osaka and Frankfurt; what is left of them.
    fn check(place: Option<(f64, f64)>, claims: [Option<u32>; 4]) -> (Verdict, Vec<Option<u32>>) {
        let members =
            [PARIS, TOKYO, OSAKA, FRANKFURT].iter().zip(1..).map(|((lat, lon), n)| node(n, *lat, *lon));
        let inputs = inputs(members.collect());
        let place = place.map(|(lat, lon)| Point::new(Coordinates::new(lat, lon).unwrap()));
        let prefix = "192.0.2.0/24".parse().unwrap();
        let mut rtts: Rtts = (0..)
            .zip(claims)
            .filter_map(|(n, ms)| Some((n, Measured::one(&ClientRtt::new(prefix, ms? * 1000)))))
            .collect();
        let (verdict, _) = settle(&Estimator::new(&inputs), place.as_ref(), &mut rtts);
        (verdict, (0..4).map(|n| Some(rtts.get(&n)?.rtt_us / 1000)).collect())
    }

    #[test]
    fn what_can_be_true_is_left_alone() {
        let claims = [Some(230), Some(3), Some(12), Some(240)];
        assert_eq!(check(Some(TOKYO), claims), (Verdict::Placed, claims.to_vec()));
        assert_eq!(check(None, claims), (Verdict::Placed, claims.to_vec()));
    }

    #[test]
    fn a_member_that_claims_to_be_near_everybody_is_held_to_light() {
        // Against one other and the database, against two others, and against the database alone.
        for (place, claims) in [
            (Some(TOKYO), [Some(1), Some(3), None, None]),
            (None, [Some(1), Some(3), Some(12), None]),
            (Some(TOKYO), [Some(1), None, None, None]),
        ] {
            let (verdict, left) = check(place, claims);
            assert_eq!(verdict, Verdict::Placed);
            assert!(left[0].unwrap() > 90, "Paris to Tokyo takes 97 ms: {left:?}");
            assert_eq!(left[1..], claims[1..], "and nobody else is harmed");
        }
    }

    #[test]
    fn of_two_alone_neither_is_believed() {
        assert_eq!(check(None, [Some(1), Some(3), None, None]), (Verdict::Placed, vec![None; 4]));
    }

    #[test]
    fn members_that_agree_overrule_the_database() {
        let claims = [Some(4), None, None, Some(11)];
        assert_eq!(check(Some(TOKYO), claims), (Verdict::Misplaced, claims.to_vec()));
    }

    #[test]
    fn a_member_next_door_that_measures_a_far_client_speaks_against_the_database() {
        // The client is in Paris, and the database has it in Tokyo, where a member measured it first.
        let claims = [Some(4), Some(250), None, None];
        assert_eq!(check(Some(TOKYO), claims), (Verdict::Misplaced, claims.to_vec()));
        // A bad line alone says nothing about places.
        assert_eq!(check(Some(TOKYO), [None, Some(250), None, None]).0, Verdict::Placed);
    }

    #[test]
    fn what_others_told_of_the_place_holds_a_liar_to_light() {
        let members = [PARIS, TOKYO].iter().zip(1..).map(|((lat, lon), n)| node(n, *lat, *lon));
        let inputs = inputs(members.collect());
        let one = |ms: u32| {
            let prefix = "192.0.2.0/24".parse().unwrap();
            Measured::one(&ClientRtt { samples: 8, ..ClientRtt::new(prefix, ms * 1000) })
        };
        let (place, witnesses) =
            (Point::new(Coordinates::new(TOKYO.0, TOKYO.1).unwrap()), Rtts::from([(1, one(3))]));
        let mut rtts = Rtts::from([(0, one(1))]);
        let (_, aside) = settle_among(&Estimator::new(&inputs), Some(&place), Some(&witnesses), &mut rtts);
        assert_eq!(aside, [0]);
        assert_eq!(rtts.len(), 1, "witnesses stay apart");
        assert!(rtts[&0].raised && rtts[&0].rtt_us > 90_000);
    }
}
