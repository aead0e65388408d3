//! What the disk damages is found and fetched again.
//!
//! The store tells which objects it lost; they are asked of every member in reach, nearest first,
//! until somebody gave them. Meanwhile clients that want them wait for a pull of their own. A slow
//! scrub reads everything over and over, so that damage is found before a second copy has some.

use crate::content::Content;
use crate::fetch::{Fetcher, Purpose};
use crate::snapshot::Snapshot;
use godwit_core::content::ObjectId;
use godwit_store::{Store, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Objects found damaged that no holder gave are asked for again after this.
const REPAIR_AGAIN: Duration = Duration::from_secs(5);

/// Objects asked for in one transfer.
const BATCH: usize = 512;

/// Bytes verified on the disk per [`SCRUB_PERIOD`]: 3 MB/s, a site of 500 MB in three minutes.
const SCRUB_BUDGET: u64 = 16 * 1024 * 1024;
const SCRUB_PERIOD: Duration = Duration::from_secs(5);

/// Fetches again what the disk has damaged, until the daemon stops.
pub(crate) async fn repair(
    store: Store,
    content: Arc<Content>,
    fetcher: Arc<Fetcher>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    damaged: Arc<Notify>,
    stop: CancellationToken,
) {
    let mut lost: Vec<ObjectId> = Vec::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            more = store.lost() => {
                tracing::warn!(objects = more.len(), "objects are damaged on the disk; fetching them again");
                content.forget(&more);
                lost.extend(more);
                damaged.notify_one();
            }
            () = tokio::time::sleep(REPAIR_AGAIN), if !lost.is_empty() => {}
        }
        lost.retain(|id| !matches!(store.has(id), Ok(true)));
        let snapshot = snapshots.borrow().clone();
        for (holder, addresses) in snapshot.reachable() {
            if lost.is_empty() || stop.is_cancelled() {
                break;
            }
            let batch = &lost[..lost.len().min(BATCH)];
            let brought = fetcher.fetch(holder, &addresses, batch, Purpose::Keep, None).await;
            lost.retain(|id| !brought.got.contains(id));
            fetcher.metrics.repaired_objects.inc_by(brought.got.len() as u64);
        }
    }
}

/// Verifies what lies on the disk, slowly and over and over, until the daemon stops.
pub(crate) async fn scrub(store: Store, stop: CancellationToken) {
    let mut after = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SCRUB_PERIOD) => {}
        }
        let store = store.clone();
        let scrubbed = tokio::task::spawn_blocking(move || store.scrub(after, SCRUB_BUDGET)).await;
        match scrubbed.map_err(|_| StoreError::Closed).flatten() {
            Ok(scrubbed) => after = scrubbed.next,
            Err(error) => tracing::debug!(%error, "scrubbing waits"),
        }
    }
}
