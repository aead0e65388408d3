//! What a person may ask of the testbed. The command line builds these; everything has a default.

use godwit_core::name::ZoneName;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The most regions of one testbed, regions that only have clients included: each is one /24 of
/// 198.18.0.0/15, and beyond that count the machine, not the address plan, is the limit.
pub const REGION_COUNT_MAX: usize = 250;

/// The most hosts of each kind in one region: the last octet of an address, less what is spare.
pub const HOSTS_PER_REGION_MAX: usize = 50;

/// How the hosts of a testbed are joined to its fabric.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortKind {
    /// The best that this machine allows: `Tun`, then `Packet`, then `Loopback`.
    #[default]
    Auto,
    /// TUN devices: the fastest. Needs access to `/dev/net/tun`.
    Tun,
    /// veth pairs and packet sockets: works wherever a user namespace can be made.
    Packet,
    /// No namespaces and no fabric: every host is an address of 127.0.0.0/8, there are no delays
    /// and no faults of the network. The last resort.
    Loopback,
}

/// Which network to bring up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpOptions {
    /// How many regions have nodes, 1 to 250; default 6.
    pub regions: usize,
    /// How many node hosts each of them has, 1 to 50; default 1.
    pub nodes_per_region: usize,
    /// How many client hosts each region has, 1 to 50; default 1.
    pub clients_per_region: usize,
    /// How many more regions have clients only; default 0.
    pub client_regions: usize,
    /// A measured matrix to take regions and round-trip times from; default the embedded cities
    /// and a model of their round-trip times.
    pub matrix: Option<PathBuf>,
    /// Decides which regions are taken and everything else that is drawn; default 0. One seed, one
    /// network.
    pub seed: u64,
    /// Limits each direction between two hosts, Mbit/s; default unlimited.
    pub rate_mbit: Option<f64>,
    /// The same round-trip time between any two hosts, ms, in place of the matrix's.
    pub rtt_ms: Option<f64>,
    /// The share of packets lost in each direction between regions, per cent; default 0.
    pub loss_percent: f64,
    /// The share of client prefixes that the GeoIP database puts into a wrong city, per cent;
    /// default 0. Real databases are wrong too.
    pub geoip_wrong_percent: f64,
    /// Whether nodes measure the resolvers that ask without a client subnet, every ten seconds in place
    /// of ten minutes; default no.
    pub probe_resolvers: bool,
    /// The zone of the network; default `testbed.example`.
    pub zone: ZoneName,
    /// How hosts are joined to the fabric; default the best that this machine allows.
    pub ports: PortKind,
    /// Write what passes the fabric to `fabric.pcap` in the testbed's directory; default no.
    pub pcap: bool,
}

impl Default for UpOptions {
    fn default() -> UpOptions {
        UpOptions {
            regions: 6,
            nodes_per_region: 1,
            clients_per_region: 1,
            client_regions: 0,
            matrix: None,
            seed: 0,
            rate_mbit: None,
            rtt_ms: None,
            loss_percent: 0.0,
            geoip_wrong_percent: 0.0,
            probe_resolvers: false,
            zone: "testbed.example".parse().expect("a valid zone name"),
            ports: PortKind::Auto,
            pcap: false,
        }
    }
}

/// An option is out of its range, or does not go together with another: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadOption(pub String);

impl UpOptions {
    /// Checks every number against its range.
    pub fn check(&self) -> Result<(), BadOption> {
        let fail = |text: String| Err(BadOption(text));
        if self.regions == 0 || self.regions + self.client_regions > REGION_COUNT_MAX {
            return fail(format!("a testbed has 1 to {REGION_COUNT_MAX} regions, client regions included"));
        }
        for (name, count) in [("nodes", self.nodes_per_region), ("clients", self.clients_per_region)] {
            if count == 0 || count > HOSTS_PER_REGION_MAX {
                return fail(format!("a region has 1 to {HOSTS_PER_REGION_MAX} {name}"));
            }
        }
        for (name, percent) in [("loss", self.loss_percent), ("GeoIP errors", self.geoip_wrong_percent)] {
            if !(0.0..=100.0).contains(&percent) {
                return fail(format!("{name}: {percent} is not between 0 and 100 per cent"));
            }
        }
        if let Some(rate) = self.rate_mbit
            && !(0.001..=1_000_000.0).contains(&rate)
        {
            return fail(format!("a rate of {rate} Mbit/s is not between 0.001 and 1,000,000"));
        }
        if let Some(rtt) = self.rtt_ms
            && !(0.0..=60_000.0).contains(&rtt)
        {
            return fail(format!("a round-trip time of {rtt} ms is not between 0 and 60,000"));
        }
        Ok(())
    }
}

/// How to change one path of a running testbed; `None` leaves a property as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Degrade {
    /// Added to the delay of each direction, ms.
    pub delay_ms: Option<f64>,
    /// Share of packets lost in each direction, per cent.
    pub loss_percent: Option<f64>,
    /// Rate of each direction, Mbit/s.
    pub rate_mbit: Option<f64>,
}

/// What to do to a running testbed. Hosts are named by their name, or by their region for all of
/// its hosts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Fault {
    /// Kills the host's godwit process (SIGKILL), as a crash does.
    Kill {
        /// Which host.
        host: String,
    },
    /// Stops the host's godwit process in order (SIGTERM), and waits for its end.
    Stop {
        /// Which host.
        host: String,
    },
    /// Starts the host's godwit process again.
    Start {
        /// Which host.
        host: String,
    },
    /// Cuts the paths between `a` and `b`, or all paths of `a`.
    Cut {
        /// One end.
        a: String,
        /// The other end; all hosts when absent.
        b: Option<String>,
    },
    /// Takes back what `Cut` and `Degrade` did to these paths, or to all when both are absent.
    Heal {
        /// One end.
        a: Option<String>,
        /// The other end.
        b: Option<String>,
    },
    /// Makes the paths between `a` and `b` worse.
    Degrade {
        /// One end.
        a: String,
        /// The other end; all hosts when absent.
        b: Option<String>,
        /// How.
        #[serde(flatten)]
        how: Degrade,
    },
}
