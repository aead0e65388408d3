//! Sockets: bound here with clear errors, and no two redirectors on one port; or open already, given
//! by a service manager or by the process that answered before.

use crate::config::Config;
use crate::doq::Failure;
use crate::manners::CookieError;
use crate::tls::TlsError;
use crate::transfer::TransferError;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

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
    /// Sockets were passed to this process, but not both kinds for an address.
    #[error("of {0} a UDP and a TCP socket must be passed, for encrypted DNS the one that it is over")]
    Incomplete(SocketAddr),
    /// Something was passed to this process that is no internet socket.
    #[error("a descriptor was passed that is no UDP or TCP socket")]
    NoSocket,
    /// Sockets cannot be kept for a successor, or taken from a predecessor.
    #[error("cannot hand sockets over at {}", .0.display())]
    Handover(PathBuf, #[source] io::Error),
    /// There is no secret for cookies.
    #[error("cannot make cookies")]
    Cookies(#[from] CookieError),
    /// There is no certificate for encrypted DNS.
    #[error("cannot speak TLS")]
    Tls(#[from] TlsError),
    /// Settings of zone transfers are wrong.
    #[error("cannot offer zone transfers")]
    Transfer(#[from] TransferError),
    /// The runtime does not take a socket.
    #[error("cannot wait for {0}")]
    Runtime(&'static str, #[source] io::Error),
    /// The file of sampled decisions cannot be opened.
    #[error("cannot open the file of sampled decisions")]
    Decisions(#[source] io::Error),
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
    pub(crate) udp: Vec<std::net::UdpSocket>,
    pub(crate) tcp: std::net::TcpListener,
}

/// All sockets.
pub(crate) struct Sockets {
    pub(crate) dns: Vec<Listening>,
    pub(crate) dot: Vec<std::net::TcpListener>,
    pub(crate) doh: Vec<std::net::TcpListener>,
    pub(crate) doq: Vec<std::net::UdpSocket>,
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Dns,
    Dot,
    Doh,
    Doq,
}

/// Sockets with what each is for: none is bound twice.
pub(crate) type Open = Vec<(Purpose, Socket)>;

impl Sockets {
    /// More descriptors of the same sockets, for a successor.
    pub(crate) fn duplicate(&self) -> io::Result<Open> {
        let mut open = Open::new();
        for listening in &self.dns {
            for udp in &listening.udp {
                open.push((Purpose::Dns, udp.try_clone()?.into()));
            }
            open.push((Purpose::Dns, listening.tcp.try_clone()?.into()));
        }
        for (purpose, listeners) in [(Purpose::Dot, &self.dot), (Purpose::Doh, &self.doh)] {
            for listener in listeners {
                open.push((purpose, listener.try_clone()?.into()));
            }
        }
        for socket in &self.doq {
            open.push((Purpose::Doq, socket.try_clone()?.into()));
        }
        Ok(open)
    }
}

/// Listens on every address of `config`, but for the purposes that `open` has sockets for: those are
/// taken as they are.
pub(crate) fn listen(config: &Config, open: Open) -> Result<Sockets, StartError> {
    let (mut dns, mut dot, mut doh, mut doq) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (purpose, socket) in open {
        let list = match purpose {
            Purpose::Dns => &mut dns,
            Purpose::Dot => &mut dot,
            Purpose::Doh => &mut doh,
            Purpose::Doq => &mut doq,
        };
        list.push(socket);
    }
    if dns.is_empty() && config.listen.is_empty() {
        return Err(StartError::NoAddress);
    }
    let workers = config.workers();
    let tls = &config.tls;
    Ok(Sockets {
        dns: match dns.is_empty() {
            true => {
                config.listen.iter().map(|address| listen_on(*address, workers)).collect::<Result<_, _>>()?
            }
            false => adopt(dns, workers)?,
        },
        dot: each(dot, &tls.dot, Type::STREAM, try_listen_tcp)?,
        doh: each(doh, &tls.doh, Type::STREAM, try_listen_tcp)?,
        doq: each(doq, &tls.doq, Type::DGRAM, try_bind_udp)?,
    })
}

/// Open sockets of one kind as they are, or else those of `addresses`.
fn each<T: From<Socket>>(
    open: Vec<Socket>,
    addresses: &[SocketAddr],
    kind: Type,
    bind: impl Fn(SocketAddr) -> io::Result<T>,
) -> Result<Vec<T>, StartError> {
    if open.is_empty() {
        return addresses.iter().map(|at| bind(*at).map_err(|error| explain(*at, error))).collect();
    }
    let one = |socket: Socket| {
        let (address, found) = look(&socket)?;
        socket.set_nonblocking(true).map_err(|error| StartError::Listen(address, error))?;
        if found == kind { Ok(T::from(socket)) } else { Err(StartError::Incomplete(address)) }
    };
    open.into_iter().map(one).collect()
}

/// Puts open sockets together by address. Each address has both, UDP and TCP, and at least as many
/// UDP sockets as workers; a socket more than that is kept as well, because the kernel goes on to put
/// queries into it.
fn adopt(open: Vec<Socket>, workers: usize) -> Result<Vec<Listening>, StartError> {
    let mut by_address: BTreeMap<SocketAddr, (Vec<Socket>, Option<Socket>)> = BTreeMap::new();
    for socket in open {
        let (address, kind) = look(&socket)?;
        socket.set_nonblocking(true).map_err(|error| StartError::Listen(address, error))?;
        let both = by_address.entry(address).or_default();
        if kind == Type::DGRAM {
            both.0.push(socket);
        } else {
            both.1 = Some(socket);
        }
    }
    let listening = |(address, (mut udp, tcp)): (SocketAddr, (Vec<Socket>, Option<Socket>))| {
        let Some(tcp) = tcp.filter(|_| !udp.is_empty()) else {
            return Err(StartError::Incomplete(address));
        };
        let distinct = udp.len();
        for number in distinct..workers {
            let more = udp[number % distinct].try_clone();
            udp.push(more.map_err(|error| StartError::Listen(address, error))?);
        }
        for socket in &udp {
            enlarge_buffer(socket);
        }
        Ok(Listening { address, udp: udp.into_iter().map(Into::into).collect(), tcp: tcp.into() })
    };
    by_address.into_iter().map(listening).collect()
}

/// Address and kind of an open socket.
fn look(socket: &Socket) -> Result<(SocketAddr, Type), StartError> {
    let found = socket.local_addr().and_then(|address| Ok((address.as_socket(), socket.r#type()?)));
    match found {
        Ok((Some(address), kind @ (Type::STREAM | Type::DGRAM))) => Ok((address, kind)),
        _ => Err(StartError::NoSocket),
    }
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
        enlarge_buffer(&udp);
        udp.bind(&address.into())?;
        Ok(udp.into())
    });
    Ok(Listening { address, udp: udp.collect::<io::Result<_>>()?, tcp })
}

fn try_listen_tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let tcp = socket(address, Type::STREAM, Protocol::TCP)?;
    // Only against TIME_WAIT; a second listener is still refused.
    tcp.set_reuse_address(true)?;
    // Connections inherit it.
    tcp.set_send_buffer_size(SEND_BUFFER)?;
    tcp.bind(&address.into())?;
    tcp.listen(BACKLOG)?;
    Ok(tcp.into())
}

/// A socket that nobody else shares.
fn try_bind_udp(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let udp = socket(address, Type::DGRAM, Protocol::UDP)?;
    enlarge_buffer(&udp);
    udp.bind(&address.into())?;
    Ok(udp.into())
}

fn enlarge_buffer(udp: &Socket) {
    if let Err(error) = udp.set_recv_buffer_size(RECEIVE_BUFFER) {
        tracing::debug!(%error, "receive buffer stays at its default");
    }
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
