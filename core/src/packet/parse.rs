//! What a packet says of itself.

use super::{ICMP, ICMP6, TCP, UDP};
use crate::flow::FlowKey;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// So many extension headers are passed over: hosts send at most a few (RFC 8200, 4.1).
const EXTENSIONS_MAX: usize = 8;

/// Which part of a packet this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// All of it.
    Whole,
    /// The first part: it has the ports.
    First,
    /// A later part: it has none.
    Later,
}

/// A packet, looked at. Borrows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it says that it comes from.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// What it carries.
    pub protocol: u8,
    /// Where what it carries begins, octets from its own beginning.
    pub payload: usize,
    /// Where it ends.
    pub end: usize,
    /// Which part of it this is.
    pub fragment: Fragment,
    /// The ports, of TCP and UDP where they are in this part.
    pub ports: Option<(u16, u16)>,
    /// Whether routers may not cut it into parts (IPv6 routers never do).
    pub whole_only: bool,
    /// Of an ICMP error: the flow whose packet it speaks of, from the side of the client to whom that
    /// packet went.
    pub speaks_of: Option<FlowKey>,
}

/// Why octets are no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PacketError {
    /// Fewer octets than a header.
    #[error("shorter than its header")]
    Short,
    /// Neither IPv4 nor IPv6.
    #[error("version {0}")]
    Version(u8),
    /// A length that contradicts another.
    #[error("lengths that contradict each other")]
    Length,
    /// More extension headers than anybody sends.
    #[error("too many extension headers")]
    Extensions,
}

impl Packet {
    /// Looks at the packet that `bytes` begin with.
    pub fn parse(bytes: &[u8]) -> Result<Packet, PacketError> {
        let mut packet = match bytes.first().ok_or(PacketError::Short)? >> 4 {
            4 => parse_v4(bytes)?,
            6 => parse_v6(bytes)?,
            version => return Err(PacketError::Version(version)),
        };
        let payload = &bytes[packet.payload..packet.end];
        if packet.fragment != Fragment::Later {
            packet.ports = ports(packet.protocol, payload);
        }
        if packet.fragment == Fragment::Whole {
            packet.speaks_of = spoken_of(packet.protocol, payload);
        }
        Ok(packet)
    }

