//! The task that owns everything about home addresses at a node: waits for one thing, feeds it, acts.

use super::bindings::Bindings;
use super::care_of;
use super::claims::FlowUpdates;
use super::flows::Flows;
use super::owned::Owned;
use super::relays::Relays;
use super::services::{Finding, Services};
use super::serving::{Mode, ServeConfig, Serving};
use super::status::Told;
use super::steer::{Claims, NodeSteer};
use super::view::View;
use super::{Heard, Order, Prepared, Start};
use crate::addresses::Changes;
use crate::clock;
use crate::homes::{Homes as KnownHomes, Known};
use crate::moves::{self, Moves, Tell};
use arc_swap::ArcSwap;
use godwit_core::binding::CareOf;
use godwit_core::flow::FlowKey;
use godwit_core::key::MemberId;
use godwit_core::mobility::{Message, Relay};
use godwit_core::name::SiteName;
use godwit_core::time::Time;
use godwit_core::tunnel::header::INNER_MTU;
use godwit_net::sockets::Sockets;
use godwit_net::tunnel::{Config as EngineConfig, Engine, Event, Side, Tun, TunConfig, cipher_for};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// What is counted is told so often, and tombstones are looked through.
const TELL_PERIOD: Duration = Duration::from_secs(1);

/// Changes of addresses and routes come in bursts: so long is waited for more.
const CHANGES_SETTLE: Duration = Duration::from_millis(30);

/// Flows claimed in one go.
const CLAIMED_MAX: usize = 256;

pub(super) struct Running {
    own: MemberId,
    start: Start,
    tell: Tell,
    orders: mpsc::Receiver<Order>,
    again: mpsc::Sender<Order>,
    heard: mpsc::Sender<Heard>,
    told: Arc<ArcSwap<Told>>,
    flows: watch::Sender<Option<Flows>>,
    services: Services,
    findings: mpsc::Receiver<Finding>,
    present: BTreeSet<MemberId>,
    /// What could not be served yet: the device of the process before may still be there.
    unserved: Vec<Serving>,
    left: bool,
    tunnel: Option<Tunnel>,
    stop: CancellationToken,
}

/// What exists only once something is served.
struct Tunnel {
    bindings: Bindings,
    updates: FlowUpdates,
    relays: Relays,
    steer: Arc<NodeSteer>,
    engine: Arc<Engine>,
    events: mpsc::Receiver<Event>,
    claims: Claims,
    /// Readable when the host's addresses or routes have changed.
    changes: Changes,
    changed_at: Option<tokio::time::Instant>,
    has_v6: bool,
}

/// What the task was woken by.
enum Woken {
    Moves(moves::Heard),
    Known(Known),
    Order(Order),
    Finding(Finding),
    Event(Event),
    Claimed(FlowKey),
    Changes,
    Settled,
    Leaving,
    Tick,
    Timer,
    Stop,
}

impl Running {
    #[allow(clippy::too_many_arguments, reason = "made in one place, of parts that only that place has")]
    pub(super) fn new(
        start: Start,
        orders: (mpsc::Sender<Order>, mpsc::Receiver<Order>),
        heard: mpsc::Sender<Heard>,
        told: Arc<ArcSwap<Told>>,
        flows: watch::Sender<Option<Flows>>,
        stop: CancellationToken,
    ) -> Running {
        let (found, findings) = mpsc::channel(super::services::SERVED_MAX);
        let services = Services::new(start.own, start.sites.clone(), found, stop.child_token());
        Running {
            own: start.own,
            tell: start.tell.clone(),
            start,
            orders: orders.1,
            again: orders.0,
            heard,
            told,
            flows,
            services,
            findings,
            present: BTreeSet::new(),
            unserved: Vec::new(),
            left: false,
            tunnel: None,
            stop,
        }
    }

