//! Placement: which nodes keep a site.
//!
//! Weighted rendezvous hashing. Every node draws a score from the hash of the site and its own
//! name; the lowest scores win. Everybody who knows the same nodes computes the same holders, and
//! nobody has to be asked. When a node joins it can only take sites over, and when one leaves only
//! its own sites move.
//!
//! *Distinct regions first*: nodes are ordered by their place within their region, and then by
//! score. So every region's best node comes before any region's second, and a site with as many
//! replicas as there are regions has one in each.
//!
//! With `u` uniform in (0, 1), the score `-ln(u) / weight` is lowest for a node with a probability
//! in proportion to its weight. The logarithm is computed in integers: `f64::ln` may differ in
//! the last bit between platforms, and then two members would disagree about a holder.

use crate::content::{Replicas, SiteVersion};
use crate::key::MemberId;
use crate::name::{RegionName, SiteName};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// A node that may keep sites.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The node.
    pub id: MemberId,
    /// Where it is.
    pub region: RegionName,
    /// Its share of sites, in relation to the others'; with 0 it keeps none.
    pub weight: u32,
}

/// The nodes that keep the site of `version`, the first choice first. As many as its policy asks
/// for, or all there are when they are fewer. The order of `nodes` does not matter.
pub fn holders(version: &SiteVersion, nodes: &[Candidate]) -> Vec<MemberId> {
    site_holders(&version.site, version.policy.replicas, nodes)
}

/// The nodes that keep `site` with so many `replicas`; see [`holders`].
pub fn site_holders(site: &SiteName, replicas: Replicas, nodes: &[Candidate]) -> Vec<MemberId> {
    let mut nodes: Vec<(Score, &Candidate)> =
        nodes.iter().filter(|node| node.weight > 0).map(|node| (Score::draw(site, node), node)).collect();
    nodes.sort_by_key(|(score, _)| *score);
    nodes.dedup_by_key(|(_, node)| node.id);
    let mut places: BTreeMap<&RegionName, usize> = BTreeMap::new();
    let mut ranked: Vec<(usize, MemberId)> = Vec::with_capacity(nodes.len());
    for (_, node) in nodes {
        let place = places.entry(&node.region).or_insert(0);
        ranked.push((*place, node.id));
        *place += 1;
    }
    // Stable: within one place the order by score stays.
    ranked.sort_by_key(|(place, _)| *place);
    if let Replicas::Count(count) = replicas {
        ranked.truncate(usize::from(count));
    }
    ranked.into_iter().map(|(_, id)| id).collect()
}

/// `-log2(u) / weight`, kept as a fraction; then the node's name, so that no two are equal.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Score {
    /// `-log2(u)`, [`FRACTION_BITS`] of it behind the point; under 2^54.
    draw: u64,
    weight: u32,
    id: MemberId,
}

impl Score {
    fn draw(site: &SiteName, node: &Candidate) -> Score {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"godwit placement v1\0").update(node.id.as_bytes()).update(site.as_str().as_bytes());
        let mut uniform = [0; 8];
        hasher.finalize_xof().fill(&mut uniform);
        Score { draw: minus_log2(u64::from_le_bytes(uniform)), weight: node.weight, id: node.id }
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Score) -> Ordering {
        let left = u128::from(self.draw) * u128::from(other.weight);
        let right = u128::from(other.draw) * u128::from(self.weight);
        left.cmp(&right).then_with(|| self.id.cmp(&other.id))
    }
}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Score) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Bits behind the point: draws closer than 2^-48 are decided by name.
const FRACTION_BITS: u32 = 48;

