//! The map as files of other servers.
//!
//! Whoever runs gdnsd, Knot DNS or PowerDNS can go on doing so and take only the decision from here:
//! the choices for one site as disjoint prefixes that cover every address, written as a gdnsd `nets`
//! file, as a configuration for Knot's geoip module in subnet mode, or as a MaxMind database.
//!
//! | format | what it holds | what stays behind |
//! |---|---|---|
//! | [`gdnsd_nets`] | for each prefix the regions, best first, as data centres | addresses: they stand in gdnsd's `dcmap` |
//! | [`knot_subnets`] | for each prefix the addresses | failover: what is exported is what is told now |
//! | [`mmdb`] | for each prefix `region`, `regions` and `addresses` | |
//!
//! Prefixes are as wide as the answers allow, so a server that makes a scope of the prefix that
//! matched makes a sound one; and none is left out, because a client that no prefix matches would be
//! answered with a scope that holds for nobody.
//!
//! Where clients of a prefix are divided among several answers, the heaviest stands for all:
//! [`Exported::divided`] counts such prefixes, and the other servers cannot do it anyway.

use crate::generation::{Answer, Choice, ChoiceKey, Generation, SiteRef};
use crate::inputs::MemberInput;
use godwit_core::name::{RegionName, SiteName};
use ipnet::IpNet;
use mmdb_writer::{Value, Writer};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A file made of the map.
#[derive(Clone, Debug)]
pub struct Exported<T> {
    /// The file.
    pub content: T,
    /// How many prefixes are in it.
    pub prefixes: usize,
    /// How many of them stand for clients that are divided among several answers.
    pub divided: usize,
}

/// The choices for one site.
struct Walk<'a> {
    generation: &'a Generation,
    site: SiteRef,
    name: &'a SiteName,
    lists: BTreeMap<ChoiceKey, Vec<RegionName>>,
    divided: usize,
}

/// Prefixes that gdnsd takes to be about IPv4 addresses and refuses as networks of IPv6 clients.
const LIKE_V4: [(Ipv6Addr, u8); 6] = [
    (Ipv6Addr::UNSPECIFIED, 96),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    (Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0), 96),
    (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
];

/// A `nets` file for gdnsd's geoip plugin. Data centres are named as regions are. `None`, here and
/// below, when there is no such site.
pub fn gdnsd_nets(generation: &Generation, site: &SiteName) -> Option<Exported<String>> {
    let mut walk = Walk::new(generation, site)?;
    let mut content = String::new();
    let mut count = 0;
    for (prefix, key) in walk.prefixes() {
        let regions = walk.regions(key, prefix);
        for prefix in without_like_v4(prefix) {
            // Writing to a string does not fail.
            let _ = writeln!(content, "{prefix} => [ {} ]", regions.join(", "));
            count += 1;
        }
    }
    Some(Exported { content, prefixes: count, divided: walk.divided })
}

/// A `config-file` for Knot's geoip module in subnet mode, with the records of `name`.
pub fn knot_subnets(generation: &Generation, site: &SiteName, name: &str) -> Option<Exported<String>> {
    let mut walk = Walk::new(generation, site)?;
    let mut content = format!("{name}:\n");
    let prefixes = walk.prefixes();
    for (prefix, key) in &prefixes {
        let answer = walk.told(*key);
        let v4: Vec<String> = answer.v4().map(|(_, address)| address.to_string()).collect();
        let v6: Vec<String> = answer.v6().map(|(_, address)| address.to_string()).collect();
        let _ = writeln!(content, "  - net: {prefix}");
        for (kind, addresses) in [("A", v4), ("AAAA", v6)] {
            if !addresses.is_empty() {
                let _ = writeln!(content, "    {kind}: [ {} ]", addresses.join(", "));
            }
        }
    }
    Some(Exported { content, prefixes: prefixes.len(), divided: walk.divided })
}

/// A MaxMind database: `region` is the best one, `regions` all of them best first, `addresses` what
/// a client is told.
pub fn mmdb(generation: &Generation, site: &SiteName) -> Option<Exported<Vec<u8>>> {
    let mut walk = Walk::new(generation, site)?;
    let mut writer = Writer::builder("Godwit-Map").description(&[("en", "who goes where")]).build();
    let prefixes = walk.prefixes();
    for (prefix, key) in &prefixes {
        let regions = walk.regions(*key, *prefix);
        let text = |text: String| Value::String(text);
        let answer = walk.told(*key);
        let addresses = answer.v4().map(|(_, address)| text(address.to_string()));
        let addresses = addresses.chain(answer.v6().map(|(_, address)| text(address.to_string())));
        let mut record = vec![("addresses".to_owned(), Value::Array(addresses.collect()))];
        record.extend(regions.first().map(|region| ("region".to_owned(), text(region.clone()))));
        record.push(("regions".to_owned(), Value::Array(regions.into_iter().map(text).collect())));
        for prefix in beside_v4(*prefix) {
            writer.insert_value(prefix, Value::Map(record.clone().into_iter().collect())).ok()?;
        }
    }
    let content = writer.to_bytes().ok()?;
    Some(Exported { content, prefixes: prefixes.len(), divided: walk.divided })
}

