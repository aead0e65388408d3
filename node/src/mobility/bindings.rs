//! The bindings of this node: two machines that register it, what their outputs mean for the tunnel, and
//! which way replies leave.
//!
//! One [`Registration`] has the home addresses that take new flows, the other those that only keep old
//! ones: a binding says one of both for all its home addresses, and a service may be drained alone. Each
//! has care-of addresses of its own number; to a home agent they are a member's several bindings
//! (RFC 5648). A home address that goes over from one to the other is in both until the new one carries at
//! each home agent where the old one does.

mod bound;
mod homes;
mod left;
mod outputs;
mod told;
mod ways;

pub(super) use homes::Homes;
pub(super) use left::BindingsLeft;
pub(super) use told::Told;

use super::care_of::{CARE_OFS, Place};
use super::owned::Owned;
use super::probes::Probes;
use crate::clock;
use crate::datadir::DataDir;
use crate::moves::Tell;
use godwit_core::binding::registration::{HOME_AGENTS_MAX, Input, Offer, Registration};
use godwit_core::binding::returns::Returns;
use godwit_core::binding::{BindingId, Capabilities, CareOf, HomeAddress, Incarnation, Service};
use godwit_core::key::MemberId;
use godwit_core::time::Time;
use godwit_core::tunnel::header::INNER_MTU;
use godwit_core::tunnel::{Control, KeyId};
use godwit_net::tunnel::{Engine, has_aes};
use homes::GO_OVER_MAX;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// A host that has moved shows itself so often, a second apart: datagrams may be lost.
const REMINDERS: u8 = 4;

/// What is known of a home agent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Agent {
    incarnation: Option<Incarnation>,
    /// Where it receives.
    tunnels: Vec<SocketAddr>,
}

/// Which of the two machines.
const OPEN: usize = 0;
const DRAINING: usize = 1;

/// See the module.
pub(super) struct Bindings {
    engine: Arc<Engine>,
    tell: Tell,
    dir: DataDir,
    epoch: u32,
    machines: [Registration; 2],
    agents: BTreeMap<MemberId, Agent>,
    /// The newest key of each binding, and the one before it.
    keys: BTreeMap<(MemberId, BindingId), (KeyId, Option<KeyId>)>,
    carried: BTreeSet<(MemberId, BindingId)>,
    /// What home agents said that this node may not serve.
    refused: BTreeMap<HomeAddress, MemberId>,
    places: BTreeMap<BindingId, Place>,
    homes: Homes,
    /// Those that are in both machines, and since when.
    going_over: BTreeMap<HomeAddress, Time>,
    owned: Owned,
    returns: Returns,
    probes: Probes,
    withdrawn: bool,
    /// So often home agents are still to be shown where this host is.
    reminders: u8,
}

impl Bindings {
    /// None yet. The epoch of this process is durable when this returns.
    pub(super) fn new(
        engine: Arc<Engine>,
        tell: Tell,
        dir: DataDir,
        owned: Owned,
    ) -> Result<Bindings, crate::datadir::DataDirError> {
        let epoch = dir.next_binding_epoch()?;
        let machine = || Registration::new(epoch, rand::random());
        let mut machines = [machine(), machine()];
        machines[DRAINING].handle(clock::now(), Input::Service(Service::Draining));
        Ok(Bindings {
            engine,
            tell,
            dir,
            epoch,
            machines,
            agents: BTreeMap::new(),
            keys: BTreeMap::new(),
            carried: BTreeSet::new(),
            refused: BTreeMap::new(),
            places: BTreeMap::new(),
            homes: Homes::default(),
            going_over: BTreeMap::new(),
            owned,
            returns: Returns::new(),
            probes: Probes::default(),
            withdrawn: false,
            reminders: 0,
        })
    }

