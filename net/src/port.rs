//! A port: the place where packets of one host leave and enter its network namespace.
//!
//! Two kinds, one use. A TUN device hands over bare IP packets and is the fastest; a veth pair
//! with a packet socket does the same for those who may not open `/dev/net/tun`. In both the host
//! sees an interface `wan0` without neighbours (NOARP): whatever it sends comes out here.
//!
//! Offloads are off, so that loss and rate mean the same as on a real path, but for one: a TUN device
//! hands over trains of UDP datagrams uncut, with checksums left to the receiving host, where the
//! kernel can (Linux 6.2). See [`crate::offload`].

use crate::namespace::{NetworkNamespace, check};
use crate::netlink::{LinkSettings, Netlink, interface_index};
use crate::offload::{HEADER_LEN, Offload, TRAIN_LEN_MAX, Train};
use crate::ring::Ring;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// What the interface is called inside every host.
pub const INTERFACE: &str = "wan0";

/// The largest packet that a port carries, bytes: Ethernet's.
pub const MTU: usize = 1500;

/// How many packets may wait in a TUN device for the fabric to look: at 2 Gbit/s of full packets it
/// may be away for 24 ms, which a busy machine without real-time priority needs.
const QUEUE_LEN: u32 = 4096;

/// The fabric's end of one host's interface. Reads and writes never block.
#[derive(Debug)]
pub struct Port(Kind);

#[derive(Debug)]
enum Kind {
    Tun { tun: File, with_header: bool },
    Packet { socket: OwnedFd, ring: Ring, header: [u8; ETHERNET_LEN] },
}

const ETHERNET_LEN: usize = 14;

/// Room for whatever a port hands over.
pub const BUFFER_LEN: usize = HEADER_LEN + TRAIN_LEN_MAX;
/// So much room.
pub type Buffer = [u8; BUFFER_LEN];

/// `linux/if_tun.h`.
const TUN_F_CSUM: libc::c_uint = 0x01;
const TUN_F_USO4: libc::c_uint = 0x20;
const TUN_F_USO6: libc::c_uint = 0x40;

impl Port {
    /// Makes a TUN interface with these addresses in the calling thread's namespace. IPv6 is left
    /// out where the kernel has none; the answer tells.
    pub fn tun(addresses: &[IpAddr]) -> io::Result<(Port, Ipv6)> {
        let (tun, with_header) = match open_tun(libc::IFF_VNET_HDR) {
            Ok(tun) if take_trains(&tun).is_ok() => (tun, true),
            // The interface goes with its descriptor, and its name is free again.
            _ => (open_tun(0)?, false),
        };
        let settings =
            LinkSettings { mtu: Some(MTU as u32), queue_len: Some(QUEUE_LEN), ..LinkSettings::default() };
        let ipv6 = configure(addresses, settings)?;
        Ok((Port(Kind::Tun { tun, with_header }), ipv6))
    }

    /// Makes a veth pair between the calling thread's namespace and `host`, with these addresses in
    /// the host. `number` makes the interface's name and hardware address unique.
    pub fn packet(host: &NetworkNamespace, number: u16, addresses: &[IpAddr]) -> io::Result<(Port, Ipv6)> {
        let [high, low] = number.to_be_bytes();
        let outside_address = [0x02, 0x67, 0x64, 0x00, high, low];
        let inside_address = [0x02, 0x67, 0x64, 0x01, high, low];
        let outside = format!("port{number}");
        let mut netlink = Netlink::open()?;
        netlink.add_veth(&outside, INTERFACE, host.as_fd())?;
        // Our own end must stay silent: no router solicitations into the host.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{outside}/disable_ipv6"), "1");
        let index = interface_index(&outside)?;
        let settings = LinkSettings {
            mtu: Some(MTU as u32),
            hardware_address: Some(outside_address),
            no_arp: true,
            ..LinkSettings::default()
        };
        netlink.set_up(index, settings)?;
        let socket = packet_socket()?;
        let ring = Ring::new(socket.as_fd())?;
        bind_to_interface(socket.as_fd(), index)?;
        let settings = LinkSettings { hardware_address: Some(inside_address), ..settings };
        let ipv6 = host.run(|| {
            without_offloads(INTERFACE)?;
            configure(addresses, settings)
        })?;
        let mut header = [0; ETHERNET_LEN];
        header[..6].copy_from_slice(&inside_address);
        header[6..12].copy_from_slice(&outside_address);
        Ok((Port(Kind::Packet { socket, ring, header }), ipv6))
    }

