//! QUIC as a libp2p transport, on quinn.
//!
//! The wire is libp2p's, so a stock libp2p peer could talk to it; what differs is how it behaves.
//! libp2p's own transport fixes Cubic, which at 1 % loss and 50 ms moves 1.6 % of the link where BBR
//! moves 90 %; it switches off migration, so that a client that changes its address dies silently
//! after ten seconds; and it leaves UDP buffers at the kernel's default. All three are set here.
//!
//! Each listen address is one UDP socket, also used for dialling, so that a member is seen under
//! the address it listens on. A restarted member has the keys to reset connections that its
//! predecessor left behind (derived from its own key), so peers need not wait for their idle time.

mod config;
mod muxer;
mod socket;
mod tls;

pub(crate) use config::Configs;
pub(crate) use socket::bind;

use crate::address::{is_quic, socket_address};
use crate::pending::Pending;
use crate::transports::Secured;
use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::{Multiaddr, PeerId, Transport};
use quinn::{Connecting, Connection, Endpoint, Incoming, TokioRuntime};
use rustls::pki_types::CertificateDer;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::timeout;

/// Sockets bound beforehand, taken by [`Transport::listen_on`], and endpoints made: what the owner
/// of the swarm, into which the transport disappears, shares with it.
#[derive(Clone, Default)]
pub(crate) struct Sockets {
    inner: Arc<Mutex<(Vec<UdpSocket>, Vec<Endpoint>)>>,
}

impl Sockets {
    /// Hands a bound socket over.
    pub(crate) fn put(&self, socket: UdpSocket) {
        self.with(|(sockets, _)| sockets.push(socket));
    }

    /// Takes a socket back.
    pub(crate) fn take(&self, address: SocketAddr) -> Option<UdpSocket> {
        self.with(|(sockets, _)| {
            let at = sockets.iter().position(|socket| socket.local_addr().is_ok_and(|a| a == address))?;
            Some(sockets.swap_remove(at))
        })
    }

    /// Waits until everything said last (the close of connections) has left.
    pub(crate) async fn wait_idle(&self, at_most: Duration) {
        let endpoints = self.with(|(_, endpoints)| std::mem::take(endpoints));
        let all = futures::future::join_all(endpoints.iter().map(Endpoint::wait_idle));
        timeout(at_most, all).await.ok();
    }

