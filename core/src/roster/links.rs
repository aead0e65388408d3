//! With whom to be connected.
//!
//! Up to [`Timing::mesh_max`] members everyone is connected with everyone. In a larger network each
//! member connects to its successors on a ring (which keeps the graph in one piece) and to a few
//! others picked by a hash of the pair (which keeps it shallow): about ten connections each, of
//! which half were made by the other side. The choice is a function of who is a member, so that it
//! is the same after a restart, changes little when somebody comes or goes, and can be computed for
//! others too ([`Links::linked`]).

use crate::key::MemberId;
use crate::member::Timing;
use crate::random::mix;
use std::collections::BTreeSet;

/// The members, this one included, placed on a ring.
#[derive(Clone, Debug, Default)]
pub(crate) struct Links {
    ring: Vec<(u64, MemberId)>,
    mesh_max: usize,
    ring_neighbours: usize,
    random_neighbours: usize,
}

impl Links {
    pub(crate) fn new(members: impl IntoIterator<Item = MemberId>, timing: &Timing) -> Links {
        let mut ring: Vec<(u64, MemberId)> =
            members.into_iter().map(|member| (place(member), member)).collect();
        ring.sort_unstable();
        ring.dedup();
        Links {
            ring,
            mesh_max: timing.mesh_max,
            ring_neighbours: timing.ring_neighbours,
            random_neighbours: timing.random_neighbours,
        }
    }

    /// To whom `member` connects.
    pub(crate) fn chosen_by(&self, member: MemberId) -> BTreeSet<MemberId> {
        let others = || self.ring.iter().filter(move |(_, other)| *other != member);
        if self.ring.len() <= self.mesh_max {
            return others().map(|(_, other)| *other).collect();
        }
        let own = place(member);
        let start = self.ring.partition_point(|(place, _)| *place <= own);
        let successors = self.ring[start..].iter().chain(&self.ring[..start]).map(|(_, other)| *other);
        let mut chosen: BTreeSet<MemberId> =
            successors.filter(|other| *other != member).take(self.ring_neighbours).collect();
        let mut random: Vec<(u64, MemberId)> =
            others().map(|(place, other)| (mix(own ^ place.rotate_left(32)), *other)).collect();
        random.sort_unstable();
        chosen.extend(random.into_iter().take(self.random_neighbours).map(|(_, other)| other));
        chosen
    }

    /// Whether one of the two connects to the other.
    pub(crate) fn linked(&self, a: MemberId, b: MemberId) -> bool {
        self.ring.len() <= self.mesh_max || self.chosen_by(a).contains(&b) || self.chosen_by(b).contains(&a)
    }
}

/// Where a member stands on the ring.
fn place(member: MemberId) -> u64 {
    let hash = blake3::hash(member.as_bytes());
    let mut place = [0; 8];
    place.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn members(count: u16) -> Vec<MemberId> {
        (0..count)
            .map(|n| {
                let mut bytes = [0; 32];
                bytes[..2].copy_from_slice(&n.to_le_bytes());
                MemberId::from_bytes(bytes)
            })
            .collect()
    }

    fn reached(links: &Links, members: &[MemberId]) -> usize {
        let mut edges: BTreeMap<MemberId, BTreeSet<MemberId>> = BTreeMap::new();
        for member in members {
            for other in links.chosen_by(*member) {
                edges.entry(*member).or_default().insert(other);
                edges.entry(other).or_default().insert(*member);
            }
        }
        let (mut seen, mut next) = (BTreeSet::new(), vec![members[0]]);
        while let Some(member) = next.pop() {
            if seen.insert(member) {
                next.extend(edges[&member].iter().copied());
            }
        }
        seen.len()
    }

    #[test]
    fn a_small_network_is_a_mesh_and_a_large_one_is_bounded_and_in_one_piece() {
        let timing = Timing::default();
        let small = members(32);
        let links = Links::new(small.clone(), &timing);
        assert_eq!(links.chosen_by(small[3]).len(), 31);

        let large = members(300);
        let links = Links::new(large.clone(), &timing);
        assert_eq!(reached(&links, &large), 300);
        let mut incoming: BTreeMap<MemberId, usize> = BTreeMap::new();
        for member in &large {
            let chosen = links.chosen_by(*member);
            assert!((3..=5).contains(&chosen.len()) && !chosen.contains(member));
            for other in chosen {
                assert!(links.linked(*member, other) && links.linked(other, *member));
                *incoming.entry(other).or_default() += 1;
            }
        }
        assert!(incoming.values().all(|count| *count <= 20), "{:?}", incoming.values().max());
    }
}
