//! The values for certificate authorities that the network knows of.

use crate::snapshot::Snapshot;
use godwit_core::challenge::Challenge;
use std::sync::Arc;
use tokio::sync::watch;

/// The values for certificate authorities, as they change.
pub struct Challenges {
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(super) known: Option<Vec<Challenge>>,
}

impl Challenges {
    /// Waits until they are others than those given last, and gives them, sorted. `None` when the
    /// member stops. May be dropped while it waits.
    pub async fn next(&mut self) -> Option<Vec<Challenge>> {
        loop {
            let mut current: Vec<Challenge> =
                self.snapshots.borrow_and_update().challenges.values().flatten().cloned().collect();
            current.sort_unstable();
            current.dedup();
            if self.known.as_ref() != Some(&current) {
                self.known = Some(current.clone());
                return Some(current);
            }
            self.snapshots.changed().await.ok()?;
        }
    }
}
