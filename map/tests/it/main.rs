//! The map from outside: databases in, answers out.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod capacity;
mod choice;
mod explore;
mod export;
mod geo;
mod homes;
mod region;
mod resolver;
mod rules;
mod scope;

use godwit_core::certificate::{Role, Serial};
use godwit_core::content::VersionNumber;
use godwit_core::geo::Coordinates;
use godwit_core::key::SecretKey;
use godwit_map::{Health, Inputs, MemberInput, SiteInput};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Six cities and where they are.
pub(crate) const CITIES: [(&str, f64, f64); 6] = [
    ("paris", 48.857, 2.352),
    ("tokyo", 35.690, 139.692),
    ("sydney", -33.869, 151.209),
    ("new-york", 40.713, -74.006),
    ("sao-paulo", -23.551, -46.633),
    ("frankfurt", 50.110, 8.682),
];

/// A healthy node in city `n` that holds version 1 of `www`.
pub(crate) fn node(n: usize) -> MemberInput {
    let (city, lat, lon) = CITIES[n];
    MemberInput {
        id: SecretKey::from_seed(&[n as u8; 32]).public(),
        serial: Serial(n as u64),
        name: format!("node-{city}").parse().unwrap(),
        region: city.parse().unwrap(),
        place: Some(Coordinates::new(lat, lon).unwrap()),
        roles: vec![Role::Node],
        state: Health::Alive,
        draining: false,
        ready: true,
        load_permille: 100,
        capacity: Default::default(),
        public_v4: Some(Ipv4Addr::new(198, 18, n as u8, 1)),
        public_v6: Some(Ipv6Addr::new(0xfd67, 0x7764, 0x1000 + n as u16, 0, 0, 0, 0, 1)),
        http_port: Some(80),
        held: vec![("www".parse().unwrap(), VersionNumber(1))],
        peer_rtts: Vec::new(),
        certified: true,
        checks: Vec::new(),
    }
}

/// All six with the site `www` at version 1.
pub(crate) fn network() -> Inputs {
    let site = SiteInput::published("www".parse().unwrap(), VersionNumber(1));
    Inputs {
        number: 1,
        members: (0..CITIES.len()).map(node).collect(),
        sites: vec![site],
        ..Inputs::new("edge.example.org".parse().unwrap())
    }
}
