//! A client, a home agent and two nodes, with delays between them.
//!
//! ```text
//!   client ──── home agent ──┬── node 0
//!                            └── node 1      nodes reach each other and the client directly
//! ```
//!
//! Packets of the client go to the owner of their flow, which the home agent knows; in front of each node
//! stands what a node's part for home addresses does: it holds packets, and passes them on.

use godwit_core::flow::FlowKey;
use godwit_core::key::MemberId;
use godwit_net::namespace::NetworkNamespace;
use godwit_net::offload::{Offload, Train};
use godwit_net::poll::{Doorbell, Poll, Timer, monotonic};
use godwit_net::port::{BUFFER_LEN, Buffer, Ipv6, Port};
use godwit_node::handoff::Packets;
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

/// One-way delays: of the client, and of each node, to the home agent.
#[derive(Clone, Copy, Debug)]
pub struct Delays {
    pub client: Duration,
    pub nodes: [Duration; 2],
}

impl Delays {
    pub const NONE: Delays = Delays { client: Duration::ZERO, nodes: [Duration::ZERO; 2] };
}

/// Addresses of one family.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub client: &'static str,
    pub home: &'static str,
    pub nodes: [&'static str; 2],
}

pub const IPV4: Addresses =
    Addresses { client: "198.51.100.1", home: "203.0.113.80", nodes: ["192.0.2.1", "192.0.2.2"] };
pub const IPV6: Addresses =
    Addresses { client: "2001:db8:1::1", home: "2001:db8:2::80", nodes: ["2001:db8:3::1", "2001:db8:3::2"] };

pub struct World {
    pub addresses: Addresses,
    pub client: NetworkNamespace,
    pub nodes: [NetworkNamespace; 2],
    pub net: Arc<Net>,
    thread: Option<thread::JoinHandle<()>>,
}

/// What the router's thread and the nodes' packets share.
pub struct Net {
    home: IpAddr,
    client: IpAddr,
    nodes: [IpAddr; 2],
    delays: Delays,
    state: Mutex<State>,
    bell: Doorbell,
    stop: AtomicBool,
    /// Resets that the client was sent.
    pub resets: AtomicU64,
    /// Who the nodes are, once they are.
    pub members: [OnceLock<MemberId>; 2],
}

struct State {
    ports: [Port; 3],
    /// What is under way: when, and where to.
    queue: BTreeMap<(Duration, u64), (To, Packet)>,
    sent: u64,
    /// Where flows go that no node was given.
    first: usize,
    owners: HashMap<FlowKey, usize>,
    /// In front of each node.
    filters: [HashMap<FlowKey, Filter>; 2],
}

type Packet = (Vec<u8>, Offload);

#[derive(Clone, Copy, Debug)]
enum To {
    Client,
    HomeAgent,
    Node(usize),
    /// Not a packet: from now on the home agent sends the flow there.
    Bind(FlowKey, usize),
}

enum Filter {
    Held(Vec<Packet>),
    PassOn(usize),
    /// It was not taken here: whoever passes it on does not know that yet.
    Refused,
}

impl World {
    /// `None`, and a word, where that cannot be made.
    pub fn new(addresses: Addresses, delays: Delays) -> Option<World> {
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        let (home, client, nodes) =
            (parse(addresses.home), parse(addresses.client), addresses.nodes.map(parse));
        let host = |addresses: Vec<IpAddr>| {
            NetworkNamespace::create(|_| {
                // In a user namespace buffers are not set beyond `net.core.wmem_max`, but begin with this.
                std::fs::write("/proc/sys/net/ipv4/tcp_wmem", "4096 4194304 4194304")?;
                Port::tun(&addresses)
            })
        };
        let made = [vec![client], vec![home, nodes[0]], vec![home, nodes[1]]].map(host);
        if let Some(error) = made.iter().find_map(|made| made.as_ref().err()) {
            println!("SKIPPED: namespaces with TUN devices cannot be made here: {error}");
            return None;
        }
        let [c, a, b] = made.map(Result::unwrap);
        if home.is_ipv6() && c.1.1 == Ipv6::Absent {
            println!("SKIPPED: this host has no IPv6");
            return None;
        }
        let state = State {
            ports: [c.1.0, a.1.0, b.1.0],
            queue: BTreeMap::new(),
            sent: 0,
            first: 0,
            owners: HashMap::new(),
            filters: Default::default(),
        };
        let net = Arc::new(Net {
            home,
            client,
            nodes,
            delays,
            state: Mutex::new(state),
            bell: Doorbell::new().unwrap(),
            stop: AtomicBool::new(false),
            resets: AtomicU64::new(0),
            members: Default::default(),
        });
        let thread = Some(thread::spawn({
            let net = net.clone();
            move || net.run()
        }));
        Some(World { addresses, client: c.0, nodes: [a.0, b.0], net, thread })
    }

