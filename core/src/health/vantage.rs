//! From where a member is checked.
//!
//! Rendezvous hashing over the pair of target and vantage: everybody who knows the same members
//! picks the same vantages, nobody is asked, and when a vantage goes only its own place is filled
//! again. Distinct regions come first: three members of one data centre see its uplink fail at the
//! same time, and are one vantage in truth.

use crate::key::MemberId;
use crate::name::RegionName;
use crate::random::mix;

/// So many vantages check one target: two make a majority, so that neither one liar nor one vantage
/// with a bad path decides.
pub const VANTAGES: usize = 3;

/// A member that may be a vantage: in reach, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub id: MemberId,
    /// Where it is.
    pub region: RegionName,
}

/// At most `count` of `candidates` that check `target`, best first. Never `target` itself.
pub fn vantages(target: MemberId, candidates: &[Candidate], count: usize) -> Vec<MemberId> {
    let mut chosen: Vec<&Candidate> = Vec::with_capacity(count);
    while chosen.len() < count {
        let known = |candidate: &Candidate| chosen.iter().any(|other| other.id == candidate.id);
        let here =
            |candidate: &Candidate| chosen.iter().filter(|other| other.region == candidate.region).count();
        let open = candidates.iter().filter(|candidate| candidate.id != target && !known(candidate));
        let Some(next) =
            open.min_by_key(|candidate| (here(candidate), score(target, candidate.id), candidate.id))
        else {
            break;
        };
        chosen.push(next);
    }
    chosen.into_iter().map(|candidate| candidate.id).collect()
}

fn score(target: MemberId, vantage: MemberId) -> u64 {
    mix(part(target) ^ mix(part(vantage)).rotate_left(17))
}

/// Keys are uniform, so that a part of one is as good as a hash of it.
fn part(member: MemberId) -> u64 {
    let mut part = [0; 8];
    part.copy_from_slice(&member.as_bytes()[..8]);
    u64::from_le_bytes(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn member(n: usize) -> MemberId {
        crate::key::SecretKey::from_seed(&[n as u8; 32]).public()
    }

    fn candidates(count: usize, regions: usize) -> Vec<Candidate> {
        (0..count)
            .map(|n| Candidate { id: member(n), region: format!("r{}", n % regions).parse().unwrap() })
            .collect()
    }

    #[test]
    fn regions_are_distinct_where_there_are_enough_and_nobody_checks_itself() {
        let all = candidates(24, 6);
        for target in &all {
            let chosen = vantages(target.id, &all, VANTAGES);
            let region = |id: &MemberId| &all.iter().find(|c| c.id == *id).unwrap().region;
            let mut regions: Vec<_> = chosen.iter().map(region).collect();
            regions.sort();
            regions.dedup();
            assert_eq!((chosen.len(), regions.len()), (3, 3));
            assert!(!chosen.contains(&target.id));
        }
        let two = candidates(2, 1);
        assert_eq!(vantages(two[0].id, &two, VANTAGES), [two[1].id]);
        assert_eq!(vantages(two[0].id, &two[..1], VANTAGES), []);
    }

    #[test]
    fn order_does_not_matter_and_a_leaver_moves_only_its_own_place() {
        let all = candidates(24, 6);
        let mut reversed = all.clone();
        reversed.reverse();
        let gone = all[7].id;
        let left: Vec<_> = all.iter().filter(|c| c.id != gone).cloned().collect();
        let mut moved = 0;
        for target in all.iter().filter(|c| c.id != gone) {
            let before = vantages(target.id, &all, VANTAGES);
            assert_eq!(before, vantages(target.id, &reversed, VANTAGES));
            let after = vantages(target.id, &left, VANTAGES);
            let kept = before.iter().filter(|id| after.contains(id)).count();
            if before.contains(&gone) {
                assert!(kept >= 1, "{before:?} {after:?}");
                moved += 1;
            } else {
                assert_eq!(before, after);
            }
        }
        assert!(moved > 0);
    }

    #[test]
    fn the_work_is_spread() {
        let all = candidates(60, 6);
        let mut work: BTreeMap<MemberId, usize> = BTreeMap::new();
        for target in &all {
            for vantage in vantages(target.id, &all, VANTAGES) {
                *work.entry(vantage).or_default() += 1;
            }
        }
        // 180 checks over 60 members: 3 in the mean.
        assert!(work.values().all(|count| *count <= 12), "{:?}", work.values().max());
        assert!(work.len() >= 50, "{} vantages", work.len());
    }
}
