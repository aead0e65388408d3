//! The redirector over real sockets.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod corpus;
mod flood;
mod listening;
mod process;
mod restart;
mod secondaries;
mod signing;
mod static_zone;
mod transports;
mod zone;

use arc_swap::ArcSwap;
use godwit_core::certificate::{Role, Serial};
use godwit_core::content::VersionNumber;
use godwit_core::key::SecretKey;
use godwit_map::{Generation, GeoDb, Health, Inputs, MemberInput, Shared, SiteInput};
use godwit_redirector::{Config, Limits, Redirector, Running, SharedView, StartError, Zone};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use prometheus_client::registry::Registry;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Long enough for a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(30);

fn inputs(members: u8) -> Inputs {
    let www = || "www".parse().unwrap();
    let member = |n: u8| MemberInput {
        id: SecretKey::from_seed(&[n; 32]).public(),
        serial: Serial(u64::from(n)),
        name: format!("n{n}-{}", "x".repeat(50)).parse().unwrap(),
        region: format!("r{n}").parse().unwrap(),
        place: None,
        roles: vec![Role::Node, Role::Redirector],
        state: Health::Alive,
        draining: false,
        ready: true,
        load_permille: 0,
        capacity: Default::default(),
        public_v4: Some(Ipv4Addr::new(198, 18, 0, n)),
        public_v6: None,
        http_port: Some(80),
        held: vec![(www(), VersionNumber(1))],
        peer_rtts: Vec::new(),
        certified: true,
        checks: Vec::new(),
    };
    Inputs {
        members: (1..=members).map(member).collect(),
        sites: vec![SiteInput::published(www(), VersionNumber(1))],
        ..Inputs::new("edge.example.org".parse().unwrap())
    }
}

fn shared(inputs: &Inputs) -> Shared {
    Arc::new(ArcSwap::from_pointee(Generation::compute(inputs, &GeoDb::empty(), None)))
}

fn view(shared: &Shared) -> SharedView {
    let zone = Zone::new(shared.load().zone(), Config::default().options());
    SharedView::new(shared.clone(), zone)
}

fn config(limits: Limits) -> Config {
    Config { listen: vec!["127.0.0.1:0".parse().unwrap()], workers: 2, limits, ..Config::default() }
}

struct Bench {
    shared: Shared,
    registry: Registry,
    running: Running,
}

impl Bench {
    async fn new(members: u8, limits: Limits) -> Bench {
        let shared = shared(&inputs(members));
        let mut registry = Registry::with_prefix("godwit");
        let running = Redirector::start(config(limits), view(&shared), &mut registry).await.unwrap();
        Bench { shared, registry, running }
    }

    fn address(&self) -> SocketAddr {
        self.running.addresses()[0]
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    async fn udp(&self, packet: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(packet, self.address()).await.unwrap();
        receive(&socket).await
    }

    async fn connect(&self) -> TcpStream {
        timeout(PATIENCE, TcpStream::connect(self.address())).await.unwrap().unwrap()
    }
}

async fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 4096];
    let (len, _) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
    buffer[..len].to_vec()
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), packet: &[u8]) {
    let framed = [&(packet.len() as u16).to_be_bytes()[..], packet].concat();
    stream.write_all(&framed).await.unwrap();
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Message {
    let reply = async {
        let len = stream.read_u16().await.unwrap();
        let mut reply = vec![0; usize::from(len)];
        stream.read_exact(&mut reply).await.unwrap();
        reply
    };
    Message::from_vec(&timeout(PATIENCE, reply).await.unwrap()).unwrap()
}

/// Waits until the peer closes the connection.
async fn closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap().is_err() || rest.is_empty()
}

