//! The store's face.

use crate::disk::Layout;
use crate::error::{OpenError, StoreError};
use crate::incoming::Incoming;
use crate::journal::Entry;
use crate::object::Object;
use crate::options::Options;
use crate::recover::{self, OpenReport};
use crate::shared::{Shared, lock};
use crate::types::{NewObject, RecordChange, Scrubbed, Space, Stats};
use crate::writer::{Job, Writer};
use crate::{owner, records};
use godwit_core::content::{GroupHash, ObjectId};
use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use tokio::sync::{Semaphore, oneshot};

/// Room in the queue to the writer, KiB: who puts faster than the disk takes waits, and holds at
/// most this much of the memory meanwhile.
const QUEUE_KIB: usize = 64 * 1024;
/// Objects and bytes in one job: a commit takes whole jobs.
const JOB_OBJECTS: usize = 512;
const JOB_BYTES: u64 = 8 << 20;

/// A store. Clones are the same store; it closes when the last one is dropped, which waits for the
/// commit at work.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    queue: Arc<Semaphore>,
    open: Mutex<Option<Running>>,
}

/// What only one process can have, until the store is closed.
struct Running {
    writer: JoinHandle<()>,
    /// Held until the index is closed.
    _lock: File,
}

impl Inner {
    fn close(&self) {
        let Some(running) = lock(&self.open).take() else { return };
        // When the writer has ended already, there is nothing to wait for.
        let _ = self.shared.jobs.send(Job::Stop);
        let _ = running.writer.join();
        self.shared.set_index(None);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl Store {
    /// Opens the store in `dir`, made if it is not there. Blocks: about 2 seconds per million
    /// objects, and as long as reading the packs' headers takes when the index must be rebuilt.
    pub fn open(dir: &Path, options: Options) -> Result<(Store, OpenReport), OpenError> {
        let layout = Layout::new(dir);
        std::fs::create_dir_all(dir).map_err(OpenError::io(dir))?;
        let lock_file = owner::lock(&layout)?;
        owner::check(&layout, options.owner)?;
        layout.create().map_err(OpenError::io(dir))?;
        recover::clean_incoming(&layout.incoming_dir()).map_err(OpenError::io(&layout.incoming_dir()))?;
        let recovered = recover::recover(&layout, &options)?;
        let report = recovered.report.clone();
        recover::restore_ballast(&layout, &options);
        let (jobs, receiver) = mpsc::channel();
        let shared = Arc::new(Shared::new(layout, options, jobs));
        shared.tell_lost(report.lost.iter().copied());
        let writer = Writer::new(shared.clone(), receiver, recovered);
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run())
            .map_err(OpenError::io(dir))?;
        let queue = Arc::new(Semaphore::new(QUEUE_KIB));
        let open = Mutex::new(Some(Running { writer, _lock: lock_file }));
        let inner = Inner { shared, queue, open };
        Ok((Store { inner: Arc::new(inner) }, report))
    }

    /// Whether the disk has the room that opening the store in `dir` takes: some of its own, put by for
    /// that, or of others. Where that cannot be known, opening it will tell.
    pub fn has_room(dir: &Path) -> bool {
        recover::has_room(&Layout::new(dir))
    }

    /// Closes the store for all clones: when it returns another process may open it. What is asked
    /// of it from now on is [`StoreError::Closed`], but objects that are held open are read on, as
    /// far as nobody gives their space to others. Blocks until the commit at work is done.
    pub fn close(&self) {
        self.inner.close();
    }

    /// Keeps objects: durable when it returns. Those that are there already cost nothing. After an
    /// error some of them may be kept.
    pub async fn put_objects(&self, objects: Vec<NewObject>) -> Result<(), StoreError> {
        let mut waiters = Vec::new();
        let mut job = Vec::new();
        let mut bytes = 0;
        for object in objects {
            if job.len() >= JOB_OBJECTS || bytes + object.named.len > JOB_BYTES && !job.is_empty() {
                waiters.push(self.put_job(std::mem::take(&mut job), bytes).await?);
                bytes = 0;
            }
            bytes += object.named.len;
            job.push(object);
        }
        if !job.is_empty() {
            waiters.push(self.put_job(job, bytes).await?);
        }
        for waiter in waiters {
            waiter.await.map_err(|_| StoreError::Closed)??;
        }
        Ok(())
    }

    async fn put_job(
        &self,
        objects: Vec<NewObject>,
        bytes: u64,
    ) -> Result<oneshot::Receiver<Result<(), StoreError>>, StoreError> {
        let kib = (bytes / 1024 + 1).min(QUEUE_KIB as u64) as u32;
        let permit = self.inner.queue.clone().acquire_many_owned(kib).await;
        let permit = permit.map_err(|_| StoreError::Closed)?;
        self.submit(|done| Job::Put { objects, permit, done })
    }

    fn submit(
        &self,
        job: impl FnOnce(crate::writer::Done) -> Job,
    ) -> Result<oneshot::Receiver<Result<(), StoreError>>, StoreError> {
        let (done, waiter) = oneshot::channel();
        self.inner.shared.jobs.send(job(done)).map_err(|_| StoreError::Closed)?;
        Ok(waiter)
    }

    async fn ask(&self, job: impl FnOnce(crate::writer::Done) -> Job) -> Result<(), StoreError> {
        self.submit(job)?.await.map_err(|_| StoreError::Closed)?
    }

    /// Begins to receive object `id` of `len` bytes with these group hashes, or takes up what an
    /// earlier attempt left. For objects too large to be held in memory; others are cheaper
    /// [put](Store::put_objects). Blocks while it verifies what is there.
    pub fn begin(&self, id: ObjectId, len: u64, groups: Vec<GroupHash>) -> Result<Incoming, StoreError> {
        let shared = &self.inner.shared;
        let (free, size) = shared.layout.space().map_err(StoreError::io("asking for the free space"))?;
        let needed = len + shared.options.reserve(size);
        if free < needed {
            return Err(StoreError::Full { free, needed });
        }
        Incoming::begin(shared, id, len, groups)
    }

    /// Whether object `id` is here.
    pub fn has(&self, id: &ObjectId) -> Result<bool, StoreError> {
        Ok(self.len_of(id)?.is_some())
    }

    /// The length of object `id`, if it is here. One look into the index; the file is not touched.
    pub fn len_of(&self, id: &ObjectId) -> Result<Option<u64>, StoreError> {
        Ok(self.inner.shared.place(id)?.map(|place| place.len))
    }

    /// Object `id`, if it is here. On the first read since the start the whole object is verified
    /// (a millisecond for each 3 MiB, and the reading); when it is damaged it counts as missing
    /// from now on, this is `None`, and [`Store::lost`] tells it.
    pub fn get(&self, id: &ObjectId) -> Result<Option<Object>, StoreError> {
        let shared = &self.inner.shared;
        shared.pin(*id);
        let found = self.find(id);
        if !matches!(found, Ok(Some(_))) {
            shared.unpin(*id);
        }
        match found {
            Err(StoreError::Corrupt { .. }) => Ok(None),
            found => found,
        }
    }

    /// The caller has pinned `id`.
    fn find(&self, id: &ObjectId) -> Result<Option<Object>, StoreError> {
        let shared = &self.inner.shared;
        let Some(place) = shared.place(id)? else { return Ok(None) };
        shared.verify(*id, place, false)?;
        match shared.files.get(place.file(*id)) {
            Ok(file) => Ok(Some(Object::new(shared, *id, place, file))),
            Err(_) => {
                shared.lose(*id, place);
                Ok(None)
            }
        }
    }

    /// Deletes objects: when it returns they are not here, and their space is given back as soon
    /// as nobody reads them.
    pub async fn delete(&self, ids: Vec<ObjectId>) -> Result<(), StoreError> {
        for ids in ids.chunks(JOB_OBJECTS) {
            self.ask(|done| Job::Delete { ids: ids.to_vec(), done }).await?;
        }
        Ok(())
    }

    /// Up to `limit` object names after `after`, in order.
    pub fn object_ids(&self, after: Option<ObjectId>, limit: usize) -> Result<Vec<ObjectId>, StoreError> {
        let mut from = vec![crate::frame::kind::OBJECT];
        if let Some(after) = after {
            from.extend_from_slice(after.as_bytes());
            from.push(0);
        }
        let page = self.inner.shared.index(|index| index.range(&from, limit))?;
        Ok(page.iter().map_while(|(key, _)| crate::frame::object_of(key)).collect())
    }

    /// Keeps a record: durable when it returns.
    pub async fn put_record(&self, space: Space, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let change = RecordChange { space, key: key.to_vec(), value: Some(value.to_vec()) };
        self.change_records(vec![change]).await
    }

    /// Removes a record: durable when it returns.
    pub async fn remove_record(&self, space: Space, key: &[u8]) -> Result<(), StoreError> {
        self.change_records(vec![RecordChange { space, key: key.to_vec(), value: None }]).await
    }

    /// Makes changes of records, in order: durable when it returns. Those of one call are made
    /// together unless they are more than a thousand.
    pub async fn change_records(&self, changes: Vec<RecordChange>) -> Result<(), StoreError> {
        for change in &changes {
            records::check(&change.key, change.value.as_deref().unwrap_or_default())?;
        }
        let entries = changes.into_iter().map(|change| Entry {
            space: change.space.0,
            key: change.key,
            value: change.value,
        });
        let entries: Vec<Entry> = entries.collect();
        for entries in entries.chunks(1000) {
            self.ask(|done| Job::Records { entries: entries.to_vec(), done }).await?;
        }
        Ok(())
    }

    /// The value of a record.
    pub fn record(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        records::get(&self.inner.shared, space.0, key)
    }

    /// All records of a space: keys and values, short keys first.
    #[expect(clippy::type_complexity, reason = "pairs of keys and values say what they are")]
    pub fn records(&self, space: Space) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        records::of_space(&self.inner.shared, space.0)
    }

