//! Tunnels between network namespaces, with the kernel's own TCP and UDP at both ends.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(unsafe_code, reason = "what sockets tell beside the data has no safe wrapper")]

mod attack;
mod carries;
mod marks;
mod narrow;
mod own_network;
mod steered;
mod world;

use own_network::in_own_network;
