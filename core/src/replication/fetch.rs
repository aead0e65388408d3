//! Wants, holders and batches: what is fetched from whom, and what happens when it fails.
//!
//! A want is one object that the store lacks, with those who need it: sites, readers who demand it
//! now, or a version to come of which a member has announced it. Wants are fetched in batches; a batch
//! goes to one holder. Demanded objects go first, then blocks (they lead to more), then the rest, in
//! the order in which they were found, and at last what was announced early.
//!
//! A holder may be busy ([`HOLDER_BATCHES`]), failing (left alone, longer each time), or lack an
//! object (it is not asked for that one again until all others were). When nobody has an object,
//! all are asked again after a pause.

use super::{Event, Output};
use crate::content::ObjectId;
use crate::content::tree::Reference;
use crate::key::MemberId;
use crate::name::SiteName;
use crate::time::Time;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::Duration;

/// The most objects in a batch: one stream serves many small ones without a round trip for each.
pub const BATCH_OBJECTS: usize = 128;
/// About the most bytes in a batch; a larger object is a batch of its own.
pub const BATCH_BYTES: u64 = 4 << 20;
/// How long a batch may be without any progress before it counts as failed.
pub const SILENCE_MAX: Duration = Duration::from_secs(20);
/// The most objects that may be demanded at a time; one more is answered as not found.
pub const DEMANDS_MAX: usize = 4096;

/// The most objects that are wanted before their version is there.
pub const EARLY_OBJECTS_MAX: usize = 16_384;

/// Batches in flight from one holder: enough to fill a path of 300 ms while one is being stored.
const HOLDER_BATCHES: usize = 4;
/// Batches in flight from all.
const BATCHES_MAX: usize = 16;
/// Urgent batches may exceed both by so many.
const URGENT_EXTRA: usize = 8;
/// A busy near holder is as good as an idle one so many places farther away, per batch in flight.
const BUSY_COST: usize = 2;
/// How long a holder is left alone after it failed once; doubled each time …
const HOLDER_PAUSE: Duration = Duration::from_millis(500);
/// … up to this.
const HOLDER_PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long an object that nobody has is left alone; doubled each time …
const OBJECT_PAUSE: Duration = Duration::from_secs(1);
/// … up to this.
const OBJECT_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Names a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BatchId(pub u64);

/// An object to be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The object.
    pub id: ObjectId,
    /// About its length, for planning; it may be wrong.
    pub len_hint: u64,
}

/// An object that came, and who wanted it.
pub(super) struct Resolved {
    pub(super) id: ObjectId,
    pub(super) sites: BTreeSet<SiteName>,
    pub(super) demanded: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Priority {
    Demanded,
    Block,
    Leaf,
    Early,
}

/// The order of wants: by priority, then by age.
type Rank = (Priority, u64, ObjectId);

struct Want {
    len_hint: u64,
    priority: Priority,
    /// Counts wants: the order within a priority.
    order: u64,
    sites: BTreeSet<SiteName>,
    /// Those named by who demands it.
    demand: Option<Vec<MemberId>>,
    /// Who has announced it.
    early: Option<MemberId>,
    /// Holders that said they lack it.
    lacking: BTreeSet<MemberId>,
    /// How often all holders lacked it.
    rounds: u32,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Ready,
    Paused(Time),
    InFlight(BatchId),
}

#[derive(Default)]
struct Holder {
    in_flight: usize,
    failures: u32,
    paused_until: Time,
}

struct Batch {
    holder: MemberId,
    objects: BTreeSet<ObjectId>,
    urgent: bool,
    last_progress: Time,
}

#[derive(Default)]
pub(super) struct Fetcher {
    wants: BTreeMap<ObjectId, Want>,
    ready: BTreeSet<Rank>,
    paused: BTreeSet<(Time, ObjectId)>,
    demands: usize,
    /// How many were announced early, by whom.
    early: BTreeMap<MemberId, usize>,
    /// Who holds each site, the nearest first.
    sources: BTreeMap<SiteName, Vec<MemberId>>,
    /// The members that can be fetched from.
    holders: BTreeMap<MemberId, Holder>,
    batches: BTreeMap<BatchId, Batch>,
    next_batch: u64,
    next_order: u64,
}

impl Fetcher {
    pub(super) fn set_sources(&mut self, site: SiteName, holders: Vec<MemberId>) {
        if self.sources.get(&site).map_or(&[][..], Vec::as_slice) == holders {
            return;
        }
        // Somebody new may have what nobody had.
        let again = self.wants.iter().filter(|(_, want)| want.sites.contains(&site));
        let again: Vec<ObjectId> = again.map(|(id, _)| *id).collect();
        for id in again {
            self.unpause(id);
        }
        if holders.is_empty() {
            self.sources.remove(&site);
        } else {
            self.sources.insert(site, holders);
        }
    }

