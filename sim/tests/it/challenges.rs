//! Values for certificate authorities reach every member, and go away again.

use godwit_core::challenge::{Challenge, VALUES_MAX};
use godwit_core::member::Input;
use godwit_sim::link::Profile;
use godwit_sim::world::World;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

fn value(n: usize) -> Challenge {
    Challenge::new("_acme-challenge.www.edge.example.org", &format!("value-{n:03}")).unwrap()
}

fn set(world: &mut World, host: usize, n: usize, lease: Duration) {
    world.input(host, Input::Challenge { challenge: value(n), lease });
}

/// What a host knows, of all members.
fn known(world: &World, host: usize) -> Vec<Challenge> {
    let mut values: Vec<Challenge> =
        world.member(host).view().challenges().flat_map(|(_, values)| values).collect();
    values.sort();
    values
}

fn all_know(world: &World, values: &[usize]) -> bool {
    let values: Vec<Challenge> = values.iter().map(|n| value(*n)).collect();
    world.running().all(|host| known(world, host) == values)
}

#[test]
fn values_set_at_two_members_are_known_to_all_and_cleared_by_word_and_by_time() {
    let mut world = World::with_members(11, Profile::with_delay(Duration::from_millis(40)), 5);
    world.run_for(Duration::from_secs(5));
    set(&mut world, 1, 1, HOUR);
    set(&mut world, 1, 2, Duration::from_secs(200));
    set(&mut world, 3, 3, HOUR);
    let took = world.run_until(Duration::from_secs(5), |world| all_know(world, &[1, 2, 3]));
    println!("known everywhere after {took:?}");
    assert!(took.is_some());
    // Long after the soft state that was told first would have lapsed.
    world.run_for(Duration::from_secs(150));
    assert!(all_know(&world, &[1, 2, 3]));
    set(&mut world, 3, 3, Duration::ZERO);
    assert!(world.run_until(Duration::from_secs(5), |world| all_know(world, &[1, 2])).is_some());
    assert!(world.run_until(Duration::from_secs(60), |world| all_know(world, &[1])).is_some());
    // Who set it is gone: so is the value, without anybody's word.
    world.kill(1);
    assert!(world.run_until(Duration::from_secs(130), |world| all_know(world, &[])).is_some());
}

#[test]
fn one_member_sets_so_many_and_no_more() {
    let mut world = World::with_members(12, Profile::with_delay(Duration::from_millis(10)), 2);
    world.run_for(Duration::from_secs(3));
    for n in 0..VALUES_MAX + 5 {
        set(&mut world, 0, n, HOUR);
    }
    let full = |world: &World| (0..2).all(|host| known(world, host).len() == VALUES_MAX);
    assert!(world.run_until(Duration::from_secs(5), full).is_some());
    assert!(!known(&world, 1).contains(&value(VALUES_MAX)));
}
