//! Real members on loopback addresses: from an invitation to a page, and what can go wrong.

use crate::harness::{
    A, Member, TXT, World, ask_once, documented, get, is_closed, metrics, resolve, resolve_as, until,
};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A world with a founder that runs.
fn founded() -> (World, Member) {
    let world = World::with_network();
    let token = world.invite("fra1", "eu-frankfurt");
    world.run(&["join", &token, "--data-dir", "fra1"]).check(0, "");
    let founder = world.start("fra1");
    (world, founder)
}

/// Lets another member join through `sponsor`, and starts it.
fn joined(world: &World, sponsor: &Member, name: &str, region: &str) -> Member {
    let token = world.invite(name, region);
    let bootstrap = sponsor.address("peer").to_string();
    world.run(&["join", &token, "--data-dir", name, "--bootstrap", &bootstrap]).check(0, "");
    world.start(name)
}

fn with<'a>(command: &[&'a str], member: &'a Member) -> Vec<&'a str> {
    [command, &member.dir()].concat()
}

#[test]
fn one_member_publishes_serves_explains_and_rolls_back() {
    let (world, member) = founded();
    world.write("site/index.html", "<h1>one</h1>");
    world.write("site/docs/large", vec![7; 300_000]);
    let published = world.json(&with(&["publish", "site", "--to", "www", "--json"], &member));
    assert_eq!((&published["version"], &published["files"]), (&1.into(), &2.into()));
    assert_eq!(published["durable"], true);
    assert_eq!(published["regions_durable"][0], "eu-frankfurt");
    let http = member.address("http");
    // Durable comes first, served follows in the same moment.
    let serves = |content: &[u8]| {
        let (status, head, body) = get(http, "www.edge.example.org", "/");
        (status == 200 && body == content).then_some(head)
    };
    let head = until("version 1 to be served", || serves(b"<h1>one</h1>"));
    assert!(head.to_lowercase().contains("godwit-version: 1"), "{head}");
    assert_eq!(get(http, "www.edge.example.org", "/docs/large").2, vec![7; 300_000]);
    assert_eq!(get(http, "www.edge.example.org", "/gone").0, 404);
    assert_eq!(get(http, "other.example.com", "/").0, 421);

    let status = world.json(&with(&["status", "--json"], &member));
    assert_eq!(status["zone"], "edge.example.org");
    let me = &status["members"][0];
    assert_eq!(
        (&me["name"], &me["state"], &me["sites"]["www"]),
        (&"fra1".into(), &"alive".into(), &1.into())
    );
    assert!(world.run(&with(&["status"], &member)).out.contains("1 of 1"));

    let why = until("the map to know the site", || {
        let why = world.run(&with(&["why", "www", "--client", "192.0.2.7", "--json"], &member));
        serde_json::from_str::<Value>(&why.out).ok()
    });
    assert_eq!((&why["replicas"][0]["name"], &why["replicas"][0]["rank"]), (&"fra1".into(), &1.into()));
    let reply = until("the redirector to know the site", || {
        let reply = resolve(member.address("dns"), "www.edge.example.org");
        reply.ends_with(&[127, 0, 0, 1]).then_some(reply)
    });
    assert_eq!((&reply[..2], reply[3] & 15), (&[0x12, 0x34][..], 0));

    let metrics = metrics(&member);
    assert!(metrics.contains("godwit_dns_queries_total{"), "{metrics}");
    documented(&metrics);

    world.write("site/index.html", "<h1>two</h1>");
    let again = world.json(&with(&["publish", "site", "--to", "www.edge.example.org", "--json"], &member));
    assert_eq!((&again["version"], &again["uploaded_objects"]), (&2.into(), &2.into()));
    until("version 2 to be served", || serves(b"<h1>two</h1>"));
    let back = world.json(&with(&["rollback", "www", "--json"], &member));
    assert_eq!((&back["version"], &back["content_of"]), (&3.into(), &1.into()));
    until("version 3 to be served", || serves(b"<h1>one</h1>"));
    world.run(&with(&["rollback", "www", "--to", "9"], &member)).check(2, "is not kept here");
    world.run(&with(&["rollback", "never"], &member)).check(2, "never published");

    world.run(&["run", "--data-dir", "fra1"]).check(1, "in use by a running godwit");
    world.run(&["join", &world.invite("x", "y"), "--data-dir", "fra1"]).check(1, "in use");
    assert_eq!(member.stop(), 0);
}

