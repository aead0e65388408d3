//! A DNS client as small as can be: one question over UDP, one answer. It asks the testbed's own
//! redirectors, as `dig` would, on machines that have no `dig`.
//!
//! ```text
//!  header (12): id, flags, counts │ question: name, type, class │ answers: name, type, class, TTL, data
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// What may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Start of authority.
    Soa,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The response code; 0 is no error, 3 no such name.
    pub code: u8,
    /// The addresses in it, in its order.
    pub addresses: Vec<IpAddr>,
    /// How many records it has.
    pub records: u16,
    /// How long the first of them may be kept, seconds.
    pub ttl: Option<u32>,
    /// How long it took.
    pub took: Duration,
}

/// Asks `server` from `source` for `name` and waits at most `timeout`.
pub fn ask(
    source: IpAddr,
    server: SocketAddr,
    name: &str,
    kind: Kind,
    timeout: Duration,
) -> io::Result<Answer> {
    let socket = UdpSocket::bind((source, 0))?;
    socket.connect(server)?;
    let started = Instant::now();
    // Unpredictable enough for a network that nobody else is on.
    let id = std::process::id() as u16 ^ socket.local_addr()?.port();
    let query =
        query(id, name, kind).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a name"))?;
    socket.send(&query)?;
    let mut buffer = [0; 4096];
    loop {
        let left = timeout.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let len = match socket.recv(&mut buffer) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        };
        if let Some(mut answer) = parse(&buffer[..len], id) {
            answer.took = started.elapsed();
            return Ok(answer);
        }
    }
}

fn query(id: u16, name: &str, kind: Kind) -> Option<Vec<u8>> {
    let mut query = id.to_be_bytes().to_vec();
    // No recursion: the server is asked for what it knows itself.
    query.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        let len = u8::try_from(label.len()).ok().filter(|len| (1..=63).contains(len))?;
        query.push(len);
        query.extend(label.as_bytes());
    }
    let kind: u16 = match kind {
        Kind::A => 1,
        Kind::Aaaa => 28,
        Kind::Soa => 6,
    };
    query.push(0);
    query.extend(kind.to_be_bytes());
    query.extend([0, 1]);
    (query.len() <= 512).then_some(query)
}

/// `None` when it is no answer to the question, or malformed.
fn parse(message: &[u8], id: u16) -> Option<Answer> {
    let word = |at: usize| Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?));
    let flags = word(2)?;
    if word(0)? != id || flags & 0x8000 == 0 {
        return None;
    }
    let records = word(6)?;
    let mut answer =
        Answer { code: (flags & 15) as u8, addresses: Vec::new(), records, ttl: None, took: Duration::ZERO };
    let mut at = 12;
    for _ in 0..word(4)? {
        at = skip_name(message, at)? + 4;
    }
    for _ in 0..records {
        at = skip_name(message, at)?;
        let (kind, len) = (word(at)?, usize::from(word(at + 8)?));
        let ttl = u32::from_be_bytes(message.get(at + 4..at + 8)?.try_into().ok()?);
        let data = message.get(at + 10..at + 10 + len)?;
        match kind {
            1 => answer.addresses.push(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).into()),
            28 => answer.addresses.push(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).into()),
            _ => {}
        }
        answer.ttl.get_or_insert(ttl);
        at += 10 + len;
    }
    Some(answer)
}

/// Where the name that starts at `at` ends.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            pointer if pointer >= 0xc0 => return Some(at + 2),
            len => at += 1 + usize::from(len),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_bytes() {
        let query = query(0x1234, "www.a.", Kind::Aaaa).unwrap();
        assert_eq!(query[..12], [0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(query[12..], *b"\x03www\x01a\x00\x00\x1c\x00\x01");
        assert_eq!(super::query(1, "a..b", Kind::A), None);
    }

    #[test]
    fn answers_are_read_and_never_beyond_the_message() {
        let mut message = query(7, "www.a", Kind::A).unwrap();
        message[2] = 0x84;
        message[7] = 2;
        message.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\xc6\x12\x00\x01");
        message.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\xc6\x12\x01\x01");
        let answer = parse(&message, 7).unwrap();
        let addresses: Vec<IpAddr> = vec!["198.18.0.1".parse().unwrap(), "198.18.1.1".parse().unwrap()];
        assert_eq!((answer.code, answer.addresses, answer.ttl), (0, addresses, Some(5)));
        assert_eq!(parse(&message, 8), None);
        for len in 0..message.len() {
            assert_eq!(parse(&message[..len], 7), None);
        }
    }
}
