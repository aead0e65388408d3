//! Sealed datagrams on their way out: gathered, and sent as trains (`UDP_SEGMENT`) where they are alike.
//!
//! ```text
//!  buffer │ datagram │ datagram │ datagram │ dgr │ datagram │ …
//!  runs   └─ one place, one class, one length ───┘└─ another …
//! ```
//!
//! The last of a run may be shorter. One system call sends a run.

use super::count::{Counters, Reason, add};
use super::key::Key;
use super::socket::{Sockets, path_mtu};
use godwit_core::tunnel::INNER_MTU_MIN;
use godwit_core::tunnel::header::{OVERHEAD_V4, OVERHEAD_V6};
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// The kernel cuts a datagram into at most so many (`UDP_MAX_SEGMENTS` was 64 up to Linux 6.8).
const SEGMENTS_MAX: usize = 64;
/// And takes at most so much at once: what IP's length field can say, less headers.
const RUN_LEN_MAX: usize = 65_000;
/// What is gathered before it is sent: two trains, so that it stays in the processor's cache.
const BUFFER_LEN: usize = 160 * 1024;
/// Small packets to many places: so many runs, then they are sent.
const RUNS_MAX: usize = 64;

/// Datagrams that go to one place in one call.
struct Run {
    to: SocketAddr,
    class: u8,
    place: Range<usize>,
    segment: usize,
    count: usize,
    /// The last was shorter than the others: nothing may follow.
    closed: bool,
    key: Arc<Key>,
}

/// See the module.
pub(super) struct Outbox {
    buffer: Box<[u8]>,
    used: usize,
    runs: Vec<Run>,
    batching: bool,
}

impl Outbox {
    /// An empty one. Without `batching` each datagram is sent by itself, for measuring.
    pub(super) fn new(batching: bool) -> Outbox {
        Outbox { buffer: vec![0; BUFFER_LEN].into(), used: 0, runs: Vec::with_capacity(RUNS_MAX), batching }
    }

    /// Whether a datagram of this length must wait until what is there was sent.
    pub(super) fn is_full_for(&self, len: usize) -> bool {
        self.used + len > self.buffer.len() || self.runs.len() >= RUNS_MAX
    }

    /// Room for a datagram, which [`Outbox::is_full_for`] has said to be there.
    pub(super) fn room(&mut self, len: usize) -> &mut [u8] {
        &mut self.buffer[self.used..][..len]
    }

    /// What was written into the room of this length goes there.
    pub(super) fn push(&mut self, to: SocketAddr, class: u8, len: usize, key: &Arc<Key>) {
        let start = self.used;
        self.used += len;
        if let Some(run) = self.runs.last_mut()
            && self.batching
            && !run.closed
            && (run.to, run.class) == (to, class)
            && run.count < SEGMENTS_MAX
            && len <= run.segment
            && run.place.len() + len <= RUN_LEN_MAX
        {
            run.place.end += len;
            run.count += 1;
            run.closed = len < run.segment;
            return;
        }
        self.runs.push(Run {
            to,
            class,
            place: start..start + len,
            segment: len,
            count: 1,
            closed: false,
            key: key.clone(),
        });
    }

    /// Sends everything.
    pub(super) fn flush(&mut self, sockets: &Sockets, counters: &Counters) {
        for run in &self.runs {
            add(&counters.calls, 1);
            let bytes = &self.buffer[run.place.clone()];
            let segment = (run.count > 1).then_some(run.segment);
            let Err(error) = sockets.send(run.to, run.class, bytes, segment) else { continue };
            if run.count > 1 && !is_too_long(&error) {
                // Perhaps the device cannot, or one of them is the trouble.
                for single in bytes.chunks(run.segment) {
                    if let Err(error) = sockets.send(run.to, run.class, single, None) {
                        run.unsent(&error, 1, counters);
                    }
                }
            } else {
                run.unsent(&error, run.count, counters);
            }
        }
        self.runs.clear();
        self.used = 0;
    }
}

impl Run {
    fn unsent(&self, error: &io::Error, count: usize, counters: &Counters) {
        counters.drop(Reason::Unsent, count);
        if !is_too_long(error) {
            return;
        }
        // The path is narrower than was known. Who sends more is told from the next packet on.
        let overhead = if self.to.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 };
        if let Ok(mtu) = path_mtu(self.to) {
            let inner = mtu.saturating_sub(overhead).max(INNER_MTU_MIN);
            self.key.mtu.fetch_min(inner, Relaxed);
        }
    }
}

/// A train of too long packets is EINVAL to older kernels.
fn is_too_long(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMSGSIZE | libc::EINVAL))
}
