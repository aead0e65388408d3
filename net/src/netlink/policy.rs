//! Routes by where a packet comes from: rules, and tables of their own.

use super::dump::{Listed, address_of};
use super::{HEADER_LEN, Message, Netlink, RTPROT_STATIC, family_and_octets, gone_is_fine};
use std::io;
use std::net::IpAddr;

/// A table with more routes is not copied: its owner routes for others, and would not want that.
pub const ROUTES_MAX: usize = 512;

/// Which packets are looked up in which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Rules are asked in this order, the lowest first.
    pub priority: u32,
    /// Those from this address.
    pub from: IpAddr,
    /// Those of sockets with this mark; 0: all.
    pub mark: u32,
    /// The table.
    pub table: u32,
}

const RTMSG_LEN: usize = 12;
/// `linux/fib_rules.h`.
const FR_ACT_TO_TBL: u8 = 1;
const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
/// `linux/rtnetlink.h`.
const RTAX_ADVMSS: u16 = 8;
const RTNH_F_ONLINK: u32 = 4;

impl Netlink {
    /// Adds a rule; one that is there already is fine.
    pub fn add_rule(&mut self, rule: &Rule) -> io::Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        match self.request(rule_message(libc::RTM_NEWRULE, flags, rule)) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            done => done,
        }
    }

    /// Removes a rule; one that is not there is fine.
    pub fn remove_rule(&mut self, rule: &Rule) -> io::Result<()> {
        gone_is_fine(self.request(rule_message(libc::RTM_DELRULE, 0, rule)))
    }

    /// The rules from single addresses that lead to this table.
    pub fn rules(&mut self, table: u32) -> io::Result<Vec<Rule>> {
        let mut message = Message::new(libc::RTM_GETRULE, 0);
        message.bytes.extend([0; RTMSG_LEN]);
        let listed = self.list(message)?;
        let read = |one: &Listed| {
            let number = |kind| Some(u32::from_ne_bytes(one.attribute(RTMSG_LEN, kind)?.try_into().ok()?));
            let rule = Rule {
                priority: number(FRA_PRIORITY).unwrap_or(0),
                from: address_of(one.attribute(RTMSG_LEN, FRA_SRC)?)?,
                mark: number(FRA_FWMARK).unwrap_or(0),
                table: number(FRA_TABLE).unwrap_or_else(|| u32::from(one.octet(4))),
            };
            (rule.table == table).then_some(rule)
        };
        Ok(listed.iter().filter_map(read).collect())
    }

    /// Sends everything of a family that is looked up in `table` through the interface. Connections that
    /// are made over it announce segments of `mss` octets at the most.
    pub fn set_way_out(&mut self, table: u32, family_of: IpAddr, index: u32, mss: u32) -> io::Result<()> {
        let (family, _) = family_and_octets(family_of);
        let mut message = route_message(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, family);
        message.attribute(libc::RTA_TABLE, &table.to_ne_bytes());
        message.attribute(libc::RTA_OIF, &index.to_ne_bytes());
        metrics(&mut message, None, mss);
        self.request(message)
    }

    /// Makes `table` a copy of the main table for one family, but for routes through the interface
    /// `without`. Connections that are made over it announce segments of `mss` octets at the most.
    pub fn copy_main(&mut self, table: u32, family_of: IpAddr, without: u32, mss: u32) -> io::Result<()> {
        let (family, _) = family_and_octets(family_of);
        let wanted = self.routes(family, u32::from(libc::RT_TABLE_MAIN))?;
        if wanted.len() > ROUTES_MAX {
            return Err(io::Error::other(format!("the host has more than {ROUTES_MAX} routes")));
        }
        let through =
            |one: &Listed| one.attribute(RTMSG_LEN, libc::RTA_OIF).and_then(|oif| oif.try_into().ok());
        let usable = |one: &&Listed| {
            one.octet(7) == libc::RTN_UNICAST && through(one).map(u32::from_ne_bytes) != Some(without)
        };
        let there = self.routes(family, table)?;
        let mut copies: Vec<Vec<u8>> = Vec::new();
        let (mut on_link, mut beyond): (Vec<&Listed>, Vec<&Listed>) = (Vec::new(), Vec::new());
        for one in wanted.iter().filter(usable) {
            let gateway = one.attribute(RTMSG_LEN, libc::RTA_GATEWAY).is_some();
            if gateway { &mut beyond } else { &mut on_link }.push(one);
        }
        // What routers are reached by comes before the routes that name them.
        for one in on_link.into_iter().chain(beyond) {
            let mut message = copy_of(one, table, mss);
            copies.push(message.bytes[HEADER_LEN..].to_vec());
            // Nothing is changed without need: who follows changes would follow its own.
            let same = |old: &&Listed| same_route(&message.bytes[HEADER_LEN..], old);
            let old = there.iter().find(same);
            if old.is_some_and(|old| mss_of(old) == Some(mss)) {
                continue;
            }
            if let Some(old) = old {
                self.remove_listed(old)?;
            }
            // Appended: another to the same destination may be another interface's.
            message.bytes[6..8].copy_from_slice(&request_flags(libc::NLM_F_CREATE | libc::NLM_F_APPEND));
            self.request(message)?;
        }
        // What was there before and is not in the main table any more.
        for old in there {
            if !copies.iter().any(|copy| same_route(copy, &old)) {
                self.remove_listed(&old)?;
            }
        }
        Ok(())
    }

    /// Removes all routes of a table, of both families.
    pub fn clear_table(&mut self, table: u32) -> io::Result<()> {
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            for route in self.routes(family, table)? {
                self.remove_listed(&route)?;
            }
        }
        Ok(())
    }

    fn routes(&mut self, family: u8, table: u32) -> io::Result<Vec<Listed>> {
        let mut message = Message::new(libc::RTM_GETROUTE, 0);
        message.bytes.extend([family]);
        message.bytes.extend([0; RTMSG_LEN - 1]);
        let mut listed = self.list(message)?;
        listed.retain(|one| table_of(one) == table && one.octet(0) == family);
        // Routes that the kernel made for one destination are no entries of the table.
        listed.retain(|one| one.number(8) & libc::RTM_F_CLONED == 0);
        Ok(listed)
    }

    fn remove_listed(&mut self, route: &Listed) -> io::Result<()> {
        let mut message = Message::new(libc::RTM_DELROUTE, 0);
        message.bytes.extend(&route.body);
        gone_is_fine(self.request(message))
    }
}

