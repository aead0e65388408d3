//! Verbs that need no member: a static zone.

use crate::harness::{TXT, World, ask_once, documented, get_unix, resolve_as, until};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;

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
    assert!(right.out.starts_with("zone.toml is right: "), "{}", right.out);
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

const EU: [u8; 4] = [192, 0, 2, 1];
const US: [u8; 4] = [198, 51, 100, 1];

/// A redirector of `zone.toml`; killed when dropped.
pub(crate) struct Served {
    child: Child,
    pub(crate) dns: SocketAddr,
}

impl Served {
    /// Starts it and waits until it answers and can be asked.
    pub(crate) fn start(world: &World) -> Served {
        let mut command = world.command(&["redirector", "--static", "zone.toml", "--log-format", "json"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (mut log, mut dns) = (String::new(), None);
        loop {
            let Some(Ok(line)) = lines.next() else { panic!("it did not start:\n{log}") };
            log += &line;
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            match event["fields"]["message"].as_str() {
                Some("redirector listens") => {
                    let addresses = event["fields"]["addresses"].as_str().unwrap().to_owned();
                    dns = addresses.split(['[', ']', ',']).nth(1).map(|text| text.parse().unwrap());
                }
                Some("controlled") => break,
                _ => {}
            }
        }
        // The pipe has to be emptied for as long as it writes.
        std::thread::spawn(move || lines.for_each(drop));
        Served { child, dns: dns.unwrap() }
    }

    fn signal(&self, signal: &str) {
        let sent = std::process::Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Whether a client of the default rule is told of this address.
    fn leads_to(&self, address: [u8; 4]) -> bool {
        ask_once(self.dns, "www.svc.example.org").ends_with(&address)
    }

    /// Waits until it is.
    fn will_lead_to(&self, address: [u8; 4]) {
        until("another address", || self.leads_to(address).then_some(()));
    }

    fn has(&self, name: &str) -> bool {
        ask_once(self.dns, &format!("{name}.svc.example.org"))[3] & 15 == 0
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Clients that ask all the while; each query must be answered, with an address of the zone.
struct Clients {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU32>,
    clients: Vec<JoinHandle<()>>,
}

impl Clients {
    fn start(dns: SocketAddr) -> Clients {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let client = || {
            let (stop, answered) = (stop.clone(), answered.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let reply = ask_once(dns, "www.svc.example.org");
                    assert!(
                        [[192, 0, 2, 1], [198, 51, 100, 1]].iter().any(|address| reply.ends_with(address))
                    );
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let clients = (0..3).map(|_| client()).collect();
        Clients { stop, answered, clients }
    }

    fn wait_for_more(&self) {
        let enough = self.answered.load(Ordering::SeqCst) + 50;
        until("more answers", || (self.answered.load(Ordering::SeqCst) >= enough).then_some(()));
    }

    fn finish(self) -> u32 {
        self.stop.store(true, Ordering::SeqCst);
        self.clients.into_iter().for_each(|client| client.join().unwrap());
        self.answered.load(Ordering::SeqCst)
    }
}

const LISTEN: &str = "[redirector]\nlisten = [\"127.0.0.1:0\"]\nworkers = 1\nlimits.replies_per_second = 0\n";

fn served(more: &str) -> (World, Served) {
    let world = World::new();
    world.write("zone.toml", format!("{ZONE}{LISTEN}{more}"));
    let served = Served::start(&world);
    (world, served)
}

#[test]
fn a_redirector_is_controlled_by_its_socket() {
    let (world, served) = served("");
    let run = |command: &[&str]| world.run(&[command, &["--static", "zone.toml"]].concat());
    assert!(served.leads_to(EU));
    run(&["drain", "eu"]).check(0, "");
    served.will_lead_to(US);
    let status = world.json(&["status", "--json", "--static", "zone.toml"]);
    let drained = |name: &str| {
        let member = status["members"].as_array().unwrap().iter().find(|member| member["name"] == name);
        member.unwrap()["draining"].clone()
    };
    assert_eq!((drained("eu-1"), drained("us-1")), (true.into(), false.into()));
    assert!(run(&["status"]).out.contains("drain"), "{}", run(&["status"]).out);
    // The same through the socket's own name.
    let socket = world.run(&["undrain", "eu", "--socket", "zone.sock", "--json"]);
    assert_eq!((socket.code, socket.out.contains("\"up\"")), (0, true), "{}", socket.err);
    served.will_lead_to(EU);
    run(&["drain", "mars"]).check(2, "neither a region nor an address");

    run(&["acme", "set", "www", "some-value"]).check(0, "");
    let name = "_acme-challenge.www.svc.example.org";
    let has = |value: &str| {
        let reply = resolve_as(served.dns, name, TXT);
        reply.windows(value.len()).any(|part| part == value.as_bytes())
    };
    until("the value", || has("some-value").then_some(()));
    assert!(run(&["acme", "show"]).out.contains("some-value"));
    run(&["acme", "unset", "www", "some-value"]).check(0, "");
    until("no value", || (!has("some-value")).then_some(()));

    let why = world.json(&["why", "www", "--client", "10.1.2.3", "--static", "zone.toml", "--json"]);
    assert_eq!(why["replicas"][0]["region"], "us");
    let why = world.json(&["why", "eu.region", "--client", "10.1.2.3", "--static", "zone.toml", "--json"]);
    assert_eq!((&why["region"], &why["replicas"][0]["name"]), (&"eu".into(), &"eu-1".into()));

    world.write("zone.toml", format!("{}{LISTEN}", ZONE.replace("shop", "blog")));
    run(&["reload"]).check(0, "");
    until("the new name", || served.has("blog").then_some(()));
    world.write("zone.toml", format!("{}{LISTEN}", ZONE.replace("default = [\"eu\"", "default = [\"mars\"")));
    run(&["reload"]).check(1, "zone.toml:14:12: there is no region mars");
    assert!(served.leads_to(EU), "it stays as it was");
    documented(&get_unix(&world.path("zone.sock"), "/metrics"));
    drop(served);
    world.write("zone.toml", ZONE);
    run(&["reload"]).check(1, "start it with");
}

#[test]
fn what_was_acknowledged_outlives_a_kill() {
    let (world, served) = served("");
    let run = |command: &[&str]| world.run(&[command, &["--static", "zone.toml"]].concat());
    run(&["drain", "eu"]).check(0, "");
    run(&["acme", "set", "www", "some-value"]).check(0, "");
    served.kill();
    let served = Served::start(&world);
    // The very first answer.
    assert!(served.leads_to(US));
    assert!(run(&["acme", "show"]).out.contains("some-value"));
}

#[test]
fn nothing_is_lost_while_files_change_and_some_of_them_are_wrong() {
    let (world, served) = served("");
    let clients = Clients::start(served.dns);
    let run = |command: &[&str]| world.run(&[command, &["--static", "zone.toml"]].concat());
    let zone = |text: &str| world.write("zone.toml", format!("{text}{LISTEN}"));
    for number in 0..20 {
        zone(&ZONE.replace("shop", &format!("shop{number}")));
        served.signal("-HUP");
        until("a new name", || served.has(&format!("shop{number}")).then_some(()));
    }
    for _ in 0..20 {
        for (verb, expected) in [("drain", US), ("undrain", EU)] {
            run(&[verb, "eu"]).check(0, "");
            served.will_lead_to(expected);
        }
    }
    let wrong = |part: &str| {
        run(&["reload"]).check(1, part);
        served.signal("-HUP");
        clients.wait_for_more();
    };
    zone(&ZONE.replace("name = \"us\"", "nmae = \"us\""));
    wrong("zone.toml:8:1: unknown field `nmae`");
    world.write("broken.mmdb", "no database");
    zone(&ZONE.replace("[clients]", "[clients]\ngeoip = \"broken.mmdb\"\ncountry.DE = [\"us\"]"));
    wrong("broken.mmdb");
    zone(ZONE);
    world.write("states.toml", "eu = \"dr");
    wrong("states.toml:1:");
    run(&["drain", "us"]).check(2, "states.toml:1:");
    std::fs::remove_file(world.path("states.toml")).unwrap();
    run(&["reload"]).check(0, "");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let held = TcpListener::bind(taken).unwrap();
    let listen = LISTEN.replace("127.0.0.1:0\"", &format!("127.0.0.1:0\", \"{taken}\""));
    world.write("zone.toml", format!("{ZONE}{listen}"));
    wrong(&format!("{taken} is in use"));
    drop(held);
    run(&["reload"]).check(0, "");
    assert!(ask_once(taken, "www.svc.example.org").ends_with(&EU));
    let answered = clients.finish();
    println!("{answered} queries answered, none lost");
}

#[test]
fn why_and_status_tell_what_checks_find() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let check = format!(
        "[[check]]\nname = \"web\"\nkind = \"tcp\"\nport = {}\nperiod_ms = 1000\ntimeout_ms = 1000\n",
        closed.port()
    );
    let (world, _served) = {
        let world = World::new();
        let zone = ZONE.replace("192.0.2.1", "127.0.0.1");
        // Of one address it is known that it is down; of those that are nobody's, nothing or the same.
        world.write("zone.toml", format!("{zone}{LISTEN}{check}"));
        let served = Served::start(&world);
        (world, served)
    };
    let status = until("a verdict", || {
        let status = world.json(&["status", "--json", "--static", "zone.toml"]);
        let member = status["members"].as_array().unwrap().iter().find(|member| member["name"] == "eu-1");
        let found = &member.unwrap()["checks"][0]["vantages"][0];
        (found["finds"] == "down").then(|| found.clone())
    });
    assert_eq!(status["why"], "connection refused");
    assert!(status["since_ms"].as_u64().unwrap() > 1_700_000_000_000, "{status}");
    let why = world.json(&["why", "www", "--client", "192.0.2.9", "--json", "--static", "zone.toml"]);
    let replica =
        why["replicas"].as_array().unwrap().iter().find(|replica| replica["name"] == "eu-1").unwrap();
    assert_eq!(replica["checks"][0]["name"], "web");
    assert_ne!(replica["checks"][0]["state"], "up");
}
