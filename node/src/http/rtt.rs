//! How far clients are: round-trip times of served connections, per prefix.
//!
//! Clients of one /24 or /48 share a path nearly always, and a prefix names no person. What is kept
//! and told of each is its [`History`]; a prefix that nobody came from for a day is forgotten
//! ([`Age`]).
//!
//! The table is bounded. When it is full, a prefix that was not seen lately gives way; which one, a
//! hash says that is the same at all members, so that they remember the same prefixes and the map
//! can compare them. What is told is half the latest and half that common sample: the latest are
//! those whose clients come now, the others keep what was learned of a place by few.

use godwit_core::history::History;
use godwit_core::observation::{Age, ClientRtt};
use godwit_core::record::OBSERVATIONS_MAX;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Prefixes remembered: four times what one record tells, so that the busiest ones settle.
const PREFIXES_MAX: usize = 4 * OBSERVATIONS_MAX;

/// What is told in one record at the most because it is recent.
const RECENT_MAX: usize = OBSERVATIONS_MAX / 2;

/// What was observed so far.
pub(crate) struct Rtts {
    /// What histories count from.
    start: Instant,
    prefixes: Mutex<BTreeMap<IpNet, History>>,
}

impl Default for Rtts {
    fn default() -> Rtts {
        Rtts { start: Instant::now(), prefixes: Mutex::default() }
    }
}

impl Rtts {
    /// Takes the smoothed round-trip time of a connection from `client`.
    pub(super) fn observe(&self, client: IpAddr, rtt: Duration) {
        self.observe_at(Instant::now(), client, rtt);
    }

    fn observe_at(&self, now: Instant, client: IpAddr, rtt: Duration) {
        let Some(prefix) = prefix_of(client) else { return };
        let micros = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX);
        let now = now.saturating_duration_since(self.start);
        let mut prefixes = self.prefixes.lock().unwrap_or_else(PoisonError::into_inner);
        if !prefixes.contains_key(&prefix)
            && prefixes.len() >= PREFIXES_MAX
            && let Some(gone) = least_useful(now, &prefixes)
        {
            prefixes.remove(&gone);
        }
        prefixes.entry(prefix).or_default().take(now, micros);
    }

    /// What a record tells: the latest prefixes and the common sample, sorted by prefix.
    pub(crate) fn told(&self) -> Vec<ClientRtt> {
        self.told_at(Instant::now())
    }

    fn told_at(&self, now: Instant) -> Vec<ClientRtt> {
        let now = now.saturating_duration_since(self.start);
        let mut prefixes = self.prefixes.lock().unwrap_or_else(PoisonError::into_inner);
        prefixes.retain(|_, history| history.age(now).is_some());
        let mut all: Vec<_> = prefixes
            .iter()
            .filter_map(|(net, history)| Some((history.at(), history.told(now, *net)?)))
            .collect();
        all.sort_by_key(|(at, rtt)| (std::cmp::Reverse(*at), rtt.prefix));
        let rest = RECENT_MAX.min(all.len());
        all[rest..].sort_by_key(|(_, rtt)| lot(rtt.prefix));
        all.truncate(OBSERVATIONS_MAX);
        let mut told: Vec<_> = all.into_iter().map(|(_, rtt)| rtt).collect();
        told.sort_unstable();
        told
    }
}

/// The prefix that gives way: of those not seen lately the one with the highest lot, else the one
/// seen longest ago.
fn least_useful(now: Duration, prefixes: &BTreeMap<IpNet, History>) -> Option<IpNet> {
    let idle = prefixes.iter().filter(|(_, history)| history.age(now) != Some(Age::Recent));
    let idle = idle.max_by_key(|(net, _)| lot(**net));
    idle.or_else(|| prefixes.iter().min_by_key(|(_, history)| history.at())).map(|(net, _)| *net)
}

/// A number for a prefix, as good as random and the same everywhere: the finaliser of SplitMix64.
fn lot(prefix: IpNet) -> u64 {
    let mut z = match prefix {
        IpNet::V4(net) => u64::from(u32::from(net.network())),
        IpNet::V6(net) => (u128::from(net.network()) >> 64) as u64,
    };
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
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

    /// Observes at seconds after a start, each `(second, client, ms)`; what is told at the end.
    fn told(observations: &[(u64, &str, u64)], end: u64) -> Vec<(String, u32, u8, Age)> {
        let rtts = Rtts::default();
        let start = rtts.start;
        let at = |seconds: &u64| start + Duration::from_secs(*seconds);
        for (seconds, client, ms) in observations {
            rtts.observe_at(at(seconds), client.parse().unwrap(), Duration::from_millis(*ms));
        }
        let told = rtts.told_at(at(&end)).into_iter();
        told.map(|rtt| (rtt.prefix.to_string(), rtt.rtt_us / 1000, rtt.samples, rtt.age)).collect()
    }

    #[test]
    fn prefixes_gather_clients() {
        let observations = [
            (0, "192.0.2.1", 40),
            (1, "192.0.2.200", 20),
            (2, "::ffff:198.51.100.9", 5),
            (3, "2001:db8:1:2::3", 7),
            (4, "127.0.0.1", 1),
        ];
        let one = |net: &str, ms, samples| (net.to_owned(), ms, samples, Age::Recent);
        let expected =
            [one("192.0.2.0/24", 30, 2), one("198.51.100.0/24", 5, 1), one("2001:db8:1::/48", 7, 1)];
        assert_eq!(told(&observations, 10), expected);
    }

    #[test]
    fn what_is_old_says_so_and_is_forgotten_after_a_day() {
        let hour = 3600;
        let old = [(0, "192.0.2.1", 20)];
        assert_eq!(told(&old, hour)[0].3, Age::Hours);
        assert_eq!(told(&old, 23 * hour)[0].3, Age::Day);
        assert_eq!(told(&old, 25 * hour), []);
        let resumed = [(0, "192.0.2.1", 20), (3 * hour, "192.0.2.1", 50)];
        assert_eq!((told(&resumed, 3 * hour)[0].1, told(&resumed, 3 * hour)[0].2), (50, 1), "as if new");
    }

    #[test]
    fn the_table_is_bounded_and_members_tell_a_common_sample() {
        let hour = Duration::from_secs(3600);
        let count = PREFIXES_MAX as u32 + 500;
        let told = |order: &dyn Fn(u32) -> u32| {
            let rtts = Rtts::default();
            let start = rtts.start;
            for i in 0..count {
                let client = IpAddr::from((0x0a00_0000 + (order(i) << 8)).to_be_bytes());
                // 3.6 s apart: the table fills within two and a half hours.
                rtts.observe_at(start + hour / 1000 * i, client, Duration::from_millis(1));
            }
            assert_eq!(rtts.prefixes.lock().unwrap().len(), PREFIXES_MAX);
            rtts.told_at(start + hour / 1000 * count)
        };
        let (up, down) = (told(&|i| i), told(&|i| count - 1 - i));
        assert_eq!((up.len(), down.len()), (OBSERVATIONS_MAX, OBSERVATIONS_MAX));
        // The latest halves have nothing in common, the others nearly everything.
        let common = up.iter().filter(|rtt| down.iter().any(|other| other.prefix == rtt.prefix)).count();
        assert!(common > OBSERVATIONS_MAX / 4, "{common}");
    }

    #[test]
    fn logs_show_prefixes_only() {
        assert_eq!(for_log("203.0.113.77".parse().unwrap()), "203.0.113.0/24");
        assert_eq!(for_log("2001:db8:1:2ff::3".parse().unwrap()), "2001:db8:1:200::/56");
    }
}
