//! Datagrams by the batch: one system call receives many, one sends many.
//!
//! ```text
//!  slot 0   │ query buffer │ reply buffer │ source address │ control: address that was asked │
//!  slot 1   │ …
//! ```
//!
//! Everything is allocated once and pointed at once. [`Batch::receive`] waits for the first datagram
//! and takes what else is there; the caller looks at each ([`Batch::query`]), writes what it has to
//! say into the slot's reply buffer and says how long it is ([`Batch::reply`]); [`Batch::send`] sends
//! all replies to where the queries came from.
//!
//! A socket on the unspecified address hears queries to every address of the host, and a reply must
//! come *from* the address that was asked or the client will not take it. Such a socket is told to
//! say which that was ([`tell_destination`]), and the reply carries it back. It costs some 0.1 µs for
//! each datagram, so sockets on one address do without.

use crate::namespace::check;
use std::io;
use std::mem::{offset_of, size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::null_mut;

/// Room for the one control message that a datagram comes with, with its header (RFC 3542, 20.2 has
/// the larger one: 20 octets).
const CONTROL_LEN: usize = 48;
/// A cache line.
const LINE: usize = 64;

/// Buffers for so many datagrams and their replies.
pub struct Batch {
    slots: usize,
    /// Where slots begin in `queries`: an odd number of cache lines apart, so that their first lines
    /// do not all compete for one place in the cache.
    query_stride: usize,
    reply_stride: usize,
    query_len: usize,
    reply_len: usize,
    queries: Box<[u8]>,
    replies: Box<[u8]>,
    sources: Box<[libc::sockaddr_in6]>,
    controls: Box<[Control]>,
    /// Held only for `incoming` to point at.
    _incoming_parts: Box<[libc::iovec]>,
    incoming: Box<[libc::mmsghdr]>,
    outgoing_parts: Box<[libc::iovec]>,
    outgoing: Box<[libc::mmsghdr]>,
    received: usize,
    /// Replies to send: the first so many of `outgoing`.
    queued: usize,
    destinations: bool,
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_LEN]);

// SAFETY: all pointers inside point into boxes that the value owns and never reallocates.
unsafe impl Send for Batch {}

impl Batch {
    /// For `slots` datagrams (at most 1,024) of at most `query_len` octets, with replies of at most
    /// `reply_len`. `destinations` is for sockets that [`tell_destination`].
    pub fn new(slots: usize, query_len: usize, reply_len: usize, destinations: bool) -> Batch {
        let slots = slots.clamp(1, 1024);
        let odd_lines = |len: usize| (len.div_ceil(LINE) | 1) * LINE;
        let (query_stride, reply_stride) = (odd_lines(query_len), odd_lines(reply_len));
        // SAFETY: these are plain C structures, for which all zeros is a value.
        let (address, header, part) =
            unsafe { (zeroed::<libc::sockaddr_in6>(), zeroed::<libc::mmsghdr>(), zeroed::<libc::iovec>()) };
        let mut batch = Batch {
            slots,
            query_stride,
            reply_stride,
            query_len,
            reply_len,
            queries: vec![0; slots * query_stride].into(),
            replies: vec![0; slots * reply_stride].into(),
            sources: vec![address; slots].into(),
            controls: vec![Control([0; CONTROL_LEN]); slots].into(),
            _incoming_parts: vec![part; slots].into(),
            incoming: vec![header; slots].into(),
            outgoing_parts: vec![part; slots].into(),
            outgoing: vec![header; slots].into(),
            // All have their lengths set before the first time.
            received: slots,
            queued: 0,
            destinations,
        };
        for slot in 0..slots {
            let part = &mut batch._incoming_parts[slot];
            part.iov_base = batch.queries[slot * query_stride..].as_mut_ptr().cast();
            part.iov_len = query_len;
            let header = &mut batch.incoming[slot].msg_hdr;
            header.msg_iov = part;
            header.msg_iovlen = 1;
            header.msg_name = (&raw mut batch.sources[slot]).cast();
            if destinations {
                header.msg_control = batch.controls[slot].0.as_mut_ptr().cast();
            }
            batch.outgoing[slot].msg_hdr.msg_iov = &mut batch.outgoing_parts[slot];
            batch.outgoing[slot].msg_hdr.msg_iovlen = 1;
        }
        batch.forget();
        batch
    }

