//! The handle by which the owner uses a running overlay.

use crate::Config;
use crate::driver::{self, Command};
use crate::event::{Counters, Event, OpenError, PeerInfo, SendError, StartError};
use crate::shared::Shared;
use crate::start::start as start_driver;
use crate::stream::Stream;
use crate::streams::Protocol;
use bytes::Bytes;
use godwit_core::admission::Admission;
use godwit_core::key::MemberId;
use godwit_core::wire::MESSAGE_LEN_MAX;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// A running overlay. Clones are the same overlay; when the last one is dropped it closes its
/// connections and stops.
#[derive(Clone)]
pub struct Overlay {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    addresses: Arc<[SocketAddr]>,
}

/// Starts listening. Events come through the receiver; reading it slowly slows the peers down,
/// dropping it stops the overlay.
pub async fn start(config: Config) -> Result<(Overlay, mpsc::Receiver<Event>), StartError> {
    let (commands, orders) = mpsc::channel(driver::COMMANDS_MAX);
    let (events, receiver) = mpsc::channel(config.limits.events);
    let started = start_driver(config, orders, commands.downgrade(), events)?;
    let overlay = Overlay { shared: started.shared, commands, addresses: started.addresses.into() };
    Ok((overlay, receiver))
}

/// Strangers' addresses dialled at the same time: as many handshakes cost little, and in a small
/// network they are all members there are.
const UNKNOWN_AT_ONCE: usize = 8;

impl Overlay {
    /// The addresses it listens on, ports filled in; each for QUIC over UDP and for TCP.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Connects with a member: QUIC first, TCP where UDP does not pass, all addresses, the first
    /// that is admitted wins. Nothing happens when it is connected or being dialled. The outcome is
    /// `PeerUp` or `DialFailed`.
    pub fn dial(&self, peer: MemberId, addresses: Vec<SocketAddr>) {
        self.command(Command::Dial { peer: Some(peer), addresses });
    }

    /// Connects with members of which only addresses are known. Up to eight are tried
    /// at the same time, because nobody can tell yet which is near: the first to answer saves a new
    /// member several round trips to a far one. The others become connections, too.
    pub fn dial_unknown(&self, addresses: Vec<SocketAddr>) {
        for first in 0..UNKNOWN_AT_ONCE.min(addresses.len()) {
            let addresses = addresses.iter().skip(first).step_by(UNKNOWN_AT_ONCE).copied().collect();
            self.command(Command::Dial { peer: None, addresses });
        }
    }

    /// Queues a message to a connected peer. Messages to one peer arrive in order; those queued or
    /// on their way when a connection ends may be lost.
    pub fn send(&self, to: MemberId, bytes: Bytes) -> Result<(), SendError> {
        self.queue(Protocol::Messages, to, bytes)
    }

    /// Queues a message about moving connections. They have a queue and a stream of their own, so that
    /// they do not wait behind other messages; otherwise as [`Overlay::send`]. The peer reads them at
    /// its [`Config::moves`].
    pub fn send_mobility(&self, to: MemberId, bytes: Bytes) -> Result<(), SendError> {
        self.queue(Protocol::Mobility, to, bytes)
    }

    fn queue(&self, protocol: Protocol, to: MemberId, bytes: Bytes) -> Result<(), SendError> {
        if bytes.len() > MESSAGE_LEN_MAX {
            return Err(SendError::TooLong(bytes.len()));
        }
        self.shared.links.get(&to).ok_or(SendError::NotConnected)?.enqueue(protocol, bytes)
    }

    /// Closes all connections with a peer at once. It may dial again.
    pub fn disconnect(&self, peer: MemberId) {
        self.shared.ask_to_disconnect(peer);
    }

    /// This host is at another address: closes all connections at once. Those made from now on take the
    /// place of the earlier ones at the peers too, which cannot know that they are dead.
    pub fn rehomed(&self) {
        self.shared.rehomed();
    }

    /// Replaces what decides whom to admit. Connections with members that are no longer admitted
    /// (revoked, expired, their token used twice) close at once.
    pub fn set_admission(&self, admission: Admission) {
        self.shared.set_admission(admission);
    }

    /// Opens a transfer stream to a connected peer, for [`crate::transfer::fetch`].
    pub async fn open(&self, to: MemberId) -> Result<Stream, OpenError> {
        let (reply, answer) = oneshot::channel();
        let open = async {
            let command = Command::Open { peer: to, protocol: Protocol::Transfer, reply };
            self.commands.send(command).await.map_err(|_| OpenError::Closed)?;
            answer.await.map_err(|_| OpenError::Closed)?
        };
        let stream =
            timeout(self.shared.limits.stream_open, open).await.map_err(|_| OpenError::Timeout)??;
        Ok(Stream::new(to, stream, None))
    }

    /// The connected peers, in the order of their names.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.shared.links.infos()
    }

    /// What was counted since the start.
    pub fn counters(&self) -> Counters {
        self.shared.counters.snapshot()
    }

    /// Closes all connections, so that the peers know at once, and stops. Returns when that is done.
    pub async fn shutdown(&self) {
        let (done, finished) = oneshot::channel();
        if self.commands.send(Command::Shutdown { done }).await.is_ok() {
            finished.await.ok(); // an error says that it has stopped already
        }
    }

    fn command(&self, command: Command) {
        if let Err(error) = self.commands.try_send(command) {
            // The roster machine dials again while a member is not connected.
            tracing::warn!(%error, "a dial was dropped");
        }
    }
}
