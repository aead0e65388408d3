//! DNS over TCP (RFC 7766): bounded connections, bounded silence.

use crate::capture::Engine;
use crate::config::Limits;
use crate::limit::prefix;
use crate::metrics::{Drop, Transport};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A longer query is none (see the UDP side); whoever announces one is hung up on.
const QUERY_LEN_MAX: usize = 4096;
/// How long not to accept after the process ran out of descriptors: they do not come back sooner
/// for being asked for again and again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections on one address.
pub(crate) struct Acceptor {
    pub(crate) listener: TcpListener,
    pub(crate) engine: Engine,
    pub(crate) connections: Arc<Connections>,
    pub(crate) idle: Duration,
}

impl Acceptor {
    /// Accepts until told to stop, then waits for the connections to end.
    pub(crate) async fn run(self, mut stopped: watch::Receiver<()>) {
        let mut serving = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_) = serving.join_next() => continue,
                _ = stopped.changed() => break,
            };
            match accepted {
                Ok((stream, source)) => match Connections::admit(&self.connections, source.ip()) {
                    Ok(place) => {
                        self.engine.metrics.connections.inc();
                        let engine = self.engine.clone();
                        let connection = Connection { stream, source, engine, idle: self.idle };
                        let stopped = stopped.clone();
                        serving.spawn(async move {
                            connection.run(stopped).await;
                            drop(place);
                        });
                    }
                    Err(reason) => self.engine.metrics.dropped(reason),
                },
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.listener);
        while serving.join_next().await.is_some() {}
    }
}

/// accept(2): errors of a connection that ended before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

struct Connection {
    stream: TcpStream,
    source: SocketAddr,
    engine: Engine,
    idle: Duration,
}

impl Connection {
    async fn run(mut self, mut stopped: watch::Receiver<()>) {
        let ended = self.serve(&mut stopped).await;
        self.engine.metrics.connections.dec();
        if let Err(End::Idle) = ended {
            self.engine.metrics.dropped(Drop::Idle);
        }
    }

    async fn serve(&mut self, stopped: &mut watch::Receiver<()>) -> Result<(), End> {
        // Small replies should not wait for each other.
        self.stream.set_nodelay(true)?;
        let mut query = Vec::new();
        loop {
            // One deadline for the whole query, so that one octet now and then does not keep a
            // connection for ever.
            tokio::select! {
                read = timeout(self.idle, read_query(&mut self.stream, &mut query)) => read.map_err(|_| End::Idle)??,
                _ = stopped.changed() => return Ok(()),
            }
            // What is no query has no business on a connection either.
            let reply = self.engine.reply(&query, self.source, Transport::Tcp).await.ok_or(End::Garbage)?;
            let len = u16::try_from(reply.len()).map_err(|_| End::Garbage)?;
            let framed = [&len.to_be_bytes()[..], &reply].concat();
            timeout(self.idle, self.stream.write_all(&framed)).await.map_err(|_| End::Idle)??;
        }
    }
}

async fn read_query(stream: &mut TcpStream, query: &mut Vec<u8>) -> Result<(), End> {
    let len = usize::from(stream.read_u16().await?);
    if len > QUERY_LEN_MAX {
        return Err(End::Garbage);
    }
    query.resize(len, 0);
    stream.read_exact(query).await?;
    Ok(())
}

/// Why a connection ends.
enum End {
    Idle,
    Garbage,
    /// The peer closed it or it broke.
    Closed,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> End {
        End::Closed
    }
}

/// The connections there are: per source prefix and overall.
pub(crate) struct Connections {
    open: Mutex<Open>,
    max: usize,
    max_per_prefix: usize,
}

#[derive(Default)]
struct Open {
    all: usize,
    by_prefix: BTreeMap<u64, usize>,
}

/// A place among the connections; given back when dropped.
pub(crate) struct Place {
    connections: Arc<Connections>,
    prefix: u64,
}

impl Connections {
    pub(crate) fn new(limits: &Limits) -> Connections {
        Connections {
            open: Mutex::default(),
            max: limits.tcp_connections_max,
            max_per_prefix: limits.tcp_connections_per_prefix_max,
        }
    }

    /// A place for a connection from `source`. The limit of the source comes first, so that one
    /// source cannot use up what is for all.
    fn admit(this: &Arc<Connections>, source: IpAddr) -> Result<Place, Drop> {
        let prefix = prefix(source);
        let mut open = this.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.by_prefix.get(&prefix).copied().unwrap_or(0) >= this.max_per_prefix {
            return Err(Drop::ConnectionsOfSource);
        }
        if open.all >= this.max {
            return Err(Drop::Connections);
        }
        open.all += 1;
        *open.by_prefix.entry(prefix).or_default() += 1;
        Ok(Place { connections: this.clone(), prefix })
    }
}

impl std::ops::Drop for Place {
    fn drop(&mut self) {
        let mut open = self.connections.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.all = open.all.saturating_sub(1);
        if let Some(count) = open.by_prefix.get_mut(&self.prefix) {
            *count -= 1;
            if *count == 0 {
                open.by_prefix.remove(&self.prefix);
            }
        }
    }
}
