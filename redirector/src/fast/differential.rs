//! Both paths over one random set of queries: octet for octet the same.
//!
//! `GODWIT_DIFFERENTIAL_QUERIES` sets how many (default 100,000), `GODWIT_DIFFERENTIAL_SEED` which; the
//! seed is printed. What the fast path hands over is equal by construction, so the share that it
//! answered by itself is asserted too.

use super::compiled::Compiled;
use super::respond::{Moment, Outcome, Responder};
use crate::capture::Engine;
use crate::metrics::{Metrics, Transport};
use crate::transfer::{Peers, Transfers};
use godwit_core::certificate::{Role, Serial};
use godwit_core::content::VersionNumber;
use godwit_core::geo::Coordinates;
use godwit_core::key::SecretKey;
use godwit_core::observation::ClientRtt;
use godwit_core::time::Time;
use godwit_dns_plugin::{Handler, Manners, Options, Secrets, SharedView, Zone};
use godwit_map::{Generation, GeoDb, Health, Inputs, MemberInput, SiteInput};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

const NOW: Time = Time::from_secs(1_800_000_000);
const ZONE: &str = "edge.example.org";

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len() as u64) as usize]
    }

    fn octets(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

fn member(n: u8, families: (bool, bool), place: (f64, f64), held: &[&str]) -> MemberInput {
    let held: Vec<_> = held.iter().map(|site| (site.parse().unwrap(), VersionNumber(1))).collect();
    MemberInput {
        id: SecretKey::from_seed(&[n; 32]).public(),
        serial: Serial(u64::from(n)),
        name: format!("n{n}").parse().unwrap(),
        region: format!("r{n}").parse().unwrap(),
        place: Some(Coordinates::new(place.0, place.1).unwrap()),
        roles: vec![Role::Node, Role::Redirector],
        state: Health::Alive,
        draining: false,
        ready: true,
        load_permille: 0,
        capacity: Default::default(),
        public_v4: families.0.then_some(Ipv4Addr::new(198, 18, 0, n)),
        public_v6: families.1.then_some(Ipv6Addr::new(0xfd67, 0, 0, 0, 0, 0, 0, u16::from(n))),
        http_port: Some(80),
        held,
        peer_rtts: Vec::new(),
        certified: true,
        checks: Vec::new(),
    }
}

/// A network with members of one family and of both, several tables, equals that are told together,
/// and clients in places, in observed prefixes and nowhere.
fn inputs() -> Inputs {
    let (paris, tokyo, york) = ((48.86, 2.35), (35.69, 139.69), (40.71, -74.01));
    let all: &[&str] = &["www", "blog", "a-rather-long-name-of-a-site-that-fills-its-label-nearly-whole"];
    let inputs = Inputs::new(ZONE.parse().unwrap());
    let names = ["www", "blog", "only-v4", "only-v6", "nobody", all[2]];
    let site = |name: &&str| SiteInput::published(name.parse().unwrap(), VersionNumber(1));
    let sites = names.iter().map(site).collect();
    let members = vec![
        member(1, (true, true), paris, all),
        member(2, (true, true), paris, all),
        member(3, (true, true), paris, all),
        member(4, (true, false), tokyo, &["www", "only-v4"]),
        member(5, (false, true), york, &["www", "only-v6"]),
        member(6, (true, true), tokyo, all),
    ];
    let observations = vec![
        (members[3].id, ClientRtt { samples: 8, ..ClientRtt::new("203.0.113.0/24".parse().unwrap(), 3_000) }),
        (
            members[4].id,
            ClientRtt { samples: 8, ..ClientRtt::new("2001:db8:7::/48".parse().unwrap(), 3_000) },
        ),
    ];
    Inputs { members, sites, observations, ..inputs }
}

fn geo() -> GeoDb {
    let at = |lat, lon| Coordinates::new(lat, lon).unwrap();
    GeoDb::from_networks([
        ("203.0.0.0/9".parse().unwrap(), at(48.9, 2.3)),
        ("198.51.100.0/25".parse().unwrap(), at(35.7, 139.7)),
        ("2001:db8::/32".parse().unwrap(), at(48.9, 2.3)),
        ("2a00::/16".parse().unwrap(), at(40.7, -74.0)),
    ])
}

struct Both {
    engine: Engine,
    compiled: Arc<Compiled>,
    responder: Responder,
    secrets: Secrets,
}

impl Both {
    fn new(identifier: &str) -> Both {
        let generation = Generation::compute(&inputs(), &geo(), None);
        let zone = Zone::new(generation.zone(), Options::default());
        let shared = SharedView::new(Arc::new(arc_swap::ArcSwap::from_pointee(generation)), zone);
        let metrics = Arc::new(Metrics::register(&mut prometheus_client::registry::Registry::default()));
        let peers = Peers::read(&crate::TransferConfig::default()).unwrap();
        let transfers = Arc::new(Transfers::new(peers, shared.clone(), metrics.clone()));
        let secrets = Secrets::new(&[[7; 16], [8; 16]]).unwrap();
        let manners = Manners::new(Some(secrets.clone()), identifier.as_bytes());
        let engine = Engine::new(Handler::new(shared.clone()).with_manners(manners), transfers, metrics);
        let compiled = Arc::new(Compiled::new(&engine, shared.load_full()));
        let responder = Responder::new(engine.clone(), compiled.clone());
        Both { engine, compiled, responder, secrets }
    }

    /// Asserts that both say the same; answers whether the fast path did so by itself.
    #[track_caller]
    fn check(&mut self, packet: &[u8], source: SocketAddr) -> Option<bool> {
        let view = self.compiled.view.clone();
        let now = NOW.as_secs() as u32;
        let general = self.engine.reply_from(now, &view, packet, source, Transport::Udp);
        let mut out = [0; 1232];
        let outcome = self.responder.respond(Moment { time: NOW }, packet, source, &mut out);
        let (len, fast) = match outcome {
            Outcome::Silent(_) => (0, None),
            Outcome::Rejected(sent) => (sent.len, None),
            Outcome::Answered(sent) => (sent.len, Some(sent.fast)),
            Outcome::Counted { len } => (len, Some(false)),
            Outcome::Failed => panic!("panicked on {packet:02x?}"),
        };
        assert_eq!(out[..len], general.unwrap_or_default()[..], "{outcome:?} from {source} on {packet:02x?}");
        fast
    }

    fn query(&self, random: &mut Random, source: IpAddr) -> Vec<u8> {
        let mut packet = random.octets(2);
        packet.extend([*random.of(&[0, 1, 1, 1, 1, 3, 7]), *random.of(&[0, 0, 0x10, 0x20, 0x70])]);
        packet.extend([0, 1, 0, 0, 0, 0, 0, 0]);
        packet.extend(name(random));
        let kind = match random.below(10) {
            0 => random.next() as u16,
            1 => *random.of(&[2, 5, 6, 13, 16, 41, 43, 48, 64, 65, 99, 251, 252, 255, 257]),
            2..5 => 28,
            _ => 1,
        };
        packet.extend(kind.to_be_bytes());
        packet.extend([0, if random.one_in(30) { random.next() as u8 } else { 1 }]);
        if !random.one_in(4) {
            self.opt(random, source, &mut packet);
        }
        if random.one_in(20) {
            spoil(random, &mut packet);
        }
        packet
    }

    fn opt(&self, random: &mut Random, source: IpAddr, packet: &mut Vec<u8>) {
        let mut options = Vec::new();
        let mut option = |code: u16, value: &[u8]| {
            options.extend(code.to_be_bytes());
            options.extend((value.len() as u16).to_be_bytes());
            options.extend(value);
        };
        if !random.one_in(3) {
            option(8, &subnet(random));
        }
        match random.below(8) {
            0..3 => option(10, &random.octets(8)),
            3 => {
                // One of ours, from now or some time before, mostly of this client.
                let client = if random.one_in(5) { "192.0.2.77".parse().unwrap() } else { source };
                let age = *random.of(&[0, 100, 1799, 1801, 3599, 3601]);
                let mut plain = random.octets(8);
                plain.extend(cookie(&self.secrets, &plain, NOW.as_secs() as u32 - age, client));
                option(10, &plain);
            }
            4 if random.one_in(4) => {
                let len = random.below(44) as usize;
                option(10, &random.octets(len));
            }
            _ => {}
        }
        if random.one_in(6) {
            option(3, &[]);
        }
        if random.one_in(6) {
            let len = random.below(20) as usize;
            option(random.next() as u16 | 0x100, &random.octets(len));
        }
        let payload: u16 = *random.of(&[0, 511, 512, 600, 1220, 1232, 1400, 4096, 65535]);
        packet.extend([0, 0, 41]);
        packet.extend(payload.to_be_bytes());
        let version = if random.one_in(30) { 1 } else { 0 };
        packet.extend([0, version, *random.of(&[0, 0, 0x80, 0xc0, 0x40]), 0]);
        packet.extend((options.len() as u16).to_be_bytes());
        packet.extend(options);
        packet[11] += 1;
    }
}

/// The server part of a cookie for `client`, as the secrets make it.
fn cookie(secrets: &Secrets, client_part: &[u8], at: u32, client: IpAddr) -> Vec<u8> {
    let opt = [&[0, 10, 0, 8][..], client_part].concat();
    let mut packet = vec![0; 12];
    packet[5] = 1;
    packet[11] = 1;
    packet.extend([0, 0, 1, 0, 1, 0, 0, 41, 4, 0, 0, 0, 0, 0, 0, opt.len() as u8]);
    packet.extend(opt);
    let godwit_dns_plugin::screen::Screened::Pass(query) = godwit_dns_plugin::screen::screen(&packet) else {
        panic!("no query")
    };
    secrets.verify(at, &query.edns.unwrap().cookie.unwrap(), client).reply[8..].to_vec()
}

fn name(random: &mut Random) -> Vec<u8> {
    let long = "a-rather-long-name-of-a-site-that-fills-its-label-nearly-whole";
    let below = match random.below(12) {
        0 => String::new(),
        1 => format!("nosuch{}", random.below(1000)),
        2 => format!("{}.nosuch.www", random.below(1000)),
        3 => (*random.of(&["node", "region", "n1.node", "n9.node", "r1.region", "r9.region", "x.node"]))
            .to_owned(),
        // The contact in the SOA is a name that a question may have.
        4 => (*random.of(&["only-v4", "only-v6", "nobody", long, "hostmaster", "x.hostmaster"])).to_owned(),
        5 => vec!["x"; random.below(90) as usize].join("."),
        _ => (*random.of(&["www", "blog", "www", "why.www", "*"])).to_owned(),
    };
    let zone = if random.one_in(20) { "example.org" } else { ZONE };
    let text = if below.is_empty() { zone.to_owned() } else { format!("{below}.{zone}") };
    let mut wire = Vec::new();
    for label in text.split('.') {
        wire.push(label.len() as u8);
        wire.extend(label.bytes());
    }
    wire.push(0);
    if random.one_in(3) {
        for octet in &mut wire {
            if octet.is_ascii_alphabetic() && random.one_in(2) {
                *octet ^= 0x20;
            }
        }
    }
    if random.one_in(50) {
        // An octet that is no letter, not a length either as long as labels are whole.
        let at = wire.len() - 2;
        wire[at] = random.next() as u8;
    }
    wire
}

/// Mostly sound.
fn subnet(random: &mut Random) -> Vec<u8> {
    let (family, width) = *random.of(&[(1, 32), (1, 32), (1, 32), (2, 128), (2, 128)]);
    let source = match random.below(8) {
        0 => 0,
        1 => random.below(width + 1),
        _ if family == 1 => 24,
        _ => 56,
    };
    let starts: &[&[u8]] = if family == 1 {
        &[&[203, 0, 113, 9], &[203, 5, 1, 1], &[198, 51, 100, 3], &[198, 51, 100, 200], &[9, 9, 9, 9]]
    } else {
        &[
            &[0x20, 1, 0xd, 0xb8, 0, 7, 1, 1],
            &[0x20, 1, 0xd, 0xb8, 0, 8, 1, 1],
            &[0x2a, 0, 3, 4, 5, 6, 7, 8],
            &[0x3f, 0xff, 1, 2, 3, 4, 5, 6],
            &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4],
        ]
    };
    let mut octets = random.of(starts).to_vec();
    octets.resize(16, 0);
    octets.truncate((source as usize).div_ceil(8));
    if let Some(last) = octets.last_mut().filter(|_| source % 8 != 0) {
        *last &= 0xff << (8 - source % 8);
    }
    if random.one_in(30) {
        let len = octets.len();
        octets.resize(len + 1, random.next() as u8);
    }
    let scope = if random.one_in(40) { 7 } else { 0 };
    let mut value = vec![0, if random.one_in(60) { 3 } else { family }, source as u8, scope];
    value.extend(octets);
    value
}

