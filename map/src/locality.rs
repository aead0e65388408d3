//! Which clients are looked at together.

use crate::inputs::Inputs;
use crate::rules::RuleId;
use crate::split::{client_number, mix};
use godwit_core::geo::Coordinates;
use ipnet::IpNet;
use std::net::IpAddr;

/// Clients without a known place are told apart by so many leading bits.
pub(crate) const CLIENT_V4_LEN: u8 = 24;
/// See [`CLIENT_V4_LEN`].
pub(crate) const CLIENT_V6_LEN: u8 = 48;

/// Clients that get one answer: those of a place, or of an observed prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Locality {
    Place(Coordinates),
    Prefix(IpNet),
    /// Those under a rule.
    Rule(RuleId),
    /// Nothing is known: by client prefix.
    Unknown(IpNet),
}

impl Locality {
    pub(crate) fn number(self) -> u64 {
        match self {
            Locality::Place(place) => {
                mix((place.lat().to_bits() ^ mix(place.lon().to_bits())).rotate_left(1))
            }
            Locality::Rule(rule) => mix(rule.0.into()),
            Locality::Prefix(net) | Locality::Unknown(net) => {
                client_number(net.addr(), client_len(net.addr()))
            }
        }
    }
}

/// Which members can be reached over which family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// That of an address.
    pub(crate) fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    pub(crate) fn serves(self, inputs: &Inputs, member: u32) -> bool {
        let member = &inputs.members[member as usize];
        match self {
            Family::V4 => member.public_v4.is_some(),
            Family::V6 => member.public_v6.is_some(),
        }
    }
}

/// The prefix by which a client without a known place is told apart.
pub(crate) fn client_prefix(client: IpAddr) -> IpNet {
    IpNet::new_assert(client, client_len(client)).trunc()
}

pub(crate) fn client_len(client: IpAddr) -> u8 {
    if client.is_ipv4() { CLIENT_V4_LEN } else { CLIENT_V6_LEN }
}
