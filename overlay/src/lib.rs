//! Members talk to members: admission, messages, streams, verified transfers, over libp2p.
//!
//! An [`Overlay`] listens on UDP (QUIC) and TCP (Noise, yamux) on the same port and dials QUIC first.
//! Before anything else is spoken, both sides show their certificates inside the transport
//! (`core::admission`); a stranger hears a refusal and is dropped, and nothing above ever sees it.
//! Admitted members send each other messages through bounded queues ([`Overlay::send`]) and open
//! streams over which objects are fetched and verified while they come ([`transfer`]).
//!
//! The overlay has no opinions: whom to dial, whom to admit and what to say is its owner's, usually
//! a runtime around `core`'s machines:
//!
//! ```no_run
//! # async fn example(config: godwit_overlay::Config) -> Result<(), Box<dyn std::error::Error>> {
//! use godwit_overlay::Event;
//! let (overlay, mut events) = godwit_overlay::start(config).await?;
//! while let Some(event) = events.recv().await {
//!     match event {
//!         Event::PeerUp { peer, .. } => overlay.send(peer, "hello".into())?,
//!         Event::Message { from, bytes } => println!("{from} says {bytes:?}"),
//!         _ => {}
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! # Trade-offs
//!
//! - *libp2p without its QUIC, its stream behaviour and its discovery.* The swarm, the handshakes
//!   and the TCP stack are libp2p's; the rest did not hold a promise (see `quic` and `streams`).
//! - *Messages may be lost when a connection ends*, and the queue refuses when it is full: what must
//!   arrive is reconciled by the machines above, which has to work anyway.
//! - *Two connections between two members are normal* after both dialled at once; the newest is
//!   used, and none is closed for tidiness.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod address;
mod config;
mod driver;
mod event;
mod exchange;
mod handler;
mod identity;
mod join;
mod link;
mod overlay;
mod path;
mod peers;
mod pending;
mod quic;
mod shared;
mod start;
mod stream;
mod streams;
pub mod transfer;
mod transports;

pub use config::{Clock, Config, Limits, Paths, SponsorRequest};
pub use event::{
    Counters, Direction, Event, OpenError, PeerInfo, Said, SendError, StartError, TransportKind,
};
pub use join::{JoinError, join};
pub use overlay::{Overlay, start};
pub use stream::Stream;
