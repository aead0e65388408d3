//! Which home addresses are bound, and by which of the two machines.

use super::{Bindings, DRAINING, OPEN, machine_of};
use crate::clock;
use godwit_core::binding::registration::Input;
use godwit_core::binding::{HOMES_MAX, HomeAddress};
use godwit_core::time::Time;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

/// A home address is let go by the machine that had it before after so long, whether home agents know the
/// other or not: four round trips and a lost update.
pub(super) const GO_OVER_MAX: Duration = Duration::from_secs(3);

/// The home addresses of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::mobility) struct Homes {
    /// New flows are welcome.
    pub(in crate::mobility) open: BTreeSet<HomeAddress>,
    /// Old ones only.
    pub(in crate::mobility) draining: BTreeSet<HomeAddress>,
    /// The host has them, and nobody is led here for them.
    pub(in crate::mobility) kept: BTreeSet<HomeAddress>,
}

impl Homes {
    /// All of them.
    pub(in crate::mobility) fn all(&self) -> BTreeSet<HomeAddress> {
        self.open.iter().chain(&self.draining).chain(&self.kept).copied().collect()
    }

    /// Those for which somebody is led here.
    pub(in crate::mobility) fn bound(&self) -> BTreeSet<HomeAddress> {
        self.open.union(&self.draining).copied().collect()
    }
}

impl Bindings {
    /// These home addresses are served here. An address that the host would not take is an error, and is
    /// not bound.
    pub(in crate::mobility) fn set_homes(&mut self, mut homes: Homes) -> Vec<(HomeAddress, io::Error)> {
        let now = clock::now();
        let mut failed = Vec::new();
        for home in homes.all().into_iter().skip(HOMES_MAX) {
            failed
                .push((home, io::Error::other(format!("a node serves at most {HOMES_MAX} home addresses"))));
        }
        for home in homes.all() {
            if !failed.iter().any(|(other, _)| *other == home)
                && let Err(error) = self.owned.add(home)
            {
                failed.push((home, error));
            }
        }
        for (home, _) in &failed {
            homes.open.remove(home);
            homes.draining.remove(home);
            homes.kept.remove(home);
        }
        for home in
            self.homes.draining.intersection(&homes.open).chain(self.homes.open.intersection(&homes.draining))
        {
            self.going_over.insert(*home, now);
        }
        let gone: Vec<HomeAddress> = self.homes.all().difference(&homes.all()).copied().collect();
        self.homes = homes;
        self.going_over
            .retain(|home, _| self.homes.open.contains(home) || self.homes.draining.contains(home));
        self.returns.set_homes(now, &self.homes.bound());
        self.feed_homes(now);
        for home in gone {
            // After the home agents were told: what is on its way is answered by nobody.
            self.probes.forget(&home);
            self.refused.remove(&home);
            if let Err(error) = self.owned.remove(home) {
                tracing::warn!(%home, %error, "a home address could not be removed");
            }
        }
        failed
    }

    /// Tells both machines what is theirs. What goes over is let go where it was once it has arrived.
    pub(super) fn feed_homes(&mut self, now: Time) {
        self.tell_homes();
        let before = self.going_over.len();
        let mut going_over = std::mem::take(&mut self.going_over);
        going_over.retain(|home, since| !self.has_gone_over(home) && now.since(*since) < GO_OVER_MAX);
        self.going_over = going_over;
        if self.going_over.len() < before {
            self.tell_homes();
        }
    }

    /// Whether each home agent that sends packets for what the one machine lets go has heard the other, and
    /// sends there too.
    fn has_gone_over(&self, home: &HomeAddress) -> bool {
        let (to, from) = if self.homes.open.contains(home) { (OPEN, DRAINING) } else { (DRAINING, OPEN) };
        let mut left = self.carried.iter().filter(|(_, id)| machine_of(*id) == from);
        left.all(|(agent, _)| self.machines[to].is_known_to(agent))
    }

    fn tell_homes(&mut self) {
        let over = || self.going_over.keys().copied();
        let with = |homes: &BTreeSet<HomeAddress>| homes.iter().copied().chain(over()).collect();
        let (all_open, all_draining) = (with(&self.homes.open), with(&self.homes.draining));
        self.feed(DRAINING, Input::Homes(all_draining));
        self.feed(OPEN, Input::Homes(all_open));
    }

    /// The home addresses.
    pub(in crate::mobility) fn homes(&self) -> &Homes {
        &self.homes
    }

    /// Takes all bindings back, so that home agents need not notice that this node is gone.
    pub(in crate::mobility) fn withdraw(&mut self) {
        self.withdrawn = true;
        self.going_over.clear();
        self.feed_both(&Input::Homes(BTreeSet::new()));
    }

    /// Whether they were taken back.
    pub(in crate::mobility) fn is_withdrawn(&self) -> bool {
        self.withdrawn
    }
}