/// `-log2((n + 1) / 2^64)`, in units of 2^-48.
fn minus_log2(n: u64) -> u64 {
    let n = u128::from(n) + 1;
    let whole = n.ilog2();
    // The mantissa, 1 <= m < 2, with 63 bits behind the point. Squaring it doubles its logarithm;
    // whenever it comes to 2 or more, the next bit of the logarithm is one.
    let mut mantissa = if whole <= 63 { n << (63 - whole) } else { n >> (whole - 63) };
    let mut fraction = 0u64;
    for _ in 0..FRACTION_BITS {
        mantissa = (mantissa * mantissa) >> 63;
        fraction <<= 1;
        if mantissa >> 64 != 0 {
            mantissa >>= 1;
            fraction |= 1;
        }
    }
    (64 << FRACTION_BITS) - ((u64::from(whole) << FRACTION_BITS) | fraction)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn node(seed: u32, region: u32, weight: u32) -> Candidate {
        let id = MemberId::from_bytes(blake3::hash(&seed.to_le_bytes()).into());
        Candidate { id, region: format!("r{region}").parse().unwrap(), weight }
    }

    fn site(number: u32) -> SiteName {
        format!("site-{number}").parse().unwrap()
    }

    fn nodes(count: u32, regions: u32) -> Vec<Candidate> {
        (0..count).map(|seed| node(seed, seed % regions, 1)).collect()
    }

    fn set(site: &SiteName, count: u16, nodes: &[Candidate]) -> BTreeSet<MemberId> {
        site_holders(site, Replicas::Count(count), nodes).into_iter().collect()
    }

    #[test]
    fn the_logarithm_is_right() {
        assert_eq!(minus_log2(u64::MAX), 0);
        assert_eq!(minus_log2(0), 64 << FRACTION_BITS);
        assert_eq!(minus_log2((1 << 63) - 1), 1 << FRACTION_BITS);
        for n in [1, 2, 3, 1000, 1 << 40, u64::MAX / 3, u64::MAX - 1] {
            let expected = 64.0 - ((n as f64) + 1.0).log2();
            let found = minus_log2(n) as f64 / (1u64 << FRACTION_BITS) as f64;
            assert!((expected - found).abs() < 1e-9, "{n}: {found} for {expected}");
        }
    }

    #[test]
    fn sites_are_shared_out_by_weight() {
        let nodes: Vec<Candidate> = (0..8).map(|seed| node(seed, 0, 1 + u32::from(seed < 2) * 2)).collect();
        let mut kept: BTreeMap<MemberId, u32> = BTreeMap::new();
        let sites = 12_000;
        for number in 0..sites {
            let holder = site_holders(&site(number), Replicas::Count(1), &nodes)[0];
            *kept.entry(holder).or_insert(0) += 1;
        }
        for node in &nodes {
            let expected = f64::from(sites * node.weight) / 12.0;
            let found = f64::from(kept[&node.id]);
            assert!((found / expected - 1.0).abs() < 0.15, "{found} where {expected} are due");
        }
    }

    #[test]
    fn weight_nothing_keeps_nothing_and_all_means_all() {
        let mut nodes = nodes(6, 3);
        nodes[0].weight = 0;
        let holders = site_holders(&site(1), Replicas::All, &nodes);
        assert_eq!(holders.len(), 5);
        assert!(!holders.contains(&nodes[0].id));
        assert_eq!(site_holders(&site(1), Replicas::Count(99), &nodes).len(), 5);
        assert_eq!(site_holders(&site(1), Replicas::Count(2), &[]), []);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_order_of_the_nodes_does_not_matter(
            number in 0u32..1000, count in 1u16..9, rotation in 0usize..20,
        ) {
            let nodes = nodes(20, 6);
            let mut turned = nodes.clone();
            turned.rotate_left(rotation);
            turned.reverse();
            let replicas = Replicas::Count(count);
            prop_assert_eq!(
                site_holders(&site(number), replicas, &nodes),
                site_holders(&site(number), replicas, &turned)
            );
        }

        #[test]
        fn distinct_regions_come_first(
            number in 0u32..1000, count in 1u16..12, regions in 1u32..7, weights in prop::collection::vec(1u32..9, 20),
        ) {
            let nodes: Vec<Candidate> =
                (0..20).map(|seed| node(seed, seed % regions, weights[seed as usize])).collect();
            let mut per_region: BTreeMap<&RegionName, usize> = BTreeMap::new();
            for holder in set(&site(number), count, &nodes) {
                let node = nodes.iter().find(|node| node.id == holder).unwrap();
                *per_region.entry(&node.region).or_insert(0) += 1;
            }
            let covered = per_region.len();
            prop_assert_eq!(covered, usize::from(count).min(regions as usize));
            let (least, most) = (per_region.values().min(), per_region.values().max());
            prop_assert!(most.unwrap() - least.unwrap() <= 1);
        }

        #[test]
        fn joining_and_leaving_move_one_copy_at_most(
            number in 0u32..10_000, count in 1u16..10, regions in 1u32..7, gone in 0usize..20,
        ) {
            let all = nodes(20, regions);
            let mut fewer = all.clone();
            let left = fewer.remove(gone);
            let before = set(&site(number), count, &all);
            let after = set(&site(number), count, &fewer);
            // Only the one that left loses the site, and one takes it over.
            let newly: Vec<_> = after.difference(&before).collect();
            let lost: Vec<_> = before.difference(&after).collect();
            prop_assert!(newly.len() <= 1 && lost.len() <= 1, "{newly:?} {lost:?}");
            if !before.contains(&left.id) {
                prop_assert_eq!(before, after);
            } else {
                prop_assert_eq!(lost, vec![&left.id]);
            }
        }
    }

    #[test]
    fn a_joining_node_takes_its_share_and_no_more() {
        let before = nodes(11, 3);
        let after = nodes(12, 3);
        let sites = 3000;
        let moved = (0..sites)
            .filter(|number| set(&site(*number), 3, &before) != set(&site(*number), 3, &after))
            .count();
        // It is one of four in its region, and every region has one of the three copies.
        let due = sites as usize / 4;
        assert!((due * 8 / 10..due * 12 / 10).contains(&moved), "{moved} of {sites} moved, {due} due");
    }
}