    fn with<T>(&self, f: impl FnOnce(&mut (Vec<UdpSocket>, Vec<Endpoint>)) -> T) -> T {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The transport.
pub(crate) struct Quic {
    configs: Configs,
    sockets: Sockets,
    pending: Arc<Pending>,
    listeners: Vec<Listener>,
    /// For dialling where nothing listens in the address family.
    diallers: Vec<Endpoint>,
    events: VecDeque<TransportEvent<Upgrade, QuicError>>,
    waker: Option<Waker>,
}

type Upgrade = BoxFuture<'static, Result<Secured, QuicError>>;

struct Listener {
    id: ListenerId,
    endpoint: Endpoint,
    address: SocketAddr,
    accepting: BoxFuture<'static, Option<Incoming>>,
}

/// A QUIC connection was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QuicError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Connect(#[from] quinn::ConnectError),
    #[error(transparent)]
    Connection(#[from] quinn::ConnectionError),
    #[error("the handshake took too long")]
    Timeout,
    #[error("the peer must prove its address first")]
    Retry,
    #[error("the peer's TLS certificate is not libp2p's")]
    Identity,
}

impl Quic {
    pub(crate) fn new(configs: Configs, sockets: Sockets, pending: Arc<Pending>) -> Quic {
        Quic {
            configs,
            sockets,
            pending,
            listeners: Vec::new(),
            diallers: Vec::new(),
            events: VecDeque::new(),
            waker: None,
        }
    }

    fn listen(&mut self, id: ListenerId, address: SocketAddr) -> io::Result<()> {
        let socket = match self.sockets.take(address) {
            Some(socket) => socket,
            None => bind(address, self.configs.udp_buffer)?,
        };
        let address = socket.local_addr()?;
        let endpoint = self.endpoint(socket, Some(self.configs.server.clone()))?;
        let accepting = accept(endpoint.clone());
        self.listeners.push(Listener { id, endpoint, address, accepting });
        let listen_addr = crate::address::listen_address(address, crate::TransportKind::Quic);
        self.events.push_back(TransportEvent::NewAddress { listener_id: id, listen_addr });
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Ok(())
    }

    fn endpoint(&self, socket: UdpSocket, server: Option<quinn::ServerConfig>) -> io::Result<Endpoint> {
        let endpoint = Endpoint::new(self.configs.endpoint.clone(), server, socket, Arc::new(TokioRuntime))?;
        self.sockets.with(|(_, endpoints)| endpoints.push(endpoint.clone()));
        Ok(endpoint)
    }

    /// The endpoint to dial `to` from: one that listens in its family, and on loopback only if it
    /// is there too.
    fn endpoint_for(&mut self, to: SocketAddr) -> io::Result<Endpoint> {
        let listening =
            self.listeners.iter().map(|listener| (&listener.endpoint, listener.address)).find(|(_, from)| {
                let ip = from.ip();
                ip.is_ipv4() == to.is_ipv4()
                    && (ip.is_unspecified() || ip.is_loopback() == to.ip().is_loopback())
            });
        if let Some((endpoint, _)) = listening {
            return Ok(endpoint.clone());
        }
        let is_same_family = |e: &&Endpoint| e.local_addr().is_ok_and(|a| a.is_ipv4() == to.is_ipv4());
        if let Some(endpoint) = self.diallers.iter().find(is_same_family) {
            return Ok(endpoint.clone());
        }
        let any: SocketAddr = match to {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let endpoint = self.endpoint(bind(any, self.configs.udp_buffer)?, None)?;
        self.diallers.push(endpoint.clone());
        Ok(endpoint)
    }

    fn secure_inbound(&self, incoming: Incoming) -> Upgrade {
        let (pending, limit) = (self.pending.clone(), self.configs.handshake);
        async move {
            // Under pressure a source first proves that it receives what is sent to its address.
            if pending.is_busy() && incoming.may_retry() {
                incoming.retry().ok();
                return Err(QuicError::Retry);
            }
            secure(incoming.accept()?, limit).await
        }
        .boxed()
    }
}

fn accept(endpoint: Endpoint) -> BoxFuture<'static, Option<Incoming>> {
    async move { endpoint.accept().await }.boxed()
}

async fn secure(connecting: Connecting, limit: Duration) -> Result<Secured, QuicError> {
    let connection = timeout(limit, connecting).await.map_err(|_| QuicError::Timeout)??;
    let peer = peer_of(&connection).ok_or(QuicError::Identity)?;
    let muxer = StreamMuxerBox::new(muxer::Muxer::new(connection.clone()));
    Ok(Secured { peer, muxer, quic: Some(connection) })
}

fn peer_of(connection: &Connection) -> Option<PeerId> {
    let certificates = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    Some(libp2p_tls::certificate::parse(certificates.first()?).ok()?.peer_id())
}

impl Transport for Quic {
    type Output = Secured;
    type Error = QuicError;
    type ListenerUpgrade = Upgrade;
    type Dial = Upgrade;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<QuicError>> {
        match socket_address(&address) {
            Some(socket) if is_quic(&address) => {
                self.listen(id, socket).map_err(|e| TransportError::Other(e.into()))
            }
            _ => Err(TransportError::MultiaddrNotSupported(address)),
        }
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let before = self.listeners.len();
        self.listeners.retain(|listener| listener.id != id);
        before != self.listeners.len()
    }

    fn dial(&mut self, address: Multiaddr, _: DialOpts) -> Result<Upgrade, TransportError<QuicError>> {
        let to = match socket_address(&address) {
            Some(to) if is_quic(&address) && to.port() != 0 && !to.ip().is_unspecified() => to,
            _ => return Err(TransportError::MultiaddrNotSupported(address)),
        };
        let endpoint = self.endpoint_for(to).map_err(|e| TransportError::Other(e.into()))?;
        let (client, limit) = (self.configs.client.clone(), self.configs.handshake);
        // TLS wants a server name; peers are known by key and the name is never looked at.
        Ok(async move { secure(endpoint.connect_with(client, to, "l")?, limit).await }.boxed())
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Upgrade, QuicError>> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(event);
        }
        for at in 0..self.listeners.len() {
            let listener = &mut self.listeners[at];
            let Poll::Ready(accepted) = Pin::new(&mut listener.accepting).poll(cx) else { continue };
            let listener_id = listener.id;
            let Some(incoming) = accepted else {
                self.listeners.swap_remove(at);
                return Poll::Ready(TransportEvent::ListenerClosed { listener_id, reason: Ok(()) });
            };
            listener.accepting = accept(listener.endpoint.clone());
            let local_addr = crate::address::listen_address(listener.address, crate::TransportKind::Quic);
            let remote = incoming.remote_address();
            let send_back_addr = crate::address::listen_address(remote, crate::TransportKind::Quic);
            let upgrade = self.secure_inbound(incoming);
            return Poll::Ready(TransportEvent::Incoming {
                listener_id,
                upgrade,
                local_addr,
                send_back_addr,
            });
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
