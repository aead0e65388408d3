//! What a member is made from.

use crate::certificate::MemberCertificate;
use crate::health::Check;
use crate::key::{NetworkId, SecretKey};
use crate::name::ZoneName;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// What a member is made from.
#[derive(Clone, Debug)]
pub struct Config {
    /// The network it belongs to.
    pub network: NetworkId,
    /// The network's zone.
    pub zone: ZoneName,
    /// The member's key.
    pub key: SecretKey,
    /// Why it is a member.
    pub certificate: MemberCertificate,
    /// Counts the member's starts: persisted before this start, and higher than at any before.
    pub incarnation: u64,
    /// Where its randomness comes from: drawn anew at each start.
    pub seed: u64,
    /// What it says of itself.
    pub own: OwnEntry,
    /// All its periods and limits.
    pub timing: Timing,
}

/// The part of a member's roster entry that its shell decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnEntry {
    /// Where peers reach it, best first; at most [`crate::record::ADDRESSES_MAX`] are told.
    pub peer_addresses: Vec<SocketAddr>,
    /// Where clients reach it over IPv4, if they do.
    pub public_v4: Option<Ipv4Addr>,
    /// Where clients reach it over IPv6, if they do.
    pub public_v6: Option<Ipv6Addr>,
    /// Where it serves HTTP, if it does.
    pub http_port: Option<u16>,
    /// The software's version.
    pub software: String,
    /// How its services are to be checked; at most [`crate::health::CHECKS_MAX`] are told, and none
    /// that does not [`validate`](Check::validate).
    pub checks: Vec<Check>,
}

/// Periods, lifetimes and limits of a member. The defaults are chosen so that the death of a
/// member is known everywhere about 2 s later at round-trip times up to 300 ms and 1 % loss, while
/// a process that stands still for a second is not called dead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timing {
    /// How often each monitored peer is pinged; default 500 ms. A peer pings back as often and
    /// answers each ping, so that at least every half second something comes from a live one.
    pub ping_period: Duration,
    /// After this much silence a peer is suspected, at the least; default 1.6 s: a process that
    /// stops for a second is silent for at most that second and one ping period.
    pub silence_min: Duration,
    /// A lossy path is given [`Timing::silence_base`] and twice its round-trip time; default
    /// 1.2 s. Two losses of one packet in a row delay what is behind it by about 1 s and one
    /// round trip (QUIC probe timeouts double from 1.1 round trips).
    pub silence_base: Duration,
    /// So much more silence makes a verdict of the member's own doubt alone, when nobody confirms
    /// it; default 1 s.
    pub silence_alone: Duration,
    /// A peer whose connection has closed is suspected after this long, if that is earlier; default
    /// 800 ms: long enough to connect again.
    pub down_grace: Duration,
    /// A peer that was unreachable must have been heard steadily for this long before it counts as
    /// alive; default 1.5 s. Doubles with each return in [`Timing::flap_memory`], up to
    /// [`Timing::return_max`].
    pub return_after: Duration,
    /// The longest time of probation; default 10 s.
    pub return_max: Duration,
    /// A return is forgotten after this long; default 2 min.
    pub flap_memory: Duration,
    /// How often the own roster entry is refreshed when nothing changes, at the most; default 10 s.
    /// In a large network it is refreshed less often: see [`Timing::refresh_share`].
    pub refresh_period: Duration,
    /// All members together refresh at most one entry per this time; default 100 ms, so 200
    /// members refresh every 20 s. It bounds what heartbeats cost everyone.
    pub refresh_share: Duration,
    /// Two own entries are at least this far apart; default 200 ms.
    pub entry_gap_min: Duration,
    /// How long own soft state holds when it is not refreshed, at the least (three refresh periods
    /// if that is more); default 60 s.
    pub lifetime: Duration,
    /// How often records are reconciled with a random peer; default 2 s.
    pub reconcile_period: Duration,
    /// To how many random peers a new piece of soft state is passed on; default 4. Heads go to all.
    pub fan_out: usize,
    /// Up to this many members everyone is connected with everyone; default 32.
    pub mesh_max: usize,
    /// In a larger network, how many neighbours on the ring a member connects to; default 2.
    pub ring_neighbours: usize,
    /// In a larger network, to how many others a member connects; default 3. As many connect to
    /// it, so that it has about ten peers.
    pub random_neighbours: usize,
    /// At most this many peers are monitored; default 16.
    pub monitored_max: usize,
    /// The first and the longest wait between two attempts to connect; default 500 ms and 15 s.
    pub dial_backoff: (Duration, Duration),
    /// How often client round-trip times are told, at the most; default 10 s.
    pub observations_period: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        Timing {
            ping_period: ms(500),
            silence_min: ms(1600),
            silence_base: ms(1200),
            silence_alone: s(1),
            down_grace: ms(800),
            return_after: ms(1500),
            return_max: s(10),
            flap_memory: s(120),
            refresh_period: s(10),
            refresh_share: ms(100),
            entry_gap_min: ms(200),
            lifetime: s(60),
            reconcile_period: s(2),
            fan_out: 4,
            mesh_max: 32,
            ring_neighbours: 2,
            random_neighbours: 3,
            monitored_max: 16,
            dial_backoff: (ms(500), s(15)),
            observations_period: s(10),
        }
    }
}
