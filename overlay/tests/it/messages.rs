//! Messages between admitted members.

use crate::support::{GENEROUS, Member, Network, connect, connected, id};
use bytes::Bytes;
use godwit_core::wire::MESSAGE_LEN_MAX;
use godwit_overlay::{Config, Event, Paths, Said, SendError, TransportKind};
use std::time::Duration;

async fn talk(a: &mut Member, b: &mut Member) {
    for i in 0..100_u32 {
        a.overlay.send(b.id, i.to_be_bytes().to_vec().into()).unwrap();
        b.overlay.send(a.id, i.to_be_bytes().to_vec().into()).unwrap();
    }
    for i in 0..100_u32 {
        assert_eq!(b.wait_message(a.id).await[..], i.to_be_bytes());
        assert_eq!(a.wait_message(b.id).await[..], i.to_be_bytes());
    }
    let longest = Bytes::from(vec![7; MESSAGE_LEN_MAX]);
    a.overlay.send(b.id, longest.clone()).unwrap();
    assert_eq!(b.wait_message(a.id).await, longest);
    a.overlay.send(b.id, Bytes::new()).unwrap();
    assert_eq!(b.wait_message(a.id).await, Bytes::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_both_ways_in_order_over_quic() {
    let (mut a, mut b) = connected(&Network::new(9), Paths::Both).await;
    talk(&mut a, &mut b).await;
    assert_eq!(a.overlay.peers()[0].transport, TransportKind::Quic);
    assert_eq!(a.overlay.peers()[0].address, b.address());
    assert_eq!(b.overlay.peers()[0].address, a.address(), "QUIC dials from the listening socket");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_both_ways_in_order_over_tcp() {
    let (mut a, mut b) = connected(&Network::new(9), Paths::Tcp).await;
    talk(&mut a, &mut b).await;
    assert_eq!(a.overlay.peers()[0].transport, TransportKind::Tcp);
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_takes_over_where_udp_does_not_pass() {
    let network = Network::new(9);
    let mut a = network.start(1, Paths::Both).await;
    let mut b = network.start(2, Paths::Tcp).await; // nothing answers on its UDP port
    a.overlay.dial(b.id, vec![b.address()]);
    assert_eq!(a.wait_up(b.id).await, TransportKind::Tcp);
    b.wait_up(a.id).await;
    talk(&mut a, &mut b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_all_talk_to_all() {
    let network = Network::new(9);
    let mut a = network.start(1, Paths::Both).await;
    let mut b = network.start(2, Paths::Quic).await;
    let mut c = network.start(3, Paths::Tcp).await;
    connect(&mut a, &mut b).await;
    connect(&mut a, &mut c).await;
    talk(&mut a, &mut b).await;
    talk(&mut c, &mut a).await;
    assert_eq!(a.overlay.peers().len(), 2);
    assert_eq!(b.overlay.send(c.id, Bytes::new()), Err(SendError::NotConnected));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_found_by_address_alone_is_a_peer_like_any_other() {
    let network = Network::new(9);
    for paths in [Paths::Quic, Paths::Tcp] {
        let mut a = network.start(1, paths).await;
        let mut b = network.start(2, paths).await;
        a.overlay.dial_unknown(vec![b.address()]);
        a.wait_up(b.id).await;
        b.wait_up(a.id).await;
        talk(&mut a, &mut b).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_works_like_ipv4() {
    let network = Network::new(9);
    for paths in [Paths::Quic, Paths::Tcp] {
        let mut config = network.config(1, paths);
        config.listen = vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()];
        let Ok((overlay, events)) = godwit_overlay::start(config).await else {
            eprintln!("SKIPPED: IPv6 over {paths:?}, because this host has no ::1");
            return;
        };
        let mut a = Member { id: id(1), overlay, events };
        let mut b = network.start(2, paths).await;
        let [v4, v6] = *a.overlay.addresses() else { panic!("two addresses") };
        assert_eq!(v4.port(), v6.port());
        b.overlay.dial(a.id, vec![v6]);
        a.wait_up(b.id).await;
        b.wait_up(a.id).await;
        talk(&mut a, &mut b).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_dead_and_a_live_address_the_live_one_wins() {
    let network = Network::new(9);
    let mut a = network.start(1, Paths::Both).await;
    let mut b = network.start(2, Paths::Both).await;
    let dead = {
        let gone = network.start(3, Paths::Both).await;
        let address = gone.address();
        gone.overlay.shutdown().await;
        address
    };
    a.overlay.dial(b.id, vec![dead, b.address()]);
    a.wait_up(b.id).await;
    b.wait_up(a.id).await;
    talk(&mut a, &mut b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_owner_slows_the_peer_down_and_loses_nothing_that_was_taken() {
    for paths in [Paths::Quic, Paths::Tcp] {
        let network = Network::new(9);
        let mut config = network.config(2, paths);
        config.limits.events = 4;
        config.limits.window = 256 * 1024;
        let mut a = network.start(1, paths).await;
        let mut b = Member::start(config).await;
        connect(&mut a, &mut b).await;
        // b does not listen to its events: at some point the queue is full.
        let message = |i: u32| Bytes::from([&i.to_be_bytes()[..], &[0; 16 * 1024]].concat());
        let (mut taken, mut full) = (0, 0);
        while full < 20 {
            match a.overlay.send(b.id, message(taken)) {
                Ok(()) => taken += 1,
                Err(SendError::Full) => {
                    full += 1;
                    tokio::time::sleep(Duration::from_millis(10)).await; // lets the kernel's buffers fill
                }
                Err(error) => panic!("{error}"),
            }
            assert!(taken < 100_000, "nothing ever says stop");
        }
        assert!(a.overlay.counters().messages_dropped >= 20);
        for i in 0..taken {
            assert_eq!(b.wait_message(a.id).await, message(i), "{paths:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_too_long_is_refused_here() {
    let (a, b) = connected(&Network::new(9), Paths::Quic).await;
    let long = Bytes::from(vec![0; MESSAGE_LEN_MAX + 1]);
    assert_eq!(a.overlay.send(b.id, long), Err(SendError::TooLong(MESSAGE_LEN_MAX + 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_is_noticed_at_once() {
    for paths in [Paths::Quic, Paths::Tcp] {
        let network = Network::new(9);
        let start = async |n| {
            let mut config = network.config(n, paths);
            config.limits.quic_idle = Duration::from_secs(3600); // so that only the close can tell
            config.limits.ping_timeout = Duration::from_secs(3600);
            Member::start(config).await
        };
        let (mut a, mut b) = (start(1).await, start(2).await);
        connect(&mut a, &mut b).await;
        b.overlay.shutdown().await;
        a.wait_down(b.id).await;
        assert!(a.overlay.peers().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnecting_ends_it_for_both_and_dialling_again_works() {
    let (mut a, mut b) = connected(&Network::new(9), Paths::Both).await;
    a.overlay.disconnect(b.id);
    a.wait_down(b.id).await;
    b.wait_down(a.id).await;
    connect(&mut b, &mut a).await;
    talk(&mut a, &mut b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn round_trips_are_measured_on_both_paths() {
    for paths in [Paths::Quic, Paths::Tcp] {
        let (mut a, b) = connected(&Network::new(9), paths).await;
        let rtt = a
            .wait("Rtt", |event| match event {
                Event::Rtt { peer, rtt } if *peer == b.id => Some(*rtt),
                _ => None,
            })
            .await;
        assert!(rtt > Duration::ZERO);
        assert!(a.overlay.peers()[0].rtt.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_last_handle_stops_it() {
    let (mut a, b) = connected(&Network::new(9), Paths::Quic).await;
    let id = b.id;
    drop(b);
    a.wait_down(id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_moves_connections_does_not_wait_behind_messages() {
    let network = Network::new(9);
    let (moves, mut said) = tokio::sync::mpsc::channel(16);
    let mut a = network.start(1, Paths::Both).await;
    let mut b = Member::start(Config { moves: Some(moves), ..network.config(2, Paths::Both) }).await;
    connect(&mut a, &mut b).await;
    // Nobody reads b's events: messages fill the stream, then the queue.
    let long = Bytes::from(vec![7; MESSAGE_LEN_MAX]);
    tokio::time::timeout(GENEROUS, async {
        while a.overlay.send(b.id, long.clone()) != Err(SendError::Full) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    for number in 0..100_u8 {
        a.overlay.send_mobility(b.id, vec![number].into()).unwrap();
        let heard = tokio::time::timeout(GENEROUS, said.recv()).await.unwrap().unwrap();
        assert_eq!(heard, Said { from: a.id, bytes: vec![number].into() });
    }
    // Who does not move connections does not read them, and nobody is hurt.
    b.overlay.send_mobility(a.id, "nobody listens".into()).unwrap();
    b.overlay.send(a.id, "hello".into()).unwrap();
    assert_eq!(a.wait_message(b.id).await, "hello");
}
