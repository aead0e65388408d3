//! A small share of clients measures for the others.

use super::{CITIES, network};
use godwit_core::geo::Coordinates;
use godwit_core::observation::{ClientRtt, Noise};
use godwit_map::{Because, Exploration, Generation, GeoDb, Health, Inputs};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

/// 10.0.0.0/8 is in Paris: 4096 blocks of /20.
fn geo() -> GeoDb {
    let place = Coordinates::new(CITIES[0].1, CITIES[0].2).unwrap();
    GeoDb::from_networks([("10.0.0.0/8".parse().unwrap(), place)])
}

/// Paris measured 30 ms: Frankfurt may well be better.
fn inputs(epoch: u64, permille: u16) -> Inputs {
    let mut inputs = network();
    let rtt = ClientRtt { samples: 8, ..ClientRtt::new("10.0.0.0/24".parse().unwrap(), 30_000) };
    inputs.observations = vec![(inputs.members[0].id, rtt)];
    inputs.exploration = Some(Exploration { epoch, permille });
    inputs
}

fn compute(inputs: &Inputs) -> Generation {
    Generation::compute(inputs, &geo(), None)
}

/// A client in each block.
fn clients() -> impl Iterator<Item = IpAddr> {
    (0..4096u32).map(|block| Ipv4Addr::from(0x0a00_0000 + (block << 12) + 0x0300 + 7).into())
}

fn told(generation: &Generation, client: IpAddr) -> Vec<String> {
    generation.answer(client, "www").unwrap().v4().map(|(member, _)| member.region.to_string()).collect()
}

/// The clients that are told something else than they would be if nobody explored.
fn explorers(generation: &Generation) -> BTreeSet<IpAddr> {
    let inputs = Inputs { exploration: None, ..generation.inputs().clone() };
    let usual = told(&compute(&inputs), clients().next().unwrap());
    clients().filter(|client| told(generation, *client) != usual).collect()
}

#[test]
fn the_share_explores_and_another_one_in_the_next_epoch() {
    let (one, two) = (explorers(&compute(&inputs(1, 20))), explorers(&compute(&inputs(2, 20))));
    for explorers in [&one, &two] {
        // 2 % of 4096 are 82, for each of at most three candidates.
        assert!((60..330).contains(&explorers.len()), "{}", explorers.len());
    }
    assert!(one.intersection(&two).count() * 5 < one.len());
    assert_eq!(explorers(&compute(&inputs(1, 0))).len(), 0);
}

#[test]
fn who_explores_is_told_why_and_returns() {
    let generation = compute(&inputs(1, 20));
    let explorer = *explorers(&generation).iter().next().unwrap();
    let site = "www".parse().unwrap();
    let why = generation.why(explorer, &site).unwrap();
    assert!(why.explored && !why.kept);
    assert_eq!(why.replicas[0].name.as_str(), told_member(&generation, explorer));
    let site_ref = generation.site_ref("www").unwrap();
    for client in clients().step_by(7).chain([explorer]) {
        let why = generation.why(client, &site).unwrap();
        assert_eq!(generation.because(site_ref, client), (why.because, why.tier), "{client}");
    }
    assert_eq!(generation.because(site_ref, explorer).0, Because::Exploration);
    assert_eq!(told(&generation, explorer).len(), 1, "nobody else, or it would not be measured");
    let after = Generation::compute(&inputs(2, 20), &geo(), Some(&generation));
    assert_eq!(told(&after, explorer)[0], "paris");
    assert!(!after.why(explorer, &site).unwrap().explored);
}

fn told_member(generation: &Generation, client: IpAddr) -> String {
    generation.answer(client, "www").unwrap().v4().next().unwrap().0.name.to_string()
}

#[test]
fn nobody_explores_where_nothing_better_can_be_hoped_for() {
    let mut inputs = inputs(1, 300);
    inputs.observations[0].1.rtt_us = 4_000;
    assert_eq!(explorers(&compute(&inputs)).len(), 0, "light needs longer to Frankfurt and back");
}

#[test]
fn only_healthy_members_with_capacity_to_spare_are_explored() {
    let mut all = inputs(1, 300);
    assert!(!explorers(&compute(&all)).is_empty());
    for member in &mut all.members[1..] {
        member.state = Health::Suspect;
    }
    assert_eq!(explorers(&compute(&all)).len(), 0, "doubted");
    for member in &mut all.members[1..] {
        (member.state, member.load_permille) = (Health::Alive, 800);
    }
    assert_eq!(explorers(&compute(&all)).len(), 0, "busy");
}

#[test]
fn what_was_measured_at_few_moments_is_measured_again_where_times_differ() {
    let explored = |permille: u32, samples: u8| {
        let mut inputs = inputs(1, 300);
        let (paris, frankfurt) = (inputs.members[0].id, inputs.members[5].id);
        let noise = Noise::of(permille);
        let prefix = "10.0.0.0/24".parse().unwrap();
        let rtt = |ms: u32, samples| ClientRtt { samples, noise, ..ClientRtt::new(prefix, ms * 1000) };
        inputs.observations = vec![(paris, rtt(8, 8)), (frankfurt, rtt(11, samples))];
        // The others are further than worth a try.
        inputs.members.retain(|member| member.id == paris || member.id == frankfurt);
        !explorers(&compute(&inputs)).is_empty()
    };
    assert!(!explored(5, 2), "times do not differ");
    assert!(explored(360, 2));
    assert!(!explored(110, 8), "often enough");
}

#[test]
fn scopes_stay_sound_and_wide() {
    let generation = compute(&inputs(1, 20));
    let scopes: Vec<u8> = clients().map(|client| generation.answer(client, "www").unwrap().scope).collect();
    assert!(scopes.iter().all(|scope| *scope <= 20), "a block is a /20");
    for client in clients() {
        let answer = generation.answer(client, "www").unwrap();
        let IpAddr::V4(address) = client else { unreachable!("all are IPv4") };
        // The ends of the scope are told the same.
        let host = u32::MAX.checked_shr(answer.scope.into()).unwrap_or(0);
        for end in [u32::from(address) & !host, u32::from(address) | host] {
            if end & 0xffff_ff00 != 0x0a00_0000 {
                assert_eq!(told(&generation, Ipv4Addr::from(end).into()), told(&generation, client));
            }
        }
    }
}