    pub(super) fn peer_up(&mut self, peer: MemberId) {
        self.holders.entry(peer).or_default();
        let again: Vec<ObjectId> = self.paused.iter().map(|(_, id)| *id).collect();
        again.into_iter().for_each(|id| self.unpause(id));
    }

    pub(super) fn peer_down(&mut self, peer: MemberId, outputs: &mut VecDeque<Output>) {
        self.holders.remove(&peer);
        let gone: Vec<BatchId> =
            self.batches.iter().filter(|(_, batch)| batch.holder == peer).map(|(id, _)| *id).collect();
        for id in gone {
            self.release(id);
            outputs.push_back(Output::Cancel { batch: id });
        }
    }

    /// A site needs an object that is not in the store.
    pub(super) fn want(&mut self, reference: Reference, site: &SiteName) {
        let priority = if reference.role.leads_on() { Priority::Block } else { Priority::Leaf };
        self.entry(reference.id, reference.role.len_hint(), priority).sites.insert(site.clone());
    }

    /// A member has announced an object that the store lacks.
    pub(super) fn want_early(&mut self, id: ObjectId, len: u64, from: MemberId) {
        // Who announced it first is asked first; another one is not needed.
        if self.wants.get(&id).is_some_and(|want| want.early.is_some())
            || self.early.values().sum::<usize>() >= EARLY_OBJECTS_MAX
        {
            return;
        }
        *self.early.entry(from).or_insert(0) += 1;
        self.entry(id, len, Priority::Early).early = Some(from);
    }

    /// What a member has announced is not fetched for its own sake any more.
    pub(super) fn drop_early(&mut self, from: MemberId, outputs: &mut VecDeque<Output>) {
        let announced = self.wants.iter().filter(|(_, want)| want.early == Some(from));
        let announced: Vec<ObjectId> = announced.map(|(id, _)| *id).collect();
        self.early.remove(&from);
        for id in announced {
            if let Some(want) = self.wants.get_mut(&id) {
                want.early = None;
            }
            self.drop_if_unneeded(id, outputs);
        }
    }

    /// Somebody needs an object now.
    pub(super) fn demand(
        &mut self,
        id: ObjectId,
        len: u64,
        holders: Vec<MemberId>,
        outputs: &mut VecDeque<Output>,
    ) {
        let fresh = self.wants.get(&id).is_none_or(|want| want.demand.is_none());
        if fresh && self.demands >= DEMANDS_MAX {
            outputs.push_back(Output::Demanded { id, found: false });
            return;
        }
        self.demands += usize::from(fresh);
        self.entry(id, len, Priority::Demanded).demand = Some(holders);
        self.unpause(id);
    }

    pub(super) fn undemand(&mut self, id: ObjectId, outputs: &mut VecDeque<Output>) {
        let Some(want) = self.wants.get_mut(&id) else { return };
        if want.demand.take().is_some() {
            self.demands -= 1;
            self.drop_if_unneeded(id, outputs);
        }
    }

    /// Nobody needs objects for this site any more.
    pub(super) fn drop_site(&mut self, site: &SiteName, outputs: &mut VecDeque<Output>) {
        let mut touched = Vec::new();
        for (id, want) in &mut self.wants {
            if want.sites.remove(site) {
                touched.push(*id);
            }
        }
        touched.into_iter().for_each(|id| self.drop_if_unneeded(id, outputs));
    }

    fn drop_if_unneeded(&mut self, id: ObjectId, outputs: &mut VecDeque<Output>) {
        let Some(want) = self.wants.get(&id) else { return };
        if !want.sites.is_empty() || want.demand.is_some() || want.early.is_some() {
            return;
        }
        let Some(want) = self.remove(id) else { return };
        if let Place::InFlight(batch) = want.place
            && self.batches.get(&batch).is_some_and(|batch| batch.objects.is_empty())
        {
            self.release(batch);
            outputs.push_back(Output::Cancel { batch });
        }
    }

    pub(super) fn progress(&mut self, now: Time, batch: BatchId) {
        if let Some(batch) = self.batches.get_mut(&batch) {
            batch.last_progress = now;
        }
    }

