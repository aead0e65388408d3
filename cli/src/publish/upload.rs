//! Gives the member the objects that it does not hold.
//!
//! A thread reads ahead while the connection sends, within a budget of bytes, so that ten thousand
//! small files flow without pauses and a few large ones do not fill the memory. Objects go in
//! batches; each is durable at the member when its request returns, and a broken publish starts
//! again from there.

use super::scan::{Scanned, Source, read_again};
use super::walk::Walked;
use crate::failure::Outcome;
use anyhow::Context;
use bytes::Bytes;
use godwit_core::content::ObjectId;
use godwit_core::upload::Intent;
use godwit_node::admin::Client;
use indicatif::ProgressBar;
use std::io;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Bytes read ahead of the connection, in KiB: two of the largest objects.
const AHEAD_KIB: u32 = 128 * 1024;

/// Objects read ahead of the connection, whatever their size.
const AHEAD_OBJECTS: usize = 1024;

/// A request ends after so many bytes: what is lost, at most, when the connection breaks.
const BATCH_LEN: u64 = 256 * 1024 * 1024;

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Uploaded {
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
}

/// Which objects of the tree the member does not hold: files as they lie on the disk, then the
/// lists and blocks that name them.
pub(crate) async fn missing(client: &Client, scanned: &Scanned) -> Outcome<Vec<ObjectId>> {
    let all: Vec<ObjectId> = scanned.objects.keys().copied().collect();
    let mut missing = client.missing(&all).await?;
    missing.sort_by_key(|id| match scanned.objects.get(id) {
        Some(Source::File { file, offset, .. }) => (false, *file, *offset),
        Some(Source::Memory(_)) | None => (true, 0, 0),
    });
    Ok(missing)
}

/// Sends the objects, which the publisher intends to.
pub(crate) async fn upload(
    client: &Client,
    intent: &Intent,
    walked: Arc<Walked>,
    scanned: Arc<Scanned>,
    missing: Vec<ObjectId>,
    progress: &ProgressBar,
) -> Outcome<Uploaded> {
    let mut uploaded = Uploaded::default();
    for batch in batches(&scanned, missing) {
        let (sender, receiver) = mpsc::channel(AHEAD_OBJECTS);
        let (walked, scanned) = (walked.clone(), scanned.clone());
        let reader = tokio::task::spawn_blocking(move || read_ahead(&walked, &scanned, &batch, &sender));
        let stored = client.put_objects(Some(intent), stream(receiver, progress.clone())).await;
        // Why reading stopped says more than that the connection was cut short.
        let sent = match reader.await.context("reading ahead")? {
            Ok(sent) => sent,
            Err(Stopped::Problem(problem)) => return Err(problem.into()),
            Err(Stopped::Unwanted) => {
                stored?;
                return Err(anyhow::anyhow!("the member stopped taking objects").into());
            }
        };
        let stored = stored?;
        if stored.objects != sent.objects {
            let (stored, sent) = (stored.objects, sent.objects);
            return Err(anyhow::anyhow!("of {sent} objects sent the member stored {stored}").into());
        }
        uploaded.objects += sent.objects;
        uploaded.bytes += sent.bytes;
    }
    Ok(uploaded)
}

/// An object that was read, and its part of the budget.
type Ahead = (Bytes, OwnedSemaphorePermit);

fn stream(
    receiver: mpsc::Receiver<Ahead>,
    progress: ProgressBar,
) -> impl futures::Stream<Item = io::Result<Bytes>> + Send + 'static {
    futures::stream::unfold((receiver, progress), |(mut receiver, progress)| async {
        let (bytes, _permit) = receiver.recv().await?;
        progress.inc(bytes.len() as u64);
        Some((Ok(bytes), (receiver, progress)))
    })
}

fn batches(scanned: &Scanned, missing: Vec<ObjectId>) -> Vec<Vec<ObjectId>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let mut batch_len = 0;
    for id in missing {
        let len = scanned.objects.get(&id).map_or(0, Source::object_len);
        if batch_len + len > BATCH_LEN && !batch.is_empty() {
            batches.push(std::mem::take(&mut batch));
            batch_len = 0;
        }
        batch_len += len;
        batch.push(id);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

/// Why reading ahead ended early.
enum Stopped {
    /// The connection ended first.
    Unwanted,
    /// A file changed or could not be read.
    Problem(anyhow::Error),
}

fn read_ahead(
    walked: &Walked,
    scanned: &Scanned,
    batch: &[ObjectId],
    sender: &mpsc::Sender<Ahead>,
) -> Result<Uploaded, Stopped> {
    let budget = Arc::new(Semaphore::new(AHEAD_KIB as usize));
    let runtime = tokio::runtime::Handle::current();
    let mut sent = Uploaded::default();
    for id in batch {
        let Some(source) = scanned.objects.get(id) else {
            let problem = anyhow::anyhow!("the member asks for an object that is not in the tree ({id:?})");
            return Err(Stopped::Problem(problem));
        };
        let cost = u32::try_from(source.object_len() / 1024 + 1).unwrap_or(AHEAD_KIB).min(AHEAD_KIB);
        // When the connection ends, its stream goes, and what was read ahead with it: every permit
        // is free again, so this never waits for ever.
        let permit = runtime.block_on(budget.clone().acquire_many_owned(cost));
        let permit = permit.map_err(|_| Stopped::Unwanted)?;
        let bytes = read_again(walked, id, source).map_err(|(path, problem)| {
            let advice = "nothing was published; publish when nobody writes to the directory";
            Stopped::Problem(anyhow::anyhow!("{path:?} {problem}: {advice}"))
        })?;
        let len = bytes.len() as u64;
        sender.blocking_send((bytes, permit)).map_err(|_| Stopped::Unwanted)?;
        sent.objects += 1;
        sent.bytes += len;
    }
    Ok(sent)
}
