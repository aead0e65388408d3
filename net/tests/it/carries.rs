//! Packets come through, whole, in both families, inside and outside.

use crate::in_own_network;
use crate::world::{Cables, HOME_V4, HOME_V6, KEY, Return, World, ip, world};
use godwit_core::tunnel::{Cipher, Control, Cookie};
use godwit_net::tunnel::Event;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn connections_over_ipv4() {
    in_own_network("carries::connections_over_ipv4", || check(false, Cipher::Aes256Gcm, true));
}

#[test]
fn connections_over_ipv6() {
    in_own_network("carries::connections_over_ipv6", || check(true, Cipher::ChaCha20Poly1305, true));
}

#[test]
fn connections_packet_by_packet() {
    in_own_network("carries::connections_packet_by_packet", || check(false, Cipher::Aes256Gcm, false));
}

#[test]
fn words_and_addresses_are_told() {
    in_own_network("carries::words_and_addresses_are_told", || {
        let mut world = world(false, Cipher::Aes256Gcm, true, Return::Reverse);
        let (at_home_agent, at_node) = (world.home_agent.address, world.node.address);
        let cookie = Control::Cookie(Cookie([9; 16]));
        world.node.engine.send(KEY, at_home_agent, Control::Hello);
        let told = world.home_agent.hear(|_| true, || {});
        assert_eq!(told, Event::Heard { key: KEY, from: at_node, control: Some(Control::Hello) });
        world.home_agent.engine.send(KEY, at_node, cookie);
        let told = world.node.hear(|_| true, || {});
        assert_eq!(told, Event::Heard { key: KEY, from: at_home_agent, control: Some(cookie) });
        let World { cables, node, .. } = &mut world;
        let packet = Event::Heard { key: KEY, from: at_home_agent, control: None };
        node.hear(|event| *event == packet, || udp(cables, HOME_V4, 100, 1));
    });
}

/// A connection up and down, and datagrams of all lengths, to both home addresses.
fn check(outer_v6: bool, cipher: Cipher, batching: bool) {
    let world = world(outer_v6, cipher, batching, Return::Reverse);
    for home in [HOME_V4, HOME_V6] {
        let sent = 8 << 20;
        tcp(&world.cables, home, sent);
        for len in [0, 1, 100, 1300] {
            udp(&world.cables, home, len, 20);
        }
    }
    for end in [&world.home_agent, &world.node] {
        let counts = end.engine.counts();
        println!("{counts:?}");
        // Hosts say more than they were asked, for example that they look for routers.
        let dropped: u64 = counts.dropped.values().sum();
        assert!(dropped < 50, "{counts:?}");
        assert!(counts.sealed > 1000 && counts.delivered > 1000, "{counts:?}");
    }
}

/// Sends `len` octets to an echo at `home`, and compares.
fn tcp(cables: &Cables, home: &str, len: usize) {
    let listener = cables.node.run(|| TcpListener::bind((ip(home), 0))).unwrap();
    let to = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, from) = listener.accept().unwrap();
            assert!(["10.1.0.2", "fd01::2"].contains(&from.ip().to_string().as_str()), "{from}");
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            stream.write_all(&bytes).unwrap();
        });
        let mut stream = cables.client.run(|| TcpStream::connect(to)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let bytes: Vec<u8> = (0..len).map(|at| (at * 31 + at / 251) as u8).collect();
        stream.write_all(&bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        assert!(back == bytes, "{} octets came back of {len}", back.len());
    });
}

/// Sends datagrams to an echo at `home`, and compares.
fn udp(cables: &Cables, home: &str, len: usize, count: u8) {
    let server = cables.node.run(|| UdpSocket::bind((ip(home), 0))).unwrap();
    let client = cables
        .client
        .run(|| UdpSocket::bind(if home == HOME_V4 { "10.1.0.2:0" } else { "[fd01::2]:0" }))
        .unwrap();
    let to: SocketAddr = server.local_addr().unwrap();
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    for number in 0..count {
        let sent = vec![number; len];
        client.send_to(&sent, to).unwrap();
        let mut bytes = [0; 2000];
        let (received, from) = server.recv_from(&mut bytes).unwrap();
        assert_eq!(bytes[..received], sent);
        server.send_to(&bytes[..received], from).unwrap();
        let (received, from) = client.recv_from(&mut bytes).unwrap();
        assert_eq!((&bytes[..received], from), (&sent[..], to));
    }
}
