//! Crashes, restarts with the same key, simultaneous dials.

use crate::relay::UdpRelay;
use crate::support::{GENEROUS, Member, Network, connect, id};
use bytes::Bytes;
use godwit_overlay::{Event, Limits, Paths};
use std::time::Duration;

/// Starts a member in a runtime of its own, so that it can be killed: dropping the runtime stops
/// everything at once and nothing is said to the peers.
struct Killable {
    runtime: Option<tokio::runtime::Runtime>,
    member: Option<Member>,
}

impl Killable {
    async fn start(network: &Network, n: u8, epoch: u64, paths: Paths, port: u16) -> Killable {
        Killable::start_with(network, n, epoch, paths, port, Limits::default()).await
    }

    async fn start_with(
        network: &Network,
        n: u8,
        epoch: u64,
        paths: Paths,
        port: u16,
        limits: Limits,
    ) -> Killable {
        let mut config = network.config(n, paths);
        config.epoch = epoch;
        config.listen = vec![format!("127.0.0.1:{port}").parse().unwrap()];
        config.limits = limits;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let member = runtime.spawn(Member::start(config)).await.unwrap();
        Killable { runtime: Some(runtime), member: Some(member) }
    }

    fn member(&mut self) -> &mut Member {
        self.member.as_mut().unwrap()
    }

    /// Stops all tasks where they are, so that none says goodbye, and waits until the ports are free.
    async fn kill(mut self) {
        let runtime = self.runtime.take().unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(GENEROUS)).await.unwrap();
        drop(self.member.take());
    }
}

