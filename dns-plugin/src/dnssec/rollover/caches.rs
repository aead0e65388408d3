//! Every state that caches can be in, at every moment of every order.
//!
//! A validator has a DS set, a DNSKEY set and an answer, each as old as its TTL allows, and from any
//! redirector; one redirector has changed files at once, the other only when the time for copying is
//! over. The zone is bogus when such a validator finds no chain from DS over DNSKEY to the answer.
//! Seconds are few here so that all combinations can be tried.

use super::convert::{self, Scheme};
use super::{Waits, ds_seen, emergency, start, unsign};
use crate::dnssec::lifecycle::{Phase, Role, Times};
use godwit_core::time::Time;
use std::time::Duration;

type Keys = Vec<(Role, Times)>;

/// A redirector's keys from when on, and the DS records of the parent from when on; by number.
struct World {
    waits: Waits,
    orders: Vec<(u64, Keys)>,
    parent: Vec<(u64, Vec<usize>)>,
}

fn at(secs: u64) -> Time {
    Time::from_secs(secs)
}

impl World {
    fn new(waits: Waits, roles: &[Role]) -> World {
        let keys: Keys = roles.iter().map(|role| (*role, Times::first(at(1), *role))).collect();
        let entry = keys.iter().position(|(role, _)| role.is_entry()).unwrap();
        World { waits, orders: vec![(0, keys)], parent: vec![(0, vec![entry])] }
    }

    fn keys(&self) -> Keys {
        self.orders.last().unwrap().1.clone()
    }

    /// An order at `now` changes the keys.
    fn order(&mut self, now: u64, change: impl FnOnce(&Waits, &mut Keys)) {
        let mut keys = self.keys();
        change(&self.waits, &mut keys);
        self.orders.push((now, keys));
    }

    /// From `now` on the parent has what it is asked to have.
    fn parent_follows(&mut self, now: u64) {
        let keys = self.keys();
        let none = keys.iter().any(|(_, times)| times.wants_no_ds(at(now)));
        let wanted = |number: &usize| {
            let (role, times) = &keys[*number];
            role.is_entry() && times.wants_ds(at(now))
        };
        let set: Vec<usize> = (0..keys.len()).filter(|number| !none && wanted(number)).collect();
        assert_eq!(set.is_empty(), none, "the parent is asked for something at {now}");
        self.parent.push((now, set));
    }

    /// The keys by which a redirector answers that hears of an order `late` seconds after it.
    fn heard(&self, now: u64, late: u64) -> &Keys {
        let heard = self.orders.iter().rev().find(|(at, _)| at + late <= now);
        &heard.unwrap_or(&self.orders[0]).1
    }

    fn ds(&self, now: u64) -> &[usize] {
        &self.parent.iter().rev().find(|(at, _)| *at <= now).unwrap().1
    }

    /// No validator finds the zone bogus at any second up to `end`.
    #[track_caller]
    fn check(&self, end: u64) {
        let Waits { propagation, dnskey_ttl, zone_ttl_max, ds_ttl } = self.waits;
        let secs = |duration: Duration| duration.as_secs();
        let lates = [0, secs(propagation)];
        let back = |now: u64, ttl: Duration| now.saturating_sub(secs(ttl)).max(1)..=now;
        for now in 1..=end {
            for (ds_at, key_at, late) in back(now, ds_ttl)
                .flat_map(|ds| back(now, dnskey_ttl).flat_map(move |key| lates.map(|late| (ds, key, late))))
            {
                let trusted = self.ds(ds_at);
                if trusted.is_empty() {
                    continue;
                }
                let told = self.heard(key_at, late);
                let phase = |number: usize| told.get(number).map(|(_, times)| times.phase(at(key_at)));
                let entered = trusted.iter().any(|number| phase(*number) == Some(Phase::Active));
                assert!(
                    entered,
                    "at {now} no DS of {ds_at} ({trusted:?}) enters the DNSKEY of {key_at} (late {late})"
                );
                let shown = |number: usize| {
                    matches!(phase(number), Some(Phase::Published | Phase::Active | Phase::Retired))
                };
                for (answer_at, answer_late) in
                    back(now, zone_ttl_max).flat_map(|answer| lates.map(|late| (answer, late)))
                {
                    let signing = self.heard(answer_at, answer_late);
                    let signs = |number: &usize| {
                        let (role, times) = &signing[*number];
                        role.signs_zone() && times.phase(at(answer_at)) == Phase::Active
                    };
                    let good = (0..signing.len()).filter(signs).any(shown);
                    assert!(
                        good,
                        "at {now} the answer of {answer_at} (late {answer_late}) is not signed by a DNSKEY of \
                         {key_at} (late {late})"
                    );
                }
            }
        }
    }
}

