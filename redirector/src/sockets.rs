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

/// The sockets of one address for one purpose.
pub(crate) struct Bound {
    pub(crate) purpose: Purpose,
    /// The address of the configuration; the socket's own where it was open before.
    pub(crate) asked: SocketAddr,
    /// The same with the real port.
    pub(crate) address: SocketAddr,
    /// Whether a service manager has it: then it stays open, whatever the configuration says.
    pub(crate) held: bool,
    pub(crate) udp: Vec<std::net::UdpSocket>,
    pub(crate) tcp: Option<std::net::TcpListener>,
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// DNS over UDP or TCP.
    Dns,
    /// DNS over TLS.
    Dot,
    /// DNS over HTTPS.
    Doh,
    /// DNS over QUIC.
    Doq,
    /// Sites over HTTP, served by the node beside the redirector.
    Http,
    /// Metrics over HTTP, served by the member.
    Metrics,
    /// The member's control socket.
    Control,
}

/// Sockets with what each is for: none is bound twice.
pub(crate) type Open = Vec<(Purpose, Socket)>;

/// Sockets that were open before.
#[derive(Default)]
pub(crate) struct Before {
    pub(crate) open: Open,
    /// Whether they are a service manager's.
    pub(crate) held: bool,
}

impl Purpose {
    /// The addresses that a configuration has for it.
    pub(crate) fn addresses(self, config: &Config) -> &[SocketAddr] {
        match self {
            Purpose::Dns => &config.listen,
            Purpose::Dot => &config.tls.dot,
            Purpose::Doh => &config.tls.doh,
            Purpose::Doq => &config.tls.doq,
            Purpose::Http | Purpose::Metrics | Purpose::Control => &[],
        }
    }

    /// Those that a redirector answers.
    pub(crate) const ALL: [Purpose; 4] = [Purpose::Dns, Purpose::Dot, Purpose::Doh, Purpose::Doq];

    fn has_tcp(self) -> bool {
        self != Purpose::Doq
    }

    fn has_udp(self) -> bool {
        matches!(self, Purpose::Dns | Purpose::Doq)
    }
}

impl Bound {
    /// More descriptors of the same sockets, for a successor.
    pub(crate) fn duplicate(&self) -> io::Result<Open> {
        let mut open = Open::new();
        for udp in &self.udp {
            open.push((self.purpose, udp.try_clone()?.into()));
        }
        if let Some(tcp) = &self.tcp {
            open.push((self.purpose, tcp.try_clone()?.into()));
        }
        Ok(open)
    }
}

/// Listens on every address of `config`, but for the purposes that there were sockets for before: those
/// are taken as they are.
pub(crate) fn listen(config: &Config, before: Before) -> Result<Vec<Bound>, StartError> {
    let mut by_purpose: BTreeMap<Purpose, Vec<Socket>> = BTreeMap::new();
    for (purpose, socket) in before.open {
        by_purpose.entry(purpose).or_default().push(socket);
    }
    if config.listen.is_empty() && !by_purpose.contains_key(&Purpose::Dns) {
        return Err(StartError::NoAddress);
    }
    let mut all = Vec::new();
    for purpose in Purpose::ALL {
        match by_purpose.remove(&purpose) {
            Some(open) => all.extend(adopt(purpose, open, config.workers(), before.held)?),
            None => {
                for address in purpose.addresses(config) {
                    all.push(bind(purpose, *address, config.workers(), &[])?);
                }
            }
        }
    }
    Ok(all)
}

/// Binds an address. `leaving` are sockets of this process that are closed once this one answers: with
/// them the port may be shared, as when one listens on all addresses and the other on one.
pub(crate) fn bind(
    purpose: Purpose,
    asked: SocketAddr,
    workers: usize,
    leaving: &[Socket],
) -> Result<Bound, StartError> {
    let mut tries = if asked.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        match try_bind(purpose, asked, workers, leaving) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            Err(error) => return Err(explain(asked, error)),
            Ok(bound) => return Ok(bound),
        }
    }
}

/// Puts open sockets together by address. Each address has all kinds that it needs, and for plain DNS
/// at least as many UDP sockets as workers; a socket more than that is kept as well, because the kernel
/// goes on to put queries into it.
fn adopt(purpose: Purpose, open: Vec<Socket>, workers: usize, held: bool) -> Result<Vec<Bound>, StartError> {
    let mut by_address: BTreeMap<SocketAddr, (Vec<Socket>, Option<Socket>)> = BTreeMap::new();
    for socket in open {
        let (address, kind) = look(&socket)?;
        socket.set_nonblocking(true).map_err(|error| StartError::Listen(address, error))?;
        let both = by_address.entry(address).or_default();
        match (kind == Type::DGRAM, purpose.has_udp(), purpose.has_tcp()) {
            (true, true, _) => both.0.push(socket),
            (false, _, true) => both.1 = Some(socket),
            _ => return Err(StartError::Incomplete(address)),
        }
    }
    let bound = |(address, (mut udp, tcp)): (SocketAddr, (Vec<Socket>, Option<Socket>))| {
        if purpose.has_tcp() != tcp.is_some() || purpose.has_udp() == udp.is_empty() {
            return Err(StartError::Incomplete(address));
        }
        let distinct = udp.len();
        let wanted = if purpose == Purpose::Dns { workers } else { distinct };
        for number in distinct..wanted {
            let more = udp[number % distinct].try_clone();
            udp.push(more.map_err(|error| StartError::Listen(address, error))?);
        }
        udp.iter().for_each(enlarge_buffer);
        let udp = udp.into_iter().map(Into::into).collect();
        Ok(Bound { purpose, asked: address, address, held, udp, tcp: tcp.map(Into::into) })
    };
    by_address.into_iter().map(bound).collect()
}

