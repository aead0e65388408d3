//! The host's own addresses: which they are, and when they change.

use super::dump::address_of;
use super::{Message, Netlink};
use crate::namespace::check;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// An address of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostAddress {
    /// The address.
    pub address: IpAddr,
    /// The interface that has it.
    pub interface: u32,
    /// Whether it may be used for what is new: not while it is checked for a duplicate, nor when it
    /// is going out of use (RFC 4862, 5.5.4).
    pub preferred: bool,
    /// Whether it was made up for privacy and will change (RFC 8981).
    pub temporary: bool,
}

impl Netlink {
    /// The addresses that the host has beyond itself: not those of its loopback, nor those of one link.
    pub fn addresses(&mut self) -> io::Result<Vec<HostAddress>> {
        let mut message = Message::new(libc::RTM_GETADDR, 0);
        message.bytes.extend([libc::AF_UNSPEC as u8, 0, 0, 0, 0, 0, 0, 0]);
        let listed = self.list(message)?;
        let read = |one: &super::dump::Listed| {
            let scope = one.octet(3);
            if scope != libc::RT_SCOPE_UNIVERSE {
                return None;
            }
            // IFA_LOCAL is the address itself, IFA_ADDRESS on a link of two the other end.
            let octets = one.attribute(8, libc::IFA_LOCAL).or_else(|| one.attribute(8, libc::IFA_ADDRESS))?;
            let flags = match one.attribute(8, libc::IFA_FLAGS).and_then(|value| value.try_into().ok()) {
                Some(flags) => u32::from_ne_bytes(flags),
                None => u32::from(one.octet(2)),
            };
            let unready = libc::IFA_F_TENTATIVE | libc::IFA_F_DEPRECATED | libc::IFA_F_DADFAILED;
            Some(HostAddress {
                address: address_of(octets)?,
                interface: one.number(4),
                preferred: flags & unready == 0,
                // The bit means something else for IPv4: one more address of a prefix.
                temporary: one.octet(0) == libc::AF_INET6 as u8 && flags & libc::IFA_F_TEMPORARY != 0,
            })
        };
        let mut found: Vec<HostAddress> = listed.iter().filter_map(read).collect();
        found.sort();
        Ok(found)
    }

    /// Takes an address from an interface. Where it is not there any more, nothing happens.
    pub fn remove_address(&mut self, index: u32, address: IpAddr) -> io::Result<()> {
        let (family, octets) = super::family_and_octets(address);
        let mut message = Message::new(libc::RTM_DELADDR, 0);
        message.bytes.extend([family, (octets.len() * 8) as u8, 0, 0]);
        message.bytes.extend(index.to_ne_bytes());
        message.attribute(libc::IFA_LOCAL, &octets);
        message.attribute(libc::IFA_ADDRESS, &octets);
        super::gone_is_fine(self.request(message))
    }
}

/// Tells when addresses, routes or interfaces of the host change.
///
/// The descriptor is readable then; [`Changes::drain`] empties it. What exactly changed is not told:
/// whoever is told asks anew, and so cannot miss anything.
#[derive(Debug)]
pub struct Changes {
    socket: OwnedFd,
}

impl Changes {
    /// Listens for changes in the calling thread's network namespace. Never blocks.
    pub fn listen() -> io::Result<Changes> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: socket takes plain numbers.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) };
        check(fd)?;
        // SAFETY: `fd` was just made and belongs to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: sockaddr_nl is plain data for which all zeroes is a value.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as u16;
        let groups = libc::RTMGRP_LINK
            | libc::RTMGRP_IPV4_IFADDR
            | libc::RTMGRP_IPV6_IFADDR
            | libc::RTMGRP_IPV4_ROUTE
            | libc::RTMGRP_IPV6_ROUTE;
        address.nl_groups = groups as u32;
        let len = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // SAFETY: the pointer and length describe `address`, which outlives the call.
        check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) })?;
        Ok(Changes { socket })
    }

    /// Empties the queue; whether anything was in it. A queue that ran over was full of changes.
    pub fn drain(&self) -> io::Result<bool> {
        let mut buffer = [0u8; 8192];
        let mut any = false;
        loop {
            // SAFETY: the pointer and length describe `buffer`, which outlives the call.
            let len =
                unsafe { libc::recv(self.socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            if len >= 0 {
                any = true;
                continue;
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::ENOBUFS) => any = true,
                Some(libc::EINTR) => {}
                Some(libc::EAGAIN) => return Ok(any),
                _ => return Err(error),
            }
        }
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A datagram socket like others, for whoever waits for it in another way.
impl From<Changes> for OwnedFd {
    fn from(changes: Changes) -> OwnedFd {
        changes.socket
    }
}