    /// Returns when everything that was asked before is durable.
    pub async fn sync(&self) -> Result<(), StoreError> {
        self.ask(|done| Job::Sync { done }).await
    }

    /// Verifies objects on the disk, in order of their names, after `after`, until `budget` bytes
    /// were read. Blocks.
    pub fn scrub(&self, after: Option<ObjectId>, budget: u64) -> Result<Scrubbed, StoreError> {
        let shared = &self.inner.shared;
        let mut scrubbed = Scrubbed { next: after, ..Scrubbed::default() };
        while scrubbed.bytes < budget {
            let page = self.object_ids(scrubbed.next, 64)?;
            if page.is_empty() {
                scrubbed.next = None;
                break;
            }
            for id in page {
                scrubbed.next = Some(id);
                shared.pin(id);
                let checked = shared.place(&id).and_then(|place| match place {
                    Some(place) => shared.verify(id, place, true).map(|()| place.len),
                    None => Ok(0),
                });
                shared.unpin(id);
                scrubbed.objects += 1;
                match checked {
                    Ok(len) => scrubbed.bytes += len,
                    Err(StoreError::Corrupt { id }) => scrubbed.damaged.push(id),
                    Err(error) => return Err(error),
                }
                if scrubbed.bytes >= budget {
                    break;
                }
            }
        }
        Ok(scrubbed)
    }

