//! The error that tells a sender that nobody takes its packets (RFC 792; RFC 1812, 5.2.7.1; RFC 4443,
//! 3.1).

use super::Packet;
use super::icmp::{Says, error, may_be_told};
use std::net::IpAddr;

/// Why nobody does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Nobody is there at the moment.
    NoHost,
    /// It is not allowed.
    Prohibited,
}

/// The error about `bytes`, a packet or the beginning of one, from `router`, an address of the same
/// family. `None` when no error may be sent: for later fragments, errors, and groups.
pub fn unreachable(bytes: &[u8], packet: &Packet, why: Why, router: IpAddr) -> Option<Vec<u8>> {
    if !may_be_told(bytes, packet) {
        return None;
    }
    let (kind, code) = match (router, why) {
        (IpAddr::V4(_), Why::NoHost) => (3, 1),
        (IpAddr::V4(_), Why::Prohibited) => (3, 13),
        (IpAddr::V6(_), Why::NoHost) => (1, 3),
        (IpAddr::V6(_), Why::Prohibited) => (1, 1),
    };
    error(bytes, packet, Says { kind, code, rest: [0; 4] }, router)
}

#[cfg(test)]
mod tests {
    use super::super::samples::{Segment, checks};
    use super::*;

    #[test]
    fn a_sender_is_told_whose_packet_it_was_and_no_error_answers_an_error() {
        for segment in [Segment::v4(), Segment::v6()] {
            let router = segment.home.ip();
            let bytes = segment.bytes_of(&[], &[7; 3000]);
            let packet = Packet::parse(&bytes).unwrap();
            for why in [Why::NoHost, Why::Prohibited] {
                // Of a long packet only the beginning is at hand.
                for end in [100, 1280, bytes.len()] {
                    let told = unreachable(&bytes[..end], &packet, why, router).unwrap();
                    assert!(checks(&told) && told.len() <= if segment.is_v4() { 576 } else { 1280 });
                    let parsed = Packet::parse(&told).unwrap();
                    assert_eq!((parsed.source, parsed.destination), (router, segment.correspondent.ip()));
                    assert!(bytes.starts_with(&told[parsed.payload + 8..]));
                    assert_eq!(unreachable(&told, &parsed, why, router), None);
                }
            }
        }
        let mut later = Segment::v4().bytes();
        later[7] = 1;
        let packet = Packet::parse(&later).unwrap();
        assert_eq!(unreachable(&later, &packet, Why::NoHost, "192.0.2.1".parse().unwrap()), None);
    }
}
