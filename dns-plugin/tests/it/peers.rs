//! Other servers with our map: PowerDNS that asks for it, gdnsd and Knot that are fed with it.
//!
//! Each test runs the real program on loopback with a configuration of its own, asks it for a few
//! thousand client subnets, and compares addresses and scopes with the map's. Without the program it
//! says so and does nothing (Debian: pdns-server, pdns-backend-remote, gdnsd, knot).

use arc_swap::ArcSwap;
use godwit_core::name::RegionName;
use godwit_dns_plugin::zone::config::{CustomRecord, ZoneConfig};
use godwit_dns_plugin::{Clock, Options, SharedView, Zone, remote};
use godwit_map::rules::Rules;
use godwit_map::{Generation, GeoDb, Hosting, Inputs, Service, export};
use hickory_server::proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_server::proto::rr::rdata::opt::{ClientSubnet, EdnsOption};
use hickory_server::proto::rr::{Name, RData, RecordType};
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Long enough for a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many client subnets are asked for.
const CLIENTS: usize = 2000;

/// Where a program of Debian is; `None`, loudly, where it is not.
fn program(name: &str) -> Option<PathBuf> {
    let folders = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
    let found = folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file());
    if found.is_none() {
        eprintln!("SKIPPED: {name} is not installed");
    }
    found
}

/// SplitMix64: the same numbers in each run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Three regions, and five hundred prefixes that each go to one of them.
fn world() -> (Inputs, GeoDb) {
    let mut inputs = crate::inputs();
    let node = inputs.members[0].clone();
    inputs.members = (1..=6u8)
        .map(|n| godwit_map::MemberInput {
            id: godwit_core::key::SecretKey::from_seed(&[n; 32]).public(),
            name: format!("m{n}").parse().unwrap(),
            region: format!("r{}", n % 3).parse().unwrap(),
            public_v4: Some(Ipv4Addr::new(198, 18, 0, n)),
            public_v6: Some(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into())),
            place: None,
            ..node.clone()
        })
        .collect();
    inputs.sites.truncate(1);
    inputs.sites[0].hosting = Hosting::Service(Service::default());
    let mut numbers = Numbers(7);
    let mut rules = Rules::new();
    let region = |n: u64| -> RegionName { format!("r{n}").parse().unwrap() };
    rules.send_others(vec![region(0), region(1), region(2)]).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..500 {
        let address = match numbers.below(4) {
            0 => IpAddr::V6((0x2400u128 << 112 | u128::from(numbers.next()) << 52).into()),
            _ => IpAddr::V4((numbers.next() as u32 & 0x7fff_ffff).into()),
        };
        let len = if address.is_ipv4() { 8 + numbers.below(17) } else { 16 + numbers.below(33) };
        let net = ipnet::IpNet::new(address, len as u8).unwrap().trunc();
        if seen.insert(net) {
            rules.send_prefix(net, &[region(numbers.below(3))]).unwrap();
        }
    }
    (inputs, GeoDb::by_rules(rules, None).unwrap())
}

/// Client subnets: /24 and /56, a few of them whole addresses.
fn clients() -> impl Iterator<Item = (IpAddr, u8)> {
    let mut numbers = Numbers(11);
    (0..CLIENTS).map(move |_| {
        let (address, len) = match numbers.below(4) {
            0 => (IpAddr::V6((0x2400u128 << 112 | u128::from(numbers.next()) << 52).into()), 56),
            _ => (IpAddr::V4((numbers.next() as u32 & 0x7fff_ffff).into()), 24),
        };
        (ipnet::IpNet::new(address, len).unwrap().trunc().addr(), len)
    })
}

/// A running server, stopped when dropped.
pub(super) struct Server {
    child: Child,
    pub(super) port: u16,
    _folder: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that is free for UDP and TCP at this moment.
fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Server {
    /// Starts a program and waits until it answers for the zone.
    fn start(mut command: Command, port: u16, folder: TempDir) -> Server {
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap();
        let mut server = Server { child, port, _folder: folder };
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(reply) = server.try_ask("edge.example.org.", RecordType::SOA, None)
                && reply.metadata.response_code == ResponseCode::NoError
            {
                return server;
            }
            let log = || std::fs::read_to_string(server._folder.path().join("log")).unwrap_or_default();
            if let Some(status) = server.child.try_wait().unwrap() {
                panic!("it ended with {status}: {}", log());
            }
            assert!(Instant::now() < deadline, "it does not answer: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn try_ask(&self, name: &str, kind: RecordType, client: Option<(IpAddr, u8)>) -> Option<Message> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        if let Some((address, len)) = client {
            edns.options_mut().insert(EdnsOption::Subnet(ClientSubnet::new(address, len, 0)));
        }
        message.edns = Some(edns);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket.send_to(&message.to_vec().unwrap(), ("127.0.0.1", self.port)).unwrap();
        let mut buffer = [0; 4096];
        let len = socket.recv(&mut buffer).ok()?;
        Some(Message::from_vec(&buffer[..len]).unwrap())
    }

    /// Asks until there is an answer: a busy machine loses packets.
    fn ask(&self, name: &str, kind: RecordType, client: Option<(IpAddr, u8)>) -> Message {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(reply) = self.try_ask(name, kind, client) {
                return reply;
            }
            assert!(Instant::now() < deadline, "no answer for {name} {kind} {client:?}");
        }
    }

