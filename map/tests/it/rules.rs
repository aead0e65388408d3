//! Rules: listed regions in place of near ones.

use crate::network;
use godwit_core::geo::Coordinates;
use godwit_core::name::RegionName;
use godwit_map::rules::{Area, Rules};
use godwit_map::why::KnownBy;
use godwit_map::{Generation, GeoDb, GeoError, Hosting, Inputs, Service, Source, Tier};
use ipnet::IpNet;
use mmdb_writer::{Value, Writer};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr};

fn regions(names: &[&str]) -> Vec<RegionName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// A service on all six cities.
fn service() -> Inputs {
    let mut inputs = network();
    inputs.sites[0].hosting = Hosting::Service(Service::default());
    inputs.members.iter_mut().for_each(|member| member.held.clear());
    inputs
}

fn rules(prefixes: &[(&str, &[&str])], default: &[&str]) -> Rules {
    let mut rules = Rules::new();
    for (prefix, listed) in prefixes {
        rules.send_prefix(prefix.parse().unwrap(), &regions(listed)).unwrap();
    }
    if !default.is_empty() {
        rules.send_others(regions(default)).unwrap();
    }
    rules
}

fn generation(inputs: &Inputs, rules: Rules) -> Generation {
    Generation::compute(inputs, &GeoDb::by_rules(rules, None).unwrap(), None)
}

#[track_caller]
fn check(generation: &Generation, client: &str, expected: &[&str], scope: u8) {
    let answer = generation.answer(client.parse().unwrap(), "www").unwrap();
    let told: Vec<&str> = answer.v4().map(|(member, _)| member.region.as_str()).collect();
    assert_eq!((told.as_slice(), answer.scope), (expected, scope), "{client}");
}

#[test]
fn the_longest_prefix_decides_and_scopes_merge_what_is_equal() {
    let listed: [(&str, &[&str]); 5] = [
        ("10.0.0.0/8", &["tokyo"]),
        ("10.1.0.0/16", &["paris"]),
        ("10.1.2.0/24", &["tokyo"]),
        ("11.0.0.0/8", &["tokyo", "paris"]),
        ("2001:db8::/32", &["sydney"]),
    ];
    let generation = generation(&service(), rules(&listed, &["frankfurt"]));
    check(&generation, "10.1.0.1", &["paris"], 23);
    check(&generation, "10.1.2.9", &["tokyo"], 24);
    // Two rules with one outcome are one run: 10.128.0.0/9 and beyond.
    check(&generation, "10.128.0.1", &["tokyo"], 9);
    check(&generation, "11.0.0.1", &["tokyo"], 8);
    check(&generation, "2001:db8::1", &["sydney"], 32);
    check(&generation, "192.0.2.1", &["frankfurt"], 1);
    check(&generation, "2001:db9::1", &["frankfurt"], 32);
}

#[test]
fn the_next_region_follows_when_one_is_drained_or_gone() {
    let listed: [(&str, &[&str]); 1] = [("10.0.0.0/8", &["tokyo", "sydney"])];
    let mut inputs = service();
    let at = |inputs: &mut Inputs, region: &str, draining| {
        let members = inputs.members.iter_mut().filter(|member| member.region.as_str() == region);
        members.for_each(|member| member.draining = draining);
    };
    at(&mut inputs, "tokyo", true);
    check(&generation(&inputs, rules(&listed, &["paris"])), "10.0.0.1", &["sydney"], 8);
    at(&mut inputs, "sydney", true);
    check(&generation(&inputs, rules(&listed, &["paris"])), "10.0.0.1", &["paris"], 0);
    at(&mut inputs, "paris", true);
    let others = generation(&inputs, rules(&listed, &["paris"]));
    check(&others, "10.0.0.1", &["frankfurt"], 0);
    inputs.members.iter_mut().for_each(|member| member.draining = true);
    let everybody = generation(&inputs, rules(&listed, &["paris"]));
    check(&everybody, "10.0.0.1", &["tokyo"], 8);
    let ranking = everybody.rank("10.0.0.1".parse().unwrap(), &"www".parse().unwrap()).unwrap();
    assert_eq!(ranking.tier, Tier::Draining);
    assert!(ranking.replicas.iter().all(|replica| replica.source == Source::Rule));
}

#[test]
fn all_of_a_region_are_told_by_name() {
    let mut inputs = service();
    let tokyo = inputs.members.iter().find(|member| member.region.as_str() == "tokyo").unwrap().clone();
    for n in (1..=4u8).rev() {
        let id = godwit_core::key::SecretKey::from_seed(&[100 + n; 32]).public();
        let name = format!("node-tokyo-{n}").parse().unwrap();
        let public_v4 = Some(Ipv4Addr::new(198, 18, 99, n));
        inputs.members.push(godwit_map::MemberInput {
            id,
            name,
            public_v4,
            public_v6: None,
            ..tokyo.clone()
        });
    }
    let listed: [(&str, &[&str]); 1] = [("10.0.0.0/8", &["tokyo"])];
    let generation = generation(&inputs, rules(&listed, &[]));
    let answer = generation.answer("10.0.0.1".parse().unwrap(), "www").unwrap();
    let told: Vec<Ipv4Addr> = answer.v4().map(|(_, address)| address).collect();
    assert_eq!(told[1..], [1, 2, 3, 4].map(|n| Ipv4Addr::new(198, 18, 99, n)));
    assert_eq!((told.len(), answer.v6().count()), (5, 1));
}

