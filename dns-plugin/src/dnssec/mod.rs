//! Signing answers while they are given.
//!
//! The map's answers are too many to be signed beforehand, and most are never asked for. So a
//! [`Signer`] takes a reply as it is, adds the signatures, and keeps each for the next time:
//!
//! - [`key`]: ECDSA P-256 or Ed25519 keys, their DNSKEY and DS records;
//! - [`lifecycle`], [`timeline`]: what a key does when. The times are in the key files, so a rollover
//!   needs neither restart nor memory, and redirectors with the same files go through it together;
//! - [`rollover`]: which times a rollover writes down;
//! - [`directory`]: the files;
//! - [`canonical`], [`signer`]: what is signed, and how a reply is completed;
//! - [`denial`]: *there is nothing*, in one record (RFC 9824);
//! - [`cache`], [`budget`]: bounds on memory and on work.
//!
//! # Trade-offs
//!
//! A signature costs 19 µs (P-256) once for each answer and a week; a restart begins without any. A zone
//! signed so cannot be transferred with its signatures: every redirector has the keys. Denials tell
//! validators that a missing name exists without types, unless they say that they understand better
//! (CO); programs behind them see NOERROR where NXDOMAIN was meant.

mod budget;
mod cache;
mod canonical;
pub mod date;
mod denial;
pub mod directory;
pub mod key;
pub mod lifecycle;
pub mod rollover;
mod signer;
mod timeline;

pub use budget::{Asker, ColdLimits};
pub use directory::{Directory, DirectoryError, StoredKey};
pub use key::{Algorithm, KeyError, PublicKey, SigningKey};
pub use lifecycle::{Phase, Role, Times};
pub use signer::{Asked, Counts, Options, SignError, Signer, Store};
pub use timeline::{Gap, ZoneKey};
