//! The only unsafe code: namespaces, ports for packets, tunnels, datagrams by the batch, waiting, births
//! of processes, TCP connections that change hosts.
//!
//! IO without opinions. Each module wraps a few system calls that no library of the project's
//! wraps, in functions that are safe to call with any argument.
#![allow(unsafe_code, reason = "system calls that no safe wrapper offers live here, and only here")]
#![allow(unexpected_cfgs, reason = "cargo-fuzz sets `fuzzing`")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

pub mod estate;
pub mod handed;
pub mod memory;
pub mod namespace;
pub mod netlink;
pub mod offload;
pub mod poll;
pub mod port;
pub mod process;
pub mod repair;
mod ring;
pub mod sockets;
pub mod tcp;
pub mod tunnel;
pub mod udp;