/// TTLs and copying in each order of size.
fn all_waits() -> Vec<Waits> {
    let waits = |propagation, dnskey_ttl, zone_ttl_max, ds_ttl| Waits {
        propagation: Duration::from_secs(propagation),
        dnskey_ttl: Duration::from_secs(dnskey_ttl),
        zone_ttl_max: Duration::from_secs(zone_ttl_max),
        ds_ttl: Duration::from_secs(ds_ttl),
    };
    vec![waits(1, 2, 7, 3), waits(2, 6, 3, 1), waits(3, 1, 2, 6), waits(1, 1, 1, 1), waits(4, 3, 5, 2)]
}

/// Orders, in which the parent follows `delay` seconds after it is asked.
fn roll(world: &mut World, role: Role, delay: u64) -> u64 {
    world.order(20, |waits, keys| {
        let new = start(at(20), role, waits, keys).unwrap();
        keys.push((role, new));
    });
    finish(world, 20, delay)
}

/// The parent follows, and is seen to.
fn finish(world: &mut World, ordered: u64, delay: u64) -> u64 {
    let known = ordered + (world.waits.propagation + world.waits.dnskey_ttl).as_secs();
    world.parent_follows(known + delay);
    let seen = known + 2 * delay;
    world.order(seen, |waits, keys| {
        ds_seen(at(seen), waits, keys).unwrap();
    });
    seen
}

const AFTER: u64 = 40;

#[test]
fn a_rollover_of_the_entry_is_never_bogus() {
    for waits in all_waits() {
        for (roles, role) in [(&[Role::Csk][..], Role::Csk), (&[Role::Ksk, Role::Zsk], Role::Ksk)] {
            for delay in [0, 3] {
                let mut world = World::new(waits, roles);
                let end = roll(&mut world, role, delay);
                world.check(end + AFTER);
                let left =
                    world.keys().iter().filter(|key| key.1.phase(at(end + AFTER)) < Phase::Removed).count();
                assert_eq!(left, roles.len(), "the old one has ended");
            }
        }
    }
}

#[test]
fn a_rollover_of_the_zsk_is_never_bogus() {
    for waits in all_waits() {
        let mut world = World::new(waits, &[Role::Ksk, Role::Zsk]);
        world.order(20, |waits, keys| {
            let new = start(at(20), Role::Zsk, waits, keys).unwrap();
            keys.push((Role::Zsk, new));
        });
        world.check(20 + AFTER);
    }
}

#[test]
fn a_conversion_is_never_bogus_there_and_back() {
    for waits in all_waits() {
        for delay in [0, 3] {
            let mut world = World::new(waits, &[Role::Csk]);
            world.order(20, |waits, keys| {
                let new = convert::start(at(20), Scheme::Split, waits, keys).unwrap();
                keys.extend(new);
            });
            let split = finish(&mut world, 20, delay) + AFTER;
            let live = |keys: &Keys, now: u64| -> Vec<Role> {
                keys.iter().filter(|key| key.1.phase(at(now)) < Phase::Removed).map(|key| key.0).collect()
            };
            assert_eq!(live(&world.keys(), split), [Role::Ksk, Role::Zsk]);
            world.order(split, |waits, keys| {
                let new = convert::start(at(split), Scheme::Csk, waits, keys).unwrap();
                keys.extend(new);
            });
            let single = finish(&mut world, split, delay) + AFTER;
            assert_eq!(live(&world.keys(), single), [Role::Csk]);
            world.check(single);
        }
    }
}