    /// Objects are in the store; returns those that were wanted.
    pub(super) fn stored(&mut self, now: Time, batch: Option<BatchId>, ids: Vec<ObjectId>) -> Vec<Resolved> {
        if let Some(batch) = batch {
            self.progress(now, batch);
        }
        let resolve = |id| {
            let want = self.remove(id)?;
            self.demands -= usize::from(want.demand.is_some());
            Some(Resolved { id, sites: want.sites, demanded: want.demand.is_some() })
        };
        ids.into_iter().filter_map(resolve).collect()
    }

    pub(super) fn ended(
        &mut self,
        now: Time,
        batch: BatchId,
        missing: Vec<ObjectId>,
        failed: Option<String>,
        outputs: &mut VecDeque<Output>,
    ) {
        let Some(Batch { holder, .. }) = self.batches.get(&batch) else { return };
        let holder = *holder;
        for id in missing {
            if let Some(want) = self.wants.get_mut(&id)
                && want.place == Place::InFlight(batch)
            {
                want.lacking.insert(holder);
            }
        }
        // A batch that ends well without having brought or denied an object has failed as well.
        let left = self.batches[&batch].objects.iter();
        let unexplained =
            left.filter(|id| self.wants.get(id).is_some_and(|want| !want.lacking.contains(&holder)));
        let unexplained = unexplained.count();
        let why = failed.or_else(|| (unexplained > 0).then(|| format!("{unexplained} objects did not come")));
        self.release(batch);
        match why {
            Some(why) => self.fail(now, holder, why, outputs),
            None => {
                if let Some(holder) = self.holders.get_mut(&holder) {
                    holder.failures = 0;
                }
            }
        }
    }

    fn fail(&mut self, now: Time, id: MemberId, why: String, outputs: &mut VecDeque<Output>) {
        let Some(holder) = self.holders.get_mut(&id) else { return };
        holder.failures += 1;
        holder.paused_until = now + pause(HOLDER_PAUSE, HOLDER_PAUSE_MAX, holder.failures);
        let event = Event::HolderFailed { holder: id, why, times: holder.failures };
        outputs.push_back(Output::Note(event));
    }

