//! What readers and the writer have in common.

use crate::disk::{Files, Layout};
use crate::error::StoreError;
use crate::extent;
use crate::frame::{self, object_key};
use crate::index::{Index, Trouble};
use crate::options::Options;
use crate::place::Place;
use crate::writer::Job;
use godwit_core::content::ObjectId;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, mpsc};

/// Objects remembered as verified since the start; beyond it all are forgotten and verified anew.
const VERIFIED_MAX: usize = 2_000_000;
/// Lost objects remembered until somebody asks for them; scrubbing finds those beyond it again.
const LOST_MAX: usize = 65_536;

/// Numbers for [`crate::Stats`], kept by the writer.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) objects: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) packs: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) rebuilds: AtomicU64,
    /// How many bytes must be free for the write that was refused last; 0 when the last was not.
    pub(crate) full: AtomicU64,
}

/// Objects that somebody reads, and the places to give back when nobody does any more.
#[derive(Default)]
pub(crate) struct Pins {
    count: BTreeMap<ObjectId, u32>,
    doomed: BTreeMap<ObjectId, Vec<Place>>,
}

/// Objects found damaged.
#[derive(Default)]
struct Lost {
    /// Not yet taken out of the index.
    hidden: BTreeSet<ObjectId>,
    /// Not yet told to whoever asks for lost objects.
    untold: BTreeSet<ObjectId>,
}

/// What readers and the writer have in common.
pub(crate) struct Shared {
    pub(crate) layout: Layout,
    pub(crate) options: Options,
    pub(crate) files: Files,
    pub(crate) counters: Counters,
    pub(crate) jobs: mpsc::Sender<Job>,
    /// Objects being received.
    pub(crate) incoming: Mutex<BTreeSet<ObjectId>>,
    /// Wakes who waits for lost objects.
    pub(crate) lost_notify: tokio::sync::Notify,
    /// `None` while it is being repaired or after the store was closed.
    index: RwLock<Option<Box<dyn Index>>>,
    /// Why the index is being repaired.
    trouble: Mutex<Option<String>>,
    pins: Mutex<Pins>,
    /// The first eight bytes of the names of objects whose bodies were proved since the start.
    verified: Mutex<HashSet<u64>>,
    lost: Mutex<Lost>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(layout: Layout, options: Options, jobs: mpsc::Sender<Job>) -> Shared {
        Shared {
            files: Files::new(layout.clone()),
            layout,
            options,
            jobs,
            counters: Counters::default(),
            incoming: Mutex::default(),
            lost_notify: tokio::sync::Notify::new(),
            index: RwLock::new(None),
            trouble: Mutex::default(),
            pins: Mutex::default(),
            verified: Mutex::default(),
            lost: Mutex::default(),
        }
    }

