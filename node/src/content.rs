//! Content as the HTTP role and publishers see it: objects that are here, or come when asked for.
//!
//! An object that is not here is pulled from the nearest holder of the site. However many clients
//! ask for it at once, it is fetched once ([`Content::pull`]), kept, and served from the store. So
//! an object that the disk has damaged is no special case: the store says that it is missing, and
//! it is pulled like one that never was here.

use crate::fetch::{Fetcher, Purpose};
use crate::metrics::{Metrics, StoreFigures};
use crate::recent::Recent;
use crate::snapshot::Snapshot;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use futures::stream::{FuturesUnordered, StreamExt};
use godwit_core::content::tree::{Role, Walk, WalkError};
use godwit_core::content::{ObjectId, VersionNumber};
use godwit_core::key::MemberId;
use godwit_core::name::SiteName;
use godwit_core::upload::Coming;
use godwit_store::{NewObject, Object, Store, StoreError};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Reads up to this are done at once; longer ones on a thread that may block.
const DIRECT_MAX: u64 = 64 * 1024;

/// Objects kept open, so that serving them again takes no look into the index.
const OPEN_MAX: usize = 1024;

/// Pulls at once. Further ones wait: each may hold a batch in memory.
const PULLS_MAX: usize = 64;

/// A pull that takes longer is given up, before clients and their proxies do.
const PULL_MAX: Duration = Duration::from_secs(20);

/// The next holder is asked as well when one has not answered for so long.
const HEDGE: Duration = Duration::from_secs(1);

/// At most so many holders are asked for one object.
const HOLDERS_MAX: usize = 5;

/// Objects here, and how to get the others.
pub(crate) struct Content {
    store: Store,
    fetcher: Arc<Fetcher>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    metrics: Arc<Metrics>,
    recent: Arc<Recent>,
    open: Mutex<HashMap<ObjectId, Object>>,
    flights: Mutex<HashMap<ObjectId, Flight>>,
    pulls: tokio::sync::Semaphore,
}

type Flight = Shared<BoxFuture<'static, bool>>;

/// On whose behalf an object is asked for: says where it may be pulled from.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) site: SiteName,
    pub(crate) number: VersionNumber,
    /// Set when something had to be pulled.
    pub(crate) pulled: Arc<AtomicBool>,
}

/// Why an object cannot be had.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Absent {
    /// It is not here and no holder gave it.
    #[error("object {0} is not here and no holder of the site gave it")]
    NoHolder(ObjectId),
    /// It is here but not what it should be: the publisher made it wrong.
    #[error("object {0} is malformed: {1}")]
    Malformed(ObjectId, String),
    /// The disk failed.
    #[error("the disk failed: {0}")]
    Disk(String),
}

impl From<StoreError> for Absent {
    fn from(error: StoreError) -> Absent {
        Absent::Disk(error.to_string())
    }
}

/// An object that is here, whole and verified.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    object: Object,
}

impl Handle {
    pub(crate) fn len(&self) -> u64 {
        self.object.len()
    }

    /// The bytes in `range`.
    pub(crate) async fn read(&self, range: Range<u64>) -> Result<Bytes, Absent> {
        let failed = |error: std::io::Error| Absent::Disk(error.to_string());
        if range.end - range.start <= DIRECT_MAX {
            return self.object.bytes(range).map_err(failed);
        }
        let object = self.object.clone();
        blocking(move || object.bytes(range)).await?.map_err(failed)
    }
}

impl Content {
    pub(crate) fn new(
        store: Store,
        fetcher: Arc<Fetcher>,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        metrics: Arc<Metrics>,
        recent: Arc<Recent>,
    ) -> Content {
        let pulls = tokio::sync::Semaphore::new(PULLS_MAX);
        let (open, flights) = (Mutex::default(), Mutex::default());
        Content { store, fetcher, snapshots, metrics, recent, open, flights, pulls }
    }

    /// An object, pulled when it is not here.
    pub(crate) async fn open(self: &Arc<Self>, origin: &Origin, id: ObjectId) -> Result<Handle, Absent> {
        self.recent.used(&id);
        if let Some(object) = lock(&self.open).get(&id) {
            return Ok(Handle { object: object.clone() });
        }
        let object = match self.find(id).await? {
            Some(object) => object,
            None => {
                origin.pulled.store(true, Ordering::Relaxed);
                if !self.pull(origin, id).await {
                    return Err(Absent::NoHolder(id));
                }
                let object = self.find(id).await?.ok_or(Absent::NoHolder(id))?;
                self.recent.pulled(object.len());
                object
            }
        };
        let mut open = lock(&self.open);
        // Opening again is cheap; an order of use is not worth keeping.
        if open.len() >= OPEN_MAX {
            open.clear();
        }
        open.insert(id, object.clone());
        Ok(Handle { object })
    }

    /// An object, if it is here.
    pub(crate) async fn here(&self, id: ObjectId) -> Option<Handle> {
        if let Some(object) = lock(&self.open).get(&id) {
            return Some(Handle { object: object.clone() });
        }
        self.find(id).await.ok().flatten().map(|object| Handle { object })
    }

    /// The members that hold a version of a site, nearest first.
    pub(crate) fn holders(&self, site: &SiteName, number: VersionNumber) -> Vec<MemberId> {
        self.snapshots.borrow().holders(site, number)
    }

    /// The object, if it is here. The first look since the start verifies it, which blocks.
    async fn find(&self, id: ObjectId) -> Result<Option<Object>, Absent> {
        let store = self.store.clone();
        Ok(blocking(move || store.get(&id)).await??)
    }

