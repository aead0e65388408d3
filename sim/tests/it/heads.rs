//! Heads reach everyone, in whatever order and through whatever faults, and everyone comes to the
//! same ones.

use godwit_core::certificate::{Duty, Invalid};
use godwit_core::member::{Event, State, SubmitError};
use godwit_core::record::Key;
use godwit_sim::authority::PUBLISHER_SERIAL;
use godwit_sim::link::Profile;
use godwit_sim::world::World;
use std::time::Duration;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn path(delay_ms: u64, loss: f64) -> Profile {
    Profile { jitter: ms(delay_ms / 10), loss, ..Profile::with_delay(ms(delay_ms)) }
}

/// In a world of honest members nobody sends nonsense.
fn check_nothing_refused(world: &World) {
    for (at, host, event) in world.events() {
        assert!(
            !matches!(event, Event::RecordRefused { .. } | Event::Malformed { .. }),
            "{at:?} host {host}: {event:?}"
        );
    }
}

#[test]
fn six_members_join_and_hold_the_same() {
    let mut world = World::with_members(1, path(40, 0.0), 6);
    let took = world.run_until(ms(5000), |world| {
        world.converged() && (0..6).all(|a| (0..6).all(|b| world.state(a, b) == Some(State::Alive)))
    });
    println!("six members: {took:?}");
    assert!(took.is_some());
    check_nothing_refused(&world);
}

