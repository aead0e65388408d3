//! Which home addresses there are, and who may serve them.
//!
//! An address draws traffic, so nobody but the authority says whose it is: a grant names the
//! addresses, the ports that are open there and the members that may bind them. It is a head: of two
//! grants of a name the one with the higher sequence counts, and a name that is taken back leaves a
//! grant of nothing behind, so that an older one cannot come back.
//!
//! One address belongs to one name: fragments and errors of ICMP name no port, so two names could
//! not be told apart ([`standing`]).

use super::Invalid;
use crate::binding::HomeAddress;
use crate::key::{Domain, NetworkId, SecretKey, Signature};
use crate::name::{MemberName, SiteName};
use crate::packet::{TCP, UDP};
use crate::time::Time;
use crate::wire;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A grant names at most so many members: more are named by naming none, which means all.
pub const SERVERS_MAX: usize = 256;
/// A grant lists at most so many ports of a protocol: every packet is looked up among them.
pub const PORTS_MAX: usize = 256;

/// The authority's word about one name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AddressGrant {
    /// The network it is for.
    pub network: NetworkId,
    /// The name: in the zone it stands beside the sites.
    pub name: SiteName,
    /// Of two grants of a name the higher one counts. Taken from the authority's one count of serials.
    pub sequence: u64,
    /// When it was signed, by the authority's clock; for people.
    pub granted_at: Time,
    /// What is granted; `None` takes it back.
    pub home: Option<Home>,
    /// The authority's signature of all above.
    pub signature: Signature,
}

/// What is granted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Home {
    /// The IPv4 address, if there is one.
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 address, if there is one.
    pub v6: Option<Ipv6Addr>,
    /// What is open there.
    pub ports: Ports,
    /// The members that may serve it, ascending; none: every node.
    pub servers: Vec<MemberName>,
}

/// What is open at a home address. Errors of ICMP pass always, echo requests where a flow would.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Ports {
    /// Everything, whatever its protocol.
    All,
    /// These ports, each list ascending.
    Only {
        /// Of TCP.
        tcp: Vec<u16>,
        /// Of UDP.
        udp: Vec<u16>,
    },
}

#[derive(Serialize)]
struct AddressBody<'a> {
    network: NetworkId,
    name: &'a SiteName,
    sequence: u64,
    granted_at: Time,
    home: &'a Option<Home>,
}

impl AddressGrant {
    /// Grants `home` to `name`, or takes the name back; `authority` is the network authority's key.
    pub fn issue(
        now: Time,
        authority: &SecretKey,
        name: SiteName,
        sequence: u64,
        home: Option<Home>,
    ) -> AddressGrant {
        let network = authority.public();
        let body = AddressBody { network, name: &name, sequence, granted_at: now, home: &home };
        let signature = authority.sign(Domain::Address, &wire::encode(&body));
        AddressGrant { network, name, sequence, granted_at: now, home, signature }
    }

    /// Checks network, contents and signature.
    pub fn verify(&self, network: NetworkId) -> Result<(), Invalid> {
        if self.network != network {
            return Err(Invalid::Network(self.network));
        }
        if let Some(home) = &self.home {
            home.check()?;
        }
        let body = AddressBody {
            network: self.network,
            name: &self.name,
            sequence: self.sequence,
            granted_at: self.granted_at,
            home: &self.home,
        };
        Ok(network.verify(Domain::Address, &wire::encode(&body), &self.signature)?)
    }
}

impl Home {
    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = HomeAddress> + use<> {
        let (v4, v6) = (self.v4.map(IpAddr::V4), self.v6.map(IpAddr::V6));
        v4.into_iter().chain(v6).map(HomeAddress)
    }

    /// Whether a node of this name may serve it.
    pub fn is_served_by(&self, member: &MemberName) -> bool {
        self.servers.is_empty() || self.servers.binary_search(member).is_ok()
    }

