//! A home agent for tests: the binding cache and the tunnel, and a choice that the test makes.

use godwit_core::binding::cache::{self, Cache, State};
use godwit_core::binding::{Incarnation, Pace, Service};
use godwit_core::flow::FlowKey;
use godwit_core::key::MemberId;
use godwit_core::mobility::{FlowsBound, Message};
use godwit_core::tunnel::KeyId;
use godwit_core::tunnel::header::INNER_MTU;
use godwit_net::netlink::{Netlink, Route};
use godwit_net::tunnel::{
    Config, Engine, Event, Inward, Outward, Passing, Reason, Side, Steer, Tun, TunConfig, cipher_for,
};
use godwit_node::moves::Heard;
use godwit_node::{Runtime, clock};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What the test and the threads of the tunnel share.
#[derive(Default)]
pub struct Agent {
    table: Mutex<Table>,
    cut: AtomicBool,
    replies: AtomicU64,
    unheard: AtomicU64,
}

#[derive(Default)]
struct Table {
    chosen: Option<MemberId>,
    before: Option<u16>,
    /// Where members that can be used receive.
    ways: BTreeMap<MemberId, (KeyId, SocketAddr)>,
    homes: Vec<IpAddr>,
    flows: HashMap<FlowKey, MemberId>,
    epochs: BTreeMap<MemberId, u32>,
    /// How many flows were bound to a member when it said first that it drains.
    kept: BTreeMap<MemberId, usize>,
}

impl Agent {
    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap()
    }

    /// New flows go to this member.
    pub fn choose(&self, member: MemberId) {
        self.table().chosen = Some(member);
    }

    /// Who had them before, as packets say.
    pub fn chose_before(&self, number: Option<u16>) {
        self.table().before = number;
    }

    /// Whether the tunnel carries nothing.
    pub fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }

    /// So many packets came back through the tunnel.
    pub fn replies(&self) -> u64 {
        self.replies.load(Ordering::SeqCst)
    }

    /// So many binding updates came faster than a home agent listens.
    pub fn unheard(&self) -> u64 {
        self.unheard.load(Ordering::SeqCst)
    }

    /// So many flows are bound to a member.
    pub fn bound_to(&self, member: MemberId) -> usize {
        self.table().flows.values().filter(|owner| **owner == member).count()
    }

    /// So many were when it said first that it takes no new ones.
    pub fn bound_before_draining(&self, member: MemberId) -> Option<usize> {
        self.table().kept.get(&member).copied()
    }

    pub fn forget_flows(&self) {
        self.table().flows.clear();
    }

    /// The highest epoch of a member's updates.
    pub fn epoch_of(&self, member: MemberId) -> u32 {
        self.table().epochs.get(&member).copied().unwrap_or(0)
    }
}

struct AgentSteer(Arc<Agent>);

impl Steer for AgentSteer {
    fn outward(&self, passing: &Passing<'_>) -> Outward {
        let table = self.0.table();
        if self.0.cut.load(Ordering::SeqCst) {
            return Outward::Drop(Reason::Filtered);
        }
        let bound = table.flows.get(&passing.packet.flow()).copied();
        let way = bound.or(table.chosen).and_then(|owner| table.ways.get(&owner));
        match way {
            Some((key, to)) => {
                Outward::Seal { key: *key, to: *to, before: table.before.filter(|_| bound.is_none()) }
            }
            None => Outward::Drop(Reason::Unserved),
        }
    }

    fn inward(&self, _: KeyId, _: SocketAddr, passing: &Passing<'_>) -> Inward {
        if !self.0.table().homes.contains(&passing.packet.source) {
            return Inward::Drop(Reason::Foreign);
        }
        self.0.replies.fetch_add(1, Ordering::SeqCst);
        Inward::Deliver
    }
}

