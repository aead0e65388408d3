//! The streams of one connection: opens those asked for, hands on those that come.

use crate::event::OpenError;
use crate::streams::{OpenReply, Protocol};
use futures::future::{Ready, ready};
use libp2p::Stream;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Streams being opened at once on one connection; further ones are refused.
const OPENING_MAX: usize = 256;

/// Asks a handler for a stream.
pub(crate) struct Open {
    pub(crate) protocol: Protocol,
    pub(crate) reply: OpenReply,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Open({:?})", self.protocol)
    }
}

/// A handler accepted a stream.
pub(crate) struct Accepted {
    pub(crate) protocol: Protocol,
    pub(crate) stream: Stream,
    pub(crate) permit: OwnedSemaphorePermit,
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Accepted({:?})", self.protocol)
    }
}

/// The streams of one connection.
pub(crate) struct Handler {
    places: Arc<Semaphore>,
    timeout: Duration,
    asked: VecDeque<Open>,
    opening: usize,
    accepted: VecDeque<Accepted>,
}

impl Handler {
    pub(crate) fn new(inbound_max: u32, timeout: Duration) -> Handler {
        Handler {
            places: Arc::new(Semaphore::new(inbound_max as usize)),
            timeout,
            asked: VecDeque::new(),
            opening: 0,
            accepted: VecDeque::new(),
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = Accepted;
    type InboundProtocol = Offered;
    type OutboundProtocol = Offered;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpenReply;

    fn listen_protocol(&self) -> SubstreamProtocol<Offered> {
        SubstreamProtocol::new(Offered::All, ()).with_timeout(self.timeout)
    }

    fn connection_keep_alive(&self) -> bool {
        true // a connection lives until somebody closes it
    }

    fn on_behaviour_event(&mut self, open: Open) {
        if self.asked.len() + self.opening >= OPENING_MAX {
            open.reply.send(Err(OpenError::Busy)).ok();
            return;
        }
        self.asked.push_back(open);
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Offered, OpenReply, Accepted>> {
        if let Some(accepted) = self.accepted.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(accepted));
        }
        // Those whose asker has given up are not opened.
        while let Some(Open { protocol, reply }) = self.asked.pop_front() {
            if !reply.is_closed() {
                self.opening += 1;
                let protocol =
                    SubstreamProtocol::new(Offered::One(protocol), reply).with_timeout(self.timeout);
                return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
            }
        }
        Poll::Pending // the connection polls again after every event it hands in
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Offered, Offered, (), OpenReply>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (protocol, stream),
                ..
            }) => {
                // Beyond the bound the stream is dropped, which resets it.
                if let Ok(permit) = self.places.clone().try_acquire_owned() {
                    self.accepted.push_back(Accepted { protocol, stream, permit });
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (_, stream),
                info: reply,
            }) => {
                self.opening -= 1;
                reply.send(Ok(stream)).ok(); // an asker that has gone resets the stream
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: reply, error }) => {
                self.opening -= 1;
                reply.send(Err(open_error(&error))).ok();
            }
            _ => {}
        }
    }
}

fn open_error(error: &StreamUpgradeError<Infallible>) -> OpenError {
    match error {
        StreamUpgradeError::Timeout => OpenError::Timeout,
        StreamUpgradeError::NegotiationFailed => OpenError::Unsupported,
        StreamUpgradeError::Io(_) => OpenError::Closed,
        StreamUpgradeError::Apply(never) => match *never {},
    }
}

/// Negotiates what a stream is for, and leaves its bytes alone.
pub(crate) enum Offered {
    /// Inbound: any.
    All,
    /// Outbound: this one.
    One(Protocol),
}

impl UpgradeInfo for Offered {
    type Info = Protocol;
    type InfoIter = Vec<Protocol>;

    fn protocol_info(&self) -> Vec<Protocol> {
        match self {
            Offered::All => Protocol::ALL.to_vec(),
            Offered::One(protocol) => vec![*protocol],
        }
    }
}

impl InboundUpgrade<Stream> for Offered {
    type Output = (Protocol, Stream);
    type Error = Infallible;
    type Future = Ready<Result<(Protocol, Stream), Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: Protocol) -> Self::Future {
        ready(Ok((protocol, stream)))
    }
}

impl OutboundUpgrade<Stream> for Offered {
    type Output = (Protocol, Stream);
    type Error = Infallible;
    type Future = Ready<Result<(Protocol, Stream), Infallible>>;

    fn upgrade_outbound(self, stream: Stream, protocol: Protocol) -> Self::Future {
        ready(Ok((protocol, stream)))
    }
}
