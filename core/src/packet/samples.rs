//! Packets to test with.

use super::{ICMP, ICMP6, Packet, TCP, checksum};
use crate::flow::FlowKey;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A segment from a client to a home address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) correspondent: SocketAddr,
    pub(crate) home: SocketAddr,
    pub(crate) flags: u8,
}

impl Segment {
    pub(crate) fn v4() -> Segment {
        Segment {
            correspondent: "203.0.113.7:40000".parse().unwrap(),
            home: "192.0.2.1:80".parse().unwrap(),
            flags: 0x10,
        }
    }

    pub(crate) fn v6() -> Segment {
        Segment {
            correspondent: "[2001:db8:7::7]:40000".parse().unwrap(),
            home: "[2001:db8::1]:80".parse().unwrap(),
            flags: 0x10,
        }
    }

    pub(crate) fn is_v4(&self) -> bool {
        self.home.is_ipv4()
    }

    pub(crate) fn reversed(self) -> Segment {
        Segment { correspondent: self.home, home: self.correspondent, ..self }
    }

    pub(crate) fn flow(&self) -> FlowKey {
        FlowKey { protocol: TCP, correspondent: self.correspondent, home: self.home }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes_with(&[])
    }

    pub(crate) fn bytes_with(&self, options: &[u8]) -> Vec<u8> {
        self.bytes_of(options, b"hello")
    }

    pub(crate) fn bytes_of(&self, options: &[u8], data: &[u8]) -> Vec<u8> {
        let mut options = options.to_vec();
        options.resize(options.len().next_multiple_of(4), 0);
        let (from, to) = (self.correspondent, self.home);
        let mut segment = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
        segment.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 2]);
        segment.extend_from_slice(&[((5 + options.len() / 4) as u8) << 4, self.flags, 1, 0, 0, 0, 0, 0]);
        segment.extend_from_slice(&options);
        segment.extend_from_slice(data);
        let sum = checksum::pseudo_header(from.ip(), to.ip(), TCP, segment.len());
        let sum = checksum::finish(checksum::add(sum, &segment));
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ipv4(from, to, TCP, &segment),
            (IpAddr::V6(from), IpAddr::V6(to)) => ipv6(from, to, TCP, &segment),
            _ => panic!("two families"),
        }
    }
}

/// An IPv4 packet that may not be cut.
pub(crate) fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    bytes.extend_from_slice(&from.octets());
    bytes.extend_from_slice(&to.octets());
    let total = (20 + payload.len()) as u16;
    bytes[2..4].copy_from_slice(&total.to_be_bytes());
    let sum = checksum::finish(checksum::add(0, &bytes));
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// An IPv6 packet.
pub(crate) fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0, 0, 0, next, 64];
    bytes[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    bytes.extend_from_slice(&from.octets());
    bytes.extend_from_slice(&to.octets());
    bytes.extend_from_slice(payload);
    bytes
}

/// A router's error about `quoted`.
pub(crate) fn icmp_error(router: IpAddr, to: IpAddr, quoted: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 8];
    message.extend_from_slice(&quoted[..quoted.len().min(48)]);
    match (router, to) {
        (IpAddr::V4(router), IpAddr::V4(to)) => {
            message[..2].copy_from_slice(&[3, 4]);
            ipv4(router, to, ICMP, &message)
        }
        (IpAddr::V6(router), IpAddr::V6(to)) => {
            message[0] = 2;
            ipv6(router, to, ICMP6, &message)
        }
        _ => panic!("two families"),
    }
}

/// Whether the checksums of a whole packet add up.
pub(crate) fn checks(bytes: &[u8]) -> bool {
    let packet = Packet::parse(bytes).unwrap();
    let header = packet.source.is_ipv6() || checksum::finish(checksum::add(0, &bytes[..packet.payload])) == 0;
    let payload = &bytes[packet.payload..packet.end];
    let pseudo = match packet.protocol {
        ICMP => 0,
        protocol => checksum::pseudo_header(packet.source, packet.destination, protocol, payload.len()),
    };
    header && checksum::finish(checksum::add(pseudo, payload)) == 0
}
