//! Clients of a city, as networks.
//!
//! What cities ask for is log-normal, unless it follows from who lives there: one in six asks for 2.7 times
//! the median, one in a hundred for ten times. A city has as many networks (/24s) as it asks for much, and
//! these are more uneven still: most are homes and offices, few are the gateways of whole providers, so that
//! the busiest hundredth of them asks for a quarter of everything.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// A city has at most so many networks: what there is room for ([`super::draw`]).
const NETWORKS_MAX: f64 = 250.0;
/// How uneven networks of one city are: the deviation of the logarithm.
const UNEVEN: f64 = 1.5;
/// What cities ask for on average: that of the log-normal numbers below.
const MEAN: f64 = 1.65;

/// What a city asks for, beside an average one.
pub(super) fn size(rng: &mut ChaCha8Rng) -> f64 {
    normal(rng).exp() / MEAN
}

/// What each network of a city of this size asks for beside all others; `usual`: how many an average city
/// has.
pub(super) fn networks(size: f64, usual: usize, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let count = (usual as f64 * size).round().clamp(1.0, NETWORKS_MAX);
    let weights: Vec<f64> = (0..count as usize).map(|_| (UNEVEN * normal(rng)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| size * weight / sum).collect()
}

/// Nearly a standard normal number: the sum of twelve uniform ones.
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    (0..12).map(|_| rng.random_range(-0.5..0.5f64)).sum()
}