/// Address and kind of an open socket.
fn look(socket: &Socket) -> Result<(SocketAddr, Type), StartError> {
    let found = socket.local_addr().and_then(|address| Ok((address.as_socket(), socket.r#type()?)));
    match found {
        Ok((Some(address), kind @ (Type::STREAM | Type::DGRAM))) => Ok((address, kind)),
        _ => Err(StartError::NoSocket),
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

fn try_bind(purpose: Purpose, asked: SocketAddr, workers: usize, leaving: &[Socket]) -> io::Result<Bound> {
    let shared =
        |kind| leaving.iter().filter(move |socket| overlaps(socket, kind, asked)).collect::<Vec<_>>();
    let tcp = match purpose.has_tcp() {
        true => Some(try_listen_tcp(asked, &shared(Type::STREAM))?),
        false => None,
    };
    let address = match &tcp {
        Some(tcp) => tcp.local_addr()?,
        None => asked,
    };
    let with = shared(Type::DGRAM);
    let udp = match purpose {
        Purpose::Dns => try_bind_workers(address, workers, &with)?,
        Purpose::Doq => vec![try_bind_udp(address, &with)?],
        Purpose::Dot | Purpose::Doh | Purpose::Http | Purpose::Metrics | Purpose::Control => Vec::new(),
    };
    let address = udp.first().map_or(Ok(address), |udp| udp.local_addr())?;
    Ok(Bound { purpose, asked, address, held: false, udp, tcp })
}

/// Whether an open socket is of this kind and the kernel would refuse `address` because of it.
fn overlaps(open: &Socket, kind: Type, address: SocketAddr) -> bool {
    let Ok((there, found)) = look(open) else { return false };
    let same_ip = there.ip() == address.ip() || there.ip().is_unspecified() || address.ip().is_unspecified();
    found == kind && there.is_ipv4() == address.is_ipv4() && there.port() == address.port() && same_ip
}

fn try_bind_workers(
    address: SocketAddr,
    workers: usize,
    shared: &[&Socket],
) -> io::Result<Vec<std::net::UdpSocket>> {
    // A socket that does not share finds out whether somebody else has the port; those that share
    // it would join another program's without a word.
    if shared.is_empty() {
        drop({
            let alone = socket(address, Type::DGRAM, Protocol::UDP)?;
            alone.bind(&address.into())?;
            alone
        });
    }
    share(shared)?;
    let udp = (0..workers).map(|_| {
        let udp = socket(address, Type::DGRAM, Protocol::UDP)?;
        udp.set_reuse_port(true)?;
        enlarge_buffer(&udp);
        udp.bind(&address.into())?;
        Ok(udp.into())
    });
    udp.collect()
}

fn try_listen_tcp(address: SocketAddr, shared: &[&Socket]) -> io::Result<std::net::TcpListener> {
    let tcp = socket(address, Type::STREAM, Protocol::TCP)?;
    // Only against TIME_WAIT; a second listener is still refused.
    tcp.set_reuse_address(true)?;
    // Connections inherit it.
    tcp.set_send_buffer_size(SEND_BUFFER)?;
    if !shared.is_empty() {
        share(shared)?;
        tcp.set_reuse_port(true)?;
    }
    tcp.bind(&address.into())?;
    tcp.listen(BACKLOG)?;
    stand_beside(&tcp)?;
    Ok(tcp.into())
}

/// A socket that nobody else shares, but for those that are about to leave.
fn try_bind_udp(address: SocketAddr, shared: &[&Socket]) -> io::Result<std::net::UdpSocket> {
    let udp = socket(address, Type::DGRAM, Protocol::UDP)?;
    enlarge_buffer(&udp);
    if !shared.is_empty() {
        share(shared)?;
        udp.set_reuse_port(true)?;
    }
    udp.bind(&address.into())?;
    stand_beside(&udp)?;
    Ok(udp.into())
}

/// Who else has the port was found out when this was bound. From now on what this process serves at a home
/// address may stand at the same port beside all addresses.
fn stand_beside(bound: &Socket) -> io::Result<()> {
    bound.set_reuse_port(true)
}

/// Lets others of this user have the port too.
fn share(open: &[&Socket]) -> io::Result<()> {
    open.iter().try_for_each(|socket| socket.set_reuse_port(true))
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
