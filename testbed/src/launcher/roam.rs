//! A host moves to another region: another address, other paths, the same processes.

use super::supervisor::Supervisor;
use crate::address;
use crate::fabric::Move;
use crate::options::HOSTS_PER_REGION_MAX;
use anyhow::{Context, bail};
use godwit_net::port;
use std::net::IpAddr;

impl Supervisor {
    /// Re-homes a host. Its processes run on; what they make of it is theirs to find out.
    pub(super) fn roam(&mut self, name: &str, to: &str) -> anyhow::Result<String> {
        let fabric = self.fabric()?;
        let Some(host) = self.topology.hosts.iter().position(|host| host.name == name) else {
            bail!("there is no host {name}; `godwit testbed status` lists them");
        };
        let Some(region) = self.topology.regions.iter().position(|region| region.name == to) else {
            bail!("there is no region {to}; `godwit testbed status` lists them");
        };
        let old = self.topology.hosts[host].clone();
        if old.region == region {
            bail!("{name} is in {to} already");
        }
        let number = self.free_number(host, region).with_context(|| format!("{to} is full"))?;
        let (addr4, addr6) = address::of_host(old.role.side(), region as u8, number);
        let had_v6 = self.members.layout(host).v6.is_some();
        let both = |v4: std::net::Ipv4Addr, v6: std::net::Ipv6Addr| -> Vec<IpAddr> {
            let v6 = had_v6.then_some(IpAddr::V6(v6));
            std::iter::once(IpAddr::V4(v4)).chain(v6).collect()
        };
        let (before, after) = (both(old.addr4, old.addr6), both(addr4, addr6));
        let namespaces = self.hosts.as_ref().context("there is no fabric")?.namespaces.as_slice();
        namespaces[host]
            .run(|| port::readdress(&before, &after))
            .with_context(|| format!("cannot give {name} another address"))?;
        let change = Move {
            host: host as u16,
            side: old.role.side(),
            from: (old.region as u8, old.number),
            to: (region as u8, number),
        };
        let moved = &mut self.topology.hosts[host];
        (moved.region, moved.number, moved.addr4, moved.addr6) = (region, number, addr4, addr6);
        self.members.readdress(host, addr4, addr6);
        fabric.rehome(change);
        fabric.change(self.paths_of(host));
        let layout = self.members.layout(host).clone();
        self.update(|state| {
            let told = &mut state.hosts[host];
            told.region = to.to_owned();
            told.addr4 = addr4.to_string();
            told.addr6 = told.addr6.is_some().then(|| addr6.to_string());
            told.http = told.http.is_some().then(|| layout.http().to_string());
            told.dns = told.dns.is_some().then(|| layout.dns().to_string());
            told.peer = told.peer.is_some().then(|| layout.peer().to_string());
        })?;
        Ok(format!("{name} is in {to} now, at {addr4}; {} is nobody's", old.addr4))
    }

    /// A number that no host of its kind has there: its own if that is free, or one above those that a
    /// region starts with.
    fn free_number(&self, host: usize, region: usize) -> Option<u8> {
        let side = self.topology.hosts[host].role.side();
        let taken = |number: u8| {
            let hosts = self.topology.hosts.iter();
            hosts.filter(|host| host.role.side() == side && host.region == region).any(|h| h.number == number)
        };
        let own = self.topology.hosts[host].number;
        let spare = (HOSTS_PER_REGION_MAX as u8 + 50)..=254;
        std::iter::once(own).chain(spare).find(|number| !taken(*number))
    }
}
