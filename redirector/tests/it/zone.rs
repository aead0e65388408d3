//! The zone's own contents over real sockets, as real tools see them.

use super::{PATIENCE, config, inputs, query, receive, shared, www};
use godwit_core::name::ZoneName;
use godwit_redirector::{Config, DecisionsConfig, Limits, Redirector, SharedView, Zone};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use prometheus_client::registry::Registry;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::net::UdpSocket;

const CONFIG: &str = r#"
apex = "www"
[https]
alpn = ["h3", "h2"]
port = 8443
ech = "AEX+DQBB"
mandatory = ["alpn"]
[[record]]
name = "@"
type = "CAA"
data = "0 issue \"ca.example.net\""
[[record]]
name = "@"
type = "MX"
data = "10 mail"
[[record]]
name = "odd"
type = "TYPE65280"
data = '\# 3 abcdef'
"#;

fn zone(text: &str) -> Zone {
    let name: ZoneName = "edge.example.org".parse().unwrap();
    Zone::configured(&name, Config::default().options(), &toml::from_str(text).unwrap(), 1).unwrap()
}

fn view(text: &str) -> SharedView {
    SharedView::new(shared(&inputs(2)), zone(text))
}

/// Runs dig or kdig; `None` when it is not here.
fn ask(program: &str, server: SocketAddr, arguments: &[&str]) -> Option<String> {
    let (ip, port) = (server.ip().to_string(), server.port().to_string());
    let output = Command::new(program).arg(format!("@{ip}")).args(["-p", &port]).args(arguments).output();
    match output {
        Ok(output) => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(_) => {
            println!("SKIPPED: {program} is not installed (packages bind9-dnsutils, knot-dnsutils)");
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dig_and_kdig_read_service_bindings_caa_and_unknown_types() {
    let view = view(CONFIG);
    let mut registry = Registry::default();
    let running = Redirector::start(config(Limits::default()), view, &mut registry).await.unwrap();
    let server = running.addresses()[0];
    tokio::task::spawn_blocking(move || {
        for program in ["dig", "kdig"] {
            let check = |arguments: &[&str], parts: &[&str]| {
                let Some(shown) = ask(program, server, &[arguments, &["+tcp", "+noall", "+answer"]].concat())
                else {
                    return;
                };
                for part in parts {
                    assert!(shown.contains(part), "{program} {arguments:?}: {part} is not in {shown}");
                }
            };
            let hints = "ipv4hint=198.18.0.";
            let https = ["HTTPS", "1 .", "mandatory=alpn", "h3,h2", "port=8443", hints, "ech=AEX+DQBB"];
            check(&["www.edge.example.org", "HTTPS"], &https);
            check(&["edge.example.org", "HTTPS"], &https);
            check(&["edge.example.org", "CAA"], &["CAA", "0 issue \"ca.example.net\""]);
            check(&["edge.example.org", "MX"], &["10 mail.edge.example.org."]);
            check(&["edge.example.org", "A"], &["198.18.0."]);
            check(&["odd.edge.example.org", "TYPE65280"], &["TYPE65280", "\\# 3 ABCDEF"]);
            check(&["why.www.edge.example.org", "TXT"], &["site=www", "client=127.0.0.0/24"]);
        }
    })
    .await
    .unwrap();
    running.shutdown().await;
}

/// While queries come without a pause, the zone is changed over and over: each is answered, and with
/// one of the zones that there were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_under_load_loses_nothing_and_answers_nothing_wrong() {
    let record =
        |n: u8| zone(&format!("record = [{{ name = \"host\", type = \"A\", data = \"192.0.2.{n}\" }}]"));
    let view = SharedView::new(shared(&inputs(2)), record(0));
    let mut registry = Registry::default();
    let limits = Limits { replies_per_second: 0, ..Limits::default() };
    let running = Redirector::start(config(limits), view.clone(), &mut registry).await.unwrap();
    let server = running.addresses()[0];
    let done = Arc::new(AtomicBool::new(false));
    let changing = {
        let (view, done) = (view.clone(), done.clone());
        tokio::spawn(async move {
            let mut changes = 0;
            while !done.load(Ordering::Relaxed) {
                changes += 1;
                let next = record(changes as u8);
                view.update(|before| Some(next.succeeding(before)));
                tokio::task::yield_now().await;
            }
            changes
        })
    };
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for id in 0..2000 {
        socket.send_to(&query(id, "host.edge.example.org.", RecordType::A), server).await.unwrap();
        let reply = Message::from_vec(&receive(&socket).await).unwrap();
        assert_eq!((reply.metadata.id, reply.metadata.response_code), (id, ResponseCode::NoError));
        assert_eq!(reply.answers.len(), 1);
        assert!(reply.answers[0].data.to_string().starts_with("192.0.2."));
    }
    done.store(true, Ordering::Relaxed);
    assert!(changing.await.unwrap() > 10);
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sampled_decisions_are_counted_and_written_without_clients() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("decisions.jsonl");
    let decisions = DecisionsConfig { one_in: 1, per_second_max: 1000, file: Some(file.clone()) };
    let config = Config { decisions, ..config(Limits::default()) };
    let mut registry = Registry::with_prefix("godwit");
    let running = Redirector::start(config, view(""), &mut registry).await.unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for packet in [www(1), query(2, "gone.edge.example.org.", RecordType::A)] {
        socket.send_to(&packet, running.addresses()[0]).await.unwrap();
        receive(&socket).await;
    }
    let deadline = Instant::now() + PATIENCE;
    let text = loop {
        let text = std::fs::read_to_string(&file).unwrap();
        if text.lines().count() >= 2 {
            break text;
        }
        assert!(Instant::now() < deadline, "{text}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let chosen = lines.iter().find(|line| line["site"] == "www").unwrap();
    assert_eq!((&chosen["by"], &chosen["tier"]), (&"127.0.0.0/24".into(), &"healthy".into()));
    assert_eq!((&chosen["type"], &chosen["transport"]), (&"A".into(), &"udp".into()));
    assert!(lines.iter().any(|line| line["name"] == "gone.edge.example.org." && line["site"].is_null()));
    assert!(!text.contains("127.0.0.1"), "{text}");
    let mut metrics = String::new();
    prometheus_client::encoding::text::encode(&mut metrics, &registry).unwrap();
    let count = "godwit_dns_decisions_sampled_total{on=\"choice\",tier=\"healthy\",source=\"unknown\",by=\"address\"} 1";
    assert!(metrics.contains(count), "{metrics}");
    running.shutdown().await;
}
