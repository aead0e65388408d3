//! The PROXY protocol, version 2: tells a program behind a forwarder who the client is.
//!
//! A binary header before the first byte of the connection (HAProxy's *The PROXY protocol*, 2.2):
//!
//! ```text
//!   0            12        13       14      16
//!   │ signature  │ 0x21    │ family │ length │ client, home address, client's port, home port │
//!                  version 2, PROXY
//! ```

use std::net::{IpAddr, SocketAddr};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, a connection on somebody's behalf, and one on one's own.
const PROXY: u8 = 0x21;
const LOCAL: u8 = 0x20;
/// A stream over IPv4, and over IPv6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// The header of a connection that `client` made to `home`.
pub(super) fn header(client: SocketAddr, home: SocketAddr) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.push(PROXY);
    match (client.ip().to_canonical(), home.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            bytes.extend([TCP4, 0, 12]);
            bytes.extend(from.octets());
            bytes.extend(to.octets());
        }
        (from, to) => {
            let octets = |ip: IpAddr| match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            bytes.extend([TCP6, 0, 36]);
            bytes.extend(octets(from));
            bytes.extend(octets(to));
        }
    }
    bytes.extend(client.port().to_be_bytes());
    bytes.extend(home.port().to_be_bytes());
    bytes
}

/// The header of a connection that asks whether the program works (2.2: the addresses are not to be used).
pub(super) fn health_check() -> Vec<u8> {
    [&SIGNATURE[..], &[LOCAL, 0, 0, 0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_octets_are_those_of_the_specification() {
        let v4 = header("203.0.113.7:40000".parse().unwrap(), "192.0.2.1:443".parse().unwrap());
        let expected = [
            &[0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a][..],
            &[0x21, 0x11, 0x00, 0x0c, 203, 0, 113, 7, 192, 0, 2, 1, 0x9c, 0x40, 0x01, 0xbb],
        ];
        assert_eq!(v4, expected.concat());
        let v6 = header("[2001:db8::7]:40000".parse().unwrap(), "[2001:db8::1]:443".parse().unwrap());
        assert_eq!((v6.len(), &v6[12..16]), (16 + 36, &[0x21, 0x21, 0, 36][..]));
        assert_eq!(&v6[16..20], [0x20, 0x01, 0x0d, 0xb8]);
        assert_eq!(&v6[48..], [0x9c, 0x40, 0x01, 0xbb]);
        // A socket of both families shows IPv4 clients as mapped addresses.
        let mapped = header("[::ffff:203.0.113.7]:40000".parse().unwrap(), "192.0.2.1:443".parse().unwrap());
        assert_eq!(mapped, v4);
        assert_eq!(health_check(), [&v4[..12], &[0x20, 0, 0, 0]].concat());
    }
}
