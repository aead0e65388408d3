//! A client, a home agent and a node, each in a network namespace, with cables between them.
//!
//! ```text
//!  client 10.1.0.2 ──── 10.1.0.1 home agent 10.2.0.1 ──── 10.2.0.2 node
//!         fd01::2         fd01::1           fd02::1         fd02::2
//!                      203.0.113.80, fd80::80 ═══ tunnel ═══▶ here
//! ```

use godwit_core::tunnel::{Cipher, KeyId, TunnelKey};
use godwit_net::namespace::NetworkNamespace;
use godwit_net::netlink::{LinkSettings, Netlink, Route, Rule, interface_index};
use godwit_net::tunnel::{
    Config, Engine, Event, Inward, Outward, Passing, Reason, Side, Steer, Tun, TunConfig,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

pub(crate) const HOME_V4: &str = "203.0.113.80";
pub(crate) const HOME_V6: &str = "fd80::80";
pub(crate) const KEY: KeyId = KeyId(7);
pub(crate) const MTU: u16 = 1420;
const TABLE: u32 = 0x6777;

pub(crate) struct Cables {
    pub(crate) client: NetworkNamespace,
    pub(crate) home_agent: NetworkNamespace,
    pub(crate) node: NetworkNamespace,
}

/// Lays the cables and gives everybody addresses and routes.
pub(crate) fn cables() -> Cables {
    let host = || NetworkNamespace::create(|_| up("lo", &[])).unwrap().0;
    let (client, home_agent, node) = (host(), host(), host());
    home_agent
        .run(|| {
            let mut netlink = Netlink::open()?;
            netlink.add_veth("c", "h", client.as_fd())?;
            netlink.add_veth("n", "h", node.as_fd())?;
            up("c", &["10.1.0.1", "fd01::1"])?;
            up("n", &["10.2.0.1", "fd02::1"])?;
            for other in ["10.1.0.2", "fd01::2"] {
                netlink.add_route(&on_link(other, interface_index("c")?))?;
            }
            for other in ["10.2.0.2", "fd02::2"] {
                netlink.add_route(&on_link(other, interface_index("n")?))?;
            }
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        })
        .unwrap();
    client.run(|| leaf(["10.1.0.2", "fd01::2"], ["10.1.0.1", "fd01::1"])).unwrap();
    node.run(|| leaf(["10.2.0.2", "fd02::2"], ["10.2.0.1", "fd02::1"])).unwrap();
    Cables { client, home_agent, node }
}

fn leaf(own: [&str; 2], routers: [&str; 2]) -> std::io::Result<()> {
    up("h", &own)?;
    let (mut netlink, index) = (Netlink::open()?, interface_index("h")?);
    for (router, all) in routers.into_iter().zip(["0.0.0.0/0", "::/0"]) {
        netlink.add_route(&on_link(router, index))?;
        let gateway = Some(ip(router));
        netlink.add_route(&Route { destination: all.parse().unwrap(), interface: index, gateway })?;
    }
    Ok(())
}

pub(crate) fn on_link(address: &str, interface: u32) -> Route {
    Route { destination: ip(address).into(), interface, gateway: None }
}

fn up(name: &str, addresses: &[&str]) -> std::io::Result<()> {
    // No waiting until addresses are found to be nobody else's.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_dad"), "0");
    let mut netlink = Netlink::open()?;
    let index = interface_index(name)?;
    netlink.set_up(index, LinkSettings::default())?;
    addresses.iter().try_for_each(|address| netlink.add_address(index, ip(address)))
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Sends everything for the home addresses to the node.
struct HomeAgent {
    node: SocketAddr,
}

impl Steer for HomeAgent {
    fn outward(&self, packet: &Passing<'_>) -> Outward {
        match is_home(packet.packet.destination) {
            true => Outward::Seal { key: KEY, to: self.node, before: Some(3) },
            false => Outward::Drop(Reason::Unserved),
        }
    }

    fn inward(&self, _: KeyId, _: SocketAddr, packet: &Passing<'_>) -> Inward {
        match is_home(packet.packet.source) {
            true => Inward::Deliver,
            false => Inward::Drop(Reason::Foreign),
        }
    }
}

/// Takes packets for the home addresses, and sends what comes from them back through the tunnel.
struct Node {
    home_agent: SocketAddr,
}

impl Steer for Node {
    fn outward(&self, packet: &Passing<'_>) -> Outward {
        match is_home(packet.packet.source) {
            true => Outward::Seal { key: KEY, to: self.home_agent, before: None },
            false => Outward::Drop(Reason::Foreign),
        }
    }

    fn inward(&self, _: KeyId, _: SocketAddr, packet: &Passing<'_>) -> Inward {
        match is_home(packet.packet.destination) {
            true => Inward::Deliver,
            false => Inward::Drop(Reason::Foreign),
        }
    }
}

pub(crate) fn is_home(address: IpAddr) -> bool {
    const V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);
    const V6: Ipv6Addr = Ipv6Addr::new(0xfd80, 0, 0, 0, 0, 0, 0, 0x80);
    address == V4 || address == V6
}

pub(crate) fn key() -> TunnelKey {
    TunnelKey { id: KEY, to_node: [1; 32], from_node: [2; 32] }
}

/// One end of the tunnel.
pub(crate) struct End {
    pub(crate) tun: Arc<Tun>,
    pub(crate) engine: Engine,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) address: SocketAddr,
    /// Its threads, by the numbers that the kernel gave them.
    #[allow(dead_code, reason = "asked for by the measurement only")]
    pub(crate) threads: Vec<u32>,
}