    /// A runtime of which every thread is in the namespace of a node.
    pub fn runtime(&self, node: usize) -> tokio::runtime::Runtime {
        let inode = self.nodes[node].inode().unwrap();
        let path = self.nodes[node].as_fd().try_clone_to_owned().unwrap();
        let enter = move || {
            use std::os::fd::AsRawFd;
            let path = format!("/proc/self/fd/{}", path.as_raw_fd());
            let namespace = NetworkNamespace::open(path.as_ref()).unwrap();
            assert_eq!(namespace.inode().unwrap(), inode);
            namespace.enter().unwrap();
        };
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().on_thread_start(enter).build().unwrap()
    }

    /// So many resets were sent to the client.
    pub fn resets(&self) -> u64 {
        self.net.resets.load(Ordering::Relaxed)
    }
}

/// Runs a future on the runtime's own threads.
pub fn on<T: Send + 'static>(
    runtime: &tokio::runtime::Runtime,
    work: impl Future<Output = T> + Send + 'static,
) -> T {
    runtime.block_on(runtime.spawn(work)).unwrap()
}

impl Drop for World {
    fn drop(&mut self) {
        self.net.stop.store(true, Ordering::Relaxed);
        self.net.bell.ring();
        let ended = self.thread.take().map(thread::JoinHandle::join);
        assert!(thread::panicking() || ended.is_none_or(|ended| ended.is_ok()));
    }
}

impl Net {
    fn run(&self) {
        let mut poll = Poll::new().unwrap();
        let mut timer = Timer::new().unwrap();
        {
            let state = self.state.lock().unwrap();
            state.ports.iter().for_each(|port| poll.add(port.as_fd(), 0).unwrap());
        }
        poll.add(timer.as_fd(), 1).unwrap();
        poll.add(self.bell.as_fd(), 2).unwrap();
        let mut buffer: Box<Buffer> = vec![0; BUFFER_LEN].into_boxed_slice().try_into().unwrap();
        while !self.stop.load(Ordering::Relaxed) {
            for number in poll.wait().unwrap().collect::<Vec<_>>() {
                match number {
                    1 => timer.clear(),
                    2 => self.bell.clear(),
                    _ => {}
                }
            }
            let mut state = self.state.lock().unwrap();
            for from in 0..3 {
                let mut some = 0;
                // A busy sender must not keep the others waiting.
                while some < 64 {
                    let mut took = None;
                    let more = state.ports[from]
                        .receive(&mut buffer, |train| took = Some((train.packet.to_vec(), train.offload)));
                    let (true, Some(packet)) = (more.unwrap(), took) else { break };
                    self.sent(&mut state, from, packet);
                    some += 1;
                }
            }
            let now = monotonic();
            while let Some(entry) = state.queue.first_entry() {
                if entry.key().0 > now {
                    break;
                }
                let (to, packet) = entry.remove();
                self.arrived(&mut state, to, packet);
            }
            let next = state.queue.first_key_value().map(|(key, _)| key.0);
            timer.set(next).unwrap();
        }
    }

    /// A host has sent a packet.
    fn sent(&self, state: &mut State, from: usize, packet: Packet) {
        let Some((_, to)) = addresses(&packet.0) else { return };
        let Delays { client, nodes } = self.delays;
        let (delay, to) = match from {
            0 if to == self.home => (client, To::HomeAgent),
            0 => return,
            _ if to == self.client => {
                if is_reset(&packet.0) {
                    self.resets.fetch_add(1, Ordering::Relaxed);
                }
                (nodes[from - 1] + client, To::Client)
            }
            _ => match self.nodes.iter().position(|node| *node == to) {
                Some(node) => (nodes[0] + nodes[1], To::Node(node)),
                None => return,
            },
        };
        self.later(state, delay, to, packet);
    }

    fn later(&self, state: &mut State, delay: Duration, to: To, packet: Packet) {
        state.sent += 1;
        state.queue.insert((monotonic() + delay, state.sent), (to, packet));
    }

