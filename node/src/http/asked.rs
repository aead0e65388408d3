//! What clients ask for: rates of requests by client prefix and by site, over a window that decays.
//!
//! This is the demand that the map's capacity side works with ([`godwit_core::demand`]). A request
//! counts when it is answered for a site that is served here. Connections gather their counts and
//! hand them over about once a second ([`Tally`]), so that a busy connection does not take a lock
//! for each request; what an idle one has not handed over waits for its end.

use super::rtt::prefix_of;
use godwit_core::demand::{Capacity, Demand, PREFIXES_MAX};
use godwit_core::name::SiteName;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The window: a count weighs 1/e after so long. Short enough to see a crowd come within half a
/// minute, long enough to count a page's burst as part of a rate.
const WINDOW: Duration = Duration::from_secs(30);

/// Prefixes remembered, four times what is told. When there are more, the lower half is forgotten
/// (it stays in the total), so that room is made once for many.
const TRACKED_MAX: usize = 4 * PREFIXES_MAX;

/// A connection hands over its counts after so long, or so many.
const TALLY_AGE_MAX: Duration = Duration::from_secs(1);
const TALLY_MAX: u32 = 256;

/// Rates, of all connections together.
pub(crate) struct Asked {
    started: Instant,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    total: Fading,
    prefixes: BTreeMap<IpNet, Fading>,
    sites: BTreeMap<SiteName, Fading>,
}

/// A count that fades with time.
#[derive(Clone, Copy, Default)]
struct Fading {
    count: f64,
    at: Duration,
}

impl Fading {
    fn at(&self, now: Duration) -> f64 {
        self.count * (-(now.saturating_sub(self.at)).as_secs_f64() / WINDOW.as_secs_f64()).exp()
    }

    fn add(&mut self, now: Duration, count: u32) {
        *self = Fading { count: self.at(now) + f64::from(count), at: now };
    }

    /// Thousandths of a request per second. While it runs shorter than the window, the window is
    /// not full yet and counts for less.
    fn mrps(&self, now: Duration) -> f64 {
        let full = 1.0 - (-now.as_secs_f64().max(1.0) / WINDOW.as_secs_f64()).exp();
        self.at(now) / (WINDOW.as_secs_f64() * full) * 1000.0
    }
}

impl Default for Asked {
    fn default() -> Asked {
        Asked { started: Instant::now(), counts: Mutex::default() }
    }
}

impl Asked {
    /// What is to be told.
    pub(crate) fn demand(&self, capacity: Capacity) -> Demand {
        self.demand_at(self.started.elapsed(), capacity)
    }

    fn demand_at(&self, now: Duration, capacity: Capacity) -> Demand {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        // Below a thousandth of a request per second it is forgotten.
        counts.prefixes.retain(|_, fading| fading.mrps(now) >= 1.0);
        counts.sites.retain(|_, fading| fading.mrps(now) >= 1.0);
        let rate = |fading: &Fading| fading.mrps(now).round().min(f64::from(u32::MAX)) as u32;
        let mut demand = Demand {
            capacity,
            total_mrps: counts.total.mrps(now).round() as u64,
            prefixes: counts.prefixes.iter().map(|(prefix, fading)| (*prefix, rate(fading))).collect(),
            sites: counts.sites.iter().map(|(site, fading)| (site.clone(), rate(fading))).collect(),
        };
        demand.normalize();
        demand
    }

    fn add(&self, now: Duration, client: Option<IpNet>, sites: &BTreeMap<SiteName, u32>) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = sites.values().sum();
        counts.total.add(now, sum);
        if let Some(client) = client {
            if counts.prefixes.len() >= TRACKED_MAX && !counts.prefixes.contains_key(&client) {
                forget_half(&mut counts.prefixes, now);
            }
            counts.prefixes.entry(client).or_default().add(now, sum);
        }
        // Only sites that are served here come this far: they need no bound of their own.
        for (site, count) in sites {
            match counts.sites.get_mut(site) {
                Some(fading) => fading.add(now, *count),
                None => counts.sites.entry(site.clone()).or_default().add(now, *count),
            }
        }
    }
}

fn forget_half(prefixes: &mut BTreeMap<IpNet, Fading>, now: Duration) {
    let mut counts: Vec<(f64, IpNet)> =
        prefixes.iter().map(|(prefix, fading)| (fading.at(now), *prefix)).collect();
    counts.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    for (_, prefix) in &counts[..counts.len() / 2] {
        prefixes.remove(prefix);
    }
}

