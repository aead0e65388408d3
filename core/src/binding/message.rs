//! What nodes and home agents tell each other about bindings, over their authenticated stream.

use super::{
    Anchor, BindingId, CARE_OFS_MAX, Capabilities, CareOf, HOMES_MAX, HomeAddress, Incarnation, Lifetime,
    Order, Service,
};

use crate::key::MemberId;
use crate::tunnel::{INNER_MTU_MIN, TunnelKey};
use crate::wire::{self, DecodeError};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// The longest message, bytes: an acknowledgement that refuses [`HOMES_MAX`] IPv6 addresses takes
/// about 1,300.
pub const MESSAGE_LEN_MAX: usize = 2048;

/// A home agent receives at so many addresses: two families, twice.
pub const TUNNELS_MAX: usize = 4;

/// A node tells a home agent where it serves home addresses (RFC 6275, 6.1.7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingUpdate {
    /// Which of the sender's care-of addresses this is.
    pub id: BindingId,
    /// The home agent's life that this is said to; `None` asks for it.
    pub incarnation: Option<Incarnation>,
    /// Later than every update before.
    pub order: Order,
    /// All home addresses that are to be bound here, ascending, at most [`HOMES_MAX`].
    pub homes: Vec<HomeAddress>,
    /// Where.
    pub care_of: CareOf,
    /// For how long; [`Lifetime::NONE`] ends the binding.
    pub lifetime: Lifetime,
    /// What the node can do there.
    pub capabilities: Capabilities,
    /// Of several care-of addresses of a member, the lowest that is alive is used (the priority of
    /// RFC 6089, 4.2).
    pub priority: u8,
    /// Whether new flows are welcome.
    pub service: Service,
}

impl BindingUpdate {
    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        wire::encode(self)
    }

    /// The update that `bytes` stand for, if its fields are possible.
    pub fn decode(bytes: &[u8]) -> Result<BindingUpdate, UpdateError> {
        let update: BindingUpdate = wire::decode(bytes, MESSAGE_LEN_MAX)?;
        update.check()?;
        Ok(update)
    }

    /// Whether its fields are possible at all, whoever sent it.
    pub fn check(&self) -> Result<(), UpdateError> {
        if self.homes.len() > HOMES_MAX {
            return Err(UpdateError::TooManyHomes(self.homes.len()));
        }
        if !self.homes.is_sorted_by(|a, b| a < b) {
            return Err(UpdateError::Unordered);
        }
        if usize::from(self.id.0) >= CARE_OFS_MAX {
            return Err(UpdateError::Id(self.id.0));
        }
        if let CareOf::At(address) = self.care_of {
            if !can_receive(address) {
                return Err(UpdateError::CareOf(address));
            }
            if self.homes.iter().any(|home| home.0 == address.ip()) {
                return Err(UpdateError::Loop(address.ip()));
            }
        }
        if self.capabilities.mtu < INNER_MTU_MIN {
            return Err(UpdateError::Mtu(self.capabilities.mtu));
        }
        Ok(())
    }
}

/// Whether one host can listen there: the address is one host's and the port is one.
pub(super) fn can_receive(address: SocketAddr) -> bool {
    let one_host = match address.ip() {
        IpAddr::V4(ip) => !(ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast()),
        IpAddr::V6(ip) => !(ip.is_unspecified() || ip.is_multicast()),
    };
    one_host && address.port() != 0
}

/// Why bytes are no binding update.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// They have another form.
    #[error(transparent)]
    Form(#[from] DecodeError),
    /// More home addresses than one update may name.
    #[error("{0} home addresses where at most {HOMES_MAX} are allowed")]
    TooManyHomes(usize),
    /// Home addresses are not in ascending order.
    #[error("home addresses are not in ascending order")]
    Unordered,
    /// No such care-of address.
    #[error("binding {0} where there are {CARE_OFS_MAX}")]
    Id(u8),
    /// Nobody can receive packets there.
    #[error("{0} is no care-of address")]
    CareOf(SocketAddr),
    /// A home address is its own care-of address: packets would go round.
    #[error("{0} is its own care-of address")]
    Loop(IpAddr),
    /// Less than what IPv4 hosts must be able to receive.
    #[error("inner packets of {0} octets are too small")]
    Mtu(u16),
}

/// A home agent's answer (RFC 6275, 6.1.8).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingAcknowledgement {
    /// Of which care-of address.
    pub id: BindingId,
    /// The home agent's present life.
    pub incarnation: Incarnation,
    /// The order of the update that is answered; with [`Status::OutOfOrder`] the highest accepted
    /// before (RFC 6275, 9.5.1).
    pub order: Order,
    /// What became of it.
    pub status: Status,
    /// For how long the binding holds.
    pub lifetime: Lifetime,
    /// Home addresses that the sender may not serve, ascending: the others are bound.
    pub refused: Vec<HomeAddress>,
    /// What the tunnel is sealed with; not when the binding ended or was refused.
    pub key: Option<TunnelKey>,
    /// Where the home agent receives what comes through the tunnel, best first, at most [`TUNNELS_MAX`].
    pub tunnels: Vec<SocketAddr>,
}

