//! What is changed in a packet on its way through a home agent: as little as a router changes, and
//! the largest segment that two ends agree on.

use super::{Fragment, Packet, TCP, checksum};

/// A packet has come through as many routers as it may; it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("time to live exceeded")]
pub struct Expired;

/// One hop less (RFC 1812, 5.3.1; RFC 8200, 3). `bytes` begin with a packet that was parsed.
pub fn decrement_hops(bytes: &mut [u8]) -> Result<(), Expired> {
    let v4 = bytes[0] >> 4 == 4;
    let at = if v4 { 8 } else { 7 };
    if bytes[at] <= 1 {
        return Err(Expired);
    }
    let word = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let from = word(bytes, 8);
    bytes[at] -= 1;
    if v4 {
        let sum = checksum::changed(word(bytes, 10), from, word(bytes, 8));
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    Ok(())
}

/// Lowers the largest segment size that a SYN announces to `mss`, so that full segments fit into the
/// tunnel where errors that say so are filtered on the way. Tells whether it was higher.
pub fn clamp_mss(bytes: &mut [u8], packet: &Packet, mss: u16) -> bool {
    if packet.protocol != TCP || packet.fragment != Fragment::Whole {
        return false;
    }
    let Some(segment) = bytes.get_mut(packet.payload..packet.end).filter(|segment| segment.len() >= 20)
    else {
        return false;
    };
    let syn = segment[13] & 0x02 != 0;
    let header = usize::from(segment[12] >> 4) * 4;
    if !syn || !(20..=segment.len()).contains(&header) {
        return false;
    }
    let Some(at) = find_mss(&segment[..header]) else { return false };
    let announced = u16::from_be_bytes([segment[at], segment[at + 1]]);
    if announced <= mss {
        return false;
    }
    let mut sum = u16::from_be_bytes([segment[16], segment[17]]);
    // The value may lie across two of the words that are added up.
    let words = at & !1..=(at + 1) & !1;
    for start in words.clone().step_by(2) {
        let from = u16::from_be_bytes([segment[start], segment[start + 1]]);
        let mut changed = from.to_be_bytes();
        for (offset, octet) in mss.to_be_bytes().into_iter().enumerate() {
            if (at + offset) & !1 == start {
                changed[(at + offset) & 1] = octet;
            }
        }
        sum = checksum::changed(sum, from, u16::from_be_bytes(changed));
    }
    segment[at..at + 2].copy_from_slice(&mss.to_be_bytes());
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    true
}

/// Where the value of the option begins (RFC 9293, 3.2: kind 2, length 4).
fn find_mss(header: &[u8]) -> Option<usize> {
    let mut at = 20;
    while at < header.len() {
        match header[at] {
            0 => return None,
            1 => at += 1,
            kind => {
                let len = usize::from(*header.get(at + 1)?);
                if len < 2 || at + len > header.len() {
                    return None;
                }
                if kind == 2 && len == 4 {
                    return Some(at + 2);
                }
                at += len;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::samples::{Segment, checks};
    use super::*;

    #[test]
    fn hops_are_counted_down_and_checksums_kept() {
        for segment in [Segment::v4(), Segment::v6()] {
            let mut bytes = segment.bytes();
            for left in (1..64).rev() {
                assert_eq!(decrement_hops(&mut bytes), Ok(()));
                assert!(checks(&bytes), "{left}");
            }
            let last = bytes.clone();
            assert_eq!(decrement_hops(&mut bytes), Err(Expired));
            assert_eq!(bytes, last);
        }
    }

    #[test]
    fn the_segment_size_of_a_syn_is_lowered_wherever_the_option_lies() {
        for segment in [Segment::v4(), Segment::v6()] {
            for padding in 0..4 {
                let mut options = vec![1; padding];
                options.extend_from_slice(&[2, 4, 0x05, 0xb4]);
                options.resize(8, 0);
                let syn = Segment { flags: 0x02, ..segment };
                let mut bytes = syn.bytes_with(&options);
                let packet = Packet::parse(&bytes).unwrap();
                assert!(clamp_mss(&mut bytes, &packet, 1360));
                assert!(checks(&bytes), "{padding}");
                options[padding + 2..padding + 4].copy_from_slice(&1360u16.to_be_bytes());
                assert_eq!(bytes, syn.bytes_with(&options));
                assert!(!clamp_mss(&mut bytes, &packet, 1400), "never raised");
                assert_eq!(bytes, syn.bytes_with(&options));
            }
        }
    }

    #[test]
    fn what_is_no_syn_or_has_broken_options_is_left_alone() {
        let segment = Segment::v4();
        let cases: [(u8, &[u8]); 6] = [
            (0x10, &[2, 4, 5, 0xb4]),
            (0x02, &[2, 0, 5, 0xb4]),
            (0x02, &[2, 5, 5, 0xb4]),
            (0x02, &[0, 2, 4, 5]),
            (0x02, &[8, 10, 2, 4]),
            (0x02, &[]),
        ];
        for (flags, options) in cases {
            let mut bytes = Segment { flags, ..segment }.bytes_with(options);
            let before = bytes.clone();
            let packet = Packet::parse(&bytes).unwrap();
            assert!(!clamp_mss(&mut bytes, &packet, 1360), "{options:?}");
            assert_eq!(bytes, before);
        }
    }
}