fn table_of(one: &Listed) -> u32 {
    let wide = one.attribute(RTMSG_LEN, libc::RTA_TABLE).and_then(|value| value.try_into().ok());
    wide.map_or_else(|| u32::from(one.octet(4)), u32::from_ne_bytes)
}

fn request_flags(flags: libc::c_int) -> [u8; 2] {
    ((libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16).to_ne_bytes()
}

fn rule_message(kind: u16, flags: libc::c_int, rule: &Rule) -> Message {
    let (family, octets) = family_and_octets(rule.from);
    let mut message = Message::new(kind, flags);
    message.bytes.extend([family, 0, (octets.len() * 8) as u8, 0, 0, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0]);
    message.attribute(FRA_SRC, &octets);
    message.attribute(FRA_PRIORITY, &rule.priority.to_ne_bytes());
    message.attribute(FRA_TABLE, &rule.table.to_ne_bytes());
    if rule.mark != 0 {
        message.attribute(FRA_FWMARK, &rule.mark.to_ne_bytes());
    }
    message
}

fn route_message(kind: u16, flags: libc::c_int, family: u8) -> Message {
    let mut message = Message::new(kind, flags);
    let header = [family, 0, 0, 0, 0, RTPROT_STATIC, libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST];
    message.bytes.extend(header);
    message.bytes.extend(0u32.to_ne_bytes());
    message
}

/// The same route in another table, with a bound on segments.
fn copy_of(one: &Listed, table: u32, mss: u32) -> Message {
    let mut message = Message::new(libc::RTM_NEWROUTE, 0);
    message.bytes.extend(&one.body[..RTMSG_LEN]);
    let header = HEADER_LEN;
    message.bytes[header + 4] = 0;
    // Flags say how the kernel found it, not what it is.
    let onlink = one.number(8) & RTNH_F_ONLINK;
    message.bytes[header + 8..header + 12].copy_from_slice(&onlink.to_ne_bytes());
    let mut before = None;
    for (kind, value) in one.attributes(RTMSG_LEN) {
        match kind {
            libc::RTA_METRICS => before = Some(value),
            libc::RTA_DST
            | libc::RTA_OIF
            | libc::RTA_GATEWAY
            | libc::RTA_PRIORITY
            | libc::RTA_MULTIPATH
            | RTA_VIA => {
                message.attribute(kind, value);
            }
            _ => {}
        }
    }
    message.attribute(libc::RTA_TABLE, &table.to_ne_bytes());
    metrics(&mut message, before, mss);
    message
}

/// `linux/rtnetlink.h`: a gateway of the other family.
const RTA_VIA: u16 = 18;

fn metrics(message: &mut Message, before: Option<&[u8]>, mss: u32) {
    let nest = message.nest(libc::RTA_METRICS);
    let kept = super::dump::attributes(before.unwrap_or_default()).filter(|(kind, _)| *kind != RTAX_ADVMSS);
    for (kind, value) in kept {
        message.attribute(kind, value);
    }
    message.attribute(RTAX_ADVMSS, &mss.to_ne_bytes());
    message.end_nest(nest);
}

/// The bound on segments of a route.
fn mss_of(route: &Listed) -> Option<u32> {
    let metrics = route.attribute(RTMSG_LEN, libc::RTA_METRICS)?;
    let (_, mss) = super::dump::attributes(metrics).find(|(kind, _)| *kind == RTAX_ADVMSS)?;
    Some(u32::from_ne_bytes(mss.try_into().ok()?))
}

/// Whether a route that was asked for and one that is there have the same destination, priority and way.
fn same_route(asked: &[u8], there: &Listed) -> bool {
    let asked = Listed { body: asked.to_vec() };
    let alike = |kind| asked.attribute(RTMSG_LEN, kind) == there.attribute(RTMSG_LEN, kind);
    let priority = |one: &Listed| one.attribute(RTMSG_LEN, libc::RTA_PRIORITY).map(<[u8]>::to_vec);
    // IPv6 fills in a priority where none was given.
    let priorities = priority(&asked).is_none() || alike(libc::RTA_PRIORITY);
    asked.octet(1) == there.octet(1)
        && priorities
        && [libc::RTA_DST, libc::RTA_OIF, libc::RTA_GATEWAY].into_iter().all(alike)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::NetworkNamespace;
    use crate::netlink::{LinkSettings, interface_index};

    const TABLE: u32 = 0x6770;

    fn check(netlink: &mut Netlink, address: IpAddr, home: IpAddr) -> io::Result<()> {
        let index = interface_index("one")?;
        netlink.add_address(index, address)?;
        netlink.add_default_route(index, address)?;
        let (family, _) = family_and_octets(address);
        for mss in [1360, 1220, 1220] {
            netlink.copy_main(TABLE, address, 0, mss)?;
            let copies = netlink.routes(family, TABLE)?;
            assert!(copies.iter().any(|route| route.octet(1) == 0), "the default route is there");
            assert!(copies.iter().all(|route| mss_of(route) == Some(mss)), "{mss}");
            assert!(copies.iter().all(|route| route.attribute(RTMSG_LEN, libc::RTA_PREFSRC).is_none()));
        }
        let before = netlink.sequence;
        netlink.copy_main(TABLE, address, 0, 1220)?;
        assert_eq!(netlink.sequence - before, 2, "looked at both tables, and made nothing again");
        // Routes through the tunnel itself are none of the host's.
        netlink.copy_main(TABLE, address, index, 1360)?;
        let through = |one: &Listed| one.attribute(RTMSG_LEN, libc::RTA_OIF) == Some(&index.to_ne_bytes());
        assert!(!netlink.routes(family, TABLE)?.iter().any(through));
        netlink.set_way_out(TABLE, home, index, 1360)?;
        assert!(netlink.routes(family, TABLE)?.iter().any(through));
        let rule = Rule { priority: 5200, from: home, mark: 7, table: TABLE };
        let other = Rule { priority: 5201, mark: 0, ..rule };
        for rule in [rule, other, rule] {
            netlink.add_rule(&rule)?;
        }
        assert_eq!(netlink.rules(TABLE)?, [rule, other]);
        for rule in [rule, rule, other] {
            netlink.remove_rule(&rule)?;
        }
        netlink.clear_table(TABLE)?;
        assert!(netlink.rules(TABLE)?.is_empty() && netlink.routes(family, TABLE)?.is_empty());
        assert!(netlink.addresses()?.iter().any(|known| known.address == address && known.preferred));
        netlink.remove_address(index, address)?;
        netlink.remove_address(index, address)
    }

    #[test]
    fn packets_of_an_address_have_routes_of_their_own() {
        let made = NetworkNamespace::create(|here| {
            use std::os::fd::AsFd;
            // Addresses and routes that the kernel makes by itself come at a time of its own.
            let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1");
            let mut netlink = Netlink::open()?;
            netlink.add_veth("one", "two", here.as_fd())?;
            for name in ["lo", "one", "two"] {
                netlink.set_up(interface_index(name)?, LinkSettings::default())?;
            }
            let changes = crate::netlink::Changes::listen()?;
            // That the cable is in may be told late.
            changes.drain()?;
            check(&mut netlink, "10.9.0.1".parse().unwrap(), "192.0.2.1".parse().unwrap())?;
            assert!(changes.drain()?, "addresses and routes have changed");
            if std::path::Path::new("/proc/net/if_inet6").exists() {
                check(&mut netlink, "fd09::1".parse().unwrap(), "2001:db8::1".parse().unwrap())?;
            }
            Ok(())
        });
        match made {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                println!("SKIPPED: this user may make no network namespace: {error}");
            }
            made => drop(made.unwrap()),
        }
    }
}
