//! Static zones: a file in, answers out.

use crate::{PATIENCE, receive};
use godwit_core::challenge::Challenge;
use godwit_redirector::static_zone::{Control, Keeper, Prepared, Problem, State, StaticZone};
use godwit_redirector::{Redirector, Running};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsOption};
use hickory_proto::rr::{Name, RData, RecordType};
use prometheus_client::registry::Registry;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::{Duration, Instant, sleep};

const ZONE: &str = r#"
origin = "svc.example.org"
state_file = "states.toml"
[redirector]
listen = ["127.0.0.1:0"]
workers = 1
[[region]]
name = "eu"
addresses = ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
[[region]]
name = "us"
addresses = ["198.51.100.1"]
[[service]]
name = "www"
names = ["shop"]
names_file = "names.txt"
[clients]
default = ["eu", "us"]
prefix_file = "prefixes.tsv"
[clients.prefix]
"203.0.113.0/25" = ["us", "eu"]
"#;

fn written(zone: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("zone.toml");
    std::fs::write(&path, zone).unwrap();
    std::fs::write(folder.path().join("names.txt"), "# names\nn1\n\nn2 # the second\n").unwrap();
    std::fs::write(folder.path().join("prefixes.tsv"), "10.0.0.0/8\tus\n10.1.0.0/16\teu us\n").unwrap();
    (folder, path)
}

#[test]
fn paths_are_relative_to_the_file() {
    let (folder, path) =
        written(&ZONE.replace(
            "workers = 1",
            "workers = 1\ncookie_secret_file = \"cookie\"\ntransfer.keys = [\"tsig\"]",
        ));
    let zone = StaticZone::open(&path).unwrap();
    assert_eq!(zone.config().cookie_secret_file, Some(folder.path().join("cookie")));
    assert_eq!(zone.config().transfer.keys, [folder.path().join("tsig")]);
}

/// What is wrong with a zone's file, as `line:column: text`.
#[track_caller]
fn check(zone: &str, expected: &str) {
    let (_folder, path) = written(zone);
    let problem = StaticZone::open(&path).err().expect("it is wrong");
    assert_eq!(told(&problem, &path), expected);
}

fn told(problem: &Problem, path: &Path) -> String {
    let text = problem.to_string();
    text.strip_prefix(&format!("{}:", path.display())).unwrap_or(&text).trim().to_owned()
}

#[test]
fn what_is_wrong_is_told_with_line_and_column() {
    check("", "1:1: missing field `origin`");
    check(
        "origin = \"a b\"",
        "1:10: ' ' is not allowed in a name: use letters, digits and hyphens between them",
    );
    check("origin = \"x.org\"", "there is no [[region]]: nobody could be led anywhere");
    check(
        "origin = \"x.org\"\nregoin = 1",
        "2:1: unknown field `regoin`, expected one of `origin`, `redirector`, `dnssec`, `zone`, `region`, `name_server`, `service`, `clients`, `state`, `state_file`, `admin`, `check`",
    );
    let one = "origin = \"x.org\"\n[[region]]\nname = \"eu\"\naddresses = [\"192.0.2.1\"]\n";
    let with = |more: &str| format!("{one}{more}");
    check(&with("[[region]]\nname = \"eu\""), "6:8: there are two regions of this name");
    check(&with("[[service]]\nname = \"www\"\nregions = [\"eu\", \"us\"]"), "7:18: there is no region us");
    check(
        &with("[[service]]\nname = \"www\"\nnames = [\"www\"]"),
        "7:10: there is a site www, which this would hide",
    );
    check(&with("[clients]\ndefault = [\"us\"]"), "6:12: there is no region us");
    check(
        &with("[clients.prefix]\n\"10.0.0.0/33\" = [\"eu\"]"),
        "6:1: \"10.0.0.0/33\" is no prefix: 192.0.2.0/24 and 2001:db8::/32 are",
    );
    check(
        &with("[clients.prefix]\n\"10.1.0.0/8\" = [\"eu\"]"),
        "6:1: 10.1.0.0/8 has bits beyond its length: 10.0.0.0/8 is meant?",
    );
    check(
        &with("[clients]\ncountry.DEU = [\"eu\"]"),
        "6:9: \"DEU\" is not two letters as in ISO 3166-1, like DE",
    );
    check(&with("[clients]\ncountry.DE = [\"eu\"]"), "rules by area and geography need `clients.geoip`");
    check(&with("[clients]\ngeoip = \"none.mmdb\""), "3:8: geography needs the `place` of every region");
    check(&with("[state]\nus = \"drain\""), "6:1: \"us\" is neither a region nor an address of this zone");
    check(
        &with("[state]\neu = \"gone\""),
        "6:6: unknown variant `gone`, expected one of `up`, `drain`, `down`",
    );
    check(&with("answers = 9"), "5:11: a client is told 1 to 8 addresses");
    check(&with("weight = 0"), "5:10: a weight is 1 to 100");
    check(&with("weights = { \"192.0.2.9\" = 2 }"), "5:13: 192.0.2.9 is no address of eu");
    let many: Vec<String> = (1..10).map(|n| format!("\"192.0.2.{n}\"")).collect();
    let region = format!("[[region]]\nname = \"us\"\naddresses = [{}]", many.join(", "));
    check(&with(&region), "7:14: us has more than 8 IPv4 addresses, which is what fits a reply");
}