    /// Waits until objects were found damaged or gone, and returns them: they are to be fetched
    /// again. Cancel-safe.
    pub async fn lost(&self) -> Vec<ObjectId> {
        loop {
            let woken = self.inner.shared.lost_notify.notified();
            let lost = self.inner.shared.take_lost();
            if !lost.is_empty() {
                return lost;
            }
            woken.await;
        }
    }

    /// The store in numbers.
    pub fn stats(&self) -> Stats {
        let shared = &self.inner.shared;
        let counters = &shared.counters;
        let number = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let (free, _) = shared.layout.space().unwrap_or_default();
        Stats {
            objects: number(&counters.objects),
            bytes: number(&counters.bytes),
            records: number(&counters.records),
            packs: number(&counters.packs),
            commits: number(&counters.commits),
            lost: number(&counters.lost),
            rebuilds: number(&counters.rebuilds),
            disk_free: free,
            full: free < number(&counters.full),
            degraded: shared.trouble(),
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("dir", &self.inner.shared.layout.dir()).finish()
    }
}

// A lock that cannot be held across threads would show here.
const _: () = {
    const fn check<T: Send + Sync + 'static>() {}
    check::<Store>();
    check::<Object>();
    check::<Incoming>();
};

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use godwit_core::key::SecretKey;

