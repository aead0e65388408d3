//! Hand-off: live connections move from one node to another, and the client sees a pause of about one
//! round trip.
//!
//! The order is that of fast handovers (RFC 5568): the new node is ready before the old one lets go,
//! and what still comes to the old one is passed on, so that no packet is lost for want of an owner.
//!
//! ```text
//!   giver                                   taker
//!     │ ── Prepare: these flows ─────────────▶ │ holds what comes of them
//!     │ ◀───────────── Prepared: this is held ─│
//!     │ diverts what comes from the kernel     │
//!     │ freezes the sockets                    │
//!     │ ── Transfer: their states ───────────▶ │ restores the sockets
//!     │ passes on what comes                   │ lets go what is held
//!     │ ◀──────────────── Taken: these, not … ─│
//!     │ tells the home agents, closes silently │
//! ```
//!
//! # Never two owners
//!
//! Two sockets of one connection would both answer, and the client would reset it. So once states may
//! have left, the giver takes a connection back only when the taker has said that it did *not* restore
//! it. When the taker is never heard of again, its connections are lost with it, as if it had died a
//! moment later. Everything before that can be undone at any time: the sockets go on where they were.
//!
//! The machines: [`giver::Giver`], [`taker::Taker`]. States are bytes to them.

pub mod giver;
pub mod taker;
#[cfg(test)]
mod tests;

use crate::flow::FlowKey;
use serde::{Deserialize, Serialize};

/// Most flows of one hand-off, so that its states fit into one message with
/// [`STATE_LEN_MAX`] octets each. Who gives more does it in several.
pub const FLOWS_MAX: usize = 128;

/// The longest state of a socket, octets: numbers and options take about 100, data that the program has
/// not read yet the rest. A connection with more unread data stays.
pub const STATE_LEN_MAX: usize = 1900;

/// Names a hand-off of one giver: never used twice in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HandoffId(pub u64);

/// What givers and takers tell each other, over the members' authenticated stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Giver: these may come; hold what comes of them.
    Prepare {
        /// Which hand-off.
        id: HandoffId,
        /// Which flows, at most [`FLOWS_MAX`].
        flows: Vec<FlowKey>,
    },
    /// Taker: what comes of these is held; of the others nothing is.
    Prepared {
        /// Which hand-off.
        id: HandoffId,
        /// Which flows.
        flows: Vec<FlowKey>,
    },
    /// Giver: they are yours.
    Transfer {
        /// Which hand-off.
        id: HandoffId,
        /// The states of their sockets, at most [`STATE_LEN_MAX`] octets each.
        states: Vec<(FlowKey, Vec<u8>)>,
    },
    /// Taker: these are mine, all others of the hand-off are not and will not be.
    Taken {
        /// Which hand-off.
        id: HandoffId,
        /// Which flows.
        flows: Vec<FlowKey>,
    },
    /// Giver: they stay; hold nothing.
    Cancel {
        /// Which hand-off.
        id: HandoffId,
    },
}

impl Message {
    /// How many flows it names.
    pub fn flow_count(&self) -> usize {
        match self {
            Message::Prepare { flows, .. }
            | Message::Prepared { flows, .. }
            | Message::Taken { flows, .. } => flows.len(),
            Message::Transfer { states, .. } => states.len(),
            Message::Cancel { .. } => 0,
        }
    }
}

/// Why a connection stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kept {
    /// Too many at once.
    TooMany,
    /// The taker did not answer in time, or not at all.
    NoAnswer,
    /// The taker would not have it.
    Unwanted,
    /// Its socket is in a state that cannot move: half open, closing, or with options that do not
    /// survive.
    Unmovable,
    /// It has more unread data than a state holds.
    TooLarge,
    /// The taker could not restore it.
    NotRestored,
}
