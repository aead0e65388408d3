//! Probes against real sockets that behave well and badly.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod http;
mod running;