    /// Puts an index in place, or takes it away.
    pub(crate) fn set_index(&self, index: Option<Box<dyn Index>>) {
        let gone = {
            let mut slot = self.index.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *slot, index)
        };
        // sled writes when it is dropped, and panics when it cannot.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(gone)));
    }

    /// Notes why the index is away; `None` when it is back.
    pub(crate) fn set_trouble(&self, why: Option<String>) {
        *lock(&self.trouble) = why;
    }

    /// Why the index is away, if it is.
    pub(crate) fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }

    /// Runs `call` on the index. When the index turns out damaged, the writer is told to repair it.
    pub(crate) fn index<T>(
        &self,
        call: impl FnOnce(&dyn Index) -> Result<T, Trouble>,
    ) -> Result<T, StoreError> {
        let result = {
            let slot = self.index.read().unwrap_or_else(PoisonError::into_inner);
            match &*slot {
                Some(index) => call(index.as_ref()),
                None => return Err(self.trouble().map_or(StoreError::Closed, StoreError::Degraded)),
            }
        };
        result.map_err(|trouble| match trouble {
            Trouble::Full => StoreError::Full { free: 0, needed: 0 },
            Trouble::Damaged(why) => {
                self.damaged(why.clone());
                StoreError::Degraded(why)
            }
        })
    }

    /// Has the writer repair the index.
    pub(crate) fn damaged(&self, why: String) {
        let mut trouble = lock(&self.trouble);
        if trouble.is_none() {
            tracing::error!(%why, "the index is damaged and will be repaired");
            *trouble = Some(why);
            // After the writer has ended there is nobody to repair it, and nobody to read it.
            let _ = self.jobs.send(Job::Repair);
        }
    }

    /// Reads a framed value.
    pub(crate) fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(value) = self.index(|index| index.get(key))? else { return Ok(None) };
        match frame::open(key, &value) {
            Ok((payload, _)) => Ok(Some(payload.to_vec())),
            Err(frame::Damaged) => {
                let why = "a value in the index is not what was written".to_owned();
                self.damaged(why.clone());
                Err(StoreError::Degraded(why))
            }
        }
    }

    /// Where object `id` lies; `None` when it is not there or was found damaged.
    pub(crate) fn place(&self, id: &ObjectId) -> Result<Option<Place>, StoreError> {
        let Some(payload) = self.value(&object_key(id))? else { return Ok(None) };
        if lock(&self.lost).hidden.contains(id) {
            return Ok(None);
        }
        Ok(Place::decode(&payload))
    }

    /// Proves the body of object `id` unless that was done since the start. When it is damaged,
    /// the object counts as missing from now on.
    pub(crate) fn verify(&self, id: ObjectId, place: Place, again: bool) -> Result<(), StoreError> {
        if !again && lock(&self.verified).contains(&short(&id)) {
            return Ok(());
        }
        let proved = self
            .files
            .get(place.file(id))
            .and_then(|file| extent::body_is(&file, place.body_offset(id), place.len, id));
        match proved {
            Ok(true) => {
                self.mark_verified(id);
                Ok(())
            }
            other => {
                tracing::warn!(object = %id, ?other, "an object is damaged; it counts as missing now");
                self.lose(id, place);
                Err(StoreError::Corrupt { id })
            }
        }
    }

    pub(crate) fn mark_verified(&self, id: ObjectId) {
        let mut verified = lock(&self.verified);
        if verified.len() >= VERIFIED_MAX {
            verified.clear();
        }
        verified.insert(short(&id));
    }

    pub(crate) fn forget_verified(&self, id: ObjectId) {
        lock(&self.verified).remove(&short(&id));
    }

    /// Hides a damaged object at once, and has the writer take it out of the index.
    pub(crate) fn lose(&self, id: ObjectId, place: Place) {
        self.forget_verified(id);
        let mut lost = lock(&self.lost);
        if lost.hidden.insert(id) {
            self.counters.lost.fetch_add(1, Ordering::Relaxed);
            let _ = self.jobs.send(Job::Lose { id, place });
        }
        drop(lost);
        self.tell_lost([id]);
    }

    /// Notes objects to be told as lost.
    pub(crate) fn tell_lost(&self, ids: impl IntoIterator<Item = ObjectId>) {
        let mut lost = lock(&self.lost);
        let room = LOST_MAX.saturating_sub(lost.untold.len());
        lost.untold.extend(ids.into_iter().take(room));
        drop(lost);
        self.lost_notify.notify_one();
    }

    /// The objects lost since this was last asked.
    pub(crate) fn take_lost(&self) -> Vec<ObjectId> {
        std::mem::take(&mut lock(&self.lost).untold).into_iter().collect()
    }

    /// Whether the object was found damaged and the index still names it.
    pub(crate) fn is_hidden(&self, id: &ObjectId) -> bool {
        lock(&self.lost).hidden.contains(id)
    }

    /// The index no longer names the damaged object.
    pub(crate) fn unhide(&self, id: &ObjectId) {
        lock(&self.lost).hidden.remove(id);
    }

    /// Keeps the bytes of `id` in place while somebody reads them.
    pub(crate) fn pin(&self, id: ObjectId) {
        *lock(&self.pins).count.entry(id).or_insert(0) += 1;
    }

    /// One reader less.
    pub(crate) fn unpin(&self, id: ObjectId) {
        let mut pins = lock(&self.pins);
        let Some(count) = pins.count.get_mut(&id) else { return };
        *count -= 1;
        if *count == 0 {
            pins.count.remove(&id);
            for place in pins.doomed.remove(&id).unwrap_or_default() {
                let _ = self.jobs.send(Job::Release { id, place });
            }
        }
    }

    /// Whether somebody reads `id`; then `place` is released when the last one is done.
    pub(crate) fn doom_if_pinned(&self, id: ObjectId, place: Place) -> bool {
        let mut pins = lock(&self.pins);
        let pinned = pins.count.contains_key(&id);
        if pinned {
            pins.doomed.entry(id).or_default().push(place);
        }
        pinned
    }
}

fn short(id: &ObjectId) -> u64 {
    id.as_bytes()[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
