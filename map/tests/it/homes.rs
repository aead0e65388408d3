//! Home addresses: which nodes serve a client, in classes, and why.

use crate::{CITIES, network};
use godwit_core::geo::Coordinates;
use godwit_core::key::MemberId;
use godwit_core::name::SiteName;
use godwit_core::observation::ClientRtt;
use godwit_map::{Exclusion, Generation, GeoDb, Health, HomeInput, Inputs, MemberInput, Service};
use std::net::{IpAddr, Ipv4Addr};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));

type Change = (usize, fn(&mut MemberInput));

fn game() -> SiteName {
    "game".parse().unwrap()
}

/// Six nodes, changed, and a home address that those `on` may serve.
fn inputs(on: &[&str], changes: &[Change]) -> Inputs {
    let mut inputs = network();
    // None needs an address of its own, or content.
    for member in &mut inputs.members {
        (member.public_v4, member.public_v6) = (None, None);
        member.held.clear();
    }
    changes.iter().for_each(|(index, change)| change(&mut inputs.members[*index]));
    let members = on.iter().map(|name| name.parse().unwrap()).collect();
    inputs.homes = vec![HomeInput {
        name: game(),
        number: 7,
        v4: Some(Ipv4Addr::new(198, 51, 100, 7)),
        v6: None,
        service: Service { regions: Vec::new(), members },
    }];
    inputs
}

/// Paris, as a database has it.
fn geo() -> GeoDb {
    let (_, lat, lon) = CITIES[0];
    GeoDb::from_networks([("192.0.2.0/24".parse().unwrap(), Coordinates::new(lat, lon).unwrap())])
}

fn generation(inputs: &Inputs) -> Generation {
    Generation::compute(inputs, &geo(), None)
}

/// The classes of a client, by name.
fn classes(inputs: &Inputs, client: IpAddr) -> Vec<Vec<String>> {
    let generation = generation(inputs);
    let ranks = generation.home_ranks("game").unwrap();
    let name =
        |id: &MemberId| generation.member(id).unwrap().name.as_str().trim_start_matches("node-").to_owned();
    let class = |class: &Vec<MemberId>| {
        let mut names: Vec<String> = class.iter().map(name).collect();
        names.sort();
        names
    };
    ranks.classes(client).iter().map(class).collect()
}

#[test]
fn the_nearest_come_first_and_of_strangers_all_are_equal() {
    let near = classes(&inputs(&[], &[]), CLIENT);
    assert_eq!(near[0], ["paris"]);
    assert_eq!(near[1], ["frankfurt"]);
    assert_eq!(near.iter().map(Vec::len).sum::<usize>(), 6);
    let all = ["frankfurt", "new-york", "paris", "sao-paulo", "sydney", "tokyo"];
    assert_eq!(classes(&inputs(&[], &[]), STRANGER), [all]);
}

#[test]
fn what_was_measured_decides_and_equals_form_a_class() {
    let mut inputs = inputs(&[], &[]);
    for (member, ms) in [(0, 80), (1, 20), (2, 21), (3, 22)] {
        let rtt = ClientRtt { samples: 16, ..ClientRtt::new("203.0.113.0/24".parse().unwrap(), ms * 1000) };
        inputs.observations.push((inputs.members[member].id, rtt));
    }
    // Light allows none of it: without a place, nothing forbids.
    inputs.members.iter_mut().for_each(|member| member.place = None);
    let found = classes(&inputs, STRANGER);
    assert_eq!(found[0], ["new-york", "sydney", "tokyo"]);
    assert_eq!(found[1], ["paris"]);
}

#[test]
fn only_those_named_and_the_ruled_out_come_last() {
    let on = ["node-paris", "node-tokyo", "node-sydney"];
    assert_eq!(classes(&inputs(&on, &[]), CLIENT), [["paris"], ["tokyo"], ["sydney"]]);
    let drain: fn(&mut MemberInput) = |m| m.draining = true;
    let full: fn(&mut MemberInput) = |m| m.load_permille = 1000;
    let away: fn(&mut MemberInput) = |m| m.state = Health::Unreachable;
    let revoked: fn(&mut MemberInput) = |m| m.certified = false;
    assert_eq!(classes(&inputs(&on, &[(0, drain)]), CLIENT), [["tokyo"], ["sydney"], ["paris"]]);
    assert_eq!(classes(&inputs(&on, &[(0, drain), (1, full)]), CLIENT), [["sydney"], ["tokyo"], ["paris"]]);
    assert_eq!(classes(&inputs(&on, &[(0, away), (1, drain)]), CLIENT), [["sydney"], ["tokyo"], ["paris"]]);
    assert_eq!(classes(&inputs(&on, &[(0, revoked)]), CLIENT), [["tokyo"], ["sydney"]]);
    // With nobody better they are taken as they are.
    assert_eq!(classes(&inputs(&on, &[(0, drain), (1, drain), (2, drain)]), STRANGER)[0].len(), 3);
}

#[test]
fn what_is_taken_back_is_gone_and_ranks_that_do_not_change_are_the_same() {
    let mut inputs = inputs(&[], &[]);
    let first = generation(&inputs);
    inputs.number += 1;
    let second = Generation::compute(&inputs, &geo(), Some(&first));
    let ranks = |generation: &Generation| generation.home_ranks("game").unwrap().clone();
    assert!(std::sync::Arc::ptr_eq(&ranks(&first), &ranks(&second)));
    inputs.members[0].draining = true;
    let third = Generation::compute(&inputs, &geo(), Some(&second));
    assert!(!std::sync::Arc::ptr_eq(&ranks(&second), &ranks(&third)));
    assert_eq!(Inputs::from_bytes(&inputs.to_bytes()), Ok(inputs.clone()));
    inputs.homes[0].v4 = None;
    let fourth = Generation::compute(&inputs, &geo(), Some(&third));
    assert!(fourth.home("game").is_none() && fourth.why_home(CLIENT, &game()).is_none());
}

#[test]
fn why_tells_the_home_address_and_who_was_ruled_out() {
    let inputs = inputs(&["node-paris", "node-tokyo"], &[(0, |m| m.draining = true)]);
    let why = generation(&inputs).why_home(CLIENT, &game()).unwrap();
    assert_eq!(why.home, [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7))]);
    assert_eq!(why.first_told().unwrap().name.as_str(), "node-tokyo");
    let paris = why.replicas.iter().find(|replica| replica.name.as_str() == "node-paris").unwrap();
    assert_eq!((paris.rank, paris.excluded_because), (None, Some(Exclusion::Draining)));
    assert_eq!(why.replicas.len(), 2, "who may not serve it has no place here");
}