    /// The flow of a packet that a client sent to a home address. An ICMP error belongs to the flow
    /// that it speaks of. A later fragment and what has no ports stand for all flows between the two
    /// addresses: the ports are 0.
    pub fn flow(&self) -> FlowKey {
        if let Some(flow) = self.speaks_of.filter(|flow| flow.home.ip() == self.destination) {
            return flow;
        }
        let (from, to) = self.ports.unwrap_or((0, 0));
        FlowKey {
            protocol: self.protocol,
            correspondent: SocketAddr::new(self.source, from),
            home: SocketAddr::new(self.destination, to),
        }
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn parse_v4(bytes: &[u8]) -> Result<Packet, PacketError> {
    if bytes.len() < 20 {
        return Err(PacketError::Short);
    }
    let header = usize::from(bytes[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
    if header < 20 || total < header || bytes.len() < total {
        return Err(PacketError::Length);
    }
    let cut = u16::from_be_bytes([bytes[6], bytes[7]]);
    let (more, offset) = (cut & 0x2000 != 0, cut & 0x1fff);
    let ip = |at: usize| IpAddr::V4(Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]));
    Ok(Packet {
        source: ip(12),
        destination: ip(16),
        protocol: bytes[9],
        payload: header,
        end: total,
        fragment: part(offset, more),
        ports: None,
        whole_only: cut & 0x4000 != 0,
        speaks_of: None,
    })
}

fn part(offset: u16, more: bool) -> Fragment {
    match (offset, more) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    }
}

fn parse_v6(bytes: &[u8]) -> Result<Packet, PacketError> {
    if bytes.len() < 40 {
        return Err(PacketError::Short);
    }
    let end = 40 + usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
    if bytes.len() < end {
        return Err(PacketError::Length);
    }
    let ip = |at: usize| {
        let octets: [u8; 16] = bytes[at..at + 16].try_into().expect("sixteen of forty");
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    let found = |protocol, payload, fragment| Packet {
        source: ip(8),
        destination: ip(24),
        protocol,
        payload,
        end,
        fragment,
        ports: None,
        whole_only: true,
        speaks_of: None,
    };
    let (mut protocol, mut payload, mut fragment) = (bytes[6], 40, Fragment::Whole);
    for _ in 0..EXTENSIONS_MAX {
        let extension = |len: usize| bytes[..end].get(payload..payload + len).ok_or(PacketError::Length);
        let len = match protocol {
            // Hop-by-hop, routing, destination options (RFC 8200, 4.3, 4.4, 4.6).
            0 | 43 | 60 => usize::from(extension(2)?[1]) * 8 + 8,
            44 => {
                let cut = be16(extension(8)?, 2).ok_or(PacketError::Length)?;
                fragment = part(cut >> 3, cut & 1 != 0);
                8
            }
            // Authentication (RFC 4302, 2.2).
            51 => usize::from(extension(2)?[1]) * 4 + 8,
            _ => return Ok(found(protocol, payload, fragment)),
        };
        protocol = extension(len)?[0];
        payload += len;
        if fragment == Fragment::Later {
            // What follows is not a header.
            return Ok(found(protocol, payload, fragment));
        }
    }
    Err(PacketError::Extensions)
}

fn ports(protocol: u8, payload: &[u8]) -> Option<(u16, u16)> {
    if !matches!(protocol, TCP | UDP) {
        return None;
    }
    Some((be16(payload, 0)?, be16(payload, 2)?))
}

/// Of an ICMP error: the flow of the packet inside, which went from the home address to the client.
fn spoken_of(protocol: u8, payload: &[u8]) -> Option<FlowKey> {
    let error = match (protocol, *payload.first()?) {
        // Unreachable, time exceeded, parameter problem (RFC 792).
        (ICMP, 3 | 11 | 12) => true,
        // All types below 128 (RFC 4443, 2.1).
        (ICMP6, 0..128) => true,
        _ => false,
    };
    let inside = payload.get(8..).filter(|_| error)?;
    let (source, destination, inner, at) = match inside.first()? >> 4 {
        4 => {
            let source: [u8; 4] = inside.get(12..16)?.try_into().ok()?;
            let destination: [u8; 4] = inside.get(16..20)?.try_into().ok()?;
            // A later fragment has no ports.
            if be16(inside, 6)? & 0x1fff != 0 {
                return None;
            }
            let header = usize::from(inside[0] & 0x0f) * 4;
            (IpAddr::from(source), IpAddr::from(destination), inside[9], header)
        }
        6 => {
            let source: [u8; 16] = inside.get(8..24)?.try_into().ok()?;
            let destination: [u8; 16] = inside.get(24..40)?.try_into().ok()?;
            (IpAddr::from(source), IpAddr::from(destination), inside[6], 40)
        }
        _ => return None,
    };
    let (from, to) = ports(inner, inside.get(at..)?)?;
    Some(FlowKey {
        protocol: inner,
        correspondent: SocketAddr::new(destination, to),
        home: SocketAddr::new(source, from),
    })
}

#[cfg(test)]
mod tests {
    use super::super::samples::{Segment, icmp_error, ipv4, ipv6};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_flow_of_a_segment_in_both_families() {
        for segment in [Segment::v4(), Segment::v6()] {
            let bytes = segment.bytes();
            let packet = Packet::parse(&bytes).unwrap();
            assert_eq!(packet.flow(), segment.flow());
            assert_eq!((packet.fragment, packet.end), (Fragment::Whole, bytes.len()));
        }
    }

    #[test]
    fn an_error_belongs_to_the_flow_that_it_speaks_of() {
        for segment in [Segment::v4(), Segment::v6()] {
            // A router on the way says that what the home address sent is too big.
            let reply = segment.reversed().bytes();
            let router = if segment.is_v4() { "198.51.100.99" } else { "2001:db8:ffff::1" };
            let error = icmp_error(router.parse().unwrap(), segment.home.ip(), &reply);
            let packet = Packet::parse(&error).unwrap();
            assert_eq!(packet.flow(), segment.flow());
            // One that speaks of a packet of somebody else does not.
            let other = Segment { correspondent: segment.home, home: segment.correspondent, ..segment };
            let error = icmp_error(router.parse().unwrap(), segment.home.ip(), &other.reversed().bytes());
            assert_eq!(Packet::parse(&error).unwrap().flow().correspondent.ip().to_string(), router);
        }
    }

    #[test]
    fn later_fragments_have_no_ports() {
        let mut bytes = Segment::v4().bytes();
        bytes[6] = 0x20;
        let first = Packet::parse(&bytes).unwrap();
        assert_eq!((first.fragment, first.ports.is_some()), (Fragment::First, true));
        bytes[7] = 1;
        let later = Packet::parse(&bytes).unwrap();
        assert_eq!((later.fragment, later.ports), (Fragment::Later, None));
        assert_eq!((later.flow().correspondent.port(), later.flow().row()), (0, Segment::v4().flow().row()));

        let mut inner = vec![TCP, 0, 0, 0b1001, 0, 0, 0, 7];
        inner.extend_from_slice(&[0; 20]);
        let packet =
            Packet::parse(&ipv6("::1".parse().unwrap(), "::2".parse().unwrap(), 44, &inner)).unwrap();
        assert_eq!((packet.fragment, packet.ports, packet.protocol), (Fragment::Later, None, TCP));
    }

    #[test]
    fn extension_headers_are_passed_over_and_bounded() {
        let tcp = &Segment::v6().bytes()[40..];
        let nested = |count: usize| {
            let mut payload: Vec<u8> = Vec::new();
            for left in (0..count).rev() {
                payload.extend_from_slice(&[if left == 0 { TCP } else { 60 }, 0, 0, 0, 0, 0, 0, 0]);
            }
            payload.extend_from_slice(tcp);
            ipv6("2001:db8::5".parse().unwrap(), "2001:db8::1".parse().unwrap(), 60, &payload)
        };
        let packet = Packet::parse(&nested(3)).unwrap();
        assert_eq!((packet.protocol, packet.payload), (TCP, 64));
        assert!(packet.ports.is_some());
        assert_eq!(Packet::parse(&nested(8)), Err(PacketError::Extensions));
    }

    #[test]
    fn lengths_that_lie_are_errors() {
        let good = ipv4([192, 0, 2, 1].into(), [192, 0, 2, 2].into(), 200, &[1, 2, 3]);
        assert!(Packet::parse(&good).is_ok());
        assert_eq!(Packet::parse(&[]), Err(PacketError::Short));
        assert_eq!(Packet::parse(&[0x50; 40]), Err(PacketError::Version(5)));
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            Packet::parse(&bytes)
        };
        assert_eq!(with(0, 0x44), Err(PacketError::Length));
        assert_eq!(with(0, 0x4f), Err(PacketError::Length));
        assert_eq!(with(3, 24), Err(PacketError::Length));
        assert_eq!(Packet::parse(&good[..19]), Err(PacketError::Short));
    }

    proptest! {
        #[test]
        fn arbitrary_octets_are_looked_at_safely(mut bytes in prop::collection::vec(any::<u8>(), 0..200), v6: bool) {
            if let Some(first) = bytes.first_mut() {
                *first = *first & 0x0f | if v6 { 0x60 } else { 0x40 };
            }
            if let Ok(packet) = Packet::parse(&bytes) {
                prop_assert!(packet.payload <= packet.end && packet.end <= bytes.len());
                packet.flow();
            }
        }
    }
}
