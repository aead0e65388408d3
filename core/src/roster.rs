//! The roster: who is there, and how that is judged.
//!
//! # What a verdict rests on
//!
//! A member *monitors* the peers it is connected with: it pings each of them twice a second and is
//! pinged by them, over the same ordered channel as everything else, so that a ping proves the data
//! path. Anything heard counts as life. From silence follows *doubt*, which is spread as a
//! [`crate::record::Suspicion`]; from the doubts of several follows the verdict:
//!
//! | I have heard it | others doubt it | verdict |
//! |---|---|---|
//! | within a second | any number | alive: own contact outweighs hearsay |
//! | not for a while | two | unreachable |
//! | not for too long | one | unreachable (two vantages, one of them mine) |
//! | not for too long, and a second more | none | unreachable, unless it gave a sign of life elsewhere: suspect |
//! | never (not a neighbour) | two | unreachable |
//! | never | one | suspect |
//! | never | none | alive while its entry holds, else unknown |
//!
//! In networks too small for two vantages, as many as there are suffice.
//!
//! *Too long* grows with the round-trip time, so that a lossy long path is not mistaken for death,
//! and exceeds a second and a ping period, so that a process that stood still for a second is not
//! either. When this member itself was late in acting, what it missed is not counted as silence
//! ([`Roster::excuse`]).
//!
//! # Lost
//!
//! A verdict of *unreachable* may rest on two doubts, and the map bounds what follows from it. A member is
//! *lost* when more is known: most of those in reach doubt it (three are enough), and it has not answered
//! for two seconds, though whoever is doubted signs a new entry at once. That nobody else can keep up:
//! liars can doubt, but not silence. So it is believed of any number of members, as when a whole region
//! goes dark, some four seconds after they fell silent. One that is cut off with another on its side
//! thinks the same of the rest; it cannot know better.
//!
//! # Signs of life, and the way back
//!
//! A member that learns that it is doubted signs a new entry at once. A doubt that is older than
//! the newest entry of its subject does not count; so a broken path between two members does not
//! make one of them dead for all.
//!
//! Who was unreachable must be heard steadily for [`Timing::return_after`] before it is alive
//! again, and for twice as long with each time it comes back within [`Timing::flap_memory`].

mod links;
mod watch;

pub(crate) use links::Links;

use crate::key::MemberId;
use crate::member::{State, Timing};
use crate::spread::Message;
use crate::time::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use watch::{Doubt, Hearsay, Watch};

/// A member is judged differently now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) member: MemberId,
    pub(crate) from: State,
    pub(crate) to: State,
}

/// The roster of one member: a [`Watch`] for every other.
#[derive(Debug)]
pub(crate) struct Roster {
    own: MemberId,
    timing: Timing,
    watches: BTreeMap<MemberId, Watch>,
    connected: BTreeSet<MemberId>,
    ping_at: Time,
    judge_at: Time,
    /// Whether judging may have changed own doubts since that was asked.
    mind_changed: bool,
    /// Whether somebody is lost, or is not any more, since that was asked.
    lost_changed: bool,
    nonce: u64,
}

impl Roster {
    pub(crate) fn new(now: Time, own: MemberId, timing: Timing) -> Roster {
        Roster {
            own,
            timing,
            watches: BTreeMap::new(),
            connected: BTreeSet::new(),
            ping_at: now,
            judge_at: Time::NEVER,
            mind_changed: false,
            lost_changed: false,
            nonce: 0,
        }
    }

    /// Sets who is a member besides this one; `Some` state is one that is not judged but known:
    /// revoked or expired.
    pub(crate) fn set_members(
        &mut self,
        now: Time,
        members: &BTreeMap<MemberId, Option<State>>,
    ) -> Vec<Judged> {
        self.watches.retain(|member, _| members.contains_key(member));
        let mut judged = Vec::new();
        for (member, fixed) in members {
            let connected = self.connected.contains(member);
            let watch = self.watches.entry(*member).or_insert_with(|| Watch::new(now, connected));
            let to = match fixed {
                Some(state) => *state,
                None if matches!(watch.state, State::Revoked | State::Expired) => State::Unknown,
                None => continue,
            };
            judged.extend(watch.enter(now, to).map(|from| Judged { member: *member, from, to }));
        }
        self.judge_at = now;
        judged
    }

