//! The binding cache of a home agent (RFC 6275, 9.1): which updates to believe, and which care-of
//! addresses are proved and alive.
//!
//! # Calling contract
//!
//! 1. Feed each [`Input`] as it happens, with the time. [`Input::Heard`] only for what the tunnel's
//!    key has authenticated and its replay window let through.
//! 2. Drain [`Cache::poll_output`] after each input, in order: a key is installed before the
//!    acknowledgement that tells it leaves.
//! 3. Sleep until [`Cache::next_deadline`] at most; then feed [`Input::Timer`].
//!
//! After [`Output::Changed`], [`Cache::bindings`] has other care-of addresses in use.
//!
//! # The life of a binding
//!
//! | | begins | ends |
//! |---|---|---|
//! | unproved | an update with a care-of address that is not the one in use | its cookie comes back |
//! | up | its cookie came back, or two probes in a row were answered; or the member greets from a new binding for an address that another of its bindings has proved | three probes in a row were not |
//! | lost | three probes in a row were not answered | two were, or a cookie came back |
//!
//! All end with the lifetime. While a new care-of address is unproved the old one stays in use, as
//! long as it answers: a node that moves announces the new one before it leaves the old (make before
//! break).
//!
//! A home agent that starts knows no binding. It should draw no traffic before [`Cache::settled_at`],
//! when all nodes have had time to register.

mod entry;
mod io;

pub use io::{Binding, Counts, Input, Output, State};

use super::message::{BindingAcknowledgement, BindingUpdate, Status, TUNNELS_MAX};
use super::path::{Pace, Path, Step};
use super::{Anchor, BindingId, CareOf, HomeAddress, Incarnation, Lifetime, Order};
use crate::key::MemberId;
use crate::time::Time;
use crate::tunnel::{Control, Cookie, KeyId, Secret, TunnelKey};
use entry::{Allowance, Entry, Place, Proof};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// Most bindings that a home agent holds: 512 members with [`super::CARE_OFS_MAX`] care-of addresses each.
pub const BINDINGS_MAX: usize = 4096;

/// So many packets go to an address that has not proved itself, for each update that was accepted.
pub const PROOF_TRIES: u8 = 3;

/// How long a key is used before another one takes its place.
const KEY_LIFE: Duration = Duration::from_secs(60);
/// How long packets under the key before are still accepted: some are on their way.
const KEY_GRACE: Duration = Duration::from_secs(10);

/// A translator's new mapping is looked into no more often than this.
const FOLLOW_PAUSE: Duration = Duration::from_secs(1);

/// Acting so much later than asked for means that this process stood still.
const LATE_MIN: Duration = Duration::from_millis(150);

/// The machine. See the module for how to call it. What one process has written down of it another one
/// on the same host may go on with, at the same clock: the life of the home agent goes on.
#[derive(Debug, Serialize, Deserialize)]
pub struct Cache {
    secret: Secret,
    incarnation: Incarnation,
    pace: Pace,
    settled_at: Time,
    /// Where it receives what nodes send.
    tunnels: Vec<SocketAddr>,
    allowed: BTreeSet<(HomeAddress, MemberId)>,
    entries: BTreeMap<Anchor, Entry>,
    /// The highest order accepted, of bindings that ended too.
    floors: BTreeMap<Anchor, Order>,
    keys: BTreeMap<KeyId, Anchor>,
    allowances: BTreeMap<Anchor, Allowance>,
    wakes: BTreeSet<(Time, Anchor)>,
    /// So many numbers were given to keys and cookies: none twice.
    numbers: u32,
    /// Probes from before this time are not held against anybody.
    excused: Time,
    #[serde(skip)]
    counts: Counts,
    #[serde(skip)]
    outputs: VecDeque<Output>,
}

