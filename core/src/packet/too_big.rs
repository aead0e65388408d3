//! The error that tells a sender what fits (RFC 1191, 4; RFC 4443, 3.2).

use super::Packet;
use super::icmp::{Says, error, may_be_told};
use std::net::IpAddr;

/// The error for `bytes`, a packet that does not fit into `mtu` octets, from `router`, an address of
/// the same family. `None` when no error may be sent: for packets that may be cut, later fragments,
/// and errors.
pub fn too_big(bytes: &[u8], packet: &Packet, mtu: u16, router: IpAddr) -> Option<Vec<u8>> {
    if !packet.whole_only || !may_be_told(bytes, packet) {
        return None;
    }
    let [high, low] = mtu.to_be_bytes();
    let (kind, code) = if router.is_ipv4() { (3, 4) } else { (2, 0) };
    // In both forms the MTU ends the four octets.
    error(bytes, packet, Says { kind, code, rest: [0, 0, high, low] }, router)
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
