//! Which host has which address.
//!
//! ```text
//!  members   198.18.R.N    fd67:7764:1000+R::N     R: number of the region, from 0
//!  clients   198.19.R.N    fd67:7764:2000+R::N     N: number within the region, from 1
//!  homes     198.18.255.N  fd67:7764:3000::N       home addresses: of whoever announces them
//! ```
//!
//! 198.18.0.0/15 is set aside for testing networks (RFC 2544), fd67:7764::/32 is of the range for
//! private use. A region is one /24 and one /48, which are also the prefixes over which a
//! redirector groups clients: so a region's clients get one answer.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Nodes and redirectors.
    Member,
    /// Clients.
    Client,
}

/// The IPv4 and IPv6 address of host `number` in region `region`.
pub fn of_host(side: Side, region: u8, number: u8) -> (Ipv4Addr, Ipv6Addr) {
    let (v4, v6) = match side {
        Side::Member => (18, 0x1000),
        Side::Client => (19, 0x2000),
    };
    let v4 = Ipv4Addr::new(198, v4, region, number);
    (v4, Ipv6Addr::new(0xfd67, 0x7764, v6 + u16::from(region), 0, 0, 0, 0, u16::from(number)))
}

/// The address of the same host when there are no namespaces: all on the loopback interface.
pub fn of_host_on_loopback(side: Side, region: u8, number: u8) -> Ipv4Addr {
    // 127.0.x.y is left alone: 127.0.0.1 and 127.0.0.53 are in use on many machines.
    let side = match side {
        Side::Member => 18,
        Side::Client => 19,
    };
    Ipv4Addr::new(127, side, region, number)
}

/// The prefixes of one side of one region, in the form that `loopback` says.
pub fn prefixes(side: Side, region: u8, loopback: bool) -> Vec<IpNet> {
    let (v4, v6) = of_host(side, region, 0);
    if loopback {
        let v4 = of_host_on_loopback(side, region, 0);
        return vec![Ipv4Net::new(v4, 24).expect("24 is a prefix length").into()];
    }
    let v4 = Ipv4Net::new(v4, 24).expect("24 is a prefix length");
    let v6 = Ipv6Net::new(v6, 48).expect("48 is a prefix length");
    vec![v4.into(), v6.into()]
}

/// Home address number `number`, 1 to 254: no host's, but of whoever announces it.
pub fn of_home(number: u8) -> (Ipv4Addr, Ipv6Addr) {
    let v6 = Ipv6Addr::new(0xfd67, 0x7764, 0x3000, 0, 0, 0, 0, u16::from(number));
    (Ipv4Addr::new(198, 18, 255, number), v6)
}

/// Whether the plan has the address for a home address.
pub fn is_home(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [198, 18, 255],
        IpAddr::V6(v6) => v6.segments()[..7] == [0xfd67, 0x7764, 0x3000, 0, 0, 0, 0],
    }
}

/// Where a packet says that it comes from.
pub fn source(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => packet.get(12..16)?.try_into().ok().map(|octets: [u8; 4]| octets.into()),
        6 => packet.get(8..24)?.try_into().ok().map(|octets: [u8; 16]| octets.into()),
        _ => None,
    }
}

/// Where a packet wants to go: its destination, when the plan has it.
pub fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => packet.get(16..20)?.try_into().ok().map(|octets: [u8; 4]| octets.into()),
        6 => packet.get(24..40)?.try_into().ok().map(|octets: [u8; 16]| octets.into()),
        _ => None,
    }
}

/// A table from addresses of the plan to numbers of hosts: one array access for a packet.
#[derive(Clone, Debug)]
pub struct HostTable {
    slots: Vec<u16>,
}

const NOBODY: u16 = u16::MAX;

impl HostTable {
    /// A table without hosts.
    pub fn new() -> HostTable {
        // 17 bits vary in 198.18.0.0/15: side, region and number.
        HostTable { slots: vec![NOBODY; 1 << 17] }
    }

    /// Says that the host with this address has this number.
    pub fn insert(&mut self, side: Side, region: u8, number: u8, host: u16) {
        self.slots[slot(side, region, number)] = host;
    }

    /// Says that no host has this address any more.
    pub fn remove(&mut self, side: Side, region: u8, number: u8) {
        self.slots[slot(side, region, number)] = NOBODY;
    }

    /// The host that has the address.
    pub fn find(&self, address: IpAddr) -> Option<u16> {
        let slot = match address {
            IpAddr::V4(v4) => {
                let [net, side, region, number] = v4.octets();
                let side = match (net, side) {
                    (198, 18) => Side::Member,
                    (198, 19) => Side::Client,
                    _ => return None,
                };
                slot(side, region, number)
            }
            IpAddr::V6(v6) => {
                let [0xfd67, 0x7764, prefix, 0, 0, 0, 0, number] = v6.segments() else { return None };
                let number = u8::try_from(number).ok()?;
                let side = match prefix >> 8 {
                    0x10 => Side::Member,
                    0x20 => Side::Client,
                    _ => return None,
                };
                slot(side, prefix as u8, number)
            }
        };
        Some(self.slots[slot]).filter(|host| *host != NOBODY)
    }
}

impl Default for HostTable {
    fn default() -> HostTable {
        HostTable::new()
    }
}

fn slot(side: Side, region: u8, number: u8) -> usize {
    (side as usize) << 16 | usize::from(region) << 8 | usize::from(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_of_the_plan_is_found_and_no_other() {
        let mut table = HostTable::new();
        table.insert(Side::Member, 0, 1, 7);
        table.insert(Side::Client, 249, 50, 8);
        let (v4, v6) = of_host(Side::Member, 0, 1);
        assert_eq!((v4.to_string().as_str(), v6.to_string().as_str()), ("198.18.0.1", "fd67:7764:1000::1"));
        assert_eq!((table.find(v4.into()), table.find(v6.into())), (Some(7), Some(7)));
        let (v4, v6) = of_host(Side::Client, 249, 50);
        assert_eq!((table.find(v4.into()), table.find(v6.into())), (Some(8), Some(8)));
        for other in
            ["198.18.0.2", "198.17.0.1", "10.0.0.1", "fd67:7764:1000::2", "fd67:7764:1000:1::1", "::1"]
        {
            assert_eq!(table.find(other.parse().unwrap()), None, "{other}");
        }
    }

    #[test]
    fn home_addresses_are_no_hosts() {
        let (v4, v6) = of_home(7);
        assert_eq!((v4.to_string().as_str(), v6.to_string().as_str()), ("198.18.255.7", "fd67:7764:3000::7"));
        assert!(is_home(v4.into()) && is_home(v6.into()));
        let (v4, v6) = of_host(Side::Member, 249, 7);
        assert!(!is_home(v4.into()) && !is_home(v6.into()));
    }

    #[test]
    fn destination_is_read_from_both_versions_and_never_beyond_the_packet() {
        let mut v4 = [0u8; 20];
        v4[0] = 0x45;
        v4[16..].copy_from_slice(&[198, 18, 0, 1]);
        assert_eq!(destination(&v4), Some("198.18.0.1".parse().unwrap()));
        assert_eq!(source(&v4), Some("0.0.0.0".parse().unwrap()));
        let mut v6 = [0u8; 40];
        v6[0] = 0x60;
        v6[39] = 1;
        assert_eq!(destination(&v6), Some("::1".parse().unwrap()));
        for len in 0..20 {
            assert_eq!(destination(&v4[..len]), None);
            assert_eq!(source(&v4[..len.min(15)]), None);
        }
        assert_eq!(destination(&v6[..39]), None);
    }
}
