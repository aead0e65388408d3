//! The checksum of the Internet protocols (RFC 1071), whole and by what changed (RFC 1624).

use std::net::IpAddr;

/// The sum of `bytes` as sixteen-bit words, added to `sum`; not folded, not inverted.
pub fn add(mut sum: u64, bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(2);
    for word in &mut words {
        sum += u64::from(u16::from_be_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        sum += u64::from(u16::from_be_bytes([*last, 0]));
    }
    sum
}

/// The checksum of what was added up.
pub fn finish(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// What upper layers add for the addresses, the protocol and their own length (RFC 9293, 3.1;
/// RFC 8200, 8.1).
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> u64 {
    let of = |sum, ip| match ip {
        IpAddr::V4(ip) => add(sum, &ip.octets()),
        IpAddr::V6(ip) => add(sum, &ip.octets()),
    };
    of(of(0, source), destination) + u64::from(protocol) + len as u64
}

/// The checksum after one of its words has changed (RFC 1624, 3: equation 3).
pub fn changed(checksum: u16, from: u16, to: u16) -> u16 {
    finish(u64::from(!checksum) + u64::from(!from) + u64::from(to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc1071_3_example() {
        assert_eq!(finish(add(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), !0xddf2);
        assert_eq!(add(0, &[1]), 0x0100);
    }

    proptest! {
        #[test]
        fn a_change_is_as_good_as_adding_up_anew(mut words in prop::collection::vec(any::<u16>(), 2..40), to: u16) {
            let sum = |words: &[u16]| finish(words.iter().map(|word| u64::from(*word)).sum());
            let (before, from) = (sum(&words), words[1]);
            words[1] = to;
            // Nothing real adds up to nothing (RFC 1624, 3).
            prop_assume!(words.iter().any(|word| *word != 0) && before != 0xffff);
            prop_assert_eq!(changed(before, from, to), sum(&words));
        }
    }
}
