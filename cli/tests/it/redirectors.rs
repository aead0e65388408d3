//! Several redirectors: what they agree on, and what they find out about those who ask.

use crate::harness::{Member, World, metrics, until};
use serde_json::Value;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

/// Two members, each node and redirector; `map` of each.
fn two(maps: [&str; 2]) -> (World, [Member; 2]) {
    let world = World::with_network();
    // Clients reach each by an address of its own, or answers would be alike whoever was chosen.
    let start = |name: &str, region: &str, address: &str, map: &str, sponsor: Option<&Member>| {
        let token = world.invite(name, region);
        let mut join = vec!["join", &token, "--data-dir", name];
        let bootstrap = sponsor.map(|sponsor| sponsor.address("peer").to_string());
        if let Some(bootstrap) = &bootstrap {
            join.extend(["--bootstrap", bootstrap]);
        }
        world.run(&join).check(0, "");
        world.write(
            &format!("{name}/godwit.toml"),
            format!(
                "[node]\npublic_v4 = \"{address}\"\n[overlay]\nlisten = [\"127.0.0.1:0\"]\n[http]\nlisten = [\"127.0.0.1:0\"]\n\
                 [redirector]\nlisten = [\"127.0.0.1:0\"]\nworkers = 1\n[map]\n{map}\n"
            ),
        );
        world.launch(name)
    };
    let first = start("fra1", "eu-frankfurt", "127.0.0.1", maps[0], None);
    let second = start("nrt1", "ap-tokyo", "127.0.0.2", maps[1], Some(&first));
    world.write("site/index.html", "<h1>one</h1>");
    let dir = ["--data-dir", "fra1"];
    world.run(&[&["publish", "site", "--to", "www"][..], &dir].concat()).check(0, "");
    (world, [first, second])
}

/// Asks for the site from an address of this host; how the reply ends: the first address told.
fn ask(from: [u8; 4], server: SocketAddr) -> Option<(u8, Vec<u8>)> {
    let mut query = vec![0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in "www.edge.example.org".split('.') {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind(SocketAddr::from((from, 0))).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    socket.send_to(&query, server).unwrap();
    let mut reply = [0; 1500];
    let len = socket.recv(&mut reply).ok()?;
    Some((reply[3] & 15, reply[query.len()..len].to_vec()))
}

fn json(world: &World, member: &Member, command: &[&str]) -> Option<Value> {
    let ended = world.run(&[command, &member.dir()[..]].concat());
    serde_json::from_str(&ended.out).ok()
}

#[test]
fn redirectors_with_other_settings_are_told_of_until_they_agree() {
    let (world, [first, second]) = two(["explore_permille = 20", "explore_permille = 30"]);
    for member in [&first, &second] {
        let difference = until("both to see that they differ", || {
            let status = json(&world, member, &["status", "--json"])?;
            status["differences"].as_array()?.first().cloned()
        });
        assert_eq!(difference["setting"], "map.explore_permille");
        let mut names: Vec<&str> =
            difference["groups"].as_array().unwrap().iter().map(|group| group[0].as_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, ["fra1", "nrt1"]);
        let shown = world.run(&[&["status"][..], &member.dir()].concat()).out;
        assert!(shown.contains("Redirectors differ in map.explore_permille: "), "{shown}");
    }
    let gauge = "godwit_redirector_settings_differing 1\n";
    until("a monitor to see it", || metrics(&first).contains(gauge).then_some(()));
    assert_eq!(second.stop(), 0);
    let file = std::fs::read_to_string(world.path("nrt1/godwit.toml")).unwrap();
    world.write("nrt1/godwit.toml", file.replace("= 30", "= 20"));
    let second = world.launch("nrt1");
    for member in [&first, &second] {
        until("both to agree", || {
            let status = json(&world, member, &["status", "--json"])?;
            let told = metrics(member).contains("godwit_redirector_settings_differing 0\n");
            (told && status["connected"] == 1 && status["differences"].as_array()?.is_empty()).then_some(())
        });
    }
}

#[test]
fn who_asks_is_measured_where_operators_agreed_and_decides_everywhere() {
    let open = "probe_resolvers = true\nprobe_also = [\"127.19.0.0/16\"]\nprobe_never = [\"127.19.9.0/24\"]\n\
                probe_gap_ms = 100\nprobe_again_secs = 10";
    // The second redirector is asked by nobody; it measures, and hears what was found.
    let (world, [first, second]) = two([open, open]);
    let why =
        |member: &Member, client: &str| json(&world, member, &["why", "www", "--client", client, "--json"]);
    let found = |member: &Member| {
        let why = why(member, "127.19.1.53")?;
        let told = why["replicas"].as_array()?.iter().find(|replica| replica["told"] == true)?;
        (told["source"] == "resolver").then(|| why["known"]["by"].clone())
    };
    until("the resolver to be measured", || {
        for from in [[127, 19, 1, 53], [127, 19, 9, 53], [127, 20, 1, 53]] {
            ask(from, first.address("dns"));
        }
        found(&first)
    });
    assert_eq!(until("the other redirector to know it", || found(&second)), "resolver");
    for client in ["127.19.9.53", "127.20.1.53", "127.19.2.53"] {
        let why = why(&first, client).unwrap();
        assert_ne!(why["known"]["by"], "resolver", "nobody may measure {client}, or nobody asked from there");
    }
    let metrics = metrics(&first);
    assert!(metrics.contains("godwit_probe_resolver_asked 1\n"), "{metrics}");
    assert!(metrics.contains("godwit_probe_resolver_targets 1\n"), "{metrics}");
}

#[test]
fn two_redirectors_that_heard_the_same_answer_200_prefixes_alike() {
    let (world, [first, second]) = two(["", ""]);
    let holds = |member: &Member| {
        let status = json(&world, member, &["status", "--json"])?;
        let members = status["members"].as_array()?;
        (members.len() == 2 && members.iter().all(|one| one["sites"]["www"] == 1)).then_some(())
    };
    for member in [&first, &second] {
        until("both to hold the site, as all know", || holds(member));
    }
    let sources: Vec<[u8; 4]> = (0..200).map(|n| [127, 30, n, 1]).collect();
    let answers = |member: &Member| -> Option<Vec<(u8, Vec<u8>)>> {
        sources.iter().map(|from| ask(*from, member.address("dns"))).collect()
    };
    // What both hear last reaches them within moments; then they say the same, to everybody. On a busy
    // host one may seem dead for a while, and then all are told the other: that is alike, but no proof.
    until("both to answer alike, and not everybody the same", || {
        let (one, other) = (answers(&first)?, answers(&second)?);
        let told = one.iter().all(|(code, answer)| *code == 0 && !answer.is_empty());
        let distinct: std::collections::BTreeSet<_> = one.iter().map(|(_, answer)| answer).collect();
        (one == other && told && distinct.len() >= 2).then_some(())
    });
}
