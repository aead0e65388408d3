//! Taking what a holder sends into the store.
//!
//! Small objects gather in memory and are made durable together, while the next ones come; large
//! ones go to the disk as they come, and go on where they stopped when they are fetched again, from
//! whomever.

use crate::fetch::{Brought, Failure, FetchEvent, Fetcher, Purpose};
use crate::receiving::Ticket;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use godwit_core::content::ObjectId;
use godwit_core::content::object::{GROUP_LEN, Named, Verifier};
use godwit_overlay::transfer::Sink;
use godwit_store::{Incoming, NewObject, StoreError};
use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Objects up to this gather in memory; larger ones go to the disk as they come.
const SMALL_MAX: u64 = 1024 * 1024;

/// Small objects are written when so many bytes have gathered.
const BATCH_BYTES: u64 = 4 * 1024 * 1024;

/// Or so many of them.
const BATCH_OBJECTS: usize = 512;

/// That bytes come is told this often: well within the silence after which a fetch is given up.
const TELL_PERIOD: Duration = Duration::from_secs(2);

/// An object that another transfer writes is waited for so long, while the holder's bytes wait.
const ELSEWHERE_MAX: Duration = Duration::from_secs(5);

/// Unfinished objects whose progress is remembered.
const PARTIAL_MAX: usize = 1024;

/// Takes a transfer's objects into the store.
pub(crate) struct StoreSink<'a> {
    fetcher: &'a Fetcher,
    purpose: Purpose,
    current: Current,
    batch: Vec<NewObject>,
    /// For the objects in the batch.
    tickets: Vec<Ticket>,
    batch_bytes: u64,
    /// At most one write is at work, so that at most two batches are in memory.
    writing: Option<JoinHandle<Result<Vec<ObjectId>, StoreError>>>,
    brought: Brought,
    events: Option<mpsc::Sender<FetchEvent>>,
    told: Instant,
}

enum Current {
    Nothing,
    Small {
        named: Named,
        bytes: BytesMut,
        ticket: Option<Ticket>,
    },
    Large(Arc<Incoming>, Option<Ticket>),
    /// Another transfer writes it already; what comes here is dropped.
    Elsewhere,
}

