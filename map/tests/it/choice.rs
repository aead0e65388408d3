//! Which replica a client is told, and why.

use super::{CITIES, network, node};
use godwit_core::content::VersionNumber;
use godwit_core::geo::Coordinates;
use godwit_core::observation::{ClientRtt, Noise};
use godwit_map::{DemandInput, Exclusion, Generation, GeoDb, Health, Inputs, Source, Tier};
use ipnet::IpNet;
use std::net::IpAddr;

/// Clients of city `n` have 203.0.n.0/24 and 2001:db8:n::/48.
fn geo() -> GeoDb {
    GeoDb::from_networks(CITIES.iter().enumerate().flat_map(|(n, (_, lat, lon))| {
        let place = Coordinates::new(*lat, *lon).unwrap();
        let nets: [IpNet; 2] =
            [format!("203.0.{n}.0/24").parse().unwrap(), format!("2001:db8:{n}::/48").parse().unwrap()];
        nets.map(|net| (net, place))
    }))
}

fn client(city: usize) -> IpAddr {
    IpAddr::from([203, 0, city as u8, 77])
}

/// The first replica told to a client of `city`, over both families.
fn first(generation: &Generation, client: IpAddr) -> String {
    let answer = generation.answer(client, "www").unwrap();
    let (v4, _) = answer.v4().next().unwrap();
    let (v6, _) = answer.v6().next().unwrap();
    assert_eq!(v4.id, v6.id);
    let ranking = generation.rank(client, &"www".parse().unwrap()).unwrap();
    assert_eq!(ranking.replicas[0].member, v4.id, "rank and answer agree");
    v4.region.to_string()
}

fn compute(inputs: &Inputs, previous: Option<&Generation>) -> Generation {
    Generation::compute(inputs, &geo(), previous)
}

#[test]
fn without_measurements_the_nearest_replica_is_told() {
    let generation = compute(&network(), None);
    for (n, (city, ..)) in CITIES.iter().enumerate() {
        assert_eq!(first(&generation, client(n)), *city);
        assert_eq!(first(&generation, format!("2001:db8:{n}::5").parse().unwrap()), *city);
    }
}

#[test]
fn observed_times_overrule_geography() {
    let mut inputs = network();
    let (paris, frankfurt) = (inputs.members[0].id, inputs.members[5].id);
    let prefix: IpNet = "203.0.0.0/24".parse().unwrap();
    inputs.observations =
        vec![(paris, ClientRtt::new(prefix, 80_000)), (frankfurt, ClientRtt::new(prefix, 12_000))];
    let generation = compute(&inputs, None);
    assert_eq!(first(&generation, client(0)), "frankfurt");
    let ranking = generation.rank(client(0), &"www".parse().unwrap()).unwrap();
    assert_eq!(ranking.replicas[0].rtt_estimate_us, Some(12_000));
    assert_eq!(ranking.replicas[0].source, Source::Observed);
}

#[test]
fn an_observation_of_a_stranger_or_of_a_wide_prefix_counts_for_nothing() {
    let mut inputs = network();
    let stranger = node(0);
    let paris = inputs.members[0].id;
    inputs.members[5].certified = false;
    inputs.observations = vec![
        (
            godwit_core::key::PublicKey::from_bytes([9; 32]),
            ClientRtt::new("203.0.1.0/24".parse().unwrap(), 1),
        ),
        (inputs.members[5].id, ClientRtt::new("203.0.1.0/24".parse().unwrap(), 1)),
        (paris, ClientRtt::new("203.0.0.0/16".parse().unwrap(), 1)),
        (paris, ClientRtt::new("203.0.1.0/25".parse().unwrap(), 1)),
        (paris, ClientRtt::new("0.0.0.0/0".parse().unwrap(), 1)),
    ];
    assert_eq!(stranger.id, paris);
    assert_eq!(first(&compute(&inputs, None), client(1)), "tokyo");
}

