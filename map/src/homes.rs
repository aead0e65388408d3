//! Home addresses: for each client the nodes that serve one, in classes of equals.
//!
//! A name tells a client one home address for ever; what changes is which node its packets are
//! passed to. Home agents ask here, for each packet, so the answer is compiled like that of names: a
//! binary search over runs of addresses. It differs from what names are told in three things:
//!
//! - *Classes.* Nodes that are not materially worse than the best of their class are equals; a home
//!   agent divides clients among them by hashing, the same at every home agent
//!   (`godwit_core::flow::select`), and only among those that are bound to it.
//! - *Everybody is in it.* Those that the rules rule out stand in the last classes, the least bad
//!   first: whoever is bound is better than nobody.
//! - *A node needs no public address*: the tunnel finds it.
//!
//! Health, drain, load and the budget of monitors count as for sites; content does not.

use crate::division::Division;
use crate::eligible::Exclusion;
use crate::estimate::materially_better;
use crate::geo::{Place, PlaceId, Point};
use crate::index::Indexed;
use crate::inputs::{Inputs, Service};
use crate::knowledge::Knowledge;
use crate::locality::Locality;
use crate::overlay::{Block, overlay};
use godwit_core::key::MemberId;
use godwit_core::name::SiteName;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What is known of the name of a home address. Without an address it was taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HomeInput {
    /// The name.
    pub name: SiteName,
    /// The sequence of its grant.
    pub number: u64,
    /// The IPv4 address, if there is one.
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 address, if there is one.
    pub v6: Option<Ipv6Addr>,
    /// Who may serve it.
    pub service: Service,
}

impl HomeInput {
    /// Whether there is a home address.
    pub fn is_granted(&self) -> bool {
        self.v4.is_some() || self.v6.is_some()
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let (v4, v6) = (self.v4.map(IpAddr::V4), self.v6.map(IpAddr::V6));
        v4.into_iter().chain(v6)
    }
}

/// The nodes of one home address in classes, for every client.
#[derive(Debug, PartialEq)]
pub struct HomeRanks {
    /// The distinct lists of classes.
    lists: Vec<Vec<Vec<MemberId>>>,
    /// Runs of their numbers.
    v4: Indexed<u32, u32>,
    v6: Indexed<u128, u32>,
}

impl HomeRanks {
    /// Classes of equals, best first, for a client: an IPv4 one as IPv4. One search; nothing is
    /// allocated.
    pub fn classes(&self, client: IpAddr) -> &[Vec<MemberId>] {
        let (number, _) = match client {
            IpAddr::V4(address) => self.v4.get(address.into()),
            IpAddr::V6(address) => self.v6.get(address.into()),
        };
        self.lists.get(number as usize).map_or(&[], Vec::as_slice)
    }

    /// Compiles the classes of `members`, who may serve, and of those ruled out.
    pub(crate) fn compile(
        inputs: &Inputs,
        knowledge: &Knowledge,
        division: &Division,
        members: &[u32],
        ruled_out: &[Vec<u32>],
    ) -> HomeRanks {
        let mut numbers: BTreeMap<Vec<Vec<u32>>, u32> = BTreeMap::new();
        let mut at = |locality| {
            let mut classes = classes_at(inputs, knowledge, division, members, locality);
            classes.extend_from_slice(ruled_out);
            let next = numbers.len() as u32;
            *numbers.entry(classes).or_insert(next)
        };
        // Whatever the prefix: nothing is known of any such client.
        let unknown = at(Locality::Unknown(IpNet::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED))));
        let places: Vec<u32> = knowledge
            .geo
            .whole()
            .iter()
            .map(|place| match place {
                Place::Point(Point { coordinates, .. }) => at(Locality::Place(*coordinates)),
                Place::Rule(rule) => at(Locality::Rule(*rule)),
            })
            .collect();
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for prefix in knowledge.observed.prefixes() {
            let value = at(Locality::Prefix(prefix));
            match prefix {
                IpNet::V4(net) => v4.push(Block::new(u32::from(net.network()), net.prefix_len(), value)),
                IpNet::V6(net) => v6.push(Block::new(u128::from(net.network()), net.prefix_len(), value)),
            }
        }
        let value = |place: PlaceId| places.get(place.index()).copied().unwrap_or(unknown);
        let v4 = Indexed::new(overlay(knowledge.geo.v4(), value, &v4));
        let v6 = Indexed::new(overlay(knowledge.geo.v6(), value, &v6));
        let id = |member: &u32| inputs.members[*member as usize].id;
        let ids = |class: &Vec<u32>| class.iter().map(id).collect();
        let mut lists = vec![Vec::new(); numbers.len()];
        for (classes, number) in &numbers {
            lists[*number as usize] = classes.iter().map(ids).collect();
        }
        HomeRanks { lists, v4, v6 }
    }
}