    /// Waits for a datagram, as long as the socket's read timeout says, and takes what else is there.
    /// Answers how many came; replies that were not sent are forgotten.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.forget();
        // SAFETY: each header points at buffers of the stated lengths inside boxes of `self`, which
        // outlive the call; no timeout is passed.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.incoming.as_mut_ptr(),
                self.slots as libc::c_uint,
                libc::MSG_WAITFORONE,
                null_mut(),
            )
        };
        check(count)?;
        self.received = (count as usize).min(self.slots);
        Ok(self.received)
    }

    /// Sets back the lengths that the kernel wrote over: only of those that came.
    fn forget(&mut self) {
        for header in &mut self.incoming[..self.received] {
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            header.msg_hdr.msg_controllen = if self.destinations { CONTROL_LEN } else { 0 };
        }
        (self.received, self.queued) = (0, 0);
    }

    /// Datagram `slot` of those received: its octets, whence it came, and where to write a reply.
    /// One longer than the buffers is cut off. `None` beyond those received, and for a datagram of
    /// neither IPv4 nor IPv6.
    pub fn query(&mut self, slot: usize) -> Option<(&[u8], SocketAddr, &mut [u8])> {
        let len = self.incoming[..self.received].get(slot)?.msg_len as usize;
        let source = address(&self.sources[slot])?;
        let query = &self.queries[slot * self.query_stride..][..len.min(self.query_len)];
        let reply = &mut self.replies[slot * self.reply_stride..][..self.reply_len];
        Some((query, source, reply))
    }

    /// Queues the first `len` octets of a slot's reply buffer for its source. At most one reply for
    /// each datagram; more are ignored.
    pub fn reply(&mut self, slot: usize, len: usize) {
        if slot >= self.received || self.queued >= self.slots {
            return;
        }
        let at = self.queued;
        let part = &mut self.outgoing_parts[at];
        part.iov_base = self.replies[slot * self.reply_stride..].as_mut_ptr().cast();
        part.iov_len = len.min(self.reply_len);
        let incoming = &self.incoming[slot].msg_hdr;
        let outgoing = &mut self.outgoing[at].msg_hdr;
        outgoing.msg_name = incoming.msg_name;
        outgoing.msg_namelen = incoming.msg_namelen;
        if self.destinations {
            let len = from_there(&mut self.controls[slot], incoming.msg_controllen);
            outgoing.msg_control = incoming.msg_control;
            outgoing.msg_controllen = len;
        }
        self.queued += 1;
    }

    /// Sends the queued replies without waiting; answers how many could not be sent. What does not
    /// fit into the socket's buffer is lost, as on any path.
    pub fn send(&mut self, socket: BorrowedFd<'_>) -> usize {
        let (mut at, mut lost) = (0, 0);
        while at < self.queued {
            let rest = &mut self.outgoing[at..self.queued];
            // SAFETY: each header points at buffers of the stated lengths inside boxes of `self`,
            // which outlive the call.
            let count = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as libc::c_uint,
                    libc::MSG_DONTWAIT,
                )
            };
            match usize::try_from(count) {
                Ok(count) if count > 0 => at += count,
                // The first of the rest failed: it is lost, and the others get their chance.
                _ => {
                    at += 1;
                    lost += 1;
                }
            }
        }
        self.queued = 0;
        lost
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Batch({} slots, {} received, {} to send)", self.slots, self.received, self.queued)
    }
}

/// Makes the socket say for each datagram to which of the host's addresses it came.
pub fn tell_destination(socket: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    let (level, option) =
        if v6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO) } else { (libc::IPPROTO_IP, libc::IP_PKTINFO) };
    let on: libc::c_int = 1;
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the pointer and length describe `on`, which outlives the call.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), len) })
}

