//! What redirectors and nodes say about resolvers and settings reaches all, and an entry that is too
//! long is cut rather than lost.

use godwit_core::agreement::{Setting, differences};
use godwit_core::certificate::Role;
use godwit_core::content::VersionNumber;
use godwit_core::member::Input;
use godwit_core::observation::ClientRtt;
use godwit_core::resolver::prefix_of;
use godwit_core::stats::Refused;
use godwit_sim::link::Profile;
use godwit_sim::world::World;
use std::net::IpAddr;
use std::time::Duration;

/// Four members with both roles; the fifth is a node only.
fn world(seed: u64) -> World {
    let mut world = World::new(seed, Profile::with_delay(Duration::from_millis(40)));
    world.keys.roles = vec![Role::Node, Role::Redirector];
    for host in 0..5 {
        if host == 4 {
            world.keys.roles = vec![Role::Node];
        }
        world.join();
        world.run_for(Duration::from_millis(20));
    }
    world.run_for(Duration::from_secs(5));
    world
}

#[test]
fn resolvers_are_asked_for_and_found_by_all_and_lapse_with_who_said_it() {
    let mut world = world(21);
    let asked: Vec<IpAddr> = vec!["9.9.9.9".parse().unwrap(), "2620:fe::9".parse().unwrap()];
    let found: Vec<ClientRtt> =
        asked.iter().map(|address| ClientRtt::new(prefix_of(*address), 12_000)).collect();
    world.input(4, Input::Resolvers(vec!["8.8.8.8".parse().unwrap()]));
    world.input(1, Input::Resolvers(asked.clone()));
    world.input(2, Input::ResolverRtts(found.clone()));
    let (asker, finder) = (world.id(1), world.id(2));
    let knows = |world: &World, host: usize| {
        let view = world.member(host).view();
        let lists: Vec<_> = view.resolvers_asked().collect();
        let rtts: Vec<_> = view.resolver_rtts().collect();
        lists == [(asker, asked.clone())] && rtts == [(finder, found.clone())]
    };
    let all = |world: &World| world.running().all(|host| knows(world, host));
    assert!(world.run_until(Duration::from_secs(5), all).is_some());
    // It is said again before it lapses.
    world.run_for(Duration::from_secs(600));
    assert!(all(&world));
    world.kill(1);
    let gone = |world: &World| {
        world.running().all(|host| world.member(host).view().resolvers_asked().next().is_none())
    };
    assert!(world.run_until(Duration::from_secs(260), gone).is_some());
}

#[test]
fn redirectors_with_other_settings_are_found() {
    let mut world = world(22);
    let settings = |permille: u8| vec![Setting::new("map.explore_permille", &[permille])];
    world.input(0, Input::Settings(settings(20)));
    world.input(1, Input::Settings(settings(20)));
    world.input(2, Input::Settings(settings(0)));
    let found = |world: &World, host: usize| {
        let told: Vec<_> = world.member(host).view().settings().collect();
        differences(told.iter().map(|(by, settings)| (*by, &settings[..])))
    };
    let odd = world.id(2);
    let differ = |world: &World| {
        world.running().all(|host| match &found(world, host)[..] {
            [one] => one.name == "map.explore_permille" && one.groups[1] == [odd],
            _ => false,
        })
    };
    assert!(world.run_until(Duration::from_secs(5), differ).is_some());
    world.input(2, Input::Settings(settings(20)));
    let agree = |world: &World| world.running().all(|host| found(world, host).is_empty());
    assert!(world.run_until(Duration::from_secs(15), agree).is_some());
}

#[test]
fn an_entry_that_would_be_too_long_tells_what_it_can() {
    let mut world = world(23);
    for n in 0..512 {
        let site = format!("{n:063}").parse().unwrap();
        world.input(0, Input::Hold { site, version: VersionNumber(u64::MAX) });
    }
    world.run_for(Duration::from_secs(5));
    let untold = world.member(0).view().untold();
    assert!(untold > 0, "512 sites of 63 letters do not fit into 32 KiB");
    let counters = world.member(0).counters();
    assert_eq!((counters.own_refused, counters.refused(Refused::Bounds)), (0, 0));
    for host in 0..5 {
        let entry = world.member(host).view().entry(world.id(0));
        assert_eq!(entry.map(|entry| entry.held.len()), Some(512 - untold), "as host {host} hears it");
    }
    let noted = world.events().iter().filter(|(_, host, event)| {
        *host == 0 && matches!(event, godwit_core::member::Event::HeldTruncated { held: _ })
    });
    assert_eq!(noted.count(), 1, "told once, not with each entry");
}