#[test]
fn a_service_runs_where_it_is_said_to() {
    let mut inputs = service();
    let member = "node-sydney".parse().unwrap();
    inputs.sites[0].hosting =
        Hosting::Service(Service { regions: regions(&["paris"]), members: vec![member] });
    let listed: [(&str, &[&str]); 2] = [("10.0.0.0/8", &["tokyo", "sydney"]), ("11.0.0.0/8", &["paris"])];
    let generation = generation(&inputs, rules(&listed, &["tokyo"]));
    check(&generation, "10.0.0.1", &["sydney"], 8);
    check(&generation, "11.0.0.1", &["paris"], 8);
    let why = generation.why("10.0.0.1".parse().unwrap(), &"www".parse().unwrap()).unwrap();
    assert_eq!(why.known.by, KnownBy::Rule);
    let site = generation.site_ref("www").unwrap();
    assert_eq!(generation.because(site, "10.0.0.1".parse().unwrap()), (why.because, why.tier));
    assert_eq!(why.known.rule.as_deref(), Some("listed prefix: tokyo, sydney"));
    assert_eq!(why.replicas.len(), 2, "who runs other services is no replica: {why:?}");
}

fn database(records: &[(&str, &str, &str, &str, f64, f64)]) -> tempfile::NamedTempFile {
    let mut writer = Writer::builder("Test-City").description(&[("en", "test")]).build();
    let map = |entries: Vec<(&str, Value)>| {
        Value::Map(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    };
    let text = |text: &str| Value::String(text.to_owned());
    for (network, continent, country, part, lat, lon) in records {
        let record = map(vec![
            ("continent", map(vec![("code", text(continent))])),
            ("country", map(vec![("iso_code", text(country))])),
            ("subdivisions", Value::Array(vec![map(vec![("iso_code", text(part))])])),
            ("location", map(vec![("latitude", Value::Double(*lat)), ("longitude", Value::Double(*lon))])),
        ]);
        writer.insert_value(network.parse::<IpNet>().unwrap(), record).unwrap();
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), writer.to_bytes().unwrap()).unwrap();
    file
}

#[test]
fn areas_of_a_database_decide_the_most_particular_first_and_geography_last() {
    let file = database(&[
        ("10.0.0.0/16", "NA", "US", "CA", 37.0, -122.0),
        ("10.1.0.0/16", "NA", "US", "NY", 40.7, -74.0),
        ("10.2.0.0/16", "NA", "MX", "CMX", 19.4, -99.1),
        ("10.3.0.0/16", "EU", "FR", "IDF", 48.8, 2.3),
        ("2001:db8::/32", "AS", "JP", "13", 35.7, 139.7),
    ]);
    let mut rules = rules(&[("10.3.3.0/24", &["sydney"])], &["frankfurt"]);
    rules.send_area(Area::Subdivision("US-CA".into()), regions(&["tokyo"])).unwrap();
    rules.send_area(Area::Country("US".into()), regions(&["new-york"])).unwrap();
    rules.send_area(Area::Continent("NA".into()), regions(&["sao-paulo"])).unwrap();
    rules.set_geography(true);
    let geo = GeoDb::by_rules(rules, Some(file.path())).unwrap();
    let generation = Generation::compute(&service(), &geo, None);
    check(&generation, "10.0.0.1", &["tokyo"], 16);
    check(&generation, "10.1.0.1", &["new-york"], 16);
    check(&generation, "10.2.0.1", &["sao-paulo"], 16);
    check(&generation, "10.3.0.1", &["paris"], 23);
    check(&generation, "10.3.3.1", &["sydney"], 24);
    check(&generation, "10.4.0.1", &["frankfurt"], 14);
    check(&generation, "2001:db8::1", &["tokyo"], 32);
    assert_eq!(geo.lookup("10.3.0.1".parse().unwrap()).unwrap().1, Coordinates::new(48.8, 2.3).unwrap());
    assert_eq!(geo.lookup("10.0.0.1".parse().unwrap()), None, "under a rule it is nowhere");
}

#[test]
fn rules_for_countries_need_a_database_that_has_countries() {
    let mut writer = Writer::builder("Test").description(&[("en", "test")]).build();
    writer.insert_value("10.0.0.0/8".parse::<IpNet>().unwrap(), Value::Map(Default::default())).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), writer.to_bytes().unwrap()).unwrap();
    let mut rules = Rules::new();
    rules.send_area(Area::Country("US".into()), regions(&["tokyo"])).unwrap();
    assert!(matches!(GeoDb::by_rules(rules, Some(file.path())), Err(GeoError::NoAreas)));
}