    pub(super) fn timer(&mut self, now: Time, outputs: &mut VecDeque<Output>) {
        let silent = |batch: &Batch| now >= batch.last_progress + SILENCE_MAX;
        let silent: Vec<(BatchId, MemberId)> = self
            .batches
            .iter()
            .filter(|(_, batch)| silent(batch))
            .map(|(id, batch)| (*id, batch.holder))
            .collect();
        for (batch, holder) in silent {
            self.release(batch);
            outputs.push_back(Output::Cancel { batch });
            self.fail(now, holder, "nothing came for a long time".into(), outputs);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        let silence = self.batches.values().map(|batch| batch.last_progress + SILENCE_MAX);
        let paused = self.paused.first().map(|(time, _)| *time);
        // Holders that are left alone matter only when something is to be fetched.
        let holders = self.holders.values().map(|holder| holder.paused_until);
        let holders = holders.filter(|until| *until > Time::default() && !self.ready.is_empty());
        silence.chain(paused).chain(holders).min()
    }

    /// Sends out batches while there is room.
    pub(super) fn schedule(&mut self, now: Time, outputs: &mut VecDeque<Output>) {
        while let Some((time, id)) = self.paused.first().copied()
            && time <= now
        {
            self.unpause(id);
        }
        for holder in self.holders.values_mut().filter(|holder| holder.paused_until <= now) {
            holder.paused_until = Time::default();
        }
        let mut round = Round::default();
        while let Some((holder, objects, urgent)) = self.next_batch(now, &mut round, outputs) {
            let batch = BatchId(self.next_batch);
            self.next_batch += 1;
            for wanted in &objects {
                self.set_place(wanted.id, Place::InFlight(batch));
            }
            let ids = objects.iter().map(|wanted| wanted.id).collect();
            self.batches.insert(batch, Batch { holder, objects: ids, urgent, last_progress: now });
            if let Some(holder) = self.holders.get_mut(&holder) {
                holder.in_flight += 1;
            }
            outputs.push_back(Output::Fetch { batch, holder, objects, urgent });
        }
    }

    /// The first want that somebody can serve, with others that go along.
    fn next_batch(
        &mut self,
        now: Time,
        round: &mut Round,
        outputs: &mut VecDeque<Output>,
    ) -> Option<(MemberId, Vec<Wanted>, bool)> {
        loop {
            let (key, holder) = self.next_want(round)?;
            round.after = Some(key);
            match holder {
                Some(holder) => {
                    return Some((holder, self.fill(key, holder), key.0 == Priority::Demanded));
                }
                None => self.nobody_has(now, key.2, outputs),
            }
        }
    }

    /// The next want that a holder has room for, or that nobody has.
    fn next_want(&self, round: &mut Round) -> Option<(Rank, Option<MemberId>)> {
        let urgent_batches = self.batches.values().filter(|batch| batch.urgent).count();
        let ordinary_batches = self.batches.len() - urgent_batches;
        let after = round.after.map_or(Bound::Unbounded, Bound::Excluded);
        for key in self.ready.range((after, Bound::Unbounded)) {
            let (priority, _, id) = *key;
            let urgent = priority == Priority::Demanded;
            if urgent && urgent_batches >= URGENT_EXTRA {
                continue;
            }
            if !urgent && ordinary_batches >= BATCHES_MAX
                || priority == Priority::Early && self.early.keys().all(|from| round.early.contains(from))
            {
                return None;
            }
            let Some(want) = self.wants.get(&id) else { continue };
            if !urgent && round.is_busy(want) {
                continue;
            }
            match self.choose(want, urgent) {
                Choice::Holder(holder) => return Some((*key, Some(holder))),
                Choice::Nobody => return Some((*key, None)),
                Choice::Busy => round.busy(want),
            }
        }
        None
    }

    /// The want at `key` and those behind it that the same holder may have.
    fn fill(&self, key: Rank, holder: MemberId) -> Vec<Wanted> {
        let mut objects = Vec::new();
        let mut bytes = 0;
        for (priority, _, id) in self.ready.range(key..) {
            let Some(want) = self.wants.get(id) else { continue };
            let apart = (*priority == Priority::Demanded) != (key.0 == Priority::Demanded);
            let full = !objects.is_empty() && bytes + want.len_hint > BATCH_BYTES;
            if apart || full || objects.len() >= BATCH_OBJECTS {
                break;
            }
            if self.candidates(want).any(|candidate| candidate == holder) && !want.lacking.contains(&holder) {
                objects.push(Wanted { id: *id, len_hint: want.len_hint });
                bytes += want.len_hint;
            }
        }
        objects
    }

    /// Who may have what is wanted, the best first; some perhaps twice.
    fn candidates<'a>(&'a self, want: &'a Want) -> impl Iterator<Item = MemberId> + 'a {
        let demand = want.demand.iter().flatten();
        let sites = want.sites.iter().filter_map(|site| self.sources.get(site)).flatten();
        demand.chain(sites).chain(&want.early).copied()
    }

    fn choose(&self, want: &Want, urgent: bool) -> Choice {
        let limit = if urgent { HOLDER_BATCHES + URGENT_EXTRA } else { HOLDER_BATCHES };
        let mut best: Option<(usize, MemberId)> = None;
        let mut choice = Choice::Nobody;
        for (place, candidate) in self.candidates(want).enumerate() {
            if want.lacking.contains(&candidate) {
                continue;
            }
            // One who is away, busy or left alone may have it.
            choice = Choice::Busy;
            let Some(holder) = self.holders.get(&candidate) else { continue };
            if holder.paused_until > Time::default() || holder.in_flight >= limit {
                continue;
            }
            let cost = place + holder.in_flight * BUSY_COST;
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, candidate));
            }
        }
        // A reader waits: who is away now is not waited for. Nor is one who announced something.
        let no_site = want.sites.is_empty();
        match best {
            Some((_, holder)) => Choice::Holder(holder),
            None if no_site && !self.candidates(want).any(|id| self.holders.contains_key(&id)) => {
                Choice::Nobody
            }
            None if self.candidates(want).next().is_none() && !no_site => Choice::Busy,
            None => choice,
        }
    }

    /// All holders lack it: whoever demands it is told, and sites wait for a while.
    fn nobody_has(&mut self, now: Time, id: ObjectId, outputs: &mut VecDeque<Output>) {
        let Some(want) = self.wants.get_mut(&id) else { return };
        if want.demand.take().is_some() {
            self.demands -= 1;
            outputs.push_back(Output::Demanded { id, found: false });
        }
        if want.sites.is_empty() {
            self.remove(id);
            return;
        }
        want.rounds += 1;
        want.lacking.clear();
        let until = now + pause(OBJECT_PAUSE, OBJECT_PAUSE_MAX, want.rounds);
        self.set_place(id, Place::Paused(until));
        outputs.push_back(Output::Note(Event::NobodyHas { id }));
    }

    /// Ends a batch: what it did not bring is ready again.
    fn release(&mut self, id: BatchId) {
        let Some(batch) = self.batches.remove(&id) else { return };
        if let Some(holder) = self.holders.get_mut(&batch.holder) {
            holder.in_flight = holder.in_flight.saturating_sub(1);
        }
        for object in batch.objects {
            if self.wants.get(&object).is_some_and(|want| want.place == Place::InFlight(id)) {
                self.set_place(object, Place::Ready);
            }
        }
    }

    /// The want for `id`, made if there is none, at least this urgent.
    fn entry(&mut self, id: ObjectId, len_hint: u64, priority: Priority) -> &mut Want {
        let order = self.next_order;
        self.next_order += 1;
        let want = self.wants.entry(id).or_insert_with(|| Want {
            len_hint,
            priority,
            order,
            sites: BTreeSet::new(),
            demand: None,
            early: None,
            lacking: BTreeSet::new(),
            rounds: 0,
            place: Place::Ready,
        });
        if want.place == Place::Ready {
            self.ready.remove(&(want.priority, want.order, id));
            self.ready.insert((want.priority.min(priority), want.order, id));
        }
        want.priority = want.priority.min(priority);
        want.len_hint = want.len_hint.max(len_hint);
        want
    }

    fn unpause(&mut self, id: ObjectId) {
        let Some(want) = self.wants.get_mut(&id) else { return };
        want.lacking.clear();
        if matches!(want.place, Place::Paused(_)) {
            self.set_place(id, Place::Ready);
        }
    }

    fn set_place(&mut self, id: ObjectId, place: Place) {
        let Some(want) = self.wants.get_mut(&id) else { return };
        let key = (want.priority, want.order, id);
        match std::mem::replace(&mut want.place, place) {
            Place::Ready => drop(self.ready.remove(&key)),
            Place::Paused(until) => drop(self.paused.remove(&(until, id))),
            Place::InFlight(_) => {}
        }
        match place {
            Place::Ready => drop(self.ready.insert(key)),
            Place::Paused(until) => drop(self.paused.insert((until, id))),
            Place::InFlight(_) => {}
        }
    }

    fn forget_early(&mut self, from: MemberId) {
        if let Some(left) = self.early.get_mut(&from) {
            *left -= 1;
            if *left == 0 {
                self.early.remove(&from);
            }
        }
    }

    /// Takes a want away, from its batch too.
    fn remove(&mut self, id: ObjectId) -> Option<Want> {
        let want = self.wants.remove(&id)?;
        if let Some(from) = want.early {
            self.forget_early(from);
        }
        match want.place {
            Place::Ready => drop(self.ready.remove(&(want.priority, want.order, id))),
            Place::Paused(until) => drop(self.paused.remove(&(until, id))),
            Place::InFlight(batch) => {
                if let Some(batch) = self.batches.get_mut(&batch) {
                    batch.objects.remove(&id);
                }
            }
        }
        Some(want)
    }
}

