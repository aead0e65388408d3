//! The sockets that clients, monitors and operators connect to.

use super::StartError;
use crate::datadir::DataDir;
use crate::http;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use tokio::net::{TcpListener, UnixListener};

pub(super) fn bind_all(
    addresses: &[SocketAddr],
    purpose: &'static str,
) -> Result<Vec<TcpListener>, StartError> {
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

pub(super) fn addresses_of(sockets: &[TcpListener]) -> Result<Vec<SocketAddr>, StartError> {
    let failed =
        |source| StartError::Listen { address: "an open socket".into(), purpose: "its address", source };
    sockets.iter().map(|socket| socket.local_addr().map_err(failed)).collect()
}

/// The control socket. One left by a crash is in the way, and nobody's: the directory is locked.
pub(super) fn bind_admin(dir: &DataDir) -> Result<UnixListener, StartError> {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.admin_socket();
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
