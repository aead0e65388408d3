//! Fetching objects from one holder into the store.
//!
//! What comes is verified group by group before it is seen here, and taken into the store by
//! [`crate::sink`].

use crate::metrics::Metrics;
use crate::receiving::Receiving;
use crate::recent::Recent;
use crate::sink::StoreSink;
use godwit_core::content::ObjectId;
use godwit_core::key::MemberId;
use godwit_overlay::transfer::{self, FetchError, Held, Holder, Want};
use godwit_overlay::{OpenError, Overlay, Stream};
use godwit_store::{Store, StoreError};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long a connection with a holder may take to come about.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// Fetches from holders.
pub(crate) struct Fetcher {
    pub(crate) store: Store,
    pub(crate) overlay: Overlay,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) recent: Arc<Recent>,
    /// What comes in at this moment, from whomever.
    pub(crate) receiving: Arc<Receiving>,
    /// The first group that is missing of objects that were broken off.
    pub(crate) partial: Mutex<BTreeMap<ObjectId, u32>>,
}

/// What is fetched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be held: it stays until it is known whether it is.
    Keep,
    /// For a client that waits: it stays while there is room.
    Cache,
}

/// What one fetch came to.
#[derive(Debug, Default)]
pub(crate) struct Brought {
    /// Objects that are durable here now.
    pub(crate) got: Vec<ObjectId>,
    /// Objects that the holder has not got.
    pub(crate) missing: Vec<ObjectId>,
    /// Why it ended early, if it did.
    pub(crate) failure: Option<Failure>,
}

/// What happens while a fetch goes on.
#[derive(Debug)]
pub(crate) enum FetchEvent {
    /// Bytes come.
    Came,
    /// These objects are durable here now.
    Stored(Vec<ObjectId>),
}

/// Why a fetch ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// No stream to the holder.
    #[error("no stream to the holder")]
    Open(#[from] OpenError),
    /// The transfer broke off.
    #[error("the transfer broke off")]
    Transfer(#[from] FetchError),
    /// The disk did not take what came.
    #[error("the disk did not take what came")]
    Store(#[from] StoreError),
}

impl Fetcher {
    /// Fetches `ids` from `holder`, in this order. What happens meanwhile goes to `events`.
    pub(crate) async fn fetch(
        &self,
        holder: MemberId,
        addresses: &[SocketAddr],
        ids: &[ObjectId],
        purpose: Purpose,
        events: Option<mpsc::Sender<FetchEvent>>,
    ) -> Brought {
        let mut sink = StoreSink::new(self, purpose, events);
        let fetched = match self.open(holder, addresses).await {
            Ok(stream) => transfer::fetch(stream, self.wants(ids), &mut sink).await.map_err(Failure::from),
            Err(error) => Err(error.into()),
        };
        let brought = sink.finish(fetched.err()).await;
        self.metrics.fetched_objects.inc_by(brought.got.len() as u64);
        if let Some(failure) = &brought.failure {
            self.metrics.fetch_failures.inc();
            let holder = holder.short();
            tracing::debug!(holder, error = %Chain(failure), got = brought.got.len(), "a fetch ended early");
        }
        brought
    }

    /// A stream to the holder; connects when there is no connection yet.
    async fn open(&self, holder: MemberId, addresses: &[SocketAddr]) -> Result<Stream, OpenError> {
        let deadline = Instant::now() + CONNECT_MAX;
        let mut dialled = false;
        loop {
            match self.overlay.open(holder).await {
                Err(OpenError::NotConnected) if Instant::now() < deadline && !addresses.is_empty() => {
                    if !std::mem::replace(&mut dialled, true) {
                        self.overlay.dial(holder, addresses.to_vec());
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                opened => return opened,
            }
        }
    }

    fn wants(&self, ids: &[ObjectId]) -> Vec<Want> {
        let partial = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        let from = |id| partial.get(id).copied().unwrap_or(0);
        ids.iter().map(|id| Want { id: *id, from_group: from(id) }).collect()
    }
}

/// What members may fetch from here: everything in the store.
pub(crate) struct StoreHolder {
    pub(crate) store: Store,
}

impl Holder for StoreHolder {
    fn open(&self, id: &ObjectId) -> Option<Held> {
        let object = match self.store.get(id) {
            Ok(object) => object?,
            Err(error) => {
                tracing::warn!(%id, %error, "an object asked for cannot be read");
                return None;
            }
        };
        let groups = object.groups().ok()?;
        let len = object.len();
        let read = move |offset: u64, len: usize| object.bytes(offset..offset + len as u64);
        Some(Held { len, groups, read: Box::new(read) })
    }
}

/// An error with its causes, in one line.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
