//! Hosts as network namespaces, joined to the fabric.

use crate::address::HostTable;
use crate::fabric::{Fabric, LinkChange, Switch};
use crate::options::{PortKind, UpOptions};
use crate::topology::{Role, Topology};
use anyhow::Context;
use godwit_net::namespace::{self, NetworkNamespace};
use godwit_net::port::{Ipv6, Port};
use godwit_sim::link::Profile;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

/// Buffers that let one TCP connection fill 1 Gbit/s over 150 ms, bytes; the kernel's default
/// ends at a third of that.
const TCP_BUFFER_MAX: u64 = 32 << 20;

/// The namespaces of all hosts, in the topology's order, and the fabric between them.
pub(super) struct Hosts {
    pub(super) namespaces: Vec<NetworkNamespace>,
    pub(super) fabric: Fabric,
    pub(super) ipv6: Ipv6,
    pub(super) kind: PortKind,
    /// The outer ends of veth pairs live here.
    _middle: Option<NetworkNamespace>,
}

/// What the process may do about networks, after trying.
#[derive(Clone, Debug)]
pub(super) struct Mode {
    /// Never `Auto`; when it is `Tun`, `Packet` may still be tried.
    pub(super) kind: PortKind,
    /// Whether another kind than the asked one will do.
    pub(super) may_fall_back: bool,
    /// Why there are no namespaces, if so.
    pub(super) why_loopback: Option<String>,
}

/// Gets the process the right to make namespaces. It must have a single thread.
pub(super) fn prepare_process(wanted: PortKind) -> anyhow::Result<Mode> {
    let may_fall_back = wanted == PortKind::Auto;
    let kind = if may_fall_back { PortKind::Tun } else { wanted };
    if kind == PortKind::Loopback {
        let why = "asked for";
        return Ok(Mode { kind, may_fall_back, why_loopback: Some(why.into()) });
    }
    let allowed = namespace::is_root() && NetworkNamespace::create(|_| Ok(())).is_ok();
    match if allowed { Ok(()) } else { namespace::become_root_in_user_namespace() } {
        Ok(()) => Ok(Mode { kind, may_fall_back, why_loopback: None }),
        Err(error) if may_fall_back => {
            let why = format!("this machine lets this user make no namespaces: {error}");
            Ok(Mode { kind: PortKind::Loopback, may_fall_back, why_loopback: Some(why) })
        }
        Err(error) => Err(error).context("this machine lets this user make no namespaces"),
    }
}

impl Hosts {
    /// Makes all hosts and starts the fabric.
    pub(super) fn create(
        topology: &Topology,
        options: &UpOptions,
        mode: &Mode,
        capture: Option<&Path>,
    ) -> anyhow::Result<Hosts> {
        let (made, kind) = match (mode.kind, create_ports(topology, mode.kind)) {
            (PortKind::Tun, Err(_)) if mode.may_fall_back => {
                (create_ports(topology, PortKind::Packet), PortKind::Packet)
            }
            (kind, made) => (made, kind),
        };
        let made = made.context("cannot make a host's network")?;
        let mut table = HostTable::new();
        for (number, host) in topology.hosts.iter().enumerate() {
            table.insert(host.role.side(), host.region as u8, host.number, number as u16);
        }
        let mut switch = Switch::new(topology.hosts.len(), table, options.seed);
        for change in Paths::new(topology, options).all() {
            switch.change(change);
        }
        let fabric = Fabric::start(switch, made.ports, capture)?;
        Ok(Hosts { namespaces: made.namespaces, fabric, ipv6: made.ipv6, kind, _middle: made.middle })
    }
}

struct Made {
    namespaces: Vec<NetworkNamespace>,
    ports: Vec<Port>,
    ipv6: Ipv6,
    middle: Option<NetworkNamespace>,
}

