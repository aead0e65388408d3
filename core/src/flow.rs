//! Flows: which node gets the packets of one conversation with a home address.
//!
//! Home agents that share a home prefix keep no state of flows together, and need none: each
//! computes the same owner from what all have heard ([`select`]). What cannot be computed is the
//! exception, and only exceptions are stored: flows that were handed to another node, and flows
//! that stay where they are though the choice for new ones has changed ([`table`]: flow bindings,
//! RFC 6089). A node remembers the flows that it gave away for as long as packets of them come
//! ([`moved`]), so a home agent that has lost its table costs a detour and no connection. Flows that
//! began under the choice before the present one have a second chance with its owner ([`chance`]).

pub mod chance;
pub mod moved;
pub mod select;
pub mod table;

use crate::binding::HomeAddress;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// One conversation between a client and a home address (the selector of RFC 6088).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FlowKey {
    /// The protocol number: 6 for TCP, 17 for UDP.
    pub protocol: u8,
    /// The client's address and port.
    pub correspondent: SocketAddr,
    /// The home address and port.
    pub home: SocketAddr,
}

impl FlowKey {
    /// Its home address.
    pub fn home_address(&self) -> HomeAddress {
        HomeAddress(self.home.ip())
    }

    /// What its choice depends on.
    pub fn row(&self) -> Row {
        Row::of(self.home_address(), self.correspondent.ip())
    }
}

impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} > {}", self.correspondent, self.protocol, self.home)
    }
}

/// All that a choice depends on beside the nodes: the home address and the client's network.
///
/// Not ports: fragments and ICMP errors have none, and must reach the node that the flow is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row(u64);

impl Row {
    /// The row of a client (its /24 or /48) at a home address.
    pub fn of(home: HomeAddress, client: IpAddr) -> Row {
        let network = match client {
            IpAddr::V4(ip) => u64::from(u32::from(ip) >> 8),
            IpAddr::V6(ip) => (u128::from(ip) >> 80) as u64 | 1 << 63,
        };
        Row(crate::random::mix(crate::random::mix(fold(home.0)) ^ network))
    }
}

fn fold(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(ip) => u64::from(u32::from(ip)),
        IpAddr::V6(ip) => {
            let bits = u128::from(ip);
            crate::random::mix((bits >> 64) as u64) ^ bits as u64
        }
    }
}
