//! Live connections move between nodes: the hands of [`godwit_core::handoff`].
//!
//! - [`shell`]: the one task that owns the giver and the taker; [`Handoffs`] is how others speak to it.
//! - [`Program`], [`Rest`], [`Connections`]: what a program has to do so that its connections can move.
//! - [`Packets`]: who keeps packets away meanwhile.
//! - `state`: what travels; `giving` and `taking`: sockets stopped and made.
//!
//! # What a hand-off takes
//!
//! Nothing of a connection but its numbers travels (about 50 octets), the octets that its program has not
//! read, and what the program needs to go on. What is in flight to the client is made anew by the program
//! at the taker, which has the same content; so the pause is the time of one message, whatever the window.
//!
//! # Trade-offs
//!
//! - A program is asked to stop, and stops where it can go on elsewhere. Until it has, it runs: with
//!   packets kept away, for at most [`STOP_MAX`].
//! - Sockets are frozen and made on threads that may block, [`AT_ONCE`] of a hand-off at a time. What is made
//!   anew takes memory: [`ROOM`] bounds it.

mod calm;
mod connections;
mod giving;
mod packets;
mod program;
mod shell;
mod state;
mod taking;

pub use connections::{Connections, Registered, StopOrder};
pub use packets::Packets;
pub use program::{Program, Rebuilt, Refused, Rest, Stopped};
pub use shell::{Handoffs, Report, Shell, Told};

use std::time::Duration;

/// A program that has not stopped by then keeps its connection.
pub const STOP_MAX: Duration = Duration::from_millis(100);

/// Sockets of one hand-off that are made at once.
pub const AT_ONCE: usize = 8;

/// Octets in flight that are made anew at once, of all hand-offs: two of the largest connections that move
/// ([`godwit_net::repair::IN_FLIGHT_MAX`]), or thousands of small ones.
pub const ROOM: u32 = 2 * godwit_net::repair::IN_FLIGHT_MAX;
