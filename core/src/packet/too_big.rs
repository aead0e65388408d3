//! The error that tells a sender what fits (RFC 1191, 4; RFC 4443, 3.2).

use super::{Fragment, ICMP, ICMP6, Packet, checksum};
use std::net::IpAddr;

/// An ICMPv4 error quotes so much, so that the whole fits where every IPv4 packet fits (RFC 1812,
/// 4.3.2.3: 576 octets).
const QUOTE_V4: usize = 576 - 28;
/// And an ICMPv6 error: IPv6's least MTU (RFC 4443, 2.4 c).
const QUOTE_V6: usize = 1280 - 48;

/// The error for `bytes`, a packet that does not fit into `mtu` octets, from `router`, an address of
/// the same family. `None` when no error may be sent: for packets that may be cut, later fragments,
/// and errors (RFC 1122, 3.2.2; RFC 4443, 2.4 e).
pub fn too_big(bytes: &[u8], packet: &Packet, mtu: u16, router: IpAddr) -> Option<Vec<u8>> {
    let error = match packet.protocol {
        // All but echo, timestamps and the like.
        ICMP => !matches!(bytes.get(packet.payload)?, 0 | 8 | 13 | 14),
        ICMP6 => *bytes.get(packet.payload)? < 128,
        _ => false,
    };
    let unicast = |ip: IpAddr| !(ip.is_multicast() || ip.is_unspecified() || ip.is_loopback());
    if error || !packet.whole_only || packet.fragment == Fragment::Later || !unicast(packet.source) {
        return None;
    }
    match (router, packet.source) {
        (IpAddr::V4(router), IpAddr::V4(source)) => {
            let quote = &bytes[..packet.end.min(QUOTE_V4)];
            let mut message = vec![3, 4, 0, 0, 0, 0];
            message.extend_from_slice(&mtu.to_be_bytes());
            message.extend_from_slice(quote);
            let sum = checksum::finish(checksum::add(0, &message));
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            let total = 20 + message.len();
            let mut header = [0; 20];
            // Precedence internetwork control (RFC 1812, 4.3.2.5).
            header[..2].copy_from_slice(&[0x45, 0xc0]);
            header[2..4].copy_from_slice(&(total as u16).to_be_bytes());
            header[8..10].copy_from_slice(&[64, ICMP]);
            header[12..16].copy_from_slice(&router.octets());
            header[16..20].copy_from_slice(&source.octets());
            let sum = checksum::finish(checksum::add(0, &header));
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            Some([&header[..], &message].concat())
        }
        (IpAddr::V6(router), IpAddr::V6(source)) => {
            let quote = &bytes[..packet.end.min(QUOTE_V6)];
            let mut message = vec![2, 0, 0, 0];
            message.extend_from_slice(&u32::from(mtu).to_be_bytes());
            message.extend_from_slice(quote);
            let sum = checksum::pseudo_header(router.into(), source.into(), ICMP6, message.len());
            let sum = checksum::finish(checksum::add(sum, &message));
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            let mut header = [0; 40];
            header[0] = 0x60;
            header[4..6].copy_from_slice(&(message.len() as u16).to_be_bytes());
            header[6..8].copy_from_slice(&[ICMP6, 64]);
            header[8..24].copy_from_slice(&router.octets());
            header[24..40].copy_from_slice(&source.octets());
            Some([&header[..], &message].concat())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{Segment, checks};
    use super::*;

    #[test]
    fn a_sender_is_told_what_fits_and_whose_packet_it_was() {
        for segment in [Segment::v4(), Segment::v6()] {
            let router: IpAddr =
                if segment.is_v4() { "192.0.2.254" } else { "2001:db8::fe" }.parse().unwrap();
            for len in [0, 100, 3000] {
                let bytes = segment.bytes_of(&[], &vec![7; len]);
                let packet = Packet::parse(&bytes).unwrap();
                let error = too_big(&bytes, &packet, 1420, router).unwrap();
                assert!(checks(&error));
                assert!(error.len() <= if segment.is_v4() { 576 } else { 1280 });
                let parsed = Packet::parse(&error).unwrap();
                assert_eq!((parsed.source, parsed.destination), (router, segment.correspondent.ip()));
                let quoted = &error[parsed.payload + 8..];
                assert!(bytes.starts_with(quoted) && quoted.len() >= 28);
                assert_eq!(&error[parsed.payload + 6..parsed.payload + 8], 1420u16.to_be_bytes());
                // No error answers an error.
                assert_eq!(too_big(&error, &parsed, 1000, router), None);
            }
        }
    }

    #[test]
    fn packets_that_may_be_cut_and_senders_that_are_none_get_no_error() {
        let router = "192.0.2.254".parse().unwrap();
        let told = |change: fn(&mut [u8])| {
            let mut bytes = Segment::v4().bytes();
            change(&mut bytes);
            let packet = Packet::parse(&bytes).unwrap();
            too_big(&bytes, &packet, 1420, router).is_some()
        };
        assert!(told(|_| ()));
        assert!(!told(|bytes| bytes[6] = 0));
        assert!(!told(|bytes| bytes[7] = 1));
        assert!(!told(|bytes| bytes[12] = 224));
        assert!(!told(|bytes| bytes[12..16].fill(0)));
    }
}
