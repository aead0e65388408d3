//! The TUN device: packets of the host's kernel, uncut where it can leave that to us.
//!
//! With `IFF_VNET_HDR` each read and write carries a `virtio_net_hdr` ([`crate::offload`]), so a read
//! brings up to 64 KiB of one TCP connection as a train, with the checksum not computed, and a write
//! may carry as much. Kernels before 6.2 hand over trains of TCP only.

use crate::namespace::check;
use crate::netlink::{LinkSettings, Netlink, interface_index};
use crate::offload::{HEADER_LEN, Offload, TRAIN_LEN_MAX};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// `linux/if_tun.h`.
const TUN_F_CSUM: libc::c_uint = 0x01;
const TUN_F_TSO4: libc::c_uint = 0x02;
const TUN_F_TSO6: libc::c_uint = 0x04;
const TUN_F_TSO_ECN: libc::c_uint = 0x08;
const TUN_F_USO4: libc::c_uint = 0x20;
const TUN_F_USO6: libc::c_uint = 0x40;

/// How many packets may wait for us: at 2 Gbit/s of full packets we may be away for 24 ms.
const QUEUE_LEN: u32 = 4096;

/// Room for whatever a read brings.
pub(super) const BUFFER_LEN: usize = HEADER_LEN + TRAIN_LEN_MAX;
/// A write has at most so many parts: headers, and the payloads of as many segments as a train has that
/// came in one datagram of the kernel's.
pub(super) const PARTS_MAX: usize = 130;

/// What a TUN device is to be like.
#[derive(Clone, Debug)]
pub struct TunConfig {
    /// The interface's name, at most 15 octets.
    pub name: String,
    /// The largest packet, octets.
    pub mtu: u16,
    /// How many queues, each read by a thread: 1 is enough below some Gbit/s.
    pub queues: usize,
    /// Whether the kernel may leave cutting and checksums to us. Off it costs a system call for each
    /// packet; for measuring.
    pub offloads: bool,
}

impl TunConfig {
    /// The usual one of this name.
    pub fn new(name: &str, mtu: u16) -> TunConfig {
        TunConfig { name: name.to_owned(), mtu, queues: 1, offloads: true }
    }
}

/// A TUN device, up. It goes with this value.
#[derive(Debug)]
pub struct Tun {
    queues: Vec<File>,
    name: String,
    index: u32,
    mtu: u16,
    udp_trains: bool,
}