async fn restart_five_times(paths: Paths) {
    let network = Network::new(9);
    let mut peer = network.start(1, paths).await;
    let mut port = 0;
    for epoch in 1..=6 {
        let mut restarting = Killable::start(&network, 2, epoch, paths, port).await;
        port = restarting.member().address().port();
        restarting.member().overlay.dial(peer.id, vec![peer.address()]);
        if epoch > 1 {
            peer.wait_down(id(2)).await;
        }
        peer.wait_up(id(2)).await;
        restarting.member().wait_up(peer.id).await;
        let word = Bytes::from(format!("epoch {epoch}"));
        peer.overlay.send(id(2), word.clone()).unwrap();
        assert_eq!(restarting.member().wait_message(peer.id).await, word);
        restarting.member().overlay.send(peer.id, word.clone()).unwrap();
        assert_eq!(peer.wait_message(id(2)).await, word);
        assert_eq!(peer.overlay.peers().len(), 1);
        restarting.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_and_restart_messages_flow_again_over_quic() {
    restart_five_times(Paths::Quic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_and_restart_messages_flow_again_over_tcp() {
    restart_five_times(Paths::Tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_peer_resets_what_its_predecessor_left() {
    let network = Network::new(9);
    // No idle time within the test: only the reset can tell.
    let limits = Limits { quic_idle: Duration::from_secs(3600), ..Limits::default() };
    let mut config = network.config(1, Paths::Quic);
    config.limits = limits.clone();
    let mut peer = Member::start(config).await;
    let mut victim = Killable::start_with(&network, 2, 1, Paths::Quic, 0, limits.clone()).await;
    let port = victim.member().address().port();
    peer.overlay.dial(id(2), vec![victim.member().address()]);
    peer.wait_up(id(2)).await;
    victim.kill().await;
    let next = Killable::start_with(&network, 2, 2, Paths::Quic, port, limits).await;
    peer.wait_down(id(2)).await;
    next.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_peer_is_noticed() {
    for paths in [Paths::Quic, Paths::Tcp] {
        let network = Network::new(9);
        let mut peer = network.start(1, paths).await;
        let mut victim = Killable::start(&network, 2, 1, paths, 0).await;
        peer.overlay.dial(id(2), vec![victim.member().address()]);
        peer.wait_up(id(2)).await;
        victim.kill().await;
        peer.wait_down(id(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_start_replaces_a_live_one_and_an_older_one_is_refused() {
    for paths in [Paths::Quic, Paths::Tcp] {
        let network = Network::new(9);
        let mut peer = network.start(1, paths).await;
        let start = async |epoch| {
            let mut config = network.config(2, paths);
            config.epoch = epoch;
            let member = Member::start(config).await;
            member.overlay.dial(peer.id, vec![peer.address()]);
            member
        };
        let mut second = start(2).await;
        second.wait_up(id(1)).await;
        let mut third = start(3).await;
        third.wait_up(id(1)).await;
        second.wait_down(id(1)).await;
        let mut first = start(1).await;
        assert!(first.wait_dial_failed().await.contains("later start"));
        peer.wait_up(id(2)).await;
        peer.wait_down(id(2)).await;
        peer.wait_up(id(2)).await;
        peer.overlay.send(id(2), Bytes::from_static(b"new")).unwrap();
        assert_eq!(third.wait_message(id(1)).await[..], *b"new");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dialling_each_other_at_once_leaves_a_usable_connection() {
    for paths in [Paths::Quic, Paths::Tcp, Paths::Both] {
        let network = Network::new(9);
        let mut a = network.start(1, paths).await;
        let mut b = network.start(2, paths).await;
        for _ in 0..3 {
            a.overlay.dial(b.id, vec![b.address()]);
            b.overlay.dial(a.id, vec![a.address()]);
            a.wait_up(b.id).await;
            b.wait_up(a.id).await;
            for i in 0..50_u8 {
                a.overlay.send(b.id, vec![i].into()).unwrap();
                b.overlay.send(a.id, vec![i].into()).unwrap();
                assert_eq!(b.wait_message(a.id).await[..], [i]);
                assert_eq!(a.wait_message(b.id).await[..], [i]);
            }
            let downs = [a.drain(), b.drain()].concat();
            assert!(!downs.iter().any(|event| matches!(event, Event::PeerDown { .. })), "{downs:?}");
            a.overlay.disconnect(b.id);
            b.overlay.disconnect(a.id);
            a.wait_down(b.id).await;
            b.wait_down(a.id).await;
            // A dial that was still on its way may come through now; both sides settle.
            tokio::time::sleep(Duration::from_millis(50)).await;
            a.overlay.disconnect(b.id);
            b.overlay.disconnect(a.id);
            while !(a.overlay.peers().is_empty() && b.overlay.peers().is_empty()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            a.drain();
            b.drain();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_dial_to_a_connected_peer_changes_nothing() {
    let network = Network::new(9);
    let mut a = network.start(1, Paths::Both).await;
    let mut b = network.start(2, Paths::Both).await;
    connect(&mut a, &mut b).await;
    a.overlay.dial(b.id, vec![b.address()]);
    a.overlay.dial_unknown(vec![b.address()]); // a second connection, quietly
    a.overlay.send(b.id, Bytes::from_static(b"still here")).unwrap();
    assert_eq!(b.wait_message(a.id).await[..], *b"still here");
    assert_eq!(a.overlay.peers().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_at_another_address_is_heard_from_there_at_once() {
    let network = Network::new(9);
    // Dead connections would show by silence, but not within this test.
    let limits = Limits { quic_idle: 2 * GENEROUS, ..Limits::default() };
    let mut peer = Member::start(godwit_overlay::Config { limits, ..network.config(1, Paths::Quic) }).await;
    let mut mover = network.start(2, Paths::Quic).await;
    // All that is sent from the first address on is lost once it is gone.
    let way = UdpRelay::start(peer.address()).await;
    mover.overlay.dial(peer.id, vec![way.address]);
    mover.wait_up(peer.id).await;
    peer.wait_up(mover.id).await;
    peer.overlay.send(mover.id, "before".into()).unwrap();
    assert_eq!(mover.wait_message(peer.id).await, "before");
    way.fall_silent();
    mover.overlay.rehomed();
    mover.wait_down(peer.id).await;
    mover.overlay.dial(peer.id, vec![peer.address()]);
    mover.wait_up(peer.id).await;
    peer.wait_down(mover.id).await;
    peer.wait_up(mover.id).await;
    peer.overlay.send(mover.id, "after".into()).unwrap();
    assert_eq!(mover.wait_message(peer.id).await, "after");
    assert_eq!(peer.overlay.peers().len(), 1);
}
