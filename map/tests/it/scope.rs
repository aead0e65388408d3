//! The scope of an answer is sound: whoever is inside it is told the same.

use super::{CITIES, network};
use godwit_core::geo::Coordinates;
use godwit_core::observation::ClientRtt;
use godwit_map::{DemandInput, Generation, GeoDb, Health, Inputs};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Some of the 16 top bits of addresses only, so that networks, observations and clients meet.
fn v4() -> impl Strategy<Value = Ipv4Addr> {
    (0u32..4, any::<u32>()).prop_map(|(top, low)| Ipv4Addr::from(top << 30 | low & 0x0003_07ff))
}

fn v6() -> impl Strategy<Value = Ipv6Addr> {
    (0u128..4, 0u128..64, any::<u64>())
        .prop_map(|(top, middle, low)| Ipv6Addr::from(top << 126 | middle << 78 | u128::from(low)))
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![v4().prop_map(IpAddr::from), v6().prop_map(IpAddr::from)]
}

fn networks() -> impl Strategy<Value = Vec<(IpNet, usize)>> {
    let v4 = (v4(), 0u8..=32).prop_map(|(at, len)| IpNet::from(Ipv4Net::new_assert(at, len).trunc()));
    let v6 = (v6(), 0u8..=128).prop_map(|(at, len)| IpNet::from(Ipv6Net::new_assert(at, len).trunc()));
    prop::collection::vec((prop_oneof![v4, v6], 0..CITIES.len()), 0..24)
}

fn geo(networks: Vec<(IpNet, usize)>) -> GeoDb {
    // Networks of a database do not overlap: the first of two that do is kept.
    let mut kept: Vec<(IpNet, usize)> = Vec::new();
    for (net, city) in networks {
        if kept.iter().all(|(other, _)| !other.contains(&net) && !net.contains(other)) {
            kept.push((net, city));
        }
    }
    let at = |city: usize| Coordinates::new(CITIES[city].1, CITIES[city].2).unwrap();
    GeoDb::from_networks(kept.into_iter().map(|(net, city)| (net, at(city))))
}

fn observations() -> impl Strategy<Value = Vec<(usize, IpNet, u32)>> {
    let prefix = address()
        .prop_map(|address| IpNet::new_assert(address, if address.is_ipv4() { 24 } else { 48 }).trunc());
    prop::collection::vec((0..CITIES.len(), prefix, 1000u32..400_000), 0..24)
}

fn inputs(observations: Vec<(usize, IpNet, u32)>, health: &[u8]) -> Inputs {
    let mut inputs = network();
    for (member, health) in inputs.members.iter_mut().zip(health) {
        match health {
            0 => member.state = Health::Unreachable,
            1 => member.draining = true,
            2 => member.public_v6 = None,
            3 => member.place = None,
            _ => {}
        }
    }
    // Some members have a capacity, and what is observed asks for something: so places are divided.
    for (member, (capacity, health)) in
        inputs.members.iter_mut().zip([2, 5, 9, 3, 7, 4].into_iter().zip(health))
    {
        member.capacity.rps = (health % 2 == 0).then_some(capacity);
    }
    for (member, net, rtt) in &observations {
        let rate = rtt % 9000;
        inputs.demands.push(DemandInput {
            member: inputs.members[(member + 1) % CITIES.len()].id,
            total_mrps: u64::from(rate) * 3,
            prefixes: vec![(*net, rate)],
            sites: Vec::new(),
        });
    }
    inputs.observations = observations
        .into_iter()
        .map(|(member, net, rtt)| (inputs.members[member].id, ClientRtt::new(net, rtt)))
        .collect();
    inputs
}

type Told = (Vec<Ipv4Addr>, Vec<Ipv6Addr>);

fn told(generation: &Generation, client: IpAddr) -> (Told, u8) {
    let answer = generation.answer(client, "www").unwrap();
    let told = (answer.v4().map(|(_, a)| a).collect(), answer.v6().map(|(_, a)| a).collect());
    (told, answer.scope)
}

/// An address that shares the first `scope` bits of `client` and takes the rest from `noise`.
fn within(client: IpAddr, scope: u8, noise: u128) -> IpAddr {
    match client {
        IpAddr::V4(address) => {
            let host = u32::MAX.checked_shr(scope.into()).unwrap_or(0);
            Ipv4Addr::from(u32::from(address) & !host | noise as u32 & host).into()
        }
        IpAddr::V6(address) => {
            let host = u128::MAX.checked_shr(scope.into()).unwrap_or(0);
            Ipv6Addr::from(u128::from(address) & !host | noise & host).into()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn rfc7871_7_2_1_whoever_is_inside_the_scope_is_told_the_same(
        networks in networks(),
        past in observations(),
        present in observations(),
        health in prop::collection::vec(0u8..12, CITIES.len()),
        clients in prop::collection::vec((address(), prop::collection::vec(any::<u128>(), 6)), 12),
    ) {
        let geo = geo(networks);
        let before = Generation::compute(&inputs(past, &[]), &geo, None);
        let after = Generation::compute(&inputs(present.clone(), &health), &geo, Some(&before));
        for generation in [&before, &after] {
            for (client, noise) in &clients {
                let (expected, scope) = told(generation, *client);
                prop_assert!(!expected.0.is_empty());
                // Random addresses inside, both ends, and whatever was observed or is in the
                // database there.
                let ends = [0, u128::MAX];
                let inside = noise.iter().chain(&ends).map(|noise| within(*client, scope, *noise));
                let marks = present.iter().map(|(_, net, _)| net.addr()).filter(|mark| {
                    IpNet::new_assert(*client, scope).contains(mark)
                });
                for other in inside.chain(marks) {
                    prop_assert_eq!(&told(generation, other).0, &expected, "{} in {}/{}", other, client, scope);
                }
            }
        }
    }

    /// The full ranking begins with what the client is told, for every client.
    #[test]
    fn the_ranking_begins_with_the_answer(
        networks in networks(),
        observations in observations(),
        health in prop::collection::vec(0u8..12, CITIES.len()),
        clients in prop::collection::vec(address(), 12),
    ) {
        let generation = Generation::compute(&inputs(observations, &health), &geo(networks), None);
        for client in clients {
            let answer = generation.answer(client, "www").unwrap();
            let ranking = generation.rank(client, &"www".parse().unwrap()).unwrap();
            let site = generation.site_ref("www").unwrap();
            let choice = generation.choose(site, client);
            prop_assert!(choice.key.index() < generation.choices(site).len());
            prop_assert!(generation.told(site, choice).v6().eq(answer.v6()), "{:?}", choice);
            let told: Vec<_> = answer.v4().map(|(member, _)| member.id).collect();
            let ranked: Vec<_> = ranking.replicas.iter().take(told.len()).map(|r| r.member).collect();
            prop_assert_eq!(ranked, told);
            prop_assert_eq!(ranking.scope, answer.scope);
        }
    }
}
