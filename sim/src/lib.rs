//! Worlds in which godwit's machines run without a clock, a socket or a disk.
//!
//! - [`link`]: one direction of a network path. The testbed's fabric uses the same model for real
//!   packets.
//! - [`transport`]: ordered, reliable connections over such links, as QUIC makes them: what is lost
//!   is sent again, and what is behind it waits.
//! - [`authority`]: the offline keys of a simulated network.
//! - [`health`]: vantages that check services, and liars among them.
//! - [`world`]: hosts, each with a [`godwit_core::member::Member`], on a virtual clock; faults are
//!   calls ([`world::World::kill`], [`world::World::partition`], ...), checks look at what the
//!   members' views say.
//!
//! A world is a function of its seed: the same seed gives the same trace, byte for byte
//! ([`world::World::trace_hash`]).
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

pub mod authority;
pub mod health;
pub mod link;
pub mod transport;
pub mod world;
