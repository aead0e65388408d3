//! How records come to be held by every member.
//!
//! A record is *offered* by a peer, by the shell or by the member itself. It is compared with what
//! is held, judged ([`judge`]) and, if it holds and is higher, put into the set ([`set`]) and
//! passed on: heads to every connected peer, soft state to a few random ones. That is fast and may
//! lose something; reconciliation ([`reconcile`]) with a random peer every two seconds finds what
//! was lost. A record that rests on a member not known yet is kept back for a while
//! ([`holdback`]).
//!
//! Nothing is verified twice: what is held is recognised by its rank, which contains its hash.

mod directory;
mod holdback;
mod judge;
mod message;
mod reconcile;
mod set;

pub(crate) use directory::{Directory, Membership};
pub(crate) use judge::Fault;
pub(crate) use message::Message;
pub(crate) use set::{LIFETIME_MAX, RecordSet, Standing};

use crate::key::{MemberId, NetworkId};
use crate::random::Random;
use crate::record::{Key, Record};
use crate::stats::{Counters, Refused};
use crate::time::Time;
use crate::wire::{self, RECORD_LEN_MAX};
use holdback::HoldBack;
use message::Carried;
use set::Kind;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Something changed in the set.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    /// A record was accepted; it replaced another one, if any.
    Accepted {
        /// Its register.
        key: Key,
        /// What it replaced.
        previous: Option<Record>,
        /// Who sent it; `None` for own ones and those submitted here.
        from: Option<MemberId>,
    },
    /// A record left the set and nothing took its place.
    Removed {
        /// Its register.
        key: Key,
        /// What it was.
        record: Record,
    },
    /// A record was refused for a reason worth telling.
    Refused {
        /// Who sent it.
        from: Option<MemberId>,
        /// Its register.
        key: Key,
        /// Why.
        why: Refused,
    },
}

/// Why an offered record was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// It is not higher than what is known.
    Standing(Standing),
    /// It does not hold.
    Fault(Fault),
    /// It was too old when it came.
    Stale,
    /// It is longer than a record may be.
    TooLong(usize),
    /// There are too many of its kind.
    Full,
}

impl Rejection {
    pub(crate) fn refused(&self) -> Refused {
        match self {
            Rejection::Standing(Standing::Ended) => Refused::Forgotten,
            Rejection::Standing(Standing::Lower) => Refused::Lower,
            Rejection::Standing(Standing::Same | Standing::Higher) => Refused::Duplicate,
            Rejection::Fault(fault) => fault.refused(),
            Rejection::Stale => Refused::Stale,
            Rejection::TooLong(_) => Refused::Bounds,
            Rejection::Full => Refused::Full,
        }
    }
}

/// The record set and its ways in and out.
#[derive(Debug)]
pub(crate) struct Spread {
    network: NetworkId,
    own: MemberId,
    fan_out: usize,
    reconcile_period: Duration,
    set: RecordSet,
    directory: Directory,
    holdback: HoldBack,
    /// Whether a member came since what is held back was last offered.
    member_came: bool,
    peers: BTreeSet<MemberId>,
    /// What each peer is to be sent at the end of this turn.
    outbox: BTreeMap<MemberId, BTreeSet<Key>>,
    messages: VecDeque<(MemberId, Message)>,
    effects: VecDeque<Effect>,
    reconcile_at: Time,
    random: Random,
    pub(crate) counters: Counters,
}

impl Spread {
    pub(crate) fn new(
        now: Time,
        network: NetworkId,
        own: MemberId,
        fan_out: usize,
        reconcile_period: Duration,
        seed: u64,
    ) -> Spread {
        let mut random = Random::new(seed);
        let reconcile_at = now + random.around(reconcile_period);
        Spread {
            network,
            own,
            fan_out,
            reconcile_period,
            set: RecordSet::new(),
            directory: Directory::default(),
            holdback: HoldBack::default(),
            member_came: false,
            peers: BTreeSet::new(),
            outbox: BTreeMap::new(),
            messages: VecDeque::new(),
            effects: VecDeque::new(),
            reconcile_at,
            random,
            counters: Counters::default(),
        }
    }

