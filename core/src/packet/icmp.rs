//! Errors that a router sends (RFC 792, RFC 4443), whatever they say.

use super::{Fragment, ICMP, ICMP6, Packet, checksum};
use std::net::IpAddr;

/// An ICMPv4 error quotes so much, so that the whole fits where every IPv4 packet fits (RFC 1812,
/// 4.3.2.3: 576 octets).
const QUOTE_V4: usize = 576 - 28;
/// And an ICMPv6 error: IPv6's least MTU (RFC 4443, 2.4 c).
const QUOTE_V6: usize = 1280 - 48;

/// What an error says: type, code, and the four octets after the checksum.
#[derive(Clone, Copy, Debug)]
pub(super) struct Says {
    pub(super) kind: u8,
    pub(super) code: u8,
    pub(super) rest: [u8; 4],
}

/// Whether an error may be sent about a packet: not about later fragments, about errors, and to what is
/// no single host's address (RFC 1122, 3.2.2; RFC 4443, 2.4 e).
pub(super) fn may_be_told(bytes: &[u8], packet: &Packet) -> bool {
    let kind = bytes.get(packet.payload).copied();
    let error = match packet.protocol {
        // All but echo, timestamps and the like. What is cut off may be an error.
        ICMP => !matches!(kind, Some(0 | 8 | 13 | 14)),
        ICMP6 => kind.is_none_or(|kind| kind < 128),
        _ => false,
    };
    let unicast = |ip: IpAddr| !(ip.is_multicast() || ip.is_unspecified() || ip.is_loopback());
    !error && packet.fragment != Fragment::Later && unicast(packet.source)
}

/// The error about `bytes` from `router`, an address of the same family.
pub(super) fn error(bytes: &[u8], packet: &Packet, says: Says, router: IpAddr) -> Option<Vec<u8>> {
    let mut message = vec![says.kind, says.code, 0, 0];
    message.extend_from_slice(&says.rest);
    let end = packet.end.min(bytes.len());
    match (router, packet.source) {
        (IpAddr::V4(router), IpAddr::V4(source)) => {
            message.extend_from_slice(&bytes[..end.min(QUOTE_V4)]);
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
            message.extend_from_slice(&bytes[..end.min(QUOTE_V6)]);
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