#[test]
fn times_between_members_overrule_distance_for_clients_near_one_of_them() {
    // Paris is drained; its clients are told of São Paulo, not of New York or Frankfurt, because
    // that is what the member in Paris measured.
    let mut inputs = network();
    inputs.members[0].draining = true;
    let to = |n: usize, ms: u32| (node(n).id, ms * 1000);
    inputs.members[0].peer_rtts = vec![to(1, 250), to(2, 280), to(3, 140), to(4, 110), to(5, 160)];
    assert_eq!(first(&compute(&inputs, None), client(0)), "sao-paulo");
}

#[test]
fn the_larger_of_two_claims_between_members_counts() {
    let mut inputs = network();
    inputs.members[0].draining = true;
    let to = |n: usize, ms: u32| (node(n).id, ms * 1000);
    inputs.members[0].peer_rtts = vec![to(3, 120), to(4, 200), to(5, 12)];
    // São Paulo claims to be next door.
    inputs.members[4].peer_rtts = vec![to(0, 1)];
    assert_eq!(first(&compute(&inputs, None), client(0)), "frankfurt");
}

#[test]
fn who_serves_clients_keeps_them_until_another_is_materially_better() {
    let prefix: IpNet = "203.0.0.0/24".parse().unwrap();
    let told = |paris: u32, frankfurt: u32, served_by: Option<usize>| {
        let mut inputs = network();
        let ids = (inputs.members[0].id, inputs.members[5].id);
        inputs.observations = [(ids.0, paris), (ids.1, frankfurt)]
            .map(|(id, rtt)| (id, ClientRtt { samples: 8, ..ClientRtt::new(prefix, rtt) }))
            .to_vec();
        let demand = |member: usize| DemandInput {
            member: inputs.members[member].id,
            total_mrps: 900,
            prefixes: vec![(prefix, 900)],
            sites: Vec::new(),
        };
        inputs.demands = served_by.into_iter().map(demand).collect();
        let generation = compute(&inputs, None);
        let why = generation.why(client(0), &"www".parse().unwrap()).unwrap();
        (first(&generation, client(0)), why.kept)
    };
    let (paris, frankfurt) = (Some(0), Some(5));
    assert_eq!(told(20_000, 25_000, None), ("paris".into(), false));
    assert_eq!(told(21_000, 19_500, paris), ("paris".into(), true), "within 2 ms or 10 %");
    assert_eq!(told(24_000, 19_500, paris), ("frankfurt".into(), false));
    assert_eq!(told(20_000, 20_500, frankfurt), ("frankfurt".into(), true), "no flapping back");
    assert_eq!(told(20_000, 20_500, None), ("paris".into(), false));
    assert_eq!(told(20_000, 22_000, frankfurt), ("frankfurt".into(), true));
    assert_eq!(told(20_000, 22_001, frankfurt), ("paris".into(), false));
    assert_eq!(told(100_000, 110_000, frankfurt), ("frankfurt".into(), true));
    assert_eq!(told(100_000, 110_001, frankfurt), ("paris".into(), false));
}

#[test]
fn who_serves_a_place_keeps_also_those_of_it_of_whom_nothing_is_told() {
    let place = Coordinates::new(CITIES[0].1, CITIES[0].2).unwrap();
    let nets: [IpNet; 2] = ["203.0.0.0/24", "198.51.100.0/24"].map(|net| net.parse().unwrap());
    let geo = GeoDb::from_networks(nets.map(|net| (net, place)));
    let told = |served: bool| {
        let mut inputs = told_of_paris(&[(0, 21), (5, 20)]);
        let paris = inputs.members[0].id;
        let demand =
            DemandInput { member: paris, total_mrps: 900, prefixes: vec![(nets[0], 900)], sites: Vec::new() };
        inputs.demands = Some(demand).filter(|_| served).into_iter().collect();
        first(&Generation::compute(&inputs, &geo, None), nets[1].addr())
    };
    assert_eq!((told(false), told(true)), ("frankfurt".into(), "paris".into()));
}