/// One round of scheduling: how far it has looked, and for whom nobody had room. Holders only get
/// busier in it.
#[derive(Default)]
struct Round {
    after: Option<Rank>,
    sites: BTreeSet<SiteName>,
    early: BTreeSet<MemberId>,
}

impl Round {
    /// Nobody who may have what is wanted has room; so it is for whatever else they may have.
    fn busy(&mut self, want: &Want) {
        if want.lacking.is_empty() && want.demand.is_none() {
            self.sites.extend(want.sites.iter().cloned());
            self.early.extend(want.early);
        }
    }

    /// Whether this is known, without looking at each holder. Without it a site of thousands of
    /// objects costs a look at all of them whenever a batch moves.
    fn is_busy(&self, want: &Want) -> bool {
        want.lacking.is_empty()
            && want.demand.is_none()
            && want.sites.iter().all(|site| self.sites.contains(site))
            && want.early.iter().all(|from| self.early.contains(from))
    }
}

enum Choice {
    Holder(MemberId),
    /// Somebody may have it, but not now.
    Busy,
    /// All who might have it lack it.
    Nobody,
}

/// `first`, doubled with each of `times` after the first, up to `most`.
fn pause(first: Duration, most: Duration, times: u32) -> Duration {
    first.saturating_mul(1 << times.saturating_sub(1).min(16)).min(most)
}
