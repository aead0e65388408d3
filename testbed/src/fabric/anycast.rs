//! Addresses that several hosts announce: each packet goes to one of them, as routers do (anycast).
//!
//! Which one a host's packets reach is its *catchment*. On the internet that is mostly the nearest,
//! and often enough another: paths are chosen by length in networks, not in time. Here each pair of a
//! host and an announcer has a draw of its own, and one in five is passed over unless no other is
//! left.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

/// Most addresses that are announced at a time; a testbed has a /24 of them.
const ADDRESSES_MAX: usize = 512;

/// One pair in so many has a detour.
const DETOUR_ONE_IN: u64 = 5;

/// A host begins or ends to announce an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The address.
    pub address: IpAddr,
    /// The host.
    pub host: u16,
    /// Whether it announces it from now on.
    pub announced: bool,
}

/// Who announces what, and who is caught by whom.
#[derive(Debug, Default)]
pub(super) struct Anycast {
    seed: u64,
    announcers: BTreeMap<IpAddr, BTreeSet<u16>>,
    /// Choices that were made since the last change, by address and sending host.
    caught: HashMap<(IpAddr, u16), Option<u16>>,
}

impl Anycast {
    pub(super) fn new(seed: u64) -> Anycast {
        Anycast { seed, ..Anycast::default() }
    }

    pub(super) fn change(&mut self, change: Announcement) {
        let Announcement { address, host, announced } = change;
        if announced {
            if self.announcers.len() < ADDRESSES_MAX || self.announcers.contains_key(&address) {
                self.announcers.entry(address).or_default().insert(host);
            }
        } else if let Some(hosts) = self.announcers.get_mut(&address) {
            hosts.remove(&host);
            if hosts.is_empty() {
                self.announcers.remove(&address);
            }
        }
        self.forget_choices();
    }

    /// Everything that the host announces is withdrawn.
    pub(super) fn withdraw_all(&mut self, host: u16) {
        self.announcers.retain(|_, hosts| {
            hosts.remove(&host);
            !hosts.is_empty()
        });
        self.forget_choices();
    }

    /// Paths have changed.
    pub(super) fn forget_choices(&mut self) {
        self.caught.clear();
    }

    /// The host that packets of `from` to `address` reach; `delay` tells how long the path to an announcer
    /// is, `None` where there is none.
    pub(super) fn find(
        &mut self,
        from: u16,
        address: IpAddr,
        delay: impl Fn(u16) -> Option<Duration>,
    ) -> Option<u16> {
        let announcers = self.announcers.get(&address)?;
        let seed = self.seed;
        *self.caught.entry((address, from)).or_insert_with(|| {
            let reached = announcers.iter().filter(|host| **host != from);
            let paths = reached.filter_map(|host| Some((is_detour(seed, from, *host), delay(*host)?, *host)));
            paths.min().map(|(_, _, host)| host)
        })
    }

    /// Whether the host may send packets that come from the address.
    pub(super) fn announces(&self, host: u16, address: IpAddr) -> bool {
        self.announcers.get(&address).is_some_and(|hosts| hosts.contains(&host))
    }
}

fn is_detour(seed: u64, from: u16, to: u16) -> bool {
    // SplitMix64: equal draws on every machine.
    let mut bits = seed ^ (u64::from(from) << 32 | u64::from(to)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (bits ^ bits >> 31).is_multiple_of(DETOUR_ONE_IN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> IpAddr {
        "198.18.255.1".parse().unwrap()
    }

    fn announce(anycast: &mut Anycast, host: u16, announced: bool) {
        anycast.change(Announcement { address: home(), host, announced });
    }

    #[test]
    fn most_reach_the_nearest_and_everybody_somebody() {
        let mut anycast = Anycast::new(1);
        announce(&mut anycast, 1000, true);
        announce(&mut anycast, 1001, true);
        let near_first = |host: u16| Some(Duration::from_millis(u64::from(host)));
        let caught: Vec<u16> = (0..500).map(|from| anycast.find(from, home(), near_first).unwrap()).collect();
        let nearest = caught.iter().filter(|host| **host == 1000).count();
        assert!((380..450).contains(&nearest), "{nearest} of 500 reach the nearest");
    }

    #[test]
    fn who_withdraws_or_is_cut_off_is_not_chosen() {
        let mut anycast = Anycast::new(1);
        let far = |host: u16| (host != 8).then_some(Duration::ZERO);
        assert_eq!(anycast.find(0, home(), far), None, "nobody announces it");
        announce(&mut anycast, 8, true);
        assert_eq!(anycast.find(0, home(), far), None, "cut off");
        announce(&mut anycast, 9, true);
        assert_eq!(anycast.find(0, home(), far), Some(9));
        assert!(anycast.announces(9, home()) && !anycast.announces(7, home()));
        announce(&mut anycast, 9, false);
        assert_eq!(anycast.find(0, home(), |_| Some(Duration::ZERO)), Some(8));
        anycast.withdraw_all(8);
        assert_eq!(anycast.find(0, home(), |_| Some(Duration::ZERO)), None);
    }

    #[test]
    fn a_host_does_not_reach_itself() {
        let mut anycast = Anycast::new(1);
        announce(&mut anycast, 4, true);
        assert_eq!(anycast.find(4, home(), |_| Some(Duration::ZERO)), None);
    }
}
