//! What an overlay is started with, and its bounds.

use crate::event::{Said, TransportKind};
use crate::transfer::Holder;
use godwit_core::admission::{Admission, Refusal};
use godwit_core::certificate::{MemberCertificate, Redemption};
use godwit_core::key::SecretKey;
use godwit_core::time::Time;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Tells the time by which certificates are judged. The shell brings it, as it does for the
/// machines, so that both always agree.
pub type Clock = Arc<dyn Fn() -> Time + Send + Sync>;

/// What an overlay is started with.
pub struct Config {
    /// The member's key: peers prove theirs to it and it proves this one to them.
    pub key: SecretKey,
    /// The certificate it shows; issued to `key`.
    pub certificate: MemberCertificate,
    /// Grows with every start, below 2^48: peers drop connections of a lower one. So they do after
    /// [`crate::Overlay::rehomed`].
    pub epoch: u64,
    /// Where to listen. Each address is one UDP socket (QUIC) and one TCP socket on the same port;
    /// port 0 takes a free port, the same one for all addresses that say 0.
    pub listen: Vec<SocketAddr>,
    /// Over what it listens and dials. Default both.
    pub paths: Paths,
    /// Whom it admits, until [`crate::Overlay::set_admission`] says otherwise.
    pub admission: Admission,
    /// Where join requests go; without it joiners hear [`Refusal::Unavailable`].
    pub sponsor: Option<mpsc::Sender<SponsorRequest>>,
    /// What peers may fetch from here; without it transfer streams are refused.
    pub holder: Option<Arc<dyn Holder>>,
    /// Where messages about moving connections go; without it they are not read. Reading slowly slows
    /// the peers down.
    pub moves: Option<mpsc::Sender<Said>>,
    /// The clock.
    pub clock: Clock,
    /// The bounds.
    pub limits: Limits,
}

impl Config {
    /// A configuration that listens nowhere, admits nobody, sponsors nobody and holds nothing yet.
    pub fn new(key: SecretKey, certificate: MemberCertificate, epoch: u64, clock: Clock) -> Config {
        Config {
            key,
            certificate,
            epoch,
            listen: Vec::new(),
            paths: Paths::default(),
            admission: Admission::default(),
            sponsor: None,
            holder: None,
            moves: None,
            clock,
            limits: Limits::default(),
        }
    }
}

/// Over what an overlay listens and dials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Paths {
    /// QUIC first, TCP where UDP does not pass.
    #[default]
    Both,
    /// QUIC alone.
    Quic,
    /// TCP alone: for hosts where UDP is filtered, to save the wait for it.
    Tcp,
}

impl Paths {
    pub(crate) fn has(self, transport: TransportKind) -> bool {
        match transport {
            TransportKind::Quic => self != Paths::Tcp,
            TransportKind::Tcp => self != Paths::Quic,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("member", &self.key.public())
            .field("epoch", &self.epoch)
            .field("listen", &self.listen)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Somebody redeems a join token here. Whoever takes this out of the channel judges it
/// ([`Admission::sponsor`]), makes the new certificate durable, and only then answers.
#[derive(Debug)]
pub struct SponsorRequest {
    /// The redeemed token; its member key is the one the joiner proved, its signatures are checked.
    pub redemption: Redemption,
    /// The answer. Dropping it unanswered tells the joiner [`Refusal::Unavailable`].
    pub reply: oneshot::Sender<Result<MemberCertificate, Refusal>>,
}

/// The bounds of an overlay. Every queue, handshake and wait has one; the defaults suit a member
/// of a network of a few hundred on a small host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A QUIC connection that hears nothing for so long is dead. Of both ends' values the smaller
    /// counts. Default 3 s: a killed member must leave DNS answers within 3 to 5 s.
    pub quic_idle: Duration,
    /// An idle QUIC connection is kept alive this often. Default 1 s: two may be lost per `quic_idle`.
    pub quic_keep_alive: Duration,
    /// A peer is pinged this often. Default 1 s.
    pub ping_interval: Duration,
    /// A TCP connection whose ping stays unanswered for so long is closed. Default 3 s, like QUIC's.
    pub ping_timeout: Duration,
    /// A handshake (TLS or Noise, and multiplexer) ends within this or is dropped. Default 5 s.
    pub handshake: Duration,
    /// Then admission ends within this or the connection is dropped. Default 5 s: a sponsor has to
    /// write a certificate to its disk in it.
    pub admission: Duration,
    /// TCP is tried so long after QUIC. Default 300 ms: longer than most round trips, so that TCP
    /// only wins where UDP does not pass.
    pub tcp_delay: Duration,
    /// The next address of a peer is tried so long after the last one. Default 250 ms (RFC 8305).
    pub address_delay: Duration,
    /// Unfinished inbound handshakes from one source (IPv4 /24, IPv6 /56). Default 16.
    pub pending_per_source: usize,
    /// Unfinished inbound handshakes in all. Default 256. When it is reached, the oldest one of the
    /// source with the most gives way, so that a flood displaces itself and not a member.
    pub pending: usize,
    /// Connections with one peer. Default 3: both may dial at once, and once more by the other path.
    pub connections_per_peer: usize,
    /// Inbound streams of one connection. Default 256; an opener waits for a free one.
    pub inbound_streams: u32,
    /// Transfer streams served at once, over all peers. Default 64: each occupies a blocking thread.
    pub served_streams: usize,
    /// Opening a stream ends within this. Default 5 s.
    pub stream_open: Duration,
    /// Messages waiting for one peer. Default 256.
    pub queue_messages: usize,
    /// Bytes waiting for one peer. Default 4 MiB.
    pub queue_bytes: usize,
    /// Events waiting for whoever owns the overlay. Default 1024; when it is full, peers are read
    /// no further until there is room.
    pub events: usize,
    /// Flow-control window of a QUIC connection and stream, bytes. Default 16 MiB: 1 Gbit/s over
    /// 130 ms. Larger ones cost processor time.
    pub window: u32,
    /// Buffer asked of the kernel for each UDP socket and direction, bytes. Default 8 MiB; see
    /// `net.core.rmem_max` and `wmem_max`.
    pub udp_buffer: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            quic_idle: Duration::from_secs(3),
            quic_keep_alive: Duration::from_secs(1),
            ping_interval: Duration::from_secs(1),
            ping_timeout: Duration::from_secs(3),
            handshake: Duration::from_secs(5),
            admission: Duration::from_secs(5),
            tcp_delay: Duration::from_millis(300),
            address_delay: Duration::from_millis(250),
            pending_per_source: 16,
            pending: 256,
            connections_per_peer: 3,
            inbound_streams: 256,
            served_streams: 64,
            stream_open: Duration::from_secs(5),
            queue_messages: 256,
            queue_bytes: 4 * 1024 * 1024,
            events: 1024,
            window: 16 * 1024 * 1024,
            udp_buffer: 8 * 1024 * 1024,
        }
    }
}
