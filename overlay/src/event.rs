//! What an overlay tells its owner.

use bytes::Bytes;
use godwit_core::certificate::{MemberCertificate, Revocation};
use godwit_core::key::MemberId;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Something that happened. Of one peer, `PeerUp` comes before its messages; messages already on
/// their way may trail its `PeerDown`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A member is connected: it proved its key, showed this certificate, and was admitted.
    PeerUp {
        /// Who.
        peer: MemberId,
        /// Its certificate.
        certificate: Box<MemberCertificate>,
        /// Where it is.
        address: SocketAddr,
        /// Over which path.
        transport: TransportKind,
    },
    /// The last connection with the peer is gone. Follows every `PeerUp`, also when the peer
    /// started anew, before its next `PeerUp`.
    PeerDown {
        /// Who.
        peer: MemberId,
    },
    /// The peer sent this with its [`crate::Overlay::send`].
    Message {
        /// Who.
        from: MemberId,
        /// What.
        bytes: Bytes,
    },
    /// A fresh measurement of the round trip to a peer, about once a second.
    Rtt {
        /// Who.
        peer: MemberId,
        /// How long.
        rtt: Duration,
    },
    /// Somebody was refused, or refused this member, or is no longer admitted. When too many
    /// strangers knock, further ones are only counted ([`crate::Counters::refused`]).
    Refused {
        /// Where the other side is.
        address: SocketAddr,
        /// Who had dialled.
        direction: Direction,
        /// Why, for people.
        why: String,
        /// The statement that the other side showed when it refused this member. Nobody has
        /// verified it yet.
        revocation: Option<Box<Revocation>>,
    },
    /// A dial ended without an admitted connection.
    DialFailed {
        /// Who was dialled, when that was known.
        peer: Option<MemberId>,
        /// Where.
        addresses: Vec<SocketAddr>,
        /// Why, for people.
        why: String,
    },
}

/// A peer sent this with its [`crate::Overlay::send_mobility`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Who.
    pub from: MemberId,
    /// What.
    pub bytes: Bytes,
}

/// Who dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// The other side.
    Inbound,
    /// This side.
    Outbound,
}

/// A path to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TransportKind {
    /// QUIC, the first choice.
    Quic,
    /// TCP with Noise and yamux, where UDP does not pass.
    Tcp,
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            TransportKind::Quic => "quic",
            TransportKind::Tcp => "tcp",
        })
    }
}

/// A connected peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// Who.
    pub peer: MemberId,
    /// The last measured round trip.
    pub rtt: Option<Duration>,
    /// Where it is now; with QUIC it may move.
    pub address: SocketAddr,
    /// Over which path messages go.
    pub transport: TransportKind,
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages handed to a connection.
    pub messages_sent: u64,
    /// Messages received.
    pub messages_received: u64,
    /// Messages refused because the peer's queue was full.
    pub messages_dropped: u64,
    /// Handshakes turned away by a bound before they began, or displaced.
    pub handshakes_shed: u64,
    /// Peers refused by admission, either way.
    pub refused: u64,
}

/// An overlay did not start. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on: in use, or not of this host.
    #[error("cannot listen on {address} ({transport})")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Which path.
        transport: TransportKind,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The key cannot be used for TLS or Noise.
    #[error("the member key cannot be used: {0}")]
    Key(String),
    /// The certificate is not this key's.
    #[error("the certificate was issued to another key")]
    Certificate,
}

/// A message was not taken. Nothing of it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No connection with the peer; try again after its `PeerUp`.
    #[error("not connected with this peer")]
    NotConnected,
    /// The peer reads too slowly and its queue is full; it was counted. Try again later.
    #[error("the queue to this peer is full")]
    Full,
    /// Over [`godwit_core::wire::MESSAGE_LEN_MAX`]; trying again never helps.
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
}

/// A stream was not opened. Trying again may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No connection with the peer; try again after its `PeerUp`.
    #[error("not connected with this peer")]
    NotConnected,
    /// The connection ended meanwhile.
    #[error("the connection ended")]
    Closed,
    /// It took longer than [`crate::Limits::stream_open`].
    #[error("opening a stream took too long")]
    Timeout,
    /// Too many streams are being opened on this connection.
    #[error("too many streams are being opened")]
    Busy,
    /// The peer does not speak the protocol.
    #[error("the peer does not speak this protocol")]
    Unsupported,
}
