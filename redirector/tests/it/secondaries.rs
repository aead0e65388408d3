//! Zone transfers to programs that others wrote.

use crate::{PATIENCE, config, inputs, query, shared, view};
use godwit_map::Shared;
use godwit_redirector::{Config, Limits, Redirector, Running, SecondaryConfig, StartError, TransferConfig};
use hickory_proto::op::Message;
use hickory_proto::rr::{RData, RecordType};
use prometheus_client::registry::Registry;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

const ZONE: &str = "edge.example.org";
const SECRET: &str = "bm8gc2VjcmV0IGF0IGFsbCwgZXZlcnlib2R5IGtub3dzIGl0";

/// Whether a program is here; says so when it is not.
fn has(program: &str) -> bool {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .any(|dir| dir.join(program).is_file())
    });
    if !found {
        println!("SKIPPED: {program} is not installed");
    }
    found
}

fn key(dir: &Path, name: &str, secret: &str) -> PathBuf {
    let path = dir.join(format!("{name}.key"));
    let text = format!("key \"{name}\" {{\n\talgorithm hmac-sha256;\n\tsecret \"{secret}\";\n}};\n");
    std::fs::write(&path, text).unwrap();
    path
}

struct Primary {
    dir: tempfile::TempDir,
    shared: Shared,
    running: Running,
    registry: Registry,
}

impl Primary {
    /// A primary of a zone with so many members, that tells a secondary on `port` of changes.
    async fn new(members: u8, port: Option<u16>) -> Primary {
        let dir = tempfile::tempdir().unwrap();
        let secondary = SecondaryConfig {
            address: [127, 0, 0, 1].into(),
            port: port.unwrap_or(9),
            key: "transfer.example".into(),
            notify: port.is_some(),
        };
        let keys =
            vec![key(dir.path(), "transfer.example", SECRET), key(dir.path(), "other.example", SECRET)];
        let transfer = TransferConfig { keys, secondaries: vec![secondary] };
        let config = Config { transfer, ..config(Limits::default()) };
        let shared = shared(&inputs(members));
        let mut registry = Registry::with_prefix("godwit");
        let running = Redirector::start(config, view(&shared), &mut registry).await.unwrap();
        Primary { dir, shared, running, registry }
    }

    fn address(&self) -> SocketAddr {
        self.running.addresses()[0]
    }

    async fn dig(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("dig");
        command.arg("@127.0.0.1").arg("-p").arg(self.address().port().to_string());
        command.args(["+time=30", "+tries=1"]).args(arguments);
        text(blocking(command).await)
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }
}

