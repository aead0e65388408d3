//! The decisions of godwit: its vocabulary, its wire forms and its sans-IO machines.
//!
//! Nothing here reads a clock, opens a socket or a file, starts a thread or draws a random number.
//! Time ([`time::Time`]) and randomness come in as values, maps that are iterated are ordered, and
//! so the same inputs always give the same outputs, byte for byte. That is what lets `sim` run a
//! thousand members in one thread and lets a daemon's trace be replayed.
//!
//! Everything in a network is one of three things, each with one mechanism:
//!
//! | thing | examples | mechanism | modules |
//! |---|---|---|---|
//! | *content* | objects, trees | named by hash; fetch from anyone, verify, keep | [`content`] |
//! | *heads* | site versions, certificates, revocations, orders, home addresses | signed registers that only grow | [`record`], [`certificate`] |
//! | *soft state* | roster entries, suspicions, RTT observations | signed, sequenced, forgotten when not refreshed | [`record`] |
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

pub mod admission;
pub mod agreement;
pub mod announce;
pub mod binding;
pub mod certificate;
pub mod challenge;
pub mod content;
pub mod demand;
pub mod flow;
pub mod geo;
pub mod handoff;
pub mod health;
pub mod history;
pub mod key;
pub mod member;
pub mod mobility;
pub mod name;
pub mod observation;
pub mod packet;
pub mod placement;
mod random;
pub mod record;
pub mod replication;
pub mod resolver;
mod roster;
mod spread;
pub mod stats;
pub mod time;
pub mod tunnel;
pub mod upload;
pub mod wire;
