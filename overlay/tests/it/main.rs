//! Overlays on loopback, over QUIC and over TCP.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(missing_docs, unreachable_pub, reason = "nothing outside sees a test")]

mod admission;
mod floods;
mod joining;
mod messages;
mod paths;
mod relay;
mod restarts;
mod support;
mod transfers;