#[test]
fn nobody_is_moved_for_a_difference_that_moments_make() {
    let prefix: IpNet = "203.0.0.0/24".parse().unwrap();
    let told = |permille: u32| {
        let mut inputs = told_of_paris(&[(0, 60), (5, 40)]);
        let noise = Noise::of(permille);
        inputs.observations.iter_mut().for_each(|(_, rtt)| rtt.noise = noise);
        let member = inputs.members[0].id;
        inputs.demands =
            vec![DemandInput { member, total_mrps: 900, prefixes: vec![(prefix, 900)], sites: Vec::new() }];
        first(&compute(&inputs, None), client(0))
    };
    assert_eq!((told(10), told(850)), ("frankfurt".into(), "paris".into()));
}

#[test]
fn networks_that_a_database_has_in_one_wrong_place_measure_for_each_other() {
    // Ten networks of Tokyo and ten of Paris, all in Paris by the database. Of Tokyo's all were measured by
    // Paris, and two by Tokyo as well.
    let place = Coordinates::new(CITIES[0].1, CITIES[0].2).unwrap();
    let net = |n: u8| -> IpNet { format!("198.51.{n}.0/24").parse().unwrap() };
    let geo = GeoDb::from_networks((0..20).map(|n| (net(n), place)));
    let mut inputs = network();
    let (paris, tokyo) = (inputs.members[0].id, inputs.members[1].id);
    let rtt = |n, ms: u32| ClientRtt { samples: 4, ..ClientRtt::new(net(n), ms * 1000) };
    inputs.observations = (0..20).map(|n| (paris, rtt(n, if n < 10 { 230 } else { 6 }))).collect();
    inputs.observations.extend([(tokyo, rtt(0, 5)), (tokyo, rtt(1, 6))]);
    let generation = Generation::compute(&inputs, &geo, None);
    for n in 0..20 {
        assert_eq!(first(&generation, net(n).addr()), if n < 10 { "tokyo" } else { "paris" }, "{n}");
    }
}

#[test]
fn only_materially_equal_replicas_are_told_together() {
    let prefix: IpNet = "203.0.0.0/24".parse().unwrap();
    let mut inputs = network();
    let times = [200_000, 205_000, 209_000, 210_000, 230_000, 290_000];
    inputs.observations =
        times.iter().zip(&inputs.members).map(|(rtt, m)| (m.id, ClientRtt::new(prefix, *rtt))).collect();
    let generation = compute(&inputs, None);
    let told: Vec<String> =
        generation.answer(client(0), "www").unwrap().v4().map(|(m, _)| m.region.to_string()).collect();
    assert_eq!(told, ["paris", "tokyo", "sydney"], "three at most, the best first");
    inputs.observations.truncate(1);
    inputs.observations.push((inputs.members[5].id, ClientRtt::new(prefix, 225_000)));
    let answer = compute(&inputs, None);
    assert_eq!(answer.answer(client(0), "www").unwrap().v4().count(), 1);
}

#[test]
fn dead_drained_and_stale_replicas_are_left_out() {
    let nearest_to_paris = |change: fn(&mut Inputs)| {
        let mut inputs = network();
        change(&mut inputs);
        first(&compute(&inputs, None), client(0))
    };
    assert_eq!(nearest_to_paris(|i| i.members[0].state = Health::Unreachable), "frankfurt");
    assert_eq!(nearest_to_paris(|i| i.members[0].state = Health::Suspect), "paris");
    assert_eq!(nearest_to_paris(|i| i.members[0].draining = true), "frankfurt");
    assert_eq!(nearest_to_paris(|i| i.members[0].load_permille = 1000), "frankfurt");
    assert_eq!(nearest_to_paris(|i| i.members[0].certified = false), "frankfurt");
    let version_2_in_tokyo = |i: &mut Inputs| {
        i.sites[0].number = VersionNumber(2);
        i.members[1].held[0].1 = VersionNumber(2);
    };
    assert_eq!(nearest_to_paris(version_2_in_tokyo), "tokyo", "the only one with the current version");
    assert_eq!(nearest_to_paris(|i| i.sites[0].number = VersionNumber(2)), "paris", "nobody has it yet");
}