fn create_ports(topology: &Topology, kind: PortKind) -> io::Result<Made> {
    let mut made = Made { namespaces: Vec::new(), ports: Vec::new(), ipv6: Ipv6::Present, middle: None };
    if kind == PortKind::Packet {
        made.middle = Some(NetworkNamespace::create(|_| Ok(()))?.0);
    }
    for (number, host) in topology.hosts.iter().enumerate() {
        let addresses = [IpAddr::V4(host.addr4), IpAddr::V6(host.addr6)];
        let (namespace, port, ipv6) = match &made.middle {
            None => {
                let (namespace, (port, ipv6)) = NetworkNamespace::create(|_| {
                    tune(host.role);
                    Port::tun(&addresses)
                })?;
                (namespace, port, ipv6)
            }
            Some(middle) => {
                let (namespace, ()) = NetworkNamespace::create(|_| {
                    tune(host.role);
                    Ok(())
                })?;
                let (port, ipv6) = middle.run(|| Port::packet(&namespace, number as u16, &addresses))?;
                (namespace, port, ipv6)
            }
        };
        made.namespaces.push(namespace);
        made.ports.push(port);
        if ipv6 == Ipv6::Absent {
            made.ipv6 = ipv6;
        }
    }
    Ok(made)
}

/// Settings of the calling thread's namespace. A kernel that lacks one does without it.
fn tune(role: Role) {
    for (setting, default) in [("tcp_rmem", 131_072), ("tcp_wmem", 65_536)] {
        let value = format!("4096 {default} {TCP_BUFFER_MAX}");
        let _ = std::fs::write(format!("/proc/sys/net/ipv4/{setting}"), value);
    }
    // What a host learns about one path must not speed up or slow down the next measurement.
    let _ = std::fs::write("/proc/sys/net/ipv4/tcp_no_metrics_save", "1");
    let _ = std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
    // Packets come out of a tunnel that answers do not go into.
    for interface in ["all", "default"] {
        let _ = std::fs::write(format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter"), "0");
    }
    if role == Role::HomeAgent {
        let _ = std::fs::write("/proc/sys/net/ipv4/ip_forward", "1");
        let _ = std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1");
    }
}

/// What the paths between hosts are like when nothing is wrong.
pub(super) struct Paths<'a> {
    topology: &'a Topology,
    loss: f64,
    rate_bps: Option<u64>,
}

impl<'a> Paths<'a> {
    pub(super) fn new(topology: &'a Topology, options: &UpOptions) -> Paths<'a> {
        let rate_bps = options.rate_mbit.map(|mbit| (mbit * 1e6) as u64);
        Paths { topology, loss: options.loss_percent / 100.0, rate_bps }
    }

    /// One directed path.
    pub(super) fn profile(&self, from: usize, to: usize) -> Profile {
        let (a, b) = (self.topology.hosts[from].region, self.topology.hosts[to].region);
        let rtt_ms = self.topology.rtt_ms(a, b);
        Profile {
            delay: Duration::from_secs_f64(rtt_ms / 2000.0),
            loss: if a == b { 0.0 } else { self.loss },
            rate_bps: self.rate_bps,
            // The bandwidth-delay product, so that a loss-based sender can fill the path, and at
            // least what a usual router has.
            queue_len_max: queue_len(self.rate_bps, rtt_ms),
            ..Profile::default()
        }
    }

    fn all(&self) -> impl Iterator<Item = LinkChange> + '_ {
        let hosts = self.topology.hosts.len();
        (0..hosts).flat_map(move |from| {
            (0..hosts).map(move |to| LinkChange {
                from: from as u16,
                to: to as u16,
                profile: self.profile(from, to),
            })
        })
    }
}

pub(super) fn queue_len(rate_bps: Option<u64>, rtt_ms: f64) -> u64 {
    let product = rate_bps.unwrap_or(0) as f64 / 8.0 * rtt_ms / 1000.0;
    (product as u64).max(Profile::default().queue_len_max)
}