pub(crate) fn address(source: &libc::sockaddr_in6) -> Option<SocketAddr> {
    match libc::c_int::from(source.sin6_family) {
        libc::AF_INET => {
            // An IPv4 source is shorter: port and address stand where an IPv6 one has its port and
            // flow label.
            let address = Ipv4Addr::from(source.sin6_flowinfo.to_ne_bytes());
            Some(SocketAddr::new(IpAddr::V4(address), u16::from_be(source.sin6_port)))
        }
        libc::AF_INET6 => {
            let address = Ipv6Addr::from(source.sin6_addr.s6_addr);
            Some(SocketAddr::new(IpAddr::V6(address), u16::from_be(source.sin6_port)))
        }
        _ => None,
    }
}

/// Where the data of a control message begins (cmsg(3)): after length, level and type.
const DATA: usize = size_of::<libc::cmsghdr>();

/// Writes a control message to the beginning of `to`, which has room for it; answers its length with
/// what it is padded by.
pub(crate) fn control_message(to: &mut [u8], level: libc::c_int, kind: libc::c_int, value: &[u8]) -> usize {
    let len = DATA + value.len();
    to[offset_of!(libc::cmsghdr, cmsg_len)..][..size_of::<usize>()].copy_from_slice(&len.to_ne_bytes());
    to[offset_of!(libc::cmsghdr, cmsg_level)..][..4].copy_from_slice(&level.to_ne_bytes());
    to[offset_of!(libc::cmsghdr, cmsg_type)..][..4].copy_from_slice(&kind.to_ne_bytes());
    to[DATA..len].copy_from_slice(value);
    len.next_multiple_of(size_of::<usize>())
}

/// The control messages that `bytes` hold: level, type, data.
pub(crate) fn control_messages(bytes: &[u8]) -> impl Iterator<Item = (libc::c_int, libc::c_int, &[u8])> + '_ {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let len = rest[..].get(offset_of!(libc::cmsghdr, cmsg_len)..)?.first_chunk()?;
        let len = usize::from_ne_bytes(*len);
        let number = |at: usize| Some(libc::c_int::from_ne_bytes(*rest.get(at..)?.first_chunk()?));
        let message = (
            number(offset_of!(libc::cmsghdr, cmsg_level))?,
            number(offset_of!(libc::cmsghdr, cmsg_type))?,
            rest.get(DATA..len)?,
        );
        rest = rest.get(len.next_multiple_of(size_of::<usize>())..).unwrap_or_default();
        Some(message)
    })
}

