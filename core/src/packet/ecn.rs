//! Congestion marks and traffic classes, through tunnels (RFC 6040).

use super::checksum;

/// The two bits of congestion notification (RFC 3168, 5).
const ECN: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const CE: u8 = 0b11;

/// The path of the tunnel was congested, and the packet's sender does not understand marks: the packet
/// is dropped, which it does understand (RFC 6040, 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("congestion that the sender cannot be told but by loss")]
pub struct Congested;

/// The traffic class of a packet that was parsed: DSCP and ECN. In normal mode the tunnel's own packet
/// gets the same (RFC 6040, 4.1).
pub fn traffic_class(bytes: &[u8]) -> u8 {
    match bytes[0] >> 4 {
        4 => bytes[1],
        _ => bytes[0] << 4 | bytes[1] >> 4,
    }
}

/// Puts what the tunnel's packet met on its way, `outer`, into the packet that was inside (RFC 6040,
/// 4.2, figure 4). The DSCP stays.
pub fn leave_tunnel(bytes: &mut [u8], outer: u8) -> Result<(), Congested> {
    let inner = traffic_class(bytes);
    match (inner & ECN, outer & ECN) {
        (NOT_ECT, CE) => Err(Congested),
        (CE | NOT_ECT, _) => Ok(()),
        (_, mark @ (CE | ECT_1)) => {
            set_ecn(bytes, mark);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn set_ecn(bytes: &mut [u8], mark: u8) {
    if bytes[0] >> 4 == 4 {
        let word = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let from = word(bytes, 0);
        bytes[1] = bytes[1] & !ECN | mark;
        let sum = checksum::changed(word(bytes, 10), from, word(bytes, 0));
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        bytes[1] = bytes[1] & !(ECN << 4) | mark << 4;
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{Segment, checks};
    use super::*;

    #[test]
    fn rfc6040_4_2_figure_4() {
        // Rows: inside; columns: Not-ECT, ECT(0), ECT(1), CE outside.
        let (ect_0, drop) = (0b10, None);
        let table = [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), drop]),
            (ect_0, [Some(ect_0), Some(ect_0), Some(ECT_1), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        for segment in [Segment::v4(), Segment::v6()] {
            for (inner, results) in table {
                for (outer, result) in [NOT_ECT, ect_0, ECT_1, CE].into_iter().zip(results) {
                    let mut bytes = segment.bytes();
                    set_ecn(&mut bytes, inner);
                    let left = leave_tunnel(&mut bytes, 0b1010_1000 | outer);
                    assert_eq!(left.is_err(), result.is_none());
                    assert_eq!(traffic_class(&bytes), result.unwrap_or(inner), "{inner:02b} in {outer:02b}");
                    assert!(checks(&bytes));
                }
            }
        }
    }

    #[test]
    fn the_class_of_both_families() {
        let mut v4 = Segment::v4().bytes();
        v4[1] = 0xb8;
        assert_eq!(traffic_class(&v4), 0xb8);
        let mut v6 = Segment::v6().bytes();
        v6[..2].copy_from_slice(&[0x6b, 0x80]);
        assert_eq!(traffic_class(&v6), 0xb8);
    }
}
