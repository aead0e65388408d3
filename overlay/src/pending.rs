//! Unfinished inbound handshakes, bounded per source before they are bounded in all.
//!
//! A handshake is entered before anything is spent on it. One source (IPv4 /24, IPv6 /56) gets few
//! places; a flood from one source therefore never touches others. When many sources together reach
//! the bound of all, the oldest handshake of the source with the most gives way: real handshakes end
//! after a few round trips, silent ones only by their deadline, so the flood displaces itself.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// All unfinished inbound handshakes.
#[derive(Debug)]
pub(crate) struct Pending {
    per_source: usize,
    all: usize,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    total: usize,
    /// Oldest first. Invariant: no empty queue; the lengths add up to `total`.
    by_source: BTreeMap<IpAddr, VecDeque<(u64, oneshot::Sender<()>)>>,
}

/// The place of one handshake; dropping it frees the place.
#[derive(Debug)]
pub(crate) struct Place {
    pending: Arc<Pending>,
    source: IpAddr,
    number: u64,
    displaced: oneshot::Receiver<()>,
}

/// The source has its share already.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Crowded;

impl Pending {
    pub(crate) fn new(per_source: usize, all: usize) -> Arc<Pending> {
        Arc::new(Pending { per_source, all, entries: Mutex::default() })
    }

    /// Enters a handshake from `address`.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Place, Crowded> {
        let source = source_of(address);
        let mut entries = self.entries();
        if entries.by_source.get(&source).map_or(0, VecDeque::len) >= self.per_source {
            return Err(Crowded);
        }
        if entries.total >= self.all {
            entries.displace();
        }
        let (sender, displaced) = oneshot::channel();
        let number = entries.next;
        entries.next += 1;
        entries.total += 1;
        entries.by_source.entry(source).or_default().push_back((number, sender));
        Ok(Place { pending: self.clone(), source, number, displaced })
    }

    /// Whether so many are unfinished that sources should prove their address first.
    pub(crate) fn is_busy(&self) -> bool {
        self.entries().total > self.all / 4
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn displace(&mut self) {
        // The oldest of the longest queue; of equal ones the one that waits longest.
        let key = |queue: &VecDeque<(u64, _)>| (queue.len(), std::cmp::Reverse(queue.front().map(|e| e.0)));
        let longest = self.by_source.iter().max_by_key(|(_, queue)| key(queue)).map(|(source, _)| *source);
        if let Some(source) = longest {
            let oldest = self.by_source.get(&source).and_then(|queue| queue.front()).map(|e| e.0);
            self.remove(source, oldest.unwrap_or_default());
        }
    }

    /// Dropping the sender is what tells the handshake.
    fn remove(&mut self, source: IpAddr, number: u64) {
        let Some(queue) = self.by_source.get_mut(&source) else { return };
        let before = queue.len();
        queue.retain(|(n, _)| *n != number);
        self.total -= before - queue.len();
        if queue.is_empty() {
            self.by_source.remove(&source);
        }
    }
}

impl Place {
    /// Returns when another handshake took the place.
    pub(crate) async fn displaced(&mut self) {
        (&mut self.displaced).await.ok();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pending.entries().remove(self.source, self.number);
    }
}

fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & (!0 << 8)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (!0 << 72)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_source_is_bounded_first_and_its_neighbours_share_its_bound() {
        let pending = Pending::new(2, 10);
        let first = pending.enter(from("192.0.2.1")).unwrap();
        let _second = pending.enter(from("192.0.2.200")).unwrap();
        assert_eq!(pending.enter(from("192.0.2.7")).unwrap_err(), Crowded);
        assert_eq!(pending.enter(from("::ffff:192.0.2.7")).unwrap_err(), Crowded);
        assert!(pending.enter(from("192.0.3.7")).is_ok());
        drop(first);
        assert!(pending.enter(from("192.0.2.7")).is_ok());
    }

    #[test]
    fn a_full_house_displaces_the_oldest_of_the_busiest_source() {
        let pending = Pending::new(3, 4);
        let mut flood: Vec<Place> = (0..3).map(|_| pending.enter(from("2001:db8::1")).unwrap()).collect();
        let mut member = pending.enter(from("192.0.2.1")).unwrap();
        let _late = pending.enter(from("198.51.100.1")).unwrap();
        assert!(flood[0].displaced.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Closed));
        for place in flood[1..].iter_mut().chain([&mut member]) {
            assert!(place.displaced.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Empty));
        }
        drop(flood);
        assert_eq!(pending.entries().total, 2);
    }

    #[test]
    fn places_free_themselves() {
        let pending = Pending::new(3, 4);
        let places: Vec<_> = (0..3).map(|i| pending.enter(from(&format!("10.0.{i}.1"))).unwrap()).collect();
        assert!(pending.is_busy());
        drop(places);
        assert_eq!(pending.entries().total, 0);
        assert!(pending.entries().by_source.is_empty());
    }
}
