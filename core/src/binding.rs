//! Bindings: at which care-of addresses a home address is served now.
//!
//! A *home address* is what clients use; it stays. A node that serves it registers its *care-of
//! address* with every *home agent*, which then passes packets for the home address on to it: a
//! *binding*, as in Mobile IPv6 (RFC 6275), with several care-of addresses for each member
//! (RFC 5648) and each of them for several home addresses (after RFC 3963).
//!
//! | machine | at | what it decides |
//! |---|---|---|
//! | [`registration::Registration`] | a node | which binding updates to send to whom, and when again |
//! | [`returns::Returns`] | a node | whether replies may leave directly, or go back through the tunnel |
//! | [`cache::Cache`] | a home agent | which updates to believe, which care-of addresses are proved and alive |
//!
//! Both speak over the members' authenticated streams ([`message`]); what they prove and watch is
//! the tunnel itself ([`path`]): a member that can talk but not receive packets is not used.
//!
//! # What is believed
//!
//! 1. Only members that the authority lets serve a home address may bind it.
//! 2. An update counts once: its [`Order`] must be higher than any accepted before, and it must name
//!    the [`Incarnation`] of the home agent, so that nothing said to an earlier one counts (the
//!    nonce indices of RFC 6275, 5.2.1 do the same).
//! 3. A care-of address is used only after a cookie that was sent there, through the tunnel, came
//!    back under the binding's own key (return routability; RFC 6275, 15.4.1): nobody can aim
//!    traffic at somebody else. At most [`cache::PROOF_TRIES`] packets go to an address that has not
//!    proved itself.
//! 4. A binding ends with its lifetime, its path with three unanswered probes.

pub mod cache;
pub mod message;
mod path;
pub mod registration;
pub mod returns;
#[cfg(test)]
mod tests;

pub use path::Pace;

use crate::key::MemberId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A member binds at most so many home addresses at one care-of address: each costs the home agent
/// one entry in the table that every packet is looked up in.
pub const HOMES_MAX: usize = 64;

/// A member has at most so many care-of addresses: two families on two lines, twice.
pub const CARE_OFS_MAX: usize = 8;

/// A stable address that clients use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HomeAddress(pub IpAddr);

impl fmt::Display for HomeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Tells the care-of addresses of one member apart (BID; RFC 5648, 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BindingId(pub u8);

/// One care-of address of one member, whatever it is at the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Anchor {
    /// Whose.
    pub member: MemberId,
    /// Which.
    pub id: BindingId,
}

/// Where packets for a home address are to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CareOf {
    /// To this address.
    At(SocketAddr),
    /// To where the member's own packets come from: it is behind a translator and does not know
    /// (RFC 5555, 4.4.1 learns it likewise).
    Observed,
}

/// The order of a member's updates. A member keeps its epoch on disk and adds one at each start,
/// *before* its first update; the sequence number starts again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Order {
    /// How often the member was started.
    pub epoch: u32,
    /// How many updates it has sent since.
    pub sequence: u32,
}

/// One life of a home agent: drawn at random when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// How long a binding holds when it is not refreshed.
///
/// Whole seconds. RFC 6275 counts in units of four, which is longer than a crash may go unnoticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lifetime(pub u16);

impl Lifetime {
    /// Ends a binding (RFC 6275, 9.5.4).
    pub const NONE: Lifetime = Lifetime(0);
    /// What a node asks for: a third of it is how often it refreshes.
    pub const DEFAULT: Lifetime = Lifetime(10);
    /// What a home agent grants at the most.
    pub const MAX: Lifetime = Lifetime(300);

    /// As a duration.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0 as u64)
    }
}

/// What a node can do at a care-of address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// The largest inner packet that fits, octets.
    pub mtu: u16,
    /// A probe has shown that the network lets packets out that come from the home address, so
    /// replies need no tunnel.
    pub direct_return: bool,
    /// It computes AES in hardware; otherwise ChaCha20 is faster.
    pub aes: bool,
}

impl Capabilities {
    /// Of an address that went away.
    const NONE: Capabilities =
        Capabilities { mtu: crate::tunnel::INNER_MTU_MIN, direct_return: false, aes: false };
}

/// What a node wants of a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// New flows and old ones.
    Open,
    /// Old flows only.
    Draining,
}
