//! The tunnel's UDP sockets.

use crate::namespace::check;
use crate::udp::control_message;
use socket2::{MsgHdr, SockAddr, Socket};
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

/// What the kernel may keep for us while we are away: 2 Gbit/s for 16 ms.
const BUFFER_LEN: libc::c_int = 4 << 20;

/// `linux/udp.h`.
const UDP_SEGMENT: libc::c_int = 103;
pub(super) const UDP_GRO: libc::c_int = 104;

/// All sockets; each is read by a thread, and the first of a family sends to it.
#[derive(Debug)]
pub(super) struct Sockets {
    all: Vec<(Socket, bool)>,
}

impl Sockets {
    /// Takes over bound sockets. `trains`: whether the kernel may hand over many datagrams as one.
    pub(super) fn take_over(sockets: Vec<UdpSocket>, trains: bool) -> io::Result<Sockets> {
        let mut all = Vec::with_capacity(sockets.len());
        for socket in sockets {
            let v6 = socket.local_addr()?.is_ipv6();
            // Reads say for themselves that they do not wait; writes do, and so hold back the kernel.
            socket.set_nonblocking(false)?;
            prepare(&socket, v6, trains)?;
            all.push((Socket::from(socket), v6));
        }
        if all.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a tunnel needs a socket"));
        }
        Ok(Sockets { all })
    }

    /// More descriptors of the same sockets.
    pub(super) fn duplicate(&self) -> io::Result<Vec<OwnedFd>> {
        self.all.iter().map(|(socket, _)| Ok(socket.try_clone()?.into())).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn get(&self, number: usize) -> &Socket {
        &self.all[number].0
    }

    /// Sends `bytes` as one datagram, or as several of `segment` octets each but the last.
    pub(super) fn send(
        &self,
        to: SocketAddr,
        class: u8,
        bytes: &[u8],
        segment: Option<usize>,
    ) -> io::Result<()> {
        let own = self.all.iter().find(|(_, v6)| *v6 == to.is_ipv6());
        // A socket for both families sends to the other by mapped addresses (RFC 4291, 2.5.5.2).
        let (socket, v6) = own
            .or_else(|| self.all.first())
            .ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
        let address = match to.ip() {
            IpAddr::V4(ip) if *v6 => SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()),
            _ => to,
        };
        let mut control = [0; 64];
        let mut len = 0;
        if class != 0 {
            let value = libc::c_int::from(class).to_ne_bytes();
            let (level, kind) =
                if *v6 { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) } else { (libc::IPPROTO_IP, libc::IP_TOS) };
            len += control_message(&mut control[len..], level, kind, &value);
        }
        if let Some(segment) = segment {
            let value = (segment as u16).to_ne_bytes();
            len += control_message(&mut control[len..], libc::SOL_UDP, UDP_SEGMENT, &value);
        }
        let (address, parts) = (SockAddr::from(address), [IoSlice::new(bytes)]);
        let message = MsgHdr::new().with_addr(&address).with_buffers(&parts);
        let message = if len > 0 { message.with_control(&control[..len]) } else { message };
        loop {
            match socket.sendmsg(&message, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(drop),
            }
        }
    }
}

fn prepare(socket: &UdpSocket, v6: bool, trains: bool) -> io::Result<()> {
    if trains {
        // Kernels before 5.0 have none, and hand over one by one.
        let _ = set(socket, libc::SOL_UDP, UDP_GRO, 1);
    }
    // Needs a privilege that whoever opens TUN devices has; otherwise what the host allows.
    let _ = set(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER_LEN)
        .or_else(|_| set(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, BUFFER_LEN));
    let _ = set(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, BUFFER_LEN)
        .or_else(|_| set(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, BUFFER_LEN));
    // Marks of congestion are carried over (RFC 6040), and tunnel packets are never cut: a lost part
    // would lose all.
    if v6 {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IP_PMTUDISC_DO)?;
        // Of mapped addresses, where the socket has them.
        let _ = set(socket, libc::IPPROTO_IP, libc::IP_RECVTOS, 1);
        let _ = set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO);
    } else {
        set(socket, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
        set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)?;
    }
    Ok(())
}

fn set(socket: &UdpSocket, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the pointer and length describe `value`, which outlives the call.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), len) })
}

/// What fits into one packet on the way there, as the kernel has learnt it from routers' errors.
pub(super) fn path_mtu(to: SocketAddr) -> io::Result<u16> {
    let (local, level, option) = match to.ip() {
        IpAddr::V4(_) => (IpAddr::from(Ipv4Addr::UNSPECIFIED), libc::IPPROTO_IP, libc::IP_MTU),
        IpAddr::V6(_) => (IpAddr::from(Ipv6Addr::UNSPECIFIED), libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let socket = UdpSocket::bind((local, 0))?;
    socket.connect(to)?;
    let mut mtu: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `mtu` is valid for writing `len` octets, and both outlive the call.
    check(unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut mtu).cast(), &raw mut len)
    })?;
    Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
}
