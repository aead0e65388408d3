//! The control endpoint: HTTP/1.1 with JSON on the unix socket `admin.sock` of the data directory.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`api::Status`] |
//! | `GET /v1/why?site=S&client=ADDRESS` | the ranking with its reasons |
//! | `GET /v1/sites/S` | [`api::Site`]: the current version |
//! | `GET /v1/sites/S/progress?version=N` | [`api::Progress`]: who holds it |
//! | `POST /v1/objects/missing` | takes and gives [`api::Objects`]: those of them not here |
//! | `PUT /v1/objects` | objects, each as u32 (little endian) length and bytes; 200 when all are durable |
//! | `POST /v1/records` | takes [`api::Submission`]: a signed head; 200 when it is durable |
//! | `POST /v1/collect` | deletes what nobody needs now, without waiting for its time; [`api::Collected`] |
//! | `GET /v1/explain?name=N&client=ADDRESS[&type=T][&resolver=ADDRESS]` | what DNS would answer, and why |
//! | `POST /v1/reload` | reads the configuration again; an error leaves all as it was |
//! | `GET /v1/home` | what the home agent beside this member holds |
//! | `GET /v1/home/flows[?max=N]` | the flows that passed there lately |
//! | `GET /v1/acme` | [`api::Challenges`]: values for certificate authorities |
//! | `POST /v1/acme` | takes [`api::Challenge`]: sets or clears one |
//! | `POST /v1/serve` | takes [`api::Serve`]: serves a name at its home address, or no longer; [`api::Served`] |
//! | `POST /v1/move` | takes [`api::Move`]: moves what is served to another node; [`api::Moved`] |
//! | `POST /v1/state` | of a static zone alone: takes [`api::State`] of a region or an address |
//! | `GET /livez` `/readyz` `/metrics` | for monitors |
//!
//! Who may open the socket may use it: the file system's permissions are the access control, and
//! what is submitted must be signed anyway. Errors are [`api::Error`], with a [`api::Code`] that
//! programs can act on.

mod acme;
pub mod api;
mod arrivals;
mod client;
mod homes;
mod host;
mod report;
mod server;
mod upload;
mod zone;

pub use client::{Client, ClientError};
pub use host::{Host, Pending, Question, no_home_agent};
pub use zone::{ZoneEndpoint, ZoneHost};

pub(crate) use server::{Control, serve_tcp, serve_unix};
