//! GeoIP databases: sound ones are read exactly, broken ones are refused.

use godwit_core::geo::Coordinates;
use godwit_map::{GeoDb, GeoError};
use ipnet::IpNet;
use mmdb_writer::{Value, Writer};
use proptest::prelude::*;
use std::net::IpAddr;
use std::path::PathBuf;

/// The shared test databases; `None`, loudly, where they are not.
fn shared() -> Option<PathBuf> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let root = std::env::var_os("GODWIT_SHARED").map_or_else(|| PathBuf::from(root), PathBuf::from);
    let geoip = root.join("data/geoip");
    if !geoip.is_dir() {
        eprintln!("SKIPPED: the MaxMind test databases are not in {} (set GODWIT_SHARED)", geoip.display());
        return None;
    }
    Some(geoip)
}

fn place(lat: f64, lon: f64) -> Coordinates {
    Coordinates::new(lat, lon).unwrap()
}

fn written(networks: &[(IpNet, Coordinates)]) -> Vec<u8> {
    let mut writer = Writer::builder("Test-City").description(&[("en", "test")]).build();
    for (network, place) in networks {
        let degrees = [("latitude", place.lat()), ("longitude", place.lon())];
        let location = degrees.map(|(key, value)| (key.to_owned(), Value::Double(value)));
        let record = [("location".to_owned(), Value::Map(location.into_iter().collect()))];
        writer.insert_value(*network, Value::Map(record.into_iter().collect())).unwrap();
    }
    writer.to_bytes().unwrap()
}

#[test]
fn every_network_of_the_city_database_is_where_its_source_says() {
    let Some(geoip) = shared() else { return };
    let geo = GeoDb::open(&geoip.join("GeoLite2-City-Test.mmdb")).unwrap();
    let source = std::fs::read_to_string(geoip.join("GeoLite2-City-Test.csv")).unwrap();
    let mut checked = 0;
    for line in source.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let network: IpNet = fields[0].parse().unwrap();
        let (Ok(lat), Ok(lon)) = (fields[3].parse(), fields[4].parse()) else { continue };
        let (found, coordinates) = geo.lookup(network.addr()).unwrap_or_else(|| panic!("{line}"));
        assert_eq!(coordinates, place(lat, lon), "{line}");
        assert!(found.contains(&network), "{line}: {found} is narrower");
        checked += 1;
    }
    assert!(checked > 200, "only {checked} lines");
    assert_eq!(geo.lookup("0.0.0.1".parse().unwrap()), None);
}

#[test]
fn databases_of_every_shape_are_read_or_refused() {
    let Some(geoip) = shared() else { return };
    let mut read = Vec::new();
    for entry in std::fs::read_dir(&geoip).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match GeoDb::open(&path) {
            Ok(_) => read.push(name),
            Err(GeoError::NoPlaces) => assert!(!name.contains("City") && !name.contains("roken"), "{name}"),
            // Those called MaxMind-DB hold plain texts where a City database has records.
            Err(GeoError::Damaged(why)) => assert!(
                ["roken", "Invalid", "csv", "MaxMind-DB"].iter().any(|part| name.contains(part)),
                "{name}: {why}"
            ),
            Err(other) => panic!("{name}: {other}"),
        }
    }
    read.sort();
    assert_eq!(read, ["GeoIP2-City-Test.mmdb", "GeoIP2-Enterprise-Test.mmdb", "GeoLite2-City-Test.mmdb"]);
}

#[test]
fn a_missing_file_is_a_clear_error() {
    let missing = GeoDb::open(std::path::Path::new("no/such.mmdb"));
    assert!(matches!(missing, Err(GeoError::Read(path, _)) if path == "no/such.mmdb"));
}

#[test]
fn neighbours_of_one_place_are_one_run() {
    let here = place(1.0, 2.0);
    let networks: Vec<(IpNet, Coordinates)> =
        ["10.0.0.0/9", "10.128.0.0/10", "10.192.0.0/10", "2001:db8::/33", "2001:db8:8000::/33"]
            .map(|network| (network.parse().unwrap(), here))
            .to_vec();
    for geo in [GeoDb::from_networks(networks.clone()), GeoDb::from_bytes(written(&networks)).unwrap()] {
        let check = |address: &str, expected: Option<&str>| {
            let found = geo.lookup(address.parse().unwrap());
            assert_eq!(found, expected.map(|net| (net.parse().unwrap(), here)), "{address}");
        };
        check("10.200.1.1", Some("10.0.0.0/8"));
        check("9.255.255.255", None);
        check("11.0.0.0", None);
        check("2001:db8:ffff::1", Some("2001:db8::/32"));
        check("2001:db9::", None);
        assert_eq!(geo.places(), 1);
    }
}

#[test]
fn damaged_copies_are_refused_or_read_but_never_panic() {
    let networks: Vec<(IpNet, Coordinates)> = (0..200u8)
        .map(|n| (format!("10.{n}.0.0/16").parse().unwrap(), place(f64::from(n) / 3.0, f64::from(n) - 100.0)))
        .collect();
    let sound = written(&networks);
    proptest!(ProptestConfig::with_cases(300), |(at in 0..sound.len(), bits in 1u8.., cut in 0..sound.len())| {
        let mut damaged = sound.clone();
        damaged[at] ^= bits;
        if let Ok(geo) = GeoDb::from_bytes(damaged) {
            geo.lookup("10.7.0.1".parse::<IpAddr>().unwrap());
        }
        prop_assert!(GeoDb::from_bytes(sound[..cut].to_vec()).is_err());
    });
}

#[test]
fn databases_that_say_the_same_have_one_digest() {
    let place = |lat| Coordinates::new(lat, 2.4).unwrap();
    let net = |text: &str| text.parse::<ipnet::IpNet>().unwrap();
    let digest = |networks: &[(&str, f64)]| {
        GeoDb::from_networks(networks.iter().map(|(text, lat)| (net(text), place(*lat)))).digest()
    };
    let whole = digest(&[("192.0.2.0/24", 48.9), ("2001:db8::/32", 35.7)]);
    let halves = [("192.0.2.128/25", 48.9), ("192.0.2.0/25", 48.9), ("2001:db8::/32", 35.7)];
    assert_eq!(digest(&halves), whole, "cut otherwise, and places numbered otherwise");
    assert_ne!(digest(&[("192.0.2.0/24", 48.9), ("2001:db8::/32", 35.8)]), whole);
    assert_ne!(digest(&[("192.0.2.0/25", 48.9), ("2001:db8::/32", 35.7)]), whole);
    assert_ne!(digest(&[]), whole);
}
