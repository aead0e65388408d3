//! Names of regions: whom they name, and why.

use crate::{CITIES, network, node};
use godwit_core::health::Agreed;
use godwit_map::{CheckInput, Exclusion, Generation, GeoDb, Health, Inputs, MemberInput, Tier};

type Change = (usize, fn(&mut MemberInput));

/// Four nodes in Paris, changed.
fn paris(changes: &[Change]) -> Inputs {
    let mut inputs = network();
    inputs.members = (0..4)
        .map(|n| MemberInput {
            name: format!("n{n}").parse().unwrap(),
            region: CITIES[0].0.parse().unwrap(),
            ..node(n)
        })
        .collect();
    changes.iter().for_each(|(index, change)| change(&mut inputs.members[*index]));
    inputs
}

/// Whom clients are told of, all of them together, by name.
fn told(inputs: &Inputs) -> Vec<String> {
    let generation = Generation::compute(inputs, &GeoDb::empty(), None);
    let mut told: Vec<String> = (0..64u8)
        .flat_map(|net| {
            let answer = generation.region_answer([net, 0, 0, 1].into(), "paris").unwrap();
            answer.v4().map(|(member, _)| member.name.to_string()).collect::<Vec<_>>()
        })
        .collect();
    told.sort();
    told.dedup();
    told
}

fn fails(member: &mut MemberInput, site: Option<&str>) {
    let sites = site.map(|site| site.parse().unwrap()).into_iter().collect();
    let name = "web".parse().unwrap();
    member.checks = vec![CheckInput { name, state: Agreed::Down, why: None, sites }];
}

#[test]
fn a_region_names_those_that_may_serve() {
    let check = |changes: &[Change], expected: &[&str]| assert_eq!(told(&paris(changes)), expected);
    let down: fn(&mut MemberInput) = |m| fails(m, None);
    let drain: fn(&mut MemberInput) = |m| m.draining = true;
    let away: fn(&mut MemberInput) = |m| m.state = Health::Unreachable;
    check(&[], &["n0", "n1", "n2", "n3"]);
    check(&[(0, down)], &["n1", "n2", "n3"]);
    check(&[(0, drain), (3, down)], &["n1", "n2"]);
    check(&[(1, away), (2, |m| m.ready = false)], &["n0", "n3"]);
    // A check of one site says nothing about the region.
    check(&[(0, |m| fails(m, Some("www")))], &["n0", "n1", "n2", "n3"]);
    // Monitors keep out at most half, and are not believed when they object to everybody.
    assert_eq!(told(&paris(&[(0, down), (1, down), (2, down)])).len(), 2);
    check(&[(0, down), (1, down), (2, down), (3, down)], &["n0", "n1", "n2", "n3"]);
    check(&[(0, drain), (1, drain), (2, drain), (3, drain)], &["n0", "n1", "n2", "n3"]);
}

#[test]
fn why_tells_of_a_region_who_was_turned_down() {
    let inputs = paris(&[(0, |m| fails(m, None)), (1, |m| m.draining = true)]);
    let generation = Generation::compute(&inputs, &GeoDb::empty(), None);
    let client = [192, 0, 2, 1].into();
    let why = generation.why_region(client, "paris").unwrap();
    assert_eq!((why.region.as_ref().unwrap().as_str(), why.tier), ("paris", Tier::Healthy));
    let answer = generation.region_answer(client, "paris").unwrap();
    assert_eq!(why.first_told().unwrap().name, answer.v4().next().unwrap().0.name);
    let excluded = |name: &str| {
        let found = why.replicas.iter().find(|replica| replica.name.as_str() == name).unwrap();
        (found.rank, found.excluded_because)
    };
    assert_eq!(excluded("n0"), (None, Some(Exclusion::Failing)));
    assert_eq!(excluded("n1"), (None, Some(Exclusion::Draining)));
    assert!(excluded("n2").0.is_some() && excluded("n3").0.is_some());
    assert!(generation.why_region(client, "mars").is_none());
}