    fn arrived(&self, state: &mut State, to: To, packet: Packet) {
        let train = |packet: &Packet, port: &mut Port| {
            // A full interface loses packets, as a path does.
            let _ = port.send(Train { packet: &packet.0, offload: packet.1 });
        };
        match to {
            To::Client => train(&packet, &mut state.ports[0]),
            To::HomeAgent => {
                let owner = flow_of(&packet.0)
                    .and_then(|flow| state.owners.get(&flow))
                    .copied()
                    .unwrap_or(state.first);
                self.later(state, self.delays.nodes[owner], To::Node(owner), packet);
            }
            To::Node(node) => match flow_of(&packet.0).and_then(|flow| state.filters[node].get_mut(&flow)) {
                Some(Filter::Held(held)) => held.push(packet),
                Some(Filter::PassOn(to)) => {
                    let to = *to;
                    self.later(state, self.between(), To::Node(to), packet);
                }
                Some(Filter::Refused) => {}
                None => train(&packet, &mut state.ports[node + 1]),
            },
            To::Bind(flow, node) => drop(state.owners.insert(flow, node)),
        }
    }

    /// The home agent chooses this node for flows that begin.
    pub fn send_new_flows_to(&self, node: usize) {
        self.state.lock().unwrap().first = node;
    }

    pub fn between(&self) -> Duration {
        self.delays.nodes[0] + self.delays.nodes[1]
    }
}

/// The packets of one node.
pub struct NodePackets {
    pub net: Arc<Net>,
    pub node: usize,
}

impl NodePackets {
    fn number(&self, member: MemberId) -> usize {
        self.net.members.iter().position(|known| known.get() == Some(&member)).unwrap()
    }

    fn with(&self, flows: &[FlowKey], mut act: impl FnMut(&mut State, FlowKey)) {
        let mut state = self.net.state.lock().unwrap();
        flows.iter().for_each(|flow| act(&mut state, *flow));
        self.net.bell.ring();
    }
}

impl Packets for NodePackets {
    fn serves(&self, flow: &FlowKey) -> bool {
        flow.home.ip() == self.net.home
    }

    fn takers(&self, _flow: &FlowKey) -> Vec<MemberId> {
        self.net.members[1 - self.node].get().copied().into_iter().collect()
    }

    fn hold(&self, flows: &[FlowKey]) {
        self.with(flows, |state, flow| {
            state.filters[self.node].insert(flow, Filter::Held(Vec::new()));
        });
    }

    fn divert(&self, flows: &[FlowKey]) -> futures::future::BoxFuture<'static, ()> {
        // The router gives packets to the kernel with the lock held: none is on its way.
        self.hold(flows);
        Box::pin(std::future::ready(()))
    }

    fn release(&self, flows: &[FlowKey]) {
        self.with(flows, |state, flow| {
            if let Some(Filter::Held(held)) = state.filters[self.node].remove(&flow) {
                held.into_iter()
                    .for_each(|packet| self.net.later(state, Duration::ZERO, To::Node(self.node), packet));
            }
        });
    }

    fn drop_held(&self, flows: &[FlowKey]) {
        self.with(flows, |state, flow| drop(state.filters[self.node].insert(flow, Filter::Refused)));
    }

    fn pass_on(&self, flows: &[FlowKey], to: MemberId) {
        let to = self.number(to);
        self.with(flows, |state, flow| {
            if let Some(Filter::Held(held)) = state.filters[self.node].insert(flow, Filter::PassOn(to)) {
                held.into_iter()
                    .for_each(|packet| self.net.later(state, self.net.between(), To::Node(to), packet));
            }
        });
    }

    fn given(&self, flows: &[FlowKey], to: MemberId) {
        let to = self.number(to);
        let delay = self.net.delays.nodes[self.node];
        self.with(flows, |state, flow| {
            state.filters[self.node].insert(flow, Filter::PassOn(to));
            self.net.later(state, delay, To::Bind(flow, to), (Vec::new(), Train::single(&[]).offload));
        });
    }
}

fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => {
            let at = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
            Some((at(12)?, at(16)?))
        }
        _ => {
            let at = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
            Some((at(8)?, at(24)?))
        }
    }
}

/// The TCP header, if it is one.
fn tcp(packet: &[u8]) -> Option<&[u8]> {
    let (protocol, at) = if packet.first()? >> 4 == 4 { (9, 20) } else { (6, 40) };
    (*packet.get(protocol)? == 6).then(|| packet.get(at..))?
}

/// The flow of a packet from the client to the home address.
fn flow_of(packet: &[u8]) -> Option<FlowKey> {
    let (from, to) = addresses(packet)?;
    let port = |at: usize| Some(u16::from_be_bytes(tcp(packet)?.get(at..at + 2)?.try_into().ok()?));
    let [correspondent, home] = [SocketAddr::new(from, port(0)?), SocketAddr::new(to, port(2)?)];
    Some(FlowKey { protocol: 6, correspondent, home })
}

fn is_reset(packet: &[u8]) -> bool {
    tcp(packet).and_then(|header| header.get(13)).is_some_and(|flags| flags & 4 != 0)
}
