//! The HTTP server's own connections.

use super::inside;
use super::members::{ECHO, HTTP, Members};
use super::world::{Addresses, Delays, IPV4, IPV6, World};
use crate::network::{PATIENCE, Tree};
use godwit_core::content::Replicas;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Octets of the file: some ten windows.
const LEN: usize = 24 << 20;
const MOVES: usize = 6;

#[test]
fn downloads_go_on_at_another_member_over_ipv4() {
    inside("http::downloads_4");
}

#[test]
fn downloads_go_on_at_another_member_over_ipv6() {
    inside("http::downloads_6");
}

#[test]
fn uploads_and_echoes_of_another_program_go_on() {
    inside("http::programs");
}

#[test]
fn idle_connections_go_on_and_what_cannot_move_stays() {
    inside("http::idle");
}

#[test]
fn a_first_request_goes_to_who_has_the_file() {
    inside("http::first");
}

#[test]
#[ignore = "run inside namespaces by the test above"]
fn downloads_4() {
    downloads(IPV4);
}

#[test]
#[ignore = "run inside namespaces by the test above"]
fn downloads_6() {
    downloads(IPV6);
}

pub fn content(len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| (at ^ at >> 8 ^ at >> 17) as u8).collect()
}

fn tree() -> Tree {
    Tree::new(&[("index.html", b"<h1>one</h1>"), ("big.bin", &content(LEN))])
}

pub fn connect(members: &Members, port: u16) -> TcpStream {
    let home = members.home(port);
    let stream = members.world.client.run(|| TcpStream::connect_timeout(&home, PATIENCE)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

pub fn ask(stream: &mut TcpStream, path: &str) {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: www.example.com\r\n\r\n").unwrap();
}

/// The header fields of a response, as they were sent.
pub fn head(reader: &mut impl BufRead) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        assert!(reader.read_line(&mut line).unwrap() > 0, "the connection ended in {lines:?}");
        match line.trim_end() {
            "" => return lines,
            line => lines.push(line.to_owned()),
        }
    }
}

pub fn field(head: &[String], name: &str) -> String {
    let prefix = format!("{name}: ");
    let found = head.iter().find_map(|line| line.strip_prefix(&prefix));
    found.unwrap_or_else(|| panic!("no {name} in {head:?}")).to_owned()
}

/// Waits until a level is reached.
pub fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Gives the one connection of a node to the other, and says where it is then. A loaded machine may be too
/// slow for a program to stop in time; then it is tried again.
fn move_once(members: &Members, at: usize) -> usize {
    let mut last = None;
    until("a connection has moved", || {
        let report = members.give(at, members.flows(at));
        assert_eq!(report.lost, 0);
        let moved = report.moved == 1;
        last = Some(report);
        moved
    });
    1 - at
}

fn downloads(addresses: Addresses) {
    let Some(world) = World::new(addresses, Delays::NONE) else { return };
    let members = Members::start(world);
    members.publish(&tree());
    let mut stream = connect(&members, HTTP);
    let (got, moved) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let client = thread::spawn({
        let (got, moved, expected) = (got.clone(), moved.clone(), content(LEN));
        move || {
            ask(&mut stream, "/big.bin");
            let mut reader = BufReader::with_capacity(1 << 16, stream);
            let first = head(&mut reader);
            assert_eq!(field(&first, "content-length"), LEN.to_string());
            let mut buffer = vec![0; 1 << 16];
            while got.load(Ordering::Relaxed) < LEN {
                let at = got.load(Ordering::Relaxed);
                let len = reader.read(&mut buffer[..(LEN - at).min(1 << 16)]).unwrap();
                assert!(len > 0, "it ended after {at} octets");
                assert!(buffer[..len] == expected[at..at + len], "other octets at {at}");
                got.store(at + len, Ordering::Relaxed);
            }
            // The same connection goes on with requests.
            until("it stays where it is", || moved.load(Ordering::Relaxed));
            ask(reader.get_mut(), "/");
            let second = head(&mut reader);
            let mut body = vec![0; 12];
            reader.read_exact(&mut body).unwrap();
            assert_eq!(body, b"<h1>one</h1>");
            (field(&first, "godwit-node"), field(&second, "godwit-node"))
        }
    });
    let mut at = 0;
    for number in 1..=MOVES {
        let goal = LEN * number / (MOVES + 2);
        until("so much has come", || got.load(Ordering::Relaxed) >= goal || client.is_finished());
        at = move_once(&members, at);
    }
    moved.store(true, Ordering::Relaxed);
    let nodes = client.join().unwrap();
    assert_eq!(nodes, ("one".to_owned(), ["one", "two"][at].to_owned()));
    assert_eq!(members.world.resets(), 0);
}