impl Cache {
    /// An empty one. `secret` and `incarnation` are drawn anew for each start, from a source that
    /// nobody can guess.
    pub fn new(now: Time, secret: Secret, incarnation: Incarnation, pace: Pace) -> Cache {
        Cache {
            secret,
            incarnation,
            pace,
            settled_at: now + Lifetime::DEFAULT.duration(),
            tunnels: Vec::new(),
            allowed: BTreeSet::new(),
            entries: BTreeMap::new(),
            floors: BTreeMap::new(),
            keys: BTreeMap::new(),
            allowances: BTreeMap::new(),
            wakes: BTreeSet::new(),
            numbers: 0,
            excused: Time::default(),
            counts: Counts::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Nodes are told from now on that packets through the tunnel are received there, best first; of more
    /// than [`TUNNELS_MAX`] the first.
    pub fn receive_at(&mut self, mut tunnels: Vec<SocketAddr>) {
        tunnels.truncate(TUNNELS_MAX);
        self.tunnels = tunnels;
    }

    /// Takes note of what happened.
    pub fn handle(&mut self, now: Time, input: Input) {
        if self.next_deadline().is_some_and(|deadline| now.since(deadline) > LATE_MIN) {
            self.excused = now;
        }
        match input {
            Input::Allowed(allowed) => self.allow(allowed),
            Input::Update { from, update } => self.update(now, from, update),
            Input::Heard { key, from, control } => self.heard(now, key, from, control),
            Input::Worn(key) => self.worn(key),
            Input::Timer => {}
        }
        self.pass_time(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to feed [`Input::Timer`] at the latest.
    pub fn next_deadline(&self) -> Option<Time> {
        self.wakes.first().map(|(time, _)| *time)
    }

    /// When every node that is there has had time to register.
    pub fn settled_at(&self) -> Time {
        self.settled_at
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// All bindings, by member.
    pub fn bindings(&self) -> impl Iterator<Item = Binding<'_>> {
        self.entries.iter().map(|(anchor, entry)| Binding {
            anchor: *anchor,
            homes: &entry.homes,
            care_of: entry.place.as_ref().map(|place| place.address),
            key: entry.key,
            state: entry.state(),
            service: entry.service,
            priority: entry.priority,
            capabilities: entry.capabilities,
            expires: entry.expires,
        })
    }

    fn allow(&mut self, allowed: BTreeSet<(HomeAddress, MemberId)>) {
        self.allowed = allowed;
        let anchors: Vec<Anchor> = self.entries.keys().copied().collect();
        for anchor in anchors {
            self.change(anchor, |cache, entry| {
                entry.homes = cache.permitted(anchor.member, &entry.asked);
            });
            if self.entries.get(&anchor).is_some_and(|entry| entry.homes.is_empty()) {
                self.remove(anchor);
            }
        }
        // Room for others, of those who may serve nothing any more.
        if self.floors.len() > BINDINGS_MAX / 2 {
            let members: BTreeSet<MemberId> = self.allowed.iter().map(|(_, member)| *member).collect();
            self.floors.retain(|anchor, _| members.contains(&anchor.member));
        }
    }

    fn update(&mut self, now: Time, from: MemberId, update: BindingUpdate) {
        if update.check().is_err() {
            self.counts.malformed += 1;
            return;
        }
        let anchor = Anchor { member: from, id: update.id };
        if !self.may_speak(now, anchor) {
            self.counts.too_often += 1;
            return;
        }
        let status = self.judge(anchor, &update);
        let count = match status {
            Status::Accepted => &mut self.counts.accepted,
            Status::Prohibited => &mut self.counts.prohibited,
            Status::Full => &mut self.counts.full,
            Status::OutOfOrder => &mut self.counts.out_of_order,
            Status::OtherIncarnation => &mut self.counts.other_incarnation,
        };
        *count += 1;
        let order = match status {
            Status::OutOfOrder => self.floors.get(&anchor).copied().unwrap_or_default(),
            _ => update.order,
        };
        let mut acknowledgement = BindingAcknowledgement {
            id: update.id,
            incarnation: self.incarnation,
            order,
            status,
            lifetime: Lifetime::NONE,
            refused: Vec::new(),
            key: None,
            tunnels: self.tunnels.clone(),
        };
        if status == Status::Accepted {
            self.floors.insert(anchor, order);
            if update.lifetime == Lifetime::NONE {
                self.remove(anchor);
            } else {
                acknowledgement.lifetime = update.lifetime.min(Lifetime::MAX);
                let homes = self.permitted(from, &update.homes);
                acknowledgement.refused =
                    update.homes.iter().filter(|home| !homes.contains(home)).copied().collect();
                self.bind(now, anchor, homes, update);
                let key = self.entries[&anchor].key;
                acknowledgement.key = Some(TunnelKey::derive(&self.secret, &anchor, key.0));
            }
        }
        self.outputs.push_back(Output::Acknowledge { to: from, acknowledgement });
    }

    /// What becomes of an update; changes nothing.
    fn judge(&self, anchor: Anchor, update: &BindingUpdate) -> Status {
        if update.incarnation != Some(self.incarnation) {
            return Status::OtherIncarnation;
        }
        let ends = update.lifetime == Lifetime::NONE;
        if !ends && self.permitted(anchor.member, &update.homes).is_empty() {
            return Status::Prohibited;
        }
        match self.floors.get(&anchor) {
            Some(floor) if update.order <= *floor => Status::OutOfOrder,
            // Nothing was bound: nothing to end, and nothing to remember.
            None if ends => Status::Prohibited,
            None if self.floors.len() >= BINDINGS_MAX => Status::Full,
            // So near the end numbers could be used twice: two for each update.
            _ if self.numbers >= u32::MAX - 2 => Status::Full,
            _ => Status::Accepted,
        }
    }

    fn permitted(&self, member: MemberId, homes: &[HomeAddress]) -> Vec<HomeAddress> {
        homes.iter().filter(|home| self.allowed.contains(&(**home, member))).copied().collect()
    }

    /// The rate is each binding's own (RFC 6275, 12 has it for a home address): a name that drains and comes
    /// back changes all bindings of its node at once, and none of them may wait for the others.
    fn may_speak(&mut self, now: Time, anchor: Anchor) -> bool {
        if self.allowances.len() >= BINDINGS_MAX {
            self.allowances.retain(|_, allowance| allowance.full_at > now);
        }
        if self.allowances.len() >= BINDINGS_MAX && !self.allowances.contains_key(&anchor) {
            return false;
        }
        self.allowances.entry(anchor).or_insert(Allowance { full_at: now }).take(now)
    }

    fn bind(&mut self, now: Time, anchor: Anchor, homes: Vec<HomeAddress>, update: BindingUpdate) {
        // Another process: what was proved of the one before says nothing of it, and its key is lost.
        let known = self.entries.get(&anchor).filter(|entry| entry.epoch == update.order.epoch);
        let same = known.is_some();
        let young = known.filter(|entry| now.since(entry.key_since) < KEY_LIFE).map(|entry| entry.key);
        let key = young.unwrap_or_else(|| self.install(anchor));
        let expires = now + update.lifetime.min(Lifetime::MAX).duration();
        if !self.entries.contains_key(&anchor) {
            let entry = Entry {
                asked: Vec::new(),
                homes: Vec::new(),
                care_of: update.care_of,
                capabilities: update.capabilities,
                priority: update.priority,
                service: update.service,
                epoch: update.order.epoch,
                expires,
                key,
                key_since: now,
                before: None,
                place: None,
                proof: None,
                followed: None,
                wake: expires,
            };
            self.wakes.insert((entry.wake, anchor));
            self.entries.insert(anchor, entry);
        }
        self.change(anchor, |cache, entry| {
            if entry.key != key {
                if let Some((older, _)) = entry.before.replace((entry.key, now + KEY_GRACE)) {
                    cache.retire(older);
                }
                (entry.key, entry.key_since) = (key, now);
            }
            if !same {
                entry.place = None;
            }
            entry.asked = update.homes;
            entry.homes = homes;
            entry.care_of = update.care_of;
            entry.capabilities = update.capabilities;
            entry.priority = update.priority;
            entry.service = update.service;
            entry.epoch = update.order.epoch;
            entry.expires = expires;
            let address = match update.care_of {
                CareOf::At(address) => Some(address),
                CareOf::Observed => None,
            };
            let in_use = entry.place.as_ref().filter(|place| place.path.is_up());
            let proved = in_use.is_some_and(|place| address.is_none_or(|address| address == place.address));
            entry.proof = if proved { None } else { Some(cache.proof(anchor, address)) };
        });
    }

    fn proof(&mut self, anchor: Anchor, address: Option<SocketAddr>) -> Proof {
        let number = self.next_number();
        Proof { address, cookie: Cookie::derive(&self.secret, &anchor, number), tries: 0 }
    }

    /// They begin anywhere, so that home agents rarely name two keys alike.
    fn next_number(&mut self) -> u32 {
        self.numbers += 1;
        (self.incarnation.0 as u32).wrapping_add(self.numbers)
    }

    fn install(&mut self, anchor: Anchor) -> KeyId {
        let number = self.next_number();
        let key = TunnelKey::derive(&self.secret, &anchor, number);
        let id = key.id;
        self.keys.insert(id, anchor);
        self.outputs.push_back(Output::Install { anchor, key });
        id
    }

    fn retire(&mut self, key: KeyId) {
        if self.keys.remove(&key).is_some() {
            self.outputs.push_back(Output::Retire(key));
        }
    }

    fn worn(&mut self, key: KeyId) {
        let Some(anchor) = self.keys.get(&key) else { return };
        // The next refresh brings another; a binding lives shorter than what is left of a counter.
        if let Some(entry) = self.entries.get_mut(anchor).filter(|entry| entry.key == key) {
            entry.key_since = Time::default();
        }
    }

    fn heard(&mut self, now: Time, key: KeyId, from: SocketAddr, control: Option<Control>) {
        let Some(anchor) = self.keys.get(&key).copied() else { return };
        self.change(anchor, |cache, entry| {
            match control {
                Some(Control::Hello) => cache.challenge(now, anchor, entry, from),
                Some(Control::Echo(cookie)) => cache.echoed(now, entry, cookie),
                Some(Control::Alive(number)) => {
                    if let Some(place) = &mut entry.place {
                        place.path.answered(number, &cache.pace);
                    }
                    cache.follow(now, anchor, entry, from);
                }
                None => cache.follow(now, anchor, entry, from),
                Some(Control::Direct(number)) => cache.came_directly(entry, from, number),
                // Said by home agents only.
                Some(Control::Cookie(_) | Control::Probe(_) | Control::Seen { .. }) => {}
            }
        });
    }

    /// Sends the cookie to the address that is to be proved. Where another binding of the same process has
    /// proved it, it is in use meanwhile: that the node greets shows that it has the key.
    fn challenge(&mut self, now: Time, anchor: Anchor, entry: &mut Entry, from: SocketAddr) {
        let Some(proof) = &mut entry.proof else { return };
        if proof.tries >= PROOF_TRIES {
            return;
        }
        // Where a packet came from is not believed; it is where the next one goes.
        let to = *proof.address.get_or_insert(from);
        proof.tries += 1;
        self.outputs.push_back(Output::Send { key: entry.key, to, control: Control::Cookie(proof.cookie) });
        if !entry.uses(to) && self.is_proved(anchor.member, entry.epoch, to) {
            entry.place = Some(Place { address: to, path: Path::new(now), proved: false });
        }
    }

    /// Whether a binding of this process of a member has proved an address with a cookie of its own, and its
    /// last probe was answered. What others have proved is no proof for third ones, or two bindings could
    /// keep each other alive at an address where nobody receives.
    fn is_proved(&self, member: MemberId, epoch: u32, address: SocketAddr) -> bool {
        let all = Anchor { member, id: BindingId(0) }..=Anchor { member, id: BindingId(u8::MAX) };
        self.entries.range(all).any(|(_, entry)| {
            let place = entry.place.as_ref().filter(|place| place.address == address && place.proved);
            entry.epoch == epoch && place.is_some_and(|place| place.path.is_well())
        })
    }

    fn echoed(&mut self, now: Time, entry: &mut Entry, cookie: Cookie) {
        let asked = entry.proof.take_if(|proof| proof.cookie == cookie && proof.tries > 0);
        let Some(address) = asked.and_then(|proof| proof.address) else {
            self.counts.wrong_cookies += 1;
            return;
        };
        self.counts.proved += 1;
        match &mut entry.place {
            Some(place) if place.address == address && place.path.is_up() => place.proved = true,
            _ => entry.place = Some(Place { address, path: Path::new(now), proved: true }),
        }
    }

    /// A node speaks from a home address that it serves: it is told, where it is proved to receive.
    fn came_directly(&mut self, entry: &Entry, from: SocketAddr, number: u32) {
        let home = HomeAddress(from.ip().to_canonical());
        let Some(place) = entry.place.as_ref().filter(|_| entry.homes.contains(&home)) else { return };
        let control = Control::Seen { home, number };
        self.outputs.push_back(Output::Send { key: entry.key, to: place.address, control });
    }

    /// A node behind a translator speaks from elsewhere: its mapping may have changed.
    fn follow(&mut self, now: Time, anchor: Anchor, entry: &mut Entry, from: SocketAddr) {
        let elsewhere = entry.place.as_ref().is_some_and(|place| place.address != from);
        let rested = entry.followed.is_none_or(|last| now.since(last) >= FOLLOW_PAUSE);
        if entry.care_of != CareOf::Observed || !elsewhere || !rested || self.numbers >= u32::MAX - 2 {
            return;
        }
        entry.followed = Some(now);
        entry.proof = Some(self.proof(anchor, Some(from)));
        self.challenge(now, anchor, entry, from);
    }

    /// Changes an entry, and says so where others see it.
    fn change(&mut self, anchor: Anchor, how: impl FnOnce(&mut Cache, &mut Entry)) {
        let Some(mut entry) = self.entries.remove(&anchor) else { return };
        let face = entry.face();
        how(self, &mut entry);
        self.wakes.remove(&(entry.wake, anchor));
        entry.wake = entry.due();
        self.wakes.insert((entry.wake, anchor));
        if entry.face() != face {
            self.changed();
        }
        self.entries.insert(anchor, entry);
    }

    fn remove(&mut self, anchor: Anchor) {
        let Some(entry) = self.entries.remove(&anchor) else { return };
        self.wakes.remove(&(entry.wake, anchor));
        self.retire(entry.key);
        if let Some((before, _)) = entry.before {
            self.retire(before);
        }
        if entry.place.is_some() {
            self.changed();
        }
    }

    /// Once for all that changes in one step.
    fn changed(&mut self) {
        if !self.outputs.contains(&Output::Changed) {
            self.outputs.push_back(Output::Changed);
        }
    }

    fn pass_time(&mut self, now: Time) {
        while let Some((_, anchor)) = self.wakes.first().copied().filter(|(due, _)| *due <= now) {
            if self.entries.get(&anchor).is_some_and(|entry| entry.expires <= now) {
                self.counts.expired += 1;
                self.remove(anchor);
                continue;
            }
            self.change(anchor, |cache, entry| {
                if let Some((before, _)) = entry.before.take_if(|(_, until)| *until <= now) {
                    cache.retire(before);
                }
                let Some(place) = &mut entry.place else { return };
                let (number, lost) = match place.path.step(now, &cache.pace, cache.excused) {
                    Step::Wait => return,
                    Step::Probe(number) => (number, false),
                    Step::Lost(number) => (number, true),
                };
                cache.counts.lost += u64::from(lost);
                let control = Control::Probe(number);
                cache.outputs.push_back(Output::Send { key: entry.key, to: place.address, control });
            });
        }
    }
}
