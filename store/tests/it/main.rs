//! The store from outside: what it promises, through crashes, damage and full disks.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod basics;
mod crash;
mod damage;
mod full;
mod kit;
mod speed;
