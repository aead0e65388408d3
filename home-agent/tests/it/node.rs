//! A node: the machine that registers, the real tunnel, and echoes at the home addresses.

use crate::net::{HOME_V4, HOME_V6};
use crate::world::{PORT, homes, member, now};
use godwit_core::binding::registration::{Input, Offer, Output, Registration};
use godwit_core::binding::{BindingId, Capabilities, CareOf, Service};
use godwit_core::flow::FlowKey;
use godwit_core::key::MemberId;
use godwit_core::mobility::Message;
use godwit_core::tunnel::KeyId;
use godwit_home_agent::Heard;
use godwit_net::namespace::NetworkNamespace;
use godwit_net::netlink::{Netlink, Rule};
use godwit_net::tunnel::{
    Config, Engine, Event, Inward, Outward, Passing, Reason, Side, Steer, Tun, TunConfig, cipher_for,
};
use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;

pub(crate) const MTU: u16 = 1420;
const TABLE: u32 = 0x6777;
const ID: BindingId = BindingId(0);

/// What was said, to whom or by whom.
pub(crate) type Said = Arc<Mutex<Vec<(MemberId, Message)>>>;

/// Where what is said comes out.
type Ear = Sender<(MemberId, Message)>;

/// The members' streams: whoever is plugged in hears.
#[derive(Clone, Default)]
pub(crate) struct Wires {
    home_agents: Arc<Mutex<HashMap<MemberId, mpsc::Sender<Heard>>>>,
    nodes: Arc<Mutex<HashMap<MemberId, Ear>>>,
}

impl Wires {
    pub(crate) fn plug_home_agent(&self, id: MemberId, say: mpsc::Sender<Heard>) {
        self.home_agents.lock().unwrap().insert(id, say);
    }

    /// What home agents say to `to` comes out here.
    pub(crate) fn plug(&self, to: MemberId) -> Receiver<(MemberId, Message)> {
        let (say, heard) = channel();
        self.nodes.lock().unwrap().insert(to, say);
        heard
    }

    pub(crate) fn to_node(&self, to: MemberId, from: MemberId, message: Message) {
        if let Some(node) = self.nodes.lock().unwrap().get(&to) {
            let _ = node.send((from, message));
        }
    }

    /// Waits while the home agent has much to hear.
    pub(crate) fn to_home_agent(&self, to: MemberId, from: MemberId, message: Message) {
        let say = self.home_agents.lock().unwrap().get(&to).cloned();
        let heard = Heard::Message { from, message: Box::new(message) };
        // One that is not there hears nothing.
        let _ = say.map(|say| say.blocking_send(heard));
    }
}

/// What the threads of the tunnel look at.
#[derive(Default)]
struct Ways {
    /// The newest key of each home agent, and where that is.
    keys: Mutex<BTreeMap<MemberId, (KeyId, SocketAddr)>>,
    /// What headers said of second chances.
    before: Mutex<Vec<u16>>,
}

impl Steer for Ways {
    fn outward(&self, _: &Passing<'_>) -> Outward {
        match self.keys.lock().unwrap().values().next() {
            Some((key, to)) => Outward::Seal { key: *key, to: *to, before: None },
            None => Outward::Drop(Reason::Unserved),
        }
    }

    fn inward(&self, _: KeyId, _: SocketAddr, passing: &Passing<'_>) -> Inward {
        self.before.lock().unwrap().extend(passing.before);
        let ours = [IpAddr::V4(HOME_V4), IpAddr::V6(HOME_V6)].contains(&passing.packet.destination);
        if ours { Inward::Deliver } else { Inward::Drop(Reason::Foreign) }
    }
}

/// A running node.
pub(crate) struct NodeHost {
    pub(crate) engine: Arc<Engine>,
    ways: Arc<Ways>,
    switches: Arc<Switches>,
    /// Updates that it said, for thieves.
    pub(crate) said: Said,
    /// What home agents said to it beside acknowledgements.
    pub(crate) answers: Said,
    orders: Sender<Input>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Switches {
    stop: AtomicBool,
    /// It says nothing to home agents.
    silent: AtomicBool,
    /// Nothing that comes through the tunnel is heard.
    deaf: AtomicBool,
}

impl NodeHost {
    pub(crate) fn start(
        host: &NetworkNamespace,
        n: u8,
        home_agents: BTreeMap<MemberId, SocketAddr>,
        wires: &Wires,
    ) -> NodeHost {
        let at = SocketAddr::from(([10, 3, n, 2], 4191));
        let ways = Arc::new(Ways::default());
        let (engine, events) = host.run(|| tunnel(at, ways.clone())).unwrap();
        serve(host, n);
        let id = member(n);
        let (orders, inputs) = channel();
        let capabilities = Capabilities { mtu: MTU, direct_return: false, aes: true };
        let offer = Offer { care_of: CareOf::At(at), capabilities, priority: 0 };
        let first = [
            Input::Homes(homes()),
            Input::HomeAgents(home_agents.keys().copied().collect()),
            Input::CareOf { id: ID, offer: Some(offer) },
        ];
        first.into_iter().for_each(|input| orders.send(input).unwrap());
        let engine = Arc::new(engine);
        let (switches, said, answers) = (Arc::<Switches>::default(), Said::default(), Said::default());
        let shell = Shell {
            id,
            // Each start is a new epoch.
            machine: Registration::new(now().as_secs() as u32, u64::from(n)),
            engine: engine.clone(),
            events,
            heard: wires.plug(id),
            inputs,
            wires: wires.clone(),
            home_agents,
            ways: ways.clone(),
            keys: HashMap::new(),
            switches: switches.clone(),
            said: said.clone(),
            answers: answers.clone(),
        };
        let thread = Some(std::thread::spawn(move || shell.run()));
        NodeHost { engine, ways, switches, said, answers, orders, thread }
    }

