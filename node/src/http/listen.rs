//! Accepting connections: how many at once, from whom, and how they end.

use super::asked::{Asked, Tally};
use super::movable::{Movable, Moving};
use super::moved::Left;
use super::rtt::{self, Rtts};
use super::serve::Server;
use super::sites::Pins;
use super::socket::ClientSocket;
use crate::config::HttpConfig;
use crate::metrics::HttpMetrics;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// The most bytes of a request's header: room for a long path and a few kilobytes of cookies.
const HEADER_LEN_MAX: usize = 32 * 1024;

/// Requests of one HTTP/2 connection at once: what browsers expect (RFC 9113, 6.5.2 advises at
/// least 100).
const STREAMS_MAX: u32 = 128;

/// Bytes buffered for one HTTP/2 stream.
const SEND_BUFFER: usize = 256 * 1024;

/// After an error of `accept`, such as running out of descriptors, wait so long: it does not pass
/// by trying again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A client that was silent for so long when the daemon stops is told to go elsewhere; one whose
/// request is on its way shall be answered.
pub(super) const QUIET: Duration = Duration::from_millis(300);

/// Serves what comes to one listener until `stop`; connections are tracked in `tasks` and end after
/// their present request.
pub(crate) async fn accept(
    listener: Arc<TcpListener>,
    door: Arc<Door>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = door.next(&listener) => accepted,
        };
        match accepted {
            Ok((stream, guest)) => {
                let door = door.clone();
                let stop = stop.clone();
                tasks.spawn(door.serve(stream, guest, stop));
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// What all listeners share.
pub(crate) struct Door {
    server: Arc<Server>,
    config: HttpConfig,
    rtts: Arc<Rtts>,
    asked: Arc<Asked>,
    metrics: Arc<HttpMetrics>,
    places: Arc<Semaphore>,
    guests: Arc<Mutex<BTreeMap<IpAddr, u32>>>,
    /// Connections from which a request may still come.
    hearing: TaskTracker,
    /// Set once connections at home addresses can move.
    moving: OnceLock<Arc<Moving>>,
}

/// A connection's place, given back when it ends.
pub(super) struct Guest {
    client: IpAddr,
    source: IpAddr,
    guests: Arc<Mutex<BTreeMap<IpAddr, u32>>>,
    metrics: Arc<HttpMetrics>,
    _place: OwnedSemaphorePermit,
}

impl Door {
    pub(crate) fn new(
        server: Arc<Server>,
        config: HttpConfig,
        rtts: Arc<Rtts>,
        asked: Arc<Asked>,
        metrics: Arc<HttpMetrics>,
    ) -> Door {
        let places = Arc::new(Semaphore::new(config.connections_max as usize));
        let (guests, hearing) = (Arc::default(), TaskTracker::new());
        Door { server, config, rtts, asked, metrics, places, guests, hearing, moving: OnceLock::new() }
    }

    /// Lets connections at home addresses move from now on; `false` if they do already.
    pub(crate) fn move_with(&self, moving: Moving) -> bool {
        self.moving.set(Arc::new(moving)).is_ok()
    }

    pub(super) fn moving(&self) -> Option<Arc<Moving>> {
        self.moving.get().cloned()
    }

    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    pub(super) fn hear(&self) -> TaskTrackerToken {
        self.hearing.token()
    }

    pub(super) fn pins(&self, guest: &Guest) -> Mutex<Pins> {
        Mutex::new(Pins::new(Tally::new(self.asked.clone(), guest.client)))
    }

    pub(super) fn client_socket(&self, stream: TcpStream, guest: &Guest) -> ClientSocket {
        ClientSocket::new(stream, guest.client, &self.config, self.rtts.clone())
    }

    /// Asks clients to make a new connection for their next request.
    pub(crate) fn last_requests(&self) {
        self.server.last_requests();
    }

    /// Waits, once nothing is accepted any more, until every request that came is answered but for
    /// the bytes of files, and makes these independent of the store.
    pub(crate) async fn let_go(&self, at_most: Duration) {
        self.hearing.close();
        if tokio::time::timeout(at_most, self.hearing.wait()).await.is_err() {
            tracing::warn!(connections = self.hearing.len(), "some clients are not quiet");
        }
        self.server.let_go(at_most).await;
    }

    /// How many of all places are taken, thousandths.
    pub(crate) fn load_permille(&self) -> u16 {
        let all = u64::from(self.config.connections_max);
        let taken = all.saturating_sub(self.places.available_permits() as u64);
        u16::try_from(taken * 1000 / all.max(1)).unwrap_or(1000)
    }

    /// The next connection that has a place. Without a free one nothing is accepted, and further
    /// clients wait in the kernel's queue.
    async fn next(&self, listener: &TcpListener) -> io::Result<(TcpStream, Guest)> {
        loop {
            let place = self.places.clone().acquire_owned().await.map_err(io::Error::other)?;
            let (stream, address) = listener.accept().await?;
            if let Some(guest) = self.guest(address.ip(), place) {
                return Ok((stream, guest));
            }
        }
    }

    /// A place for a connection that comes from another node, if there is one free.
    pub(super) fn admit(&self, client: IpAddr) -> Option<Guest> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        self.guest(client, place)
    }

    fn guest(&self, client: IpAddr, place: OwnedSemaphorePermit) -> Option<Guest> {
        let client = client.to_canonical();
        let source = source_of(client);
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        let count = guests.entry(source).or_insert(0);
        if *count >= self.config.connections_per_address_max {
            self.metrics.shed();
            tracing::debug!(client = rtt::for_log(client), "too many connections from one address");
            return None;
        }
        *count += 1;
        self.metrics.opened();
        let (guests, metrics) = (self.guests.clone(), self.metrics.clone());
        Some(Guest { client, source, guests, metrics, _place: place })
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, guest: Guest, stop: CancellationToken) {
        // Responses are written whole; waiting for more to send would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        if let Some(moving) = self.moving()
            && let Some(flow) = moving.flow(&stream)
        {
            return Movable { door: self, moving, flow, guest }.serve(stream, Left::default()).await;
        }
        let socket = self.client_socket(stream, &guest);
        self.serve_any(socket, guest, stop).await;
    }

    /// Serves a connection that stays, by whatever protocol it speaks.
    pub(super) async fn serve_any(&self, socket: ClientSocket, guest: Guest, stop: CancellationToken) {
        let pins = Arc::new(self.pins(&guest));
        let hearing = self.hearing.token();
        let heard = Mutex::new(Instant::now());
        let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
            *heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            let (server, pins) = (self.server.clone(), pins.clone());
            async move { Ok::<_, Infallible>(server.respond(&pins, &request).await) }
        });
        let builder = self.builder();
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(socket), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                let quiet = || *heard.lock().unwrap_or_else(PoisonError::into_inner) + QUIET;
                loop {
                    let until = quiet();
                    tokio::select! {
                        ended = connection.as_mut() => break ended,
                        () = tokio::time::sleep_until(until) => if until == quiet() {
                            connection.as_mut().graceful_shutdown();
                            drop(hearing);
                            break connection.await;
                        }
                    }
                }
            }
        };
        if let Err(error) = ended {
            let client = rtt::for_log(guest.client);
            tracing::debug!(client, error = &*error, "a connection ended early");
        }
    }

    /// As in [`Door::builder`], for connections that can move.
    pub(super) fn http1_builder(&self) -> http1::Builder {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.config.idle_timeout())
            .max_buf_size(HEADER_LEN_MAX)
            .half_close(true);
        builder
    }

    fn builder(&self) -> auto::Builder<TokioExecutor> {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.config.idle_timeout())
            .max_buf_size(HEADER_LEN_MAX)
            // A client may shut its sending side down and still wants its response.
            .half_close(true);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEADER_LEN_MAX as u32)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(self.config.idle_timeout())
            .keep_alive_timeout(Duration::from_secs(10));
        builder
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = guests.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                guests.remove(&self.source);
            }
        }
        self.metrics.closed();
    }
}

/// By what connections are counted: an IPv4 address, or the /64 that one IPv6 host has.
fn source_of(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & (u128::MAX << 64))),
    }
}

/// Listens on `address`; IPv6 sockets take IPv6 only, so that `0.0.0.0` and `[::]` can stand side
/// by side on one port.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = if address.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restarted daemon takes its port back while old connections linger.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    // Who has the port was found out. What listens from now on at a home address and at this port, in this
    // process, may stand beside all addresses.
    socket.set_reuse_port(true)?;
    TcpListener::from_std(socket.into())
}