    /// The epoch of this process.
    pub(super) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// These are the home agents.
    pub(super) fn set_agents(&mut self, agents: BTreeSet<MemberId>) {
        self.agents.retain(|agent, _| agents.contains(agent));
        for agent in agents.iter().take(HOME_AGENTS_MAX) {
            self.agents.entry(*agent).or_default();
        }
        let gone: Vec<_> = self.keys.keys().filter(|(agent, _)| !agents.contains(agent)).copied().collect();
        for binding in gone {
            self.forget(binding);
        }
        self.feed_both(&Input::HomeAgents(agents));
    }

    /// The host's care-of addresses are these.
    pub(super) fn set_places(&mut self, places: BTreeMap<BindingId, Place>) {
        if places == self.places {
            return;
        }
        tracing::info!(places = ?places.values().map(|place| place.care_of).collect::<Vec<_>>(), "care-of addresses");
        self.places = places;
        self.offer();
        self.reminders = REMINDERS;
        self.remind();
    }

    /// Shows home agents where packets come from now, where they follow that: no answer to anything, but
    /// sealed. The stream may be as dead as the old address.
    pub(super) fn remind(&mut self) {
        if self.reminders == 0 {
            return;
        }
        self.reminders -= 1;
        for (agent, id) in &self.carried {
            let place = self.places.get(&BindingId(id.0 % CARE_OFS));
            let Some(place) = place.filter(|place| place.care_of == CareOf::Observed) else { continue };
            let key = self.keys.get(&(*agent, *id)).map(|(key, _)| *key);
            if let (Some(key), Some(tunnel)) = (key, self.tunnel_of(agent, place.v4)) {
                // Probes are counted from 1.
                self.engine.send(key, tunnel, Control::Alive(0));
            }
        }
    }

    fn offer(&mut self) {
        let direct = |homes: &BTreeSet<HomeAddress>| {
            !homes.is_empty() && homes.iter().all(|home| self.returns.is_direct(home))
        };
        let direct = [direct(&self.homes.open), direct(&self.homes.draining)];
        for (machine, direct_return) in direct.into_iter().enumerate() {
            for number in 0..CARE_OFS {
                let offer = self.places.get(&BindingId(number)).map(|place| Offer {
                    care_of: place.care_of,
                    capabilities: Capabilities { mtu: INNER_MTU, direct_return, aes: has_aes() },
                    priority: place.priority,
                });
                let id = BindingId(number + machine as u8 * CARE_OFS);
                self.feed(machine, Input::CareOf { id, offer });
            }
        }
    }

    /// A stream to this member has been opened.
    pub(super) fn connected(&mut self, member: MemberId) {
        if self.agents.contains_key(&member) {
            self.feed_both(&Input::Connected(member));
        }
    }

    /// Time has passed.
    pub(super) fn pass_time(&mut self) {
        let now = clock::now();
        if !self.going_over.is_empty() {
            self.feed_homes(now);
        }
        self.feed_both(&Input::Timer);
        self.try_ways(now);
    }

    /// When [`Bindings::pass_time`] is to be called at the latest.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        let machines = self.machines.iter().filter_map(Registration::next_deadline);
        let over = self.going_over.values().map(|since| *since + GO_OVER_MAX);
        machines.chain(over).chain(self.returns.next_deadline()).min()
    }

    /// The home agents' keys: from whom packets come.
    pub(super) fn agent_keys(&self) -> impl Iterator<Item = (KeyId, MemberId)> {
        let both = |(key, before): (KeyId, Option<KeyId>)| std::iter::once(key).chain(before);
        self.keys.iter().flat_map(move |((agent, _), keys)| both(*keys).map(|key| (key, *agent)))
    }

    /// The home agents that are known to live, and their lives.
    pub(super) fn lives(&self) -> BTreeMap<MemberId, Incarnation> {
        self.agents.iter().filter_map(|(agent, known)| Some((*agent, known.incarnation?))).collect()
    }

    /// Where this node can be reached.
    pub(super) fn care_ofs(&self) -> Vec<CareOf> {
        self.places.values().map(|place| place.care_of).collect()
    }
}

fn machine_of(id: BindingId) -> usize {
    if id.0 < CARE_OFS { OPEN } else { DRAINING }
}
