//! Binding: clear errors, and no two redirectors on one port.

use crate::config::Config;
use crate::doq::Failure;
use crate::tls::TlsError;
use crate::transfer::TransferError;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use tokio::net::{TcpListener, UdpSocket};

/// TCP connections that wait to be accepted: a burst while the runtime does something else. The
/// kernel takes no more than `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Octets that a client who does not read can leave in the kernel; it doubles them. By itself the
/// kernel would let it grow to some MiB for each connection.
const SEND_BUFFER: usize = 64 * 1024;
/// Receive buffer asked for: a burst of some 10,000 queries. The kernel gives what it allows.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;
/// How often another port is tried when the kernel's choice for TCP is taken for UDP.
const PORT_TRIES: usize = 16;

/// Why the redirector does not start. Nothing is left open.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No address to listen on was given.
    #[error("no address to listen on: set `listen`")]
    NoAddress,
    /// Another program listens there.
    #[error("{0} is in use: another name server listens there (try `ss -lunp sport = :{port}`)", port = .0.port())]
    InUse(SocketAddr),
    /// Ports below 1024 are for the privileged.
    #[error("{0} needs a privilege: run as root, or grant CAP_NET_BIND_SERVICE, or choose a port above 1023")]
    Privilege(SocketAddr),
    /// The host does not have that address.
    #[error("{0} is not an address of this host")]
    NotHere(SocketAddr),
    /// Something else.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] io::Error),
    /// There is no certificate for encrypted DNS.
    #[error("cannot speak TLS")]
    Tls(#[from] TlsError),
    /// Settings of zone transfers are wrong.
    #[error("cannot offer zone transfers")]
    Transfer(#[from] TransferError),
    /// QUIC cannot be spoken.
    #[error("cannot speak QUIC")]
    Quic(#[source] io::Error),
}

impl From<Failure> for StartError {
    fn from(failure: Failure) -> StartError {
        match failure {
            Failure::Tls(error) => StartError::Tls(error),
            Failure::Io(error) => StartError::Quic(error),
            suites @ Failure::Suites => StartError::Quic(io::Error::other(suites.to_string())),
        }
    }
}

/// Sockets of one address.
pub(crate) struct Listening {
    pub(crate) address: SocketAddr,
    pub(crate) udp: Vec<UdpSocket>,
    pub(crate) tcp: TcpListener,
}

/// All sockets.
pub(crate) struct Sockets {
    pub(crate) dns: Vec<Listening>,
    pub(crate) dot: Vec<TcpListener>,
    pub(crate) doh: Vec<TcpListener>,
    pub(crate) doq: Vec<std::net::UdpSocket>,
}

/// Listens on every address of `config`.
pub(crate) fn listen(config: &Config) -> Result<Sockets, StartError> {
    if config.listen.is_empty() {
        return Err(StartError::NoAddress);
    }
    let tcp = |address: &SocketAddr| try_listen_tcp(*address).map_err(|error| explain(*address, error));
    let udp = |address: &SocketAddr| try_bind_udp(*address).map_err(|error| explain(*address, error));
    Ok(Sockets {
        dns: config
            .listen
            .iter()
            .map(|address| listen_on(*address, config.workers()))
            .collect::<Result<_, _>>()?,
        dot: config.tls.dot.iter().map(tcp).collect::<Result<_, _>>()?,
        doh: config.tls.doh.iter().map(tcp).collect::<Result<_, _>>()?,
        doq: config.tls.doq.iter().map(udp).collect::<Result<_, _>>()?,
    })
}

fn listen_on(address: SocketAddr, workers: usize) -> Result<Listening, StartError> {
    let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        match try_listen_on(address, workers) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            Err(error) => return Err(explain(address, error)),
            Ok(listening) => return Ok(listening),
        }
    }
}

fn explain(address: SocketAddr, error: io::Error) -> StartError {
    match error.kind() {
        io::ErrorKind::AddrInUse => StartError::InUse(address),
        io::ErrorKind::PermissionDenied => StartError::Privilege(address),
        io::ErrorKind::AddrNotAvailable => StartError::NotHere(address),
        _ => StartError::Listen(address, error),
    }
}

fn try_listen_on(address: SocketAddr, workers: usize) -> io::Result<Listening> {
    let tcp = try_listen_tcp(address)?;
    let address = tcp.local_addr()?;
    // A socket that does not share finds out whether somebody else has the port; those that share
    // it would join another program's without a word.
    drop({
        let alone = socket(address, Type::DGRAM, Protocol::UDP)?;
        alone.bind(&address.into())?;
        alone
    });
    let udp = (0..workers).map(|_| {
        let udp = socket(address, Type::DGRAM, Protocol::UDP)?;
        udp.set_reuse_port(true)?;
        if let Err(error) = udp.set_recv_buffer_size(RECEIVE_BUFFER) {
            tracing::debug!(%error, "receive buffer stays at its default");
        }
        udp.bind(&address.into())?;
        UdpSocket::from_std(udp.into())
    });
    Ok(Listening { address, udp: udp.collect::<io::Result<_>>()?, tcp })
}

fn try_listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let tcp = socket(address, Type::STREAM, Protocol::TCP)?;
    // Only against TIME_WAIT; a second listener is still refused.
    tcp.set_reuse_address(true)?;
    // Connections inherit it.
    tcp.set_send_buffer_size(SEND_BUFFER)?;
    tcp.bind(&address.into())?;
    tcp.listen(BACKLOG)?;
    TcpListener::from_std(tcp.into())
}

/// A socket that nobody else shares.
fn try_bind_udp(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let udp = socket(address, Type::DGRAM, Protocol::UDP)?;
    if let Err(error) = udp.set_recv_buffer_size(RECEIVE_BUFFER) {
        tracing::debug!(%error, "receive buffer stays at its default");
    }
    udp.bind(&address.into())?;
    Ok(udp.into())
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        // IPv4 has its own socket, and clients' addresses stay what they are.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}
