//! Redeeming join tokens.

use crate::support::{GENEROUS, Member, NOW, Network, id, key};
use godwit_core::admission::{Admission, Refusal};
use godwit_core::certificate::{Revocation, Serial};
use godwit_core::time::Time;
use godwit_overlay::{Event, JoinError, Paths, SponsorRequest, join};
use std::time::Duration;
use tokio::sync::mpsc;

/// Member 1, sponsoring as a runtime would.
async fn sponsor(network: &Network, paths: Paths, admission: Admission) -> Member {
    let (sender, mut requests) = mpsc::channel::<SponsorRequest>(4);
    let mut config = network.config(1, paths);
    config.admission = admission.clone();
    config.sponsor = Some(sender);
    let sponsor_key = key(1);
    tokio::spawn(async move {
        let mut admission = admission;
        while let Some(SponsorRequest { redemption, reply }) = requests.recv().await {
            let member = redemption.member;
            let answer = admission.sponsor(NOW, member, redemption, &sponsor_key);
            if let Ok(certificate) = &answer {
                admission.members.insert(certificate.grant().serial, member);
            }
            reply.send(answer.map_err(|invalid| Refusal::from(&invalid))).unwrap();
        }
    });
    Member::start(config).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_makes_a_member_once() {
    for paths in [Paths::Quic, Paths::Tcp] {
        let network = Network::new(9);
        let mut member = sponsor(&network, paths, network.admission()).await;
        let token = network.token(5, false, 1_000_000);
        let bootstrap = [member.address()];
        let redemption = token.redeem(NOW, id(5));
        let certificate = join(&key(5), redemption.clone(), &bootstrap, GENEROUS).await.unwrap();
        assert_eq!((certificate.member(), certificate.sponsor), (id(5), member.id));
        // The same key may ask again: the answer may have been lost.
        assert!(join(&key(5), redemption, &bootstrap, GENEROUS).await.is_ok());
        // Another may not.
        let second = join(&key(6), token.redeem(NOW, id(6)), &bootstrap, GENEROUS).await;
        assert_eq!(second, Err(JoinError::Refused(Refusal::Used)), "{paths:?}");
        assert!(member.wait_refused().await.contains("already used"));
        // Nobody has become a peer by joining.
        assert!(member.drain().iter().all(|event| matches!(event, Event::Refused { .. })));
        // The certificate admits its holder, once the owner knows it.
        let mut config = network.config(5, paths);
        config.certificate = certificate;
        let mut admission = network.admission();
        admission.members.insert(Serial(1), id(1));
        member.overlay.set_admission(admission);
        let mut new = Member::start(config).await;
        new.overlay.dial(member.id, vec![member.address()]);
        new.wait_up(member.id).await;
        member.wait_up(new.id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_do_not_hold_are_refused_with_the_reason() {
    let network = Network::new(9);
    let mut admission = network.admission();
    let revocation = Revocation::issue(NOW, &network.authority.key, Serial(7));
    admission.revoked.insert(revocation.serial, revocation);
    let member = sponsor(&network, Paths::Both, admission).await;
    let check = async |redemption, expect| {
        let refused = join(&key(5), redemption, &[member.address()], GENEROUS).await;
        assert_eq!(refused, Err(JoinError::Refused(expect)));
    };
    check(network.token(6, false, 5000).redeem(Time::from_secs(1), id(5)), Refusal::Expired).await;
    check(network.token(7, false, 1_000_000).redeem(NOW, id(5)), Refusal::Revoked).await;
    check(Network::new(8).token(5, false, 1_000_000).redeem(NOW, id(5)), Refusal::Network).await;
    // Stolen on its way: it is tied to another key.
    check(network.token(5, false, 1_000_000).redeem(NOW, id(6)), Refusal::Invalid).await;
    let mut edited = network.token(5, false, 1_000_000).redeem(NOW, id(5));
    edited.grant.region = "ap-tokyo".parse().unwrap();
    check(edited, Refusal::Invalid).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_cannot_sponsor_says_so_and_the_next_is_asked() {
    let network = Network::new(9);
    let unable = network.start(2, Paths::Quic).await;
    let redemption = network.token(5, false, 1_000_000).redeem(NOW, id(5));
    let refused = join(&key(5), redemption.clone(), &[unable.address()], GENEROUS).await;
    assert_eq!(refused, Err(JoinError::Refused(Refusal::Unavailable)));
    let able = sponsor(&network, Paths::Quic, network.admission()).await;
    let both = [unable.address(), able.address()];
    assert!(join(&key(5), redemption, &both, GENEROUS).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_is_joining_ends_in_time_with_a_reason() {
    let network = Network::new(9);
    let redemption = network.token(5, false, 1_000_000).redeem(NOW, id(5));
    let nobody = ["127.0.0.1:1".parse().unwrap()];
    let limit = Duration::from_millis(500);
    let failed = join(&key(5), redemption.clone(), &nobody, limit).await;
    assert!(matches!(failed, Err(JoinError::Unreachable(_))), "{failed:?}");
    let failed = join(&key(5), redemption, &[], limit).await;
    assert_eq!(failed, Err(JoinError::Unreachable("no address is known".into())));
}
