//! Exported files say what the map says.

use crate::network;
use godwit_core::name::RegionName;
use godwit_map::rules::Rules;
use godwit_map::{Generation, GeoDb, Hosting, Service, export};
use ipnet::IpNet;
use std::net::IpAddr;

fn generation() -> Generation {
    let mut inputs = network();
    inputs.sites[0].hosting = Hosting::Service(Service::default());
    let mut rules = Rules::new();
    let list = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<RegionName>>();
    rules.send_others(list(&["frankfurt", "paris"])).unwrap();
    for (prefix, region) in [
        ("10.0.0.0/8", "tokyo"),
        ("10.1.0.0/16", "paris"),
        ("192.0.2.128/25", "sydney"),
        ("2001:db8::/32", "sydney"),
        ("2400::/12", "tokyo"),
    ] {
        rules.send_prefix(prefix.parse().unwrap(), &list(&[region])).unwrap();
    }
    Generation::compute(&inputs, &GeoDb::by_rules(rules, None).unwrap(), None)
}

fn clients() -> Vec<IpAddr> {
    [
        "10.0.0.1",
        "10.1.0.1",
        "10.2.0.1",
        "192.0.2.1",
        "192.0.2.129",
        "0.0.0.0",
        "255.255.255.255",
        "2001:db8::1",
        "2400::1",
        "2410::1",
        "ffff::",
    ]
    .map(|client| client.parse().unwrap())
    .to_vec()
}

fn region(generation: &Generation, client: IpAddr) -> String {
    let answer = generation.answer(client, "www").unwrap();
    answer.v4().next().unwrap().0.region.to_string()
}

#[test]
fn nets_are_disjoint_and_say_what_the_map_says() {
    let generation = generation();
    let exported = export::gdnsd_nets(&generation, &"www".parse().unwrap()).unwrap();
    let nets: Vec<(IpNet, &str)> = exported
        .content
        .lines()
        .map(|line| {
            let (net, list) = line.split_once(" => [ ").unwrap();
            (net.parse().unwrap(), list.split([',', ' ']).next().unwrap())
        })
        .collect();
    assert_eq!(nets.len(), exported.prefixes);
    assert!(nets.windows(2).all(|pair| !pair[0].0.contains(&pair[1].0) && pair[0].0 != pair[1].0));
    for client in clients() {
        let found: Vec<&str> =
            nets.iter().filter(|(net, _)| net.contains(&client)).map(|(_, dc)| *dc).collect();
        assert_eq!(found, [region(&generation, client)], "{client}");
    }
    assert!(exported.content.contains("10.1.0.0/16 => [ paris, frankfurt, "), "{}", exported.content);
    assert!(export::gdnsd_nets(&generation, &"none".parse().unwrap()).is_none());
}

#[test]
fn a_database_is_read_back() {
    let generation = generation();
    let exported = export::mmdb(&generation, &"www".parse().unwrap()).unwrap();
    let reader = maxminddb::Reader::from_source(exported.content).unwrap();
    reader.verify().unwrap();
    for client in clients() {
        let found = reader.lookup(client).unwrap();
        let key = |key| [maxminddb::PathElement::Key(key)];
        let told: Option<String> = found.decode_path(&key("region")).unwrap();
        assert_eq!(told, Some(region(&generation, client)), "{client}");
        let addresses: Vec<String> = found.decode_path(&key("addresses")).unwrap().unwrap();
        let answer = generation.answer(client, "www").unwrap();
        let expected = answer.v4().map(|(_, address)| address.to_string());
        let expected: Vec<String> =
            expected.chain(answer.v6().map(|(_, address)| address.to_string())).collect();
        assert_eq!(addresses, expected, "{client}");
        let scope = found.network().unwrap().prefix();
        assert!(scope >= answer.scope, "{client}: /{scope} is wider than the answer holds");
    }
}

#[test]
fn divided_clients_are_counted() {
    // Without rules and without a database nothing is known of anybody.
    let generation = Generation::compute(&network(), &GeoDb::empty(), None);
    let exported =
        export::knot_subnets(&generation, &"www".parse().unwrap(), "www.edge.example.org.").unwrap();
    assert_eq!((exported.prefixes, exported.divided), (2, 2));
    assert!(exported.content.starts_with("www.edge.example.org.:\n  - net: 0.0.0.0/0\n    A: [ "));
}
