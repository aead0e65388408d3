//! Which addresses are measured: public ones that nobody has asked to be spared.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an operator has said about measuring resolvers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Never these: comes before all else.
    pub never: Vec<IpNet>,
    /// These too, although they are not public ([`is_public`]): a network of one's own.
    pub also: Vec<IpNet>,
}

impl Rules {
    /// Whether `address` may be measured.
    pub fn allow(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let within = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&address));
        !within(&self.never) && (is_public(address) || within(&self.also))
    }
}

/// The prefix by which a resolver is known, as clients are: IPv4 /24, IPv6 /48.
pub fn prefix_of(address: IpAddr) -> IpNet {
    match address.to_canonical() {
        IpAddr::V4(v4) => Ipv4Net::new_assert(v4, 24).trunc().into(),
        IpAddr::V6(v6) => Ipv6Net::new_assert(v6, 48).trunc().into(),
    }
}

/// Whether `address` is a unicast address that the whole internet means the same host by: none of
/// the special-purpose blocks (RFC 6890 and the IANA registries), no tunnel that carries an IPv4
/// address inside.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => !SPECIAL_V4.iter().any(|(net, len)| v4_in(v4, *net, *len)),
        IpAddr::V6(v6) => {
            // RFC 4291, 2.4: global unicast addresses are given out of 2000::/3.
            v6_in(v6, [0x2000, 0, 0], 3) && !SPECIAL_V6.iter().any(|(net, len)| v6_in(v6, *net, *len))
        }
    }
}

const SPECIAL_V4: [([u8; 4], u32); 15] = [
    ([0, 0, 0, 0], 8),       // this network
    ([10, 0, 0, 0], 8),      // private
    ([100, 64, 0, 0], 10),   // carriers' NAT
    ([127, 0, 0, 0], 8),     // loopback
    ([169, 254, 0, 0], 16),  // link-local
    ([172, 16, 0, 0], 12),   // private
    ([192, 0, 0, 0], 24),    // protocol assignments
    ([192, 0, 2, 0], 24),    // documentation
    ([192, 88, 99, 0], 24),  // 6to4 relays
    ([192, 168, 0, 0], 16),  // private
    ([198, 18, 0, 0], 15),   // benchmarks
    ([198, 51, 100, 0], 24), // documentation
    ([203, 0, 113, 0], 24),  // documentation
    ([224, 0, 0, 0], 4),     // multicast
    ([240, 0, 0, 0], 4),     // reserved, broadcast
];

const SPECIAL_V6: [([u16; 3], u32); 4] = [
    ([0x2001, 0, 0], 23),     // protocol assignments, Teredo
    ([0x2001, 0xdb8, 0], 32), // documentation
    ([0x2002, 0, 0], 16),     // 6to4
    ([0x3fff, 0, 0], 20),     // documentation
];

fn v4_in(address: Ipv4Addr, net: [u8; 4], len: u32) -> bool {
    (u32::from(address) ^ u32::from_be_bytes(net)) >> (32 - len) == 0
}

fn v6_in(address: Ipv6Addr, net: [u16; 3], len: u32) -> bool {
    let [a, b, c] = net;
    let net = u128::from(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0));
    (u128::from(address) ^ net) >> (128 - len) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rules: &Rules, address: &str, allowed: bool) {
        assert_eq!(rules.allow(address.parse().unwrap()), allowed, "{address}");
    }

    #[test]
    fn only_public_addresses_are_measured() {
        let rules = Rules::default();
        for public in [
            "8.8.8.8",
            "9.9.9.9",
            "100.63.255.255",
            "100.128.0.0",
            "172.32.0.1",
            "198.20.0.1",
            "223.255.255.254",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "::ffff:1.1.1.1",
        ] {
            check(&rules, public, true);
        }
        for special in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.1.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.251",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "64:ff9b::808:808",
            "100::1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::fb",
            "2001::1",
            "2001:db8::1",
            "2002:808:808::1",
            "3fff::1",
            "4000::1",
        ] {
            check(&rules, special, false);
        }
    }

    #[test]
    fn an_operator_opens_and_closes() {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let rules = Rules { never: nets(&["9.9.9.0/24", "198.18.7.0/24"]), also: nets(&["198.18.0.0/15"]) };
        check(&rules, "9.9.9.9", false);
        check(&rules, "::ffff:9.9.9.9", false);
        check(&rules, "9.9.8.9", true);
        check(&rules, "198.18.6.1", true);
        check(&rules, "198.18.7.1", false);
        check(&rules, "10.0.0.1", false);
    }

    #[test]
    fn a_prefix_is_a_clients() {
        let prefix = |text: &str| prefix_of(text.parse().unwrap()).to_string();
        assert_eq!(prefix("::ffff:9.9.9.9"), "9.9.9.0/24");
        assert_eq!(prefix("2606:4700:1:2::1"), "2606:4700:1::/48");
    }
}
