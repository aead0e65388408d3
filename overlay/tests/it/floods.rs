//! Garbage and silence on the port do not keep members out.

use crate::support::{GENEROUS, Member, Network, connect};
use bytes::Bytes;
use godwit_overlay::Paths;
use std::net::UdpSocket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_from_one_source_are_shed_and_a_member_from_another_gets_in() {
    let network = Network::new(9);
    let mut config = network.config(1, Paths::Tcp);
    config.listen = vec!["0.0.0.0:0".parse().unwrap()];
    let mut a = Member::start(config).await;
    let port = a.address().port();
    let mut silent = Vec::new();
    for _ in 0..500 {
        silent.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    // A bounded number is kept waiting; the others hear the end at once.
    let mut closed = 0;
    for stream in &mut silent {
        let mut byte = [0];
        let read = timeout(std::time::Duration::from_millis(50), stream.read(&mut byte)).await;
        closed += usize::from(matches!(read, Ok(Ok(0) | Err(_))));
    }
    assert!(closed >= 400, "{closed}");
    assert!(a.overlay.counters().handshakes_shed >= 400);
    // Dials from 127.0.1.1: another /24.
    let mut config = network.config(2, Paths::Quic);
    config.listen = vec!["127.0.1.1:0".parse().unwrap()];
    let b = Member::start(config).await;
    drop(b);
    drop(silent);
    let mut c = network.start(3, Paths::Tcp).await;
    c.overlay.dial(a.id, vec![format!("127.0.0.1:{port}").parse().unwrap()]);
    c.wait_up(a.id).await;
    a.wait_up(c.id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_from_many_sources_displaces_itself() {
    let network = Network::new(9);
    let mut config = network.config(1, Paths::Both);
    config.listen = vec!["0.0.0.0:0".parse().unwrap()];
    config.limits.pending_per_source = 4;
    config.limits.pending = 32;
    let mut a = Member::start(config).await;
    let port = a.address().port();
    let mut silent = Vec::new();
    for source in 2..60_u8 {
        for _ in 0..6 {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(format!("127.0.{source}.1:0").parse().unwrap()).unwrap();
            silent.push(socket.connect(format!("127.0.0.1:{port}").parse().unwrap()).await.unwrap());
        }
    }
    // All places are taken by silence, and members get in none the less, by both paths.
    for (n, paths) in [(2, Paths::Tcp), (3, Paths::Quic)] {
        let mut member = network.start(n, paths).await;
        member.overlay.dial(a.id, vec![format!("127.0.0.1:{port}").parse().unwrap()]);
        member.wait_up(a.id).await;
        a.wait_up(member.id).await;
    }
    assert!(a.overlay.counters().handshakes_shed > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_both_ports_disturbs_nobody() {
    let network = Network::new(9);
    let mut a = network.start(1, Paths::Both).await;
    let mut b = network.start(2, Paths::Both).await;
    connect(&mut a, &mut b).await;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut seed = 1_u32;
    let mut byte = move || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    };
    for len in 0..1200 {
        let mut packet: Vec<u8> = (0..len).map(|_| byte()).collect();
        if let Some(first) = packet.first_mut() {
            *first |= 0xc0 * u8::from(len % 2 == 0); // every other one a long header
        }
        socket.send_to(&packet, a.address()).unwrap();
    }
    for i in 0..100_usize {
        let mut stream = TcpStream::connect(a.address()).await.unwrap();
        let garbage: Vec<u8> = (0..i * 40).map(|_| byte()).collect();
        stream.write_all(&garbage).await.ok();
    }
    a.overlay.send(b.id, Bytes::from_static(b"undisturbed")).unwrap();
    assert_eq!(b.wait_message(a.id).await[..], *b"undisturbed");
    // And new members still get in, as soon as the garbage's places are free again.
    let mut c = network.start(3, Paths::Both).await;
    timeout(GENEROUS, async {
        loop {
            c.overlay.dial(a.id, vec![a.address()]);
            let up = c.wait("an outcome", |event| match event {
                godwit_overlay::Event::PeerUp { .. } => Some(true),
                godwit_overlay::Event::DialFailed { .. } => Some(false),
                _ => None,
            });
            if up.await {
                return;
            }
        }
    })
    .await
    .unwrap();
}