    /// Hands the next packet or train that the host sent to `take`. `false` when there is none.
    pub fn receive(&mut self, buffer: &mut Buffer, take: impl FnOnce(Train<'_>)) -> io::Result<bool> {
        match &mut self.0 {
            Kind::Tun { tun, with_header } => match tun.read(buffer) {
                Ok(len) => {
                    take(match (*with_header, buffer[..len].split_first_chunk()) {
                        (true, Some((header, packet))) => Train { packet, offload: Offload::decode(header) },
                        (true, None) => Train::single(&[]),
                        (false, _) => Train::single(&buffer[..len]),
                    });
                    Ok(true)
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
                Err(error) => Err(error),
            },
            Kind::Packet { ring, .. } => Ok(ring.receive(|frame| {
                if let Some(packet) = frame.get(ETHERNET_LEN..) {
                    take(Train::single(packet));
                }
            })),
        }
    }

    /// Hands `train` to the host, as it came out of a port of the same kind. A host that cannot
    /// take it loses it, as on a real path; the error tells.
    pub fn send(&mut self, train: Train<'_>) -> io::Result<()> {
        let packet = train.packet;
        match &mut self.0 {
            Kind::Tun { tun, with_header: true } => send_frame(tun.as_fd(), &train.offload.encode(), packet),
            Kind::Tun { tun, with_header: false } => tun.write(packet).map(drop),
            Kind::Packet { socket, header, .. } => {
                let kind = if packet.first().is_some_and(|byte| byte >> 4 == 6) {
                    [0x86, 0xdd]
                } else {
                    [0x08, 0x00]
                };
                header[12..].copy_from_slice(&kind);
                send_frame(socket.as_fd(), header, packet)
            }
        }
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Kind::Tun { tun, .. } => tun.as_fd(),
            Kind::Packet { socket, .. } => socket.as_fd(),
        }
    }
}

/// Whether the host got its IPv6 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv6 {
    /// It did, or none were asked for.
    Present,
    /// The kernel has no IPv6, or it is switched off.
    Absent,
}

fn open_tun(flags: libc::c_int) -> io::Result<File> {
    let tun =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    let mut request = interface_request(INTERFACE);
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | flags) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &mut request) })?;
    Ok(tun)
}

/// Lets the host hand over trains of UDP datagrams, and nothing else uncut.
fn take_trains(tun: &File) -> io::Result<()> {
    let offloads = libc::c_ulong::from(TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6);
    // SAFETY: TUNSETOFFLOAD takes a plain number.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETOFFLOAD, offloads) }).map(drop)
}

/// Gives [`INTERFACE`] in the calling thread's namespace other addresses. What was bound to those before
/// has none any more.
pub fn readdress(before: &[IpAddr], from_now_on: &[IpAddr]) -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    let index = interface_index(INTERFACE)?;
    for address in before {
        netlink.remove_address(index, *address)?;
    }
    for address in from_now_on {
        netlink.add_address(index, *address)?;
        netlink.add_default_route(index, *address)?;
    }
    Ok(())
}

/// Brings up `lo` and [`INTERFACE`] in the calling thread's namespace.
fn configure(addresses: &[IpAddr], settings: LinkSettings) -> io::Result<Ipv6> {
    let mut netlink = Netlink::open()?;
    netlink.set_up(interface_index("lo")?, LinkSettings::default())?;
    let index = interface_index(INTERFACE)?;
    netlink.set_up(index, settings)?;
    let mut ipv6 = Ipv6::Present;
    for address in addresses {
        let done =
            netlink.add_address(index, *address).and_then(|()| netlink.add_default_route(index, *address));
        match done {
            Err(_) if address.is_ipv6() => ipv6 = Ipv6::Absent,
            done => done?,
        }
    }
    Ok(ipv6)
}

fn interface_request(name: &str) -> libc::ifreq {
    // SAFETY: ifreq is plain data for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    request
}

/// `linux/ethtool.h`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}
const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SGSO: u32 = 0x24;

/// Makes the kernel compute checksums and cut segments before the interface.
fn without_offloads(name: &str) -> io::Result<()> {
    // SAFETY: socket takes plain numbers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: `fd` was just made and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    for command in [ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_STXCSUM] {
        let mut value = EthtoolValue { command, data: 0 };
        let mut request = interface_request(name);
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: the request names an ethtool_value that outlives the call, as these three
        // commands read.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &mut request) })?;
    }
    Ok(())
}

fn packet_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // Protocol 0: nothing is received before the socket is bound to its interface.
    // SAFETY: socket takes plain numbers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    check(fd)?;
    // SAFETY: `fd` was just made and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bind_to_interface(socket: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    // SAFETY: sockaddr_ll is plain data for which all zeroes is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index as i32;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the pointer and length describe `address`, which outlives the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) })
}

fn send_frame(socket: BorrowedFd<'_>, header: &[u8], packet: &[u8]) -> io::Result<()> {
    let parts = [header, packet]
        .map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() });
    // SAFETY: both parts describe slices that outlive the call, and writev only reads them.
    let sent = unsafe { libc::writev(socket.as_raw_fd(), parts.as_ptr(), parts.len() as libc::c_int) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
