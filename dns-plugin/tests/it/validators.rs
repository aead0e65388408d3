//! Signed answers, judged by those who validate them: BIND's delv, unbound, ldns's drill, dnsviz.
//!
//! The handler answers over real sockets; trust begins at the zone's own key. A program that is not
//! installed is told loudly, and its test does nothing.

use super::{inputs, shared};
use godwit_core::certificate::Role as MemberRole;
use godwit_core::time::Time;
use godwit_dns_plugin::dnssec::rollover::{self, Waits};
use godwit_dns_plugin::dnssec::{self, Algorithm, Phase, Role, Signer, SigningKey, Store, Times, ZoneKey};
use godwit_dns_plugin::zone::config::ZoneConfig;
use godwit_dns_plugin::{Clock, Handler, Options, SharedView, Zone};
use hickory_server::net::runtime::TokioTime;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const ZONE: &str = "edge.example.org";
const DAY: u64 = 86_400;
/// Long enough for a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) const CONFIG: &str = r#"
apex = "www"
https = { alpn = ["h2"] }
alias = [{ name = "*.apps", site = "www" }]
record = [
    { name = "@", type = "CAA", data = "0 issue \"ca.example.net\"" },
    { name = "@", type = "MX", data = "10 Mail" },
    { name = "mail", type = "A", data = "192.0.2.25" },
    { name = "to-www", type = "CNAME", data = "WWW" },
    { name = "to-nowhere", type = "CNAME", data = "gone" },
    { name = "_sip._tcp.deep", type = "SRV", data = "0 5 5060 mail" },
    { name = "*.wild", type = "TXT", data = "wild" },
]
"#;

/// Names, types, whether there is an answer.
pub(super) const QUESTIONS: [(&str, &str, bool); 20] = [
    ("www", "A", true),
    ("WwW", "AAAA", true),
    ("www", "HTTPS", true),
    ("www", "MX", false),
    ("", "SOA", true),
    ("", "NS", true),
    ("", "A", true),
    ("", "MX", true),
    ("", "CAA", true),
    ("", "TXT", false),
    ("node", "A", false),
    ("_tcp.deep", "A", false),
    ("_sip._tcp.deep", "SRV", true),
    ("to-www", "A", true),
    ("to-nowhere", "A", false),
    ("anything.apps", "A", true),
    ("anything.apps", "TXT", false),
    ("other.wild", "TXT", true),
    ("no-such-name", "A", false),
    ("below.no-such-name", "AAAA", false),
];

/// A time so many seconds from now.
pub(super) fn at(offset: i64) -> Time {
    Time::from_secs(Clock::Host.now().as_secs().saturating_add_signed(offset))
}

pub(super) fn key(role: Role, algorithm: Algorithm, times: Times) -> ZoneKey {
    ZoneKey { key: Arc::new(SigningKey::generate(algorithm).unwrap()), role, times }
}

/// A key that has been active for a month.
pub(super) fn settled(role: Role) -> ZoneKey {
    key(role, Algorithm::EcdsaP256, Times::first(at(-30 * DAY as i64), role))
}

/// A signed zone on a port of this machine.
struct Served {
    address: SocketAddr,
    view: SharedView,
    store: Arc<Store>,
    handler: Handler,
}

impl Served {
    fn new(keys: &[ZoneKey]) -> Served {
        let mut inputs = inputs();
        // The zone's name servers are this machine, so that those who follow NS find one.
        for member in
            inputs.members.iter_mut().filter(|member| member.roles.contains(&MemberRole::Redirector))
        {
            (member.public_v4, member.public_v6) = (Some(Ipv4Addr::LOCALHOST), None);
        }
        let config: ZoneConfig = toml::from_str(CONFIG).unwrap();
        let zone = Zone::configured(&ZONE.parse().unwrap(), Options::default(), &config, 1).unwrap();
        let view = SharedView::new(shared(&inputs), zone);
        let store = Store::new(&dnssec::Options::default());
        let handler = Handler::new(view.clone());
        let served = Served { address: serve(&handler), view, store, handler };
        served.sign(keys);
        served
    }

