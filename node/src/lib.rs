//! The daemon: member runtime, replication, HTTP serving, admin endpoint.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use godwit_node::{Config, Runtime, Settings};
//!
//! let runtime = Runtime::start(Settings::new("/var/lib/godwit", Config::default())).await?;
//! println!("serving on {:?}", runtime.http_addresses());
//! tokio::signal::ctrl_c().await?;
//! runtime.shutdown().await;
//! # Ok(()) }
//! ```
//!
//! A shell around the machines of `core`: it waits, feeds, acts.
//!
//! - [`runtime`]: everything started and stopped in order; [`datadir`]: what is on the disk;
//!   [`config`]: what can be set.
//! - `driver`: the one task that owns the member's machine. Everybody else reads its `snapshot`s
//!   and sends it commands.
//! - `replicate`, `repair`, `fetch`, `sink`, `receiving`, `held`: content comes here, whole, and is kept so.
//! - `collect`, over `roots`, `mark` and `recent`: what nobody needs any more goes.
//! - `resolvers`: resolvers are measured, where operators agreed; `agreement`: whether redirectors decide
//!   by the same settings.
//! - `generation`: the map, computed anew after each change; [`Early`]: what is known of it before the
//!   store is open.
//! - [`homes`]: what the network says of home addresses, as it changes.
//! - [`moves`]: messages about home addresses, for whoever moves connections.
//! - [`health`]: others' services are checked, and how one's own are to be is told.
//! - `http`, over `content`: clients are served; what is not here is pulled.
//! - [`admin`]: the operator's endpoint and its client.
//!
//! # Trade-offs
//!
//! - One task for the machine: a slow disk slows heads down, not pings by more than one commit; no
//!   lock is held anywhere while something waits.
//! - Snapshots are copies: a network of a thousand members costs some megabytes for each of the at
//!   most forty a second. Readers never wait for the machine, nor it for them.
//! - HTTP is plain hyper, without sendfile: slower than it could be for large files, and the same
//!   code for HTTP/2 and, later, TLS.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod addresses;
pub mod admin;
mod agreement;
pub mod clock;
mod collect;
pub mod config;
mod content;
pub mod datadir;
mod driver;
mod early;
mod fetch;
mod generation;
pub mod handoff;
pub mod health;
mod held;
pub mod homes;
mod http;
mod mark;
mod metrics;
pub mod mobility;
pub mod moves;
mod placement;
mod quiet;
mod receiving;
mod recent;
mod records;
mod repair;
mod replicate;
mod resolvers;
mod roots;
pub mod runtime;
mod sink;
mod snapshot;

pub use config::Config;
pub use early::Early;
pub use metrics::SharedRegistry;
pub use runtime::{Challenges, Leaving, Runtime, Settings, Sockets, StartError};