/// What a redirector says to a question: its reply's code and everything after the header.
fn asked(member: &Member, name: &str, kind: u8) -> (u8, Vec<u8>) {
    let reply = resolve_as(member.address("dns"), name, kind);
    (reply[3] & 15, reply[12..].to_vec())
}

fn contains(reply: &[u8], part: &str) -> bool {
    reply.windows(part.len()).any(|window| window == part.as_bytes())
}

#[test]
fn a_value_for_a_certificate_authority_is_on_every_redirector() {
    let (world, founder) = founded();
    let second = joined(&world, &founder, "nrt1", "ap-tokyo");
    world.run(&with(&["acme", "set", "www", "first-value"], &second)).check(0, "");
    world.run(&with(&["acme", "set", "www.edge.example.org", "second-value"], &founder)).check(0, "");
    let name = "_acme-challenge.www.edge.example.org";
    for member in [&founder, &second] {
        until("both values on a redirector", || {
            let (code, reply) = asked(member, name, TXT);
            (code == 0 && contains(&reply, "first-value") && contains(&reply, "second-value")).then_some(())
        });
    }
    let shown = world.json(&with(&["acme", "show", "--json"], &founder));
    assert_eq!(shown["challenges"].as_array().unwrap().len(), 2);
    world.run(&with(&["acme", "clear", "www", "first-value"], &second)).check(0, "");
    until("a value to be gone", || (!contains(&asked(&founder, name, TXT).1, "first-value")).then_some(()));
    assert!(contains(&asked(&founder, name, TXT).1, "second-value"));
    world.run(&with(&["acme", "set", "www", &"x".repeat(300)], &founder)).check(1, "1 to 255");
}

#[test]
fn the_zone_is_changed_without_a_restart_and_a_wrong_file_changes_nothing() {
    let (world, member) = founded();
    let config = world.path("fra1/godwit.toml");
    let before = std::fs::read_to_string(&config).unwrap();
    let record =
        |data: &str| format!("{before}\n[[zone.record]]\nname = \"host\"\ntype = \"A\"\ndata = \"{data}\"\n");
    let name = "host.edge.example.org";
    assert_eq!(asked(&member, name, A).0, 3);
    std::fs::write(&config, record("192.0.2.77")).unwrap();
    world.run(&with(&["reload"], &member)).check(0, "");
    // The workers take up what was compiled beside them, a moment later.
    until("the new record", || {
        let (code, reply) = asked(&member, name, A);
        (code == 0 && reply.ends_with(&[192, 0, 2, 77])).then_some(())
    });
    let why = world.json(&with(
        &["why", "host", "--client", "192.0.2.7", "--resolver", "192.0.2.53", "--json"],
        &member,
    ));
    assert_eq!((&why["dns"]["depends_on"], &why["dns"]["by"]), (&"same-for-all".into(), &"192.0.2.0".into()));
    assert!(why["dns"]["answers"][0].as_str().unwrap().contains("192.0.2.77"));

    std::fs::write(&config, record("nonsense")).unwrap();
    let check = world.run(&["config", "check", "--data-dir", "fra1"]);
    check.check(2, "zone.record[0].data: it is no A data");
    let line = before.lines().count() + 5;
    check.check(2, &format!("godwit.toml:{line}:1:"));
    let refused = world.run(&with(&["reload"], &member));
    refused.check(1, &format!("godwit.toml:{line}:1: zone.record[0].data"));
    assert_eq!(asked(&member, name, A).0, 0, "it stays as it was");
    assert!(metrics(&member).contains("godwit_config_last_reload_successful 0"));
    std::fs::write(&config, &before).unwrap();
    world.run(&with(&["reload"], &member)).check(0, "");
    until("the record to be gone", || (asked(&member, name, A).0 == 3).then_some(()));
    assert!(metrics(&member).contains("godwit_config_last_reload_successful 1"));
}