    fn sign(&self, keys: &[ZoneKey]) {
        let origin = self.view.load().zone.origin().clone();
        let options = dnssec::Options::default();
        let signer = Signer::new(at(0), &origin, keys.to_vec(), options, self.store.clone()).unwrap();
        self.view.update(|zone: &Zone| Some(zone.clone().with_signer(Some(Arc::new(signer)))));
    }
}

/// Answers over UDP and TCP on one port until the test ends.
fn serve(handler: &Handler) -> SocketAddr {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(address).unwrap();
    let over_udp = handler.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((len, source)) = udp.recv_from(&mut buffer) {
            if let Some(reply) = reply(&over_udp, &buffer[..len], source, Protocol::Udp) {
                assert!(reply.len() <= 1232, "{} octets over UDP", reply.len());
                let _ = udp.send_to(&reply, source);
            }
        }
    });
    let over_tcp = handler.clone();
    std::thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            let handler = over_tcp.clone();
            std::thread::spawn(move || converse(&handler, stream));
        }
    });
    address
}

fn converse(handler: &Handler, mut stream: TcpStream) -> Option<()> {
    let source = stream.peer_addr().ok()?;
    loop {
        let mut len = [0; 2];
        stream.read_exact(&mut len).ok()?;
        let mut packet = vec![0; usize::from(u16::from_be_bytes(len))];
        stream.read_exact(&mut packet).ok()?;
        let reply = reply(handler, &packet, source, Protocol::Tcp)?;
        stream.write_all(&(reply.len() as u16).to_be_bytes()).ok()?;
        stream.write_all(&reply).ok()?;
    }
}

fn reply(handler: &Handler, packet: &[u8], source: SocketAddr, protocol: Protocol) -> Option<Vec<u8>> {
    let request = Request::from_bytes(packet.to_vec(), source, protocol).ok()?;
    let caught = super::Caught::default();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(handler.handle_request::<_, TokioTime>(&request, caught.clone()));
    caught.0.lock().unwrap().take()
}

/// Whether a program is there; says so when it is not.
pub(super) fn there(program: &str, package: &str) -> bool {
    let there = Command::new(program).arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    match there {
        Ok(mut child) => {
            let _ = child.wait();
            true
        }
        Err(_) => {
            eprintln!("SKIPPED: {program} is not installed (Debian: {package})");
            false
        }
    }
}

pub(super) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn full(name: &str) -> String {
    if name.is_empty() { format!("{ZONE}.") } else { format!("{name}.{ZONE}.") }
}

