//! All paths to peers as one libp2p transport: QUIC first, TCP behind it, admission on top.
//!
//! The swarm dials one multiaddress that holds all addresses of a peer ([`crate::address`]); below
//! it they are all tried ([`crate::transports`]), and the first that is admitted wins.
//!
//! Inbound, a connection gets a place among the pending ones before anything is spent on it, and
//! loses it when it is displaced ([`crate::pending`]).

use crate::address::{self, parse_connection_address, socket_address};
use crate::event::{Direction, TransportKind};
use crate::exchange::{self, Denied};
use crate::pending::{Pending, Place};
use crate::shared::Shared;
use crate::transports::{Attempt, Secured, Transports, list};
use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::{Multiaddr, PeerId, Transport};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

/// Inbound connections looked at before other work gets its turn.
const INCOMING_PER_POLL: usize = 64;

/// A connection was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PathError {
    #[error("{}", list(.0))]
    Dial(Vec<Attempt>),
    #[error("{0}")]
    Inbound(#[source] Denied),
    #[error("displaced by another handshake")]
    Displaced,
    #[error(transparent)]
    Transport(#[from] io::Error),
}

/// The transport that the swarm uses.
pub(crate) struct Paths {
    transports: Transports,
    shared: Arc<Shared>,
    pending: Arc<Pending>,
    /// Which transport is asked first for inbound connections; they take turns.
    tcp_first: bool,
}

impl Paths {
    pub(crate) fn new(transports: Transports, shared: Arc<Shared>, pending: Arc<Pending>) -> Paths {
        Paths { transports, shared, pending, tcp_first: false }
    }

    fn poll_one(
        &mut self,
        transport: TransportKind,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<<Boxed<Secured> as Transport>::ListenerUpgrade, io::Error>> {
        match transport {
            TransportKind::Quic => Pin::new(&mut self.transports.quic).poll(cx),
            TransportKind::Tcp => Pin::new(&mut self.transports.tcp).poll(cx),
        }
    }

    /// `None` when the source is crowded or the address unreadable: the connection is dropped.
    fn enter(
        &self,
        secured: <Boxed<Secured> as Transport>::ListenerUpgrade,
        from: &Multiaddr,
        transport: TransportKind,
    ) -> Option<(Multiaddr, Upgrade)> {
        let address = socket_address(from)?;
        let Ok(place) = self.pending.enter(address.ip()) else {
            self.shared.counters.handshakes_shed.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let number = self.shared.connection_number();
        let shared = self.shared.clone();
        let admission = async move {
            // The transports have deadlines of their own; this one holds whatever they do.
            let secured = tokio::time::timeout(shared.limits.handshake + Duration::from_secs(1), secured);
            let secured = secured.await.map_err(|_| PathError::Inbound(Denied::Timeout))??;
            let (admitted, muxer) = exchange::admit(&shared, Direction::Inbound, address, transport, secured)
                .await
                .map_err(PathError::Inbound)?;
            let peer = crate::identity::peer_id(&admitted.peer);
            let peer = peer.ok_or(PathError::Inbound(Denied::Protocol("the key is not Ed25519")))?;
            shared.put_admitted(number, admitted);
            Ok((peer, muxer))
        };
        let upgrade = unless_displaced(self.shared.clone(), place, admission).boxed();
        Some((address::connection_address(number, &[address]), upgrade))
    }
}

async fn unless_displaced<T>(
    shared: Arc<Shared>,
    mut place: Place,
    admission: impl Future<Output = Result<T, PathError>>,
) -> Result<T, PathError> {
    tokio::select! {
        biased;
        result = admission => result,
        () = place.displaced() => {
            shared.counters.handshakes_shed.fetch_add(1, Ordering::Relaxed);
            Err(PathError::Displaced)
        }
    }
}

type Upgrade = BoxFuture<'static, Result<(PeerId, StreamMuxerBox), PathError>>;

impl Transport for Paths {
    type Output = (PeerId, StreamMuxerBox);
    type Error = PathError;
    type ListenerUpgrade = Upgrade;
    type Dial = Upgrade;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<PathError>> {
        let result = if address::is_quic(&address) {
            self.transports.quic.listen_on(id, address)
        } else {
            self.transports.tcp.listen_on(id, address)
        };
        result.map_err(|error| error.map(PathError::Transport))
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.transports.quic.remove_listener(id) || self.transports.tcp.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, _: DialOpts) -> Result<Upgrade, TransportError<PathError>> {
        let Some(target) = parse_connection_address(&address) else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        let accept = {
            let shared = self.shared.clone();
            move |secured: Secured, address, transport| {
                let shared = shared.clone();
                async move {
                    let peer = secured.peer;
                    exchange::admit(&shared, Direction::Outbound, address, transport, secured)
                        .await
                        .map(|(admitted, muxer)| (peer, admitted, muxer))
                }
            }
        };
        let dialling = self.transports.dial(&target.addresses, target.peer, &self.shared.limits, accept);
        let shared = self.shared.clone();
        Ok(async move {
            let (peer, admitted, muxer) = dialling.await.map_err(PathError::Dial)?;
            shared.put_admitted(target.id, admitted);
            Ok((peer, muxer))
        }
        .boxed())
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Upgrade, PathError>> {
        for _ in 0..INCOMING_PER_POLL {
            self.tcp_first = !self.tcp_first;
            let order = match self.tcp_first {
                true => [TransportKind::Tcp, TransportKind::Quic],
                false => [TransportKind::Quic, TransportKind::Tcp],
            };
            let mut polled = order.into_iter().filter_map(|kind| match self.poll_one(kind, cx) {
                Poll::Ready(event) => Some((kind, event)),
                Poll::Pending => None,
            });
            let Some((kind, event)) = polled.next() else { return Poll::Pending };
            drop(polled);
            match event {
                TransportEvent::Incoming { listener_id, upgrade, local_addr, send_back_addr } => {
                    if let Some((send_back_addr, upgrade)) = self.enter(upgrade, &send_back_addr, kind) {
                        return Poll::Ready(TransportEvent::Incoming {
                            listener_id,
                            upgrade,
                            local_addr,
                            send_back_addr,
                        });
                    }
                }
                other => {
                    return Poll::Ready(
                        other.map_err(PathError::Transport).map_upgrade(|_| never_upgraded()),
                    );
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// For the events that carry no connection.
fn never_upgraded() -> Upgrade {
    futures::future::ready(Err(PathError::Displaced)).boxed()
}
