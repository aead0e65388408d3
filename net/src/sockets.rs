//! Which connections and sockets the kernel has: exact look-ups over `sock_diag`.
//!
//! A look-up is one datagram to the kernel and one back, about 5 µs, and finds a TCP connection by its
//! four values in the table that packets are looked up in, whatever number there are.

use crate::namespace::check;
use crate::netlink::messages;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// What the kernel does with a packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It belongs to a connection that exists.
    Connection,
    /// Somebody listens there, and no connection exists.
    Listener,
    /// Nobody knows it.
    Nobody,
}

/// A conversation with the kernel about the sockets of the namespace that it was opened in.
#[derive(Debug)]
pub struct Sockets {
    socket: OwnedFd,
    sequence: u32,
}

/// `linux/sock_diag.h`, `linux/inet_diag.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INETDIAG_NOCOOKIE: u32 = u32::MAX;
/// `net/tcp_states.h`.
const TCP_LISTEN: u8 = 10;
const TCP_ESTABLISHED: u32 = 1;
/// So many connections are listed: what a node has at home addresses, many times over.
const CONNECTIONS_MAX: usize = 1 << 18;
const HEADER_LEN: usize = 16;
const REQUEST_LEN: usize = HEADER_LEN + 56;
const MESSAGE_LEN: usize = 72;
/// `tcp_info`, and with it whether segments are signed.
const WITH_INFO: u8 = 1 << (2 - 1);
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_MD5SIG: u16 = 18;
/// What memory a socket has.
const WITH_MEMORY: u8 = 1 << (7 - 1);
const INET_DIAG_SKMEMINFO: u16 = 7;

/// What is told of a socket.
struct Socket {
    state: u8,
    signed: bool,
    /// Segments that were sent and are known to be lost, sent again, or acknowledged out of order.
    unsettled: u32,
    /// Memory of what came, octets, in order or not.
    received: u32,
    /// Of a connection: octets that came in order and were not read. Of a listener: connections that wait to be accepted, and how many of them may.
    waiting: u32,
    waiting_max: u32,
}