fn query(id: u16, name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

fn www(id: u16) -> Vec<u8> {
    query(id, "www.edge.example.org.", RecordType::A)
}

fn check_www(message: &Message, id: u16) {
    assert_eq!((message.metadata.id, message.metadata.response_code), (id, ResponseCode::NoError));
    assert!(matches!(message.answers[0].data, RData::A(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn udp_and_tcp_answer_on_one_port_and_stop() {
    let bench = Bench::new(2, Limits::default()).await;
    for id in 0..20 {
        check_www(&Message::from_vec(&bench.udp(&www(id)).await).unwrap(), id);
    }
    let mut stream = bench.connect().await;
    for id in 0..20 {
        send(&mut stream, &www(id)).await;
        check_www(&read(&mut stream).await, id);
    }
    // Several at once, and a query that comes in pieces.
    let framed: Vec<u8> =
        (0..5u16).flat_map(|id| [&(www(id).len() as u16).to_be_bytes()[..], &www(id)].concat()).collect();
    for piece in framed.chunks(7) {
        stream.write_all(piece).await.unwrap();
    }
    for id in 0..5 {
        check_www(&read(&mut stream).await, id);
    }
    let metrics = bench.metrics();
    let count = r#"godwit_dns_queries_total{transport="udp",kind="A",code="NOERROR"} 20"#;
    assert!(metrics.contains(count), "{metrics}");
    let address = bench.address();
    bench.running.shutdown().await;
    assert!(closed(&mut stream).await);
    // The port is free again.
    let again = Config { listen: vec![address], ..config(Limits::default()) };
    Redirector::start(again, view(&bench.shared), &mut Registry::with_prefix("godwit"))
        .await
        .unwrap()
        .shutdown()
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_generation_is_soon_answered_from_without_a_pause() {
    let bench = Bench::new(1, Limits::default()).await;
    let first = Message::from_vec(&bench.udp(&www(1)).await).unwrap();
    assert_eq!(first.answers[0].data.to_string(), "198.18.0.1");
    let mut inputs = inputs(1);
    inputs.members[0].public_v4 = Some(Ipv4Addr::new(203, 0, 113, 7));
    bench.shared.store(shared(&inputs).load_full());
    // Every query is answered, from the old one until the new one is compiled.
    let seen = async {
        for id in 2.. {
            let message = Message::from_vec(&bench.udp(&www(id)).await).unwrap();
            match message.answers[0].data.to_string().as_str() {
                "203.0.113.7" => break,
                before => assert_eq!(before, "198.18.0.1"),
            }
        }
    };
    timeout(PATIENCE, seen).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_truncated_over_udp_comes_whole_over_tcp() {
    let bench = Bench::new(13, Limits::default()).await;
    let ns = query(7, "edge.example.org.", RecordType::NS);
    let udp = bench.udp(&ns).await;
    assert_eq!(udp.len(), ns.len());
    assert!(Message::from_vec(&udp).unwrap().metadata.truncation);
    let mut stream = bench.connect().await;
    send(&mut stream, &ns).await;
    let tcp = read(&mut stream).await;
    assert_eq!((tcp.answers.len(), tcp.additionals.len(), tcp.metadata.truncation), (13, 13, false));
    // With EDNS and 1,232 octets it fits.
    let mut message = Message::from_vec(&ns).unwrap();
    message.edns = Some({
        let mut edns = Edns::new();
        edns.set_max_payload(65_535);
        edns
    });
    let udp = bench.udp(&message.to_vec().unwrap()).await;
    assert!(udp.len() <= 1232 && !Message::from_vec(&udp).unwrap().metadata.truncation);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_dropped_or_answered_with_a_header() {
    let bench = Bench::new(1, Limits::default()).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut response = www(1);
    response[2] |= 0x80;
    let mut two_questions = www(2);
    two_questions[5] = 2;
    let mut update = www(3);
    update[2] = 5 << 3;
    for packet in [&b""[..], b"short", &response, &two_questions, &update, &www(4)] {
        socket.send_to(packet, bench.address()).await.unwrap();
    }
    let mut replies = Vec::new();
    for _ in 0..3 {
        replies.push(receive(&socket).await);
    }
    replies.sort_by_key(|reply| reply[1]);
    assert_eq!((replies[0].len(), replies[0][3] & 15), (12, 1), "FORMERR");
    assert_eq!((replies[1].len(), replies[1][3] & 15), (12, 4), "NOTIMP");
    check_www(&Message::from_vec(&replies[2]).unwrap(), 4);
    let metrics = bench.metrics();
    assert!(metrics.contains(r#"godwit_dns_drops_total{reason="short"} 2"#), "{metrics}");
    assert!(metrics.contains(r#"godwit_dns_drops_total{reason="response"} 1"#), "{metrics}");
    // Over TCP a response or half a header ends the connection.
    let mut stream = bench.connect().await;
    send(&mut stream, &response).await;
    assert!(closed(&mut stream).await);
    let mut stream = bench.connect().await;
    stream.write_all(&[0xff, 0xff]).await.unwrap();
    assert!(closed(&mut stream).await, "a query of 64 KiB is none");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_limit_every_second_reply_is_truncated() {
    let limits = Limits { replies_per_second: 1, slip: 2, ..Limits::default() };
    let bench = Bench::new(1, limits).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for id in 0..40 {
        socket.send_to(&www(id), bench.address()).await.unwrap();
    }
    // Two whole ones at least, and of the others at most half, all of them truncated.
    let (mut whole, mut slipped) = (0, 0);
    while whole < 2 || slipped < 10 {
        let reply = Message::from_vec(&receive(&socket).await).unwrap();
        match reply.metadata.truncation {
            true => {
                assert!(reply.answers.is_empty() && reply.queries.len() == 1);
                slipped += 1;
            }
            false => whole += 1,
        }
    }
    // TCP proves the address and is not limited.
    let mut stream = bench.connect().await;
    for id in 0..40 {
        send(&mut stream, &www(id)).await;
        check_www(&read(&mut stream).await, id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_too_many_takes_the_place_of_the_quietest() {
    let limits = Limits { tcp_connections_per_prefix_max: 3, ..Limits::default() };
    let bench = Bench::new(1, limits).await;
    let mut held = Vec::new();
    for id in 0..3 {
        let mut stream = bench.connect().await;
        send(&mut stream, &www(id)).await;
        check_www(&read(&mut stream).await, id);
        held.push(stream);
    }
    // The first one asks again, so the second one is the quietest.
    send(&mut held[0], &www(7)).await;
    check_www(&read(&mut held[0]).await, 7);
    let mut newest = bench.connect().await;
    send(&mut newest, &www(8)).await;
    check_www(&read(&mut newest).await, 8);
    assert!(closed(&mut held.remove(1)).await);
    assert!(bench.metrics().contains(r#"godwit_dns_drops_total{reason="connections-of-source"} 1"#));
    for stream in &mut held {
        send(stream, &www(2)).await;
        check_www(&read(stream).await, 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_end_and_give_their_place_back() {
    let limits = Limits { tcp_connections_per_prefix_max: 2, tcp_idle_secs: 1, ..Limits::default() };
    let bench = Bench::new(1, limits).await;
    let mut silent = bench.connect().await;
    let mut half = bench.connect().await;
    // Half a query does not keep a connection.
    half.write_all(&[0, 40, 1]).await.unwrap();
    assert!(closed(&mut silent).await && closed(&mut half).await);
    let mut stream = bench.connect().await;
    send(&mut stream, &www(1)).await;
    check_www(&read(&mut stream).await, 1);
}

#[tokio::test]
async fn a_port_in_use_is_told_clearly() {
    let bench = Bench::new(1, Limits::default()).await;
    let second = |listen: SocketAddr| {
        let config = Config { listen: vec![listen], ..config(Limits::default()) };
        Redirector::start(config, view(&bench.shared), Box::leak(Box::new(Registry::with_prefix("godwit"))))
    };
    let address = bench.address();
    match second(address).await {
        Err(StartError::InUse(found)) => assert_eq!(found, address),
        other => panic!("{:?}", other.map(|running| running.addresses().to_vec())),
    }
    // UDP alone in use, even shared by its owner.
    let taken = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    taken.set_reuse_port(true).unwrap();
    taken.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    let taken_at = taken.local_addr().unwrap().as_socket().unwrap();
    assert!(matches!(second(taken_at).await, Err(StartError::InUse(_))));
    assert!(matches!(second("192.0.2.1:5300".parse().unwrap()).await, Err(StartError::NotHere(_))));
    let nowhere = Config { listen: Vec::new(), ..Config::default() };
    let none = Redirector::start(nowhere, view(&bench.shared), &mut Registry::with_prefix("godwit")).await;
    assert!(matches!(none, Err(StartError::NoAddress)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_queued_at_the_end_is_answered() {
    let bench = Bench::new(1, Limits { replies_per_second: 0, ..Limits::default() }).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    // Fewer than any receive buffer holds.
    for id in 0..200 {
        socket.send_to(&www(id), bench.address()).await.unwrap();
    }
    bench.running.shutdown().await;
    for id in 0..200 {
        check_www(&Message::from_vec(&receive(&socket).await).unwrap(), id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_limits_are_in_force_with_the_next_query() {
    let mut bench = Bench::new(1, Limits { replies_per_second: 0, ..Limits::default() }).await;
    let limits = Limits { replies_per_second: 1, slip: 1, ..Limits::default() };
    bench.running.reload(&config(limits)).unwrap();
    let mut truncated = 0;
    for id in 0..20 {
        let reply = Message::from_vec(&bench.udp(&www(id)).await).unwrap();
        truncated += u32::from(reply.metadata.truncation);
    }
    assert!(truncated > 0);
    bench.running.reload(&config(Limits { replies_per_second: 0, ..Limits::default() })).unwrap();
    for id in 0..20 {
        check_www(&Message::from_vec(&bench.udp(&www(id)).await).unwrap(), id);
    }
}