    pub(crate) fn drain(&self) {
        self.orders.send(Input::Service(Service::Draining)).unwrap();
    }

    /// Whom packets named for a second chance since the last call.
    pub(crate) fn take_before(&self) -> Vec<u16> {
        std::mem::take(&mut *self.ways.before.lock().unwrap())
    }

    /// The members' stream works on, and nothing comes through the tunnel any more.
    pub(crate) fn make_deaf(&self) {
        self.switches.deaf.store(true, SeqCst);
    }

    pub(crate) fn be_silent(&self, silent: bool) {
        self.switches.silent.store(silent, SeqCst);
    }

    /// The key that it has of a home agent.
    pub(crate) fn key(&self, home_agent: MemberId) -> Option<KeyId> {
        self.ways.keys.lock().unwrap().get(&home_agent).map(|(key, _)| *key)
    }

    /// It has heard that a home agent is gone.
    pub(crate) fn forget(&self, home_agent: MemberId) {
        self.ways.keys.lock().unwrap().remove(&home_agent);
    }

    /// Stops as a crash does: nobody is told.
    pub(crate) fn kill(mut self) {
        self.switches.stop.store(true, SeqCst);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// The device with the home addresses, what comes from them going back through it, and the tunnel.
fn tunnel(at: SocketAddr, ways: Arc<Ways>) -> std::io::Result<(Engine, mpsc::Receiver<Event>)> {
    let tun = Arc::new(Tun::create(&TunConfig::new("gw0", MTU))?);
    let index = tun.index();
    let started = Engine::start(Config::new(Side::Node), tun, vec![UdpSocket::bind(at)?], ways)?;
    let mut netlink = Netlink::open()?;
    for home in [IpAddr::V4(HOME_V4), IpAddr::V6(HOME_V6)] {
        netlink.add_address(index, home)?;
        netlink.set_way_out(TABLE, home, index, 1360)?;
        netlink.add_rule(&Rule { priority: 5200, from: home, mark: 0, table: TABLE })?;
    }
    Ok(started)
}

struct Shell {
    id: MemberId,
    machine: Registration,
    engine: Arc<Engine>,
    events: mpsc::Receiver<Event>,
    heard: Receiver<(MemberId, Message)>,
    inputs: Receiver<Input>,
    wires: Wires,
    home_agents: BTreeMap<MemberId, SocketAddr>,
    ways: Arc<Ways>,
    keys: HashMap<KeyId, MemberId>,
    switches: Arc<Switches>,
    said: Said,
    answers: Said,
}

impl Shell {
    fn run(mut self) {
        while !self.switches.stop.load(SeqCst) {
            while let Ok(input) = self.inputs.try_recv() {
                self.feed(input);
            }
            while let Ok((from, message)) = self.heard.try_recv() {
                match message {
                    Message::Acknowledgement(acknowledgement) => {
                        self.feed(Input::Acknowledged { from, acknowledgement });
                    }
                    other => self.answers.lock().unwrap().push((from, other)),
                }
            }
            while let Ok(event) = self.events.try_recv() {
                let Event::Heard { key, control: Some(control), .. } = event else { continue };
                let Some(from) = self.keys.get(&key).copied() else { continue };
                if !self.switches.deaf.load(SeqCst) {
                    self.feed(Input::Heard { from, id: ID, key, control });
                }
            }
            let due = self.machine.next_deadline().is_some_and(|due| due <= now());
            if due && !self.switches.silent.load(SeqCst) {
                self.feed(Input::Timer);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn feed(&mut self, input: Input) {
        self.machine.handle(now(), input);
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Persist(_) | Output::Carries { .. } => {}
                Output::Refused { homes, .. } => println!("refused: {homes:?}"),
                Output::Update { to, update } => {
                    let message = Message::Update(update);
                    self.said.lock().unwrap().push((to, message.clone()));
                    if !self.switches.silent.load(SeqCst) {
                        self.wires.to_home_agent(to, self.id, message);
                    }
                }
                Output::Install { home_agent, key, .. } => {
                    let (id, at) = (key.id, self.home_agents[&home_agent]);
                    self.engine.install(key, Side::Node, cipher_for(true), MTU).unwrap();
                    self.keys.insert(id, home_agent);
                    self.ways.keys.lock().unwrap().insert(home_agent, (id, at));
                }
                Output::Send { to, key, control, .. } => {
                    self.engine.send(key, self.home_agents[&to], control);
                }
            }
        }
    }
}

/// Echoes of TCP and UDP at the home addresses, that say who they are first.
fn serve(host: &NetworkNamespace, n: u8) {
    for home in [IpAddr::V4(HOME_V4), IpAddr::V6(HOME_V6)] {
        let at = SocketAddr::new(home, PORT);
        let (listener, socket) = host.run(|| Ok((TcpListener::bind(at)?, UdpSocket::bind(at)?))).unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || {
                    let mut buffer = [0; 65536];
                    let _ = stream.write_all(&[n]);
                    while let Ok(len @ 1..) = stream.read(&mut buffer) {
                        if stream.write_all(&buffer[..len]).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&[&[n], &buffer[..len]].concat(), from);
            }
        });
    }
}

/// The flow of a client's socket to the home address over IPv4.
pub(crate) fn flow(protocol: u8, client: SocketAddr) -> FlowKey {
    FlowKey { protocol, correspondent: client, home: (HOME_V4, PORT).into() }
}
