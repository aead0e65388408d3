//! The bindings of this node: two machines that register it, what their outputs mean for the tunnel, and
//! which way replies leave.
//!
//! One [`Registration`] has the home addresses that take new flows, the other those that only keep old
//! ones: a binding says one of both for all its home addresses, and a service may be drained alone. Each
//! has care-of addresses of its own number; to a home agent they are a member's several bindings
//! (RFC 5648). A home address that goes over from one to the other is in both until the new one carries.

use super::care_of::{CARE_OFS, Place};
use super::owned::{Owned, Way};
use super::probes::Probes;
use super::view::Exit;
use crate::clock;
use crate::datadir::DataDir;
use crate::moves::Tell;
use godwit_core::binding::message::BindingAcknowledgement;
use godwit_core::binding::registration::{HOME_AGENTS_MAX, Input, Offer, Output, Registration};
use godwit_core::binding::returns::{Returns, Try};
use godwit_core::binding::{BindingId, Capabilities, CareOf, HOMES_MAX, HomeAddress, Incarnation, Service};
use godwit_core::key::MemberId;
use godwit_core::mobility::Message;
use godwit_core::time::Time;
use godwit_core::tunnel::header::INNER_MTU;
use godwit_core::tunnel::{Control, KeyId};
use godwit_net::tunnel::{Engine, Side, cipher_for, has_aes};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A home address is let go by the machine that had it before after so long, whether the other carries
/// it or not: four round trips and a lost update.
const GO_OVER_MAX: Duration = Duration::from_secs(3);

/// A host that has moved shows itself so often, a second apart: datagrams may be lost.
const REMINDERS: u8 = 4;

/// The home addresses of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Homes {
    /// New flows are welcome.
    pub(super) open: BTreeSet<HomeAddress>,
    /// Old ones only.
    pub(super) draining: BTreeSet<HomeAddress>,
    /// The host has them, and nobody is led here for them.
    pub(super) kept: BTreeSet<HomeAddress>,
}

impl Homes {
    /// All of them.
    pub(super) fn all(&self) -> BTreeSet<HomeAddress> {
        self.open.iter().chain(&self.draining).chain(&self.kept).copied().collect()
    }

    /// Those for which somebody is led here.
    pub(super) fn bound(&self) -> BTreeSet<HomeAddress> {
        self.open.union(&self.draining).copied().collect()
    }
}

