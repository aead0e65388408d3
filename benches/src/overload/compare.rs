//! What other ways of choosing come to: the best divisions that capacity allows, and geography.

use super::best;
use super::counts::Counts;
use super::world::{Client, World};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// What a careful division leaves free, of all capacity.
const SPARED: f64 = 0.05;

impl World<'_> {
    /// Notes what other ways of choosing come to; the furthest that anybody of each city is sent in the
    /// best division, ms.
    pub(super) fn compare(&self, rng: &mut ChaCha8Rng, counts: &mut Counts) -> BTreeMap<usize, f64> {
        let mut demand: BTreeMap<usize, f64> = BTreeMap::new();
        self.clients.iter().for_each(|client| *demand.entry(client.city).or_default() += client.rate);
        let (cities, demand): (Vec<usize>, Vec<f64>) = demand.into_iter().unzip();
        let rtts: Vec<Vec<f64>> = cities
            .iter()
            .map(|city| (0..self.replicas.len()).map(|replica| self.rtt(*city, replica)).collect())
            .collect();
        let divide = |of: f64| {
            let capacities: Vec<f64> = self.capacities.iter().map(|rps| rps * 1000.0 * of).collect();
            best::divide(&demand, &rtts, &capacities)
        };
        let (best, spared) = (divide(1.0), divide(1.0 - SPARED));
        let mut furthest = BTreeMap::new();
        for (at, city) in cities.iter().enumerate() {
            let least = self.least(*city);
            for (noted, division) in [(&mut counts.best, &best), (&mut counts.spared, &spared)] {
                let shares = division.shares[at].iter().enumerate().filter(|(_, share)| **share > 1.0);
                shares.for_each(|(replica, share)| noted.add(rtts[at][replica] - least, *share));
            }
            let served = best.shares[at].iter().enumerate().filter(|(_, share)| **share > 1.0);
            let far = served.map(|(replica, _)| rtts[at][replica]).fold(0.0, f64::max);
            furthest.insert(*city, far);
        }
        self.by_geography(&furthest, rng, counts);
        furthest
    }

    /// Who goes by distance on Earth alone, and who in this way to the nearest that has room left; these
    /// come in any order.
    fn by_geography(&self, furthest: &BTreeMap<usize, f64>, rng: &mut ChaCha8Rng, counts: &mut Counts) {
        let place = |place: usize| self.scene.matrix.places[place].coordinates;
        let mut left: Vec<f64> = self.capacities.iter().map(|rps| rps * 1000.0).collect();
        let mut clients: Vec<&Client> = self.clients.iter().collect();
        clients.shuffle(rng);
        let mut loads = vec![0.0; left.len()];
        for Client { city, rate, .. } in clients {
            let mut order: Vec<usize> = (0..self.replicas.len()).collect();
            let km = |replica: usize| place(*city).distance_km(place(self.replicas[replica]));
            order.sort_by(|a, b| km(*a).total_cmp(&km(*b)));
            let roomy = order.iter().copied().find(|replica| left[*replica] >= *rate);
            let most = || order.iter().copied().max_by(|a, b| left[*a].total_cmp(&left[*b])).unwrap_or(0);
            let roomy = roomy.unwrap_or_else(most);
            left[roomy] -= rate;
            loads[order[0]] += rate;
            counts.nearest.add(self.way(*city, order[0], furthest), *rate);
            counts.overflow.add(self.way(*city, roomy, furthest), *rate);
        }
        counts.nearest_utilised(&self.used(&loads));
    }
}