/// Turns what was received about the destination into what is sent to choose the source: the same
/// message without the interface, which is the routing table's to choose, unless the address means
/// nothing without it. Answers the length of the control message; 0 when there is none.
fn from_there(control: &mut Control, len: usize) -> usize {
    // cmsg(3): length, level, type, then the data at the next multiple of 8.
    const HEADER: usize = size_of::<libc::cmsghdr>();
    const V4: usize = HEADER + size_of::<libc::in_pktinfo>();
    const V6: usize = HEADER + size_of::<libc::in6_pktinfo>();
    const { assert!(V6 <= CONTROL_LEN && HEADER.is_multiple_of(8)) };
    let word =
        |at: usize| control.0[at..].first_chunk().map_or(0, |bytes| libc::c_int::from_ne_bytes(*bytes));
    let level = word(offset_of!(libc::cmsghdr, cmsg_level));
    let kind = word(offset_of!(libc::cmsghdr, cmsg_type));
    match (level, kind) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) if len >= V4 => {
            control.0[HEADER + offset_of!(libc::in_pktinfo, ipi_ifindex)..][..4].fill(0);
            V4.next_multiple_of(8)
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if len >= V6 => {
            let link_local = control.0[HEADER] == 0xfe && control.0[HEADER + 1] & 0xc0 == 0x80;
            if !link_local {
                control.0[HEADER + offset_of!(libc::in6_pktinfo, ipi6_ifindex)..][..4].fill(0);
            }
            V6.next_multiple_of(8)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::time::Duration;

    /// Long enough for a machine that is busy with other tests.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn server(address: &str, v6: Option<bool>) -> UdpSocket {
        let server = UdpSocket::bind(address).unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        v6.into_iter().for_each(|v6| tell_destination(server.as_fd(), v6).unwrap());
        server
    }

    /// Sends `count` datagrams to `to` and has each come back reversed from the address it went to.
    #[track_caller]
    fn check_echo(server: &UdpSocket, batch: &mut Batch, to: SocketAddr, count: u8) {
        let local = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let client = UdpSocket::bind(local).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        for n in 0..count {
            client.send_to(&[n, 1, 2], to).unwrap();
        }
        let mut answered = 0;
        while answered < count {
            let received = batch.receive(server.as_fd()).unwrap();
            for slot in 0..received {
                let (query, source, reply) = batch.query(slot).unwrap();
                assert_eq!(source.port(), client.local_addr().unwrap().port());
                reply[..3].copy_from_slice(query);
                reply[..3].reverse();
                batch.reply(slot, 3);
            }
            assert!(batch.query(received).is_none());
            assert_eq!(batch.send(server.as_fd()), 0);
            answered += received as u8;
        }
        for n in 0..count {
            let mut reply = [0; 9];
            let (len, from) = client.recv_from(&mut reply).unwrap();
            assert_eq!((&reply[..len], from), (&[2, 1, n][..], to));
        }
    }

    #[test]
    fn many_are_received_and_answered_at_once() {
        let server = server("127.0.0.1:0", None);
        let mut batch = Batch::new(8, 100, 100, false);
        let to = server.local_addr().unwrap();
        for count in [1, 8, 20, 3] {
            check_echo(&server, &mut batch, to, count);
        }
    }

    #[test]
    fn the_unspecified_address_answers_from_the_one_that_was_asked() {
        let server_v4 = server("0.0.0.0:0", Some(false));
        let mut batch = Batch::new(4, 100, 100, true);
        let port = server_v4.local_addr().unwrap().port();
        // All of 127/8 is the host's; without the control message the kernel answers from 127.0.0.1.
        for asked in ["127.0.0.1", "127.0.0.77", "127.1.2.3"] {
            check_echo(&server_v4, &mut batch, SocketAddr::new(asked.parse().unwrap(), port), 6);
        }
        let Ok(_) = UdpSocket::bind("[::1]:0") else {
            println!("SKIPPED: this host has no IPv6");
            return;
        };
        let server_v6 = server("[::]:0", Some(true));
        let port = server_v6.local_addr().unwrap().port();
        check_echo(&server_v6, &mut batch, SocketAddr::new("::1".parse().unwrap(), port), 6);
    }

    #[test]
    fn a_datagram_longer_than_its_buffer_is_cut_off_and_an_empty_one_is_seen() {
        let server = server("127.0.0.1:0", None);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut batch = Batch::new(4, 10, 10, false);
        for (sent, seen) in [(50, 10), (0, 0), (10, 10)] {
            client.send_to(&vec![7; sent], server.local_addr().unwrap()).unwrap();
            assert_eq!(batch.receive(server.as_fd()).unwrap(), 1);
            assert_eq!(batch.query(0).unwrap().0, vec![7; seen]);
        }
    }

    #[test]
    fn control_messages_are_read_as_written_and_nonsense_ends_them() {
        let mut bytes = [0; 64];
        let first = control_message(&mut bytes, 1, 2, &[7]);
        let len = first + control_message(&mut bytes[first..], 3, 4, &[8, 9]);
        let read: Vec<_> = control_messages(&bytes[..len]).collect();
        assert_eq!(read, [(1, 2, &[7][..]), (3, 4, &[8, 9])]);
        for at in 0..first + DATA + 2 {
            assert!(control_messages(&bytes[..at]).count() < 2);
            let mut bad = bytes;
            bad[at] ^= 0xff;
            assert!(control_messages(&bad[..len]).count() <= 2);
        }
    }

    #[test]
    fn waiting_ends_with_the_sockets_timeout() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let mut batch = Batch::new(4, 10, 10, false);
        assert_eq!(batch.receive(server.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(batch.query(0).is_none());
    }
}
