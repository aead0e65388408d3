//! How far clients are: round-trip times of served connections, per prefix.
//!
//! Clients of one /24 or /48 share a path nearly always, and a prefix names no person. The table
//! is bounded; when it is full, the prefix seen longest ago gives way. Within a prefix a lower time
//! counts at once and a higher one by degrees: queues and slow phones make times longer than the
//! path is, nothing makes them shorter.

use godwit_core::record::OBSERVATIONS_MAX;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Prefixes remembered: four times what one record tells, so that the busiest ones settle.
const PREFIXES_MAX: usize = 4 * OBSERVATIONS_MAX;

/// A prefix that nobody came from for so long is forgotten: paths change.
const AGE_MAX: Duration = Duration::from_secs(30 * 60);

/// What was observed so far.
#[derive(Default)]
pub(crate) struct Rtts {
    prefixes: Mutex<BTreeMap<IpNet, Observed>>,
}

struct Observed {
    micros: u32,
    at: Instant,
}

impl Rtts {
    /// Takes the smoothed round-trip time of a connection from `client`.
    pub(super) fn observe(&self, client: IpAddr, rtt: Duration) {
        let Some(prefix) = prefix_of(client) else { return };
        let micros = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX);
        let mut prefixes = self.prefixes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(observed) = prefixes.get_mut(&prefix) {
            let blended = (u64::from(observed.micros) * 3 + u64::from(micros)) / 4;
            observed.micros = micros.min(u32::try_from(blended).unwrap_or(u32::MAX));
            observed.at = Instant::now();
            return;
        }
        if prefixes.len() >= PREFIXES_MAX
            && let Some(oldest) = prefixes.iter().min_by_key(|(_, observed)| observed.at).map(|(net, _)| *net)
        {
            prefixes.remove(&oldest);
        }
        prefixes.insert(prefix, Observed { micros, at: Instant::now() });
    }

    /// The most recently seen prefixes, as many as a record tells, sorted by prefix.
    pub(crate) fn recent(&self) -> Vec<(IpNet, u32)> {
        let mut prefixes = self.prefixes.lock().unwrap_or_else(PoisonError::into_inner);
        prefixes.retain(|_, observed| observed.at.elapsed() < AGE_MAX);
        let mut recent: Vec<_> =
            prefixes.iter().map(|(net, observed)| (observed.at, *net, observed.micros)).collect();
        recent.sort_by_key(|(at, _, _)| std::cmp::Reverse(*at));
        recent.truncate(OBSERVATIONS_MAX);
        let mut recent: Vec<_> = recent.into_iter().map(|(_, net, micros)| (net, micros)).collect();
        recent.sort();
        recent
    }
}

/// The prefix by which a client is known; none for addresses that say nothing about a path.
pub(super) fn prefix_of(client: IpAddr) -> Option<IpNet> {
    match client.to_canonical() {
        IpAddr::V4(v4) if v4.is_loopback() || v4.is_link_local() => None,
        IpAddr::V6(v6) if v6.is_loopback() || v6.is_unicast_link_local() => None,
        IpAddr::V4(v4) => Ipv4Net::new(v4, 24).ok().map(|net| net.trunc().into()),
        IpAddr::V6(v6) => Ipv6Net::new(v6, 48).ok().map(|net| net.trunc().into()),
    }
}

/// A client's address as logs may show it: the /24 or /56 it is in.
pub(crate) fn for_log(client: IpAddr) -> String {
    let net = match client.to_canonical() {
        IpAddr::V4(v4) => Ipv4Net::new(v4, 24).map(|net| IpNet::from(net.trunc())),
        IpAddr::V6(v6) => Ipv6Net::new(v6, 56).map(|net| IpNet::from(net.trunc())),
    };
    net.map_or_else(|_| "unknown".to_owned(), |net| net.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_gather_clients_and_the_lower_time_counts_at_once() {
        let rtts = Rtts::default();
        let observe =
            |client: &str, millis| rtts.observe(client.parse().unwrap(), Duration::from_millis(millis));
        observe("192.0.2.1", 40);
        observe("192.0.2.200", 20);
        observe("192.0.2.7", 100);
        observe("::ffff:198.51.100.9", 5);
        observe("2001:db8:1:2::3", 7);
        observe("127.0.0.1", 1);
        let expected = [("192.0.2.0/24", 40_000), ("198.51.100.0/24", 5_000), ("2001:db8:1::/48", 7_000)];
        let expected = expected.map(|(net, micros)| (net.parse::<IpNet>().unwrap(), micros));
        assert_eq!(rtts.recent(), expected);
    }

    #[test]
    fn the_table_is_bounded() {
        let rtts = Rtts::default();
        for i in 0..(PREFIXES_MAX as u32 + 100) {
            rtts.observe(IpAddr::from((0x0a00_0000 + (i << 8)).to_be_bytes()), Duration::from_millis(1));
        }
        assert_eq!(rtts.prefixes.lock().unwrap().len(), PREFIXES_MAX);
        assert_eq!(rtts.recent().len(), OBSERVATIONS_MAX);
    }

    #[test]
    fn logs_show_prefixes_only() {
        assert_eq!(for_log("203.0.113.77".parse().unwrap()), "203.0.113.0/24");
        assert_eq!(for_log("2001:db8:1:2ff::3".parse().unwrap()), "2001:db8:1:200::/56");
    }
}
