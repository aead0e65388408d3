//! What members say about home addresses to this one.

use super::Running;
use crate::clock;
use crate::mobility::Heard;
use crate::moves;
use godwit_core::binding::CareOf;
use godwit_core::key::MemberId;
use godwit_core::mobility::{Message, Relay};
use godwit_core::tunnel::header::INNER_MTU;
use godwit_net::tunnel::{Side, cipher_for};

impl Running {
    pub(super) fn heard(&mut self, heard: moves::Heard) {
        let (from, message) = match heard {
            moves::Heard::Connected(member) => {
                if let Some(tunnel) = &mut self.tunnel {
                    tunnel.bindings.connected(member);
                    tunnel.relays.doubt(&member);
                }
                // Without somebody who hands over there is nothing to say again.
                let _ = self.heard.try_send(Heard::Connected(member));
                return;
            }
            moves::Heard::Malformed { from, why } => {
                tracing::debug!(from = from.short(), why, "no message about home addresses");
                return;
            }
            moves::Heard::Message { from, message } => (from, message),
        };
        let message = match *message {
            Message::StandingWanted(name) => return self.standing_wanted(from, name),
            Message::Standing(name, standing) => return self.standing_told(from, &name, &standing),
            other => other,
        };
        let Some(tunnel) = &mut self.tunnel else { return };
        match message {
            Message::Acknowledgement(answer) => tunnel.bindings.acknowledged(from, answer),
            Message::FlowsBound(answer) => tunnel.updates.bound(clock::now(), from, &answer),
            Message::RelayWanted => self.relay_wanted(from),
            Message::Relay(relay) => self.relay_told(from, &relay),
            Message::Handoff(message) => {
                if self.heard.try_send(Heard::Message { from, message }).is_err() {
                    tracing::debug!(from = from.short(), "nobody hands connections over here now");
                }
            }
            // Said to home agents.
            Message::Update(_) | Message::Flows(_) => {}
            // Heard above.
            Message::StandingWanted(_) | Message::Standing(..) => {}
        }
    }

    fn relay_wanted(&mut self, from: MemberId) {
        let Some(tunnel) = self.tunnel.as_mut().filter(|_| self.services.others().contains(&from)) else {
            return;
        };
        let Some((key, old)) = tunnel.relays.wanted(clock::now(), from) else { return };
        if let Some(old) = old {
            tunnel.engine.retire(old);
        }
        if let Err(error) = tunnel.engine.install(key.clone(), Side::Node, cipher_for(true), INNER_MTU) {
            tracing::warn!(from = from.short(), %error, "a relay's key");
            return;
        }
        let mut care_of: Vec<CareOf> = tunnel.bindings.care_ofs();
        care_of.truncate(godwit_core::mobility::RELAY_ADDRESSES_MAX);
        // Asked again when it is lost.
        let _ = self.tell.tell(from, &Message::Relay(Relay { key, care_of }));
    }

    fn relay_told(&mut self, from: MemberId, relay: &Relay) {
        let Some(tunnel) = self.tunnel.as_mut().filter(|_| self.services.others().contains(&from)) else {
            return;
        };
        let before = tunnel.relays.ways().get(&from).map(|(key, _)| *key);
        let Some(address) = tunnel.relays.told(from, relay, tunnel.has_v6) else {
            tracing::info!(from = from.short(), "a node that packets cannot be passed on to");
            return;
        };
        // Who gave the key opens it as a node does; so here we seal as a home agent.
        if let Err(error) =
            tunnel.engine.install(relay.key.clone(), Side::HomeAgent, cipher_for(true), INNER_MTU)
        {
            tracing::warn!(from = from.short(), %error, "a relay's key");
            tunnel.relays.doubt(&from);
            return;
        }
        if let Some(before) = before.filter(|before| *before != relay.key.id) {
            tunnel.engine.retire(before);
        }
        tracing::debug!(from = from.short(), %address, "packets can be passed on to a node");
    }
}
