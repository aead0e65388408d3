//! The embedded world: cities and a model of the round-trip times between them.
//!
//! The model is fitted to WonderProxy's pings between 241 cities (2018): 31.6 ms + 17.4 ms for each
//! 1,000 km on average (r² = 0.56), of which the constant is what detours and access cost and does
//! not hold for neighbours; those are at most 3.7 times slower than light in fibre (the measured
//! 90th percentile) plus 2 ms. On top comes a factor of each pair's own, because real paths
//! scatter: it is what makes the geographically nearest replica not always the closest one.

use super::{Region, World};
use godwit_core::geo::{Coordinates, cities};
use rand::Rng;

/// Light in fibre goes 200 km in a millisecond, and back.
pub(super) const LIGHT_RTT_MS_PER_KM: f64 = 0.01;

/// Regions in the order in which a network would grow: any number from the front is well spread.
const REGIONS: [&str; 44] = [
    "eu-frankfurt",
    "us-virginia",
    "ap-tokyo",
    "sa-sao-paulo",
    "oc-sydney",
    "af-johannesburg",
    "us-san-francisco",
    "ap-singapore",
    "ap-mumbai",
    "eu-london",
    "me-dubai",
    "af-lagos",
    "us-dallas",
    "ap-seoul",
    "eu-stockholm",
    "eu-madrid",
    "ap-hong-kong",
    "us-chicago",
    "sa-santiago",
    "eu-warsaw",
    "af-nairobi",
    "ca-toronto",
    "oc-auckland",
    "ap-jakarta",
    "eu-milan",
    "me-istanbul",
    "us-miami",
    "ap-bangkok",
    "sa-bogota",
    "eu-amsterdam",
    "af-cairo",
    "us-seattle",
    "ap-delhi",
    "oc-perth",
    "eu-paris",
    "mx-mexico-city",
    "ap-manila",
    "sa-buenos-aires",
    "eu-helsinki",
    "af-cape-town",
    "us-denver",
    "ap-taipei",
    "me-tel-aviv",
    "eu-dublin",
];

/// The embedded regions with round-trip times drawn from `rng`.
pub fn world(rng: &mut impl Rng) -> World {
    let regions: Vec<Region> = REGIONS
        .iter()
        .map(|name| {
            let city =
                cities::of_region(name).expect("every embedded region is called after a known city: tested");
            Region { name: (*name).into(), place: city.place() }
        })
        .collect();
    let count = regions.len();
    let mut rtt_ms = vec![0.0; count * count];
    for a in 0..count {
        for b in 0..a {
            let rtt = rtt_ms_between(regions[a].place, regions[b].place, rng.random_range(0.8..1.3));
            rtt_ms[a * count + b] = rtt;
            rtt_ms[b * count + a] = rtt;
        }
    }
    World { regions, rtt_ms, warnings: Vec::new(), curated: true }
}

/// The model: `detour` is the pair's own factor. Never faster than light in fibre, and never below
/// a millisecond.
pub fn rtt_ms_between(a: Coordinates, b: Coordinates, detour: f64) -> f64 {
    let km = a.distance_km(b);
    let far = 31.6 + 0.0174 * km;
    let near = 2.0 + 3.7 * LIGHT_RTT_MS_PER_KM * km;
    (far.min(near) * detour).max(1.05 * LIGHT_RTT_MS_PER_KM * km).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn every_region_has_a_city_and_no_pair_beats_light() {
        let world = world(&mut ChaCha8Rng::seed_from_u64(0));
        for a in 0..world.regions.len() {
            for b in 0..a {
                let km = world.regions[a].place.distance_km(world.regions[b].place);
                assert!(
                    world.rtt(a, b) > km * LIGHT_RTT_MS_PER_KM,
                    "{:?} {:?}",
                    world.regions[a],
                    world.regions[b]
                );
                assert!(world.rtt(a, b) < 600.0);
            }
        }
    }
}
