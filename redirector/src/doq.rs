//! DNS over QUIC (RFC 9250): a query and its answer on a stream of their own.
//!
//! What a client breaks ends its connection with DOQ_PROTOCOL_ERROR: a query with an ID (4.2.1), one
//! that is too long, one with edns-tcp-keepalive (5.5.2). Zone transfers are over TCP and TLS only.
//!
//! Bounded: connections in the same table as other encrypted ones; streams at a time and octets on
//! each by QUIC's own flow control; time for a handshake and without a query. When half of the
//! places are taken, a client has to prove its address before anything is kept for it (a Retry
//! packet), so that forged addresses take no places from honest ones.

use crate::connections::{Connections, Place};
use crate::edns;
use crate::listeners::Stopped;
use crate::metrics::{Drop, Transport};
use crate::stream::{QUERY_LEN_MAX, Service};
use crate::tls::{Certificates, TlsError};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    Connection, Endpoint, EndpointConfig, IdleTimeout, Incoming, RecvStream, SendStream, TokioRuntime, VarInt,
};
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// RFC 9250, 4.3.
const NO_ERROR: VarInt = VarInt::from_u32(0);
const PROTOCOL_ERROR: VarInt = VarInt::from_u32(2);
const EXCESSIVE_LOAD: VarInt = VarInt::from_u32(4);
/// Queries at a time on one connection.
const STREAMS_MAX: u32 = 64;
/// Octets that wait to be taken by one client.
const SEND_WINDOW: u64 = 128 * 1024;

/// Listens on one address.
pub(crate) struct Listener {
    endpoint: Endpoint,
    service: Service,
    connections: Arc<Connections>,
}

impl Listener {
    pub(crate) fn new(
        socket: UdpSocket,
        certificates: &Arc<Certificates>,
        service: Service,
        connections: Arc<Connections>,
    ) -> Result<Listener, Failure> {
        let crypto = QuicServerConfig::try_from(certificates.quic()?).map_err(|_| Failure::Suites)?;
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let mut transport = quinn::TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(STREAMS_MAX.into())
            .max_concurrent_uni_streams(0u32.into())
            .stream_receive_window((QUERY_LEN_MAX as u32 + 2).into())
            .receive_window((STREAMS_MAX * (QUERY_LEN_MAX as u32 + 2)).into())
            .send_window(SEND_WINDOW)
            .datagram_receive_buffer_size(None)
            .max_idle_timeout(IdleTimeout::try_from(service.idle.get()).ok());
        config.transport_config(Arc::new(transport)).max_incoming(1024);
        let endpoint =
            Endpoint::new(EndpointConfig::default(), Some(config), socket, Arc::new(TokioRuntime))?;
        Ok(Listener { endpoint, service, connections })
    }

    /// Answers until told to stop, then lets connections finish the queries at hand.
    pub(crate) async fn run(self, mut stopped: Stopped) {
        let mut serving = JoinSet::new();
        loop {
            let incoming = tokio::select! {
                incoming = self.endpoint.accept() => incoming,
                Some(_) = serving.join_next() => continue,
                _ = stopped.changed() => break,
            };
            let Some(incoming) = incoming else { break };
            if self.connections.is_crowded() && !incoming.remote_address_validated() && incoming.may_retry() {
                // A client that cannot be sent to is none.
                let _ = incoming.retry();
                continue;
            }
            let place =
                Connections::admit(&self.connections, incoming.remote_address().ip(), Transport::Quic);
            let id = place.id();
            let task = serving.spawn(serve(incoming, place, self.service.clone(), stopped.clone()));
            self.connections.attach(id, task);
        }
        self.endpoint.set_server_config(None);
        while serving.join_next().await.is_some() {}
        self.endpoint.close(NO_ERROR, b"");
        self.endpoint.wait_idle().await;
    }
}

/// Why QUIC cannot be listened for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("no cipher suite for QUIC")]
    Suites,
    #[error(transparent)]
    Io(#[from] io::Error),
}

async fn serve(incoming: Incoming, place: Place, service: Service, mut stopped: Stopped) {
    let metrics = service.engine.metrics.clone();
    let connection = match timeout(service.idle.get(), incoming).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%error, "QUIC handshake failed");
            return metrics.dropped(Drop::Handshake);
        }
        Err(_) => return metrics.dropped(Drop::Idle),
    };
    // Whatever ends this task, also the loss of its place, closes the connection with a word.
    let _closes = Closes(connection.clone());
    let place = Arc::new(place);
    let mut streams = JoinSet::new();
    let mut stops = false;
    loop {
        let left = service.idle.get().saturating_sub(place.quiet()).max(Duration::from_millis(10));
        tokio::select! {
            stream = connection.accept_bi() => match stream {
                Ok((send, receive)) => {
                    let stream = Stream { send, receive, connection: connection.clone() };
                    streams.spawn(stream.serve(service.clone(), place.clone()));
                }
                Err(_) => return,
            },
            Some(_) = streams.join_next() => {}
            () = sleep(left) => {
                if place.quiet() >= service.idle.get() {
                    connection.close(NO_ERROR, b"");
                    return metrics.dropped(Drop::Idle);
                }
            }
            _ = stopped.changed(), if !stops => stops = true,
        }
        if stops {
            break;
        }
    }
    while streams.join_next().await.is_some() {}
    connection.close(NO_ERROR, b"");
}

struct Closes(Connection);

impl std::ops::Drop for Closes {
    fn drop(&mut self) {
        self.0.close(EXCESSIVE_LOAD, b"");
    }
}

struct Stream {
    send: SendStream,
    receive: RecvStream,
    connection: Connection,
}

impl Stream {
    async fn serve(mut self, service: Service, place: Arc<Place>) {
        let idle = service.idle.get();
        // Two octets of length, the query, and the end of the stream (RFC 9250, 4.2).
        let query = match timeout(idle, self.receive.read_to_end(QUERY_LEN_MAX + 2)).await {
            Ok(Ok(query)) => query,
            Ok(Err(quinn::ReadToEndError::TooLong)) => return self.breach(&service),
            _ => return,
        };
        let Some(query) = whole_query(&query) else { return self.breach(&service) };
        let Some(reply) = service.reply(query, self.connection.remote_address(), Transport::Quic, idle).await
        else {
            return self.breach(&service);
        };
        let Ok(len) = u16::try_from(reply.len()) else { return };
        let framed = [&len.to_be_bytes()[..], &reply].concat();
        let written = async {
            self.send.write_all(&framed).await?;
            self.send.finish().map_err(|_| quinn::WriteError::ClosedStream)
        };
        match timeout(idle, written).await {
            Ok(Ok(())) => place.touch(),
            Ok(Err(_)) => return,
            Err(_) => return service.engine.metrics.dropped(Drop::Unread),
        }
        // Until the client has it: a connection that closes takes with it what was not.
        let _ = timeout(idle, self.send.stopped()).await;
    }

    fn breach(&self, service: &Service) {
        service.engine.metrics.dropped(Drop::Garbage);
        self.connection.close(PROTOCOL_ERROR, b"");
    }
}

/// The query in a stream's octets, when there is exactly one and it is as RFC 9250 wants it.
fn whole_query(octets: &[u8]) -> Option<&[u8]> {
    let (len, query) = octets.split_first_chunk::<2>()?;
    let whole = usize::from(u16::from_be_bytes(*len)) == query.len();
    let no_id = query.get(..2) == Some(&[0, 0]);
    (whole && no_id && !edns::asked(query).keepalive).then_some(query)
}
