//! Tunnels: packets of the kernel, sealed, to where their owner wants them, and back.
//!
//! ```text
//!            ┌───────── outward: a thread for each queue ──────────┐
//!  kernel ⇄ TUN    read → Steer::outward → cut, seal → send       UDP ⇄ the other end
//!            └───────── inward: a thread for each socket ──────────┘
//!                  receive → open → Steer::inward → gather, write
//! ```
//!
//! An [`Engine`] moves packets and decides nothing: for each packet it asks its [`Steer`]. Threads
//! block, data never passes through a runtime's queues, and no packet costs an allocation. What the
//! owner has to know comes as [`Event`]s over a bounded channel.
//!
//! # Fast
//!
//! The kernel hands over up to 64 KiB of one connection in one read ([`Tun`]); they are cut into
//! packets, each is sealed by itself, and one call sends them (`UDP_SEGMENT`). At the other end one
//! call receives them (`UDP_GRO`), each is opened where it lies, and one call writes those that follow
//! each other as one train. Checksums of TCP and UDP that the sending kernel has left to its device are
//! not computed at all: the header says so, the seal guards the octets, and the receiving kernel is told
//! in the same way that it was told here.
//!
//! # What happens to a packet
//!
//! - A packet larger than the key's MTU is dropped, and its sender is told, at most a hundred times a
//!   second (ICMP; RFC 1191, RFC 4443). The key's MTU falls when the tunnel's path turns out to be
//!   narrower, as routers' errors tell and as is measured without them ([`godwit_core::tunnel::width`]).
//!   IPv4 packets that may be cut are not cut here: the kernel does so
//!   for what is larger than the TUN device. Where less than 1,280 octets fit inside, full IPv6 packets are
//!   lost (RFC 8200, 5 has no smaller path), but for TCP's, which are made smaller.
//! - The segment size that a node's SYN announces is lowered to what fits. Where answers take another way
//!   than the tunnel, the table of routes for them has the kernel announce it
//!   ([`Netlink::copy_main`](crate::netlink::Netlink::copy_main)).
//! - Hops are counted by the kernels that forward into and out of the device; a relay counts one more.
//! - The traffic class is copied outward, and congestion marks inward (RFC 6040).
//! - A packet of one of our own tunnels inside a packet is dropped: a route goes round.
//!
//! # Holding packets
//!
//! An owner that answers [`Inward::Taken`] has put [`Passing::keep`]'s copy into a queue of its own, which
//! it bounds, and later gives it back to the kernel ([`Engine::inject`]) or passes it on
//! ([`Engine::pass`]). Having changed what it answers, it calls [`Engine::barrier`]: afterwards no thread
//! has a packet left that was steered in the old way.
//!
//! # Relays
//!
//! A packet that is relayed says so in its header. It is relayed once more, and without the name of an owner
//! before, only if it has come with one: that is how a second chance is declined. Any other
//! [`Inward::Relay`] of such a packet is a drop, counted as [`Reason::Loop`].

mod count;
mod device;
mod engine;
mod gather;
#[cfg(any(test, fuzzing))]
pub mod holds;
mod inward;
mod key;
mod outward;
mod receive;
mod send;
mod socket;
mod widths;

pub use count::{Counts, Reason};
pub use device::{Tun, TunConfig};
pub use engine::Engine;
pub use key::{InstallError, KEYS_MAX, KeyLeft, PACKETS_MAX, PACKETS_WORN, cipher_for, has_aes};

use crate::offload::{Offload, Train};
use godwit_core::packet::Packet;
use godwit_core::tunnel::{Control, KeyId};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// What an engine leaves to the process that follows ([`Engine::leave`]): to be taken up by
/// [`Tun::adopt`] and [`Engine::resume`].
#[derive(Debug)]
pub struct Left {
    /// Its keys.
    pub keys: Vec<KeyLeft>,
    /// The device's queues.
    pub device: Vec<OwnedFd>,
    /// Its sockets.
    pub sockets: Vec<OwnedFd>,
}

/// Who we are in a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// The end that gave the key: seals "to node".
    HomeAgent,
    /// The end that was given it: seals "from node".
    Node,
}

/// What an engine is to be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// What kind of host this is: a node lowers the segment sizes that it announces.
    pub side: Side,
    /// Whether many packets may go in one call. Always, but for measuring what it is worth.
    pub batching: bool,
}

