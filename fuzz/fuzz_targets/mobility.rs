//! Any messages about bindings, flows and hand-offs, from members that may send them:
//! `properties/mobility.rs` says what holds.

#![no_main]

#[path = "../properties/mobility.rs"]
mod mobility;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mobility::holds(bytes));
