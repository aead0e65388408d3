//! Where this host can be reached: its care-of addresses, as configured or as the kernel knows them.
//!
//! Of each family, the address from which this host reaches the world; and beside these, less preferred,
//! wherever its packets seem to come from at a home agent ([`CareOf::Observed`]): behind a translator no
//! other works, and when the host's address changes, the home agent follows the tunnel's own packets there,
//! while the stream that would tell the new address still hangs at the old one. A home agent uses what
//! proves itself.

use crate::addresses::source;
use godwit_core::binding::{BindingId, CareOf};
use godwit_net::netlink::Netlink;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// So many care-of addresses of one kind of binding: bindings that drain have as many again.
pub(super) const CARE_OFS: u8 = 4;

/// A care-of address, and how much it is preferred: the lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) care_of: CareOf,
    pub(super) priority: u8,
    /// Which family of home agents' addresses it can be reached from.
    pub(super) v4: bool,
}

/// The care-of addresses now. `configured` ones count alone; `homes` never do.
pub(super) fn places(
    configured: &[SocketAddr],
    port: u16,
    is_home: impl Fn(IpAddr) -> bool,
) -> io::Result<BTreeMap<BindingId, Place>> {
    if !configured.is_empty() {
        let at = |(n, address): (usize, &SocketAddr)| {
            let place = Place { care_of: CareOf::At(*address), priority: n as u8, v4: address.is_ipv4() };
            (BindingId(n as u8), place)
        };
        return Ok(configured.iter().take(CARE_OFS.into()).enumerate().map(at).collect());
    }
    let known = Netlink::open()?.addresses()?;
    let usable: Vec<IpAddr> =
        known.iter().filter(|one| one.preferred).map(|one| one.address).filter(|ip| !is_home(*ip)).collect();
    Ok(choose(&usable, port, source))
}

/// Which of the host's addresses are offered, given the one from which it reaches the world.
fn choose(
    usable: &[IpAddr],
    port: u16,
    source: impl Fn(bool) -> Option<IpAddr>,
) -> BTreeMap<BindingId, Place> {
    let mut places = BTreeMap::new();
    for (number, v4) in [(0, true), (1, false)] {
        let of_family = |ip: &&IpAddr| ip.is_ipv4() == v4;
        let reaches = source(v4).filter(|ip| usable.contains(ip));
        let Some(ip) = reaches.or_else(|| usable.iter().find(of_family).copied()) else { continue };
        let care_of = CareOf::At(SocketAddr::new(ip, port));
        // IPv4 headers are shorter; a path that IPv6 alone has is used all the same.
        places.insert(BindingId(number), Place { care_of, priority: number, v4 });
        places.entry(BindingId(2)).or_insert(Place { care_of: CareOf::Observed, priority: 2, v4 });
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(usable: &[&str], source: Option<&str>) -> Vec<(u8, String)> {
        let usable: Vec<IpAddr> = usable.iter().map(|ip| ip.parse().unwrap()).collect();
        let source: Option<IpAddr> = source.map(|ip| ip.parse().unwrap());
        let told = |place: &Place| match place.care_of {
            CareOf::At(address) => address.to_string(),
            CareOf::Observed => "observed".to_owned(),
        };
        let places = choose(&usable, 4191, |v4| source.filter(|ip| ip.is_ipv4() == v4));
        places.iter().map(|(id, place)| (id.0, told(place))).collect()
    }

    #[test]
    fn each_family_has_the_address_that_reaches_the_world() {
        let both = ["203.0.113.1", "203.0.113.9", "2001:db8::9"];
        let told = ["203.0.113.9:4191", "[2001:db8::9]:4191", "observed"];
        let expected: Vec<(u8, String)> = (0..).zip(told.map(str::to_owned)).collect();
        assert_eq!(chosen(&both, Some("203.0.113.9")), expected);
        // What reaches the world is no address of its own (a home address, for example).
        assert_eq!(chosen(&both, Some("192.0.2.77"))[0].1, "203.0.113.1:4191");
        assert_eq!(chosen(&[], Some("203.0.113.9")), []);
    }

    #[test]
    fn an_address_is_offered_and_what_is_observed_too() {
        for (address, id, told) in
            [("10.0.0.5", 0, "10.0.0.5:4191"), ("2001:db8::9", 1, "[2001:db8::9]:4191")]
        {
            let expected = [(id, told.to_owned()), (2, "observed".to_owned())];
            assert_eq!(chosen(&[address], Some(address)), expected);
        }
    }

    #[test]
    fn configured_ones_count_alone() {
        let configured = ["198.51.100.1:5000".parse().unwrap(), "[2001:db8::1]:5000".parse().unwrap()];
        let places = places(&configured, 4191, |_| false).unwrap();
        assert_eq!(places.len(), 2);
        assert!(places[&BindingId(0)].v4 && !places[&BindingId(1)].v4);
    }
}
