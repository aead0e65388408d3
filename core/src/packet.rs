//! IP packets as home agents and nodes see them: whose flow they belong to, and the little that is
//! changed in them on the way.
//!
//! Nothing is allocated and nothing is trusted: a length is checked before it is used, and what
//! contradicts itself is an error. IPv4 (RFC 791) and IPv6 (RFC 8200); of extension headers those
//! that hosts send are passed over.

pub mod checksum;
pub mod ecn;
pub mod edit;
mod icmp;
pub mod parse;
pub mod too_big;
pub mod unreachable;

pub use edit::{Expired, clamp_mss, decrement_hops};
pub use parse::{Fragment, Packet, PacketError};
pub use too_big::too_big;
pub use unreachable::unreachable;

/// The number of ICMP (RFC 792).
pub const ICMP: u8 = 1;
/// The number of TCP (RFC 9293).
pub const TCP: u8 = 6;
/// The number of UDP (RFC 768).
pub const UDP: u8 = 17;
/// The number of ICMPv6 (RFC 4443).
pub const ICMP6: u8 = 58;

#[cfg(test)]
pub(crate) mod samples;
