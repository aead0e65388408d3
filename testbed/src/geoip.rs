//! The GeoIP database of a topology: no public one knows the addresses of a testbed.
//!
//! It has the form of GeoLite2-City, so the redirector reads it as it reads any. Real databases are
//! wrong for a part of the prefixes; `wrong_percent` puts that share of the client prefixes into
//! another region's city, to show what measurements repair.

use crate::address::{self, Side};
use crate::topology::Topology;
use anyhow::Context;
use mmdb_writer::{Value, Writer};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;

/// The database as bytes. `loopback` says which form of addresses the hosts have.
pub fn database(
    topology: &Topology,
    seed: u64,
    wrong_percent: f64,
    loopback: bool,
) -> anyhow::Result<Vec<u8>> {
    let description = [("en", "Places of the hosts of a godwit testbed")];
    let mut writer = Writer::builder("GeoLite2-City").description(&description).build();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let regions = topology.regions.len();
    let wrong = wrong_regions(regions, wrong_percent, &mut rng);
    for region in 0..regions {
        let claimed = match wrong.contains(&region) {
            true => (region + rng.random_range(1..regions)) % regions,
            false => region,
        };
        for (side, place) in [(Side::Member, region), (Side::Client, claimed)] {
            for prefix in address::prefixes(side, region as u8, loopback) {
                let value = city(topology, place);
                writer.insert_value(prefix, value).with_context(|| format!("cannot place {prefix}"))?;
            }
        }
    }
    writer.to_bytes().context("cannot write the GeoIP database")
}

/// As many as the share says, rounded; none when there is no other city to be wrong with.
fn wrong_regions(regions: usize, percent: f64, rng: &mut impl Rng) -> BTreeSet<usize> {
    if regions < 2 {
        return BTreeSet::new();
    }
    let mut order: Vec<usize> = (0..regions).collect();
    order.shuffle(rng);
    order.truncate((regions as f64 * percent / 100.0).round() as usize);
    order.into_iter().collect()
}

fn city(topology: &Topology, region: usize) -> Value {
    let region = &topology.regions[region];
    let map = |entries: Vec<(&str, Value)>| {
        Value::Map(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    };
    let name = map(vec![("en", Value::String(region.name.clone()))]);
    let location = map(vec![
        ("latitude", Value::Double(region.place.lat())),
        ("longitude", Value::Double(region.place.lon())),
        ("accuracy_radius", Value::U16(50)),
    ]);
    map(vec![("city", map(vec![("names", name)])), ("location", location)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_reads_the_database() {
        let options = crate::UpOptions { client_regions: 4, ..crate::UpOptions::default() };
        let topology = Topology::build(&options).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        for loopback in [false, true] {
            std::fs::write(file.path(), database(&topology, 1, 0.0, loopback).unwrap()).unwrap();
            let geo = godwit_map::GeoDb::open(file.path()).unwrap();
            for host in &topology.hosts {
                let v4 =
                    crate::address::of_host_on_loopback(host.role.side(), host.region as u8, host.number);
                let addresses = match loopback {
                    true => vec![std::net::IpAddr::V4(v4)],
                    false => vec![host.addr4.into(), host.addr6.into()],
                };
                for address in addresses {
                    let (_, place) = geo.lookup(address).unwrap();
                    assert_eq!(place, topology.regions[host.region].place, "{address}");
                }
            }
            assert!(geo.lookup("8.8.8.8".parse().unwrap()).is_none());
        }
    }

    #[test]
    fn a_wrong_client_prefix_is_somewhere_else_and_members_never_are() {
        let topology = Topology::build(&crate::UpOptions::default()).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), database(&topology, 1, 100.0, false).unwrap()).unwrap();
        let geo = godwit_map::GeoDb::open(file.path()).unwrap();
        for host in &topology.hosts {
            let (_, place) = geo.lookup(host.addr4.into()).unwrap();
            let right = place == topology.regions[host.region].place;
            assert_eq!(right, host.role != crate::topology::Role::Client, "{}", host.name);
        }
    }

    #[test]
    fn share_of_wrong_regions_is_exact() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        assert_eq!(wrong_regions(10, 30.0, &mut rng).len(), 3);
        assert_eq!(wrong_regions(10, 0.0, &mut rng).len(), 0);
        assert_eq!(wrong_regions(1, 100.0, &mut rng).len(), 0);
    }
}
