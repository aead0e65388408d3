//! Holds home addresses: one address that stays while everything behind it moves.
//!
//! Clients talk to a home address; the routers around bring its packets here; each is sealed and
//! passed on to the node that serves the client. Nodes say where they are by binding updates, and may
//! be several, move, crash, and hand live connections to each other.
//!
//! ```text
//!  network's word, map ──▶ ┌───────────────┐ ──▶ table: who gets what  ─┐
//!  nodes' updates ───────▶ │ one task:     │ ──▶ flows that moved      ─┼─▶ Steering ◀── tunnel threads
//!  tunnel's events ──────▶ │ the machines  │ ──▶ keys, words, answers   ┘    (per packet, no lock)
//!                          └───────────────┘ ──▶ routes, announcements
//! ```
//!
//! A shell around the machines of `core`: `binding::cache` (which updates to believe, which care-of
//! addresses are proved and alive), `flow::table` (flows that are not where a new one would go),
//! `flow::select` (who owns a row of clients), `announce` (when to draw traffic). It decides nothing
//! itself; who is near whom says the one map.
//!
//! - [`start`]: the device, the sockets, the routes, the task.
//! - `table` and `steering`: what is looked up for each packet; `moved`: the exceptions.
//! - `keys`: which keys are in force, and which of two to seal with; `choices`: what was chosen in the last minutes: the second chance, and whose flows are whose.
//! - `announcing`: routes of the host, and of BIRD or ExaBGP.
//! - `left`: what one process leaves to the next.
//! - `seen`: a bounded view of flows; `unreachable`: errors that a router would send.
//!
//! # Trade-offs
//!
//! - No state of flows: a flow goes where its row goes, computed from what all home agents have heard.
//!   So two of them agree without a word, and a crash forgets nothing but exceptions, which cost a
//!   detour. The price: where the choice changes, old flows are at the owner before, who gets them by a
//!   second chance in the packet's header or binds them by name.
//! - A table is built anew for each change and swapped in whole: some hundred microseconds for a
//!   hundred nodes, and a packet never waits.
//! - Nobody is asked about a flow: a node that dies takes its flows along; the next one answers their
//!   packets with resets, which clients understand at once.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod announcing;
mod choices;
mod config;
mod driver;
mod keys;
mod left;
mod metrics;
mod moved;
mod seen;
mod start;
mod steering;
mod table;
mod unreachable;
mod view;
mod world;

pub use config::{AnnounceConfig, BirdConfig, Config};
pub use start::{Running, Settings, StartError, Viewer, start};
pub use view::{BindingView, FlowView, HomeView, View};
pub use world::{Heard, Peers, World};
