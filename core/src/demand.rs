//! What clients ask of a member, and what it can take.
//!
//! The honest signal of *demand* is what was served: each node counts the requests that it answered,
//! by client prefix and by site, over a window that decays, and tells the rates. Requests, not DNS
//! queries: caches of resolvers stand between queries and clients, and a resolver's address is not
//! its clients'. Added up over all members the rates of a prefix do not depend on who serves it; so
//! moving its clients does not change the demand that moved them, and nothing swings.
//!
//! It is told as soft state, a [`crate::record::Statement`] of [`KIND`]: a version byte, then the
//! fields in postcard. Later versions append fields; who does not know them reads the first ones.
//! What a member says weighs only as much as it says itself: the map gives no member more clients
//! for claiming more of them (see `godwit_map`).

use crate::name::SiteName;
use crate::wire;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The kind of statement.
pub const KIND: u16 = 1;
/// At most this many client prefixes are told: those with the highest rates. 512 take 6 to 12 KiB of
/// the 32 that a record may have.
pub const PREFIXES_MAX: usize = 512;
/// At most this many sites are told: those with the highest rates.
pub const SITES_MAX: usize = 64;

/// The total is told anew when it has changed by more than this part of the capacity.
const TOTAL_PART: u64 = 64;

/// The version of the form.
const VERSION: u8 = 1;

/// What a member tells of its clients and its capacity. Rates are in thousandths of a request per
/// second.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// What the member can take, as its operator says.
    pub capacity: Capacity,
    /// The rate of all requests, whoever they were from.
    pub total_mrps: u64,
    /// Rates by client prefix (/24, /48): the highest ones, at most [`PREFIXES_MAX`], sorted by
    /// prefix, each once.
    pub prefixes: Vec<(IpNet, u32)>,
    /// Rates by site: the highest ones, at most [`SITES_MAX`], sorted by site, each once.
    pub sites: Vec<(SiteName, u32)>,
}

/// What a member can take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Requests per second; `None`: not limited.
    pub rps: Option<u32>,
    /// Its share of clients of whom nothing is known, per cent of what its capacity (or, where
    /// there is none, an equal part) would give it; `None`: 100.
    pub weight_percent: Option<u16>,
}

impl Capacity {
    /// The operator's weight, per cent.
    pub fn weight_percent(self) -> u16 {
        self.weight_percent.unwrap_or(100)
    }
}

impl Demand {
    /// The form that is signed and sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend(wire::encode(self));
        bytes
    }

    /// Reads what [`Demand::encode`] of this or a later version wrote; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Demand> {
        let (version, fields) = bytes.split_first()?;
        let demand: Demand = wire::decode_start(fields, wire::RECORD_LEN_MAX).ok()?;
        let sorted = demand.prefixes.is_sorted_by(|a, b| a.0 < b.0)
            && demand.sites.is_sorted_by(|a, b| a.0 < b.0)
            && demand.prefixes.len() <= PREFIXES_MAX
            && demand.sites.len() <= SITES_MAX;
        (*version >= VERSION && sorted).then_some(demand)
    }

    /// Puts it in order and within bounds: the highest rates stay.
    pub fn normalize(&mut self) {
        highest(&mut self.prefixes, PREFIXES_MAX);
        highest(&mut self.sites, SITES_MAX);
    }

    /// The same with every rate as it was in `told`, unless it has changed by more than an eighth:
    /// so that what is told, and with it everybody's map, rests while demand wavers. The errors of many
    /// rates cancel out; that of the total does not, and members are filled to within a few per cent of
    /// what they can take. So the total is told anew, too, when it has changed by a sixty-fourth of that.
    pub fn steadied(&self, told: &Demand) -> Demand {
        let keep = |now: u64, before: u64| if now.abs_diff(before) * 8 <= before { before } else { now };
        let part = self.capacity.rps.map_or(u64::MAX, |rps| u64::from(rps) * 1000 / TOTAL_PART);
        let is_near = self.total_mrps.abs_diff(told.total_mrps) <= part;
        let rate = |now: u32, before: Option<u32>| match before {
            Some(before) => keep(now.into(), before.into()) as u32,
            None => now,
        };
        Demand {
            capacity: self.capacity,
            total_mrps: if is_near { keep(self.total_mrps, told.total_mrps) } else { self.total_mrps },
            prefixes: map_rates(&self.prefixes, &told.prefixes, rate),
            sites: map_rates(&self.sites, &told.sites, rate),
        }
    }
}

