//! The built program, run as a person would: its exit codes, what it prints, and a network of real
//! processes on loopback addresses.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod addresses;
mod commands;
mod elsewhere;
mod full_disk;
mod handover;
mod harness;
mod network;
mod redirectors;
mod static_zone;