    /// Addresses and scope of `www` are those of the map for every client. The scope must hold
    /// (`sound`): not be wider than the map's; and when `exact` it is the map's.
    fn check(&self, generation: &Generation, exact: bool) {
        for client in clients() {
            for kind in [RecordType::A, RecordType::AAAA] {
                let reply = self.ask("www.edge.example.org.", kind, Some(client));
                let answer = generation.answer(client.0, "www").unwrap();
                let mut expected: Vec<IpAddr> = match kind {
                    RecordType::A => answer.v4().map(|(_, address)| address.into()).collect(),
                    _ => answer.v6().map(|(_, address)| address.into()).collect(),
                };
                let mut told: Vec<IpAddr> =
                    reply.answers.iter().filter_map(|record| record.data.ip_addr()).collect();
                expected.sort();
                told.sort();
                assert_eq!(told, expected, "{client:?} {kind}");
                let scope = scope(&reply).expect("a subnet comes back");
                let right = if exact { scope == answer.scope } else { scope >= answer.scope };
                assert!(right, "{client:?} {kind}: scope {scope}, the map's is {}", answer.scope);
            }
        }
    }
}

fn scope(reply: &Message) -> Option<u8> {
    reply.edns.as_ref()?.options().as_ref().iter().find_map(|(_, option)| match option {
        EdnsOption::Subnet(subnet) => Some(subnet.scope_prefix()),
        _ => None,
    })
}