/// `trust-anchors` for these keys, as BIND's delv reads them.
fn anchors(keys: &[&ZoneKey], directory: &std::path::Path) -> String {
    let anchor = |key: &&ZoneKey| {
        let text = key.public().dnskey_text();
        let parts: Vec<&str> = text.split(' ').collect();
        format!("\"{ZONE}.\" static-key {} {} {} \"{}\";\n", parts[0], parts[1], parts[2], parts[3])
    };
    let text = format!("trust-anchors {{\n{}}};\n", keys.iter().map(anchor).collect::<String>());
    let path = directory.join("anchors");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// delv trusts `trusted` and validates every answer of the zone.
#[track_caller]
fn delv_agrees(served: &Served, trusted: &[&ZoneKey]) {
    delv_agrees_on(&QUESTIONS, served, trusted);
}

#[track_caller]
fn delv_agrees_on(questions: &[(&str, &str, bool)], served: &Served, trusted: &[&ZoneKey]) {
    delv_agrees_at(served.address.port(), questions, trusted);
}

/// The same of whatever server answers for the zone on a port.
#[track_caller]
pub(super) fn delv_agrees_at(port: u16, questions: &[(&str, &str, bool)], trusted: &[&ZoneKey]) {
    let directory = tempfile::tempdir().unwrap();
    let anchors = anchors(trusted, directory.path());
    let port = port.to_string();
    for (name, kind, answers) in questions {
        let name = full(name);
        let root = format!("+root={ZONE}");
        let output = run("delv", &["@127.0.0.1", "-p", &port, "-a", &anchors, &root, &name, kind]);
        // An alias to nowhere has the alias in its answer.
        let verdict = if *answers || name.starts_with("to-nowhere.") {
            "; fully validated"
        } else {
            "; negative response, fully validated"
        };
        assert!(output.contains(verdict), "{name} {kind}: {output}");
    }
}

#[test]
fn delv_validates_every_kind_of_answer() {
    if !there("delv", "bind9-dnsutils") {
        return;
    }
    for algorithm in [Algorithm::EcdsaP256, Algorithm::Ed25519] {
        let key = key(Role::Csk, algorithm, Times::first(at(-60), Role::Csk));
        delv_agrees(&Served::new(std::slice::from_ref(&key)), &[&key]);
    }
}

#[test]
fn delv_finds_a_wrong_key() {
    if !there("delv", "bind9-dnsutils") {
        return;
    }
    let served = Served::new(&[settled(Role::Csk)]);
    let directory = tempfile::tempdir().unwrap();
    let anchors = anchors(&[&settled(Role::Csk)], directory.path());
    let (port, root, name) = (served.address.port().to_string(), format!("+root={ZONE}"), full("www"));
    let output = run("delv", &["@127.0.0.1", "-p", &port, "-a", &anchors, &root, &name, "A"]);
    assert!(!output.contains("fully validated"), "{output}");
}

/// Keys as they are at `offset` seconds after a rollover was ordered, and afterwards.
fn moved(keys: &[ZoneKey], by: i64) -> Vec<ZoneKey> {
    let earlier = |time: Time| Time::from_secs(time.as_secs().saturating_add_signed(-by));
    let times = |times: Times| Times {
        published: earlier(times.published),
        active: earlier(times.active),
        ds_from: times.ds_from.map(earlier),
        ds_until: times.ds_until.map(earlier),
        retired: times.retired.map(earlier),
        removed: times.removed.map(earlier),
        ds_delete: times.ds_delete.map(earlier),
    };
    keys.iter().map(|key| ZoneKey { times: times(key.times), ..key.clone() }).collect()
}

/// Orders a rollover of `role` now; the new key is the last one.
fn roll(keys: &mut Vec<ZoneKey>, role: Role) {
    let mut times: Vec<(Role, Times)> = keys.iter().map(|key| (key.role, key.times)).collect();
    let new = rollover::start(at(0), role, &Waits::default(), &mut times).unwrap();
    keys.iter_mut().zip(times).for_each(|(key, (_, times))| key.times = times);
    keys.push(key(role, Algorithm::EcdsaP256, new));
}

#[test]
fn a_rollover_of_the_csk_is_valid_with_the_old_anchor_and_then_with_the_new_one() {
    if !there("delv", "bind9-dnsutils") {
        return;
    }
    let mut keys = vec![settled(Role::Csk)];
    let served = Served::new(&keys);
    delv_agrees(&served, &[&keys[0]]);
    roll(&mut keys, Role::Csk);
    // At once: the old anchor and the new one, both lead to valid answers.
    served.sign(&keys);
    delv_agrees(&served, &[&keys[0]]);
    delv_agrees(&served, &[&keys[1]]);
    // Three days later the parent has the new DS record; and two more days later the old key is gone.
    let mut later = moved(&keys, 3 * DAY as i64);
    let mut times: Vec<(Role, Times)> = later.iter().map(|key| (key.role, key.times)).collect();
    rollover::ds_seen(at(0), &Waits::default(), &mut times).unwrap();
    later.iter_mut().zip(times).for_each(|(key, (_, times))| key.times = times);
    served.sign(&later);
    delv_agrees(&served, &[&keys[0]]);
    delv_agrees(&served, &[&keys[1]]);
    let last = moved(&later, 2 * DAY as i64);
    assert_eq!(last[0].times.phase(at(0)), Phase::Removed);
    served.sign(&last);
    delv_agrees(&served, &[&keys[1]]);
}

#[test]
fn a_rollover_of_the_zsk_is_valid_all_the_time() {
    if !there("delv", "bind9-dnsutils") {
        return;
    }
    let mut keys = vec![settled(Role::Ksk), settled(Role::Zsk)];
    let served = Served::new(&keys);
    delv_agrees(&served, &[&keys[0]]);
    roll(&mut keys, Role::Zsk);
    for (hours, phases) in [
        (0, [Phase::Active, Phase::Published]),
        (3, [Phase::Retired, Phase::Active]),
        (48, [Phase::Removed, Phase::Active]),
    ] {
        let then = moved(&keys, hours * 3600);
        assert_eq!([then[1].times.phase(at(0)), then[2].times.phase(at(0))], phases);
        served.sign(&then);
        delv_agrees(&served, &[&keys[0]]);
    }
}

/// Orders something now: `order` changes the times, and new keys of the roles it gives come last.
fn ordered(keys: &mut Vec<ZoneKey>, order: impl FnOnce(&mut [(Role, Times)]) -> Vec<(Role, Times)>) {
    let mut times: Vec<(Role, Times)> = keys.iter().map(|key| (key.role, key.times)).collect();
    let new = order(&mut times);
    keys.iter_mut().zip(times).for_each(|(key, (_, times))| key.times = times);
    keys.extend(new.into_iter().map(|(role, times)| key(role, Algorithm::EcdsaP256, times)));
}

/// Every hour or so from an order to its end: each key that a DS record in some cache points at leads to
/// valid answers. `trusted` tells these, by number, at an hour.
#[track_caller]
fn stages(served: &Served, keys: &[ZoneKey], hours: &[i64], trusted: impl Fn(i64) -> Vec<usize>) {
    /// One of each kind: what is kept of an earlier stage must not be given in a later one.
    const SOME: [(&str, &str, bool); 4] =
        [("www", "A", true), ("", "SOA", true), ("www", "MX", false), ("no-such-name", "A", false)];
    for hour in hours {
        let then = moved(keys, hour * 3600 + 1);
        served.sign(&then);
        for number in trusted(*hour) {
            delv_agrees_on(&SOME, served, &[&then[number]]);
        }
    }
}

/// DNSKEY and the others need two hours to be known; the parent changes at once then, and has the old DS
/// record in caches for a day.
const KNOWN: i64 = 2;

/// The order was given [`KNOWN`] hours ago and the parent has followed.
fn followed(keys: &mut Vec<ZoneKey>) {
    *keys = moved(keys, KNOWN * 3600 + 1);
    ordered(keys, |times| {
        rollover::ds_seen(at(0), &Waits::default(), times).unwrap();
        Vec::new()
    });
}

#[test]
fn rfc6781_4_1_3_a_conversion_is_valid_all_the_time_there_and_back() {
    use rollover::convert::{self, Scheme};
    if !there("delv", "bind9-dnsutils") {
        return;
    }
    let mut keys = vec![settled(Role::Csk)];
    let served = Served::new(&keys);
    let waits = Waits::default();
    ordered(&mut keys, |times| convert::start(at(0), Scheme::Split, &waits, times).unwrap());
    stages(&served, &keys, &[0, 1], |_| vec![0]);
    stages(&served, &keys, &[KNOWN, 9], |_| vec![0, 1]);
    followed(&mut keys);
    stages(&served, &keys, &[0, 23], |_| vec![0, 1]);
    stages(&served, &keys, &[26], |_| vec![1]);
    let mut keys = moved(&keys, 26 * 3600)[1..].to_vec();
    ordered(&mut keys, |times| convert::start(at(0), Scheme::Csk, &waits, times).unwrap());
    stages(&served, &keys, &[0, 1], |_| vec![0]);
    stages(&served, &keys, &[KNOWN], |_| vec![0, 2]);
    followed(&mut keys);
    stages(&served, &keys, &[0, 23], |_| vec![0, 2]);
    stages(&served, &keys, &[26], |_| vec![2]);
    let last: Vec<Phase> = moved(&keys, 26 * 3600).iter().map(|key| key.times.phase(at(0))).collect();
    assert_eq!(last, [Phase::Removed, Phase::Removed, Phase::Active]);
}

#[test]
fn rfc6781_4_2_an_emergency_is_valid_all_the_time() {
    use rollover::emergency;
    if !there("delv", "bind9-dnsutils") {
        return;
    }
    let waits = Waits::default();
    // Alone, and in the middle of a rollover whose new key is lost as well.
    for (roles, rolling, first) in [
        (&[Role::Csk][..], None, 1),
        (&[Role::Csk], Some(Role::Csk), 2),
        (&[Role::Ksk, Role::Zsk], Some(Role::Zsk), 3),
    ] {
        let mut keys: Vec<ZoneKey> = roles.iter().map(|role| settled(*role)).collect();
        let served = Served::new(&keys);
        if let Some(role) = rolling {
            roll(&mut keys, role);
            keys = moved(&keys, 3600);
        }
        ordered(&mut keys, |times| emergency::start(at(0), &waits, times).unwrap());
        stages(&served, &keys, &[0, 1], |_| vec![0]);
        stages(&served, &keys, &[KNOWN], |_| vec![0, first]);
        followed(&mut keys);
        stages(&served, &keys, &[0, 23], |_| vec![0, first]);
        stages(&served, &keys, &[48], |_| vec![first]);
        let last = moved(&keys, 48 * 3600);
        let left = last.iter().filter(|key| key.times.phase(at(0)) < Phase::Removed).count();
        assert_eq!(left, roles.len(), "the new ones only");
    }
}

/// Delete is asked for, the old chain holds until no cache has it, and then there are no signatures.
#[test]
fn rfc8078_4_going_unsigned_is_valid_with_the_ds_record_and_then_insecure() {
    use rollover::unsign;
    if !there("delv", "bind9-dnsutils") || !there("unbound", "unbound") || !there("dig", "bind9-dnsutils") {
        return;
    }
    let mut keys = vec![settled(Role::Csk)];
    let served = Served::new(&keys);
    let port = served.address.port().to_string();
    let dig = |name: &str, kind| {
        run("dig", &["@127.0.0.1", "-p", &port, "+short", "+dnssec", "+tries=1", &full(name), kind])
    };
    ordered(&mut keys, |times| {
        unsign::start(at(0), times).unwrap();
        Vec::new()
    });
    stages(&served, &keys, &[0, 100], |_| vec![0]);
    assert_eq!(dig("", "CDS").lines().next(), Some("0 0 0 00"));
    assert_eq!(dig("", "CDNSKEY").lines().next(), Some("0 3 0 AA=="));
    let anchored = keys[0].clone();
    ordered(&mut keys, |times| {
        unsign::ds_gone(at(0), &Waits::default(), times).unwrap();
        Vec::new()
    });
    stages(&served, &keys, &[0, 24], |_| vec![0]);
    let unbound = Unbound::start(&served, &anchored);
    unbound.ready();
    assert!(unbound.ask(&[&full("www"), "A"]).contains(" ad"), "secure to the end");
    // 25 hours later no cache has the DS record: to whoever asks anew the zone is like any other.
    served.sign(&moved(&keys, 26 * 3600));
    for kind in ["DNSKEY", "CDS", "CDNSKEY"] {
        assert_eq!(dig("", kind), "", "{kind}");
    }
    assert!(!dig("www", "A").is_empty() && !dig("www", "A").contains(" 13 "), "no signature");
    let nothing = run("dig", &["@127.0.0.1", "-p", &port, "+dnssec", "+tries=1", &full("no-such-name")]);
    assert!(nothing.contains("NXDOMAIN") && !nothing.contains("NSEC"), "{nothing}");
    let unbound = Unbound::insecure(&served);
    unbound.ready();
    for (name, kind, answers) in QUESTIONS {
        let output = unbound.ask(&[&full(name), kind]);
        assert!(!output.contains("SERVFAIL"), "{name} {kind}: {output}");
        assert_eq!(!output.contains("ANSWER: 0"), answers || name == "to-nowhere", "{name} {kind}: {output}");
    }
}

/// A validating resolver that trusts the zone's key.
struct Unbound {
    child: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Unbound {
    fn start(served: &Served, key: &ZoneKey) -> Unbound {
        Unbound::with(served, &format!("trust-anchor: \"{ZONE}. DNSKEY {}\"", key.public().dnskey_text()))
    }

    /// One that knows that the zone has no DS record.
    fn insecure(served: &Served) -> Unbound {
        Unbound::with(served, &format!("domain-insecure: \"{ZONE}\""))
    }

    fn with(served: &Served, trust: &str) -> Unbound {
        let directory = tempfile::tempdir().unwrap();
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = directory.path().join("unbound.conf");
        let text = format!(
            "server:\n  interface: 127.0.0.1@{port}\n  port: {port}\n  do-daemonize: no\n  chroot: \"\"\n  username: \"\"\n  \
             directory: \"{dir}\"\n  pidfile: \"\"\n  use-syslog: no\n  do-not-query-localhost: no\n  \
             module-config: \"subnetcache validator iterator\"\n  send-client-subnet: 127.0.0.1\n  \
             client-subnet-always-forward: yes\n  qname-minimisation: no\n  \
             val-log-level: 2\n  {trust}\n\
             remote-control:\n  control-enable: no\n\
             stub-zone:\n  name: \"{ZONE}.\"\n  stub-addr: 127.0.0.1@{server}\n",
            dir = directory.path().display(),
            server = served.address.port(),
        );
        std::fs::write(&path, text).unwrap();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let child = Command::new("unbound")
            .arg("-d")
            .arg("-c")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Unbound { child, port, _directory: directory }
    }

    fn ask(&self, arguments: &[&str]) -> String {
        let port = self.port.to_string();
        run("dig", &[&["@127.0.0.1", "-p", &port, "+dnssec", "+tries=1"], arguments].concat())
    }

    /// Waits until it answers.
    fn ready(&self) {
        let start = Instant::now();
        while !self.ask(&[&full("www"), "A"]).contains("status: NOERROR") {
            let log = std::fs::read_to_string(self._directory.path().join("log")).unwrap_or_default();
            assert!(start.elapsed() < PATIENCE, "unbound does not answer: {log}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Unbound {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn unbound_validates_every_kind_of_answer() {
    if !there("unbound", "unbound") || !there("dig", "bind9-dnsutils") {
        return;
    }
    let key = settled(Role::Csk);
    let served = Served::new(std::slice::from_ref(&key));
    let unbound = Unbound::start(&served, &key);
    unbound.ready();
    for (name, kind, answers) in QUESTIONS {
        let output = unbound.ask(&[&full(name), kind]);
        let flags = output.lines().find(|line| line.contains(";; flags:")).unwrap_or_default();
        assert!(flags.contains(" ad;") || flags.contains(" ad "), "{name} {kind} is not secure: {output}");
        let some = !flags.contains("ANSWER: 0");
        // An alias to nowhere has the alias in its answer.
        assert_eq!(some, answers || name == "to-nowhere", "{name} {kind}: {output}");
    }
    // Tailored to a client: two choices, each signed.
    let mut seen = Vec::new();
    for client in ["203.0.113.0/24", "198.51.100.0/25"] {
        let output = unbound.ask(&[&full("blog"), "A", &format!("+subnet={client}")]);
        assert!(output.contains(" ad;") || output.contains(" ad "), "{client}: {output}");
        let first = output.lines().find(|line| line.contains("\tIN\tA\t")).expect("an address").to_owned();
        seen.push(first.rsplit('\t').next().unwrap_or_default().to_owned());
    }
    assert_ne!(seen[0], seen[1], "Paris and Tokyo");
}

#[test]
fn dnsviz_finds_nothing_wrong() {
    if !there("dnsviz", "dnsviz") {
        return;
    }
    let key = settled(Role::Csk);
    let served = Served::new(std::slice::from_ref(&key));
    let directory = tempfile::tempdir().unwrap();
    let probed = directory.path().join("probed.json");
    let names: Vec<String> = ["www", "", "no-such-name", "anything.apps"].map(full).to_vec();
    let server = format!("{ZONE}+:r-paris.node.{ZONE}=127.0.0.1:{}", served.address.port());
    let probed_path = probed.to_str().unwrap();
    let mut arguments = vec!["probe", "-d", "0", "-A", "-x", &server, "-o", probed_path];
    arguments.extend(names.iter().map(String::as_str));
    let output = run("dnsviz", &arguments);
    assert!(probed.exists(), "{output}");
    let all = run("dnsviz", &["grok", "-r", probed_path]);
    assert!(all.matches("\"status\": \"VALID\"").count() >= 8, "{all}");
    for wrong in ["\"errors\"", "BOGUS", "INVALID", "EXPIRED"] {
        assert!(!all.contains(wrong), "{wrong}: {all}");
    }
}

#[test]
fn rfc9824_5_1_nxdomain_is_told_to_those_who_set_co() {
    use hickory_server::proto::op::{Message, ResponseCode};
    use hickory_server::proto::rr::RecordType::A;
    let served = Served::new(&[settled(Role::Csk)]);
    let ask = |name: &str, flags: u32| {
        let query = super::Query::new(&full(name), A).edns(1232, flags, &[]).bytes();
        let reply = reply(&served.handler, &query, "192.0.2.9:53".parse().unwrap(), Protocol::Udp).unwrap();
        let message = Message::from_vec(&reply).unwrap();
        let flags = u16::from(*message.edns.as_ref().unwrap().flags());
        (message.metadata.response_code, flags, message.authorities.len())
    };
    assert_eq!(ask("nope", 0x8000), (ResponseCode::NoError, 0x8000, 4));
    assert_eq!(ask("nope", 0xc000), (ResponseCode::NXDomain, 0xc000, 4));
    assert_eq!(ask("nope", 0x4000), (ResponseCode::NXDomain, 0, 1), "without DO it says nothing");
    assert_eq!(ask("www", 0xc000), (ResponseCode::NoError, 0xc000, 0), "CO for a CO");
    assert_eq!(ask("node", 0xc000), (ResponseCode::NoError, 0xc000, 4), "an empty non-terminal exists");
}

/// Signed replies are larger than others, and larger the shorter the name: how much, is told in
/// docs/dnssec.md.
#[test]
fn signed_replies_are_at_most_nine_times_their_queries() {
    let served = Served::new(&[settled(Role::Csk)]);
    use hickory_server::proto::rr::RecordType::{A, AAAA, MX, NS, SOA, TXT};
    for (name, kind) in
        [("www", A), ("www", AAAA), ("", SOA), ("", NS), ("", MX), ("x", A), ("node", A), ("www", TXT)]
    {
        let query = super::Query::new(&full(name), kind).edns(1232, 0x8000, &[]).bytes();
        let source = "192.0.2.9:53".parse().unwrap();
        let reply = reply(&served.handler, &query, source, Protocol::Udp).unwrap();
        let tenths = reply.len() * 10 / query.len();
        println!("{name:5} {kind:5} {} -> {} = {}.{}", query.len(), reply.len(), tenths / 10, tenths % 10);
        assert!((15..=90).contains(&tenths), "{name} {kind}: {} to {}", query.len(), reply.len());
    }
}

#[test]
fn a_clock_that_moves_on_changes_signatures_and_keys() {
    use std::sync::atomic::{AtomicU64, Ordering};
    let clock = Arc::new(AtomicU64::new(at(0).as_millis()));
    let mut keys = vec![settled(Role::Csk)];
    roll(&mut keys, Role::Csk);
    // Some minutes before the clock gets there: making keys takes a while on a busy machine.
    let end = at(9 * DAY as i64 - 600);
    (keys[0].times.retired, keys[0].times.removed) = (Some(end), Some(end));
    let served = Served::new(&keys);
    let handler = served.handler.clone().with_clock(Clock::Set(clock.clone()));
    let ask = |name: &str, kind| {
        let query = super::Query::new(&full(name), kind).edns(1232, 0x8000, &[]).bytes();
        let reply = reply(&handler, &query, "192.0.2.9:53".parse().unwrap(), Protocol::Udp).unwrap();
        hickory_server::proto::op::Message::from_vec(&reply).unwrap()
    };
    use hickory_server::proto::rr::RecordType::{A, CDS, DNSKEY, RRSIG};
    let count = |kind, wanted| {
        let name = if kind == A { "www" } else { "" };
        ask(name, kind).answers.iter().filter(|record| record.record_type() == wanted).count()
    };
    assert_eq!((count(A, RRSIG), count(DNSKEY, DNSKEY), count(CDS, CDS)), (2, 2, 1));
    let first = ask("www", A);
    assert_eq!(ask("www", A).answers, first.answers, "from the cache");
    clock.fetch_add(6 * DAY * 1000, Ordering::Relaxed);
    assert_ne!(ask("www", A).answers, first.answers, "replaced in time");
    clock.fetch_add(3 * DAY * 1000, Ordering::Relaxed);
    assert_eq!((count(A, RRSIG), count(DNSKEY, DNSKEY), count(CDS, CDS)), (1, 1, 1), "the old key is gone");
    assert!(served.store.counts().refreshed.load(Ordering::Relaxed) >= 2);
}