    /// Whether its fields are possible, whoever says so.
    pub fn check(&self) -> Result<(), Invalid> {
        let wrong = |problem: String| Err(Invalid::Malformed(problem));
        if self.v4.is_none() && self.v6.is_none() {
            return wrong("a home address without an address".into());
        }
        if let Some(HomeAddress(ip)) = self.addresses().find(|home| !is_one_hosts(home.0)) {
            return wrong(format!("{ip} is no address that clients can reach one host at"));
        }
        if self.servers.len() > SERVERS_MAX || !self.servers.is_sorted_by(|a, b| a < b) {
            return wrong(format!("more than {SERVERS_MAX} members, or not in order"));
        }
        let Ports::Only { tcp, udp } = &self.ports else { return Ok(()) };
        let listed = |ports: &[u16]| {
            ports.len() <= PORTS_MAX && ports.is_sorted_by(|a, b| a < b) && !ports.contains(&0)
        };
        if !listed(tcp) || !listed(udp) {
            return wrong(format!("more than {PORTS_MAX} ports, port 0, or not in order"));
        }
        match tcp.is_empty() && udp.is_empty() {
            true => wrong("a home address at which nothing is open".into()),
            false => Ok(()),
        }
    }
}

impl Ports {
    /// Whether packets of this protocol to this port may pass; `port` is `None` where the packet has
    /// none: a later fragment, or another protocol.
    pub fn admit(&self, protocol: u8, port: Option<u16>) -> bool {
        let Ports::Only { tcp, udp } = self else { return true };
        let listed = match protocol {
            TCP => tcp,
            UDP => udp,
            // Echo requests: who may be talked to may be asked whether it is there.
            crate::packet::ICMP | crate::packet::ICMP6 => return true,
            _ => return false,
        };
        match port {
            Some(port) => listed.binary_search(&port).is_ok(),
            // What follows a first fragment is let pass where one may have passed.
            None => !listed.is_empty(),
        }
    }
}

/// The grants that count, by name: of two that have an address in common, the older one has it and
/// the other counts for nothing. Whoever asks has the same heads and so the same answer.
pub fn standing<'a>(grants: impl IntoIterator<Item = &'a AddressGrant>) -> Vec<(&'a SiteName, &'a Home)> {
    let mut homes: Vec<(u64, &SiteName, &Home)> = grants
        .into_iter()
        .filter_map(|grant| Some((grant.sequence, &grant.name, grant.home.as_ref()?)))
        .collect();
    homes.sort_unstable();
    let mut taken = BTreeSet::new();
    homes.retain(|(_, _, home)| {
        let free = home.addresses().all(|address| !taken.contains(&address));
        if free {
            taken.extend(home.addresses());
        }
        free
    });
    homes.sort_unstable_by_key(|(_, name, _)| *name);
    homes.into_iter().map(|(_, name, home)| (name, home)).collect()
}