#[test]
fn an_answer_is_never_empty_while_there_is_a_node() {
    let mut inputs = network();
    let before = compute(&inputs, None);
    for member in &mut inputs.members {
        member.state = Health::Unreachable;
        member.ready = false;
    }
    let after = compute(&inputs, Some(&before));
    for city in 0..CITIES.len() {
        assert_eq!(first(&after, client(city)), first(&before, client(city)));
    }
    let why = after.why(client(0), &"www".parse().unwrap()).unwrap();
    assert_eq!(why.tier, Tier::Static);
    inputs.members.clear();
    assert!(compute(&inputs, Some(&after)).answer(client(0), "www").unwrap().is_empty());
}

#[test]
fn unknown_clients_stay_where_they_are_when_another_replica_goes() {
    let unknown = |n: u8, host: u8| IpAddr::from([192, 0, n, host]);
    let inputs = network();
    let before = compute(&inputs, None);
    let mut without = inputs.clone();
    without.members[2].state = Health::Unreachable;
    let after = compute(&without, Some(&before));
    let mut told = std::collections::BTreeSet::new();
    for n in 0..=255 {
        let choice = first(&before, unknown(n, 1));
        assert_eq!(choice, first(&before, unknown(n, 200)), "one /24, one answer");
        assert_eq!(before.answer(unknown(n, 1), "www").unwrap().scope, 24);
        if choice != "sydney" {
            assert_eq!(choice, first(&after, unknown(n, 1)));
        }
        told.insert(choice);
    }
    assert_eq!(told.len(), CITIES.len(), "all take part");
    let v6: IpAddr = "3fff:1:2:3::4".parse().unwrap();
    assert_eq!(before.answer(v6, "www").unwrap().scope, 48);
}

#[test]
fn one_replica_is_the_answer_for_everybody() {
    let mut inputs = network();
    inputs.members.truncate(1);
    let generation = compute(&inputs, None);
    for address in ["203.0.1.9", "192.0.2.1", "2001:db8:1::1", "3fff::1"] {
        assert_eq!(generation.answer(address.parse().unwrap(), "www").unwrap().scope, 0, "{address}");
    }
}

#[test]
fn a_family_that_the_best_replica_lacks_is_answered_by_the_next() {
    let mut inputs = network();
    inputs.members[0].public_v6 = None;
    let generation = compute(&inputs, None);
    let answer = generation.answer(client(0), "www").unwrap();
    assert_eq!(answer.v4().next().unwrap().0.region.as_str(), "paris");
    assert_eq!(answer.v6().next().unwrap().0.region.as_str(), "frankfurt");
    for member in &mut inputs.members {
        member.public_v6 = None;
    }
    assert_eq!(compute(&inputs, None).answer(client(0), "www").unwrap().v6().count(), 0);
}

#[test]
fn why_names_every_reason() {
    let mut inputs = network();
    inputs.members[1].draining = true;
    inputs.members[2].state = Health::Unreachable;
    inputs.members[3].held.clear();
    let generation = compute(&inputs, None);
    let why = generation.why(client(0), &"www".parse().unwrap()).unwrap();
    let excluded: Vec<_> =
        why.replicas.iter().filter_map(|r| Some((r.region.to_string(), r.excluded_because?))).collect();
    let excluded: std::collections::BTreeMap<_, _> = excluded.into_iter().collect();
    assert_eq!(excluded["tokyo"], Exclusion::Draining);
    assert_eq!(excluded["sydney"], Exclusion::Unreachable);
    assert_eq!(excluded["new-york"], Exclusion::NotHeld);
    let first = &why.replicas[0];
    assert_eq!((first.rank, first.told, first.region.as_str()), (Some(1), true, "paris"));
    assert_eq!((first.source, first.distance_km), (Source::Geography, Some(0)));
    let json = serde_json::to_value(&why).unwrap();
    assert_eq!(json["known"]["by"], "geography");
    assert_eq!(json["replicas"][0]["fresh"]["current"], 1);
    assert_eq!(json["tier"], "healthy");
    assert!(generation.why(client(0), &"nosuch".parse().unwrap()).is_none());
}

