//! What members tell each other so that home addresses stay reachable while everything behind them
//! moves: one message form for bindings, flows, hand-offs and relays.
//!
//! They travel over the members' authenticated streams, in a lane of their own, so the sender is
//! proved and order is kept within a connection; a message may be lost with it, and every machine
//! here copes with that.

use crate::binding::CareOf;
use crate::binding::message::{BindingAcknowledgement, BindingUpdate, TUNNELS_MAX, UpdateError};
use crate::binding::registration::HOME_AGENTS_MAX;
use crate::flow::FlowKey;
use crate::flow::table::{FLOWS_PER_UPDATE_MAX, FlowUpdate, Refusal};
use crate::handoff;
use crate::key::MemberId;
use crate::name::SiteName;
use crate::tunnel::TunnelKey;
use crate::wire::{self, DecodeError, MESSAGE_LEN_MAX};
use serde::{Deserialize, Serialize};

/// A member offers at most so many addresses for relayed packets: two families, twice.
pub const RELAY_ADDRESSES_MAX: usize = 4;

/// A message between members about home addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// A node tells a home agent where it serves.
    Update(BindingUpdate),
    /// The home agent's answer.
    Acknowledgement(BindingAcknowledgement),
    /// A node tells a home agent where flows of its own are to go.
    Flows(FlowUpdate),
    /// The home agent's answer.
    FlowsBound(FlowsBound),
    /// Two nodes hand connections over.
    Handoff(handoff::Message),
    /// A node that serves the same home addresses wants to pass packets on to the receiver.
    RelayWanted,
    /// Where and under which key it may; replaces what was told before.
    Relay(Relay),
    /// A node that is to move a name to the receiver asks how it stands to it.
    StandingWanted(SiteName),
    /// How it does, at the moment.
    Standing(SiteName, Standing),
}

/// How a node stands to the home addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It does not serve them.
    Unserved,
    /// It does, and what it serves them by does not work.
    Failed,
    /// It is about to stop, or was told to take no new flows.
    Drained,
    /// It would, but no home agent sends packets for all of them.
    Unbound,
    /// These home agents send it packets for all of them, at most [`HOME_AGENTS_MAX`]; new flows are welcome.
    Bound(Vec<MemberId>),
}

/// What became of a [`FlowUpdate`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowsBound {
    /// The order of the update that is answered.
    pub order: crate::binding::Order,
    /// One reason for which nothing of it counts, or the flows that could not be bound, with theirs.
    pub result: Result<Vec<(FlowKey, Refusal)>, Refusal>,
}

/// How one node passes packets on to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relay {
    /// Seals what goes there: with [`TunnelKey::to_node`], as a home agent would.
    pub key: TunnelKey,
    /// Where it receives, best first, at most [`RELAY_ADDRESSES_MAX`]. [`CareOf::Observed`] when only
    /// those it has spoken to first can reach it.
    pub care_of: Vec<CareOf>,
}

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// They have another form.
    #[error(transparent)]
    Form(#[from] DecodeError),
    /// A binding update with impossible fields.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// A list is longer than it may be.
    #[error("{0} entries in a list of at most {1}")]
    TooMany(usize, usize),
}

