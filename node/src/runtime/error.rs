//! Why a member was not started.

use crate::config::BadValue;
use crate::datadir::DataDirError;
use godwit_core::certificate::Invalid;
use godwit_store::{OpenError, StoreError};
use std::io;

/// Why a member was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A value in the configuration cannot work.
    #[error(transparent)]
    Config(#[from] BadValue),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The certificate does not hold now.
    #[error("this member's certificate cannot be used")]
    Certificate(#[source] Invalid),
    /// The store cannot be opened.
    #[error("the store cannot be opened")]
    Open(#[from] OpenError),
    /// What the store keeps cannot be read.
    #[error("the store cannot be read")]
    Store(#[from] StoreError),
    /// No connections with members can be made.
    #[error("connections with members cannot be made")]
    Overlay(#[from] godwit_overlay::StartError),
    /// An address cannot be listened on: in use, of another host, or a port for the privileged.
    #[error("cannot listen on {address} ({purpose}){}", hint(.source))]
    Listen {
        /// Where.
        address: String,
        /// For what.
        purpose: &'static str,
        /// Why not.
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => ": another program listens there; stop it or configure another port",
        io::ErrorKind::PermissionDenied => ": ports below 1024 need CAP_NET_BIND_SERVICE or root",
        io::ErrorKind::AddrNotAvailable => ": it is no address of this host",
        _ => "",
    }
}