#[test]
fn what_is_wrong_with_a_list_is_told_with_its_line() {
    let check = |list: &str, content: &str, expected: &str| {
        let (folder, path) = written(ZONE);
        let list = folder.path().join(list);
        std::fs::write(&list, content).unwrap();
        let problem = StaticZone::open(&path).err().expect("it is wrong");
        assert_eq!(told(&problem, &list), expected);
    };
    check("prefixes.tsv", "10.0.0.0/8\tus\n10.0.0.0/9\n", "2:11: 10.0.0.0/9 has no region");
    check("prefixes.tsv", "10.0.0.0/8\tmars\n", "1:12: there is no region mars");
    check("names.txt", "n1\nn1\n", "2:1: it is an alias of www already");
    check("names.txt", "n 1\n", "1:1: a line holds one name");
    check(
        "states.toml",
        "\nmars = \"drain\"\n",
        "2:1: \"mars\" is neither a region nor an address of this zone",
    );
}

#[test]
fn two_rules_for_one_prefix_are_an_error() {
    let (folder, path) = written(ZONE);
    std::fs::write(folder.path().join("prefixes.tsv"), "203.0.113.0/25\teu\n").unwrap();
    let problem = StaticZone::open(&path).err().expect("it is wrong");
    assert_eq!(told(&problem, &path), "there are two rules for 203.0.113.0/25");
}

struct Serving {
    folder: TempDir,
    running: Running,
    keeper: tokio::task::JoinHandle<()>,
    control: Control,
}

async fn serve(zone: &str) -> Serving {
    let (folder, path) = written(zone);
    let zone = StaticZone::open(&path).unwrap();
    let config = zone.config().clone();
    let (view, mut keeper): (_, Keeper) = zone.into_view();
    keeper.first_round().await;
    let control = keeper.control();
    let running = Redirector::start(config, view, &mut Registry::default()).await.unwrap();
    Serving { folder, running, keeper: tokio::spawn(keeper.run()), control }
}

impl Serving {
    /// Reads the zone's file again, changed.
    async fn reload(&self, zone: &str) -> Result<(), String> {
        let path = self.folder.path().join("zone.toml");
        std::fs::write(&path, zone).unwrap();
        let prepared = Prepared::read(&path).map_err(|problem| told(&problem, &path))?;
        self.control.put(prepared).await
    }

