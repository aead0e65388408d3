//! One process follows another: the tunnel with its keys, the bindings and the sockets at home addresses go
//! over, and neither home agents nor clients notice.
//!
//! ```text
//!    predecessor                                          successor
//!        │ carries on by what it knows: packets, probes,     │ opens the directory and the store
//!        │ new connections                                   │ hears what the network says
//!        │ ◀────────────────────────────────────── ready     │
//!        │ its threads end ──── estate ────────────────────▶ │ adopts device and sockets, starts threads
//!        │ what it has accepted goes on to its end           │ accepts
//! ```
//!
//! In between packets wait in the device and the sockets. A successor that cannot use what was left (another
//! configuration, another version, a clock that was set) begins anew, as after a crash.

use super::Running;
use super::tunnel::Parts;
use crate::clock;
use crate::mobility::bindings::{Bindings, BindingsLeft};
use crate::mobility::relays::Relays;
use crate::mobility::services::{ServiceLeft, SocketLeft};
use crate::mobility::steer::NodeSteer;
use crate::mobility::view::View;
use godwit_core::tunnel::header::INNER_MTU;
use godwit_net::estate::Estate;
use godwit_net::tunnel::{Config as EngineConfig, Engine, KeyLeft, Left as TunnelLeft, Side, Tun};
use serde::{Deserialize, Serialize};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Changes with what stands below: another one is not read.
const VERSION: u8 = 2;

/// What is left, beside descriptors: those of the device, of the tunnel's sockets, and of what listens, each
/// followed by its sessions'.
#[derive(Serialize, Deserialize)]
struct Left {
    interface: String,
    port: u16,
    queues: usize,
    sockets: usize,
    keys: Vec<KeyLeft>,
    view: View,
    bindings: BindingsLeft,
    relays: Relays,
    services: Vec<ServiceLeft>,
    listening: Vec<(bool, SocketAddr, Vec<SocketAddr>)>,
}

/// What the process before leaves; never where there is none.
pub(super) async fn of(estate: Option<&mut oneshot::Receiver<Estate>>) -> Option<Estate> {
    match estate {
        Some(estate) => estate.await.ok(),
        None => std::future::pending().await,
    }
}

impl Running {
    /// Another process is about to follow: packets are carried on, by what is known now.
    pub(super) fn carry_on(&mut self) {
        self.carries_on = true;
        self.left = true;
        // Whoever hands connections over does so no longer.
        self.heard = tokio::sync::mpsc::channel(1).0;
        self.services.suspend_sites();
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.bindings.renew();
        }
    }

    /// Everything is the other process's from now on, but what was accepted here.
    pub(super) fn bequeath(&mut self) -> Option<Estate> {
        self.flows.send_replace(None);
        let tunnel = self.tunnel.take()?;
        let sockets = self.services.leave_sockets().and_then(|left| Ok((left, tunnel.engine.leave()?)));
        let (listening, TunnelLeft { keys, device, sockets }) = match sockets {
            Ok(left) => left,
            Err(error) => {
                tracing::error!(%error, "home addresses cannot be left to another process");
                return None;
            }
        };
        let left = Left {
            interface: self.start.config.interface.clone(),
            port: self.start.config.port,
            queues: device.len(),
            sockets: sockets.len(),
            keys,
            view: View::clone(&tunnel.steer.view.load()),
            bindings: tunnel.bindings.leave(),
            relays: tunnel.relays,
            services: self.services.leave(),
            listening: listening.iter().map(face).collect(),
        };
        let listening = listening.into_iter().flat_map(|one| {
            std::iter::once(one.socket).chain(one.sessions.into_iter().map(|(_, socket)| socket))
        });
        let descriptors: Vec<OwnedFd> = device.into_iter().chain(sockets).chain(listening).collect();
        tracing::info!(descriptors = descriptors.len(), "home addresses are another process's from now on");
        Some(Estate::leave(clock::now(), VERSION, &left, descriptors))
    }

    /// The process before has left this, or nothing; what is served is served from now on.
    pub(super) fn inherit(&mut self, estate: Option<Estate>) {
        self.estate = None;
        if let Some(estate) = estate
            && let Err(error) = self.resume(estate)
        {
            tracing::warn!(%error, "what the process before has left cannot be used: home addresses begin anew");
        }
        self.serve_as_before();
        self.services.resumed();
    }

    fn resume(&mut self, estate: Estate) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let (left, mut descriptors) = estate.take::<Left>(clock::now(), VERSION)?;
        let config = &self.start.config;
        if (&left.interface, left.port) != (&config.interface, config.port) {
            return Err("the configuration is another one".into());
        }
        let device: Vec<OwnedFd> = descriptors.by_ref().take(left.queues).collect();
        let sockets: Vec<UdpSocket> = descriptors.by_ref().take(left.sockets).map(UdpSocket::from).collect();
        let listening = listening(left.listening, descriptors)?;
        let has_v6 = sockets.iter().any(|socket| socket.local_addr().is_ok_and(|at| at.is_ipv6()));
        let tun = Tun::adopt(&self.device(), device)?;
        let interface = (tun.index(), INNER_MTU);
        let (steer, claims) = NodeSteer::new();
        steer.view.store(Arc::new(left.view));
        let steer = Arc::new(steer);
        let side = EngineConfig::new(Side::Node);
        let (engine, events) = Engine::resume(side, Arc::new(tun), sockets, steer.clone(), left.keys)?;
        let engine = Arc::new(engine);
        let (tell, dir) = (self.tell.clone(), self.start.dir.clone());
        let bindings = Bindings::resume(engine.clone(), tell, dir, interface, left.bindings)?;
        self.services.resume(left.services, listening);
        self.open(Parts { bindings, relays: left.relays, steer, engine, events, claims, has_v6 })?;
        tracing::info!("home addresses are served on where another process left them");
        Ok(())
    }
}

fn face(left: &SocketLeft) -> (bool, SocketAddr, Vec<SocketAddr>) {
    (left.is_tcp, left.at, left.sessions.iter().map(|(client, _)| *client).collect())
}

/// The sockets that listen, with their sessions.
fn listening(
    faces: Vec<(bool, SocketAddr, Vec<SocketAddr>)>,
    mut descriptors: impl Iterator<Item = OwnedFd>,
) -> Result<Vec<SocketLeft>, &'static str> {
    let mut next = || descriptors.next().ok_or("fewer descriptors came than were left");
    let mut left = Vec::new();
    for (is_tcp, at, clients) in faces {
        let socket = next()?;
        let sessions = clients.into_iter().map(|client| next().map(|socket| (client, socket)));
        let sessions = sessions.collect::<Result<_, _>>()?;
        left.push(SocketLeft { is_tcp, at, socket, sessions });
    }
    Ok(left)
}
