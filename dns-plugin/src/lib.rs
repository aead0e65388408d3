//! Answers for a zone from the map.
//!
//! Three layers, each usable alone:
//!
//! - [`screen`]: is this packet a query that deserves an answer? Decided on the raw bytes, because
//!   a message parser forgives what an authoritative server must not (a client subnet with bits
//!   beyond its prefix, two OPT records, an option cut short).
//! - [`Answerer`]: question and client in, records out; a pure function of a [`View`], which is the
//!   map's [`Generation`](godwit_map::Generation) and the [`Zone`]'s own contents at one moment.
//! - Two ways into a hickory server: [`Handler`], an own
//!   [`RequestHandler`](hickory_server::server::RequestHandler) with EDNS, client subnets and scopes
//!   (RFC 7871), and [`MapZone`], a [`ZoneHandler`](hickory_server::zone_handler::ZoneHandler) that
//!   any server with hickory's `Catalog` can mount. The catalog builds the OPT record of a reply
//!   before it asks a zone, so that way cannot tell a scope and chooses by the resolver's address
//!   alone.
//!
//! | name | types | answer |
//! |---|---|---|
//! | `<zone>` | SOA, NS | name servers are the redirectors, `<member>.node.<zone>` |
//! | `<site>.<zone>` | A, AAAA | the best replica for the client, then those as good as it |
//! | `<member>.node.<zone>` | A, AAAA | the member |
//! | `<region>.region.<zone>` | A, AAAA | the region's nodes in reach |
//! | `node.<zone>`, `region.<zone>` | | empty non-terminals |
//!
//! # Trade-offs
//!
//! Every address told is materially as good as the first (within 10 % or 2 ms, at most three), so
//! a client may use any; two only make failing over quicker. Time to live is short (5 s), because
//! it is how long a dead replica is believed in; the load that brings is what the redirector is
//! made for.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod answer;
mod clock;
mod cookie;
pub mod dnssec;
mod edns;
pub mod explain;
mod handler;
mod message;
pub mod remote;
pub mod screen;
mod size;
mod view;
pub mod zone;
mod zone_handler;

pub use answer::{Answerer, Cache, Options, Question, Reply, Subject, client_prefix};
pub use clock::Clock;
pub use cookie::{COOKIE_LEN, Cookie, Secrets, Verified};
pub use edns::{Manners, OPTIONS_LEN_MAX, Said, opt_head};
pub use handler::{Handler, Replied, client, compact};
pub use message::Received;
pub use size::{Bounds, Shape};
pub use view::{SharedView, View};
pub use zone::{Zone, ZoneError};
pub use zone_handler::MapZone;
