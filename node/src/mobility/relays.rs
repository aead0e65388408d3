//! How nodes pass packets on to each other: keys that each gives the others, before they are needed.
//!
//! A packet that comes to the wrong node (a flow that was given away, or one that a changed choice sends
//! elsewhere) is passed on to the right one, sealed under a key that *that* node made. So a node needs no
//! secret of the home agent's, and what comes under the key is known to have been passed on already.

use godwit_core::binding::{Anchor, BindingId, CareOf};
use godwit_core::key::MemberId;
use godwit_core::mobility::{RELAY_ADDRESSES_MAX, Relay};
use godwit_core::time::Time;
use godwit_core::tunnel::{KeyId, Secret, TunnelKey};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// A node passes packets on to, and takes them from, at most so many others: those that serve the same
/// home addresses.
pub(super) const RELAYS_MAX: usize = 64;

/// A member that asks more often gets no answer: each answer is a new key.
const ASKED_PAUSE: Duration = Duration::from_millis(500);

/// A member that has not answered is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(3);

/// A key of relays is made from this in place of a care-of address, which none has.
const RELAY: BindingId = BindingId(u8::MAX);

/// The relays of a node, from it and to it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Relays {
    secret: Secret,
    number: u32,
    /// Who may pass packets on to this node, and under which keys: the newest and the one before it.
    from: BTreeMap<MemberId, (Time, KeyId, Option<KeyId>)>,
    /// Whom this node may pass packets on to.
    to: BTreeMap<MemberId, (KeyId, SocketAddr)>,
    asked: BTreeMap<MemberId, Time>,
}

impl Relays {
    /// None. `secret` is drawn anew for each start.
    pub(super) fn new(secret: Secret, number: u32) -> Relays {
        Relays { secret, number, from: BTreeMap::new(), to: BTreeMap::new(), asked: BTreeMap::new() }
    }

    /// A member wants to pass packets on to this node: the key for it, and one that nobody uses any
    /// more.
    pub(super) fn wanted(&mut self, now: Time, by: MemberId) -> Option<(TunnelKey, Option<KeyId>)> {
        let known = self.from.get(&by).copied();
        let rested = known.is_none_or(|(at, ..)| now.since(at) >= ASKED_PAUSE);
        if !rested || (known.is_none() && self.from.len() >= RELAYS_MAX) {
            return None;
        }
        self.number = self.number.wrapping_add(1);
        // Never the same key again: whoever asks may have begun to count anew.
        let key = TunnelKey::derive(&self.secret, &Anchor { member: by, id: RELAY }, self.number);
        let before = known.map(|(_, key, _)| key);
        self.from.insert(by, (now, key.id, before));
        Some((key, known.and_then(|(_, _, older)| older)))
    }

    /// A member told how packets are passed on to it; gives the address to use, if one can be.
    pub(super) fn told(&mut self, by: MemberId, relay: &Relay, has_v6: bool) -> Option<SocketAddr> {
        let usable = |care_of: &CareOf| match care_of {
            CareOf::At(address) if has_v6 || address.is_ipv4() => Some(*address),
            CareOf::At(_) | CareOf::Observed => None,
        };
        let address = relay.care_of.iter().take(RELAY_ADDRESSES_MAX).find_map(usable)?;
        if !self.to.contains_key(&by) && self.to.len() >= RELAYS_MAX {
            return None;
        }
        self.asked.remove(&by);
        self.to.insert(by, (relay.key.id, address));
        Some(address)
    }

    /// Whom to ask now, of those that serve the same home addresses and are connected.
    pub(super) fn ask(&mut self, now: Time, others: impl Iterator<Item = MemberId>) -> Vec<MemberId> {
        let mut asked = Vec::new();
        for other in others.take(RELAYS_MAX) {
            let waits = self.asked.get(&other).is_some_and(|at| now.since(*at) < ASK_AGAIN);
            if !waits && !self.to.contains_key(&other) {
                self.asked.insert(other, now);
                asked.push(other);
            }
        }
        asked
    }

    /// A member may have forgotten everything: it is asked anew. What it told before is used until it
    /// answers.
    pub(super) fn doubt(&mut self, member: &MemberId) {
        self.asked.remove(member);
        self.to.remove(member);
    }

    /// Who passes packets on under this key.
    pub(super) fn by_key(&self) -> impl Iterator<Item = (KeyId, MemberId)> {
        self.from.iter().flat_map(|(member, (_, key, before))| {
            std::iter::once(*key).chain(*before).map(|key| (key, *member))
        })
    }

    /// Whom packets can be passed on to, and how.
    pub(super) fn ways(&self) -> &BTreeMap<MemberId, (KeyId, SocketAddr)> {
        &self.to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(n: u8) -> MemberId {
        MemberId::from_bytes([n; 32])
    }

    #[test]
    fn each_time_a_new_key_and_the_two_newest_hold() {
        let mut relays = Relays::new([7; 32], 5);
        let mut now = Time::from_secs(1);
        let (first, gone) = relays.wanted(now, member(1)).unwrap();
        assert_eq!(gone, None);
        assert_eq!(relays.wanted(now, member(1)), None, "too often");
        now = now + ASKED_PAUSE;
        let (second, gone) = relays.wanted(now, member(1)).unwrap();
        assert!(first.id != second.id && first.to_node != second.to_node && gone.is_none());
        now = now + ASKED_PAUSE;
        let (third, gone) = relays.wanted(now, member(1)).unwrap();
        assert_eq!(gone, Some(first.id));
        let keys: Vec<KeyId> = relays.by_key().map(|(key, _)| key).collect();
        assert_eq!(keys, [third.id, second.id]);
    }

    #[test]
    fn who_serves_the_same_is_asked_until_it_answers() {
        let mut relays = Relays::new([7; 32], 5);
        let now = Time::from_secs(1);
        let others = || [member(1), member(2)].into_iter();
        assert_eq!(relays.ask(now, others()), [member(1), member(2)]);
        assert_eq!(relays.ask(now, others()), []);
        let key = TunnelKey::derive(&[1; 32], &Anchor { member: member(9), id: RELAY }, 1);
        let observed = Relay { key: key.clone(), care_of: vec![CareOf::Observed] };
        assert_eq!(relays.told(member(1), &observed, true), None);
        let at = |address: &str| CareOf::At(address.parse().unwrap());
        let relay = Relay { key, care_of: vec![at("[2001:db8::1]:4191"), at("198.51.100.1:4191")] };
        assert_eq!(relays.told(member(1), &relay, false), Some("198.51.100.1:4191".parse().unwrap()));
        assert_eq!(relays.ask(now + ASK_AGAIN, others()), [member(2)]);
        relays.doubt(&member(1));
        assert_eq!(relays.ask(now + ASK_AGAIN, others()), [member(1)]);
    }

    #[test]
    fn strangers_cannot_fill_the_room() {
        let mut relays = Relays::new([7; 32], 5);
        for n in 0..=255 {
            relays.wanted(Time::from_secs(1), member(n));
        }
        assert_eq!(relays.by_key().count(), RELAYS_MAX);
    }
}