#[test]
fn same_seed_same_trace() {
    let run = |seed| {
        let mut world = World::with_members(seed, path(30, 0.01), 8);
        let version = world.keys.publish(world.time(), "www", 1, "");
        world.submit(0, version).unwrap();
        world.kill(3);
        world.run_for(ms(5000));
        world.start(3);
        world.run_for(ms(5000));
        world.trace_hash()
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn two_hundred_members_hear_of_a_version_in_seconds_and_a_late_joiner_catches_up() {
    let mut world = World::with_members(2, path(50, 0.001), 200);
    world.run_for(ms(5000));
    let version = world.keys.publish(world.time(), "www", 1, "");
    world.submit(17, version).unwrap();
    let took = world.run_until(ms(10_000), |world| world.versions("www").iter().all(|v| *v == Some(1)));
    println!("200 members: {took:?}");
    assert!(took.is_some_and(|took| took <= ms(3000)), "{took:?}");

    let late = world.join();
    let took = world.run_until(ms(20_000), |world| {
        let view = world.member(late).view();
        view.members().count() == 201 && view.site(&"www".parse().unwrap()).is_some()
    });
    println!("late joiner: {took:?}");
    assert!(took.is_some_and(|took| took <= ms(3000)), "{took:?}");
    world.run_for(ms(3000));
    let degrees: Vec<usize> =
        world.running().map(|host| world.member(host).view().connected().count()).collect();
    println!("connections: {:?}", degrees.iter().max());
    assert!(degrees.iter().all(|degree| (3..=40).contains(degree)), "{degrees:?}");
    check_nothing_refused(&world);
}

#[test]
fn both_sides_of_a_partition_become_one_again() {
    let mut world = World::with_members(3, path(40, 0.005), 10);
    world.run_for(ms(3000));
    world.partition(true, |host| host < 4);
    world.run_for(ms(60_000));
    for (host, site, number) in [(0, "www", 1), (0, "docs", 1), (9, "www", 2), (9, "blog", 1)] {
        let version = world.keys.publish(world.time(), site, number, "");
        world.submit(host, version).unwrap();
    }
    world.run_for(ms(5000));
    assert_eq!(world.state(0, 9), Some(State::Unreachable));
    assert_eq!(world.state(9, 0), Some(State::Unreachable));
    world.partition(false, |host| host < 4);
    let healed = world.run_until(ms(30_000), |world| {
        ["docs", "blog"].iter().all(|site| world.versions(site).iter().all(|v| *v == Some(1)))
            && world.versions("www").iter().all(|v| *v == Some(2))
    });
    println!("heads after healing: {healed:?}");
    assert!(healed.is_some());
    let alive = world.run_until(ms(30_000), |world| {
        (0..10).all(|a| (0..10).all(|b| world.state(a, b) == Some(State::Alive)))
    });
    println!("alive after healing: {alive:?}");
    assert!(alive.is_some());
    check_nothing_refused(&world);
}

#[test]
fn a_revoked_member_is_refused_everywhere_within_two_seconds() {
    for count in [6, 60] {
        let mut world = World::with_members(4, path(60, 0.001), count);
        world.run_for(ms(5000));
        let serial = world.host(3).config.certificate.grant().serial;
        let revocation = world.keys.revoke(world.time(), serial);
        world.submit(0, revocation).unwrap();
        let revoked = world.id(3);
        let took = world.run_until(ms(5000), |world| {
            world.running().filter(|host| *host != 3).all(|host| {
                let view = world.member(host).view();
                world.host(host).admission.revoked.contains_key(&serial)
                    && view.member(revoked).is_some_and(|view| view.state == State::Revoked)
                    && view.entry(revoked).is_none()
                    && !view.connected().any(|peer| peer == revoked)
            })
        });
        println!("revocation among {count}: {took:?}");
        assert!(took.is_some_and(|took| took <= ms(2000)), "{took:?}");
        // It was cut off before it could hear of it. Who refuses it shows it the statement.
        let own = Key::Revocation(serial);
        let knows = |world: &World| world.host(3).disk.contains_key(&own);
        let took = world.run_until(ms(10_000), knows);
        println!("the revoked member knows after another {took:?}");
        assert!(took.is_some());
        // It does not come back.
        world.kill(3);
        world.start(3);
        world.run_for(ms(30_000));
        for host in world.running().filter(|host| *host != 3) {
            assert!(!world.member(host).view().connected().any(|peer| peer == revoked));
        }
    }
}

#[test]
fn a_member_that_was_away_when_it_was_revoked_learns_it_when_it_comes_back() {
    let mut world = World::with_members(5, path(60, 0.001), 6);
    world.run_for(ms(5000));
    world.kill(3);
    let serial = world.host(3).config.certificate.grant().serial;
    let revocation = world.keys.revoke(world.time(), serial);
    world.submit(0, revocation).unwrap();
    // Long after all that was said of it is forgotten.
    world.run_for(ms(600_000));
    world.start(3);
    let knows = |world: &World| world.host(3).disk.contains_key(&Key::Revocation(serial));
    assert!(world.run_until(ms(10_000), knows).is_some());
    let told = world.events().iter().filter(|(_, host, event)| (*host, event) == (3, &Event::OwnRevocation));
    assert_eq!(told.count(), 1);
}

#[test]
fn two_publishes_of_one_number_have_one_winner_and_the_loser_is_told() {
    let mut world = World::with_members(5, path(50, 0.0), 8);
    world.run_for(ms(3000));
    let now = world.time();
    let (a, b) = (world.keys.publish(now, "www", 1, "a"), world.keys.publish(now, "www", 1, "b"));
    world.submit(0, a).unwrap();
    world.submit(7, b.clone()).unwrap();
    assert_eq!(
        world.submit(0, b),
        Err(SubmitError::Conflict { number: godwit_core::content::VersionNumber(1) })
    );
    world.run_for(ms(5000));
    let roots: std::collections::BTreeSet<_> = world
        .running()
        .map(|host| world.member(host).view().site(&"www".parse().unwrap()).unwrap().hash())
        .collect();
    assert_eq!(roots.len(), 1);
    let told = world.events().iter().filter(|(_, _, event)| matches!(event, Event::VersionLost { .. }));
    assert_eq!(told.count(), 1);
}

#[test]
fn what_a_publisher_may_not_is_refused_and_changes_nothing() {
    let mut world = World::with_members(6, path(10, 0.0), 3);
    world.run_for(ms(2000));
    let now = world.time();
    let version = world.keys.publish(now, "www", 5, "");
    world.submit(0, version.clone()).unwrap();
    world.submit(0, version).unwrap();
    let lower = world.keys.publish(now, "www", 4, "");
    let current = godwit_core::content::VersionNumber(5);
    assert_eq!(world.submit(0, lower), Err(SubmitError::LowerVersion { current }));
    let foreign = world.keys.publish_with_prefix(now, "docs", "www", 6);
    assert!(matches!(world.submit(0, foreign), Err(SubmitError::NotAllowed(Invalid::Scope(_)))));
    let other = godwit_sim::authority::Keys::new(now, 9).publish(now, "www", 6, "");
    assert!(matches!(world.submit(0, other), Err(SubmitError::NotAllowed(Invalid::Network(_)))));

    let revocation = world.keys.revoke(now, PUBLISHER_SERIAL);
    world.submit(1, revocation).unwrap();
    world.run_for(ms(3000));
    let late = world.keys.publish(world.time(), "www", 6, "");
    assert_eq!(world.submit(2, late), Err(SubmitError::NotAllowed(Invalid::Revoked)));
    // What was published before goes on being served.
    assert_eq!(world.versions("www"), [Some(5); 3]);
}

#[test]
fn a_token_that_was_redeemed_twice_makes_one_member() {
    let mut world = World::with_members(7, path(40, 0.0), 6);
    world.run_for(ms(3000));
    world.partition(true, |host| host < 3);
    let now = world.time();
    let token = world.keys.invite(now, false);
    let mut sponsored = Vec::new();
    for (sponsor, seed) in [(0, 71), (5, 72)] {
        let key = godwit_core::key::SecretKey::from_seed(&[seed; 32]);
        let redemption = token.redeem(world.time(), key.public());
        let host = world.host(sponsor);
        let certificate =
            host.admission.sponsor(world.time(), key.public(), redemption, &host.config.key).unwrap();
        world.submit(sponsor, godwit_core::record::Record::Member(Box::new(certificate))).unwrap();
        sponsored.push(key.public());
        world.run_for(ms(500));
    }
    world.partition(false, |host| host < 3);
    let converged = world.run_until(ms(30_000), |world| {
        world.running().all(|host| {
            let view = world.member(host).view();
            view.member(sponsored[0]).is_some() && view.member(sponsored[1]).is_none()
        })
    });
    assert!(converged.is_some());
    let third = godwit_core::key::SecretKey::from_seed(&[73; 32]).public();
    let redemption = token.redeem(world.time(), third);
    let host = world.host(2);
    assert_eq!(
        host.admission.sponsor(world.time(), third, redemption, &host.config.key),
        Err(Invalid::Used(sponsored[0]))
    );
}

#[test]
fn a_member_drains_by_order_and_serves_again() {
    let mut world = World::with_members(8, path(20, 0.0), 4);
    world.run_for(ms(2000));
    let serial = world.host(2).config.certificate.grant().serial;
    for (duty, draining) in [(Duty::Drain, true), (Duty::Serve, false)] {
        let order = world.keys.order(world.time(), serial, duty);
        world.submit(0, order).unwrap();
        let member = world.id(2);
        let took = world.run_until(ms(3000), |world| {
            world.running().all(|host| world.member(host).view().member(member).unwrap().draining == draining)
        });
        assert!(took.is_some());
        world.run_for(ms(100));
    }
}

#[test]
fn heads_survive_a_restart_of_everyone() {
    let mut world = World::with_members(9, path(20, 0.0), 5);
    world.run_for(ms(2000));
    let version = world.keys.publish(world.time(), "www", 3, "");
    world.submit(4, version).unwrap();
    world.run_for(ms(2000));
    for host in 0..5 {
        world.kill(host);
    }
    world.run_for(ms(10_000));
    for host in 0..5 {
        world.start(host);
    }
    assert_eq!(world.versions("www"), [Some(3); 5]);
    let took = world.run_until(ms(20_000), |world| {
        (0..5).all(|a| (0..5).all(|b| world.state(a, b) == Some(State::Alive)))
    });
    println!("all up again: {took:?}");
    assert!(took.is_some());
}