/// What became of an update. The numbers are those of RFC 6275, 6.1.8, where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// 0: it holds.
    Accepted,
    /// 129, administratively prohibited: the sender may serve none of these home addresses.
    Prohibited,
    /// 130, insufficient resources: the home agent holds as many bindings as it can.
    Full,
    /// 135, sequence number out of window.
    OutOfOrder,
    /// 136, expired nonce index: said to another life of the home agent, or to none. Say it again
    /// with the one told here.
    OtherIncarnation,
}

/// The identity of a binding in logs and errors.
impl std::fmt::Display for Anchor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Anchor { member, id } = self;
        write!(f, "{}#{}", MemberId::short(member), id.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update() -> BindingUpdate {
        BindingUpdate {
            id: BindingId(1),
            incarnation: Some(Incarnation(7)),
            order: Order { epoch: 3, sequence: 9 },
            homes: vec![home("192.0.2.1"), home("2001:db8::1")],
            care_of: CareOf::At("198.51.100.9:4191".parse().unwrap()),
            lifetime: Lifetime::DEFAULT,
            capabilities: Capabilities { mtu: 1420, direct_return: false, aes: true },
            priority: 0,
            service: Service::Open,
        }
    }

    fn home(text: &str) -> HomeAddress {
        HomeAddress(text.parse().unwrap())
    }

    #[test]
    fn an_update_is_read_as_it_was_written() {
        let update = update();
        assert_eq!(BindingUpdate::decode(&update.encode()), Ok(update));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let refused = |change: fn(&mut BindingUpdate)| {
            let mut update = update();
            change(&mut update);
            BindingUpdate::decode(&update.encode()).unwrap_err()
        };
        assert_eq!(refused(|u| u.homes.reverse()), UpdateError::Unordered);
        assert_eq!(refused(|u| u.homes.push(home("2001:db8::1"))), UpdateError::Unordered);
        assert_eq!(refused(|u| u.id = BindingId(8)), UpdateError::Id(8));
        assert_eq!(refused(|u| u.capabilities.mtu = 100), UpdateError::Mtu(100));
        for care_of in
            ["0.0.0.0:1", "224.0.0.1:1", "255.255.255.255:1", "[::]:1", "[ff02::1]:1", "192.0.2.9:0"]
        {
            let mut update = update();
            let address = care_of.parse().unwrap();
            update.care_of = CareOf::At(address);
            assert_eq!(update.check(), Err(UpdateError::CareOf(address)));
        }
        assert!(matches!(
            refused(|u| u.care_of = CareOf::At("192.0.2.1:5".parse().unwrap())),
            UpdateError::Loop(_)
        ));
        let mut many = update();
        many.homes = (0..=HOMES_MAX as u32).map(|n| HomeAddress(IpAddr::V4(n.into()))).collect();
        assert_eq!(many.check(), Err(UpdateError::TooManyHomes(HOMES_MAX + 1)));
    }

    #[test]
    fn the_longest_message_fits_its_bound() {
        let homes: Vec<HomeAddress> =
            (0..HOMES_MAX as u128).map(|n| HomeAddress(IpAddr::V6((u128::MAX - 999 + n).into()))).collect();
        let update = BindingUpdate { homes: homes.clone(), ..update() };
        assert!(update.encode().len() <= MESSAGE_LEN_MAX);
        let acknowledgement = BindingAcknowledgement {
            id: BindingId(7),
            incarnation: Incarnation(u64::MAX),
            order: Order { epoch: u32::MAX, sequence: u32::MAX },
            status: Status::OtherIncarnation,
            lifetime: Lifetime::MAX,
            refused: homes,
            key: Some(TunnelKey::derive(
                &[9; 32],
                &Anchor { member: MemberId::from_bytes([255; 32]), id: BindingId(7) },
                u32::MAX,
            )),
            tunnels: vec!["[2001:db8::1]:65535".parse().unwrap(); TUNNELS_MAX],
        };
        assert!(wire::encode(&acknowledgement).len() <= MESSAGE_LEN_MAX);
    }

    #[test]
    fn arbitrary_bytes_are_an_error() {
        let good = update().encode();
        for at in 0..good.len() {
            assert!(BindingUpdate::decode(&good[..at]).is_err());
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            let _ = BindingUpdate::decode(&bad);
        }
        assert!(matches!(
            BindingUpdate::decode(&[0; MESSAGE_LEN_MAX + 1]),
            Err(UpdateError::Form(DecodeError::TooLong { .. }))
        ));
    }
}