impl Message {
    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        wire::encode(self)
    }

    /// The message that `bytes` stand for, if its fields are possible.
    pub fn decode(bytes: &[u8]) -> Result<Message, MessageError> {
        let message: Message = wire::decode(bytes, MESSAGE_LEN_MAX)?;
        message.check()?;
        Ok(message)
    }

    fn check(&self) -> Result<(), MessageError> {
        let (len, max) = match self {
            Message::Update(update) => {
                update.check()?;
                return Ok(());
            }
            Message::Acknowledgement(answer) if answer.tunnels.len() > TUNNELS_MAX => {
                (answer.tunnels.len(), TUNNELS_MAX)
            }
            Message::Acknowledgement(answer) => (answer.refused.len(), crate::binding::HOMES_MAX),
            Message::Flows(update) => (update.flows.len(), FLOWS_PER_UPDATE_MAX),
            Message::FlowsBound(bound) => (bound.result.as_ref().map_or(0, Vec::len), FLOWS_PER_UPDATE_MAX),
            Message::Handoff(message) => (message.flow_count(), handoff::FLOWS_MAX),
            Message::Relay(relay) => (relay.care_of.len(), RELAY_ADDRESSES_MAX),
            Message::Standing(_, Standing::Bound(agents)) => (agents.len(), HOME_AGENTS_MAX),
            Message::RelayWanted | Message::StandingWanted(_) | Message::Standing(..) => (0, 0),
        };
        if len > max { Err(MessageError::TooMany(len, max)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::{Anchor, BindingId, Incarnation, Order};
    use crate::handoff::HandoffId;

    fn flow(port: u16) -> FlowKey {
        let home = "[2001:db8::1]:443".parse().unwrap();
        FlowKey { protocol: 6, correspondent: ([203, 0, 113, 7], port).into(), home }
    }

    fn game() -> SiteName {
        "game".parse().unwrap()
    }

    fn samples() -> Vec<Message> {
        let order = Order { epoch: 3, sequence: 4 };
        let flows: Vec<FlowKey> = (0..5).map(flow).collect();
        let anchor = Anchor { member: MemberId::from_bytes([1; 32]), id: BindingId(0) };
        let key = TunnelKey::derive(&[9; 32], &anchor, 7);
        vec![
            Message::Flows(FlowUpdate {
                incarnation: Incarnation(5),
                order,
                to: MemberId::from_bytes([2; 32]),
                flows: flows.clone(),
            }),
            Message::FlowsBound(FlowsBound { order, result: Ok(vec![(flow(1), Refusal::Full)]) }),
            Message::FlowsBound(FlowsBound { order, result: Err(Refusal::OutOfOrder) }),
            Message::Handoff(handoff::Message::Prepare { id: HandoffId(1), flows }),
            Message::RelayWanted,
            Message::Relay(Relay { key, care_of: vec![CareOf::Observed] }),
            Message::StandingWanted(game()),
            Message::Standing(game(), Standing::Unbound),
            Message::Standing(game(), Standing::Bound(vec![MemberId::from_bytes([3; 32])])),
        ]
    }

    #[test]
    fn messages_are_read_as_they_were_written_and_no_part_of_them_is() {
        for message in samples() {
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes), Ok(message));
            for len in 0..bytes.len() {
                assert!(Message::decode(&bytes[..len]).is_err());
            }
        }
    }

    #[test]
    fn lists_are_bounded_each_by_its_own_bound() {
        let flows: Vec<FlowKey> = (0..=handoff::FLOWS_MAX as u16).map(flow).collect();
        let message = Message::Handoff(handoff::Message::Prepared { id: HandoffId(1), flows });
        let error = MessageError::TooMany(handoff::FLOWS_MAX + 1, handoff::FLOWS_MAX);
        assert_eq!(Message::decode(&message.encode()), Err(error));
        let anchor = Anchor { member: MemberId::from_bytes([1; 32]), id: BindingId(0) };
        let key = TunnelKey::derive(&[9; 32], &anchor, 7);
        let relay = Relay { key, care_of: vec![CareOf::Observed; RELAY_ADDRESSES_MAX + 1] };
        assert!(Message::decode(&Message::Relay(relay).encode()).is_err());
        let agents = vec![MemberId::from_bytes([3; 32]); HOME_AGENTS_MAX + 1];
        assert!(Message::decode(&Message::Standing(game(), Standing::Bound(agents)).encode()).is_err());
    }

    #[test]
    fn the_longest_hand_off_fits_a_message() {
        let state = vec![255; handoff::STATE_LEN_MAX];
        let states = (0..handoff::FLOWS_MAX as u16).map(|port| (flow(port), state.clone())).collect();
        let message = Message::Handoff(handoff::Message::Transfer { id: HandoffId(u64::MAX), states });
        assert!(message.encode().len() <= MESSAGE_LEN_MAX, "{}", message.encode().len());
    }
}