/// Answers every connection to a socket with the view, as `godwit pdns-backend` does.
fn answer_on(socket: &Path, view: SharedView) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(stream), view) = (stream, view.clone()) else { return };
            std::thread::spawn(move || {
                let mut writer = stream.try_clone().unwrap();
                for line in BufReader::new(stream).lines() {
                    let Ok(line) = line else { return };
                    if writeln!(writer, "{}", remote::reply(Clock::Host.now(), &view.load(), &line)).is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
}

fn record(name: &str, kind: &str, data: &str) -> CustomRecord {
    CustomRecord { name: name.into(), kind: kind.into(), ttl: Some(77), data: data.into() }
}

/// A PowerDNS that asks for what is in `view`; `None`, loudly, where there is none.
pub(super) fn powerdns(view: SharedView, options: &str) -> Option<Server> {
    let pdns = program("pdns_server")?;
    let libraries = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let backend = |folder: std::fs::DirEntry| folder.path().join("pdns/libremotebackend.so").is_file();
    if !libraries.into_iter().any(backend) {
        eprintln!("SKIPPED: pdns-backend-remote is not installed");
        return None;
    }
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let socket = folder.path().join("remote.sock");
    answer_on(&socket, view);
    let settings = format!(
        "launch=remote\nremote-connection-string=unix:path={}\nedns-subnet-processing=yes\n\
         local-address=127.0.0.1\nlocal-port={port}\nsocket-dir={}\nsetuid=\nsetgid=\nguardian=no\n\
         daemon=no\nwrite-pid=no\nloglevel=4\n{options}",
        socket.display(),
        folder.path().display()
    );
    std::fs::write(folder.path().join("pdns.conf"), settings).unwrap();
    let mut command = Command::new(pdns);
    command.arg(format!("--config-dir={}", folder.path().display()));
    Some(Server::start(command, port, folder))
}

#[test]
fn powerdns_asks_us_and_tells_scopes() {
    let (inputs, geo) = world();
    let generation = Arc::new(Generation::compute(&inputs, &geo, None));
    let config = ZoneConfig {
        record: vec![
            record("mail", "MX", "10 mx.example.net."),
            record("@", "CAA", "0 issue \"ca.example.net\""),
            record("text", "TXT", "\"a \\\"b\\\"\" \"second\""),
            record("_sip._tcp", "SRV", "1 2 5060 sip.example.net."),
            record("other", "CNAME", "www"),
            record("*.wild", "A", "192.0.2.77"),
        ],
        ..ZoneConfig::default()
    };
    let zone = Zone::configured(&inputs.zone, Options::default(), &config, 1).unwrap();
    let view = SharedView::new(Arc::new(ArcSwap::new(generation.clone())), zone);
    let Some(server) = powerdns(view, "") else { return };
    server.check(&generation, true);
    let data = |name: &str, kind| {
        let reply = server.ask(&format!("{name}.edge.example.org."), kind, None);
        let code = reply.metadata.response_code;
        (code, reply.answers.iter().map(|record| record.data.clone()).collect::<Vec<RData>>())
    };
    let text = |name: &str, kind| data(name, kind).1.iter().map(RData::to_string).collect::<Vec<_>>();
    assert_eq!(text("mail", RecordType::MX), ["10 mx.example.net."]);
    assert_eq!(text("_sip._tcp", RecordType::SRV), ["1 2 5060 sip.example.net."]);
    assert_eq!(text("a.wild", RecordType::A), ["192.0.2.77"]);
    let RData::TXT(txt) = &data("text", RecordType::TXT).1[0] else { panic!("no text") };
    assert_eq!(txt.txt_data.iter().map(|text| &**text).collect::<Vec<_>>(), [&b"a \"b\""[..], b"second"]);
    let caa = server.ask("edge.example.org.", RecordType::CAA, None);
    assert!(caa.answers[0].data.to_string().contains("ca.example.net"), "{caa}");
    assert_eq!(data("nowhere", RecordType::A).0, ResponseCode::NXDomain);
    assert_eq!(data("mail", RecordType::A), (ResponseCode::NoError, Vec::new()));
    assert_eq!(data("_tcp", RecordType::A), (ResponseCode::NoError, Vec::new()), "only names below it");
    // PowerDNS follows the CNAME by asking again.
    let chased = server.ask("other.edge.example.org.", RecordType::A, Some(([10, 1, 2, 0].into(), 24)));
    assert_eq!(chased.answers[0].record_type(), RecordType::CNAME);
    assert!(chased.answers.len() > 1, "{chased}");
}

const ZONE: &str = "$TTL 60\n@ SOA ns1 host 1 3600 600 604800 60\n@ NS ns1\nns1 A 127.0.0.1\n";

#[test]
fn gdnsd_is_fed_with_a_nets_file() {
    let Some(gdnsd) = program("gdnsd") else { return };
    let (inputs, geo) = world();
    let generation = Generation::compute(&inputs, &geo, None);
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let at = |name: &str| folder.path().join(name);
    for name in ["zones", "geoip", "run", "state"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    let exported = export::gdnsd_nets(&generation, &"www".parse().unwrap()).unwrap();
    assert_eq!(exported.divided, 0);
    std::fs::write(at("geoip/nets"), exported.content).unwrap();
    let datacenter = |region: &str| {
        let members = || inputs.members.iter().filter(|member| member.region.as_str() == region);
        let v4: Vec<String> = members().map(|member| member.public_v4.unwrap().to_string()).collect();
        let v6: Vec<String> = members().map(|member| member.public_v6.unwrap().to_string()).collect();
        format!("{region} => {{ addrs_v4 => [ {} ], addrs_v6 => [ {} ] }}", v4.join(", "), v6.join(", "))
    };
    let regions = ["r0", "r1", "r2"];
    let config = format!(
        "options => {{ listen => 127.0.0.1, dns_port => {port}, udp_threads => 1, tcp_threads => 1,\n\
         run_dir => {run}, state_dir => {state} }}\n\
         plugins => {{ geoip => {{\n maps => {{ m => {{ datacenters => [ {list} ], nets => nets }} }}\n\
         resources => {{ www => {{ map => m, service_types => up, dcmap => {{ {dcmap} }} }} }}\n}} }}\n",
        run = at("run").display(),
        state = at("state").display(),
        list = regions.join(", "),
        dcmap = regions.map(datacenter).join("\n"),
    );
    std::fs::write(at("config"), config).unwrap();
    std::fs::write(at("zones/edge.example.org"), format!("{ZONE}www 60 DYNA geoip!www\n")).unwrap();
    let mut command = Command::new(gdnsd);
    command.arg("-c").arg(folder.path()).arg("start");
    Server::start(command, port, folder).check(&generation, true);
}

#[test]
fn knot_is_fed_with_subnets() {
    let Some(knotd) = program("knotd") else { return };
    let (inputs, geo) = world();
    let generation = Generation::compute(&inputs, &geo, None);
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let at = |name: &str| folder.path().join(name);
    let exported =
        export::knot_subnets(&generation, &"www".parse().unwrap(), "www.edge.example.org.").unwrap();
    std::fs::write(at("geo"), exported.content).unwrap();
    std::fs::write(at("zone"), format!("$ORIGIN edge.example.org.\n{ZONE}")).unwrap();
    let here = folder.path().display();
    let config = format!(
        "server:\n  listen: 127.0.0.1@{port}\n  rundir: {here}\n  pidfile: {here}/pid\n  udp-workers: 1\n\
         \x20 tcp-workers: 1\n  background-workers: 1\n  edns-client-subnet: on\ndatabase:\n  storage: {here}/db\n\
         mod-geoip:\n  - id: g\n    config-file: {here}/geo\n    ttl: 60\n    mode: subnet\n\
         zone:\n  - domain: edge.example.org\n    file: {here}/zone\n    zonefile-sync: -1\n    journal-content: none\n\
         \x20   module: mod-geoip/g\n"
    );
    std::fs::write(at("knot.conf"), config).unwrap();
    let mut command = Command::new(knotd);
    command.arg("-c").arg(at("knot.conf"));
    // Knot makes the scope of the prefix that matched; the map's are as wide, so it is the same.
    Server::start(command, port, folder).check(&generation, true);
}
