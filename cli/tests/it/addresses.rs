//! Home addresses: granted, told by names, taken back, and never given twice.

use crate::harness::{Member, World, resolve, until};
use serde_json::Value;

fn with<'a>(command: &[&'a str], member: &'a Member) -> Vec<&'a str> {
    [command, &member.dir()].concat()
}

/// Runs a command that ends well and prints this.
#[track_caller]
fn says(world: &World, command: &[&str], part: &str) {
    let ended = world.run(command);
    assert!(ended.code == 0 && ended.out.contains(part), "{part:?} is not in:\n{}{}", ended.out, ended.err);
}

fn listed(world: &World, member: &Member) -> Value {
    world.json(&with(&["address", "list", "--json"], member))
}

#[test]
fn an_address_is_granted_told_and_taken_back() {
    let world = World::with_network();
    let token = world.invite("fra1", "eu-frankfurt");
    world.run(&["join", &token, "--data-dir", "fra1"]).check(0, "");
    let mut member = world.start("fra1");
    says(&world, &with(&["address", "list"], &member), "godwit address add");

    let add = ["address", "add", "game", "--address", "198.51.100.7", "--udp", "27015"];
    let granted = world.json(&with(&[&add[..], &["--on", "fra1", "--json"]].concat(), &member));
    assert_eq!((&granted["name"], &granted["addresses"][0]), (&"game".into(), &"198.51.100.7".into()));
    let one = &listed(&world, &member)[0];
    assert_eq!(
        (&one["name"], &one["v4"], &one["stands"]),
        (&"game".into(), &"198.51.100.7".into(), &true.into())
    );
    assert_eq!(
        (&one["udp"][0], &one["tcp"], &one["members"][0]),
        (&27015.into(), &Value::Array(vec![]), &"fra1".into())
    );
    says(&world, &with(&["status"], &member), "udp/27015");
    until("the name to be told", || {
        resolve(member.address("dns"), "game.edge.example.org").ends_with(&[198, 51, 100, 7]).then_some(())
    });
    let why = with(&["why", "game", "--client", "192.0.2.7"], &member);
    says(&world, &why, "everybody is told 198.51.100.7");
    says(&world, &why, "fra1");
    world.run(&with(&["address", "list", "--flows"], &member)).check(1, "no home agent");

    // Names and addresses are in use once; what cannot be is told before anybody is asked.
    world.write("site/index.html", "<h1>one</h1>");
    world.run(&with(&["publish", "site", "--to", "game"], &member)).check(3, "a home address already");
    world.run(&with(&["publish", "site", "--to", "www"], &member)).check(0, "");
    let over = ["address", "add", "www", "--address", "198.51.100.8"];
    world.run(&with(&over, &member)).check(3, "a site already");
    let same = ["address", "add", "chat", "--address", "198.51.100.7"];
    world.run(&with(&same, &member)).check(3, "the home address of game already");
    let wrong: [(&[&str], &str); 4] = [
        (&["--address", "127.0.0.1"], "no address that clients can reach"),
        (&["--address", "198.51.100.8", "--address", "198.51.100.9"], "one IPv4 and one IPv6"),
        (&["--address", "198.51.100.8", "--tcp", "0"], "port 0"),
        (&["--address", "198.51.100.8", "--on", "nyc9"], "nobody of the name nyc9"),
    ];
    for (arguments, part) in wrong {
        let all = [&["address", "add", "chat"], arguments].concat();
        world.run(&with(&all, &member)).check(2, part);
    }
    world.run(&with(&["address", "remove", "chat"], &member)).check(2, "no home address is called chat");

    // It outlives the process, can be changed, and is gone for good when it is taken back.
    member.stop();
    member = world.start("fra1");
    assert_eq!(listed(&world, &member)[0]["v4"], "198.51.100.7");
    let wider = ["address", "add", "game", "--address", "198.51.100.9"];
    says(&world, &with(&wider, &member), "everything");
    assert_eq!(listed(&world, &member)[0]["v4"], "198.51.100.9");
    says(&world, &with(&["address", "remove", "game"], &member), "taken back");
    assert_eq!(listed(&world, &member), Value::Array(vec![]));
    until("the name to be gone", || {
        let reply = resolve(member.address("dns"), "game.edge.example.org");
        (reply[3] & 15 == 3).then_some(())
    });
}