/// Runs the home agent of `runtime`, whose host receives at `receives`, for these home addresses.
pub async fn run(agent: Arc<Agent>, runtime: Runtime, receives: Vec<IpAddr>, homes: Vec<IpAddr>) {
    agent.table().homes.clone_from(&homes);
    let tun = Tun::create(&TunConfig::new("homes0", INNER_MTU)).unwrap();
    let mut netlink = Netlink::open().unwrap();
    for home in &homes {
        netlink
            .add_route(&Route { destination: (*home).into(), interface: tun.index(), gateway: None })
            .unwrap();
    }
    let tunnels: Vec<SocketAddr> = receives.iter().map(|ip| SocketAddr::new(*ip, 4191)).collect();
    let sockets = tunnels.iter().map(|at| UdpSocket::bind(at).unwrap()).collect();
    let steer = Arc::new(AgentSteer(agent.clone()));
    let (engine, mut events) =
        Engine::start(Config::new(Side::HomeAgent), Arc::new(tun), sockets, steer).unwrap();
    let life = Incarnation(clock::now().as_millis());
    let mut cache = Cache::new(clock::now(), [7; 32], life, Pace::default());
    cache.receive_at(tunnels);
    let (mut moves, mut known, tell) = (runtime.moves().unwrap(), runtime.homes(), runtime.tell());
    loop {
        let wait = cache.next_deadline().map(|at| at.since(clock::now()));
        let timer = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        let input = tokio::select! {
            heard = moves.next() => match heard {
                Some(Heard::Message { from, message }) => match *message {
                    Message::Update(update) => {
                        let bound = agent.bound_to(from);
                        let mut table = agent.table();
                        if update.service == Service::Draining {
                            table.kept.entry(from).or_insert(bound);
                        }
                        let epoch = table.epochs.entry(from).or_default();
                        *epoch = update.order.epoch.max(*epoch);
                        Some(cache::Input::Update { from, update })
                    }
                    Message::Flows(update) => {
                        let mut table = agent.table();
                        table.flows.extend(update.flows.iter().map(|flow| (*flow, update.to)));
                        let bound = FlowsBound { order: update.order, result: Ok(Vec::new()) };
                        let _ = tell.tell(from, &Message::FlowsBound(bound));
                        None
                    }
                    _ => None,
                },
                Some(_) => None,
                None => return,
            },
            Some(event) = events.recv() => match event {
                Event::Heard { key, from, control } if !agent.cut.load(Ordering::SeqCst) => {
                    Some(cache::Input::Heard { key, from, control })
                }
                _ => None,
            },
            known = known.next() => match known {
                Some(known) => Some(cache::Input::Allowed(known.allowed)),
                None => return,
            },
            () = timer => Some(cache::Input::Timer),
        };
        if let Some(input) = input {
            cache.handle(clock::now(), input);
        }
        while let Some(output) = cache.poll_output() {
            match output {
                cache::Output::Install { key, .. } => {
                    engine.install(key, Side::HomeAgent, cipher_for(true), INNER_MTU).unwrap();
                }
                cache::Output::Retire(key) => engine.retire(key),
                cache::Output::Acknowledge { to, acknowledgement } => {
                    let _ = tell.tell(to, &Message::Acknowledgement(acknowledgement));
                }
                cache::Output::Send { key, to, control } => {
                    if !agent.cut.load(Ordering::SeqCst) {
                        engine.send(key, to, control);
                    }
                }
                cache::Output::Changed => {}
            }
        }
        agent.unheard.store(cache.counts().too_often, Ordering::SeqCst);
        // A member's binding that is up, the most preferred first; one that drains serves old flows.
        let mut up: Vec<_> = cache.bindings().filter(|one| one.state == State::Up).collect();
        up.sort_by_key(|one| std::cmp::Reverse(one.priority));
        let ways = up.iter().filter_map(|one| Some((one.anchor.member, (one.key, one.care_of?))));
        agent.table().ways = ways.collect();
    }
}
