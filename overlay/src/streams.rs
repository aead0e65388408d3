//! Streams on admitted connections: the overlay's own behaviour in place of `libp2p-stream`.
//!
//! The behaviour claims what admission learnt about a connection when the swarm establishes it, and
//! refuses one that admission does not know. Its handler opens a stream on *one given* connection
//! (the driver chooses it) and tells the asker directly; inbound streams go to the driver, which
//! only ever starts tasks for them and so is never busy. Inbound streams are counted for as long as
//! they live; whoever opens too many waits (QUIC) or has them reset (TCP).

use crate::address::parse_connection_address;
use crate::event::OpenError;
use crate::handler::{Accepted, Handler, Open};
use crate::identity::member_id;
use crate::shared::{Admitted, Shared};
use godwit_core::key::MemberId;
use libp2p::core::{Endpoint, transport::PortUse};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, Stream};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Length-prefixed messages, one way.
    Messages,
    /// The same, for what must not wait behind those.
    Mobility,
    /// [`crate::transfer`].
    Transfer,
}

impl Protocol {
    pub(crate) const ALL: [Protocol; 3] = [Protocol::Messages, Protocol::Mobility, Protocol::Transfer];
}

impl AsRef<str> for Protocol {
    fn as_ref(&self) -> &str {
        match self {
            Protocol::Messages => "/godwit/messages/1",
            Protocol::Mobility => "/godwit/mobility/1",
            Protocol::Transfer => "/godwit/transfer/1",
        }
    }
}

/// Where an opened stream goes.
pub(crate) type OpenReply = oneshot::Sender<Result<Stream, OpenError>>;

/// A peer opened a stream.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) peer: MemberId,
    pub(crate) connection: ConnectionId,
    pub(crate) protocol: Protocol,
    pub(crate) stream: Stream,
    pub(crate) permit: OwnedSemaphorePermit,
}

/// A connection that is not, or no longer, known to admission.
#[derive(Debug, thiserror::Error)]
#[error("the connection was not admitted")]
struct NotAdmitted;

/// The behaviour.
pub(crate) struct Streams {
    shared: Arc<Shared>,
    /// Claimed at establishment, taken by the driver.
    claimed: HashMap<ConnectionId, Admitted>,
    events: VecDeque<ToSwarm<Inbound, Open>>,
    waker: Option<Waker>,
}

impl Streams {
    pub(crate) fn new(shared: Arc<Shared>) -> Streams {
        Streams { shared, claimed: HashMap::new(), events: VecDeque::new(), waker: None }
    }

    /// What admission learnt about a connection just established.
    pub(crate) fn take(&mut self, connection: ConnectionId) -> Option<Admitted> {
        self.claimed.remove(&connection)
    }

    /// Opens a stream on a connection.
    pub(crate) fn open(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        protocol: Protocol,
        reply: OpenReply,
    ) {
        self.events.push_back(ToSwarm::NotifyHandler {
            peer_id: peer,
            handler: NotifyHandler::One(connection),
            event: Open { protocol, reply },
        });
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn claim(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        let known = parse_connection_address(address)
            .and_then(|address| self.shared.claim_admitted(address.id))
            .filter(|admitted| member_id(&peer) == Some(admitted.peer));
        let Some(admitted) = known else { return Err(ConnectionDenied::new(NotAdmitted)) };
        self.claimed.insert(connection, admitted);
        Ok(Handler::new(self.shared.limits.inbound_streams, self.shared.limits.stream_open))
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = Inbound;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.claim(connection, peer, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        _role: Endpoint,
        _port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.claim(connection, peer, address)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(closed) => {
                self.claimed.remove(&closed.connection_id);
            }
            FromSwarm::DialFailure(failure) => {
                self.claimed.remove(&failure.connection_id);
            }
            FromSwarm::ListenFailure(failure) => {
                self.claimed.remove(&failure.connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        let Some(peer) = member_id(&peer) else { return };
        let Accepted { protocol, stream, permit } = event;
        let inbound = Inbound { peer, connection, protocol, stream, permit };
        self.events.push_back(ToSwarm::GenerateEvent(inbound));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Inbound, THandlerInEvent<Self>>> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(event);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
