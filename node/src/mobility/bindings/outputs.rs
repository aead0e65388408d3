//! What the machines are told, and what they want done.

use super::{Bindings, DRAINING, OPEN, machine_of};
use crate::clock;
use crate::mobility::care_of::CARE_OFS;
use crate::mobility::owned::Way;
use godwit_core::binding::BindingId;
use godwit_core::binding::message::BindingAcknowledgement;
use godwit_core::binding::registration::{Input, Output};
use godwit_core::key::MemberId;
use godwit_core::mobility::Message;
use godwit_core::tunnel::header::INNER_MTU;
use godwit_core::tunnel::{Control, KeyId, TunnelKey};
use godwit_net::tunnel::{Side, cipher_for};

impl Bindings {
    /// A home agent answered.
    pub(in crate::mobility) fn acknowledged(
        &mut self,
        from: MemberId,
        acknowledgement: BindingAcknowledgement,
    ) {
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
        // Both learn which life of the home agent this is.
        self.feed_both(&Input::Acknowledged { from, acknowledgement });
        if !self.going_over.is_empty() {
            self.feed_homes(clock::now());
        }
    }

    /// This came through the tunnel, sealed with a key.
    pub(in crate::mobility) fn heard(&mut self, key: KeyId, control: Control) {
        let Some((from, id)) = self.binding_of(key) else { return };
        if let Control::Seen { home, number } = control {
            if self.returns.seen(&home, number) {
                self.turn(home, Way::Direct);
            }
            return;
        }
        self.feed(machine_of(id), Input::Heard { from, id, key, control });
    }

    fn binding_of(&self, key: KeyId) -> Option<(MemberId, BindingId)> {
        let holds = |(newest, before): &(KeyId, Option<KeyId>)| *newest == key || *before == Some(key);
        self.keys.iter().find(|(_, keys)| holds(keys)).map(|(binding, _)| *binding)
    }

    pub(super) fn forget(&mut self, binding: (MemberId, BindingId)) {
        self.carried.remove(&binding);
        if let Some((key, before)) = self.keys.remove(&binding) {
            std::iter::once(key).chain(before).for_each(|key| self.engine.retire(key));
        }
    }

    pub(super) fn feed_both(&mut self, input: &Input) {
        for machine in [DRAINING, OPEN] {
            self.feed(machine, input.clone());
        }
    }

    pub(super) fn feed(&mut self, machine: usize, input: Input) {
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

    fn install(&mut self, binding: (MemberId, BindingId), key: TunnelKey) {
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
}
