//! Commands that need no running member: networks, tokens, configuration, usage.

use crate::harness::{World, is_private};

#[test]
fn a_network_is_made_once_and_its_secrets_are_private() {
    let world = World::new();
    let init = ["init", "--zone", "edge.example.org", "--ns", "fra1=203.0.113.5"];
    world.run(&init).check(2, "no terminal");
    world.run_with(("GODWIT_PASSPHRASE", "short"), &init).check(2, "at least 8 characters");
    let made = world.run_with(("GODWIT_PASSPHRASE", "correct horse"), &init);
    made.check(0, "");
    assert!(made.out.contains("edge.example.org.  NS    fra1.node.edge.example.org."), "{}", made.out);
    assert!(made.out.contains("fra1.node.edge.example.org.  A     203.0.113.5"), "{}", made.out);
    for name in ["", "authority.key", "authority.json", "publisher.key", "publisher.cert"] {
        assert!(is_private(&world.path("authority").join(name)), "{name}");
    }
    world.run_with(("GODWIT_PASSPHRASE", "correct horse"), &init).check(2, "already holds the authority");

    let invite = ["invite", "--name", "fra1", "--region", "eu-frankfurt"];
    world.run(&invite).check(2, "no terminal to ask at");
    world.run_with(("GODWIT_PASSPHRASE", "wrong horse"), &invite).check(2, "passphrase is wrong");
    let invited = world.run_with(("GODWIT_PASSPHRASE", "correct horse"), &invite);
    invited.check(0, "works once, within 15m");
    assert!(invited.out.starts_with("gw1-") && invited.out.lines().count() == 1, "{}", invited.out);
    world.run_with(("GODWIT_PASSPHRASE", "correct horse"), &invite).check(2, "already invited");
    let again = [&invite[..], &["--again"]].concat();
    world.run_with(("GODWIT_PASSPHRASE", "correct horse"), &again).check(0, "");
}

#[test]
fn keys_of_a_zone_are_made_shown_and_rolled() {
    let world = World::new();
    let keys = world.path("keys");
    let at = ["--keys", keys.to_str().unwrap()];
    let run = |verbs: &[&str]| world.run(&[&["dnssec"], verbs, &at].concat());
    world.run(&["dnssec", "status"]).check(2, "[dnssec] keys");
    run(&["generate"]).check(2, "--zone ZONE");
    let made = run(&["generate", "--zone", "edge.example.org"]);
    made.check(0, "");
    assert!(made.out.contains("\nedge.example.org. DS ") && made.out.contains(" 13 2 "), "{}", made.out);
    run(&["generate", "--zone", "edge.example.org"]).check(2, "already has keys");
    for entry in std::fs::read_dir(&keys).unwrap() {
        let path = entry.unwrap().path();
        assert!(path.extension().is_none_or(|ending| ending != "pem") || is_private(&path), "{path:?}");
    }
    run(&["roll", "ds-seen"]).check(2, "no rollover waits");
    run(&["roll", "start", "--role", "zsk"]).check(2, "no zsk is active");
    let rolled = run(&["roll", "start"]);
    rolled.check(0, "");
    assert!(rolled.out.contains("Copy ") && rolled.out.contains("Next: wait until"), "{}", rolled.out);
    run(&["roll", "start"]).check(3, "under way");
    run(&["roll", "ds-seen"]).check(3, "may not be used before");
    let status = world.json(&[&["dnssec", "status", "--json"], &at[..]].concat());
    assert_eq!(status["keys"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&status["keys"][0]["phase"], &status["keys"][1]["phase"]),
        (&"active".into(), &"active".into())
    );
    let ds = world.json(&[&["dnssec", "ds", "--json"], &at[..]].concat());
    assert_eq!((&ds["keys"][0]["wanted"], &ds["keys"][1]["wanted"]), (&true.into(), &false.into()));
    let split = run(&["generate", "--zone", "split.example.org", "--split", "--algorithm", "ed25519"]);
    split.check(0, "");
    assert_eq!(split.out.matches("\nsplit.example.org. DS ").count(), 1, "{}", split.out);
    run(&["status"]).check(2, "keys of edge.example.org, split.example.org");
}

