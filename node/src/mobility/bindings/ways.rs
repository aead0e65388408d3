//! Which way packets from home addresses leave: through which tunnel, or directly.

use super::{Bindings, OPEN, machine_of};
use crate::mobility::care_of::CARE_OFS;
use crate::mobility::owned::Way;
use crate::mobility::view::Exit;
use godwit_core::binding::returns::Try;
use godwit_core::binding::{BindingId, HomeAddress};
use godwit_core::key::MemberId;
use godwit_core::time::Time;
use godwit_core::tunnel::Control;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

impl Bindings {
    /// The host's routes may have changed.
    pub(in crate::mobility) fn follow_routes(&mut self) {
        if let Some(fits) = self.engine.narrowest() {
            self.owned.fits(fits);
        }
        if let Err(error) = self.owned.follow() {
            tracing::warn!(%error, "the host's routes could not be copied: replies may take an old way");
        }
    }

    /// How packets from a home address may leave through the tunnel: for each home agent the most
    /// preferred way.
    pub(in crate::mobility) fn exits(&self, home: &HomeAddress) -> Vec<Exit> {
        let mut seen = BTreeSet::new();
        self.all_exits(home).into_iter().filter(|exit| seen.insert(exit.agent)).collect()
    }

    fn all_exits(&self, home: &HomeAddress) -> Vec<Exit> {
        let serves = |machine: usize| {
            let homes = if machine == OPEN { &self.homes.open } else { &self.homes.draining };
            homes.contains(home) || self.going_over.contains_key(home)
        };
        let carried = self.carried.iter().filter(|(_, id)| serves(machine_of(*id)));
        let mut exits: Vec<(u8, Exit)> = carried
            .filter_map(|(agent, id)| {
                let (key, _) = self.keys.get(&(*agent, *id))?;
                let place = self.places.get(&BindingId(id.0 % CARE_OFS))?;
                Some((
                    place.priority,
                    Exit { agent: *agent, key: *key, to: self.tunnel_of(agent, place.v4)? },
                ))
            })
            .collect();
        exits.sort_by_key(|(priority, exit)| (*priority, exit.agent));
        exits.into_iter().map(|(_, exit)| exit).collect()
    }

    /// Where the home agent receives, of the wanted family.
    pub(super) fn tunnel_of(&self, agent: &MemberId, v4: bool) -> Option<SocketAddr> {
        let tunnels = &self.agents.get(agent)?.tunnels;
        tunnels.iter().find(|tunnel| tunnel.is_ipv4() == v4).copied()
    }

    /// Sends replies of a home address this way from now on.
    pub(super) fn turn(&mut self, home: HomeAddress, way: Way) {
        tracing::info!(%home, ?way, "replies");
        if let Err(error) = self.owned.turn(home, way) {
            tracing::warn!(%home, %error, "the way of replies could not be changed");
        }
        self.offer();
    }

    pub(super) fn try_ways(&mut self, now: Time) {
        let exits: BTreeMap<HomeAddress, Vec<Exit>> =
            self.homes.bound().into_iter().map(|home| (home, self.all_exits(&home))).collect();
        let exit_for = |home: &HomeAddress| {
            let of_family = |exit: &&Exit| exit.to.is_ipv4() == home.0.is_ipv4();
            exits.get(home).and_then(|exits| exits.iter().find(of_family)).copied()
        };
        for one in self.returns.step(now, |home| exit_for(home).is_some()) {
            match one {
                Try::Reverse(home) => self.turn(home, Way::Reverse),
                Try::Probe(home, number) => {
                    let Some(exit) = exit_for(&home) else { continue };
                    let Some(sealed) = self.engine.seal(exit.key, Control::Direct(number)) else { continue };
                    self.probes.send(home, exit.to, &sealed);
                }
            }
        }
    }
}