/// Which way what comes from the home addresses goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Return {
    /// As everything else.
    Direct,
    /// Back through the tunnel.
    Reverse,
}

impl End {
    /// Waits for an event like this, and does something as long as there is none.
    pub(crate) fn hear(&mut self, is_it: impl Fn(&Event) -> bool, meanwhile: impl Fn()) -> Event {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match self.events.try_recv() {
                Ok(event) if is_it(&event) => return event,
                Ok(_) => {}
                Err(_) => {
                    meanwhile();
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            assert!(Instant::now() < deadline, "no such event: {:?}", self.engine.counts());
        }
    }
}

pub(crate) struct World {
    pub(crate) cables: Cables,
    pub(crate) home_agent: End,
    pub(crate) node: End,
}

/// Engines at both ends, over IPv4 or IPv6, with the home addresses at the node.
pub(crate) fn world(outer_v6: bool, cipher: Cipher, batching: bool, back: Return) -> World {
    world_by_way_of(None, outer_v6, cipher, batching, back)
}

/// The same, with the home agent sending to somewhere else than to the node.
pub(crate) fn world_by_way_of(
    tap: Option<SocketAddr>,
    outer_v6: bool,
    cipher: Cipher,
    batching: bool,
    back: Return,
) -> World {
    let cables = cables();
    let outer = if outer_v6 { ["fd02::1", "fd02::2"] } else { ["10.2.0.1", "10.2.0.2"] };
    let [at_home_agent, at_node] = outer.map(|address| SocketAddr::new(ip(address), 4191));
    let home_agent = cables
        .home_agent
        .run(|| {
            let steer = Arc::new(HomeAgent { node: tap.unwrap_or(at_node) });
            let end = end(at_home_agent, Side::HomeAgent, batching, steer);
            for home in [HOME_V4, HOME_V6] {
                Netlink::open()?.add_route(&on_link(home, end.tun.index()))?;
            }
            Ok(end)
        })
        .unwrap();
    let node = cables
        .node
        .run(|| {
            let end = end(at_node, Side::Node, batching, Arc::new(Node { home_agent: at_home_agent }));
            let mut netlink = Netlink::open()?;
            for home in [HOME_V4, HOME_V6].map(ip) {
                netlink.add_address(end.tun.index(), home)?;
                if back == Return::Direct {
                    continue;
                }
                netlink.set_way_out(TABLE, home, end.tun.index(), 1360)?;
                netlink.add_rule(&Rule { priority: 5200, from: home, mark: 0, table: TABLE })?;
            }
            Ok(end)
        })
        .unwrap();
    for (end, side) in [(&home_agent, Side::HomeAgent), (&node, Side::Node)] {
        end.engine.install(key(), side, cipher, MTU).unwrap();
    }
    World { cables, home_agent, node }
}

pub(crate) fn end(at: SocketAddr, side: Side, batching: bool, steer: Arc<dyn Steer>) -> End {
    let queues = if batching { 2 } else { 1 };
    let tun = TunConfig { offloads: batching, queues, ..TunConfig::new("gw0", MTU) };
    let tun = Arc::new(Tun::create(&tun).unwrap());
    let config = Config { batching, ..Config::new(side) };
    let socket = UdpSocket::bind(at).unwrap();
    let before = threads();
    let (engine, events) = Engine::start(config, tun.clone(), vec![socket], steer).unwrap();
    let threads = threads().into_iter().filter(|thread| !before.contains(thread)).collect();
    End { tun, engine, events, address: at, threads }
}

fn threads() -> Vec<u32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Waits until it is so.
pub(crate) fn wait(is_so: impl Fn() -> bool, end: &End) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "{:?}", end.engine.counts());
        std::thread::sleep(Duration::from_micros(200));
    }
}