#[test]
fn invitations_tell_place_founder_and_what_the_registrar_needs() {
    let world = World::with_network();
    let first = world.json(&[
        "invite",
        "--name",
        "fra1",
        "--region",
        "eu-frankfurt",
        "--address",
        "203.0.113.5",
        "--json",
    ]);
    assert_eq!(first["founder"], true);
    assert_eq!(first["place"][0], 50.11);
    assert_eq!(first["registrar"][1], "fra1.node.edge.example.org.  A     203.0.113.5");
    let second = world.json(&[
        "invite",
        "--name",
        "lab",
        "--region",
        "lab",
        "--at",
        "-33.9,18.4",
        "--role",
        "node",
        "--json",
    ]);
    assert_eq!(second["founder"], false);
    assert_eq!(second["place"][0], -33.9);
    assert_eq!(second["roles"].as_array().unwrap().len(), 1);
    assert_eq!(second["bootstrap"][0], "203.0.113.5:4100");
    assert_eq!(second["registrar"].as_array().unwrap().len(), 0);
}

#[test]
fn invitations_say_what_they_hold() {
    let world = World::with_network();
    let invite = |name: &str, more: &[&str]| {
        world.run(&[&["invite", "--name", name, "--region", "eu-frankfurt"], more].concat())
    };
    invite("a", &["--expires", "15m", "--lifetime", "1h"]).check(0, "the membership holds for 1h");
    // Who redeems it at the last moment is to be a member at all.
    invite("b", &["--expires", "15m", "--lifetime", "8s"]).check(0, "the membership holds for 15m");
}

#[test]
fn joining_as_founder_needs_nobody_and_may_be_repeated() {
    let world = World::with_network();
    let token = world.invite("fra1", "eu-frankfurt");
    let join = ["join", &token, "--data-dir", "one", "--address", "203.0.113.5", "--json"];
    let joined = world.json(&join);
    assert_eq!((&joined["name"], &joined["region"]), (&"fra1".into(), &"eu-frankfurt".into()));
    assert!(is_private(&world.path("one")) && is_private(&world.path("one/member.key")));
    let config = std::fs::read_to_string(world.path("one/godwit.toml")).unwrap();
    assert!(config.contains("public_v4 = \"203.0.113.5\""), "{config}");
    assert_eq!(world.json(&join)["member"], joined["member"], "the same token again is no mistake");

    let other = world.invite("nyc1", "us-new-york");
    world.run(&["join", &other, "--data-dir", "one"]).check(3, "already belongs to fra1");
}

#[test]
fn tokens_that_do_not_hold_are_refused() {
    let world = World::with_network();
    let token = world.invite("fra1", "eu-frankfurt");
    let join = |token: &str, more: &[&str]| {
        let arguments = [&["join", token, "--data-dir", "refused"], more].concat();
        world.run(&arguments)
    };
    join(&token, &["--region", "ap-tokyo"]).check(3, "is for region eu-frankfurt, not ap-tokyo");
    join(&token, &["--name", "tok1"]).check(3, "is for fra1, not tok1");
    join("gw1-1234", &[]).check(3, "not a join token");
    join("hello", &[]).check(3, "not a join token");
    // A digit in the middle lies within what the authority signed.
    let middle = token.len() / 2;
    let digit = if token.as_bytes()[middle] == b'0' { "1" } else { "0" };
    let edited = format!("{}{digit}{}", &token[..middle], &token[middle + 1..]);
    assert_eq!(join(&edited, &[]).code, 3);

    let short = world.json(&[
        "invite",
        "--name",
        "late",
        "--region",
        "eu-paris",
        "--founder",
        "--expires",
        "1s",
        "--json",
    ]);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    join(short["token"].as_str().unwrap(), &[]).check(3, "expired");
    assert!(!world.path("refused/certificate").exists());
    // What refused the others does not harm the right one.
    join(&token, &[]).check(0, "");
}

#[test]
fn a_member_that_nobody_can_reach_is_told_so() {
    let world = World::with_network();
    let _founder = world.invite("fra1", "eu-frankfurt");
    let token = world.invite("nyc1", "us-new-york");
    world.run(&["join", &token, "--data-dir", "two"]).check(2, "names no member to ask");
    // Port 9 of this host: nobody listens, which the system says at once.
    let unreachable = world.run(&["join", &token, "--data-dir", "two", "--bootstrap", "127.0.0.1:9"]);
    unreachable.check(1, "firewall");
}