/// Changes octets, cuts off or appends.
fn spoil(random: &mut Random, packet: &mut Vec<u8>) {
    match random.below(4) {
        0 => packet.truncate(random.below(packet.len() as u64 + 1) as usize),
        1 => {
            let len = random.below(40) as usize;
            packet.extend(random.octets(len));
        }
        2 => {
            // A record in a section that queries do not have, or a second OPT.
            let section = *random.of(&[7, 9, 11]);
            packet[section] += 1;
            let kind = *random.of(&[1, 41, 250]);
            packet.extend([0, 0, kind, 4, 0, 0, 0, 0, 0, 0, 0]);
        }
        _ => {
            for _ in 0..=random.below(3) {
                let at = random.below(packet.len() as u64) as usize;
                packet[at] = random.next() as u8;
            }
        }
    }
}

fn environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn both_paths_say_the_same_octet_for_octet() {
    let count = environment("GODWIT_DIFFERENTIAL_QUERIES", 100_000);
    let seed = environment("GODWIT_DIFFERENTIAL_SEED", 1);
    println!("{count} queries with seed {seed}");
    let mut random = Random(seed);
    let (mut fast, mut answered) = (0, 0);
    for identifier in ["", "ns1.example.net"] {
        let mut both = Both::new(identifier);
        for _ in 0..count / 2 {
            let sources = ["203.0.113.5", "192.0.2.9", "2001:db8:7::1", "::ffff:198.51.100.3", "3fff::1"];
            let source: IpAddr = random.of(&sources).parse().unwrap();
            let packet = both.query(&mut random, source);
            let by_itself = both.check(&packet, (source, 4242).into());
            answered += u64::from(by_itself.is_some());
            fast += u64::from(by_itself == Some(true));
        }
    }
    println!("the fast path answered {fast} of {answered} by itself");
    assert!(fast * 100 >= answered * 75, "{fast} of {answered}");
}

#[test]
fn what_was_asked_before_is_answered_by_the_fast_path() {
    let mut both = Both::new("");
    let source = "203.0.113.5:53".parse().unwrap();
    for kind in [5u8, 6, 16, 65] {
        for name in [&b"\x04edge\x07example\x03org\0"[..], b"\x03WWW\x04edge\x07example\x03org\0"] {
            let mut packet = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            packet.extend(name);
            packet.extend([0, kind, 0, 1]);
            both.check(&packet, source);
            assert_eq!(both.check(&packet, source), Some(true), "type {kind}");
        }
    }
}
