//! Services that fail are found soon, those that work are not called failing, and liars do not
//! decide. What the tests print are the figures of docs/health.md.

use godwit_core::health::{Agreed, Pace, VANTAGES};
use godwit_sim::health::{Clinic, Honesty, Service};
use godwit_sim::link::Profile;
use std::time::Duration;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn path(delay_ms: u64, loss: f64) -> Profile {
    Profile { jitter: ms(delay_ms / 10), loss, ..Profile::with_delay(ms(delay_ms)) }
}

const HOSTS: usize = 12;
const VICTIM: usize = 5;

/// A clinic in which everybody knows that everything works.
fn settled(seed: u64, profile: Profile) -> Clinic {
    let mut clinic = Clinic::new(seed, profile, HOSTS, 4, Pace::default());
    clinic.run_for(ms(20_000));
    for by in 0..HOSTS {
        assert!((0..HOSTS).all(|of| clinic.state(by, of) == Agreed::Up), "seed {seed}: {by} has not settled");
    }
    clinic
}

/// How long it takes until all hosts hold `state` of the victim.
fn until_all(clinic: &mut Clinic, state: Agreed, limit: Duration) -> Option<Duration> {
    let since = clinic.elapsed();
    while clinic.elapsed() < since + limit {
        if (0..HOSTS).all(|by| clinic.state(by, VICTIM) == state) {
            return Some(clinic.elapsed() - since);
        }
        clinic.run_for(ms(50));
    }
    None
}

/// How often somebody came to hold that a service other than the victim's is down.
fn false_positives(clinic: &Clinic, since: Duration) -> usize {
    let turns = clinic.turns().iter();
    let wrong = turns.filter(|turn| turn.at > since && turn.to == Agreed::Down && turn.of != VICTIM);
    wrong.inspect(|turn| println!("false: {turn:?}")).count()
}

#[test]
fn a_service_that_fails_is_found_by_all_and_found_well_again() {
    for (what, service) in [("hangs", Service::Hangs), ("refuses", Service::Refuses)] {
        for (delay, loss) in [(5, 0.0), (75, 0.01), (150, 0.05)] {
            let (mut downs, mut ups, mut wrong) = (Vec::new(), Vec::new(), 0);
            for seed in 0..30 {
                let mut clinic = settled(seed, path(delay, loss));
                clinic.run_for(ms(seed * 173));
                let since = clinic.elapsed();
                clinic.set_service(VICTIM, service);
                let down = until_all(&mut clinic, Agreed::Down, ms(30_000));
                downs.push(down.unwrap_or_else(|| panic!("{what}, seed {seed}: not found")));
                clinic.run_for(ms(10_000));
                clinic.set_service(VICTIM, Service::Works);
                let up = until_all(&mut clinic, Agreed::Up, ms(60_000));
                ups.push(up.unwrap_or_else(|| panic!("{what}, seed {seed}: stays down")));
                wrong += false_positives(&clinic, since);
            }
            downs.sort();
            ups.sort();
            println!(
                "{what}, round trip {} ms, {loss} loss: down at all after median {:?}, worst {:?}; up again after \
                 median {:?}, worst {:?}; {wrong} others called down",
                2 * delay,
                downs[15],
                downs[29],
                ups[15],
                ups[29]
            );
            assert!(downs[29] <= Pace::default().detects_within() + ms(3000), "{downs:?}");
            assert_eq!(wrong, 0);
        }
    }
}

#[test]
fn nobody_is_called_down_by_loss_or_jitter_in_an_hour() {
    for (delay, loss) in [(75, 0.01), (150, 0.05)] {
        let mut clinic = settled(77, path(delay, loss));
        let (since, probes) = (clinic.elapsed(), clinic.probes());
        clinic.run_for(Duration::from_secs(3600));
        let wrong = clinic.turns().iter().filter(|turn| turn.at > since && turn.to == Agreed::Down).count();
        let rate = (clinic.probes() - probes) as f64 / 3600.0 / HOSTS as f64;
        println!(
            "{loss} loss, round trip {} ms: {wrong} false verdicts in an hour of {HOSTS}; {rate:.2} probes a second per target",
            2 * delay
        );
        assert_eq!(wrong, 0);
        // Three vantages, and each only as often as it says: not a storm.
        assert!(rate < VANTAGES as f64 / Pace::default().period.as_secs_f64() * 1.3, "{rate}");
    }
}

#[test]
fn a_liar_decides_nothing() {
    for seed in 0..10 {
        let mut clinic = settled(seed, path(40, 0.01));
        let liar = clinic.vantages(0, VICTIM)[0];
        let since = clinic.elapsed();
        // It says that a service that works is down...
        clinic.set_honesty(liar, Honesty::Slanders(VICTIM));
        clinic.run_for(ms(120_000));
        assert!((0..HOSTS).all(|by| clinic.state(by, VICTIM) == Agreed::Up), "seed {seed}");
        // ...and then the opposite of everything: a service that fails is found all the same.
        clinic.set_honesty(liar, Honesty::Contrary);
        clinic.run_for(ms(60_000));
        clinic.set_service(VICTIM, Service::Hangs);
        let down = until_all(&mut clinic, Agreed::Down, ms(30_000));
        assert!(down.is_some(), "seed {seed}: a liar hides a failure");
        assert_eq!(false_positives(&clinic, since), 0, "seed {seed}");
    }
}

#[test]
fn a_bad_path_to_one_vantage_is_not_a_failure() {
    let mut clinic = settled(3, path(40, 0.0));
    let vantage = clinic.vantages(0, VICTIM)[1];
    clinic.set_path_cut(vantage, VICTIM, true);
    clinic.run_for(ms(120_000));
    for by in (0..HOSTS).filter(|by| ![vantage, VICTIM].contains(by)) {
        assert_eq!(clinic.state(by, VICTIM), Agreed::Up);
    }
    // With a second one the majority is gone: so it is down, for most of the world.
    let second = clinic.vantages(0, VICTIM)[2];
    clinic.set_path_cut(second, VICTIM, true);
    clinic.run_for(ms(30_000));
    assert_eq!(clinic.state(0, VICTIM), Agreed::Down);
}

#[test]
fn who_is_cut_off_blames_nobody() {
    for seed in 0..5 {
        let mut clinic = settled(seed, path(40, 0.01));
        let since = clinic.elapsed();
        clinic.set_cut(VICTIM, true);
        clinic.run_for(ms(60_000));
        assert_eq!(false_positives(&clinic, since), 0, "seed {seed}");
        clinic.set_cut(VICTIM, false);
        let back = until_all(&mut clinic, Agreed::Up, ms(120_000));
        println!("seed {seed}: agreed to be up {back:?} after the cut was healed");
        assert!(back.is_some(), "seed {seed}");
        assert_eq!(false_positives(&clinic, since), 0, "seed {seed}");
    }
}

#[test]
fn who_flaps_is_held_down_and_changes_seldom() {
    let mut clinic = settled(9, path(40, 0.0));
    clinic.set_service(VICTIM, Service::Flaps(Duration::from_secs(20)));
    let since = clinic.elapsed();
    clinic.run_for(Duration::from_secs(3600));
    let turns = clinic.turns().iter().filter(|turn| turn.at > since && turn.of == VICTIM && turn.by == 0);
    let downs = turns.filter(|turn| turn.to == Agreed::Down).count();
    println!("90 flaps in an hour: agreed to be down {downs} times");
    assert!((1..=45).contains(&downs), "{downs}");
}
