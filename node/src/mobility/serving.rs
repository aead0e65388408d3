//! What a node is asked to serve at a home address: as configured, as told by an operator, as kept on disk.

use godwit_core::name::SiteName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Something to serve at a home address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServeConfig {
    /// The name of the home address, as the authority granted it.
    #[schemars(with = "String")]
    pub name: SiteName,
    /// Where the program listens to which connections and datagrams are passed on. Not set: the sites
    /// of this node are served, or what listens at the address by itself (`local`).
    #[serde(default)]
    pub to: Option<SocketAddr>,
    /// Whether the program is told the client's address, over TCP, by a PROXY protocol header (version
    /// 2). It has to expect that.
    #[serde(default)]
    pub proxy_protocol: bool,
    /// A program of this host listens at the home address itself, and sees its clients' addresses.
    #[serde(default)]
    pub local: bool,
}

/// How a name is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Mode {
    /// By this node's HTTP server.
    Sites,
    /// By a program that listens at the home address.
    Local,
    /// By a program elsewhere.
    To {
        /// Where.
        address: SocketAddr,
        /// Whether it is told the client's address.
        proxy_protocol: bool,
    },
}

/// A name that is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Serving {
    pub(super) name: SiteName,
    pub(super) mode: Mode,
    /// An operator has moved it to another node: it is served here again when somebody says so.
    #[serde(default)]
    pub(super) moved_away: bool,
}

impl ServeConfig {
    /// Checks what types cannot.
    pub fn check(&self) -> Result<(), String> {
        match (self.to, self.local, self.proxy_protocol) {
            (Some(_), true, _) => Err("`to` and `local` contradict each other".into()),
            (None, _, true) => Err("`proxy_protocol` needs `to`".into()),
            (Some(to), ..) if to.port() == 0 || to.ip().is_multicast() => {
                Err(format!("{to} is nowhere a program can listen"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn serving(&self) -> Serving {
        let mode = match (self.to, self.local) {
            (Some(address), _) => Mode::To { address, proxy_protocol: self.proxy_protocol },
            (None, true) => Mode::Local,
            (None, false) => Mode::Sites,
        };
        Serving { name: self.name.clone(), mode, moved_away: false }
    }
}
