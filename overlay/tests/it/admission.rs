//! Intruders, over both paths: refused, and none the wiser.

use crate::support::{Member, NOW, Network, connect, connected, id, key};
use godwit_core::certificate::{MemberCertificate, Revocation, Serial};
use godwit_core::key::SecretKey;
use godwit_core::time::Time;
use godwit_overlay::{Config, Event, Paths, StartError};
use std::sync::Arc;

/// Lets an intruder with this key and certificate knock, by address alone, and sees that nobody
/// becomes a peer of anybody.
async fn check(paths: Paths, key: SecretKey, certificate: MemberCertificate, told: &str, kept: &str) {
    let network = Network::new(9);
    let mut member = network.start(1, paths).await;
    let mut config = Config::new(key, certificate, 1, Arc::new(|| NOW));
    config.paths = paths;
    // The intruder would take anybody: it is the member who refuses.
    config.admission = network.admission();
    let mut intruder = Member::start(config).await;
    intruder.overlay.dial_unknown(vec![member.address()]);
    let why = intruder.wait_dial_failed().await;
    assert!(why.contains("refused") && why.contains(told), "{paths:?}: {why}");
    assert!(!why.contains("member-1"), "{why}");
    let why = member.wait_refused().await;
    assert!(why.contains(kept), "{paths:?}: {why}");
    for event in [member.drain(), intruder.drain()].concat() {
        assert!(matches!(event, Event::Refused { .. }), "{paths:?}: {event:?}");
    }
    assert!(member.overlay.peers().is_empty() && intruder.overlay.peers().is_empty());
    assert_eq!(member.overlay.counters().refused, 1);
}

/// The intruder is told `told`, the owner of the overlay `kept`.
async fn check_both(make: impl Fn() -> (SecretKey, MemberCertificate), told: &str, kept: &str) {
    for paths in [Paths::Quic, Paths::Tcp] {
        let (key, certificate) = make();
        check(paths, key, certificate, told, kept).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_authority_is_refused() {
    check_both(|| (key(66), Network::new(8).founder(66, &key(66))), "another network", "another network")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_refused() {
    check_both(|| (key(66), Network::new(9).founder_until(66, &key(66), 5000)), "expired", "expired").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_certificate_is_refused() {
    check_both(
        || {
            let mut certificate = Network::new(9).founder(66, &key(66));
            certificate.redemption.grant.region = "ap-tokyo".parse().unwrap();
            (key(66), certificate)
        },
        "not valid",
        "signature does not match",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sponsor_nobody_knows_is_refused() {
    check_both(
        || {
            let at = Time::from_secs(1);
            let token = Network::new(9).token(66, false, 1_000_000);
            (key(66), token.redeem(at, key(66).public()).sponsor(at, &key(67)))
        },
        "sponsor",
        "sponsor",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_certificate_does_not_help_another_key() {
    // The overlay itself refuses to start with it ...
    let network = Network::new(9);
    let stolen = network.founder(2, &key(2));
    let config = Config::new(key(66), stolen.clone(), 1, Arc::new(|| NOW));
    assert!(matches!(godwit_overlay::start(config).await, Err(StartError::Certificate)));
    // ... so the thief makes it look like its own, which breaks the token's signature.
    check_both(
        || {
            let mut certificate = stolen.clone();
            certificate.redemption.member = key(66).public();
            (key(66), certificate)
        },
        "not valid",
        "signature does not match",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_redeemed_by_another_key_is_refused() {
    for paths in [Paths::Quic, Paths::Tcp] {
        let network = Network::new(9);
        let mut member = network.start(1, paths).await;
        let mut admission = network.admission();
        admission.members.insert(Serial(2), id(77));
        member.overlay.set_admission(admission);
        let mut second = network.start(2, paths).await;
        second.overlay.dial(member.id, vec![member.address()]);
        assert!(second.wait_dial_failed().await.contains("already used"));
        assert!(member.wait_refused().await.contains("already used"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_of_another_network_is_refused_by_the_dialler() {
    for paths in [Paths::Quic, Paths::Tcp] {
        // The stranger admits the member, so only the member's own judgement can save it.
        let mut member = Network::new(9).start(1, paths).await;
        let mut config = Network::new(8).config(66, paths);
        config.admission = Network::new(9).admission();
        let mut stranger = Member::start(config).await;
        member.overlay.dial_unknown(vec![stranger.address()]);
        let why = member.wait_dial_failed().await;
        assert!(why.contains("another network"), "{why}");
        let why = stranger.wait_refused().await;
        assert!(why.contains("another network"), "{why}");
        assert!(stranger.drain().is_empty() && stranger.overlay.peers().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_member_at_the_address_hears_nothing() {
    for paths in [Paths::Quic, Paths::Tcp] {
        let network = Network::new(9);
        let mut member = network.start(1, paths).await;
        let mut other = network.start(2, paths).await;
        member.overlay.dial(id(3), vec![other.address()]);
        let why = member.wait_dial_failed().await;
        assert!(why.contains("another key"), "{why}");
        assert!(other.drain().is_empty() && other.overlay.peers().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_member_loses_its_connections_and_gets_no_new_ones() {
    for paths in [Paths::Quic, Paths::Tcp] {
        let network = Network::new(9);
        let (mut a, mut b) = connected(&network, paths).await;
        let revocation = Revocation::issue(NOW, &network.authority.key, Serial(2));
        let mut admission = network.admission();
        admission.revoked.insert(revocation.serial, revocation.clone());
        a.overlay.set_admission(admission);
        a.wait_down(b.id).await;
        assert!(a.wait_refused().await.contains("revoked"));
        b.wait_down(a.id).await;
        // It was cut off before it could hear why; whoever refuses it shows it, from either end.
        b.drain();
        b.overlay.dial(a.id, vec![a.address()]);
        assert_eq!(b.wait_shown().await, revocation);
        assert!(a.wait_refused().await.contains("revoked"));
        a.overlay.dial(b.id, vec![b.address()]);
        assert_eq!(b.wait_shown().await, revocation);
        assert!(a.wait_dial_failed().await.contains("revoked"));
        assert!(a.overlay.peers().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_does_not_talk_to_itself() {
    for paths in [Paths::Quic, Paths::Tcp] {
        let mut member = Network::new(9).start(1, paths).await;
        member.overlay.dial_unknown(vec![member.address()]);
        member.wait_dial_failed().await;
        assert!(member.overlay.peers().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_address_a_dial_fails_with_a_reason() {
    let mut member = Network::new(9).start(1, Paths::Both).await;
    member.overlay.dial(id(2), Vec::new());
    assert!(member.wait_dial_failed().await.contains("no address"));
    member.overlay.dial(id(2), vec!["127.0.0.1:1".parse().unwrap()]);
    let why = member.wait_dial_failed().await;
    assert!(why.contains("tcp 127.0.0.1:1") && why.contains("quic 127.0.0.1:1"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_one_network_stay_together() {
    let (mut a, mut b) = connected(&Network::new(9), Paths::Both).await;
    a.overlay.set_admission(Network::new(9).admission());
    a.overlay.disconnect(b.id);
    b.wait_down(a.id).await;
    connect(&mut b, &mut a).await;
}
