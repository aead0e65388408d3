//! Gives back the space of what nobody needs any more: mark and sweep.
//!
//! ```text
//!   versions held (current, and keep_versions superseded ones) ---- whole ----+
//!   versions coming in, versions that open connections are served -- partly --+--> kept
//!   the current version, when nobody else in reach holds it ------- whole ----+
//!   current versions of sites that are not kept here ------------- partly -------> cache
//!   stored or looked for in the last hour: see `recent` -------------------------> kept
//! ```
//!
//! Everything else is deleted, and of the cache what was used longest ago, until the rest is
//! within `cache_disk_mib`. When a version that is held cannot be walked whole, or one of which the
//! last objects may be here, nothing is deleted until it was repaired.
//!
//! What happens meanwhile is no danger. Who relies on an object touches it first (see `recent`).
//! Only replication relies on more than it has looked at: it does not look under blocks that it
//! knows to be whole. So before anything is deleted it is told which blocks stay whole, and says
//! which versions it wants at that moment; these are marked as well.
//!
//! Memory is bounded (see `mark`), threads that serve are not blocked, and deletions go to the
//! store in batches, between which other writes take their turns.

use crate::content::Content;
use crate::held::Held;
use crate::http::Sites;
use crate::mark::{Marks, Part, Unsure};
use crate::metrics::Metrics;
use crate::recent::{Line, Recent};
use crate::roots::Roots;
use crate::snapshot::Snapshot;
use godwit_core::content::{ObjectId, SiteVersion};
use godwit_core::key::MemberId;
use godwit_core::name::SiteName;
use godwit_store::{Store, StoreError};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// However fast the cache fills, collecting rests for so long.
const PAUSE: Duration = Duration::from_secs(10);

/// Names looked at in one go.
const PAGE: usize = 2048;

/// Objects deleted in one go; publishers and replication wait for as long as that takes.
const DELETE_MAX: usize = 256;

/// What is asked of replication: forget all blocks but these, and say what is wanted.
pub(crate) struct Retain {
    pub(crate) blocks: BTreeSet<ObjectId>,
    pub(crate) wanted: oneshot::Sender<Vec<SiteVersion>>,
}

/// Deletes what nobody needs.
pub(crate) struct Collector {
    pub(crate) own: MemberId,
    pub(crate) store: Store,
    pub(crate) held: Arc<Held>,
    pub(crate) sites: Arc<Sites>,
    pub(crate) content: Arc<Content>,
    pub(crate) recent: Arc<Recent>,
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(crate) replication: mpsc::Sender<Retain>,
    pub(crate) metrics: Arc<Metrics>,
    /// What was touched within this stays.
    pub(crate) after: Duration,
    /// The most bytes of the cache.
    pub(crate) cache_bytes: u64,
    /// One sweep at a time.
    pub(crate) turn: Mutex<()>,
    pub(crate) stop: CancellationToken,
}

/// What a sweep deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Collected {
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
}

/// Why nothing, or nothing more, was deleted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotCollected {
    /// A version that is held is not whole.
    #[error("version {version} of {site} cannot be walked")]
    Unsure {
        site: SiteName,
        version: u64,
        #[source]
        source: Unsure,
    },
    /// The disk failed, or the daemon stops.
    #[error(transparent)]
    Other(#[from] Unsure),
}

impl From<StoreError> for NotCollected {
    fn from(error: StoreError) -> NotCollected {
        NotCollected::Other(error.into())
    }
}

/// Names of one page that may go, and what they would give back.
#[derive(Default)]
struct Page {
    garbage: Vec<(ObjectId, u64)>,
    cached: Vec<(ObjectId, u64)>,
    /// Where the next page begins; `None` at the end of the part.
    next: Option<ObjectId>,
}

