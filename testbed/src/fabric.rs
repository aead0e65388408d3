//! The WAN fabric: one thread that carries every packet between hosts, each with its own delay.
//!
//! ```text
//!  port ──read──▶ destination ──▶ link (src, dst) ──admit──▶ queue by (due, order) ──write──▶ port
//! ```
//!
//! Why in user space: the kernel's own delay line (netem) is a module that many machines lack, and
//! it cannot be made for pairs of hosts without a class for each. One thread that sleeps until the
//! next packet is due carries 200,000 packets a second and is late by 0.1 ms at the median.
//!
//! What it does not do: routers on the way (no TTL is spent, nothing answers `traceroute`), path
//! MTU, congestion shared between pairs.
//!
//! The fabric measures how late it hands packets over. A run on an overloaded machine tells about
//! the machine and not about godwit; [`Report::valid`] says whether it can be trusted.

mod anycast;
mod engine;
mod lateness;
mod pcap;
mod switch;

pub use anycast::Announcement;
pub use engine::{Fabric, FabricHandle};
pub use lateness::Lateness;
pub use switch::{Departure, Switch};

use crate::address::Side;
use godwit_sim::link::Profile;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// At this lateness of the 99th percentile a run is no longer valid: it is more than what a person
/// would call the error of a delay, and the smallest path of a testbed is 1 ms long.
pub const LATENESS_MAX: Duration = Duration::from_millis(1);

/// What the fabric has done so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Packets handed over.
    pub delivered: u64,
    /// Bytes handed over.
    pub delivered_bytes: u64,
    /// Packets lost on purpose: by `--loss` or `degrade`.
    pub lost: u64,
    /// Packets dropped at a cut.
    pub cut: u64,
    /// Packets dropped because the queue before a rate was full.
    pub queue_full: u64,
    /// Packets to addresses that no host has.
    pub nowhere: u64,
    /// Packets from addresses that were not the sending host's, dropped where that is asked for.
    #[serde(default)]
    pub filtered: u64,
    /// Packets dropped because too many were under way, or a host could not take more: the
    /// fabric's own fault.
    pub overflow: u64,
    /// Packets under way now.
    pub under_way: u64,
    /// How late packets were handed over: half of them at most this, µs.
    pub late_p50_us: u64,
    /// 99 of 100 at most this, µs.
    pub late_p99_us: u64,
    /// The worst, µs.
    pub late_max_us: u64,
    /// Whether the fabric's thread runs before all ordinary ones.
    pub real_time: bool,
    /// Whether delays were kept well enough to believe what was measured.
    pub valid: bool,
}

/// A change to one directed link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkChange {
    /// The sending host.
    pub from: u16,
    /// The receiving host.
    pub to: u16,
    /// What the link is like from now on.
    pub profile: Profile,
}

/// A host gets another address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The host.
    pub host: u16,
    /// Its side of the address plan.
    pub side: Side,
    /// Region and number before.
    pub from: (u8, u8),
    /// Region and number from now on.
    pub to: (u8, u8),
}