    pub(crate) fn peer_up(&mut self, now: Time, peer: MemberId) {
        self.connected.insert(peer);
        if let Some(watch) = self.watches.get_mut(&peer) {
            watch.connected(now);
            self.judge_at = now;
        }
    }

    pub(crate) fn peer_down(&mut self, now: Time, peer: MemberId) {
        self.connected.remove(&peer);
        if let Some(watch) = self.watches.get_mut(&peer) {
            watch.disconnected(now);
            self.judge_at = now;
        }
    }

    /// With whom there is a connection, members that are not known yet included.
    pub(crate) fn connected(&self) -> &BTreeSet<MemberId> {
        &self.connected
    }

    /// The peer is no neighbour any more: its silence means nothing from now on.
    pub(crate) fn forget(&mut self, now: Time, peer: MemberId) {
        if let Some(watch) = self.watches.get_mut(&peer) {
            watch.forget();
            self.judge_at = now;
        }
    }

    /// Something came from the peer. Answers a ping; takes the time of a pong.
    pub(crate) fn message(&mut self, now: Time, from: MemberId, message: &Message) -> Option<Message> {
        if let Some(watch) = self.watches.get_mut(&from) {
            watch.heard(now, &self.timing);
            if let Message::Pong { nonce } = message {
                watch.pong(now, *nonce);
            }
            if watch.state != State::Alive || watch.doubt {
                self.judge_at = now;
            }
        }
        match message {
            Message::Ping { nonce } => Some(Message::Pong { nonce: *nonce }),
            _ => None,
        }
    }

    /// The transport measured the round-trip time.
    pub(crate) fn rtt(&mut self, now: Time, peer: MemberId, rtt: Duration) {
        if let Some(watch) = self.watches.get_mut(&peer) {
            watch.transport_rtt(now, rtt);
        }
    }

    /// The smoothed round-trip time to a peer, microseconds.
    pub(crate) fn rtt_us(&self, peer: MemberId) -> Option<u32> {
        self.watches.get(&peer)?.rtt_us()
    }

    /// All peers' smoothed round-trip times, in the order of the peers.
    pub(crate) fn rtts(&self) -> impl Iterator<Item = (MemberId, u32)> {
        self.watches.iter().filter_map(|(member, watch)| Some((*member, watch.rtt_us()?)))
    }

    /// A new entry of the member was accepted, signed at `birth` as far as is known; or its entry
    /// has ended.
    pub(crate) fn entry(&mut self, now: Time, member: MemberId, entry: Option<(u64, Time)>) {
        if let Some(watch) = self.watches.get_mut(&member) {
            watch.entry = entry;
            self.judge_at = now;
        }
    }

    /// Another member's mind about a third has changed: it doubts since `birth`, or does not.
    pub(crate) fn doubt(&mut self, now: Time, by: MemberId, of: MemberId, doubt: Option<(u64, Time)>) {
        let Some(watch) = self.watches.get_mut(&of) else { return };
        match doubt {
            None => {
                watch.doubts.remove(&by);
            }
            Some((incarnation, birth)) => {
                let fresh = Doubt { incarnation, since: birth };
                let doubt = watch.doubts.entry(by).or_insert(fresh);
                // A refreshed doubt is as old as it was.
                if doubt.incarnation != incarnation {
                    *doubt = fresh;
                }
            }
        }
        self.judge_at = now;
    }