/// What is known of a home agent.
#[derive(Clone, Debug, Default)]
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

    /// These home addresses are served here. An address that the host would not take is an error, and is
    /// not bound.
    pub(super) fn set_homes(&mut self, mut homes: Homes) -> Vec<(HomeAddress, io::Error)> {
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

    /// Tells both machines what is theirs: what gains a home address first.
    fn feed_homes(&mut self, now: Time) {
        let carries = |machine: usize| self.carried.iter().any(|(_, id)| machine_of(*id) == machine);
        let (open, draining) = (carries(OPEN), carries(DRAINING));
        self.going_over.retain(|home, since| {
            let arrived = if self.homes.open.contains(home) { open } else { draining };
            !arrived && now.since(*since) < GO_OVER_MAX
        });
        let over = || self.going_over.keys().copied();
        let with = |homes: &BTreeSet<HomeAddress>| homes.iter().copied().chain(over()).collect();
        let (all_open, all_draining) = (with(&self.homes.open), with(&self.homes.draining));
        self.feed(DRAINING, Input::Homes(all_draining));
        self.feed(OPEN, Input::Homes(all_open));
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

    /// The host's routes may have changed.
    pub(super) fn follow_routes(&mut self) {
        if let Err(error) = self.owned.follow() {
            tracing::warn!(%error, "the host's routes could not be copied: replies may take an old way");
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

    /// A home agent answered.
    pub(super) fn acknowledged(&mut self, from: MemberId, acknowledgement: BindingAcknowledgement) {
        let Some(agent) = self.agents.get_mut(&from) else { return };
        agent.incarnation = Some(acknowledgement.incarnation);
        if !acknowledgement.tunnels.is_empty() {
            agent.tunnels.clone_from(&acknowledgement.tunnels);
        }
        for home in self.homes.all() {
            if !acknowledgement.refused.contains(&home) && self.refused.get(&home) == Some(&from) {
                self.refused.remove(&home);
            }
        }
        self.feed(machine_of(acknowledgement.id), Input::Acknowledged { from, acknowledgement });
    }

    /// This came through the tunnel, sealed with a key.
    pub(super) fn heard(&mut self, key: KeyId, control: Control) {
        let Some((from, id)) = self.binding_of(key) else { return };
        if let Control::Seen { home, number } = control {
            if self.returns.seen(&home, number) {
                self.turn(home, Way::Direct);
            }
            return;
        }
        self.feed(machine_of(id), Input::Heard { from, id, key, control });
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

    /// How packets from a home address may leave through the tunnel: for each home agent the most
    /// preferred way.
    pub(super) fn exits(&self, home: &HomeAddress) -> Vec<Exit> {
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

    /// The home agents' keys: from whom packets come.
    pub(super) fn agent_keys(&self) -> impl Iterator<Item = (KeyId, MemberId)> {
        let both = |(key, before): (KeyId, Option<KeyId>)| std::iter::once(key).chain(before);
        self.keys.iter().flat_map(move |((agent, _), keys)| both(*keys).map(|key| (key, *agent)))
    }

    /// The home agents that are known to live, and their lives.
    pub(super) fn lives(&self) -> BTreeMap<MemberId, Incarnation> {
        self.agents.iter().filter_map(|(agent, known)| Some((*agent, known.incarnation?))).collect()
    }

    /// The home addresses.
    pub(super) fn homes(&self) -> &Homes {
        &self.homes
    }

    /// Where this node can be reached.
    pub(super) fn care_ofs(&self) -> Vec<CareOf> {
        self.places.values().map(|place| place.care_of).collect()
    }

    /// Takes all bindings back, so that home agents need not notice that this node is gone.
    pub(super) fn withdraw(&mut self) {
        self.withdrawn = true;
        self.going_over.clear();
        self.feed_both(&Input::Homes(BTreeSet::new()));
    }

    /// Whether they were taken back.
    pub(super) fn is_withdrawn(&self) -> bool {
        self.withdrawn
    }

    /// What can be told of the bindings: for each home agent and care-of address, whether it is used.
    pub(super) fn told(&self) -> Vec<Told> {
        let mut told = Vec::new();
        for home in self.homes.bound() {
            let draining = self.homes.draining.contains(&home);
            let machine = if draining { DRAINING } else { OPEN };
            for agent in self.agents.keys() {
                for (id, place) in &self.places {
                    let binding = (*agent, BindingId(id.0 + machine as u8 * CARE_OFS));
                    let refused = self.refused.get(&home) == Some(agent);
                    let state =
                        match (refused, self.carried.contains(&binding), self.keys.contains_key(&binding)) {
                            (true, ..) => "refused",
                            (_, true, _) => "up",
                            (_, _, true) => "lost",
                            _ => "unproved",
                        };
                    told.push(Told {
                        home,
                        agent: *agent,
                        care_of: place.care_of,
                        state,
                        draining,
                        direct: self.returns.is_direct(&home),
                    });
                }
            }
        }
        told
    }

    /// Where the home agent receives, of the wanted family.
    fn tunnel_of(&self, agent: &MemberId, v4: bool) -> Option<SocketAddr> {
        let tunnels = &self.agents.get(agent)?.tunnels;
        tunnels.iter().find(|tunnel| tunnel.is_ipv4() == v4).copied()
    }

    fn binding_of(&self, key: KeyId) -> Option<(MemberId, BindingId)> {
        let holds = |(newest, before): &(KeyId, Option<KeyId>)| *newest == key || *before == Some(key);
        self.keys.iter().find(|(_, keys)| holds(keys)).map(|(binding, _)| *binding)
    }

    fn forget(&mut self, binding: (MemberId, BindingId)) {
        self.carried.remove(&binding);
        if let Some((key, before)) = self.keys.remove(&binding) {
            std::iter::once(key).chain(before).for_each(|key| self.engine.retire(key));
        }
    }

    fn feed_both(&mut self, input: &Input) {
        for machine in [DRAINING, OPEN] {
            self.feed(machine, input.clone());
        }
    }

    fn feed(&mut self, machine: usize, input: Input) {
        self.machines[machine].handle(clock::now(), input);
        let mut turned = false;
        while let Some(output) = self.machines[machine].poll_output() {
            turned |= self.act(output);
        }
        if turned && !self.going_over.is_empty() {
            self.feed_homes(clock::now());
        }
    }

    /// Does what a machine wants; whether something is carried now that was not, or the other way round.
    fn act(&mut self, output: Output) -> bool {
        match output {
            Output::Persist(epoch) => {
                self.epoch = self.epoch.max(epoch);
                if let Err(error) = self.dir.write_binding_epoch(self.epoch) {
                    tracing::error!(%error, "the count of starts could not be kept");
                }
            }
            Output::Update { to, update } => {
                // Sent again when no answer comes.
                if let Err(error) = self.tell.tell(to, &Message::Update(update)) {
                    tracing::debug!(agent = to.short(), %error, "a binding update was not sent");
                }
            }
            Output::Install { home_agent, id, key } => self.install((home_agent, id), key),
            Output::Send { to, id, key, control } => {
                let v4 = self.places.get(&BindingId(id.0 % CARE_OFS)).map(|place| place.v4);
                // An address that has just gone still answers for its binding's last words.
                let tunnel = v4.and_then(|v4| self.tunnel_of(&to, v4));
                if let Some(tunnel) = tunnel {
                    self.engine.send(key, tunnel, control);
                }
            }
            Output::Carries { home_agent, id, carries } => {
                tracing::info!(agent = home_agent.short(), id = id.0, carries, "a binding");
                match carries {
                    true => self.carried.insert((home_agent, id)),
                    false => self.carried.remove(&(home_agent, id)),
                };
                return true;
            }
            Output::Refused { home_agent, homes } => {
                for home in homes {
                    if self.refused.insert(home, home_agent) != Some(home_agent) {
                        tracing::warn!(%home, agent = home_agent.short(), "this member may not serve a home address");
                    }
                }
            }
        }
        false
    }

    fn install(&mut self, binding: (MemberId, BindingId), key: godwit_core::tunnel::TunnelKey) {
        let id = key.id;
        if let Err(error) = self.engine.install(key, Side::Node, cipher_for(true), INNER_MTU) {
            tracing::warn!(agent = binding.0.short(), %error, "a tunnel key");
            return;
        }
        let newest = self.keys.get(&binding).copied();
        let before = newest.map(|(key, _)| key);
        if let Some(oldest) = newest.and_then(|(_, before)| before) {
            self.engine.retire(oldest);
        }
        self.keys.insert(binding, (id, before));
    }

    /// Sends replies of a home address this way from now on.
    fn turn(&mut self, home: HomeAddress, way: Way) {
        tracing::info!(%home, ?way, "replies");
        if let Err(error) = self.owned.turn(home, way) {
            tracing::warn!(%home, %error, "the way of replies could not be changed");
        }
        self.offer();
    }

    fn try_ways(&mut self, now: Time) {
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

/// What can be told of one binding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) home: HomeAddress,
    pub(super) agent: MemberId,
    pub(super) care_of: CareOf,
    pub(super) state: &'static str,
    pub(super) draining: bool,
    pub(super) direct: bool,
}

fn machine_of(id: BindingId) -> usize {
    if id.0 < CARE_OFS { OPEN } else { DRAINING }
}
