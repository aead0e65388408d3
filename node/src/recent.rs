//! Which objects were stored or looked for lately, so that collecting leaves them alone.
//!
//! A publisher asks what is missing, sends it, and only then gives the version that needs it;
//! a replica looks what it has, fetches the rest, and only then holds the version. In between
//! nothing refers to these objects. So whoever stores an object, or relies on finding it, *touches*
//! it first, and objects are deleted only while nobody can touch: an object is deleted before it is
//! touched, and then found missing and sent again, or it is touched first and stays.
//!
//! Objects that were only pulled for a client are not touched but *used*: their order of use says
//! which of them the cache gives up first.
//!
//! All of it is in memory, for 8 bytes of each name; after a restart every object counts as touched
//! at the start. What is forgotten for want of room counts as touched as well.

use godwit_core::content::ObjectId;
use godwit_store::{Store, StoreError};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Touched objects remembered, some 32 MiB; beyond it every object counts as touched now.
const TOUCHED_MAX: usize = 1 << 20;

/// Uses remembered; beyond it the order starts anew.
const USED_MAX: usize = 1 << 19;

/// What was touched and used lately.
pub(crate) struct Recent {
    started: Instant,
    touched: tokio::sync::Mutex<Touched>,
    used: Mutex<HashMap<u64, Tick>>,
    /// Bytes pulled for clients since the last sweep, and how many are worth one before its time.
    pulled: AtomicU64,
    pulled_max: u64,
    filled: Notify,
}

/// Seconds since the start, rounded up where something happened and down where a line is drawn, so
/// that what happens in the second of a line is after it.
type Tick = u32;

struct Touched {
    objects: HashMap<u64, Tick>,
    /// When objects that are not in the map count as touched.
    others: Tick,
}

/// What a sweep may delete: what was neither touched lately nor used since it began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    touched: Tick,
    used: Tick,
    /// Objects not known to be touched count as old: they are in the cache for certain.
    cache: bool,
}

impl Line {
    /// The same line for objects that are in the cache for certain.
    pub(crate) fn for_cache(self) -> Line {
        Line { cache: true, ..self }
    }
}

impl Recent {
    /// For a cache of so many bytes.
    pub(crate) fn new(cache_bytes: u64) -> Recent {
        let touched = Touched { objects: HashMap::new(), others: 1 };
        Recent {
            started: Instant::now(),
            touched: tokio::sync::Mutex::new(touched),
            used: Mutex::default(),
            pulled: AtomicU64::new(0),
            pulled_max: cache_bytes / 4,
            filled: Notify::new(),
        }
    }

    fn tick(&self) -> Tick {
        u32::try_from(self.started.elapsed().as_secs()).unwrap_or(Tick::MAX - 1)
    }

    /// Somebody is about to store these objects, or to rely on them where they are here.
    pub(crate) async fn touch(&self, ids: impl IntoIterator<Item = &ObjectId>) {
        let tick = self.tick() + 1;
        let mut touched = self.touched.lock().await;
        ids.into_iter().for_each(|id| touched.touch(id, tick));
    }

    /// [`Recent::touch`] for threads that may block.
    pub(crate) fn touch_blocking(&self, id: &ObjectId) {
        let tick = self.tick() + 1;
        self.touched.blocking_lock().touch(id, tick);
    }

    /// A client is served this object.
    pub(crate) fn used(&self, id: &ObjectId) {
        let tick = self.tick() + 1;
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() >= USED_MAX {
            used.clear();
        }
        used.insert(short(id), tick);
    }

    /// An object of so many bytes was pulled for a client.
    pub(crate) fn pulled(&self, bytes: u64) {
        if self.pulled.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > self.pulled_max {
            self.filled.notify_one();
        }
    }

    /// Waits until a quarter of the cache's bound was pulled since the last sweep. Cancel-safe.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// When it was used last: the higher the later; 0 when that is not known.
    pub(crate) fn last_use(&self, id: &ObjectId) -> u32 {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.get(&short(id)).copied().unwrap_or(0)
    }

