//! A router in the middle with a cable to everybody.
//!
//! ```text
//!  client 10.1.0.2, 10.(20…).0.2 ──┐            ┌── home agents 10.2.k.2
//!         fd01::2                  ├── router ──┤
//!  home address ─▶ a home agent ───┘            └── nodes 10.3.k.2
//! ```

use godwit_net::namespace::NetworkNamespace;
use godwit_net::netlink::{LinkSettings, Netlink, Route, interface_index};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

pub(crate) const HOME_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);
pub(crate) const HOME_V6: Ipv6Addr = Ipv6Addr::new(0xfd80, 0, 0, 0, 0, 0, 0, 0x80);
/// The client has an address in so many networks besides.
pub(crate) const CLIENTS: u8 = 12;

/// Hosts and cables.
pub(crate) struct Net {
    router: NetworkNamespace,
    pub(crate) client: NetworkNamespace,
    hosts: Vec<(String, NetworkNamespace)>,
}

impl Net {
    pub(crate) fn new(home_agents: u8, nodes: u8) -> Net {
        let (router, ()) = NetworkNamespace::create(|_| {
            up("lo", &[])?;
            forward()
        })
        .unwrap();
        let mut net = Net { router, client: host(), hosts: Vec::new() };
        let clients = (0..CLIENTS).map(|n| format!("10.{}.0.2", 20 + n));
        let own: Vec<String> = ["10.1.0.2".into(), "fd01::2".into()].into_iter().chain(clients).collect();
        net.cable("client", &net.client, &own, ["10.1.0.1", "fd01::1"]);
        (0..home_agents).for_each(|n| net.add(&format!("ha{n}"), 2, n));
        (0..nodes).for_each(|n| net.add(&format!("node{n}"), 3, n));
        net
    }

    fn add(&mut self, name: &str, kind: u8, n: u8) {
        let namespace = host();
        let own = [format!("10.{kind}.{n}.2"), format!("fd0{kind}:{n}::2")];
        let router = [format!("10.{kind}.{n}.1"), format!("fd0{kind}:{n}::1")];
        self.cable(name, &namespace, &own, [&router[0], &router[1]]);
        namespace.run(forward).unwrap();
        self.hosts.push((name.to_owned(), namespace));
    }

    fn cable(&self, name: &str, leaf: &NetworkNamespace, own: &[String], routers: [&str; 2]) {
        self.router
            .run(|| {
                let mut netlink = Netlink::open()?;
                netlink.add_veth(name, "up", leaf.as_fd())?;
                up(name, &routers)?;
                let index = interface_index(name)?;
                own.iter().try_for_each(|own| netlink.add_route(&on_link(own, index)))
            })
            .unwrap();
        leaf.run(|| {
            let own: Vec<&str> = own.iter().map(String::as_str).collect();
            up("up", &own)?;
            let (mut netlink, interface) = (Netlink::open()?, interface_index("up")?);
            for (router, all) in routers.into_iter().zip(["0.0.0.0/0", "::/0"]) {
                netlink.add_route(&on_link(router, interface))?;
                let gateway = Some(router.parse().unwrap());
                netlink.add_route(&Route { destination: all.parse().unwrap(), interface, gateway })?;
            }
            Ok(())
        })
        .unwrap();
    }

    pub(crate) fn host(&self, name: &str) -> &NetworkNamespace {
        &self.hosts.iter().find(|(host, _)| host == name).unwrap().1
    }

    /// Packets for the home addresses go to this home agent.
    pub(crate) fn route_to(&self, home_agent: u8) {
        self.router
            .run(|| {
                let interface = interface_index(&format!("ha{home_agent}"))?;
                let mut netlink = Netlink::open()?;
                let ways = [
                    (IpAddr::V4(HOME_V4), format!("10.2.{home_agent}.2")),
                    (IpAddr::V6(HOME_V6), format!("fd02:{home_agent}::2")),
                ];
                for (home, gateway) in ways {
                    let gateway = Some(gateway.parse().unwrap());
                    netlink.add_route(&Route { destination: home.into(), interface, gateway })?;
                }
                Ok(())
            })
            .unwrap();
    }
}

fn host() -> NetworkNamespace {
    NetworkNamespace::create(|_| up("lo", &[])).unwrap().0
}

fn forward() -> std::io::Result<()> {
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
}

fn on_link(address: &str, interface: u32) -> Route {
    Route { destination: address.parse::<IpAddr>().unwrap().into(), interface, gateway: None }
}

fn up(name: &str, addresses: &[&str]) -> std::io::Result<()> {
    // No waiting until addresses are found to be nobody else's.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_dad"), "0");
    let mut netlink = Netlink::open()?;
    let index = interface_index(name)?;
    netlink.set_up(index, LinkSettings::default())?;
    addresses.iter().try_for_each(|address| netlink.add_address(index, address.parse().unwrap()))
}
