//! What probing resolvers found: for whom it decides, and for whom it does not.

use super::{CITIES, network};
use godwit_core::geo::Coordinates;
use godwit_core::observation::{Age, ClientRtt};
use godwit_map::{Generation, GeoDb, Inputs, KnownBy, Source};
use ipnet::IpNet;
use std::net::IpAddr;

const PARIS: usize = 0;
const TOKYO: usize = 1;
const FRANKFURT: usize = 5;

/// Twelve prefixes of which the database says that they are in Tokyo.
fn geo() -> GeoDb {
    let tokyo = Coordinates::new(CITIES[TOKYO].1, CITIES[TOKYO].2).unwrap();
    GeoDb::from_networks((0..12).map(|n| (prefix(n), tokyo)))
}

fn prefix(n: u8) -> IpNet {
    format!("203.0.{n}.0/24").parse().unwrap()
}

fn rtt(n: u8, ms: u32) -> ClientRtt {
    ClientRtt { samples: 8, ..ClientRtt::new(prefix(n), ms * 1000) }
}

fn first(inputs: &Inputs, n: u8) -> (String, Source, KnownBy) {
    let generation = Generation::compute(inputs, &geo(), None);
    let client = IpAddr::from([203, 0, n, 53]);
    let why = generation.why(client, &"www".parse().unwrap()).unwrap();
    let told = why.first_told().unwrap();
    let (answered, _) = generation.answer(client, "www").unwrap().v4().next().unwrap();
    assert_eq!(answered.name, told.name, "why and answer agree");
    (told.region.to_string(), told.source, why.known.by)
}

/// Inputs in which members (by city) probed a resolver of prefix 1.
fn probed(found: &[(usize, u32)]) -> Inputs {
    let mut inputs = network();
    inputs.probed = found.iter().map(|(city, ms)| (inputs.members[*city].id, rtt(1, *ms))).collect();
    inputs
}

#[test]
fn a_resolver_is_led_by_what_was_probed_where_the_database_is_wrong() {
    let inputs = probed(&[(PARIS, 4), (FRANKFURT, 11), (TOKYO, 230)]);
    assert_eq!(first(&inputs, 1), ("paris".into(), Source::Resolver, KnownBy::Resolver));
    // Nobody else of its place is moved, nor told that anything was measured.
    assert_eq!(first(&inputs, 2), ("tokyo".into(), Source::Geography, KnownBy::Geography));
}

#[test]
fn what_was_probed_never_speaks_for_the_place() {
    // Eleven resolvers in Tokyo are found near Paris; a twelfth prefix has clients of its own.
    let mut inputs = network();
    let (paris, frankfurt) = (inputs.members[PARIS].id, inputs.members[FRANKFURT].id);
    for n in 0..11 {
        inputs.probed.extend([(paris, rtt(n, 4)), (frankfurt, rtt(n, 11))]);
    }
    assert_eq!(first(&inputs, 11), ("tokyo".into(), Source::Geography, KnownBy::Geography));
    // The same times from connections do.
    inputs.observations = std::mem::take(&mut inputs.probed);
    let (_, source, _) = first(&inputs, 11);
    assert_ne!(source, Source::Resolver);
}

#[test]
fn the_scope_of_neighbours_excludes_the_resolver() {
    let inputs = probed(&[(PARIS, 4), (FRANKFURT, 11), (TOKYO, 230)]);
    let generation = Generation::compute(&inputs, &geo(), None);
    for n in [0u8, 2, 3] {
        let client = IpAddr::from([203, 0, n, 7]);
        let scope = generation.answer(client, "www").unwrap().scope;
        let net = IpNet::new(client, scope).unwrap();
        assert!(!net.contains(&IpAddr::from([203, 0, 1, 53])), "{net} would take the resolver along");
    }
    let scope = generation.answer(IpAddr::from([203, 0, 1, 53]), "www").unwrap().scope;
    assert!(scope >= 24, "what holds for the resolver holds for its prefix at the widest: {scope}");
}

#[test]
fn connections_weigh_more_than_probes_until_they_are_old() {
    let mut inputs = probed(&[(PARIS, 4), (FRANKFURT, 11), (TOKYO, 230)]);
    let (paris, frankfurt) = (inputs.members[PARIS].id, inputs.members[FRANKFURT].id);
    let served =
        |age| [(paris, ClientRtt { age, ..rtt(1, 40) }), (frankfurt, ClientRtt { age, ..rtt(1, 15) })];
    inputs.observations = served(Age::Hours).to_vec();
    assert_eq!(first(&inputs, 1), ("frankfurt".into(), Source::Observed, KnownBy::Observation));
    inputs.observations = served(Age::Day).to_vec();
    assert_eq!(first(&inputs, 1), ("paris".into(), Source::Resolver, KnownBy::Resolver));
}

#[test]
fn a_liar_is_held_to_light_and_an_address_in_several_places_counts_for_nothing() {
    // New York claims 1 ms beside three who agree about Paris: light says 50 at the least.
    let new_york = 3;
    let lying = probed(&[(PARIS, 4), (FRANKFURT, 11), (TOKYO, 230), (new_york, 1)]);
    assert_eq!(first(&lying, 1).0, "paris");
    // Everybody has it next door.
    let anycast = probed(&[(PARIS, 2), (TOKYO, 2), (2, 2), (new_york, 2), (4, 2)]);
    assert_eq!(first(&anycast, 1), ("tokyo".into(), Source::Geography, KnownBy::Geography));
}

#[test]
fn redirectors_that_heard_the_same_in_another_order_tell_the_same() {
    let found = [(PARIS, 14), (FRANKFURT, 11), (TOKYO, 230), (3, 80)];
    let mut turned = found;
    turned.reverse();
    let one = Generation::compute(&probed(&found), &geo(), None);
    let other = Generation::compute(&probed(&turned), &geo(), None);
    assert_eq!(one.inputs().to_bytes(), other.inputs().to_bytes());
    let saved = Inputs::from_bytes(&one.inputs().to_bytes()).unwrap();
    assert_eq!(saved.probed.len(), 4, "kept for the next start");
}
