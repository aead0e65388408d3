//! The index engine behind a small trait, and sled 0.34 as that engine behind a panic boundary.
//!
//! What is known of sled 0.34.7, and what is done about it:
//!
//! - `flush` ends in `sync_file_range`, which a power cut undoes: [`Index::sync`] also calls
//!   `fdatasync` on sled's log through a handle of its own.
//! - A value that makes a page large goes to a file that is never synced: values stay under
//!   [`VALUE_LEN_MAX`].
//! - Damaged files make it panic, while opening or later: every call runs under `catch_unwind`,
//!   and opening runs in a thread of its own with a time limit.
//! - Its threads keep its lock for a moment after it was dropped: opening waits for it.
//! - After one failed write every later one fails: the caller drops the index and opens it again.

use crate::disk;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// The longest value: sixteen of them in a leaf stay well under the quarter segment (128 KiB)
/// beyond which sled puts a page into an unsynced file.
pub(crate) const VALUE_LEN_MAX: usize = 4096;

/// What sled says when another of its instances holds the files: its error has no kind of its own.
const LOCKED: &str = "could not acquire lock";
/// Between two attempts to get that lock.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// A key and its new value; `None` removes it.
pub(crate) type Change = (Vec<u8>, Option<Vec<u8>>);

/// A key and its value.
pub(crate) type Pair = (Vec<u8>, Vec<u8>);

/// What an index could not do.
#[derive(Debug, Clone)]
pub(crate) enum Trouble {
    /// No space: it works again when there is, after it was opened anew.
    Full,
    /// Damaged or broken: to be set aside and rebuilt.
    Damaged(String),
}

/// An ordered map of small values on the disk.
pub(crate) trait Index: Send + Sync {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Trouble>;

    /// Up to `limit` keys and values from `from` on, in order.
    fn range(&self, from: &[u8], limit: usize) -> Result<Vec<Pair>, Trouble>;

    /// Makes all changes or none. They are durable after [`Index::sync`].
    fn apply(&self, changes: Vec<Change>) -> Result<(), Trouble>;

    /// Waits until all that was applied is on the disk.
    fn sync(&self) -> Result<(), Trouble>;

    /// Bytes on the disk.
    fn disk_len(&self) -> Result<u64, Trouble>;
}

/// sled as an index.
pub(crate) struct SledIndex {
    db: sled::Db,
    /// sled's log, for `fdatasync`.
    log: File,
}

impl SledIndex {
    /// Opens the index in `dir`, made if it is not there. A thread that hangs in it is left
    /// behind after `limit`.
    pub(crate) fn open(dir: &Path, cache_bytes: u64, limit: Duration) -> Result<SledIndex, Trouble> {
        remove_leftovers(dir);
        let (sender, receiver) = mpsc::sync_channel(1);
        let path = dir.to_owned();
        let open = move || {
            // Nobody receives when the limit has passed; the index is dropped then.
            let _ = sender.send(open_unlocked(&path, cache_bytes, Instant::now() + limit));
        };
        thread::Builder::new()
            .name("store-open".into())
            .spawn(open)
            .map_err(|error| Trouble::Damaged(format!("no thread to open the index: {error}")))?;
        let db = match receiver.recv_timeout(limit) {
            Ok(opened) => opened?,
            Err(_) => return Err(Trouble::Damaged(format!("the index did not open within {limit:?}"))),
        };
        let log = File::open(dir.join("db")).map_err(|error| io_trouble(&error))?;
        let index = SledIndex { db, log };
        // The names of a new index must be as durable as what will be in it.
        let names = disk::sync_dir(dir).and_then(|()| dir.parent().map_or(Ok(()), disk::sync_dir));
        names.map_err(|error| io_trouble(&error))?;
        Ok(index)
    }
}

impl Index for SledIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Trouble> {
        boundary(|| Ok(self.db.get(key)?.map(|value| value.to_vec())))
    }

    fn range(&self, from: &[u8], limit: usize) -> Result<Vec<Pair>, Trouble> {
        boundary(|| {
            let pairs = self.db.range(from..).take(limit);
            pairs.map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect()
        })
    }

    fn apply(&self, changes: Vec<Change>) -> Result<(), Trouble> {
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) if value.len() > VALUE_LEN_MAX => {
                    let len = value.len();
                    return Err(Trouble::Damaged(format!("a value of {len} bytes for the index")));
                }
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        boundary(|| self.db.apply_batch(batch))
    }

    fn sync(&self) -> Result<(), Trouble> {
        boundary(|| self.db.flush())?;
        self.log.sync_data().map_err(|error| io_trouble(&error))
    }

    fn disk_len(&self) -> Result<u64, Trouble> {
        boundary(|| self.db.size_on_disk())
    }
}

/// Opens sled's files, waiting until `deadline` for whoever holds their lock. That is a thread of
/// an index of this process that was dropped a moment ago and is not scheduled yet: the store's own
/// lock keeps other processes away. Without waiting, a whole index would be taken for a damaged one.
fn open_unlocked(path: &Path, cache_bytes: u64, deadline: Instant) -> Result<sled::Db, Trouble> {
    loop {
        let config = sled::Config::new().path(path).cache_capacity(cache_bytes).flush_every_ms(Some(500));
        match boundary(|| config.open()) {
            Err(Trouble::Damaged(why)) if why.contains(LOCKED) && Instant::now() < deadline => {
                thread::sleep(LOCK_PAUSE);
            }
            opened => return opened,
        }
    }
}

/// Runs what may panic.
pub(crate) fn boundary<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, Trouble> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(error))) => Err(io_trouble(&error)),
        Ok(Err(error)) => Err(Trouble::Damaged(error.to_string())),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(Trouble::Damaged(format!("the index panicked: {text}")))
        }
    }
}

fn io_trouble(error: &io::Error) -> Trouble {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Trouble::Full,
        _ => Trouble::Damaged(error.to_string()),
    }
}

/// Removes half-written snapshots, which can keep sled from opening; it makes them anew.
fn remove_leftovers(dir: &Path) {
    let leftover = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.starts_with("snap.") && (name.ends_with(".generating") || name.ends_with(".in___motion"))
    };
    for path in std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if leftover(&path) {
            // If it stays, opening fails and the index is rebuilt.
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_let_go_of_late_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let open = |limit| SledIndex::open(dir.path(), 1 << 20, limit);
        let index = open(Duration::from_secs(60)).unwrap();
        index.apply(vec![(b"key".to_vec(), Some(b"value".to_vec()))]).unwrap();
        index.sync().unwrap();
        drop(index);
        // As a thread of the dropped index would.
        let holder = File::open(dir.path().join("db")).unwrap();
        holder.lock().unwrap();
        let held = open(Duration::from_millis(50)).err();
        assert!(matches!(&held, Some(Trouble::Damaged(_))), "held for ever: {held:?}");
        let letting_go = thread::spawn(move || {
            thread::sleep(LOCK_PAUSE * 5);
            drop(holder);
        });
        let index = open(Duration::from_secs(60)).unwrap();
        assert_eq!(index.get(b"key").unwrap(), Some(b"value".to_vec()));
        letting_go.join().unwrap();
    }
}
