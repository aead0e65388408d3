//! Connecting: to those one should be connected with, again and again, with patience.
//!
//! Of two that want each other the one with the lower key dials first and the other waits a
//! second, so that they rarely dial at the same time. Waits double up to a bound; news of a peer
//! (another address, a new start) ends the wait.

use super::Output;
use crate::key::MemberId;
use crate::random::Random;
use crate::record::ADDRESSES_MAX;
use crate::time::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// The side with the higher key waits this long, to be dialled.
const COURTESY: Duration = Duration::from_secs(1);

/// A member whose address has changed does not wait to be dialled for so long: nobody can know where it is.
const REHOMING: Duration = Duration::from_secs(5);

/// Addresses of so many members are remembered.
const ADDRESS_BOOK_MAX: usize = 4096;

pub(super) struct Connections {
    own: MemberId,
    backoff: (Duration, Duration),
    random: Random,
    wanted: BTreeMap<MemberId, Attempt>,
    connected: BTreeSet<MemberId>,
    addresses: BTreeMap<MemberId, Vec<SocketAddr>>,
    bootstrap: Vec<SocketAddr>,
    bootstrap_attempt: Attempt,
    /// Until when this member dials whoever it wants to be connected with.
    dials_first: Time,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    due: Time,
    wait: Duration,
}

impl Connections {
    pub(super) fn new(now: Time, own: MemberId, backoff: (Duration, Duration), seed: u64) -> Connections {
        Connections {
            own,
            backoff,
            random: Random::new(seed ^ 0xd1a1),
            wanted: BTreeMap::new(),
            connected: BTreeSet::new(),
            addresses: BTreeMap::new(),
            bootstrap: Vec::new(),
            bootstrap_attempt: Attempt { due: now, wait: backoff.0 },
            dials_first: now,
        }
    }

    /// This member is somewhere else now.
    pub(super) fn rehomed(&mut self, now: Time) {
        self.dials_first = now + REHOMING;
        for attempt in self.wanted.values_mut() {
            *attempt = Attempt { due: now, wait: self.backoff.0 };
        }
    }

    pub(super) fn set_bootstrap(&mut self, now: Time, addresses: Vec<SocketAddr>) {
        self.bootstrap = addresses;
        self.bootstrap_attempt = Attempt { due: now, wait: self.backoff.0 };
    }

    /// With whom to be connected from now on.
    pub(super) fn set_wanted(&mut self, now: Time, wanted: BTreeSet<MemberId>) {
        self.wanted.retain(|peer, _| wanted.contains(peer));
        for peer in wanted {
            let attempt = self.first_attempt(now, peer);
            self.wanted.entry(peer).or_insert(attempt);
        }
    }

    pub(super) fn up(&mut self, peer: MemberId) {
        self.connected.insert(peer);
        if let Some(attempt) = self.wanted.get_mut(&peer) {
            attempt.wait = self.backoff.0;
        }
    }

    pub(super) fn down(&mut self, now: Time, peer: MemberId, alone: bool) {
        self.connected.remove(&peer);
        let attempt = self.first_attempt(now, peer);
        if let Some(wanted) = self.wanted.get_mut(&peer) {
            *wanted = attempt;
        }
        if alone {
            self.bootstrap_attempt = Attempt { due: now + self.backoff.0, wait: self.backoff.0 };
        }
    }

    /// An attempt has failed: the next one comes by its wait, not before.
    pub(super) fn failed(&mut self, now: Time, peer: MemberId) {
        if let Some(attempt) = self.wanted.get_mut(&peer) {
            attempt.due = attempt.due.min(now + attempt.wait);
        }
    }

    /// The member is, or may be, at these addresses now.
    pub(super) fn moved(&mut self, now: Time, peer: MemberId, addresses: Vec<SocketAddr>) {
        if peer == self.own || addresses.is_empty() || addresses.len() > ADDRESSES_MAX {
            return;
        }
        if self.addresses.len() < ADDRESS_BOOK_MAX || self.addresses.contains_key(&peer) {
            self.addresses.insert(peer, addresses);
        }
        let attempt = self.first_attempt(now, peer);
        if let Some(wanted) = self.wanted.get_mut(&peer) {
            *wanted = attempt;
        }
    }

    /// The attempts that are due.
    pub(super) fn due(&mut self, now: Time, alone: bool) -> Vec<Output> {
        let mut dials = Vec::new();
        for (peer, attempt) in &mut self.wanted {
            if attempt.due > now || self.connected.contains(peer) {
                continue;
            }
            let Some(addresses) = self.addresses.get(peer) else { continue };
            *attempt = next_attempt(now, *attempt, self.backoff.1, &mut self.random);
            dials.push(Output::Dial { peer: *peer, addresses: addresses.clone() });
        }
        if alone && !self.bootstrap.is_empty() && self.bootstrap_attempt.due <= now {
            self.bootstrap_attempt =
                next_attempt(now, self.bootstrap_attempt, self.backoff.1, &mut self.random);
            dials.push(Output::DialBootstrap { addresses: self.bootstrap.clone() });
        }
        dials
    }

    pub(super) fn next_deadline(&self) -> Time {
        let waiting = self
            .wanted
            .iter()
            .filter(|(peer, _)| !self.connected.contains(peer) && self.addresses.contains_key(peer));
        let next = waiting.map(|(_, attempt)| attempt.due).min().unwrap_or(Time::NEVER);
        let alone = self.connected.is_empty() && !self.bootstrap.is_empty();
        if alone { next.min(self.bootstrap_attempt.due) } else { next }
    }

    fn first_attempt(&mut self, now: Time, peer: MemberId) -> Attempt {
        // A little apart, so that a whole network that lost a member does not dial it in one moment.
        let apart = Duration::from_millis(self.random.below(100) as u64);
        let first = self.own < peer || now < self.dials_first;
        let courtesy = if first { Duration::ZERO } else { COURTESY };
        Attempt { due: now + courtesy + apart, wait: self.backoff.0 }
    }
}

fn next_attempt(now: Time, attempt: Attempt, wait_max: Duration, random: &mut Random) -> Attempt {
    Attempt { due: now + random.around(attempt.wait), wait: (attempt.wait * 2).min(wait_max) }
}