#[test]
fn wrong_configuration_is_told_with_line_and_column() {
    let world = World::new();
    let check = |text: &str, part: &str| {
        world.write("godwit.toml", text);
        world.run(&["config", "check", "--config", "godwit.toml"]).check(2, part);
        // `run` says the same before it looks at anything else.
        world.run(&["run", "--config", "godwit.toml", "--data-dir", "nowhere"]).check(2, part);
    };
    check("[http]\nprot = 80\n", "godwit.toml:2:1: unknown field `prot`");
    check("[store]\ncache_mib = 0\n", "godwit.toml:2:1: store.cache_mib: 0 is not between");
    check("[overlay]\n listen = [\"here\"]\n", "godwit.toml:2:12: ");
    check("[overlay", "godwit.toml:1:");
    world.run(&["config", "check", "--config", "gone.toml"]).check(2, "cannot read gone.toml");
    world.write("godwit.toml", "[http]\nconnections_max = 10\n");
    world.run(&["config", "check", "--config", "godwit.toml"]).check(0, "");
    let shown = world.json(&["config", "show", "--config", "godwit.toml", "--json"]);
    assert_eq!((&shown["http"]["connections_max"], &shown["store"]["cache_mib"]), (&10.into(), &64.into()));
    let schema = world.json(&["config", "schema"]);
    assert!(schema["properties"]["redirector"].is_object());
}

#[test]
fn usage_is_told() {
    let world = World::new();
    world.run(&["publish"]).check(2, "Usage: godwit publish");
    world.run(&["publish", ".", "--to", "www", "--wait", "some"]).check(2, "neither `all` nor a number");
    world.run(&["publish", ".", "--to", "www"]).check(2, "publisher.key");
    world.run(&["invite", "--name", "a", "--region", "b"]).check(2, "godwit init");
    world.run(&["invite", "--name", "a b", "--region", "b"]).check(2, "is not allowed in a name");
    world.run(&["join", "x", "--data-dir"]).check(2, "--data-dir");
    world.run(&["status", "--data-dir", "d"]).check(1, "godwit run");
    world.run(&["run", "--data-dir", "d"]).check(1, "godwit join");
    world.run(&["revoke"]).check(2, "NODE");
    world.run(&["testbed", "degrade", "a", "b"]).check(2, "--delay");
    world.run(&["testbed", "degrade", "a", "--loss", "200"]).check(2, "loss is 0 to 100 per cent");
    world.run(&["testbed", "up", "--regions", "0"]).check(2, "1 to 250 regions");
    for shell in ["bash", "zsh", "fish"] {
        assert!(world.run(&["completions", shell]).out.contains("godwit"), "{shell}");
    }
}

#[test]
fn every_verb_has_help_with_what_it_does() {
    let world = World::new();
    let help = world.run(&["--help"]);
    let verbs = [
        "init",
        "invite",
        "join",
        "run",
        "publish",
        "rollback",
        "status",
        "why",
        "drain",
        "undrain",
        "revoke",
        "address",
        "serve",
        "move",
        "testbed",
        "acme",
        "reload",
        "config",
        "dnssec",
        "redirector",
        "pdns-backend",
        "export",
        "completions",
    ];
    for verb in verbs {
        assert!(help.out.contains(&format!("\n  {verb} ")), "{verb} is not in the help");
        check_help(&world, &[verb]);
    }
    insta::assert_snapshot!("help", help.out);
}

/// The help of a verb and of all below it: how it is used, an example, and lines that fit.
fn check_help(world: &World, verbs: &[&str]) {
    let help = world.run(&[verbs, &["--help"]].concat());
    assert_eq!(help.code, 0);
    assert!(help.out.contains(&format!("Usage: godwit {}", verbs.join(" "))), "{}", help.out);
    assert!(help.out.contains("\nExample"), "no example: {}", help.out);
    let examples = help.out.split("\nExample").nth(1).unwrap();
    // A line that was broken to fit begins with one word.
    let broken = examples.lines().find(|line| !line.is_empty() && !line.contains([' ', '.', ':']));
    assert_eq!(broken, None, "{}", help.out);
    let commands = help.out.split("\nCommands:\n").nth(1).and_then(|rest| rest.split("\n\n").next());
    for line in commands.unwrap_or_default().lines() {
        let name = line.strip_prefix("  ").and_then(|line| line.split(' ').next()).unwrap_or_default();
        if !matches!(name, "" | "help") {
            check_help(world, &[verbs, &[name]].concat());
        }
    }
}