impl<'a> StoreSink<'a> {
    pub(crate) fn new(
        fetcher: &'a Fetcher,
        purpose: Purpose,
        events: Option<mpsc::Sender<FetchEvent>>,
    ) -> StoreSink<'a> {
        StoreSink {
            fetcher,
            purpose,
            current: Current::Nothing,
            batch: Vec::new(),
            tickets: Vec::new(),
            batch_bytes: 0,
            writing: None,
            brought: Brought::default(),
            events,
            told: Instant::now(),
        }
    }

    pub(crate) async fn finish(mut self, failure: Option<Failure>) -> Brought {
        self.remember_partial();
        let flushed = self.flush().await;
        let written = self.wait().await;
        self.brought.failure = flushed.err().or(written.err()).map(Failure::Store).or(failure);
        self.brought
    }

    /// Begins to write what has gathered, when what was begun before is durable.
    async fn flush(&mut self) -> Result<(), StoreError> {
        self.wait().await?;
        let batch = std::mem::take(&mut self.batch);
        let tickets = std::mem::take(&mut self.tickets);
        self.batch_bytes = 0;
        if !batch.is_empty() {
            let store = self.fetcher.store.clone();
            let ids: Vec<ObjectId> = batch.iter().map(|object| object.named.id).collect();
            self.keep(&ids).await;
            self.writing = Some(tokio::spawn(async move {
                let written = store.put_objects(batch).await.map(|()| ids);
                drop(tickets);
                written
            }));
        }
        Ok(())
    }

    async fn wait(&mut self) -> Result<(), StoreError> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        let written = writing.await.map_err(|_| StoreError::Closed)??;
        self.brought.got.extend(&written);
        if let Some(events) = &self.events {
            // Nobody listens any more when the daemon stops.
            let _ = events.send(FetchEvent::Stored(written)).await;
        }
        Ok(())
    }

    /// What is about to be written is not collected.
    async fn keep(&self, ids: &[ObjectId]) {
        if self.purpose == Purpose::Keep {
            self.fetcher.recent.touch(ids).await;
        }
    }

    /// An object that came elsewhere counts as brought, when that is done.
    async fn await_elsewhere(&mut self, id: &ObjectId) -> io::Result<()> {
        let ended = self.fetcher.receiving.ended(id);
        // If it takes longer than this, it is asked for again.
        let _ = tokio::time::timeout(ELSEWHERE_MAX, ended).await;
        self.keep(&[*id]).await;
        if self.fetcher.store.has(id).map_err(io::Error::other)? {
            self.brought.got.push(*id);
            if let Some(events) = &self.events {
                let _ = events.send(FetchEvent::Stored(vec![*id])).await;
            }
        }
        Ok(())
    }

    /// Keeps in mind how far a large object came.
    fn remember_partial(&mut self) {
        let Current::Large(incoming, _ticket) = std::mem::replace(&mut self.current, Current::Nothing) else {
            return;
        };
        let missing = incoming.first_missing().and_then(|index| u32::try_from(index).ok());
        let mut partial = self.fetcher.partial.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(missing) = missing.filter(|_| partial.len() < PARTIAL_MAX) {
            partial.insert(incoming.id(), missing);
        }
    }

    fn forget_partial(&self, id: &ObjectId) {
        self.fetcher.partial.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

#[async_trait]
impl Sink for StoreSink<'_> {
    async fn begin(&mut self, object: &Verifier) -> io::Result<()> {
        let (id, len, groups) = (object.id(), object.object_len(), object.groups().to_vec());
        self.current = if len <= SMALL_MAX {
            let bytes = BytesMut::with_capacity(len as usize);
            Current::Small {
                named: Named { id, len, groups },
                bytes,
                ticket: self.fetcher.receiving.begin(id),
            }
        } else {
            let store = self.fetcher.store.clone();
            let ticket = self.fetcher.receiving.begin(id);
            match tokio::task::spawn_blocking(move || store.begin(id, len, groups)).await? {
                Ok(begun) => Current::Large(Arc::new(begun), ticket),
                Err(StoreError::InProgress(_)) if self.purpose == Purpose::Keep => Current::Elsewhere,
                Err(error) => return Err(io::Error::other(error)),
            }
        };
        Ok(())
    }

    async fn groups(&mut self, _id: &ObjectId, first: usize, bytes: Bytes) -> io::Result<()> {
        self.fetcher.metrics.fetched_bytes.inc_by(bytes.len() as u64);
        if let Some(events) = self.events.as_ref().filter(|_| self.told.elapsed() > TELL_PERIOD) {
            self.told = Instant::now();
            // Without room there are newer signs of life on their way.
            let _ = events.try_send(FetchEvent::Came);
        }
        match &mut self.current {
            Current::Nothing => Err(io::Error::other("bytes of no object")),
            Current::Elsewhere => Ok(()),
            Current::Small { bytes: gathered, .. } => {
                gathered.extend_from_slice(&bytes);
                Ok(())
            }
            Current::Large(incoming, _) => {
                let incoming = incoming.clone();
                let write = move || {
                    let mut groups = bytes.chunks(GROUP_LEN).zip(first..);
                    groups.try_for_each(|(group, index)| incoming.write_group(index, group))
                };
                tokio::task::spawn_blocking(write).await?.map_err(io::Error::other)
            }
        }
    }

    async fn done(&mut self, id: &ObjectId) -> io::Result<()> {
        match std::mem::replace(&mut self.current, Current::Nothing) {
            Current::Nothing => return Err(io::Error::other("the end of no object")),
            Current::Elsewhere => self.await_elsewhere(id).await?,
            Current::Small { named, bytes, ticket } => {
                self.batch_bytes += named.len;
                self.tickets.extend(ticket);
                self.batch.push(NewObject { named, bytes: bytes.freeze() });
                if self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_OBJECTS {
                    self.flush().await.map_err(io::Error::other)?;
                }
            }
            Current::Large(incoming, ticket) => {
                self.forget_partial(id);
                self.flush().await.map_err(io::Error::other)?;
                self.wait().await.map_err(io::Error::other)?;
                let incoming =
                    Arc::try_unwrap(incoming).map_err(|_| io::Error::other("still being written"))?;
                let id = *id;
                self.keep(&[id]).await;
                self.writing = Some(tokio::spawn(async move {
                    let written = incoming.commit().await.map(|()| vec![id]);
                    drop(ticket);
                    written
                }));
            }
        }
        Ok(())
    }

    async fn missing(&mut self, id: &ObjectId) -> io::Result<()> {
        self.remember_partial();
        self.brought.missing.push(*id);
        Ok(())
    }
}