    /// The line for a sweep that begins now.
    pub(crate) fn line(&self, after: Duration) -> Line {
        self.pulled.store(0, Ordering::Relaxed);
        let now = self.tick();
        let after = Tick::try_from(after.as_secs()).unwrap_or(Tick::MAX);
        // Before the daemon has run for so long, even its start is too late.
        let touched = now.saturating_sub(after);
        Line { touched, used: now, cache: false }
    }

    /// Deletes those of `ids` that are old; returns which these are.
    pub(crate) async fn delete(
        &self,
        store: &Store,
        line: Line,
        mut ids: Vec<ObjectId>,
    ) -> Result<Vec<ObjectId>, StoreError> {
        let touched = self.touched.lock().await;
        ids.retain(|id| touched.when(id, line.cache) <= line.touched && self.last_use(id) <= line.used);
        if !ids.is_empty() {
            store.delete(ids.clone()).await?;
        }
        Ok(ids)
    }

    /// Forgets what no line will need any more.
    pub(crate) async fn prune(&self, line: Line) {
        let mut touched = self.touched.lock().await;
        if touched.others <= line.touched {
            touched.objects.retain(|_, tick| *tick > line.touched);
            touched.objects.shrink_to_fit();
        }
    }
}

impl Touched {
    fn touch(&mut self, id: &ObjectId, tick: Tick) {
        if self.objects.len() >= TOUCHED_MAX && !self.objects.contains_key(&short(id)) {
            self.objects = HashMap::new();
            self.others = tick;
        }
        self.objects.insert(short(id), tick);
    }

    fn when(&self, id: &ObjectId, cache: bool) -> Tick {
        let others = if cache { 0 } else { self.others };
        self.objects.get(&short(id)).copied().unwrap_or(others)
    }
}

/// Two objects that share it share their fate: both stay when one should.
pub(crate) fn short(id: &ObjectId) -> u64 {
    id.as_bytes()[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use godwit_core::key::SecretKey;
    use godwit_store::{NewObject, Options};

    #[tokio::test]
    async fn what_was_touched_or_used_after_the_line_stays() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new(SecretKey::from_seed(&[1; 32]).public());
        let (store, _) = Store::open(dir.path(), options).unwrap();
        let objects: Vec<NewObject> =
            ["touched", "used", "old"].iter().map(|text| NewObject::of(Bytes::from(*text))).collect();
        let ids: Vec<ObjectId> = objects.iter().map(|object| object.named.id).collect();
        store.put_objects(objects).await.unwrap();
        let recent = Recent::new(1 << 30);
        recent.touch([&ids[0]]).await;
        recent.used(&ids[1]);
        let early = recent.line(Duration::from_secs(3600));
        assert!(recent.delete(&store, early, ids.clone()).await.unwrap().is_empty(), "all are new at first");
        let line = Line { touched: 0, used: 0, cache: true };
        assert_eq!(recent.delete(&store, line, ids.clone()).await.unwrap(), [ids[2]]);
        assert!(store.has(&ids[0]).unwrap() && store.has(&ids[1]).unwrap() && !store.has(&ids[2]).unwrap());
        let late = Line { touched: Tick::MAX, used: Tick::MAX, cache: false };
        assert_eq!(recent.delete(&store, late, ids[..2].to_vec()).await.unwrap(), ids[..2]);
    }

    #[tokio::test]
    async fn a_quarter_of_the_cache_pulled_is_worth_a_sweep() {
        let recent = Recent::new(400);
        recent.pulled(100);
        recent.line(Duration::ZERO);
        recent.pulled(100);
        assert!(futures::FutureExt::now_or_never(recent.filled()).is_none());
        recent.pulled(1);
        recent.filled().await;
    }

    #[test]
    fn what_is_forgotten_for_want_of_room_counts_as_touched() {
        let mut touched = Touched { objects: HashMap::new(), others: 1 };
        for i in 0..=TOUCHED_MAX as u64 {
            touched.objects.insert(i, 5);
        }
        let id = ObjectId::of(b"one more");
        touched.touch(&id, 9);
        assert_eq!((touched.objects.len(), touched.others), (1, 9));
        assert_eq!(touched.when(&ObjectId::of(b"another"), false), 9);
    }
}