    /// The index goes bad under a running store.
    fn check(break_it: impl FnOnce(&Shared, &ObjectId)) {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new(SecretKey::from_seed(&[1; 32]).public());
        let (store, _) = Store::open(dir.path(), options.clone()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let objects: Vec<NewObject> =
            (0..100u32).map(|i| NewObject::of(Bytes::copy_from_slice(&i.to_le_bytes()))).collect();
        runtime.block_on(async {
            store.put_objects(objects.clone()).await.unwrap();
            store.put_record(Space(1), b"head", b"value").await.unwrap();
            break_it(&store.inner.shared, &objects[0].named.id);
            assert!(matches!(store.get(&objects[0].named.id), Err(StoreError::Degraded(_))));
            // The repair stands in the queue before this; it may fail while the repair is at work.
            while store.stats().degraded.is_some() {
                let _ = store.sync().await;
            }
        });
        let all_there = |store: &Store| {
            for object in &objects {
                assert_eq!(store.get(&object.named.id).unwrap().unwrap().bytes(0..4).unwrap(), object.bytes);
            }
            assert_eq!(store.record(Space(1), b"head").unwrap().unwrap(), b"value");
        };
        all_there(&store);
        assert_eq!(store.stats().rebuilds, 1);
        runtime.block_on(store.put_record(Space(1), b"more", b"value")).unwrap();
        drop(store);
        let (store, report) = Store::open(dir.path(), options).unwrap();
        assert!(report.rebuilt.is_none(), "{report:?}");
        all_there(&store);
    }

    #[test]
    fn a_damaged_value_has_the_index_rebuilt_while_running() {
        check(|shared, id| {
            let change = (crate::frame::object_key(id), Some(b"not what was written".to_vec()));
            shared.index(|index| index.apply(vec![change])).unwrap();
        });
    }

    #[test]
    fn an_index_that_panics_is_rebuilt_while_running() {
        struct Panics;
        impl crate::index::Index for Panics {
            fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, crate::index::Trouble> {
                crate::index::boundary(|| panic!("as sled does on damaged files"))
            }
            fn range(&self, _: &[u8], _: usize) -> Result<Vec<crate::index::Pair>, crate::index::Trouble> {
                Ok(Vec::new())
            }
            fn apply(&self, _: Vec<crate::index::Change>) -> Result<(), crate::index::Trouble> {
                Ok(())
            }
            fn sync(&self) -> Result<(), crate::index::Trouble> {
                Ok(())
            }
            fn disk_len(&self) -> Result<u64, crate::index::Trouble> {
                Ok(0)
            }
        }
        check(|shared, _| {
            // What sled had is not to be opened again either.
            let log = shared.layout.index().join("db");
            shared.set_index(Some(Box::new(Panics)));
            std::fs::write(log, b"rubbish").unwrap();
        });
    }
}