#[test]
fn an_emergency_is_never_bogus_at_whatever_moment_of_whatever_order() {
    for waits in all_waits() {
        for (roles, role) in [
            (&[Role::Csk][..], None),
            (&[Role::Csk], Some(Role::Csk)),
            (&[Role::Ksk, Role::Zsk], None),
            (&[Role::Ksk, Role::Zsk], Some(Role::Ksk)),
            (&[Role::Ksk, Role::Zsk], Some(Role::Zsk)),
        ] {
            for after in (0..20).step_by(if role.is_some() { 1 } else { 20 }) {
                let mut world = World::new(waits, roles);
                let now = 20 + after;
                if let Some(role) = role {
                    world.order(20, |waits, keys| {
                        let new = start(at(20), role, waits, keys).unwrap();
                        keys.push((role, new));
                    });
                }
                emergency_at(&mut world, now);
            }
        }
        // In a conversion, to either side.
        for (roles, scheme) in [(&[Role::Csk][..], Scheme::Split), (&[Role::Ksk, Role::Zsk], Scheme::Csk)] {
            for after in 0..12 {
                let mut world = World::new(waits, roles);
                world.order(20, |waits, keys| {
                    let new = convert::start(at(20), scheme, waits, keys).unwrap();
                    keys.extend(new);
                });
                emergency_at(&mut world, 20 + after);
            }
        }
    }
}

/// Orders an emergency and checks it; in the end there are the new keys only.
#[track_caller]
fn emergency_at(world: &mut World, now: u64) {
    let mut new = 0;
    world.order(now, |waits, keys| {
        let made = emergency::start(at(now), waits, keys).unwrap();
        new = made.len();
        keys.extend(made);
    });
    let end = finish(world, now, 1) + AFTER;
    world.check(end);
    let keys = world.keys();
    let left: Vec<usize> =
        (0..keys.len()).filter(|number| keys[*number].1.phase(at(end)) < Phase::Removed).collect();
    assert_eq!(left, (keys.len() - new..keys.len()).collect::<Vec<_>>(), "only the new ones");
}

#[test]
fn going_unsigned_is_never_bogus_and_can_be_taken_back() {
    for waits in all_waits() {
        for roles in [&[Role::Csk][..], &[Role::Ksk, Role::Zsk]] {
            for back in [false, true] {
                let mut world = World::new(waits, roles);
                world.order(20, |_, keys| unsign::start(at(20), keys).unwrap());
                let gone = 21 + waits.propagation.as_secs();
                world.parent_follows(gone);
                world.order(gone + 1, |waits, keys| {
                    unsign::ds_gone(at(gone + 1), waits, keys).unwrap();
                });
                if back {
                    world.order(gone + 2, |_, keys| unsign::cancel(at(gone + 2), keys).unwrap());
                    world.parent_follows(gone + 3 + waits.propagation.as_secs());
                }
                world.check(gone + AFTER);
                let signs = world.keys().iter().any(|key| key.1.phase(at(gone + AFTER)) == Phase::Active);
                assert_eq!(signs, back);
            }
        }
    }
}

#[test]
fn the_model_sees_what_is_bogus() {
    let waits = all_waits()[0];
    let hasty = |change: fn(&mut Keys)| {
        let mut world = World::new(waits, &[Role::Csk]);
        world.order(20, |waits, keys| {
            let new = start(at(20), Role::Csk, waits, keys).unwrap();
            keys.push((Role::Csk, new));
        });
        finish(&mut world, 20, 0);
        world.order(24, |_, keys| change(keys));
        std::panic::catch_unwind(|| world.check(60)).is_err()
    };
    assert!(!hasty(|_| {}));
    assert!(hasty(|keys| keys[0].1.removed = Some(at(25))), "the DS record is still in caches");
    assert!(hasty(|keys| keys[1].1.active = at(26)), "the new one does not sign yet");
}