    /// Fetches an object that is not here; who asks while it comes waits for the same fetch.
    async fn pull(self: &Arc<Self>, origin: &Origin, id: ObjectId) -> bool {
        let flight = lock(&self.flights)
            .entry(id)
            .or_insert_with(|| {
                let (content, origin) = (self.clone(), origin.clone());
                // In a task of its own, so that it goes on when the client that began it leaves.
                let task = tokio::spawn(async move {
                    let got = tokio::time::timeout(PULL_MAX, content.pull_or_wait(&origin, id)).await;
                    lock(&content.flights).remove(&id);
                    got.unwrap_or(false)
                });
                task.map(|got| got.unwrap_or(false)).boxed().shared()
            })
            .clone();
        flight.await
    }

    /// Replication may fetch the same object already, or begin to while it is asked for here: then
    /// that is waited for.
    async fn pull_or_wait(&self, origin: &Origin, id: ObjectId) -> bool {
        loop {
            let mut waited = false;
            while self.fetcher.receiving.ended(&id).await {
                waited = true;
            }
            if waited && matches!(self.find(id).await, Ok(Some(_))) || self.pull_from_any(origin, id).await {
                return true;
            }
            if !self.fetcher.receiving.ended(&id).await {
                return matches!(self.find(id).await, Ok(Some(_)));
            }
        }
    }

    /// Asks the holders, nearest first; the next one when one fails or is slow.
    async fn pull_from_any(&self, origin: &Origin, id: ObjectId) -> bool {
        let Ok(_turn) = self.pulls.acquire().await else { return false };
        let snapshot = self.snapshots.borrow().clone();
        let holders = snapshot.holders(&origin.site, origin.number);
        let mut waiting = holders.into_iter().take(HOLDERS_MAX);
        let mut asked = FuturesUnordered::new();
        loop {
            if let Some(holder) = waiting.next() {
                let addresses = snapshot.addresses(&holder);
                asked.push(async move {
                    self.fetcher.fetch(holder, &addresses, &[id], Purpose::Cache, None).await
                });
            }
            tokio::select! {
                brought = asked.next() => match brought {
                    Some(brought) if brought.got.contains(&id) => {
                        self.metrics.pulled_objects.inc();
                        return true;
                    }
                    Some(_) => {}
                    None => return false,
                },
                () = tokio::time::sleep(HEDGE), if waiting.len() > 0 => {}
            }
        }
    }

    /// Keeps objects that a publisher sent; they are durable when it returns, and named.
    pub(crate) async fn put(&self, objects: Vec<Bytes>) -> Result<Vec<Coming>, StoreError> {
        let name = || objects.into_iter().map(NewObject::of).collect::<Vec<_>>();
        let named = tokio::task::spawn_blocking(name).await.map_err(|_| StoreError::Closed)?;
        self.recent.touch(named.iter().map(|object| &object.named.id)).await;
        let coming = |object: &NewObject| Coming { id: object.named.id, len: object.named.len };
        let coming = named.iter().map(coming).collect();
        self.store.put_objects(named).await?;
        Ok(coming)
    }

    /// Those of `ids` that are not here.
    pub(crate) async fn missing(&self, ids: Vec<ObjectId>) -> Result<Vec<ObjectId>, StoreError> {
        // Those that are here will not be sent: they must stay until the version is given.
        self.recent.touch(&ids).await;
        let store = self.store.clone();
        let look = move || {
            let mut missing = Vec::new();
            for id in ids {
                if !store.has(&id)? {
                    missing.push(id);
                }
            }
            Ok(missing)
        };
        tokio::task::spawn_blocking(look).await.map_err(|_| StoreError::Closed)?
    }

    /// The first object of the tree under `root` that is not here. An inner error says that the
    /// tree is none.
    pub(crate) async fn missing_of(
        &self,
        root: ObjectId,
    ) -> Result<Result<Option<ObjectId>, WalkError>, StoreError> {
        let (store, recent) = (self.store.clone(), self.recent.clone());
        let look = move || missing_of(&store, &recent, root);
        tokio::task::spawn_blocking(look).await.map_err(|_| StoreError::Closed)?
    }

    /// These objects were found damaged, or deleted: they are not served any more until they came
    /// again.
    pub(crate) fn forget<'a>(&self, ids: impl IntoIterator<Item = &'a ObjectId>) {
        let mut open = lock(&self.open);
        ids.into_iter().for_each(|id| drop(open.remove(id)));
    }

    /// What the store holds.
    pub(crate) fn figures(&self) -> StoreFigures {
        let stats = self.store.stats();
        StoreFigures {
            objects: stats.objects,
            bytes: stats.bytes,
            lost: stats.lost,
            disk_free: stats.disk_free,
            full: stats.full,
            degraded: stats.degraded.is_some(),
        }
    }
}

fn missing_of(
    store: &Store,
    recent: &Recent,
    root: ObjectId,
) -> Result<Result<Option<ObjectId>, WalkError>, StoreError> {
    let mut walk = Walk::new(root);
    while let Some(reference) = walk.next() {
        recent.touch_blocking(&reference.id);
        if let Role::Leaf { .. } = reference.role {
            if !store.has(&reference.id)? {
                return Ok(Ok(Some(reference.id)));
            }
            continue;
        }
        let Some(object) = store.get(&reference.id)? else { return Ok(Ok(Some(reference.id))) };
        let bytes = object.bytes(0..object.len());
        let bytes = bytes.map_err(|_| StoreError::Corrupt { id: reference.id })?;
        if let Err(error) = walk.feed(reference, &bytes) {
            return Ok(Err(error));
        }
    }
    Ok(Ok(None))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Absent> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Absent::Disk(error.to_string()))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