#[test]
fn a_geoip_file_that_cannot_be_read_is_told_at_a_reload() {
    let (world, member) = founded();
    assert_eq!(member.stop(), 0);
    let config = world.path("fra1/godwit.toml");
    let before = std::fs::read_to_string(&config).unwrap();
    let path = world.path("geo.mmdb");
    std::fs::write(&config, format!("{before}[map]\ngeoip = {path:?}\n")).unwrap();
    let member = world.launch("fra1");
    let told = world.run(&with(&["reload"], &member));
    told.check(1, "was read again, but the GeoIP database stays as it was");
    told.check(1, "No such file");
    assert!(metrics(&member).contains("godwit_config_last_reload_successful 1"));
}

#[test]
fn bad_directories_and_foreign_publishers_change_nothing() {
    let (world, member) = founded();
    world.write("site/good", "x");
    world.write("site/line\nbreak", "x");
    world.write("secret", "x");
    std::os::unix::fs::symlink(world.path("secret"), world.path("site/stolen")).unwrap();
    let publish = |directory: &str, more: &[&str]| {
        world.run(&[&["publish", directory, "--to", "www", "--data-dir", "fra1"], more].concat())
    };
    let refused = publish("site", &[]);
    refused.check(1, "is a link out of the directory");
    refused.check(1, "\"line\\nbreak\"");
    refused.check(1, "nothing was published");
    publish("gone", &[]).check(2, "cannot read gone");

    std::fs::create_dir(world.path("bare")).unwrap();
    publish("bare", &[]).check(2, "bare has no files");
    publish("bare", &["--allow-empty", "--dry-run"]).check(0, "");

    world.write("fine/index.html", "x");
    let dry = publish("fine", &["--dry-run"]);
    dry.check(0, "");
    assert!(dry.out.contains("would become version 1"), "{}", dry.out);
    let none: Value = world.json(&["status", "--data-dir", "fra1", "--json"]);
    assert_eq!(none["sites"].as_array().unwrap().len(), 0);

    let stranger = World::with_network();
    let keys = stranger.path("authority");
    publish("fine", &["--publisher", keys.to_str().unwrap()]).check(3, "");
    publish("fine", &["--wait", "3"]).check(2, "the network has nodes in 1 region (eu-frankfurt)");
    drop(member);
}

#[test]
fn two_members_share_a_site_and_one_is_drained_and_revoked() {
    let (world, founder) = founded();
    let second = joined(&world, &founder, "nyc1", "us-new-york");
    let other = joined(&world, &second, "tok1", "ap-tokyo");
    world.write("site/index.html", "shared");
    until("three members", || {
        let status = world.json(&with(&["status", "--json"], &founder));
        let alive = status["members"].as_array().unwrap().iter().filter(|member| member["state"] == "alive");
        (alive.count() == 3).then_some(())
    });
    let published =
        world.json(&with(&["publish", "site", "--to", "www", "--wait", "all", "--json"], &second));
    assert_eq!(published["regions_durable"].as_array().unwrap().len(), 3, "{published}");
    for member in [&founder, &second, &other] {
        until("every member to serve it", || {
            (get(member.address("http"), "www.edge.example.org", "/").2 == b"shared").then_some(())
        });
    }

    world.run(&with(&["drain", "nyc1"], &founder)).check(0, "");
    until("the order to arrive", || {
        let status = world.json(&with(&["status", "--json"], &other));
        let members = status["members"].as_array().unwrap();
        members.iter().any(|member| member["name"] == "nyc1" && member["draining"] == true).then_some(())
    });
    world.run(&with(&["undrain", "nyc1"], &founder)).check(0, "");
    world.run(&with(&["drain", "nobody"], &founder)).check(2, "members are");

    world.run(&with(&["revoke", "tok1"], &founder)).check(0, "");
    until("the revocation to arrive", || {
        let status = world.json(&with(&["status", "--json"], &second));
        let members = status["members"].as_array().unwrap();
        members.iter().any(|member| member["name"] == "tok1" && member["state"] == "revoked").then_some(())
    });
    world.run(&with(&["revoke", "tok1"], &founder)).check(2, "nothing of that name");
    // It was cut off by the very news, and learns it from whoever refuses it.
    until("the revoked member to answer no names", || is_closed(other.address("dns")).then_some(()));
    let status = world.json(&with(&["status", "--json"], &other));
    let members = status["members"].as_array().unwrap();
    assert!(members.iter().any(|member| member["name"] == "tok1" && member["state"] == "revoked"));
    resolve(second.address("dns"), "www.edge.example.org");
}