/// Whether packets to `ip` go to one host, and to one that others can name.
fn is_one_hosts(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            !(ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_broadcast()
                || ip.is_loopback()
                || ip.is_link_local())
        }
        IpAddr::V6(ip) => {
            !(ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_loopback()
                || ip.is_unicast_link_local()
                || ip.to_ipv4_mapped().is_some())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> SecretKey {
        SecretKey::from_seed(&[1; 32])
    }

    fn home() -> Home {
        Home {
            v4: Some(Ipv4Addr::new(192, 0, 2, 1)),
            v6: Some("2001:db8::1".parse().unwrap()),
            ports: Ports::Only { tcp: vec![80, 443], udp: vec![27015] },
            servers: vec!["fra1".parse().unwrap(), "nyc1".parse().unwrap()],
        }
    }

    fn grant(name: &str, sequence: u64, home: Option<Home>) -> AddressGrant {
        AddressGrant::issue(Time::from_secs(5), &authority(), name.parse().unwrap(), sequence, home)
    }

    #[test]
    fn an_edited_or_foreign_grant_is_refused() {
        let network = authority().public();
        let good = grant("game", 7, Some(home()));
        assert_eq!(good.verify(network), Ok(()));
        assert_eq!(grant("game", 8, None).verify(network), Ok(()));
        let edits: [fn(&mut AddressGrant); 6] = [
            |g| g.name = "gone".parse().unwrap(),
            |g| g.sequence += 1,
            |g| g.granted_at = Time::from_secs(6),
            |g| g.home = None,
            |g| g.home.as_mut().unwrap().v4 = Some(Ipv4Addr::new(192, 0, 2, 2)),
            |g| g.home.as_mut().unwrap().servers.clear(),
        ];
        for edit in edits {
            let mut edited = good.clone();
            edit(&mut edited);
            assert_eq!(edited.verify(network), Err(Invalid::Signature));
        }
        let other = SecretKey::from_seed(&[2; 32]);
        assert_eq!(good.verify(other.public()), Err(Invalid::Network(network)));
        let forged =
            AddressGrant { network, ..AddressGrant::issue(Time::from_secs(5), &other, good.name, 9, None) };
        assert_eq!(forged.verify(network), Err(Invalid::Signature));
    }

    #[test]
    fn what_cannot_be_is_refused_though_it_is_signed() {
        let wrongs: [fn(&mut Home); 9] = [
            |h| (h.v4, h.v6) = (None, None),
            |h| h.v4 = Some(Ipv4Addr::LOCALHOST),
            |h| h.v4 = Some(Ipv4Addr::new(224, 0, 0, 1)),
            |h| h.v6 = Some("fe80::1".parse().unwrap()),
            |h| h.v6 = Some("::ffff:192.0.2.1".parse().unwrap()),
            |h| h.servers.reverse(),
            |h| h.ports = Ports::Only { tcp: vec![], udp: vec![] },
            |h| h.ports = Ports::Only { tcp: vec![0], udp: vec![] },
            |h| h.ports = Ports::Only { tcp: (1..=PORTS_MAX as u16 + 1).collect(), udp: vec![] },
        ];
        for wrong in wrongs {
            let mut home = home();
            wrong(&mut home);
            let grant = grant("game", 1, Some(home));
            assert!(matches!(grant.verify(authority().public()), Err(Invalid::Malformed(_))), "{grant:?}");
        }
    }

    #[test]
    fn only_what_is_listed_is_open() {
        let ports = home().ports;
        for (protocol, port, open) in [
            (TCP, Some(80), true),
            (TCP, Some(27015), false),
            (UDP, Some(27015), true),
            (UDP, Some(80), false),
            (TCP, None, true),
            (crate::packet::ICMP, None, true),
            (50, None, false),
        ] {
            assert_eq!(ports.admit(protocol, port), open, "{protocol} {port:?}");
        }
        assert!(!Ports::Only { tcp: vec![80], udp: vec![] }.admit(UDP, None));
        assert!(Ports::All.admit(50, None) && Ports::All.admit(TCP, Some(1)));
    }

    #[test]
    fn an_address_has_one_name_whatever_the_order() {
        let v4_only = Home { v6: None, ..home() };
        let other = Home { v4: Some(Ipv4Addr::new(192, 0, 2, 9)), v6: None, ..home() };
        let grants = [
            grant("b", 3, Some(home())),
            grant("a", 4, Some(v4_only.clone())),
            grant("c", 5, Some(other)),
            grant("d", 9, None),
        ];
        let names = |grants: &[AddressGrant]| -> Vec<String> {
            standing(grants).iter().map(|(name, _)| name.to_string()).collect()
        };
        assert_eq!(names(&grants), ["b", "c"]);
        let mut turned = grants.clone();
        turned.reverse();
        assert_eq!(names(&turned), ["b", "c"]);
        // Once it is taken back, the other has it.
        let mut later = grants;
        later[0] = grant("b", 10, None);
        assert_eq!(names(&later), ["a", "c"]);
    }

    #[test]
    fn the_largest_fits_into_a_record() {
        let name = |n: usize| format!("{n:03}{}", "x".repeat(60)).parse().unwrap();
        let ports: Vec<u16> = (65_000..65_000 + PORTS_MAX as u16).collect();
        let home = Home {
            ports: Ports::Only { tcp: ports.clone(), udp: ports },
            servers: (0..SERVERS_MAX).map(name).collect(),
            ..home()
        };
        let grant = AddressGrant::issue(
            Time::from_secs(5),
            &authority(),
            name(0).to_string().parse().unwrap(),
            1,
            Some(home),
        );
        assert_eq!(grant.verify(authority().public()), Ok(()));
        let record = crate::record::Record::Address(Box::new(grant));
        assert!(wire::encode(&record).len() <= wire::RECORD_LEN_MAX);
    }
}