impl Sockets {
    /// Opens a conversation about the calling thread's network namespace. Never waits for long.
    pub fn open() -> io::Result<Sockets> {
        // SAFETY: socket takes plain numbers.
        let fd = unsafe {
            libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_SOCK_DIAG)
        };
        check(fd)?;
        // SAFETY: `fd` was just made and belongs to nobody else.
        Ok(Sockets { socket: unsafe { OwnedFd::from_raw_fd(fd) }, sequence: 0 })
    }

    /// Who would get a TCP segment from `from` to `to`.
    pub fn tcp(&mut self, from: SocketAddr, to: SocketAddr) -> io::Result<Found> {
        match self.ask([libc::IPPROTO_TCP as u8, 0], from, to)?.map(|socket| socket.state) {
            None => Ok(Found::Nobody),
            Some(TCP_LISTEN) => Ok(Found::Listener),
            Some(_) => Ok(Found::Connection),
        }
    }

    /// Whether a connection from `from` to `to` would be taken: somebody listens there, and accepts what
    /// comes. (Of a listener whose queue is full the kernel drops what is new.)
    pub fn accepts(&mut self, from: SocketAddr, to: SocketAddr) -> io::Result<bool> {
        let socket = self.ask([libc::IPPROTO_TCP as u8, 0], from, to)?;
        Ok(socket.is_some_and(|socket| socket.state == TCP_LISTEN && socket.waiting <= socket.waiting_max))
    }

    /// Whether the segments of the connection that exists there are signed (TCP-MD5, RFC 2385); `None`
    /// without one. Takes `CAP_NET_ADMIN`: others are told that they are not.
    pub fn signed(&mut self, from: SocketAddr, to: SocketAddr) -> io::Result<Option<bool>> {
        let socket = self.ask([libc::IPPROTO_TCP as u8, WITH_INFO], from, to)?;
        Ok(socket.filter(|socket| socket.state != TCP_LISTEN).map(|socket| socket.signed))
    }

    /// Whether the connection that exists there lacks something in either direction, as far as this end can
    /// tell: some of what it sent is known to be lost (RFC 6675), or what came waits behind a hole. `false`
    /// without a connection.
    pub fn lacks(&mut self, from: SocketAddr, to: SocketAddr) -> io::Result<bool> {
        let socket = self.ask([libc::IPPROTO_TCP as u8, WITH_INFO | WITH_MEMORY], from, to)?;
        // What is in order but not read takes memory too, and hides what is behind a hole.
        let lacks = |socket: &Socket| socket.unsettled > 0 || socket.waiting == 0 && socket.received > 0;
        Ok(socket.filter(|socket| socket.state != TCP_LISTEN).is_some_and(|socket| lacks(&socket)))
    }

    /// Whether anybody listens for UDP datagrams at `to`.
    pub fn udp(&mut self, from: SocketAddr, to: SocketAddr) -> io::Result<bool> {
        Ok(self.ask([libc::IPPROTO_UDP as u8, 0], from, to)?.is_some())
    }

    /// The established TCP connections whose local ends `wanted` holds for: the far end and the local one
    /// of each.
    pub fn connections(
        &mut self,
        wanted: impl Fn(SocketAddr) -> bool,
    ) -> io::Result<Vec<(SocketAddr, SocketAddr)>> {
        let mut found = Vec::new();
        for any in [SocketAddr::from(([0; 4], 0)), SocketAddr::from(([0u16; 8], 0))] {
            self.sequence = self.sequence.wrapping_add(1);
            let mut request = request(self.sequence, [libc::IPPROTO_TCP as u8, 0], any, any);
            let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
            request[6..8].copy_from_slice(&flags.to_ne_bytes());
            request[HEADER_LEN + 4..HEADER_LEN + 8].copy_from_slice(&(1u32 << TCP_ESTABLISHED).to_ne_bytes());
            let fd = self.socket.as_raw_fd();
            // SAFETY: the pointer and length describe `request`, which outlives the call.
            let sent = unsafe { libc::send(fd, request.as_ptr().cast(), request.len(), 0) };
            if sent < 0 {
                return Err(io::Error::last_os_error());
            }
            self.collect(|ends| {
                if wanted(ends.1) && found.len() < CONNECTIONS_MAX {
                    found.push(ends);
                }
            })?;
        }
        Ok(found)
    }

    /// Takes the answers to a dump, to its end.
    fn collect(&mut self, mut take: impl FnMut((SocketAddr, SocketAddr))) -> io::Result<()> {
        let mut answer = vec![0u8; 64 * 1024];
        loop {
            // SAFETY: the pointer and length describe `answer`, which outlives the call.
            let len =
                unsafe { libc::recv(self.socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
            let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
            for one in messages(&answer[..len]) {
                let (kind, sequence, body) = one?;
                if sequence != self.sequence {
                    continue;
                }
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => return Err(io::Error::other("the kernel lists no connections")),
                    _ => ends(body).into_iter().for_each(&mut take),
                }
            }
        }
    }

    /// The socket that a packet would go to. Asked for with a protocol, and what is to be told of it.
    fn ask(
        &mut self,
        [protocol, extensions]: [u8; 2],
        from: SocketAddr,
        to: SocketAddr,
    ) -> io::Result<Option<Socket>> {
        if from.is_ipv4() != to.is_ipv4() {
            return Ok(None);
        }
        self.sequence = self.sequence.wrapping_add(1);
        // An exact look-up speaks from the socket's side; the kernel looks UDP up the other way round.
        let (local, remote) = if protocol == libc::IPPROTO_UDP as u8 { (from, to) } else { (to, from) };
        let request = request(self.sequence, [protocol, extensions], local, remote);
        let fd = self.socket.as_raw_fd();
        // SAFETY: the pointer and length describe `request`, which outlives the call.
        let sent = unsafe { libc::send(fd, request.as_ptr().cast(), request.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        loop {
            let mut answer = [0u8; 8192];
            // SAFETY: the pointer and length describe `answer`, which outlives the call.
            let len = unsafe { libc::recv(fd, answer.as_mut_ptr().cast(), answer.len(), 0) };
            let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
            if let Some(answer) = read(&answer[..len], self.sequence) {
                return answer;
            }
        }
    }
}

/// ```text
///  nlmsghdr (16) │ family │ protocol │ ext │ pad │ states (4) │
///    source port (2) │ destination port (2) │ source (16) │ destination (16) │ interface (4) │ cookie (8)
/// ```
fn request(sequence: u32, kind: [u8; 2], local: SocketAddr, remote: SocketAddr) -> [u8; REQUEST_LEN] {
    let mut bytes = [0; REQUEST_LEN];
    bytes[..4].copy_from_slice(&(REQUEST_LEN as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    let body = &mut bytes[HEADER_LEN..];
    body[0] = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u8;
    body[1..3].copy_from_slice(&kind);
    body[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
    body[8..10].copy_from_slice(&local.port().to_be_bytes());
    body[10..12].copy_from_slice(&remote.port().to_be_bytes());
    for (at, ip) in [(12, local.ip()), (28, remote.ip())] {
        match ip {
            IpAddr::V4(v4) => body[at..at + 4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => body[at..at + 16].copy_from_slice(&v6.octets()),
        }
    }
    body[48..52].copy_from_slice(&INETDIAG_NOCOOKIE.to_ne_bytes());
    body[52..56].copy_from_slice(&INETDIAG_NOCOOKIE.to_ne_bytes());
    bytes
}

/// Far and local end of a listed connection: an inet_diag_msg.
fn ends(body: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let port = |at: usize| Some(u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?));
    let v4 = i32::from(*body.first()?) == libc::AF_INET;
    let ip = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 16] = body.get(at..at + 16)?.try_into().ok()?;
        match v4 {
            true => Some(IpAddr::from([octets[0], octets[1], octets[2], octets[3]])),
            // A socket of both families has mapped addresses.
            false => Some(IpAddr::from(octets).to_canonical()),
        }
    };
    let (local, far) = (SocketAddr::new(ip(8)?, port(4)?), SocketAddr::new(ip(24)?, port(6)?));
    Some((far, local))
}

/// The answer to the request with this number; `None` for what is left of one before.
fn read(answer: &[u8], sequence: u32) -> Option<io::Result<Option<Socket>>> {
    let number = |at: usize| Some(u32::from_ne_bytes(answer.get(at..at + 4)?.try_into().ok()?));
    if number(8) != Some(sequence) {
        return None;
    }
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    Some(match (i32::from(kind), number(HEADER_LEN)) {
        (libc::NLMSG_ERROR, Some(code)) => match -(code as i32) {
            libc::ENOENT => Ok(None),
            code => Err(io::Error::from_raw_os_error(code)),
        },
        // inet_diag_msg: family, state, … (52 octets), expires, rqueue, wqueue.
        (_, Some(_)) if kind == SOCK_DIAG_BY_FAMILY => {
            let told = || attributes(answer.get(HEADER_LEN + MESSAGE_LEN..).unwrap_or_default());
            let word = |kind: u16, at: usize| {
                let value = told().find(|(told, _)| *told == kind).map(|(_, value)| value)?;
                Some(u32::from_ne_bytes(value.get(at..at + 4)?.try_into().ok()?))
            };
            let words = |kind: u16, all: &[usize]| all.iter().filter_map(|at| word(kind, *at)).sum();
            let queue = |at: usize| number(HEADER_LEN + at).unwrap_or(0);
            Ok(answer.get(HEADER_LEN + 1).map(|state| Socket {
                state: *state,
                signed: told().any(|(kind, _)| kind == INET_DIAG_MD5SIG),
                // tcp_info: sacked, lost, retrans.
                unsettled: words(INET_DIAG_INFO, &[28, 32, 36]),
                received: words(INET_DIAG_SKMEMINFO, &[0]),
                waiting: queue(56),
                waiting_max: queue(60),
            }))
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is malformed")),
    })
}

/// The attributes in `bytes`, each with its kind; it ends where they are malformed.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, c, d] = *bytes.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([a, b])).max(4);
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]), value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn connections_listeners_and_strangers_are_told_apart() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(host) else {
                println!("SKIPPED: this host has no {host}");
                continue;
            };
            let Ok(mut sockets) = Sockets::open() else {
                println!("SKIPPED: this kernel tells nothing about sockets");
                return;
            };
            let home = listener.local_addr().unwrap();
            let client = TcpStream::connect(home).unwrap();
            let (server, _) = listener.accept().unwrap();
            let from = client.local_addr().unwrap();
            assert_eq!(sockets.tcp(from, home).unwrap(), Found::Connection);
            let other = SocketAddr::new(from.ip(), from.port() ^ 1);
            assert_eq!(sockets.tcp(other, home).unwrap(), Found::Listener);
            assert!(sockets.accepts(other, home).unwrap());
            drop(listener);
            assert_eq!(sockets.tcp(other, home).unwrap(), Found::Nobody);
            assert!(!sockets.accepts(other, home).unwrap());
            assert_eq!(sockets.tcp(from, home).unwrap(), Found::Connection);
            let listed = |sockets: &mut Sockets| sockets.connections(|local| local == home).unwrap();
            assert_eq!(listed(&mut sockets), [(from, home)]);
            drop((server, client));
            assert_eq!(listed(&mut sockets), []);
        }
    }

    #[test]
    fn a_listener_that_accepts_nothing_is_full_in_the_end() {
        let Ok(mut sockets) = Sockets::open() else {
            println!("SKIPPED: this kernel tells nothing about sockets");
            return;
        };
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(2).unwrap();
        let (listener, nobody) = (TcpListener::from(socket), "127.0.0.1:9".parse().unwrap());
        let home = listener.local_addr().unwrap();
        // One more than was asked for has room.
        let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(home).unwrap()).collect();
        assert!(!sockets.accepts(nobody, home).unwrap());
        let accepted = listener.accept().unwrap();
        assert!(sockets.accepts(nobody, home).unwrap());
        drop((accepted, clients));
    }

    #[test]
    fn a_udp_socket_is_found_by_where_it_listens() {
        let Ok(mut sockets) = Sockets::open() else {
            println!("SKIPPED: this kernel tells nothing about sockets");
            return;
        };
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (home, from) = (socket.local_addr().unwrap(), "127.0.0.1:9".parse().unwrap());
        assert!(sockets.udp(from, home).unwrap());
        drop(socket);
        assert!(!sockets.udp(from, home).unwrap());
        assert!(!sockets.udp("[::1]:1".parse().unwrap(), home).unwrap());
    }
}
