//! Listening on TCP, for whatever is spoken on it: DNS, DNS over TLS, DNS over HTTPS.

use crate::connections::Connections;
use crate::doh;
use crate::listeners::{Stop, Stopped};
use crate::metrics::Transport;
use crate::stream::{Conversation, Service};
use crate::tls::Tls;
use socket2::{SockFilter, SockRef};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long not to accept after the process ran out of descriptors: they do not come back sooner
/// for being asked for again and again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The same where connections were ended to get some: until they are closed.
const ACCEPT_PAUSE_SHORT: Duration = Duration::from_millis(10);

/// How long a listener that leaves goes on to accept what is half made: a round trip around the world.
const LEAVE: Duration = Duration::from_millis(300);

/// Accepts connections on one address.
pub(crate) struct Acceptor {
    pub(crate) listener: TcpListener,
    pub(crate) service: Service,
    pub(crate) connections: Arc<Connections>,
    pub(crate) speaks: Speaks,
}

/// What is spoken on a listener.
#[derive(Clone)]
pub(crate) enum Speaks {
    /// RFC 7766.
    Dns,
    /// RFC 7858.
    Tls(Tls),
    /// RFC 8484, with the path where queries are taken.
    Https(Tls, Arc<str>),
}

impl Speaks {
    fn transport(&self) -> Transport {
        match self {
            Speaks::Dns => Transport::Tcp,
            Speaks::Tls(_) => Transport::Tls,
            Speaks::Https(..) => Transport::Https,
        }
    }
}

impl Acceptor {
    /// Accepts until told to stop, then waits for the connections to end.
    pub(crate) async fn run(self, mut stopped: Stopped) {
        let mut serving = JoinSet::new();
        let mut leaving = None;
        loop {
            let left = async {
                match leaving {
                    Some(end) => tokio::time::sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_) = serving.join_next() => continue,
                () = left => break,
                stop = stopped.changed(), if leaving.is_none() => match stop {
                    Stop::Ends => break,
                    Stop::Leaves => {
                        self.begin_nothing_new();
                        leaving = Some(Instant::now() + LEAVE);
                        continue;
                    }
                },
            };
            match accepted {
                Ok((stream, source)) => self.serve(stream, source, &mut serving, &stopped),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    // Out of descriptors, mostly: the newest gets in here too.
                    let room = self.connections.make_room();
                    tokio::time::sleep(if room { ACCEPT_PAUSE_SHORT } else { ACCEPT_PAUSE }).await;
                }
            }
        }
        self.serve_waiting(&mut serving, &stopped);
        drop(self.listener);
        while serving.join_next().await.is_some() {}
    }

    /// Has the kernel drop the first packet of new connections, so that what is half made can be
    /// finished and served, and nothing is in the queue that closes with the socket. Whoever comes
    /// meanwhile sends that packet again, and another listener of the port may have it, or nobody.
    fn begin_nothing_new(&self) {
        // Classic BPF over the TCP header: of octet 13, SYN and ACK; with SYN alone keep 0 octets.
        let filter = [
            SockFilter::new(0x30, 0, 0, 13),
            SockFilter::new(0x54, 0, 0, 0x12),
            SockFilter::new(0x15, 0, 1, 0x02),
            SockFilter::new(0x06, 0, 0, 0),
            SockFilter::new(0x06, 0, 0, u32::MAX),
        ];
        if let Err(error) = SockRef::from(&self.listener).attach_filter(&filter) {
            tracing::debug!(%error, "a listener that is closed may break off who connects meanwhile");
        }
    }

    /// Who is connected already, as far as a client can tell, is served too. The runtime may not
    /// have heard of them yet: the socket itself is asked.
    fn serve_waiting(&self, serving: &mut JoinSet<()>, stopped: &Stopped) {
        let listener = SockRef::from(&self.listener);
        while let Ok((socket, source)) = listener.accept() {
            let stream = socket.set_nonblocking(true).and_then(|()| TcpStream::from_std(socket.into()));
            if let (Ok(stream), Some(source)) = (stream, source.as_socket()) {
                self.serve(stream, source, serving, stopped);
            }
        }
    }

    fn serve(&self, stream: TcpStream, source: SocketAddr, serving: &mut JoinSet<()>, stopped: &Stopped) {
        let transport = self.speaks.transport();
        let place = Connections::admit(&self.connections, source.ip(), transport);
        let id = place.id();
        // Small replies should not wait for each other; where that cannot be set they do.
        let _ = stream.set_nodelay(true);
        let conversation = Conversation { stream, source, transport, service: self.service.clone(), place };
        let stopped = stopped.clone();
        let task = match self.speaks.clone() {
            Speaks::Dns => serving.spawn(conversation.run(stopped)),
            Speaks::Tls(tls) => serving.spawn(async move {
                if let Some(conversation) = tls.accept(conversation).await {
                    conversation.run(stopped).await;
                }
            }),
            Speaks::Https(tls, path) => serving.spawn(async move {
                if let Some(conversation) = tls.accept(conversation).await {
                    doh::serve(conversation, path, stopped).await;
                }
            }),
        };
        self.connections.attach(id, task);
    }
}

/// accept(2): errors of a connection that ended before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
