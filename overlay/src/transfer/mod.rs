//! Objects over a stream, verified while they come.
//!
//! One stream carries many objects without a round trip for each: the fetcher writes all it wants,
//! the holder answers in that order, and both run at once. Every group of 16 KiB is checked against
//! the object's name before the fetcher's [`Sink`] sees it, so a holder can be slow or silent but
//! never wrong. A fetch that was cut off goes on from the group where it stopped, with any holder.
//!
//! The frames are drawn in `transfer/wire.rs`. The holder reads its disk on a blocking thread, in portions of
//! [`PORTION_LEN`], at most [`PORTIONS_AHEAD`] of them before the stream takes them; so the memory
//! of a transfer is bounded at both ends, and the slower of disk and path sets the pace.

mod fetch;
mod serve;
pub(crate) mod wire;

pub use fetch::{FetchError, Fetched, fetch};
pub use serve::{ServeError, Served, serve};

use async_trait::async_trait;
use bytes::Bytes;
use godwit_core::content::object::{GroupHash, ObjectId, Verifier};
use std::io;
use std::time::Duration;

/// Bytes read from disk, framed and handed to the sink at a time: 16 groups.
pub const PORTION_LEN: usize = 256 * 1024;

/// Portions that a holder reads ahead of the stream.
pub const PORTIONS_AHEAD: usize = 4;

/// Wants in one request frame. More are sent as further frames of the same stream.
pub const WANTS_MAX: usize = 1024;

/// A transfer that moves no byte for so long is given up: longer than a busy disk takes to sync.
pub const STALL_MAX: Duration = Duration::from_secs(30);

/// An object that a fetcher wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Which.
    pub id: ObjectId,
    /// The first group that is still missing; 0 for all.
    pub from_group: u32,
}

impl Want {
    /// All of an object.
    pub fn whole(id: ObjectId) -> Want {
        Want { id, from_group: 0 }
    }
}

/// Where a holder's objects are. Called on a blocking thread.
pub trait Holder: Send + Sync + 'static {
    /// The object, if it is held here whole.
    fn open(&self, id: &ObjectId) -> Option<Held>;
}

/// Reads `len` bytes of a held object from an offset; fails rather than return fewer.
pub type ReadAt = Box<dyn Fn(u64, usize) -> io::Result<Bytes> + Send>;

/// An object that is held.
pub struct Held {
    /// Its length, bytes.
    pub len: u64,
    /// Its group hashes, [`godwit_core::content::object::group_count`] of them.
    pub groups: Vec<GroupHash>,
    /// Its bytes.
    pub read: ReadAt,
}

/// Where fetched objects go. For each object wanted, in order: either `missing`, or `begin`, then
/// `groups` until all are there, then `done`. An object that breaks off midway has no `done`; what
/// the sink got of it is right and may be kept. An error ends the fetch.
#[async_trait]
pub trait Sink: Send {
    /// The holder has the object; `object` knows its name, length and (checked) group hashes.
    async fn begin(&mut self, object: &Verifier) -> io::Result<()>;

    /// Verified bytes of consecutive groups, the first of which is number `first`.
    async fn groups(&mut self, id: &ObjectId, first: usize, bytes: Bytes) -> io::Result<()>;

    /// All groups of the object were delivered.
    async fn done(&mut self, id: &ObjectId) -> io::Result<()>;

    /// The holder has not got the object, or (after `begin`) failed to read the rest of it.
    async fn missing(&mut self, id: &ObjectId) -> io::Result<()>;
}