#[test]
fn a_member_that_was_away_when_it_was_revoked_stops_answering_when_it_comes_back() {
    let (world, founder) = founded();
    let away = joined(&world, &founder, "nyc1", "us-new-york");
    resolve(away.address("dns"), "edge.example.org");
    assert_eq!(away.stop(), 0);
    world.run(&with(&["revoke", "nyc1"], &founder)).check(0, "");
    let back = world.start("nyc1");
    until("the revoked member to answer no names", || is_closed(back.address("dns")).then_some(()));
}

#[test]
fn members_find_each_other_again_without_those_that_their_tokens_named() {
    let (world, founder) = founded();
    let members =
        [joined(&world, &founder, "nyc1", "us-new-york"), joined(&world, &founder, "tok1", "ap-tokyo")];
    for name in ["nyc1", "tok1"] {
        until("the members' addresses to be remembered", || {
            let text = std::fs::read_to_string(world.path(name).join("members.bootstrap")).ok()?;
            (text.matches("127.0.0.1:").count() == 2).then_some(())
        });
    }
    assert_eq!(founder.stop(), 0);
    let addresses = members.each_ref().map(|member| member.address("peer").to_string());
    for member in members {
        assert_eq!(member.stop(), 0);
    }
    let first = world.start_at("nyc1", &addresses[0]);
    let _second = world.start_at("tok1", &addresses[1]);
    until("the two to meet", || {
        let status = world.json(&with(&["status", "--json"], &first));
        (status["connected"] == 1).then_some(())
    });
}

#[test]
fn a_token_works_once() {
    let (world, founder) = founded();
    let token = world.invite("nyc1", "us-new-york");
    let bootstrap = founder.address("peer").to_string();
    let join = |dir: &str| world.run(&["join", &token, "--data-dir", dir, "--bootstrap", &bootstrap]);
    join("first").check(0, "");
    join("second").check(3, "already used");
    join("first").check(0, "");
}

#[test]
fn a_second_process_takes_over_while_names_are_answered() {
    let world = World::with_network();
    let token = world.invite("fra1", "eu-frankfurt");
    world.run(&["join", &token, "--data-dir", "fra1"]).check(0, "");
    let handover = world.path("handover");
    world.write(
        "fra1/godwit.toml",
        format!(
            "[overlay]\nlisten = [\"127.0.0.1:0\"]\n[http]\nlisten = [\"127.0.0.1:0\"]\n\
             [redirector]\nlisten = [\"127.0.0.1:0\"]\nworkers = 1\nhandover = {handover:?}\n\
             limits = {{ replies_per_second = 0 }}\n"
        ),
    );
    let first = world.launch("fra1");
    world.write("site/index.html", "<h1>one</h1>");
    world.json(&with(&["publish", "site", "--to", "www", "--json"], &first));
    let dns = first.address("dns");
    let answered = |reply: &[u8]| reply[3] & 15 == 0 && reply.ends_with(&[127, 0, 0, 1]);
    until("the redirector to know the site", || {
        answered(&resolve(dns, "www.edge.example.org")).then_some(())
    });
    let over = Arc::new(AtomicBool::new(false));
    let asking = {
        let over = over.clone();
        std::thread::spawn(move || {
            let mut count = 0;
            while !over.load(Ordering::SeqCst) {
                let reply = ask_once(dns, "www.edge.example.org");
                assert!(answered(&reply), "{reply:?} after {count} answers");
                count += 1;
            }
            count
        })
    };
    let second = world.launch("fra1");
    assert_eq!(second.address("dns"), dns);
    assert_eq!(first.ended(), 0);
    let third = world.launch("fra1");
    assert_eq!(second.ended(), 0);
    over.store(true, Ordering::SeqCst);
    let count = asking.join().unwrap();
    println!("{count} names answered, one after the other, while two processes took over");
    assert_eq!(third.stop(), 0);
    assert!(!handover.exists());
}
