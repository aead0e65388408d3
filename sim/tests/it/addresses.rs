//! Grants of home addresses reach everyone, the newest counts everywhere, and nobody but the
//! authority makes one.

use godwit_core::certificate::{Home, Invalid, Ports, Role};
use godwit_core::key::MemberId;
use godwit_core::member::{SubmitError, Use};
use godwit_core::record::Record;
use godwit_sim::authority::Keys;
use godwit_sim::link::Profile;
use godwit_sim::world::World;
use std::collections::BTreeSet;
use std::time::Duration;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn home(last: u8) -> Home {
    Home { v4: Some([192, 0, 2, last].into()), v6: None, ports: Ports::All, servers: Vec::new() }
}

/// The sequence of the grant of a name at each member, and whether it grants anything.
fn grants(world: &World, name: &str) -> Vec<Option<(u64, bool)>> {
    let grant = |host| {
        let view = world.member(host).view();
        let mut grants = view.address_grants();
        let grant = grants.find(|grant| grant.name.as_str() == name);
        grant.map(|grant| (grant.sequence, grant.home.is_some()))
    };
    world.running().map(grant).collect()
}

fn settle(world: &mut World, name: &str, expected: (u64, bool)) {
    let took = world
        .run_until(ms(30_000), |world| grants(world, name).into_iter().all(|found| found == Some(expected)));
    assert!(took.is_some(), "{:?}", grants(world, name));
}

#[test]
fn the_newest_grant_counts_everywhere_whatever_the_order() {
    let mut world = World::with_members(31, Profile::with_delay(ms(40)), 6);
    world.run_for(ms(3000));
    world.partition(true, |host| host < 3);
    let now = world.time();
    let (older, newer) = (
        world.keys.grant_address(now, "game", 5, Some(home(1))),
        world.keys.grant_address(now, "game", 9, Some(home(2))),
    );
    world.submit(0, newer.clone()).unwrap();
    world.submit(5, older.clone()).unwrap();
    world.run_for(ms(3000));
    assert_eq!(grants(&world, "game")[5], Some((5, true)));
    assert_eq!(world.submit(0, older.clone()), Err(SubmitError::Outdated));
    world.partition(false, |host| host < 3);
    settle(&mut world, "game", (9, true));
    // The very same again is no news, and no error.
    assert_eq!(world.submit(5, newer.clone()), Ok(()));

    let removal = world.keys.grant_address(world.time(), "game", 10, None);
    world.submit(2, removal).unwrap();
    settle(&mut world, "game", (10, false));
    for host in 0..6 {
        world.kill(host);
    }
    for host in 0..6 {
        world.start(host);
    }
    // From disk, before anybody is heard; and what was taken back does not come back.
    assert_eq!(grants(&world, "game"), [Some((10, false)); 6]);
    assert_eq!(world.submit(1, newer), Err(SubmitError::Outdated));
}

#[test]
fn nodes_speak_with_every_home_agent_in_a_network_of_any_size() {
    let mut world = World::new(33, Profile::with_delay(ms(20)));
    for n in 0..60 {
        world.keys.roles = vec![if (20..22).contains(&n) { Role::HomeAgent } else { Role::Node }];
        world.join();
    }
    let agents = [world.id(20), world.id(21)];
    let met = |world: &World| {
        let meets = |host| {
            let connected: BTreeSet<MemberId> = world.member(host).view().connected().collect();
            agents.iter().all(|agent| connected.contains(agent) || agents.contains(&world.id(host)))
        };
        world.running().all(meets)
    };
    assert!(world.run_until(ms(60_000), met).is_some());
    // And they stay; nodes among themselves are not all connected.
    world.run_for(ms(60_000));
    assert!(met(&world));
    assert!(world.member(0).view().connected().count() < 50);
}

#[test]
fn nobody_but_the_authority_grants_and_nothing_is_granted_twice() {
    let mut world = World::with_members(32, Profile::with_delay(ms(10)), 3);
    world.run_for(ms(2000));
    let now = world.time();
    let foreign = Keys::new(now, 9).grant_address(now, "game", 1, Some(home(1)));
    assert!(matches!(world.submit(0, foreign), Err(SubmitError::NotAllowed(Invalid::Network(_)))));
    let Record::Address(mut grant) = world.keys.grant_address(now, "game", 1, Some(home(1))) else {
        panic!("no grant")
    };
    grant.home = Some(home(9));
    let tampered = Record::Address(grant);
    assert_eq!(world.submit(0, tampered), Err(SubmitError::NotAllowed(Invalid::Signature)));
    assert_eq!(grants(&world, "game"), [None; 3]);

    let good = world.keys.grant_address(now, "game", 2, Some(home(1)));
    world.submit(0, good).unwrap();
    settle(&mut world, "game", (2, true));
    let same_address = world.keys.grant_address(now, "chat", 3, Some(home(1)));
    let (address, name) = (home(1).addresses().next().unwrap(), "game".parse().unwrap());
    assert_eq!(world.submit(1, same_address), Err(SubmitError::AddressTaken { address, name }));

    let (name, what) = ("game".parse().unwrap(), Use::HomeAddress);
    let site = world.keys.publish(now, "game", 1, "");
    assert_eq!(world.submit(2, site), Err(SubmitError::NameTaken { name, what }));
    let site = world.keys.publish(now, "www", 1, "");
    world.submit(2, site).unwrap();
    let over_site = world.keys.grant_address(now, "www", 4, Some(home(2)));
    let (name, what) = ("www".parse().unwrap(), Use::Site);
    assert_eq!(world.submit(2, over_site), Err(SubmitError::NameTaken { name, what }));

    // Taken back, name and address are free again.
    let removal = world.keys.grant_address(now, "game", 5, None);
    world.submit(0, removal).unwrap();
    settle(&mut world, "game", (5, false));
    let site = world.keys.publish(now, "game", 1, "");
    world.submit(1, site).unwrap();
    let again = world.keys.grant_address(now, "chat", 6, Some(home(1)));
    world.submit(1, again).unwrap();
}
