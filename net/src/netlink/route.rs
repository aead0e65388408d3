//! Routes to prefixes, in everybody's table.

use super::{Message, Netlink, RTPROT_STATIC, family_and_octets, gone_is_fine};
use ipnet::IpNet;
use std::io;
use std::net::IpAddr;

/// Where packets for some destinations go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Which destinations.
    pub destination: IpNet,
    /// Out of which interface.
    pub interface: u32,
    /// To which router there; `None` for whoever is at the other end.
    pub gateway: Option<IpAddr>,
}

impl Netlink {
    /// Adds a route, or turns the one to the same destination this way.
    pub fn add_route(&mut self, route: &Route) -> io::Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        // What needs no router is on the link: only there a router may be for other routes.
        let scope = if route.gateway.is_some() { libc::RT_SCOPE_UNIVERSE } else { libc::RT_SCOPE_LINK };
        self.request(message(libc::RTM_NEWROUTE, flags, scope, route))
    }

    /// Removes a route; one that is not there is fine.
    pub fn remove_route(&mut self, route: &Route) -> io::Result<()> {
        gone_is_fine(self.request(message(libc::RTM_DELROUTE, 0, libc::RT_SCOPE_NOWHERE, route)))
    }
}

fn message(kind: u16, flags: libc::c_int, scope: u8, route: &Route) -> Message {
    let (family, octets) = family_and_octets(route.destination.network());
    let mut message = Message::new(kind, flags);
    let (len, table) = (route.destination.prefix_len(), libc::RT_TABLE_MAIN);
    message.bytes.extend([family, len, 0, 0, table, RTPROT_STATIC, scope, libc::RTN_UNICAST]);
    message.bytes.extend(0u32.to_ne_bytes());
    message.attribute(libc::RTA_DST, &octets);
    message.attribute(libc::RTA_OIF, &route.interface.to_ne_bytes());
    if let Some(gateway) = route.gateway {
        message.attribute(libc::RTA_GATEWAY, &family_and_octets(gateway).1);
    }
    message
}
