//! Paths that move, and paths that fall silent.

use crate::relay::{TcpRelay, UdpRelay};
use crate::support::{Member, Network};
use bytes::Bytes;
use godwit_overlay::{Event, Paths};

async fn exchange(a: &mut Member, b: &mut Member, from: u32) {
    for i in from..from + 100 {
        let message = Bytes::from(i.to_be_bytes().to_vec());
        a.overlay.send(b.id, message.clone()).unwrap();
        b.overlay.send(a.id, message.clone()).unwrap();
        assert_eq!(a.wait_message(b.id).await, message);
        assert_eq!(b.wait_message(a.id).await, message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dialler_that_changes_its_address_stays_connected_and_loses_nothing() {
    let network = Network::new(9);
    let mut a = network.start(1, Paths::Quic).await;
    let mut b = network.start(2, Paths::Quic).await;
    let relay = UdpRelay::start(b.address()).await;
    a.overlay.dial(b.id, vec![relay.address]);
    a.wait_up(b.id).await;
    b.wait_up(a.id).await;
    let before = b.overlay.peers()[0].address;
    for i in 0..5 {
        exchange(&mut a, &mut b, 100 * i).await;
        relay.relocate(b.address()).await;
    }
    exchange(&mut a, &mut b, 1000).await;
    assert_ne!(b.overlay.peers()[0].address, before, "the listener follows");
    for event in [a.drain(), b.drain()].concat() {
        assert!(matches!(event, Event::Rtt { .. }), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_falls_silent_ends_the_connection_on_both_sides() {
    let network = Network::new(9);
    for paths in [Paths::Quic, Paths::Tcp] {
        let mut a = network.start(1, paths).await;
        let mut b = network.start(2, paths).await;
        let (udp, tcp) = (UdpRelay::start(b.address()).await, TcpRelay::start(b.address()).await);
        let relay = if paths == Paths::Quic { udp.address } else { tcp.address };
        a.overlay.dial(b.id, vec![relay]);
        a.wait_up(b.id).await;
        b.wait_up(a.id).await;
        exchange(&mut a, &mut b, 0).await;
        udp.fall_silent();
        tcp.fall_silent();
        a.wait_down(b.id).await;
        b.wait_down(a.id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_udp_is_silent_tcp_is_used_soon() {
    let network = Network::new(9);
    let mut a = network.start(1, Paths::Both).await;
    let mut b = network.start(2, Paths::Tcp).await;
    // Takes every packet and answers none, on the port where TCP listens: a firewall.
    let _silence = tokio::net::UdpSocket::bind(b.address()).await.unwrap();
    a.overlay.dial_unknown(vec![b.address()]);
    assert_eq!(a.wait_up(b.id).await, godwit_overlay::TransportKind::Tcp);
    b.wait_up(a.id).await;
    exchange(&mut a, &mut b, 0).await;
}