impl Config {
    /// The usual one.
    pub fn new(side: Side) -> Config {
        Config { side, batching: true }
    }
}

/// Decides about packets. Called by several threads at once, for each packet, or for each train of one
/// flow that the kernel has handed over: it must be quick, and must not call the engine but for
/// [`Engine::send`].
pub trait Steer: Send + Sync + 'static {
    /// A packet, or a train of one flow, that came out of the TUN device: at a home agent from a client
    /// to a home address, at a node from a home address.
    fn outward(&self, packet: &Passing<'_>) -> Outward;

    /// An authentic packet that came through the tunnel under `key`. Whether its addresses are ones that
    /// the other end may use, and ours, is asked here and nowhere else. What is said of a packet that is
    /// delivered holds for those that follow it as its train, in the same batch and from the same place.
    fn inward(&self, key: KeyId, from: SocketAddr, packet: &Passing<'_>) -> Inward;
}

/// A packet, or a train of one flow, on its way through.
#[derive(Clone, Copy, Debug)]
pub struct Passing<'a> {
    /// What it says of itself.
    pub packet: Packet,
    /// All of it, from its IP header.
    pub bytes: &'a [u8],
    /// How many packets it is, 1 at least.
    pub count: usize,
    /// From the tunnel: a node has passed it on already.
    pub relayed: bool,
    /// From the tunnel: who owned the client's flows before, by number: the second chance.
    pub before: Option<u16>,
    offload: Offload,
}

impl Passing<'_> {
    /// A copy, for later.
    pub fn keep(&self) -> Kept {
        Kept { bytes: self.bytes.into(), offload: self.offload }
    }
}

/// A packet, or a train of one flow, that was kept for later.
#[derive(Clone, Debug)]
pub struct Kept {
    bytes: Box<[u8]>,
    offload: Offload,
}

impl From<Vec<u8>> for Kept {
    /// A packet that has all its checksums, as it would come from a network.
    fn from(bytes: Vec<u8>) -> Kept {
        Kept { bytes: bytes.into(), offload: Offload::default() }
    }
}

impl Kept {
    /// A packet that has all its checksums, as it would come from a network.
    pub fn whole(packet: &[u8]) -> Kept {
        Kept { bytes: packet.into(), offload: Offload::default() }
    }

    /// All of it, from its IP header.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many packets it is, 1 at least.
    pub fn count(&self) -> usize {
        Train { packet: &self.bytes, offload: self.offload }.count()
    }
}

/// Which way through a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Sealed with this key.
    pub key: KeyId,
    /// To this address.
    pub to: SocketAddr,
    /// Who owned the client's flows before, by number, if that was somebody else.
    pub before: Option<u16>,
    /// It was received from somebody already, and is passed on.
    pub relayed: bool,
}

/// What is to become of a packet that came out of the TUN device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outward {
    /// Into the tunnel.
    Seal {
        /// Sealed with this key.
        key: KeyId,
        /// To this address.
        to: SocketAddr,
        /// Who owned the client's flows before, by number, if that was somebody else.
        before: Option<u16>,
    },
    /// The owner has kept what it wants of it.
    Taken,
    /// Nowhere, for this reason.
    Drop(Reason),
}

/// What is to become of a packet that came through the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inward {
    /// To the kernel.
    Deliver,
    /// On through another tunnel, if it was not relayed before, or is declined.
    Relay {
        /// Sealed with this key.
        key: KeyId,
        /// To this address.
        to: SocketAddr,
        /// The owner before, by number, if it is passed on to have its second chance there.
        before: Option<u16>,
    },
    /// The owner has kept what it wants of it.
    Taken,
    /// Nowhere, for this reason.
    Drop(Reason),
}

/// What an owner has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something authentic and new came: each [`Control`]; of packets four times a second for each key,
    /// and whenever they come from another address than before.
    Heard {
        /// Under which key.
        key: KeyId,
        /// From which address.
        from: SocketAddr,
        /// What was said; `None` for a packet.
        control: Option<Control>,
    },
    /// A key has sealed half of what it may: another is needed.
    Worn(KeyId),
    /// Something else fits into a tunnel than before: see [`Engine::narrowest`].
    Width,
}
