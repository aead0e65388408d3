//! The one thread that writes: group commit.
//!
//! It takes whatever waits, up to a bound, and makes one commit of it:
//!
//! ```text
//!   jobs -> 1. extents staged, written to the pack, fdatasync
//!           2. record changes appended to the journal, fdatasync
//!           3. one batch to the index, flush, fdatasync on its log
//!           4. all who wait are told
//!           5. space of what was deleted is given back
//! ```
//!
//! A crash before 3 leaves extents and journal entries that the index does not know; opening finds
//! them behind the marks in the [`Summary`] and adds them. A crash after 3 leaves nothing to do.
//! The cost of a commit is the same for one object or a thousand, so the busier the store, the
//! less each costs.

use crate::commit::Commit;
use crate::disk::{self, FileId};
use crate::error::StoreError;
use crate::extent::{self, Header};
use crate::frame::{self, Summary, object_key};
use crate::index::Change;
use crate::journal::{Entry, Journal};
use crate::pack::PackWriter;
use crate::place::{Place, Spot};
use crate::records;
use crate::recover::{self, Recovered};
use crate::shared::Shared;
use crate::types::NewObject;
use godwit_core::content::ObjectId;
use godwit_core::content::object::group_count;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// How often a broken index or missing ballast is looked at when nothing else happens.
const IDLE: Duration = Duration::from_secs(2);
/// What an object costs besides its bytes: header, padding and its place in the index, about.
const OBJECT_COST: u64 = 512;

pub(crate) type Done = oneshot::Sender<Result<(), StoreError>>;

/// What the writer is asked to do.
pub(crate) enum Job {
    /// Keep these objects. The permit is the room they take in the queue.
    Put { objects: Vec<NewObject>, permit: OwnedSemaphorePermit, done: Done },
    /// Make the received file `path` the object's own.
    Adopt { id: ObjectId, len: u64, file: Arc<File>, path: PathBuf, done: Done },
    /// Change records.
    Records { entries: Vec<Entry>, done: Done },
    /// Delete objects.
    Delete { ids: Vec<ObjectId>, done: Done },
    /// Take a damaged object out of the index, if it still lies at `place`.
    Lose { id: ObjectId, place: Place },
    /// Give back the space of an object that was deleted while somebody read it.
    Release { id: ObjectId, place: Place },
    /// Open the index anew, or rebuild it.
    Repair,
    /// Say when everything before is durable.
    Sync { done: Done },
    /// End.
    Stop,
}

pub(crate) struct Writer {
    shared: Arc<Shared>,
    jobs: Receiver<Job>,
    pack: PackWriter,
    journal: Journal,
    summary: Summary,
    /// Bytes of live extents in each pack.
    pack_live: BTreeMap<u32, u64>,
    /// Bytes that the records took in the journal when it was last written anew, or was to be.
    records_len: u64,
    /// When a repair failed last: the next waits for a while.
    repair_failed: Option<Instant>,
}

impl Writer {
    /// A writer over what opening found.
    pub(crate) fn new(shared: Arc<Shared>, jobs: Receiver<Job>, recovered: Recovered) -> Writer {
        let Recovered { index, pack, journal, summary, pack_live, counts, .. } = recovered;
        shared.counters.objects.store(counts.objects, Ordering::Relaxed);
        shared.counters.bytes.store(counts.bytes, Ordering::Relaxed);
        shared.counters.records.store(counts.records, Ordering::Relaxed);
        shared.counters.packs.store(pack_live.len() as u64, Ordering::Relaxed);
        shared.set_index(Some(index));
        Writer { shared, jobs, pack, journal, summary, pack_live, records_len: 0, repair_failed: None }
    }