async fn blocking(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(output: Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dig_transfers_the_zone_with_the_right_key_only() {
    if !has("dig") {
        return;
    }
    let primary = Primary::new(200, None).await;
    let signed = format!("hmac-sha256:transfer.example:{SECRET}");
    let whole = primary.dig(&["-y", &signed, ZONE, "AXFR"]).await;
    // SOA twice, 13 name servers, 200 members.
    assert!(whole.contains("XFR size: 215 records (messages 2"), "{whole}");
    assert!(whole.contains("TSIG") && !whole.contains("verify"), "{whole}");
    assert_eq!(whole.matches("SOA").count(), 2);
    let soa = whole.lines().find(|line| line.contains("SOA")).unwrap();
    let serial = soa.split_whitespace().nth(6).unwrap().to_owned();
    let up_to_date = primary.dig(&["-y", &signed, ZONE, &format!("IXFR={serial}")]).await;
    assert!(up_to_date.contains("XFR size: 1 records"), "{up_to_date}");
    let behind = primary.dig(&["-y", &signed, ZONE, "IXFR=1"]).await;
    assert!(behind.contains("XFR size: 215 records"), "{behind}");
    let soa = primary.dig(&["-y", &signed, ZONE, "SOA"]).await;
    assert!(
        soa.contains("NOERROR") && soa.contains("TSIG") && !soa.contains("WARNING -- Some TSIG"),
        "{soa}"
    );
    // No key, one that is not the secondary's, one that nobody has, a wrong secret, another zone.
    let other = format!("hmac-sha256:other.example:{SECRET}");
    let unknown = format!("hmac-sha256:unknown.example:{SECRET}");
    let wrong = "hmac-sha256:transfer.example:d3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmc=".to_owned();
    for (arguments, sign) in [
        (vec![ZONE, "AXFR"], "Transfer failed"),
        (vec!["-y", &other, ZONE, "AXFR"], "Transfer failed"),
        (vec!["-y", &unknown, ZONE, "AXFR"], "BADKEY"),
        (vec!["-y", &wrong, ZONE, "AXFR"], "BADSIG"),
        (vec!["-y", &signed, "www.edge.example.org", "AXFR"], "Transfer failed"),
    ] {
        let refused = primary.dig(&arguments).await;
        assert!(refused.contains(sign) && !refused.contains("\tA\t"), "{arguments:?}: {refused}");
    }
    let metrics = primary.metrics();
    assert!(metrics.contains(r#"transfers_total{outcome="sent"} 2"#), "{metrics}");
    assert!(metrics.contains(r#"transfers_total{outcome="up-to-date"} 1"#), "{metrics}");
}

/// A secondary that somebody else wrote; killed when dropped.
struct Secondary {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Drop for Secondary {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody has. Below those that the kernel gives to who asks for any, so that no other
/// test gets it in the moment before it is used.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 1000) as u16 * 10;
    let is_free = |port: &u16| {
        let udp = UdpSocket::bind(("127.0.0.1", *port));
        udp.is_ok() && TcpListener::bind(("127.0.0.1", *port)).is_ok()
    };
    let mut ports = std::iter::repeat_with(|| first + NEXT.fetch_add(1, Ordering::SeqCst));
    ports.find(is_free).unwrap()
}

impl Secondary {
    fn knot(port: u16, primary: SocketAddr) -> Secondary {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        let primary = format!("{}@{}", primary.ip(), primary.port());
        let text = format!(
            "server:\n    rundir: {path}\n    listen: 127.0.0.1@{port}\n    udp-workers: 1\n    tcp-workers: 1\n    \
             background-workers: 1\ndatabase:\n    storage: {path}\nkey:\n  - id: transfer.example\n    \
             algorithm: hmac-sha256\n    secret: {SECRET}\nremote:\n  - id: primary\n    address: {primary}\n    \
             key: transfer.example\nacl:\n  - id: notify\n    address: 127.0.0.1\n    key: transfer.example\n    \
             action: notify\nzone:\n  - domain: {ZONE}\n    storage: {path}\n    master: primary\n    acl: notify\n"
        );
        std::fs::write(dir.path().join("knot.conf"), text).unwrap();
        let mut command = Command::new("knotd");
        command.arg("-c").arg(dir.path().join("knot.conf"));
        Secondary::start(command, port, dir)
    }

    fn nsd(port: u16, primary: SocketAddr) -> Secondary {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        let primary = format!("{}@{} transfer.example", primary.ip(), primary.port());
        let text = format!(
            "server:\n  ip-address: 127.0.0.1@{port}\n  username: \"\"\n  chroot: \"\"\n  zonesdir: {path}\n  \
             database: \"\"\n  pidfile: {path}/nsd.pid\n  xfrdfile: {path}/xfrd.state\n  xfrdir: {path}\n  \
             zonelistfile: {path}/zone.list\n  server-count: 1\nremote-control:\n  control-enable: no\nkey:\n  \
             name: transfer.example\n  algorithm: hmac-sha256\n  secret: {SECRET}\nzone:\n  name: {ZONE}\n  \
             zonefile: {path}/zone\n  allow-notify: 127.0.0.1 transfer.example\n  request-xfr: {primary}\n"
        );
        std::fs::write(dir.path().join("nsd.conf"), text).unwrap();
        let mut command = Command::new("nsd");
        command.arg("-d").arg("-c").arg(dir.path().join("nsd.conf"));
        Secondary::start(command, port, dir)
    }

    fn start(mut command: Command, port: u16, dir: tempfile::TempDir) -> Secondary {
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        command.env("PATH", path).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Secondary { child: command.spawn().unwrap(), port, dir }
    }

    /// Waits until the secondary answers a question for addresses with `expected`.
    fn wait_for(&self, name: &str, expected: [u8; 4]) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let started = Instant::now();
        loop {
            let _ = socket.send_to(&query(7, name, RecordType::A), ("127.0.0.1", self.port));
            let mut buffer = [0; 1232];
            if let Ok(len) = socket.recv(&mut buffer)
                && Message::from_vec(&buffer[..len]).is_ok_and(|reply| {
                    let mut answers = reply.answers.iter();
                    answers.any(|record| record.data == RData::A(Ipv4Addr::from(expected).into()))
                })
            {
                return;
            }
            if started.elapsed() > 2 * PATIENCE {
                let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap();
                panic!("the secondary does not answer {name} with {expected:?}: {log}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The secondary gets the zone, and a change of it without asking, because it is told.
async fn follows(start: fn(u16, SocketAddr) -> Secondary) {
    let port = free_port();
    let primary = Primary::new(3, Some(port)).await;
    let secondary = start(port, primary.address());
    let name = |n: u8| format!("n{n}-{}.node.{ZONE}.", "x".repeat(50));
    let secondary = tokio::task::spawn_blocking(move || {
        secondary.wait_for(&name(3), [198, 18, 0, 3]);
        secondary
    })
    .await
    .unwrap();
    // Its own refresh would come after an hour.
    primary.shared.store(shared(&inputs(5)).load_full());
    tokio::task::spawn_blocking(move || secondary.wait_for(&name(5), [198, 18, 0, 5])).await.unwrap();
    let metrics = primary.metrics();
    assert!(metrics.contains(r#"notifies_total{outcome="acknowledged"}"#), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn knot_follows() {
    if has("knotd") {
        follows(Secondary::knot).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nsd_follows() {
    if has("nsd") {
        follows(Secondary::nsd).await;
    }
}

#[tokio::test]
async fn keys_and_secondaries_must_fit() {
    let mut primary = Primary::new(1, None).await;
    let keys = vec![key(primary.dir.path(), "short.example", "c2hvcnQ=")];
    let bad_key = TransferConfig { keys, ..TransferConfig::default() };
    let secondary =
        SecondaryConfig { address: [192, 0, 2, 1].into(), port: 53, key: "none".into(), notify: true };
    let no_key = TransferConfig { secondaries: vec![secondary], ..TransferConfig::default() };
    for transfer in [bad_key, no_key] {
        let config = Config { transfer, ..config(Limits::default()) };
        assert!(primary.running.reload(&config).is_err());
        let started = Redirector::start(config, view(&primary.shared), &mut Registry::default()).await;
        assert!(matches!(started, Err(StartError::Transfer(_))));
    }
}
