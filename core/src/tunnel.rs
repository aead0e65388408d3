//! Tunnels between home agents and nodes: what seals them, what goes through them beside the
//! clients' packets, and what comes in twice.
//!
//! A tunnel is UDP, always: it passes translators (RFC 5555 ends there too), and any host may open
//! it. Each packet is sealed (AEAD) under the key of one binding, with a counter that is never used
//! twice; the receiver takes each counter once ([`replay`]).

pub mod control;
pub mod header;
pub mod key;
pub mod replay;
pub mod width;

pub use control::{Control, Cookie};
pub use header::{Cipher, Header};
pub use key::{KeyId, Secret, TunnelKey};
pub use width::Width;

/// The smallest inner packet that a tunnel must carry, octets (RFC 791, 3.1: what every host must
/// be able to receive).
pub const INNER_MTU_MIN: u16 = 576;