#[test]
fn sites_with_equal_replicas_share_a_table() {
    let mut inputs = network();
    for n in 0..50 {
        let site: godwit_core::name::SiteName = format!("s{n}").parse().unwrap();
        inputs.sites.push(godwit_map::SiteInput::published(site.clone(), VersionNumber(1)));
        inputs.members.iter_mut().for_each(|member| member.held.push((site.clone(), VersionNumber(1))));
    }
    inputs.members[0].held.pop();
    assert_eq!(compute(&inputs, None).size().tables, 2);
}

#[test]
fn the_order_of_the_inputs_does_not_matter() {
    let mut inputs = network();
    let forward = compute(&inputs, None);
    inputs.members.reverse();
    let backward = compute(&inputs, None);
    for n in 0..=255u8 {
        let client = IpAddr::from([192, 0, n, 1]);
        assert_eq!(first(&forward, client), first(&backward, client));
    }
}

/// Times (ms) that members told of the clients of Paris, by member.
fn told_of_paris(claims: &[(usize, u32)]) -> Inputs {
    let mut inputs = network();
    let prefix: IpNet = "203.0.0.0/24".parse().unwrap();
    let rtt = |ms: u32| ClientRtt { samples: 8, ..ClientRtt::new(prefix, ms * 1000) };
    inputs.observations = claims.iter().map(|(n, ms)| (inputs.members[*n].id, rtt(*ms))).collect();
    inputs
}

#[test]
fn a_member_that_claims_to_be_next_door_to_far_clients_draws_none() {
    // Tokyo says 1 ms. Once Paris itself has measured too, once only Frankfurt, once nobody.
    for claims in [&[(1, 1), (0, 9)][..], &[(1, 1), (5, 14)], &[(1, 1)]] {
        let generation = compute(&told_of_paris(claims), None);
        assert_ne!(first(&generation, client(0)), "tokyo", "{claims:?}");
        let why = generation.why(client(0), &"www".parse().unwrap()).unwrap();
        let tokyo = why.replicas.iter().find(|reasons| reasons.region.as_str() == "tokyo").unwrap();
        assert!(tokyo.measured.unwrap().raised, "and why tells it");
        assert!(tokyo.rtt_estimate_us.unwrap() > 80_000);
    }
}

#[test]
fn a_member_that_claims_far_ways_between_others_repels_no_clients() {
    // São Paulo says that Frankfurt is five seconds from Paris' clients and from itself.
    let honest = told_of_paris(&[(4, 210)]);
    let mut lied = honest.clone();
    let frankfurt = lied.members[5].id;
    lied.members[4].peer_rtts = vec![(frankfurt, 5_000_000)];
    lied.members[5].peer_rtts = vec![(lied.members[4].id, 205_000)];
    lied.members[0].draining = true;
    assert_eq!(first(&compute(&lied, None), client(0)), "frankfurt");
}

#[test]
fn what_others_of_the_place_measured_counts_for_all_of_it() {
    let mut inputs = told_of_paris(&[(0, 80), (5, 12)]);
    let moved =
        |(by, rtt): &(_, ClientRtt)| (*by, ClientRtt { prefix: "198.51.100.0/24".parse().unwrap(), ..*rtt });
    inputs.observations = inputs.observations.iter().map(moved).collect();
    let place = Coordinates::new(CITIES[0].1, CITIES[0].2).unwrap();
    let nets = ["203.0.0.0/24", "198.51.100.0/24", "2001:db8::/48"].map(|net| (net.parse().unwrap(), place));
    let generation = Generation::compute(&inputs, &GeoDb::from_networks(nets), None);
    for client in [client(0), "2001:db8::1".parse().unwrap()] {
        assert_eq!(first(&generation, client), "frankfurt");
        let ranking = generation.rank(client, &"www".parse().unwrap()).unwrap();
        assert_eq!(ranking.replicas[0].source, Source::Nearby);
        assert_eq!(ranking.replicas[0].measured.unwrap().samples, 8);
    }
}