impl Collector {
    /// Collects every `period`, and when the cache fills, until the daemon stops.
    pub(crate) async fn run(self: Arc<Self>, period: Duration) {
        loop {
            let due = async {
                tokio::time::sleep(PAUSE).await;
                // When it is not filled until then, the period is over.
                let _ = tokio::time::timeout(period.saturating_sub(PAUSE), self.recent.filled()).await;
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = due => {}
            }
            match self.collect().await {
                Ok(Collected { objects: 0, .. }) | Err(NotCollected::Other(Unsure::Stopping)) => {}
                Ok(Collected { objects, bytes }) => tracing::info!(objects, bytes, "collected"),
                Err(error) => {
                    let error = crate::fetch::Chain(&error).to_string();
                    tracing::warn!(error, "nothing more is collected for now");
                }
            }
        }
    }

    /// Collects once.
    pub(crate) async fn collect(&self) -> Result<Collected, NotCollected> {
        let _turn = self.turn.lock().await;
        let started = Instant::now();
        let line = self.recent.line(self.after);
        let mut collected = Collected::default();
        let mut cache_left = 0;
        let mut after = None;
        for part in Part::of(self.store.stats().objects) {
            let marks = Arc::new(self.mark(part).await?);
            let (next, worth) = self.sweep(&marks, after, line, &mut collected).await?;
            cache_left += self.shrink(&marks, after, line, worth, &mut collected).await?;
            after = next;
        }
        self.recent.prune(line).await;
        self.metrics.cache_bytes.set(i64::try_from(cache_left).unwrap_or(i64::MAX));
        self.metrics.collect_seconds.observe(started.elapsed().as_secs_f64());
        Ok(collected)
    }

    async fn mark(&self, part: Part) -> Result<Marks, NotCollected> {
        let roots = Roots::now(&self.own, &self.snapshots.borrow().clone(), &self.held, &self.sites);
        let marks = Marks::new(part, self.store.clone(), self.stop.clone());
        let (marks, partly, cache) = blocking(move || {
            let mut marks = marks;
            for version in &roots.whole {
                marks.keep_whole(version.root).map_err(|source| unsure(version, source))?;
            }
            Ok::<_, NotCollected>((marks, roots.partly, roots.cache))
        })
        .await??;
        let (reply, wanted) = oneshot::channel();
        let retain = Retain { blocks: marks.blocks().clone(), wanted: reply };
        self.replication.send(retain).await.map_err(|_| Unsure::Stopping)?;
        let wanted = wanted.await.map_err(|_| Unsure::Stopping)?;
        let marked = blocking(move || {
            let mut marks = marks;
            wanted.iter().map(|version| version.root).chain(partly).try_for_each(|r| marks.keep_partly(r))?;
            cache.into_iter().try_for_each(|root| marks.cache(root))?;
            Ok::<_, Unsure>(marks)
        });
        Ok(marked.await??)
    }

