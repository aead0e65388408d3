//! The sockets that clients, monitors and operators connect to: bound here, or open already, given by
//! a service manager or by the process that ran this member before.

use super::StartError;
use crate::config::Config;
use crate::datadir::DataDir;
use crate::http;
use godwit_net::estate::Estate;
use socket2::{SockRef, Type};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::oneshot;

/// Listening sockets that are open already; nothing is bound for a purpose that has some.
#[derive(Debug, Default)]
pub struct Sockets {
    /// For clients of sites.
    pub http: Vec<OwnedFd>,
    /// For monitors, over TCP; of several the first counts.
    pub metrics: Vec<OwnedFd>,
    /// The control socket; it counts where it lies at this member's own path.
    pub control: Vec<OwnedFd>,
    /// What the process before this one leaves of home addresses, once it is relieved.
    pub estate: Option<oneshot::Receiver<Estate>>,
}

/// The sockets of a running member. Who holds one of them keeps its clients waiting in it.
#[derive(Clone, Default)]
pub(super) struct Listeners {
    pub(super) http: Vec<Arc<TcpListener>>,
    pub(super) metrics: Option<Arc<TcpListener>>,
    pub(super) control: Option<Arc<UnixListener>>,
}

impl Listeners {
    /// Takes over what is open, and binds the rest; but the control socket, which is bound last.
    pub(super) fn take(config: &Config, sockets: Sockets, serves: bool) -> Result<Listeners, StartError> {
        let http = match (serves, sockets.http.is_empty()) {
            (true, true) => bind_all(&config.http.listen, "http")?,
            (true, false) => {
                sockets.http.into_iter().map(|socket| adopt(socket, "http")).collect::<Result<_, _>>()?
            }
            (false, _) => Vec::new(),
        };
        let metrics = match (sockets.metrics.into_iter().next(), config.admin.metrics_listen) {
            (Some(socket), _) => Some(adopt(socket, "metrics")?),
            (None, Some(address)) => Some(bind(address, "metrics")?),
            (None, None) => None,
        };
        let http = http.into_iter().map(Arc::new).collect();
        Ok(Listeners { http, metrics: metrics.map(Arc::new), control: None })
    }

    /// More descriptors of the same sockets.
    pub(super) fn duplicate(&self) -> io::Result<Sockets> {
        let one = |socket: &dyn AsFd| socket.as_fd().try_clone_to_owned();
        Ok(Sockets {
            http: self.http.iter().map(|socket| one(socket)).collect::<io::Result<_>>()?,
            metrics: self.metrics.iter().map(|socket| one(socket)).collect::<io::Result<_>>()?,
            control: self.control.iter().map(|socket| one(socket)).collect::<io::Result<_>>()?,
            estate: None,
        })
    }
}

/// A socket that listens already.
fn adopt(socket: OwnedFd, purpose: &'static str) -> Result<TcpListener, StartError> {
    let listener = std::net::TcpListener::from(socket);
    let take = || -> io::Result<TcpListener> {
        let kind = SockRef::from(&listener);
        if kind.r#type()? != Type::STREAM || kind.local_addr()?.as_socket().is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no TCP socket"));
        }
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener.try_clone()?)
    };
    take().map_err(|source| StartError::Listen {
        address: "the socket that was passed".into(),
        purpose,
        source,
    })
}

fn bind_all(addresses: &[SocketAddr], purpose: &'static str) -> Result<Vec<TcpListener>, StartError> {
    let mut sockets = Vec::new();
    for address in addresses {
        match bind(*address, purpose) {
            Ok(socket) => sockets.push(socket),
            // A host without IPv6 still has the other wildcard.
            Err(StartError::Listen { source, .. })
                if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                    && !sockets.is_empty()
                    && source.kind() != io::ErrorKind::AddrInUse =>
            {
                tracing::info!(%address, error = %source, "not listening on this address");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(sockets)
}

pub(super) fn bind(address: SocketAddr, purpose: &'static str) -> Result<TcpListener, StartError> {
    let failed = |source| StartError::Listen { address: address.to_string(), purpose, source };
    http::listen(address).map_err(failed)
}

pub(super) fn addresses_of(sockets: &[Arc<TcpListener>]) -> Result<Vec<SocketAddr>, StartError> {
    let failed =
        |source| StartError::Listen { address: "an open socket".into(), purpose: "its address", source };
    sockets.iter().map(|socket| socket.local_addr().map_err(failed)).collect()
}

/// The control socket, if it is the one at `path`.
fn adopt_admin(socket: OwnedFd, path: &Path) -> Option<UnixListener> {
    let listener = std::os::unix::net::UnixListener::from(socket);
    let is_ours = listener.local_addr().is_ok_and(|address| address.as_pathname() == Some(path));
    listener.set_nonblocking(true).ok().filter(|()| is_ours && path.exists())?;
    UnixListener::from_std(listener).ok()
}

/// The control socket: the one that is open, or a new one. One left by a crash is in the way, and
/// nobody's: the directory is locked.
pub(super) fn take_admin(dir: &DataDir, open: Vec<OwnedFd>) -> Result<UnixListener, StartError> {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.admin_socket();
    if let Some(listener) = open.into_iter().find_map(|socket| adopt_admin(socket, &path)) {
        return Ok(listener);
    }
    let _ = std::fs::remove_file(&path);
    let listen = || -> io::Result<UnixListener> {
        let socket = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(socket)
    };
    listen().map_err(|source| StartError::Listen {
        address: path.display().to_string(),
        purpose: "control socket",
        source,
    })
}
