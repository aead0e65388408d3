//! How a store is opened.

use godwit_core::key::MemberId;
use std::time::Duration;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose store it is: the directory is bound to this member when it is made.
    pub owner: MemberId,
    /// What the index keeps in memory, bytes. Default 64 MiB; its own default of 1 GiB is for
    /// machines that do nothing else.
    pub cache_bytes: u64,
    /// A pack is continued until it has so many bytes. Default 256 MiB: few enough files for a
    /// terabyte, and small enough to be deleted when all in it is dead.
    pub pack_len: u64,
    /// Objects from this length on have a file of their own. Default 16 MiB: from there on a file
    /// costs nothing that shows, and gives its space back by being deleted.
    pub own_file_len: u64,
    /// Writes are refused when less than so many bytes would stay free. `None`, the default, is a
    /// twentieth of the file system, at least 4 MiB and at most 64 MiB. The index stops for good
    /// when it meets a full disk, so it must not.
    pub reserve_bytes: Option<u64>,
    /// How long opening the index may take before it counts as damaged. Default 2 minutes: it
    /// needs about 2 seconds per million objects.
    pub open_limit: Duration,
}

impl Options {
    /// The defaults, for `owner`.
    pub fn new(owner: MemberId) -> Options {
        Options {
            owner,
            cache_bytes: 64 << 20,
            pack_len: 256 << 20,
            own_file_len: 16 << 20,
            reserve_bytes: None,
            open_limit: Duration::from_secs(120),
        }
    }

    /// The bytes to keep free on a file system of `size` bytes.
    pub(crate) fn reserve(&self, size: u64) -> u64 {
        self.reserve_bytes.unwrap_or_else(|| (size / 20).clamp(4 << 20, 64 << 20))
    }
}
