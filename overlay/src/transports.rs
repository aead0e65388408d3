//! The two transports below admission, and dialling over both.
//!
//! Each address of a peer is tried over QUIC, the next one a little later, and over TCP a little
//! later still. Each attempt runs through the handshake *and* what the caller does with it; the
//! first that the caller accepts wins, and the others are dropped where they are.

use crate::address::{self, listen_address};
use crate::config::{Limits, Paths};
use crate::event::TransportKind;
use crate::exchange::Denied;
use crate::pending::Pending;
use crate::quic::{Configs, Quic, Sockets};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use godwit_core::key::SecretKey;
use libp2p::core::Endpoint;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, DialOpts, PortUse, TransportError};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{PeerId, Transport, noise, tcp, yamux};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// A connection whose peer has proved its key, and nothing more.
pub(crate) struct Secured {
    pub(crate) peer: PeerId,
    pub(crate) muxer: StreamMuxerBox,
    pub(crate) quic: Option<quinn::Connection>,
}

/// The two transports below admission.
pub(crate) struct Transports {
    paths: Paths,
    pub(crate) quic: Boxed<Secured>,
    pub(crate) tcp: Boxed<Secured>,
}

impl Transports {
    pub(crate) fn new(
        key: &SecretKey,
        keypair: &Keypair,
        paths: Paths,
        limits: &Limits,
        sockets: Sockets,
        pending: Arc<Pending>,
    ) -> Result<Transports, String> {
        let configs = Configs::new(key, keypair, limits)?;
        let quic = Quic::new(configs, sockets, pending).boxed();
        let noise = noise::Config::new(keypair).map_err(|e| e.to_string())?;
        let mut yamux = yamux::Config::default();
        yamux.set_max_num_streams(2 * limits.inbound_streams as usize);
        let tcp = tcp::tokio::Transport::new(tcp::Config::default())
            .upgrade(Version::V1Lazy)
            .authenticate(noise)
            .multiplex(yamux)
            .timeout(limits.handshake)
            .map(|(peer, muxer), _| Secured { peer, muxer: StreamMuxerBox::new(muxer), quic: None })
            .boxed();
        Ok(Transports { paths, quic, tcp })
    }

    /// Tries all `addresses`; the first connection that `accept` accepts wins.
    pub(crate) fn dial<T, F, A>(
        &mut self,
        addresses: &[SocketAddr],
        expected: Option<PeerId>,
        limits: &Limits,
        accept: A,
    ) -> impl Future<Output = Result<T, Vec<Attempt>>> + Send + use<T, F, A>
    where
        A: Fn(Secured, SocketAddr, TransportKind) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<T, Denied>> + Send + 'static,
        T: Send + 'static,
    {
        let mut attempts = FuturesUnordered::new();
        for (i, address) in addresses.iter().take(address::ADDRESSES_MAX).enumerate() {
            let start = limits.address_delay * i as u32;
            for transport in [TransportKind::Quic, TransportKind::Tcp] {
                if !self.paths.has(transport) {
                    continue;
                }
                let is_second = transport == TransportKind::Tcp && self.paths == Paths::Both;
                let delay = if is_second { start + limits.tcp_delay } else { start };
                let connecting = self.connect(*address, transport);
                let (accept, address) = (accept.clone(), *address);
                attempts.push(async move {
                    tokio::time::sleep(delay).await;
                    let attempt = async {
                        let secured = connecting.await?;
                        // Before a word is said: a stranger at a member's address learns nothing.
                        if expected.is_some_and(|peer| peer != secured.peer) {
                            return Err(Denied::Protocol("another key than the expected member's"));
                        }
                        accept(secured, address, transport).await
                    };
                    attempt.await.map_err(|denied| Attempt { address, transport, denied })
                });
            }
        }
        async move {
            let mut failed = Vec::new();
            while let Some(result) = attempts.next().await {
                match result {
                    Ok(won) => return Ok(won),
                    Err(attempt) => failed.push(attempt),
                }
            }
            Err(failed)
        }
    }

    fn connect(
        &mut self,
        address: SocketAddr,
        transport: TransportKind,
    ) -> BoxFuture<'static, io::Result<Secured>> {
        // A port of its own: TCP from the listening port would meet the remains of the last connection.
        let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
        let multiaddr = listen_address(address, transport);
        let dial = match transport {
            TransportKind::Quic => self.quic.dial(multiaddr, options),
            TransportKind::Tcp => self.tcp.dial(multiaddr, options),
        };
        match dial {
            Ok(dial) => dial.boxed(),
            Err(TransportError::Other(error)) => futures::future::ready(Err(error)).boxed(),
            Err(TransportError::MultiaddrNotSupported(_)) => {
                futures::future::ready(Err(io::ErrorKind::Unsupported.into())).boxed()
            }
        }
    }
}

/// An attempt to reach an address over one path that failed.
#[derive(Debug, thiserror::Error)]
#[error("{transport} {address}: {denied}")]
pub(crate) struct Attempt {
    pub(crate) address: SocketAddr,
    pub(crate) transport: TransportKind,
    #[source]
    pub(crate) denied: Denied,
}

/// What was tried, for people.
pub(crate) fn list(attempts: &[Attempt]) -> String {
    let texts: Vec<String> = attempts.iter().map(Attempt::to_string).collect();
    texts.join("; ")
}
