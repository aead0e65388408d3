//! Packets come through, and those that must not do not.

use crate::net::{HOME_V4, HOME_V6};
use crate::world::{PORT, Test, world};
use crate::{PATIENCE, in_own_network, wait};
use godwit_net::tunnel::{Kept, Way};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[test]
fn connections_and_datagrams() {
    in_own_network("carries::connections_and_datagrams", || {
        let test = Test::new(1, 1);
        for home in [IpAddr::V4(HOME_V4), IpAddr::V6(HOME_V6)] {
            let mut stream = connect(&test, home);
            let sent: Vec<u8> = (0..1usize << 20).map(|n| ((n * 7) >> 3) as u8).collect();
            let (mut reader, expected) = (stream.try_clone().unwrap(), sent.clone());
            let echo = std::thread::spawn(move || {
                let mut got = vec![0; expected.len()];
                reader.read_exact(&mut got).unwrap();
                assert!(got == expected);
            });
            stream.write_all(&sent).unwrap();
            echo.join().unwrap();
            let from: IpAddr = if home.is_ipv4() { "10.1.0.2" } else { "fd01::2" }.parse().unwrap();
            assert_eq!(ask(&test, from, home), Some(0));
        }
        for direction in ["to-node", "to-client"] {
            assert!(test.metric(0, &format!("home_packets_total{{direction=\"{direction}\"}}")) > 100);
        }
        let viewer = test.home_agents[&0].running.viewer();
        let flows = test.runtime.block_on(viewer.flows(100)).unwrap();
        let tcp = flows.iter().find(|flow| flow.protocol == 6 && flow.client.is_ipv4()).unwrap();
        assert!(tcp.node == "node0" && tcp.octets > 1 << 20 && !tcp.bound, "{flows:?}");
    });
}

#[test]
fn what_is_not_granted_is_told_so_and_goes_nowhere() {
    in_own_network("carries::what_is_not_granted_is_told_so_and_goes_nowhere", || {
        let test = Test::new(1, 1);
        // A port that is not open: the client hears so, and does not wait.
        let (start, closed) = (Instant::now(), SocketAddr::from((HOME_V4, PORT + 1)));
        let error = test.net.client.run(|| TcpStream::connect_timeout(&closed, PATIENCE)).unwrap_err();
        println!("a closed port: {error} after {:?}", start.elapsed());
        assert_ne!(error.kind(), ErrorKind::TimedOut);
        assert!(test.metric(0, "home_denied_total{reason=\"closed-port\"}") > 0);

        // From the node, under its own key: not from the home address, or to nobody's address.
        let key = test.nodes[&0].key(Test::home_agent(0)).unwrap();
        let way = Way { key, to: Test::home_agent_at(0), before: None, relayed: false };
        let to_client = "home_packets_total{direction=\"to-client\"}";
        let before = test.metric(0, to_client);
        for (from, to, reason) in [
            ([198, 51, 100, 1], [10, 1, 0, 2], "wrong-source"),
            ([10, 3, 0, 2], [10, 1, 0, 2], "wrong-source"),
            (HOME_V4.octets(), [127, 0, 0, 1], "wrong-destination"),
            (HOME_V4.octets(), [224, 0, 0, 1], "wrong-destination"),
        ] {
            let line = format!("home_denied_total{{reason=\"{reason}\"}}");
            let count = test.metric(0, &line);
            test.nodes[&0].engine.pass(&way, &[Kept::from(datagram(from, to))]);
            wait(reason, || test.metric(0, &line) == count + 1);
        }
        assert_eq!(test.metric(0, to_client), before);

        // Taken back: nothing reaches the node any more, and its binding is of nothing.
        let mut known = world(1);
        known.granted.clear();
        known.allowed.clear();
        test.world.send_replace(Arc::new(known));
        wait("the binding ends", || test.view(0).bindings.is_empty() && test.view(0).homes.is_empty());
        let client = "10.1.0.2".parse().unwrap();
        assert_eq!(ask_within(&test, client, HOME_V4.into(), Duration::from_millis(300)), None);
        assert!(test.home_agents[&0].announced.lock().unwrap().is_empty());
    });
}

#[test]
fn that_nobody_is_there_is_told_too() {
    in_own_network("carries::that_nobody_is_there_is_told_too", || {
        let test = Test::without_nodes(1, 1);
        // Nothing is announced without a node, but of a home agent that was the last one the route stays.
        assert!(test.home_agents[&0].announced.lock().unwrap().is_empty());
        let route = || {
            use godwit_net::netlink::{Netlink, Route, interface_index};
            let interface = interface_index("godwit0")?;
            let destination = IpAddr::V4(HOME_V4).into();
            Netlink::open()?.add_route(&Route { destination, interface, gateway: None })
        };
        test.net.host("ha0").run(route).unwrap();
        let to = SocketAddr::from((HOME_V4, PORT));
        let error = test.net.client.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::HostUnreachable, "{error}");
        assert!(test.metric(0, "home_denied_total{reason=\"no-node\"}") > 0);
    });
}

/// A datagram with nothing in it.
fn datagram(from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0];
    bytes.extend(from);
    bytes.extend(to);
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend([0x1b, 0x58, 0x1b, 0x58, 0, 8, 0, 0]);
    bytes
}

/// A connection to the echo, after it has said who it is.
pub(crate) fn connect(test: &Test, home: IpAddr) -> TcpStream {
    connect_to(test, home).0
}

/// A connection, and at which node it is.
pub(crate) fn connect_to(test: &Test, home: IpAddr) -> (TcpStream, u8) {
    let to = SocketAddr::new(home, PORT);
    let mut stream = test.net.client.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut node = [0];
    stream.read_exact(&mut node).unwrap();
    (stream, node[0])
}

/// Which node answers a datagram from this address of the client.
pub(crate) fn ask(test: &Test, from: IpAddr, home: IpAddr) -> Option<u8> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(node) = ask_within(test, from, home, Duration::from_millis(300)) {
            return Some(node);
        }
    }
    None
}

pub(crate) fn ask_within(test: &Test, from: IpAddr, home: IpAddr, patience: Duration) -> Option<u8> {
    let socket = test.net.client.run(|| UdpSocket::bind((from, 0))).unwrap();
    ask_from(&socket, home, patience)
}

pub(crate) fn ask_from(socket: &UdpSocket, home: IpAddr, patience: Duration) -> Option<u8> {
    socket.set_read_timeout(Some(patience)).unwrap();
    // An error of ICMP that came before is an error of this.
    let _ = socket.send_to(b"who?", (home, PORT));
    let mut buffer = [0; 100];
    match socket.recv_from(&mut buffer) {
        Ok((5, _)) => Some(buffer[0]),
        _ => None,
    }
}
