//! The redirector's part of a configuration file.

use godwit_dns_plugin::Options;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// How the redirector listens and answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses to answer on, each over UDP and TCP. Default: port 53 on all addresses. On a host
    /// with several addresses list them one by one: a socket on all addresses may answer from
    /// another than the one that was asked.
    pub listen: Vec<SocketAddr>,
    /// UDP sockets per address; 0 (the default) makes one for each processor.
    pub workers: usize,
    /// Seconds that an answer chosen by the map may be kept. Default 5: how long a dead replica is
    /// believed in; the load on the redirector falls as it grows.
    pub ttl_secs: u32,
    /// Seconds that names of members and name servers may be kept. Default 60.
    pub ttl_static_secs: u32,
    /// Limits against abuse.
    pub limits: Limits,
}

/// What one source, and all together, may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// UDP replies per second and source prefix (IPv4 /24, IPv6 /56); bursts of twice that. 0 turns
    /// the limit off. Default 1,000: a large public resolver's share of one small zone is below it,
    /// and a forged flood gets at most about 100 kB/s out of it.
    pub replies_per_second: u32,
    /// Beyond the limit every so-manieth reply goes out truncated, and the others not at all.
    /// 0 sends none. Default 2.
    pub slip: u32,
    /// So many source prefixes are counted apart. Default 65,536 (2 MiB).
    pub prefixes_max: usize,
    /// TCP connections at a time. Default 1,024.
    pub tcp_connections_max: usize,
    /// TCP connections at a time from one source prefix (IPv4 /24, IPv6 /56). Default 64.
    pub tcp_connections_per_prefix_max: usize,
    /// Seconds a TCP connection may be silent, or take for one query. Default 10.
    pub tcp_idle_secs: u32,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: vec![(Ipv4Addr::UNSPECIFIED, 53).into(), (Ipv6Addr::UNSPECIFIED, 53).into()],
            workers: 0,
            ttl_secs: 5,
            ttl_static_secs: 60,
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            replies_per_second: 1000,
            slip: 2,
            prefixes_max: 65_536,
            tcp_connections_max: 1024,
            tcp_connections_per_prefix_max: 64,
            tcp_idle_secs: 10,
        }
    }
}

impl Config {
    /// How answers are made.
    pub fn options(&self) -> Options {
        let seconds = |count: u32| Duration::from_secs(count.into());
        Options { ttl: seconds(self.ttl_secs), ttl_static: seconds(self.ttl_static_secs) }
    }

    /// At least one, and not more than a machine has use for.
    pub(crate) fn workers(&self) -> usize {
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
        if self.workers == 0 { processors.min(64) } else { self.workers.min(64) }
    }
}

impl Limits {
    pub(crate) fn tcp_idle(&self) -> Duration {
        Duration::from_secs(self.tcp_idle_secs.max(1).into())
    }
}
