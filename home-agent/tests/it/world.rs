//! Home agents and nodes, running, and what the network says to them.

use crate::net::{HOME_V4, HOME_V6, Net};
use crate::node::{NodeHost, Wires};
use crate::wait;
use godwit_core::announce::Announcement;
use godwit_core::binding::{HomeAddress, Pace};
use godwit_core::certificate::{Home, Ports, Role, Serial};
use godwit_core::key::MemberId;
use godwit_core::mobility::Message;
use godwit_core::time::Time;
use godwit_home_agent::{Config, Heard, Peers, Running, Settings, View, World, start};
use godwit_map::{Generation, GeoDb, Health, HomeInput, Inputs, MemberInput, Service, Shared};
use godwit_net::estate::Estate;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

/// What is open at the home addresses.
pub(crate) const PORT: u16 = 7000;

pub(crate) fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Time::from_millis(since.as_millis() as u64)
}

pub(crate) fn member(n: u8) -> MemberId {
    let mut bytes = [n; 32];
    // As with real keys, scores differ.
    bytes[..8].copy_from_slice(&u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    MemberId::from_bytes(bytes)
}

/// What a home agent says to others.
struct Speaker {
    home_agent: MemberId,
    wires: Wires,
    announced: Arc<Mutex<Vec<Announcement>>>,
}

impl Peers for Speaker {
    fn tell(&self, to: MemberId, message: &Message) {
        self.wires.to_node(to, self.home_agent, message.clone());
    }

    fn announced(&self, announced: Vec<Announcement>) {
        *self.announced.lock().unwrap() = announced;
    }
}

/// A network with its home agents and nodes running.
pub(crate) struct Test {
    pub(crate) net: Net,
    pub(crate) runtime: Runtime,
    pub(crate) wires: Wires,
    generations: Shared,
    pub(crate) world: watch::Sender<Arc<World>>,
    pub(crate) home_agents: BTreeMap<u8, Agent>,
    pub(crate) nodes: BTreeMap<u8, NodeHost>,
}

/// A running home agent.
pub(crate) struct Agent {
    pub(crate) running: Running,
    pub(crate) announced: Arc<Mutex<Vec<Announcement>>>,
    pub(crate) registry: Arc<Mutex<Registry>>,
}

impl Test {
    /// So many home agents and nodes, all nodes bound everywhere; packets go to the first home agent.
    pub(crate) fn new(home_agents: u8, nodes: u8) -> Test {
        let mut test = Test::without_nodes(home_agents, nodes);
        (0..nodes).for_each(|n| test.start_node(n));
        test.wait_for_nodes(nodes.into());
        test
    }

    pub(crate) fn without_nodes(home_agents: u8, nodes: u8) -> Test {
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(2).enable_all().build().unwrap();
        let generation = Generation::compute(&inputs(nodes, |_| {}), &GeoDb::empty(), None);
        let mut test = Test {
            net: Net::new(home_agents, nodes),
            runtime,
            wires: Wires::default(),
            generations: Arc::new(arc_swap::ArcSwap::from_pointee(generation)),
            world: watch::Sender::new(Arc::new(world(nodes))),
            home_agents: BTreeMap::new(),
            nodes: BTreeMap::new(),
        };
        (0..home_agents).for_each(|n| test.start_home_agent(n));
        test.net.route_to(0);
        test
    }

    pub(crate) fn home_agent(n: u8) -> MemberId {
        member(100 + n)
    }

    pub(crate) fn home_agent_at(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 2, n, 2], 4191))
    }

    pub(crate) fn start_home_agent(&mut self, n: u8) {
        self.start_home_agent_on(n, None);
    }

    /// One that goes on with what another has left.
    pub(crate) fn start_home_agent_on(&mut self, n: u8, estate: Option<Estate>) {
        let (say, heard) = mpsc::channel::<Heard>(256);
        let id = Test::home_agent(n);
        self.wires.plug_home_agent(id, say);
        let (announced, registry) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<Mutex<Registry>>::default());
        let speaker = Speaker { home_agent: id, wires: self.wires.clone(), announced: announced.clone() };
        let settings = Settings {
            config: Config { listen: vec![Test::home_agent_at(n)], ..Config::default() },
            public: Vec::new(),
            pace: Pace::default(),
            generations: self.generations.clone(),
            world: self.world.subscribe(),
            heard,
            peers: Arc::new(speaker),
            registry: registry.clone(),
            clock: now,
            estate,
        };
        let (runtime, host) = (&self.runtime, self.net.host(&format!("ha{n}")));
        let running = host.run(|| Ok(runtime.block_on(start(settings)).unwrap())).unwrap();
        self.home_agents.insert(n, Agent { running, announced, registry });
    }

    pub(crate) fn start_node(&mut self, n: u8) {
        let agents: BTreeMap<MemberId, SocketAddr> =
            self.home_agents.keys().map(|n| (Test::home_agent(*n), Test::home_agent_at(*n))).collect();
        let node = NodeHost::start(self.net.host(&format!("node{n}")), n, agents, &self.wires);
        self.nodes.insert(n, node);
    }

    pub(crate) fn view(&self, home_agent: u8) -> View {
        self.runtime.block_on(self.home_agents[&home_agent].running.view()).unwrap()
    }

    /// Waits until every home agent has so many nodes up and announces the home addresses.
    pub(crate) fn wait_for_nodes(&self, count: usize) {
        for (n, agent) in &self.home_agents {
            wait(&format!("{count} nodes at home agent {n}"), || {
                let view = self.view(*n);
                view.bindings.iter().filter(|binding| binding.state == "up").count() == count
                    && view.homes.iter().all(|home| home.announced && home.nodes.len() == count)
            });
            wait("it is told", || agent.announced.lock().unwrap().len() == 2);
            wait("the route", || {
                let host = self.net.host(&format!("ha{n}"));
                host.run(|| std::fs::read_to_string("/proc/thread-self/net/route")).unwrap().contains("5071")
            });
        }
    }

    /// The value of the metric line that begins with this.
    pub(crate) fn metric(&self, home_agent: u8, line: &str) -> u64 {
        let mut encoded = String::new();
        let registry = self.home_agents[&home_agent].registry.lock().unwrap();
        text::encode(&mut encoded, &registry).unwrap();
        let found = encoded.lines().find_map(|one| one.strip_prefix(line));
        found.map_or(0, |value| value.trim().parse().unwrap())
    }

    /// How many updates came to this.
    pub(crate) fn updates(&self, home_agent: u8, outcome: &str) -> u64 {
        self.metric(home_agent, &format!("home_binding_updates_total{{outcome=\"{outcome}\"}}"))
    }

    /// Another map, made of the usual one.
    pub(crate) fn map(&self, change: impl Fn(&mut Inputs)) {
        let nodes = self.generations.load().members().len() as u8;
        let generation = Generation::compute(&inputs(nodes, change), &GeoDb::empty(), None);
        self.generations.store(Arc::new(generation));
    }
}

