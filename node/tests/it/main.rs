//! Members run in this process, on loopback, with real sockets and disks.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(missing_docs, reason = "helpers of tests explain themselves")]
#![allow(unreachable_pub, reason = "modules of one binary")]

mod browser;
mod collecting;
mod health;
mod homes;
mod moves;
mod network;
mod replication;
mod serving;
mod starting;