/// The requests of one connection that were not handed over yet.
#[derive(Default)]
pub(super) struct Tally {
    asked: Option<(Arc<Asked>, Option<IpNet>)>,
    sites: BTreeMap<SiteName, u32>,
    count: u32,
    since: Option<Instant>,
}

impl Tally {
    pub(super) fn new(asked: Arc<Asked>, client: IpAddr) -> Tally {
        let mut tally = Tally::default();
        tally.asked = Some((asked, prefix_of(client)));
        tally
    }

    /// Counts a request.
    pub(super) fn count(&mut self, site: &SiteName) {
        match self.sites.get_mut(site) {
            Some(count) => *count += 1,
            None => _ = self.sites.insert(site.clone(), 1),
        }
        self.count += 1;
        let since = *self.since.get_or_insert_with(Instant::now);
        if self.count >= TALLY_MAX || since.elapsed() >= TALLY_AGE_MAX {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        if let Some((asked, client)) = self.asked.as_ref().filter(|_| self.count > 0) {
            asked.add(asked.started.elapsed(), *client, &self.sites);
        }
        self.sites.clear();
        self.count = 0;
        self.since = None;
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.hand_over();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Option<IpNet> {
        Some(text.parse().unwrap())
    }

    fn www(count: u32) -> BTreeMap<SiteName, u32> {
        BTreeMap::from([("www".parse().unwrap(), count)])
    }

    #[test]
    fn steady_requests_come_out_as_their_rate_from_the_start_and_fade() {
        let asked = Asked::default();
        for second in 0..300 {
            let now = Duration::from_secs(second);
            asked.add(now, net("192.0.2.0/24"), &www(40));
            asked.add(now, None, &www(10));
            if [9, 60, 299].contains(&second) {
                let demand = asked.demand_at(now + Duration::from_secs(1), Capacity::default());
                let (rate, total) = (demand.prefixes[0].1, demand.total_mrps);
                assert!(rate.abs_diff(40_000) < 4_000, "{rate} after {second} s");
                assert!(total.abs_diff(50_000) < 5_000, "{total} after {second} s");
                assert_eq!(u64::from(demand.sites[0].1), total);
            }
        }
        let demand = asked.demand_at(Duration::from_secs(330), Capacity::default());
        assert!((10_000..20_000).contains(&demand.prefixes[0].1), "{:?}", demand.prefixes);
        let demand = asked.demand_at(Duration::from_secs(900), Capacity::default());
        assert_eq!((demand.total_mrps, demand.prefixes.len(), demand.sites.len()), (0, 0, 0));
    }

    #[test]
    fn the_busy_prefixes_outlast_a_flood_of_others() {
        let asked = Asked::default();
        let now = Duration::from_secs(100);
        asked.add(now, net("192.0.2.0/24"), &www(1000));
        for n in 0..10 * TRACKED_MAX as u32 {
            let prefix = IpNet::new(IpAddr::from((0x0a00_0000 + (n << 8)).to_be_bytes()), 24).unwrap();
            asked.add(now, Some(prefix), &www(1));
        }
        let demand = asked.demand_at(now, Capacity::default());
        assert_eq!(demand.prefixes.len(), PREFIXES_MAX);
        assert!(demand.prefixes.iter().any(|(prefix, _)| Some(*prefix) == net("192.0.2.0/24")));
        assert!(asked.counts.lock().unwrap().prefixes.len() <= TRACKED_MAX);
        let expected = (10 * TRACKED_MAX + 1000) as f64 / 30.0 * 1000.0;
        assert!((demand.total_mrps as f64) >= expected, "{} of {expected}", demand.total_mrps);
    }

    #[test]
    fn a_connection_hands_over_at_its_end_and_when_it_is_busy() {
        let asked = Arc::new(Asked::default());
        let site = "www".parse().unwrap();
        let total = || asked.counts.lock().unwrap().total.count;
        let mut tally = Tally::new(asked.clone(), "192.0.2.9".parse().unwrap());
        (0..3).for_each(|_| tally.count(&site));
        drop(tally);
        assert!((2.9..=3.0).contains(&total()));
        let mut busy = Tally::new(asked.clone(), "127.0.0.1".parse().unwrap());
        (0..TALLY_MAX).for_each(|_| busy.count(&site));
        assert!(total() > 250.0);
        assert_eq!(asked.counts.lock().unwrap().prefixes.len(), 1, "a loopback address is no place");
    }
}