    /// The addresses for a client, and the scope.
    async fn ask(&self, name: &str, kind: RecordType, client: &str) -> (Vec<String>, u8) {
        let (address, len) = client.split_once('/').unwrap();
        let (address, len) = (address.parse::<IpAddr>().unwrap(), len.parse().unwrap());
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        let name = Name::from_ascii(format!("{name}.svc.example.org.")).unwrap();
        message.add_query(Query::query(name, kind));
        let mut edns = hickory_proto::op::Edns::new();
        edns.set_max_payload(1232);
        edns.options_mut().insert(EdnsOption::Subnet(ClientSubnet::new(address, len, 0)));
        message.edns = Some(edns);
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&message.to_vec().unwrap(), self.running.addresses()[0]).await.unwrap();
        let reply = Message::from_vec(&receive(&socket).await).unwrap();
        let mut addresses: Vec<String> = reply
            .answers
            .iter()
            .map(|record| match &record.data {
                RData::A(address) => address.to_string(),
                RData::AAAA(address) => address.to_string(),
                other => panic!("{other}"),
            })
            .collect();
        addresses.sort();
        let subnet = reply.edns.as_ref().and_then(|edns| {
            edns.options().as_ref().iter().find_map(|(_, option)| match option {
                EdnsOption::Subnet(subnet) => Some(subnet.scope_prefix()),
                _ => None,
            })
        });
        (addresses, subnet.unwrap())
    }

    /// The response code of a query without options.
    async fn code(&self, name: &str) -> hickory_proto::op::ResponseCode {
        let mut message = Message::new(8, MessageType::Query, OpCode::Query);
        let name = Name::from_ascii(format!("{name}.svc.example.org.")).unwrap();
        message.add_query(Query::query(name, RecordType::A));
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&message.to_vec().unwrap(), self.running.addresses()[0]).await.unwrap();
        Message::from_vec(&receive(&socket).await).unwrap().metadata.response_code
    }

    async fn wait_for(&self, name: &str, client: &str, expected: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (told, _) = self.ask(name, RecordType::A, client).await;
            if told == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{name} for {client} stays {told:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn a_file_is_a_zone() {
    let zone = serve(ZONE).await;
    let eu: &[&str] = &["192.0.2.1", "192.0.2.2"];
    for name in ["www", "shop", "n1", "N2"] {
        let (told, scope) = zone.ask(name, RecordType::A, "203.0.113.0/24").await;
        assert_eq!((told, scope), (vec!["198.51.100.1".to_owned()], 25), "{name}");
    }
    let check = |client, expected: &'static [&'static str], scope| {
        let zone = &zone;
        async move {
            let (told, found) = zone.ask("www", RecordType::A, client).await;
            assert_eq!(
                (told.iter().map(String::as_str).collect::<Vec<_>>(), found),
                (expected.to_vec(), scope)
            );
        }
    };
    check("10.200.1.0/24", &["198.51.100.1"], 9).await;
    check("10.1.1.0/24", &["192.0.2.1", "192.0.2.2"], 16).await;
    check("192.168.0.0/16", &["192.0.2.1", "192.0.2.2"], 5).await;
    // Only the EU has an IPv6 address, so it is the answer for everybody, with no bound.
    let (told, _) = zone.ask("www", RecordType::AAAA, "10.200.1.0/24").await;
    assert_eq!(told, ["2001:db8::1"]);
    let (told, _) = zone.ask("www", RecordType::A, "2001:db8::/56").await;
    assert_eq!(told, eu);
    zone.running.shutdown().await;
}

#[tokio::test]
async fn a_drained_region_or_address_is_left_and_taken_back() {
    let zone = serve(ZONE).await;
    let client = "192.168.0.0/16";
    let states = zone.folder.path().join("states.toml");
    zone.wait_for("www", client, &["192.0.2.1", "192.0.2.2"]).await;
    std::fs::write(&states, "eu = \"drain\"\n").unwrap();
    zone.wait_for("n1", client, &["198.51.100.1"]).await;
    std::fs::write(&states, "eu = \"drain\"\nus = \"down\"\n").unwrap();
    zone.wait_for("n1", client, &["192.0.2.1", "192.0.2.2"]).await;
    std::fs::write(&states, "\"192.0.2.1\" = \"down\"\n").unwrap();
    zone.wait_for("n1", client, &["192.0.2.2"]).await;
    std::fs::write(&states, "not = toml = at all\n").unwrap();
    // What is wrong changes nothing; what comes after it does.
    std::fs::remove_file(&states).unwrap();
    zone.wait_for("n1", client, &["192.0.2.1", "192.0.2.2"]).await;
    zone.running.shutdown().await;
}

#[tokio::test]
async fn a_reload_takes_in_another_file_and_leaves_a_wrong_one() {
    let zone = serve(ZONE).await;
    assert!(zone.reload("origin = 1").await.unwrap_err().starts_with("1:10: "));
    zone.wait_for("www", "203.0.113.0/25", &["198.51.100.1"]).await;
    zone.reload(&ZONE.replace("198.51.100.1", "198.51.100.7").replace("shop", "blog")).await.unwrap();
    zone.wait_for("blog", "203.0.113.0/25", &["198.51.100.7"]).await;
    zone.wait_for("shop", "203.0.113.0/25", &[]).await;
    assert!(!zone.keeper.is_finished());
    zone.running.shutdown().await;
}

/// A listener on each of the two addresses at one port, and the zone whose file checks that.
async fn checked(when_all_down: &str) -> (String, [TcpListener; 2]) {
    let (one, two) = loop {
        let one = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // Another program may have the port on the other address.
        if let Ok(two) = TcpListener::bind(("127.0.0.2", one.local_addr().unwrap().port())).await {
            break (one, two);
        }
    };
    let port = one.local_addr().unwrap().port();
    let zone = format!(
        r#"
origin = "svc.example.org"
[redirector]
listen = ["127.0.0.1:0"]
workers = 1
[[region]]
name = "eu"
addresses = ["127.0.0.1"]
[[region]]
name = "us"
addresses = ["127.0.0.2"]
[[service]]
name = "www"
when_all_down = "{when_all_down}"
[[check]]
name = "web"
kind = "tcp"
port = {port}
period_ms = 1000
timeout_ms = 1000
[clients]
default = ["eu", "us"]
"#
    );
    (zone, [one, two])
}

#[tokio::test]
async fn the_first_answer_knows_what_is_down_and_later_ones_what_came_back() {
    let (text, [eu, us]) = checked("static").await;
    let address = eu.local_addr().unwrap();
    drop(eu);
    let zone = serve(&text).await;
    let client = "192.0.2.9/24";
    assert_eq!(zone.ask("www", RecordType::A, client).await.0, ["127.0.0.2"]);
    let _eu = TcpListener::bind(address).await.unwrap();
    zone.wait_for("www", client, &["127.0.0.1"]).await;
    drop(us);
}

#[tokio::test]
async fn a_reload_does_not_forget_what_is_down_and_asks_what_is_new_first() {
    let (text, [eu, us]) = checked("static").await;
    let eu_at = eu.local_addr().unwrap();
    drop(eu);
    let zone = serve(&text).await;
    let client = "192.0.2.9/24";
    zone.wait_for("www", client, &["127.0.0.2"]).await;
    // Another service: the same addresses stay down all the while.
    zone.reload(&format!("{text}\n[[service]]\nname = \"blog\"\n")).await.unwrap();
    let control = zone.control.clone();
    for _ in 0..50 {
        let (told, _) = zone.ask("www", RecordType::A, client).await;
        assert_eq!(told, ["127.0.0.2"]);
    }
    zone.wait_for("blog", client, &["127.0.0.2"]).await;
    // A new region in front, dead from the start: no answer names it.
    let _eu = TcpListener::bind(eu_at).await.unwrap();
    zone.wait_for("www", client, &["127.0.0.1"]).await;
    let more =
        text.replace("[[service]]", "[[region]]\nname = \"af\"\naddresses = [\"127.0.0.3\"]\n[[service]]");
    zone.reload(&more.replace("default = [\"eu\"", "default = [\"af\", \"eu\"")).await.unwrap();
    for _ in 0..50 {
        let (told, _) = zone.ask("www", RecordType::A, client).await;
        assert_eq!(told, ["127.0.0.1"]);
    }
    let standing = control.look().await.unwrap();
    assert_eq!(standing.verdicts.len(), 3);
    drop(us);
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_start() {
    let zone = serve(ZONE).await;
    let client = "192.168.0.0/16";
    zone.control.set_state("eu", State::Drain).await.unwrap();
    zone.wait_for("www", client, &["198.51.100.1"]).await;
    let error = zone.control.set_state("mars", State::Drain).await.unwrap_err();
    assert!(error.contains("neither a region nor an address"), "{error}");
    let challenge = Challenge::new("_acme-challenge.www.svc.example.org", "value").unwrap();
    zone.control.challenge(challenge.clone(), Duration::from_secs(600)).await.unwrap();
    // Values stay through a reload.
    zone.reload(ZONE).await.unwrap();
    // It is not asked to stop.
    zone.keeper.abort();
    drop(zone.running);
    let again = StaticZone::open(&zone.folder.path().join("zone.toml")).unwrap();
    let (view, mut keeper) = again.into_view();
    keeper.first_round().await;
    let control = keeper.control();
    let running = tokio::spawn(keeper.run());
    assert!(view.load().generation.members().iter().any(|member| member.draining));
    let standing = control.look().await.unwrap();
    assert_eq!(standing.challenges, [(challenge.name.clone(), challenge.value.clone())]);
    let txt = godwit_dns_plugin::explain::explain(
        &view.load(),
        "_acme-challenge.www",
        Some("TXT"),
        "192.0.2.1".parse().unwrap(),
        None,
    );
    assert!(txt.unwrap().dns.answers[0].contains("value"));
    control.challenge(challenge, Duration::ZERO).await.unwrap();
    assert!(control.look().await.unwrap().challenges.is_empty());
    // A state file that is garbage is told and changes nothing.
    std::fs::write(zone.folder.path().join("states.toml"), "eu = \"dra").unwrap();
    let error = control.set_state("us", State::Down).await.unwrap_err();
    assert!(error.contains("states.toml:1:"), "{error}");
    assert!(view.load().generation.members().iter().any(|member| member.draining));
    running.abort();
}

#[tokio::test]
async fn checks_are_told_to_monitors_by_address() {
    let (text, [eu, us]) = checked("static").await;
    drop(eu);
    let (_folder, path) = written(&text);
    let (_view, mut keeper) = StaticZone::open(&path).unwrap().into_view();
    let mut registry = Registry::with_prefix("godwit");
    keeper.register(&mut registry);
    keeper.first_round().await;
    let mut metrics = String::new();
    prometheus_client::encoding::text::encode(&mut metrics, &registry).unwrap();
    for line in [
        r#"godwit_health_target_up{address="127.0.0.1",region="eu",check="web"} 0"#,
        r#"godwit_health_target_up{address="127.0.0.2",region="us",check="web"} 1"#,
        r#"godwit_health_checks{state="down"} 1"#,
        r#"godwit_health_checks{state="up"} 1"#,
        r#"godwit_health_transitions_total{state="down"} 1"#,
        "godwit_health_watched 2",
        r#"godwit_health_target_probe_seconds{address="127.0.0.2""#,
        r#"godwit_health_target_turned_timestamp_seconds{address="127.0.0.1""#,
        "godwit_generation 2",
    ] {
        assert!(metrics.contains(line), "{line} is not in:\n{metrics}");
    }
    drop(us);
}

#[tokio::test]
async fn a_service_that_is_to_be_closed_fails_when_everything_is_down() {
    let (text, listeners) = checked("closed").await;
    let zone = serve(&text).await;
    let client = "192.0.2.9/24";
    assert_eq!(zone.ask("www", RecordType::A, client).await.0, ["127.0.0.1"]);
    drop(listeners);
    zone.wait_for("www", client, &[]).await;
    assert_eq!(zone.code("www").await, hickory_proto::op::ResponseCode::ServFail);
}

#[test]
fn checks_that_cannot_be_made_are_pointed_at() {
    let with = |check: &str| format!("{ZONE}[[check]]\n{check}\n");
    check(&with("name = \"web\"\nkind = \"tcp\""), "22:1: web: a check of the kind tcp needs a port");
    check(&with("name = \"web\"\nkind = \"http\"\nsites = [\"mail\"]"), "22:1: there is no service mail");
}

#[tokio::test]
async fn one_of_several_addresses_is_told_by_weight() {
    let text = ZONE.replace(
        "addresses = [\"192.0.2.1\", \"192.0.2.2\", \"2001:db8::1\"]",
        "addresses = [\"192.0.2.1\", \"192.0.2.2\", \"2001:db8::1\"]\nanswers = 1\nweights = { \"192.0.2.1\" = 3 }",
    );
    let zone = serve(&text).await;
    let mut first = 0;
    for client in 0..200 {
        let (told, scope) = zone.ask("www", RecordType::A, &format!("192.168.{client}.0/24")).await;
        assert_eq!((told.len(), scope), (1, 24));
        first += u32::from(told == ["192.0.2.1"]);
    }
    // Three quarters, within five standard deviations.
    assert!((120..=180).contains(&first), "{first} of 200");
    // Of two the other is told when one is drained, to everybody.
    zone.control.set_state("192.0.2.1", State::Drain).await.unwrap();
    zone.wait_for("www", "192.168.7.0/24", &["192.0.2.2"]).await;
    assert_eq!(zone.ask("www", RecordType::A, "192.168.9.0/24").await.0, ["192.0.2.2"]);
    zone.running.shutdown().await;
}
