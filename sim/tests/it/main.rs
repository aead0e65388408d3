//! Whole networks of members on a virtual clock.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod addresses;
mod challenges;
mod corpus;
mod failure;
mod garbage;
mod heads;
mod health;
mod statements;
