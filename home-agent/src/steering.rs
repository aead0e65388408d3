//! What becomes of each packet. Called by the tunnel's threads: looks up, counts, waits for nothing.

use crate::moved::MovedFlows;
use crate::seen::Seen;
use crate::table::{Served, Table};
use crate::unreachable::Unreachable;
use arc_swap::ArcSwap;
use godwit_core::binding::HomeAddress;
use godwit_core::key::MemberId;
use godwit_core::packet::{Packet, UDP};
use godwit_core::tunnel::KeyId;
use godwit_net::tunnel::{Inward, Outward, Passing, Reason, Steer};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why packets went no further, in more words than the tunnel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Denial {
    /// To an address that is no home address: a route brings here what it should not.
    UnknownAddress,
    /// To a port that the grant does not open.
    ClosedPort,
    /// No node is bound that could take it.
    Unserved,
    /// From a node: its inner source is no home address that the node is bound to.
    WrongSource,
    /// From a node: to an address that no packet of a home address goes to.
    WrongDestination,
}

impl Denial {
    pub(crate) const ALL: [Denial; 5] = [
        Denial::UnknownAddress,
        Denial::ClosedPort,
        Denial::Unserved,
        Denial::WrongSource,
        Denial::WrongDestination,
    ];

    /// As metrics call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Denial::UnknownAddress => "unknown-address",
            Denial::ClosedPort => "closed-port",
            Denial::Unserved => "no-node",
            Denial::WrongSource => "wrong-source",
            Denial::WrongDestination => "wrong-destination",
        }
    }
}

/// Where packets go. One for all threads.
#[derive(Debug)]
pub(crate) struct Steering {
    pub(crate) table: ArcSwap<Table>,
    pub(crate) moved: MovedFlows,
    pub(crate) seen: Seen,
    pub(crate) unreachable: Unreachable,
    denied: [AtomicU64; Denial::ALL.len()],
}

/// Whom a packet goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) owner: MemberId,
    pub(crate) key: KeyId,
    pub(crate) to: SocketAddr,
    /// Who may have the flow if the owner does not know it.
    pub(crate) before: Option<u16>,
}

impl Steering {
    pub(crate) fn new(unreachable: Unreachable) -> Steering {
        Steering {
            table: ArcSwap::from_pointee(Table::default()),
            moved: MovedFlows::new(),
            seen: Seen::new(),
            unreachable,
            denied: Default::default(),
        }
    }

    /// How many packets were denied, by reason.
    pub(crate) fn denied(&self) -> impl Iterator<Item = (Denial, u64)> + '_ {
        Denial::ALL.into_iter().map(|denial| (denial, self.denied[denial as usize].load(Relaxed)))
    }

    fn deny(&self, denial: Denial, packets: usize) -> Reason {
        self.denied[denial as usize].fetch_add(packets as u64, Relaxed);
        match denial {
            Denial::UnknownAddress | Denial::WrongSource | Denial::WrongDestination => Reason::Foreign,
            Denial::ClosedPort => Reason::Filtered,
            Denial::Unserved => Reason::Unserved,
        }
    }

    /// Whom a client's packet goes to; `None` when nobody can take it.
    pub(crate) fn choose(&self, table: &Table, served: &Served, packet: &Packet) -> Option<Chosen> {
        // An error of ICMP belongs to the flow that it speaks of, a later fragment to its row.
        let flow = packet.flow();
        let (home, client) = (HomeAddress(packet.destination), flow.correspondent.ip());
        let bound = self.moved.owner(&flow).filter(|owner| served.ways.contains_key(owner));
        if let Some(owner) = bound {
            let way = served.ways.get(&owner)?;
            return Some(Chosen { owner, key: way.key, to: way.to, before: None });
        }
        let owner = table.now.get(&home)?.owner(home, client)?;
        let way = served.ways.get(&owner)?;
        // A flow of UDP that was silent since then is nobody's.
        let before = table.before.as_ref().filter(|_| table.fresh || flow.protocol != UDP);
        let before = before.and_then(|before| before.get(&home)?.owner(home, client));
        // Who cannot be reached any more gives no second chance.
        let before = before.filter(|before| *before != owner && served.ways.contains_key(before));
        let before = before.and_then(|before| served.number(&before));
        Some(Chosen { owner, key: way.key, to: way.to, before })
    }
}

/// Whether the grant lets a client's packet in.
fn is_open(served: &Served, packet: &Packet) -> bool {
    // What speaks of a flow passes where the flow did.
    packet.speaks_of.is_some_and(|flow| flow.home.ip() == packet.destination)
        || served.ports.admit(packet.protocol, packet.ports.map(|(_, to)| to))
}

impl Steer for Steering {
    fn outward(&self, passing: &Passing<'_>) -> Outward {
        let packet = &passing.packet;
        let table = self.table.load();
        let Some(served) = table.homes.get(&packet.destination) else {
            return Outward::Drop(self.deny(Denial::UnknownAddress, passing.count));
        };
        if !is_open(served, packet) {
            self.unreachable.wanted(passing, Denial::ClosedPort);
            return Outward::Drop(self.deny(Denial::ClosedPort, passing.count));
        }
        match self.choose(&table, served, packet) {
            Some(Chosen { owner, key, to, before }) => {
                self.seen.note(packet, owner, passing.count, passing.bytes.len());
                Outward::Seal { key, to, before }
            }
            None => {
                self.unreachable.wanted(passing, Denial::Unserved);
                Outward::Drop(self.deny(Denial::Unserved, passing.count))
            }
        }
    }

    fn inward(&self, key: KeyId, _: SocketAddr, passing: &Passing<'_>) -> Inward {
        let packet = &passing.packet;
        let table = self.table.load();
        let bound = table.keys.get(&key);
        if !bound.is_some_and(|bound| bound.homes.iter().any(|home| home.0 == packet.source)) {
            return Inward::Drop(self.deny(Denial::WrongSource, passing.count));
        }
        if !may_answer(packet.destination) {
            return Inward::Drop(self.deny(Denial::WrongDestination, passing.count));
        }
        Inward::Deliver
    }
}

/// Whether a client may be there: this host's own loopback and groups are nobody's.
fn may_answer(destination: IpAddr) -> bool {
    match destination {
        IpAddr::V4(ip) => {
            !(ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_multicast()
                || ip.is_broadcast()
                || ip.is_link_local())
        }
        IpAddr::V6(ip) => {
            !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_unicast_link_local())
        }
    }
}
