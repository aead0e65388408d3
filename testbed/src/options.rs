//! What a person may ask of the testbed: the command line itself, and what goes to a running one.
//! Everything has a default, which stands here and nowhere else.

use clap::{Args, Parser, ValueEnum};
use godwit_core::name::ZoneName;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The most regions of one testbed, regions that only have clients included: each is one /24 of
/// 198.18.0.0/15, and beyond that count the machine, not the address plan, is the limit.
pub const REGION_COUNT_MAX: usize = 250;

/// The most hosts of each kind in one region: the last octet of an address, less what is spare.
pub const HOSTS_PER_REGION_MAX: usize = 50;

/// How the hosts of a testbed are joined to its fabric.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PortKind {
    /// The best that this machine allows: `tun`, then `packet`, then `loopback`
    #[default]
    Auto,
    /// TUN devices: the fastest, where `/dev/net/tun` may be opened
    Tun,
    /// veth pairs and packet sockets: works wherever a user namespace can be made
    Packet,
    /// No namespaces: every host is an address of 127.0.0.0/8, without delays and faults
    Loopback,
}

/// Which network to bring up. This is the command line too; what a person types is documented here.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpOptions {
    /// Regions with nodes
    ///
    /// 1 to 250, client regions included.
    #[arg(long, value_name = "N", default_value_t = 6)]
    pub regions: usize,
    /// Nodes in each of them
    ///
    /// 1 to 50.
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub nodes_per_region: usize,
    /// Clients in each region
    ///
    /// 1 to 50.
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub clients_per_region: usize,
    /// Home agents, each in a region of its own
    ///
    /// 0 to the number of regions. They announce home addresses of 198.18.255.0/24 and fd67:7764:3000::/112.
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub home_agents: usize,
    /// More regions, with clients only
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub client_regions: usize,
    /// Measured round-trip times to use [default: built-in cities and a model of their times]
    #[arg(long, value_name = "CSV")]
    pub matrix: Option<PathBuf>,
    /// Decides everything that is drawn: one seed, one network
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// Rate of each direction between two hosts [default: unlimited]
    #[arg(long = "rate", value_name = "MBIT/S")]
    pub rate_mbit: Option<f64>,
    /// One round-trip time between any two hosts, in place of the matrix
    #[arg(long = "rtt", value_name = "MS")]
    pub rtt_ms: Option<f64>,
    /// Packets lost in each direction between regions
    #[arg(long = "loss", value_name = "PERCENT", default_value_t = 0.0)]
    pub loss_percent: f64,
    /// Clients that the GeoIP database has in a wrong city
    ///
    /// Real databases are wrong too.
    #[arg(long = "geoip-wrong", value_name = "PERCENT", default_value_t = 0.0)]
    pub geoip_wrong_percent: f64,
    /// Nodes measure the resolvers that ask without a client subnet, every ten seconds
    ///
    /// In place of ten minutes.
    #[arg(long)]
    pub probe_resolvers: bool,
    /// The zone
    #[arg(long, default_value = "testbed.example")]
    pub zone: ZoneName,
    /// How hosts are joined to the network [default: the best that this machine allows]
    #[arg(long, value_enum, default_value_t = PortKind::Auto)]
    pub ports: PortKind,
    /// Record every packet to fabric.pcap in the testbed's directory
    #[arg(long)]
    pub pcap: bool,
}

/// What the command line has when nothing is typed.
impl Default for UpOptions {
    fn default() -> UpOptions {
        #[derive(Parser)]
        struct Nothing {
            #[command(flatten)]
            options: UpOptions,
        }
        Nothing::parse_from(["testbed"]).options
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
        if self.home_agents > self.regions {
            return fail(format!(
                "{} home agents where there are {} regions",
                self.home_agents, self.regions
            ));
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
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
// The command that takes these has a group of this name.
#[group(skip)]
pub struct Degrade {
    /// Added to the delay of each direction
    #[arg(long = "delay", value_name = "MS")]
    pub delay_ms: Option<f64>,
    /// Share of packets lost in each direction
    #[arg(long = "loss", value_name = "PERCENT")]
    pub loss_percent: Option<f64>,
    /// Rate of each direction
    #[arg(long = "rate", value_name = "MBIT/S")]
    pub rate_mbit: Option<f64>,
}

impl Degrade {
    /// Checks every number against its range.
    pub fn check(&self) -> Result<(), BadOption> {
        let beyond = |value: Option<f64>, range: std::ops::RangeInclusive<f64>| {
            value.is_some_and(|value| !range.contains(&value))
        };
        let fail = |text: &str| Err(BadOption(text.to_owned()));
        if beyond(self.delay_ms, 0.0..=60_000.0) {
            return fail("a further delay is 0 to 60,000 ms");
        }
        if beyond(self.loss_percent, 0.0..=100.0) {
            return fail("loss is 0 to 100 per cent");
        }
        if beyond(self.rate_mbit, 0.001..=1_000_000.0) {
            return fail("a rate is 0.001 to 1,000,000 Mbit/s");
        }
        Ok(())
    }
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
    /// Moves a host to another region, where it has another address; the one before is nobody's.
    Roam {
        /// Which host.
        host: String,
        /// Its new region.
        to: String,
    },
    /// Lets out of a host only packets that come from its own address, as networks with BCP 38 do.
    Filter {
        /// Which host.
        host: String,
        /// Whether all are let out again.
        off: bool,
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