#[test]
#[ignore = "run inside namespaces by the test above"]
fn programs() {
    let Some(world) = World::new(IPV4, Delays::NONE) else { return };
    let members = Members::start(world);
    let mut stream = connect(&members, ECHO);
    let (sent, moved) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let client = thread::spawn({
        let (sent, moved) = (sent.clone(), moved.clone());
        move || {
            let octets = content(LEN);
            stream.write_all(b"u").unwrap();
            for part in octets.chunks(1 << 16) {
                stream.write_all(part).unwrap();
                sent.fetch_add(part.len(), Ordering::Relaxed);
            }
            until("what is closing does not move", || moved.load(Ordering::Relaxed));
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, format!("{LEN} {}", super::echo::digest(0, &octets)));
        }
    });
    let mut at = 0;
    for number in 1..=MOVES {
        let goal = LEN * number / (MOVES + 2);
        until("so much is sent", || sent.load(Ordering::Relaxed) >= goal || client.is_finished());
        at = move_once(&members, at);
    }
    moved.store(true, Ordering::Relaxed);
    client.join().unwrap();

    let mut stream = connect(&members, ECHO);
    stream.write_all(b"e").unwrap();
    let mut at = 0;
    for number in 0..20u32 {
        let mut got = [0; 4];
        stream.write_all(&number.to_be_bytes()).unwrap();
        if number % 3 == 0 {
            until("the connection is known", || !members.flows(at).is_empty());
            at = move_once(&members, at);
        }
        stream.read_exact(&mut got).unwrap();
        assert_eq!(got, number.to_be_bytes());
    }
    assert_eq!(members.world.resets(), 0);
}

#[test]
#[ignore = "run inside namespaces by the test above"]
fn idle() {
    let Some(world) = World::new(IPV4, Delays::NONE) else { return };
    let members = Members::start(world);
    members.publish(&tree());
    // Some have asked for something already, one has sent half a request, one speaks HTTP/2.
    let mut streams: Vec<TcpStream> = (0..20).map(|_| connect(&members, HTTP)).collect();
    let once = |stream: &mut TcpStream| {
        ask(stream, "/");
        answer(stream)
    };
    streams.iter_mut().take(10).for_each(|stream| assert_eq!(once(stream), "one"));
    let half = &mut streams[15];
    half.write_all(b"GET / HTTP/1.1\r\nHost: www.exam").unwrap();
    until("all are known", || members.flows(0).len() == 20);
    let mut other = connect(&members, HTTP);
    other.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    let mut settings = [0; 9];
    other.read_exact(&mut settings).unwrap();
    assert_eq!(settings[3], 4, "{settings:?}");
    assert_eq!(members.flows(0).len(), 20, "HTTP/2 does not move");
    let name = godwit_core::flow::FlowKey {
        protocol: 6,
        correspondent: other.local_addr().unwrap(),
        home: members.home(HTTP),
    };
    let report = members.give(0, vec![name]);
    assert_eq!(report.kept, [(name, godwit_core::handoff::Kept::Unmovable)]);

    let mut moved = 0;
    until("all have moved", || {
        moved += members.give(0, members.flows(0)).moved;
        moved == 20
    });
    streams[15].write_all(b"ple.com\r\n\r\n").unwrap();
    assert_eq!(answer(&mut streams[15]), "two");
    streams.iter_mut().for_each(|stream| assert_eq!(once(stream), "two"));
    // What stayed lives, too: it answers a ping.
    other.write_all(b"\0\0\x08\x06\0\0\0\0\0godwit!!").unwrap();
    let mut frames = Vec::new();
    while !frames.windows(8).any(|part| part == b"godwit!!") {
        let mut octet = [0];
        other.read_exact(&mut octet).unwrap();
        frames.extend(octet);
    }
    assert_eq!(members.world.resets(), 0);
}

/// Reads the answer to a request for `/`; who sent it.
fn answer(stream: &mut TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let head = head(&mut reader);
    let mut body = vec![0; 12];
    reader.read_exact(&mut body).unwrap();
    assert_eq!(body, b"<h1>one</h1>");
    field(&head, "godwit-node")
}

#[test]
#[ignore = "run inside namespaces by the test above"]
fn first() {
    let Some(world) = World::new(IPV4, Delays::NONE) else { return };
    let members = Members::start(world);
    // Sites that one node is to hold. It is not told which, so some are made, until each holds one.
    let mut held = [None, None];
    for number in 0.. {
        let site = format!("site{number}");
        let tree = Tree::new(&[("index.html", site.as_bytes()), ("other.html", b"else")]);
        members.publish_as(&site, Replicas::Count(1), &tree);
        held[members.holder(&site)].get_or_insert(site);
        if held.iter().all(Option::is_some) {
            break;
        }
    }
    let [of_one, of_two] = held.map(Option::unwrap);
    members.world.net.send_new_flows_to(1);
    let site_known = |site: &str| {
        // What a node was asked for it keeps: each look is for another file than the one that counts.
        until("the site is known", || {
            request(&mut connect(&members, HTTP), site, "/nothing").0.contains(" 404 ")
        });
    };
    site_known(&of_one);
    // The second node has not got the file, and the first has.
    let mut stream = connect(&members, HTTP);
    let (_, who, body) = request(&mut stream, &of_one, "/");
    assert_eq!((who.as_str(), &body), ("one", &of_one));
    assert_eq!(members.flows(0).len(), 1);
    // There it stays, though what it asks for next is not there: that is fetched.
    let (_, who, body) = request(&mut stream, &of_two, "/other.html");
    assert_eq!((who.as_str(), body.as_str()), ("one", "else"));
    // What is there is answered there.
    let (_, who, _) = request(&mut connect(&members, HTTP), &of_two, "/");
    assert_eq!(who, "two");
    assert_eq!(members.world.resets(), 0);
}

/// Asks for a file; the status line, who answered, and what.
fn request(stream: &mut TcpStream, site: &str, path: &str) -> (String, String, String) {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {site}.edge.example.org\r\n\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    let head = head(&mut reader);
    let mut body = vec![0; field(&head, "content-length").parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    (head[0].clone(), field(&head, "godwit-node"), String::from_utf8(body).unwrap())
}