fn highest<K: Ord>(rates: &mut Vec<(K, u32)>, max: usize) {
    rates.sort_by(|a, b| a.0.cmp(&b.0));
    rates.dedup_by(|a, b| a.0 == b.0);
    if rates.len() > max {
        rates.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        rates.truncate(max);
        rates.sort_by(|a, b| a.0.cmp(&b.0));
    }
}

fn map_rates<K: Ord + Clone>(
    now: &[(K, u32)],
    told: &[(K, u32)],
    rate: impl Fn(u32, Option<u32>) -> u32,
) -> Vec<(K, u32)> {
    let before = |key: &K| told.binary_search_by(|(known, _)| known.cmp(key)).ok().map(|at| told[at].1);
    now.iter().map(|(key, now)| (key.clone(), rate(*now, before(key)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(rates: &[(&str, u32)]) -> Demand {
        Demand {
            capacity: Capacity { rps: Some(1200), weight_percent: None },
            total_mrps: rates.iter().map(|(_, rate)| u64::from(*rate)).sum(),
            prefixes: rates.iter().map(|(prefix, rate)| (prefix.parse().unwrap(), *rate)).collect(),
            sites: vec![("www".parse().unwrap(), 7)],
        }
    }

    #[test]
    fn later_versions_are_read_as_far_as_they_are_known() {
        let demand = demand(&[("192.0.2.0/24", 1500), ("2001:db8::/48", 20)]);
        let bytes = demand.encode();
        assert_eq!(Demand::decode(&bytes), Some(demand.clone()));
        let mut later = bytes.clone();
        later[0] += 1;
        later.extend_from_slice(b"what is not known yet");
        assert_eq!(Demand::decode(&later), Some(demand));
        for end in 0..bytes.len() {
            assert_eq!(Demand::decode(&bytes[..end]), None, "{end} of {} bytes", bytes.len());
        }
    }

    #[test]
    fn unsorted_or_doubled_prefixes_are_refused() {
        let doubled = demand(&[("192.0.2.0/24", 1), ("192.0.2.0/24", 2)]);
        assert_eq!(Demand::decode(&doubled.encode()), None);
        let unsorted = demand(&[("198.51.100.0/24", 1), ("192.0.2.0/24", 2)]);
        assert_eq!(Demand::decode(&unsorted.encode()), None);
    }

    #[test]
    fn the_highest_rates_are_told_and_fit_into_a_record() {
        let mut demand = Demand::default();
        for n in 0..1000u32 {
            let prefix = format!("2001:db8:{n:x}::/48").parse().unwrap();
            demand.prefixes.push((prefix, u32::MAX - n));
            demand.sites.push((format!("{n:063}").parse().unwrap(), n));
        }
        demand.normalize();
        assert_eq!((demand.prefixes.len(), demand.sites.len()), (PREFIXES_MAX, SITES_MAX));
        assert!(demand.prefixes.iter().all(|(_, rate)| *rate > u32::MAX - 512));
        let len = demand.encode().len();
        assert!(len < wire::RECORD_LEN_MAX - 256, "{len} bytes");
        assert_eq!(Demand::decode(&demand.encode()), Some(demand));
    }

    #[test]
    fn small_changes_are_not_told() {
        let told = demand(&[("192.0.2.0/24", 800), ("198.51.100.0/24", 80)]);
        let wavering = demand(&[("192.0.2.0/24", 895), ("198.51.100.0/24", 70)]);
        assert_eq!(wavering.steadied(&told), told);
        let risen = demand(&[("192.0.2.0/24", 901), ("203.0.113.0/24", 5)]);
        assert_eq!(risen.steadied(&told).prefixes, risen.prefixes);
    }

    #[test]
    fn the_total_is_told_as_closely_as_the_capacity_is_filled() {
        let near =
            |rates| Demand { capacity: Capacity { rps: Some(1), weight_percent: None }, ..demand(rates) };
        let told = near(&[("192.0.2.0/24", 800), ("198.51.100.0/24", 80)]);
        let steady = near(&[("192.0.2.0/24", 815), ("198.51.100.0/24", 80)]);
        assert_eq!(steady.steadied(&told), told);
        let risen = near(&[("192.0.2.0/24", 895), ("198.51.100.0/24", 70)]).steadied(&told);
        assert_eq!((&risen.prefixes, risen.total_mrps), (&told.prefixes, 965));
    }
}
