//! Live TCP connections, taken out of one kernel and put into another (`TCP_REPAIR`).
//!
//! [`Frozen::freeze`] stops a socket: it sends no new data, and what it is made of can be read: a
//! [`State`] of some 50 octets, and the octets that the other side has not acknowledged. [`restore`]
//! makes a socket of these that goes on where the other stopped. In between no packet of the
//! connection may reach either kernel: one that has no socket for it answers with a reset, and the
//! client is lost. Keeping packets away is the caller's business, before it freezes.
//!
//! A frozen socket that is dropped vanishes without a packet; [`Frozen::resume`] lets it go on.
//!
//! # What does not move
//!
//! Only established connections of plain TCP move: not those half open or closing, not Multipath TCP,
//! not those that sign segments (TCP-MD5, TCP-AO; the key is nobody else's). Segments that came out of
//! order are not moved either: the client still has them and sends them again. So does the kernel's
//! idea of the path, which the new socket learns anew: it begins with the window of a new connection.
//!
//! # What the kernel does not tell
//!
//! Each of these was a silent fault until it was measured:
//!
//! - a restored socket keeps the segment size that `connect` guessed without a peer, 524 octets. It is told
//!   the real one before (`TCP_MAXSEG`), which holds for both families;
//! - segments put back count as sent just now, which leads BBR to believe in a path of no length. Restored
//!   sockets use [`CONGESTION`];
//! - buffers that were set stay as they were set, so queues would grow with each move. They are sized to
//!   what is in them, and then left to the kernel again;
//! - a frozen socket goes on sending what is queued when the timer of a paced connection says so, and the
//!   client acknowledges more than the new socket knows of. Its window is shut while it is frozen;
//! - leaving repair mode clears `SO_REUSEADDR`, and the socket would keep a restarted listener from its
//!   port.
//!
//! All of it takes `CAP_NET_ADMIN` in the network namespace of the socket.

mod freeze;
mod options;
mod restore;
#[cfg(test)]
mod tests;
mod wire;

pub use freeze::{FreezeError, Frozen, make_movable};
pub use restore::{CONGESTION, RestoreError, restore};
pub use wire::{DecodeError, STATE_LEN_FIXED};

/// Octets that were written and not acknowledged.
pub(crate) fn unacknowledged(socket: std::os::fd::BorrowedFd<'_>) -> std::io::Result<u32> {
    options::count(socket, options::SIOCOUTQ)
}

/// Unacknowledged and unsent octets of a connection that moves, at most: what a path of 1 Gbit/s and half a
/// second holds. They do not travel, but who makes the socket has them in memory twice for a moment, and
/// memory is what bounds them.
pub const IN_FLIGHT_MAX: u32 = 64 << 20;

/// Received octets that no program has read, of a connection that moves, at most.
pub const UNREAD_MAX: usize = 16 << 10;

/// What a connection is made of beside its addresses and the octets in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The sequence number after the last octet that the program wrote.
    pub written: u32,
    /// The sequence number after the last octet that was received in order.
    pub received: u32,
    /// Octets written and not acknowledged, at most [`IN_FLIGHT_MAX`].
    pub in_flight: u32,
    /// Those of them that were never sent: the last ones.
    pub unsent: u32,
    /// The largest segment that the other side takes, octets.
    pub mss: u16,
    /// Whether losses are told in detail (RFC 2018).
    pub selective: bool,
    /// By how many bits windows are shifted (RFC 7323): of those received, and of those told.
    pub scale: Option<(u8, u8)>,
    /// What the clock of time stamps shows, if they are used (RFC 7323).
    pub timestamp: Option<u32>,
    /// Windows.
    pub window: Window,
    /// Octets that came and that the program has not read, at most [`UNREAD_MAX`].
    pub unread: Vec<u8>,
}

/// The windows of a connection, as the kernel keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The sequence number of the segment that told the other side's window last.
    pub told_at: u32,
    /// The other side's window, octets.
    pub send: u32,
    /// The largest that it ever told.
    pub send_max: u32,
    /// What was told to the other side.
    pub receive: u32,
    /// The acknowledgement with which that was told.
    pub receive_at: u32,
}