    pub(crate) fn set(&self) -> &RecordSet {
        &self.set
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Offers what is old news to nobody: made here, submitted here, or loaded.
    pub(crate) fn offer_own(&mut self, now: Time, record: Record) -> Result<(), Rejection> {
        let result = self.offer(now, Carried { record, age_ms: 0 }, None);
        self.retry_held_back(now);
        result
    }

    /// There is a connection: begin to reconcile, from one side.
    pub(crate) fn peer_up(&mut self, peer: MemberId) {
        self.peers.insert(peer);
        if self.own < peer {
            self.reconcile_with(peer);
        }
    }

    pub(crate) fn peer_down(&mut self, peer: MemberId) {
        self.peers.remove(&peer);
        self.outbox.remove(&peer);
        self.messages.retain(|(to, _)| *to != peer);
    }

    /// Takes a message about records; pings are not for here.
    pub(crate) fn message(&mut self, now: Time, from: MemberId, message: Message) {
        match message {
            // These are others' to hear.
            Message::Ping { .. } | Message::Pong { .. } | Message::Coming(_) => {}
            Message::Push { records, more } => {
                for carried in records {
                    // Counted, and told where that is worth it.
                    let _ = self.offer(now, carried, Some(from));
                }
                self.retry_held_back(now);
                if more {
                    self.reconcile_with(from);
                }
            }
            Message::Summary { sum } => {
                let answer = reconcile::buckets(&self.set, sum);
                self.counters.differences += u64::from(answer.is_some());
                self.messages.extend(answer.map(|message| (from, message)));
            }
            Message::Buckets { sums } => {
                let first = self.random.next() as u8;
                let listings = reconcile::listings(&self.set, &sums, first);
                self.messages.extend(listings.into_iter().map(|message| (from, message)));
            }
            Message::Listing { buckets, items } => {
                let wanted = |key: &Key| self.has_room(key);
                let answers = reconcile::compare(now, &self.set, buckets, items, wanted);
                self.messages.extend(answers.into_iter().map(|message| (from, message)));
            }
            Message::Want { keys } => {
                let pushes = reconcile::push(now, &self.set, keys);
                self.messages.extend(pushes.into_iter().map(|message| (from, message)));
            }
        }
    }

    /// Does what is due: ends lifetimes, reconciles.
    pub(crate) fn tick(&mut self, now: Time) {
        for (key, held) in self.set.expire(now) {
            self.effects.push_back(Effect::Removed { key, record: held.record });
        }
        self.holdback.expire(now);
        if now >= self.reconcile_at {
            self.reconcile_at = now + self.random.around(self.reconcile_period);
            let peers: Vec<MemberId> = self.peers.iter().copied().collect();
            if let Some(peer) = self.random.sample(peers, 1).pop() {
                self.reconcile_with(peer);
            }
        }
    }

    pub(crate) fn next_deadline(&self) -> Time {
        self.set.next_end().unwrap_or(Time::NEVER).min(self.reconcile_at)
    }

    /// What changed since the last call.
    pub(crate) fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// What is to be sent.
    pub(crate) fn poll_message(&mut self, now: Time) -> Option<(MemberId, Message)> {
        if self.messages.is_empty() {
            for (peer, keys) in std::mem::take(&mut self.outbox) {
                let pushes = reconcile::push(now, &self.set, keys);
                self.messages.extend(pushes.into_iter().map(|message| (peer, message)));
            }
        }
        self.messages.pop_front()
    }

    /// Drops what a member that is none any more has said, and what was said of it.
    pub(crate) fn drop_soft_state(&mut self, now: Time, member: MemberId) {
        let concerns = |key: &Key| match key {
            Key::Roster(by) | Key::Observations(by) | Key::Statement { by, .. } => *by == member,
            Key::Suspicion { by, of } => *by == member || *of == member,
            Key::Member(_) | Key::Revocation(_) | Key::Site(_) | Key::Order(_) | Key::Address(_) => false,
        };
        let keys: Vec<Key> =
            self.set.iter().map(|(key, _)| key).filter(|key| concerns(key)).cloned().collect();
        for key in keys {
            self.remove(now, &key);
        }
    }

    fn offer(&mut self, now: Time, carried: Carried, from: Option<MemberId>) -> Result<(), Rejection> {
        let key = carried.record.key();
        let result = self.try_accept(now, carried, from);
        if let Err(rejection) = &result {
            let why = rejection.refused();
            self.counters.refuse(why);
            if !why.is_usual() {
                self.effects.push_back(Effect::Refused { from, key, why });
            }
        }
        result
    }

    /// Offers again what waits for members, as long as members come of it.
    fn retry_held_back(&mut self, now: Time) {
        while std::mem::take(&mut self.member_came) {
            for (carried, from) in self.holdback.take(now) {
                let _ = self.offer(now, carried, from);
            }
        }
    }

    fn try_accept(&mut self, now: Time, carried: Carried, from: Option<MemberId>) -> Result<(), Rejection> {
        let bytes = wire::encode(&carried.record);
        if bytes.len() > RECORD_LEN_MAX {
            return Err(Rejection::TooLong(bytes.len()));
        }
        let (key, rank) = (carried.record.key(), carried.record.rank_of(&bytes));
        let standing = self.set.standing(&key, rank);
        if standing != Standing::Higher {
            return Err(Rejection::Standing(standing));
        }
        let birth = now - Duration::from_millis(carried.age_ms.into());
        if carried.record.lifetime().is_some_and(|lifetime| birth + lifetime <= now) {
            return Err(Rejection::Stale);
        }
        if !self.has_room(&key) {
            return Err(Rejection::Full);
        }
        // The cheap half first: what would be kept back is not worth a signature yet.
        let context = judge::contextual(now, self.own, &self.set, &self.directory, &carried.record);
        if let Err(fault) = context {
            if fault == Fault::Unknown {
                self.holdback.keep(now, key, rank, bytes.len(), carried, from);
            }
            return Err(Rejection::Fault(fault));
        }
        judge::intrinsic(self.network, &carried.record).map_err(Rejection::Fault)?;
        self.accept(now, key, carried.record, rank, bytes.len(), birth, from);
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one judged record, called once")]
    fn accept(
        &mut self,
        now: Time,
        key: Key,
        record: Record,
        rank: crate::record::Rank,
        len: usize,
        birth: Time,
        from: Option<MemberId>,
    ) {
        self.counters.accepted += 1;
        let author = record.by();
        let previous = self.set.insert(key.clone(), record.clone(), rank, len, birth);
        let previous = previous.map(|held| held.record);
        self.pass_on(&key, author, from);
        if let Some(Record::Member(lost)) = &previous {
            self.directory.remove(lost);
        }
        if let Record::Member(certificate) = &record {
            self.directory.add(certificate);
        }
        let replaced = previous.is_some();
        self.effects.push_back(Effect::Accepted { key: key.clone(), previous, from });
        match Kind::of(&key) {
            Kind::Revocation => self.review_heads(now),
            Kind::Member => {
                if replaced {
                    self.review_heads(now);
                }
                self.member_came = true;
            }
            Kind::Site
            | Kind::Order
            | Kind::Roster
            | Kind::Suspicion
            | Kind::Observations
            | Kind::Statement
            | Kind::Address => {}
        }
    }

    /// Takes out the heads that do not hold any more, until all that are left do: a sponsor that
    /// falls takes along those it sponsored.
    fn review_heads(&mut self, now: Time) {
        loop {
            let fallen: Vec<Key> = self
                .set
                .iter()
                .filter(|(_, held)| held.end.is_none())
                .filter(|(_, held)| {
                    judge::contextual(now, self.own, &self.set, &self.directory, &held.record).is_err()
                })
                .map(|(key, _)| key.clone())
                .collect();
            if fallen.is_empty() {
                return;
            }
            for key in fallen {
                self.remove(now, &key);
            }
        }
    }

    fn remove(&mut self, now: Time, key: &Key) {
        let Some(held) = self.set.remove(now, key) else { return };
        if let Record::Member(certificate) = &held.record {
            self.directory.remove(certificate);
        }
        self.effects.push_back(Effect::Removed { key: key.clone(), record: held.record });
    }

    /// Queues a new record for peers: a head for all, own soft state for all, others' for a few.
    fn pass_on(&mut self, key: &Key, author: Option<MemberId>, from: Option<MemberId>) {
        let mut peers: Vec<MemberId> =
            self.peers.iter().copied().filter(|peer| Some(*peer) != from && Some(*peer) != author).collect();
        if author.is_some_and(|author| author != self.own) {
            // Where nearly everyone is connected with everyone, the author has told them itself.
            let meshed = (self.peers.len() + 1) * 4 >= self.directory.len() * 3;
            let fan_out = if meshed { self.fan_out.div_ceil(2) } else { self.fan_out };
            peers = self.random.sample(peers, fan_out);
        }
        for peer in peers {
            self.outbox.entry(peer).or_default().insert(key.clone());
        }
    }

    fn reconcile_with(&mut self, peer: MemberId) {
        self.counters.reconciliations += 1;
        self.messages.push_back((peer, reconcile::summary(&self.set)));
    }

    /// Whether one more record may be held under this key. Of suspicions, one member may hold as
    /// many as there are members.
    fn has_room(&self, key: &Key) -> bool {
        let kind = Kind::of(key);
        self.set.get(key).is_some() || self.set.count(kind) < kind.count_max()
    }
}