    /// Chooses whom to ping, when it is time for that.
    pub(crate) fn pings(&mut self, now: Time) -> Vec<(MemberId, Message)> {
        if now < self.ping_at {
            return Vec::new();
        }
        self.ping_at = now + self.timing.ping_period;
        // Everyone watches those behind it in the order of keys, so that everyone is watched by as
        // many.
        let (before, after): (Vec<_>, Vec<_>) = self
            .watches
            .iter_mut()
            .filter(|(_, watch)| watch.connected)
            .partition(|(member, _)| **member < self.own);
        let mut pings = Vec::new();
        for (place, (member, watch)) in after.into_iter().chain(before).enumerate() {
            if place >= self.timing.monitored_max {
                watch.forget();
                continue;
            }
            self.nonce += 1;
            watch.pinged(now, self.nonce);
            pings.push((*member, Message::Ping { nonce: self.nonce }));
        }
        pings
    }

    /// This member acted `lateness` later than it should have (its process or host stood still):
    /// the silence of that time is its own.
    pub(crate) fn excuse(&mut self, now: Time, lateness: Duration) {
        for watch in self.watches.values_mut() {
            watch.excuse(now, lateness);
        }
    }

    /// Judges everyone, if anything happened that may change a verdict.
    pub(crate) fn judge(&mut self, now: Time) -> Vec<Judged> {
        let mut judged = Vec::new();
        if now < self.judge_at {
            return judged;
        }
        self.mind_changed = true;
        // A verdict may rest on others' verdicts; four rounds settle what is not a riddle.
        for _ in 0..4 {
            let round = self.judge_once(now);
            if round.is_empty() {
                break;
            }
            judged.extend(round);
        }
        let next = self.watches.values().filter_map(|watch| watch.next_change(now, &self.timing)).min();
        self.judge_at = next.unwrap_or(Time::NEVER);
        judged
    }

    /// Whether own doubts may have changed since this was last asked.
    pub(crate) fn take_mind_changed(&mut self) -> bool {
        std::mem::take(&mut self.mind_changed)
    }

    /// Whether somebody is lost, or is not any more, since this was last asked.
    pub(crate) fn take_lost_changed(&mut self) -> bool {
        std::mem::take(&mut self.lost_changed)
    }

    /// Whether most doubt a member and it does not answer.
    pub(crate) fn is_lost(&self, member: MemberId) -> bool {
        self.watches.get(&member).is_some_and(|watch| watch.lost)
    }

    /// Whom this member doubts itself, and the incarnation that it doubts.
    pub(crate) fn own_doubts(&self) -> impl Iterator<Item = (MemberId, u64)> {
        let incarnation = |watch: &Watch| watch.entry.map_or(0, |(incarnation, _)| incarnation);
        self.watches
            .iter()
            .filter(|(_, watch)| watch.doubt)
            .map(move |(member, watch)| (*member, incarnation(watch)))
    }

    /// Whether this member doubts that one itself.
    pub(crate) fn doubts(&self, member: MemberId) -> bool {
        self.watches.get(&member).is_some_and(|watch| watch.doubt)
    }

    /// The verdict on a member and since when it stands.
    pub(crate) fn state(&self, member: MemberId) -> Option<(State, Time)> {
        self.watches.get(&member).map(|watch| (watch.state, watch.since))
    }

    pub(crate) fn next_deadline(&self) -> Time {
        self.ping_at.min(self.judge_at)
    }

    fn judge_once(&mut self, now: Time) -> Vec<Judged> {
        let states: BTreeMap<MemberId, State> =
            self.watches.iter().map(|(member, watch)| (*member, watch.state)).collect();
        let alive = states.values().filter(|state| **state == State::Alive).count();
        let reachable = |by: &MemberId| matches!(states.get(by), Some(State::Alive | State::Suspect));
        let mut judged = Vec::new();
        for (member, watch) in &mut self.watches {
            if matches!(watch.state, State::Revoked | State::Expired) {
                continue;
            }
            let hearsay = Hearsay {
                confirmations: watch.standing_doubts().filter(|by| reachable(by)).count(),
                others: alive - usize::from(watch.state == State::Alive),
            };
            let to = watch.judge(now, hearsay, &self.timing);
            judged.extend(watch.enter(now, to).map(|from| Judged { member: *member, from, to }));
            self.lost_changed |= watch.look_for_answer(now, hearsay, &self.timing);
        }
        judged
    }
}
