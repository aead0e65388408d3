//! Lists that the kernel gives: one request, many messages back.

use super::{HEADER_LEN, Message, Netlink};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

/// No list is longer, messages: a host with a full table of the Internet's routes has more, and is
/// told that this is not for it.
const MESSAGES_MAX: usize = 16 * 1024;

/// One message of a list: its fixed part and its attributes, unparsed.
pub(super) struct Listed {
    pub(super) body: Vec<u8>,
}

impl Netlink {
    /// Asks for a list. `kind` is the kind of the request, and what follows its header is in `message`.
    pub(super) fn list(&mut self, mut message: Message) -> io::Result<Vec<Listed>> {
        self.sequence += 1;
        let sequence = self.sequence;
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
        message.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.send(message.finish(sequence))?;
        let mut found = Vec::new();
        let mut answer = vec![0u8; 64 * 1024];
        loop {
            let len = self.receive(&mut answer)?;
            for one in messages(&answer[..len]) {
                let (kind, number, body) = one?;
                if number != sequence {
                    continue;
                }
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(found),
                    libc::NLMSG_ERROR => {
                        let code = number_at(body, 0).ok_or_else(malformed)? as i32;
                        return Err(io::Error::from_raw_os_error(-code));
                    }
                    _ if found.len() >= MESSAGES_MAX => {
                        // What is left of it would be read as the answer to the next question.
                        *self = Netlink::open()?;
                        return Err(io::Error::other("the kernel's list is too long"));
                    }
                    _ => found.push(Listed { body: body.to_vec() }),
                }
            }
        }
    }

    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let fd = self.socket.as_fd().as_raw_fd();
        // SAFETY: the pointer and length describe `bytes`, which outlives the call.
        let sent = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    pub(super) fn receive(&self, answer: &mut [u8]) -> io::Result<usize> {
        let fd = self.socket.as_fd().as_raw_fd();
        // SAFETY: the pointer and length describe `answer`, which outlives the call.
        let len = unsafe { libc::recv(fd, answer.as_mut_ptr().cast(), answer.len(), 0) };
        usize::try_from(len).map_err(|_| io::Error::last_os_error())
    }
}

impl Listed {
    /// The attributes after a fixed part of `fixed` octets.
    pub(super) fn attributes(&self, fixed: usize) -> impl Iterator<Item = (u16, &[u8])> {
        attributes(self.body.get(fixed..).unwrap_or_default())
    }

    pub(super) fn attribute(&self, fixed: usize, kind: u16) -> Option<&[u8]> {
        self.attributes(fixed).find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    pub(super) fn octet(&self, at: usize) -> u8 {
        self.body.get(at).copied().unwrap_or_default()
    }

    pub(super) fn number(&self, at: usize) -> u32 {
        number_at(&self.body, at).unwrap_or_default()
    }
}

/// The messages in what came: kind, sequence number, body.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = io::Result<(u16, u32, &[u8])>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let header = |at| number_at(bytes, at);
        let (Some(len), Some(number)) = (header(0), header(8)) else {
            bytes = &[];
            return Some(Err(malformed()));
        };
        let len = len as usize;
        let Some(body) = bytes.get(HEADER_LEN..len) else {
            bytes = &[];
            return Some(Err(malformed()));
        };
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok((kind, number, body)))
    })
}

/// The attributes in `bytes`; what is malformed ends them.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        // The high bits say that it is nested, or in which order its octets are.
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(super) fn number_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn address_of(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
        _ => None,
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's netlink answer is malformed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_malformed_ends_the_list_and_nothing_else() {
        let mut bytes = Vec::new();
        for (kind, body) in [(1u16, &b"abcd"[..]), (2, b"ef")] {
            bytes.extend((HEADER_LEN as u32 + body.len() as u32).to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 2]);
            bytes.extend(7u32.to_ne_bytes());
            bytes.extend([0; 4]);
            bytes.extend(body);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let read: Vec<_> = messages(&bytes).map(|one| one.unwrap()).collect();
        assert_eq!(read, [(1, 7, &b"abcd"[..]), (2, 7, b"ef")]);
        for len in 1..bytes.len() {
            let whole = messages(&bytes[..len]).filter(Result::is_ok).count();
            assert_eq!(whole, usize::from(len >= 20) + usize::from(len >= 38), "{len}");
        }
        for len in [0u32, 3, 15, 4000, u32::MAX] {
            bytes[..4].copy_from_slice(&len.to_ne_bytes());
            assert!(messages(&bytes).next().unwrap().is_err());
        }
    }

    #[test]
    fn attributes_are_read_while_their_lengths_are_possible() {
        let bytes =
            [5u16.to_ne_bytes(), 9u16.to_ne_bytes(), [1, 0], [0, 0], 99u16.to_ne_bytes(), [0; 2]].concat();
        assert_eq!(attributes(&bytes).collect::<Vec<_>>(), [(9, &[1u8][..])]);
        assert_eq!(attributes(&[0; 8]).next(), None);
    }
}