impl<'a> Walk<'a> {
    fn new(generation: &'a Generation, name: &'a SiteName) -> Option<Walk<'a>> {
        let site = generation.site_ref(name.as_str())?;
        Some(Walk { generation, site, name, lists: BTreeMap::new(), divided: 0 })
    }

    /// Every address, as disjoint prefixes with the answer that counts.
    fn prefixes(&mut self) -> Vec<(IpNet, ChoiceKey)> {
        let mut prefixes = Vec::new();
        for zero in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            let mut next = Some(zero);
            while let Some(address) = next {
                let (answers, scope) = self.generation.spread(self.site, address);
                self.divided += usize::from(answers.len() > 1);
                let heaviest = answers.iter().rev().max_by_key(|(_, weight)| *weight);
                let prefix = IpNet::new_assert(address, scope).trunc();
                prefixes.extend(heaviest.map(|(key, _)| (prefix, *key)));
                next = after(prefix);
            }
        }
        prefixes
    }

    fn told(&self, key: ChoiceKey) -> Answer<'a> {
        self.generation.told(self.site, Choice { key, scope: 0 })
    }

    /// The regions of an answer, then those that would follow.
    fn regions(&mut self, key: ChoiceKey, prefix: IpNet) -> Vec<String> {
        let (generation, site, name) = (self.generation, self.site, self.name);
        let regions = self.lists.entry(key).or_insert_with(|| {
            let answer = generation.told(site, Choice { key, scope: 0 });
            let told = answer.v4().map(|(member, _)| member).chain(answer.v6().map(|(member, _)| member));
            let ranking = generation.rank(prefix.addr(), name);
            let ranked = ranking.iter().flat_map(|ranking| &ranking.replicas).map(|ranked| &ranked.region);
            let mut regions: Vec<RegionName> = Vec::new();
            for region in told.map(|member: &MemberInput| &member.region).chain(ranked) {
                if !regions.contains(region) {
                    regions.push(region.clone());
                }
            }
            regions
        });
        regions.iter().map(RegionName::to_string).collect()
    }
}

/// The address after a prefix; `None` after the last.
fn after(prefix: IpNet) -> Option<IpAddr> {
    match prefix {
        IpNet::V4(net) => u32::from(net.broadcast()).checked_add(1).map(|next| Ipv4Addr::from(next).into()),
        IpNet::V6(net) => u128::from(net.broadcast()).checked_add(1).map(|next| Ipv6Addr::from(next).into()),
    }
}

/// A prefix without what gdnsd takes to be about IPv4.
fn without_like_v4(prefix: IpNet) -> Vec<IpNet> {
    let like = LIKE_V4.map(|(address, len)| IpNet::new_assert(address.into(), len));
    without(prefix, &like)
}

/// A prefix without the part of an IPv6 tree where IPv4 stands.
fn beside_v4(prefix: IpNet) -> Vec<IpNet> {
    without(prefix, &[IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 96)])
}

/// What is left of a prefix when others are taken out, in order.
fn without(prefix: IpNet, others: &[IpNet]) -> Vec<IpNet> {
    if others.iter().any(|other| other.contains(&prefix)) {
        return Vec::new();
    }
    if !others.iter().any(|other| prefix.contains(other)) {
        return vec![prefix];
    }
    let halves = prefix.subnets(prefix.prefix_len() + 1).into_iter().flatten();
    halves.flat_map(|half| without(half, others)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_out_is_out_and_the_rest_is_whole() {
        let left = without_like_v4("::/0".parse().unwrap());
        let size = |net: &IpNet| 2f64.powi(128 - i32::from(net.prefix_len()));
        let gone: f64 = LIKE_V4.iter().map(|(_, len)| 2f64.powi(128 - i32::from(*len))).sum();
        let rest: f64 = left.iter().map(size).sum();
        assert!((rest + gone - 2f64.powi(128)).abs() < 2f64.powi(80), "{rest} {gone}");
        let like = LIKE_V4.map(|(address, len)| IpNet::new_assert(address.into(), len));
        assert!(left.iter().all(|net| like.iter().all(|like| !like.contains(net) && !net.contains(like))));
        let whole: IpNet = "2400::/12".parse().unwrap();
        assert_eq!(without_like_v4(whole), [whole]);
        assert_eq!(without_like_v4("10.0.0.0/8".parse().unwrap()), ["10.0.0.0/8".parse().unwrap()]);
    }

    #[test]
    fn prefixes_end_where_addresses_do() {
        assert_eq!(after("10.0.0.0/8".parse().unwrap()), Some("11.0.0.0".parse().unwrap()));
        assert_eq!(after("128.0.0.0/1".parse().unwrap()), None);
        assert_eq!(after("::/0".parse().unwrap()), None);
    }
}
