//! Sealed datagrams as they come: many in one call, and many of one sender as one (`UDP_GRO`).

use super::socket::UDP_GRO;
use crate::namespace::check;
use crate::udp::{address, control_messages};
use std::io;
use std::mem::{size_of, zeroed};
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Room for one datagram, or for as many of one sender as the kernel puts together.
const SLOT_LEN: usize = 65_536;
/// So many at once, 512 KiB in all: what comes one by one comes in small packets of many senders.
const SLOTS: usize = 8;
const CONTROL_LEN: usize = 128;

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_LEN]);

/// What came in one piece.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    /// Where in [`Inbox::memory`].
    pub(super) place: Range<usize>,
    /// How long each datagram in it is, but the last.
    pub(super) segment: usize,
    /// The traffic class that it came with.
    pub(super) class: u8,
    pub(super) from: SocketAddr,
}

/// See the module.
pub(super) struct Inbox {
    memory: Box<[u8]>,
    sources: Box<[libc::sockaddr_in6]>,
    controls: Box<[Control]>,
    /// Held only for `messages` to point at.
    _parts: Box<[libc::iovec]>,
    messages: Box<[libc::mmsghdr]>,
    count: usize,
}

// SAFETY: all pointers inside point into boxes that the value owns and never reallocates.
unsafe impl Send for Inbox {}

impl Inbox {
    /// An empty one. Without `batching` each datagram comes by itself, for measuring.
    pub(super) fn new(batching: bool) -> Inbox {
        let slots = if batching { SLOTS } else { 1 };
        // SAFETY: these are plain C structures, for which all zeros is a value.
        let (source, message, part) =
            unsafe { (zeroed::<libc::sockaddr_in6>(), zeroed::<libc::mmsghdr>(), zeroed::<libc::iovec>()) };
        let mut inbox = Inbox {
            memory: vec![0; slots * SLOT_LEN].into(),
            sources: vec![source; slots].into(),
            controls: vec![Control([0; CONTROL_LEN]); slots].into(),
            _parts: vec![part; slots].into(),
            messages: vec![message; slots].into(),
            count: 0,
        };
        for slot in 0..slots {
            let part = &mut inbox._parts[slot];
            part.iov_base = inbox.memory[slot * SLOT_LEN..].as_mut_ptr().cast();
            part.iov_len = SLOT_LEN;
            let header = &mut inbox.messages[slot].msg_hdr;
            header.msg_iov = part;
            header.msg_iovlen = 1;
            header.msg_name = (&raw mut inbox.sources[slot]).cast();
            header.msg_control = inbox.controls[slot].0.as_mut_ptr().cast();
        }
        inbox
    }

    /// Takes what is there, without waiting; answers how many pieces.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        for message in &mut self.messages {
            message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            message.msg_hdr.msg_controllen = CONTROL_LEN;
        }
        self.count = 0;
        let slots = self.messages.len() as libc::c_uint;
        // SAFETY: each header points at buffers of the stated lengths inside boxes of `self`, which
        // outlive the call; no timeout is passed.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.messages.as_mut_ptr(),
                slots,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        match check(count) {
            Ok(()) => self.count = (count as usize).min(self.messages.len()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(self.count)
    }

    /// Piece `number` of those that came; `None` for one from neither IPv4 nor IPv6.
    pub(super) fn arrival(&self, number: usize) -> Option<Arrival> {
        let message = self.messages[..self.count].get(number)?;
        let from = address(&self.sources[number])?;
        let len = (message.msg_len as usize).min(SLOT_LEN);
        let (mut segment, mut class) = (len, 0);
        let control = &self.controls[number].0[..message.msg_hdr.msg_controllen.min(CONTROL_LEN)];
        for (level, kind, value) in control_messages(control) {
            match (level, kind) {
                (libc::SOL_UDP, UDP_GRO) => {
                    let told = value.first_chunk().map_or(0, |value| libc::c_int::from_ne_bytes(*value));
                    segment = usize::try_from(told).unwrap_or(0);
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => class = value.first().copied().unwrap_or(0),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    let told = value.first_chunk().map_or(0, |value| libc::c_int::from_ne_bytes(*value));
                    class = told as u8;
                }
                _ => {}
            }
        }
        let start = number * SLOT_LEN;
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        Some(Arrival { place: start..start + len, segment: segment.clamp(1, SLOT_LEN), class, from })
    }

    /// Where the pieces lie.
    pub(super) fn memory(&mut self) -> &mut [u8] {
        &mut self.memory
    }
}