/// Those who may serve the clients of a locality, in classes.
pub(crate) fn classes_at(
    inputs: &Inputs,
    knowledge: &Knowledge,
    division: &Division,
    members: &[u32],
    locality: Locality,
) -> Vec<Vec<u32>> {
    if members.is_empty() {
        return Vec::new();
    }
    if let Locality::Rule(_) = locality {
        let ruled = knowledge.ruled(inputs, members, locality);
        return by_rank(ruled.into_iter().map(|(rank, member)| (rank as u64, member)), |a, b| a == b);
    }
    let order = match locality {
        Locality::Unknown(_) => Vec::new(),
        _ => knowledge.order_at(inputs, members, locality),
    };
    if order.iter().all(|candidate| candidate.estimate.rtt_us.is_none()) {
        return vec![members.to_vec()];
    }
    let cost = |member: u32, rtt_us: Option<u32>| rtt_us.map(|us| us.saturating_add(division.price(member)));
    let mut costs: Vec<(u64, u32)> = order
        .iter()
        .map(|candidate| {
            // Those of whom nothing can be said are no equals of the others.
            let cost = cost(candidate.member, candidate.estimate.rtt_us);
            (cost.map_or(u64::MAX, u64::from), candidate.member)
        })
        .collect();
    costs.sort_unstable();
    by_rank(costs.into_iter(), |best, other| match u32::try_from(other) {
        Ok(other) => !materially_better(u32::try_from(best).unwrap_or(u32::MAX), other),
        Err(_) => best == other,
    })
}

/// Puts those together that are as good as the first of their class; each class in the order of
/// numbers, so that equal classes are equal.
fn by_rank(ranked: impl Iterator<Item = (u64, u32)>, equal: impl Fn(u64, u64) -> bool) -> Vec<Vec<u32>> {
    let mut classes: Vec<(u64, Vec<u32>)> = Vec::new();
    for (rank, member) in ranked {
        match classes.last_mut() {
            Some((best, class)) if equal(*best, rank) => class.push(member),
            _ => classes.push((rank, vec![member])),
        }
    }
    let sorted = |(_, mut class): (u64, Vec<u32>)| {
        class.sort_unstable();
        class
    };
    classes.into_iter().map(sorted).collect()
}

/// Those ruled out, in classes, the least bad first; not those who never may.
pub(crate) fn ruled_out(excluded: impl Iterator<Item = (u32, Exclusion)>) -> Vec<Vec<u32>> {
    use Exclusion::{
        Draining, Failing, Full, NoAddress, NotANode, NotHeld, NotItsService, NotReady, Stale, Uncertified,
        Unheard, Unreachable,
    };
    let badness = |exclusion| match exclusion {
        Full => Some(0),
        Draining => Some(1),
        // Vantages and peers may err; whether packets reach it the home agent sees itself.
        Failing => Some(2),
        Unreachable | Unheard => Some(3),
        NotReady => Some(4),
        NotHeld | Stale | NoAddress | NotANode | NotItsService | Uncertified => None,
    };
    let mut ranked: Vec<(u64, u32)> =
        excluded.filter_map(|(member, exclusion)| Some((badness(exclusion)?, member))).collect();
    ranked.sort_unstable();
    by_rank(ranked.into_iter(), |a, b| a == b)
}
