//! Whether replies may leave a node directly, or have to go back through the tunnel.
//!
//! Networks drop packets whose source is not theirs (RFC 2827), and a home address is not theirs. So a
//! node tries: it sends a sealed [`Control::Direct`](crate::tunnel::Control) *from the home address*,
//! outside of the tunnel, and the home agent says through the tunnel that it came. While that works,
//! replies go straight to the client; when three in a row are not answered they go through the tunnel,
//! within two seconds ([`Returns::pace`]).
//!
//! The same paths serve all clients behind them, so what a home agent sees is taken for what clients
//! would see; a filter on the way to a single client is not found.

use super::path::{Pace, Path, Step};
use super::{HOMES_MAX, HomeAddress};
use crate::time::Time;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Try {
    /// Send the probe with this number from the home address.
    Probe(HomeAddress, u32),
    /// Its replies go through the tunnel from now on.
    Reverse(HomeAddress),
}

/// The ways of replies, by home address. See the module.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Returns {
    ways: BTreeMap<HomeAddress, Path>,
}

impl Returns {
    /// None.
    pub fn new() -> Returns {
        Returns::default()
    }

    /// Probes go out every 400 ms; three unanswered, or two answered, change the way.
    pub fn pace() -> Pace {
        let interval = Duration::from_millis(400);
        Pace { interval, misses: 3, recovery: interval, rises: 2 }
    }

    /// These are served here, at most [`HOMES_MAX`]. New ones begin with the tunnel, which always works.
    pub fn set_homes(&mut self, now: Time, homes: &BTreeSet<HomeAddress>) {
        self.ways.retain(|home, _| homes.contains(home));
        for home in homes.iter().take(HOMES_MAX) {
            self.ways.entry(*home).or_insert_with(|| Path::unproved(now));
        }
    }

    /// Time has passed. `answering` says whether some home agent could answer for a home address at all:
    /// without one nothing is tried, and nothing held against the way.
    pub fn step(&mut self, now: Time, mut answering: impl FnMut(&HomeAddress) -> bool) -> Vec<Try> {
        let mut tries = Vec::new();
        for (home, path) in &mut self.ways {
            let excused = if answering(home) { Time::default() } else { Time::NEVER };
            match path.step(now, &Returns::pace(), excused) {
                Step::Wait => {}
                Step::Probe(number) => tries.push(Try::Probe(*home, number)),
                Step::Lost(number) => tries.extend([Try::Reverse(*home), Try::Probe(*home, number)]),
            }
        }
        tries
    }

    /// A home agent saw this probe; whether replies of the home address go directly from now on, and did
    /// not before.
    pub fn seen(&mut self, home: &HomeAddress, number: u32) -> bool {
        self.ways.get_mut(home).is_some_and(|path| path.answered(number, &Returns::pace()))
    }

    /// Whether its replies go directly.
    pub fn is_direct(&self, home: &HomeAddress) -> bool {
        self.ways.get(home).is_some_and(Path::is_up)
    }

    /// Whether those of all home addresses do.
    pub fn all_direct(&self) -> bool {
        !self.ways.is_empty() && self.ways.values().all(Path::is_up)
    }

    /// When [`Returns::step`] is to be called.
    pub fn next_deadline(&self) -> Option<Time> {
        self.ways.values().map(Path::due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> HomeAddress {
        HomeAddress("192.0.2.1".parse().unwrap())
    }

    /// Runs for so long; probes come through if `passes`. Gives when the way changed.
    fn run(returns: &mut Returns, now: &mut u64, millis: u64, passes: bool, answering: bool) -> Vec<u64> {
        let mut changes = Vec::new();
        for _ in 0..millis {
            *now += 1;
            for one in returns.step(Time::from_millis(*now), |_| answering) {
                match one {
                    Try::Probe(home, number) if passes => {
                        if returns.seen(&home, number) {
                            changes.push(*now);
                        }
                    }
                    Try::Probe(..) => {}
                    Try::Reverse(_) => changes.push(*now),
                }
            }
        }
        changes
    }

    #[test]
    fn replies_go_directly_once_that_is_proved_and_back_within_two_seconds() {
        let (mut returns, mut now) = (Returns::new(), 1000);
        returns.set_homes(Time::from_millis(now), &[home()].into());
        assert!(!returns.is_direct(&home()));
        let proved = run(&mut returns, &mut now, 5_000, true, true);
        assert!(proved.len() == 1 && proved[0] - 1000 <= 1_000, "{proved:?}");
        assert!(returns.is_direct(&home()) && returns.all_direct());
        let filtered = now;
        let lost = run(&mut returns, &mut now, 5_000, false, true);
        assert!(lost.len() == 1 && lost[0] - filtered <= 2_000, "{lost:?}");
        assert!(!returns.is_direct(&home()));
        assert_eq!(run(&mut returns, &mut now, 5_000, true, true).len(), 1);
        assert!(returns.is_direct(&home()));
    }

    #[test]
    fn without_home_agents_the_way_stays_as_it_is() {
        let (mut returns, mut now) = (Returns::new(), 1000);
        returns.set_homes(Time::from_millis(now), &[home()].into());
        run(&mut returns, &mut now, 5_000, true, true);
        assert_eq!(run(&mut returns, &mut now, 60_000, false, false), []);
        assert!(returns.is_direct(&home()));
        returns.set_homes(Time::from_millis(now), &BTreeSet::new());
        assert!(!returns.is_direct(&home()) && !returns.all_direct());
        assert_eq!(returns.next_deadline(), None);
    }
}