    /// Deletes what is neither marked nor recent. Returns where the part ended, and how many bytes
    /// of the cache are worth what.
    async fn sweep(
        &self,
        marks: &Arc<Marks>,
        mut after: Option<ObjectId>,
        line: Line,
        collected: &mut Collected,
    ) -> Result<(Option<ObjectId>, BTreeMap<u32, u64>), NotCollected> {
        let mut worth: BTreeMap<u32, u64> = BTreeMap::new();
        loop {
            let page = self.page(marks, after).await?;
            for (id, len) in &page.cached {
                *worth.entry(self.worth(marks, id)).or_default() += len;
            }
            self.delete(line, page.garbage, collected).await?;
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok((after, worth)),
            }
        }
    }

    /// Gives up what of the cache was used longest ago, until the rest is within its bound.
    /// Returns how many bytes are left.
    async fn shrink(
        &self,
        marks: &Arc<Marks>,
        mut after: Option<ObjectId>,
        line: Line,
        worth: BTreeMap<u32, u64>,
        collected: &mut Collected,
    ) -> Result<u64, NotCollected> {
        // Names are hashes: each part has its even share.
        let share = self.cache_bytes / marks.part.count();
        let mut left: u64 = worth.values().sum();
        let mut excess = left.saturating_sub(share);
        let least = worth.iter().scan(0u64, |sum, (worth, bytes)| {
            let before = *sum;
            *sum = sum.saturating_add(*bytes);
            (before < excess).then_some(*worth)
        });
        let Some(last_to_go) = least.last() else { return Ok(left) };
        let line = line.for_cache();
        while excess > 0 {
            let page = self.page(marks, after).await?;
            let mut going = Vec::new();
            let mut planned = 0;
            for (id, len) in page.cached {
                let worth = self.worth(marks, &id);
                // What is worth less than the last of those to go goes, of its equals only as many
                // as are needed.
                if worth < last_to_go || worth == last_to_go && planned < excess {
                    planned += len;
                    going.push((id, len));
                }
            }
            let deleted = self.delete(line, going, collected).await?;
            left = left.saturating_sub(deleted);
            excess = excess.saturating_sub(deleted);
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        Ok(left)
    }

    /// What an object of the cache is worth: the time of its last use. Blocks go after all others.
    fn worth(&self, marks: &Marks, id: &ObjectId) -> u32 {
        if marks.is_cached_block(id) { u32::MAX } else { self.recent.last_use(id) }
    }

    /// Deletes those of `objects` that are old; returns how many bytes that gives back.
    async fn delete(
        &self,
        line: Line,
        objects: Vec<(ObjectId, u64)>,
        collected: &mut Collected,
    ) -> Result<u64, NotCollected> {
        let mut bytes = 0;
        for batch in objects.chunks(DELETE_MAX) {
            let ids = batch.iter().map(|(id, _)| *id).collect();
            let deleted: BTreeSet<ObjectId> =
                self.recent.delete(&self.store, line, ids).await?.into_iter().collect();
            // Who reads them now reads on; nobody begins to.
            self.content.forget(deleted.iter());
            let of_batch: u64 = batch.iter().filter(|(id, _)| deleted.contains(id)).map(|(_, len)| len).sum();
            self.metrics.collected_objects.inc_by(deleted.len() as u64);
            self.metrics.collected_bytes.inc_by(of_batch);
            collected.objects += deleted.len() as u64;
            bytes += of_batch;
        }
        collected.bytes += bytes;
        Ok(bytes)
    }

    async fn page(&self, marks: &Arc<Marks>, after: Option<ObjectId>) -> Result<Page, NotCollected> {
        if self.stop.is_cancelled() {
            return Err(Unsure::Stopping.into());
        }
        let (store, marks) = (self.store.clone(), marks.clone());
        Ok(blocking(move || page(&store, &marks, after)).await??)
    }
}

fn page(store: &Store, marks: &Marks, after: Option<ObjectId>) -> Result<Page, StoreError> {
    let mut page = Page::default();
    let ids = store.object_ids(after, PAGE)?;
    let full = ids.len() == PAGE;
    for id in ids {
        match marks.part.place(&id) {
            Ordering::Less => {}
            Ordering::Greater => return Ok(Page { next: None, ..page }),
            Ordering::Equal if marks.is_kept(&id) => {}
            Ordering::Equal => {
                let Some(len) = store.len_of(&id)? else { continue };
                let list = if marks.is_cached(&id) { &mut page.cached } else { &mut page.garbage };
                list.push((id, len));
            }
        }
        page.next = Some(id);
    }
    if !full {
        page.next = None;
    }
    Ok(page)
}

fn unsure(version: &SiteVersion, source: Unsure) -> NotCollected {
    match source {
        Unsure::Missing(_) | Unsure::Wrong(_) => {
            NotCollected::Unsure { site: version.site.clone(), version: version.number.0, source }
        }
        source => NotCollected::Other(source),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Unsure> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Unsure::Stopping)
}
