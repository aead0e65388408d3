//! Verbs that need no member: a static zone.

use crate::harness::World;
use serde_json::Value;

const ZONE: &str = r#"
origin = "svc.example.org"
state_file = "states.toml"
[[region]]
name = "eu"
addresses = ["192.0.2.1"]
[[region]]
name = "us"
addresses = ["198.51.100.1"]
[[service]]
name = "www"
names = ["shop"]
[clients]
default = ["eu", "us"]
prefix."10.0.0.0/8" = ["us"]
"#;

fn world() -> World {
    let world = World::new();
    world.write("zone.toml", ZONE);
    world
}

#[test]
fn a_file_is_checked() {
    let world = world();
    let right = world.run(&["redirector", "--static", "zone.toml", "--check"]);
    assert_eq!((right.code, right.err.as_str()), (0, ""), "{}", right.out);
    world.write("zone.toml", ZONE.replace("default = [\"eu\"", "default = [\"mars\""));
    let wrong = world.run(&["redirector", "--static", "zone.toml", "--check"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.err.contains("zone.toml:14:12: there is no region mars"), "{}", wrong.err);
}

#[test]
fn why_and_drain_need_no_daemon() {
    let world = world();
    let first = |client: &str| -> Value {
        let why = world.json(&["why", "shop", "--client", client, "--static", "zone.toml", "--json"]);
        why["replicas"][0]["region"].clone()
    };
    assert_eq!(first("10.1.2.3"), "us");
    assert_eq!(first("192.168.0.1"), "eu");
    let text = world.run(&["why", "www", "--client", "10.1.2.3", "--static", "zone.toml"]);
    assert!(text.out.contains("Rule for 10.0.0.0/8: listed prefix: us."), "{}{}", text.out, text.err);
    assert_eq!(world.run(&["drain", "eu", "--static", "zone.toml"]).code, 0);
    assert_eq!(std::fs::read_to_string(world.path("states.toml")).unwrap(), "eu = \"drain\"\n");
    assert_eq!(first("192.168.0.1"), "us");
    assert_eq!(world.run(&["undrain", "eu", "--static", "zone.toml"]).code, 0);
    assert_eq!(first("192.168.0.1"), "eu");
    let wrong = world.run(&["drain", "mars", "--static", "zone.toml"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.err.contains("neither a region nor an address"), "{}", wrong.err);
}

#[test]
fn the_map_is_exported() {
    let world = world();
    let nets = world.run(&["export", "gdnsd-nets", "--site", "www", "--static", "zone.toml"]);
    assert_eq!(nets.code, 0, "{}", nets.err);
    assert!(nets.out.contains("10.0.0.0/8 => [ us, eu ]\n"), "{}", nets.out);
    assert_eq!(world.run(&["export", "mmdb", "--site", "none", "--static", "zone.toml"]).code, 2);
}

#[test]
fn a_coprocess_of_powerdns_answers_lines() {
    let world = world();
    let lookup = r#"{"method":"lookup","parameters":{"qname":"shop.svc.example.org.","qtype":"ANY","real-remote":"10.1.2.0/24"}}"#;
    let input = format!("{{\"method\":\"initialize\",\"parameters\":{{}}}}\nnonsense\n{lookup}\n");
    let ended = world.run_piped(&["pdns-backend", "--pipe", "--static", "zone.toml"], &input);
    let lines: Vec<Value> = ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["result"], &lines[1]["result"]), (3, &true.into(), &false.into()));
    let record = &lines[2]["result"][0];
    assert_eq!((&record["content"], &record["scopeMask"]), (&"198.51.100.1".into(), &8.into()), "{record}");
}
