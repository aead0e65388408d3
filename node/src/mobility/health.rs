//! Whether a program behind a home address works.
//!
//! What counts is whether the next client would be served. Of a program on this host the kernel tells: the
//! very socket that a client's packets would be given to is looked up, and whether it has room. So the
//! program notices nothing; many log each connection that says nothing, and some serve one at a time
//! (iperf3). Elsewhere, and where a port is translated to somewhere else, a connection is tried.

use super::proxy;
use super::services::Finding;
use godwit_core::name::SiteName;
use godwit_net::sockets::Sockets;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(500);

/// A program on this host or near it accepts within this.
const ACCEPT_MAX: Duration = Duration::from_secs(2);

/// So many looks in a row must say otherwise before it is believed: a restart of two seconds is none.
const FALL: u32 = 3;
const RISE: u32 = 2;

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A program accepts TCP connections there.
    Accepts(SocketAddr),
    /// The same, and expects a header of the PROXY protocol.
    AcceptsProxied(SocketAddr),
    /// Somebody on this host listens there over TCP.
    Listens(SocketAddr),
    /// Somebody on this host receives there over UDP; of other hosts that cannot be known.
    Receives(SocketAddr),
    /// One of the two.
    Either(SocketAddr),
}

/// Looks at the targets until `stop`, and tells when all of them work, or not all any more. Without a
/// target it works.
pub(super) async fn watch(
    name: SiteName,
    targets: Vec<Target>,
    findings: mpsc::Sender<Finding>,
    stop: CancellationToken,
) {
    let mut belief = Belief::default();
    let mut period = tokio::time::interval(PERIOD);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = period.tick() => {}
        }
        let mut works = true;
        for target in &targets {
            works &= look(*target).await;
        }
        if let Some(works) = belief.take(works)
            && findings.send(Finding { name: name.clone(), works }).await.is_err()
        {
            return;
        }
    }
}

/// What is believed of a target: the first look counts at once, later ones in a row.
#[derive(Debug, Default)]
struct Belief {
    works: Option<bool>,
    against: u32,
}

impl Belief {
    /// Takes a look into account; gives what is believed when that is new.
    fn take(&mut self, works: bool) -> Option<bool> {
        if self.works == Some(works) {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let enough = match self.works {
            None => 1,
            Some(true) => FALL,
            Some(false) => RISE,
        };
        if self.against < enough {
            return None;
        }
        *self = Belief { works: Some(works), against: 0 };
        Some(works)
    }
}

async fn look(target: Target) -> bool {
    match target {
        Target::Accepts(at) => accepts(at, &[]).await,
        Target::AcceptsProxied(at) => accepts(at, &proxy::health_check()).await,
        Target::Listens(at) => listens(at).unwrap_or(true),
        Target::Receives(at) => receives(at),
        Target::Either(at) => accepts(at, &[]).await || (is_here(at) && receives(at)),
    }
}

/// Whether a program takes connections; where one has to be tried, it is told `hello`.
async fn accepts(at: SocketAddr, hello: &[u8]) -> bool {
    if is_here(at) && listens(at).unwrap_or(false) {
        return true;
    }
    let connected = async { TcpStream::connect(at).await?.write_all(hello).await };
    tokio::time::timeout(ACCEPT_MAX, connected).await.is_ok_and(|connected| connected.is_ok())
}

fn listens(at: SocketAddr) -> io::Result<bool> {
    with_sockets(|sockets| sockets.accepts(nobody(at), at))
}

/// Where the kernel does not tell, it is taken for granted.
fn receives(at: SocketAddr) -> bool {
    !is_here(at) || with_sockets(|sockets| sockets.udp(nobody(at), at)).unwrap_or(true)
}

/// Whether the address is one of this host's: whether something can be bound to it.
fn is_here(at: SocketAddr) -> bool {
    at.ip().is_loopback() || std::net::UdpSocket::bind((at.ip(), 0)).is_ok()
}

fn with_sockets<T>(ask: impl FnOnce(&mut Sockets) -> io::Result<T>) -> io::Result<T> {
    ask(&mut Sockets::open()?)
}

/// Who asks, of whom there is no connection: the discard port of an address for documentation.
fn nobody(at: SocketAddr) -> SocketAddr {
    match at {
        SocketAddr::V4(_) => (Ipv4Addr::new(192, 0, 2, 1), 9).into(),
        SocketAddr::V6(_) => (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_look_counts_and_later_ones_in_a_row() {
        let mut belief = Belief::default();
        let mut take = |looks: &[bool]| looks.iter().map(|works| belief.take(*works)).collect::<Vec<_>>();
        assert_eq!(take(&[true, true]), [Some(true), None]);
        assert_eq!(take(&[false, false, true, false, false]), [None; 5]);
        assert_eq!(take(&[false]), [Some(false)]);
        assert_eq!(take(&[true, false, true, true]), [None, None, None, Some(true)]);
    }

    #[tokio::test]
    async fn a_program_on_this_host_notices_nothing() {
        let program = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        program.set_nonblocking(true).unwrap();
        let at = program.local_addr().unwrap();
        if Sockets::open().is_err() {
            println!("SKIPPED: this kernel tells nothing about sockets");
            return;
        }
        assert!(look(Target::Accepts(at)).await && look(Target::Either(at)).await);
        assert_eq!(program.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[tokio::test]
    async fn what_listens_works_and_what_is_gone_does_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let all = [Target::Accepts(at), Target::AcceptsProxied(at), Target::Listens(at), Target::Either(at)];
        for target in all {
            assert!(look(target).await, "{target:?}");
        }
        drop(listener);
        for target in all {
            assert!(!look(target).await, "{target:?}");
        }
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = socket.local_addr().unwrap();
        assert!(look(Target::Receives(at)).await && look(Target::Either(at)).await);
        drop(socket);
        assert!(!look(Target::Receives(at)).await);
    }
}