    /// Works until it is told to stop.
    pub(crate) fn run(mut self) {
        loop {
            let first = match self.jobs.recv_timeout(IDLE) {
                Ok(job) => job,
                Err(RecvTimeoutError::Timeout) => {
                    self.idle();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut commit = Commit { summary: self.summary, ..Commit::default() };
            self.take(&mut commit, first);
            while commit.has_room() {
                let Ok(job) = self.jobs.try_recv() else { break };
                self.take(&mut commit, job);
            }
            let (stop, repair) = (commit.stop, commit.repair);
            self.finish(commit);
            if repair || self.shared.trouble().is_some() {
                self.repair();
            }
            if stop {
                return;
            }
        }
    }

    fn idle(&mut self) {
        if self.shared.trouble().is_some() {
            self.repair();
        }
        recover::restore_ballast(&self.shared.layout, &self.shared.options);
    }

    /// Adds a job to the commit, or answers it at once when it cannot be done.
    fn take(&mut self, commit: &mut Commit, job: Job) {
        let (result, done) = match job {
            Job::Put { objects, permit, done } => {
                let result = self.put(commit, objects);
                commit.permits.push(permit);
                (result, done)
            }
            Job::Adopt { id, len, file, path, done } => (self.adopt(commit, id, len, &file, path), done),
            Job::Records { entries, done } => (self.records(commit, entries), done),
            Job::Delete { ids, done } => {
                (ids.into_iter().try_for_each(|id| self.delete(commit, id, None)), done)
            }
            Job::Sync { done } => (Ok(()), done),
            Job::Lose { id, place } => {
                // It may have come again meanwhile, to the very same place.
                let again = matches!(commit.changes.get(&object_key(&id)), Some(Some(_)));
                if again || !self.shared.is_hidden(&id) {
                    return;
                }
                if let Err(error) = self.delete(commit, id, Some(place)) {
                    tracing::warn!(%error, object = %id, "a damaged object stays in the index");
                }
                return;
            }
            Job::Release { id, place } => return self.release(id, place),
            Job::Repair => return commit.repair = true,
            Job::Stop => return commit.stop = true,
        };
        match result {
            Ok(()) => commit.waiting.push(done),
            // Whoever waited may be gone.
            Err(error) => drop(done.send(Err(error))),
        }
    }

    /// Stages `objects`. After an error some of them may be kept all the same.
    fn put(&mut self, commit: &mut Commit, objects: Vec<NewObject>) -> Result<(), StoreError> {
        let mut new = Vec::new();
        for object in objects {
            let named = &object.named;
            let len = object.bytes.len() as u64;
            if named.len != len || named.groups.len() != group_count(len) {
                return Err(godwit_core::content::object::Mismatch::Length(len).into());
            }
            if self.find(commit, &named.id)?.is_none() {
                new.push(object);
            }
        }
        let cost: u64 = new.iter().map(|object| object.named.len + OBJECT_COST).sum();
        self.check_space(commit.staged + cost, 1)?;
        commit.staged += cost;
        for NewObject { named, bytes } in new {
            // The job itself may name an object twice.
            if self.find(commit, &named.id)?.is_some() {
                continue;
            }
            self.forget_hidden(commit, named.id)?;
            let spot = if named.len >= self.shared.options.own_file_len {
                self.write_own(&named, &bytes)?;
                Spot::Own
            } else {
                let (number, offset) = self.pack.stage(&named, bytes);
                Spot::Pack { number, offset }
            };
            commit.add(named.id, Place { len: named.len, spot });
        }
        Ok(())
    }

    fn write_own(&self, named: &godwit_core::content::object::Named, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.shared.layout.incoming_dir().join(format!("{}.put", named.id));
        let header = Header { id: named.id, len: named.len, live: true };
        let write = || {
            let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
            file.write_all_at(&header.encode(&named.groups), 0)?;
            file.write_all_at(bytes, header.body_offset())?;
            file.set_len(header.extent_len())?;
            self.install(&file, &path, named.id)
        };
        write().map_err(|error| {
            // What stays is removed when the store opens.
            let _ = std::fs::remove_file(&path);
            StoreError::io(format!("writing object {}", named.id))(error)
        })
    }

    /// Makes the written file at `path` the durable own file of `id`.
    fn install(&self, file: &File, path: &PathBuf, id: ObjectId) -> std::io::Result<()> {
        file.sync_data()?;
        std::fs::rename(path, self.shared.layout.own(&id))?;
        self.shared.files.replaced(FileId::Own(id));
        disk::sync_dir(&self.shared.layout.own_dir())
    }

    fn adopt(
        &self,
        commit: &mut Commit,
        id: ObjectId,
        len: u64,
        file: &File,
        path: PathBuf,
    ) -> Result<(), StoreError> {
        if self.find(commit, &id)?.is_some() {
            // The object came another way meanwhile; the file may be gone with it.
            let _ = std::fs::remove_file(path);
            return Ok(());
        }
        self.check_space(commit.staged + OBJECT_COST, 1)?;
        self.forget_hidden(commit, id)?;
        self.install(file, &path, id).map_err(StoreError::io(format!("keeping object {id}")))?;
        commit.add(id, Place { len, spot: Spot::Own });
        Ok(())
    }

    fn records(&self, commit: &mut Commit, entries: Vec<Entry>) -> Result<(), StoreError> {
        let cost: u64 = entries.iter().map(|entry| entry.cost()).sum();
        // Records are what keeps a network governable: they may use half of the reserve.
        self.check_space(commit.staged + cost, 2)?;
        commit.staged += cost;
        let sequence = self.journal.sequence() + 1 + commit.entries.len() as u64;
        for (entry, sequence) in entries.into_iter().zip(sequence..) {
            let old = commit.value(&self.shared, &records::part_key(entry.space, &entry.key, 0))?;
            let (old_parts, new) = records::changes(&entry, sequence, old.as_deref());
            for (key, payload) in new {
                self.set(commit, key, payload)?;
            }
            commit.records += i64::from(entry.value.is_some()) - i64::from(old_parts);
            commit.entries.push(entry);
        }
        Ok(())
    }

    /// Deletes `id`, if it lies at `only` where that is given.
    fn delete(&self, commit: &mut Commit, id: ObjectId, only: Option<Place>) -> Result<(), StoreError> {
        let key = object_key(&id);
        let payload = commit.value(&self.shared, &key)?;
        let Some(place) = payload.as_deref().and_then(Place::decode) else { return Ok(()) };
        if only.is_none_or(|only| only == place) {
            self.set(commit, key, None)?;
            commit.objects -= 1;
            commit.bytes -= place.len as i64;
            commit.removed.push((id, place));
        }
        Ok(())
    }

    /// Removes the place of a damaged object that is about to have a new one.
    fn forget_hidden(&self, commit: &mut Commit, id: ObjectId) -> Result<(), StoreError> {
        match commit.changes.contains_key(&object_key(&id)) {
            true => Ok(()),
            false => self.delete(commit, id, None),
        }
    }

    /// Where `id` lies once the commit is made, unless it was found damaged.
    fn find(&self, commit: &Commit, id: &ObjectId) -> Result<Option<Place>, StoreError> {
        match commit.changes.get(&object_key(id)) {
            Some(Some(payload)) => Ok(Place::decode(payload)),
            Some(None) => Ok(None),
            None => self.shared.place(id),
        }
    }

    /// Changes a value of the index and keeps the summary right.
    fn set(&self, commit: &mut Commit, key: Vec<u8>, payload: Option<Vec<u8>>) -> Result<(), StoreError> {
        let old = commit.value(&self.shared, &key)?;
        if let Some(old) = old {
            commit.summary.remove(frame::digest(&key, &old));
        }
        if let Some(new) = &payload {
            commit.summary.add(frame::digest(&key, new));
        }
        commit.changes.insert(key, payload);
        Ok(())
    }

    fn check_space(&self, cost: u64, reserve_part: u64) -> Result<(), StoreError> {
        let (free, size) = self.shared.layout.space().map_err(StoreError::io("asking for the free space"))?;
        let needed = cost + self.shared.options.reserve(size) / reserve_part;
        let full = free < needed;
        if reserve_part == 1 {
            self.shared.counters.full.store(if full { needed } else { 0 }, Ordering::Relaxed);
        }
        if full { Err(StoreError::Full { free, needed }) } else { Ok(()) }
    }

    /// Makes the commit durable and tells all who wait.
    fn finish(&mut self, mut commit: Commit) {
        let result = self.write(&mut commit);
        match &result {
            Ok(()) => self.account(&commit),
            Err(error) => tracing::warn!(%error, "a commit failed"),
        }
        for done in commit.waiting {
            let _ = done.send(result.clone());
        }
        if result.is_ok() {
            commit.removed.into_iter().for_each(|(id, place)| self.release(id, place));
            self.housekeeping();
        }
    }

    fn write(&mut self, commit: &mut Commit) -> Result<(), StoreError> {
        let (_, end) = self.pack.position();
        self.pack.commit().map_err(StoreError::io("writing a pack"))?;
        if commit.changes.is_empty() && commit.entries.is_empty() {
            return Ok(());
        }
        if !commit.entries.is_empty()
            && let Err(error) = self.journal.append(&commit.entries)
        {
            self.pack.cut(end);
            return Err(StoreError::io("writing the journal")(error));
        }
        (commit.summary.pack, commit.summary.offset) = self.pack.position();
        commit.summary.journal = self.journal.sequence();
        let mut changes: Vec<Change> = Vec::with_capacity(commit.changes.len() + 1);
        for (key, payload) in std::mem::take(&mut commit.changes) {
            let value = payload.map(|payload| frame::seal(&key, &payload));
            changes.push((key, value));
        }
        changes.push(commit.summary.change());
        self.shared
            .index(|index| {
                index.apply(changes)?;
                index.sync()
            })
            .map_err(|error| {
                // What is in pack and journal is found again when the index is repaired.
                self.shared.damaged(format!("a batch failed: {error}"));
                error
            })
    }

    fn account(&mut self, commit: &Commit) {
        self.summary = commit.summary;
        let counters = &self.shared.counters;
        counters.commits.fetch_add(1, Ordering::Relaxed);
        counters.objects.fetch_add(commit.objects as u64, Ordering::Relaxed);
        counters.bytes.fetch_add(commit.bytes as u64, Ordering::Relaxed);
        counters.records.fetch_add(commit.records as u64, Ordering::Relaxed);
        for (id, place) in &commit.added {
            self.shared.unhide(id);
            // Its bytes came from memory, and were hashed there.
            self.shared.mark_verified(*id);
            if let Spot::Pack { number, .. } = place.spot {
                *self.pack_live.entry(number).or_insert(0) += place.header(*id).extent_len();
            }
        }
        for (id, place) in &commit.removed {
            self.shared.unhide(id);
            if let Spot::Pack { number, .. } = place.spot {
                let live = self.pack_live.entry(number).or_insert(0);
                *live = live.saturating_sub(place.header(*id).extent_len());
            }
        }
    }

    /// Gives back the space of an object that the index no longer names, unless it is being read.
    fn release(&mut self, id: ObjectId, place: Place) {
        if self.shared.doom_if_pinned(id, place) {
            return;
        }
        match place.spot {
            Spot::Own => {
                let again = self.shared.place(&id).ok().flatten();
                if again != Some(place) {
                    let _ = self.shared.files.remove(FileId::Own(id));
                }
            }
            Spot::Pack { number, offset } => {
                let path = self.shared.layout.pack(number);
                // The pack is gone when all in it was dead.
                let Ok(file) = OpenOptions::new().write(true).read(true).open(path) else { return };
                let header = place.header(id);
                if let Err(error) = extent::mark_dead(&file, offset, &header) {
                    tracing::warn!(%error, object = %id, "a deleted object would come back after a rebuild");
                }
                disk::punch(&file, offset + header.body_offset(), header.len);
            }
        }
    }

    /// Between commits: the next pack, dead packs, a long journal.
    fn housekeeping(&mut self) {
        if let Err(error) = self.pack.roll() {
            tracing::warn!(%error, "no new pack could be begun");
        }
        let (current, _) = self.pack.position();
        let dead: Vec<u32> = self
            .pack_live
            .iter()
            .filter(|(number, live)| **live == 0 && **number != current)
            .map(|(number, _)| *number)
            .collect();
        for number in dead {
            self.pack_live.remove(&number);
            let _ = self.shared.files.remove(FileId::Pack(number));
        }
        self.shared.counters.packs.store(self.pack_live.len() as u64, Ordering::Relaxed);
        if self.journal.wants_compacting(self.records_len) {
            self.compact_journal();
        }
    }

    fn compact_journal(&mut self) {
        let Ok(live) = records::all(&self.shared) else { return };
        self.records_len = live.iter().map(Entry::cost).sum();
        if !self.journal.wants_compacting(self.records_len) {
            return;
        }
        if let Err(error) = self.journal.compact(&self.shared.layout, &live) {
            tracing::warn!(%error, "the journal of records could not be written anew");
        }
    }

    /// Opens the index anew; sets it aside and rebuilds it if that is what it takes.
    fn repair(&mut self) {
        let Some(why) = self.shared.trouble() else { return };
        if self.repair_failed.is_some_and(|failed| failed.elapsed() < IDLE) {
            return;
        }
        tracing::warn!(%why, "repairing the index");
        self.shared.set_index(None);
        match recover::recover(&self.shared.layout, &self.shared.options) {
            Ok(recovered) => {
                if recovered.report.rebuilt.is_some() {
                    self.shared.counters.rebuilds.fetch_add(1, Ordering::Relaxed);
                }
                self.shared.tell_lost(recovered.report.lost.iter().copied());
                let jobs = std::mem::replace(&mut self.jobs, std::sync::mpsc::channel().1);
                *self = Writer::new(self.shared.clone(), jobs, recovered);
                self.shared.set_trouble(None);
                tracing::info!("the index is repaired");
            }
            Err(error) => {
                let why = format!("{error:?}");
                tracing::error!(%why, "the index cannot be repaired now; trying again");
                self.shared.set_trouble(Some(why));
                self.repair_failed = Some(Instant::now());
            }
        }
    }
}