impl Tun {
    /// Takes over the queues of a device that another process has made with this configuration, and that
    /// it does not read any more. One that is made otherwise is an error.
    pub fn adopt(config: &TunConfig, queues: Vec<OwnedFd>) -> io::Result<Tun> {
        let other = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what.to_owned()));
        if queues.len() != config.queues.max(1) {
            return other("a device with another number of queues was left");
        }
        let queues: Vec<File> = queues.into_iter().map(File::from).collect();
        let mut udp_trains = config.offloads;
        for queue in &queues {
            if named(queue)? != config.name {
                return other("a device of another name was left");
            }
            udp_trains &= set_all_offloads(queue, config.offloads)?;
        }
        let index = interface_index(&config.name)?;
        let settings = LinkSettings { mtu: Some(config.mtu.into()), ..LinkSettings::default() };
        Netlink::open()?.set_up(index, settings)?;
        Ok(Tun { queues, name: config.name.clone(), index, mtu: config.mtu, udp_trains })
    }

    /// Makes the device in the calling thread's network namespace and brings it up. What comes out of
    /// it is not checked against the reverse path, where the host's setting leaves that open: packets
    /// that come through a tunnel come from anywhere.
    pub fn create(config: &TunConfig) -> io::Result<Tun> {
        if config.name.is_empty() || config.name.len() >= libc::IFNAMSIZ {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "an interface's name has 1 to 15 octets",
            ));
        }
        let multiple = if config.queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
        let (mut queues, mut udp_trains) = (Vec::new(), config.offloads);
        for _ in 0..config.queues.max(1) {
            let (queue, trains) = open(&config.name, multiple, config.offloads)?;
            udp_trains &= trains;
            queues.push(queue);
        }
        let index = interface_index(&config.name)?;
        let settings = LinkSettings {
            mtu: Some(config.mtu.into()),
            queue_len: Some(QUEUE_LEN),
            ..LinkSettings::default()
        };
        Netlink::open()?.set_up(index, settings)?;
        // 2, loose: where the host checks strictly, the higher of both numbers holds, and that is this
        // one (Documentation/networking/ip-sysctl.rst).
        let _ = std::fs::write(format!("/proc/sys/net/ipv4/conf/{}/rp_filter", config.name), "2");
        Ok(Tun { queues, name: config.name.clone(), index, mtu: config.mtu, udp_trains })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface's number.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The largest packet, octets.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Whether the kernel knows trains of UDP datagrams.
    pub(super) fn takes_udp_trains(&self) -> bool {
        self.udp_trains
    }

    /// More descriptors of the same queues.
    pub(super) fn duplicate(&self) -> io::Result<Vec<OwnedFd>> {
        self.queues.iter().map(|queue| Ok(queue.try_clone()?.into())).collect()
    }

    pub(super) fn queues(&self) -> usize {
        self.queues.len()
    }

    pub(super) fn queue(&self, number: usize) -> BorrowedFd<'_> {
        self.queues[number % self.queues.len()].as_fd()
    }

    /// The next packet or train that the kernel sends, without waiting; `None` when there is none.
    pub(super) fn receive<'a>(
        &self,
        queue: usize,
        buffer: &'a mut [u8],
    ) -> io::Result<Option<(Offload, &'a mut [u8])>> {
        let len = match (&self.queues[queue % self.queues.len()]).read(buffer) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(match buffer[..len].split_first_chunk_mut() {
            Some((header, packet)) => (Offload::decode(header), packet),
            None => (Offload::default(), &mut []),
        }))
    }

    /// Hands the kernel a packet or train in parts, at most [`PARTS_MAX`] with the one that is left
    /// for its header at the front.
    pub(super) fn send(&self, queue: usize, offload: Offload, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let header = offload.encode();
        let mut all = [IoSlice::new(&[]); PARTS_MAX];
        let len = parts.len().min(PARTS_MAX - 1);
        all[0] = IoSlice::new(&header);
        all[1..=len].copy_from_slice(&parts[..len]);
        (&self.queues[queue % self.queues.len()]).write_vectored(&all[..=len]).map(drop)
    }
}

fn open(name: &str, flags: libc::c_int, offloads: bool) -> io::Result<(File, bool)> {
    let tun =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: ifreq is plain data for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | flags;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &mut request) })?;
    let udp_trains = set_all_offloads(&tun, offloads)?;
    Ok((tun, udp_trains))
}

/// The name of the device that a queue belongs to.
fn named(queue: &File) -> io::Result<String> {
    // SAFETY: ifreq is plain data for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: TUNGETIFF writes one ifreq, which `request` is.
    check(unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNGETIFF, &mut request) })?;
    if i32::from(unsigned(&request)) & libc::IFF_VNET_HDR == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a device without headers was left"));
    }
    let name = request.ifr_name.iter().take_while(|octet| **octet != 0).map(|octet| *octet as u8);
    Ok(String::from_utf8_lossy(&name.collect::<Vec<u8>>()).into_owned())
}

/// The flags that TUNGETIFF has told.
fn unsigned(request: &libc::ifreq) -> u16 {
    // SAFETY: the kernel has written this member of the union.
    unsafe { request.ifr_ifru.ifru_flags as u16 }
}

/// Takes what the kernel can leave to us; whether that is trains of UDP, too.
fn set_all_offloads(tun: &File, offloads: bool) -> io::Result<bool> {
    let tcp = if offloads { TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN } else { 0 };
    let udp_trains = offloads && set_offloads(tun, tcp | TUN_F_USO4 | TUN_F_USO6).is_ok();
    if !udp_trains {
        set_offloads(tun, tcp)?;
    }
    Ok(udp_trains)
}

fn set_offloads(tun: &File, offloads: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes a plain number.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) })
}
