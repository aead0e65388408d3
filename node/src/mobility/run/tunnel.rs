//! The tunnel of a node: made once something is served, and what is woken by it.

use super::{Running, Woken};
use crate::addresses::Changes;
use crate::mobility::bindings::Bindings;
use crate::mobility::care_of;
use crate::mobility::claims::FlowUpdates;
use crate::mobility::flows::Flows;
use crate::mobility::owned::Owned;
use crate::mobility::relays::Relays;
use crate::mobility::steer::{Claims, NodeSteer};
use godwit_core::tunnel::header::INNER_MTU;
use godwit_net::tunnel::{Config as EngineConfig, Engine, Event, Side, Tun, TunConfig};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use tokio::sync::mpsc;

/// What exists only once something is served.
pub(super) struct Tunnel {
    pub(super) bindings: Bindings,
    pub(super) updates: FlowUpdates,
    pub(super) relays: Relays,
    pub(super) steer: Arc<NodeSteer>,
    pub(super) engine: Arc<Engine>,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) claims: Claims,
    /// Readable when the host's addresses or routes have changed.
    pub(super) changes: Changes,
    pub(super) changed_at: Option<tokio::time::Instant>,
    pub(super) has_v6: bool,
}

/// What a tunnel is made of.
pub(super) struct Parts {
    pub(super) bindings: Bindings,
    pub(super) relays: Relays,
    pub(super) steer: Arc<NodeSteer>,
    pub(super) engine: Arc<Engine>,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) claims: Claims,
    pub(super) has_v6: bool,
}

impl Running {
    /// The tunnel, once something is served.
    pub(super) fn open_tunnel(&mut self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if self.tunnel.is_some() {
            return Ok(());
        }
        let config = &self.start.config;
        let tun = Tun::create(&self.device())?;
        let owned = Owned::new(tun.index(), INNER_MTU)?;
        let (sockets, has_v6) = sockets(config.port)?;
        let (steer, claims) = NodeSteer::new();
        let steer = Arc::new(steer);
        let (engine, events) =
            Engine::start(EngineConfig::new(Side::Node), Arc::new(tun), sockets, steer.clone())?;
        let engine = Arc::new(engine);
        let bindings = Bindings::new(engine.clone(), self.tell.clone(), self.start.dir.clone(), owned)?;
        tracing::info!(interface = config.interface, port = config.port, "home addresses can be served");
        let relays = Relays::new(rand::random(), rand::random());
        self.open(Parts { bindings, relays, steer, engine, events, claims, has_v6 })?;
        Ok(())
    }

    /// The device of the tunnel.
    pub(super) fn device(&self) -> TunConfig {
        TunConfig::new(&self.start.config.interface, INNER_MTU)
    }

    /// From now on there is a tunnel.
    pub(super) fn open(&mut self, parts: Parts) -> io::Result<()> {
        let Parts { bindings, relays, steer, engine, events, claims, has_v6 } = parts;
        let flows = Flows::new(steer.clone(), engine.clone(), self.again.clone());
        self.tunnel = Some(Tunnel {
            updates: FlowUpdates::new(self.tell.clone(), bindings.epoch()),
            bindings,
            relays,
            steer,
            engine,
            events,
            claims,
            changes: Changes::listen()?,
            changed_at: None,
            has_v6,
        });
        self.flows.send_replace(Some(flows));
        self.follow_host();
        Ok(())
    }

    /// The host's addresses or routes may be others.
    pub(super) fn follow_host(&mut self) {
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
}

/// What happens at the tunnel; nothing ever where there is none.
pub(super) async fn of_tunnel(tunnel: Option<&mut Tunnel>) -> Woken {
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
