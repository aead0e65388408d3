//! Who owns a flow: a pure function, the same at every home agent.
//!
//! The map ranks the nodes for a client: classes of equals, the best first. Of the first class that
//! has a usable node, the one with the highest score for the client's row is the owner (rendezvous
//! hashing; Thaler and Ravishankar 1998). A node that leaves moves its own rows only, and one that
//! joins takes only what becomes its own. With a handful of nodes in a class that is a handful of
//! multiplications for a packet, so nothing is stored.

use super::Row;
use crate::key::MemberId;
use crate::random::mix;

/// The owner of `row` among `ranked`, classes of equals with the best first.
///
/// `usable` says whether new flows may go to a node. The order within a class does not matter.
pub fn owner<'a>(
    ranked: impl IntoIterator<Item = &'a [MemberId]>,
    row: Row,
    mut usable: impl FnMut(&MemberId) -> bool,
) -> Option<MemberId> {
    ranked.into_iter().find_map(|class| {
        let nodes = class.iter().filter(|member| usable(member));
        nodes.max_by_key(|member| (score(row, member), **member)).copied()
    })
}

/// Two owners of a row: the one for new flows, and the one that flows from before may be at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owners {
    /// Gets the packet.
    pub now: MemberId,
    /// Gets it from there if the flow is unknown there (the second chance of GLB and Beamer).
    pub before: Option<MemberId>,
}

impl Owners {
    /// From the owner under the present choice and under the one before it.
    pub fn of(now: Option<MemberId>, before: Option<MemberId>) -> Option<Owners> {
        let now = now.or(before)?;
        Some(Owners { now, before: before.filter(|before| *before != now) })
    }
}

/// How a tunnel's header names a member: sixteen bits of its key, never 0, which stands for nobody.
///
/// The members that serve a home address are few, and each knows the others; where two of them have the
/// same number, neither is named, and their flows have no second chance.
pub fn number(member: &MemberId) -> u16 {
    let bytes = member.as_bytes();
    u16::from_le_bytes([bytes[8], bytes[9]]).max(1)
}

fn score(row: Row, member: &MemberId) -> u64 {
    let bytes = member.as_bytes();
    let name = u64::from_le_bytes(bytes[..8].try_into().expect("eight of thirty-two"));
    mix(row.0 ^ mix(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::HomeAddress;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    fn member(n: u32) -> MemberId {
        MemberId::from_bytes(blake3::hash(&n.to_le_bytes()).into())
    }

    fn rows(count: u32) -> impl Iterator<Item = Row> {
        let home = HomeAddress("192.0.2.1".parse().unwrap());
        (0..count).map(move |n| Row::of(home, Ipv4Addr::from(n << 8).into()))
    }

    #[test]
    fn a_client_network_goes_as_one_and_networks_are_shared_out() {
        let home = HomeAddress("2001:db8::1".parse().unwrap());
        let row = |client: &str| Row::of(home, client.parse().unwrap());
        assert_eq!(row("203.0.113.4"), row("203.0.113.200"));
        assert_ne!(row("203.0.113.4"), row("203.0.114.4"));
        assert_eq!(row("2001:db8:1::5"), row("2001:db8:1:ffff::9"));
        assert_ne!(row("2001:db8:1::5"), row("2001:db8:2::5"));
        assert_ne!(
            row("203.0.113.4"),
            Row::of(HomeAddress("2001:db8::2".parse().unwrap()), "203.0.113.4".parse().unwrap())
        );
        let class: Vec<MemberId> = (0..10).map(member).collect();
        let mut shares: BTreeMap<MemberId, usize> = BTreeMap::new();
        for row in rows(20_000) {
            *shares.entry(owner([&class[..]], row, |_| true).unwrap()).or_default() += 1;
        }
        assert!(
            shares.len() == 10 && shares.values().all(|share| (1800..2200).contains(share)),
            "{shares:?}"
        );
    }

    #[test]
    fn classes_come_in_order_and_without_nodes_there_is_no_owner() {
        let (near, far) = ([member(1), member(2)], [member(3)]);
        let row = rows(1).next().unwrap();
        let ranked = || [&near[..], &far[..]];
        assert!(near.contains(&owner(ranked(), row, |_| true).unwrap()));
        assert_eq!(owner(ranked(), row, |m| *m == member(3)), Some(member(3)));
        assert_eq!(owner(ranked(), row, |_| false), None);
        assert_eq!(owner([], row, |_| true), None);
    }

    #[test]
    fn numbers_name_somebody() {
        let numbers: std::collections::BTreeSet<u16> = (0..100).map(|n| number(&member(n))).collect();
        assert!(numbers.len() >= 99 && !numbers.contains(&0));
        assert_eq!(number(&MemberId::from_bytes([0; 32])), 1);
    }

    #[test]
    fn the_second_chance_is_the_owner_before() {
        let (a, b) = (member(1), member(2));
        assert_eq!(Owners::of(Some(a), Some(b)), Some(Owners { now: a, before: Some(b) }));
        assert_eq!(Owners::of(Some(a), Some(a)), Some(Owners { now: a, before: None }));
        assert_eq!(Owners::of(None, Some(b)), Some(Owners { now: b, before: None }));
        assert_eq!(Owners::of(None, None), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_change_moves_only_what_it_must(count in 2u32..20, gone in 0u32..20, turn in 0usize..20) {
            let class: Vec<MemberId> = (0..count).map(member).collect();
            let mut turned = class.clone();
            turned.rotate_left(turn % class.len());
            let gone = member(gone % count);
            for row in rows(200) {
                let before = owner([&class[..]], row, |_| true).unwrap();
                prop_assert_eq!(owner([&turned[..]], row, |_| true), Some(before));
                let after = owner([&class[..]], row, |m| *m != gone).unwrap();
                prop_assert!(before == gone || after == before);
            }
        }
    }
}