proptest! {
    /// Whatever is listed: the region is that of the longest prefix, and whoever is inside the
    /// scope has the same, and whoever is in the next wider one partly has not.
    #[test]
    fn rfc7871_7_2_1_scopes_of_rules_are_sound_and_as_wide_as_can_be(
        listed in prop::collection::btree_map((any::<u32>(), 4u8..=32), 0usize..3, 0..40),
        clients in prop::collection::vec(any::<u32>(), 20),
    ) {
        let names = ["tokyo", "paris", "sydney"];
        let mut rules = Rules::new();
        rules.send_others(regions(&["paris"])).unwrap();
        let mut expected: std::collections::BTreeMap<IpNet, usize> = Default::default();
        for ((address, len), region) in listed {
            let net = IpNet::new(IpAddr::V4(address.into()), len).unwrap().trunc();
            if expected.insert(net, region).is_none() {
                rules.send_prefix(net, &regions(&[names[region]])).unwrap();
            } else {
                expected.remove(&net);
                prop_assume!(false);
            }
        }
        let generation = generation(&service(), rules);
        let model = |client: u32| {
            let nets = expected.iter().filter(|(net, _)| net.contains(&IpAddr::V4(client.into())));
            nets.max_by_key(|(net, _)| net.prefix_len()).map_or("paris", |(_, region)| names[*region])
        };
        // Every place where something changes, and its neighbours, beside random ones.
        let edges = expected.keys().flat_map(|net| {
            let (IpAddr::V4(low), IpAddr::V4(high)) = (net.network(), net.broadcast()) else { return [0; 4] };
            let (low, high) = (u32::from(low), u32::from(high));
            [low, low.wrapping_sub(1), high, high.wrapping_add(1)]
        });
        let all: Vec<u32> = edges.chain(clients).collect();
        let told = |client: u32| {
            let answer = generation.answer(IpAddr::V4(client.into()), "www").unwrap();
            (answer.v4().next().unwrap().0.region.to_string(), answer.scope)
        };
        for client in &all {
            let (region, scope) = told(*client);
            prop_assert_eq!(&region, model(*client));
            let inside = |len: u8| IpNet::new(IpAddr::V4((*client).into()), len).unwrap().trunc();
            for other in all.iter().filter(|other| inside(scope).contains(&IpAddr::V4((**other).into()))) {
                prop_assert_eq!(&told(*other).0, &region, "{} and {} within /{}", client, other, scope);
            }
            if scope > 0 {
                let wider = inside(scope - 1);
                let differs = all.iter().filter(|other| wider.contains(&IpAddr::V4((**other).into())));
                // A change inside the wider prefix begins or ends at an edge, and edges are asked.
                prop_assert!(differs.clone().any(|other| told(*other).0 != region), "{} /{}", client, scope);
            }
        }
    }
}

#[test]
fn fewer_addresses_than_there_are_are_told_by_weight() {
    let mut inputs = service();
    for (member, weight) in inputs.members.iter_mut().zip([300, 100, 100, 0]) {
        member.region = "paris".parse().unwrap();
        member.capacity.weight_percent = Some(weight);
    }
    let mut rules = rules(&[], &["paris"]);
    rules.tell_at_most("paris".parse().unwrap(), 1);
    let map = generation(&inputs, rules.clone());
    let mut counts = std::collections::BTreeMap::<String, u32>::new();
    for client in 0..4000u32 {
        let client = IpAddr::from(Ipv4Addr::from(client << 8 | 0x0a00_0000));
        let answer = map.answer(client, "www").unwrap();
        let told: Vec<_> = answer.v4().map(|(member, _)| member.name.to_string()).collect();
        assert_eq!((told.len(), answer.scope), (1, 24));
        assert_eq!(answer.v6().count(), 1);
        *counts.entry(told[0].clone()).or_default() += 1;
    }
    let near = |name: &str, share: u32| counts.get(name).is_some_and(|count| count.abs_diff(share) < 200);
    assert!(near("node-paris", 2400) && near("node-tokyo", 800) && near("node-sydney", 800), "{counts:?}");
    assert_eq!(counts.len(), 3, "what weighs nothing is told to nobody: {counts:?}");
    // One more than asked for on its own: the next in the list is told too.
    rules.tell_at_most("paris".parse().unwrap(), 2);
    let map = generation(&inputs, rules.clone());
    assert_eq!(map.answer([10, 0, 0, 1].into(), "www").unwrap().v4().count(), 2);
    // As many as there are: all, for everybody, whatever they weigh.
    rules.tell_at_most("paris".parse().unwrap(), 8);
    let answer = generation(&inputs, rules);
    let answer = answer.answer([10, 0, 0, 1].into(), "www").unwrap();
    assert_eq!((answer.v4().count(), answer.scope), (4, 0));
}
