//! What is served at home addresses as one process leaves it to the next: whether it works, and the sockets
//! that clients' packets come to.

use super::{Served, Services};
use crate::mobility::forward::Outside;
use godwit_core::name::SiteName;
use godwit_core::time::Time;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use tokio::net::TcpListener;

/// Where a service stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::mobility) struct ServiceLeft {
    name: SiteName,
    works: Option<bool>,
    failed_at: Option<Time>,
    drain_until: Option<Time>,
}

/// A socket at a home address.
#[derive(Debug)]
pub(in crate::mobility) struct SocketLeft {
    /// Connections come to it; otherwise datagrams.
    pub(in crate::mobility) is_tcp: bool,
    /// Where.
    pub(in crate::mobility) at: SocketAddr,
    pub(in crate::mobility) socket: OwnedFd,
    /// The sockets of its clients' sessions.
    pub(in crate::mobility) sessions: Vec<(SocketAddr, OwnedFd)>,
}

/// Sockets that another process has left, until something listens there again.
#[derive(Debug, Default)]
pub(super) struct Pool(BTreeMap<(bool, SocketAddr), SocketLeft>);

impl Pool {
    /// A socket that listens: the one that was left, or else a new one.
    pub(super) fn tcp(
        &mut self,
        at: SocketAddr,
        listen: impl FnOnce(SocketAddr) -> io::Result<TcpListener>,
    ) -> io::Result<TcpListener> {
        match self.0.remove(&(true, at)) {
            Some(left) => TcpListener::from_std(left.socket.into()),
            None => listen(at),
        }
    }

    /// A socket that receives datagrams, with its sessions.
    pub(super) fn udp(&mut self, at: SocketAddr) -> io::Result<Outside> {
        let Some(left) = self.0.remove(&(false, at)) else { return Outside::bind(at) };
        let tokio = |socket: OwnedFd| tokio::net::UdpSocket::from_std(UdpSocket::from(socket));
        let sessions = left.sessions.into_iter().map(|(client, socket)| Ok((client, tokio(socket)?)));
        Ok(Outside { socket: tokio(left.socket)?, sessions: sessions.collect::<io::Result<_>>()? })
    }
}

impl Services {
    /// Where they stand.
    pub(in crate::mobility) fn leave(&self) -> Vec<ServiceLeft> {
        let left = |(name, served): (&SiteName, &Served)| ServiceLeft {
            name: name.clone(),
            works: served.works,
            failed_at: served.failed_at,
            drain_until: served.drain_until,
        };
        self.served.iter().map(left).collect()
    }

    /// Those that are served from now on stand where another process left them.
    pub(in crate::mobility) fn resume(&mut self, services: Vec<ServiceLeft>, sockets: Vec<SocketLeft>) {
        self.left = services;
        self.pool = Pool(sockets.into_iter().map(|left| ((left.is_tcp, left.at), left)).collect());
    }

    /// All that is served is: what nobody took is closed.
    pub(in crate::mobility) fn resumed(&mut self) {
        self.left.clear();
        self.pool = Pool::default();
    }

    /// How many connections and sessions are passed on now.
    pub(in crate::mobility) fn forwarding(&self) -> u64 {
        let open = |served: &Served| served.forwarded.open.load(std::sync::atomic::Ordering::Relaxed);
        self.served.values().map(open).sum()
    }

    /// As another process left it.
    pub(super) fn as_left(&mut self, served: &mut Served) {
        let Some(at) = self.left.iter().position(|left| left.name == served.serving.name) else { return };
        let left = self.left.swap_remove(at);
        (served.works, served.failed_at, served.drain_until) = (left.works, left.failed_at, left.drain_until);
    }
}