pub(crate) fn homes() -> BTreeSet<HomeAddress> {
    BTreeSet::from([HomeAddress(HOME_V4.into()), HomeAddress(HOME_V6.into())])
}

/// One name, which all nodes may serve.
pub(crate) fn world(nodes: u8) -> World {
    let home = Home {
        v4: Some(HOME_V4),
        v6: Some(HOME_V6),
        ports: Ports::Only { tcp: vec![PORT], udp: vec![PORT] },
        servers: Vec::new(),
    };
    let members: BTreeSet<MemberId> = (0..nodes).map(member).collect();
    World {
        granted: BTreeMap::from([("game".parse().unwrap(), home)]),
        allowed: homes().into_iter().flat_map(|home| members.iter().map(move |id| (home, *id))).collect(),
        present: members,
        elsewhere: BTreeSet::new(),
        names: (0..nodes).map(|n| (member(n), format!("node{n}").parse().unwrap())).collect(),
    }
}

/// What the map is made of: nodes of which nothing is known but that they are there.
fn inputs(nodes: u8, change: impl Fn(&mut Inputs)) -> Inputs {
    let node = |n: u8| MemberInput {
        id: member(n),
        serial: Serial(u64::from(n)),
        name: format!("node{n}").parse().unwrap(),
        region: "here".parse().unwrap(),
        place: None,
        roles: vec![Role::Node],
        state: Health::Alive,
        draining: false,
        ready: true,
        load_permille: 0,
        capacity: Default::default(),
        public_v4: None,
        public_v6: None,
        http_port: None,
        held: Vec::new(),
        peer_rtts: Vec::new(),
        certified: true,
        checks: Vec::new(),
    };
    let home = HomeInput {
        name: "game".parse().unwrap(),
        number: 1,
        v4: Some(HOME_V4),
        v6: Some(HOME_V6),
        service: Service::default(),
    };
    let zone = "edge.example.org".parse().unwrap();
    let mut inputs =
        Inputs { members: (0..nodes).map(node).collect(), homes: vec![home], ..Inputs::new(zone) };
    change(&mut inputs);
    inputs
}