    pub(super) async fn run(mut self, mut moves: Moves, mut homes: KnownHomes) {
        let mut tick = tokio::time::interval(TELL_PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.serve_as_before();
        loop {
            let woken = self.wait(&mut moves, &mut homes, &mut tick).await;
            if matches!(woken, Woken::Stop) {
                self.flows.send_replace(None);
                return;
            }
            self.act(woken);
            self.settle();
        }
    }

    async fn wait(
        &mut self,
        moves: &mut Moves,
        homes: &mut KnownHomes,
        tick: &mut tokio::time::Interval,
    ) -> Woken {
        let timer = self.next_deadline();
        let timer = async {
            match timer {
                Some(at) => tokio::time::sleep(at.since(clock::now())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Woken::Stop,
            () = self.start.leaving.cancelled(), if !self.left => Woken::Leaving,
            heard = moves.next() => heard.map_or(Woken::Stop, Woken::Moves),
            woken = of_tunnel(self.tunnel.as_mut()) => woken,
            Some(order) = self.orders.recv() => Woken::Order(order),
            Some(finding) = self.findings.recv() => Woken::Finding(finding),
            known = homes.next() => known.map_or(Woken::Stop, Woken::Known),
            _ = tick.tick() => Woken::Tick,
            () = timer => Woken::Timer,
        }
    }

    fn act(&mut self, woken: Woken) {
        match woken {
            Woken::Moves(heard) => self.heard(heard),
            Woken::Known(known) => {
                self.present.clone_from(&known.present);
                self.services.set_known(known);
                self.serve_homes();
            }
            Woken::Order(order) => self.order(order),
            Woken::Finding(finding) => {
                self.services.found(clock::now(), &finding);
                self.serve_homes();
            }
            Woken::Event(Event::Heard { key, control: Some(control), .. }) => {
                if let Some(tunnel) = &mut self.tunnel {
                    tunnel.bindings.heard(key, control);
                }
            }
            // Where packets of flows come from is the home agent's business; keys wear out in years.
            Woken::Event(Event::Heard { .. } | Event::Worn(_)) => {}
            Woken::Claimed(flow) => self.claim(flow),
            Woken::Changes => {
                if let Some(tunnel) = &mut self.tunnel {
                    tunnel.changed_at.get_or_insert_with(|| tokio::time::Instant::now() + CHANGES_SETTLE);
                }
            }
            Woken::Settled => self.follow_host(),
            Woken::Leaving => {
                self.left = true;
                self.services.leave();
                self.serve_homes();
            }
            Woken::Tick => {
                self.serve_unserved();
                self.tick();
            }
            Woken::Timer => {
                self.serve_homes();
                if let Some(tunnel) = &mut self.tunnel {
                    tunnel.bindings.pass_time();
                    tunnel.updates.pass_time(clock::now());
                }
            }
            Woken::Stop => {}
        }
    }

    fn next_deadline(&self) -> Option<Time> {
        let tunnel = self.tunnel.iter().flat_map(|tunnel| {
            tunnel.bindings.next_deadline().into_iter().chain(tunnel.updates.next_deadline())
        });
        tunnel.chain(self.services.next_deadline(clock::now())).min()
    }

    /// What was configured, and what operators have said before.
    fn serve_as_before(&mut self) {
        let kept = self.start.dir.serving().unwrap_or_else(|error| {
            tracing::warn!(%error, "what was served at home addresses is forgotten");
            Vec::new()
        });
        let configured = self.start.serve.iter().map(ServeConfig::serving);
        let configured = configured.filter(|one| !kept.iter().any(|kept| kept.name == one.name));
        self.unserved = configured.chain(kept.iter().cloned()).collect();
        self.serve_unserved();
    }

    fn serve_unserved(&mut self) {
        for serving in std::mem::take(&mut self.unserved) {
            if let Err(problem) = self.serve(serving.clone()) {
                tracing::error!(name = %serving.name, problem, "a home address cannot be served yet");
                self.unserved.push(serving);
            }
        }
    }

    fn serve(&mut self, serving: Serving) -> Result<(), String> {
        self.open_tunnel()
            .map_err(|error| format!("home addresses need CAP_NET_ADMIN and a TUN device: {error}"))?;
        self.services.serve(serving)?;
        self.serve_homes();
        Ok(())
    }

    /// The tunnel, once something is served.
    fn open_tunnel(&mut self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if self.tunnel.is_some() {
            return Ok(());
        }
        let config = &self.start.config;
        let tun = Tun::create(&TunConfig::new(&config.interface, INNER_MTU))?;
        let owned = Owned::new(tun.index(), INNER_MTU)?;
        let (sockets, has_v6) = sockets(config.port)?;
        let (steer, claims) = NodeSteer::new();
        let steer = Arc::new(steer);
        let (engine, events) =
            Engine::start(EngineConfig::new(Side::Node), Arc::new(tun), sockets, steer.clone())?;
        let engine = Arc::new(engine);
        let bindings = Bindings::new(engine.clone(), self.tell.clone(), self.start.dir.clone(), owned)?;
        let flows = Flows::new(steer.clone(), engine.clone(), self.again.clone());
        self.tunnel = Some(Tunnel {
            updates: FlowUpdates::new(self.tell.clone(), bindings.epoch()),
            bindings,
            relays: Relays::new(rand::random(), rand::random()),
            steer,
            engine,
            events,
            claims,
            changes: Changes::listen()?,
            changed_at: None,
            has_v6,
        });
        tracing::info!(interface = config.interface, port = config.port, "home addresses can be served");
        self.flows.send_replace(Some(flows));
        self.follow_host();
        Ok(())
    }

    /// The host's addresses or routes may be others.
    fn follow_host(&mut self) {
        let Some(tunnel) = &mut self.tunnel else { return };
        tunnel.changed_at = None;
        let homes = tunnel.bindings.homes().all();
        let is_home = |ip: IpAddr| homes.iter().any(|home| home.0 == ip);
        match care_of::places(&self.start.config.care_of, self.start.config.port, is_home) {
            Ok(mut places) => {
                places.retain(|_, place| place.v4 || tunnel.has_v6);
                tunnel.bindings.set_places(places);
            }
            Err(error) => tracing::warn!(%error, "the host's addresses are not known"),
        }
        tunnel.bindings.follow_routes();
    }

    /// Binds what should be bound, and listens where that is.
    fn serve_homes(&mut self) {
        let Some(tunnel) = &mut self.tunnel else { return };
        if tunnel.bindings.is_withdrawn() {
            return;
        }
        tunnel.bindings.set_agents(self.services.home_agents());
        let wanted = self.services.homes(clock::now());
        for (home, error) in tunnel.bindings.set_homes(wanted) {
            tracing::warn!(%home, %error, "a home address is not served");
        }
        self.services.listen(&tunnel.bindings.homes().all());
    }

    fn heard(&mut self, heard: moves::Heard) {
        let (from, message) = match heard {
            moves::Heard::Connected(member) => {
                if let Some(tunnel) = &mut self.tunnel {
                    tunnel.bindings.connected(member);
                    tunnel.relays.doubt(&member);
                }
                // Without somebody who hands over there is nothing to say again.
                let _ = self.heard.try_send(Heard::Connected(member));
                return;
            }
            moves::Heard::Malformed { from, why } => {
                tracing::debug!(from = from.short(), why, "no message about home addresses");
                return;
            }
            moves::Heard::Message { from, message } => (from, message),
        };
        let Some(tunnel) = &mut self.tunnel else { return };
        match *message {
            Message::Acknowledgement(answer) => tunnel.bindings.acknowledged(from, answer),
            Message::FlowsBound(answer) => tunnel.updates.bound(from, &answer),
            Message::RelayWanted => self.relay_wanted(from),
            Message::Relay(relay) => self.relay_told(from, &relay),
            Message::Handoff(message) => {
                if self.heard.try_send(Heard::Message { from, message }).is_err() {
                    tracing::debug!(from = from.short(), "nobody hands connections over here now");
                }
            }
            // Said to home agents.
            Message::Update(_) | Message::Flows(_) => {}
        }
    }

    fn relay_wanted(&mut self, from: MemberId) {
        let Some(tunnel) = self.tunnel.as_mut().filter(|_| self.services.others().contains(&from)) else {
            return;
        };
        let Some((key, old)) = tunnel.relays.wanted(clock::now(), from) else { return };
        if let Some(old) = old {
            tunnel.engine.retire(old);
        }
        if let Err(error) = tunnel.engine.install(key.clone(), Side::Node, cipher_for(true), INNER_MTU) {
            tracing::warn!(from = from.short(), %error, "a relay's key");
            return;
        }
        let mut care_of: Vec<CareOf> = tunnel.bindings.care_ofs();
        care_of.truncate(godwit_core::mobility::RELAY_ADDRESSES_MAX);
        // Asked again when it is lost.
        let _ = self.tell.tell(from, &Message::Relay(Relay { key, care_of }));
    }

    fn relay_told(&mut self, from: MemberId, relay: &Relay) {
        let Some(tunnel) = self.tunnel.as_mut().filter(|_| self.services.others().contains(&from)) else {
            return;
        };
        let before = tunnel.relays.ways().get(&from).map(|(key, _)| *key);
        let Some(address) = tunnel.relays.told(from, relay, tunnel.has_v6) else {
            tracing::info!(from = from.short(), "a node that packets cannot be passed on to");
            return;
        };
        // Who gave the key opens it as a node does; so here we seal as a home agent.
        if let Err(error) =
            tunnel.engine.install(relay.key.clone(), Side::HomeAgent, cipher_for(true), INNER_MTU)
        {
            tracing::warn!(from = from.short(), %error, "a relay's key");
            tunnel.relays.doubt(&from);
            return;
        }
        if let Some(before) = before.filter(|before| *before != relay.key.id) {
            tunnel.engine.retire(before);
        }
        tracing::debug!(from = from.short(), %address, "packets can be passed on to a node");
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::Serve(config, reply) => {
                self.unserved.retain(|serving| serving.name != config.name);
                let done = self.serve(config.serving()).map(|()| self.services.homes_of(&config.name));
                self.save();
                let _ = reply.send(done);
            }
            Order::Stop(name, reply) => {
                let waiting = self.unserved.len();
                self.unserved.retain(|serving| serving.name != name);
                let stopped = self.services.stop(&name) || self.unserved.len() < waiting;
                self.save();
                self.serve_homes();
                let _ = reply.send(stopped);
            }
            Order::Prepare { name, to, reply } => {
                let _ = reply.send(self.prepare(&name, &to));
            }
            Order::Drain { name, until, reply } => {
                self.services.drain(&name, until);
                self.save();
                self.serve_homes();
                let _ = reply.send(());
            }
            Order::Leave(reply) => {
                self.left = true;
                if let Some(tunnel) = &mut self.tunnel {
                    tunnel.bindings.withdraw();
                }
                let _ = reply.send(());
            }
            Order::Bind { to, flows, done } => {
                if let Some(tunnel) = &mut self.tunnel {
                    let to = to.unwrap_or(self.own);
                    let lives = tunnel.bindings.lives();
                    tunnel.updates.bind(clock::now(), &lives, to, &flows, done);
                }
            }
        }
    }

    /// What is to be known before a name is moved to another node.
    fn prepare(&self, name: &SiteName, to: &str) -> Result<Prepared, String> {
        let Some(tunnel) = &self.tunnel else { return Err("no home address is served here".into()) };
        let Some(mode) = self.services.mode(name) else { return Err(format!("{name} is not served here")) };
        let member =
            self.services.member_named(to).ok_or_else(|| format!("{to} may serve no home address"))?;
        if member == self.own {
            return Err(format!("{name} is served here already"));
        }
        if !self.services.may_take(name, &member) {
            return Err(format!("{to} may not serve {name}, or cannot be reached"));
        }
        let homes = self.services.homes_of(name);
        let ips: BTreeSet<IpAddr> = homes.iter().map(|home| home.0).collect();
        let connections =
            Sockets::open().and_then(|mut sockets| sockets.connections(|local| ips.contains(&local.ip())));
        let tcp =
            connections.map_err(|error| format!("the kernel does not tell its connections: {error}"))?;
        let tcp = tcp.into_iter().map(|(correspondent, home)| FlowKey { protocol: 6, correspondent, home });
        let udp = tunnel.steer.active.list(clock::now(), |flow| ips.contains(&flow.home.ip()));
        Ok(Prepared { to: member, by_sites: *mode == Mode::Sites, tcp: tcp.collect(), udp })
    }

    fn save(&self) {
        let mut serving = self.services.serving();
        serving.extend(self.unserved.iter().cloned());
        if let Err(error) = self.start.dir.write_serving(&serving) {
            tracing::error!(%error, "what is served at home addresses could not be kept");
        }
    }

    fn claim(&mut self, first: FlowKey) {
        let Some(tunnel) = &mut self.tunnel else { return };
        let mut flows = vec![first];
        while flows.len() < CLAIMED_MAX
            && let Ok(flow) = tunnel.claims.try_recv()
        {
            flows.push(flow);
        }
        let lives = tunnel.bindings.lives();
        tunnel.updates.bind(clock::now(), &lives, self.own, &flows, None);
    }

    /// Passes on what has changed to the tunnel's threads.
    fn settle(&mut self) {
        let Some(tunnel) = &mut self.tunnel else { return };
        let others = self.services.others();
        let asked = tunnel.relays.ask(clock::now(), others.intersection(&self.present).copied());
        for member in asked {
            let _ = self.tell.tell(member, &Message::RelayWanted);
        }
        let bound = tunnel.bindings.homes().bound();
        let view = View::new(
            tunnel.bindings.agent_keys(),
            tunnel.relays.by_key(),
            bound.iter().map(|home| (*home, tunnel.bindings.exits(home))),
            self.services.allowed(),
            tunnel.relays.ways(),
        );
        if **tunnel.steer.view.load() != view {
            tunnel.steer.view.store(Arc::new(view));
        }
    }

    fn tick(&mut self) {
        let now = clock::now();
        let mut told = Told::of_services(&self.services, now);
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.steer.sweep(now);
            tunnel.bindings.remind();
            told.add_bindings(&self.services, &tunnel.bindings.told());
            told.add_counts(&tunnel.engine.counts(), &tunnel.steer);
        }
        self.start.metrics.tell(&told);
        self.told.store(Arc::new(told));
    }
}

/// What happens at the tunnel; nothing ever where there is none.
async fn of_tunnel(tunnel: Option<&mut Tunnel>) -> Woken {
    let Some(tunnel) = tunnel else { return std::future::pending().await };
    let changed_at = tunnel.changed_at;
    let settled = async {
        match changed_at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        Some(event) = tunnel.events.recv() => Woken::Event(event),
        Some(flow) = tunnel.claims.recv() => Woken::Claimed(flow),
        () = settled => Woken::Settled,
        _ = tunnel.changes.next() => Woken::Changes,
        else => std::future::pending().await,
    }
}

/// The tunnel's sockets, of both families where the host has both, and whether it has IPv6.
fn sockets(port: u16) -> io::Result<(Vec<UdpSocket>, bool)> {
    let v4 = bind((Ipv4Addr::UNSPECIFIED, port).into())?;
    match bind((Ipv6Addr::UNSPECIFIED, port).into()) {
        Ok(v6) => Ok((vec![v4, v6], true)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        Err(_) => Ok((vec![v4], false)),
    }
}

fn bind(at: SocketAddr) -> io::Result<UdpSocket> {
    let domain = if at.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, None)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&at.into())?;
    Ok(socket.into())
}
