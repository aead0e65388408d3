//! As much of rtnetlink as it takes to join a host to a network: interfaces, addresses, routes, and rules
//! by which packets of some addresses have routes of their own.
//!
//! A request is one datagram to the kernel and its answer is one datagram back, so this is plain
//! blocking code; nothing has to be installed on the machine (`ip` for example).
//!
//! ```text
//!  nlmsghdr (16) │ ifinfomsg (16) / ifaddrmsg (8) / rtmsg (12) │ attributes: len, type, value, padding to 4
//! ```

mod dump;
mod host;
mod policy;
mod route;

pub(crate) use dump::messages;
pub use host::{Changes, HostAddress};
pub use policy::{ROUTES_MAX, Rule};
pub use route::Route;

use crate::namespace::check;
use std::ffi::CString;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A conversation with the kernel about the network namespace that the socket was opened in.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// What to set on an interface; `None` leaves it as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkSettings {
    /// The largest packet, bytes.
    pub mtu: Option<u32>,
    /// How many packets may wait to be sent.
    pub queue_len: Option<u32>,
    /// The hardware address.
    pub hardware_address: Option<[u8; 6]>,
    /// Whether neighbours are looked up; without, every packet goes to the one other end.
    pub no_arp: bool,
}

impl Netlink {
    /// Opens a conversation about the calling thread's network namespace.
    pub fn open() -> io::Result<Netlink> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: socket takes plain numbers.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) };
        check(fd)?;
        // SAFETY: `fd` was just made and belongs to nobody else.
        Ok(Netlink { socket: unsafe { OwnedFd::from_raw_fd(fd) }, sequence: 0 })
    }

    /// Applies `settings` to the interface and brings it up.
    pub fn set_up(&mut self, index: u32, settings: LinkSettings) -> io::Result<()> {
        let no_arp = if settings.no_arp { libc::IFF_NOARP as u32 } else { 0 };
        // Down first: a hardware address and NOARP are only safe to change on an idle interface.
        let mut message = link_message(libc::RTM_NEWLINK, 0, index, no_arp, no_arp);
        if let Some(mtu) = settings.mtu {
            message.attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
        }
        if let Some(len) = settings.queue_len {
            message.attribute(libc::IFLA_TXQLEN, &len.to_ne_bytes());
        }
        if let Some(address) = settings.hardware_address {
            message.attribute(libc::IFLA_ADDRESS, &address);
        }
        self.request(message)?;
        let up = libc::IFF_UP as u32;
        self.request(link_message(libc::RTM_NEWLINK, 0, index, up, up))
    }

    /// Makes a pair of interfaces that are each other's cable: `name` here and `peer_name` in the
    /// namespace `peer_namespace`.
    pub fn add_veth(
        &mut self,
        name: &str,
        peer_name: &str,
        peer_namespace: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let mut message = link_message(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, 0, 0, 0);
        message.attribute(libc::IFLA_IFNAME, CString::new(name)?.as_bytes_with_nul());
        let info = message.nest(libc::IFLA_LINKINFO);
        message.attribute(libc::IFLA_INFO_KIND, b"veth\0");
        let data = message.nest(libc::IFLA_INFO_DATA);
        let peer = message.nest(VETH_INFO_PEER);
        message.bytes.extend([0; IFINFOMSG_LEN]);
        message.attribute(libc::IFLA_IFNAME, CString::new(peer_name)?.as_bytes_with_nul());
        message.attribute(libc::IFLA_NET_NS_FD, &(peer_namespace.as_raw_fd() as u32).to_ne_bytes());
        for nest in [peer, data, info] {
            message.end_nest(nest);
        }
        self.request(message)
    }

    /// Gives the interface an address of its own, without a prefix that would be on the link.
    pub fn add_address(&mut self, index: u32, address: IpAddr) -> io::Result<()> {
        let (family, octets) = family_and_octets(address);
        let mut message = Message::new(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_REPLACE);
        // Without duplicate address detection: an IPv6 address would be unusable for a second.
        let flags = libc::IFA_F_NODAD as u8;
        message.bytes.extend([family, (octets.len() * 8) as u8, flags, 0]);
        message.bytes.extend(index.to_ne_bytes());
        message.attribute(libc::IFA_LOCAL, &octets);
        message.attribute(libc::IFA_ADDRESS, &octets);
        self.request(message)
    }

    /// Sends everything through the interface, from `source` unless the program chose otherwise.
    pub fn add_default_route(&mut self, index: u32, source: IpAddr) -> io::Result<()> {
        let (family, octets) = family_and_octets(source);
        let mut message = Message::new(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_REPLACE);
        let header =
            [family, 0, 0, 0, libc::RT_TABLE_MAIN, RTPROT_STATIC, libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST];
        message.bytes.extend(header);
        message.bytes.extend(0u32.to_ne_bytes());
        message.attribute(libc::RTA_OIF, &index.to_ne_bytes());
        message.attribute(libc::RTA_PREFSRC, &octets);
        self.request(message)
    }

    fn request(&mut self, mut message: Message) -> io::Result<()> {
        self.sequence += 1;
        self.send(message.finish(self.sequence))?;
        let mut answer = [0u8; 4096];
        let len = self.receive(&mut answer)?;
        acknowledged(&answer[..len])
    }
}

/// The number of the interface with this name in the calling thread's namespace.
pub fn interface_index(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: the name is NUL-terminated and outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

const HEADER_LEN: usize = 16;
const IFINFOMSG_LEN: usize = 16;
/// `linux/veth.h`: the attribute that describes the other end.
const VETH_INFO_PEER: u16 = 1;
/// `linux/rtnetlink.h`: a route that an administrator added.
const RTPROT_STATIC: u8 = 4;

/// The kernel's answer: an error number in an NLMSG_ERROR, 0 for done.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's netlink answer is malformed");
    let kind =
        answer.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes).ok_or_else(malformed)?;
    let code = answer.get(16..20).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
    match (i32::from(kind), code) {
        (libc::NLMSG_ERROR, Some(0)) => Ok(()),
        (libc::NLMSG_ERROR, Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(malformed()),
    }
}

/// What is gone already needs no removing.
fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENODEV)
            ) =>
        {
            Ok(())
        }
        done => done,
    }
}

struct Message {
    bytes: Vec<u8>,
}

fn link_message(kind: u16, flags: libc::c_int, index: u32, set: u32, mask: u32) -> Message {
    let mut message = Message::new(kind, flags);
    message.bytes.extend([libc::AF_UNSPEC as u8, 0, 0, 0]);
    message.bytes.extend(index.to_ne_bytes());
    message.bytes.extend(set.to_ne_bytes());
    message.bytes.extend(mask.to_ne_bytes());
    message
}

impl Message {
    fn new(kind: u16, flags: libc::c_int) -> Message {
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16;
        let mut bytes = vec![0; HEADER_LEN];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        Message { bytes }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let at = self.nest(kind);
        self.bytes.extend(value);
        self.end_nest(at);
    }

    fn nest(&mut self, kind: u16) -> usize {
        let at = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        at
    }

    fn end_nest(&mut self, at: usize) {
        let len = (self.bytes.len() - at) as u16;
        self.bytes[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(&mut self, sequence: u32) -> &[u8] {
        let len = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.bytes
    }
}

fn family_and_octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (libc::AF_INET as u8, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6 as u8, v6.octets().to_vec()),
    }
}
