//! The map in other servers: as a coprocess of PowerDNS, and a running network's in gdnsd and Knot.

use crate::harness::{Member, PATIENCE, World, ask_subnet, program, until};
use crate::static_zone::Served;
use godwit_testbed::UpOptions;
use godwit_testbed::topology::Topology;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// How many clients are asked for.
const CLIENTS: usize = 500;

/// Another program, stopped when dropped.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Other {
    fn start(world: &World, command: &mut Command, log: &str) -> Other {
        let log = File::create(world.path(log)).unwrap();
        command.current_dir(world.path("")).stdin(Stdio::null());
        Other(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
    }

    /// Waits until it answers; tells what it said when it has ended instead.
    fn answers(&mut self, world: &World, log: &str, at: SocketAddr, name: &str) {
        until("an answer of the other server", || {
            if let Some(status) = self.0.try_wait().unwrap() {
                panic!("it ended with {status}: {}", std::fs::read_to_string(world.path(log)).unwrap());
            }
            let mut query = vec![0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            for label in name.split('.') {
                query.push(label.len() as u8);
                query.extend(label.as_bytes());
            }
            query.extend([0, 0, 6, 0, 1]);
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
            socket.send_to(&query, at).unwrap();
            let mut reply = [0; 1500];
            let len = socket.recv(&mut reply).ok()?;
            (len > 12 && reply[3] & 15 == 0).then_some(())
        });
    }
}

/// A port that is free for UDP and TCP at this moment.
fn free_port() -> SocketAddr {
    loop {
        let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        if UdpSocket::bind(at).is_ok() {
            return at;
        }
    }
}

/// Client subnets, /24, the same in each run.
fn clients() -> impl Iterator<Item = (Ipv4Addr, u8)> {
    // Fibonacci hashing spreads them.
    (0..CLIENTS as u32).map(|number| (Ipv4Addr::from(number.wrapping_mul(0x9e37_79b9) & 0x7fff_ff00), 24))
}

/// Cities with clients, of a network of three members.
const CITIES: u32 = 20;

/// Clients whose city the GeoIP database knows. (Of others each server divides them as it can: the
/// exports say how many those are.)
fn placed() -> impl Iterator<Item = (Ipv4Addr, u8)> {
    (0..CLIENTS as u32).map(|number| {
        let host = number / CITIES * 10 + 1;
        (Ipv4Addr::from(0xc613_0000 | (number % CITIES) << 8 | host), 32)
    })
}

#[test]
fn a_coprocess_of_a_real_powerdns_answers_with_our_scopes() {
    let Some(pdns) = program("pdns_server") else { return };
    let world = World::new();
    let zone = "origin = \"svc.example.org\"\n[redirector]\nlisten = [\"127.0.0.1:0\"]\nworkers = 1\n\
        limits.replies_per_second = 0\n\
        [[region]]\nname = \"eu\"\naddresses = [\"192.0.2.1\", \"192.0.2.2\"]\n\
        [[region]]\nname = \"us\"\naddresses = [\"198.51.100.1\"]\n\
        [[service]]\nname = \"www\"\n[clients]\ndefault = [\"eu\", \"us\"]\n\
        prefix.\"10.0.0.0/8\" = [\"us\"]\nprefix.\"64.0.0.0/11\" = [\"us\"]\nprefix.\"64.1.0.0/16\" = [\"eu\"]\n";
    world.write("zone.toml", zone);
    let served = Served::start(&world);
    let godwit = env!("CARGO_BIN_EXE_godwit");
    let file = world.path("zone.toml");
    let script = format!("#!/bin/sh\nexec {godwit} pdns-backend --pipe --static {}\n", file.display());
    world.write("backend", script);
    std::fs::set_permissions(world.path("backend"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (at, here) = (free_port(), world.path("").display().to_string());
    let settings = format!(
        "launch=remote\nremote-connection-string=pipe:command={here}/backend,timeout=20000\n\
         edns-subnet-processing=yes\nlocal-address=127.0.0.1\nlocal-port={}\nsocket-dir={here}\nsetuid=\n\
         setgid=\nguardian=no\ndaemon=no\nwrite-pid=no\nloglevel=4\n",
        at.port()
    );
    world.write("pdns.conf", settings);
    let mut command = Command::new(pdns);
    let mut other = Other::start(&world, command.arg(format!("--config-dir={here}")), "pdns.log");
    if missing_backend(&world, &mut other) {
        return eprintln!("SKIPPED: pdns-backend-remote is not installed");
    }
    other.answers(&world, "pdns.log", at, "svc.example.org");
    let mut scopes = std::collections::BTreeSet::new();
    for client in clients() {
        let (mut expected, scope) = ask_subnet(served.dns, "www.svc.example.org", client);
        let (mut told, told_scope) = ask_subnet(at, "www.svc.example.org", client);
        // PowerDNS turns the records of a set about.
        expected.sort();
        told.sort();
        assert_eq!((told, told_scope), (expected, scope), "{client:?}");
        scopes.insert(scope);
    }
    assert!(scopes.len() > 3, "{scopes:?}");
}

fn missing_backend(world: &World, other: &mut Other) -> bool {
    let folder = |folder: std::fs::DirEntry| folder.path().join("pdns/libremotebackend.so").is_file();
    let libraries = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().any(folder);
    !libraries && {
        let _ = other.0.wait();
        let log = std::fs::read_to_string(world.path("pdns.log")).unwrap_or_default();
        log.contains("remote")
    }
}

/// Three members in three cities, each at a loopback address of its own, that serve `www`; and a GeoIP
/// database that has clients in each of the cities.
fn network(world: &World) -> Vec<(String, Ipv4Addr, Member)> {
    let topology = Topology::build(&UpOptions {
        regions: 3,
        client_regions: CITIES as usize - 3,
        ..UpOptions::default()
    })
    .unwrap();
    world.write("geo.mmdb", godwit_testbed::geoip::database(&topology, 0, 0.0, false).unwrap());
    let mut members: Vec<(String, Ipv4Addr, Member)> = Vec::new();
    for (number, region) in (1u8..).zip(topology.regions.iter().take(3)) {
        let name = format!("m{number}");
        let token = world.invite(&name, &region.name);
        let mut join = vec!["join", &token, "--data-dir", &name];
        let bootstrap = members.first().map(|(_, _, member)| member.address("peer").to_string());
        if let Some(bootstrap) = &bootstrap {
            join.extend(["--bootstrap", bootstrap]);
        }
        world.run(&join).check(0, "");
        let address = Ipv4Addr::new(127, 18, number, 1);
        world.write(
            &format!("{name}/godwit.toml"),
            format!(
                "[node]\npublic_v4 = \"{address}\"\n[overlay]\nlisten = [\"127.0.0.1:0\"]\n\
                 [http]\nlisten = [\"{address}:0\"]\n[redirector]\nlisten = [\"127.0.0.1:0\"]\nworkers = 1\n\
                 limits = {{ replies_per_second = 0 }}\n\
                 [map]\ngeoip = {:?}\nexplore_permille = 0\n",
                world.path("geo.mmdb")
            ),
        );
        let member = world.launch(&name);
        members.push((region.name.clone(), address, member));
    }
    world.write("site/index.html", "<h1>one</h1>");
    world.json(&["publish", "site", "--to", "www", "--wait", "all", "--json", "--data-dir", "m1"]);
    members
}

/// Exports the map of the first member once its saved map has all three, and is the one that it answers
/// from.
fn exported(world: &World, format: &str, file: &str) {
    until("a saved map with all members", || {
        let why = world.run(&["why", "www", "--client", "198.19.0.1", "--json", "--data-dir", "m1"]);
        let why: Value = serde_json::from_str(&why.out).ok()?;
        let ranked = why["replicas"].as_array()?.iter().filter(|replica| !replica["rank"].is_null());
        (ranked.count() == 3).then_some(())
    });
    let command =
        ["export", format, "--site", "www", "--data-dir", "m1", "--config", "m1/godwit.toml", "-o", file];
    until("a saved map", || (world.run(&command).code == 0).then_some(()));
}

#[test]
fn gdnsd_and_knot_say_what_a_running_network_says() {
    let (gdnsd, knotd) = (program("gdnsd"), program("knotd"));
    if gdnsd.is_none() && knotd.is_none() {
        return;
    }
    let world = World::with_network();
    let members = network(&world);
    let dns = members[0].2.address("dns");
    let name = "www.edge.example.org";
    // Maps change as members measure each other: an attempt counts when nothing did meanwhile.
    let said = || placed().map(|client| ask_subnet(dns, name, client)).collect::<Vec<_>>();
    let compare = |check: &mut dyn FnMut() -> Result<(), String>| {
        let deadline = Instant::now() + 2 * PATIENCE;
        while let Err(problem) = check() {
            assert!(Instant::now() < deadline, "{problem}");
        }
    };
    if let Some(gdnsd) = &gdnsd {
        compare(&mut || {
            exported(&world, "gdnsd-nets", "nets");
            let (before, (mut other, at)) = (said(), start_gdnsd(&world, gdnsd, &members));
            other.answers(&world, "gdnsd.log", at, "edge.example.org");
            let told: Vec<_> = placed().map(|client| ask_subnet(at, name, client)).collect();
            // A data centre stands for a region, and here each has one address.
            let first = |said: &[(Vec<Ipv4Addr>, u8)]| -> Vec<(Vec<Ipv4Addr>, u8)> {
                said.iter().map(|(addresses, scope)| (addresses[..1].to_vec(), *scope)).collect()
            };
            same(&first(&told), &first(&before))
        });
    }
    if let Some(knotd) = &knotd {
        compare(&mut || {
            exported(&world, "knot-geoip", "geo");
            let (before, (mut other, at)) = (said(), start_knot(&world, knotd));
            other.answers(&world, "knot.log", at, "edge.example.org");
            let sorted = |(mut addresses, scope): (Vec<Ipv4Addr>, u8)| {
                addresses.sort();
                (addresses, scope)
            };
            let told: Vec<_> = placed().map(|client| sorted(ask_subnet(at, name, client))).collect();
            same(&told, &before.into_iter().map(sorted).collect::<Vec<_>>())
        });
    }
    let answers: std::collections::BTreeSet<_> =
        said().into_iter().map(|(addresses, _)| addresses[0]).collect();
    assert!(answers.len() > 1, "clients of different cities are told the same: {answers:?}");
    mmdb(&world);
}

/// Whether each client is told the same by both, and the other's scopes are sound: within each of them
/// every client is told the same by the member.
fn same(told: &[(Vec<Ipv4Addr>, u8)], expected: &[(Vec<Ipv4Addr>, u8)]) -> Result<(), String> {
    for ((client, _), ((addresses, scope), (right, _))) in placed().zip(told.iter().zip(expected)) {
        if addresses != right {
            return Err(format!("{client} is told {addresses:?}, not {right:?}"));
        }
        let mask = u32::MAX.checked_shl(32 - u32::from(*scope)).unwrap_or(0);
        for ((other, _), (theirs, _)) in placed().zip(expected) {
            if (u32::from(client) ^ u32::from(other)) & mask == 0 && theirs != right {
                return Err(format!("{client} is told the scope /{scope}, where {other} is told otherwise"));
            }
        }
    }
    Ok(())
}

const ZONE: &str = "$TTL 60\n@ SOA ns1 host 1 3600 600 604800 60\n@ NS ns1\nns1 A 127.0.0.1\n";

fn start_gdnsd(world: &World, gdnsd: &Path, members: &[(String, Ipv4Addr, Member)]) -> (Other, SocketAddr) {
    let at = free_port();
    for folder in ["gdnsd/zones", "gdnsd/geoip", "gdnsd/run", "gdnsd/state"] {
        std::fs::create_dir_all(world.path(folder)).unwrap();
    }
    std::fs::copy(world.path("nets"), world.path("gdnsd/geoip/nets")).unwrap();
    let regions: Vec<&str> = members.iter().map(|(region, _, _)| region.as_str()).collect();
    let dcmap: Vec<String> =
        members.iter().map(|(region, address, _)| format!("{region} => [ {address} ]")).collect();
    let config = format!(
        "options => {{ listen => 127.0.0.1, dns_port => {}, udp_threads => 1, tcp_threads => 1,\n\
         run_dir => {}, state_dir => {} }}\n\
         plugins => {{ geoip => {{ maps => {{ m => {{ datacenters => [ {} ], nets => nets }} }}\n\
         resources => {{ www => {{ map => m, service_types => up, dcmap => {{ {} }} }} }} }} }}\n",
        at.port(),
        world.path("gdnsd/run").display(),
        world.path("gdnsd/state").display(),
        regions.join(", "),
        dcmap.join(", ")
    );
    world.write("gdnsd/config", config);
    world.write("gdnsd/zones/edge.example.org", format!("{ZONE}www 60 DYNA geoip!www\n"));
    let mut command = Command::new(gdnsd);
    (Other::start(world, command.arg("-c").arg(world.path("gdnsd")).arg("start"), "gdnsd.log"), at)
}

fn start_knot(world: &World, knotd: &Path) -> (Other, SocketAddr) {
    let at = free_port();
    let here = world.path("").display().to_string();
    world.write("knot.zone", format!("$ORIGIN edge.example.org.\n{ZONE}"));
    let config = format!(
        "server:\n  listen: 127.0.0.1@{port}\n  rundir: {here}\n  pidfile: {here}/knot.pid\n  udp-workers: 1\n\
         \x20 tcp-workers: 1\n  background-workers: 1\n  edns-client-subnet: on\ndatabase:\n  storage: {here}/knot-{port}\n\
         mod-geoip:\n  - id: g\n    config-file: {here}/geo\n    ttl: 60\n    mode: subnet\n\
         zone:\n  - domain: edge.example.org\n    file: {here}/knot.zone\n    zonefile-sync: -1\n\
         \x20   journal-content: none\n    module: mod-geoip/g\n",
        port = at.port()
    );
    world.write("knot.conf", config);
    let mut command = Command::new(knotd);
    (Other::start(world, command.arg("-c").arg(world.path("knot.conf")), "knot.log"), at)
}

/// The exported database says the region of each city's clients that the member does.
fn mmdb(world: &World) {
    let Some(lookup) = program("mmdblookup") else { return };
    let first = |client: &str| -> Value {
        let why = world.json(&["why", "www", "--client", client, "--json", "--data-dir", "m1"]);
        why["replicas"][0]["region"].clone()
    };
    until("the same in the database", || {
        exported(world, "mmdb", "map.mmdb");
        let same = (0..CITIES).all(|city| {
            let client = format!("198.19.{city}.7");
            let mut command = Command::new(&lookup);
            command.arg("--file").arg(world.path("map.mmdb")).args(["--ip", &client, "region"]);
            let told = command.output().unwrap();
            String::from_utf8_lossy(&told.stdout).contains(&first(&client).to_string())
        });
        same.then_some(())
    });
}

#[test]
fn a_backend_follows_the_map_of_a_running_member() {
    let world = World::with_network();
    let token = world.invite("fra1", "eu-frankfurt");
    world.run(&["join", &token, "--data-dir", "fra1"]).check(0, "");
    let member = world.start("fra1");
    world.write("site/index.html", "<h1>one</h1>");
    world.json(&["publish", "site", "--to", "www", "--json", "--data-dir", "fra1"]);
    until("a saved map", || world.path("fra1/generation.bin").is_file().then_some(()));
    let mut command = world.command(&["pdns-backend", "--socket", "pdns.sock", "--data-dir", "fra1"]);
    let mut backend = Other::start(&world, &mut command, "backend.log");
    until("the backend", || UnixStream::connect(world.path("pdns.sock")).ok());
    let lookup = |name: &str| -> Value {
        let mut stream = UnixStream::connect(world.path("pdns.sock")).unwrap();
        let parameters = json!({ "qname": format!("{name}.edge.example.org."), "qtype": "A" });
        writeln!(stream, "{}", json!({ "method": "lookup", "parameters": parameters })).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap()["result"].clone()
    };
    until("the site that is there", || (lookup("www")[0]["content"] == "127.0.0.1").then_some(()));
    assert_eq!(lookup("blog"), false);
    world.json(&["publish", "site", "--to", "blog", "--json", "--data-dir", "fra1"]);
    until("a site that came later", || (lookup("blog")[0]["content"] == "127.0.0.1").then_some(()));
    // It goes on with what was saved when the member is gone.
    assert_eq!(member.stop(), 0);
    assert_eq!(lookup("www")[0]["content"], "127.0.0.1");
    assert!(backend.0.try_wait().unwrap().is_none());
}
