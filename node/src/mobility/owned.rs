//! The home addresses on this host: on the tunnel's interface, and which way their replies leave.
//!
//! ```text
//!   rule 5200  from HOME, marked as a probe  ─▶ table 26479: the main table's routes
//!   rule 5201  from HOME                     ─▶ table 26479 (direct) or 26480 (through the tunnel)
//!                                               both announce segments that fit into the tunnel
//! ```
//!
//! The main table itself is never touched, and packets of the host's own addresses are looked up as ever.
//! Table 26479 copies the main one, because the bound on segments is a property of a route: what clients
//! send comes through the tunnel even where replies do not go through it.
//!
//! A process that is killed leaves its rules and the copy behind (addresses and the way into the tunnel go
//! with the interface). [`Owned::new`] removes what an earlier one left; the numbers are this program's own.

use godwit_core::binding::HomeAddress;
use godwit_net::netlink::{Netlink, Rule};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// "go" and what follows it: no program that is known uses these tables.
const TABLE_DIRECT: u32 = 0x676f;
const TABLE_TUNNEL: u32 = 0x6770;

/// Before the main table (32766), after the local one (0), and not where `ip rule add` puts rules.
const PRIORITY_PROBE: u32 = 5200;
const PRIORITY_REPLIES: u32 = 5201;

/// Sockets with this mark send from a home address without the tunnel, whatever its replies do.
pub(super) const PROBE_MARK: u32 = 0x676f;

/// Which way replies leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Way {
    /// As everything else does.
    Direct,
    /// Through the tunnel.
    Reverse,
}

/// The home addresses on this host.
pub(super) struct Owned {
    netlink: Netlink,
    interface: u32,
    /// The largest inner packet that is configured, and the largest that fits.
    mtu: u16,
    fits: u16,
    /// What the way into the tunnel says of segments, for IPv4 (`true`) and IPv6.
    way_out: BTreeMap<bool, u32>,
    homes: BTreeMap<HomeAddress, Way>,
    /// Another process has them.
    left: bool,
}

impl Owned {
    /// None, on the interface with this number. What an earlier process left is removed.
    pub(super) fn new(interface: u32, mtu: u16) -> io::Result<Owned> {
        let mut owned = Owned::adopt(interface, mtu, BTreeMap::new())?;
        owned.clear()?;
        Ok(owned)
    }

    /// Those that another process left here, with its rules and routes.
    pub(super) fn adopt(interface: u32, mtu: u16, homes: BTreeMap<HomeAddress, Way>) -> io::Result<Owned> {
        let netlink = Netlink::open()?;
        Ok(Owned { netlink, interface, mtu, fits: mtu, way_out: BTreeMap::new(), homes, left: false })
    }

    /// Leaves them on the host, for a process that [adopts](Owned::adopt) them.
    pub(super) fn leave(mut self) -> BTreeMap<HomeAddress, Way> {
        self.left = true;
        std::mem::take(&mut self.homes)
    }

    /// Removes all rules and routes of this program.
    fn clear(&mut self) -> io::Result<()> {
        for table in [TABLE_DIRECT, TABLE_TUNNEL] {
            for rule in self.netlink.rules(table)? {
                self.netlink.remove_rule(&rule)?;
            }
            self.netlink.clear_table(table)?;
        }
        Ok(())
    }

    /// Owns a home address from now on; replies go through the tunnel at first.
    pub(super) fn add(&mut self, home: HomeAddress) -> io::Result<()> {
        if self.homes.contains_key(&home) {
            return Ok(());
        }
        self.follow_family(home.0)?;
        // Rules before the address: no reply leaves by the main table's routes.
        self.netlink.add_rule(&probe_rule(home))?;
        self.netlink.add_rule(&reply_rule(home, Way::Reverse))?;
        self.netlink.add_address(self.interface, home.0)?;
        self.homes.insert(home, Way::Reverse);
        Ok(())
    }

    /// Owns it no longer.
    pub(super) fn remove(&mut self, home: HomeAddress) -> io::Result<()> {
        let Some(way) = self.homes.remove(&home) else { return Ok(()) };
        let done = [
            self.netlink.remove_address(self.interface, home.0),
            self.netlink.remove_rule(&reply_rule(home, way)),
            self.netlink.remove_rule(&probe_rule(home)),
        ];
        done.into_iter().collect()
    }

    /// Sends its replies this way from now on.
    pub(super) fn turn(&mut self, home: HomeAddress, way: Way) -> io::Result<()> {
        let Some(before) = self.homes.get_mut(&home).filter(|before| **before != way) else { return Ok(()) };
        // The new rule first: in between both are there, and the first of them counts.
        self.netlink.add_rule(&reply_rule(home, way))?;
        let old = std::mem::replace(before, way);
        self.netlink.remove_rule(&reply_rule(home, old))
    }

    /// Only this fits into the tunnel, as [`Owned::follow`] makes it known to connections to come.
    pub(super) fn fits(&mut self, octets: u16) {
        self.fits = octets.min(self.mtu);
    }

    /// The host's routes may have changed, or what fits into the tunnel.
    pub(super) fn follow(&mut self) -> io::Result<()> {
        let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        for family in any {
            if self.homes.keys().any(|home| home.0.is_ipv4() == family.is_ipv4()) {
                self.follow_family(family)?;
            }
        }
        Ok(())
    }

    fn follow_family(&mut self, family: IpAddr) -> io::Result<()> {
        let mss = self.mss(family);
        // Not without need: who follows changes would follow its own.
        if self.way_out.insert(family.is_ipv4(), mss) != Some(mss) {
            self.netlink.set_way_out(TABLE_TUNNEL, family, self.interface, mss)?;
        }
        self.netlink.copy_main(TABLE_DIRECT, family, self.interface, mss)
    }

    /// The largest segment that fits into the tunnel (RFC 9293, 3.7.1; RFC 8200, 8.3).
    fn mss(&self, family: IpAddr) -> u32 {
        let headers = if family.is_ipv4() { 40 } else { 60 };
        u32::from(self.fits.saturating_sub(headers))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        let homes: Vec<HomeAddress> = self.homes.keys().copied().collect();
        for home in homes {
            if let Err(error) = self.remove(home) {
                tracing::warn!(%home, %error, "a home address could not be removed");
            }
        }
        if let Err(error) = self.clear() {
            tracing::warn!(%error, "rules of home addresses could not be removed");
        }
    }
}

fn probe_rule(home: HomeAddress) -> Rule {
    Rule { priority: PRIORITY_PROBE, from: home.0, mark: PROBE_MARK, table: TABLE_DIRECT }
}

fn reply_rule(home: HomeAddress, way: Way) -> Rule {
    let table = if way == Way::Direct { TABLE_DIRECT } else { TABLE_TUNNEL };
    Rule { priority: PRIORITY_REPLIES, from: home.0, mark: 0, table }
}
